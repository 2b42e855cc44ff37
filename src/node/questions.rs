//! What clients ask that has no key: of this node itself, and of what it holds.

use crate::{
    clock::{Instant, Now},
    ident::Key,
    limits::{DEADLINE_MAX, SCAN_PAGE_MAX},
    node::{
        Node, TicketUse,
        operations::{Asker, OpNumber, Operation, Origin, State},
        status,
    },
    replica::{Done, Query},
    ring::partition_set::PartitionSet,
    store::StoreError,
    wire::client::{ClientRequest, ClientResponse, Consistency, Failure},
};

impl Node {
    /// The store has answered what is the whole answer to a client.
    pub(super) fn on_answer_read(&mut self, now: Now, number: OpNumber, result: Result<Done, StoreError>) {
        let Some(Operation { asker, key, state: State::Asking(request), .. }) = self.end(number) else { return };
        let response = match (result, request) {
            (Ok(Done::Keys(page)), _) => status::keys(page),
            (Ok(Done::Totals { key_count, key_bytes, hints, marked, counts }), _) => {
                self.on_totals_seen(&hints);
                ClientResponse::Status(Box::new(self.status(now, (key_count, key_bytes), &marked, counts)))
            }
            (Ok(Done::HintTotals(hints)), _) => self.hints_answer(now, &hints),
            (Ok(Done::Roots(roots)), _) => self.roots_answer(roots),
            (Ok(Done::Object(object)), _) => self.local_answer(now, &key, object),
            (Ok(_), _) => unreachable!("a query is answered by what was asked"),
            (Err(error @ StoreError::Busy { .. }), _) => {
                ClientResponse::Failed(Failure::Overloaded { detail: error.to_string() })
            }
            (Err(error), _) => {
                ClientResponse::Failed(Failure::StoreFailed { detail: error.to_string(), maybe_stored: false })
            }
        };
        self.answer(asker, response);
    }

    pub(super) fn begin_keyless(&mut self, now: Now, asker: Asker, request: ClientRequest) {
        let due = now.instant + DEADLINE_MAX;
        let nothing = Key::new(b"-").expect("one byte is a key");
        match request {
            ClientRequest::History(summary) => {
                let response = ClientResponse::History(self.changes_since(&summary));
                self.answer(asker, response);
            }
            ClientRequest::Status => self.ask_store(asker, nothing, due, request, Query::Totals),
            ClientRequest::Hints => self.ask_store(asker, nothing, due, request, Query::HintTotals),
            ClientRequest::Exchanges => {
                let response = self.exchanges_answer(now);
                self.answer(asker, response);
            }
            ClientRequest::Roots => self.ask_for_roots(asker, nothing, due, request),
            ClientRequest::Alerts => {
                let response = ClientResponse::Alerts(self.alerts.standing());
                self.answer(asker, response);
            }
            ClientRequest::Administer(_) => {
                let detail = "ask the node itself; such an order is not passed on".to_owned();
                self.answer(asker, ClientResponse::Failed(Failure::NotPermitted { detail }));
            }
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

    pub(super) fn ask_store(&mut self, asker: Asker, key: Key, due: Instant, request: ClientRequest, query: Query) {
        let origin = Origin { asker, due, maybe_stored: false };
        let number = self.begin_operation(origin, key, Consistency::One, State::Asking(request));
        self.query_by(Some(due), TicketUse::Answer(number), query);
    }

    fn ask_for_roots(&mut self, asker: Asker, key: Key, due: Instant, request: ClientRequest) {
        let Some(ring) = &self.view.ring else {
            return self.answer(asker, ClientResponse::Roots(Vec::new()));
        };
        let partitions = PartitionSet::new(ring.partitions(), ring.held_by(&self.me));
        self.ask_store(asker, key, due, request, Query::Roots(partitions));
    }
}
