//! What is filled, from whom, and when that is said.

use super::*;
use crate::membership::{change::ChangeKind, samples::Cluster};

const NOW: Instant = Instant(1_000);

/// The machine of member `number` under what `cluster` knows.
fn filling(cluster: &Cluster, number: u8) -> Filling {
    let mut filling = Filling::new(cluster.id(number), FillingRules::sound());
    filling.on_view(&cluster.view(), |_| false, NOW);
    filling
}

fn all(cluster: &Cluster) -> PartitionSet {
    PartitionSet::new(cluster.partitions(), cluster.view().partitions())
}

impl Filling {
    fn compares(&mut self, cluster: &Cluster, peers: &[u8], at: u64) {
        for peer in peers {
            self.on_compared(cluster.id(*peer), Standing::Certain, &all(cluster), Instant(at));
        }
    }
}

/// How many partitions could be said to be filled.
fn filled(filling: &Filling) -> usize {
    filling.filled().count()
}

#[test]
fn in_steady_state_there_is_nothing_to_fill_and_nothing_to_say() {
    let cluster = Cluster::settled(3);
    let filling = filling(&cluster, 1);
    assert_eq!((filling.progress(), filled(&filling)), ((0, 0), 0));
    assert_eq!(filling.next_source(|_| true, NOW), None);
    assert_eq!(filling.retired(NOW).count(), 0);
}

#[test]
fn a_newcomer_fills_from_a_majority_of_the_old_row_and_so_do_those_that_were_there() {
    let mut cluster = Cluster::settled(3);
    cluster.join(4);
    let newcomer = filling(&cluster, 4);
    let count = newcomer.progress().0;
    assert!((1..8).contains(&count), "it comes into {count} of 8 rows");
    let (source, partitions) = newcomer.next_source(|_| true, NOW).unwrap();
    assert!(cluster.number_of(&source) < 4 && !partitions.is_empty());

    let mut newcomer = newcomer;
    newcomer.compares(&cluster, &[1], 1_000);
    assert_eq!(filled(&newcomer), 0, "one of three is no majority");
    newcomer.compares(&cluster, &[2], 1_000);
    assert_eq!(filled(&newcomer), count);

    let mut old = filling(&cluster, 1);
    let shared = old.progress().0;
    old.compares(&cluster, &[2], 1_000);
    assert_eq!(filled(&old), shared, "itself is one of the two");
}

#[test]
fn whoever_cannot_be_asked_or_failed_is_passed_over() {
    let mut cluster = Cluster::settled(3);
    cluster.join(4);
    let mut newcomer = filling(&cluster, 4);
    let first = newcomer.next_source(|_| true, NOW).unwrap().0;
    newcomer.on_failed(first, NOW);
    let second = newcomer.next_source(|_| true, NOW).unwrap().0;
    assert_ne!(first, second);
    assert_eq!(newcomer.next_source(|node| *node == first, NOW), None);
    assert_eq!(newcomer.next_timeout(NOW), Some(Instant(2_000)));
    assert!(newcomer.next_source(|node| *node == first, Instant(2_000)).is_some());
}

#[test]
fn it_begins_anew_when_the_label_changes_but_not_for_every_statement() {
    let mut cluster = Cluster::settled(3);
    cluster.join(4);
    let mut newcomer = filling(&cluster, 4);
    newcomer.compares(&cluster, &[1, 2], 1_000);
    let before = filled(&newcomer);
    cluster.fill(1);
    newcomer.on_view(&cluster.view(), |_| false, Instant(2_000));
    assert_eq!(filled(&newcomer), before);
    cluster.join(5);
    newcomer.on_view(&cluster.view(), |_| false, Instant(3_000));
    assert_eq!(filled(&newcomer), 0);
    newcomer.compares(&cluster, &[1, 2], 2_999);
    assert_eq!(filled(&newcomer), 0, "those exchanges began before");
    newcomer.compares(&cluster, &[1, 2], 3_000);
    assert_eq!(filled(&newcomer), newcomer.progress().0);
}

#[test]
fn old_rows_are_retired_once_a_majority_of_them_knows_and_the_first_of_the_row_does_it() {
    let mut cluster = Cluster::settled(3);
    cluster.join(4);
    (1..=4).for_each(|number| cluster.fill(number));
    let view = cluster.view();
    let id = cluster.id(1);
    let is_headed = |it: &Partition| !view.other_rows(*it).is_empty() && view.row(*it)[0] == id;
    let headed = view.partitions().filter(is_headed).count();
    let mut machine = filling(&cluster, 1);
    assert_eq!(machine.retired(NOW).count(), 0, "nobody else is known to know");
    assert!(!machine.witnesses().is_empty());
    machine.on_agreed(cluster.id(2));
    machine.on_agreed(cluster.id(3));
    assert_eq!(machine.retired(NOW).count(), headed);
    assert!(machine.retired(Instant(NOW.0 + 20_000)).count() > headed, "the others do not do it");
    cluster.retire(1);
    machine.on_view(&cluster.view(), |_| false, NOW);
    assert_eq!(machine.retired(Instant(60_000)).count(), 0);
}

