//! Digests: 32-byte BLAKE3 hashes, domain-separated by the purpose they serve.
//!
//! Every hash of the system is made through a [`Domain`], so that bytes hashed for one purpose can
//! never be mistaken for those of another. This module knows nothing of what is hashed.

use std::{fmt, sync::OnceLock};

use blake3::hazmat::{ContextKey, HasherExt as _};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A 32-byte BLAKE3 hash. Shown as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// What a hash is made for. Each purpose derives its own key (BLAKE3 `derive_key`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// Position of a key on the ring.
    Token,
    /// Rendezvous score of a member for a partition.
    Score,
    /// A node's short number in dots.
    Actor,
    /// One signed membership change.
    Change,
    /// A set of membership changes.
    History,
    /// What a node's history says of one partition.
    Partition,
    /// The key under which contexts are tagged.
    ContextKey,
    /// Name of a key inside a context.
    ContextBinding,
    /// Identity of a cluster.
    Cluster,
    /// Checksum of a stored record.
    Record,
    /// Canonical bytes of an object.
    Object,
    /// Place of a key among those that share a tag.
    Position,
    /// The key under which items of Merkle trees are hashed.
    ItemKey,
    /// The key under which one exchange shortens digests.
    Salt,
}

impl Domain {
    /// The key derived from its context: half the cost of a short hash, so it is derived once.
    fn key(self) -> &'static ContextKey {
        static KEYS: [OnceLock<ContextKey>; DOMAIN_COUNT] = [const { OnceLock::new() }; DOMAIN_COUNT];
        KEYS[self as usize].get_or_init(|| blake3::hazmat::hash_derive_key_context(self.context()))
    }

    fn context(self) -> &'static str {
        match self {
            Domain::Token => "quorate 1 token",
            Domain::Score => "quorate 1 score",
            Domain::Actor => "quorate 1 actor",
            Domain::Change => "quorate 1 change",
            Domain::History => "quorate 1 history",
            Domain::Partition => "quorate 1 partition",
            Domain::ContextKey => "quorate 1 context key",
            Domain::ContextBinding => "quorate 1 context binding",
            Domain::Cluster => "quorate 1 cluster",
            Domain::Record => "quorate 1 record",
            Domain::Object => "quorate 1 object",
            Domain::Position => "quorate 1 position",
            Domain::ItemKey => "quorate 1 item key",
            Domain::Salt => "quorate 1 salt",
        }
    }
}

/// How many there are; the last is [`Domain::Salt`].
const DOMAIN_COUNT: usize = Domain::Salt as usize + 1;

impl Digest {
    /// Hash of the concatenation of `parts`.
    ///
    /// The parts are not delimited: where their lengths can vary, pass the lengths too.
    pub fn of(domain: Domain, parts: &[&[u8]]) -> Digest {
        let mut hasher = blake3::Hasher::new_from_context_key(domain.key());
        for part in parts {
            hasher.update(part);
        }
        Digest(*hasher.finalize().as_bytes())
    }

    /// Keyed hash (a message authentication code) of the concatenation of `parts` under `key`.
    ///
    /// `key` must itself come from [`Digest::of`] with the domain of its purpose.
    pub fn keyed(key: &Digest, parts: &[&[u8]]) -> Digest {
        let mut hasher = blake3::Hasher::new_keyed(&key.0);
        for part in parts {
            hasher.update(part);
        }
        Digest(*hasher.finalize().as_bytes())
    }

    /// The first eight bytes as a number, most significant byte first.
    pub fn to_u64(self) -> u64 {
        let mut head = [0; 8];
        head.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(head)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        deserializer.deserialize_bytes(FixedBytes::<32>).map(Digest)
    }
}

/// Reads a byte string of exactly `N` bytes; a serde visitor.
pub(crate) struct FixedBytes<const N: usize>;

impl<const N: usize> de::Visitor<'_> for FixedBytes<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<[u8; N], E> {
        bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_that_of_derive_key_with_the_context_of_its_domain() {
        for domain in [Domain::Token, Domain::Record, Domain::Salt] {
            let mut hasher = blake3::Hasher::new_derive_key(domain.context());
            hasher.update(b"ab");
            assert_eq!(Digest::of(domain, &[b"a", b"b"]).0, *hasher.finalize().as_bytes());
        }
    }

    #[test]
    fn the_domain_separates_equal_bytes() {
        assert_ne!(Digest::of(Domain::Token, &[b"a"]), Digest::of(Domain::Score, &[b"a"]));
    }

    #[test]
    fn a_digest_survives_encoding_and_refuses_another_length() {
        let digest = Digest::of(Domain::Object, &[b"a"]);
        let bytes = cbor4ii::serde::to_vec(Vec::new(), &digest).unwrap();
        assert_eq!(bytes.len(), 34);
        assert_eq!(cbor4ii::serde::from_slice::<Digest>(&bytes).unwrap(), digest);
        assert!(cbor4ii::serde::from_slice::<Digest>(&[0x41, 7]).is_err());
    }
}
