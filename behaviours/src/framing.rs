//! Length-prefixed CBOR on any asynchronous byte stream, with an explicit limit.
//!
//! A frame is a header, the length of the body as an unsigned 32-bit big-endian integer, and the
//! body: exactly one CBOR item. **Invariant**: what a frame costs its receiver is bounded by what
//! was received, never by what was announced. A header beyond the limit is refused before a byte
//! of the body is read; the buffer grows in chunks with what arrives; decoding recurses at most
//! [`DEPTH_LIMIT`] levels, and a length inside the body is believed only as far as bytes follow
//! (serde preallocates at most 1 MiB for a sequence on the word of its header).
//!
//! It lacks time limits and knows nothing of streams' ends beyond the frame at hand: both belong
//! to the protocol that uses it. A message type that turns one byte into many (a long list of
//! large structs with defaults) multiplies the limit; that is for the message type to avoid.

use std::convert::Infallible;
use std::io;

use cbor4ii::core::{dec, enc};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// What can travel in frames. Implemented for everything that qualifies.
pub trait Message: Serialize + DeserializeOwned + Send + 'static {}

impl<T: Serialize + DeserializeOwned + Send + 'static> Message for T {}

/// Why a frame could not be sent, received or understood.
///
/// After any of them the stream is at an unknown position and is of no further use; nothing of
/// the message has been handed out. Only [`FrameError::Io`] may go away by itself on another
/// stream.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The body is longer than the limit; no byte of it was read, or written.
    #[error("frame of {announced_bytes} bytes exceeds the limit of {limit_bytes}")]
    TooLarge {
        /// Length of the body according to its header, or to its encoder.
        announced_bytes: usize,
        /// Longest body allowed.
        limit_bytes: usize,
    },
    /// The stream ended inside a frame.
    #[error("stream ended after {received_bytes} of {announced_bytes} bytes")]
    Truncated {
        /// Bytes of the header or the body that had arrived.
        received_bytes: usize,
        /// Bytes that the header or the body has.
        announced_bytes: usize,
    },
    /// The stream ended in good order before a frame began.
    #[error("stream ended before a frame")]
    Ended,
    /// The body is not the CBOR of the expected message, or nests too deeply.
    #[error("body is malformed at byte {at_byte}")]
    Malformed {
        /// Where decoding stopped, in bytes from the start of the body.
        at_byte: usize,
    },
    /// Bytes are left over after the message.
    #[error("{trailing_bytes} bytes follow the message")]
    Trailing {
        /// How many.
        trailing_bytes: usize,
    },
    /// Our own message type refused to be serialized.
    #[error("message cannot be encoded")]
    Unencodable,
    /// The memory set aside for receiving is used up.
    #[error("no memory is left for receiving frames")]
    NoBudget,
    /// The frame was not complete in time.
    #[error("frame did not arrive in time")]
    TimedOut,
    /// The stream failed underneath.
    #[error("stream failed: {kind}")]
    Io {
        /// What kind of failure.
        kind: io::ErrorKind,
    },
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        Self::Io { kind: error.kind() }
    }
}

/// Encodes `message` into the body of a frame of at most `limit_bytes`.
///
/// A message that is too long costs no more memory than the limit, and is
/// [`FrameError::TooLarge`] with its true length.
pub fn encode<M: Serialize>(message: &M, limit_bytes: usize) -> Result<Vec<u8>, FrameError> {
    let mut serializer =
        cbor4ii::serde::Serializer::new(LimitedWriter { body: Vec::new(), total_bytes: 0, limit_bytes });
    message.serialize(&mut serializer).map_err(|error| {
        tracing::debug!(%error, "message cannot be encoded");
        FrameError::Unencodable
    })?;
    let writer = serializer.into_inner();
    if writer.total_bytes > limit_bytes {
        return Err(FrameError::TooLarge { announced_bytes: writer.total_bytes, limit_bytes });
    }
    Ok(writer.body)
}

/// Decodes the body of a frame, all of it.
pub fn decode<M: DeserializeOwned>(body: &[u8]) -> Result<M, FrameError> {
    let mut deserializer = cbor4ii::serde::Deserializer::new(BodyReader::new(body));
    let decoded = M::deserialize(&mut deserializer);
    let rest_bytes = deserializer.into_inner().remaining_bytes();
    match decoded {
        Ok(_) if rest_bytes > 0 => Err(FrameError::Trailing { trailing_bytes: rest_bytes }),
        Ok(message) => Ok(message),
        Err(error) => {
            tracing::trace!(%error, "body is malformed");
            Err(FrameError::Malformed { at_byte: body.len() - rest_bytes })
        }
    }
}

