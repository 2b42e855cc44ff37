//! A peer that speaks the protocol's name and then breaks its rules.

use futures::AsyncWriteExt;
use libp2p::core::muxing::SubstreamBox;
use quorate_behaviours::{framing::FrameError, merkle_exchange::InboundSessionId};

use crate::raw::{self, frame, hear, hear_all, last_frame};
use crate::{Ask, EndReason, Misbehaviour, Net, SHORT, config};

/// Asks to echo "hi".
const ECHO: &[u8] = b"\xa1\x64Echo\x62hi";

/// Is not answered.
const HOLD: &[u8] = b"\x64Hold";

/// The answer "hi".
const HI: &[u8] = b"\x62hi";

/// Two honest swarms, the last of which has a raw peer too, and small limits: 100 bytes in a frame, 1000 in a message.
fn net_with_raw_peer() -> (Net, raw::Peer) {
    let small = |config: &mut crate::Config| (config.frame_limit_bytes, config.message_limit_bytes) = (100, 1000);
    let mut net = Net::star(vec![config(&small), config(&small)]);
    let raw = raw::Peer::connect(&mut net, 1);
    (net, raw)
}

type Expectation = fn(&Misbehaviour) -> bool;

/// Messages that are wrong in themselves, whoever sends them.
fn hostile_messages() -> Vec<(&'static str, Vec<u8>, Expectation)> {
    let too_large: Expectation = |error| matches!(error, Misbehaviour::Message(FrameError::TooLarge { .. }));
    let malformed: Expectation = |error| matches!(error, Misbehaviour::Message(FrameError::Malformed { .. }));
    let trailing: Expectation = |error| matches!(error, Misbehaviour::Message(FrameError::Trailing { .. }));
    let empty: Expectation = |error| *error == Misbehaviour::EmptyFrame;
    vec![
        ("a frame beyond the limit", last_frame(&[0; 101]), too_large),
        ("the longest header", vec![0xff; 4], too_large),
        ("a message beyond the limit in small frames", frame(b"x").repeat(1001), too_large),
        ("a message beyond the limit in long frames", frame(&[0x81; 100]).repeat(11), too_large),
        ("endless empty frames", frame(b"").repeat(10_000), empty),
        ("an empty frame at the end", [frame(ECHO), last_frame(b"")].concat(), empty),
        ("no message of ours", last_frame(b"\x18\x2a"), malformed),
        ("truncated CBOR", last_frame(&ECHO[..7]), malformed),
        ("an array of 2^32", last_frame(b"\x9b\x00\x00\x00\x01\x00\x00\x00\x00"), malformed),
        ("deep nesting", [frame(&[0x81; 100]).repeat(9), last_frame(&[0x81; 100])].concat(), malformed),
        ("bytes after the question", last_frame(&[HOLD, b"\x00"].concat()), trailing),
        ("bytes after the answer", last_frame(&[HI, b"\x00"].concat()), |error| {
            matches!(error, Misbehaviour::Message(FrameError::Trailing { .. } | FrameError::Malformed { .. }))
        }),
    ]
}

#[test]
fn a_hostile_question_ends_its_session_and_hurts_nobody_else() {
    let (mut net, raw) = net_with_raw_peer();
    let honest = net.open(0, 1, &Ask::Hold);
    let inbound = net.held(1);
    let empty: Expectation = |error| *error == Misbehaviour::EmptyFrame;
    let busy_asker = ("busy, from who asks", last_frame(b""), empty);
    for (count, (name, bytes, is_expected)) in hostile_messages().into_iter().chain([busy_asker]).enumerate() {
        net.run(async {
            let mut stream = raw.open().await;
            // The session may have ended before all is said.
            drop(stream.write_all(&bytes).await);
            drop(stream.flush().await);
            assert_eq!(hear_all(&mut stream).await, b"", "{name}");
        });
        net.until(|net| net.misbehaved.len() == count + 1);
        let (at, peer, error) = &net.misbehaved[count];
        assert_eq!((*at, *peer), (1, raw.id), "{name}");
        assert!(is_expected(error), "{name}: {error:?}");
        assert_eq!(net.counters(1).malformed, count as u64 + 1, "{name}");
        net.echo(0, 1, name);
    }
    net.run(async {
        let mut stream = raw.say(&last_frame(ECHO)).await;
        assert_eq!(hear(&mut stream, 7).await, last_frame(HI), "the connection is still good");
    });
    net.exchange(1).answer(inbound, &"honest".to_owned()).unwrap();
    assert_eq!(net.answer(0, honest), "honest");
    assert!(net.ended.is_empty());
}

