//! Single decisions of a node, played by hand. Whole clusters are played in `tests/simulation`.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    clock::{Instant, Now, WallTime},
    config::{Founding, NodeConfig},
    digest::Digest,
    ident::{Key, Name},
    limits::CHANGES_PER_MESSAGE_MAX,
    membership::{
        change::{Change, ChangeKind, Parameters, Profile, Signer, Statement},
        history::History,
        summary::Summary,
        view::View,
    },
    node::{
        Node, SendFailure,
        effect::{Effect, Event, InboundId, News, OutboundId, Ticket},
    },
    quorum::row::Access,
    replica::{
        Work,
        startup::{InDoubt, Recovered},
    },
    ring::{partition_set::PartitionSet, token::PartitionCount},
    store::StoreError,
    wire::{
        client::{ClientRequest, Consistency, Get, ReadFrom, Scope},
        quorum::{Reconcile, Request, Response},
    },
};

const WINDOW: Duration = Duration::from_millis(100);

pub(super) fn signer(number: u8) -> Signer {
    Signer::from_seed([number; 32])
}

fn parameters(replicas: u8) -> Parameters {
    Parameters { partitions: PartitionCount::new(8).unwrap(), replicas }
}

fn profile() -> Profile {
    Profile { name: Name::new("n").unwrap(), zone: None, weight: 1, addresses: Vec::new() }
}

pub(super) fn at(milliseconds: u64) -> Now {
    Now { instant: Instant(milliseconds), wall: WallTime(milliseconds) }
}

/// Node `number`, started on a store with these changes.
pub(super) fn node(number: u8, replicas: u8, changes: Vec<Change>) -> Node {
    let mut config = NodeConfig::lan(Name::new("test").unwrap(), profile(), parameters(replicas));
    config.founding = Founding::After(WINDOW);
    let recovered = Recovered {
        boot: 5,
        clean: true,
        changes,
        peer_lives: BTreeMap::new(),
        hint_targets: Vec::new(),
        in_doubt: InDoubt::Nothing,
    };
    Node::new(config, signer(number), recovered, 7, [number; 32], at(0))
}

/// The history of a cluster that node 1 founded and these nodes joined.
pub(super) fn members(numbers: &[u8], replicas: u8) -> Vec<Change> {
    let mut history = History::new(Name::new("test").unwrap());
    history.insert(history.next_change(&signer(1), ChangeKind::Founded(parameters(replicas)))).unwrap();
    for number in numbers {
        history.insert(history.next_change(&signer(*number), ChangeKind::Joined(profile()))).unwrap();
    }
    settle(&mut history, numbers);
    history.iter().cloned().collect()
}

/// Has all of them say that they hold what they are to hold, and that nothing else is needed.
fn settle(history: &mut History, numbers: &[u8]) {
    let View { label, parameters, .. } = View::fold(history);
    let Some(Parameters { partitions, .. }) = parameters else { return };
    let statement = Statement { label, partitions: PartitionSet::new(partitions, partitions.iter()) };
    for number in numbers {
        history.insert(history.next_change(&signer(*number), ChangeKind::Filled(statement.clone()))).unwrap();
    }
    if let Some(number) = numbers.first() {
        history.insert(history.next_change(&signer(*number), ChangeKind::Retired(statement))).unwrap();
    }
}

pub(super) fn effects(node: &mut Node) -> Vec<Effect> {
    std::iter::from_fn(|| node.poll_effect()).collect()
}

pub(super) fn get(name: &str) -> ClientRequest {
    let key = Key::new(name.as_bytes()).unwrap();
    ClientRequest::Get(Get { key, from: ReadFrom::Row(Consistency::Quorum), scope: Scope::Sloppy, budget_ms: 1_000 })
}

fn founds(node: &mut Node, now: Now) -> bool {
    node.handle_timeout(now);
    let is_founding = |change: &Change| matches!(change.kind, ChangeKind::Founded(_));
    effects(node).iter().any(|effect| match effect {
        Effect::Store { work: Work::SaveChanges(changes), .. } => changes.iter().any(is_founding),
        _ => false,
    })
}

/// A key whose row `node` is not in.
pub(super) fn foreign_key(node: &Node) -> String {
    let is_foreign = |name: &String| {
        let key = Key::new(name.as_bytes()).unwrap();
        let row = node.row_of(&key, Access::Write, Consistency::Quorum);
        row.is_some_and(|row| !row.nodes.contains(&node.id()))
    };
    (0..1_000).map(|number| format!("key-{number}")).find(is_foreign).expect("some row is another's")
}

