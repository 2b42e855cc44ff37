//! Writes and reads whose messages take their time, at coordinators who know little.

use std::{collections::BTreeMap, rc::Rc};

use quorate::{
    digest::Digest,
    ident::NodeId,
    quorum::{
        QuorumRules,
        row::Access,
        tally::{Recorded, Tally, Verdict},
    },
    ring::token::Partition,
    wire::client::Scope,
};

use crate::{
    checks::{Violation, Write},
    library::Known,
    world::{World, Writes},
};

/// Most writes of one run: they are numbered by the bits of [`Writes`].
pub(crate) const WRITE_COUNT_MAX: usize = 56;

/// Nobody: what a coordinator has itself it asks itself for, as it asks others.
const NOBODY: NodeId = NodeId([0; 32]);

/// Who coordinates an operation.
#[derive(Clone)]
pub(crate) enum Coordinator {
    Machine(usize),
    /// Somebody that holds nothing and hears nothing beside what the operation brings it.
    Stranger(Rc<Known>),
}

struct Operation {
    access: Access,
    coordinator: Coordinator,
    partition: Partition,
    /// The number of a write.
    number: usize,
    tally: Tally<Writes>,
    /// What was acknowledged before a read began, and whose it may be for.
    must: Writes,
    merged: Vec<Vec<NodeId>>,
}

enum Message {
    Request { operation: u64, to: usize },
    Reply { operation: u64, from: usize, partition: Digest, held: Option<Writes> },
}

/// What is under way between clients and stores.
pub(crate) struct Traffic {
    rules: QuorumRules,
    begun: u64,
    operations: BTreeMap<u64, Operation>,
    messages: Vec<Message>,
    pub(crate) writes: Vec<Write>,
}

impl Traffic {
    pub(crate) fn new(rules: QuorumRules) -> Traffic {
        let (operations, messages, writes) = (BTreeMap::new(), Vec::new(), Vec::new());
        Traffic { rules, begun: 0, operations, messages, writes }
    }

    pub(crate) fn hush(&mut self) {
        self.operations.clear();
        self.messages.clear();
    }

    pub(crate) fn message_count(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn operation_count(&self) -> usize {
        self.operations.len()
    }

    pub(crate) fn give_up_oldest(&mut self) {
        self.operations.pop_first();
    }

    /// A message gets lost.
    pub(crate) fn lose(&mut self, index: usize) {
        self.messages.swap_remove(index);
    }

    /// Those that were acknowledged of `partition`.
    pub(crate) fn acknowledged(&self, partition: Partition) -> Writes {
        let is_one = |(_, write): &(usize, &Write)| write.partition == partition && write.is_acknowledged;
        self.writes.iter().enumerate().filter(is_one).fold(0, |all, (number, _)| all | 1 << number)
    }
}

impl World {
    fn known_to(&self, coordinator: &Coordinator) -> Rc<Known> {
        match coordinator {
            Coordinator::Machine(index) => Rc::clone(&self.places[*index].known),
            Coordinator::Stranger(known) => Rc::clone(known),
        }
    }

    /// An operation begins.
    pub(crate) fn begin(&mut self, access: Access, coordinator: Coordinator, partition: Partition) {
        let known = self.known_to(&coordinator);
        let number = self.traffic.writes.len();
        let Some(row) = self.library.row(&known, partition, access) else { return };
        if access == Access::Write {
            if number >= WRITE_COUNT_MAX {
                return;
            }
            self.traffic.writes.push(Write { partition, is_acknowledged: false, founders: Vec::new() });
        }
        let nodes = row.nodes.clone();
        let tally = Tally::new(row, Scope::Strict, self.traffic.rules);
        let must = self.traffic.acknowledged(partition);
        let merged = self.merged.get(&partition).cloned().unwrap_or_default();
        self.traffic.begun += 1;
        let id = self.traffic.begun;
        self.traffic.operations.insert(id, Operation { access, coordinator, partition, number, tally, must, merged });
        self.ask(id, &nodes);
    }

    fn ask(&mut self, operation: u64, nodes: &[NodeId]) {
        let index_of = |node: &NodeId| self.places.iter().position(|place| place.id == *node);
        let asked = nodes.iter().filter_map(index_of);
        self.traffic.messages.extend(asked.map(|to| Message::Request { operation, to }));
    }

    /// Whom a message would wake, if that is a machine.
    pub(crate) fn receiver(&self, index: usize) -> Option<usize> {
        match &self.traffic.messages[index] {
            Message::Request { to, .. } => Some(*to),
            Message::Reply { operation, .. } => match self.traffic.operations.get(operation)?.coordinator {
                Coordinator::Machine(coordinator) => Some(coordinator),
                Coordinator::Stranger(_) => None,
            },
        }
    }

