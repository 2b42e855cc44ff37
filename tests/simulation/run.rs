//! One random run: settle, make trouble, heal, read everything, judge.

use std::collections::BTreeSet;

use quorate::{
    ident::Key,
    wire::client::{ClientRequest, ClientResponse, Consistency, Get, ReadFrom, Scope},
};

use crate::{
    checker::{self, Violation},
    cluster::{Cluster, Outcome, Setup},
    faults::{self, FAULT, Faults},
    network::Weather,
    workload::{Trust, Workload},
};

/// What a run is made of, beside its seed.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) setup: Setup,
    pub(crate) trust: Trust,
    pub(crate) clients: usize,
    /// How long there is trouble, in simulated ms.
    pub(crate) trouble_ms: u64,
}

/// What came of it.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    /// The first promise broken.
    pub(crate) violation: Option<Violation>,
    pub(crate) operations: u64,
    pub(crate) steps: u64,
    pub(crate) trace: Option<blake3::Hash>,
}

impl Plan {
    /// The ordinary run of `seed`: one to five nodes, up to three replicas.
    pub(crate) fn ordinary(seed: u64) -> Plan {
        let nodes = [3, 4, 5, 3, 2, 5, 3, 1][(seed % 8) as usize];
        let replicas = if seed.is_multiple_of(5) { 2 } else { 3 };
        // Objects of a run have some 60 bytes and more: of every second seed most travel as digests first.
        let digest_above_bytes = seed.is_multiple_of(2).then_some(80);
        let setup = Setup { digest_above_bytes, ..Setup::sound(nodes, replicas) };
        Plan { setup, trust: Trust::Full, clients: 6, trouble_ms: 12_000 }
    }
}

/// Plays `plan` under `seed`. Ends at the first violation.
pub(crate) fn run(seed: u64, plan: &Plan) -> Report {
    let mut cluster = Cluster::new(seed, &plan.setup);
    let mut play = Play { cluster: &mut cluster, workload: None, faults: None };
    let result = play.whole(plan);
    let operations = play.workload.as_ref().map_or(0, |workload| workload.operation_count);
    Report { violation: result.err(), operations, steps: cluster.step_count, trace: cluster.trace() }
}

struct Play<'a> {
    cluster: &'a mut Cluster,
    workload: Option<Workload>,
    faults: Option<Faults>,
}

