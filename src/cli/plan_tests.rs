//! Tests of plans: small clusters, compared with what their own history makes of the change.

use super::*;
use crate::{
    ident::Name,
    membership::{
        change::{ChangeKind, Profile, Replacement},
        samples::Cluster,
    },
};

fn plan(cluster: &Cluster, intent: Intent, away: &[u8], key_counts: &BTreeMap<Partition, u64>) -> Plan {
    let away: Vec<NodeId> = away.iter().map(|number| cluster.id(*number)).collect();
    let is_up = |node: &NodeId| !away.contains(node);
    let known = Known { node: NodeId([0; 32]), is_up: &is_up, key_counts, asked: (100, 1_000), bytes_per_second: 100 };
    Plan::new(intent, &cluster.view(), &known).unwrap()
}

fn of(cluster: &Cluster, intent: Intent, away: &[u8]) -> Plan {
    plan(cluster, intent, away, &BTreeMap::new())
}

/// A settled cluster whose members, numbered from 1, are in these zones.
fn zoned(zones: &[&str]) -> Cluster {
    let mut cluster = Cluster::settled(u8::try_from(zones.len()).unwrap());
    for (number, zone) in (1..).zip(zones) {
        let zone = Some(Name::new(zone).unwrap());
        let name = Name::new("ann").unwrap();
        cluster.say(number, |_| ChangeKind::Updated(Profile { name, zone, weight: 1, addresses: Vec::new() }));
    }
    cluster
}

/// The rows that `cluster` has once this was said.
fn rows_after(mut cluster: Cluster, number: u8, kind: impl FnOnce(&Cluster) -> ChangeKind) -> Vec<Vec<NodeId>> {
    cluster.say(number, kind);
    let view = cluster.view();
    view.partitions().map(|partition| view.row(partition).to_vec()).collect()
}

/// How many vnodes each move of `plan` has by comparing the rows before with these.
#[track_caller]
fn assert_as_in_history(plan: &Plan, before: &Cluster, after: &[Vec<NodeId>]) {
    let view = before.view();
    let mut taken = 0;
    for (partition, row) in view.partitions().zip(after) {
        taken += row.iter().filter(|node| !view.row(partition).contains(node)).count() as u64;
    }
    assert_eq!(plan.vnode_count(), taken);
}

#[test]
fn what_a_leaver_had_goes_to_others_and_nothing_moves_between_them() {
    let cluster = Cluster::settled(5);
    let node = cluster.id(2);
    let plan = of(&cluster, Intent::Leave { node }, &[]);
    let held = cluster.view().ring.unwrap().held_by(&node).count() as u64;
    assert!(held > 0);
    assert_eq!((plan.vnode_count(), plan.among_others, plan.untaken), (held, 0, 0));
    assert!(plan.moves.keys().all(|(from, to)| *from == node && *to != node));
    assert_eq!((plan.member_counts, plan.replica_count), ((5, 4), 3));
    assert_eq!((plan.missing.len(), plan.short_count, plan.remarks.len()), (0, 0, 0));
    assert_as_in_history(&plan, &cluster, &rows_after(Cluster::settled(5), 2, |_| ChangeKind::Leaving));
}

#[test]
fn with_too_few_members_nobody_takes_over() {
    let cluster = Cluster::settled(3);
    let plan = of(&cluster, Intent::Leave { node: cluster.id(1) }, &[]);
    assert_eq!((plan.moves.len(), plan.untaken, plan.member_counts), (0, 8, (3, 2)));
    assert_eq!(plan.keys, Keys::Exactly(0));
    let alone = Cluster::settled(1);
    let plan = of(&alone, Intent::Leave { node: alone.id(1) }, &[]);
    assert_eq!(plan.remarks, [Remark::IsLast]);
}

#[test]
fn who_leaves_already_has_nothing_left_to_plan() {
    let mut cluster = Cluster::settled(4);
    cluster.say(4, |_| ChangeKind::Leaving);
    let plan = of(&cluster, Intent::Leave { node: cluster.id(4) }, &[]);
    assert_eq!((plan.moves.len(), plan.remarks), (0, vec![Remark::LeavesAlready]));
}

