//! One message on one stream: written and read frame by frame.
//!
//! **Invariant**: a message grows only with bytes that have arrived, in frames that each hold at least one, up to the
//! limit of messages; so it ends after a bounded number of frames, however they are cut. Knows neither time nor session.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::{future::poll_fn, io};

use futures::future::Either;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::framing::{self, FrameError, HEADER_BYTES};
use crate::merkle_exchange::config::Config;
use crate::merkle_exchange::event::{EndReason, Misbehaviour};
use crate::merkle_exchange::shared::Bytes;

/// Why a turn did not come about. The stream is of no further use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TurnError {
    /// The peer has too many sessions.
    Busy,
    /// The stream could not be opened for want of the protocol.
    Unsupported,
    /// It took too long.
    TimedOut,
    /// The peer ended the stream between two messages.
    Closed,
    /// The stream failed, or ended inside a message.
    Io,
    /// The peer broke the protocol.
    Misbehaved(Misbehaviour),
}

impl TurnError {
    pub(crate) fn reason(&self) -> EndReason {
        match self {
            Self::Busy => EndReason::Busy,
            Self::Unsupported => EndReason::Unsupported,
            Self::TimedOut => EndReason::TimedOut,
            Self::Closed => EndReason::Closed,
            Self::Io => EndReason::Io,
            Self::Misbehaved(_) => EndReason::Malformed,
        }
    }
}

impl From<FrameError> for TurnError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Ended => Self::Closed,
            FrameError::Io { .. } | FrameError::Truncated { .. } => Self::Io,
            FrameError::TimedOut => Self::TimedOut,
            FrameError::TooLarge { .. }
            | FrameError::Malformed { .. }
            | FrameError::Trailing { .. }
            | FrameError::Unencodable
            | FrameError::NoBudget => Self::Misbehaved(Misbehaviour::Message(error)),
        }
    }
}

impl From<io::Error> for TurnError {
    fn from(error: io::Error) -> Self {
        FrameError::from(error).into()
    }
}

/// What the peer may say before it has heard our message to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// That it is busy, while we ask the first question.
    Busy,
    /// Nothing.
    None,
}

/// Writes a message and flushes it.
///
/// As long as a byte of it has not left, the peer has nothing to reply to: what it says is out of turn, and a busy peer
/// is heard though it lets us write no more.
pub(crate) async fn write<S>(
    stream: &mut S,
    message: &[u8],
    interruption: Interruption,
    config: &Config,
    bytes: &Bytes,
) -> Result<(), TurnError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut frames = message.chunks(config.frame_limit_bytes.clamp(1, BODY_BYTES_MAX)).peekable();
    while let Some(body) = frames.next() {
        let [first, rest @ ..] = framing::header(body.len(), BODY_BYTES_MAX)?;
        let follows = if frames.peek().is_some() { MORE_FOLLOWS } else { 0 };
        let [second, third, fourth] = rest;
        for part in [&[first | follows, second, third, fourth], body] {
            if let Some(early) = write_unless_early(stream, part).await? {
                return Err(interrupted(stream, early, interruption, bytes).await);
            }
        }
        bytes.sent.fetch_add((HEADER_BYTES + body.len()) as u64, Ordering::Relaxed);
    }
    stream.flush().await?;
    Ok(())
}

/// Says that there is no room for the session, and closes our half of the stream.
pub(crate) async fn refuse<W: AsyncWrite + Unpin>(stream: &mut W, bytes: &Bytes) -> io::Result<()> {
    stream.write_all(&BUSY).await?;
    bytes.sent.fetch_add(HEADER_BYTES as u64, Ordering::Relaxed);
    stream.close().await
}