#[test]
fn of_nodes_that_find_only_each_other_the_least_founds() {
    let (mut least, mut other) = (node(1, 3, Vec::new()), node(2, 3, Vec::new()));
    if other.id() < least.id() {
        std::mem::swap(&mut least, &mut other);
    }
    let due = at(100);
    least.handle_news(at(1), News::Identified(other.id()));
    other.handle_news(at(1), News::Identified(least.id()));
    assert!(!founds(&mut other, due));
    assert!(founds(&mut least, due));
    assert!(founds(&mut other, at(300)), "the other did not, after all");
}

#[test]
fn a_node_that_knows_a_cluster_does_not_found_another() {
    let mut node = node(2, 3, members(&[1], 3));
    assert!(!founds(&mut node, at(60_000)));
}

/// What a peer that knows nothing says first, of which life it has seen of the one it greets.
fn greeting(your_life: (u64, u64)) -> Reconcile {
    Reconcile {
        boot: 1,
        instance: 1,
        word: None,
        your_life,
        your_word: None,
        is_in_doubt: false,
        history: Digest([0; 32]),
        summary: Some(Summary::default()),
        changes: Vec::new(),
    }
}

#[test]
fn another_life_with_the_same_boot_number_is_noticed_and_the_same_one_is_not() {
    let mut node = node(1, 3, members(&[1, 2], 3));
    let told = |node: &mut Node, life: (u64, u64), inbound: u64| {
        let greeting = greeting(life);
        node.handle_request(
            at(1),
            signer(2).node_id(),
            InboundId(inbound),
            Instant(2001),
            Request::Reconcile(greeting),
        );
        effects(node).contains(&Effect::Tell(Event::StoreIsOld { seen: life.0 }))
    };
    assert!(!told(&mut node, (5, 7), 1), "this very life");
    assert!(!told(&mut node, (4, 9), 2), "an earlier one");
    assert!(told(&mut node, (5, 8), 3), "another process took this number before");
    assert!(!told(&mut node, (5, 8), 4), "it has taken a higher one since");
}

#[test]
fn only_a_member_is_believed_that_this_store_is_old() {
    let mut node = node(1, 3, members(&[1, 2], 3));
    let greeting = greeting((9, 1));
    let absurd = Reconcile { your_life: (u64::MAX, 1), ..greeting.clone() };
    let is_told = |node: &mut Node| effects(node).contains(&Effect::Tell(Event::StoreIsOld { seen: 9 }));
    effects(&mut node);
    node.handle_request(at(1), signer(3).node_id(), InboundId(1), Instant(2001), Request::Reconcile(greeting.clone()));
    assert!(!is_told(&mut node));
    node.handle_request(at(1), signer(2).node_id(), InboundId(2), Instant(2001), Request::Reconcile(absurd));
    assert!(!is_told(&mut node));
    node.handle_request(at(1), signer(2).node_id(), InboundId(3), Instant(2001), Request::Reconcile(greeting));
    assert!(is_told(&mut node));
}

#[test]
fn a_later_start_that_could_not_be_stored_is_taken_up_when_it_is_told_again() {
    let mut node = node(1, 3, members(&[1, 2], 3));
    let greeting = greeting((9, 1));
    let raises = |told: Vec<Effect>| -> Vec<Ticket> {
        let raised = told.into_iter().filter_map(|effect| match effect {
            Effect::Store { ticket, work: Work::RaiseBoot { seen: 9 }, .. } => Some(ticket),
            _ => None,
        });
        raised.collect()
    };
    let peer = signer(2).node_id();
    node.handle_request(at(1), peer, InboundId(1), Instant(2001), Request::Reconcile(greeting.clone()));
    let [ticket] = raises(effects(&mut node))[..] else { panic!("it is taken up") };
    node.handle_request(at(2), peer, InboundId(2), Instant(2002), Request::Reconcile(greeting.clone()));
    assert_eq!(raises(effects(&mut node)), [], "once");
    node.handle_done(at(3), ticket, Err(StoreError::Failed { detail: "the disk is full".to_owned() }));
    node.handle_request(at(4), peer, InboundId(3), Instant(2004), Request::Reconcile(greeting));
    assert_eq!(raises(effects(&mut node)).len(), 1, "and again");
}

