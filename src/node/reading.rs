//! Coordinating a read: from the client's request to the last repair.

use crate::{
    causality::siblings::Object,
    clock::Now,
    ident::{Key, NodeId},
    limits::OPERATION_COUNT_MAX,
    node::{
        Node, Purpose, TicketUse,
        operations::{OpNumber, Origin, State, count},
        status,
        upkeep::Alarm,
    },
    quorum::{
        get::{Detail, GetEffect, GetReply, Held},
        row::Row,
    },
    replica::{Done, Query, Work},
    store::StoreError,
    wire::{
        client::{ClientResponse, Consistency, Failure, Found, FoundSibling},
        quorum::Request,
    },
};

impl Node {
    pub(super) fn begin_read(&mut self, now: Now, origin: Origin, key: Key, consistency: Consistency, state: State) {
        let number = self.begin_operation(origin, key, consistency, state);
        self.with_get(now, number, |op, reach| op.start(reach));
    }

    /// Who sends a large object: this node if it is in the row, else the replica that usually answers soonest; one in the
    /// same zone if there is one.
    pub(super) fn nearest(&self, now: Now, row: &Row) -> Option<NodeId> {
        if row.nodes.contains(&self.me) {
            return Some(self.me);
        }
        let zone_of = |node: &NodeId| self.view.members.get(node).map(|member| &member.profile.zone);
        let is_elsewhere = |node: &NodeId| zone_of(node) != Some(&self.config.profile.zone);
        let rank = |node: &&NodeId| {
            (self.liveness.opinion(node, now.instant), is_elsewhere(node), self.liveness.distance(node))
        };
        row.nodes.iter().filter(|node| self.is_reachable(now, node)).min_by_key(rank).copied()
    }

    /// The coordinator's own store has answered a read, or not.
    pub(super) fn on_read_here(&mut self, now: Now, number: OpNumber, result: Result<Done, StoreError>) {
        let Some(operation) = self.operations.by_number.get(&number) else { return };
        let (me, partition) = (self.me, self.partition_digest(&operation.key));
        let is_in_doubt = self.partition_of(&operation.key).is_some_and(|it| self.doubt.is_about(it));
        self.with_get(now, number, |op, reach| match result {
            Ok(Done::Object(_) | Done::Known(_)) if is_in_doubt => op.on_unknown(&me, partition, reach),
            Ok(Done::Object(object) | Done::Known(Some(object))) => {
                op.on_held(&me, Held::Object(object), partition, reach)
            }
            Ok(Done::Known(None)) => op.on_unknown(&me, partition, reach),
            Ok(_) | Err(_) => op.on_failed(&me, reach),
        });
    }

    pub(super) fn on_get_effects(&mut self, now: Now, number: OpNumber, effects: Vec<GetEffect>) {
        let (mut whole, mut digest) = (Vec::new(), Vec::new());
        for effect in effects {
            match effect {
                GetEffect::Read { node, .. } if node == self.me => {
                    let Some(operation) = self.operations.by_number.get(&number) else { continue };
                    let due = Some(operation.due);
                    let query = self.query_of(operation.key.clone());
                    self.query_by(due, TicketUse::Read(number), query);
                }
                GetEffect::Read { node, detail: Detail::Whole } => whole.push(node),
                GetEffect::Read { node, detail: Detail::DigestOfLarge } => digest.push(node),
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
        let (key, partition, has_replied) = (operation.key.clone(), op.partition(), op.has_replied());
        let due = operation.due.min(now.instant + self.config.peer_timeout);
        let slowest = whole.iter().chain(&digest).map(|node| self.liveness.usual_time(node)).max();
        if let Some(slowest) = slowest.filter(|_| !has_replied) {
            self.alarms.set(Alarm::Slow(number), now.instant + slowest);
        }
        for (nodes, whole_bytes_max) in [(whole, u32::MAX), (digest, self.config.digest_above_bytes)] {
            let request = Request::Read { key: key.clone(), partition, whole_bytes_max };
            self.send(now.instant, &nodes, Purpose::Operation(number), request, due);
        }
    }

    /// What to ask this node's own store of `key`: its object, or what it knows of it as one who stands in.
    pub(super) fn query_of(&self, key: Key) -> Query {
        match self.partition_of(&key) {
            Some(partition) if !self.view.holds(&self.me, partition) => {
                Query::StandIn { key, targets: self.view.listed(partition) }
            }
            Some(_) | None => Query::Object(key),
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
            (_, GetReply::Unknown { fallbacks }) => {
                let detail = format!(
                    "no replica of this key can be reached; {fallbacks} others were asked, and none of them can know \
                     whether it exists"
                );
                ClientResponse::Failed(Failure::Unavailable { detail })
            }
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
        self.alarms.clear(&Alarm::Slow(number));
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
            self.send(now.instant, &[node], Purpose::Repair, Request::Merge { key, object, partition }, due);
        }
    }
}
