//! What becomes of questions and answers while nothing goes wrong.

use crate::{Ask, EndReason, Net, TurnRefused, encoded_bytes};

#[test]
fn a_session_has_as_many_turns_as_its_asker_wants() {
    let mut net = Net::pair(|_| {});
    let session = net.open(0, 1, &Ask::Echo("0".to_owned()));
    for count in 1..20 {
        assert_eq!(net.answer(0, session), (count - 1).to_string());
        net.exchange(0).ask(session, &Ask::Echo(count.to_string())).unwrap();
    }
    assert_eq!(net.answer(0, session), "19");
    let (asker, answerer) = (net.counters(0), net.counters(1));
    assert_eq!((asker.sessions_opened, asker.questions_sent, asker.answers_received), (1, 20, 20));
    assert_eq!((answerer.sessions_accepted, answerer.questions_received, answerer.answers_sent), (1, 20, 20));
    assert_eq!((asker.malformed, answerer.malformed), (0, 0));
}

#[test]
fn a_long_message_travels_in_frames_and_every_byte_of_them_is_counted() {
    let mut net = Net::pair(|config| config.frame_limit_bytes = 1000);
    let text = "x".repeat(3 << 20);
    let question = Ask::Echo(text.clone());
    let session = net.open(0, 1, &question);
    assert!(net.answer(0, session) == text, "the answer is another");
    let frames_bytes = |message_bytes: usize| (message_bytes + 4 * message_bytes.div_ceil(1000)) as u64;
    let question_bytes = frames_bytes(encoded_bytes(&question));
    let answer_bytes = frames_bytes(encoded_bytes(&text));
    let (asker, answerer) = (net.counters(0), net.counters(1));
    assert_eq!((asker.bytes_sent, answerer.bytes_received), (question_bytes, question_bytes));
    assert_eq!((answerer.bytes_sent, asker.bytes_received), (answer_bytes, answer_bytes));
}

#[test]
fn a_message_that_fills_its_frames_exactly_has_no_empty_one_behind_it() {
    let text = "x".repeat(1000 - 3);
    assert_eq!(encoded_bytes(&text), 1000);
    let mut net = Net::pair(|config| config.frame_limit_bytes = 500);
    net.echo(0, 1, &text);
    assert_eq!(net.counters(1).bytes_sent, 1000 + 2 * 4);
}

#[test]
fn two_peers_ask_each_other_at_the_same_time() {
    let mut net = Net::pair(|config| config.frame_limit_bytes = 10_000);
    let produce = Ask::Produce(2 << 20);
    let (forth, back) = (net.open(0, 1, &produce), net.open(1, 0, &produce));
    for count in 1..4 {
        assert_eq!((net.answer(0, forth).len(), net.answer(1, back).len()), (2 << 20, 2 << 20));
        assert_eq!((net.asked[0], net.asked[1]), (count, count));
        net.exchange(0).ask(forth, &produce).unwrap();
        net.exchange(1).ask(back, &produce).unwrap();
    }
    assert_eq!((net.counters(0).malformed, net.counters(1).malformed), (0, 0));
}

#[test]
fn an_asker_that_closes_ends_the_session_in_good_order() {
    let mut net = Net::pair(|_| {});
    let session = net.open(0, 1, &Ask::Hold);
    let inbound = net.held(1);
    net.exchange(1).answer(inbound, &"enough".to_owned()).unwrap();
    assert_eq!(net.answer(0, session), "enough");
    net.exchange(0).close(session);
    assert_eq!(net.inbound_end(1, inbound), EndReason::Closed);
    assert_eq!(net.exchange(0).ask(session, &Ask::Hold), Err(TurnRefused::Unknown));
    assert_eq!(net.exchange(1).answer(inbound, &String::new()), Err(TurnRefused::Unknown));
    net.echo(0, 1, "the next session");
    assert!(net.ended.is_empty() && net.misbehaved.is_empty());
}

#[test]
fn an_asker_that_closes_before_the_answer_is_noticed_at_once() {
    let mut net = Net::pair(|_| {});
    let session = net.open(0, 1, &Ask::Hold);
    let inbound = net.held(1);
    net.exchange(0).close(session);
    assert_eq!(net.inbound_end(1, inbound), EndReason::Closed);
    net.echo(0, 1, "the next session");
    assert!(net.ended.is_empty() && net.misbehaved.is_empty());
}

#[test]
fn an_answerer_that_closes_after_its_last_answer_has_sent_it() {
    let mut net = Net::pair(|config| config.frame_limit_bytes = 10_000);
    let session = net.open(0, 1, &Ask::Hold);
    let inbound = net.held(1);
    net.exchange(1).answer(inbound, &"x".repeat(3 << 20)).unwrap();
    net.exchange(1).close_inbound(inbound);
    assert_eq!(net.answer(0, session).len(), 3 << 20);
    assert_eq!(net.end(0, session), EndReason::Closed);
    net.echo(0, 1, "the next session");
    assert!(net.inbound_ended.is_empty() && net.misbehaved.is_empty());
}

#[test]
fn an_answerer_may_close_instead_of_answering() {
    let mut net = Net::pair(|_| {});
    let session = net.open(0, 1, &Ask::Hold);
    let inbound = net.held(1);
    net.exchange(1).close_inbound(inbound);
    assert_eq!(net.end(0, session), EndReason::Closed);
    assert!(net.inbound_ended.is_empty() && net.misbehaved.is_empty());
}

#[test]
fn nobody_speaks_out_of_turn_by_mistake() {
    let mut net = Net::pair(|_| {});
    let session = net.open(0, 1, &Ask::Hold);
    assert_eq!(net.exchange(0).ask(session, &Ask::Hold), Err(TurnRefused::NotYourTurn));
    let inbound = net.held(1);
    net.exchange(1).answer(inbound, &"once".to_owned()).unwrap();
    assert_eq!(net.exchange(1).answer(inbound, &"twice".to_owned()), Err(TurnRefused::NotYourTurn));
    assert_eq!(net.answer(0, session), "once");
    assert_eq!(net.exchange(1).answer(inbound, &"twice".to_owned()), Err(TurnRefused::NotYourTurn));
    net.exchange(0).ask(session, &Ask::Echo("still good".to_owned())).unwrap();
    assert_eq!(net.answer(0, session), "still good");
}

#[test]
fn session_ids_are_distinct_and_ascend() {
    let mut net = Net::pair(|_| {});
    let mut sessions = Vec::new();
    let mut inbound = Vec::new();
    for _ in 0..4 {
        let session = net.open(0, 1, &Ask::Hold);
        sessions.push(session);
        inbound.push(net.held(1));
        net.exchange(0).close(session);
        net.until(|net| net.inbound_ended.len() == inbound.len());
    }
    assert!(sessions.is_sorted_by(|before, after| before < after), "{sessions:?}");
    assert!(inbound.is_sorted_by(|before, after| before < after), "{inbound:?}");
}
