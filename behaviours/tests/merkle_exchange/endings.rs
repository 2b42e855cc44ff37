//! What becomes of sessions when something ends: a connection, a time, a protocol.

use futures::AsyncWriteExt;
use libp2p::{PeerId, StreamProtocol};

use crate::{Ask, Config, EndReason, Net, OpenRefused, SHORT, TurnRefused, config, raw};

/// Which side of a session.
#[derive(Debug, Clone, Copy)]
enum Side {
    Asker = 0,
    Answerer = 1,
}

/// Loses the connection by the doing of `side`, with one session waiting for an answer and one for a question.
#[track_caller]
fn check_lost_connection(side: Side) {
    let mut net = Net::pair(|_| {});
    let answered = net.open(0, 1, &Ask::Echo("idle".to_owned()));
    assert_eq!(net.answer(0, answered), "idle");
    let waiting = net.open(0, 1, &Ask::Hold);
    let inbound = net.held(1);
    let (at, other) = (side as usize, 1 - side as usize);
    let peer = net.id(other);
    net.swarms[at].disconnect_peer_id(peer).unwrap();
    net.until(|net| net.ended.len() == 2 && net.inbound_ended.len() == 2);
    // Who did it knows; to the other the end of the streams may be told before that of the connection.
    let reasons = [net.ended[&(0, answered)], net.ended[&(0, waiting)], net.inbound_ended[&(1, inbound)]];
    for (reason, known) in reasons.into_iter().zip([at == 0, at == 0, at == 1]) {
        assert!(reason == EndReason::ConnectionLost || !known && reason == EndReason::Closed, "{reason:?}");
    }
    assert_eq!(net.exchange(0).ask(answered, &Ask::Hold), Err(TurnRefused::Unknown));
    assert_eq!(net.exchange(1).answer(inbound, &String::new()), Err(TurnRefused::Unknown));
    let answerer_id = net.id(1);
    net.until(|net| !net.exchange(0).is_connected(&answerer_id));
    assert_eq!(net.try_open(0, 1, &Ask::Hold), Err(OpenRefused::NotConnected));
    // A second ending would show while the next session goes on.
    net.connect(0, 1);
    net.echo(0, 1, "again");
    assert!(net.misbehaved.is_empty());
}

#[test]
fn a_connection_lost_by_the_asker_ends_every_session_on_it_once() {
    check_lost_connection(Side::Asker);
}

#[test]
fn a_connection_lost_by_the_answerer_ends_every_session_on_it_once() {
    check_lost_connection(Side::Answerer);
}

#[test]
fn a_connection_lost_inside_a_message_ends_its_session() {
    let mut net = Net::pair(|_| {});
    let raw = raw::Peer::connect(&mut net, 1);
    let session = net.exchange(1).open(raw.id, &Ask::Hold).unwrap();
    let (half, hold) = (raw::frame(&[0; 1000]), raw::last_frame(b"\x64Hold"));
    let (mut answering, mut asking) = net.run(async { (raw.accept().await, raw.say(&hold).await) });
    let inbound = net.held(1);
    net.exchange(1).answer(inbound, &String::new()).unwrap();
    net.run(async {
        assert_eq!(raw::hear(&mut answering, 9).await, hold);
        answering.write_all(&half).await.unwrap();
        assert_eq!(raw::hear(&mut asking, 5).await, raw::last_frame(b"\x60"));
        asking.write_all(&half).await.unwrap();
        // Both halves have been read when what was said behind them is answered.
        let mut behind = raw.say(&raw::last_frame(b"\xa1\x64Echo\x60")).await;
        assert_eq!(raw::hear(&mut behind, 5).await, raw::last_frame(b"\x60"));
        raw.close().await;
    });
    assert_eq!(net.end(1, session), EndReason::ConnectionLost);
    assert_eq!(net.inbound_end(1, inbound), EndReason::ConnectionLost);
    assert_eq!(net.counters(1).bytes_received, (2 * half.len() + 9 + 11) as u64);
    assert!(net.answers.is_empty() && net.misbehaved.is_empty());
}

#[test]
fn a_lost_connection_leaves_the_sessions_of_the_other_connections_alone() {
    let mut net = Net::star(vec![config(&|_| {}), config(&|_| {}), config(&|_| {})]);
    let (lost, kept) = (net.open(0, 2, &Ask::Hold), net.open(1, 2, &Ask::Hold));
    net.until(|net| net.held.len() == 2);
    let hub = net.id(2);
    net.swarms[0].disconnect_peer_id(hub).unwrap();
    assert_eq!(net.end(0, lost), EndReason::ConnectionLost);
    net.until(|net| net.inbound_ended.len() == 1);
    for (at, inbound) in std::mem::take(&mut net.held) {
        let is_lost = net.inbound_ended.contains_key(&(at, inbound));
        let answered = net.exchange(at).answer(inbound, &"kept".to_owned());
        assert_eq!(answered, if is_lost { Err(TurnRefused::Unknown) } else { Ok(()) });
    }
    assert_eq!(net.answer(1, kept), "kept");
}

