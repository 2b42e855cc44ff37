//! Coordinating a write: from the client's request to the last replica's acknowledgement.
//!
//! What this node has stored, or is about to store, is sent to the rest of the row even when the client's time is over:
//! the client is told that nobody knows, and the operation goes on for a bounded time without it.

use crate::{
    causality::{
        context::{Context, ContextError},
        dot::Actor,
        seen::Seen,
        siblings::{NewValue, Object},
    },
    clock::{Instant, Now},
    ident::Key,
    limits::DEADLINE_MAX,
    membership::liveness::Opinion,
    node::{
        Node, Purpose, TicketUse,
        operations::{Asker, OpNumber, State, count},
        upkeep::Alarm,
    },
    quorum::put::{PutEffect, PutOp, PutReply},
    replica::{Done, Work},
    store::StoreError,
    wire::{
        client::{ClientResponse, Consistency, Failure, Stored},
        quorum::Request,
    },
};

impl Node {
    pub(super) fn begin_write(
        &mut self,
        asker: Asker,
        key: Key,
        w: Consistency,
        due: Instant,
        context: Result<Seen, ContextError>,
        new: Option<NewValue>,
    ) {
        match context {
            Ok(context) => {
                let number = self.begin_operation(asker, key.clone(), w, due, State::Writing);
                self.store(TicketUse::Write(number), Work::Write { key, context, new });
            }
            Err(error) => {
                let failure = Failure::InvalidContext { detail: error.to_string() };
                self.answer(asker, ClientResponse::Failed(failure));
            }
        }
    }

    /// The coordinator's own store has carried out its write, or not.
    pub(super) fn on_written(&mut self, now: Now, number: OpNumber, result: Result<Done, StoreError>) {
        let Some(operation) = self.operations.by_number.get_mut(&number) else { return };
        let failure = match result {
            Ok(Done::Written { object, seen }) => {
                let Some(row) = self.row_of(&self.operations.by_number[&number].key.clone()) else { return };
                let operation = self.operations.by_number.get_mut(&number).expect("looked up above");
                if operation.asker == Asker::Nobody {
                    self.alarms.set(Alarm::Operation(number), now.instant + self.config.peer_timeout);
                }
                let mut op = PutOp::new(self.me, row, operation.consistency, object);
                let liveness = &self.liveness;
                let effects = op.start(|node| liveness.opinion(node, now.instant) != Opinion::Down);
                operation.state = State::Putting { op, seen };
                return self.on_put_effects(now, number, effects);
            }
            Ok(Done::Refused(refused)) => Failure::TooLarge { detail: refused.to_string() },
            Ok(_) => unreachable!("a write is answered by Written or Refused"),
            Err(error) => Failure::StoreFailed { detail: error.to_string(), maybe_stored: true },
        };
        let asker = operation.asker;
        self.end(number);
        self.answer(asker, ClientResponse::Failed(failure));
    }

    /// The client's time is up, or that of a write which goes on without its client.
    pub(super) fn on_write_due(&mut self, now: Now, number: OpNumber) {
        let Some(operation) = self.operations.by_number.get_mut(&number) else { return };
        if operation.asker == Asker::Nobody {
            self.end(number);
            return;
        }
        match &mut operation.state {
            State::Putting { op, .. } => {
                let effects = op.on_deadline();
                self.alarms.set(Alarm::Operation(number), now.instant + self.config.peer_timeout);
                self.on_put_effects(now, number, effects);
            }
            _ => {
                let asker = std::mem::replace(&mut operation.asker, Asker::Nobody);
                self.alarms.set(Alarm::Operation(number), now.instant + DEADLINE_MAX);
                let failure = Failure::TimedOut { acks: 0, needed: 1, maybe_stored: true };
                self.answer(asker, ClientResponse::Failed(failure));
            }
        }
    }

    pub(super) fn on_put_effects(&mut self, now: Now, number: OpNumber, effects: Vec<PutEffect>) {
        let mut targets = Vec::new();
        for effect in effects {
            match effect {
                PutEffect::Merge(node) => targets.push(node),
                PutEffect::Reconcile(node) => self.on_other_history(now, node),
                PutEffect::Reply(reply) => self.reply_put(number, reply),
            }
        }
        let Some(operation) = self.operations.by_number.get(&number) else { return };
        let State::Putting { op, .. } = &operation.state else { return };
        if op.has_ended() {
            self.end(number);
            return;
        }
        if !targets.is_empty() {
            let (key, object) = (operation.key.clone(), op.object().clone());
            let request = Request::Merge { key, object, partition: op.partition() };
            let due = now.instant + self.config.peer_timeout;
            self.send(&targets, Purpose::Operation(number), request, due);
        }
    }

    pub(super) fn reply_put(&mut self, number: OpNumber, reply: PutReply) {
        let Some(operation) = self.operations.by_number.get(&number) else { return };
        let State::Putting { op, seen } = &operation.state else { return };
        let asker = operation.asker;
        let response = match reply {
            PutReply::Stored { acks, degraded } => match self.seal(seen, &operation.key, op.object()) {
                Ok(context) => ClientResponse::Stored(Stored {
                    acks: count(acks),
                    primaries: count(acks),
                    hinted: Vec::new(),
                    context,
                    degraded,
                }),
                Err(error) => {
                    ClientResponse::Failed(Failure::StoreFailed { detail: error.to_string(), maybe_stored: true })
                }
            },
            PutReply::QuorumNotMet { acks, needed } => ClientResponse::Failed(Failure::QuorumNotMet {
                acks: count(acks),
                needed: count(needed),
                maybe_stored: true,
            }),
            PutReply::TimedOut { acks, needed } => ClientResponse::Failed(Failure::TimedOut {
                acks: count(acks),
                needed: count(needed),
                maybe_stored: true,
            }),
        };
        if let Some(operation) = self.operations.by_number.get_mut(&number) {
            operation.asker = Asker::Nobody;
        }
        self.answer(asker, response);
    }

    /// Tells a client what it has `seen` of `key`, first of all the siblings that stand in `object`.
    pub(super) fn seal(&self, seen: &Seen, key: &Key, object: &Object) -> Result<Context, ContextError> {
        let stands = |actor: &Actor| object.siblings().iter().any(|sibling| sibling.dot.actor == *actor);
        Context::seal_most(seen, key, &self.context_key, stands)
    }
}
