//! Coordinating a write: from the client's request to the last acknowledgement of a replica or of who stands in.
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
    clock::Now,
    digest::Digest,
    ident::{Key, NodeId},
    limits::DEADLINE_MAX,
    node::{
        Node, Purpose, TicketUse,
        operations::{Asker, OpNumber, Origin, State, Writing, count},
        upkeep::Alarm,
    },
    quorum::{
        put::{PutEffect, PutOp, PutPlan, PutReply},
        row::Access,
    },
    replica::{
        Done, Work,
        values::{Place, WriteRefused},
    },
    store::StoreError,
    wire::{
        client::{ClientResponse, Failure, Stored},
        quorum::Request,
    },
};

impl Node {
    pub(super) fn begin_write(
        &mut self,
        origin: Origin,
        key: Key,
        writing: Writing,
        context: Result<Seen, ContextError>,
        new: Option<NewValue>,
    ) {
        match context {
            Ok(context) => {
                let place = match writing.stands_in_for {
                    Some(target) => Place::Hint(self.hint_for(target, &key)),
                    None => Place::Own,
                };
                let due = Some(origin.due);
                let number = self.begin_operation(origin, key.clone(), writing.consistency, State::Writing(writing));
                let target = writing.stands_in_for;
                self.store_by(due, TicketUse::Write { number, target }, Work::Write { place, key, context, new });
            }
            Err(error) => {
                let failure = Failure::InvalidContext { detail: error.to_string() };
                self.answer_after(origin, ClientResponse::Failed(failure));
            }
        }
    }

    /// The coordinator's own store has carried out its write, or not.
    pub(super) fn on_written(&mut self, now: Now, number: OpNumber, result: Result<Done, StoreError>) {
        let Some(operation) = self.operations.by_number.get(&number) else { return };
        let State::Writing(writing) = operation.state else { return };
        let failure = match result {
            Ok(Done::Written { object, seen }) => {
                let row = self.row_of(&operation.key, Access::Write, writing.consistency);
                let Some(row) = row else { return };
                if operation.asker == Asker::Nobody {
                    self.linger(now, number);
                }
                let Writing { scope, stands_in_for, .. } = writing;
                let plan = PutPlan { scope, hinting: self.config.hinting, object, stands_in_for };
                let op = PutOp::new(self.me, row, plan, self.config.rules.quorum);
                let operation = self.operations.by_number.get_mut(&number).expect("looked up above");
                operation.state = State::Putting { op, seen };
                return self.with_put(now, number, |op, reach| op.start(reach));
            }
            Ok(Done::Refused(refused @ WriteRefused::HintsFull { .. })) => {
                self.counters.hints_refused += 1;
                Failure::Overloaded { detail: refused.to_string() }
            }
            Ok(Done::Refused(refused)) => Failure::TooLarge { detail: refused.to_string() },
            Ok(_) => unreachable!("a write is answered by Written or Refused"),
            Err(error @ StoreError::Busy { .. }) => Failure::Overloaded { detail: error.to_string() },
            Err(error) => Failure::StoreFailed { detail: error.to_string(), maybe_stored: true },
        };
        let Some(operation) = self.end(number) else { return };
        let origin = Origin { asker: operation.asker, due: operation.due, maybe_stored: operation.maybe_stored };
        self.answer_after(origin, ClientResponse::Failed(failure));
    }

