//! Single decisions about a client's request, played by hand.

use crate::{
    causality::{
        dot::Actor,
        seen::Seen,
        siblings::{NewValue, Object},
        version_vector::VersionVector,
    },
    clock::{Instant, WallTime},
    digest::Digest,
    ident::{Key, NodeId, OpId, Value},
    limits::OPERATION_COUNT_MAX,
    node::{
        Node,
        effect::{Caller, ClientId, Effect, InboundId, News, OutboundId},
        tests::{at, effects, foreign_key, get, members, node, only_ticket, signer},
    },
    quorum::row::Access,
    replica::{Done, Work, values::Place},
    store::StoreError,
    wire::{
        client::{ClientRequest, ClientResponse, Consistency, Failure, Put, Scope},
        quorum::{Refusal, Request, Response},
    },
};

#[test]
fn a_node_outside_the_row_forwards_a_client_and_not_a_member() {
    let mut node = node(1, 1, members(&[1, 2], 1));
    let other: NodeId = signer(2).node_id();
    let request = get(&foreign_key(&node));
    node.handle_news(at(1), News::Connected { node: other, seed: None });
    effects(&mut node);
    node.handle_client(at(2), ClientId(1), Caller::Owner, request.clone());
    let sent = effects(&mut node);
    let is_forward = |effect: &Effect| match effect {
        Effect::Send { to, request: Request::Forward(_), .. } => to.len() == 1 && to[0].0 == other,
        _ => false,
    };
    assert!(sent.iter().any(is_forward), "{sent:?}");

    node.handle_request(at(3), other, InboundId(1), Instant(2003), Request::Forward(request));
    let told = effects(&mut node);
    assert!(!told.iter().any(is_forward), "{told:?}");
    let is_read = |effect: &Effect| matches!(effect, Effect::Send { request: Request::Read { .. }, .. });
    assert!(told.iter().any(is_read), "a read takes no replica: {told:?}");
}

#[test]
fn a_node_outside_the_row_coordinates_a_write_for_a_member_unless_only_the_row_counts() {
    let mut node = node(1, 1, members(&[1, 2], 1));
    let other = signer(2).node_id();
    let ClientRequest::Put(sloppy) = put(&foreign_key(&node), Consistency::One) else { panic!("a put") };
    let strict = Put { scope: Scope::Strict, ..sloppy.clone() };
    node.handle_news(at(0), News::DialFailed(other));
    effects(&mut node);
    node.handle_request(at(1), other, InboundId(1), Instant(2001), Request::Forward(ClientRequest::Put(strict)));
    let told = effects(&mut node);
    let unavailable = |effect: &Effect| {
        matches!(
            effect,
            Effect::Respond { response: Response::Forwarded(ClientResponse::Failed(Failure::Unavailable { .. })), .. }
        )
    };
    assert!(told.iter().any(unavailable), "{told:?}");
    node.handle_request(at(2), other, InboundId(2), Instant(2002), Request::Forward(ClientRequest::Put(sloppy)));
    let told = effects(&mut node);
    assert!(told.iter().any(|effect| keeps_hint_for(effect, other)), "{told:?}");
}

#[test]
fn a_node_that_has_just_started_leaves_to_others_what_it_could_only_fail() {
    let others = [2, 3].map(|number| signer(number).node_id());
    let started = || node(1, 3, members(&[1, 2, 3], 3));
    let is_refused = |node: &mut Node, request: ClientRequest| {
        node.handle_client(at(5), ClientId(1), Caller::Owner, request);
        let unavailable = |reply: &ClientResponse| matches!(reply, ClientResponse::Failed(Failure::Unavailable { .. }));
        replies(&effects(node)).iter().any(unavailable)
    };
    for request in [put("k", Consistency::Quorum), get("k")] {
        let mut node = started();
        assert!(is_refused(&mut node, request.clone()), "it has reached nobody");
        node.handle_news(at(6), News::DialFailed(others[0]));
        assert!(is_refused(&mut node, request.clone()), "one may yet be there");
        node.handle_news(at(7), News::DialFailed(others[1]));
        assert!(!is_refused(&mut node, request.clone()), "it knows that it is alone");

        let mut node = started();
        node.handle_news(at(6), News::Connected { node: others[1], seed: None });
        assert!(!is_refused(&mut node, request), "two of three are enough");
    }
    assert!(!is_refused(&mut started(), put("k", Consistency::One)));
}

/// Whether this node mints as one who stands in for `target`.
fn keeps_hint_for(effect: &Effect, target: NodeId) -> bool {
    match effect {
        Effect::Store { work: Work::Write { place: Place::Hint(hint), .. }, .. } => hint.target == target,
        _ => false,
    }
}

