//! Laws of the view for every kind of change: of members that leave, are removed or replaced, and say what they hold.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::{
    ident::NodeId,
    membership::{
        change::{Change, ChangeKind, Removal, Replacement, Statement},
        history::{History, Inserted},
        properties::{assert_equal, author, empty, founded, interleave, profile, pull, signer},
        samples::Cluster,
        view::View,
    },
    ring::partition_set::PartitionSet,
};

/// What an author does in one step.
#[derive(Debug, Clone, Copy)]
struct Step {
    author: u8,
    learns: bool,
    what: u8,
    subjects: [u8; 2],
}

fn any_step() -> impl Strategy<Value = Step> {
    (1..=6_u8, any::<bool>(), 0..9_u8, [1..=7_u8, 1..=7_u8]).prop_map(|(author, learns, what, subjects)| Step {
        author,
        learns,
        what,
        subjects,
    })
}

/// What `step` makes its author say, from what it knows.
fn kind(history: &History, step: Step) -> ChangeKind {
    let removal = |number: u8| {
        let node = signer(number).node_id();
        Removal { node, known: history.known_of(&node) }
    };
    let has_joined = history
        .iter()
        .any(|change| change.author == signer(step.author).node_id() && matches!(change.kind, ChangeKind::Joined(_)));
    let View { label, parameters, .. } = View::fold(history);
    let partitions = parameters.expect("it was founded").partitions;
    let [one, other] = step.subjects;
    let statement = |count: usize| {
        let partitions = PartitionSet::new(partitions, partitions.iter().take(count));
        Statement { label: label.clone(), partitions }
    };
    match step.what {
        _ if !has_joined => ChangeKind::Joined(profile(1 + u16::from(one) % 3)),
        0 => ChangeKind::Joined(profile(1 + u16::from(one) % 3)),
        1 => ChangeKind::Updated(profile(1 + u16::from(other) % 4)),
        2 => ChangeKind::Leaving,
        3 => ChangeKind::Left,
        4 => ChangeKind::Removed(removal(one)),
        5 => ChangeKind::Replaced(Replacement { old: removal(one), new: signer(other).node_id() }),
        6 => ChangeKind::Retired(statement(usize::from(one))),
        _ => ChangeKind::Filled(statement(8)),
    }
}

/// What six authors say who learn of each other now and then: everything there is to say, sensible or not.
fn any_history() -> impl Strategy<Value = History> {
    proptest::collection::vec(any_step(), 0..24).prop_map(|steps| {
        let mut all = empty();
        author(&mut all, 1, founded(8, 3));
        let mut nodes: BTreeMap<u8, History> = (1..=6).map(|number| (number, all.clone())).collect();
        for step in steps {
            let node = nodes.get_mut(&step.author).unwrap();
            if step.learns {
                pull(node, &all, 9);
            }
            let kind = kind(node, step);
            author(node, step.author, kind);
            pull(&mut all, node, 9);
        }
        all
    })
}

/// Everybody whom a change of `history` takes away without condition.
fn removed(history: &History) -> Vec<NodeId> {
    let of = |change: &Change| match &change.kind {
        ChangeKind::Removed(removal) => Some(removal.node),
        _ => None,
    };
    history.iter().filter_map(of).collect()
}