/// Encodes `message` and writes it as one frame; does not flush or close.
pub async fn write<M, W>(stream: &mut W, message: &M, limit_bytes: usize) -> Result<(), FrameError>
where
    M: Serialize,
    W: AsyncWrite + Unpin,
{
    let body = encode(message, limit_bytes)?;
    let header = header(body.len(), limit_bytes)?;
    stream.write_all(&header).await?;
    stream.write_all(&body).await?;
    Ok(())
}

/// Reads one frame and decodes it.
pub async fn read<M, R>(stream: &mut R, limit_bytes: usize) -> Result<M, FrameError>
where
    M: DeserializeOwned,
    R: AsyncRead + Unpin,
{
    decode(&read_body(stream, limit_bytes, |_| true).await?)
}

/// The header of a frame whose body has `body_bytes`.
pub fn header(body_bytes: usize, limit_bytes: usize) -> Result<[u8; HEADER_BYTES], FrameError> {
    let too_large = FrameError::TooLarge { announced_bytes: body_bytes, limit_bytes };
    if body_bytes > limit_bytes {
        return Err(too_large);
    }
    u32::try_from(body_bytes).map(u32::to_be_bytes).map_err(|_| too_large)
}

/// Reads one frame and returns its body, undecoded.
///
/// Before each chunk is read `admit` is asked for its length in bytes; when it says no the frame is given
/// up with [`FrameError::NoBudget`]. The buffer never holds more than twice what was received
/// and one chunk.
pub async fn read_body<R, F>(stream: &mut R, limit_bytes: usize, mut admit: F) -> Result<Vec<u8>, FrameError>
where
    R: AsyncRead + Unpin,
    F: FnMut(usize) -> bool,
{
    let announced_bytes = length(read_header(stream).await?);
    if announced_bytes > limit_bytes {
        return Err(FrameError::TooLarge { announced_bytes, limit_bytes });
    }
    let mut body = Vec::new();
    read_onto(&mut body, stream, announced_bytes, announced_bytes, &mut admit).await?;
    Ok(body)
}

/// Reads `more_bytes` onto the end of `body`, whose buffer grows as they arrive and never beyond `capacity_max_bytes`,
/// or what it holds.
///
/// `admit` is asked as by [`read_body`].
pub(crate) async fn read_onto<R, F>(
    body: &mut Vec<u8>,
    stream: &mut R,
    more_bytes: usize,
    capacity_max_bytes: usize,
    mut admit: F,
) -> Result<(), FrameError>
where
    R: AsyncRead + Unpin,
    F: FnMut(usize) -> bool,
{
    let announced_bytes = body.len() + more_bytes;
    while body.len() < announced_bytes {
        let filled = body.len();
        let chunk_bytes = (announced_bytes - filled).min(CHUNK_BYTES);
        if !admit(chunk_bytes) {
            return Err(FrameError::NoBudget);
        }
        if body.capacity() < filled + chunk_bytes {
            // Doubling keeps copying linear; the cap makes the buffer exact where the whole length is known.
            let doubled_bytes = filled + filled.max(chunk_bytes);
            body.reserve_exact(doubled_bytes.min(capacity_max_bytes).max(filled + chunk_bytes) - filled);
        }
        body.resize(filled + chunk_bytes, 0);
        let received_bytes = fill(stream, &mut body[filled..]).await?;
        if received_bytes < chunk_bytes {
            return Err(FrameError::Truncated { received_bytes: filled + received_bytes, announced_bytes });
        }
    }
    Ok(())
}

/// Reads the header of a frame.
pub(crate) async fn read_header<R: AsyncRead + Unpin>(stream: &mut R) -> Result<[u8; HEADER_BYTES], FrameError> {
    let mut header = [0; HEADER_BYTES];
    match fill(stream, &mut header).await? {
        0 => Err(FrameError::Ended),
        HEADER_BYTES => Ok(header),
        received_bytes => Err(FrameError::Truncated { received_bytes, announced_bytes: HEADER_BYTES }),
    }
}

/// Length of the header in bytes.
pub const HEADER_BYTES: usize = 4;

/// Deepest nesting that is decoded, in steps of the decoder: an array, a map, an enum and an
/// option take one each. Our messages nest about eight deep; a step of a debug build takes well
/// under a kilobyte of stack.
pub const DEPTH_LIMIT: usize = 64;

