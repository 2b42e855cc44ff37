//! Parameters of the sessions.
//!
//! Every value is valid by itself; what two of them must agree on is corrected where it is used (a frame limit beyond
//! what a header can say means the longest that it can). It holds numbers only.

use std::time::Duration;

use libp2p::StreamProtocol;

/// Parameters of a [`Behaviour`](crate::merkle_exchange::Behaviour).
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the protocol, `/quorate/<name>/<major>`.
    pub protocol: StreamProtocol,
    /// Longest question or answer, in bytes of its CBOR. Default 16 MiB: several of the largest objects. Each session
    /// may keep this much in memory, and twice as much while its buffer grows or is decoded.
    pub message_limit_bytes: usize,
    /// Longest body of a frame, sent or received, in bytes; at least 1. Default 256 KiB: the window that yamux gives a
    /// stream to begin with.
    pub frame_limit_bytes: usize,
    /// Most sessions that we have open, with all peers together. Default 8. With the inbound ones they are far from
    /// what yamux allows one connection.
    pub outbound_sessions_max: usize,
    /// Most sessions of one peer with us, over all its connections. Default 2: one to work, and one whose end has not
    /// reached us.
    pub inbound_sessions_per_peer_max: usize,
    /// Most sessions of all peers with us. Default 8: as many as we would open ourselves.
    pub inbound_sessions_max: usize,
    /// Longest time from a question handed over to its complete answer. Default 30 s: two long messages over a slow
    /// line, and the disk between them.
    pub answer_timeout: Duration,
    /// Longest time between turns. Default 60 s: twice `answer_timeout`, so that the side that waits gives up first.
    ///
    /// A peer's session ends when from our answer, or its start, to its next complete question it takes longer; and
    /// any session when we ourselves take longer to answer, or to ask or close.
    pub question_timeout: Duration,
}

impl Config {
    /// The defaults, for `protocol`.
    pub fn new(protocol: StreamProtocol) -> Self {
        Self {
            protocol,
            message_limit_bytes: 16 << 20,
            frame_limit_bytes: 256 << 10,
            outbound_sessions_max: 8,
            inbound_sessions_per_peer_max: 2,
            inbound_sessions_max: 8,
            answer_timeout: Duration::from_secs(30),
            question_timeout: Duration::from_secs(60),
        }
    }
}
