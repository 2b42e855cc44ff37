//! A repair that an administrator has asked for: this node is compared with everybody it shares something with.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    clock::{Instant, Now},
    config::AntiEntropy,
    ident::NodeId,
    merkle::descent::{Found, Visit},
    node::{
        Node,
        asking::{Errand, Outcome},
    },
    ring::{partition_set::PartitionSet, token::Partition},
    wire::{
        administration::{RepairScope, RepairStatus, Visited},
        client::Failure,
    },
};

/// How often one peer is tried, and the pause after the first time; it grows by itself each time.
const TRIES_MAX: u32 = 5;
const TRY_PAUSE: Duration = Duration::from_secs(1);

/// Most branches told of one repair.
const TRACE_MAX: usize = 10_000;

/// The repair that is under way, or was the last.
#[derive(Debug, Default)]
pub(super) struct Repairing {
    repair: Option<Repair>,
}

#[derive(Debug)]
struct Repair {
    number: u64,
    scope: RepairScope,
    is_traced: bool,
    shared: BTreeMap<NodeId, Arc<PartitionSet>>,
    /// Those still to be compared with, and how often they were tried.
    left: BTreeMap<NodeId, u32>,
    failed: Vec<(NodeId, String)>,
    taken: u64,
    given: u64,
    bytes: u64,
    begun: Instant,
    ended: Option<Instant>,
    trace: Vec<Visited>,
}

impl Repairing {
    /// Something was exchanged with `peer`: keys changed here, objects sent, bytes both ways.
    pub(super) fn note(&mut self, peer: &NodeId, taken: u64, given: u64, bytes: u64) {
        if let Some(repair) = self.repair.as_mut().filter(|repair| repair.left.contains_key(peer)) {
            repair.taken += taken;
            repair.given += given;
            repair.bytes += bytes;
        }
    }

    /// Branches were looked at together with `peer`.
    pub(super) fn note_visits(&mut self, peer: &NodeId, visits: Vec<Visit>) {
        if let Some(repair) = self.repair.as_mut().filter(|repair| repair.is_traced) {
            let room = TRACE_MAX.saturating_sub(repair.trace.len());
            repair.trace.extend(visits.iter().take(room).map(|visit| told(peer, visit)));
        }
    }

    /// Whether there is one that is not over yet.
    fn is_under_way(&self) -> bool {
        self.repair.as_ref().is_some_and(|repair| repair.ended.is_none())
    }
}

impl Node {
    /// An administrator wants everything in `scope` compared. A repair that is under way is given up for it.
    pub(super) fn begin_repair(&mut self, now: Now, scope: RepairScope, is_traced: bool) -> Result<(), Failure> {
        if self.config.anti_entropy == AntiEntropy::Off {
            let detail =
                "anti_entropy is switched off in the settings of this node; start it with anti_entropy on".into();
            return Err(Failure::Unavailable { detail });
        }
        let partition = match &scope {
            RepairScope::Everything => None,
            RepairScope::Partition(partition) => Some(*partition),
            RepairScope::Key(key) => self.partition_of(key),
        };
        self.check_held(partition)?;
        let shared: BTreeMap<NodeId, Arc<PartitionSet>> =
            self.co_owners.iter().filter_map(|peer| Some((*peer, self.shared_with(peer, partition)?))).collect();
        let left = shared.keys().map(|peer| (*peer, 0)).collect();
        let ended = shared.is_empty().then_some(now.instant);
        for peer in shared.keys() {
            let errand = Errand { peer: *peer, scope: scope.clone(), listed: None, is_traced, is_ordered: true };
            self.exchanging.want(now.instant, errand);
        }
        let number = self.number();
        self.exchanging.repairing.repair = Some(Repair {
            number,
            scope,
            is_traced,
            shared,
            left,
            failed: Vec::new(),
            taken: 0,
            given: 0,
            bytes: 0,
            begun: now.instant,
            ended,
            trace: Vec::new(),
        });
        self.begin_due_exchange(now);
        Ok(())
    }