#[test]
fn a_session_that_is_closed_before_its_end_is_told_has_no_end() {
    let mut net = Net::pair(|_| {});
    let (first, second) = (net.open(0, 1, &Ask::Hold), net.open(0, 1, &Ask::Hold));
    net.until(|net| net.held.len() == 2);
    let peer = net.id(1);
    net.swarms[0].disconnect_peer_id(peer).unwrap();
    // Both ends are known by now, and one is told.
    net.until(|net| net.ended.contains_key(&(0, first)));
    net.exchange(0).close(second);
    net.connect(0, 1);
    net.echo(0, 1, "again");
    assert_eq!(net.ended.len(), 1);
}

#[test]
fn a_peer_that_is_not_connected_is_not_asked() {
    let mut net = Net::pair(|_| {});
    assert_eq!(net.exchange(0).open(PeerId::random(), &Ask::Hold), Err(OpenRefused::NotConnected));
    assert_eq!(net.counters(0).sessions_opened, 0);
}

#[test]
fn a_peer_without_the_protocol_ends_the_session_as_unsupported() {
    let other = config(&|config| config.protocol = StreamProtocol::new("/test/other/1"));
    let mut net = Net::star(vec![config(&|_| {}), other]);
    let session = net.open(0, 1, &Ask::Hold);
    assert_eq!(net.end(0, session), EndReason::Unsupported);
    assert!(net.misbehaved.is_empty());
}

/// The asker's configuration, then the answerer's.
fn timing(asker: impl Fn(&mut Config), answerer: impl Fn(&mut Config)) -> Net {
    Net::star(vec![config(&asker), config(&answerer)])
}

#[test]
fn an_answer_that_does_not_come_ends_the_session_at_its_time() {
    let mut net = timing(|asker| asker.answer_timeout = SHORT, |_| {});
    let session = net.open(0, 1, &Ask::Hold);
    let inbound = net.held(1);
    assert_eq!(net.end(0, session), EndReason::TimedOut);
    assert_eq!(net.inbound_end(1, inbound), EndReason::Closed);
    assert_eq!(net.exchange(1).answer(inbound, &String::new()), Err(TurnRefused::Unknown));
}

#[test]
fn an_owner_that_does_not_answer_loses_the_session() {
    let mut net = timing(|_| {}, |answerer| answerer.question_timeout = SHORT);
    let session = net.open(0, 1, &Ask::Hold);
    let inbound = net.held(1);
    assert_eq!(net.inbound_end(1, inbound), EndReason::TimedOut);
    assert_eq!(net.end(0, session), EndReason::Closed);
}

#[test]
fn an_asker_that_falls_silent_loses_the_session() {
    let mut net = timing(|_| {}, |answerer| answerer.question_timeout = SHORT);
    let session = net.open(0, 1, &Ask::Echo("once".to_owned()));
    assert_eq!(net.answer(0, session), "once");
    assert_eq!(net.end(0, session), EndReason::Closed);
    net.until(|net| net.inbound_ended.values().eq([&EndReason::TimedOut]));
}

#[test]
fn an_owner_that_neither_asks_nor_closes_loses_the_session() {
    let mut net = timing(|asker| asker.question_timeout = SHORT, |_| {});
    let session = net.open(0, 1, &Ask::Echo("once".to_owned()));
    assert_eq!(net.answer(0, session), "once");
    assert_eq!(net.end(0, session), EndReason::TimedOut);
    net.until(|net| net.inbound_ended.values().eq([&EndReason::Closed]));
}

#[test]
fn a_session_keeps_its_connection_alive_and_no_longer() {
    let idle_timeout = SHORT * 2;
    let patient = config(&|config| config.question_timeout = idle_timeout * 3);
    let mut net = Net::star_with(vec![patient.clone(), patient], idle_timeout);
    let session = net.open(0, 1, &Ask::Hold);
    let inbound = net.held(1);
    assert_eq!(net.inbound_end(1, inbound), EndReason::TimedOut);
    assert_eq!(net.end(0, session), EndReason::Closed);
    let (asker_id, answerer_id) = (net.id(0), net.id(1));
    net.until(|net| !net.exchange(0).is_connected(&answerer_id) && !net.exchange(1).is_connected(&asker_id));
}

#[test]
fn a_turn_that_is_taken_in_time_starts_the_time_anew() {
    let mut net = Net::pair(|config| (config.answer_timeout, config.question_timeout) = (SHORT * 3, SHORT * 3));
    let begun = std::time::Instant::now();
    let session = net.open(0, 1, &Ask::Echo(String::new()));
    while begun.elapsed() < SHORT * 5 {
        net.answer(0, session);
        net.exchange(0).ask(session, &Ask::Echo(String::new())).unwrap();
    }
    net.answer(0, session);
    assert!(net.ended.is_empty() && net.inbound_ended.is_empty());
}
