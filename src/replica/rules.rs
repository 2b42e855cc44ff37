//! By what rules a replica works.

use crate::causality::epochs::EpochRule;

/// By what rules a replica works. All but [`Rules::sound`] exist so that tests can plant a bug and see it caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// When a node may mint under an actor it has used before.
    pub epochs: EpochRule,
    /// What a merge keeps.
    pub merges: MergeRule,
    /// How hints are kept and dropped.
    pub hints: HintRule,
    /// How the tree follows the objects.
    pub trees: TreeRule,
}

/// See [`Rules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeRule {
    /// It covers every object, and changes with it.
    InStep,
    /// There is none: nothing can be compared. For measuring what it costs.
    NoTree,
    /// Tombstones are left out. Breaks P4: they do not reach everybody, and what they deleted comes back.
    WithoutTombstones,
    /// It does not follow merges. Breaks P3: differences are seen where there are none.
    MergesForgotten,
    /// What comes by an exchange replaces what is there. Breaks P1: concurrent writes are lost.
    ExchangesOverwrite,
}

/// See [`Rules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HintRule {
    /// Apart from the node's own data, and dropped only as they were sent.
    Apart,
    /// Among the node's own data. Breaks P3: what it is not responsible for stays with it for ever.
    AmongObjects,
    /// Dropped even if they have changed since they were sent. Breaks P1: what came in between is lost.
    DroppedThoughChanged,
}

/// See [`Rules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeRule {
    /// Concurrent siblings survive side by side.
    KeepSiblings,
    /// The youngest write wins. Breaks P1: a concurrent acknowledged write is lost.
    LastWriteWins,
}

impl Rules {
    /// The rules that keep the promises.
    pub fn sound() -> Rules {
        Rules {
            epochs: EpochRule::Fresh,
            merges: MergeRule::KeepSiblings,
            hints: HintRule::Apart,
            trees: TreeRule::InStep,
        }
    }
}