impl Play<'_> {
    fn whole(&mut self, plan: &Plan) -> Result<(), Violation> {
        let count = plan.setup.nodes;
        for index in 0..count {
            let delay_ms = self.cluster.dice.below(500);
            self.cluster.start_later(index, delay_ms);
        }
        if plan.trust != Trust::Unsettled {
            self.until(60_000, checker::is_settled)?;
            checker::difference(self.cluster).map_or(Ok(()), Err)?;
        }
        self.cluster.network.weather = match plan.trust {
            Trust::Full | Trust::OneStoreLost => Weather::FOUL,
            Trust::Unsettled => Weather::STORM,
            Trust::Changing | Trust::ChangingAndLost => unreachable!("those have runs of their own"),
        };
        let n = count.min(usize::from(plan.setup.replicas));
        self.workload = Some(Workload::new(plan.clients, n, plan.trust, self.cluster));
        self.faults = Some(Faults::new(plan.trust, self.cluster));
        self.until(plan.trouble_ms, |_| false)?;

        self.faults.iter_mut().for_each(Faults::end);
        self.workload.iter_mut().for_each(Workload::end);
        faults::heal(self.cluster);
        self.cluster.network.weather = Weather::FAIR;
        self.until(HEALING_MS, |_| false)?;
        self.judge(plan.trust)
    }

    /// Lets time pass until `is_enough`, or for `limit_ms`.
    fn until(&mut self, limit_ms: u64, is_enough: fn(&Cluster) -> bool) -> Result<(), Violation> {
        let (faults, workload) = (&mut self.faults, &mut self.workload);
        pass(self.cluster, limit_ms, STEP_COUNT_MAX, is_enough, |cluster| {
            while let Some(outcome) = cluster.outcomes.pop_front() {
                match (&outcome, &mut *faults, &mut *workload) {
                    (Outcome::Woken(FAULT), Some(faults), _) => faults.strike(cluster),
                    (_, _, Some(workload)) => workload.on_outcome(cluster, outcome),
                    (_, _, None) => {}
                }
            }
        })
    }

    fn judge(&mut self, trust: Trust) -> Result<(), Violation> {
        checker::difference(self.cluster).map_or(Ok(()), Err)?;
        if self.cluster.asked_count() > 0 {
            return Err(Violation::NeverAnswered { count: self.cluster.asked_count() });
        }
        // Replicas may just be compared, as they are again and again.
        self.until(2_000, |cluster| checker::busy_node(cluster).is_none())?;
        checker::busy_node(self.cluster).map_or(Ok(()), Err)?;
        checker::unsound_tree(self.cluster).map_or(Ok(()), Err)?;
        checker::accuser(self.cluster).map_or(Ok(()), Err)?;
        checker::hints_left(self.cluster).map_or(Ok(()), Err)?;
        if trust == Trust::Unsettled {
            return Ok(());
        }
        checker::misplaced(self.cluster).map_or(Ok(()), Err)?;
        let Some(workload) = self.workload.take() else { return Ok(()) };
        let written: BTreeSet<Key> = workload.model.keys().cloned().collect();
        self.read_everything(&written)?;
        self.workload = Some(workload);
        checker::differing_replicas(self.cluster).map_or(Ok(()), Err)?;
        let Some(workload) = &self.workload else { return Ok(()) };
        for key in &written {
            let Some(ring) = self.cluster.node(0).and_then(|node| node.view().ring.clone()) else { break };
            let head = ring.row(ring.partition_of(key))[0];
            let head = self.cluster.machines.iter().find(|machine| machine.id == head).expect("a member");
            workload.model.judge(
                key,
                &head.object(key),
                ring.row(ring.partition_of(key)).len(),
                &self.cluster.checker,
            )?;
        }
        Ok(())
    }

    /// Reads every key from all its replicas, so that read repair levels them, and waits until it has.
    fn read_everything(&mut self, keys: &BTreeSet<Key>) -> Result<(), Violation> {
        for key in keys {
            let request =
                Get { key: key.clone(), from: ReadFrom::Row(Consistency::All), scope: Scope::Strict, budget_ms: 5_000 };
            let number = self.cluster.submit(0, ClientRequest::Get(request)).expect("everything is up");
            let reply = loop {
                self.cluster.step();
                let replied = self.cluster.outcomes.drain(..).find_map(|outcome| match outcome {
                    Outcome::Replied(replied, response) if replied == number => Some(response),
                    Outcome::Replied(..) | Outcome::Woken(_) | Outcome::Unknown(_) => None,
                });
                if let Some(response) = replied {
                    break response;
                }
            };
            if !matches!(reply, ClientResponse::Found(_)) {
                return Err(Violation::Unreadable { key: key.clone() });
            }
        }
        self.until(REPAIR_MS, |_| false)
    }
}

/// Lets time pass until `is_enough`, or for `limit_ms`; `on_step` sees to what has come of each step. Ends at the first
/// violation, and when more than `step_count_max` steps were taken since the cluster began.
pub(crate) fn pass(
    cluster: &mut Cluster,
    limit_ms: u64,
    step_count_max: u64,
    is_enough: fn(&Cluster) -> bool,
    mut on_step: impl FnMut(&mut Cluster),
) -> Result<(), Violation> {
    let end_ms = cluster.now_ms + limit_ms;
    while cluster.now_ms < end_ms && !is_enough(cluster) {
        if cluster.step_count > step_count_max {
            return Err(Violation::Endless);
        }
        cluster.step();
        on_step(cluster);
        if let Some(violation) = cluster.checker.violation() {
            return Err(violation.clone());
        }
    }
    Ok(())
}

/// After so long without faults all is well: two longest pauses between dials, two between attempts to deliver hints, and
/// a few rounds of comparing.
const HEALING_MS: u64 = 25_000;
/// After so long all repairs have arrived.
const REPAIR_MS: u64 = 3_000;
/// Far more than any run takes.
const STEP_COUNT_MAX: u64 = 1_000_000;