    /// The coordinator's own store has made another copy of its write, or not.
    pub(super) fn on_copied_here(
        &mut self,
        now: Now,
        number: OpNumber,
        target: Option<NodeId>,
        result: Result<Done, StoreError>,
    ) {
        let is_merged = matches!(result, Ok(Done::Merged));
        if let Some(target) = target {
            if is_merged {
                self.with_put(now, number, |op, _| {
                    op.on_kept_here(target);
                    Vec::new()
                });
            }
            return;
        }
        let Some(operation) = self.operations.by_number.get(&number) else { return };
        let (me, partition) = (self.me, self.partition_digest(&operation.key));
        self.with_put(now, number, |op, reach| match is_merged {
            true => op.on_merged(&me, partition),
            false => op.on_failed(&me, reach),
        });
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
        let (mut merging, mut keeping) = (Vec::new(), Vec::new());
        for effect in effects {
            match effect {
                PutEffect::Merge(node) => merging.push(node),
                PutEffect::Keep { node, target } => keeping.push((node, target)),
                PutEffect::Reconcile(node) => self.on_other_history(now, node),
                PutEffect::Reply(reply) => self.reply_put(now, number, reply),
            }
        }
        let Some(operation) = self.operations.by_number.get(&number) else { return };
        let State::Putting { op, .. } = &operation.state else { return };
        let has_ended = op.has_ended();
        if !merging.is_empty() || !keeping.is_empty() {
            let (key, object, partition) = (operation.key.clone(), op.object().clone(), op.partition());
            if !op.has_replied() {
                self.alarms.set(Alarm::Slow(number), now.instant + self.config.peer_timeout / WRITE_PATIENCE_PART);
            }
            self.send_copies(now, number, (key, object, partition), merging, keeping);
        }
        if has_ended {
            self.end(number);
        }
    }

    /// Has copies made: `merging` are to merge the object, `keeping` to keep it for others.
    fn send_copies(
        &mut self,
        now: Now,
        number: OpNumber,
        (key, object, partition): (Key, Object, Digest),
        mut merging: Vec<NodeId>,
        keeping: Vec<(NodeId, NodeId)>,
    ) {
        let due = now.instant + self.config.peer_timeout;
        if merging.contains(&self.me) {
            merging.retain(|node| *node != self.me);
            let work = Work::Merge { key: key.clone(), object: object.clone() };
            self.store(TicketUse::CopyHere { number, target: None }, work);
        }
        for (node, target) in keeping {
            let (key, object) = (key.clone(), object.clone());
            if node == self.me {
                let hint = self.hint_for(target, &key);
                let ticket = TicketUse::CopyHere { number, target: Some(target) };
                self.store(ticket, Work::KeepHint { hint, key, object });
            } else {
                let request = Request::KeepHint { target, key, object, partition };
                self.send(now.instant, &[node], Purpose::Operation(number), request, due);
            }
        }
        if !merging.is_empty() {
            let request = Request::Merge { key, object, partition };
            self.send(now.instant, &merging, Purpose::Operation(number), request, due);
        }
    }

    pub(super) fn reply_put(&mut self, now: Now, number: OpNumber, reply: PutReply) {
        let Some(operation) = self.operations.by_number.get(&number) else { return };
        let State::Putting { op, seen } = &operation.state else { return };
        let asker = operation.asker;
        let response = match reply {
            PutReply::Stored { acks, primaries, hinted, degraded } => {
                match self.seal(seen, &operation.key, op.object()) {
                    Ok(context) => {
                        let (acks, primaries) = (count(acks), count(primaries));
                        ClientResponse::Stored(Stored { acks, primaries, hinted, context, degraded })
                    }
                    Err(error) => {
                        ClientResponse::Failed(Failure::StoreFailed { detail: error.to_string(), maybe_stored: true })
                    }
                }
            }
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
        self.alarms.clear(&Alarm::Slow(number));
        self.linger(now, number);
        self.answer(asker, response);
    }

    /// A write that nobody waits for any more goes on until its last replica has answered: one may be silent, and the one
    /// who then stands in for it needs as long again.
    fn linger(&mut self, now: Now, number: OpNumber) {
        self.alarms.set(Alarm::Operation(number), now.instant + 2 * self.config.peer_timeout);
    }

    /// Tells a client what it has `seen` of `key`, first of all the siblings that stand in `object`.
    pub(super) fn seal(&self, seen: &Seen, key: &Key, object: &Object) -> Result<Context, ContextError> {
        let stands = |actor: &Actor| object.siblings().iter().any(|sibling| sibling.dot.actor == *actor);
        Context::seal_most(seen, key, &self.context_key, stands)
    }
}

/// A client waits for so large a part of the time that a replica has, before others keep what silent ones should: a group
/// commit under load must not look like silence, and what is kept in vain is written twice.
const WRITE_PATIENCE_PART: u32 = 4;