/// How much is read at a time, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

fn length(header: [u8; HEADER_BYTES]) -> usize {
    usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX)
}

/// Reads until `buffer` is full or the stream ends; returns how many bytes came.
async fn fill<R: AsyncRead + Unpin>(stream: &mut R, buffer: &mut [u8]) -> Result<usize, FrameError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]).await {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Some transports report a peer that closed inside a message as this error.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(filled)
}

/// Keeps what fits into the limit and counts the rest.
struct LimitedWriter {
    body: Vec<u8>,
    total_bytes: usize,
    limit_bytes: usize,
}

impl enc::Write for LimitedWriter {
    type Error = Infallible;

    fn push(&mut self, input: &[u8]) -> Result<(), Infallible> {
        self.total_bytes = self.total_bytes.saturating_add(input.len());
        if self.total_bytes <= self.limit_bytes {
            self.body.extend_from_slice(input);
        }
        Ok(())
    }
}

/// A body being decoded: lends its bytes and counts the depth.
pub(crate) struct BodyReader<'a> {
    rest: &'a [u8],
    steps_left: usize,
}

impl<'a> BodyReader<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self { rest: body, steps_left: DEPTH_LIMIT }
    }

    pub(crate) fn remaining_bytes(&self) -> usize {
        self.rest.len()
    }
}

