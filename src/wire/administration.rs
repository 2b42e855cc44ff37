//! What an administrator asks of a member, and is told by it.

use serde::{Deserialize, Serialize};

use crate::{clock::WallTime, ident::NodeId};

/// Something only an administrator may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Deliver hints now, without waiting: those for one target, or all.
    DeliverHints {
        /// For whom.
        target: Option<NodeId>,
    },
    /// Deliver none until told to go on, or started anew.
    PauseHints,
    /// Go on.
    ResumeHints,
    /// Give up all hints for a target; the partitions concerned are marked.
    DropHints {
        /// For whom.
        target: NodeId,
    },
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
}

impl AlertKind {
    /// Its name, as programs know it.
    pub fn name(&self) -> &'static str {
        match self {
            AlertKind::MemberAway(_) => "member_away",
            AlertKind::Isolated => "isolated",
            AlertKind::HintsOld(_) => "hints_old",
            AlertKind::StoreUnwritable => "store_unwritable",
        }
    }

    /// The member it is about, if it is about one.
    pub fn node(&self) -> Option<&NodeId> {
        match self {
            AlertKind::MemberAway(node) | AlertKind::HintsOld(node) => Some(node),
            AlertKind::Isolated | AlertKind::StoreUnwritable => None,
        }
    }
}
