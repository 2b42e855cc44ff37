//! A context: what a client has seen of one key, as an opaque token it hands back with its next write.
//!
//! It is tagged with a key that only nodes of the cluster can derive (in a closed cluster), because a forged counter
//! would silently swallow later writes. Layout: version (1 byte), key binding (8), the clock as CBOR, tag (16) over all
//! before it. It is not encrypted: clients could read it, and must not. It neither expires nor names who asked for it.
//! Its text form is made in the shell.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::{
    causality::{
        dot::Actor,
        seen::{SEEN_DOTS_MAX, Seen},
    },
    digest::{Digest, Domain},
    ident::{Key, Name},
    limits::{CONTEXT_LIMIT_BYTES, COUNTER_MAX},
};

/// The key under which a cluster tags its contexts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ContextKey(Digest);

/// An opaque token of at most [`CONTEXT_LIMIT_BYTES`] bytes. Nothing is known of it until it is opened.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Context(Vec<u8>);

/// Why a context was not made or not accepted. Nothing was changed; a retry with the same context fails again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ContextError {
    /// Too many actors have written the key. Concerns the making only.
    #[error(
        "what is known of this key takes {actual_bytes} bytes in a context; the limit is {CONTEXT_LIMIT_BYTES}; \
         move its value to another key"
    )]
    TooLarge {
        /// What the context would have taken.
        actual_bytes: usize,
    },
    /// Longer than any context.
    #[error(
        "the context has {actual_bytes} bytes; the limit is {CONTEXT_LIMIT_BYTES}; \
         read the key again and use the context it returns"
    )]
    TooLong {
        /// Its length.
        actual_bytes: usize,
    },
    /// Made by another version of this program, or not a context at all.
    #[error(
        "the context has format {found}; this node knows format {FORMAT}; \
         read the key again and use the context it returns"
    )]
    Version {
        /// Its first byte.
        found: u8,
    },
    /// Truncated, altered, invented, or made in another cluster.
    #[error("the context is damaged, or of another cluster; read the key again and use the context it returns")]
    WrongTag,
    /// Made for another key of this cluster.
    #[error("the context belongs to another key; read this key and use the context it returns")]
    OtherKey,
    /// Properly made, but of a clock that no cluster reaches.
    #[error(
        "the context shows a counter above {COUNTER_MAX}, which nobody can have written; \
         read the key again and use the context it returns"
    )]
    Future,
}

impl ContextKey {
    /// The key of the cluster called `cluster_name`, whose members share `secret` (the contents of its `swarm.key`).
    ///
    /// Without a secret anybody who knows the name can make contexts: an open cluster trusts its network.
    pub fn of(cluster_name: &Name, secret: Option<&[u8]>) -> ContextKey {
        let (kind, secret) = match secret {
            None => (0, [].as_slice()),
            Some(secret) => (1, secret),
        };
        let length = (secret.len() as u64).to_be_bytes();
        let name = cluster_name.as_str().as_bytes();
        ContextKey(Digest::of(Domain::ContextKey, &[&[kind], &length, secret, name]))
    }
}

impl Context {
    /// Takes `bytes`, as a client sent them. Only their length is checked.
    pub fn new(bytes: Vec<u8>) -> Result<Context, ContextError> {
        if bytes.len() > CONTEXT_LIMIT_BYTES {
            return Err(ContextError::TooLong { actual_bytes: bytes.len() });
        }
        Ok(Context(bytes))
    }

    /// Says that whoever holds this context has seen `seen` of `key`.
    pub fn seal(seen: &Seen, key: &Key, context_key: &ContextKey) -> Result<Context, ContextError> {
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(&binding_of(key));
        let mut bytes = cbor4ii::serde::to_vec(bytes, seen).expect("encoding into memory cannot fail");
        let tag = tag_of(&bytes, context_key);
        bytes.extend_from_slice(&tag);
        if bytes.len() > CONTEXT_LIMIT_BYTES {
            return Err(ContextError::TooLarge { actual_bytes: bytes.len() });
        }
        Ok(Context(bytes))
    }

