//! What a node tells of itself and of what it holds.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    causality::siblings::Object,
    clock::Now,
    handoff::exchanges::Pair,
    ident::{Key, NodeId},
    membership::{liveness::Opinion, roster::Standing},
    merkle::branch::BranchDigest,
    node::Node,
    replica::{StoreCounts, values::KeyPage},
    ring::token::Partition,
    wire::{
        administration::{ExchangeReport, PairStatus, RootStatus},
        client::{
            ClientResponse, InspectedReplica, InspectedState, Inspection, Keys, LocalRecord, MemberStatus, Reach,
            Status,
        },
        exchange::Root,
    },
};

impl Node {
    /// How this node sees the cluster; the rest is what its store told.
    pub(super) fn status(
        &self,
        now: Now,
        (key_count, key_bytes): (u64, u64),
        marked: &[Partition],
        counts: StoreCounts,
    ) -> Status {
        let held = self.view.held_by(&self.me).count();
        let (to_fill, filled) = self.filling.progress();
        let taken = self.filling.taken();
        let partitions = |count: usize| u32::try_from(count).expect("at most 65 536 partitions");
        let owned = self.view.ring.as_ref().map_or(0, |ring| ring.tokens_of(&self.me).len());
        Status {
            node: self.me,
            cluster: self.config.cluster.clone(),
            parameters: self.view.parameters,
            members: self
                .view
                .members
                .iter()
                .map(|(node, member)| MemberStatus {
                    node: *node,
                    profile: member.profile.clone(),
                    state: self.reach(now, node),
                    is_leaving: member.standing == Standing::Leaving,
                })
                .collect(),
            change_count: self.records.history().len() as u64,
            history: self.records.history().digest(),
            held_partitions: partitions(held),
            owned_partitions: partitions(owned),
            key_count,
            key_bytes,
            commit_count: counts.commits,
            write_count: counts.works,
            damaged_count: counts.damaged,
            store_failure: self.records.store_failure().cloned(),
            hint_count: self.alerts.hints().iter().map(|(_, totals)| totals.count).sum(),
            hint_bytes: self.alerts.hints().iter().map(|(_, totals)| totals.bytes).sum(),
            marked_partitions: partitions(marked.len()),
            filling_partitions: partitions(to_fill),
            filled_partitions: u32::try_from(filled).unwrap_or(u32::MAX),
            filling_ms: taken.since.map_or(0, |since| millis(now.instant - since)),
            filling_keys: taken.keys,
            filling_bytes: taken.bytes,
            exchange_bytes_per_second: self.config.exchange_bytes_per_second,
            leftover_partitions: partitions(self.handing.len()),
            unsettled_partitions: partitions(self.view.unsettled().count()),
            pairs: self.pair_statuses(now),
            alert_count: u32::try_from(self.alerts.standing().len()).expect("two for each member, and two"),
            counters: self.counters_with(counts),
        }
    }

    /// How this node and each other of its rows stand.
    pub(super) fn pair_statuses(&self, now: Now) -> Vec<PairStatus> {
        let shared = self.shared_counts();
        let status = |(node, pair): (&NodeId, &Pair)| PairStatus {
            node: *node,
            shared_partitions: shared.get(node).copied().unwrap_or_default(),
            agreed_ms: pair.agreed.map(|agreed| millis(now.instant - agreed)),
            last: self.exchanging.last.get(node).cloned(),
        };
        self.exchanging.schedule.pairs().map(status).collect()
    }

    /// How many partitions this node shares with each other.
    fn shared_counts(&self) -> BTreeMap<NodeId, u32> {
        let mut counts = BTreeMap::new();
        let Some(ring) = &self.view.ring else { return counts };
        for node in ring.held_by(&self.me).flat_map(|partition| ring.row(partition)) {
            *counts.entry(*node).or_default() += 1;
        }
        counts
    }

    fn counters_with(&self, counts: StoreCounts) -> Vec<(String, u64)> {
        let mut counters = self.counters.to_list();
        counters.push(("leaves_read".to_owned(), counts.leaves_read));
        counters
    }

    /// What this node's own store holds under `key`.
    pub(super) fn local_answer(&self, now: Now, key: &Key, object: Object) -> ClientResponse {
        let replica = self.partition_of(key).is_some_and(|partition| self.view.holds(&self.me, partition));
        let filled = replica && self.partition_of(key).is_some_and(|partition| !self.filling.wants(partition));
        match self.found(now, key, &object, false) {
            ClientResponse::Found(mut found) => {
                found.local = Some(LocalRecord { replica, filled, clock: object.clock().clone() });
                ClientResponse::Found(found)
            }
            other => other,
        }
    }

    /// What this node's partitions come to.
    pub(super) fn roots_answer(&self, roots: Vec<(Partition, BranchDigest)>) -> ClientResponse {
        let status = |(partition, digest): (Partition, BranchDigest)| RootStatus {
            partition,
            count: digest.count,
            root: Root(digest.sum.to_be_bytes()),
            filled: !self.filling.wants(partition),
        };
        ClientResponse::Roots(roots.into_iter().map(status).collect())
    }

    /// How comparing stands.
    pub(super) fn exchanges_answer(&self, now: Now) -> ClientResponse {
        ClientResponse::Exchanges(ExchangeReport {
            pairs: self.pair_statuses(now),
            under_way: u32::try_from(self.exchanging.under_way()).unwrap_or(u32::MAX),
            repair: self.repair_status(now),
            check: self.check_status(),
        })
    }

    fn reach(&self, now: Now, node: &NodeId) -> Reach {
        if *node == self.me {
            return Reach::Up;
        }
        match self.liveness.opinion(node, now.instant) {
            Opinion::Up => Reach::Up,
            Opinion::Suspect => Reach::Suspect,
            Opinion::Down => Reach::Down,
        }
    }
}

/// The answer to a scan.
pub(super) fn keys(page: KeyPage) -> ClientResponse {
    ClientResponse::Keys(Keys { keys: page.keys, next: page.next })
}

/// The answer to an inspection.
pub(super) fn inspection(partition: Option<Partition>, answers: Vec<(NodeId, Option<Object>)>) -> ClientResponse {
    let row = answers.into_iter().map(|(node, object)| InspectedReplica { node, state: object.map(inspect) }).collect();
    ClientResponse::Inspection(Inspection { partition: partition.map_or(0, |partition| partition.0), row })
}

fn inspect(object: Object) -> InspectedState {
    InspectedState {
        hash: object.digest(),
        clock: object.clock().clone(),
        sibling_count: u16::try_from(object.siblings().len()).unwrap_or(u16::MAX),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
