//! What is refused, and how.

use quorate_behaviours::quorum_rpc::{RespondError, SendFailure, SendRefused};

use crate::{Ask, LONG, Lane, Net, config};

#[test]
fn a_full_queue_refuses_by_count_and_takes_again_later() {
    let mut net = Net::pair(|config| config.queue_count_max = 10);
    for lane in [Lane::Read, Lane::Write].into_iter().cycle().take(10) {
        net.try_send(0, 1, lane, &Ask::Echo(String::new()), LONG).unwrap();
    }
    let refused = net.try_send(0, 1, Lane::Read, &Ask::Echo(String::new()), LONG);
    assert!(matches!(refused, Err(SendRefused::Overloaded { queued_count: 10, .. })), "{refused:?}");
    assert_eq!(net.rpc(0).counters().sends_refused, 1);
    net.until(|net| net.endings.len() == 10);
    net.read(0, 1, &Ask::Echo(String::new()));
    net.until(|net| net.endings.len() == 11);
}

#[test]
fn a_full_queue_refuses_by_bytes_but_never_its_first_request() {
    let mut net = Net::pair(|config| config.queue_bytes_max = 1000);
    net.read(0, 1, &Ask::Echo("x".repeat(5000)));
    let refused = net.try_send(0, 1, Lane::Write, &Ask::Echo(String::new()), LONG);
    assert!(matches!(refused, Err(SendRefused::Overloaded { queued_count: 1, .. })), "{refused:?}");
    net.until(|net| net.endings.len() == 1);
    net.read(0, 1, &Ask::Echo("x".repeat(400)));
    net.read(0, 1, &Ask::Echo("x".repeat(400)));
    net.until(|net| net.endings.len() == 3);
}

#[test]
fn a_request_that_no_frame_can_carry_is_too_large() {
    let mut net = Net::pair(|config| config.frame_limit_bytes = 10_000);
    let limit = config(&|config| config.frame_limit_bytes = 10_000).payload_limit_bytes();
    let refused = net.try_send(0, 1, Lane::Write, &Ask::Echo("x".repeat(10_000)), LONG);
    assert_eq!(refused, Err(SendRefused::TooLarge { actual_bytes: 10_009, limit_bytes: limit }));
    let longest = Ask::Echo("x".repeat(limit - 9));
    let id = net.read(0, 1, &longest);
    assert!(net.ending(0, id).is_ok());
}

#[test]
fn an_answer_that_no_frame_can_carry_is_an_error_on_both_ends() {
    let mut net = Net::pair(|config| config.frame_limit_bytes = 10_000);
    let (large, small) = (net.read(0, 1, &Ask::Hold(1)), net.read(0, 1, &Ask::Echo("small".to_owned())));
    net.until(|net| net.held.len() == 1);
    let inbound = net.held[0].inbound;
    let refused = net.rpc(1).respond(inbound, "x".repeat(10_000));
    assert!(matches!(refused, Err(RespondError::TooLarge { actual_bytes: 10_003, .. })), "{refused:?}");
    assert_eq!(net.ending(0, large), Err(SendFailure::AnswerTooLarge));
    assert!(SendFailure::AnswerTooLarge.may_have_arrived());
    assert_eq!(net.ending(0, small), Ok("small".to_owned()));
    assert_eq!(net.rpc(1).respond(inbound, String::new()), Err(RespondError::Gone));
}

#[test]
fn requests_beyond_the_inbound_bound_of_a_peer_are_overloaded_at_once() {
    let mut net = Net::star(vec![config(&|_| {}), config(&|_| {}), config(&|config| config.inbound_count_max = 5)]);
    for _ in 0..5 {
        net.read(0, 2, &Ask::Hold(1));
    }
    net.until(|net| net.held.len() == 5);
    for _ in 0..3 {
        let id = net.read(0, 2, &Ask::Echo(String::new()));
        assert_eq!(net.ending(0, id), Err(SendFailure::Overloaded));
    }
    assert!(!SendFailure::Overloaded.may_have_arrived());
    assert_eq!((net.rpc(2).waiting_count(), net.rpc(2).counters().entries_refused), (5, 3));
    let other = net.read(1, 2, &Ask::Echo("other".to_owned()));
    assert_eq!(net.ending(1, other), Ok("other".to_owned()));
    net.release(1);
    net.until(|net| net.endings.len() == 9);
    assert_eq!(net.rpc(2).waiting_count(), 0);
    let again = net.read(0, 2, &Ask::Echo("again".to_owned()));
    assert_eq!(net.ending(0, again), Ok("again".to_owned()));
}

#[test]
fn a_batch_that_fits_in_part_is_executed_in_part() {
    let mut net = Net::pair(|config| config.inbound_count_max = 5);
    let ids: Vec<_> = (0..8).map(|_| net.read(0, 1, &Ask::Echo(String::new()))).collect();
    net.until(|net| net.endings.len() == 8);
    for (index, id) in ids.into_iter().enumerate() {
        let expected = if index < 5 { Ok(String::new()) } else { Err(SendFailure::Overloaded) };
        assert_eq!(net.endings[&(0, id)], expected);
    }
    assert_eq!(net.executed[1], 5);
}

#[test]
fn requests_beyond_the_inbound_bound_of_all_peers_are_overloaded() {
    let hub = config(&|config| config.inbound_count_total_max = 5);
    let mut net = Net::star(vec![config(&|_| {}), config(&|_| {}), hub]);
    for _ in 0..5 {
        net.read(0, 2, &Ask::Hold(1));
    }
    net.until(|net| net.held.len() == 5);
    let refused = net.read(1, 2, &Ask::Echo(String::new()));
    assert_eq!(net.ending(1, refused), Err(SendFailure::Overloaded));
    net.release(1);
    net.until(|net| net.endings.len() == 6);
    let taken = net.read(1, 2, &Ask::Echo(String::new()));
    assert_eq!(net.ending(1, taken), Ok(String::new()));
}

#[test]
fn messages_beyond_the_streams_of_all_peers_are_refused_unread() {
    let hub = config(&|config| config.inbound_streams_total_max = 1);
    let mut net = Net::star(vec![config(&|_| {}), config(&|_| {}), hub]);
    net.read(0, 2, &Ask::Hold(1));
    net.until(|net| net.held.len() == 1);
    let refused = net.read(1, 2, &Ask::Echo(String::new()));
    assert_eq!(net.ending(1, refused), Err(SendFailure::Overloaded));
    assert_eq!((net.executed[2], net.rpc(2).counters().entries_refused), (1, 1));
    net.release(1);
    net.until(|net| net.endings.len() == 2);
    let taken = net.read(1, 2, &Ask::Echo(String::new()));
    assert_eq!(net.ending(1, taken), Ok(String::new()));
}

#[test]
fn messages_beyond_the_bytes_of_all_peers_are_refused_unread() {
    let hub = config(&|config| config.inbound_bytes_total_max = 1000);
    let mut net = Net::star(vec![config(&|_| {}), config(&|_| {}), hub]);
    net.read(0, 2, &Ask::Hold(1));
    net.until(|net| net.held.len() == 1);
    let refused = net.read(1, 2, &Ask::Echo("x".repeat(990)));
    assert_eq!(net.ending(1, refused), Err(SendFailure::Overloaded));
    let taken = net.read(1, 2, &Ask::Echo("x".repeat(900)));
    assert!(net.ending(1, taken).is_ok());
}
