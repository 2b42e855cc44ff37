//! Laws of histories whose authors signed different changes under one number.

use proptest::prelude::*;

use crate::{
    ident::Name,
    limits::{CHANGES_PER_MESSAGE_MAX, FORK_COUNT_MAX},
    membership::{
        change::{Change, ChangeKind, Parameters, Profile},
        history::{History, HistoryError, Inserted},
        samples::{Cluster, signer},
        summary::Summary,
        view::View,
    },
    ring::token::{Partition, PartitionCount},
};

/// A history founded and joined by node 1, and joined by node 2.
fn begun() -> History {
    let mut history = History::new(Name::new("quorate").unwrap());
    let parameters = Parameters { partitions: PartitionCount::new(8).unwrap(), replicas: 3 };
    say(&mut history, 1, ChangeKind::Founded(parameters));
    say(&mut history, 1, joined(1));
    say(&mut history, 2, joined(1));
    history
}

/// Of each number another profile.
fn joined(number: u16) -> ChangeKind {
    let name = Name::new(&format!("n{number}")).unwrap();
    ChangeKind::Joined(Profile { name, zone: None, weight: 1 + number % 4, addresses: Vec::new() })
}

#[track_caller]
fn say(history: &mut History, author: u8, kind: ChangeKind) -> Change {
    let change = history.next_change(&signer(author), kind);
    assert_eq!(history.insert(change.clone()), Ok(Inserted::New));
    change
}

/// Of a number a kind, so that branches say different things.
fn kind(number: u8) -> ChangeKind {
    match number % 4 {
        0 => ChangeKind::Leaving,
        1 => ChangeKind::Left,
        _ => joined(u16::from(number)),
    }
}

#[track_caller]
fn assert_equal(a: &History, b: &History) {
    assert_eq!((a.digest(), a.summary(), a.len()), (b.digest(), b.summary(), b.len()));
    assert!(a.iter().eq(b.iter()));
    assert!(a.forked().eq(b.forked()));
    let (view, other) = (View::fold(a), View::fold(b));
    assert_eq!(view.partition_digest(Partition(3)), other.partition_digest(Partition(3)));
    assert_eq!(view, other);
}

/// Lets two exchange what they lack, as nodes do, until neither learns anything. Returns how many messages that took.
fn level(a: &mut History, b: &mut History, limit: usize) -> usize {
    let mut messages = 0;
    loop {
        let mut learned = 0;
        learned += take(a, b.since(&a.summary(), limit));
        learned += take(b, a.since(&b.summary(), limit));
        messages += 2;
        if learned == 0 {
            return messages;
        }
    }
}

#[track_caller]
fn take(history: &mut History, changes: Vec<Change>) -> usize {
    let insert = |change| match history.insert(change) {
        Ok(Inserted::New) => 1,
        Ok(Inserted::Known) => 0,
        Err(error) => panic!("what is sent can be taken in: {error}"),
    };
    changes.into_iter().map(insert).sum()
}

