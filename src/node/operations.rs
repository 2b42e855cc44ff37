//! What clients ask for: who coordinates it, and the operations under way.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    causality::{seen::Seen, siblings::NewValue},
    clock::{Instant, Now},
    ident::{Key, NodeId},
    limits::{DEADLINE_MAX, OPERATION_COUNT_MAX, SCAN_PAGE_MAX},
    membership::liveness::Opinion,
    node::{
        Node, SendFailure, TicketUse,
        effect::{ClientId, Effect, InboundId},
        status,
        upkeep::Alarm,
    },
    quorum::{Row, get::GetOp, put::PutOp},
    replica::{Done, Query},
    store::StoreError,
    wire::{
        client::{ClientRequest, ClientResponse, Consistency, Failure, ReadFrom},
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

/// The operations under way; at most [`OPERATION_COUNT_MAX`] that still owe an answer.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    pub(super) by_number: BTreeMap<OpNumber, Operation>,
}

#[derive(Debug)]
pub(super) struct Operation {
    pub(super) asker: Asker,
    pub(super) key: Key,
    pub(super) consistency: Consistency,
    pub(super) due: Instant,
    pub(super) state: State,
}

#[derive(Debug)]
pub(super) enum State {
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
            State::Writing | State::Putting { .. } => self.on_write_due(now, number),
            State::Getting(op) | State::Inspecting(op) => {
                let effects = op.on_deadline();
                self.on_get_effects(now, number, effects);
                self.end(number);
            }
            State::Asking(_) | State::Forwarded { .. } => {
                let maybe_stored = matches!(&operation.state, State::Forwarded { request, .. } if request.is_write());
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

    pub(super) fn begin_operation(
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

    pub(super) fn end(&mut self, number: OpNumber) -> Option<Operation> {
        self.alarms.clear(&Alarm::Operation(number));
        self.operations.by_number.remove(&number)
    }

    pub(super) fn on_other_history(&mut self, now: Now, node: NodeId) {
        self.counters.other_history += 1;
        self.reconcile_with(now, node);
    }

    pub(super) fn answer(&mut self, asker: Asker, response: ClientResponse) {
        match asker {
            Asker::Client(client) => self.effects.push_back(Effect::Reply { client, response }),
            Asker::Peer(inbound) => self.respond(inbound, Response::Forwarded(response)),
            Asker::Nobody => {}
        }
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

pub(super) fn count(replicas: usize) -> u8 {
    u8::try_from(replicas).expect("a row has at most 16 members")
}
