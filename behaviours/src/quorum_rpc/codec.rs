//! One stream of a batch: a request frame out, a response frame back, and the memory it may take.
//!
//! **Invariant**: a frame that is wrong is a value, not an I/O error, so that the behaviour learns
//! of it together with the peer that sent it; and every inbound stream holds a [`Permit`] from
//! before its first byte until its response is written, so that the streams and bytes of each
//! connection stay within a budget, and those of all connections together within another.
//!
//! The time limit for answering is the behaviour's; the one here is for the request to arrive.

use std::io;
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::{Either, select};
use futures::{AsyncRead, AsyncWrite};
use futures_timer::Delay;
use libp2p::StreamProtocol;
use libp2p::request_response::Codec;
use serde::de::DeserializeOwned;

use crate::framing::{self, FrameError};
use crate::quorum_rpc::body::{self, Answers};

/// What crosses a stream towards the one who is asked.
#[derive(Debug)]
pub enum RequestFrame<Q> {
    /// To be written.
    Outgoing {
        /// How long the asker will wait.
        time: Duration,
        /// Each the CBOR of one request.
        entries: Vec<Arc<Vec<u8>>>,
    },
    /// Read.
    Incoming {
        /// How long the asker will wait, as it says.
        time: Duration,
        /// In the order of the batch.
        requests: Vec<Q>,
    },
    /// Not read for want of room; to be answered with a refusal.
    Refused,
    /// Read, and wrong.
    Bad(FrameError),
}

/// What crosses a stream towards the one who asks.
#[derive(Debug)]
pub enum ResponseFrame<A> {
    /// To be written.
    Outgoing(Answers<Vec<u8>>),
    /// Read.
    Incoming(Answers<A>),
    /// Read, and wrong.
    Bad(FrameError),
}

/// What the streams of all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) frame_limit_bytes: usize,
    pub(crate) batch_count_max: usize,
    pub(crate) frame_timeout: Duration,
    pub(crate) connection_limits: Limits,
    pub(crate) total: Budget,
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
}

/// The most that may be taken of a [`Budget`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) streams: usize,
    pub(crate) bytes: usize,
}

/// What inbound streams have taken together.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    streams: AtomicUsize,
    bytes: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, streams: AtomicUsize::new(0), bytes: AtomicUsize::new(0) }
    }

    /// Whether there was room for one more stream; to be given back in any case.
    fn take_stream(&self) -> bool {
        self.streams.fetch_add(1, Ordering::AcqRel) < self.limits.streams
    }

    /// Whether there was room for so many bytes more; to be given back in any case.
    fn take_bytes(&self, more_bytes: usize) -> bool {
        self.bytes.fetch_add(more_bytes, Ordering::AcqRel).saturating_add(more_bytes) <= self.limits.bytes
    }

    fn give_back(&self, bytes: usize) {
        self.streams.fetch_sub(1, Ordering::AcqRel);
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }
}

impl Shared {
    fn count_received(&self, body: &[u8]) {
        self.received_bytes.fetch_add((framing::HEADER_BYTES + body.len()) as u64, Ordering::Relaxed);
    }

