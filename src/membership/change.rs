//! One signed entry of the membership history.
//!
//! A [`Change`] says what its author did, and is linked to the author's previous change by that one's digest: an
//! author's changes form a chain, and nobody can insert, drop or alter one unnoticed. What is signed is the canonical
//! CBOR of everything but the signature, opened by a purpose and a version, so that a signature made for anything else
//! is worthless here.
//!
//! Decoding checks each field against its limit; [`Change::verify`] checks the same and the signature. Neither knows
//! other changes: whether a change fits is for [`crate::membership::history`].

use std::{collections::BTreeMap, fmt};

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::{
    digest::{Digest, Domain, FixedBytes},
    ident::{ClusterId, Name, NodeId},
    limits::{ADDRESS_COUNT_MAX, ADDRESS_LIMIT_BYTES, COUNTER_MAX, MEMBER_COUNT_MAX, REPLICA_COUNT_MAX, WEIGHT_MAX},
    membership::label::Label,
    ring::{partition_set::PartitionSet, token::PartitionCount},
};

/// One signed entry of the membership history. The fields are what the author claims until [`Change::verify`] agrees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// To which cluster it belongs.
    pub cluster: ClusterId,
    /// Who made and signed it.
    pub author: NodeId,
    /// Its number among the author's changes, from zero without gaps.
    #[serde(deserialize_with = "decode_counter")]
    pub sequence: u64,
    /// Digest of the author's previous change; none at sequence zero, and only there.
    pub previous: Option<Digest>,
    /// Lamport time: above all that the author knew. A founding has 1, and nothing else has.
    #[serde(deserialize_with = "decode_counter")]
    pub lamport: u64,
    /// What happened.
    pub kind: ChangeKind,
    /// The author's signature of all the above.
    pub signature: Signature,
}

/// What a change says its author did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// It founded the cluster with these parameters. Does not make it a member.
    Founded(Parameters),
    /// It became a member.
    Joined(Profile),
    /// As a member it now tells this of itself.
    Updated(Profile),
    /// It is about to leave: it serves nothing new, and goes on until what it holds is safe elsewhere. Joining again takes
    /// it back.
    Leaving,
    /// It holds nothing any more, and is gone.
    Left,
    /// Another has gone for good, and its identity with it.
    Removed(Removal),
    /// Another has gone for good; a third takes over its rows.
    Replaced(Replacement),
    /// It holds these partitions completely.
    Filled(Statement),
    /// Of these partitions all who should hold them do, and nothing is needed any more of who held them before.
    Retired(Statement),
}

impl ChangeKind {
    /// What its author tells of itself, if it does.
    pub fn profile(&self) -> Option<&Profile> {
        match self {
            ChangeKind::Joined(profile) | ChangeKind::Updated(profile) => Some(profile),
            ChangeKind::Founded(_)
            | ChangeKind::Leaving
            | ChangeKind::Left
            | ChangeKind::Removed(_)
            | ChangeKind::Replaced(_)
            | ChangeKind::Filled(_)
            | ChangeKind::Retired(_) => None,
        }
    }

    /// Whether somebody ordered it, or it is a last word. All else a node finds by itself to be still unsaid.
    pub fn is_order(&self) -> bool {
        match self {
            ChangeKind::Joined(_)
            | ChangeKind::Leaving
            | ChangeKind::Left
            | ChangeKind::Removed(_)
            | ChangeKind::Replaced(_) => true,
            ChangeKind::Founded(_) | ChangeKind::Updated(_) | ChangeKind::Filled(_) | ChangeKind::Retired(_) => false,
        }
    }

    /// With what it founds a cluster, if it does.
    pub fn founding(&self) -> Option<Parameters> {
        match self {
            ChangeKind::Founded(parameters) => Some(*parameters),
            ChangeKind::Joined(_)
            | ChangeKind::Updated(_)
            | ChangeKind::Leaving
            | ChangeKind::Left
            | ChangeKind::Removed(_)
            | ChangeKind::Replaced(_)
            | ChangeKind::Filled(_)
            | ChangeKind::Retired(_) => None,
        }
    }

    /// Whom it takes away for ever, and how many changes of it its author knew.
    pub fn removal(&self) -> Option<Removal> {
        match self {
            ChangeKind::Removed(removal) => Some(*removal),
            ChangeKind::Replaced(replacement) => Some(replacement.old),
            ChangeKind::Founded(_)
            | ChangeKind::Joined(_)
            | ChangeKind::Updated(_)
            | ChangeKind::Leaving
            | ChangeKind::Left
            | ChangeKind::Filled(_)
            | ChangeKind::Retired(_) => None,
        }
    }
}

/// Who is taken away for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// Who.
    pub node: NodeId,
    /// How many changes of it were known. Only few more are taken: those that were under way.
    #[serde(deserialize_with = "decode_counter")]
    pub known: u64,
}

/// Who takes over from whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    /// Who is taken away for ever, from the moment the other has joined.
    pub old: Removal,
    /// Who takes over its rows.
    pub new: NodeId,
}

