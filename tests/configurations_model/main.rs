//! A model of changing configurations: random schedules of the rules alone.
//!
//! The histories, views, rows, tallies and the machine that fills are the product's own; stores are sets of writes, and
//! there is no network but messages that take their time, get lost and are answered by whoever has learned something else
//! meanwhile. So a run costs milliseconds, and after every step reads and writes by all who know little and reach few can
//! be tried. What the simulator plays with whole nodes by the hundred, this plays by the thousand; what it leaves out
//! (stand-ins, hints, crashes of stores, forks) the simulator has.
//!
//! Checked: no strict read misses what was acknowledged before it began (of islands: from the moment a reader knows of
//! the writer's founders, or a merged configuration was retired to); all who can be reached can be read and written as
//! long as nobody is lost; in the end everybody knows the same, each partition is held by exactly its row with everything
//! acknowledged in it, and nothing else counts any more. Each rule that could be weakened is, and must then be caught.
//!
//! `QUORATE_SEED=n` replays one seed; `QUORATE_SEEDS=n` plays n fresh ones.
//!
//! Source: the rules are those of Lynch and Shvartsman, "RAMBO" (2002), without its consensus.

#![allow(clippy::print_stdout, reason = "the counts are part of what a test says")]

mod checks;
mod dice;
mod exchanges;
mod library;
mod operations;
mod plan;
mod schedule;
#[path = "../simulation/seeds.rs"]
mod seeds;
mod world;

use std::time::Instant;

use quorate::{
    handoff::filling::{ChangeRule, FillingRules, RetirementRule, SourceRule},
    membership::view::{IslandRule, KeepRule, PlacementRules},
    quorum::{AnswerRule, HearRule, QuorumRules},
};

use crate::{
    checks::Violation,
    dice::Dice,
    plan::{Plan, Rules},
    schedule::run,
    seeds::seeds,
    world::Counts,
};

/// How many seeds each ordinary test plays.
const SEED_COUNT: u64 = 150;

/// Within so many seeds each planted bug must show.
const CATCH_SEED_COUNT: u64 = 1_000;

#[track_caller]
fn play(plan: fn(&mut Dice) -> Plan) {
    let begun = Instant::now();
    let seeds = seeds(SEED_COUNT);
    let mut sums = Counts::default();
    for seed in &seeds {
        let (result, counts) = run(*seed, plan, Rules::sound());
        assert_eq!(result, Ok(()), "seed {seed} fails; replay it with QUORATE_SEED={seed}");
        sums.add(&counts);
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{} runs in {seconds:.1} s, {:.0} a second: {sums:?}", seeds.len(), seeds.len() as f64 / seconds);
}

#[test]
fn members_come_and_go_and_no_acknowledged_write_is_missed() {
    play(Plan::of_one);
}

#[test]
fn single_copies_move_and_no_acknowledged_write_is_missed() {
    play(Plan::of_single_copies);
}

#[test]
fn one_of_two_is_lost_while_others_join_and_no_acknowledged_write_is_missed() {
    play(Plan::of_pairs);
}

#[test]
fn two_of_five_are_lost_and_no_acknowledged_write_is_missed() {
    play(Plan::of_five);
}

#[test]
fn two_and_three_islands_become_one_and_no_acknowledged_write_is_missed() {
    play(Plan::of_islands);
}

/// Whether clients would have noticed.
fn is_seen(violation: &Violation) -> bool {
    matches!(violation, Violation::StaleRead { .. } | Violation::Lost { .. })
}

#[track_caller]
fn catch(what: &str, plan: fn(&mut Dice) -> Plan, rules: Rules) {
    for seed in 1..=CATCH_SEED_COUNT {
        if let Err(violation) = run(seed, plan, rules).0
            && is_seen(&violation)
        {
            println!("{what}: seed {seed}: {violation:?}");
            return;
        }
    }
    panic!("{what}: {CATCH_SEED_COUNT} seeds did not show it");
}

fn with_quorum(quorum: QuorumRules) -> Rules {
    Rules { quorum, ..Rules::sound() }
}

fn with_filling(filling: FillingRules) -> Rules {
    Rules { filling, ..Rules::sound() }
}

fn with_placement(placement: PlacementRules) -> Rules {
    Rules { placement, ..Rules::sound() }
}

#[test]
fn writes_that_hear_from_active_configurations_only_are_caught() {
    let quorum = QuorumRules { writes: HearRule::ActiveOnly, ..QuorumRules::sound() };
    catch("W of the active only", Plan::of_one, with_quorum(quorum));
}

#[test]
fn writes_that_hear_from_the_present_row_only_are_caught() {
    let quorum = QuorumRules { writes: HearRule::PresentOnly, ..QuorumRules::sound() };
    catch("W of the row only", Plan::of_one, with_quorum(quorum));
}

#[test]
fn reads_that_hear_from_the_present_row_only_are_caught() {
    let quorum = QuorumRules { reads: HearRule::PresentOnly, ..QuorumRules::sound() };
    catch("R of the row only", Plan::of_one, with_quorum(quorum));
}

#[test]
fn answers_under_another_history_that_count_are_caught() {
    let quorum = QuorumRules { answers: AnswerRule::AnyHistory, ..QuorumRules::sound() };
    catch("digest ignored", Plan::of_one, with_quorum(quorum));
}

#[test]
fn filling_from_one_less_is_caught() {
    let filling = FillingRules { sources: SourceRule::OneLess, ..FillingRules::sound() };
    catch("K - 1", Plan::of_one, with_filling(filling));
}

#[test]
fn filling_from_a_majority_of_the_survivors_is_caught() {
    let filling = FillingRules { sources: SourceRule::OfSurvivors, ..FillingRules::sound() };
    catch("K of survivors", Plan::of_five, with_filling(filling));
}

#[test]
fn filling_that_does_not_begin_anew_is_caught() {
    let filling = FillingRules { changes: ChangeRule::GoOn, ..FillingRules::sound() };
    catch("no restart", Plan::of_pairs, with_filling(filling));
}

#[test]
fn retiring_at_once_is_caught() {
    let filling = FillingRules { retirement: RetirementRule::AtOnce, ..FillingRules::sound() };
    catch("no check", Plan::of_one, with_filling(filling));
}

#[test]
fn dropping_early_is_caught() {
    let placement = PlacementRules { keeping: KeepRule::RowOnly, ..PlacementRules::sound() };
    catch("early drop", Plan::of_one, with_placement(placement));
}

#[test]
fn the_data_of_another_island_that_do_not_count_are_caught() {
    let placement = PlacementRules { islands: IslandRule::First, ..PlacementRules::sound() };
    catch("other island ignored", Plan::of_islands, with_placement(placement));
}
