//! All chance of a run, from its one seed.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// A seeded generator: equal seeds and equal questions give equal answers.
pub(crate) struct Dice(ChaCha8Rng);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(ChaCha8Rng::seed_from_u64(seed))
    }

    /// An index below `length`, which is at least 1.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.0.next_u64() % length as u64).expect("less than a length")
    }

    /// True so often in a hundred.
    pub(crate) fn percent(&mut self, often: usize) -> bool {
        self.index(100) < often
    }

    /// One of those, if there is one.
    pub(crate) fn pick<T: Copy>(&mut self, all: &[T]) -> Option<T> {
        if all.is_empty() { None } else { Some(all[self.index(all.len())]) }
    }

    /// Any set of numbers below 16.
    pub(crate) fn mask(&mut self) -> u16 {
        u16::try_from(self.0.next_u64() & 0xffff).expect("16 bits")
    }
}
