//! Stories of members that tell changes which nobody honest would sign.

use std::collections::BTreeMap;

use quorate::{
    clock::Instant,
    ident::NodeId,
    limits::{COUNTER_MAX, POSTHUMOUS_COUNT_MAX},
    membership::{
        change::{Change, ChangeKind, Parameters, Profile, Signer},
        history::History,
    },
    node::effect::{Heard, InboundId, News, OutboundId, Verdict},
    wire::{
        administration::{Force, MembershipOrder, Order},
        client::{ClientRequest, Consistency},
        quorum::{Reconcile, Request},
    },
};

use crate::{
    checker,
    cluster::{Cluster, ReturnAddress},
    stage::values,
};

/// As many as a liar might send, and no frame takes.
const FLOOD: usize = 100_000;

/// Has `liar` send `node` these changes, as if they were its history.
fn tell(cluster: &mut Cluster, liar: usize, node: usize, changes: Vec<Change>) {
    cluster.inbound_count += 1;
    let inbound = InboundId(cluster.inbound_count);
    let (id, life) = (cluster.machines[liar].id, cluster.machines[liar].life);
    // Nobody waits for the answer.
    cluster
        .inbounds
        .insert(inbound, ReturnAddress { node: liar, life, outbound: OutboundId(u64::MAX), answerer: node });
    let history = cluster.machines[liar].history();
    let (history, summary) = (quorate::digest::Digest([9; 32]), Some(history.summary()));
    let told = Reconcile {
        boot: life,
        instance: life,
        word: None,
        your_life: (0, 0),
        your_word: None,
        is_in_doubt: false,
        history,
        summary,
        changes,
    };
    let due = Instant(cluster.now_ms + 2_000);
    cluster.input(node, |node, now| node.handle_request(now, id, inbound, due, Request::Reconcile(told)));
}

/// Hands `node` this change on, as an announcement.
pub(crate) fn announce(cluster: &mut Cluster, via: usize, node: usize, change: Change) {
    let heard = Heard { via: cluster.machines[via].id, name: change.digest().0 };
    cluster.input(node, |node, now| node.handle_news(now, News::Announced { heard, change }));
}

fn counter(cluster: &Cluster, node: usize, name: &str) -> u64 {
    let counters: BTreeMap<String, u64> =
        cluster.node(node).expect("it is up").counters().to_list().into_iter().collect();
    counters[name]
}

fn updated(cluster: &Cluster, node: usize) -> ChangeKind {
    ChangeKind::Updated(Profile { weight: 2, ..cluster.machines[node].config.profile.clone() })
}

/// What a liar at node 2 may send, each with how many of it are refused.
fn forgeries(cluster: &Cluster) -> Vec<(&'static str, Vec<Change>, u64)> {
    let (liar, history) = (cluster.machines[2].signer(), cluster.machines[2].history());
    let kind = updated(cluster, 2);
    let sound = history.next_change(liar, kind.clone());
    let other = cluster.machines[1].id;
    let signed = |sequence: u64, previous, lamport: u64| {
        Change::sign(liar, sound.cluster, sequence, previous, lamport, kind.clone())
    };
    let stranger = Signer::from_seed([99; 32]);
    vec![
        ("a signature of something else", vec![Change { lamport: sound.lamport + 1, ..sound.clone() }], 1),
        ("another's name", vec![Change { author: other, sequence: history.known_of(&other), ..sound.clone() }], 1),
        ("a Lamport time at the end of all numbers", vec![signed(sound.sequence, sound.previous, u64::MAX)], 1),
        ("a Lamport time far from everybody's", vec![signed(sound.sequence, sound.previous, COUNTER_MAX)], 1),
        ("a number far ahead", vec![signed(sound.sequence + 5, sound.previous, sound.lamport)], 1),
        ("a predecessor that there never was", vec![signed(sound.sequence, Some(sound.digest()), sound.lamport)], 1),
        ("a stranger's word", vec![history.next_change(&stranger, ChangeKind::Leaving)], 1),
        ("more than a message takes", vec![sound.clone(); FLOOD], FLOOD as u64),
        (
            "forgeries after a sound beginning of nothing new",
            {
                let known = history.iter().cloned();
                known.chain([Change { lamport: 7, ..sound.clone() }]).collect()
            },
            1,
        ),
    ]
}

