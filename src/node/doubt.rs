//! What this node's store may have lost.
//!
//! A store that was wiped, restored from a copy or cloned holds less than its node once acknowledged. Its node answers for
//! the partitions in doubt as one that cannot know, until it has been compared with so many others of each row that they
//! must hold everything that was ever acknowledged there.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    ident::NodeId,
    node::{Node, TicketUse},
    replica::{Work, startup::InDoubt},
    ring::{partition_set::PartitionSet, token::Partition},
};

/// The partitions in doubt.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// All of them, before it is known which they are.
    everything: bool,
    /// Each with those it has been compared with since.
    partitions: BTreeMap<Partition, BTreeSet<NodeId>>,
}

impl Doubt {
    /// What a store told at start.
    pub(super) fn new(recovered: &InDoubt) -> Doubt {
        match recovered {
            InDoubt::Nothing => Doubt::default(),
            InDoubt::Everything => Doubt { everything: true, partitions: BTreeMap::new() },
            InDoubt::Of(partitions) => {
                let partitions = partitions.iter().map(|partition| (*partition, BTreeSet::new())).collect();
                Doubt { everything: false, partitions }
            }
        }
    }

    /// Whether this node cannot vouch for `partition`.
    pub(super) fn is_about(&self, partition: Partition) -> bool {
        self.everything || self.partitions.contains_key(&partition)
    }

    fn to_record(&self) -> InDoubt {
        match (self.everything, self.partitions.is_empty()) {
            (true, _) => InDoubt::Everything,
            (false, true) => InDoubt::Nothing,
            (false, false) => InDoubt::Of(self.partitions.keys().copied().collect()),
        }
    }
}

impl Node {
    /// How many of this node's partitions are in doubt.
    pub(super) fn doubted_partitions(&self) -> usize {
        let Some(ring) = &self.view.ring else { return 0 };
        ring.held_by(&self.me).filter(|partition| self.doubt.is_about(*partition)).count()
    }

    /// The store was found to be older than what others have seen of this node. It remembers that by itself.
    pub(super) fn on_store_old(&mut self) {
        self.doubt = Doubt { everything: true, partitions: BTreeMap::new() };
        self.settle_doubt();
    }

    /// It is known which partitions this node holds, or has changed.
    pub(super) fn settle_doubt(&mut self) {
        let Some(ring) = &self.view.ring else { return };
        let held: BTreeSet<Partition> = ring.held_by(&self.me).collect();
        if held.is_empty() {
            return;
        }
        let before = self.doubt.to_record();
        if std::mem::take(&mut self.doubt.everything) {
            self.doubt.partitions = held.iter().map(|partition| (*partition, BTreeSet::new())).collect();
        }
        self.doubt.partitions.retain(|partition, _| held.contains(partition));
        self.drop_settled(&before);
    }

    /// This node holds everything that `peer` held of the partitions the two share.
    pub(super) fn on_compared(&mut self, peer: NodeId, shared: &PartitionSet) {
        let before = self.doubt.to_record();
        for (_, compared) in self.doubt.partitions.iter_mut().filter(|(partition, _)| shared.contains(**partition)) {
            compared.insert(peer);
        }
        self.drop_settled(&before);
    }

    /// Forgets doubts about partitions that were compared with enough of their rows.
    fn drop_settled(&mut self, before: &InDoubt) {
        let Some(ring) = &self.view.ring else { return };
        self.doubt.partitions.retain(|partition, compared| {
            let row = ring.row(*partition);
            let count = row.iter().filter(|node| compared.contains(node)).count();
            count < others_needed(row.len())
        });
        let after = self.doubt.to_record();
        if after != *before {
            self.store(TicketUse::Unwatched, Work::SaveInDoubt(after));
        }
    }
}

/// With how many others of a row of so many a node must have been compared. A write was acknowledged by a majority, of
/// which the node itself may have been one; so a majority beside it has one of the rest, wherever there are so many.
///
/// Source: Lynch and Shvartsman, "RAMBO" (2002), for reading enough of a configuration before one serves in its place.
fn others_needed(row: usize) -> usize {
    (row / 2 + 1).min(row.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_others_are_needed_as_hold_what_a_majority_has_acknowledged() {
        let needed: Vec<usize> = (0..=7).map(others_needed).collect();
        assert_eq!(needed, [0, 0, 1, 2, 3, 3, 4, 4]);
        for row in 2..=7 {
            // Of any majority with the node in it, somebody else is among those it was compared with.
            assert!(others_needed(row) + row / 2 > row - 1 || others_needed(row) == row - 1, "{row}");
        }
    }
}