#[track_caller]
fn assert_gone(history: &History, node: &NodeId) {
    let view = View::fold(history);
    assert!(view.removed.contains_key(node) && !view.members.contains_key(node));
    assert!(view.ring.is_none_or(|ring| ring.members().iter().all(|member| member.id != *node)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_interleaving_of_every_kind_folds_to_one_view(
        history in any_history(),
        picks in proptest::collection::vec(0..6_usize, 1..20),
    ) {
        let mut other = empty();
        let mut refolded = View::fold(&other);
        for change in interleave(&history, &picks) {
            prop_assert_eq!(other.insert(change), Ok(Inserted::New));
            refolded = refolded.refold(&other);
        }
        assert_equal(&history, &other);
        prop_assert_eq!(refolded, View::fold(&history), "and by the steps by which a node gets there");
    }

    #[test]
    fn removed_absorbs_whatever_was_said_before_and_is_said_after(
        history in any_history(),
        steps in proptest::collection::vec(any_step(), 1..6),
    ) {
        removed(&history).iter().for_each(|node| assert_gone(&history, node));
        let mut later = history;
        let gone = signer(2).node_id();
        if later.known_of(&signer(1).node_id()) < 2 {
            author(&mut later, 1, ChangeKind::Joined(profile(1)));
        }
        let removal = Removal { node: gone, known: later.known_of(&gone) };
        author(&mut later, 1, ChangeKind::Removed(removal));
        for step in steps {
            let kind = kind(&later, Step { author: 2, ..step });
            author(&mut later, 2, kind);
            assert_gone(&later, &gone);
        }
    }

    #[test]
    fn of_two_replacements_of_one_member_the_earlier_inherits(
        delays in [0..3_usize, 0..3_usize],
        order in any::<bool>(),
    ) {
        // Members 1 and 2 replace 3, not knowing of each other: by 4 and by 5.
        let cluster = Cluster::settled(3);
        let old = cluster.removal(3);
        let branch = |number: u8, new: u8, delay: usize| {
            let mut history = cluster.history.clone();
            let mut changes: Vec<Change> =
                (0..delay).map(|_| author(&mut history, number, ChangeKind::Updated(profile(1)))).collect();
            let replacement = Replacement { old, new: signer(new).node_id() };
            changes.push(author(&mut history, number, ChangeKind::Replaced(replacement)));
            changes
        };
        let branches = [branch(1, 4, delays[0]), branch(2, 5, delays[1])];
        let position = |changes: &[Change]| {
            let last = changes.last().unwrap();
            (last.lamport, last.author, last.sequence)
        };
        let (heir, other) = if position(&branches[0]) < position(&branches[1]) { (4, 5) } else { (5, 4) };
        let mut history = cluster.history.clone();
        let [one, two] = if order { [0, 1] } else { [1, 0] };
        for change in branches[one].iter().chain(&branches[two]) {
            history.insert(change.clone()).unwrap();
        }
        let newcomers = if order { [4, 5] } else { [5, 4] };
        newcomers.iter().for_each(|number| drop(author(&mut history, *number, ChangeKind::Joined(profile(1)))));
        let view = View::fold(&history);
        prop_assert_eq!(view.members[&signer(heir).node_id()].placement, signer(3).node_id());
        prop_assert_eq!(view.members[&signer(other).node_id()].placement, signer(other).node_id());
        assert_gone(&history, &signer(3).node_id());
    }

    #[test]
    fn a_replacement_moves_the_rows_of_the_replaced_and_no_others(
        count in 2..9_u8,
        picks in [any::<prop::sample::Index>(), any::<prop::sample::Index>()],
    ) {
        let mut cluster = Cluster::settled(count);
        let pick = |index: prop::sample::Index| 1 + u8::try_from(index.index(usize::from(count))).unwrap();
        let (old, new) = (pick(picks[0]), count + 1);
        let by = if pick(picks[1]) == old { 1 + old % count } else { pick(picks[1]) };
        let before = cluster.view();
        cluster.say(by, |cluster| {
            ChangeKind::Replaced(Replacement { old: cluster.removal(old), new: cluster.id(new) })
        });
        prop_assert_eq!(cluster.view().ring, before.ring.clone(), "not before the new one has joined");
        cluster.join(new);
        let after = cluster.view();
        for partition in before.partitions() {
            let moved = |node: &NodeId| if *node == cluster.id(old) { cluster.id(new) } else { *node };
            let expected: Vec<NodeId> = before.row(partition).iter().map(moved).collect();
            prop_assert_eq!(after.row(partition), &expected[..]);
        }
    }
}

#[test]
fn when_all_would_go_the_last_to_say_so_holds_everything() {
    let mut cluster = Cluster::settled(4);
    cluster.say(4, |_| ChangeKind::Leaving);
    cluster.say(4, |_| ChangeKind::Left);
    // Two that do not know of each other, under one Lamport time, and one that is told to go later.
    let branch = |number: u8| {
        let mut history = cluster.history.clone();
        author(&mut history, number, ChangeKind::Leaving)
    };
    for change in [branch(1), branch(2)] {
        cluster.history.insert(change).unwrap();
    }
    let rows = |cluster: &Cluster| -> Vec<Vec<u8>> {
        let view = cluster.view();
        let numbers = |partition| view.row(partition).iter().map(|node| cluster.number_of(node)).collect();
        view.partitions().map(numbers).collect()
    };
    assert_eq!(rows(&cluster), vec![vec![3]; 8]);
    cluster.say(3, |_| ChangeKind::Leaving);
    assert_eq!(rows(&cluster), vec![vec![3]; 8]);
    cluster.say(1, |_| ChangeKind::Joined(profile(1)));
    assert_eq!(rows(&cluster), vec![vec![1]; 8], "it stays");
}