    /// How the repair stands that is under way, or was the last.
    pub(super) fn repair_status(&self, now: Now) -> Option<RepairStatus> {
        let repair = self.exchanging.repairing.repair.as_ref()?;
        let partitions: BTreeSet<Partition> = repair.shared.values().flat_map(|shared| shared.iter()).collect();
        let left: Vec<&Arc<PartitionSet>> = repair.left.keys().filter_map(|peer| repair.shared.get(peer)).collect();
        let is_done = |partition: &&Partition| !left.iter().any(|shared| shared.contains(**partition));
        let count = |number: usize| u32::try_from(number).expect("at most 65 536 partitions");
        Some(RepairStatus {
            number: repair.number,
            scope: repair.scope.clone(),
            peers_total: count(repair.shared.len()),
            peers_done: count(repair.shared.len() - repair.left.len()),
            partitions_total: count(partitions.len()),
            partitions_done: count(partitions.iter().filter(is_done).count()),
            taken: repair.taken,
            given: repair.given,
            bytes: repair.bytes,
            lasted_ms: u64::try_from((repair.ended.unwrap_or(now.instant) - repair.begun).as_millis())
                .unwrap_or(u64::MAX),
            is_over: repair.ended.is_some(),
            failed: repair.failed.clone(),
            trace: repair.trace.clone(),
        })
    }

    /// An exchange of ours has ended. If it was for the repair, the peer is done with, or is tried again.
    pub(super) fn end_of_errand(&mut self, now: Now, errand: &Errand, outcome: Outcome) {
        if !self.exchanging.repairing.is_under_way() {
            return;
        }
        let Some(repair) = &mut self.exchanging.repairing.repair else { return };
        let is_for_it =
            errand.listed.is_none() && (errand.scope == repair.scope || errand.scope == RepairScope::Everything);
        let Some(tries) = repair.left.get_mut(&errand.peer).filter(|_| is_for_it) else { return };
        *tries += 1;
        let again = match outcome {
            Outcome::InStep => None,
            // What differed at its beginning is exchanged; what is written meanwhile is no business of this repair.
            Outcome::Apart if *tries >= TRIES_MAX => None,
            Outcome::Failed(reason) if *tries >= TRIES_MAX => {
                repair.failed.push((errand.peer, reason));
                None
            }
            Outcome::Apart | Outcome::Failed(_) => Some(now.instant + TRY_PAUSE * *tries),
        };
        if let Some(due) = again {
            let (scope, is_traced) = (repair.scope.clone(), repair.is_traced);
            let errand = Errand { peer: errand.peer, scope, listed: None, is_traced, is_ordered: true };
            return self.exchanging.want(due, errand);
        }
        repair.left.remove(&errand.peer);
        if repair.left.is_empty() {
            repair.ended = Some(now.instant);
        }
    }

    /// Refuses what this node holds nothing of, and says who does.
    fn check_held(&self, partition: Option<Partition>) -> Result<(), Failure> {
        let Some(ring) = &self.view.ring else {
            let detail = "this node is not a member of a cluster yet".to_owned();
            return Err(Failure::Unavailable { detail });
        };
        let Some(partition) = partition else { return Ok(()) };
        let row = ring.row(partition);
        if row.contains(&self.me) {
            return Ok(());
        }
        let detail = if ring.partitions().contains(partition) {
            let names: Vec<String> = row.iter().map(|node| self.name_of(node)).collect();
            format!("this node does not hold partition {partition}; ask one of those that do: {}", names.join(", "))
        } else {
            format!("there is no partition {partition}: this cluster has {}, from 0 on", ring.partitions())
        };
        Err(Failure::Unavailable { detail })
    }
}

fn told(peer: &NodeId, visit: &Visit) -> Visited {
    let found = match visit.found {
        Found::Children(0) => "none of its children differs".to_owned(),
        Found::Children(count) => format!("{count} of its children differ"),
        Found::Items { missing, extra } => format!("{missing} items missing here, {extra} there"),
        Found::OnlyThere => "all of it is missing here".to_owned(),
        Found::OnlyHere => "all of it is missing there".to_owned(),
    };
    Visited { node: *peer, branch: visit.branch.to_string(), found }
}
