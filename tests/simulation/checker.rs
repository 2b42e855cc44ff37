//! What must hold after every step, and what must hold once faults have ended.
//!
//! The checker looks at committed stores and at nodes from outside; it never asks a node whether all is well.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use quorate::{
    causality::{dot::Dot, siblings::Object, version_vector::VersionVector},
    digest::Digest,
    ident::{Key, OpId, Value},
    limits::OPERATION_COUNT_MAX,
    node::effect::Stop,
    ring::{Ring, token::Partition},
};

use crate::{cluster::Cluster, machine::Machine, model::WriteId, stage::sees};

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Violation {
    /// One dot names two values.
    DotWithTwoValues { key: Key, dot: Dot },
    /// A write was acknowledged that too few stores held durably at that moment.
    NotDurable { write: WriteId, stores: usize, needed: usize },
    /// A write was said to be held by more primaries than hold it.
    NotAtPrimaries { write: WriteId, primaries: usize, told: usize },
    /// That there is nothing was told though nobody was up who could know.
    AbsentToTheIgnorant { key: Key },
    /// A node holds among its own data what is not its own.
    Misplaced { node: usize, key: Key },
    /// A hint was dropped though its target lacks some of it.
    DroppedEarly { node: usize, key: Key },
    /// Hints are left though everybody has been up for long.
    HintsLeft { node: usize, count: usize },
    /// An acknowledged value is gone, and nobody who had seen it replaced it.
    Lost { write: WriteId, key: Key },
    /// No replica remembers something that was acknowledged, such as a delete.
    Forgotten { key: Key },
    /// A value that an acknowledged write or delete replaced is back, though the replicas agree.
    Returned { key: Key, dot: Dot },
    /// A read missed what had been acknowledged by an overlapping quorum before it began.
    StaleRead { key: Key },
    /// Something in a node grows beyond its bound.
    Overgrown { node: usize, load: [usize; 3] },
    /// Equal histories, different rings.
    RingsDiffer { node: usize },
    /// A request was answered a second time.
    AnsweredTwice { node: usize },
    /// A client was never answered.
    NeverAnswered { count: usize },
    /// Members that can all reach each other have different histories.
    HistoriesDiffer { node: usize, members: usize },
    /// A node that was removed for ever still serves, or is taken for a member.
    RemovedAndBack { node: usize },
    /// An administrator was told that an order is carried out of which the node's disk knows nothing.
    OrderLost { node: usize },
    /// An operation failed though everybody was up.
    Unavailable { key: Key },
    /// A bucket of a tree had to be put right, though nobody has damaged it.
    Mended { node: usize, count: u64 },
    /// A node takes another for down though everybody has been up for long.
    Parted { node: usize, from: usize },
    /// Something is still to be filled, retired or handed over though everybody has been up for long.
    Unsettled { node: usize, partition: Partition },
    /// Primaries hold different objects.
    ReplicasDiffer { key: Key },
    /// What a bucket of a tree comes to is not what lies in it.
    TreeUnsound { node: usize, bucket: u16 },
    /// A key could not be read when everything was well again.
    Unreadable { key: Key },
    /// A node is still busy though nothing is asked of it.
    StillBusy { node: usize, load: [usize; 3] },
    /// A node takes an honest one for a liar.
    Accused { node: usize },
    /// The run did not end within its steps.
    Endless,
}

/// What was seen so far.
#[derive(Default)]
pub(crate) struct Checker {
    violations: Vec<Violation>,
    dots: BTreeMap<(Key, Dot), (OpId, Value)>,
    dots_of: BTreeMap<OpId, BTreeSet<Dot>>,
    rings: BTreeMap<Digest, Arc<Ring>>,
}

impl Checker {
    pub(crate) fn report(&mut self, violation: Violation) {
        self.violations.push(violation);
    }

