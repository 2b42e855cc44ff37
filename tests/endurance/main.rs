//! Whole clusters under load while nodes die, stand still, come back, and lose sight of each other.
//!
//! Real processes, real disks, real clients. The stories are told one at a time, for some of them compare how fast a
//! cluster is with how fast it was a minute before. Each says what it has measured. Only where a span of time is what is
//! told of (so long a pause, so long a cut) does one wait for time to pass; everything else is an event with a deadline.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stderr, reason = "says what was measured, and what this machine does not allow")]

#[path = "../processes/harness.rs"]
#[expect(dead_code, reason = "made for other stories as well")]
mod harness;
#[path = "../processes/network.rs"]
mod network;

#[path = "../cluster/harness.rs"]
#[expect(dead_code, reason = "made for other stories as well")]
mod cluster;

mod town;
mod load;

mod deaths;
mod pauses;
mod storms;
mod cuts;
mod zones;
mod exchanges;
mod membership;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by the story that is being told.
static TURN: Mutex<()> = Mutex::new(());

/// Waits until no other story is being told. One that failed is over as well.
fn alone() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
