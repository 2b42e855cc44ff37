//! The bodies of the two frames of a batch, as bytes.
//!
//! ```text
//! request  = [ time_ms, [ entry, … ] ]          entry  = byte string holding the CBOR of one request
//! response = [ answer, … ]                      answer = byte string holding the CBOR of one answer,
//!          | 1 (the whole batch is refused)              or 0 deferred, 1 overloaded, 2 unanswered, 3 too large
//! ```
//!
//! **Invariant**: what these functions write they read back; whatever they read, they do so in
//! one pass, with entries counted against a limit before they are kept. Payloads are written from
//! where they lie and decoded in place, never gathered into a second buffer.

use std::time::Duration;

use cbor4ii::core::dec::Decode;
use cbor4ii::core::{dec, major, types};
use futures::{AsyncWrite, AsyncWriteExt};
use serde::de::DeserializeOwned;

use crate::framing::{self, BodyReader, FrameError};

/// What one entry of a response says. `T` is the answer: bytes on the way out, a message on the
/// way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// The answer.
    Given(T),
    /// Executed, but the answer did not fit into this response: ask again.
    Deferred,
    /// Not executed, because too much was waiting.
    Overloaded,
    /// No answer was given in time. Executed or not: unknown.
    Unanswered,
    /// Executed, but the answer is longer than a frame may be.
    TooLarge,
}

/// What a response says: one answer for each request of the batch, in order, or that the batch was refused unread.
#[derive(Debug, PartialEq, Eq)]
pub enum Answers<T> {
    /// In the order of the requests.
    Each(Vec<Answer<T>>),
    /// Nothing was executed.
    RefusedAll,
}

/// Writes the frame of a request; returns its length in bytes.
pub(crate) async fn write_request<W: AsyncWrite + Unpin>(
    stream: &mut W,
    time: Duration,
    entries: &[&[u8]],
    limit_bytes: usize,
) -> Result<usize, FrameError> {
    let mut prelude = Vec::new();
    push_head(&mut prelude, major::ARRAY, 2);
    push_head(&mut prelude, major::UNSIGNED, u64::from(u32::try_from(time.as_millis()).unwrap_or(u32::MAX)));
    push_head(&mut prelude, major::ARRAY, entries.len() as u64);
    let items: Vec<Item<'_>> = entries.iter().map(|entry| Item::Bytes(entry)).collect();
    write_items(stream, &prelude, &items, limit_bytes).await
}

/// Writes the frame of a response; returns its length in bytes.
pub(crate) async fn write_response<W: AsyncWrite + Unpin>(
    stream: &mut W,
    answers: &Answers<Vec<u8>>,
    limit_bytes: usize,
) -> Result<usize, FrameError> {
    let mut prelude = Vec::new();
    let items: Vec<Item<'_>> = match answers {
        Answers::RefusedAll => vec![Item::Code(REFUSED_ALL)],
        Answers::Each(each) => {
            push_head(&mut prelude, major::ARRAY, each.len() as u64);
            each.iter().map(to_item).collect()
        }
    };
    write_items(stream, &prelude, &items, limit_bytes).await
}

/// Decodes the body of a request: how long the asker will wait, and what it asks.
pub(crate) fn decode_request<Q: DeserializeOwned>(
    body: &[u8],
    count_max: usize,
) -> Result<(Duration, Vec<Q>), FrameError> {
    let mut reader = BodyReader::new(body);
    let parts = types::Array::len(&mut reader).map_err(|_| malformed(body, &reader))?;
    if parts != Some(2) {
        return Err(malformed(body, &reader));
    }
    let time_ms = u32::decode(&mut reader).map_err(|_| malformed(body, &reader))?;
    let count = bounded_count(body, &mut reader, count_max)?;
    let mut requests = Vec::with_capacity(count);
    for _ in 0..count {
        requests.push(framing::decode(entry(body, &mut reader)?)?);
    }
    ended(&reader)?;
    Ok((Duration::from_millis(u64::from(time_ms)), requests))
}

/// Decodes the body of a response.
pub(crate) fn decode_response<A: DeserializeOwned>(body: &[u8], count_max: usize) -> Result<Answers<A>, FrameError> {
    let mut reader = BodyReader::new(body);
    if body == [REFUSED_ALL] {
        return Ok(Answers::RefusedAll);
    }
    let count = bounded_count(body, &mut reader, count_max)?;
    let mut answers = Vec::with_capacity(count);
    for _ in 0..count {
        let first_byte = body[body.len() - reader.remaining_bytes()..].first().copied();
        let code = match first_byte {
            Some(DEFERRED) => Answer::Deferred,
            Some(OVERLOADED) => Answer::Overloaded,
            Some(UNANSWERED) => Answer::Unanswered,
            Some(TOO_LARGE) => Answer::TooLarge,
            Some(_) | None => {
                answers.push(Answer::Given(framing::decode(entry(body, &mut reader)?)?));
                continue;
            }
        };
        dec::Read::advance(&mut reader, 1);
        answers.push(code);
    }
    ended(&reader)?;
    Ok(Answers::Each(answers))
}