    /// The first violation; the rest may follow from it.
    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.violations.first()
    }

    /// The dots under which a write was ever stored anywhere.
    pub(crate) fn dots_of(&self, op: OpId) -> impl ExactSizeIterator<Item = Dot> + '_ {
        static NONE: BTreeSet<Dot> = BTreeSet::new();
        self.dots_of.get(&op).unwrap_or(&NONE).iter().copied()
    }

    /// A store has committed something about `touched`.
    pub(crate) fn on_commit(&mut self, machine: &Machine, touched: &[Key]) {
        for key in touched {
            for sibling in machine.objects(key).iter().flat_map(Object::siblings) {
                let content = (sibling.op, sibling.value.clone());
                let known = self.dots.entry((key.clone(), sibling.dot)).or_insert_with(|| content.clone());
                if *known != content {
                    self.violations.push(Violation::DotWithTwoValues { key: key.clone(), dot: sibling.dot });
                }
                self.dots_of.entry(sibling.op).or_default().insert(sibling.dot);
            }
        }
    }

    /// A node has done something.
    pub(crate) fn on_step(&mut self, index: usize, machine: &mut Machine) {
        let Some(process) = &machine.process else { return };
        let load = process.node.load();
        if !(load[0] <= OPERATION_COUNT_MAX && load[1] <= TICKET_COUNT_MAX && load[2] <= OUTBOUND_COUNT_MAX) {
            self.violations.push(Violation::Overgrown { node: index, load });
        }
        let Some(ring) = &process.node.view().ring else { return };
        if machine.ring.as_ref().is_some_and(|known| Arc::ptr_eq(known, ring)) {
            return;
        }
        machine.ring = Some(Arc::clone(ring));
        let first = self.rings.entry(process.node.history_digest()).or_insert_with(|| Arc::clone(ring));
        if first != ring {
            self.violations.push(Violation::RingsDiffer { node: index });
        }
    }

    /// How many stores hold the write `op` durably: its value, or something that has seen it.
    pub(crate) fn stores_of_put(&self, machines: &[Machine], key: &Key, op: OpId) -> usize {
        let holds = |object: &Object| self.holds_put(object, op);
        machines.iter().filter(|machine| machine.objects(key).iter().any(holds)).count()
    }

    /// Whether `object` has the write `op`, or has seen it.
    pub(crate) fn holds_put(&self, object: &Object, op: OpId) -> bool {
        object.sibling_of(op).is_some() || self.dots_of(op).any(|dot| object.clock().covers(&dot))
    }

    /// How many stores have durably seen all of `clock`.
    pub(crate) fn stores_of_clock(machines: &[Machine], key: &Key, clock: &VersionVector) -> usize {
        let has_seen = |object: &Object| object.clock().covers_all(clock);
        machines.iter().filter(|machine| machine.objects(key).iter().any(has_seen)).count()
    }

    /// How many stores have durably carried out a delete of all that `clock` covers.
    pub(crate) fn stores_of_delete(machines: &[Machine], key: &Key, clock: &VersionVector) -> usize {
        let has_deleted = |object: &Object| has_deleted(object, clock);
        machines.iter().filter(|machine| machine.objects(key).iter().any(has_deleted)).count()
    }
}

/// Whether all that `clock` covers is deleted in `object`.
pub(crate) fn has_deleted(object: &Object, clock: &VersionVector) -> bool {
    object.clock().covers_all(clock) && object.siblings().iter().all(|sibling| !clock.covers(&sibling.dot))
}

/// The machines of the members of the row of `key`, as the first node that is up knows it.
pub(crate) fn primaries<'a>(cluster: &'a Cluster, key: &Key) -> Vec<&'a Machine> {
    let Some(ring) = first_ring(cluster) else { return Vec::new() };
    let row = ring.row(ring.partition_of(key)).to_vec();
    cluster.machines.iter().filter(|machine| row.contains(&machine.id)).collect()
}

/// The ring of the first node that is up.
pub(crate) fn first_ring(cluster: &Cluster) -> Option<Arc<Ring>> {
    (0..cluster.machines.len()).find_map(|index| cluster.node(index)?.view().ring.clone())
}

/// The first node that had to put a bucket of its tree right, though nobody has damaged one.
pub(crate) fn mended(cluster: &Cluster) -> Option<Violation> {
    (0..cluster.machines.len()).find_map(|node| {
        let count = cluster.node(node)?.counters().buckets_mended;
        (count > 0).then_some(Violation::Mended { node, count })
    })
}

/// The first node that is up and takes another for down that is up.
pub(crate) fn parted(cluster: &Cluster) -> Option<Violation> {
    let serves = |index: &usize| cluster.is_up(*index) && cluster.machines[*index].ended.is_none();
    let up: Vec<usize> = (0..cluster.machines.len()).filter(serves).collect();
    up.iter().find_map(|node| {
        let from = up.iter().copied().find(|from| from != node && !sees(cluster, *node, *from))?;
        Some(Violation::Parted { node: *node, from })
    })
}

/// The first node that is up whose history is not that of the first.
pub(crate) fn histories_differ(cluster: &Cluster) -> Option<Violation> {
    let mut first = None;
    cluster.machines.iter().enumerate().find_map(|(node, machine)| {
        let known = &machine.process.as_ref()?.node;
        let digest = known.history_digest();
        let members = known.view().members.len();
        (*first.get_or_insert(digest) != digest).then_some(Violation::HistoriesDiffer { node, members })
    })
}

