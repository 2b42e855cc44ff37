//! What an administrator asks of a member, and is told by it.

use serde::{Deserialize, Serialize};

use crate::{
    clock::WallTime,
    ident::{Key, NodeId},
    ring::token::Partition,
    wire::exchange::Root,
};

/// Something only an administrator may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// About what the member keeps for others.
    Hints(HintOrder),
    /// Compare what the member holds with everybody it shares it with, now, and make all of them equal.
    Repair {
        /// What.
        scope: RepairScope,
        /// Whether to remember which branches were looked at.
        is_traced: bool,
    },
    /// Look at every record and every bucket of the tree, and put right what is wrong.
    Check,
    /// About who belongs to the cluster.
    Membership(MembershipOrder),
}

/// See [`Order::Membership`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MembershipOrder {
    /// The member hands over what it holds, and leaves.
    Leave,
    /// It was told to leave, and stays.
    Stay,
    /// Another is gone for good, and its identity with it.
    Remove {
        /// Who.
        node: NodeId,
        /// Whether to do it though it loses something.
        force: Force,
    },
    /// Another is gone for good, and a third takes over its rows as soon as it has joined.
    Replace {
        /// Who is gone.
        old: NodeId,
        /// Who takes over.
        new: NodeId,
        /// Whether to do it though it loses something.
        force: Force,
    },
}

/// Whether something is done though it loses something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Force {
    /// It is refused then.
    #[default]
    No,
    /// It is done.
    Yes,
}

/// See [`Order::Hints`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HintOrder {
    /// Deliver them now, without waiting: those for one target, or all.
    Deliver {
        /// For whom.
        target: Option<NodeId>,
    },
    /// Deliver none until told to go on, or started anew.
    Pause,
    /// Go on.
    Resume,
    /// Give up all hints for a target; the partitions concerned are marked.
    Drop {
        /// For whom.
        target: NodeId,
    },
}

/// What is to be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RepairScope {
    /// Everything the member holds.
    Everything,
    /// One partition.
    Partition(Partition),
    /// One key.
    Key(Key),
}

/// How comparing what members hold stands at one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeReport {
    /// The others it shares rows with, by id.
    pub pairs: Vec<PairStatus>,
    /// Exchanges it has begun and not ended.
    pub under_way: u32,
    /// The repair that is under way, or was the last.
    pub repair: Option<RepairStatus>,
    /// The look at everything that is under way, or was the last.
    pub check: Option<CheckStatus>,
}

/// How a member and one other stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairStatus {
    /// The other.
    pub node: NodeId,
    /// Partitions in whose rows both are.
    pub shared_partitions: u32,
    /// How long ago the two were last found to hold the same, in milliseconds; nothing if not since the member's start.
    pub agreed_ms: Option<u64>,
    /// How the last exchange ended.
    pub last: Option<LastExchange>,
}

/// How an exchange over all that two members share ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LastExchange {
    /// Both held the same.
    InStep,
    /// Everything that differed was exchanged, and somebody has written meanwhile.
    Apart,
    /// It came to nothing, and why.
    Failed(String),
}

/// How a repair stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairStatus {
    /// Tells this repair from others of the same process.
    pub number: u64,
    /// What is compared.
    pub scope: RepairScope,
    /// With how many others.
    pub peers_total: u32,
    /// Of them, with how many it is over.
    pub peers_done: u32,
    /// Partitions concerned.
    pub partitions_total: u32,
    /// Of them, those that were compared with all others in their rows.
    pub partitions_done: u32,
    /// Keys changed at this member.
    pub taken: u64,
    /// Objects sent to others.
    pub given: u64,
    /// Bytes sent and received.
    pub bytes: u64,
    /// Since it was begun, or as long as it took, in milliseconds.
    pub lasted_ms: u64,
    /// It is over.
    pub is_over: bool,
    /// Those with whom it came to nothing, and why.
    pub failed: Vec<(NodeId, String)>,
    /// Branches that were looked at, in order; at most 10 000.
    pub trace: Vec<Visited>,
}

/// A branch that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visited {
    /// With whom.
    pub node: NodeId,
    /// The digits that its positions begin with.
    pub branch: String,
    /// What was found, in words.
    pub found: String,
}

/// How a look at everything stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CheckStatus {
    /// Buckets of the tree.
    pub buckets_total: u32,
    /// Of them, those that were looked at.
    pub buckets_done: u32,
    /// Buckets that could not be looked at.
    pub failed: u64,
    /// Records looked at.
    pub records: u64,
    /// Records that did not match their checksum; they are gone, and come back from others.
    pub damaged: u64,
    /// Records whose hash was not that of their object; it was made anew.
    pub misnamed: u64,
    /// Buckets whose digest was not the sum of their items; it was made anew.
    pub wrong_sums: u64,
}

/// What one partition comes to at a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootStatus {
    /// The partition.
    pub partition: Partition,
    /// Keys, tombstones included.
    pub count: u64,
    /// Root of its tree: equal roots, equal data.
    pub root: Root,
    /// The member can vouch for it.
    pub filled: bool,
}

/// What a member keeps for one other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintStatus {
    /// For whom.
    pub target: NodeId,
    /// Keys.
    pub count: u64,
    /// Their size in the store, in bytes.
    pub bytes: u64,
    /// Age of the oldest, in milliseconds; never less than the truth.
    pub oldest_ms: u64,
    /// Delivered since the member began to deliver to this target, and the milliseconds that took. Zeros before that.
    pub delivered: (u64, u64),
    /// How delivery stands.
    pub delivery: Delivery,
}

/// How the delivery of hints to one target stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// The target cannot be reached.
    Waiting,
    /// Under way, or about to be.
    Delivering,
    /// An administrator has paused it.
    Paused,
}

/// Something an administrator should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// What it is about. Of each kind and node there is one at a time.
    pub kind: AlertKind,
    /// Since when it has been so.
    pub since: WallTime,
    /// What it means, with the values in it.
    pub detail: String,
}

/// See [`Alert`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AlertKind {
    /// A member has not been reached for long.
    MemberAway(NodeId),
    /// No other member of any row of this node's can be reached.
    Isolated,
    /// Hints for this target are past half their age.
    HintsOld(NodeId),
    /// The store takes no writes.
    StoreUnwritable,
    /// A member has signed different changes under one number: two processes have its identity, or its disk was put back.
    Forked(NodeId),
    /// Another process runs with this node's identity.
    Twin,
}

impl AlertKind {
    /// Its name, as programs know it.
    pub fn name(&self) -> &'static str {
        match self {
            AlertKind::MemberAway(_) => "member_away",
            AlertKind::Isolated => "isolated",
            AlertKind::HintsOld(_) => "hints_old",
            AlertKind::StoreUnwritable => "store_unwritable",
            AlertKind::Forked(_) => "forked",
            AlertKind::Twin => "twin",
        }
    }

    /// The member it is about, if it is about one.
    pub fn node(&self) -> Option<&NodeId> {
        match self {
            AlertKind::MemberAway(node) | AlertKind::HintsOld(node) | AlertKind::Forked(node) => Some(node),
            AlertKind::Isolated | AlertKind::StoreUnwritable | AlertKind::Twin => None,
        }
    }
}
