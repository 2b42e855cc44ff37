//! Who belongs to the cluster: a history of signed changes, the view it folds to, and a private opinion who answers.
//!
//! Planned changes are facts: signed by their authors, kept for ever, equal everywhere sooner or later. Only they move
//! data. Who can be reached is an opinion: never told as truth, never written to the history.

pub mod change;
pub mod life;
pub mod summary;
pub(crate) mod chain;
pub mod label;
pub mod history;
pub mod roster;
pub mod configuration;
pub mod view;
pub mod gossip;
pub mod liveness;

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod fork_properties;
#[cfg(test)]
mod kind_properties;
