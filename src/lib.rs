//! Quorate: a leaderless, replicated key-value store whose nodes are libp2p peers.

pub mod clock;
pub mod digest;
pub mod ident;
pub mod limits;

pub mod causality;
pub mod membership;
pub mod ring;

pub mod store;
pub mod wire;

pub mod quorum;
pub mod replica;

pub mod config;
pub mod node;

#[cfg(feature = "node")]
pub mod runtime;
#[cfg(feature = "node")]
pub mod client;
#[cfg(feature = "node")]
pub mod cli;
