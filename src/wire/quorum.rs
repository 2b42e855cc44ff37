//! What members say to each other.
//!
//! Every request about a key, and every answer to one, carries the sender's *partition digest*: what its history says
//! of the partition. An answer counts only under the coordinator's own; when they differ the two reconcile their
//! histories and the operation is judged again (Lynch and Shvartsman, "RAMBO", 2002, for the idea of quorums that
//! outlive a change of configuration).

use serde::{Deserialize, Serialize};

use crate::{
    causality::siblings::Object,
    digest::Digest,
    ident::{Key, NodeId},
    membership::{
        change::{Change, Signature},
        life::Life,
        summary::Summary,
    },
    ring::token::Partition,
    wire::client::{ClientRequest, ClientResponse},
};

/// A request of one member to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Coordinate this for a client of mine. Never forwarded again.
    Forward(ClientRequest),
    /// Tell what you hold under a key.
    Read {
        /// The key.
        key: Key,
        /// The sender's partition digest.
        partition: Digest,
        /// Of an object with more bytes than this the digest is enough.
        whole_bytes_max: u32,
    },
    /// Merge this into what you hold: replication and read repair alike.
    Merge {
        /// The key.
        key: Key,
        /// The sender's object.
        object: Object,
        /// The sender's partition digest.
        partition: Digest,
    },
    /// Keep this for a member that I cannot reach, and answer as for a merge.
    KeepHint {
        /// The member.
        target: NodeId,
        /// The key.
        key: Key,
        /// What it lacks.
        object: Object,
        /// The sender's partition digest.
        partition: Digest,
    },
    /// Compare these partitions with the rest of their rows early: they are known to differ, and I am in none of them.
    Mark {
        /// Which.
        partitions: Vec<Partition>,
    },
    /// Who I am, and what my history holds; also from nodes that are no members yet.
    Reconcile(Reconcile),
}

/// A greeting and a comparison of histories, both ways: the answer has the same form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconcile {
    /// The sender's boot number: higher at each of its starts.
    pub boot: u64,
    /// The sender's process: of two with one identity the younger has the higher one.
    pub instance: u64,
    /// The sender's word for its life, until the receiver is known to have it: see [`crate::membership::life`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub word: Option<Signature>,
    /// The latest life of the receiver that the sender has seen: its boot number, and the instance that told it. Zeros for
    /// none.
    pub your_life: Life,
    /// The receiver's own word for that life, while another of its lives has been heard of lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub your_word: Option<Signature>,
    /// The sender cannot vouch for all that it should hold.
    pub is_in_doubt: bool,
    /// Names the sender's history: equal digests, equal histories.
    pub history: Digest,
    /// How far the sender knows each author. Left out where the digests are to be compared first, and in answers to whoever has
    /// the same history.
    pub summary: Option<Summary>,
    /// Changes the sender believes the receiver lacks, each author's in order.
    pub changes: Vec<Change>,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// To [`Request::Forward`].
    Forwarded(ClientResponse),
    /// To [`Request::Read`]: the object, the default one when the key was never held.
    Object {
        /// What is held.
        object: Object,
        /// The answering member's partition digest.
        partition: Digest,
    },
    /// To [`Request::Read`]: the digest of what is held, for it is large.
    Digest {
        /// The digest.
        digest: Digest,
        /// The answering member's partition digest.
        partition: Digest,
    },
    /// To [`Request::Read`]: the answering member is not to hold the key, and knows nothing of it. To [`Request::Merge`]: it is
    /// not to hold the key, and has stored nothing.
    Unknown {
        /// The answering member's partition digest.
        partition: Digest,
    },
    /// To [`Request::Merge`] and [`Request::KeepHint`]: it is durable.
    Merged {
        /// The answering member's partition digest.
        partition: Digest,
    },
    /// To [`Request::Mark`]: they are marked, durably.
    Marked,
    /// To [`Request::Reconcile`].
    Reconciled(Reconcile),
    /// Not done, and nothing changed.
    Refused(Refusal),
}

/// Why a member did not do what another asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Too much to do.
    Overloaded,
    /// The store failed. For a merge it is unknown whether it was stored.
    StoreFailed,
    /// The sender is no member.
    NotAMember,
    /// No more hints are kept here, or none at all.
    HintsFull,
    /// The member for whom a hint should be kept is not known here.
    UnknownTarget,
}
