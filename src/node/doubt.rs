//! What this node's store may have lost.
//!
//! A store that was wiped, restored from a copy or cloned holds less than its node once acknowledged. Its node answers for
//! the partitions in doubt as one that cannot know, until it has been compared with so many others of each row that they
//! must hold everything that was ever acknowledged there.

use std::collections::BTreeSet;

use crate::{
    clock::Now,
    node::{Node, TicketUse},
    replica::{Work, startup::InDoubt},
    ring::token::Partition,
};

/// The partitions in doubt.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// All of them, before it is known which they are.
    everything: bool,
    partitions: BTreeSet<Partition>,
}

impl Doubt {
    /// What a store told at start.
    pub(super) fn new(recovered: &InDoubt) -> Doubt {
        match recovered {
            InDoubt::Nothing => Doubt::default(),
            InDoubt::Everything => Doubt { everything: true, partitions: BTreeSet::new() },
            InDoubt::Of(partitions) => Doubt { everything: false, partitions: partitions.iter().copied().collect() },
        }
    }

    /// Whether this node cannot vouch for `partition`.
    pub(super) fn is_about(&self, partition: Partition) -> bool {
        self.everything || self.partitions.contains(&partition)
    }

    /// Whether it cannot vouch for something.
    pub(super) fn is_any(&self) -> bool {
        self.everything || !self.partitions.is_empty()
    }

    fn to_record(&self) -> InDoubt {
        match (self.everything, self.partitions.is_empty()) {
            (true, _) => InDoubt::Everything,
            (false, true) => InDoubt::Nothing,
            (false, false) => InDoubt::Of(self.partitions.iter().copied().collect()),
        }
    }
}

impl Node {
    /// How many of this node's partitions are in doubt.
    pub(super) fn doubted_partitions(&self) -> usize {
        self.view.held_by(&self.me).filter(|partition| self.doubt.is_about(*partition)).count()
    }

    /// The store was found to be older than what others have seen of this node. It remembers that by itself.
    pub(super) fn on_store_old(&mut self, now: Now) {
        self.doubt = Doubt { everything: true, partitions: BTreeSet::new() };
        self.settle_doubt();
        self.on_duties_changed(now);
    }

    /// It is known which partitions this node holds, or has changed.
    pub(super) fn settle_doubt(&mut self) {
        let held: BTreeSet<Partition> = self.view.held_by(&self.me).collect();
        if held.is_empty() {
            return;
        }
        let before = self.doubt.to_record();
        if std::mem::take(&mut self.doubt.everything) {
            self.doubt.partitions = held.clone();
        }
        self.doubt.partitions.retain(|partition| held.contains(partition));
        self.save_doubt(&before);
    }

    /// Forgets doubts about partitions that were compared with enough others. Returns whether there were any.
    pub(super) fn resolve_doubt(&mut self) -> bool {
        let before = self.doubt.to_record();
        let Node { doubt, filling, .. } = self;
        doubt.partitions.retain(|partition| !filling.is_resolved(*partition));
        self.save_doubt(&before)
    }

    fn save_doubt(&mut self, before: &InDoubt) -> bool {
        let after = self.doubt.to_record();
        let has_changed = after != *before;
        if has_changed {
            self.store(TicketUse::Unwatched, Work::SaveInDoubt(after));
        }
        has_changed
    }
}
