//! The client against nobody, against strangers, and against nodes that this test plays itself.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod connecting;
mod operations;
mod stage;
