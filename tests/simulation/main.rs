//! A whole cluster in one thread under one seed, held against what its clients were promised.
//!
//! `QUORATE_SEED=n` replays one seed; `QUORATE_SEEDS=n` plays n fresh ones. What is simulated and what is checked is
//! said in the modules; what is not: disks that lose single records, two processes with one identity that serve at the same
//! time for long, and more than nine nodes that come and go.

#![allow(clippy::print_stdout, reason = "the counts are part of what a test says")]

mod cluster;
mod effects;
mod exchanges;
mod connections;
mod machine;
mod network;
mod dice;
mod seeds;

mod workload;
mod faults;
mod model;
mod checker;
mod run;
mod changes;
mod run_changes;

mod random;
mod stage;
mod scenarios;
mod histories;
mod forks;
mod twins;
mod forgeries;
mod departures;
mod outages;
mod repairs;
mod traffic;
mod coming_and_going;
