//! Orders of an administrator who is to be told no more than what a disk holds.

use crate::{
    clock::Now,
    ident::{Name, NodeId},
    membership::{
        change::{Change, ChangeKind},
        history::History,
        roster::Standing,
    },
    node::{
        Node,
        effect::{Caller, ClientId, Effect, Heard, News, Ticket},
        tests::{at, comparisons, effects, members, node, reconciled, signer},
    },
    replica::{Done, Work},
    store::StoreError,
    wire::{
        administration::{Force, MembershipOrder, Order},
        client::{ClientRequest, ClientResponse, Failure},
    },
};

/// Node 1 of three, which knows that another has the same history.
fn member() -> Node {
    let mut node = node(1, 3, members(&[1, 2, 3], 3));
    let peer = signer(2).node_id();
    node.handle_news(at(1), News::Identified(peer));
    let [asked] = comparisons(&effects(&mut node))[..] else { panic!("one comparison") };
    node.handle_response(at(1), asked, Ok(reconciled(members(&[1, 2, 3], 3))));
    effects(&mut node);
    assert!(node.may_speak());
    node
}

fn order(node: &mut Node, now: Now, client: u64, order: MembershipOrder) {
    node.handle_client(now, ClientId(client), Caller::Owner, ClientRequest::Administer(Order::Membership(order)));
}

fn remove(number: u8) -> MembershipOrder {
    MembershipOrder::Remove { node: signer(number).node_id(), force: Force::Yes }
}

/// What has been answered, and to whom.
fn replies(told: &[Effect]) -> Vec<(u64, ClientResponse)> {
    let replies = told.iter().filter_map(|effect| match effect {
        Effect::Reply { client, response } => Some((client.0, response.clone())),
        _ => None,
    });
    replies.collect()
}

/// The changes that the store is to take.
fn saved(told: &[Effect]) -> Vec<(Ticket, Vec<Change>)> {
    let saved = told.iter().filter_map(|effect| match effect {
        Effect::Store { ticket, work: Work::SaveChanges(changes), .. } => Some((*ticket, changes.clone())),
        _ => None,
    });
    saved.collect()
}

/// The one change that the store is to take, and that nobody has been answered yet.
#[track_caller]
fn only_saved(told: &[Effect]) -> (Ticket, Change) {
    assert_eq!(replies(told), [], "before it is stored");
    let [(ticket, changes)] = &saved(told)[..] else { panic!("one is stored: {told:?}") };
    let [change] = &changes[..] else { panic!("one change: {changes:?}") };
    (*ticket, change.clone())
}

fn full() -> StoreError {
    StoreError::Full { detail: "no room".to_owned() }
}

fn is_leaving(node: &Node, id: NodeId) -> bool {
    node.view().members.get(&id).is_some_and(|member| member.standing == Standing::Leaving)
}

/// Lets time pass until the node says something again.
#[track_caller]
fn wait_for_saved(node: &mut Node) -> (Now, Vec<Effect>) {
    for _ in 0..1_000 {
        let now = at(node.next_timeout().expect("it tries again").0);
        node.handle_timeout(now);
        let told = effects(node);
        if !saved(&told).is_empty() {
            return (now, told);
        }
    }
    panic!("it does not try again");
}

#[test]
fn an_order_is_answered_once_its_change_is_stored_and_not_before() {
    type Case = (MembershipOrder, fn(&ChangeKind) -> bool);
    let orders: [Case; 3] = [
        (MembershipOrder::Leave, |kind| *kind == ChangeKind::Leaving),
        (remove(3), |kind| matches!(kind, ChangeKind::Removed(_))),
        (MembershipOrder::Replace { old: signer(3).node_id(), new: signer(4).node_id(), force: Force::Yes }, |kind| {
            matches!(kind, ChangeKind::Replaced(_))
        }),
    ];
    for (ordered, is_meant) in orders {
        let mut node = member();
        order(&mut node, at(2), 1, ordered);
        let (ticket, change) = only_saved(&effects(&mut node));
        assert!(is_meant(&change.kind), "{change:?}");
        node.handle_done(at(3), ticket, Ok(Done::Saved));
        assert_eq!(replies(&effects(&mut node)), [(1, ClientResponse::Administered)]);
    }
}

#[test]
fn to_stay_is_answered_when_it_is_stored_too_and_what_is_so_already_at_once() {
    let mut node = member();
    order(&mut node, at(2), 1, MembershipOrder::Stay);
    assert_eq!(replies(&effects(&mut node)), [(1, ClientResponse::Administered)]);
    order(&mut node, at(2), 2, MembershipOrder::Leave);
    let (ticket, _) = only_saved(&effects(&mut node));
    node.handle_done(at(3), ticket, Ok(Done::Saved));
    assert_eq!(replies(&effects(&mut node)), [(2, ClientResponse::Administered)]);
    order(&mut node, at(4), 3, MembershipOrder::Leave);
    assert_eq!(replies(&effects(&mut node)), [(3, ClientResponse::Administered)]);
    order(&mut node, at(5), 4, MembershipOrder::Stay);
    let (ticket, change) = only_saved(&effects(&mut node));
    assert!(matches!(change.kind, ChangeKind::Joined(_)));
    node.handle_done(at(6), ticket, Ok(Done::Saved));
    assert_eq!(replies(&effects(&mut node)), [(4, ClientResponse::Administered)]);
}

