//! What goes wrong in a run, and when: crashes, clean stops, pauses, cuts, failing commits, jumping clocks, an old disk.

use quorate::store::{Store, WriteTxn, memory::Snapshot};

use crate::{cluster::Cluster, machine::Machine, workload::Trust};

/// The wake-up call of the faults; clients have smaller numbers.
pub(crate) const FAULT: u64 = 1 << 32;

/// Faults to come, until they end.
pub(crate) struct Faults {
    trust: Trust,
    /// A copy of the first node's disk.
    copy: Option<Snapshot>,
    has_rolled_back: bool,
    is_over: bool,
}

impl Faults {
    pub(crate) fn new(trust: Trust, cluster: &mut Cluster) -> Faults {
        cluster.wake(100, FAULT);
        Faults { trust, copy: None, has_rolled_back: false, is_over: false }
    }

    /// No more faults; those there are stay until [`heal`].
    pub(crate) fn end(&mut self) {
        self.is_over = true;
    }

    /// One thing goes wrong, or one gets better.
    pub(crate) fn strike(&mut self, cluster: &mut Cluster) {
        if self.is_over {
            return;
        }
        let count = cluster.machines.len();
        let (one, other) = (cluster.dice.index(count), cluster.dice.index(count));
        match cluster.dice.below(19) {
            0..3 => {
                let noticed_ms = if cluster.dice.permille(500) { 20 } else { 3_000 };
                cluster.crash(one, noticed_ms);
                let delay_ms = cluster.dice.between(5, 3_000);
                cluster.start_later(one, delay_ms);
            }
            3 => {
                cluster.stop(one);
                let delay_ms = cluster.dice.between(5, 2_000);
                cluster.start_later(one, delay_ms);
            }
            4 | 5 if one != other => cluster.cut(one, other),
            6 if one != other => {
                cluster.cut(one, other);
                cluster.cut(other, one);
            }
            7 => isolate(cluster, one),
            8..11 => cluster.network.mend_all(),
            11..13 => cluster.fail_next_commit(one),
            13 => cluster.machines[one].wall_skew_ms = cluster.dice.below(120_000),
            14 => cluster.machines[one].paused_until_ms = cluster.now_ms + cluster.dice.between(50, 4_000),
            17 => black_out(cluster, one),
            15 if self.trust == Trust::OneStoreLost => self.roll_back(cluster),
            _ => cluster.network.mend(one, other),
        }
        let delay_ms = cluster.dice.between(30, 900);
        cluster.wake(delay_ms, FAULT);
    }

    /// The first node's disk is copied, and goes back to that copy later, once.
    fn roll_back(&mut self, cluster: &mut Cluster) {
        let machine = &mut cluster.machines[0];
        if self.has_rolled_back || machine.process.is_none() {
            return;
        }
        match &self.copy {
            Some(copy) => {
                self.has_rolled_back = true;
                let copy = copy.clone();
                cluster.crash(0, 20);
                cluster.machines[0].store.restore(&copy);
                cluster.start_later(0, 200);
            }
            None => self.copy = Some(machine.store.snapshot()),
        }
    }
}

/// Most of the nodes fail at once, beginning with `first`, and come back one after the other: whole rows are away.
fn black_out(cluster: &mut Cluster, first: usize) {
    let count = cluster.machines.len();
    for index in (first..first + count / 2 + 1).map(|index| index % count) {
        cluster.crash(index, 20);
        let delay_ms = cluster.dice.between(500, 5_000);
        cluster.start_later(index, delay_ms);
    }
}

/// Cuts a node off from all others, both ways.
pub(crate) fn isolate(cluster: &mut Cluster, index: usize) {
    for other in (0..cluster.machines.len()).filter(|other| *other != index) {
        cluster.cut(index, other);
        cluster.cut(other, index);
    }
}

/// Mends the network and the disks, and starts whoever is off.
pub(crate) fn heal(cluster: &mut Cluster) {
    cluster.network.mend_all();
    cluster.machines.iter().for_each(repair_disk);
    (0..cluster.machines.len()).for_each(|index| cluster.start(index));
}

/// Uses up a failure that was to come.
pub(crate) fn repair_disk(machine: &Machine) {
    let _ = machine.store.write().and_then(WriteTxn::commit);
}
