//! Sets of partitions of one ring.

use std::fmt;

use crate::ring::token::{Partition, PartitionCount, Token};

/// Some partitions of a ring that is cut into so many. A bit for each.
#[derive(Clone, PartialEq, Eq)]
pub struct PartitionSet {
    partitions: PartitionCount,
    words: Vec<u64>,
}

impl PartitionSet {
    /// The set of those of `members` that the ring has.
    pub fn new(partitions: PartitionCount, members: impl IntoIterator<Item = Partition>) -> PartitionSet {
        let words = usize::try_from(partitions.get().div_ceil(64)).expect("at most 65 536 partitions");
        let mut set = PartitionSet { partitions, words: vec![0; words] };
        for partition in members {
            if partitions.contains(partition) {
                set.words[usize::from(partition.0) / 64] |= 1 << (partition.0 % 64);
            }
        }
        set
    }

    /// Into how many partitions the ring is cut.
    pub fn partitions(&self) -> PartitionCount {
        self.partitions
    }

    /// Whether `partition` is in it.
    pub fn contains(&self, partition: Partition) -> bool {
        self.words.get(usize::from(partition.0) / 64).is_some_and(|word| word & 1 << (partition.0 % 64) != 0)
    }

    /// Whether the partition of `token` is in it.
    pub fn contains_token(&self, token: Token) -> bool {
        self.contains(token.partition(self.partitions))
    }

    /// Its members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = Partition> + '_ {
        self.partitions.iter().filter(|partition| self.contains(*partition))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }
}

impl fmt::Debug for PartitionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} partitions", self.len(), self.partitions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_the_ring_has() {
        let count = |number| PartitionCount::new(number).unwrap();
        let set = PartitionSet::new(count(128), [3, 64, 127, 128, 900].map(Partition));
        assert_eq!(set.iter().collect::<Vec<_>>(), [3, 64, 127].map(Partition));
        assert_eq!((set.len(), set.is_empty()), (3, false));
        assert!(set.contains_token(Token(0x0600_0000_0000_0000)) && !set.contains_token(Token(0)));
        let only = PartitionSet::new(count(1), [Partition(0)]);
        assert!(only.contains_token(Token(u64::MAX)) && !only.contains(Partition(1)));
        assert!(PartitionSet::new(count(1 << 16), []).is_empty());
    }
}
