//! What clients ask for: who coordinates it, and the operations under way.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    causality::{seen::Seen, siblings::NewValue},
    clock::{Instant, Now},
    ident::{Key, NodeId},
    limits::{DEADLINE_MAX, OPERATION_COUNT_MAX},
    membership::liveness::Opinion,
    node::{
        Node, SendFailure,
        effect::{ClientId, Effect, InboundId},
        upkeep::Alarm,
    },
    quorum::{
        get::{GetEffect, GetOp, GetPlan, Held},
        put::{Hinting, PutEffect, PutOp},
        row::{Access, Row},
    },
    replica::Query,
    wire::{
        client::{ClientRequest, ClientResponse, Consistency, Failure, Get, ReadFrom, Scope},
        keyed::Keyed,
        quorum::{Refusal, Response},
    },
};

/// One operation under way. Never used twice by a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct OpNumber(pub(crate) u64);

/// Who waits for the answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Asker {
    /// A client of this node.
    Client(ClientId),
    /// A member, for a client of its own.
    Peer(InboundId),
    /// Nobody any more: the answer has been given, and the operation goes on for the sake of the replicas.
    Nobody,
}

/// Whose operation it is, and what is known of it before it begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) asker: Asker,
    pub(crate) due: Instant,
    /// Another coordinator may have carried it out.
    pub(crate) maybe_stored: bool,
}

/// The operations under way; at most [`OPERATION_COUNT_MAX`] that still owe an answer.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    pub(super) by_number: BTreeMap<OpNumber, Operation>,
}

#[derive(Debug)]
pub(super) struct Operation {
    pub(super) asker: Asker,
    pub(super) key: Key,
    pub(super) due: Instant,
    /// Another coordinator may have carried it out before.
    pub(super) maybe_stored: bool,
    /// How many must answer.
    pub(super) consistency: Consistency,
    pub(super) state: State,
}

/// A write whose own copy is not committed yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writing {
    pub(super) consistency: Consistency,
    pub(super) scope: Scope,
    /// This node is no replica of the key, and keeps its own copy as a hint for this primary.
    pub(super) stands_in_for: Option<NodeId>,
}

#[derive(Debug)]
pub(super) enum State {
    /// The coordinator's own store has not committed yet.
    Writing(Writing),
    /// The other replicas are being told.
    Putting { op: PutOp, seen: Seen },
    /// The row is being asked.
    Getting(GetOp),
    /// The row is being asked, for a look at each of its replicas.
    Inspecting(GetOp),
    /// Another member coordinates it.
    Forwarded { request: ClientRequest, left: Vec<NodeId> },
    /// The store is asked, and its answer is the whole answer.
    Asking(ClientRequest),
}

impl Operations {
    pub(crate) fn len(&self) -> usize {
        self.by_number.len()
    }
}

impl Node {
    /// Takes a client's request: serves it, coordinates it, forwards it or refuses it.
    pub(super) fn begin_request(&mut self, now: Now, asker: Asker, mut request: ClientRequest) {
        if self.operations.len() >= OPERATION_COUNT_MAX {
            self.counters.overloaded += 1;
            let detail = format!("{OPERATION_COUNT_MAX} operations are under way");
            return self.answer(asker, ClientResponse::Failed(Failure::Overloaded { detail }));
        }
        let Some(key) = request.key().cloned() else { return self.begin_keyless(now, asker, request) };
        if self.stopping.is_some() {
            let detail = "it is no member of the cluster any more; ask another node".to_owned();
            return self.answer(asker, ClientResponse::Failed(Failure::Unavailable { detail }));
        }
        let (access, consistency) = asked_of(&request);
        let Some(row) = self.row_of(&key, access, consistency) else {
            let detail = "it has not found its cluster yet; try again soon, or another node".to_owned();
            return self.answer(asker, ClientResponse::Failed(Failure::Unavailable { detail }));
        };
        if self.is_too_early(now, &row, &request) {
            let detail =
                "it has just started and has not reached the others yet; try again soon, or another node".into();
            return self.answer(asker, ClientResponse::Failed(Failure::Unavailable { detail }));
        }
        let due = now.instant + budget_of(&mut request);
        if matches!(&request, ClientRequest::Get(get) if get.from == ReadFrom::Local) {
            self.ask_store(asker, key.clone(), due, request, Query::Object(key));
        } else if row.nodes.contains(&self.me) && self.may_coordinate(asker, &request) {
            self.coordinate(now, Origin { asker, due, maybe_stored: false }, key, row, request);
        } else if matches!(asker, Asker::Peer(_)) {
            // Not passed on a second time: the two believe different members to be down, or see different rows.
            self.coordinate_from_outside(now, Origin { asker, due, maybe_stored: false }, key, row, request);
        } else {
            self.forward(now, asker, key, row, due, request);
        }
    }

