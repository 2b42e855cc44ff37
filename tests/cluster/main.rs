//! Real nodes in one process: real sockets on loopback, real LMDB, no clock but the real one.
//!
//! Few, slow, essential. Waits are for events with a deadline, never for time to pass.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stdout, reason = "what a test has measured is worth seeing")]

mod harness;
mod costs;
mod hostility;
mod quorums;
mod mole;
mod exchange_hostility;
mod history_hostility;
