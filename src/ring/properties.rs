//! Laws of the ring, for rings of any members, zones and weights.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::{
    digest::{Digest, Domain},
    ident::{Key, Name, NodeId},
    ring::{
        Ring, RingMember,
        token::{Partition, PartitionCount},
    },
};

/// Members of any number up to `most`: distinct ids, some of up to four zones or none, weights 1 to 3.
fn any_members(most: usize) -> impl Strategy<Value = Vec<RingMember>> {
    let traits = (proptest::option::of(0..4_u8), 1..=3_u16);
    proptest::collection::btree_map(any::<[u8; 32]>(), traits, 1..=most).prop_map(|members| {
        members
            .into_iter()
            .map(|(id, (zone, weight))| RingMember { zone: zone.map(zone_called), weight, ..member(NodeId(id)) })
            .collect()
    })
}

fn member(id: NodeId) -> RingMember {
    RingMember { id, placement: id, zone: None, weight: 1 }
}

fn zone_called(zone: u8) -> Name {
    Name::new(&format!("zone {zone}")).unwrap()
}

fn partitions(count: u32) -> PartitionCount {
    PartitionCount::new(count).unwrap()
}

/// The `number`-th of the `set`-th set of ids, spread like real ones.
fn id(set: u32, number: u32) -> NodeId {
    NodeId(Digest::of(Domain::Record, &[&set.to_be_bytes(), &number.to_be_bytes()]).0)
}

fn held_counts(ring: &Ring) -> Vec<usize> {
    ring.members().iter().map(|member| ring.held_by(&member.id).count()).collect()
}

