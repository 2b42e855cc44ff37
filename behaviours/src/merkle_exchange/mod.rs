//! Sessions of strictly alternating questions and answers, one substream each: the carrier of a Merkle exchange.
//!
//! A session is opened by one side, the asker, who alone decides whether another question follows. Since at most one
//! message is under way in a session, the other side's answer is its flow control: there is nothing to queue.
//!
//! ```no_run
//! use libp2p::{PeerId, StreamProtocol};
//! use quorate_behaviours::merkle_exchange::{Behaviour, Config, Event};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let peer = PeerId::random();
//! let protocol = StreamProtocol::new("/example/compare/1");
//! let mut exchange: Behaviour<String, u64> = Behaviour::new(Config::new(protocol));
//! // Put `exchange` into a swarm. Once `peer` is connected:
//! let session = exchange.open(peer, &"how many?".to_owned())?;
//! // An `Event::Answered` or an `Event::Ended` with this `session` will come out of the swarm. After an answer:
//! exchange.ask(session, &"and now?".to_owned())?;
//! // When enough is known:
//! exchange.close(session);
//! # Ok(())
//! # }
//! ```
//!
//! # On the wire
//!
//! A message is one question or one answer: exactly one CBOR item of at most `message_limit_bytes`. It travels in
//! frames of at most `frame_limit_bytes`, so that several streams share a connection fairly. A frame is a header of
//! four bytes, big-endian, and a body: the highest bit of the header says whether more frames of the message follow,
//! the others are the length of the body in bytes.
//!
//! No frame of a message is empty. So four zero bytes are free to mean *busy*: they stand in place of the first answer
//! of a session, from a side that has too many sessions already, and are wrong everywhere else.
//!
//! A side that wants no more of a session closes its half of the stream when it is its turn.
//!
//! Invariants:
//!
//! - Every session that [`Behaviour::open`] returns ends in exactly one [`Event::Ended`] or our own
//!   [`Behaviour::close`]; every session of a peer that was seen in an [`Event::Asked`] in exactly one
//!   [`Event::InboundEnded`] or our own [`Behaviour::close_inbound`]. None outlives its connection or its time.
//! - Sessions, streams, frames and messages are bounded by [`Config`]. What a message costs its receiver is bounded by
//!   what was received, never by what was announced.
//! - What a peer sends costs bounded effort and never a panic. A wrong frame, or one out of turn, ends its session, is
//!   counted and is reported as [`Event::Misbehaved`]; other sessions and peers do not notice.
//!
//! What it lacks, on purpose:
//!
//! - **Memory.** A session that broke off cannot be resumed; the next one asks anew.
//! - **Dialling.** A session needs a connection that somebody else keeps; while it lasts it keeps it alive.
//! - **A difference between a stream closed and a stream reset**: yamux shows none to a reader. Both read as
//!   [`EndReason::Closed`] between messages.
//! - **Knowledge of what a peer has heard**: what it says once the last byte of ours has left counts as its reply.

mod behaviour;
mod event;
mod config;
mod handler;
mod session;
mod turn;
mod shared;

pub use crate::framing::Message;
pub use crate::merkle_exchange::{
    behaviour::Behaviour,
    config::Config,
    event::{EndReason, Event, Misbehaviour, OpenRefused, TurnRefused},
};

/// Names a session that we opened. Distinct and ascending within one behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

/// Names a session that a peer opened with us. Distinct within one behaviour, and ascending in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboundSessionId(u64);

/// What has happened since the start. All ascend; none is reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sessions we opened.
    pub sessions_opened: u64,
    /// Sessions of peers for which there was room.
    pub sessions_accepted: u64,
    /// Sessions of peers for which there was none.
    pub sessions_refused: u64,
    /// Questions handed to a connection.
    pub questions_sent: u64,
    /// Questions received and understood.
    pub questions_received: u64,
    /// Answers handed to a connection.
    pub answers_sent: u64,
    /// Answers received and understood.
    pub answers_received: u64,
    /// Bytes of whole frames written.
    pub bytes_sent: u64,
    /// Bytes of whole frames read, before they are decoded.
    pub bytes_received: u64,
    /// Sessions ended by what the peer sent.
    pub malformed: u64,
}
