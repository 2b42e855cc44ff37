//! Laws of the history and the view, for histories of several authors who know more or less of each other.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use proptest::prelude::*;

use crate::{
    digest::Digest,
    ident::{ClusterId, Name, NodeId},
    limits::{ADDRESS_COUNT_MAX, ADDRESS_LIMIT_BYTES, COUNTER_MAX, MEMBER_COUNT_MAX, WEIGHT_MAX},
    membership::{
        change::{Change, ChangeError, ChangeKind, Parameters, Profile, Signature, Signer},
        history::{History, HistoryError, Inserted},
        summary::{Mark, Summary, Tip},
        view::View,
    },
    ring::token::{Partition, PartitionCount},
};

pub(crate) fn signer(number: u8) -> Signer {
    Signer::from_seed([number; 32])
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn founded(partitions: u32, replicas: u8) -> ChangeKind {
    ChangeKind::Founded(Parameters { partitions: PartitionCount::new(partitions).unwrap(), replicas })
}

pub(crate) fn profile(weight: u16) -> Profile {
    let addresses = vec!["/ip4/127.0.0.1/tcp/4001".to_owned()];
    Profile { name: name("ann"), zone: (weight > 2).then(|| name("far")), weight, addresses }
}

pub(crate) fn empty() -> History {
    History::new(name("quorate"))
}

/// Lets `author` make its next change from what `history` knows.
#[track_caller]
pub(crate) fn author(history: &mut History, author: u8, kind: ChangeKind) -> Change {
    let change = history.next_change(&signer(author), kind);
    assert_eq!(history.insert(change.clone()), Ok(Inserted::New));
    change
}

/// A history founded and joined by node 1.
fn founded_by_one() -> History {
    let mut history = empty();
    author(&mut history, 1, founded(8, 3));
    author(&mut history, 1, ChangeKind::Joined(profile(1)));
    history
}

/// Makes `history` learn everything that `source` knows, in pages of `limit`.
#[track_caller]
pub(crate) fn pull(history: &mut History, source: &History, limit: usize) {
    while history.lacks(&source.summary()) {
        let page = source.since(&history.summary(), limit);
        assert!(!page.is_empty() && page.len() <= limit);
        for change in page {
            assert_eq!(history.insert(change), Ok(Inserted::New));
        }
    }
}

/// Three founders' and three joiners' history: each step, one of them learns all or nothing, then joins or updates.
fn any_history() -> impl Strategy<Value = History> {
    proptest::collection::vec((1..=6_u8, any::<bool>(), 1..=4_u16), 0..14).prop_map(|steps| {
        let mut all = empty();
        let mut nodes: BTreeMap<u8, History> = (1..=6).map(|number| (number, empty())).collect();
        for (number, learns, weight) in [(1, false, 1)].into_iter().chain(steps) {
            let node = nodes.get_mut(&number).unwrap();
            if learns || (number > 3 && node.is_empty()) {
                pull(node, &all, 5);
            }
            if node.is_empty() {
                author(node, number, founded(8, 3));
            }
            let is_member = node.iter().any(|change| {
                change.author == signer(number).node_id() && matches!(change.kind, ChangeKind::Joined(_))
            });
            let kind = if is_member { ChangeKind::Updated } else { ChangeKind::Joined };
            author(node, number, kind(profile(weight)));
            pull(&mut all, node, 3);
        }
        all
    })
}

/// All changes of `history`, mixed by `picks`; only the order of each author's own is kept, and a founding is first.
pub(crate) fn interleave(history: &History, picks: &[usize]) -> Vec<Change> {
    let mut chains: BTreeMap<NodeId, VecDeque<Change>> = BTreeMap::new();
    for change in history.iter() {
        chains.entry(change.author).or_default().push_back(change.clone());
    }
    let mut mixed = Vec::new();
    let mut picks = picks.iter().cycle();
    while !chains.is_empty() {
        let heads =
            chains.values_mut().filter(|chain| !mixed.is_empty() || matches!(chain[0].kind, ChangeKind::Founded(_)));
        let mut heads: Vec<_> = heads.collect();
        let pick = picks.next().unwrap() % heads.len();
        mixed.extend(heads[pick].pop_front());
        chains.retain(|_, chain| !chain.is_empty());
    }
    mixed
}

#[track_caller]
pub(crate) fn assert_equal(a: &History, b: &History) {
    assert_eq!(a.digest(), b.digest());
    assert_eq!(a.summary(), b.summary());
    assert_eq!(a.len(), b.len());
    assert!(a.iter().eq(b.iter()));
    let (view, other) = (View::fold(a), View::fold(b));
    assert_eq!(view.partition_digest(Partition(3)), other.partition_digest(Partition(3)));
    assert_eq!(view, other);
}

/// Inserting `change` must give `expected` and change nothing.
#[track_caller]
fn check_refused(history: &mut History, change: Change, expected: HistoryError) {
    let before = history.clone();
    assert_eq!(history.check(&change), Err(expected.clone()));
    assert_eq!(history.insert(change), Err(expected));
    assert_equal(history, &before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_order_of_arrival_across_authors_is_irrelevant(
        history in any_history(),
        picks in proptest::collection::vec(0..6_usize, 1..20),
    ) {
        let mut other = empty();
        for change in interleave(&history, &picks) {
            prop_assert_eq!(other.insert(change), Ok(Inserted::New));
        }
        assert_equal(&history, &other);
    }

    #[test]
    fn two_histories_that_exchange_what_they_lack_become_equal(
        history in any_history(),
        picks in proptest::collection::vec(0..6_usize, 1..20),
        cuts in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        limit in 1..6_usize,
    ) {
        let mixed = interleave(&history, &picks);
        let prefix = |changes: &[Change], cut: prop::sample::Index| {
            let mut part = empty();
            for change in &changes[..=cut.index(changes.len())] {
                part.insert(change.clone()).unwrap();
            }
            part
        };
        let canonical: Vec<Change> = history.iter().cloned().collect();
        let (mut a, mut b) = (prefix(&mixed, cuts.0), prefix(&canonical, cuts.1));
        pull(&mut a, &b, limit);
        pull(&mut b, &a, limit);
        assert_equal(&a, &b);
    }

    #[test]
    fn changes_are_sorted_and_known_ones_change_nothing(history in any_history()) {
        let mut again = history.clone();
        prop_assert!(history.iter().map(|c| (c.lamport, c.author, c.sequence)).is_sorted());
        for change in history.iter() {
            prop_assert_eq!(again.insert(change.clone()), Ok(Inserted::Known));
        }
        assert_equal(&again, &history);
        prop_assert!(history.since(&history.summary(), 9).is_empty());
    }

    #[test]
    fn a_change_survives_encoding_and_its_damaged_bytes_never_pass(
        weight in 1..=4_u16,
        position in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
    ) {
        let change = founded_by_one().next_change(&signer(2), ChangeKind::Joined(profile(weight)));
        let mut bytes = encode(&change);
        prop_assert_eq!(&cbor4ii::serde::from_slice::<Change>(&bytes).unwrap(), &change);
        let at = position.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(damaged) = cbor4ii::serde::from_slice::<Change>(&bytes) {
            prop_assert!(damaged == change || damaged.verify().is_err());
        }
        bytes.truncate(at);
        prop_assert!(cbor4ii::serde::from_slice::<Change>(&bytes).is_err());
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = cbor4ii::serde::from_slice::<Change>(&bytes).map(|change| change.verify());
        let _ = cbor4ii::serde::from_slice::<Profile>(&bytes);
        let _ = cbor4ii::serde::from_slice::<Summary>(&bytes);
        let _ = cbor4ii::serde::from_slice::<Signature>(&bytes);
    }
}

fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    cbor4ii::serde::to_vec(Vec::new(), value).unwrap()
}

#[test]
fn forged_changes_are_refused() {
    let mut history = founded_by_one();
    let honest = history.next_change(&signer(2), ChangeKind::Joined(profile(1)));
    let (mut neutral, mut fits_all) = ([0; 32], [0; 64]);
    (neutral[0], fits_all[0]) = (1, 1);
    let forgeries = [
        Change { author: signer(3).node_id(), ..honest.clone() },
        Change { lamport: honest.lamport + 1, ..honest.clone() },
        Change { kind: ChangeKind::Joined(profile(2)), ..honest.clone() },
        Change { kind: ChangeKind::Updated(profile(1)), ..honest.clone() },
        Change { signature: Signature([0; 64]), ..honest.clone() },
        // The neutral point as a key: but for strictness this signature would fit every message.
        Change { author: NodeId(neutral), signature: Signature(fits_all), ..honest.clone() },
        Change { author: NodeId([255; 32]), ..honest.clone() },
    ];
    for forgery in forgeries {
        check_refused(&mut history, forgery, HistoryError::BadSignature);
    }
    // Nobody can pass off a forgery as a fork of an honest author's chain.
    let known = history.iter().next().unwrap().clone();
    let forgery = Change { kind: founded(16, 3), ..known };
    check_refused(&mut history, forgery, HistoryError::BadSignature);
}

/// An author may sign the same words twice, with different results; that is no fork.
#[test]
fn a_known_change_stays_known_under_another_signature() {
    let mut history = founded_by_one();
    let known = history.iter().next().unwrap().clone();
    assert_eq!(history.insert(Change { signature: Signature([7; 64]), ..known.clone() }), Ok(Inserted::Known));
    assert_eq!(history.iter().next(), Some(&known));
}

#[test]
fn a_gap_names_what_is_missing() {
    let mut source = founded_by_one();
    let mut history = source.clone();
    author(&mut source, 1, ChangeKind::Updated(profile(2)));
    let last = author(&mut source, 1, ChangeKind::Updated(profile(3)));
    check_refused(&mut history, last, HistoryError::Gap { expected: 2, actual: 3 });
    let mut stranger = empty();
    author(&mut stranger, 2, founded(8, 3));
    let second = author(&mut stranger, 2, ChangeKind::Joined(profile(1)));
    check_refused(&mut history, second, HistoryError::Gap { expected: 0, actual: 1 });
}

#[test]
fn changes_of_another_cluster_are_refused() {
    let mut other = History::new(name("other"));
    let founding = author(&mut other, 2, founded(8, 3));
    let joining = author(&mut other, 2, ChangeKind::Joined(profile(1)));
    for mut history in [empty(), founded_by_one()] {
        check_refused(&mut history, founding.clone(), HistoryError::OtherCluster);
    }
    let signed_for_other = Change::sign(&signer(3), joining.cluster, 0, None, 5, joining.kind);
    check_refused(&mut founded_by_one(), signed_for_other, HistoryError::OtherCluster);
    // A founding that claims to be of our cluster with parameters that are not ours is a lie, not a difference.
    let ours = founded_by_one().cluster().unwrap();
    let lie = Change::sign(&signer(3), ours, 0, None, 1, founded(16, 3));
    check_refused(&mut founded_by_one(), lie, HistoryError::OtherCluster);
}

#[test]
fn founders_with_equal_parameters_merge() {
    let mut a = founded_by_one();
    let mut b = empty();
    let founding = author(&mut b, 2, founded(8, 3));
    author(&mut b, 2, ChangeKind::Joined(profile(2)));
    let alone = View::fold(&a);
    a.insert(founding).unwrap();
    let founded_twice = View::fold(&a);
    assert_eq!(founded_twice.label, alone.label);
    assert_ne!(founded_twice.partition_digest(Partition(0)), alone.partition_digest(Partition(0)));
    pull(&mut a, &b, 10);
    pull(&mut b, &a, 10);
    assert_equal(&a, &b);
    let together = View::fold(&a);
    assert_eq!(together.members.len(), 2);
    assert_eq!(together.ring.unwrap().row(Partition(0)).len(), 2);
    assert_ne!(together.label, alone.label);
}

#[test]
fn founders_with_other_parameters_are_refused_and_both_are_named() {
    let mut a = founded_by_one();
    let mut b = empty();
    let founding = author(&mut b, 2, founded(16, 5));
    let (ours, theirs) = (a.parameters().unwrap(), b.parameters().unwrap());
    check_refused(&mut a, founding, HistoryError::OtherParameters { ours, theirs });
    let message = HistoryError::OtherParameters { ours, theirs }.to_string();
    let expected = "a cluster of this name was founded with 16 partitions and 5 replicas, ours with 8 and 3";
    assert_eq!(message, expected);
}

#[test]
fn nothing_is_accepted_before_a_founding() {
    let joining = founded_by_one().next_change(&signer(2), ChangeKind::Joined(profile(1)));
    check_refused(&mut empty(), joining, HistoryError::NotFounded);
    let too_early = empty().next_change(&signer(2), ChangeKind::Joined(profile(1)));
    check_refused(&mut empty(), too_early, HistoryError::NotFounded);
}

#[test]
fn lamport_times_grow_but_never_leap() {
    let mut history = founded_by_one();
    let cluster = history.cluster().unwrap();
    let high = 2 + (1 << 32);
    for actual in [0, 1, high + 1, COUNTER_MAX] {
        let change = Change::sign(&signer(2), cluster, 0, None, actual, ChangeKind::Joined(profile(1)));
        check_refused(&mut history, change, HistoryError::BadLamport { low: 2, high, actual });
    }
    let previous = Some(history.iter().last().unwrap().digest());
    let stale = Change::sign(&signer(1), cluster, 2, previous, 2, ChangeKind::Updated(profile(1)));
    check_refused(&mut history, stale, HistoryError::BadLamport { low: 3, high, actual: 2 });
    let late_founding = Change::sign(&signer(2), cluster, 0, None, 2, founded(8, 3));
    check_refused(&mut history, late_founding, HistoryError::BadLamport { low: 1, high: 1, actual: 2 });
    let far = Change::sign(&signer(2), cluster, 0, None, high, ChangeKind::Joined(profile(1)));
    assert_eq!(history.insert(far), Ok(Inserted::New));
    assert_eq!(history.next_change(&signer(3), ChangeKind::Joined(profile(1))).lamport, high + 1);
}

#[test]
fn no_more_authors_than_members_are_let_in() {
    let mut history = founded_by_one();
    let numbered = |number: usize| {
        let mut seed = [9; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        Signer::from_seed(seed)
    };
    for number in 1..MEMBER_COUNT_MAX {
        history.insert(history.next_change(&numbered(number), ChangeKind::Joined(profile(1)))).unwrap();
    }
    let full = HistoryError::Full { count: MEMBER_COUNT_MAX + 1, authors: MEMBER_COUNT_MAX };
    let change = history.next_change(&numbered(MEMBER_COUNT_MAX), ChangeKind::Joined(profile(1)));
    check_refused(&mut history, change, full);
    author(&mut history, 1, ChangeKind::Updated(profile(2)));
    let summary = encode(&history.summary());
    assert_eq!(cbor4ii::serde::from_slice::<Summary>(&summary).unwrap(), history.summary());
}

#[test]
fn limits_hold_for_the_author_and_on_the_wire() {
    let mut history = founded_by_one();
    let long = "/".repeat(ADDRESS_LIMIT_BYTES + 1);
    let cases = [
        (Profile { weight: 0, ..profile(1) }, ChangeError::WeightOutOfRange { actual: 0 }),
        (profile(WEIGHT_MAX + 1), ChangeError::WeightOutOfRange { actual: WEIGHT_MAX + 1 }),
        (
            Profile { addresses: vec![String::new(); ADDRESS_COUNT_MAX + 1], ..profile(1) },
            ChangeError::TooManyAddresses,
        ),
        (Profile { addresses: vec![long], ..profile(1) }, ChangeError::AddressTooLong { actual_bytes: 257 }),
    ];
    for (profile, error) in cases {
        let change = history.next_change(&signer(2), ChangeKind::Joined(profile));
        assert!(cbor4ii::serde::from_slice::<Change>(&encode(&change)).is_err());
        check_refused(&mut history, change, HistoryError::Malformed(error));
    }
    for replicas in [0, 17] {
        let change = empty().next_change(&signer(1), founded(8, replicas));
        assert!(cbor4ii::serde::from_slice::<Change>(&encode(&change)).is_err());
        check_refused(
            &mut empty(),
            change,
            HistoryError::Malformed(ChangeError::ReplicasOutOfRange { actual: replicas }),
        );
    }
    let linked = Change::sign(&signer(2), history.cluster().unwrap(), 0, Some(Digest([0; 32])), 3, founded(8, 3));
    check_refused(&mut history, linked, HistoryError::Malformed(ChangeError::BadLink { sequence: 0 }));
    let actual = COUNTER_MAX + 1;
    let late = Change::sign(&signer(2), history.cluster().unwrap(), 0, None, actual, founded(8, 3));
    assert!(cbor4ii::serde::from_slice::<Change>(&encode(&late)).is_err());
    check_refused(&mut history, late, HistoryError::Malformed(ChangeError::CounterTooHigh { actual }));
}

#[test]
fn a_summary_of_too_many_authors_is_refused() {
    let summary: Summary = (0..=MEMBER_COUNT_MAX)
        .map(|number| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            (NodeId(id), vec![Tip::new(0, |_| Mark::of(&Digest([1; 32])))])
        })
        .collect();
    assert!(cbor4ii::serde::from_slice::<Summary>(&encode(&summary)).is_err());
}

#[test]
fn founding_makes_no_member_joining_does_and_updating_replaces_the_profile() {
    let mut history = empty();
    assert_eq!(View::fold(&history).ring, None);
    author(&mut history, 1, founded(8, 3));
    let before = View::fold(&history);
    assert!(before.members.is_empty() && before.ring.unwrap().members().is_empty());

    let id = signer(1).node_id();
    author(&mut history, 1, ChangeKind::Joined(profile(1)));
    let joined = View::fold(&history);
    assert_eq!(joined.members[&id].joined_lamport, 2);
    assert_ne!(joined.label, before.label);
    assert_ne!(joined.partition_digest(Partition(0)), joined.partition_digest(Partition(1)));

    author(&mut history, 1, ChangeKind::Updated(profile(4)));
    let updated = View::fold(&history);
    assert_eq!(updated.members[&id].profile, profile(4));
    assert_eq!(updated.ring.unwrap().members()[0].weight, 4);
    assert_ne!(updated.label, joined.label, "it may have changed who serves what");

    let moved = Profile { addresses: Vec::new(), ..profile(4) };
    author(&mut history, 1, ChangeKind::Updated(moved));
    assert_eq!(View::fold(&history).label, updated.label, "an address does not");

    author(&mut history, 2, ChangeKind::Updated(profile(1)));
    assert_eq!(View::fold(&history).members.len(), 1);
}

#[test]
fn a_ring_is_shared_until_something_that_it_heeds_changes() {
    let mut history = founded_by_one();
    let before = View::fold(&history);
    let moved = Profile { addresses: Vec::new(), ..profile(1) };
    author(&mut history, 1, ChangeKind::Updated(moved));
    let shared = before.refold(&history);
    assert!(Arc::ptr_eq(before.ring.as_ref().unwrap(), shared.ring.as_ref().unwrap()));
    assert_eq!(shared, View::fold(&history));
    for kind in [ChangeKind::Updated(profile(2)), ChangeKind::Updated(profile(3))] {
        author(&mut history, 1, kind);
        assert_eq!(before.refold(&history), View::fold(&history));
    }
}

/// What is signed is for ever: other bytes would make every signature of every history worthless.
#[test]
fn the_signed_bytes_of_a_known_change_never_change() {
    let change = founded_by_one().next_change(&signer(2), ChangeKind::Joined(profile(3)));
    assert_eq!(change.cluster, ClusterId::of(&name("quorate"), 8, 3));
    assert_eq!(change.digest().to_string(), "792f2d24f8345c29b727f58055f17e4dd36ac4348385376533da8d5367ed4687");
    assert_eq!(
        Digest(change.signature.0[..32].try_into().unwrap()).to_string(),
        "8a4a508c1beab586a5aa124a023cd2d309f0c085e5f7bf914b8963f3c059cd60"
    );
    assert_eq!(
        founded_by_one().digest().to_string(),
        "eb516b281e34863c4179ae01f1212a1a34e5db558001a224248e5f3831094c96"
    );
}