fn put(name: &str, w: Consistency) -> ClientRequest {
    let (key, value) = (Key::new(name.as_bytes()).unwrap(), Value::new(b"v").unwrap());
    ClientRequest::Put(Put {
        key,
        value,
        context: None,
        op: OpId([1; 16]),
        w,
        scope: Scope::Sloppy,
        ttl_ms: None,
        budget_ms: 1_000,
    })
}

/// Node 1 of a cluster of two, connected to node 2, and what both store.
fn one_of_two() -> (Node, NodeId) {
    let mut node = node(1, 2, members(&[1, 2], 2));
    let other = signer(2).node_id();
    node.handle_news(at(1), News::Connected { node: other, seed: None });
    effects(&mut node);
    (node, other)
}

fn written() -> Done {
    let mut object = Object::default();
    let new =
        NewValue { op: OpId([1; 16]), value: Value::new(b"v").unwrap(), written_at: WallTime(1), expires_at: None };
    object.put(&Seen::default(), Actor { node: 1, epoch: 0 }, new);
    Done::Written { object, seen: Seen::default() }
}

/// What clients are told.
fn replies(told: &[Effect]) -> Vec<ClientResponse> {
    let replied = told.iter().filter_map(|effect| match effect {
        Effect::Reply { response, .. } => Some(response.clone()),
        _ => None,
    });
    replied.collect()
}

/// The merges that are sent.
fn merges(told: &[Effect]) -> Vec<OutboundId> {
    let sent = told.iter().filter_map(|effect| match effect {
        Effect::Send { to, request: Request::Merge { .. }, .. } => Some(to.iter().map(|(_, outbound)| *outbound)),
        _ => None,
    });
    sent.flatten().collect()
}

#[test]
fn a_write_that_is_stored_after_its_time_still_reaches_the_other_replicas() {
    let (mut node, _) = one_of_two();
    node.handle_client(at(2), ClientId(1), Caller::Owner, put("k", Consistency::One));
    let ticket = only_ticket(&effects(&mut node));
    node.handle_timeout(at(1_002));
    let unknown = ClientResponse::Failed(Failure::TimedOut { acks: 0, needed: 1, maybe_stored: true });
    assert_eq!(replies(&effects(&mut node)), vec![unknown]);

    node.handle_done(at(1_500), ticket, Ok(written()));
    let told = effects(&mut node);
    assert_eq!(replies(&told), vec![], "one answer only");
    let [outbound] = merges(&told)[..] else { panic!("one merge: {told:?}") };
    let partition = node.partition_digest(&Key::new(b"k").unwrap());
    node.handle_response(at(1_501), outbound, Ok(Response::Merged { partition }));
    assert_eq!(node.load()[0], 0, "nothing is left of it");
}

#[test]
fn a_write_that_the_store_had_no_time_for_is_refused_as_overload_and_nobody_is_alarmed() {
    let (mut node, other) = one_of_two();
    node.handle_client(at(2), ClientId(1), Caller::Owner, put("k", Consistency::One));
    let ticket = only_ticket(&effects(&mut node));
    let busy = || StoreError::Busy { detail: "it came too late".to_owned() };
    node.handle_done(at(3), ticket, Err(busy()));
    let told = effects(&mut node);
    assert!(!told.iter().any(|effect| matches!(effect, Effect::Tell(_))), "{told:?}");
    assert!(
        matches!(&replies(&told)[..], [ClientResponse::Failed(Failure::Overloaded { .. })]),
        "nothing was stored: {told:?}"
    );

    let (key, partition) = (Key::new(b"k").unwrap(), Digest([0; 32]));
    let request = Request::Merge { key, object: Object::default(), partition };
    node.handle_request(at(4), other, InboundId(1), Instant(2_000), request);
    let told = effects(&mut node);
    let due = told.iter().find_map(|effect| match effect {
        Effect::Store { due, .. } => *due,
        _ => None,
    });
    assert_eq!(due, Some(Instant(2_000)), "the store is told when the asker loses interest");
    node.handle_done(at(5), only_ticket(&told), Err(busy()));
    let refused =
        |effect: &Effect| matches!(effect, Effect::Respond { response: Response::Refused(Refusal::Overloaded), .. });
    assert!(effects(&mut node).iter().any(refused));
}

#[test]
fn a_write_whose_store_never_answers_is_given_up() {
    let (mut node, _) = one_of_two();
    node.handle_client(at(2), ClientId(1), Caller::Owner, put("k", Consistency::One));
    node.handle_timeout(at(1_002));
    assert_eq!(node.load()[0], 1);
    node.handle_timeout(at(62_000));
    assert_eq!(node.load()[0], 0);
}

