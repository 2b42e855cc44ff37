//! What is refused because there is too much of it.

use crate::{Ask, EndReason, Net, OpenRefused, TurnRefused, config};

#[test]
fn a_peer_with_too_many_sessions_says_that_it_is_busy() {
    let mut net = Net::pair(|_| {});
    let accepted = [net.open(0, 1, &Ask::Hold), net.open(0, 1, &Ask::Hold)];
    net.until(|net| net.held.len() == 2);
    let refused = net.open(0, 1, &Ask::Hold);
    assert_eq!(net.end(0, refused), EndReason::Busy);
    let counters = net.counters(1);
    assert_eq!((counters.sessions_accepted, counters.sessions_refused, counters.questions_received), (2, 1, 2));
    assert_eq!(net.counters(0).bytes_received, 4, "a header without a body");

    net.exchange(0).close(accepted[0]);
    net.until(|net| net.inbound_ended.len() == 1);
    net.echo(0, 1, "there is room again");
    assert!(net.misbehaved.is_empty());
}

#[test]
fn a_busy_peer_is_understood_though_the_question_is_long() {
    let mut net = Net::pair(|config| config.inbound_sessions_per_peer_max = 0);
    for _ in 0..5 {
        let refused = net.open(0, 1, &Ask::Echo("x".repeat(4 << 20)));
        assert_eq!(net.end(0, refused), EndReason::Busy);
    }
    assert_eq!((net.counters(1).sessions_refused, net.counters(1).bytes_received), (5, 0));
    assert!(net.misbehaved.is_empty());
}

#[test]
fn the_sessions_of_all_peers_together_are_bounded_too() {
    let hub = config(&|config| config.inbound_sessions_max = 3);
    let mut net = Net::star(vec![config(&|_| {}), config(&|_| {}), hub]);
    for (count, spoke) in [0, 0, 1].into_iter().enumerate() {
        net.open(spoke, 2, &Ask::Hold);
        net.until(|net| net.held.len() == count + 1);
    }
    let refused = net.open(1, 2, &Ask::Hold);
    assert_eq!(net.end(1, refused), EndReason::Busy);
    let hub_id = net.id(2);
    net.swarms[0].disconnect_peer_id(hub_id).unwrap();
    net.until(|net| net.inbound_ended.len() == 2);
    net.echo(1, 2, "a lost connection makes room");
}

#[test]
fn our_own_sessions_are_bounded() {
    let mut net = Net::pair(|config| (config.outbound_sessions_max, config.inbound_sessions_per_peer_max) = (3, 8));
    let sessions = [(); 3].map(|()| net.open(0, 1, &Ask::Hold));
    assert_eq!(net.try_open(0, 1, &Ask::Hold), Err(OpenRefused::TooMany { open_count: 3 }));
    net.until(|net| net.held.len() == 3);
    net.exchange(0).close(sessions[1]);
    net.echo(0, 1, "there is room again");
    assert_eq!(net.counters(0).sessions_opened, 4);
}

#[test]
fn a_message_that_is_too_long_is_not_taken_and_changes_nothing() {
    let mut net = Net::pair(|config| config.message_limit_bytes = 1000);
    let (question, answer) = (Ask::Echo("x".repeat(1000)), "x".repeat(1000));
    let too_large = OpenRefused::TooLarge { actual_bytes: 1009, limit_bytes: 1000 };
    assert_eq!(net.try_open(0, 1, &question), Err(too_large));
    let session = net.open(0, 1, &Ask::Hold);
    let inbound = net.held(1);
    let too_large = TurnRefused::TooLarge { actual_bytes: 1003, limit_bytes: 1000 };
    assert_eq!(net.exchange(1).answer(inbound, &answer), Err(too_large));
    net.exchange(1).answer(inbound, &"short".to_owned()).unwrap();
    assert_eq!(net.answer(0, session), "short");
    let too_large = TurnRefused::TooLarge { actual_bytes: 1009, limit_bytes: 1000 };
    assert_eq!(net.exchange(0).ask(session, &question), Err(too_large));
    net.exchange(0).ask(session, &Ask::Echo("short".to_owned())).unwrap();
    assert_eq!(net.answer(0, session), "short");
    assert_eq!((net.counters(0).questions_sent, net.counters(1).answers_sent), (2, 2));
}