    /// A replica's answer to something an operation had asked, or none.
    pub(super) fn on_operation_response(
        &mut self,
        now: Now,
        number: OpNumber,
        from: NodeId,
        result: Result<Response, SendFailure>,
    ) {
        let Some(operation) = self.operations.by_number.get_mut(&number) else { return };
        match (&mut operation.state, result) {
            (State::Putting { .. }, Ok(Response::Merged { partition })) => {
                self.with_put(now, number, |op, _| op.on_merged(&from, partition));
            }
            (State::Putting { .. }, Ok(Response::Unknown { partition })) => {
                self.with_put(now, number, |op, reach| op.on_not_held(&from, partition, reach));
            }
            (State::Putting { .. }, Ok(Response::Refused(Refusal::NotAMember))) => {
                self.with_put(now, number, |op, _| op.on_other_history(&from));
            }
            (State::Putting { .. }, _) => self.with_put(now, number, |op, reach| op.on_failed(&from, reach)),
            (State::Getting(_) | State::Inspecting(_), Ok(Response::Object { object, partition })) => {
                let held = Held::Object(object);
                self.with_get(now, number, |op, reach| op.on_held(&from, held, partition, reach));
            }
            (State::Getting(_) | State::Inspecting(_), Ok(Response::Digest { digest, partition })) => {
                let held = Held::Digest(digest);
                self.with_get(now, number, |op, reach| op.on_held(&from, held, partition, reach));
            }
            (State::Getting(_) | State::Inspecting(_), Ok(Response::Unknown { partition })) => {
                self.with_get(now, number, |op, reach| op.on_unknown(&from, partition, reach));
            }
            (State::Getting(_) | State::Inspecting(_), Ok(Response::Refused(Refusal::NotAMember))) => {
                self.with_get(now, number, |op, _| op.on_other_history(&from));
            }
            (State::Getting(_) | State::Inspecting(_), _) => {
                self.with_get(now, number, |op, reach| op.on_failed(&from, reach));
            }
            (State::Forwarded { .. }, Ok(Response::Forwarded(response))) => {
                self.on_forwarded(now, number, from, response)
            }
            (State::Forwarded { request, .. }, other) => {
                let refused = matches!(other, Ok(Response::Refused(Refusal::Overloaded | Refusal::NotAMember)));
                let unsent = matches!(other, Err(SendFailure::NotSent));
                operation.maybe_stored |= request.is_write() && !refused && !unsent;
                self.forward_on(now, number);
            }
            (State::Writing(_) | State::Asking(_), _) => {}
        }
    }

    /// Lets a write go on, and carries out what follows. It is told whom this node believes to be reachable.
    pub(super) fn with_put(
        &mut self,
        now: Now,
        number: OpNumber,
        step: impl FnOnce(&mut PutOp, &dyn Fn(&NodeId) -> bool) -> Vec<PutEffect>,
    ) {
        let liveness = &self.liveness;
        let is_reachable = |node: &NodeId| liveness.opinion(node, now.instant) != Opinion::Down;
        let Some(operation) = self.operations.by_number.get_mut(&number) else { return };
        let State::Putting { op, .. } = &mut operation.state else { return };
        let effects = step(op, &is_reachable);
        self.on_put_effects(now, number, effects);
    }

    /// Lets a read go on, and carries out what follows. It is told whom this node believes to be reachable.
    pub(super) fn with_get(
        &mut self,
        now: Now,
        number: OpNumber,
        step: impl FnOnce(&mut GetOp, &dyn Fn(&NodeId) -> bool) -> Vec<GetEffect>,
    ) {
        let liveness = &self.liveness;
        let is_reachable = |node: &NodeId| liveness.opinion(node, now.instant) != Opinion::Down;
        let Some(operation) = self.operations.by_number.get_mut(&number) else { return };
        let (State::Getting(op) | State::Inspecting(op)) = &mut operation.state else { return };
        let effects = step(op, &is_reachable);
        self.on_get_effects(now, number, effects);
    }

    /// An operation's time is up.
    pub(super) fn on_operation_due(&mut self, now: Now, number: OpNumber) {
        let Some(operation) = self.operations.by_number.get(&number) else { return };
        match &operation.state {
            State::Writing(_) | State::Putting { .. } => self.on_write_due(now, number),
            State::Getting(_) | State::Inspecting(_) => {
                self.with_get(now, number, |op, _| op.on_deadline());
                self.end(number);
            }
            State::Asking(_) | State::Forwarded { .. } => {
                let is_write = matches!(&operation.state, State::Forwarded { request, .. } if request.is_write());
                let maybe_stored = is_write || operation.maybe_stored;
                let asker = operation.asker;
                self.end(number);
                let failure = Failure::TimedOut { acks: 0, needed: 1, maybe_stored };
                self.answer(asker, ClientResponse::Failed(failure));
            }
        }
    }

