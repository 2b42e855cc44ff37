//! One random run in which members come and go: settle, change, finish, read everything, judge.

use std::collections::BTreeSet;

use quorate::{
    ident::Key,
    membership::view::View,
    wire::client::{ClientRequest, ClientResponse, Consistency, Get, ReadFrom, Scope},
};

use crate::{
    changes::{CHANGE, ChangeCounts, ChangePlan, Changes, Healing, Trouble, unfinished, weather_of},
    checker::{self, Violation},
    cluster::{Cluster, Outcome},
    machine::Machine,
    network::Weather,
    run::pass,
    workload::{Patience, Workload},
};

/// A run under way.
pub(crate) struct Run<'a> {
    cluster: &'a mut Cluster,
    workload: Option<Workload>,
    changes: Option<Changes>,
    merges: u64,
    healing: Healing,
    /// How many nodes there are at first.
    started: usize,
}

impl<'a> Run<'a> {
    pub(crate) fn new(cluster: &'a mut Cluster, plan: &ChangePlan) -> Run<'a> {
        let merges = plan.islands.len() as u64 - 1;
        cluster.rows_change = true;
        Run {
            cluster,
            workload: None,
            changes: None,
            merges,
            healing: plan.healing,
            started: plan.islands.iter().sum(),
        }
    }

    pub(crate) fn operation_count(&self) -> u64 {
        self.workload.as_ref().map_or(0, |workload| workload.operation_count)
    }

    pub(crate) fn counts(&self) -> ChangeCounts {
        let counts = self.changes.as_ref().map(|changes| changes.counts).unwrap_or_default();
        ChangeCounts { merges: self.merges, ..counts }
    }

    pub(crate) fn whole(&mut self, plan: &ChangePlan) -> Result<(), Violation> {
        let started = self.begin(plan)?;
        self.cluster.network.weather = weather_of(plan.trouble);
        let patience = if plan.trouble == Trouble::None { Patience::None } else { Patience::Endless };
        let mut workload = Workload::new(CLIENTS, usize::from(plan.setup.replicas), plan.trust(), self.cluster);
        workload.patience = patience;
        workload.is_merging = plan.islands.len() > 1;
        self.workload = Some(workload);
        if plan.islands.len() > 1 {
            // Each island writes alone for a while; then they meet.
            self.until(3_000, |_| false)?;
            self.cluster.network.mend_all();
        }
        self.changes = Some(Changes::new(plan.trouble, started, self.cluster));
        self.until(plan.changing_ms, |_| false)?;
        self.workload.iter_mut().for_each(Workload::end);
        self.cluster.network.weather = Weather::FAIR;
        if let Some(changes) = &mut self.changes {
            changes.end(self.cluster);
        }
        self.finish()?;
        self.judge()
    }

    /// Has the islands found their clusters, each cut off from the others. Returns how many nodes that are.
    fn begin(&mut self, plan: &ChangePlan) -> Result<usize, Violation> {
        let started: usize = plan.islands.iter().sum();
        let island_of = |node: usize| {
            let mut ends = plan.islands.iter().scan(0, |end, count| {
                *end += count;
                Some(*end)
            });
            ends.position(|end| node < end)
        };
        for one in 0..started {
            for other in (0..started).filter(|other| island_of(*other) != island_of(one)) {
                self.cluster.cut(one, other);
            }
        }
        (0..started).for_each(|index| self.cluster.start(index));
        let is_settled = |cluster: &Cluster| {
            let is_founded = |index: usize| cluster.node(index).is_some_and(|node| !node.view().members.is_empty());
            (0..cluster.machines.len()).filter(|index| cluster.is_up(*index)).all(is_founded)
                && checker::unsettled_partition(cluster).is_none()
        };
        self.until(60_000, is_settled)?;
        self.until(2_000, |_| false)?;
        self.until(30_000, is_settled)?;
        checker::unsettled_partition(self.cluster).map_or(Ok(started), Err)
    }

    fn finish(&mut self) -> Result<(), Violation> {
        let end_ms = self.cluster.now_ms + FINISHING_MS;
        loop {
            self.until(1_000, |_| false)?;
            let (Some(changes), cluster) = (&mut self.changes, &mut *self.cluster) else { return Ok(()) };
            changes.finish(cluster);
            let left = unfinished(cluster, changes).or_else(|| checker::hints_left(cluster));
            match left {
                None => return Ok(()),
                Some(violation) if cluster.now_ms >= end_ms => return Err(violation),
                Some(_) => {}
            }
        }
    }

    /// Lets time pass until `is_enough`, or for `limit_ms`.
    fn until(&mut self, limit_ms: u64, is_enough: fn(&Cluster) -> bool) -> Result<(), Violation> {
        let (changes, workload, started) = (&mut self.changes, &mut self.workload, self.started);
        pass(self.cluster, limit_ms, STEP_COUNT_MAX, is_enough, |cluster| {
            while let Some(outcome) = cluster.outcomes.pop_front() {
                if let (Outcome::Replied(number, response), Some(changes)) = (&outcome, &mut *changes) {
                    changes.on_reply(cluster, *number, response);
                }
                match (&outcome, &mut *changes, &mut *workload) {
                    (Outcome::Woken(CHANGE), Some(changes), _) => changes.strike(cluster),
                    (_, _, Some(workload)) => workload.on_outcome(cluster, outcome),
                    (_, _, None) => {}
                }
            }
            if let Some(workload) = workload.as_mut().filter(|workload| workload.is_merging) {
                // From here on one configuration holds everything that any of them held.
                workload.is_merging = !are_one(cluster, started);
            }
        })
    }

    fn judge(&mut self) -> Result<(), Violation> {
        // Writes linger until their last replica has answered, or the one who stands in for it.
        self.until(15_000, |cluster| checker::busy_node(cluster).is_none())?;
        checker::busy_node(self.cluster).map_or(Ok(()), Err)?;
        checker::unsound_tree(self.cluster).map_or(Ok(()), Err)?;
        checker::misplaced(self.cluster).map_or(Ok(()), Err)?;
        checker::mended(self.cluster).map_or(Ok(()), Err)?;
        let Some(workload) = self.workload.take() else { return Ok(()) };
        let written: BTreeSet<Key> = workload.model.keys().cloned().collect();
        if self.healing == Healing::FillingAlone {
            let result = self.read_strictly(&written, &workload);
            self.workload = Some(workload);
            return result;
        }
        self.read_everything(&written)?;
        self.until(REPAIR_MS, |_| false)?;
        checker::differing_replicas(self.cluster).map_or(Ok(()), Err)?;
        let Some(ring) = checker::first_ring(self.cluster) else { return Ok(()) };
        for key in &written {
            let row = ring.row(ring.partition_of(key));
            let head = self.cluster.machines.iter().find(|machine| machine.id == row[0]).expect("a member");
            let n = usize::from(ring.replicas());
            workload.model.judge(key, &head.object(key), n, &self.cluster.checker)?;
        }
        self.workload = Some(workload);
        Ok(())
    }

    /// Reads every key by strict quorums, from several nodes: each must see all that strict quorums have acknowledged.
    fn read_strictly(&mut self, keys: &BTreeSet<Key>, workload: &Workload) -> Result<(), Violation> {
        for key in keys {
            let demand = workload.strict_demand(key);
            for node in (0..self.cluster.machines.len()).filter(|node| serves(self.cluster, *node)).collect::<Vec<_>>()
            {
                match self.read(node, key, Consistency::Quorum)? {
                    ClientResponse::Found(found) if !workload.has_seen(key, &found, &demand) => {
                        return Err(Violation::StaleRead { key: key.clone() });
                    }
                    ClientResponse::Found(_) => {}
                    _ => return Err(Violation::Unreadable { key: key.clone() }),
                }
            }
        }
        Ok(())
    }

    /// What a node answers to a strict read.
    fn read(&mut self, node: usize, key: &Key, r: Consistency) -> Result<ClientResponse, Violation> {
        let from = ReadFrom::Row(r);
        let request = Get { key: key.clone(), from, scope: Scope::Strict, budget_ms: 5_000 };
        let number = self.cluster.submit(node, ClientRequest::Get(request)).expect("it is up");
        loop {
            self.cluster.step();
            let replied = self.cluster.outcomes.drain(..).find_map(|outcome| match outcome {
                Outcome::Replied(replied, response) if replied == number => Some(response),
                Outcome::Replied(..) | Outcome::Woken(_) | Outcome::Unknown(_) => None,
            });
            if let Some(response) = replied {
                return Ok(response);
            }
            if let Some(violation) = self.cluster.checker.violation() {
                return Err(violation.clone());
            }
        }
    }

    /// Reads every key from all its replicas: all of it must be readable.
    fn read_everything(&mut self, keys: &BTreeSet<Key>) -> Result<(), Violation> {
        let Some(node) = (0..self.cluster.machines.len()).find(|node| serves(self.cluster, *node)) else {
            return Ok(());
        };
        for key in keys {
            if !matches!(self.read(node, key, Consistency::All)?, ClientResponse::Found(_)) {
                return Err(Violation::Unreadable { key: key.clone() });
            }
        }
        Ok(())
    }
}

/// Whether a node is up, and not about to end.
fn serves(cluster: &Cluster, index: usize) -> bool {
    cluster.is_up(index) && cluster.machines[index].ended.is_none()
}

/// Whether all who were there at first know each other, and no configuration counts but the present rows.
fn are_one(cluster: &Cluster, started: usize) -> bool {
    let first = &cluster.machines[..started];
    let knows_all = |machine: &Machine| {
        let knows = |view: &View| first.iter().all(|other| view.members.contains_key(&other.id));
        machine.process.as_ref().is_some_and(|process| knows(process.node.view()))
    };
    first.iter().all(knows_all)
        && checker::histories_differ(cluster).is_none()
        && checker::unsettled_partition(cluster).is_none()
}

const CLIENTS: usize = 5;

/// After so long without faults every change has come to its end: several rounds of comparing histories, filling, telling,
/// and the patience of those who are not the first of their rows.
const FINISHING_MS: u64 = 120_000;

/// After so long all repairs have arrived.
const REPAIR_MS: u64 = 3_000;

/// Far more than any run takes.
const STEP_COUNT_MAX: u64 = 3_000_000;