impl<'a> dec::Read<'a> for BodyReader<'a> {
    type Error = Infallible;

    fn fill<'b>(&'b mut self, want: usize) -> Result<dec::Reference<'a, 'b>, Infallible> {
        Ok(dec::Reference::Long(&self.rest[..want.min(self.rest.len())]))
    }

    fn advance(&mut self, count: usize) {
        self.rest = &self.rest[count.min(self.rest.len())..];
    }

    fn step_in(&mut self) -> bool {
        let deeper = self.steps_left.checked_sub(1);
        self.steps_left = deeper.unwrap_or(0);
        deeper.is_some()
    }

    fn step_out(&mut self) {
        self.steps_left += 1;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::collections::BTreeMap;

    use futures::executor::block_on;
    use futures::io::Cursor;
    use serde::Deserialize;

    use super::*;

    /// A type that recurses as deeply as its bytes say.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Tree {
        Leaf(u64),
        Node(Vec<Tree>),
    }

    fn frame(announced_bytes: u32, body: &[u8]) -> Vec<u8> {
        [&announced_bytes.to_be_bytes()[..], body].concat()
    }

    fn read_from<M: DeserializeOwned>(bytes: &[u8], limit_bytes: usize) -> Result<M, FrameError> {
        block_on(read(&mut Cursor::new(bytes), limit_bytes))
    }

    #[test]
    fn what_is_written_is_read_back_frame_by_frame() {
        let mut pipe = Cursor::new(Vec::new());
        let first = Tree::Node(vec![Tree::Leaf(1), Tree::Node(vec![])]);
        block_on(write(&mut pipe, &first, 100)).unwrap();
        block_on(write(&mut pipe, &"second", 100)).unwrap();
        pipe.set_position(0);
        assert_eq!(block_on(read::<Tree, _>(&mut pipe, 100)), Ok(first));
        assert_eq!(block_on(read::<String, _>(&mut pipe, 100)), Ok("second".to_owned()));
        assert_eq!(block_on(read::<String, _>(&mut pipe, 100)), Err(FrameError::Ended));
    }

    #[test]
    fn a_frame_beyond_the_limit_is_refused_before_its_body_is_read() {
        let bytes = frame(101, &[0; 101]);
        let mut pipe = Cursor::new(&bytes);
        let refused = block_on(read::<u64, _>(&mut pipe, 100));
        assert_eq!(refused, Err(FrameError::TooLarge { announced_bytes: 101, limit_bytes: 100 }));
        assert_eq!(pipe.position(), 4);
    }

    #[test]
    fn encoding_beyond_the_limit_says_the_true_length() {
        let long = "x".repeat(1000);
        assert_eq!(encode(&long, 100), Err(FrameError::TooLarge { announced_bytes: 1003, limit_bytes: 100 }));
        assert_eq!(encode(&long, 1003).unwrap().len(), 1003);
    }

    #[test]
    fn memory_is_asked_for_as_bytes_arrive_and_not_as_announced() {
        let bytes = frame(16 << 20, &[7; 100_000]);
        let mut asked_bytes = 0;
        let truncated = block_on(read_body(&mut Cursor::new(&bytes), 16 << 20, |more| {
            asked_bytes += more;
            true
        }));
        assert_eq!(truncated, Err(FrameError::Truncated { received_bytes: 100_000, announced_bytes: 16 << 20 }));
        assert_eq!(asked_bytes, 2 * CHUNK_BYTES);
    }

    #[test]
    fn a_frame_is_given_up_when_there_is_no_memory_for_it() {
        let bytes = frame(200_000, &[7; 200_000]);
        let mut left = 2 * CHUNK_BYTES;
        let given_up = block_on(read_body(&mut Cursor::new(&bytes), 16 << 20, |more| {
            let enough = more <= left;
            left = left.saturating_sub(more);
            enough
        }));
        assert_eq!(given_up, Err(FrameError::NoBudget));
    }

    #[test]
    fn a_long_frame_arrives_whole_in_an_exact_buffer() {
        let bytes = frame(1_000_003, &[7; 1_000_003]);
        let body = block_on(read_body(&mut Cursor::new(&bytes), 16 << 20, |_| true)).unwrap();
        assert!(body.iter().all(|byte| *byte == 7));
        assert_eq!((body.len(), body.capacity()), (1_000_003, 1_000_003));
    }

    #[test]
    fn a_body_in_pieces_grows_with_them_and_not_beyond_its_cap() {
        let mut pipe = Cursor::new(vec![7; 100_000]);
        let mut body = Vec::new();
        for count in 1..=1000 {
            block_on(read_onto(&mut body, &mut pipe, 100, 70_000, |_| true)).unwrap();
            assert_eq!(body.len(), count * 100);
            assert!(body.capacity() <= (2 * body.len()).min(body.len().max(70_000)), "{} bytes", body.capacity());
        }
    }

    #[test]
    fn a_stream_that_ends_inside_the_header_is_truncated() {
        assert_eq!(
            read_from::<u64>(&[0, 0], 100),
            Err(FrameError::Truncated { received_bytes: 2, announced_bytes: 4 })
        );
    }

    #[test]
    fn truncated_items_are_malformed() {
        assert_eq!(read_from::<String>(&frame(3, b"\x65ab"), 100), Err(FrameError::Malformed { at_byte: 3 }));
        assert!(matches!(decode::<Vec<u64>>(b"\x83\x01\x02"), Err(FrameError::Malformed { .. })));
        assert!(matches!(decode::<u64>(b""), Err(FrameError::Malformed { at_byte: 0 })));
    }

    #[test]
    fn a_claim_of_2_to_the_32_items_is_malformed() {
        for major in [0x9b, 0xbb, 0x5b, 0x7b] {
            let claim = [major, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1];
            assert!(matches!(decode::<Vec<u64>>(&claim), Err(FrameError::Malformed { .. })));
            assert!(matches!(decode::<BTreeMap<u64, u64>>(&claim), Err(FrameError::Malformed { .. })));
            assert!(matches!(decode::<String>(&claim), Err(FrameError::Malformed { .. })));
            assert!(matches!(decode::<serde::de::IgnoredAny>(&claim), Err(FrameError::Malformed { .. })));
        }
    }

    #[test]
    fn nesting_of_a_hundred_thousand_levels_is_malformed_on_a_small_stack() {
        let nested_arrays = vec![0x81; 100_000];
        let nested_nodes = b"\xa1\x64Node\x81".repeat(100_000);
        let nested_open_arrays = vec![0x9f; 100_000];
        let nested_tags = vec![0xc6; 100_000];
        let on_small_stack = std::thread::Builder::new().stack_size(256 * 1024).spawn(move || {
            for bytes in [nested_arrays, nested_nodes, nested_open_arrays, nested_tags] {
                assert!(matches!(decode::<Tree>(&bytes), Err(FrameError::Malformed { .. })));
                assert!(matches!(decode::<serde::de::IgnoredAny>(&bytes), Err(FrameError::Malformed { .. })));
            }
        });
        on_small_stack.unwrap().join().unwrap();
    }

    #[test]
    fn nesting_that_messages_need_is_decoded() {
        let mut tree = Tree::Leaf(7);
        for _ in 0..20 {
            tree = Tree::Node(vec![tree]);
        }
        assert_eq!(decode::<Tree>(&encode(&tree, 1000).unwrap()), Ok(tree));
    }

    #[test]
    fn bytes_after_the_message_are_an_error() {
        assert_eq!(decode::<u64>(&[1, 2, 3]), Err(FrameError::Trailing { trailing_bytes: 2 }));
    }
}