/// The first node with a key among its own data in whose row it is not.
pub(crate) fn misplaced(cluster: &Cluster) -> Option<Violation> {
    let ring = first_ring(cluster)?;
    let of_machine = |(node, machine): (usize, &Machine)| {
        if machine.ended == Some(Stop::Removed) {
            return None;
        }
        let is_foreign = |key: &Key| !ring.row(ring.partition_of(key)).contains(&machine.id);
        machine.keys().into_iter().find(is_foreign).map(|key| Violation::Misplaced { node, key })
    };
    cluster.machines.iter().enumerate().find_map(of_machine)
}

/// The first node that still keeps hints.
pub(crate) fn hints_left(cluster: &Cluster) -> Option<Violation> {
    let counts = cluster.machines.iter().map(|machine| (machine.hints().len(), machine.ended)).enumerate();
    let counts = counts.filter(|(_, (_, ended))| *ended != Some(Stop::Removed)).map(|(node, (count, _))| (node, count));
    let mut left = counts.filter(|(_, count)| *count > 0);
    left.next().map(|(node, count)| Violation::HintsLeft { node, count })
}

/// Whether all nodes are up and have one history, with all of them as members who hold what they are to hold.
pub(crate) fn is_settled(cluster: &Cluster) -> bool {
    let is_up = cluster.machines.iter().all(|machine| machine.process.is_some());
    is_up && difference(cluster).is_none() && unsettled_partition(cluster).is_none()
}

/// A partition in which more than its row counts, or a node with something that it need not hold.
pub(crate) fn unsettled_partition(cluster: &Cluster) -> Option<Violation> {
    cluster.machines.iter().enumerate().find_map(|(node, machine)| {
        let process = machine.process.as_ref()?;
        let view = process.node.view();
        let is_unsettled = |it: &Partition| !view.other_rows(*it).is_empty() || !view.configurations.is_settled(*it);
        let found = view.partitions().find(is_unsettled);
        let (to_fill, to_hand_over) = process.node.duty_counts();
        let partition = found.or((to_fill + to_hand_over > 0).then_some(Partition(0)))?;
        Some(Violation::Unsettled { node, partition })
    })
}

/// The first node whose history is not that of the first, or lacks members.
pub(crate) fn difference(cluster: &Cluster) -> Option<Violation> {
    let mut first = None;
    for (index, machine) in cluster.machines.iter().enumerate() {
        let Some(process) = &machine.process else { continue };
        let members = process.node.view().members.len();
        let digest = process.node.history_digest();
        if *first.get_or_insert(digest) != digest || members != cluster.machines.len() {
            return Some(Violation::HistoriesDiffer { node: index, members });
        }
    }
    None
}

/// The first key of which the primaries hold different objects.
pub(crate) fn differing_replicas(cluster: &Cluster) -> Option<Violation> {
    let ring = first_ring(cluster)?;
    for key in all_keys(cluster) {
        let row = ring.row(ring.partition_of(&key));
        let holders = cluster.machines.iter().filter(|machine| !machine.is_lost && row.contains(&machine.id));
        let mut objects = holders.map(|machine| machine.object(&key));
        let first = objects.next()?;
        if objects.any(|object| object != first) {
            return Some(Violation::ReplicasDiffer { key });
        }
    }
    None
}

/// The first bucket of a tree that is not the sum of what lies in it.
pub(crate) fn unsound_tree(cluster: &Cluster) -> Option<Violation> {
    cluster.machines.iter().enumerate().find_map(|(node, machine)| {
        let bucket = machine.unsound_bucket()?;
        Some(Violation::TreeUnsound { node, bucket })
    })
}

/// The first node that has taken another for a liar.
pub(crate) fn accuser(cluster: &Cluster) -> Option<Violation> {
    let offences =
        |machine: &Machine| machine.process.as_ref().map_or(0, |process| process.node.counters().history_offences);
    cluster.machines.iter().position(|machine| offences(machine) > 0).map(|node| Violation::Accused { node })
}

/// The first node that is busy with anything but comparing histories.
pub(crate) fn busy_node(cluster: &Cluster) -> Option<Violation> {
    let busy = |(index, machine): (usize, &Machine)| {
        let load = machine.process.as_ref()?.node.load();
        let [operations, tickets, outbounds] = load;
        let is_idle = operations == 0 && tickets == 0 && outbounds <= cluster.machines.len();
        (!is_idle).then_some(Violation::StillBusy { node: index, load })
    };
    cluster.machines.iter().enumerate().find_map(busy)
}

/// Every key that any store has a record of.
pub(crate) fn all_keys(cluster: &Cluster) -> BTreeSet<Key> {
    cluster.machines.iter().flat_map(Machine::keys).collect()
}

/// Far above what the clients of a run can cause, far below what a leak would.
const TICKET_COUNT_MAX: usize = 500;
/// See [`TICKET_COUNT_MAX`].
const OUTBOUND_COUNT_MAX: usize = 500;
