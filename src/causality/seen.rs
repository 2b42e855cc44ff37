//! What a client has seen of one key: everything that a clock covers, and a few single writes beyond it.
//!
//! A clock alone cannot say "my own write, but not those that others made through the same coordinator just before":
//! that write has a counter above theirs, and a vector covers every counter below. So the writes which a client made
//! without having read since are named one by one. A put under such a context replaces exactly what it names, and its
//! coordinator's clock is never raised over the gap.
//!
//! Source: Preguiça et al., "Dotted version vectors" (2012), where the dot is that of the sibling; here of the context.

use serde::{Deserialize, Serialize};

use crate::causality::{
    dot::{Actor, Dot},
    version_vector::VersionVector,
};

/// Most single writes that are named beyond the clock. A ninth forgets the first: the value it named then stands beside
/// the new one until somebody reads both. Nothing is lost.
pub const SEEN_DOTS_MAX: usize = 8;

/// What a client has seen of one key. Encoded as the CBOR array `[clock, dots]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "(VersionVector, Vec<Dot>)", from = "(VersionVector, Vec<Dot>)")]
pub struct Seen {
    clock: VersionVector,
    /// Not covered by the clock, oldest first, at most [`SEEN_DOTS_MAX`].
    dots: Vec<Dot>,
}

impl Seen {
    /// Whether it has seen this write.
    pub fn covers(&self, dot: &Dot) -> bool {
        self.clock.covers(dot) || self.dots.contains(dot)
    }

    /// Everything it covers without a gap.
    pub fn clock(&self) -> &VersionVector {
        &self.clock
    }

    /// Every actor with the highest counter it has seen of it. Covers writes that it has *not* seen: good for noticing
    /// forgotten actors, never for dropping siblings.
    pub fn shown(&self) -> VersionVector {
        let mut shown = self.clock.clone();
        for dot in &self.dots {
            shown.raise(dot.actor, dot.counter);
        }
        shown
    }

    /// A part of it: at most `count` entries of the clock, those of actors that `matters` names first.
    ///
    /// To claim less than was seen is safe: what is left out is not replaced by the next write, but stands beside it.
    pub(crate) fn part(&self, count: usize, matters: impl Fn(&Actor) -> bool) -> Seen {
        let (first, rest): (Vec<Dot>, Vec<Dot>) = self.clock.iter().partition(|dot| matters(&dot.actor));
        let mut clock = VersionVector::new();
        for dot in first.into_iter().chain(rest).take(count) {
            clock.raise(dot.actor, dot.counter);
        }
        Seen::from((clock, self.dots.clone()))
    }

    /// Adds one write.
    pub(crate) fn add(&mut self, dot: Dot) {
        self.dots.push(dot);
        self.settle();
    }

    /// Adds everything that `clock` covers.
    pub(crate) fn join(&mut self, clock: &VersionVector) {
        self.clock.join(clock);
        self.settle();
    }

    /// Moves into the clock what it can name, and keeps within the bound.
    fn settle(&mut self) {
        self.dots.sort();
        for dot in std::mem::take(&mut self.dots) {
            let before = self.clock.counter(&dot.actor);
            if dot.counter == before + 1 {
                self.clock.raise(dot.actor, dot.counter);
            } else if dot.counter > before && !self.dots.contains(&dot) {
                self.dots.push(dot);
            }
        }
        let excess = self.dots.len().saturating_sub(SEEN_DOTS_MAX);
        self.dots.drain(..excess);
    }
}

impl From<VersionVector> for Seen {
    fn from(clock: VersionVector) -> Seen {
        Seen { clock, dots: Vec::new() }
    }
}

impl From<(VersionVector, Vec<Dot>)> for Seen {
    fn from((clock, dots): (VersionVector, Vec<Dot>)) -> Seen {
        let mut seen = Seen { clock, dots };
        seen.settle();
        seen
    }
}

impl From<Seen> for (VersionVector, Vec<Dot>) {
    fn from(seen: Seen) -> (VersionVector, Vec<Dot>) {
        (seen.clock, seen.dots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Actor = Actor { node: 1, epoch: 1 };

    fn dot(counter: u64) -> Dot {
        Dot { actor: A, counter }
    }

    #[test]
    fn a_single_write_is_seen_without_those_before_it() {
        let mut seen = Seen::default();
        seen.add(dot(3));
        assert!(seen.covers(&dot(3)) && !seen.covers(&dot(2)));
        assert_eq!(seen.clock(), &VersionVector::new());
        assert_eq!(seen.shown().counter(&A), 3);
    }

    #[test]
    fn gaps_that_close_leave_a_plain_clock() {
        let mut seen = Seen::default();
        seen.add(dot(2));
        seen.add(dot(1));
        assert_eq!(seen.clock().counter(&A), 2);
        assert_eq!(seen, Seen::from(seen.clock().clone()));
    }

    #[test]
    fn only_so_many_single_writes_are_remembered() {
        let mut seen = Seen::default();
        for counter in 1..100 {
            seen.add(dot(2 * counter));
        }
        assert_eq!(seen.dots.len(), SEEN_DOTS_MAX);
        assert!(seen.covers(&dot(198)) && !seen.covers(&dot(2)));
    }
}
