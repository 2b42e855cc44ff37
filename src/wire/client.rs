//! What clients ask of members, and what they are told.
//!
//! A request carries the time its client is still willing to wait; whoever passes it on passes on what is left. A
//! [`Failure`] says whether the write may have been stored: not knowing is said, never guessed.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    causality::{context::Context, version_vector::VersionVector},
    clock::WallTime,
    digest::Digest,
    ident::{Key, Name, NodeId, OpId, Value},
    membership::{
        change::{Change, Parameters, Profile},
        summary::Summary,
    },
    wire::{
        administration::{Alert, ExchangeReport, HintStatus, Order, PairStatus, RootStatus},
        bytes,
    },
};

/// How many replicas must answer. Clamped to the members there are; the answer then says `degraded`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Consistency {
    /// One replica.
    One,
    /// A majority of the row.
    #[default]
    Quorum,
    /// Every member of the row.
    All,
    /// So many; at least one.
    Count(u8),
    /// A majority of those of the row that are in the coordinator's zone; of all of it if none is.
    LocalQuorum,
    /// A majority of those of the row in each of its zones.
    EachQuorum,
}

/// Whose copies and answers count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Scope {
    /// Those of the first N members of the preference list that can be reached: fallbacks stand in for primaries.
    #[default]
    Sloppy,
    /// Those of the key's own row.
    Strict,
}

/// A request of a client to a member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ClientRequest {
    /// Store a value, in place of all that its context has seen.
    Put(Put),
    /// Remove all that the context has seen.
    Delete(Delete),
    /// Read the siblings of a key.
    Get(Get),
    /// List keys that this member holds.
    Scan(Scan),
    /// Which changes of the membership history the client lacks.
    History(Summary),
    /// How this member sees the cluster.
    Status,
    /// Each replica's state of one key.
    Inspect {
        /// The key.
        key: Key,
        /// Milliseconds left.
        budget_ms: u32,
    },
    /// What this member keeps for others.
    Hints,
    /// What its administrator should know.
    Alerts,
    /// How comparing what members hold stands at this one.
    Exchanges,
    /// What each partition comes to that this member holds.
    Roots,
    /// Do something that only an administrator may ask for.
    Administer(Order),
}

/// See [`ClientRequest::Put`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Put {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Value,
    /// What the client has read; without it the value becomes a sibling of whatever is there.
    pub context: Option<Context>,
    /// The client's name for this write: a retry carries the same.
    pub op: OpId,
    /// Durable copies to wait for.
    pub w: Consistency,
    /// Whose copies count.
    pub scope: Scope,
    /// Milliseconds after which the value expires, counted from when it is stored.
    pub ttl_ms: Option<u64>,
    /// Milliseconds left.
    pub budget_ms: u32,
}

/// See [`ClientRequest::Delete`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delete {
    /// The key.
    pub key: Key,
    /// What the client has read: exactly that is removed.
    pub context: Context,
    /// Durable copies to wait for.
    pub w: Consistency,
    /// Whose copies count.
    pub scope: Scope,
    /// Milliseconds left.
    pub budget_ms: u32,
}

/// See [`ClientRequest::Get`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Get {
    /// The key.
    pub key: Key,
    /// Who must answer.
    pub from: ReadFrom,
    /// Whose answers count.
    pub scope: Scope,
    /// Milliseconds left.
    pub budget_ms: u32,
}

/// Whose word a read takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadFrom {
    /// So many members of the key's row.
    Row(Consistency),
    /// The asked member's own store alone; no quorum, no repair.
    Local,
}

/// See [`ClientRequest::Scan`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scan {
    /// Keys begin with these bytes; may be empty.
    #[serde(with = "bytes")]
    pub prefix: Vec<u8>,
    /// The `next` of the page before; nothing for the first page.
    pub after: Option<Cursor>,
    /// Most keys in the answer.
    pub limit: u16,
}

/// Where a scan goes on: the member's next row. Opaque to clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(#[serde(with = "bytes")] pub Vec<u8>);

