//! What clients ask for: who coordinates it, and the operations under way.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    causality::{
        context::{Context, ContextError},
        seen::Seen,
        siblings::{NewValue, Object},
    },
    clock::{Instant, Now},
    ident::{Key, NodeId},
    limits::{DEADLINE_MAX, OPERATION_COUNT_MAX, SCAN_PAGE_MAX},
    membership::liveness::Opinion,
    node::{
        Node, Purpose, SendFailure, TicketUse,
        effect::{ClientId, Effect, InboundId},
        status,
        upkeep::Alarm,
    },
    quorum::{
        Row,
        get::{GetEffect, GetOp, GetReply},
        put::{PutEffect, PutOp, PutReply},
    },
    replica::{Done, Query, Work},
    store::StoreError,
    wire::{
        client::{ClientRequest, ClientResponse, Consistency, Failure, Found, FoundSibling, ReadFrom, Stored},
        quorum::{Refusal, Request, Response},
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
}

/// The operations under way; at most [`OPERATION_COUNT_MAX`] that still owe an answer.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    by_number: BTreeMap<OpNumber, Operation>,
}

#[derive(Debug)]
struct Operation {
    asker: Asker,
    key: Key,
    consistency: Consistency,
    due: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The coordinator's own store has not committed yet.
    Writing,
    /// The other replicas are being told.
    Putting { op: PutOp, seen: Seen },
    /// The row is being asked.
    Getting(GetOp),
    /// The row is being asked, for a look at each of its replicas.
    Inspecting(GetOp),
    /// Another member coordinates it.
    Forwarded { request: ClientRequest, left: Vec<NodeId>, maybe_stored: bool },
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
    pub(super) fn begin_request(&mut self, now: Now, asker: Asker, request: ClientRequest) {
        if self.operations.len() >= OPERATION_COUNT_MAX {
            self.counters.overloaded += 1;
            let detail = format!("{OPERATION_COUNT_MAX} operations are under way");
            return self.answer(asker, ClientResponse::Failed(Failure::Overloaded { detail }));
        }
        let Some(key) = request.key().cloned() else { return self.begin_keyless(now, asker, request) };
        let Some(row) = self.row_of(&key) else {
            let detail = "it has not found its cluster yet; try again soon, or another node".to_owned();
            return self.answer(asker, ClientResponse::Failed(Failure::Unavailable { detail }));
        };
        let due = now.instant + budget_of(&request);
        if matches!(&request, ClientRequest::Get(get) if get.from == ReadFrom::Local) {
            self.ask_store(asker, key.clone(), due, request, Query::Object(key));
        } else if row.nodes.contains(&self.me) {
            self.coordinate(now, asker, key, row, due, request);
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
            (State::Putting { op, .. }, Ok(Response::Merged { partition })) => {
                let effects = op.on_merged(&from, partition);
                self.on_put_effects(now, number, effects);
            }
            (State::Putting { op, .. }, _) => {
                let effects = op.on_failed(&from);
                self.on_put_effects(now, number, effects);
            }
            (State::Getting(op) | State::Inspecting(op), Ok(Response::Object { object, partition })) => {
                let effects = op.on_object(&from, object, partition);
                self.on_get_effects(now, number, effects);
            }
            (State::Getting(op) | State::Inspecting(op), _) => {
                let effects = op.on_failed(&from);
                self.on_get_effects(now, number, effects);
            }
            (State::Forwarded { .. }, Ok(Response::Forwarded(response))) => {
                self.on_forwarded(now, number, from, response)
            }
            (State::Forwarded { maybe_stored, request, .. }, other) => {
                let refused = matches!(other, Ok(Response::Refused(Refusal::Overloaded | Refusal::NotAMember)));
                let unsent = matches!(other, Err(SendFailure::NotSent));
                *maybe_stored |= request.is_write() && !refused && !unsent;
                self.forward_on(now, number);
            }
            (State::Writing | State::Asking(_), _) => {}
        }
    }