/// Fullest member over the mean, in vnodes.
fn imbalance(ring: &Ring) -> f64 {
    let counts = held_counts(ring);
    let fullest = counts.iter().copied().max().unwrap_or(0);
    (fullest * counts.len()) as f64 / counts.iter().sum::<usize>() as f64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_order_of_members_is_irrelevant((sorted, shuffled) in any_members(9).prop_flat_map(|members| {
        (Just(members.clone()), Just(members).prop_shuffle())
    })) {
        let replicas = 3;
        prop_assert_eq!(Ring::new(sorted, partitions(32), replicas), Ring::new(shuffled, partitions(32), replicas));
    }

    #[test]
    fn a_ranking_lists_every_member_once_and_begins_with_the_row(members in any_members(9), replicas in 1..=5_u8) {
        let ids: BTreeSet<NodeId> = members.iter().map(|member| member.id).collect();
        let ring = Ring::new(members, partitions(32), replicas);
        for partition in ring.partitions().iter() {
            let ranking = ring.ranking(partition);
            prop_assert_eq!(ranking.len(), ids.len());
            prop_assert_eq!(&ranking.iter().copied().collect::<BTreeSet<_>>(), &ids);
            prop_assert_eq!(ring.row(partition), &ranking[..ids.len().min(usize::from(replicas))]);
        }
    }

    #[test]
    fn a_row_spans_as_many_zones_as_it_can(members in any_members(9), replicas in 1..=5_u8) {
        let zone_of: BTreeMap<NodeId, Option<Name>> = members.iter().map(|m| (m.id, m.zone.clone())).collect();
        let zone_count = zone_of.values().collect::<BTreeSet<_>>().len();
        let ring = Ring::new(members, partitions(32), replicas);
        for partition in ring.partitions().iter() {
            let spanned: BTreeSet<_> = ring.row(partition).iter().map(|node| &zone_of[node]).collect();
            prop_assert_eq!(spanned.len(), zone_count.min(usize::from(replicas)).min(zone_of.len()));
        }
    }

    #[test]
    fn nobody_but_the_newcomer_receives_anything(mut members in any_members(9), replicas in 1..=5_u8) {
        let after = Ring::new(members.clone(), partitions(64), replicas);
        let newcomer = members.remove(members.len() / 2).id;
        let before = Ring::new(members, partitions(64), replicas);
        for partition in after.partitions().iter() {
            let old = before.row(partition);
            let entered: Vec<_> = after.row(partition).iter().filter(|node| !old.contains(node)).collect();
            prop_assert!(entered.is_empty() || entered == [&newcomer]);
            let without: Vec<_> = after.row(partition).iter().filter(|&&node| node != newcomer).copied().collect();
            let kept: Vec<_> = old.iter().filter(|node| without.contains(node)).copied().collect();
            prop_assert_eq!(without.iter().collect::<BTreeSet<_>>(), kept.iter().collect::<BTreeSet<_>>());
        }
    }

    #[test]
    fn a_leavers_vnodes_go_to_one_other_each_and_nothing_else_moves(mut members in any_members(9), replicas in 1..=5_u8) {
        let before = Ring::new(members.clone(), partitions(64), replicas);
        let leaver = members.remove(members.len() / 3).id;
        let after = Ring::new(members, partitions(64), replicas);
        for partition in before.partitions().iter() {
            let old: BTreeSet<_> = before.row(partition).iter().copied().collect();
            let new: BTreeSet<_> = after.row(partition).iter().copied().collect();
            let lost: Vec<_> = old.difference(&new).copied().collect();
            let gained = new.difference(&old).count();
            if old.contains(&leaver) {
                prop_assert_eq!(lost, [leaver]);
                // With no more members than replicas there is nobody to take over.
                let heirs = after.members().len() + 1 - old.len();
                prop_assert_eq!(gained, heirs.min(1));
            } else {
                prop_assert_eq!((lost.len(), gained), (0, 0));
            }
        }
    }

    #[test]
    fn a_replacement_takes_over_exactly_the_rows_of_the_one_it_replaces(
        mut members in any_members(9),
        newcomer in any::<[u8; 32]>().prop_map(NodeId),
    ) {
        let before = Ring::new(members.clone(), partitions(32), 3);
        let index = members.len() / 2;
        let replaced = std::mem::replace(&mut members[index].id, newcomer);
        let after = Ring::new(members, partitions(32), 3);
        for partition in before.partitions().iter() {
            let renamed = |&node: &NodeId| if node == replaced { newcomer } else { node };
            let expected: Vec<_> = before.ranking(partition).iter().map(renamed).collect();
            prop_assert_eq!(after.ranking(partition), expected);
        }
    }

    #[test]
    fn a_preference_list_is_the_row_and_then_its_fallbacks(members in any_members(9)) {
        let ring = Ring::new(members, partitions(16), 3);
        for partition in ring.partitions().iter() {
            let list: Vec<_> = ring.row(partition).iter().copied().chain(ring.fallbacks(partition)).collect();
            prop_assert_eq!(list, ring.ranking(partition));
        }
    }

    #[test]
    fn any_bytes_for_a_key_have_a_partition_of_the_ring(bytes in proptest::collection::vec(any::<u8>(), 1..50)) {
        let ring = Ring::new(vec![member(NodeId([1; 32]))], partitions(8), 3);
        let partition = ring.partition_of(&Key::new(&bytes).unwrap());
        prop_assert!(ring.partitions().contains(partition));
        prop_assert_eq!(ring.row(partition).len(), 1);
    }
}

/// What chance leaves of balance. Over 300 sets of ids: 5 members 1.007 to 1.077, in the middle 1.034, 263 sets within
/// 1.05; 16 members 1.057 to 1.198, in the middle 1.109.
#[test]
fn equal_members_hold_nearly_equal_numbers_of_vnodes() {
    let imbalances: Vec<f64> = (0..40)
        .map(|set| Ring::new((0..5).map(|n| member(id(set, n))).collect(), partitions(1024), 3))
        .map(|ring| imbalance(&ring))
        .collect();
    let within = imbalances.iter().filter(|&&imbalance| imbalance <= 1.05).count();
    assert!(imbalances.iter().all(|&imbalance| imbalance <= 1.10), "{imbalances:?}");
    assert!(within >= 30, "only {within} of 40 sets of ids within 1.05");
}

