//! Random runs, and the bugs they must find.

use std::time::{Duration, Instant};

use quorate::{
    causality::epochs::EpochRule,
    config::NodeRules,
    handoff::hints::DropRule,
    quorum::{QuorumRules, StandInRule, UnknownRule, put::Hinting},
    replica::rules::{HintRule, MergeRule, Rules},
};

use crate::{
    checker::Violation,
    cluster::Setup,
    machine::Acknowledge,
    run::{Plan, Report, run},
    seeds::seeds,
    workload::Trust,
};

/// How many seeds the ordinary test plays: 10 s on an idle machine, unoptimised.
const SEED_COUNT: u64 = 60;

#[track_caller]
fn play(seeds: &[u64], plan: impl Fn(u64) -> Plan) -> (u64, u64) {
    let (mut operations, mut steps) = (0, 0);
    for seed in seeds {
        let report = run(*seed, &plan(*seed));
        assert_eq!(report.violation, None, "seed {seed} fails; replay it with QUORATE_SEED={seed}");
        operations += report.operations;
        steps += report.steps;
    }
    (operations, steps)
}

#[test]
fn random_runs_keep_the_promises() {
    let begun = Instant::now();
    let seeds = seeds(SEED_COUNT);
    let (operations, steps) = play(&seeds, Plan::ordinary);
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{} runs, {operations} operations, {steps} steps in {seconds:.1} s: {:.0} operations a second",
        seeds.len(),
        operations as f64 / seconds
    );
    assert!(operations > 1_000 || seeds.len() < 4, "{operations} operations prove little");
}

#[test]
fn without_hints_the_promises_hold_as_well() {
    play(&seeds(20), |seed| {
        let mut plan = Plan::ordinary(seed);
        plan.setup.hinting = Hinting::Off;
        plan
    });
}

/// The ordinary run of `seed`, in which nothing but comparing heals.
fn comparing_alone(seed: u64) -> Plan {
    let mut plan = Plan::ordinary(seed);
    plan.setup.hinting = Hinting::Off;
    plan.setup.read_repair = false;
    plan.setup.exchange_interval = Some(Duration::from_secs(10));
    plan
}

#[test]
fn comparing_alone_makes_replicas_equal() {
    play(&seeds(30), comparing_alone);
    play(&seeds(8), |seed| Plan { trust: Trust::OneStoreLost, ..comparing_alone(seed) });
}

#[test]
fn nodes_of_several_zones_keep_the_promises() {
    play(&seeds(10), |seed| {
        let mut plan = Plan::ordinary(seed);
        plan.setup.zones = 2;
        plan.setup.nodes = 6;
        plan
    });
}

#[test]
fn a_disk_that_goes_back_loses_nothing_that_two_stores_held() {
    play(&seeds(8), |_| Plan { trust: Trust::OneStoreLost, ..Plan::ordinary(0) });
}

#[test]
fn members_that_join_in_the_middle_of_everything_end_with_one_history() {
    play(&seeds(8), |seed| Plan { trust: Trust::Unsettled, clients: 3, ..Plan::ordinary(seed) });
}

#[test]
fn equal_seeds_give_equal_traces() {
    let trace = |seed| {
        let mut plan = Plan::ordinary(3);
        plan.setup.is_traced = true;
        plan.trouble_ms = 4_000;
        run(seed, &plan).trace
    };
    assert!(trace(1).is_some());
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

/// Plays seeds until one breaks a promise in a way that `is_expected`.
#[track_caller]
fn catch(setup: Setup, trust: Trust, is_expected: fn(&Violation) -> bool) {
    for seed in 1..=CATCH_SEED_COUNT {
        let plan = Plan { setup: setup.clone(), trust, ..Plan::ordinary(0) };
        let Report { violation, .. } = run(seed, &plan);
        if let Some(violation) = violation.filter(is_expected) {
            println!("seed {seed}: {violation:?}");
            return;
        }
    }
    panic!("{CATCH_SEED_COUNT} seeds did not show it");
}

#[test]
fn a_store_without_fresh_epochs_is_caught() {
    let rules = Rules { epochs: EpochRule::NeverFresh, ..Rules::sound() };
    let setup = Setup { rules, ..Setup::sound(3, 3) };
    catch(setup, Trust::OneStoreLost, |violation| {
        matches!(violation, Violation::DotWithTwoValues { .. } | Violation::Lost { .. })
    });
}

#[test]
fn an_acknowledgement_before_the_commit_is_caught() {
    let setup = Setup { acknowledge: Acknowledge::BeforeCommit, ..Setup::sound(3, 3) };
    catch(setup, Trust::Full, |violation| matches!(violation, Violation::NotDurable { .. }));
}

#[test]
fn a_merge_that_drops_a_sibling_is_caught() {
    let rules = Rules { merges: MergeRule::LastWriteWins, ..Rules::sound() };
    let setup = Setup { rules, ..Setup::sound(3, 3) };
    catch(setup, Trust::Full, |violation| matches!(violation, Violation::Lost { .. }));
}

fn with_node_rules(node_rules: NodeRules) -> Setup {
    Setup { node_rules, ..Setup::sound(5, 3) }
}

#[test]
fn a_hint_removed_before_its_acknowledgement_is_caught() {
    let setup = with_node_rules(NodeRules { handoff: DropRule::Sent, ..NodeRules::sound() });
    catch(setup, Trust::Full, |violation| matches!(violation, Violation::DroppedEarly { .. }));
}

#[test]
fn a_hint_removed_though_it_has_changed_is_caught() {
    let rules = Rules { hints: HintRule::DroppedThoughChanged, ..Rules::sound() };
    let setup = Setup { rules, ..Setup::sound(5, 3) };
    catch(setup, Trust::Full, |violation| matches!(violation, Violation::DroppedEarly { .. }));
}

#[test]
fn a_hint_among_the_data_of_its_holder_is_caught() {
    let rules = Rules { hints: HintRule::AmongObjects, ..Rules::sound() };
    let setup = Setup { rules, ..Setup::sound(5, 3) };
    catch(setup, Trust::Full, |violation| matches!(violation, Violation::Misplaced { .. }));
}

#[test]
fn a_stand_in_that_is_counted_twice_is_caught() {
    let quorum = QuorumRules { stand_ins: StandInRule::Repeatedly, ..QuorumRules::sound() };
    let setup = with_node_rules(NodeRules { quorum, ..NodeRules::sound() });
    catch(setup, Trust::Full, |violation| matches!(violation, Violation::NotDurable { .. }));
}

#[test]
fn ignorance_that_is_taken_for_absence_is_caught() {
    let quorum = QuorumRules { unknown: UnknownRule::KnowsAbsence, ..QuorumRules::sound() };
    let setup = with_node_rules(NodeRules { quorum, ..NodeRules::sound() });
    catch(setup, Trust::Full, |violation| matches!(violation, Violation::AbsentToTheIgnorant { .. }));
}

/// Within so many seeds each planted bug must show.
const CATCH_SEED_COUNT: u64 = 100;
