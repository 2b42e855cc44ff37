//! Keys, tokens, partitions: where a key stands on the ring.
//!
//! The ring is the space of 64-bit hashes, cut into a power of two of equal partitions when the cluster is founded. A
//! key's [`Token`] is the hash of its routing part; the token's leading bits are the number of its [`Partition`].
//! Nothing here changes when members come and go, and nothing here knows of members.
//!
//! Source: DeCandia et al., "Dynamo" (SOSP 2007), section 6.2, strategy 3 (equal partitions). The rule of the tag is
//! that of Redis Cluster's hash tags.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    digest::{Digest, Domain},
    ident::Key,
    limits::{PARTITION_COUNT_MAX, PARTITION_COUNT_MIN},
};

/// Into how many partitions a ring is cut: a power of two, from [`PARTITION_COUNT_MIN`] to [`PARTITION_COUNT_MAX`].
///
/// Fixed for ever when the cluster is founded. Travels as the number itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct PartitionCount {
    /// Binary logarithm of the count, 0 to 16.
    bits: u8,
}

/// The number is no count of partitions. The same number will never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{actual} partitions: the number must be a power of two from {PARTITION_COUNT_MIN} to {PARTITION_COUNT_MAX}")]
pub struct PartitionCountError {
    /// What was asked for.
    pub actual: u32,
}

/// The number of a partition, from zero; an equal arc of the ring, the unit of placement and of exchange.
///
/// Any number may arrive from a peer; [`PartitionCount::contains`] tells whether a ring has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(pub u16);

/// A point on the ring. Shown as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub u64);

/// The part of a key that decides where it lives: what is inside its first `{…}`, else the whole key.
///
/// The first `{` and the first `}` after it count; if there is nothing between them, the whole key is the routing
/// part, whatever follows. Never empty when `key` is not.
///
/// ```
/// use quorate::ring::token::routing_part;
///
/// assert_eq!(routing_part(b"{ann}/cart"), b"ann");
/// assert_eq!(routing_part(b"{ann}{bob}"), b"ann");
/// assert_eq!(routing_part(b"a{{b}}c"), b"{b");
/// assert_eq!(routing_part(b"{}{ann}"), b"{}{ann}");
/// assert_eq!(routing_part(b"}ann{"), b"}ann{");
/// ```
pub fn routing_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else {
        return key;
    };
    let inside = &key[open + 1..];
    match inside.iter().position(|&byte| byte == b'}') {
        Some(length) if length > 0 => &inside[..length],
        _ => key,
    }
}

/// The content of the first `{tag}` of `prefix`, if the prefix holds all of it: every key that begins so has the same
/// token.
pub fn complete_tag(prefix: &[u8]) -> Option<&[u8]> {
    let tag = routing_part(prefix);
    (tag.len() < prefix.len()).then_some(tag)
}

impl Token {
    /// Where the keys with this routing part stand.
    pub fn of_routing_part(part: &[u8]) -> Token {
        Token(Digest::of(Domain::Token, &[part]).to_u64())
    }

    /// Where `key` stands: a hash of its [`routing_part`]. Equal on every node and every platform.
    pub fn of(key: &Key) -> Token {
        Token::of_routing_part(routing_part(key.as_bytes()))
    }

    /// The partition this token lies in: its leading bits.
    pub fn partition(self, partitions: PartitionCount) -> Partition {
        let [first, second, ..] = self.0.to_be_bytes();
        Partition(partitions.leading_bits(u16::from_be_bytes([first, second])))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Partition {
    /// The lowest token of this partition, which is *the* token of the partition.
    ///
    /// Of a partition that the ring does not have, some other token of the ring.
    pub fn first_token(self, partitions: PartitionCount) -> Token {
        Token(u64::from(self.0).checked_shl(64 - u32::from(partitions.bits)).unwrap_or(0))
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PartitionCount {
    /// Takes `count` as a number of partitions.
    pub fn new(count: u32) -> Result<PartitionCount, PartitionCountError> {
        if !count.is_power_of_two() || !(PARTITION_COUNT_MIN..=PARTITION_COUNT_MAX).contains(&count) {
            return Err(PartitionCountError { actual: count });
        }
        let bits = u8::try_from(count.trailing_zeros()).map_err(|_| PartitionCountError { actual: count })?;
        Ok(PartitionCount { bits })
    }

    /// The number itself.
    pub fn get(self) -> u32 {
        1 << self.bits
    }

    /// All partitions, in ascending order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Partition> + use<> {
        (0..=self.leading_bits(u16::MAX)).map(Partition)
    }

    /// Whether a ring so cut has `partition`.
    pub fn contains(self, partition: Partition) -> bool {
        partition.0 <= self.leading_bits(u16::MAX)
    }

    fn leading_bits(self, of: u16) -> u16 {
        of.checked_shr(16 - u32::from(self.bits)).unwrap_or(0)
    }
}

impl TryFrom<u32> for PartitionCount {
    type Error = PartitionCountError;

    fn try_from(count: u32) -> Result<PartitionCount, PartitionCountError> {
        PartitionCount::new(count)
    }
}

impl From<PartitionCount> for u32 {
    fn from(partitions: PartitionCount) -> u32 {
        partitions.get()
    }
}

impl fmt::Display for PartitionCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl fmt::Debug for PartitionCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PartitionCount({})", self.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(number: u32) -> PartitionCount {
        PartitionCount::new(number).unwrap()
    }

    #[test]
    fn only_powers_of_two_within_the_limits_are_counts() {
        for bits in 0..=16 {
            assert_eq!(count(1 << bits).get(), 1 << bits);
        }
        for actual in [0, 3, 1023, 1025, 1 << 17, u32::MAX] {
            assert_eq!(PartitionCount::new(actual), Err(PartitionCountError { actual }));
        }
    }

    #[test]
    fn a_count_from_the_wire_is_checked_like_any_other() {
        let bytes = cbor4ii::serde::to_vec(Vec::new(), &count(1024)).unwrap();
        assert_eq!(bytes, [0x19, 0x04, 0x00]);
        assert_eq!(cbor4ii::serde::from_slice::<PartitionCount>(&bytes).unwrap(), count(1024));
        assert!(cbor4ii::serde::from_slice::<PartitionCount>(&[0x19, 0x04, 0x01]).is_err());
    }

    #[test]
    fn every_partition_begins_at_its_token_and_ends_before_the_next() {
        for partitions in [1, 2, 1024, 1 << 16].map(count) {
            assert_eq!(partitions.iter().count(), partitions.get() as usize);
            for partition in partitions.iter() {
                let first = partition.first_token(partitions);
                assert_eq!(first.partition(partitions), partition);
                if partition.0 > 0 {
                    assert_eq!(Token(first.0 - 1).partition(partitions), Partition(partition.0 - 1));
                }
            }
            assert_eq!(Token(u64::MAX).partition(partitions), partitions.iter().next_back().unwrap());
            assert!(partitions.contains(Partition(0)));
        }
        assert!(!count(1024).contains(Partition(1024)));
    }

    #[test]
    fn keys_of_one_tag_share_a_token_and_the_token_never_changes() {
        let token = |key: &[u8]| Token::of(&Key::new(key).unwrap());
        assert_eq!(token(b"{ann}/cart"), token(b"orders/{ann}"));
        assert_eq!(token(b"{ann}/cart"), token(b"ann"));
        assert_ne!(token(b"{}/cart"), token(b"{}/orders"));
        assert_eq!(token(b"ann").to_string(), "e36a9353437f5fa9");
    }
}