#[test]
fn a_removal_tells_how_many_copies_are_missing_and_where_a_quorum_is() {
    let cluster = Cluster::settled(3);
    let intent = Intent::Remove { node: cluster.id(3) };
    let one = of(&cluster, intent, &[3]);
    assert_eq!((&one.missing, one.short_count), (&BTreeMap::from([(1, 8)]), 0));
    assert!(one.remarks.is_empty());
    // Of three two are away: one copy is left, and two are asked for.
    let two = of(&cluster, intent, &[2, 3]);
    assert_eq!((&two.missing, two.short_count), (&BTreeMap::from([(2, 8)]), 8));
    // Of two that are left of a row, one that was removed before is not counted as one that should be there.
    let alive = of(&cluster, intent, &[]);
    assert_eq!(alive.remarks, [Remark::IsAlive]);
}

#[test]
fn how_long_it_takes_follows_from_what_the_busiest_takes_over_and_the_pace() {
    let cluster = Cluster::settled(5);
    let intent = Intent::Remove { node: cluster.id(4) };
    // Of 100 keys there the asked node has 1 000 bytes, and 100 bytes a second may move.
    let key_counts = cluster.view().partitions().map(|partition| (partition, 300)).collect();
    let plan = plan(&cluster, intent, &[4], &key_counts);
    let mut taken: BTreeMap<NodeId, u64> = BTreeMap::new();
    plan.moves.iter().for_each(|((_, to), vnodes)| *taken.entry(*to).or_default() += vnodes.len() as u64);
    let most = taken.into_values().max().unwrap();
    assert_eq!((plan.bytes, plan.seconds), (Some(3_000 * plan.vnode_count()), Some(30 * most)));
    let unknown = of(&cluster, intent, &[4]);
    assert_eq!((unknown.bytes, unknown.seconds), (None, None));
}

#[test]
fn of_a_larger_cluster_only_the_rows_of_the_removed_lack_a_copy() {
    let cluster = Cluster::settled(5);
    let node = cluster.id(4);
    let plan = of(&cluster, Intent::Remove { node }, &[4]);
    let held = cluster.view().ring.unwrap().held_by(&node).count() as u64;
    assert!(0 < held && held < 8);
    assert_eq!((plan.vnode_count(), plan.among_others), (held, 0));
    assert_eq!(plan.missing, BTreeMap::from([(1, held)]));
}

#[test]
fn a_replacement_that_has_not_joined_takes_exactly_what_the_old_one_had() {
    let (cluster, stranger) = (Cluster::settled(5), crate::membership::samples::signer(20).node_id());
    let old = cluster.id(5);
    let plan = of(&cluster, Intent::Replace { old, new: stranger }, &[5]);
    let held: Vec<Partition> = cluster.view().ring.unwrap().held_by(&old).collect();
    assert_eq!(plan.moves, BTreeMap::from([((old, stranger), held)]));
    assert_eq!((plan.among_others, plan.untaken, plan.member_counts), (0, 0, (5, 5)));
    assert_eq!(plan.remarks, [Remark::HeirUnknown]);
}

#[test]
fn a_replacement_that_is_a_member_gives_up_what_it_had() {
    let cluster = Cluster::settled(5);
    let (old, new) = (cluster.id(5), cluster.id(1));
    let plan = of(&cluster, Intent::Replace { old, new }, &[5]);
    let held = cluster.view().ring.unwrap().held_by(&new).count() as u64;
    assert_eq!(plan.remarks, [Remark::HeirMoves(held)]);
    assert!(plan.moves.keys().any(|(from, _)| *from == new), "{plan:#?}");
    assert_eq!(plan.among_others, 0);
    let replaced = |cluster: &Cluster| ChangeKind::Replaced(Replacement { old: cluster.removal(5), new });
    assert_as_in_history(&plan, &cluster, &rows_after(Cluster::settled(5), 2, replaced));
}

