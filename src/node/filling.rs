//! Filling partitions, saying so, and giving up what others hold now.
//!
//! A partition is filled, or handed over, by an exchange like any other that names its partitions. What this node says of
//! it is made at the moment it is stored, so that the label it is said under is that of the history it becomes a part of.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    clock::{Instant, Now},
    handoff::filling::Standing,
    ident::NodeId,
    membership::{
        change::{ChangeKind, Statement},
        liveness::Opinion,
        view::View,
    },
    merkle::branch::BranchDigest,
    node::{Node, TicketUse, asking::Errand, upkeep::Alarm},
    replica::{Done, Query, Work},
    ring::{partition_set::PartitionSet, token::Partition},
    store::StoreError,
    wire::administration::RepairScope,
};

/// Rows that one transaction drops.
const DROP_ROWS_MAX: usize = 256;

/// Partitions of one exchange in which something is handed over.
const HANDING_PARTITIONS_MAX: usize = 64;

/// A statement that could not be made just now is tried again so much later.
const MOMENT: Duration = Duration::from_millis(100);

/// So long after a statement the last of its kind may follow.
const LAST_STATEMENT_PAUSE: Duration = Duration::from_millis(200);

/// How often those are asked what they know whose word is missing before old configurations are retired.
const WITNESS_INTERVAL: Duration = Duration::from_secs(1);

/// What this node holds and is to hold no more.
#[derive(Debug)]
pub(super) struct Handing {
    /// Each partition with the members of its row that are known to hold all that is here.
    partitions: BTreeMap<Partition, BTreeSet<NodeId>>,
    /// The store is being asked what is left.
    is_asking: bool,
    /// The view has changed since it was asked.
    is_stale: bool,
    /// What is being dropped.
    dropping: Option<Partition>,
}

impl Handing {
    /// How many partitions there are.
    pub(super) fn len(&self) -> usize {
        self.partitions.len()
    }

    /// Nothing is known yet.
    pub(super) fn new() -> Handing {
        Handing { partitions: BTreeMap::new(), is_asking: false, is_stale: true, dropping: None }
    }

    /// Whether it is certain that there is nothing.
    pub(super) fn is_over(&self) -> bool {
        self.partitions.is_empty() && !self.is_asking && !self.is_stale && self.dropping.is_none()
    }
}

impl Node {
    /// The view has changed, or what is in doubt.
    pub(super) fn on_duties_changed(&mut self, now: Now) {
        self.note_duties(now);
        self.look_for_leftovers();
        self.go_on_filling(now);
    }

    /// Finds what is to be filled as the view is now.
    pub(super) fn note_duties(&mut self, now: Now) {
        let Node { filling, view, doubt, .. } = self;
        filling.on_view(view, |partition| doubt.is_about(partition), now.instant);
        self.handing.is_stale = true;
    }

    /// It is time to look whether something can be said: those whose word is missing are asked what they know.
    pub(super) fn on_fill_alarm(&mut self, now: Now) {
        if self.witnesses_due <= now.instant {
            self.witnesses_due = now.instant + WITNESS_INTERVAL;
            let witnesses = self.filling.witnesses();
            let asked: Vec<NodeId> = witnesses.into_iter().filter(|node| self.identified.contains(node)).collect();
            asked.into_iter().for_each(|node| self.reconcile_with(now, node));
        }
        self.go_on_filling(now);
    }

    /// Something has come forward: the next exchange begins, or something is said.
    pub(super) fn go_on_filling(&mut self, now: Now) {
        self.begin_due_exchange(now);
        self.look_for_leftovers();
        self.drop_next();
        self.stage_next(now);
        self.arm_filling(now);
    }