#[test]
fn vnodes_are_shared_in_proportion_to_weights() {
    let weights = [1, 2, 3, 4];
    for zone in [None, Some(zone_called(1))] {
        let members =
            (0..).zip(weights).map(|(n, weight)| RingMember { zone: zone.clone(), weight, ..member(id(7, n)) });
        let ring = Ring::new(members.collect(), partitions(4096), 1);
        for member in ring.members() {
            let expected = 4096.0 * f64::from(member.weight) / 10.0;
            let share = ring.held_by(&member.id).count() as f64 / expected;
            assert!((0.9..=1.1).contains(&share), "weight {} holds {share:.3} of its share", member.weight);
        }
    }
}

#[test]
fn a_newcomer_receives_its_fair_share() {
    for set in 0..10 {
        let ring = Ring::new((0..6).map(|n| member(id(set, n))).collect(), partitions(1024), 3);
        let received = ring.held_by(&id(set, 5)).count() as f64 / (1024.0 * 3.0 / 6.0);
        assert!((0.9..=1.1).contains(&received), "set {set}: {received:.3} of the fair share");
    }
}

#[test]
fn every_partition_is_in_the_token_set_of_the_head_of_its_row_alone() {
    let ring = Ring::new((0..5).map(|n| member(id(1, n))).collect(), partitions(64), 3);
    let mut headed: Vec<Partition> = ring.members().iter().flat_map(|member| ring.tokens_of(&member.id)).collect();
    headed.sort();
    assert_eq!(headed, ring.partitions().iter().collect::<Vec<_>>());
    assert!(headed.iter().all(|&partition| ring.tokens_of(&ring.row(partition)[0]).contains(&partition)));
    assert!(ring.tokens_of(&NodeId([9; 32])).is_empty());
}

#[test]
fn an_empty_ring_and_a_partition_beyond_the_ring_have_empty_rows() {
    let empty = Ring::new(Vec::new(), partitions(8), 3);
    assert!(empty.row(Partition(0)).is_empty() && empty.ranking(Partition(0)).is_empty());
    let ring = Ring::new(vec![member(id(1, 1))], partitions(8), 3);
    assert!(ring.row(Partition(8)).is_empty() && ring.ranking(Partition(u16::MAX)).is_empty());
    assert_eq!(ring.fallbacks(Partition(8)).count(), 0);
}

#[test]
fn members_without_a_zone_share_one_zone() {
    let named = RingMember { zone: Some(zone_called(1)), ..member(id(3, 0)) };
    let nameless = (1..6).map(|n| member(id(3, n)));
    let ring = Ring::new(nameless.chain([named.clone()]).collect(), partitions(64), 2);
    assert!(ring.partitions().iter().all(|partition| ring.row(partition).contains(&named.id)));
}

/// The rows of five fixed members as hexadecimal digits of the first byte of each id: every platform, every version
/// of the program must compute the same, or the cluster's data would be sought at the wrong nodes. A second
/// implementation, written from the rule alone, gave the same rows.
#[test]
fn the_rows_of_known_members_never_change() {
    let zones = [None, None, Some(zone_called(1)), Some(zone_called(1)), Some(zone_called(2))];
    let members = (1_u8..).zip(zones).map(|(n, zone)| RingMember { zone, weight: n.into(), ..member(NodeId([n; 32])) });
    let ring = Ring::new(members.collect(), partitions(8), 3);
    let row = |partition| ring.row(partition).iter().map(|node| format!("{:02x}", node.0[0])).collect::<String>();
    let rows: Vec<String> = ring.partitions().iter().map(row).collect();
    assert_eq!(rows, ["010503", "040205", "050302", "040502", "010504", "030502", "050103", "050401"]);
}
