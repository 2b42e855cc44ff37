//! mDNS discovery between real sockets, in networks of the tests' own.
//!
//! Every test runs itself again in a fresh network namespace, so it neither hears nor disturbs whatever else speaks
//! mDNS on this machine. Where namespaces cannot be made it says so and passes.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stderr, reason = "what a test has measured is worth seeing")]

mod lan;
mod ours;

mod departure;
mod discovery;
mod hostility;