/// What is said of partitions, as of a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The changes from which the rows follow that it is about.
    pub label: Label,
    /// The partitions, of a ring cut as the cluster's is.
    pub partitions: PartitionSet,
}

/// What a cluster is founded with, for ever. Clusters of other parameters never merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameters {
    /// Into how many partitions the ring is cut.
    pub partitions: PartitionCount,
    /// Entries of a row, N: 1 to `REPLICA_COUNT_MAX`.
    #[serde(deserialize_with = "decode_replicas")]
    pub replicas: u8,
}

/// What a member tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Its name, for people; need not be unique.
    pub name: Name,
    /// Its rack or data centre, if any.
    pub zone: Option<Name>,
    /// Its share of the data relative to others: 1 to `WEIGHT_MAX`.
    #[serde(deserialize_with = "decode_weight")]
    pub weight: u16,
    /// Where it listens, as multiaddr texts that nobody has checked: at most `ADDRESS_COUNT_MAX` of at most
    /// `ADDRESS_LIMIT_BYTES` bytes. May be empty.
    #[serde(deserialize_with = "decode_addresses")]
    pub addresses: Vec<String>,
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

/// A node's signing key.
///
/// The very Ed25519 key that is the node's libp2p identity; it is wiped from memory when dropped.
#[derive(Clone)]
pub struct Signer(SigningKey);

/// What is wrong with a change in itself. Nothing was changed; the same bytes will never do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// The author did not sign this, or is no sound public key.
    #[error("the signature is not the author's")]
    BadSignature,
    /// A link without a predecessor, or a predecessor without a link.
    #[error("change {sequence} must name its predecessor if and only if it has one")]
    BadLink {
        /// Number of the change.
        sequence: u64,
    },
    /// A sequence or Lamport number is out of reach of honest nodes.
    #[error("counter {actual} exceeds the limit of {COUNTER_MAX}")]
    CounterTooHigh {
        /// The number.
        actual: u64,
    },
    /// Too few or too many replicas.
    #[error("{actual} replicas; the number must be from 1 to {REPLICA_COUNT_MAX}")]
    ReplicasOutOfRange {
        /// How many were asked for.
        actual: u8,
    },
    /// Too small or too large a weight.
    #[error("weight {actual}; it must be from 1 to {WEIGHT_MAX}")]
    WeightOutOfRange {
        /// The weight.
        actual: u16,
    },
    /// Too many addresses.
    #[error("more than {ADDRESS_COUNT_MAX} addresses")]
    TooManyAddresses,
    /// An address is too long.
    #[error("an address of {actual_bytes} bytes; the limit is {ADDRESS_LIMIT_BYTES}")]
    AddressTooLong {
        /// Its length.
        actual_bytes: usize,
    },
}

impl Change {
    /// Makes and signs a change. Nothing is checked: an invalid change is refused by everybody, its author included.
    ///
    /// [`crate::membership::history::History::next_change`] knows the numbers and the link.
    pub fn sign(
        signer: &Signer,
        cluster: ClusterId,
        sequence: u64,
        previous: Option<Digest>,
        lamport: u64,
        kind: ChangeKind,
    ) -> Change {
        let unsigned = Signature([0; 64]);
        let mut change =
            Change { cluster, author: signer.node_id(), sequence, previous, lamport, kind, signature: unsigned };
        change.signature = signer.sign(&change.to_signed_bytes());
        change
    }

    /// Checks limits, link and signature. About 50 µs.
    pub fn verify(&self) -> Result<(), ChangeError> {
        check_counter(self.sequence)?;
        check_counter(self.lamport)?;
        if self.previous.is_some() != (self.sequence > 0) {
            return Err(ChangeError::BadLink { sequence: self.sequence });
        }
        match &self.kind {
            ChangeKind::Founded(parameters) => check_replicas(parameters.replicas)?,
            ChangeKind::Joined(profile) | ChangeKind::Updated(profile) => profile.check()?,
            ChangeKind::Removed(removal) => check_counter(removal.known)?,
            ChangeKind::Replaced(Replacement { old, .. }) => check_counter(old.known)?,
            // Decoding has checked the rest; who made these in memory has made them of checked parts.
            ChangeKind::Leaving | ChangeKind::Left | ChangeKind::Filled(_) | ChangeKind::Retired(_) => {}
        }
        let is_signed = self.signature.is_of(&self.author, &self.to_signed_bytes());
        if is_signed { Ok(()) } else { Err(ChangeError::BadSignature) }
    }

    /// Names this change: a hash of what is signed.
    ///
    /// The signature is not part of it. Its author could sign the same words twice with different results, and that
    /// must not look like two changes.
    pub fn digest(&self) -> Digest {
        Digest::of(Domain::Change, &[&self.to_signed_bytes()])
    }

