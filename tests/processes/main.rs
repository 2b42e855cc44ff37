//! Whole processes, driven as a person or a script would: words in, JSON and exit codes out.
//!
//! Real sockets, real LMDB, real network namespaces with real mDNS where the machine allows them. Few, slow, essential.
//! Waits are for events with a deadline, never for time to pass. What a process prints is judged; what it does inside
//! is for other tests.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stderr, reason = "says what was measured, and what this machine does not allow")]

mod harness;
mod network;
mod keys;

mod discovery;
mod data;
mod siblings;
mod outages;
mod hints;
mod repair;
mod alerts;
mod refusals;
mod strangers;
mod shapes;
mod ring;
mod membership;
mod filling;
mod departures;
mod updates;
mod islands;
mod accidents;
mod restarts;