    /// The same, of a clock that may be too long for a context: then it says as much as fits, of the actors that
    /// `matters` names first. Whoever writes with it replaces what it names; the rest stands beside the new value.
    pub fn seal_most(
        seen: &Seen,
        key: &Key,
        context_key: &ContextKey,
        matters: impl Fn(&Actor) -> bool,
    ) -> Result<Context, ContextError> {
        Context::seal(seen, key, context_key)
            .or_else(|_| Context::seal(&seen.part(ENTRIES_THAT_FIT, matters), key, context_key))
    }

    /// What its holder has seen of `key`.
    ///
    /// Costs its length, whatever the bytes are; only a properly tagged clock is ever decoded.
    pub fn open(&self, key: &Key, context_key: &ContextKey) -> Result<Seen, ContextError> {
        let (sealed, tag) = self.0.split_last_chunk::<TAG_BYTES>().ok_or(ContextError::WrongTag)?;
        let (found, rest) = sealed.split_first().ok_or(ContextError::WrongTag)?;
        if *found != FORMAT {
            return Err(ContextError::Version { found: *found });
        }
        if !is_same_tag(tag, &tag_of(sealed, context_key)) {
            return Err(ContextError::WrongTag);
        }
        let (binding, seen) = rest.split_first_chunk::<BINDING_BYTES>().ok_or(ContextError::WrongTag)?;
        if *binding != binding_of(key) {
            return Err(ContextError::OtherKey);
        }
        // The tag is ours, so this is what a node wrote; only its numbers can be wrong.
        cbor4ii::serde::from_slice(seen).map_err(|_| ContextError::Future)
    }

    /// Its bytes, for the way to the client.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({} bytes)", self.0.len())
    }
}

impl fmt::Debug for ContextKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContextKey(secret)")
    }
}

impl Serialize for Context {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Context {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Context, D::Error> {
        deserializer.deserialize_bytes(ContextBytes)
    }
}

/// Reads a byte string within the limit; a serde visitor.
struct ContextBytes;

impl de::Visitor<'_> for ContextBytes {
    type Value = Context;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {CONTEXT_LIMIT_BYTES} bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Context, E> {
        if bytes.len() > CONTEXT_LIMIT_BYTES {
            return Err(E::invalid_length(bytes.len(), &self));
        }
        Ok(Context(bytes.to_vec()))
    }
}

fn binding_of(key: &Key) -> [u8; BINDING_BYTES] {
    Digest::of(Domain::ContextBinding, &[key.as_bytes()]).to_u64().to_be_bytes()
}

fn tag_of(sealed: &[u8], context_key: &ContextKey) -> [u8; TAG_BYTES] {
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(&Digest::keyed(&context_key.0, &[sealed]).0[..TAG_BYTES]);
    tag
}

/// Compares in a time that does not tell how many bytes agree.
fn is_same_tag(left: &[u8; TAG_BYTES], right: &[u8; TAG_BYTES]) -> bool {
    // Equality of `blake3::Hash` takes constant time; both are filled up alike.
    let pad = |tag: &[u8; TAG_BYTES]| {
        let mut padded = [0; blake3::OUT_LEN];
        padded[..TAG_BYTES].copy_from_slice(tag);
        blake3::Hash::from_bytes(padded)
    };
    pad(left) == pad(right)
}

/// So many entries of a clock fit beside the dots of a [`Seen`], however large their numbers are.
const ENTRIES_THAT_FIT: usize = 110;
/// Longest encoding of one entry: three numbers, two array heads.
const ENTRY_BYTES_MAX: usize = 3 * 9 + 2 * 3;
const _: () = assert!((ENTRIES_THAT_FIT + SEEN_DOTS_MAX) * ENTRY_BYTES_MAX + 64 <= CONTEXT_LIMIT_BYTES);