#[test]
fn a_hostile_answer_ends_its_session_and_hurts_nobody_else() {
    let (mut net, raw) = net_with_raw_peer();
    for (count, (name, bytes, is_expected)) in hostile_messages().into_iter().enumerate() {
        let session = net.exchange(1).open(raw.id, &Ask::Hold).unwrap();
        net.run(async {
            let mut stream = raw.accept().await;
            assert_eq!(hear(&mut stream, 9).await, last_frame(HOLD));
            drop(stream.write_all(&bytes).await);
            drop(stream.flush().await);
            hear_all(&mut stream).await;
        });
        assert_eq!(net.end(1, session), EndReason::Malformed, "{name}");
        net.until(|net| net.misbehaved.len() == count + 1);
        let (at, peer, error) = &net.misbehaved[count];
        assert_eq!((*at, *peer), (1, raw.id), "{name}");
        assert!(is_expected(error), "{name}: {error:?}");
        net.echo(0, 1, name);
    }
    assert_eq!(net.counters(1).malformed, hostile_messages().len() as u64);
}

#[test]
fn a_second_question_before_the_answer_is_out_of_turn() {
    let (mut net, raw) = net_with_raw_peer();
    let stream = net.run(raw.say(&last_frame(HOLD)));
    let inbound = net.held(1);
    drop(stream);
    assert_eq!(net.inbound_end(1, inbound), EndReason::Closed, "a single question is in turn");

    let mut stream = net.run(raw.say(&last_frame(HOLD).repeat(2)));
    let inbound = net.held(1);
    assert_eq!(net.inbound_end(1, inbound), EndReason::Malformed);
    net.until(|net| net.misbehaved == [(1, raw.id, Misbehaviour::OutOfTurn)]);
    assert_eq!(net.run(hear_all(&mut stream)), b"");
    assert_eq!((net.asked[1], net.counters(1).malformed), (2, 1));
}

/// A session of a raw peer that has begun to hear an answer longer than the stream takes unheard.
fn inside_our_answer() -> (Net, raw::Peer, InboundSessionId, SubstreamBox) {
    let mut net = Net::pair(|_| {});
    let raw = raw::Peer::connect(&mut net, 1);
    let mut stream = net.run(raw.say(&last_frame(HOLD)));
    let inbound = net.held(1);
    net.exchange(1).answer(inbound, &"x".repeat(4 << 20)).unwrap();
    assert_eq!(net.run(hear(&mut stream, 4)), [0x80, 4, 0, 0], "more than one frame of 256 KiB");
    (net, raw, inbound, stream)
}

#[test]
fn a_question_inside_our_answer_is_out_of_turn() {
    let (mut net, raw, inbound, mut stream) = inside_our_answer();
    net.run(async {
        stream.write_all(&last_frame(HOLD)).await.unwrap();
        stream.flush().await.unwrap();
    });
    assert_eq!(net.inbound_end(1, inbound), EndReason::Malformed);
    net.until(|net| net.misbehaved == [(1, raw.id, Misbehaviour::OutOfTurn)]);
    assert_eq!(net.asked[1], 1);
}

#[test]
fn an_asker_that_goes_inside_our_answer_is_noticed_at_once() {
    let (mut net, _raw, inbound, mut stream) = inside_our_answer();
    net.run(stream.close()).unwrap();
    assert_eq!(net.inbound_end(1, inbound), EndReason::Closed);
    assert!(net.misbehaved.is_empty());
}

#[test]
fn an_answer_that_nobody_asked_for_is_out_of_turn() {
    let (mut net, raw) = net_with_raw_peer();
    let session = net.exchange(1).open(raw.id, &Ask::Hold).unwrap();
    net.run(async {
        let mut stream = raw.accept().await;
        hear(&mut stream, 9).await;
        stream.write_all(&last_frame(HI).repeat(2)).await.unwrap();
        stream.flush().await.unwrap();
        hear_all(&mut stream).await;
    });
    assert_eq!(net.answer(1, session), "hi");
    assert_eq!(net.end(1, session), EndReason::Malformed);
    net.until(|net| net.misbehaved == [(1, raw.id, Misbehaviour::OutOfTurn)]);
}