    fn count_sent(&self, outcome: Result<usize, FrameError>) -> io::Result<()> {
        let frame_bytes = outcome.map_err(io::Error::other)?;
        self.sent_bytes.fetch_add(frame_bytes as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Reads and writes the two frames of a batch.
///
/// libp2p clones the behaviour's codec for each connection, and that clone for each of the
/// connection's streams. The first clone therefore opens a budget, and the second shares it: it
/// is the only way for a codec to know which streams belong together.
#[derive(Debug)]
pub struct BatchCodec<Q, A> {
    shared: Arc<Shared>,
    /// None in the behaviour itself.
    connection: Option<Arc<Budget>>,
    permit: Option<Permit>,
    messages: PhantomData<fn() -> (Q, A)>,
}

impl<Q, A> BatchCodec<Q, A> {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, connection: None, permit: None, messages: PhantomData }
    }
}

impl<Q, A> Clone for BatchCodec<Q, A> {
    /// The clone holds no permit.
    fn clone(&self) -> Self {
        let connection = match &self.connection {
            Some(connection) => connection.clone(),
            None => Arc::new(Budget::new(self.shared.connection_limits)),
        };
        Self { connection: Some(connection), ..Self::new(self.shared.clone()) }
    }
}

impl<Q, A> Codec for BatchCodec<Q, A>
where
    Q: DeserializeOwned + Send + 'static,
    A: DeserializeOwned + Send + 'static,
{
    type Protocol = StreamProtocol;
    type Request = RequestFrame<Q>;
    type Response = ResponseFrame<A>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, stream: &mut T) -> io::Result<RequestFrame<Q>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let Some(mut permit) = Permit::take(&self.shared, self.connection.clone()) else {
            return Ok(RequestFrame::Refused);
        };
        let received = {
            let reading = pin!(framing::read_body(stream, self.shared.frame_limit_bytes, |more| permit.grow(more)));
            match select(reading, Delay::new(self.shared.frame_timeout)).await {
                Either::Left((received, _)) => received,
                Either::Right(((), _)) => Err(FrameError::TimedOut),
            }
        };
        let decoded = received.and_then(|body| {
            self.shared.count_received(&body);
            let (time, requests) = body::decode_request(&body, self.shared.batch_count_max)?;
            Ok(RequestFrame::Incoming { time, requests })
        });
        match decoded {
            Ok(frame) => {
                self.permit = Some(permit);
                Ok(frame)
            }
            Err(FrameError::NoBudget) => Ok(RequestFrame::Refused),
            Err(FrameError::Io { kind }) => Err(kind.into()),
            Err(error) => Ok(RequestFrame::Bad(error)),
        }
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, stream: &mut T) -> io::Result<ResponseFrame<A>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let decoded = framing::read_body(stream, self.shared.frame_limit_bytes, |_| true).await.and_then(|body| {
            self.shared.count_received(&body);
            Ok(ResponseFrame::Incoming(body::decode_response(&body, self.shared.batch_count_max)?))
        });
        match decoded {
            Ok(frame) => Ok(frame),
            Err(FrameError::Io { kind }) => Err(kind.into()),
            Err(error) => Ok(ResponseFrame::Bad(error)),
        }
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, stream: &mut T, frame: RequestFrame<Q>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let RequestFrame::Outgoing { time, entries } = frame else {
            return Err(io::Error::other("only an outgoing request can be written"));
        };
        let entries: Vec<&[u8]> = entries.iter().map(|entry| entry.as_slice()).collect();
        self.shared.count_sent(body::write_request(stream, time, &entries, self.shared.frame_limit_bytes).await)
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, stream: &mut T, frame: ResponseFrame<A>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let ResponseFrame::Outgoing(answers) = frame else {
            return Err(io::Error::other("only an outgoing response can be written"));
        };
        self.shared.count_sent(body::write_response(stream, &answers, self.shared.frame_limit_bytes).await)
    }
}

/// The room one inbound stream takes; given back when it is dropped.
#[derive(Debug)]
struct Permit {
    shared: Arc<Shared>,
    connection: Option<Arc<Budget>>,
    bytes: usize,
}

impl Permit {
    fn take(shared: &Arc<Shared>, connection: Option<Arc<Budget>>) -> Option<Self> {
        let permit = Self { shared: shared.clone(), connection, bytes: 0 };
        // Both are always taken, because both are given back.
        let mut has_room = true;
        permit.budgets().for_each(|budget| has_room &= budget.take_stream());
        has_room.then_some(permit)
    }

    fn grow(&mut self, more_bytes: usize) -> bool {
        self.bytes += more_bytes;
        let mut has_room = true;
        self.budgets().for_each(|budget| has_room &= budget.take_bytes(more_bytes));
        has_room
    }

    fn budgets(&self) -> impl Iterator<Item = &Budget> {
        self.connection.as_deref().into_iter().chain([&self.shared.total])
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budgets().for_each(|budget| budget.give_back(self.bytes));
    }
}
