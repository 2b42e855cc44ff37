//! Sets of partitions of one ring.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::ring::token::{Partition, PartitionCount, Token};

/// Some partitions of a ring that is cut into so many. A bit for each.
///
/// Travels as a byte string: the binary logarithm of the number of partitions, then the bits, lowest partition first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
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

    /// The empty set.
    pub fn empty(partitions: PartitionCount) -> PartitionSet {
        PartitionSet::new(partitions, [])
    }

    /// Adds `partition`, if the ring has it.
    pub fn add(&mut self, partition: Partition) {
        if self.partitions.contains(partition) {
            self.words[usize::from(partition.0) / 64] |= 1 << (partition.0 % 64);
        }
    }

    /// Takes `partition` out.
    pub fn remove(&mut self, partition: Partition) {
        if let Some(word) = self.words.get_mut(usize::from(partition.0) / 64) {
            *word &= !(1 << (partition.0 % 64));
        }
    }

    /// Adds all of `other`, which must be of a ring cut alike; of another ring nothing.
    pub fn add_all(&mut self, other: &PartitionSet) {
        if self.partitions == other.partitions {
            self.words.iter_mut().zip(&other.words).for_each(|(word, added)| *word |= added);
        }
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

impl Serialize for PartitionSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bits = u8::try_from(self.partitions.get().trailing_zeros()).expect("a count has at most 17 bits");
        let length = byte_length(self.partitions);
        let words = self.words.iter().flat_map(|word| word.to_le_bytes()).take(length);
        let bytes: Vec<u8> = std::iter::once(bits).chain(words).collect();
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de> Deserialize<'de> for PartitionSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PartitionSet, D::Error> {
        deserializer.deserialize_bytes(Bytes)
    }
}

/// Reads a set from its bytes; a serde visitor.
struct Bytes;

impl de::Visitor<'_> for Bytes {
    type Value = PartitionSet;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a set of partitions")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<PartitionSet, E> {
        let (bits, rest) = bytes.split_first().ok_or_else(|| E::invalid_length(0, &self))?;
        let count = 1_u32.checked_shl(u32::from(*bits)).ok_or_else(|| E::custom("so many partitions do not exist"))?;
        let partitions = PartitionCount::new(count).map_err(E::custom)?;
        if rest.len() != byte_length(partitions) {
            return Err(E::invalid_length(bytes.len(), &self));
        }
        let word_of = |chunk: &[u8]| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        };
        let words: Vec<u64> = rest.chunks(8).map(word_of).collect();
        let has_strangers = partitions.get() < 8 && words[0] >> partitions.get() != 0;
        if has_strangers {
            return Err(E::custom("a partition that the ring does not have"));
        }
        Ok(PartitionSet { partitions, words })
    }
}

/// Bytes that hold a bit for each partition.
fn byte_length(partitions: PartitionCount) -> usize {
    usize::try_from(partitions.get().div_ceil(8)).expect("at most 65 536 partitions")
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

    #[test]
    fn a_set_grows_shrinks_and_survives_encoding() {
        for number in [1, 4, 64, 128, 1 << 16] {
            let count = PartitionCount::new(number).unwrap();
            let mut set = PartitionSet::new(count, [0, 3, 64, 999].map(Partition));
            set.add(Partition(2));
            set.add(Partition(u16::MAX));
            set.remove(Partition(0));
            set.remove(Partition(1));
            assert!(!set.contains(Partition(0)) && set.contains(Partition(2)) == (number > 2));
            let bytes = cbor4ii::serde::to_vec(Vec::new(), &set).unwrap();
            assert_eq!(cbor4ii::serde::from_slice::<PartitionSet>(&bytes).unwrap(), set);
            assert!(cbor4ii::serde::from_slice::<PartitionSet>(&bytes[..bytes.len() - 1]).is_err());
            let mut all = PartitionSet::new(count, [Partition(0)]);
            all.add_all(&set);
            assert_eq!(all.len(), set.len() + 1);
        }
        for bad in [&[][..], &[17, 0], &[2, 0x10], &[3, 0, 0], &[255]] {
            let bytes = cbor4ii::serde::to_vec(Vec::new(), &serde_bytes_of(bad)).unwrap();
            assert!(cbor4ii::serde::from_slice::<PartitionSet>(&bytes).is_err(), "{bad:?}");
        }
    }

    /// Bytes as they travel.
    fn serde_bytes_of(bytes: &[u8]) -> impl Serialize + use<> {
        struct Raw(Vec<u8>);
        impl Serialize for Raw {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }
        Raw(bytes.to_vec())
    }
}