#[test]
fn busy_in_place_of_the_second_answer_is_an_empty_frame() {
    let (mut net, raw) = net_with_raw_peer();
    let session = net.exchange(1).open(raw.id, &Ask::Hold).unwrap();
    let mut stream = net.run(async {
        let mut stream = raw.accept().await;
        hear(&mut stream, 9).await;
        stream.write_all(&last_frame(HI)).await.unwrap();
        stream.flush().await.unwrap();
        stream
    });
    assert_eq!(net.answer(1, session), "hi");
    net.exchange(1).ask(session, &Ask::Hold).unwrap();
    net.run(async {
        hear(&mut stream, 9).await;
        stream.write_all(&last_frame(b"")).await.unwrap();
        stream.flush().await.unwrap();
    });
    assert_eq!(net.end(1, session), EndReason::Malformed);
    net.until(|net| net.misbehaved == [(1, raw.id, Misbehaviour::EmptyFrame)]);
}

#[test]
fn a_message_in_the_smallest_frames_is_understood() {
    let (mut net, raw) = net_with_raw_peer();
    let (last, others) = ECHO.split_last().unwrap();
    let mut bytes: Vec<u8> = others.iter().flat_map(|byte| frame(&[*byte])).collect();
    bytes.extend(last_frame(&[*last]));
    let mut stream = net.run(raw.say(&bytes));
    assert_eq!(net.run(hear(&mut stream, 7)), last_frame(HI));
    assert_eq!(net.counters(1).bytes_received, 5 * ECHO.len() as u64);
}

#[test]
fn a_stream_that_ends_inside_a_question_convicts_nobody() {
    let (mut net, raw) = net_with_raw_peer();
    for bytes in [&b""[..], b"\x00\x00", &last_frame(ECHO)[..9], &frame(ECHO)] {
        net.run(async {
            let mut stream = raw.say(bytes).await;
            stream.close().await.unwrap();
            assert_eq!(hear_all(&mut stream).await, b"");
        });
    }
    // The streams had room one after the other, so they have ended.
    assert_eq!((net.counters(1).sessions_accepted, net.counters(1).sessions_refused), (4, 0));
    assert!(net.misbehaved.is_empty() && net.inbound_ended.is_empty());
}

#[test]
fn a_stream_that_falls_silent_gives_its_room_back() {
    let impatient = config(&|config| (config.question_timeout, config.inbound_sessions_max) = (SHORT, 1));
    let mut net = Net::star(vec![config(&|_| {}), impatient]);
    let raw = raw::Peer::connect(&mut net, 1);
    for bytes in [&b""[..], &last_frame(ECHO)[..9], &frame(ECHO)] {
        let mut stream = net.run(raw.say(bytes));
        assert_eq!(net.run(hear_all(&mut stream)), b"");
    }
    net.echo(0, 1, "there is room");
    assert!(net.misbehaved.is_empty() && net.inbound_ended.is_empty());
}

#[test]
fn a_peer_that_opens_streams_without_end_gets_no_more_than_its_share() {
    let (mut net, raw) = net_with_raw_peer();
    let streams = net.run(async {
        let mut streams = Vec::new();
        for _ in 0..100 {
            streams.push(raw.say(&last_frame(HOLD)).await);
        }
        streams
    });
    net.until(|net| net.held.len() == 2);
    for mut stream in streams.into_iter().skip(2) {
        let heard = net.run(hear_all(&mut stream));
        // Told so, or dropped where there were too many to tell.
        assert!(heard.is_empty() || heard == last_frame(b""), "{heard:?}");
    }
    assert_eq!((net.counters(1).sessions_accepted, net.counters(1).sessions_refused), (2, 98));
    net.echo(0, 1, "honest");
    assert_eq!(net.asked[1], 3);
}

#[test]
fn busy_is_four_zero_bytes() {
    let mut net = Net::pair(|config| config.inbound_sessions_max = 0);
    let raw = raw::Peer::connect(&mut net, 1);
    let mut stream = net.run(raw.say(&last_frame(ECHO)));
    assert_eq!(net.run(hear_all(&mut stream)), [0; 4]);
}