/// The answer of a member to a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ClientResponse {
    /// Stored, or removed, as often as was asked.
    Stored(Stored),
    /// What was read.
    Found(Found),
    /// One page of keys.
    Keys(Keys),
    /// Changes the client lacks, each author's in order; not all of them when there are many.
    History(Vec<Change>),
    /// How this member sees the cluster.
    Status(Box<Status>),
    /// Each replica's state of one key.
    Inspection(Inspection),
    /// What the member keeps for others, by target.
    Hints(Vec<HintStatus>),
    /// What its administrator should know, the oldest first.
    Alerts(Vec<Alert>),
    /// How comparing what members hold stands.
    Exchanges(ExchangeReport),
    /// What the member's partitions come to, ascending.
    Roots(Vec<RootStatus>),
    /// The order was carried out.
    Administered,
    /// Why not.
    Failed(Failure),
}

/// A write that reached its quorum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Nodes that hold it durably so far.
    pub acks: u8,
    /// How many of them are primaries.
    pub primaries: u8,
    /// Primaries for whom another node keeps it.
    pub hinted: Vec<NodeId>,
    /// Has seen this write and what it replaced.
    pub context: Context,
    /// Fewer members than replicas, or a primary that could not be reached.
    pub degraded: bool,
}

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The visible siblings; empty when there is nothing.
    pub siblings: Vec<FoundSibling>,
    /// Has seen all of them, and every deletion.
    pub context: Context,
    /// Fewer members than replicas, or a primary that could not be reached.
    pub degraded: bool,
    /// With [`ReadFrom::Local`]: the replica's own record.
    pub local: Option<LocalRecord>,
}

/// One visible value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundSibling {
    /// The value.
    pub value: Value,
    /// When its coordinator stored it, by its clock; for people.
    pub written_at: WallTime,
}

/// What a replica's own record of a key says beside the siblings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalRecord {
    /// The node is in the key's row.
    pub replica: bool,
    /// The node holds the key's partition completely.
    pub filled: bool,
    /// The record's clock; empty when there is no record.
    pub clock: VersionVector,
}

/// One page of a scan, in the order of the member's rows: by token, and by key where tokens are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// Keys with at least one visible sibling. May be empty though there is a next page.
    pub keys: Vec<Key>,
    /// Where to go on; nothing at the end.
    pub next: Option<Cursor>,
}

/// How one member sees the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The member that answers.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: Name,
    /// What the cluster was founded with; nothing while the node still looks for one.
    pub parameters: Option<Parameters>,
    /// All members, by id.
    pub members: Vec<MemberStatus>,
    /// Changes in its history.
    pub change_count: u64,
    /// Digest of its history.
    pub history: Digest,
    /// Partitions whose row it is in.
    pub held_partitions: u32,
    /// Partitions whose row it heads.
    pub owned_partitions: u32,
    /// Keys in its store, tombstones included.
    pub key_count: u64,
    /// About how many bytes they take in its store.
    pub key_bytes: u64,
    /// Transactions committed since it started.
    pub commit_count: u64,
    /// Writes those transactions carried.
    pub write_count: u64,
    /// Records found damaged since it started.
    pub damaged_count: u64,
    /// Whether its store takes writes, or why not.
    pub store_failure: Option<String>,
    /// Hints it keeps for others.
    pub hint_count: u64,
    /// Their size, in bytes.
    pub hint_bytes: u64,
    /// Partitions left incomplete knowingly, to be compared early.
    pub marked_partitions: u32,
    /// Partitions it is to hold and cannot vouch for yet, until it has been compared with enough others.
    pub filling_partitions: u32,
    /// Of those that were to be filled at once with these, the ones that are filled.
    pub filled_partitions: u32,
    /// For how long it has been filling these, in milliseconds; zero when there is nothing to fill.
    pub filling_ms: u64,
    /// Keys changed at it by what has come for them since.
    pub filling_keys: u64,
    /// Bytes of objects received for them since, and of what was compared, sent and received.
    pub filling_bytes: u64,
    /// Bytes that each of its exchanges moves in a second, at most.
    pub exchange_bytes_per_second: u64,
    /// Partitions it holds something of and is to hold no more: being handed over.
    pub leftover_partitions: u32,
    /// Partitions in which more than the present row counts still.
    pub unsettled_partitions: u32,
    /// How it and each other of its rows stand, by id.
    pub pairs: Vec<PairStatus>,
    /// Alerts that stand.
    pub alert_count: u32,
    /// What it has counted since it started: name and number. In no order that means anything.
    pub counters: Vec<(String, u64)>,
}

