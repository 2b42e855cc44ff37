//! What travels together.

use std::time::Duration;

use quorate_behaviours::quorum_rpc::Lane;

use crate::{Ask, LONG, Net};

#[test]
fn a_thousand_sends_at_once_travel_in_four_messages() {
    let mut net = Net::pair(|_| {});
    let ids: Vec<_> = (0..1000).map(|number| net.read(0, 1, &Ask::Echo(format!("number {number}")))).collect();
    net.until(|net| net.endings.len() == 1000);
    for (number, id) in ids.into_iter().enumerate() {
        assert_eq!(net.endings[&(0, id)], Ok(format!("number {number}")));
    }
    let (asker, answerer) = (net.rpc(0).counters(), net.rpc(1).counters());
    assert_eq!((asker.request_messages_sent, asker.response_messages_received), (4, 4));
    assert_eq!((answerer.request_messages_received, answerer.response_messages_sent), (4, 4));
    assert_eq!((asker.entries_sent, answerer.entries_received), (1000, 1000));
    assert!(asker.bytes_sent > 10_000);
    assert_eq!((asker.bytes_sent, asker.bytes_received), (answerer.bytes_received, answerer.bytes_sent));
}

#[test]
fn a_message_ends_at_its_byte_target_and_one_request_always_travels() {
    let mut net = Net::pair(|config| config.batch_bytes_target = 1000);
    for _ in 0..3 {
        net.read(0, 1, &Ask::Echo("x".repeat(600)));
        net.read(0, 1, &Ask::Echo("x".repeat(300)));
    }
    net.read(0, 1, &Ask::Echo("x".repeat(5000)));
    net.until(|net| net.endings.len() == 7);
    assert!(net.endings.values().all(Result::is_ok));
    assert_eq!(net.rpc(0).counters().request_messages_sent, 4);
}

#[test]
fn no_more_messages_are_in_flight_than_configured() {
    let mut net = Net::pair(|config| (config.in_flight_max, config.batch_count_max) = (2, 10));
    for number in 0..40 {
        net.read(0, 1, &Ask::Hold(number / 10));
    }
    for answered in 0..3 {
        net.until(|net| net.executed[1] == 20 + 10 * answered.min(2));
        let expected_messages = 2 + answered.min(2);
        assert_eq!(net.rpc(0).counters().request_messages_sent, expected_messages as u64);
        net.release(answered as u64);
    }
    net.release(3);
    net.until(|net| net.endings.len() == 40);
}

#[test]
fn a_lane_neither_shares_messages_nor_waits_for_the_other() {
    let mut net = Net::pair(|config| config.in_flight_max = 1);
    for _ in 0..5 {
        net.try_send(0, 1, Lane::Write, &Ask::Hold(1), LONG).unwrap();
        net.read(0, 1, &Ask::Echo(String::new()));
    }
    net.until(|net| net.endings.len() == 5);
    assert_eq!(net.rpc(0).counters().request_messages_sent, 2);
    net.until(|net| net.held.len() == 5);
    net.release(1);
    net.until(|net| net.endings.len() == 10);
}

#[test]
fn a_hasty_request_does_not_travel_with_patient_ones() {
    let mut net = Net::pair(|_| {});
    for time in [Duration::from_secs(1), Duration::from_secs(9), Duration::from_secs(8)] {
        net.try_send(0, 1, Lane::Read, &Ask::Echo(String::new()), time).unwrap();
    }
    net.until(|net| net.endings.len() == 3);
    assert_eq!(net.rpc(0).counters().request_messages_sent, 2);
}

#[test]
fn answers_beyond_the_budget_are_fetched_with_further_messages() {
    let mut net = Net::pair(|config| config.answer_bytes_target = 10_000);
    for _ in 0..20 {
        net.read(0, 1, &Ask::Produce(4000));
    }
    net.until(|net| net.endings.len() == 20);
    assert!(net.endings.values().all(|ending| ending.as_ref().is_ok_and(|answer| answer.len() == 4000)));
    let (asker, answerer) = (net.rpc(0).counters(), net.rpc(1).counters());
    assert_eq!(asker.response_messages_received, 10);
    assert!(answerer.bytes_sent / answerer.response_messages_sent <= 10_000);
    assert!(asker.entries_deferred > 0);
    // Each wave asks for as many as were answered before, so little is executed in vain.
    assert!(net.executed[1] < 60, "{} executions for 20 answers", net.executed[1]);
    assert_eq!(asker.entries_sent, 20 + asker.entries_deferred);
}

#[test]
fn answers_that_each_exceed_the_budget_all_arrive() {
    let mut net = Net::pair(|config| config.answer_bytes_target = 10_000);
    for _ in 0..10 {
        net.read(0, 1, &Ask::Produce(30_000));
    }
    net.until(|net| net.endings.len() == 10);
    assert!(net.endings.values().all(|ending| ending.as_ref().is_ok_and(|answer| answer.len() == 30_000)));
    assert_eq!(net.rpc(0).counters().response_messages_received, 10);
}