    /// One message arrives, if whom it is for is up.
    pub(crate) fn deliver(&mut self, index: usize) -> Result<(), Violation> {
        match self.traffic.messages.swap_remove(index) {
            Message::Request { operation, to } => {
                self.answer(operation, to);
                Ok(())
            }
            Message::Reply { operation, from, partition, held } => {
                self.take_reply(operation, from, partition, held);
                self.judge(operation)
            }
        }
    }

    fn answer(&mut self, id: u64, to: usize) {
        let Some(operation) = self.traffic.operations.get(&id).filter(|_| self.is_up(to)) else { return };
        let place = &mut self.places[to];
        if operation.access == Access::Write {
            place.take(operation.partition, 1 << operation.number);
        }
        let held = place.has(operation.partition);
        let partition = place.known.view.partition_digest(operation.partition);
        self.traffic.messages.push(Message::Reply { operation: id, from: to, partition, held });
    }

    fn take_reply(&mut self, id: u64, from: usize, partition: Digest, held: Option<Writes>) {
        let node = self.places[from].id;
        let Some(operation) = self.traffic.operations.get_mut(&id) else { return };
        let recorded = match held {
            Some(writes) => operation.tally.record(&node, partition, writes),
            None if partition == operation.tally.row().partition => {
                operation.tally.fail(&node);
                Recorded::Ignored
            }
            None => operation.tally.record_other(&node),
        };
        if recorded == Recorded::OtherHistory {
            self.reconcile(id, from);
        }
    }

    /// The coordinator and `from` learn what either knows; then `from` is asked again.
    fn reconcile(&mut self, id: u64, from: usize) {
        let coordinator = self.traffic.operations[&id].coordinator.clone();
        let up = self.is_up(from);
        match coordinator {
            Coordinator::Machine(index) if up => self.meet(index, from),
            Coordinator::Stranger(known) if up => {
                self.learn(from, &known);
                let known = Rc::clone(&self.places[from].known);
                if let Some(operation) = self.traffic.operations.get_mut(&id) {
                    operation.coordinator = Coordinator::Stranger(known);
                }
                self.look_at_row(id);
            }
            Coordinator::Machine(_) | Coordinator::Stranger(_) => {}
        }
        let node = self.places[from].id;
        if self.traffic.operations.get_mut(&id).is_some_and(|operation| operation.tally.retry(&node)) {
            self.ask(id, &[node]);
        }
    }

    /// Operations of `index` are judged by what it knows now.
    pub(crate) fn on_coordinator_learned(&mut self, index: usize) {
        let is_its = |(_, operation): &(&u64, &Operation)| matches!(operation.coordinator, Coordinator::Machine(coordinator) if coordinator == index);
        let ids: Vec<u64> = self.traffic.operations.iter().filter(is_its).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.look_at_row(id));
    }

    /// Who is gone answers no client any more.
    pub(crate) fn drop_operations_of(&mut self, index: usize) {
        let is_its = |operation: &Operation| matches!(operation.coordinator, Coordinator::Machine(coordinator) if coordinator == index);
        self.traffic.operations.retain(|_, operation| !is_its(operation));
    }

    fn look_at_row(&mut self, id: u64) {
        let Some(operation) = self.traffic.operations.get(&id) else { return };
        let known = self.known_to(&operation.coordinator);
        let (partition, access) = (operation.partition, operation.access);
        let Some(row) = self.library.row(&known, partition, access) else { return };
        let Some(operation) = self.traffic.operations.get_mut(&id) else { return };
        if row.partition != operation.tally.row().partition {
            let nodes = operation.tally.change_row(row, &NOBODY);
            self.ask(id, &nodes);
        }
    }

    /// An operation ends once its quorum is met, or out of reach.
    fn judge(&mut self, id: u64) -> Result<(), Violation> {
        let Some(operation) = self.traffic.operations.get(&id) else { return Ok(()) };
        match operation.tally.verdict() {
            Verdict::Pending => return Ok(()),
            Verdict::Impossible => {
                self.traffic.operations.remove(&id);
                return Ok(());
            }
            Verdict::Reached => {}
        }
        let Some(operation) = self.traffic.operations.remove(&id) else { return Ok(()) };
        let known = self.known_to(&operation.coordinator);
        match operation.access {
            Access::Write => {
                let write = &mut self.traffic.writes[operation.number];
                write.is_acknowledged = true;
                write.founders.clone_from(&known.founders);
                self.counts.writes += 1;
                Ok(())
            }
            Access::Read => {
                let seen = operation.tally.agreed().fold(0, |seen, (_, writes)| seen | writes);
                self.counts.reads += 1;
                self.check_read(&known, &operation.merged, operation.must, seen)
            }
        }
    }
}