#[test]
fn forged_changes_are_refused_and_counted_and_their_sender_is_not_heard_for_a_while() {
    let mut cluster = Cluster::settled(90, 3, 3);
    cluster.put(0, "k", "v", Consistency::All).expect_stored();
    cluster.run_for(3_000);
    let before = cluster.machines[0].history().digest();
    let mut offences = 0;
    for (what, changes, expected) in forgeries(&cluster) {
        let refused = counter(&cluster, 0, "changes_refused");
        tell(&mut cluster, 2, 0, changes.clone());
        offences += 1;
        assert_eq!(counter(&cluster, 0, "changes_refused"), refused + expected, "{what}");
        assert_eq!(counter(&cluster, 0, "history_offences"), offences, "{what}");

        // Said again at once, it is not even looked at.
        let unheard = counter(&cluster, 0, "offenders_refused");
        tell(&mut cluster, 2, 0, changes);
        assert_eq!(counter(&cluster, 0, "changes_refused"), refused + expected, "{what}");
        assert_eq!(counter(&cluster, 0, "offenders_refused"), unheard + 1, "{what}");

        cluster.run_for(1_000 << offences);
        for node in 0..3 {
            assert_eq!(cluster.machines[node].history().digest(), before, "{what}: nothing of it is on a disk");
            assert_eq!(cluster.node(node).unwrap().history_digest(), before, "{what}");
        }
    }
    let load = cluster.node(0).unwrap().load();
    assert!(load.iter().all(|count| *count < 50), "{load:?}");
    assert_eq!(values(&cluster.get(2, "k", Consistency::All)), ["v"], "what it stores is not doubted");
    // Once its penalty is over its true words count again.
    let addresses = vec!["/ip4/10.0.0.9/tcp/9".to_owned()];
    cluster.input(2, |node, now| node.handle_news(now, News::Listening(addresses)));
    cluster.run_until(20_000, "all know what it said", |cluster| {
        checker::difference(cluster).is_none() && cluster.node(0).unwrap().history_digest() != before
    });
    assert!((1..3).all(|node| counter(&cluster, node, "history_offences") == 0), "nobody else was accused");
}

#[test]
fn an_announced_forgery_goes_no_further_and_costs_whoever_hands_it_on_its_audience() {
    let mut cluster = Cluster::settled(92, 3, 3);
    cluster.run_for(3_000);
    let before = cluster.node(0).unwrap().history_digest();
    let (liar, history) = (cluster.machines[2].signer(), cluster.machines[2].history());
    let sound = history.next_change(liar, updated(&cluster, 2));
    let kind = sound.kind.clone();
    let forgeries = [
        ("a signature of something else", Change { lamport: sound.lamport + 1, ..sound.clone() }),
        ("another's name", Change { author: cluster.machines[1].id, ..sound.clone() }),
        (
            "a Lamport time at the end of all numbers",
            Change::sign(liar, sound.cluster, sound.sequence, sound.previous, u64::MAX, kind),
        ),
    ];
    for (offences, (what, forgery)) in (1..).zip(forgeries) {
        let (refused, unheard) = (counter(&cluster, 0, "changes_refused"), counter(&cluster, 0, "offenders_refused"));
        announce(&mut cluster, 2, 0, forgery.clone());
        assert_eq!(counter(&cluster, 0, "changes_refused"), refused + 1, "{what}");
        assert_eq!(counter(&cluster, 0, "history_offences"), offences, "{what}");
        assert!(matches!(cluster.judged.last(), Some((0, _, Verdict::Reject))), "{what}: {:?}", cluster.judged.last());

        // What it hands on next is not even looked at, nor are its comparisons; both without another penalty.
        announce(&mut cluster, 2, 0, forgery);
        assert!(matches!(cluster.judged.last(), Some((0, _, Verdict::Keep))), "{what}: {:?}", cluster.judged.last());
        tell(&mut cluster, 2, 0, Vec::new());
        assert_eq!(counter(&cluster, 0, "offenders_refused"), unheard + 2, "{what}");
        assert_eq!(counter(&cluster, 0, "history_offences"), offences, "{what}");
        cluster.run_for(1_000 << offences);
        assert_eq!(cluster.node(0).unwrap().history_digest(), before, "{what}");
    }
    announce(&mut cluster, 2, 0, sound);
    assert!(matches!(cluster.judged.last(), Some((0, _, Verdict::PassOn))), "its true words count again");
    cluster.run_until(20_000, "all know what it said", |cluster| {
        checker::difference(cluster).is_none() && cluster.node(0).unwrap().history_digest() != before
    });
    assert!((1..3).all(|node| counter(&cluster, node, "history_offences") == 0), "nobody else was accused");
}