/// Histories of several processes, some of which share an identity: each step one of them says something, or learns all that
/// another knows. Few enough branches.
fn any_processes() -> impl Strategy<Value = Vec<History>> {
    // Processes 0 and 1 are node 1, 2 and 3 are node 2, and 4 is node 3.
    proptest::collection::vec((0..5_usize, 0..6_usize, any::<u8>()), 0..14).prop_map(|steps| {
        let mut processes = vec![begun(); 5];
        say(&mut processes[4], 3, joined(1));
        for (process, other, number) in steps {
            let author = [1, 1, 2, 2, 3][process];
            if other < 5 && number % 3 == 0 {
                let changes = processes[other].iter().cloned().collect();
                take(&mut processes[process], changes);
            } else {
                // The number tells the changes of the two processes of one node apart.
                let number = number / 8 * 8 + u8::try_from(process).unwrap();
                say(&mut processes[process], author, kind(number.max(4)));
            }
        }
        processes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn forks_end_in_one_history_whatever_the_order_in_which_histories_meet(
        processes in any_processes(),
        meetings in proptest::collection::vec((0..5_usize, 0..5_usize, 32..40_usize), 0..6),
    ) {
        let mut met = processes.clone();
        for (one, other, limit) in meetings {
            if one != other {
                let mut copy = met[other].clone();
                level(&mut met[one], &mut copy, limit);
                assert_equal(&met[one], &copy);
                met[other] = copy;
            }
        }
        // By comparing with one another, in either direction round, and by taking in everything in reverse of the rest.
        let mut forward = met[0].clone();
        met[1..].iter().for_each(|other| { level(&mut forward, &mut other.clone(), 40); });
        let mut backward = processes[4].clone();
        processes.iter().rev().for_each(|other| { take(&mut backward, other.iter().cloned().collect()); });
        assert_equal(&forward, &backward);
    }

    #[test]
    fn a_fork_is_taken_in_whichever_branch_comes_first(
        left in proptest::collection::vec(any::<u8>(), 1..5),
        right in proptest::collection::vec(any::<u8>(), 1..5),
        picks in proptest::collection::vec(any::<bool>(), 10),
    ) {
        let branch = |numbers: &[u8], side: u16| {
            let mut history = begun();
            let mut changes = vec![say(&mut history, 2, joined(100 + side))];
            changes.extend(numbers.iter().map(|number| say(&mut history, 2, kind(*number))));
            changes
        };
        let (left, right) = (branch(&left, 0), branch(&right, 1));
        let mut one = begun();
        take(&mut one, left.iter().chain(&right).cloned().collect());
        let (mut lefts, mut rights) = (left.into_iter().peekable(), right.into_iter().peekable());
        let mut mixed = begun();
        for pick in picks.into_iter().cycle() {
            let next = if pick { lefts.next().or_else(|| rights.next()) } else { rights.next().or_else(|| lefts.next()) };
            let Some(change) = next else { break };
            take(&mut mixed, vec![change]);
        }
        assert_equal(&one, &mixed);
        prop_assert!(one.forked().eq([&signer(2).node_id()]));
    }
}

#[test]
fn a_branch_of_which_the_beginning_is_missing_is_refused_and_asked_for() {
    let (mut history, mut twin) = (begun(), begun());
    say(&mut history, 2, joined(2));
    say(&mut history, 2, joined(2));
    say(&mut twin, 2, joined(3));
    let late = say(&mut twin, 2, joined(4));
    assert_eq!(history.insert(late), Err(HistoryError::Loose { author: signer(2).node_id(), sequence: 2 }));
    assert_eq!(history.forked().count(), 0);
    level(&mut history, &mut twin, 8);
    assert_equal(&history, &twin);
}

#[test]
fn who_signs_more_branches_than_a_copied_disk_makes_is_heard_no_further() {
    let mut history = begun();
    let before = history.clone();
    let branches = u16::try_from(FORK_COUNT_MAX).unwrap();
    for number in 0..branches {
        history.insert(before.next_change(&signer(2), joined(10 + number))).unwrap();
    }
    let refused = HistoryError::Forked { author: signer(2).node_id(), sequence: 1 };
    assert_eq!(history.insert(before.next_change(&signer(2), joined(99))), Err(refused));
    let summary = cbor4ii::serde::to_vec(Vec::new(), &history.summary()).unwrap();
    assert_eq!(
        cbor4ii::serde::from_slice::<Summary>(&summary).unwrap(),
        history.summary(),
        "what is told of it can be read"
    );
    say(&mut history, 2, joined(50));
    assert_eq!(history.summary().tips(&signer(2).node_id()).len(), FORK_COUNT_MAX, "it continues one of them");
}

#[test]
fn branches_that_parted_long_ago_find_to_each_other() {
    let mut common = begun();
    (0..20).for_each(|_| drop(say(&mut common, 2, joined(1))));
    let (mut left, mut right) = (common.clone(), common);
    (0..400).for_each(|_| drop(say(&mut left, 2, joined(2))));
    (0..300).for_each(|_| drop(say(&mut right, 2, joined(3))));
    let messages = level(&mut left, &mut right, CHANGES_PER_MESSAGE_MAX);
    assert_equal(&left, &right);
    assert!(messages <= 10, "{messages}");
}

/// A node that knows one branch and one that knows both have equal labels, and may have different rows.
#[test]
fn who_does_not_know_of_a_fork_does_not_count_with_who_does() {
    let (mut one, mut twin) = (begun(), begun());
    say(&mut one, 2, ChangeKind::Leaving);
    let fork = say(&mut twin, 2, joined(3));
    let before = View::fold(&one);
    one.insert(fork).unwrap();
    let after = View::fold(&one);
    assert_eq!(before.label, after.label);
    assert_ne!(before.partition_digest(Partition(0)), after.partition_digest(Partition(0)));
    assert!(before.forked.is_empty() && after.forked.contains(&signer(2).node_id()));
}

/// Also of the shorter of two branches, though the label is not changed by it.
#[test]
fn who_knows_less_of_a_branch_that_decides_does_not_count_with_who_knows_all() {
    let mut history = begun();
    let mut twin = history.clone();
    (0..3).for_each(|number| drop(say(&mut history, 2, joined(10 + number))));
    let fork = [say(&mut twin, 2, joined(20)), say(&mut twin, 2, ChangeKind::Leaving)];
    let digests = fork.map(|change| {
        history.insert(change).unwrap();
        View::fold(&history)
    });
    let [less, all] = digests;
    assert_eq!(less.label, all.label);
    assert_ne!(less.placement_digest(), all.placement_digest());
}

/// Rings are shared between views while their labels are the same; what a label covers grows with a fork.
#[test]
fn a_view_that_was_made_before_a_fork_was_known_leads_to_the_same_view() {
    let mut moved = 0;
    for number in 0..12 {
        let mut cluster = Cluster::settled(4);
        let fork = cluster.history.next_change(&signer(2), joined(number));
        cluster.say(2, |_| ChangeKind::Leaving);
        [1, 3, 4].into_iter().for_each(|number| cluster.fill(number));
        let before = cluster.view();
        assert!(before.configurations.label_count() > 1, "something was said under the label");
        cluster.history.insert(fork).unwrap();
        let after = View::fold(&cluster.history);
        assert_eq!(before.refold(&cluster.history), after);
        moved += usize::from(before.ring != after.ring);
    }
    assert!(0 < moved && moved < 12, "of some forks the one word counts last, of some the other: {moved}");
}
