//! What the behaviour tells its owner, and about which messages.
//!
//! **Invariant**: for each request of ours one [`Event::Response`] or [`Event::Failed`], for each request of a peer one
//! [`Event::Request`]. Events carry no bytes of the wire: what they hold was decoded.

use std::time::Instant;

use libp2p::PeerId;

use crate::quorum_rpc::outcome::{Misbehaviour, SendFailure};
use crate::quorum_rpc::{InboundId, RequestId};

/// What has happened.
#[derive(Debug)]
pub enum Event<Q, A> {
    /// A peer asks; answer with [`respond`](crate::quorum_rpc::Behaviour::respond).
    Request {
        /// Who asks.
        peer: PeerId,
        /// Names the request in the answer.
        inbound: InboundId,
        /// When the asker loses interest, as it said; work that has not begun by then is not worth beginning.
        deadline: Instant,
        /// What is asked.
        request: Q,
    },
    /// A request of ours was answered, which ends it.
    Response {
        /// Who answered.
        peer: PeerId,
        /// What [`send`](crate::quorum_rpc::Behaviour::send) returned.
        request: RequestId,
        /// The answer.
        response: A,
    },
    /// A request of ours failed, which ends it.
    Failed {
        /// Who was asked, or should have been.
        peer: PeerId,
        /// What [`send`](crate::quorum_rpc::Behaviour::send) returned.
        request: RequestId,
        /// Why, and whether the peer may have executed it.
        error: SendFailure,
    },
    /// A peer sent a wrong frame, whose stream has ended. Requests of ours on it have failed by themselves.
    Misbehaved {
        /// Who sent it.
        peer: PeerId,
        /// What was wrong.
        error: Misbehaviour,
    },
}
