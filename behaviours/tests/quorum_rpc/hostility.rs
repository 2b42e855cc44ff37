//! A peer that speaks the protocol's name and nothing else of it.

use std::time::Duration;

use quorate_behaviours::framing::FrameError;
use quorate_behaviours::quorum_rpc::{Misbehaviour, SendFailure};

use crate::raw::{self, Bytes};
use crate::{Ask, Net, config};

/// A frame with an honest header.
fn frame(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

/// A CBOR byte string.
fn entry(payload: &[u8]) -> Vec<u8> {
    [b"\x5a", &u32::try_from(payload.len()).unwrap().to_be_bytes()[..], payload].concat()
}

/// The frame of a batch of one request, to be answered within a second.
fn request(payload: &[u8]) -> Vec<u8> {
    frame(&[b"\x82\x19\x03\xe8\x81", &entry(payload)[..]].concat())
}

/// The frame of a response with one answer.
fn response(payload: &[u8]) -> Vec<u8> {
    frame(&[b"\x81", &entry(payload)[..]].concat())
}

/// Asks to echo "hi".
const ECHO: &[u8] = b"\xa1\x64Echo\x62hi";

/// An array that claims 2^32 items.
const VAST_ARRAY: &[u8] = b"\x9b\x00\x00\x00\x01\x00\x00\x00\x00";

fn deep_nesting() -> Vec<u8> {
    b"\xa1\x66Nested\x81".repeat(100_000)
}

fn is_malformed(error: &FrameError) -> bool {
    matches!(error, FrameError::Malformed { .. })
}

type Expectation = fn(&FrameError) -> bool;

fn hostile_requests() -> Vec<(&'static str, Vec<u8>, Expectation)> {
    let vast_requests = [b"\xa1\x66Nested", VAST_ARRAY].concat();
    vec![
        ("an oversized header", vec![0xff; 4], |error| matches!(error, FrameError::TooLarge { .. })),
        ("half a header", vec![0, 0], |error| matches!(error, FrameError::Truncated { .. })),
        ("half a body", request(ECHO)[..10].to_vec(), |error| matches!(error, FrameError::Truncated { .. })),
        ("truncated CBOR", request(&ECHO[..7]), is_malformed),
        ("a batch of 2^32", frame(&[b"\x82\x01", VAST_ARRAY].concat()), is_malformed),
        ("a request of 2^32", request(&vast_requests), is_malformed),
        ("deep nesting in a request", request(&deep_nesting()), is_malformed),
        ("deep nesting outside", frame(&vec![0x81; 100_000]), is_malformed),
        ("an empty frame", frame(b""), is_malformed),
        ("nothing at all", Vec::new(), |error| *error == FrameError::Ended),
        ("bytes after the batch", frame(b"\x82\x01\x80\x00"), |error| matches!(error, FrameError::Trailing { .. })),
    ]
}

#[test]
fn a_hostile_request_ends_its_stream_and_hurts_nobody_else() {
    let mut net = Net::star(vec![config(&|_| {}), config(&|_| {})]);
    let hub_id = net.id(1);
    let raw_id = raw::add(&mut net, 1);
    let held = net.read(0, 1, &Ask::Hold(1));
    for (count, (name, bytes, is_expected)) in hostile_requests().into_iter().enumerate() {
        net.raw.as_mut().unwrap().send(&hub_id, Bytes::Closed(bytes));
        net.until(|net| net.misbehaved.len() == count + 1 && net.raw.as_ref().unwrap().received.len() == count + 1);
        let (at, peer, error) = &net.misbehaved[count];
        assert_eq!((*at, *peer), (1, raw_id), "{name}");
        assert!(matches!(error, Misbehaviour::Request(error) if is_expected(error)), "{name}: {error:?}");
        assert_eq!(net.raw.as_ref().unwrap().received[count], b"", "{name}");
        assert_eq!(net.rpc(1).counters().malformed, count as u64 + 1, "{name}");
        let honest = net.read(0, 1, &Ask::Echo(name.to_owned()));
        assert_eq!(net.ending(0, honest), Ok(name.to_owned()));
    }
    net.raw.as_mut().unwrap().send(&hub_id, Bytes::Closed(request(ECHO)));
    net.until(|net| net.raw.as_ref().unwrap().received.last().is_some_and(|received| !received.is_empty()));
    let received = net.raw.as_ref().unwrap().received.last().unwrap();
    assert_eq!(*received, frame(b"\x81\x43\x62hi"), "the connection is still good");
    assert_eq!(net.raw.as_ref().unwrap().disconnections, 0);
    net.release(1);
    assert_eq!(net.ending(0, held), Ok("released 1".to_owned()));
}

#[test]
fn a_hostile_response_fails_its_requests_and_hurts_nobody_else() {
    let mut net = Net::star(vec![config(&|_| {}), config(&|_| {})]);
    let raw_id = raw::add(&mut net, 1);
    let hostile_responses: Vec<(&str, Vec<u8>, Expectation)> = vec![
        ("an oversized header", vec![0xff; 4], |error| matches!(error, FrameError::TooLarge { .. })),
        ("half a body", response(b"\x62hi")[..7].to_vec(), |error| matches!(error, FrameError::Truncated { .. })),
        ("truncated CBOR", response(b"\x62h"), is_malformed),
        ("a batch of 2^32", frame(VAST_ARRAY), is_malformed),
        ("an answer of 2^32", response(b"\x7b\x00\x00\x00\x01\x00\x00\x00\x00hi"), is_malformed),
        ("deep nesting", response(&[0x81; 100_000]), is_malformed),
        ("an unknown code", frame(b"\x81\x04"), is_malformed),
    ];
    for (count, (name, bytes, is_expected)) in hostile_responses.into_iter().enumerate() {
        let failure = ask_raw(&mut net, raw_id, bytes);
        assert!(matches!(&failure, Err(SendFailure::Malformed(error)) if is_expected(error)), "{name}: {failure:?}");
        net.until(|net| net.misbehaved.len() == count + 1);
        let (at, peer, error) = &net.misbehaved[count];
        assert_eq!((*at, *peer), (1, raw_id), "{name}");
        assert!(matches!(error, Misbehaviour::Response(error) if is_expected(error)), "{name}: {error:?}");
        let honest = net.read(0, 1, &Ask::Echo(name.to_owned()));
        assert_eq!(net.ending(0, honest), Ok(name.to_owned()));
    }
    assert_eq!(ask_raw(&mut net, raw_id, Vec::new()), Err(SendFailure::StreamEnded));
    assert_eq!(net.rpc(1).counters().malformed, 7, "an end without a frame is no wrong frame");
    let two_answers = frame(b"\x82\x00\x00");
    assert_eq!(ask_raw(&mut net, raw_id, two_answers), Err(SendFailure::WrongCount { expected: 1, actual: 2 }));
    net.until(|net| net.misbehaved.len() == 8);
    assert_eq!(net.misbehaved[7].2, Misbehaviour::WrongCount { expected: 1, actual: 2 });
    assert_eq!(ask_raw(&mut net, raw_id, frame(b"\x81\x00")), Err(SendFailure::AnswerLost));
    net.until(|net| net.misbehaved.len() == 9);
    assert_eq!(net.misbehaved[8].2, Misbehaviour::NoProgress);
    assert_eq!(ask_raw(&mut net, raw_id, response(b"\x62hi")), Ok("hi".to_owned()));
    assert_eq!(net.raw.as_ref().unwrap().disconnections, 0);
}

/// Asks the raw peer, who answers with `bytes`.
fn ask_raw(net: &mut Net, raw_id: libp2p::PeerId, bytes: Vec<u8>) -> crate::Ending {
    net.raw.as_mut().unwrap().answers.push_back(bytes);
    let encoded = net.rpc(1).encode(&Ask::Hold(0)).unwrap();
    let deadline = std::time::Instant::now() + crate::LONG;
    let id = net.rpc(1).send(raw_id, crate::Lane::Read, encoded, deadline).unwrap();
    net.ending(1, id)
}

#[test]
fn a_frame_that_never_arrives_gives_its_room_back() {
    let hub = config(&|config| {
        config.frame_timeout = Duration::from_millis(200);
        config.inbound_streams_total_max = 1;
    });
    let mut net = Net::star(vec![config(&|_| {}), hub]);
    let hub_id = net.id(1);
    raw::add(&mut net, 1);
    net.raw.as_mut().unwrap().send(&hub_id, Bytes::Open(vec![0, 0, 0, 100, 1]));
    net.until(|net| net.misbehaved.len() == 1);
    assert_eq!(net.misbehaved[0].2, Misbehaviour::Request(FrameError::TimedOut));
    let honest = net.read(0, 1, &Ask::Echo("honest".to_owned()));
    assert_eq!(net.ending(0, honest), Ok("honest".to_owned()));
}

#[test]
fn a_peer_that_opens_streams_beyond_its_bound_gets_nothing_for_the_excess() {
    let hub = config(&|config| config.inbound_streams_max = 3);
    let mut net = Net::star(vec![config(&|_| {}), hub]);
    let hub_id = net.id(1);
    raw::add(&mut net, 1);
    for _ in 0..20 {
        net.raw.as_mut().unwrap().send(&hub_id, Bytes::Closed(request(b"\xa1\x64Hold\x01")));
    }
    net.until(|net| net.held.len() == 3 && net.raw.as_ref().unwrap().received.len() == 17);
    // Refused, or dropped where there were too many to refuse.
    assert!(net.raw.as_ref().unwrap().received.iter().all(|answer| answer.is_empty() || *answer == frame(b"\x01")));
    let honest = net.read(0, 1, &Ask::Echo("honest".to_owned()));
    assert_eq!(net.ending(0, honest), Ok("honest".to_owned()));
    assert_eq!(net.executed[1], 4);
}

#[test]
fn a_peer_that_stalls_in_long_frames_takes_no_room_from_others() {
    let hub = config(&|config| (config.inbound_bytes_max, config.inbound_bytes_total_max) = (10_000, 15_000));
    let mut net = Net::star(vec![config(&|_| {}), hub]);
    let hub_id = net.id(1);
    raw::add(&mut net, 1);
    let stalled = [&9000_u32.to_be_bytes()[..], &[0; 8000]].concat();
    net.raw.as_mut().unwrap().send(&hub_id, Bytes::Open(stalled));
    for count in 1..4 {
        net.raw.as_mut().unwrap().send(&hub_id, Bytes::Closed(request(&[0; 5000])));
        net.until(|net| net.raw.as_ref().unwrap().received.len() == count);
        assert_eq!(net.raw.as_ref().unwrap().received[count - 1], frame(b"\x01"), "refused unread");
    }
    let honest = net.read(0, 1, &Ask::Echo("x".repeat(5000)));
    assert!(net.ending(0, honest).is_ok());
}
