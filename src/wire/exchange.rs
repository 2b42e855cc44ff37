//! What two members say to each other while they compare what they hold.
//!
//! One side asks, the other answers, strictly in turns, on a stream of their own. The asker **opens** with one digest over
//! everything the two share; equal means done. Else **steps** follow, each a list of questions about branches of the
//! tree, together with the objects the other side lacks. How branches and digests are packed into bytes is said in
//! `merkle/packed.rs`; here they are only bytes.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    causality::siblings::Object,
    digest::{Digest, FixedBytes},
    ident::Key,
    ring::partition_set::PartitionSet,
    wire::{bytes, client::Cursor},
};

/// The shape of trees and packed bytes that this program speaks.
pub const EXCHANGE_VERSION: u8 = 1;

/// What the asking side says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// The first word, and the last: are we in step?
    Open(Opening),
    /// What is below these branches? Here is what you lack.
    Step(Step),
}

/// See [`Question::Open`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The sender's [`EXCHANGE_VERSION`].
    pub version: u8,
    /// What else the sender could speak, a bit for each; none are given away yet.
    pub capabilities: u8,
    /// Drawn for this exchange.
    pub salt: u64,
    /// What the sender's history says of who serves what.
    pub label: Digest,
    /// The partitions that are meant; nothing for all that the two share.
    pub partitions: Option<PartitionSet>,
    /// Where to begin: the lowest position of the branch, and its depth.
    pub branch: (u64, u8),
    /// What the sender has there, under the salt.
    pub root: Root,
}

/// Sixteen bytes of a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root(pub [u8; 16]);

/// Part of a tree, as bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Packed(#[serde(with = "bytes")] pub Vec<u8>);

/// See [`Question::Step`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The questions.
    pub questions: Packed,
    /// What the other side lacks, or has otherwise.
    pub items: Vec<Item>,
}

/// A key and what is held under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The key.
    pub key: Key,
    /// The object.
    pub object: Object,
}

/// What the asked side says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Question::Open`]: we are in step.
    Same,
    /// To [`Question::Open`]: we are not, and this is what is here.
    Differs(Packed),
    /// To [`Question::Step`]; what came with it is durable here.
    Step(StepAnswer),
    /// Not done.
    Refused(ExchangeRefusal),
}

/// See [`Answer::Step`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepAnswer {
    /// How many of the questions are answered, from the first on; the rest did not fit.
    pub answered: u32,
    /// What is below the branches that were compared.
    pub branches: Packed,
    /// What was wanted.
    pub items: Vec<Item>,
    /// Where to go on with the first question that is not answered, if it was begun.
    pub next: Option<Cursor>,
}

/// Why a member does not compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExchangeRefusal {
    /// The two share nothing of what was asked for.
    NotAnOwner,
    /// Its history says otherwise who serves what.
    OtherHistory,
    /// Too much to do.
    Busy,
    /// It is handing over what it kept for the sender, which will bring most of what that one lacks.
    HintsFirst,
    /// A shape of trees it does not know; it speaks this version.
    UnknownVersion(u8),
    /// Bytes that are no part of a tree, or of one of another depth.
    Malformed,
    /// Its store failed.
    StoreFailed,
    /// It has been told not to.
    SwitchedOff,
}

impl Serialize for Root {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Root {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Root, D::Error> {
        deserializer.deserialize_bytes(FixedBytes::<16>).map(Root)
    }
}
