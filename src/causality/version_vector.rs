//! A version vector: which writes of one key have been seen.
//!
//! Per actor it holds the highest counter seen, and means that every lower one of that actor has been seen too, or
//! replaced by something seen. No entry is zero. It cannot tell of a gap: the dot beside it in a sibling does that.
//!
//! Encoded as a CBOR array of dots, strictly ascending by actor: equal vectors have equal bytes.

use std::{cmp::Ordering, collections::BTreeMap};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::causality::dot::{Actor, Dot};

/// The highest counter seen of each actor. May be empty. Equality is that of the entries.
///
/// Decoding refuses entries that are unsorted, doubled, zero, or above [`crate::limits::COUNTER_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VersionVector(BTreeMap<Actor, u64>);

impl VersionVector {
    /// Has seen nothing.
    pub fn new() -> VersionVector {
        VersionVector::default()
    }

    /// The highest counter seen of `actor`; zero if none.
    pub fn counter(&self, actor: &Actor) -> u64 {
        self.0.get(actor).copied().unwrap_or(0)
    }

    /// Whether the write `dot` has been seen.
    pub fn covers(&self, dot: &Dot) -> bool {
        dot.counter <= self.counter(&dot.actor)
    }

    /// Whether all that `other` has seen has been seen.
    pub fn covers_all(&self, other: &VersionVector) -> bool {
        other.0.iter().all(|(actor, counter)| *counter <= self.counter(actor))
    }

    /// Has seen the writes of `actor` up to `counter`, and what it had seen. A counter of zero changes nothing.
    pub fn raise(&mut self, actor: Actor, counter: u64) {
        if counter > self.counter(&actor) {
            self.0.insert(actor, counter);
        }
    }

    /// Has seen what either has: the pointwise maximum.
    pub fn join(&mut self, other: &VersionVector) {
        for (actor, counter) in &other.0 {
            self.raise(*actor, *counter);
        }
    }

    /// Which of the two has seen more; `None` if each has seen something the other has not.
    pub fn compare(&self, other: &VersionVector) -> Option<Ordering> {
        match (self.covers_all(other), other.covers_all(self)) {
            (true, true) => Some(Ordering::Equal),
            (true, false) => Some(Ordering::Greater),
            (false, true) => Some(Ordering::Less),
            (false, false) => None,
        }
    }

    /// The entries, ascending by actor, each as the dot of the latest write seen.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Dot> + '_ {
        self.0.iter().map(|(actor, counter)| Dot { actor: *actor, counter: *counter })
    }

    /// The epochs of the node numbered `node` of which anything has been seen, ascending.
    pub fn epochs_of(&self, node: u64) -> impl Iterator<Item = u64> + '_ {
        let all = Actor { node, epoch: 0 }..=Actor { node, epoch: u64::MAX };
        self.0.range(all).map(|(actor, _)| actor.epoch)
    }

    /// Number of actors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing has been seen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for VersionVector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for VersionVector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<VersionVector, D::Error> {
        let entries = Vec::<Dot>::deserialize(deserializer)?;
        if !entries.is_sorted_by(|earlier, later| earlier.actor < later.actor) {
            return Err(de::Error::custom("the entries of a version vector are not strictly ascending"));
        }
        Ok(VersionVector(entries.into_iter().map(|dot| (dot.actor, dot.counter)).collect()))
    }
}