    /// The coordinator's own store has carried out its write, or not.
    pub(super) fn on_written(&mut self, now: Now, number: OpNumber, result: Result<Done, StoreError>) {
        let Some(operation) = self.operations.by_number.get_mut(&number) else { return };
        let failure = match result {
            Ok(Done::Written { object, seen }) => {
                let Some(row) = self.row_of(&self.operations.by_number[&number].key.clone()) else { return };
                let operation = self.operations.by_number.get_mut(&number).expect("looked up above");
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

    /// The store has answered what is the whole answer to a client.
    pub(super) fn on_answer_read(&mut self, now: Now, number: OpNumber, result: Result<Done, StoreError>) {
        let Some(Operation { asker, key, state: State::Asking(request), .. }) = self.end(number) else { return };
        let response = match (result, request) {
            (Ok(Done::Keys(page)), _) => status::keys(page),
            (Ok(Done::Totals { key_count, counts }), _) => ClientResponse::Status(self.status(now, key_count, counts)),
            (Ok(Done::Object(object)), _) => self.local_answer(now, &key, object),
            (Ok(_), _) => unreachable!("a query is answered by what was asked"),
            (Err(error), _) => {
                ClientResponse::Failed(Failure::StoreFailed { detail: error.to_string(), maybe_stored: false })
            }
        };
        self.answer(asker, response);
    }

    /// An operation's time is up.
    pub(super) fn on_operation_due(&mut self, now: Now, number: OpNumber) {
        let Some(operation) = self.operations.by_number.get_mut(&number) else { return };
        match &mut operation.state {
            State::Putting { op, .. } => {
                let effects = op.on_deadline();
                self.on_put_effects(now, number, effects);
                self.end(number);
            }
            State::Getting(op) | State::Inspecting(op) => {
                let effects = op.on_deadline();
                self.on_get_effects(now, number, effects);
                self.end(number);
            }
            State::Writing | State::Asking(_) | State::Forwarded { .. } => {
                let maybe_stored = match &operation.state {
                    State::Writing => true,
                    State::Forwarded { request, .. } => request.is_write(),
                    State::Asking(_) | State::Putting { .. } | State::Getting(_) | State::Inspecting(_) => false,
                };
                let asker = operation.asker;
                self.end(number);
                let failure = Failure::TimedOut { acks: 0, needed: 1, maybe_stored };
                self.answer(asker, ClientResponse::Failed(failure));
            }
        }
    }

    /// This node's history and that of `peer` agree: whoever waits for that asks again.
    pub(super) fn on_histories_agree(&mut self, now: Now, peer: &NodeId) {
        for number in self.numbers() {
            let Some(operation) = self.operations.by_number.get_mut(&number) else { continue };
            match &mut operation.state {
                State::Putting { op, .. } => {
                    let effects = op.on_reconciled(peer);
                    self.on_put_effects(now, number, effects);
                }
                State::Getting(op) | State::Inspecting(op) => {
                    let effects = op.on_reconciled(peer);
                    self.on_get_effects(now, number, effects);
                }
                State::Writing | State::Asking(_) | State::Forwarded { .. } => {}
            }
        }
    }

    /// The view has changed: operations whose partition it says something else of are judged anew.
    pub(super) fn on_view_changed(&mut self, now: Now) {
        for number in self.numbers() {
            let Some(key) = self.operations.by_number.get(&number).map(|operation| operation.key.clone()) else {
                continue;
            };
            let Some(row) = self.row_of(&key) else { continue };
            let operation = self.operations.by_number.get_mut(&number).expect("looked up above");
            let liveness = &self.liveness;
            let is_reachable = |node: &NodeId| liveness.opinion(node, now.instant) != Opinion::Down;
            match &mut operation.state {
                State::Putting { op, .. } if op.partition() != row.partition => {
                    let effects = op.on_row(row, is_reachable);
                    self.on_put_effects(now, number, effects);
                }
                State::Getting(op) | State::Inspecting(op) if op.partition() != row.partition => {
                    let effects = op.on_row(row, is_reachable);
                    self.on_get_effects(now, number, effects);
                }
                _ => {}
            }
        }
    }

    /// The row of `key` under this node's history; nothing before it knows a cluster with a member.
    pub(super) fn row_of(&self, key: &Key) -> Option<Row> {
        let ring = self.view.ring.as_ref()?;
        let nodes = ring.row(ring.partition_of(key)).to_vec();
        if nodes.is_empty() {
            return None;
        }
        Some(Row { nodes, partition: self.partition_digest(key), replicas: ring.replicas() })
    }

    fn numbers(&self) -> Vec<OpNumber> {
        self.operations.by_number.keys().copied().collect()
    }

    fn begin_keyless(&mut self, now: Now, asker: Asker, request: ClientRequest) {
        let due = now.instant + DEADLINE_MAX;
        let nothing = Key::new(b"-").expect("one byte is a key");
        match request {
            ClientRequest::History(summary) => {
                let response = ClientResponse::History(self.changes_since(&summary));
                self.answer(asker, response);
            }
            ClientRequest::Status => self.ask_store(asker, nothing, due, request, Query::Totals),
            ClientRequest::Scan(ref scan) => {
                let limit = usize::from(scan.limit).clamp(1, SCAN_PAGE_MAX);
                let query = Query::Keys { prefix: scan.prefix.clone(), after: scan.after.clone(), limit };
                self.ask_store(asker, nothing, due, request, query);
            }
            ClientRequest::Put(_)
            | ClientRequest::Delete(_)
            | ClientRequest::Get(_)
            | ClientRequest::Inspect { .. } => {
                unreachable!("these have a key")
            }
        }
    }

    fn ask_store(&mut self, asker: Asker, key: Key, due: Instant, request: ClientRequest, query: Query) {
        let number = self.begin_operation(asker, key, Consistency::One, due, State::Asking(request));
        self.query(TicketUse::Answer(number), query);
    }

    fn coordinate(&mut self, now: Now, asker: Asker, key: Key, row: Row, due: Instant, request: ClientRequest) {
        self.counters.coordinated += 1;
        match request {
            ClientRequest::Put(put) => {
                let expires_at = put.ttl_ms.map(|ttl| now.wall + Duration::from_millis(ttl));
                let new = NewValue { op: put.op, value: put.value, written_at: now.wall, expires_at };
                let context = put.context.as_ref().map(|context| context.open(&key, &self.context_key)).transpose();
                self.begin_write(asker, key, put.w, due, context.map(Option::unwrap_or_default), Some(new));
            }
            ClientRequest::Delete(delete) => {
                let context = delete.context.open(&key, &self.context_key);
                self.begin_write(asker, key, delete.w, due, context, None);
            }
            ClientRequest::Get(get) => {
                let consistency = match get.from {
                    ReadFrom::Row(consistency) => consistency,
                    ReadFrom::Local => Consistency::One,
                };
                let op = GetOp::new(self.me, row, consistency);
                self.begin_read(now, asker, key, consistency, due, op, State::Getting);
            }
            ClientRequest::Inspect { .. } => {
                let op = GetOp::new(self.me, row, Consistency::All);
                self.begin_read(now, asker, key, Consistency::All, due, op, State::Inspecting);
            }
            ClientRequest::Scan(_) | ClientRequest::History(_) | ClientRequest::Status => {
                unreachable!("these have no key")
            }
        }
    }

    fn begin_write(
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

    #[expect(clippy::too_many_arguments, reason = "the parts of one operation, each used once")]
    fn begin_read(
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

    fn begin_operation(
        &mut self,
        asker: Asker,
        key: Key,
        consistency: Consistency,
        due: Instant,
        state: State,
    ) -> OpNumber {
        let number = OpNumber(self.number());
        self.alarms.set(Alarm::Operation(number), due);
        self.operations.by_number.insert(number, Operation { asker, key, consistency, due, state });
        number
    }

    fn end(&mut self, number: OpNumber) -> Option<Operation> {
        self.alarms.clear(&Alarm::Operation(number));
        self.operations.by_number.remove(&number)
    }

    /// Passes a request to the first reachable member of the row. One that came from a member is not passed on again:
    /// the two see different rows, and the sender learns so.
    fn forward(&mut self, now: Now, asker: Asker, key: Key, row: Row, due: Instant, request: ClientRequest) {
        if matches!(asker, Asker::Peer(_)) {
            let detail = "it is not in the row of this key".to_owned();
            return self.answer(asker, ClientResponse::Failed(Failure::Unavailable { detail }));
        }
        self.counters.forwarded += 1;
        let is_up = |node: &NodeId| self.liveness.opinion(node, now.instant) != Opinion::Down;
        let mut left: Vec<NodeId> = row.nodes.into_iter().filter(is_up).collect();
        left.reverse();
        let state = State::Forwarded { request, left, maybe_stored: false };
        let number = self.begin_operation(asker, key, Consistency::One, due, state);
        self.forward_on(now, number);
    }

    /// Tries the next member of the row, with the same operation id: a second copy would be folded when read.
    fn forward_on(&mut self, now: Now, number: OpNumber) {
        let Some(operation) = self.operations.by_number.get_mut(&number) else { return };
        let State::Forwarded { request, left, maybe_stored } = &mut operation.state else { return };
        let remaining = operation.due - now.instant;
        match left.pop() {
            Some(node) if !remaining.is_zero() => {
                // A coordinator waits for its own peers first; one that is mute must leave time for the next.
                let patience = remaining.min(2 * self.config.peer_timeout);
                let request = with_budget(request.clone(), patience);
                let due = now.instant + patience;
                self.send(&[node], Purpose::Operation(number), Request::Forward(request), due);
            }
            Some(_) | None => {
                let failure = Failure::QuorumNotMet { acks: 0, needed: 1, maybe_stored: *maybe_stored };
                let asker = operation.asker;
                self.end(number);
                self.answer(asker, ClientResponse::Failed(failure));
            }
        }
    }

    fn on_forwarded(&mut self, now: Now, number: OpNumber, from: NodeId, response: ClientResponse) {
        if matches!(response, ClientResponse::Failed(Failure::Unavailable { .. })) {
            self.reconcile_with(now, from);
            return self.forward_on(now, number);
        }
        let Some(Operation { asker, state: State::Forwarded { maybe_stored, .. }, .. }) = self.end(number) else {
            return;
        };
        let response = match response {
            // What an earlier coordinator may have done is not undone by the refusal of a later one.
            ClientResponse::Failed(failure) if maybe_stored && !failure.maybe_stored() => {
                ClientResponse::Failed(Failure::QuorumNotMet { acks: 0, needed: 1, maybe_stored })
            }
            other => other,
        };
        self.answer(asker, response);
    }

    fn on_put_effects(&mut self, now: Now, number: OpNumber, effects: Vec<PutEffect>) {
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
            let due = operation.due.min(now.instant + self.config.peer_timeout);
            self.send(&targets, Purpose::Operation(number), request, due);
        }
    }

    fn reply_put(&mut self, number: OpNumber, reply: PutReply) {
        let Some(operation) = self.operations.by_number.get(&number) else { return };
        let State::Putting { seen, .. } = &operation.state else { return };
        let asker = operation.asker;
        let response = match reply {
            PutReply::Stored { acks, degraded } => match Context::seal(seen, &operation.key, &self.context_key) {
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
        self.answer(asker, response);
    }

    fn on_get_effects(&mut self, now: Now, number: OpNumber, effects: Vec<GetEffect>) {
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

    fn reply_get(&mut self, now: Now, number: OpNumber, reply: GetReply) {
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
        let context = Context::seal(&object.clock().clone().into(), key, &self.context_key);
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

    fn repair(&mut self, now: Now, number: OpNumber, node: NodeId, object: Object) {
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

    fn on_other_history(&mut self, now: Now, node: NodeId) {
        self.counters.other_history += 1;
        self.reconcile_with(now, node);
    }

    fn answer(&mut self, asker: Asker, response: ClientResponse) {
        self.effects.push_back(match asker {
            Asker::Client(client) => Effect::Reply { client, response },
            Asker::Peer(inbound) => Effect::Respond { inbound, response: Response::Forwarded(response) },
        });
    }
}

fn budget_of(request: &ClientRequest) -> Duration {
    let budget_ms = match request {
        ClientRequest::Put(put) => put.budget_ms,
        ClientRequest::Delete(delete) => delete.budget_ms,
        ClientRequest::Get(get) => get.budget_ms,
        ClientRequest::Inspect { budget_ms, .. } => *budget_ms,
        ClientRequest::Scan(_) | ClientRequest::History(_) | ClientRequest::Status => return DEADLINE_MAX,
    };
    Duration::from_millis(budget_ms.into()).min(DEADLINE_MAX)
}

/// The same request, with what is left of its time.
fn with_budget(mut request: ClientRequest, left: Duration) -> ClientRequest {
    let left_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
    match &mut request {
        ClientRequest::Put(put) => put.budget_ms = left_ms,
        ClientRequest::Delete(delete) => delete.budget_ms = left_ms,
        ClientRequest::Get(get) => get.budget_ms = left_ms,
        ClientRequest::Inspect { budget_ms, .. } => *budget_ms = left_ms,
        ClientRequest::Scan(_) | ClientRequest::History(_) | ClientRequest::Status => {}
    }
    request
}

fn count(replicas: usize) -> u8 {
    u8::try_from(replicas).expect("a row has at most 16 members")
}
