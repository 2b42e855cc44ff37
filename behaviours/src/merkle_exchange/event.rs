//! What the behaviour tells its owner, and why it says no.
//!
//! **Invariant**: events of one session come in the order of its turns, its end last and once; after we closed a session
//! there are none. Events carry no bytes of the wire: what they hold was decoded.

use libp2p::PeerId;
use thiserror::Error;

use crate::framing::FrameError;
use crate::merkle_exchange::{InboundSessionId, SessionId};

/// What has happened.
#[derive(Debug)]
pub enum Event<Q, A> {
    /// A peer asks; answer with [`answer`](crate::merkle_exchange::Behaviour::answer).
    Asked {
        /// Who asks.
        peer: PeerId,
        /// Names the session in the answer; new with the first question.
        session: InboundSessionId,
        /// What is asked.
        question: Q,
    },
    /// Our question was answered. It is our turn to [`ask`](crate::merkle_exchange::Behaviour::ask) again, or to
    /// [`close`](crate::merkle_exchange::Behaviour::close).
    Answered {
        /// Who answered.
        peer: PeerId,
        /// What [`open`](crate::merkle_exchange::Behaviour::open) returned.
        session: SessionId,
        /// The answer.
        answer: A,
    },
    /// A session we opened has ended, and we did not close it.
    Ended {
        /// With whom it was.
        peer: PeerId,
        /// What [`open`](crate::merkle_exchange::Behaviour::open) returned.
        session: SessionId,
        /// Why.
        reason: EndReason,
    },
    /// A session of a peer has ended, and we did not close it. Only for sessions in which something was asked.
    InboundEnded {
        /// Who opened it.
        peer: PeerId,
        /// What named it in [`Event::Asked`].
        session: InboundSessionId,
        /// Why; [`EndReason::Closed`] if the asker wanted no more.
        reason: EndReason,
    },
    /// A peer broke the protocol in a session, which has ended; that is reported by itself.
    Misbehaved {
        /// Who.
        peer: PeerId,
        /// How.
        error: Misbehaviour,
    },
}

impl<Q, A> Event<Q, A> {
    /// The session of ours that it belongs to.
    pub(crate) fn outbound(&self) -> Option<SessionId> {
        match self {
            Self::Answered { session, .. } | Self::Ended { session, .. } => Some(*session),
            Self::Asked { .. } | Self::InboundEnded { .. } | Self::Misbehaved { .. } => None,
        }
    }

    /// The session of a peer that it belongs to.
    pub(crate) fn inbound(&self) -> Option<InboundSessionId> {
        match self {
            Self::Asked { session, .. } | Self::InboundEnded { session, .. } => Some(*session),
            Self::Answered { .. } | Self::Ended { .. } | Self::Misbehaved { .. } => None,
        }
    }
}

/// Why a session ended that we did not close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The peer has too many sessions and did not begin. A later one may succeed.
    Busy,
    /// The peer does not speak the protocol.
    Unsupported,
    /// The connection is gone.
    ConnectionLost,
    /// One of the two sides, we included, took too long.
    TimedOut,
    /// The peer closed the session between two messages.
    Closed,
    /// The peer broke the protocol.
    Malformed,
    /// The stream failed underneath, or ended inside a message.
    Io,
}

/// How a peer broke the protocol.
///
/// A stream that ends early can also be the end of an honest peer's patience, or of its process, and does not convict.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misbehaviour {
    /// Its question or answer is not what the protocol asks for.
    #[error("message is malformed: {0}")]
    Message(FrameError),
    /// It sent a frame without a body where none may stand.
    #[error("frame is empty")]
    EmptyFrame,
    /// It spoke while it was our turn.
    #[error("peer spoke out of turn")]
    OutOfTurn,
}

/// Why no session was opened. Nothing has changed.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenRefused {
    /// There is no connection to the peer.
    #[error("peer is not connected")]
    NotConnected,
    /// We have as many sessions open as we may. A retry after one has ended is safe and may succeed.
    #[error("{open_count} sessions are open already")]
    TooMany {
        /// Sessions open.
        open_count: usize,
    },
    /// The question is longer than a message may be.
    #[error("question of {actual_bytes} bytes exceeds the limit of {limit_bytes}")]
    TooLarge {
        /// Length of the question's CBOR.
        actual_bytes: usize,
        /// Longest allowed.
        limit_bytes: usize,
    },
    /// The question's type cannot be serialized.
    #[error("question cannot be encoded")]
    Unencodable,
}

/// Why a question or an answer was not taken. Nothing has changed: if it is our turn it still is.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TurnRefused {
    /// There is no such session, or no longer.
    #[error("session has ended")]
    Unknown,
    /// The peer has not yet asked, or answered, what comes before.
    #[error("it is the peer's turn")]
    NotYourTurn,
    /// The message is longer than a message may be.
    #[error("message of {actual_bytes} bytes exceeds the limit of {limit_bytes}")]
    TooLarge {
        /// Length of the message's CBOR.
        actual_bytes: usize,
        /// Longest allowed.
        limit_bytes: usize,
    },
    /// The message's type cannot be serialized.
    #[error("message cannot be encoded")]
    Unencodable,
}