    fn to_signed_bytes(&self) -> Vec<u8> {
        let part = SignedPart {
            purpose: "quorate change",
            version: SIGNED_VERSION,
            cluster: &self.cluster,
            author: &self.author,
            sequence: self.sequence,
            previous: &self.previous,
            lamport: self.lamport,
            kind: &self.kind,
        };
        cbor4ii::serde::to_vec(Vec::new(), &part).expect("encoding into memory fails only without memory")
    }
}

impl Profile {
    fn check(&self) -> Result<(), ChangeError> {
        check_weight(self.weight)?;
        if self.addresses.len() > ADDRESS_COUNT_MAX {
            return Err(ChangeError::TooManyAddresses);
        }
        self.addresses.iter().try_for_each(|address| check_address(address))
    }
}

impl Signer {
    /// The key pair of a 32-byte secret seed.
    pub fn from_seed(seed: [u8; 32]) -> Signer {
        Signer(SigningKey::from_bytes(&seed))
    }

    /// Its public half.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    pub(crate) fn sign(&self, bytes: &[u8]) -> Signature {
        Signature(self.0.sign(bytes).to_bytes())
    }
}

impl Signature {
    /// Whether `author` has made it, under these bytes.
    pub(crate) fn is_of(&self, author: &NodeId, bytes: &[u8]) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(&self.0);
        // Strict: a weak key would let one signature fit several texts.
        VerifyingKey::from_bytes(&author.0).is_ok_and(|key| key.verify_strict(bytes, &signature).is_ok())
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({:?})", self.node_id())
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…")
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Signature, D::Error> {
        deserializer.deserialize_bytes(FixedBytes::<64>).map(Signature)
    }
}

/// What an author signs. Its bytes are part of every signature ever made: altered only with a new version.
#[derive(Serialize)]
struct SignedPart<'a> {
    purpose: &'static str,
    version: u8,
    cluster: &'a ClusterId,
    author: &'a NodeId,
    sequence: u64,
    previous: &'a Option<Digest>,
    lamport: u64,
    kind: &'a ChangeKind,
}

/// Version of [`SignedPart`].
const SIGNED_VERSION: u8 = 1;

pub(crate) fn check_counter(actual: u64) -> Result<(), ChangeError> {
    if actual <= COUNTER_MAX { Ok(()) } else { Err(ChangeError::CounterTooHigh { actual }) }
}

fn check_replicas(actual: u8) -> Result<(), ChangeError> {
    if (1..=REPLICA_COUNT_MAX).contains(&actual) { Ok(()) } else { Err(ChangeError::ReplicasOutOfRange { actual }) }
}

fn check_weight(actual: u16) -> Result<(), ChangeError> {
    if (1..=WEIGHT_MAX).contains(&actual) { Ok(()) } else { Err(ChangeError::WeightOutOfRange { actual }) }
}

fn check_address(address: &str) -> Result<(), ChangeError> {
    let actual_bytes = address.len();
    if actual_bytes <= ADDRESS_LIMIT_BYTES { Ok(()) } else { Err(ChangeError::AddressTooLong { actual_bytes }) }
}

fn decode_counter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let counter = u64::deserialize(deserializer)?;
    check_counter(counter).map_err(de::Error::custom)?;
    Ok(counter)
}

fn decode_replicas<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let replicas = u8::deserialize(deserializer)?;
    check_replicas(replicas).map_err(de::Error::custom)?;
    Ok(replicas)
}

fn decode_weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let weight = u16::deserialize(deserializer)?;
    check_weight(weight).map_err(de::Error::custom)?;
    Ok(weight)
}

fn decode_addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    deserializer.deserialize_seq(Addresses)
}

/// Reads a number for each of at most `MEMBER_COUNT_MAX` authors.
pub(crate) fn decode_by_author<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<NodeId, u64>, D::Error> {
    deserializer.deserialize_map(NextByAuthor)
}

/// Reads addresses and stops at the first too many: a frame of empty ones would take 24 times its size in memory.
struct Addresses;

impl<'de> de::Visitor<'de> for Addresses {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {ADDRESS_COUNT_MAX} addresses")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<String>, A::Error> {
        let mut addresses = Vec::new();
        while let Some(address) = sequence.next_element::<String>()? {
            if addresses.len() == ADDRESS_COUNT_MAX {
                return Err(de::Error::custom(ChangeError::TooManyAddresses));
            }
            check_address(&address).map_err(de::Error::custom)?;
            addresses.push(address);
        }
        Ok(addresses)
    }
}

/// Reads the entries of a summary and stops at the first too many.
struct NextByAuthor;

impl<'de> de::Visitor<'de> for NextByAuthor {
    type Value = BTreeMap<NodeId, u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the next numbers of at most {MEMBER_COUNT_MAX} authors")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<BTreeMap<NodeId, u64>, A::Error> {
        let mut next_by_author = BTreeMap::new();
        while let Some((author, next)) = map.next_entry::<NodeId, u64>()? {
            if next_by_author.len() == MEMBER_COUNT_MAX {
                return Err(de::Error::invalid_length(MEMBER_COUNT_MAX + 1, &self));
            }
            next_by_author.insert(author, next);
        }
        Ok(next_by_author)
    }
}