#[test]
fn a_member_that_closes_every_connection_is_not_dialled_at_once_each_time() {
    let mut node = node(1, 3, members(&[1, 2], 3));
    let peer = signer(2).node_id();
    let dials = |told: Vec<Effect>| told.iter().filter(|effect| matches!(effect, Effect::Dial { .. })).count();
    assert_eq!(dials(effects(&mut node)), 1);
    let mut pauses = Vec::new();
    let mut now = 1;
    for _ in 0..6 {
        node.handle_news(at(now), News::Connected { node: peer, seed: None });
        node.handle_news(at(now), News::Lost(peer));
        assert_eq!(dials(effects(&mut node)), 0);
        let lost = now;
        while dials(effects(&mut node)) == 0 {
            now = node.next_timeout().expect("it is dialled again").0;
            node.handle_timeout(at(now));
        }
        pauses.push(now - lost);
    }
    assert!(pauses[0] * 4 < pauses[3], "the pauses grow: {pauses:?}");

    node.handle_news(at(now), News::Connected { node: peer, seed: None });
    node.handle_news(at(now), News::Identified(peer));
    node.handle_news(at(now), News::Lost(peer));
    assert_eq!(dials(effects(&mut node)), 1, "one that had said who it is, is dialled at once");
}

#[test]
fn changes_that_were_lost_on_their_way_are_sent_again() {
    let mut node = node(1, 3, members(&[1, 2], 3));
    let peer = signer(2).node_id();
    node.handle_news(at(1), News::Identified(peer));
    for round in 0..2 {
        let [asked] = comparisons(&effects(&mut node))[..] else { panic!("a question in round {round}") };
        node.handle_response(at(2), asked, Ok(reconciled(members(&[], 3))));
        let [pushed] = comparisons(&effects(&mut node))[..] else { panic!("changes in round {round}") };
        node.handle_response(at(3), pushed, Err(SendFailure::Unknown));
        node.handle_news(at(4), News::Identified(peer));
    }
}

/// The comparisons of histories that are sent.
pub(super) fn comparisons(told: &[Effect]) -> Vec<OutboundId> {
    let sent = told.iter().filter_map(|effect| match effect {
        Effect::Send { to, request: Request::Reconcile(_), .. } => Some(to.iter().map(|(_, outbound)| *outbound)),
        _ => None,
    });
    sent.flatten().collect()
}

/// What a peer with this history answers to a digest that is not its own.
fn differs(changes: Vec<Change>) -> Response {
    let Response::Reconciled(answer) = reconciled(changes) else { unreachable!("it is") };
    Response::Reconciled(Reconcile { changes: Vec::new(), ..answer })
}

/// What a peer with this history answers to a comparison, when all of it is missing.
pub(super) fn reconciled(changes: Vec<Change>) -> Response {
    let mut history = History::new(Name::new("test").unwrap());
    for change in &changes {
        history.insert(change.clone()).unwrap();
    }
    let (summary, history) = (Some(history.summary()), history.digest());
    Response::Reconciled(Reconcile {
        boot: 1,
        instance: 1,
        word: None,
        your_life: (0, 0),
        your_word: None,
        is_in_doubt: false,
        history,
        summary,
        changes,
    })
}

#[test]
fn histories_are_compared_by_their_digests_and_no_more_is_told_when_they_are_equal() {
    let changes = members(&[1, 2], 3);
    let mut node = node(1, 3, changes.clone());
    node.handle_news(at(1), News::Identified(signer(2).node_id()));
    let told = effects(&mut node);
    let asked = told.iter().find_map(|effect| match effect {
        Effect::Send { request: Request::Reconcile(reconcile), .. } => Some(reconcile.clone()),
        _ => None,
    });
    let asked = asked.expect("it compares");
    assert_eq!((asked.summary.clone(), asked.changes.len(), asked.history), (None, 0, node.history_digest()));

    // Asked the same by another, it tells as much to one with this history, and to one with another how far it knows each.
    let answer = |node: &mut Node, history: Digest, inbound: u64| {
        let request = Request::Reconcile(Reconcile { history, ..asked.clone() });
        node.handle_request(at(2), signer(2).node_id(), InboundId(inbound), Instant(2001), request);
        let answered = effects(node).into_iter().find_map(|effect| match effect {
            Effect::Respond { response: Response::Reconciled(answer), .. } => Some(answer),
            _ => None,
        });
        answered.expect("it answers")
    };
    let same = answer(&mut node, asked.history, 1);
    assert_eq!((same.summary, same.changes.len()), (None, 0));
    let other = answer(&mut node, Digest([1; 32]), 2);
    assert!(other.summary.is_some() && other.changes.is_empty());

    let [outbound] = comparisons(&told)[..] else { panic!("one comparison") };
    node.handle_response(at(3), outbound, Ok(Response::Reconciled(asked)));
    assert_eq!(comparisons(&effects(&mut node)), [], "both know the same: that is all");
}