#[test]
fn what_somebody_honest_may_hand_on_is_no_offence_though_it_is_refused() {
    let mut cluster = Cluster::settled(93, 3, 3);
    cluster.run_for(3_000);
    let (author, history) = (cluster.machines[2].signer(), cluster.machines[2].history());
    let sound = history.next_change(author, updated(&cluster, 2));
    let signed = |sequence: u64, previous, lamport: u64| {
        Change::sign(author, sound.cluster, sequence, previous, lamport, sound.kind.clone())
    };
    let stranger = Signer::from_seed([99; 32]);
    let mut namesake = History::new(cluster.machines[2].config.cluster.clone());
    let founded =
        namesake.next_change(&stranger, ChangeKind::Founded(Parameters { replicas: 2, ..parameters(&history) }));
    namesake.insert(founded.clone()).unwrap();
    let of_namesake = namesake.next_change(&stranger, updated(&cluster, 2));
    let cases = [
        ("a gap", signed(sound.sequence + 5, sound.previous, sound.lamport), Verdict::PassOn),
        ("a branch nobody here knows", signed(sound.sequence, Some(sound.digest()), sound.lamport), Verdict::PassOn),
        ("a time far ahead", signed(sound.sequence, sound.previous, COUNTER_MAX), Verdict::PassOn),
        ("a stranger's word", history.next_change(&stranger, ChangeKind::Leaving), Verdict::Keep),
        ("the founding of a namesake", founded, Verdict::Keep),
        ("a word of a namesake", of_namesake, Verdict::Keep),
    ];
    for (what, change, verdict) in cases {
        let refused = counter(&cluster, 0, "changes_refused");
        announce(&mut cluster, 1, 0, change);
        assert_eq!(counter(&cluster, 0, "changes_refused"), refused + 1, "{what}");
        assert_eq!(cluster.judged.last().map(|(_, _, verdict)| *verdict), Some(verdict), "{what}");
    }
    cluster.run_for(3_000);
    assert!((0..3).all(|node| counter(&cluster, node, "history_offences") == 0), "somebody was accused");
}

fn parameters(history: &History) -> Parameters {
    history.parameters().expect("somebody has founded the cluster")
}

#[test]
fn a_removed_member_is_heard_no_further_than_what_was_under_way() {
    let mut cluster = Cluster::settled(91, 4, 3);
    let removed = cluster.machines[3].id;
    cluster.crash(3, 20);
    cluster.run_for(3_000);
    let mut posthumous: Vec<Change> = Vec::new();
    let mut history: History = cluster.machines[3].history();
    for _ in 0..2 * POSTHUMOUS_COUNT_MAX {
        let change = history.next_change(cluster.machines[3].signer(), updated(&cluster, 3));
        history.insert(change.clone()).unwrap();
        posthumous.push(change);
    }
    let order = Order::Membership(MembershipOrder::Remove { node: removed, force: Force::Yes });
    cluster.ask(0, ClientRequest::Administer(order));
    cluster.run_for(5_000);
    let known = known_of(&cluster, 0, &removed);
    tell(&mut cluster, 2, 0, posthumous);
    cluster.run_for(5_000);
    assert!(counter(&cluster, 0, "changes_refused") >= POSTHUMOUS_COUNT_MAX);
    assert_eq!(counter(&cluster, 0, "history_offences"), 0, "who passes it on may not know of the removal");
    for node in 0..3 {
        assert_eq!(known_of(&cluster, node, &removed), known + POSTHUMOUS_COUNT_MAX, "node {node}");
        assert!(!cluster.node(node).unwrap().view().members.contains_key(&removed));
    }
}

/// How many changes of `author` are on the disk of `node`.
fn known_of(cluster: &Cluster, node: usize, author: &NodeId) -> u64 {
    cluster.machines[node].history().known_of(author)
}