    /// `peer` and this node have exchanged `partitions`, from `begun` on.
    pub(super) fn on_compared(&mut self, now: Now, peer: NodeId, partitions: &PartitionSet, begun: Instant) {
        let standing = if self.doubters.contains(&peer) { Standing::InDoubt } else { Standing::Certain };
        self.filling.on_compared(peer, standing, partitions, begun);
        for (partition, holders) in &mut self.handing.partitions {
            let is_holder = self.view.row(*partition).contains(&peer) && standing == Standing::Certain;
            if partitions.contains(*partition) && is_holder {
                holders.insert(peer);
            }
        }
        if self.resolve_doubt() {
            self.on_duties_changed(now);
        }
        self.drop_next();
        self.go_on_filling(now);
    }

    /// The histories of `peer` and of this node agree.
    pub(super) fn on_witness(&mut self, now: Now, peer: NodeId) {
        self.filling.on_agreed(peer);
        self.stage_next(now);
        self.arm_filling(now);
    }

    /// With whom to exchange next so that partitions be filled, or handed over.
    pub(super) fn next_duty(&mut self, now: Instant) -> Option<Errand> {
        let Node { filling, liveness, identified, handing, view, .. } = self;
        let may_ask = |node: &NodeId| identified.contains(node) && liveness.opinion(node, now) != Opinion::Down;
        let source = filling.next_source(may_ask, now);
        let (peer, partitions) = source.or_else(|| {
            let may_ask = |node: &NodeId| may_ask(node) && filling.is_rested(node, now);
            next_recipient(&handing.partitions, view, may_ask)
        })?;
        let listed = PartitionSet::new(view.parameters?.partitions, partitions);
        let listed = Some(Arc::new(listed));
        Some(Errand { peer, scope: RepairScope::Everything, listed, is_traced: false, is_ordered: false })
    }

    /// What this node has to say of partitions, if there is something.
    pub(super) fn next_statement(&mut self, now: Now) -> Option<ChangeKind> {
        let parameters = self.view.parameters?;
        if !self.may_speak() {
            return None;
        }
        let statement = |partitions: Vec<Partition>| Statement {
            label: self.view.label.clone(),
            partitions: PartitionSet::new(parameters.partitions, partitions),
        };
        let retired: Vec<Partition> = self.filling.retired(now.instant).collect();
        let filled: Vec<Partition> = self.filling.filled().collect();
        // Many partitions are told of at once: each change of the history costs everybody something. What is the last of its
        // kind need not wait for more.
        let is_due = |is_last: bool| {
            let due = if is_last { self.last_statement + LAST_STATEMENT_PAUSE } else { self.statement_due };
            due <= now.instant
        };
        let kind = if !retired.is_empty() && is_due(self.filling.witnesses().is_empty()) {
            ChangeKind::Retired(statement(retired))
        } else if !filled.is_empty() && is_due(filled.len() == self.filling.progress().0) {
            ChangeKind::Filled(statement(filled))
        } else {
            return None;
        };
        self.last_statement = now.instant;
        self.statement_due = now.instant + self.config.statement_interval;
        Some(kind)
    }

    /// The store has told what partitions come to that this node need not hold, or not.
    pub(super) fn on_leftovers(&mut self, now: Now, result: Result<Done, StoreError>) {
        self.handing.is_asking = false;
        let Ok(Done::Roots(roots)) = result else {
            // It is asked again soon.
            self.handing.is_stale = true;
            return;
        };
        let is_left = |(partition, digest): &(Partition, BranchDigest)| {
            !digest.is_empty() && !self.view.holds(&self.me, *partition)
        };
        let left: BTreeSet<Partition> = roots.into_iter().filter(is_left).map(|(partition, _)| partition).collect();
        self.handing.partitions.retain(|partition, _| left.contains(partition));
        for partition in left {
            self.handing.partitions.entry(partition).or_default();
        }
        self.look_for_leftovers();
        self.drop_next();
        self.go_on_filling(now);
        self.look_at_own_standing(now);
    }

