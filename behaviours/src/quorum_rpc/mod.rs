//! Request-response in batches: many small requests to one peer share few messages.
//!
//! A stream of libp2p's request-response costs a negotiation, two frames and several wake-ups, whatever it carries.
//! This behaviour puts up to 256 requests into one such message: a request goes at once while fewer than `in_flight_max`
//! messages wait for the peer's response, and otherwise waits in a queue, from which the next message takes as much as
//! it may hold. So an idle connection adds no delay, and a busy one pays per batch.
//!
//! ```no_run
//! use std::time::{Duration, Instant};
//!
//! use libp2p::{PeerId, StreamProtocol};
//! use quorate_behaviours::quorum_rpc::{Behaviour, Config, Lane, SendRefused};
//!
//! # fn main() -> Result<(), SendRefused> {
//! let mut rpc: Behaviour<String, u64> = Behaviour::new(Config::new(StreamProtocol::new("/example/count/1")));
//! // Put `rpc` into a swarm. Encode once, send to several:
//! let request = rpc.encode(&"how many?".to_owned())?;
//! for peer in [PeerId::random(), PeerId::random()] {
//!     let id = rpc.send(peer, Lane::Read, request.clone(), Instant::now() + Duration::from_secs(1))?;
//!     // Exactly one `Event::Response` or `Event::Failed` with this `id` will come out of the swarm.
//!     # let _ = id;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Invariants:
//!
//! - Every request that [`Behaviour::send`] accepts ends in exactly one [`Event::Response`] or [`Event::Failed`], soon
//!   after its deadline at the latest.
//! - Queues, messages in flight, streams, frames and requests waiting for an answer are bounded by [`Config`]. What
//!   is beyond a bound is refused at once, on either side, with an error of its own.
//! - What a peer sends costs bounded effort and never a panic. A wrong frame ends its stream, is counted and is
//!   reported as [`Event::Misbehaved`]; other streams and peers do not notice.
//!
//! What it lacks, on purpose:
//!
//! - **Exactly-once.** A request whose answer was deferred for want of room is sent, and executed, again; so requests
//!   must be idempotent. Nothing else is repeated: [`SendFailure::may_have_arrived`] tells what a repetition risks.
//! - **Order.** Requests of one lane leave in order; messages overtake each other.
//! - **A bound on connections**: streams and bytes received are bounded for each connection and in all, so that a peer
//!   with many connections can use up what all share; connections per peer must be limited elsewhere in the swarm.
//! - **A bound on the memory of all answers together**: it is `inbound_streams_total_max` times `answer_bytes_target`.

mod behaviour;
mod event;
mod config;
mod outcome;
mod outbound;
mod inbound;
mod codec;
mod body;

use std::sync::Arc;

use libp2p::request_response::InboundRequestId;

pub use crate::framing::Message;
pub use crate::quorum_rpc::{
    behaviour::Behaviour,
    config::{Config, Dialling},
    event::Event,
    outcome::{Misbehaviour, RespondError, SendFailure, SendRefused},
};

/// What kind of work a request is. A message holds requests of one lane, and each lane has its own messages in flight,
/// so that reads do not wait for the disk that writes wait for, and neither for whoever waits for others again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Answered from what is there.
    Read,
    /// Answered once something is durable.
    Write,
    /// Answered once the peer has asked others, this side maybe among them: two that pass work on to each other must not wait
    /// in each other's way.
    Forward,
}

impl Lane {
    pub(crate) const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Forward];
}

/// Names a request of ours. Distinct and ascending within one behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// Names a request of a peer. Distinct within one behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboundId {
    batch: InboundRequestId,
    index: usize,
}

/// A request as it travels; its clones share the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded(Arc<Vec<u8>>);

impl Encoded {
    /// Length of the CBOR in bytes.
    pub fn len_bytes(&self) -> usize {
        self.0.len()
    }
}

/// What has happened since the start. All ascend; none is reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages of requests handed to a connection.
    pub request_messages_sent: u64,
    /// Messages of requests received and understood.
    pub request_messages_received: u64,
    /// Responses handed to a stream.
    pub response_messages_sent: u64,
    /// Responses received and understood.
    pub response_messages_received: u64,
    /// Requests in the messages sent; a deferred request counts each time it travels.
    pub entries_sent: u64,
    /// Requests in the messages received.
    pub entries_received: u64,
    /// Answers received as deferred, whose requests are sent again.
    pub entries_deferred: u64,
    /// Bytes of whole frames written, requests and responses.
    pub bytes_sent: u64,
    /// Bytes of whole frames read, requests and responses, before they are decoded.
    pub bytes_received: u64,
    /// Sends refused because a queue was full.
    pub sends_refused: u64,
    /// Requests of peers answered as overloaded. A message refused unread counts once.
    pub entries_refused: u64,
    /// Frames that were wrong.
    pub malformed: u64,
}