/// Upper bound of what a frame needs beside its payloads, in bytes.
pub(crate) const fn overhead_bytes(entry_count: usize) -> usize {
    PRELUDE_BYTES_MAX + entry_count * HEAD_BYTES_MAX
}

enum Item<'a> {
    Bytes(&'a [u8]),
    Code(u8),
}

fn to_item(answer: &Answer<Vec<u8>>) -> Item<'_> {
    match answer {
        Answer::Given(bytes) => Item::Bytes(bytes),
        Answer::Deferred => Item::Code(DEFERRED),
        Answer::Overloaded => Item::Code(OVERLOADED),
        Answer::Unanswered => Item::Code(UNANSWERED),
        Answer::TooLarge => Item::Code(TOO_LARGE),
    }
}

async fn write_items<W: AsyncWrite + Unpin>(
    stream: &mut W,
    prelude: &[u8],
    items: &[Item<'_>],
    limit_bytes: usize,
) -> Result<usize, FrameError> {
    let body_bytes = prelude.len() + items.iter().map(item_bytes).sum::<usize>();
    let mut gathered = framing::header(body_bytes, limit_bytes)?.to_vec();
    gathered.extend_from_slice(prelude);
    for item in items {
        match item {
            Item::Code(code) => gathered.push(*code),
            Item::Bytes(bytes) => {
                push_head(&mut gathered, major::BYTES, bytes.len() as u64);
                if bytes.len() >= GATHER_BYTES {
                    stream.write_all(&gathered).await?;
                    gathered.clear();
                    stream.write_all(bytes).await?;
                } else {
                    gathered.extend_from_slice(bytes);
                }
            }
        }
        if gathered.len() >= GATHER_BYTES {
            stream.write_all(&gathered).await?;
            gathered.clear();
        }
    }
    stream.write_all(&gathered).await?;
    Ok(framing::HEADER_BYTES + body_bytes)
}

fn item_bytes(item: &Item<'_>) -> usize {
    match item {
        Item::Code(_) => 1,
        Item::Bytes(bytes) => {
            let mut head = Vec::with_capacity(HEAD_BYTES_MAX);
            push_head(&mut head, major::BYTES, bytes.len() as u64);
            head.len() + bytes.len()
        }
    }
}

/// Appends the head of a CBOR item: its major type and its number, in the shortest form.
fn push_head(out: &mut Vec<u8>, major: u8, number: u64) {
    let major = major << 5;
    let bytes = number.to_be_bytes();
    let (info, from) = match number {
        0..=0x17 => {
            out.push(major | bytes[7]);
            return;
        }
        0x18..=0xff => (24, 7),
        0x100..=0xffff => (25, 6),
        0x1_0000..=0xffff_ffff => (26, 4),
        _ => (27, 0),
    };
    out.push(major | info);
    out.extend_from_slice(&bytes[from..]);
}

fn bounded_count(body: &[u8], reader: &mut BodyReader<'_>, count_max: usize) -> Result<usize, FrameError> {
    match types::Array::len(reader) {
        Ok(Some(count)) if count <= count_max => Ok(count),
        Ok(_) | Err(_) => Err(malformed(body, reader)),
    }
}

fn entry<'a>(body: &'a [u8], reader: &mut BodyReader<'a>) -> Result<&'a [u8], FrameError> {
    match types::Bytes::<&[u8]>::decode(reader) {
        Ok(types::Bytes(bytes)) => Ok(bytes),
        Err(_) => Err(malformed(body, reader)),
    }
}

fn ended(reader: &BodyReader<'_>) -> Result<(), FrameError> {
    match reader.remaining_bytes() {
        0 => Ok(()),
        trailing_bytes => Err(FrameError::Trailing { trailing_bytes }),
    }
}

fn malformed(body: &[u8], reader: &BodyReader<'_>) -> FrameError {
    FrameError::Malformed { at_byte: body.len() - reader.remaining_bytes() }
}

const DEFERRED: u8 = 0;
const OVERLOADED: u8 = 1;
const UNANSWERED: u8 = 2;
const TOO_LARGE: u8 = 3;
const REFUSED_ALL: u8 = 1;

/// Longest head of a CBOR item.
const HEAD_BYTES_MAX: usize = 9;
/// An array of two, a number, and an array of entries.
const PRELUDE_BYTES_MAX: usize = 3 * HEAD_BYTES_MAX;
/// Payloads shorter than this are copied together into one write.
const GATHER_BYTES: usize = 16 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use futures::executor::block_on;

    use super::*;

    fn request_body(entries: &[&[u8]]) -> Vec<u8> {
        let mut frame = Vec::new();
        let frame_bytes = block_on(write_request(&mut frame, Duration::from_millis(700), entries, 1 << 20)).unwrap();
        assert_eq!(frame.len(), frame_bytes);
        frame.split_off(framing::HEADER_BYTES)
    }

    #[test]
    fn a_request_is_read_back_whatever_the_sizes_of_its_entries() {
        for size in [0, 1, 23, 24, 255, 256, 20_000, 65_535, 65_536] {
            let payload = "v".repeat(size);
            let encoded = framing::encode(&payload, 1 << 20).unwrap();
            let body = request_body(&[&encoded, &encoded, b"\x60"]);
            let (time, requests) = decode_request::<String>(&body, 3).unwrap();
            assert_eq!(time, Duration::from_millis(700));
            assert_eq!(requests, [payload.clone(), payload, String::new()]);
        }
    }

    #[test]
    fn a_response_is_read_back_with_every_kind_of_answer() {
        let sent = Answers::Each(vec![
            Answer::Given(b"\x07".to_vec()),
            Answer::Deferred,
            Answer::Overloaded,
            Answer::Unanswered,
            Answer::TooLarge,
        ]);
        let mut frame = Vec::new();
        block_on(write_response(&mut frame, &sent, 100)).unwrap();
        let received = decode_response::<u64>(&frame[framing::HEADER_BYTES..], 5).unwrap();
        let expected =
            vec![Answer::Given(7), Answer::Deferred, Answer::Overloaded, Answer::Unanswered, Answer::TooLarge];
        assert_eq!(received, Answers::Each(expected));
    }

    #[test]
    fn a_refusal_of_the_whole_batch_is_read_back() {
        let mut frame = Vec::new();
        block_on(write_response(&mut frame, &Answers::RefusedAll, 100)).unwrap();
        assert_eq!(decode_response::<u64>(&frame[framing::HEADER_BYTES..], 5), Ok(Answers::RefusedAll));
    }

    #[test]
    fn a_batch_of_more_entries_than_allowed_is_malformed() {
        let body = request_body(&[b"\x01", b"\x02", b"\x03"]);
        assert_eq!(decode_request::<u64>(&body, 3).unwrap().1, [1, 2, 3]);
        assert!(matches!(decode_request::<u64>(&body, 2), Err(FrameError::Malformed { .. })));
    }

    #[test]
    fn hostile_bodies_are_errors() {
        let claims_2_to_the_32 = b"\x82\x01\x9b\x00\x00\x00\x01\x00\x00\x00\x00";
        let entry_longer_than_body = b"\x82\x01\x81\x5b\x00\x00\x00\x01\x00\x00\x00\x00\x01";
        for body in [&b""[..], b"\x82", b"\x82\x01", b"\x82\x01\x81", b"\x83\x01\x80\x80", b"\x82\x01\x81\x07"] {
            assert!(matches!(decode_request::<u64>(body, 256), Err(FrameError::Malformed { .. })), "{body:x?}");
        }
        assert!(matches!(decode_request::<u64>(claims_2_to_the_32, 256), Err(FrameError::Malformed { .. })));
        assert!(matches!(decode_request::<u64>(entry_longer_than_body, 256), Err(FrameError::Malformed { .. })));
        assert!(matches!(decode_request::<u64>(&[0x81; 100_000], 256), Err(FrameError::Malformed { .. })));
        assert!(matches!(decode_request::<u64>(b"\x82\x01\x80\x00", 256), Err(FrameError::Trailing { .. })));
        assert!(matches!(decode_response::<u64>(b"\x82\x00", 256), Err(FrameError::Malformed { .. })));
        assert!(matches!(decode_response::<u64>(b"\x81\x04", 256), Err(FrameError::Malformed { .. })));
        assert!(matches!(decode_response::<u64>(b"\x81\x00\x00", 256), Err(FrameError::Trailing { .. })));
    }

    #[test]
    fn a_frame_beyond_the_limit_is_not_written() {
        let mut frame = Vec::new();
        let refused = block_on(write_request(&mut frame, Duration::ZERO, &[&[0; 100]], 100));
        assert_eq!(refused, Err(FrameError::TooLarge { announced_bytes: 105, limit_bytes: 100 }));
        assert_eq!(frame, []);
    }
}