#[test]
fn a_write_out_of_time_goes_on_asking_replicas_whose_history_was_another() {
    let (mut node, other) = one_of_two();
    node.handle_client(at(2), ClientId(1), Caller::Owner, put("k", Consistency::All));
    let ticket = only_ticket(&effects(&mut node));
    node.handle_done(at(900), ticket, Ok(written()));
    let [outbound] = merges(&effects(&mut node))[..] else { panic!("one merge") };
    node.handle_response(at(901), outbound, Ok(Response::Merged { partition: Digest([9; 32]) }));
    node.handle_timeout(at(1_002));
    let unknown = ClientResponse::Failed(Failure::TimedOut { acks: 1, needed: 2, maybe_stored: true });
    assert_eq!(replies(&effects(&mut node)), vec![unknown]);
    node.on_histories_agree(at(1_003), &other);
    assert_eq!(merges(&effects(&mut node)).len(), 1, "it is asked again");
    node.handle_timeout(at(10_000));
    assert_eq!((node.load()[0], replies(&effects(&mut node))), (0, vec![]));
}

#[test]
fn a_forwarded_write_that_one_store_refuses_is_tried_with_the_next_member() {
    let mut node = node(1, 2, members(&[1, 2, 3], 2));
    for number in [2, 3] {
        node.handle_news(at(1), News::Connected { node: signer(number).node_id(), seed: None });
    }
    let key = foreign_key(&node);
    effects(&mut node);
    node.handle_client(at(2), ClientId(1), Caller::Owner, put(&key, Consistency::One));
    let full = Failure::StoreFailed { detail: "the disk is full".to_owned(), maybe_stored: true };
    let refused = || Ok(Response::Forwarded(ClientResponse::Failed(full.clone())));
    for attempt in 0..2 {
        let told = effects(&mut node);
        assert_eq!(replies(&told), vec![], "attempt {attempt}");
        let forwarded = told.iter().find_map(|effect| match effect {
            Effect::Send { to, request: Request::Forward(_), .. } => Some(to[0].1),
            _ => None,
        });
        node.handle_response(at(3), forwarded.expect("it is passed on"), refused());
    }
    let told = effects(&mut node);
    assert_eq!(replies(&told), vec![]);
    let key = Key::new(key.as_bytes()).unwrap();
    let row = node.row_of(&key, Access::Write, Consistency::Quorum).unwrap();
    let target = *row.nodes.last().unwrap();
    assert!(told.iter().any(|effect| keeps_hint_for(effect, target)), "no primary can, so it does: {told:?}");
}

#[test]
fn a_key_with_a_clock_too_long_for_a_context_can_still_be_read() {
    let mut node = node(1, 1, members(&[1], 1));
    effects(&mut node);
    node.handle_client(at(1), ClientId(1), Caller::Owner, get("k"));
    let ticket = effects(&mut node).iter().find_map(|effect| match effect {
        Effect::Query { ticket, .. } => Some(*ticket),
        _ => None,
    });
    let mut object = Object::default();
    let mut clock = VersionVector::new();
    (1..=1_000).for_each(|epoch| clock.raise(Actor { node: 7, epoch }, 1));
    object.delete(&clock.into());
    let Done::Written { object: written, .. } = written() else { panic!("a write") };
    object.merge(written);
    node.handle_done(at(2), ticket.expect("the store is asked"), Ok(Done::Object(object)));
    let told = replies(&effects(&mut node));
    assert!(matches!(&told[..], [ClientResponse::Found(found)] if found.siblings.len() == 1), "{told:?}");
}

#[test]
fn a_node_with_too_much_under_way_says_so() {
    let mut node = node(1, 1, members(&[1], 1));
    for number in 0..OPERATION_COUNT_MAX {
        node.handle_client(at(1), ClientId(number as u64), Caller::Owner, get("k"));
    }
    effects(&mut node);
    node.handle_client(at(1), ClientId(u64::MAX), Caller::Owner, get("k"));
    let told = effects(&mut node);
    let is_overloaded =
        matches!(told.as_slice(), [Effect::Reply { response: ClientResponse::Failed(Failure::Overloaded { .. }), .. }]);
    assert!(is_overloaded, "{told:?}");
    assert_eq!(node.counters().overloaded, 1);
}

#[test]
fn a_node_without_a_cluster_refuses() {
    let mut node = node(1, 3, Vec::new());
    effects(&mut node);
    node.handle_client(at(1), ClientId(1), Caller::Owner, get("k"));
    assert_refused(&effects(&mut node));
}

#[track_caller]
fn assert_refused(told: &[Effect]) {
    let unavailable = |effect: &Effect| {
        matches!(effect, Effect::Reply { response: ClientResponse::Failed(Failure::Unavailable { .. }), .. })
    };
    assert!(told.iter().any(unavailable), "{told:?}");
}
