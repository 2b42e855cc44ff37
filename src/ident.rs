//! Names of things: nodes, keys, values, operations.
//!
//! [`NodeId`] is the Ed25519 public key itself and not libp2p's `PeerId`, so that the core is free of libp2p and ids
//! are `Copy` and ordered; the shell converts both ways. A [`Key`] is never empty and never too long; a [`Value`] is
//! never too long; both are shared, not copied, when cloned.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::{
    digest::{Digest, Domain, FixedBytes},
    limits::{KEY_LIMIT_BYTES, NAME_LIMIT_BYTES, VALUE_LIMIT_BYTES},
};

/// A node, by its 32-byte Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 32]);

/// A client's key: 1 to [`KEY_LIMIT_BYTES`] bytes of any kind.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<[u8]>);

/// A client's value: 0 to [`VALUE_LIMIT_BYTES`] bytes of any kind. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(Arc<[u8]>);

/// One write as its client sees it, however often it is retried. Drawn at random by the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub [u8; 16]);

/// A short text chosen by a person: the name of a node, a zone or a cluster. Neither empty nor longer than
/// [`NAME_LIMIT_BYTES`], without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(String);

/// Which cluster is meant: the digest of its name and of the parameters it was founded with.
///
/// Two open clusters of one name and equal parameters are one cluster as soon as they meet; with other parameters
/// they can never merge, and every change of the one is refused by the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub Digest);

/// Why bytes are not a key, a value or a name. Nothing was changed; the same bytes will never do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdentError {
    /// A key needs at least one byte.
    #[error("the key is empty; a key has 1 to {KEY_LIMIT_BYTES} bytes")]
    KeyEmpty,
    /// The key is too long.
    #[error("the key has {actual_bytes} bytes; the limit is {KEY_LIMIT_BYTES}")]
    KeyTooLong {
        /// Its length.
        actual_bytes: usize,
    },
    /// The value is too long.
    #[error("the value has {actual_bytes} bytes; the limit is {VALUE_LIMIT_BYTES}")]
    ValueTooLong {
        /// Its length.
        actual_bytes: usize,
    },
    /// A name has the wrong length or holds a control character.
    #[error("a name has 1 to {NAME_LIMIT_BYTES} bytes and no control characters")]
    NameInvalid,
}

impl NodeId {
    /// The node's short number in dots.
    pub fn to_actor_number(self) -> u64 {
        Digest::of(Domain::Actor, &[&self.0]).to_u64()
    }
}

impl Key {
    /// Takes `bytes` as a key.
    pub fn new(bytes: &[u8]) -> Result<Key, IdentError> {
        match bytes.len() {
            0 => Err(IdentError::KeyEmpty),
            actual_bytes if actual_bytes > KEY_LIMIT_BYTES => Err(IdentError::KeyTooLong { actual_bytes }),
            _ => Ok(Key(bytes.into())),
        }
    }

    /// Its bytes; at least one.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Value {
    /// Takes `bytes` as a value.
    pub fn new(bytes: &[u8]) -> Result<Value, IdentError> {
        if bytes.len() > VALUE_LIMIT_BYTES {
            return Err(IdentError::ValueTooLong { actual_bytes: bytes.len() });
        }
        Ok(Value(bytes.into()))
    }

    /// Its bytes; may be empty.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Name {
    /// Takes `text` as a name.
    pub fn new(text: &str) -> Result<Name, IdentError> {
        let fits = (1..=NAME_LIMIT_BYTES).contains(&text.len());
        if !fits || text.chars().any(char::is_control) {
            return Err(IdentError::NameInvalid);
        }
        Ok(Name(text.to_owned()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ClusterId {
    /// The cluster called `name`, founded with so many partitions and replicas of a key.
    pub fn of(name: &Name, partitions: u32, replicas: u8) -> ClusterId {
        ClusterId(Digest::of(Domain::Cluster, &[&partitions.to_be_bytes(), &[replicas], name.0.as_bytes()]))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("node ")?;
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0.escape_ascii())
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} bytes)", self.0.len())
    }
}

macro_rules! serialize_as_bytes {
    ($type:ty, $self:ident => $bytes:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&$self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes($bytes)
            }
        }
    };
}

serialize_as_bytes!(NodeId, self => &self.0);
serialize_as_bytes!(OpId, self => &self.0);
serialize_as_bytes!(Key, self => &self.0);
serialize_as_bytes!(Value, self => &self.0);

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NodeId, D::Error> {
        deserializer.deserialize_bytes(FixedBytes::<32>).map(NodeId)
    }
}

impl<'de> Deserialize<'de> for OpId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OpId, D::Error> {
        deserializer.deserialize_bytes(FixedBytes::<16>).map(OpId)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_bytes(CheckedBytes(Key::new))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_bytes(CheckedBytes(Value::new))
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Name::new(&text).map_err(de::Error::custom)
    }
}

/// Reads a byte string through a constructor that checks it; a serde visitor.
struct CheckedBytes<T>(fn(&[u8]) -> Result<T, IdentError>);

impl<T> de::Visitor<'_> for CheckedBytes<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a byte string within its limit")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<T, E> {
        (self.0)(bytes).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_bounded_on_both_sides() {
        assert_eq!(Key::new(b""), Err(IdentError::KeyEmpty));
        assert!(Key::new(&[b'k'; KEY_LIMIT_BYTES]).is_ok());
        assert_eq!(Key::new(&[b'k'; 401]), Err(IdentError::KeyTooLong { actual_bytes: 401 }));
    }

    #[test]
    fn a_key_from_the_wire_is_checked_like_any_other() {
        let too_long = cbor4ii::serde::to_vec(Vec::new(), &Value::new(&[0; 401]).unwrap()).unwrap();
        assert!(cbor4ii::serde::from_slice::<Key>(&too_long).is_err());
        assert!(cbor4ii::serde::from_slice::<Value>(&too_long).is_ok());
    }
}
