//! Whom operations hear from, for views of several configurations.

use super::*;
use crate::{
    membership::{
        change::{ChangeKind, Profile, Statement},
        samples::Cluster,
        view::{IslandRule, PlacementRules},
    },
    ring::partition_set::PartitionSet,
};

const PARTITION: Partition = Partition(0);

/// Demands by numbers of nodes, sorted within each.
fn demands_of(
    cluster: &Cluster,
    access: Access,
    consistency: Consistency,
    here: Option<&str>,
) -> Vec<(Vec<u8>, usize)> {
    let here = here.map(|zone| Name::new(zone).unwrap());
    let view = cluster.view();
    let row = Row::new(PARTITION, access, consistency, here.as_ref(), &view, QuorumRules::sound()).unwrap();
    let number = |node: &NodeId| cluster.number_of(node);
    let listed = |demand: &Demand| {
        let mut numbers: Vec<u8> = demand.nodes.iter().map(number).collect();
        numbers.sort_unstable();
        (numbers, demand.needed)
    };
    let mut demands: Vec<(Vec<u8>, usize)> = row.demands.iter().map(listed).collect();
    demands.sort_by_key(|(numbers, _)| (std::cmp::Reverse(numbers.len()), numbers.clone()));
    demands
}

fn write(cluster: &Cluster, consistency: Consistency) -> Vec<(Vec<u8>, usize)> {
    demands_of(cluster, Access::Write, consistency, None)
}

fn read(cluster: &Cluster, consistency: Consistency) -> Vec<(Vec<u8>, usize)> {
    demands_of(cluster, Access::Read, consistency, None)
}

#[test]
fn in_steady_state_there_is_one_row_and_a_quorum_is_its_majority() {
    let cluster = Cluster::settled(3);
    for (consistency, needed) in [
        (Consistency::One, 1),
        (Consistency::Quorum, 2),
        (Consistency::All, 3),
        (Consistency::Count(0), 1),
        (Consistency::Count(2), 2),
        (Consistency::Count(9), 3),
    ] {
        assert_eq!(write(&cluster, consistency), [(vec![1, 2, 3], needed)]);
        assert_eq!(read(&cluster, consistency), [(vec![1, 2, 3], needed)]);
    }
}

#[test]
fn while_a_newcomer_fills_writes_hear_from_both_rows_and_reads_from_the_old_one() {
    let mut cluster = Cluster::settled(1);
    cluster.join(2);
    assert_eq!(write(&cluster, Consistency::Quorum), [(vec![1, 2], 2), (vec![1], 1)]);
    assert_eq!(read(&cluster, Consistency::Quorum), [(vec![1], 1)]);
    cluster.fill(1);
    assert_eq!(read(&cluster, Consistency::Quorum), [(vec![1], 1)], "not all have filled it");
    cluster.fill(2);
    assert_eq!(read(&cluster, Consistency::Quorum), [(vec![1, 2], 2), (vec![1], 1)]);
    cluster.retire(1);
    assert_eq!(read(&cluster, Consistency::Quorum), [(vec![1, 2], 2)]);
    assert_eq!(write(&cluster, Consistency::Quorum), [(vec![1, 2], 2)]);
}

#[test]
fn a_removal_lowers_what_can_be_asked_for_and_not_what_a_majority_is() {
    let mut cluster = Cluster::settled(3);
    cluster.say(1, |cluster| ChangeKind::Removed(cluster.removal(3)));
    assert_eq!(read(&cluster, Consistency::Quorum), [(vec![1, 2], 2)]);
    assert_eq!(read(&cluster, Consistency::All), [(vec![1, 2], 2)]);
    cluster.say(1, |cluster| ChangeKind::Removed(cluster.removal(2)));
    assert_eq!(write(&cluster, Consistency::Quorum), [(vec![1], 1), (vec![1], 1)]);
}

