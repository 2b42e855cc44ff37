//! A dot: the name of one write event.
//!
//! A dot is minted once and names one value for ever; who may mint it is decided in `epochs.rs`. Neither type knows of
//! time or of the key it belongs to: the dots of two keys have nothing to do with each other.
//!
//! Encoded as CBOR arrays of numbers, `[node, epoch]` and `[node, epoch, counter]`.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::COUNTER_MAX;

/// Who mints: a node, in one unbroken time of holding a key. Ordered by node, then by epoch.
///
/// Decoding refuses an epoch above [`COUNTER_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "(u64, u64)", try_from = "(u64, u64)")]
pub struct Actor {
    /// The node's short number, [`crate::ident::NodeId::to_actor_number`].
    pub node: u64,
    /// Which of the node's times; see `epochs.rs`.
    pub epoch: u64,
}

/// One write event: the `counter`-th of its actor at one key. Ordered by actor, then by counter.
///
/// Decoding refuses a counter of zero, and a counter or an epoch above [`COUNTER_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "(u64, u64, u64)", try_from = "(u64, u64, u64)")]
pub struct Dot {
    /// Who minted it.
    pub actor: Actor,
    /// Counts from one.
    pub counter: u64,
}

/// Why numbers are not a dot or an actor. The same numbers will never do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DotError {
    /// No node draws so many epochs.
    #[error("epoch {epoch} is above the limit of {COUNTER_MAX}")]
    EpochTooHigh {
        /// What was shown.
        epoch: u64,
    },
    /// No actor writes so often.
    #[error("counter {counter} is above the limit of {COUNTER_MAX}")]
    CounterTooHigh {
        /// What was shown.
        counter: u64,
    },
    /// Counters count from one.
    #[error("a counter of zero names no write")]
    CounterZero,
}

impl TryFrom<(u64, u64)> for Actor {
    type Error = DotError;

    fn try_from((node, epoch): (u64, u64)) -> Result<Actor, DotError> {
        if epoch > COUNTER_MAX {
            return Err(DotError::EpochTooHigh { epoch });
        }
        Ok(Actor { node, epoch })
    }
}

impl TryFrom<(u64, u64, u64)> for Dot {
    type Error = DotError;

    fn try_from((node, epoch, counter): (u64, u64, u64)) -> Result<Dot, DotError> {
        let actor = Actor::try_from((node, epoch))?;
        match counter {
            0 => Err(DotError::CounterZero),
            counter if counter > COUNTER_MAX => Err(DotError::CounterTooHigh { counter }),
            counter => Ok(Dot { actor, counter }),
        }
    }
}

impl From<Actor> for (u64, u64) {
    fn from(actor: Actor) -> (u64, u64) {
        (actor.node, actor.epoch)
    }
}

impl From<Dot> for (u64, u64, u64) {
    fn from(dot: Dot) -> (u64, u64, u64) {
        (dot.actor.node, dot.actor.epoch, dot.counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(numbers: (u64, u64, u64), expected: Result<(), DotError>) {
        assert_eq!(Dot::try_from(numbers).map(|_| ()), expected);
        let bytes = cbor4ii::serde::to_vec(Vec::new(), &numbers).unwrap();
        let decoded = cbor4ii::serde::from_slice::<Dot>(&bytes);
        assert_eq!(decoded.is_ok(), expected.is_ok());
        if let Ok(dot) = decoded {
            assert_eq!(cbor4ii::serde::to_vec(Vec::new(), &dot).unwrap(), bytes);
        }
    }

    #[test]
    fn a_dot_is_three_numbers_within_their_limits() {
        check((u64::MAX, 0, 1), Ok(()));
        check((7, COUNTER_MAX, COUNTER_MAX), Ok(()));
        check((7, 1, 0), Err(DotError::CounterZero));
        check((7, 1, COUNTER_MAX + 1), Err(DotError::CounterTooHigh { counter: COUNTER_MAX + 1 }));
        check((7, COUNTER_MAX + 1, 1), Err(DotError::EpochTooHigh { epoch: COUNTER_MAX + 1 }));
    }
}