#[test]
fn now_and_then_a_member_that_is_not_connected_is_dialled_instead() {
    let mut node = node(1, 3, members(&[1, 2, 3], 3));
    let (near, far) = (signer(2).node_id(), signer(3).node_id());
    node.handle_news(at(1), News::Connected { node: near, seed: None });
    node.handle_news(at(1), News::Identified(near));
    let [outbound] = comparisons(&effects(&mut node))[..] else { panic!("one comparison") };
    node.handle_response(at(2), outbound, Err(SendFailure::Unknown));
    let (mut compared, mut dialled) = (0, 0);
    for round in 0..500 {
        let now = at(10 + round);
        node.reconcile_at_random(now);
        let told = effects(&mut node);
        for outbound in comparisons(&told) {
            compared += 1;
            node.handle_response(now, outbound, Err(SendFailure::Unknown));
        }
        dialled += told.iter().filter(|it| matches!(it, Effect::Dial { node, .. } if *node == far)).count();
    }
    assert_eq!(compared + dialled, 500);
    assert!((25..=75).contains(&dialled), "one time of ten: {dialled}");
}

#[test]
fn a_peer_whose_changes_are_refused_is_not_asked_for_them_again_at_once() {
    let mut node = node(1, 3, members(&[1], 3));
    let peer = signer(2).node_id();
    node.handle_news(at(1), News::Identified(peer));
    for _ in 0..2 {
        let [outbound] = comparisons(&effects(&mut node))[..] else { continue };
        node.handle_response(at(2), outbound, Ok(reconciled(members(&[1, 2], 2))));
    }
    let told = effects(&mut node);
    assert_eq!(comparisons(&told), vec![], "{told:?}");
    assert!(node.counters().changes_refused > 0);
}

#[test]
fn a_message_is_read_no_further_than_its_first_lie() {
    let mut node = node(1, 3, members(&[1], 3));
    node.handle_news(at(1), News::Identified(signer(2).node_id()));
    let [outbound] = comparisons(&effects(&mut node))[..] else { panic!("one comparison") };
    let mut forged = members(&[1, 2], 3).pop().expect("the change of node 2");
    forged.lamport += 1;
    let greeting = Reconcile { changes: vec![forged; CHANGES_PER_MESSAGE_MAX], ..greeting((0, 0)) };
    node.handle_response(at(2), outbound, Ok(Response::Reconciled(greeting)));
    assert_eq!(node.counters().changes_refused, 1);
}

#[test]
fn changes_that_cannot_be_stored_are_not_asked_for_again_at_once() {
    let mut node = node(1, 3, members(&[1], 3));
    node.handle_news(at(1), News::Identified(signer(2).node_id()));
    let [outbound] = comparisons(&effects(&mut node))[..] else { panic!("one comparison") };
    node.handle_response(at(2), outbound, Ok(differs(members(&[1, 2], 3))));
    let [outbound] = comparisons(&effects(&mut node))[..] else { panic!("and what is missing is asked for") };
    node.handle_response(at(2), outbound, Ok(reconciled(members(&[1, 2], 3))));
    let ticket = only_ticket(&effects(&mut node));
    node.handle_done(at(3), ticket, Err(StoreError::Failed { detail: "the disk is full".to_owned() }));
    let told = effects(&mut node);
    assert_eq!(comparisons(&told), vec![], "{told:?}");
}

/// The one piece of work that the store is given.
#[track_caller]
pub(super) fn only_ticket(told: &[Effect]) -> Ticket {
    let mut tickets = told.iter().filter_map(|effect| match effect {
        Effect::Store { ticket, .. } => Some(*ticket),
        _ => None,
    });
    let ticket = tickets.next().expect("something is stored");
    assert_eq!(tickets.next(), None, "{told:?}");
    ticket
}