#[test]
fn an_order_that_could_not_be_stored_is_unknown_and_comes_to_an_end_in_the_same_words() {
    let mut node = member();
    let me = node.id();
    order(&mut node, at(2), 1, MembershipOrder::Leave);
    let (ticket, said) = only_saved(&effects(&mut node));
    node.handle_done(at(3), ticket, Err(full()));
    let [(1, ClientResponse::Failed(failure))] = &replies(&effects(&mut node))[..] else { panic!("one answer") };
    assert!(matches!(failure, Failure::StoreFailed { maybe_stored: true, .. }), "{failure:?}");
    assert!(!is_leaving(&node, me));

    // Another's word is taken in meanwhile: what was said is not said in other words for that.
    let mut history = History::new(Name::new("test").unwrap());
    for change in members(&[1, 2, 3], 3) {
        history.insert(change).unwrap();
    }
    let news = history.next_change(&signer(3), ChangeKind::Leaving);
    let heard = Heard { via: signer(3).node_id(), name: news.digest().0 };
    node.handle_news(at(4), News::Announced { heard, change: news });
    let [(ticket, _)] = saved(&effects(&mut node))[..] else { panic!("it is taken in") };
    node.handle_done(at(5), ticket, Ok(Done::Saved));
    assert_eq!(saved(&effects(&mut node)), [], "nor is anything said instead");

    let (now, told) = wait_for_saved(&mut node);
    let (ticket, again) = only_saved(&told);
    assert_eq!(again, said);
    node.handle_done(now, ticket, Err(full()));
    assert_eq!(replies(&effects(&mut node)), [], "it was answered");
    let (now, told) = wait_for_saved(&mut node);
    let (ticket, again) = only_saved(&told);
    assert_eq!(again, said);
    node.handle_done(now, ticket, Ok(Done::Saved));
    assert_eq!(replies(&effects(&mut node)), []);
    assert!(is_leaving(&node, me));
}

#[test]
fn while_something_could_not_be_stored_other_orders_are_refused_and_what_was_never_begun_is_forgotten() {
    let mut node = member();
    order(&mut node, at(2), 1, MembershipOrder::Leave);
    let (ticket, _) = only_saved(&effects(&mut node));
    order(&mut node, at(2), 2, remove(3));
    node.handle_done(at(3), ticket, Err(full()));
    let told = effects(&mut node);
    let [(1, ClientResponse::Failed(first)), (2, ClientResponse::Failed(second))] = &replies(&told)[..] else {
        panic!("each has its answer: {told:?}")
    };
    assert_eq!((first.maybe_stored(), second.maybe_stored()), (true, false), "{second:?}");
    assert_eq!(saved(&told), []);

    let mut node = member();
    order(&mut node, at(2), 1, MembershipOrder::Leave);
    let (ticket, _) = only_saved(&effects(&mut node));
    node.handle_done(at(3), ticket, Err(StoreError::Busy { detail: "too much waits".to_owned() }));
    let [(1, ClientResponse::Failed(failure))] = &replies(&effects(&mut node))[..] else { panic!("one answer") };
    assert!(matches!(failure, Failure::Overloaded { .. }), "{failure:?}");
    order(&mut node, at(4), 2, remove(3));
    let (_, change) = only_saved(&effects(&mut node));
    assert!(matches!(change.kind, ChangeKind::Removed(_)), "{change:?}");
}

#[test]
fn orders_at_the_same_time_are_judged_one_after_the_other_and_each_is_answered() {
    let mut node = member();
    order(&mut node, at(2), 1, MembershipOrder::Leave);
    order(&mut node, at(2), 2, MembershipOrder::Leave);
    order(&mut node, at(2), 3, remove(3));
    order(&mut node, at(2), 4, remove(3));
    let (ticket, change) = only_saved(&effects(&mut node));
    assert_eq!(change.kind, ChangeKind::Leaving);
    node.handle_done(at(3), ticket, Ok(Done::Saved));
    let told = effects(&mut node);
    assert_eq!(replies(&told), [(1, ClientResponse::Administered), (2, ClientResponse::Administered)]);
    let [(ticket, _)] = saved(&told)[..] else { panic!("the removal is stored: {told:?}") };
    node.handle_done(at(4), ticket, Ok(Done::Saved));
    let told = effects(&mut node);
    let [(3, ClientResponse::Administered), (4, ClientResponse::Failed(failure))] = &replies(&told)[..] else {
        panic!("both are answered: {told:?}")
    };
    assert!(matches!(failure, Failure::Refused { detail } if detail.contains("already")), "{failure:?}");
}

#[test]
fn so_many_orders_wait_and_no_more() {
    let mut node = member();
    for client in 0..40 {
        order(&mut node, at(2), client, MembershipOrder::Leave);
    }
    let told = effects(&mut node);
    let refused = replies(&told);
    assert!(refused.iter().all(|(_, it)| matches!(it, ClientResponse::Failed(Failure::Overloaded { .. }))));
    let [(ticket, _)] = saved(&told)[..] else { panic!("one is stored") };
    node.handle_done(at(3), ticket, Ok(Done::Saved));
    let mut answered: Vec<u64> =
        refused.into_iter().chain(replies(&effects(&mut node))).map(|(client, _)| client).collect();
    answered.sort_unstable();
    assert_eq!(answered, (0..40).collect::<Vec<u64>>(), "each once");
}
