//! Members that come and go in random runs, and the bugs that such runs must find.

use std::time::Instant;

use quorate::{
    config::NodeRules,
    handoff::filling::{FillingRules, SourceRule},
    membership::view::{KeepRule, PlacementRules, RemovalRule},
    quorum::{HearRule, QuorumRules},
    wire::{
        administration::{MembershipOrder, Order},
        client::{ClientRequest, ClientResponse},
    },
};

use crate::{
    changes::{ChangeCounts, ChangePlan, lost_order, run},
    checker::Violation,
    cluster::{Cluster, Setup},
    machine::Acknowledge,
    seeds::seeds,
};

/// How many seeds the ordinary test plays.
const SEED_COUNT: u64 = 24;

/// Within so many seeds each planted bug must show.
const CATCH_SEED_COUNT: u64 = 100;

#[test]
fn members_that_come_and_go_in_the_middle_of_everything_lose_nothing() {
    play(ChangePlan::ordinary);
}

#[test]
fn what_strict_quorums_have_acknowledged_is_seen_by_all_others_though_nothing_but_filling_moves_it() {
    play(ChangePlan::bare);
}

#[track_caller]
fn play(plan: fn(u64) -> ChangePlan) {
    let begun = Instant::now();
    let seeds = seeds(SEED_COUNT);
    let (mut operations, mut steps, mut counts) = (0, 0, ChangeCounts::default());
    for seed in &seeds {
        let (report, changes) = run(*seed, &plan(*seed));
        assert_eq!(report.violation, None, "seed {seed} fails; replay it with QUORATE_SEED={seed}");
        operations += report.operations;
        steps += report.steps;
        counts.add(&changes);
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{} runs, {operations} operations, {steps} steps in {seconds:.1} s: {:.1} runs a second; {counts:?}",
        seeds.len(),
        seeds.len() as f64 / seconds
    );
    assert!(operations > 8_000 || seeds.len() < 20, "{operations} operations prove little");
}

/// Whether what was broken is what clients or operators were promised, and not only that a run did not come to its end.
fn is_promise(violation: &Violation) -> bool {
    matches!(
        violation,
        Violation::StaleRead { .. }
            | Violation::Lost { .. }
            | Violation::Forgotten { .. }
            | Violation::Returned { .. }
            | Violation::ReplicasDiffer { .. }
            | Violation::Misplaced { .. }
            | Violation::Unsettled { .. }
            | Violation::Unavailable { .. }
            | Violation::RemovedAndBack { .. }
    )
}

#[track_caller]
fn catch(what: &str, first: u64, rules: NodeRules) {
    for seed in first..first + CATCH_SEED_COUNT {
        let (report, _) = run(seed, &ChangePlan::with_rules(seed, rules));
        if let Some(violation) = report.violation.filter(is_promise) {
            println!("{what}: seed {seed}: {violation:?}");
            return;
        }
    }
    panic!("{what}: {CATCH_SEED_COUNT} seeds did not show it");
}

#[test]
fn an_order_that_is_answered_before_its_change_is_stored_is_caught() {
    let order = MembershipOrder::Leave;
    let is_lost = |acknowledge| {
        let mut cluster = Cluster::settled_with(7, &Setup { acknowledge, ..Setup::sound(3, 3) });
        let answer = cluster.ask(0, ClientRequest::Administer(Order::Membership(order)));
        assert_eq!(answer, ClientResponse::Administered);
        lost_order(&cluster, 0, order).is_some()
    };
    assert!(is_lost(Acknowledge::BeforeCommit));
    assert!(!is_lost(Acknowledge::AfterCommit));
}

fn with_quorum(quorum: QuorumRules) -> NodeRules {
    NodeRules { quorum, ..NodeRules::sound() }
}

fn with_filling(filling: FillingRules) -> NodeRules {
    NodeRules { filling, ..NodeRules::sound() }
}

fn with_placement(placement: PlacementRules) -> NodeRules {
    NodeRules { placement, ..NodeRules::sound() }
}

#[test]
fn writes_that_hear_from_the_present_row_only_are_caught() {
    catch("W of the row only", 1, with_quorum(QuorumRules { writes: HearRule::PresentOnly, ..QuorumRules::sound() }));
}

#[test]
fn reads_that_hear_from_the_present_row_only_are_caught() {
    catch("R of the row only", 50, with_quorum(QuorumRules { reads: HearRule::PresentOnly, ..QuorumRules::sound() }));
}

#[test]
fn filling_from_one_less_is_caught() {
    catch("K - 1", 200, with_filling(FillingRules { sources: SourceRule::OneLess, ..FillingRules::sound() }));
}

#[test]
fn dropping_early_is_caught() {
    catch("early drop", 1, with_placement(PlacementRules { keeping: KeepRule::RowOnly, ..PlacementRules::sound() }));
}

#[test]
fn a_removed_member_let_back_in_is_caught() {
    let placement = PlacementRules { removal: RemovalRule::UntilItJoinsAgain, ..PlacementRules::sound() };
    catch("removed and back", 1, with_placement(placement));
}