/// Reads a message, undecoded; none if the peer says that it is busy.
pub(crate) async fn read<R>(stream: &mut R, config: &Config, bytes: &Bytes) -> Result<Option<Vec<u8>>, TurnError>
where
    R: AsyncRead + Unpin,
{
    let mut message = Vec::new();
    loop {
        let header = framing::read_header(stream).await.map_err(|error| match error {
            FrameError::Ended if !message.is_empty() => TurnError::Io,
            error => error.into(),
        })?;
        if header == BUSY && message.is_empty() {
            bytes.received.fetch_add(HEADER_BYTES as u64, Ordering::Relaxed);
            return Ok(None);
        }
        let [first, second, third, fourth] = header;
        let more_follows = first & MORE_FOLLOWS != 0;
        let body_bytes = u32::from_be_bytes([first & !MORE_FOLLOWS, second, third, fourth]) as usize;
        check_length(body_bytes, message.len(), config)?;
        let whole_bytes = message.len() + body_bytes;
        let capacity_max_bytes = if more_follows { config.message_limit_bytes } else { whole_bytes };
        framing::read_onto(&mut message, stream, body_bytes, capacity_max_bytes, |_| true).await?;
        bytes.received.fetch_add((HEADER_BYTES + body_bytes) as u64, Ordering::Relaxed);
        if !more_follows {
            return Ok(Some(message));
        }
    }
}

/// Ready with the first byte that the peer says though it is our turn, or once it has ended the stream.
pub(crate) fn poll_early<R: AsyncRead + Unpin>(stream: &mut R, cx: &mut Context<'_>) -> Poll<Result<u8, TurnError>> {
    let mut early = [0];
    let count = ready!(Pin::new(stream).poll_read(cx, &mut early))?;
    Poll::Ready(if count == 0 { Err(TurnError::Closed) } else { Ok(early[0]) })
}

/// Writes all of `rest`, unless the peer speaks meanwhile: then it returns the peer's first byte.
async fn write_unless_early<S>(stream: &mut S, mut rest: &[u8]) -> Result<Option<u8>, TurnError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while !rest.is_empty() {
        let early_or_written = poll_fn(|cx| match poll_early(stream, cx) {
            Poll::Ready(early) => Poll::Ready(early.map(Either::Left)),
            Poll::Pending => Pin::new(&mut *stream).poll_write(cx, rest).map(|written| Ok(Either::Right(written?))),
        });
        match early_or_written.await? {
            Either::Left(early) => return Ok(Some(early)),
            Either::Right(0) => return Err(TurnError::Io),
            Either::Right(written_bytes) => rest = &rest[written_bytes..],
        }
    }
    Ok(None)
}

/// What it means that the peer began to speak, with the byte `early`.
async fn interrupted<R>(stream: &mut R, early: u8, interruption: Interruption, bytes: &Bytes) -> TurnError
where
    R: AsyncRead + Unpin,
{
    let mut header = [early; HEADER_BYTES];
    if interruption == Interruption::Busy && early == BUSY[0] {
        if let Err(error) = stream.read_exact(&mut header[1..]).await {
            return error.into();
        }
        if header == BUSY {
            bytes.received.fetch_add(HEADER_BYTES as u64, Ordering::Relaxed);
            return TurnError::Busy;
        }
    }
    TurnError::Misbehaved(Misbehaviour::OutOfTurn)
}

/// Refuses a frame before its body is read.
fn check_length(body_bytes: usize, message_bytes: usize, config: &Config) -> Result<(), TurnError> {
    if body_bytes == 0 {
        return Err(TurnError::Misbehaved(Misbehaviour::EmptyFrame));
    }
    let too_large = |announced_bytes, limit_bytes| Err(FrameError::TooLarge { announced_bytes, limit_bytes }.into());
    if body_bytes > config.frame_limit_bytes {
        return too_large(body_bytes, config.frame_limit_bytes);
    }
    let whole_bytes = message_bytes.saturating_add(body_bytes);
    if whole_bytes > config.message_limit_bytes {
        return too_large(whole_bytes, config.message_limit_bytes);
    }
    Ok(())
}

/// The bit in the first byte of a header that says that more frames of the message follow.
const MORE_FOLLOWS: u8 = 0x80;

/// Longest body that a header can announce.
const BODY_BYTES_MAX: usize = (1 << 31) - 1;

/// The frame without a body, in place of the first answer.
const BUSY: [u8; HEADER_BYTES] = [0; HEADER_BYTES];