    /// Somebody takes longer than usual to answer.
    pub(super) fn on_operation_slow(&mut self, now: Now, number: OpNumber) {
        if self.operations.len() > OPERATION_COUNT_MAX / 2 {
            // Under load everybody is slow, and more requests make it worse.
            return;
        }
        let mut asked = 0;
        self.with_get(now, number, |op, reach| {
            let effects = op.on_slow(reach);
            asked = effects.len() as u64;
            effects
        });
        self.counters.reads_hedged += asked;
        asked = 0;
        self.with_put(now, number, |op, reach| {
            let effects = op.on_slow(reach);
            asked = effects.len() as u64;
            effects
        });
        self.counters.writes_hedged += asked;
    }

    /// This node's history and that of `peer` agree: whoever waits for that asks again.
    pub(super) fn on_histories_agree(&mut self, now: Now, peer: &NodeId) {
        for number in self.numbers() {
            self.with_put(now, number, |op, reach| op.on_reconciled(peer, reach));
            self.with_get(now, number, |op, reach| op.on_reconciled(peer, reach));
        }
    }

    /// The view has changed: operations whose partition it says something else of are judged anew.
    pub(super) fn on_view_changed(&mut self, now: Now) {
        for number in self.numbers() {
            let Some(operation) = self.operations.by_number.get(&number) else { continue };
            let access = match &operation.state {
                State::Putting { .. } | State::Inspecting(_) => Access::Write,
                State::Getting(_) => Access::Read,
                State::Writing(_) | State::Asking(_) | State::Forwarded { .. } => continue,
            };
            let Some(row) = self.row_of(&operation.key, access, operation.consistency) else { continue };
            let is_other = match &operation.state {
                State::Putting { op, .. } => op.partition() != row.partition,
                State::Getting(op) | State::Inspecting(op) => op.partition() != row.partition,
                State::Writing(_) | State::Asking(_) | State::Forwarded { .. } => false,
            };
            if is_other {
                let again = row.clone();
                self.with_put(now, number, |op, reach| op.on_row(row, reach));
                self.with_get(now, number, |op, reach| op.on_row(again, reach));
            }
        }
    }

    /// Whom an operation on `key` must hear from under this node's history; nothing before it knows a cluster with a member.
    pub(super) fn row_of(&self, key: &Key, access: Access, consistency: Consistency) -> Option<Row> {
        let partition = self.partition_of(key)?;
        let here = self.config.profile.zone.as_ref();
        Row::new(partition, access, consistency, here, &self.view, self.config.rules.quorum)
    }

    fn numbers(&self) -> Vec<OpNumber> {
        self.operations.by_number.keys().copied().collect()
    }

    /// A node whose store takes no writes lets others coordinate them, while there are others. What was passed on to it is
    /// tried here all the same: that it is refused tells the sender to go on.
    fn may_coordinate(&self, asker: Asker, request: &ClientRequest) -> bool {
        matches!(asker, Asker::Peer(_)) || !request.is_write() || self.records.store_failure().is_none()
    }

    /// Coordinates as a member of the row.
    pub(super) fn coordinate(&mut self, now: Now, origin: Origin, key: Key, row: Row, request: ClientRequest) {
        self.coordinate_at(now, origin, key, row, request, None);
    }

    /// Coordinates though it is not in the row: a read takes no replica, and a write is kept as a hint for a primary that
    /// cannot be reached. Under a strict quorum a hint would count for nothing.
    pub(super) fn coordinate_from_outside(
        &mut self,
        now: Now,
        origin: Origin,
        key: Key,
        row: Row,
        request: ClientRequest,
    ) {
        let is_sloppy = self.scope_of(&request) == Scope::Sloppy && self.config.hinting == Hinting::On;
        if request.is_write() && !is_sloppy {
            let detail = "it is not in the row of this key, and keeps nothing for those who are".to_owned();
            return self.answer_after(origin, ClientResponse::Failed(Failure::Unavailable { detail }));
        }
        let lost = row.nodes.iter().find(|node| !self.is_reachable(now, node));
        let target = lost.or(row.nodes.last()).copied();
        self.coordinate_at(now, origin, key, row, request, target);
    }

