//! How a request can go wrong, and what is known of it then.
//!
//! **Invariant**: [`SendFailure::may_have_arrived`] is `false` only when the peer has certainly
//! not begun to execute the request. It says nothing about whether repeating it is safe.

use std::io;

use thiserror::Error;

use crate::framing::FrameError;

/// Why a request was not accepted for sending. Nothing has changed.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendRefused {
    /// The queue for this peer is full. A retry after a while is safe and may succeed.
    #[error("{queued_count} requests of {queued_bytes} bytes wait for the peer already")]
    Overloaded {
        /// Requests waiting.
        queued_count: usize,
        /// Bytes waiting.
        queued_bytes: usize,
    },
    /// The request does not fit into a frame, now or later.
    #[error("request of {actual_bytes} bytes exceeds the limit of {limit_bytes}")]
    TooLarge {
        /// Length of the request's CBOR.
        actual_bytes: usize,
        /// Longest allowed.
        limit_bytes: usize,
    },
    /// The request's type cannot be serialized.
    #[error("request cannot be encoded")]
    Unencodable,
}

/// Why an accepted request got no answer.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendFailure {
    /// There is no connection to the peer; the request was not sent.
    #[error("peer is not connected")]
    NotConnected,
    /// The peer could not be dialled; the request was not sent.
    #[error("peer could not be dialled")]
    DialFailed,
    /// The deadline passed while the request waited in the queue; it was not sent.
    #[error("deadline passed before the request was sent")]
    Expired,
    /// The deadline passed after the request was sent.
    #[error("deadline passed before an answer came")]
    TimedOut,
    /// The connection closed after the request was sent.
    #[error("connection closed before an answer came")]
    ConnectionClosed,
    /// The stream failed underneath after sending had begun.
    #[error("stream failed: {kind}")]
    StreamFailed {
        /// What kind of failure.
        kind: io::ErrorKind,
    },
    /// The peer ended the stream instead of answering.
    #[error("peer ended the stream without an answer")]
    StreamEnded,
    /// The peer does not speak the protocol.
    #[error("peer does not support the protocol")]
    UnsupportedProtocols,
    /// The peer had too much to do and did not begin.
    #[error("peer is overloaded")]
    Overloaded,
    /// The peer began, and had no answer in time.
    #[error("peer gave no answer in time")]
    Unanswered,
    /// The peer executed the request, and its answer does not fit into a frame.
    #[error("answer exceeds the frame limit")]
    AnswerTooLarge,
    /// The peer executed the request and deferred the answer, and could not be asked again.
    #[error("answer was deferred and could not be fetched")]
    AnswerLost,
    /// The peer's response was not what the protocol asks for.
    #[error("response is malformed: {0}")]
    Malformed(FrameError),
    /// The peer's response had another number of answers than there were requests.
    #[error("response has {actual} answers to {expected} requests")]
    WrongCount {
        /// Requests sent.
        expected: usize,
        /// Answers received.
        actual: usize,
    },
}

impl SendFailure {
    /// Whether the peer may have executed the request, now or later.
    pub fn may_have_arrived(&self) -> bool {
        match self {
            Self::NotConnected | Self::DialFailed | Self::Expired | Self::UnsupportedProtocols | Self::Overloaded => {
                false
            }
            Self::TimedOut
            | Self::ConnectionClosed
            | Self::StreamFailed { .. }
            | Self::StreamEnded
            | Self::Unanswered
            | Self::AnswerTooLarge
            | Self::AnswerLost
            | Self::Malformed(_)
            | Self::WrongCount { .. } => true,
        }
    }
}

/// What was wrong with a frame of a peer.
///
/// A stream that ends early can also be the end of an honest peer's patience, or of its process; only frames that
/// arrived whole convict.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misbehaviour {
    /// Its request is not what the protocol asks for. Nothing of it was executed.
    #[error("request is malformed: {0}")]
    Request(FrameError),
    /// Its response is not what the protocol asks for.
    #[error("response is malformed: {0}")]
    Response(FrameError),
    /// Its response has another number of answers than there were requests.
    #[error("response has {actual} answers to {expected} requests")]
    WrongCount {
        /// Requests sent.
        expected: usize,
        /// Answers received.
        actual: usize,
    },
    /// Its response defers every answer, and so would the next.
    #[error("response defers every answer")]
    NoProgress,
}

/// Why an answer was not taken as given.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RespondError {
    /// Nobody waits for it: its time is over, the connection is closed, or it was given before.
    #[error("nobody waits for this answer")]
    Gone,
    /// It does not fit into a frame. The asker is told so.
    #[error("answer of {actual_bytes} bytes exceeds the limit of {limit_bytes}")]
    TooLarge {
        /// Length of the answer's CBOR.
        actual_bytes: usize,
        /// Longest allowed.
        limit_bytes: usize,
    },
    /// The answer's type cannot be serialized. The asker learns that there is none.
    #[error("answer cannot be encoded")]
    Unencodable,
}