#[test]
fn quorums_by_zone_are_majorities_of_those_in_one_zone_or_in_each() {
    let mut cluster = Cluster::settled(3);
    for (number, zone) in [(1, "east"), (2, "west"), (3, "east")] {
        let zone = Some(Name::new(zone).unwrap());
        let name = Name::new("ann").unwrap();
        cluster.say(number, |_| ChangeKind::Updated(Profile { name, zone, weight: 1, addresses: Vec::new() }));
    }
    let of = |consistency, here| demands_of(&cluster, Access::Read, consistency, here);
    assert_eq!(of(Consistency::EachQuorum, None), [(vec![1, 3], 2), (vec![2], 1)]);
    assert_eq!(of(Consistency::LocalQuorum, Some("west")), [(vec![2], 1)]);
    assert_eq!(of(Consistency::LocalQuorum, Some("east")), [(vec![1, 3], 2)]);
    assert_eq!(of(Consistency::LocalQuorum, Some("south")), [(vec![1, 2, 3], 2)], "nobody is near");
}

#[test]
fn of_two_islands_that_have_met_reads_hear_from_both() {
    let mut cluster = Cluster::settled(1);
    cluster.found(2);
    assert_eq!(read(&cluster, Consistency::Quorum), [(vec![1], 1), (vec![2], 1)]);
    assert_eq!(write(&cluster, Consistency::Quorum), [(vec![1, 2], 2), (vec![1], 1), (vec![2], 1)]);
}

#[test]
fn a_statement_under_an_old_label_counts_for_that_label_only() {
    let mut cluster = Cluster::settled(1);
    cluster.join(2);
    let before = cluster.view().label;
    cluster.join(3);
    let partitions = PartitionSet::new(cluster.partitions(), [PARTITION]);
    for number in [1, 2, 3] {
        let (label, partitions) = (before.clone(), partitions.clone());
        cluster.say(number, |_| ChangeKind::Filled(Statement { label, partitions }));
    }
    assert_eq!(read(&cluster, Consistency::Quorum), [(vec![1, 2], 2), (vec![1], 1)]);
    assert!(cluster.view().wants_filling(&cluster.id(2), PARTITION), "the present row is another");
}

#[test]
fn weakened_rules_hear_from_fewer() {
    let mut cluster = Cluster::settled(1);
    cluster.join(2);
    let view = cluster.view();
    let heard =
        |access, rules| Row::new(PARTITION, access, Consistency::Quorum, None, &view, rules).unwrap().demands.len();
    let sound = QuorumRules::sound();
    assert_eq!((heard(Access::Write, sound), heard(Access::Read, sound)), (2, 1));
    assert_eq!(heard(Access::Write, QuorumRules { writes: HearRule::ActiveOnly, ..sound }), 1);
    assert_eq!(heard(Access::Write, QuorumRules { writes: HearRule::PresentOnly, ..sound }), 1);
    let present = Row::new(
        PARTITION,
        Access::Read,
        Consistency::Quorum,
        None,
        &view,
        QuorumRules { reads: HearRule::PresentOnly, ..sound },
    );
    assert_eq!(present.unwrap().nodes.len(), 2, "one of them holds nothing yet");

    cluster.found(3);
    let first = PlacementRules { islands: IslandRule::First, ..PlacementRules::sound() };
    let count = |rules| View::fold_by(&cluster.history, rules).configurations.active(PARTITION).len();
    assert_eq!((count(PlacementRules::sound()), count(first)), (2, 1));
}

#[test]
fn nobody_who_has_left_stands_in_for_the_last_that_would_go() {
    let mut cluster = Cluster::settled(3);
    for number in [1, 2, 3] {
        cluster.say(number, |_| ChangeKind::Leaving);
    }
    cluster.say(1, |_| ChangeKind::Left);
    let row = Row::new(PARTITION, Access::Write, Consistency::Quorum, None, &cluster.view(), QuorumRules::sound());
    let row = row.unwrap();
    assert!(row.nodes.contains(&cluster.id(3)), "{:?}", row.nodes);
    assert_eq!(row.fallbacks, []);
}