    fn coordinate_at(
        &mut self,
        now: Now,
        origin: Origin,
        key: Key,
        row: Row,
        request: ClientRequest,
        stands_in_for: Option<NodeId>,
    ) {
        self.counters.coordinated += 1;
        let (_, consistency) = asked_of(&request);
        let scope = self.scope_of(&request);
        match request.keyed().expect("only what has a key is coordinated") {
            Keyed::Put(put) => {
                let expires_at = put.ttl_ms.map(|ttl| now.wall + Duration::from_millis(ttl));
                let new = NewValue { op: put.op, value: put.value.clone(), written_at: now.wall, expires_at };
                let context = put.context.as_ref().map(|context| context.open(&key, &self.context_key)).transpose();
                let writing = Writing { consistency, scope, stands_in_for };
                self.begin_write(origin, key, writing, context.map(Option::unwrap_or_default), Some(new));
            }
            Keyed::Delete(delete) => {
                let context = delete.context.open(&key, &self.context_key);
                let writing = Writing { consistency, scope, stands_in_for };
                self.begin_write(origin, key, writing, context, None);
            }
            Keyed::Get(_) => {
                let plan = GetPlan { scope, nearest: self.nearest(now, &row) };
                let op = GetOp::new(self.me, row, plan, self.config.rules.quorum);
                self.begin_read(now, origin, key, consistency, State::Getting(op));
            }
            Keyed::Inspect(_) => {
                let plan = GetPlan { scope: Scope::Strict, nearest: None };
                let op = GetOp::new(self.me, row, plan, self.config.rules.quorum);
                self.begin_read(now, origin, key, consistency, State::Inspecting(op));
            }
        }
    }

    /// Whose copies and answers count for `request`.
    pub(super) fn scope_of(&self, request: &ClientRequest) -> Scope {
        let asked = match request.keyed() {
            Some(Keyed::Put(put)) => put.scope,
            Some(Keyed::Delete(delete)) => delete.scope,
            Some(Keyed::Get(get)) => get.scope,
            Some(Keyed::Inspect(_)) | None => Scope::Strict,
        };
        if self.config.scope == Scope::Strict { Scope::Strict } else { asked }
    }

    pub(super) fn begin_operation(
        &mut self,
        origin: Origin,
        key: Key,
        consistency: Consistency,
        state: State,
    ) -> OpNumber {
        let number = OpNumber(self.number());
        let Origin { asker, due, maybe_stored } = origin;
        self.alarms.set(Alarm::Operation(number), due);
        let operation = Operation { asker, key, due, maybe_stored, consistency, state };
        self.operations.by_number.insert(number, operation);
        number
    }

    pub(super) fn end(&mut self, number: OpNumber) -> Option<Operation> {
        self.alarms.clear(&Alarm::Operation(number));
        self.alarms.clear(&Alarm::Slow(number));
        self.operations.by_number.remove(&number)
    }

    pub(super) fn on_other_history(&mut self, now: Now, node: NodeId) {
        self.counters.other_history += 1;
        self.reconcile_with(now, node);
    }

    /// Answers what another coordinator may have carried out before: that is not undone by the refusal of a later one.
    pub(super) fn answer_after(&mut self, origin: Origin, response: ClientResponse) {
        let response = match response {
            ClientResponse::Failed(failure) if origin.maybe_stored && !failure.maybe_stored() => {
                ClientResponse::Failed(Failure::QuorumNotMet { acks: 0, needed: 1, maybe_stored: true })
            }
            other => other,
        };
        self.answer(origin.asker, response);
    }

    pub(super) fn answer(&mut self, asker: Asker, response: ClientResponse) {
        match asker {
            Asker::Client(client) => self.effects.push_back(Effect::Reply { client, response }),
            Asker::Peer(inbound) => self.respond(inbound, Response::Forwarded(response)),
            Asker::Nobody => {}
        }
    }
}

/// What a request with a key does, and how many must answer it.
pub(super) fn asked_of(request: &ClientRequest) -> (Access, Consistency) {
    match request.keyed().expect("only what has a key is asked of a row") {
        Keyed::Put(put) => (Access::Write, put.w),
        Keyed::Delete(delete) => (Access::Write, delete.w),
        Keyed::Get(Get { from: ReadFrom::Row(consistency), .. }) => (Access::Read, *consistency),
        Keyed::Get(_) => (Access::Read, Consistency::One),
        Keyed::Inspect(_) => (Access::Write, Consistency::All),
    }
}

fn budget_of(request: &mut ClientRequest) -> Duration {
    let budget = request.budget_ms_mut().map(|budget_ms| Duration::from_millis(u64::from(*budget_ms)));
    budget.unwrap_or(DEADLINE_MAX).min(DEADLINE_MAX)
}

pub(super) fn count(replicas: usize) -> u8 {
    u8::try_from(replicas).expect("a row has at most 16 members")
}
