//! What becomes of requests when something ends: a deadline, a connection, a protocol.

use std::time::Duration;

use libp2p::StreamProtocol;
use quorate_behaviours::quorum_rpc::{Dialling, RespondError, SendFailure};

use crate::{Ask, LONG, Lane, Net, config};

/// Long enough to reach the peer, short enough to wait for.
const SHORT: Duration = Duration::from_millis(300);

#[test]
fn a_request_to_a_peer_without_a_connection_fails_unsent_at_once() {
    let mut net = Net::apart(vec![config(&|_| {}), config(&|_| {})]);
    let id = net.read(0, 1, &Ask::Echo(String::new()));
    assert_eq!(net.ending(0, id), Err(SendFailure::NotConnected));
    assert!(!SendFailure::NotConnected.may_have_arrived());
    assert_eq!(net.rpc(0).counters().request_messages_sent, 0);
}

#[test]
fn a_request_dials_when_told_to() {
    let mut net = Net::apart(vec![config(&|config| config.dialling = Dialling::WhenNeeded), config(&|_| {})]);
    let (address, peer) = (net.listen(1), net.id(1));
    net.swarms[0].add_peer_address(peer, address);
    let ids = [net.read(0, 1, &Ask::Echo(String::new())), net.read(0, 1, &Ask::Echo(String::new()))];
    for id in ids {
        assert_eq!(net.ending(0, id), Ok(String::new()));
    }
    assert_eq!(net.rpc(0).counters().request_messages_sent, 1);
}

#[test]
fn a_request_that_cannot_dial_fails_unsent() {
    let mut net = Net::apart(vec![config(&|config| config.dialling = Dialling::WhenNeeded), config(&|_| {})]);
    let id = net.read(0, 1, &Ask::Echo(String::new()));
    assert_eq!(net.ending(0, id), Err(SendFailure::DialFailed));
    assert!(!SendFailure::DialFailed.may_have_arrived());
}

#[test]
fn a_request_whose_deadline_passes_in_the_queue_fails_unsent() {
    let mut net = Net::pair(|config| config.in_flight_max = 1);
    net.read(0, 1, &Ask::Hold(1));
    net.until(|net| net.held.len() == 1);
    let late = net.try_send(0, 1, Lane::Read, &Ask::Echo(String::new()), SHORT).unwrap();
    let patient = net.read(0, 1, &Ask::Echo("patient".to_owned()));
    assert_eq!(net.ending(0, late), Err(SendFailure::Expired));
    assert!(!SendFailure::Expired.may_have_arrived());
    assert_eq!(net.executed[1], 1);
    net.release(1);
    assert_eq!(net.ending(0, patient), Ok("patient".to_owned()));
    assert_eq!((net.executed[1], net.rpc(0).counters().entries_sent), (2, 2));
}

#[test]
fn at_the_deadline_of_a_batch_the_answers_given_travel_without_the_missing_ones() {
    let mut net = Net::pair(|_| {});
    let missing = net.try_send(0, 1, Lane::Read, &Ask::Hold(1), SHORT).unwrap();
    let given = net.try_send(0, 1, Lane::Read, &Ask::Echo("given".to_owned()), SHORT).unwrap();
    assert_eq!(net.ending(0, given), Ok("given".to_owned()));
    assert_eq!(net.ending(0, missing), Err(SendFailure::Unanswered));
    assert!(SendFailure::Unanswered.may_have_arrived());
    assert_eq!(net.rpc(1).waiting_count(), 0);
    let inbound = net.held[0].inbound;
    assert_eq!(net.rpc(1).respond(inbound, String::new()), Err(RespondError::Gone));
}

#[test]
fn a_deadline_beyond_the_request_timeout_is_cut_to_it() {
    let mut net = Net::star(vec![config(&|config| config.request_timeout = SHORT), config(&|_| {})]);
    let id = net.try_send(0, 1, Lane::Read, &Ask::Hold(1), LONG).unwrap();
    assert_eq!(net.ending(0, id), Err(SendFailure::Unanswered));
}

#[test]
fn a_disconnection_fails_what_was_sent_and_what_was_queued() {
    let mut net = Net::pair(|config| config.in_flight_max = 1);
    let sent = net.read(0, 1, &Ask::Hold(1));
    net.until(|net| net.held.len() == 1);
    let queued = net.read(0, 1, &Ask::Echo(String::new()));
    let (asker, answerer) = (net.id(0), net.id(1));
    net.swarms[0].disconnect_peer_id(answerer).unwrap();
    assert_eq!(net.ending(0, sent), Err(SendFailure::ConnectionClosed));
    assert_eq!(net.ending(0, queued), Err(SendFailure::NotConnected));
    assert!(SendFailure::ConnectionClosed.may_have_arrived());
    net.until(|net| !net.rpc(1).is_connected(&asker) && net.rpc(1).waiting_count() == 0);
    let inbound = net.held[0].inbound;
    assert_eq!(net.rpc(1).respond(inbound, String::new()), Err(RespondError::Gone));
    assert_eq!(net.executed[1], 1);
}

#[test]
fn a_peer_without_the_protocol_fails_requests_unsent() {
    let other = config(&|config| config.protocol = StreamProtocol::new("/test/other/1"));
    let mut net = Net::star(vec![config(&|_| {}), other]);
    let id = net.read(0, 1, &Ask::Echo(String::new()));
    assert_eq!(net.ending(0, id), Err(SendFailure::UnsupportedProtocols));
    assert!(!SendFailure::UnsupportedProtocols.may_have_arrived());
}
