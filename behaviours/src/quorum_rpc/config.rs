//! Parameters of the batched request-response.
//!
//! Every value is valid by itself; what two of them must agree on is corrected where it is used
//! (an answer budget beyond the frame limit means the frame limit). It holds numbers only.

use std::time::Duration;

use libp2p::StreamProtocol;
use libp2p::request_response::ProtocolSupport;

use crate::quorum_rpc::body;

/// Whether a request to a peer without a connection dials it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialling {
    /// The request fails at once: somebody else keeps connections.
    Never,
    /// The peer is dialled, at addresses other behaviours know; the request waits in its queue meanwhile.
    WhenNeeded,
}

/// Parameters of a [`Behaviour`](crate::quorum_rpc::Behaviour).
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the protocol, `/quorate/<name>/<major>`.
    pub protocol: StreamProtocol,
    /// Whether this side asks, answers, or both. Default: both.
    pub support: ProtocolSupport,
    /// Whether to dial for a request. Default: never.
    pub dialling: Dialling,
    /// Longest frame, in bytes. Default 16 MiB: several of the largest objects.
    pub frame_limit_bytes: usize,
    /// Most requests in one message, sent or received. Default 256.
    pub batch_count_max: usize,
    /// A message takes no further request beyond this many bytes; one request always travels. Default 1 MiB.
    pub batch_bytes_target: usize,
    /// A response takes no further answer beyond this many bytes; one answer always travels.
    /// Default 8 MiB. Each batch that is being answered may keep this much in memory.
    pub answer_bytes_target: usize,
    /// Most messages that wait for a response, for each peer and lane. Default 2: one being carried out and one on its
    /// way; more would travel in smaller batches.
    pub in_flight_max: usize,
    /// Most requests that wait to be sent to one peer, both lanes together. Default 1024.
    pub queue_count_max: usize,
    /// Most bytes that wait to be sent to one peer, both lanes together. Default 32 MiB.
    pub queue_bytes_max: usize,
    /// Most inbound streams of one connection. Default 16: twice what a peer like us opens.
    pub inbound_streams_max: usize,
    /// Most bytes of request frames being received or answered, of one connection. Default 32 MiB: two of the longest.
    pub inbound_bytes_max: usize,
    /// Most inbound streams of all peers together. Default 512.
    pub inbound_streams_total_max: usize,
    /// Most bytes of request frames being received or answered, of all peers together. Default 256 MiB.
    pub inbound_bytes_total_max: usize,
    /// Most requests of one peer that wait for our answer. Default 2048.
    pub inbound_count_max: usize,
    /// Most requests of all peers that wait for our answer. Default 8192.
    pub inbound_count_total_max: usize,
    /// Longest time a request may take; longer deadlines are cut to it. Default 10 s.
    pub request_timeout: Duration,
    /// Longest time for a request frame to arrive once its stream is open. Default 5 s.
    pub frame_timeout: Duration,
}

impl Config {
    /// The defaults, for `protocol`.
    pub fn new(protocol: StreamProtocol) -> Self {
        Self {
            protocol,
            support: ProtocolSupport::Full,
            dialling: Dialling::Never,
            frame_limit_bytes: 16 << 20,
            batch_count_max: 256,
            batch_bytes_target: 1 << 20,
            answer_bytes_target: 8 << 20,
            in_flight_max: 2,
            queue_count_max: 1024,
            queue_bytes_max: 32 << 20,
            inbound_streams_max: 16,
            inbound_bytes_max: 32 << 20,
            inbound_streams_total_max: 512,
            inbound_bytes_total_max: 256 << 20,
            inbound_count_max: 2048,
            inbound_count_total_max: 8192,
            request_timeout: Duration::from_secs(10),
            frame_timeout: Duration::from_secs(5),
        }
    }

    /// Longest single request or answer, in bytes of its CBOR: the frame limit less what a full batch needs beside it.
    pub fn payload_limit_bytes(&self) -> usize {
        self.frame_limit_bytes.saturating_sub(body::overhead_bytes(self.batch_count_max))
    }

    /// After this long a stream is given up, whatever its peer does.
    pub(crate) fn stream_timeout(&self) -> Duration {
        self.request_timeout + self.frame_timeout
    }
}