#[test]
fn what_is_in_doubt_is_compared_with_others_and_not_said_to_be_filled() {
    let cluster = Cluster::settled(3);
    let mut machine = Filling::new(cluster.id(1), FillingRules::sound());
    machine.on_view(&cluster.view(), |_| true, NOW);
    assert_eq!(machine.progress().0, 8);
    machine.compares(&cluster, &[2], 1_000);
    assert!(!machine.is_resolved(Partition(0)), "what a majority has may be with the other and this node");
    machine.compares(&cluster, &[3], 1_000);
    assert!(machine.is_resolved(Partition(0)));
    assert_eq!(filled(&machine), 0);
}

#[test]
fn one_in_doubt_is_no_source_but_for_another_in_doubt() {
    let mut cluster = Cluster::settled(3);
    cluster.join(4);
    let mut newcomer = filling(&cluster, 4);
    for peer in [1, 2, 3] {
        newcomer.on_compared(cluster.id(peer), Standing::InDoubt, &all(&cluster), NOW);
    }
    assert_eq!(filled(&newcomer), 0);
}

#[test]
fn what_is_asked_of_a_row_is_a_majority_as_it_was_made_until_too_few_are_left() {
    let mut cluster = Cluster::settled(3);
    cluster.join(4);
    cluster.say(1, |cluster| ChangeKind::Removed(cluster.removal(3)));
    let mut newcomer = filling(&cluster, 4);
    newcomer.compares(&cluster, &[1], 1_000);
    assert_eq!(filled(&newcomer), 0, "two of three, though one is gone");
    cluster.say(1, |cluster| ChangeKind::Removed(cluster.removal(2)));
    newcomer.on_view(&cluster.view(), |_| false, NOW);
    newcomer.compares(&cluster, &[1], 1_000);
    assert!(filled(&newcomer) > 0);
}

#[test]
fn what_has_come_is_counted_from_the_first_that_is_wanted_until_none_is() {
    let mut cluster = Cluster::settled(3);
    let mut settled = filling(&cluster, 1);
    assert!(!settled.on_moved(&all(&cluster), 5, 500));
    assert_eq!(settled.taken(), Taken::default(), "it is no use for anything");

    cluster.join(4);
    let mut newcomer = filling(&cluster, 4);
    let (_, partitions) = newcomer.next_source(|_| true, NOW).unwrap();
    let elsewhere = cluster.view().partitions().filter(|partition| !partitions.contains(partition));
    assert!(!newcomer.on_moved(&PartitionSet::new(cluster.partitions(), elsewhere), 1, 100));
    assert!(newcomer.on_moved(&all(&cluster), 5, 500));
    newcomer.on_view(&cluster.view(), |_| false, Instant(2_000));
    newcomer.on_moved(&all(&cluster), 2, 200);
    assert_eq!(newcomer.taken(), Taken { since: Some(NOW), keys: 7, bytes: 700 });

    (1..=4).for_each(|number| cluster.fill(number));
    newcomer.on_view(&cluster.view(), |_| false, Instant(3_000));
    assert_eq!((newcomer.progress(), newcomer.taken()), ((0, 0), Taken::default()));
}

/// How many partitions the newcomer says it has filled by other rules, once it was compared with these.
fn filled_by(rules: FillingRules, cluster: &Cluster, peers: &[u8]) -> usize {
    let mut newcomer = Filling::new(cluster.id(4), rules);
    newcomer.on_view(&cluster.view(), |_| false, NOW);
    newcomer.compares(cluster, peers, 1_000);
    filled(&newcomer)
}

#[test]
fn weakened_rules_fill_too_early() {
    let mut cluster = Cluster::settled(3);
    cluster.join(4);
    let one_less = FillingRules { sources: SourceRule::OneLess, ..FillingRules::sound() };
    assert_eq!(filled_by(FillingRules::sound(), &cluster, &[1]), 0);
    assert!(filled_by(one_less, &cluster, &[1]) > 0);

    let mut cluster = Cluster::settled(3);
    cluster.join(4);
    cluster.say(1, |cluster| ChangeKind::Removed(cluster.removal(3)));
    let go_on = FillingRules { changes: ChangeRule::GoOn, ..FillingRules::sound() };
    for (rules, goes_on) in [(FillingRules::sound(), false), (go_on, true)] {
        let mut newcomer = Filling::new(cluster.id(4), rules);
        newcomer.on_view(&cluster.view(), |_| false, NOW);
        newcomer.compares(&cluster, &[1, 2], 1_000);
        let mut later = Cluster { history: cluster.history.clone() };
        later.join(5);
        newcomer.on_view(&later.view(), |_| false, Instant(2_000));
        assert_eq!(filled(&newcomer) > 0, goes_on);
    }
}

#[test]
fn a_weakened_rule_retires_before_anybody_else_knows() {
    let mut cluster = Cluster::settled(3);
    cluster.join(4);
    (1..=4).for_each(|number| cluster.fill(number));
    let at_once = FillingRules { retirement: RetirementRule::AtOnce, ..FillingRules::sound() };
    let mut machine = Filling::new(cluster.id(1), at_once);
    machine.on_view(&cluster.view(), |_| false, NOW);
    assert!(machine.retired(Instant(60_000)).count() > 0);
    assert_eq!(filling(&cluster, 1).retired(Instant(60_000)).count(), 0);
}
