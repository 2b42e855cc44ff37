//! Partitions that are known to differ, because hints for them were refused or given up.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    clock::Now,
    config::AntiEntropy,
    ident::NodeId,
    node::{Node, Purpose, SendFailure, TicketUse},
    replica::Work,
    ring::{partition_set::PartitionSet, token::Partition},
    wire::quorum::{Request, Response},
};

/// Marks under way.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Marked partitions of this node's, each with those it is still to be compared with.
    own: BTreeMap<Partition, BTreeSet<NodeId>>,
    /// Those of others, told to somebody who holds them.
    passed_on: BTreeMap<NodeId, Vec<Partition>>,
}

impl Marks {
    /// Rows have changed: what the store has noted is looked at anew.
    pub(super) fn forget(&mut self) {
        self.own.clear();
    }
}

impl Node {
    /// Partitions are marked: those of this node's are compared with everybody in their rows, others are passed on.
    pub(super) fn on_marks_seen(&mut self, now: Now, marked: &[Partition]) {
        if self.config.anti_entropy == AntiEntropy::Off {
            return;
        }
        let Some(ring) = self.view.ring.clone() else { return };
        let mut passed_on: BTreeMap<NodeId, Vec<Partition>> = BTreeMap::new();
        for partition in marked {
            let row = ring.row(*partition);
            if !row.contains(&self.me) {
                let heir = row.iter().find(|node| self.identified.contains(node) && self.is_reachable(now, node));
                heir.into_iter().for_each(|node| passed_on.entry(*node).or_default().push(*partition));
            } else if !self.marks.own.contains_key(partition) {
                let others: BTreeSet<NodeId> = row.iter().filter(|node| **node != self.me).copied().collect();
                others.iter().for_each(|node| self.exchanging.schedule.on_wanted(node, now.instant));
                self.marks.own.insert(*partition, others);
            }
        }
        for (node, partitions) in passed_on {
            let due = now.instant + self.config.peer_timeout;
            self.marks.passed_on.insert(node, partitions.clone());
            self.send(now.instant, &[node], Purpose::Mark, Request::Mark { partitions }, due);
        }
        self.begin_due_exchange(now);
    }

    /// Somebody whose partitions they are sees to marked partitions now, or does not.
    pub(super) fn on_marks_passed_on(&mut self, from: NodeId, result: &Result<Response, SendFailure>) {
        let partitions = self.marks.passed_on.remove(&from).unwrap_or_default();
        if matches!(result, Ok(Response::Marked)) && !partitions.is_empty() {
            self.store(TicketUse::Unwatched, Work::Unmark(partitions));
        }
    }

    /// Of the marks, what has been compared is done.
    pub(super) fn note_marks_compared(&mut self, peer: NodeId, shared: &PartitionSet) {
        let mut done = Vec::new();
        self.marks.own.retain(|partition, others| {
            if shared.contains(*partition) {
                others.remove(&peer);
            }
            if others.is_empty() {
                done.push(*partition);
            }
            !others.is_empty()
        });
        if !done.is_empty() {
            self.store(TicketUse::Unwatched, Work::Unmark(done));
        }
    }
}