const FORMAT: u8 = 1;
const BINDING_BYTES: usize = 8;
const TAG_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::causality::version_vector::VersionVector;

    fn key(name: &str) -> Key {
        Key::new(name.as_bytes()).unwrap()
    }

    fn cluster(name: &str, secret: Option<&[u8]>) -> ContextKey {
        ContextKey::of(&Name::new(name).unwrap(), secret)
    }

    fn clock(actors: u64) -> Seen {
        vector(actors).into()
    }

    fn vector(actors: u64) -> VersionVector {
        let mut clock = VersionVector::new();
        (0..actors).for_each(|node| clock.raise(Actor { node: node << 40, epoch: 1 }, 1 + node));
        clock
    }

    #[test]
    fn a_context_opens_to_what_was_sealed() {
        for actors in [0, 1, 5, 200] {
            let context = Context::seal(&clock(actors), &key("k"), &cluster("c", None)).unwrap();
            assert_eq!(context.open(&key("k"), &cluster("c", None)), Ok(clock(actors)));
            let bytes = cbor4ii::serde::to_vec(Vec::new(), &context).unwrap();
            assert_eq!(cbor4ii::serde::from_slice::<Context>(&bytes).unwrap(), context);
            assert_eq!(Context::new(context.as_bytes().to_vec()), Ok(context));
        }
    }

    #[test]
    fn a_context_of_another_key_or_cluster_is_refused() {
        let context = Context::seal(&clock(3), &key("k"), &cluster("c", Some(b"s"))).unwrap();
        assert_eq!(context.open(&key("l"), &cluster("c", Some(b"s"))), Err(ContextError::OtherKey));
        for other in [cluster("d", Some(b"s")), cluster("c", Some(b"t")), cluster("c", None), cluster("c", Some(b""))] {
            assert_eq!(context.open(&key("k"), &other), Err(ContextError::WrongTag));
        }
        assert!(cluster("c", None) != cluster("c", Some(b"")), "an empty secret is a secret");
        assert!(cluster("cd", Some(b"s")) != cluster("d", Some(b"sc")), "name and secret are told apart");
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let context = Context::seal(&clock(3), &key("k"), &cluster("c", None)).unwrap();
        for index in 0..context.0.len() {
            let truncated = Context(context.0[..index].to_vec());
            assert_eq!(truncated.open(&key("k"), &cluster("c", None)), Err(ContextError::WrongTag), "first {index}");
            for bit in 0..8 {
                let mut flipped = context.clone();
                flipped.0[index] ^= 1 << bit;
                let refused = flipped.open(&key("k"), &cluster("c", None));
                let expected =
                    if index == 0 { ContextError::Version { found: flipped.0[0] } } else { ContextError::WrongTag };
                assert_eq!(refused, Err(expected), "bit {bit} of byte {index}");
            }
        }
    }

    #[test]
    fn an_absurd_counter_is_refused_though_properly_sealed() {
        let mut absurd = vector(1);
        absurd.raise(Actor { node: 1, epoch: 1 }, COUNTER_MAX + 1);
        let context = Context::seal(&absurd.into(), &key("k"), &cluster("c", None)).unwrap();
        assert_eq!(context.open(&key("k"), &cluster("c", None)), Err(ContextError::Future));
    }

    #[test]
    fn of_a_clock_too_long_for_a_context_what_matters_is_told() {
        let mut seen = VersionVector::new();
        (0..1000).for_each(|node| seen.raise(Actor { node: u64::MAX - node, epoch: COUNTER_MAX }, COUNTER_MAX));
        let matters = |actor: &Actor| actor.node.is_multiple_of(10);
        let context = Context::seal_most(&seen.clone().into(), &key("k"), &cluster("c", None), matters).unwrap();
        let told = context.open(&key("k"), &cluster("c", None)).unwrap();
        assert!(seen.covers_all(told.clock()), "nothing is claimed that was not seen");
        assert!(seen.iter().filter(|dot| matters(&dot.actor)).all(|dot| told.covers(&dot)));
    }

    #[test]
    fn a_context_is_bounded_when_made_and_when_received() {
        let sealed = Context::seal(&clock(1000), &key("k"), &cluster("c", None));
        assert!(matches!(sealed, Err(ContextError::TooLarge { actual_bytes }) if actual_bytes > CONTEXT_LIMIT_BYTES));
        let long = vec![0; CONTEXT_LIMIT_BYTES + 1];
        let bytes = cbor4ii::serde::to_vec(Vec::new(), &Context(long.clone())).unwrap();
        assert!(cbor4ii::serde::from_slice::<Context>(&bytes).is_err());
        assert_eq!(Context::new(long), Err(ContextError::TooLong { actual_bytes: CONTEXT_LIMIT_BYTES + 1 }));
    }

    proptest! {
        #[test]
        fn invented_contexts_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..200), known in any::<bool>()) {
            if known && !bytes.is_empty() {
                bytes[0] = FORMAT;
            }
            prop_assert!(Context(bytes).open(&key("k"), &cluster("c", None)).is_err());
        }
    }
}
