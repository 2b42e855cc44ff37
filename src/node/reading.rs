//! Coordinating a read: from the client's request to the last repair.

use crate::{
    causality::siblings::Object,
    clock::{Instant, Now},
    ident::{Key, NodeId},
    limits::OPERATION_COUNT_MAX,
    membership::liveness::Opinion,
    node::{
        Node, Purpose, TicketUse,
        operations::{Asker, OpNumber, State, count},
        status,
        upkeep::Alarm,
    },
    quorum::get::{GetEffect, GetOp, GetReply},
    replica::{Done, Query, Work},
    store::StoreError,
    wire::{
        client::{ClientResponse, Consistency, Failure, Found, FoundSibling},
        quorum::Request,
    },
};

impl Node {
    #[expect(clippy::too_many_arguments, reason = "the parts of one operation, each used once")]
    pub(super) fn begin_read(
        &mut self,
        now: Now,
        asker: Asker,
        key: Key,
        consistency: Consistency,
        due: Instant,
        mut op: GetOp,
        state: fn(GetOp) -> State,
    ) {
        let liveness = &self.liveness;
        let effects = op.start(|node| liveness.opinion(node, now.instant) != Opinion::Down);
        let number = self.begin_operation(asker, key, consistency, due, state(op));
        self.on_get_effects(now, number, effects);
    }

    /// The coordinator's own store has answered a read, or not.
    pub(super) fn on_read_here(&mut self, now: Now, number: OpNumber, result: Result<Done, StoreError>) {
        let me = self.me;
        let Some(partition) = self.operations.by_number.get(&number).map(|operation| operation.key.clone()) else {
            return;
        };
        let partition = self.partition_digest(&partition);
        let operation = self.operations.by_number.get_mut(&number).expect("looked up above");
        let (State::Getting(op) | State::Inspecting(op)) = &mut operation.state else { return };
        let effects = match result {
            Ok(Done::Object(object)) => op.on_object(&me, object, partition),
            Ok(_) | Err(_) => op.on_failed(&me),
        };
        self.on_get_effects(now, number, effects);
    }

    pub(super) fn on_get_effects(&mut self, now: Now, number: OpNumber, effects: Vec<GetEffect>) {
        let mut targets = Vec::new();
        for effect in effects {
            match effect {
                GetEffect::Read(node) if node == self.me => {
                    let Some(operation) = self.operations.by_number.get(&number) else { continue };
                    let query = Query::Object(operation.key.clone());
                    self.query(TicketUse::Read(number), query);
                }
                GetEffect::Read(node) => targets.push(node),
                GetEffect::Reconcile(node) => self.on_other_history(now, node),
                GetEffect::Reply(reply) => self.reply_get(now, number, reply),
                GetEffect::Repair(repair) => self.repair(now, number, repair.node, repair.object),
            }
        }
        let Some(operation) = self.operations.by_number.get(&number) else { return };
        let (State::Getting(op) | State::Inspecting(op)) = &operation.state else { return };
        if op.has_ended() {
            self.end(number);
            return;
        }
        if !targets.is_empty() {
            let request = Request::Read { key: operation.key.clone(), partition: op.partition() };
            let due = operation.due.min(now.instant + self.config.peer_timeout);
            self.send(&targets, Purpose::Operation(number), request, due);
        }
    }

    pub(super) fn reply_get(&mut self, now: Now, number: OpNumber, reply: GetReply) {
        let Some(operation) = self.operations.by_number.get(&number) else { return };
        let asker = operation.asker;
        let response = match (&operation.state, reply) {
            (State::Inspecting(op), _) => {
                let partition = self.view.ring.as_ref().map(|ring| ring.partition_of(&operation.key));
                status::inspection(partition, op.answers())
            }
            (_, GetReply::Found { object, degraded }) => self.found(now, &operation.key, &object, degraded),
            (_, GetReply::QuorumNotMet { acks, needed }) => ClientResponse::Failed(Failure::QuorumNotMet {
                acks: count(acks),
                needed: count(needed),
                maybe_stored: false,
            }),
            (_, GetReply::TimedOut { acks, needed }) => ClientResponse::Failed(Failure::TimedOut {
                acks: count(acks),
                needed: count(needed),
                maybe_stored: false,
            }),
        };
        self.alarms.set(Alarm::Operation(number), now.instant + self.config.repair_window);
        self.answer(asker, response);
    }

    /// What a client is told of `object`.
    pub(super) fn found(&self, now: Now, key: &Key, object: &Object, degraded: bool) -> ClientResponse {
        let context = self.seal(&object.clock().clone().into(), key, object);
        match context {
            Ok(context) => ClientResponse::Found(Found {
                siblings: object
                    .visible(now.wall)
                    .into_iter()
                    .map(|sibling| FoundSibling { value: sibling.value.clone(), written_at: sibling.written_at })
                    .collect(),
                context,
                degraded,
                local: None,
            }),
            Err(error) => {
                ClientResponse::Failed(Failure::StoreFailed { detail: error.to_string(), maybe_stored: false })
            }
        }
    }

    pub(super) fn repair(&mut self, now: Now, number: OpNumber, node: NodeId, object: Object) {
        let Some(operation) = self.operations.by_number.get(&number) else { return };
        if !self.config.read_repair || matches!(operation.state, State::Inspecting(_)) {
            return;
        }
        if self.operations.len() > OPERATION_COUNT_MAX / 2 {
            self.counters.repairs_shed += 1;
            return;
        }
        self.counters.repaired += 1;
        let key = operation.key.clone();
        if node == self.me {
            self.store(TicketUse::Unwatched, Work::Merge { key, object });
        } else {
            let partition = self.partition_digest(&key);
            let due = now.instant + self.config.peer_timeout;
            self.send(&[node], Purpose::Repair, Request::Merge { key, object, partition }, due);
        }
    }
}