    /// Part of a partition was dropped, or not.
    pub(super) fn on_dropped(&mut self, now: Now, result: Result<Done, StoreError>) {
        let Some(partition) = self.handing.dropping.take() else { return };
        match result {
            Ok(Done::Dropped { rows, is_over }) => {
                self.counters.rows_dropped += rows;
                if is_over {
                    self.handing.partitions.remove(&partition);
                }
            }
            Ok(_) => unreachable!("a drop is answered by Dropped"),
            // What is left is still known to be held by others, and is dropped soon.
            Err(_) => return,
        }
        self.drop_next();
        self.look_at_own_standing(now);
    }

    fn arm_filling(&mut self, now: Now) {
        let is_waiting = self.filling.filled().next().is_some() || self.filling.retired(now.instant).next().is_some();
        let statement = is_waiting.then_some(now.instant + MOMENT);
        let wants_witness = !self.filling.witnesses().is_empty();
        let question = wants_witness.then_some(self.witnesses_due.max(now.instant + MOMENT));
        match self.filling.next_timeout(now.instant).into_iter().chain(statement).chain(question).min() {
            Some(due) => self.alarms.set(Alarm::Fill, due),
            None => drop(self.alarms.clear(&Alarm::Fill)),
        }
    }

    /// Asks the store what it has of partitions that this node need not hold.
    fn look_for_leftovers(&mut self) {
        let Some(parameters) = self.view.parameters else { return };
        if self.handing.is_asking || !self.handing.is_stale {
            return;
        }
        self.handing.is_stale = false;
        let view = &self.view;
        self.handing.partitions.retain(|partition, _| !view.holds(&self.me, *partition));
        let others = view.partitions().filter(|partition| !view.holds(&self.me, *partition));
        let others = PartitionSet::new(parameters.partitions, others);
        if others.is_empty() {
            return;
        }
        self.handing.is_asking = true;
        // What was accepted while it was still to be held may not be committed yet: the store is asked once it is.
        self.store(TicketUse::BeforeLeftovers(others), Work::Mark(Vec::new()));
    }

    /// All that was to be stored before is, or never will be.
    pub(super) fn on_before_leftovers(&mut self, partitions: PartitionSet) {
        self.query(TicketUse::Leftovers, Query::Roots(partitions));
    }

    /// Drops the next partition that enough others hold.
    fn drop_next(&mut self) {
        if self.handing.dropping.is_some() || self.handing.is_stale {
            return;
        }
        let view = &self.view;
        let is_safe = |(partition, holders): &(&Partition, &BTreeSet<NodeId>)| {
            let row = view.row(**partition);
            !row.is_empty() && holders.iter().filter(|node| row.contains(node)).count() > row.len() / 2
        };
        let Some((partition, _)) = self.handing.partitions.iter().find(is_safe) else { return };
        let (partition, Some(parameters)) = (*partition, view.parameters) else { return };
        if view.holds(&self.me, partition) {
            return;
        }
        self.handing.dropping = Some(partition);
        let work = Work::Drop { partition, partitions: parameters.partitions, limit: DROP_ROWS_MAX };
        self.store(TicketUse::Drop, work);
    }
}

/// Who of the rows takes most of what is to be handed over, and what.
fn next_recipient(
    handing: &BTreeMap<Partition, BTreeSet<NodeId>>,
    view: &View,
    may_ask: impl Fn(&NodeId) -> bool,
) -> Option<(NodeId, Vec<Partition>)> {
    let mut recipients: BTreeMap<NodeId, Vec<Partition>> = BTreeMap::new();
    for (partition, holders) in handing {
        let row = view.row(*partition);
        if holders.iter().filter(|node| row.contains(node)).count() > row.len() / 2 {
            continue;
        }
        for node in row.iter().filter(|node| !holders.contains(node)) {
            let partitions = recipients.entry(*node).or_default();
            if partitions.len() < HANDING_PARTITIONS_MAX {
                partitions.push(*partition);
            }
        }
    }
    recipients.into_iter().filter(|(node, _)| may_ask(node)).max_by_key(|(_, partitions)| partitions.len())
}