/// One member, as another sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// The member.
    pub node: NodeId,
    /// What it says of itself.
    pub profile: Profile,
    /// Whether the asked node reaches it.
    pub state: Reach,
    /// It is about to leave.
    pub is_leaving: bool,
}

/// A node's private opinion of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// Answers.
    Up,
    /// Connected, but has not answered lately.
    Suspect,
    /// Not connected.
    Down,
}

/// Each replica's state of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// The key's partition.
    pub partition: u16,
    /// The row, in its order.
    pub row: Vec<InspectedReplica>,
}

/// See [`Inspection`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectedReplica {
    /// The replica.
    pub node: NodeId,
    /// What it holds; nothing when it did not answer.
    pub state: Option<InspectedState>,
}

/// See [`Inspection`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectedState {
    /// Digest of the object's canonical bytes.
    pub hash: Digest,
    /// The object's clock.
    pub clock: VersionVector,
    /// Siblings, hidden ones included.
    pub sibling_count: u16,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Failure {
    /// Too few replicas can be reached or have stored it.
    #[error("{acks} of {needed} replicas answered{}", maybe(*maybe_stored))]
    QuorumNotMet {
        /// Replicas that answered.
        acks: u8,
        /// Replicas that had to.
        needed: u8,
        /// The value may live on some replica and may yet spread.
        maybe_stored: bool,
    },
    /// The time was up before enough replicas had answered.
    #[error("{acks} of {needed} replicas answered in time{}", maybe(*maybe_stored))]
    TimedOut {
        /// Replicas that answered.
        acks: u8,
        /// Replicas that had to.
        needed: u8,
        /// The value may live on some replica and may yet spread.
        maybe_stored: bool,
    },
    /// The context was refused; nothing was stored.
    #[error("the context was refused: {detail}")]
    InvalidContext {
        /// Why, and what to do next.
        detail: String,
    },
    /// The write would break a limit; nothing was stored.
    #[error("refused for size: {detail}")]
    TooLarge {
        /// Which limit, and by how much.
        detail: String,
    },
    /// The node is at a bound; nothing was stored. Try again later, or another node.
    #[error("the node is busy: {detail}")]
    Overloaded {
        /// Which bound.
        detail: String,
    },
    /// The node cannot serve: it has no cluster yet, or is not in the row; nothing was stored.
    #[error("the node cannot serve this: {detail}")]
    Unavailable {
        /// Why.
        detail: String,
    },
    /// Only an administrator may ask for this. Nothing was done.
    #[error("only an administrator may do this: {detail}")]
    NotPermitted {
        /// Who is one.
        detail: String,
    },
    /// It would be wrong. Nothing was done.
    #[error("refused: {detail}")]
    Refused {
        /// Why, and what to do instead.
        detail: String,
    },
    /// The node's store refuses; nothing was stored by it.
    #[error("the node's store refused: {detail}{}", maybe(*maybe_stored))]
    StoreFailed {
        /// What it said.
        detail: String,
        /// A commit failed, and some media cannot tell what became of it.
        maybe_stored: bool,
    },
}

impl Failure {
    /// Whether a write that failed so may have been stored all the same.
    pub fn maybe_stored(&self) -> bool {
        match self {
            Failure::QuorumNotMet { maybe_stored, .. }
            | Failure::TimedOut { maybe_stored, .. }
            | Failure::StoreFailed { maybe_stored, .. } => *maybe_stored,
            Failure::InvalidContext { .. }
            | Failure::TooLarge { .. }
            | Failure::Overloaded { .. }
            | Failure::NotPermitted { .. }
            | Failure::Refused { .. }
            | Failure::Unavailable { .. } => false,
        }
    }
}

fn maybe(maybe_stored: bool) -> &'static str {
    if maybe_stored { "; it may have been stored all the same" } else { "" }
}