#[test]
fn what_moves_between_others_is_counted() {
    let cluster = Cluster::settled(5);
    let [one, two, three, four, goer] = [1, 2, 3, 4, 5].map(|number| cluster.id(number));
    let mut plan = of(&cluster, Intent::Leave { node: goer }, &[]);
    assert_eq!(plan.among_others, 0);
    // No leaving makes such a row; a heir in another zone than the one whose place it takes may.
    assert_eq!(plan.compare(Partition(0), &[goer, one, two], &[one, four, three]), 2);
    assert_eq!(plan.among_others, 1);
    assert!(plan.moves[&(two, three)].contains(&Partition(0)), "{plan:#?}");
}

#[test]
fn keys_are_exact_where_all_are_known_and_reckoned_where_some_are() {
    let cluster = Cluster::settled(5);
    let intent = Intent::Leave { node: cluster.id(2) };
    let held: Vec<Partition> = cluster.view().ring.unwrap().held_by(&cluster.id(2)).collect();
    let counts = |partitions: &[Partition]| partitions.iter().map(|partition| (*partition, 10)).collect();
    assert_eq!(plan(&cluster, intent, &[], &counts(&held)).keys, Keys::Exactly(held.len() as u64 * 10));
    assert_eq!(plan(&cluster, intent, &[], &counts(&held[..1])).keys, Keys::About(held.len() as u64 * 10));
    let unknown = plan(&cluster, intent, &[], &counts(&[]));
    assert_eq!((unknown.keys, unknown.bytes), (Keys::Unknown, None));
    // A hundred keys take a thousand bytes at the asked node.
    assert_eq!(plan(&cluster, intent, &[], &counts(&held)).bytes, Some(held.len() as u64 * 100));
    assert_eq!(Keys::Exactly(7).bytes((0, 4_096)), None);
}

#[test]
fn zones_are_counted_before_and_after() {
    let cluster = zoned(&["north", "south", "west", "west"]);
    let plan = of(&cluster, Intent::Remove { node: cluster.id(1) }, &[1]);
    let (before, after) = &plan.zones;
    assert_eq!((before.zones.len(), before.shared_count), (3, 0));
    assert_eq!((after.zones.len(), after.shared_count), (2, 8));
    assert!(before.is_in_use());
    // Of six replicas a zone of three has two; one with a single member cannot.
    let small: Vec<usize> = before.small(6).map(|(_, members)| members).collect();
    assert_eq!(small, [1, 1]);
    assert_eq!(before.small(3).count(), 0);
    assert!(!of(&Cluster::settled(2), Intent::Leave { node: cluster.id(1) }, &[]).zones.0.is_in_use());
}

#[test]
fn a_stranger_is_no_member() {
    let (cluster, stranger) = (Cluster::settled(3), crate::membership::samples::signer(20).node_id());
    let plan = of(&cluster, Intent::Remove { node: stranger }, &[]);
    assert_eq!((plan.moves.len(), plan.remarks), (0, vec![Remark::NoMember]));
}

#[test]
fn who_asks_a_node_to_remove_itself_or_to_take_its_own_place_is_told_that_it_will_be_refused() {
    let cluster = Cluster::settled(3);
    let (node, other) = (cluster.id(1), cluster.id(2));
    let known = Known { node, is_up: &|_| true, key_counts: &BTreeMap::new(), asked: (0, 0), bytes_per_second: 100 };
    let remarks = |intent| Plan::new(intent, &cluster.view(), &known).unwrap().remarks;
    assert_eq!(remarks(Intent::Remove { node }), [Remark::IsAsked]);
    assert_eq!(remarks(Intent::Remove { node: other }), [Remark::IsAlive]);
    assert_eq!(remarks(Intent::Leave { node }), []);
    assert_eq!(remarks(Intent::Replace { old: other, new: other }), [Remark::HeirIsGoer]);
}
