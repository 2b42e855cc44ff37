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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::COUNTER_MAX;

    fn vector(entries: &[(u64, u64)]) -> VersionVector {
        let mut vector = VersionVector::new();
        for (node, counter) in entries {
            vector.raise(Actor { node: *node, epoch: 0 }, *counter);
        }
        vector
    }

    /// All vectors over two actors with counters up to two.
    fn small_world() -> Vec<VersionVector> {
        (0..9).map(|number| vector(&[(1, number / 3), (2, number % 3)])).collect()
    }

    #[test]
    fn join_is_the_least_vector_that_covers_both() {
        let world = small_world();
        for (left, right) in world.iter().flat_map(|left| world.iter().map(move |right| (left, right))) {
            let mut joined = left.clone();
            joined.join(right);
            assert!(joined.covers_all(left) && joined.covers_all(right));
            for other in &world {
                assert_eq!(other.covers_all(&joined), other.covers_all(left) && other.covers_all(right));
            }
        }
    }

    #[test]
    fn comparing_agrees_with_covering_single_dots() {
        let world = small_world();
        for (left, right) in world.iter().flat_map(|left| world.iter().map(move |right| (left, right))) {
            let expected = match (right.iter().all(|dot| left.covers(&dot)), left.iter().all(|dot| right.covers(&dot)))
            {
                (true, true) => Some(Ordering::Equal),
                (true, false) => Some(Ordering::Greater),
                (false, true) => Some(Ordering::Less),
                (false, false) => None,
            };
            assert_eq!(left.compare(right), expected);
            assert_eq!(left == right, expected == Some(Ordering::Equal));
        }
    }

    #[test]
    fn a_counter_of_zero_leaves_no_entry() {
        assert!(vector(&[(1, 0)]).is_empty());
    }

    #[track_caller]
    fn check_decoding(entries: &[(u64, u64, u64)], is_accepted: bool) {
        let bytes = cbor4ii::serde::to_vec(Vec::new(), &entries).unwrap();
        let decoded = cbor4ii::serde::from_slice::<VersionVector>(&bytes);
        assert_eq!(decoded.is_ok(), is_accepted, "{decoded:?}");
        if let Ok(vector) = decoded {
            assert_eq!(cbor4ii::serde::to_vec(Vec::new(), &vector).unwrap(), bytes);
        }
    }

    #[test]
    fn only_ascending_entries_within_the_limits_are_decoded() {
        let limit = COUNTER_MAX;
        check_decoding(&[], true);
        check_decoding(&[(1, 0, 5), (1, 3, 1), (2, 0, limit)], true);
        check_decoding(&[(2, 0, 1), (1, 0, 1)], false);
        check_decoding(&[(1, 0, 1), (1, 0, 2)], false);
        check_decoding(&[(1, 0, 0)], false);
        check_decoding(&[(1, 0, limit + 1)], false);
        check_decoding(&[(1, limit + 1, 1)], false);
    }
}
