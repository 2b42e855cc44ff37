//! Passing a client's request on to a member of the key's row.

use std::time::Duration;

use crate::{
    clock::{Instant, Now},
    ident::{Key, NodeId},
    membership::liveness::Opinion,
    node::{
        Node, Purpose,
        operations::{Asker, OpNumber, Operation, State},
    },
    quorum::Row,
    wire::{
        client::{ClientRequest, ClientResponse, Consistency, Failure},
        quorum::Request,
    },
};

impl Node {
    /// Passes a request to the first reachable member of the row. One that came from a member is not passed on again:
    /// the two see different rows, and the sender learns so.
    pub(super) fn forward(&mut self, now: Now, asker: Asker, key: Key, row: Row, due: Instant, request: ClientRequest) {
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
    pub(super) fn forward_on(&mut self, now: Now, number: OpNumber) {
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

    pub(super) fn on_forwarded(&mut self, now: Now, number: OpNumber, from: NodeId, response: ClientResponse) {
        let Some(operation) = self.operations.by_number.get_mut(&number) else { return };
        if let (State::Forwarded { request, left, maybe_stored }, ClientResponse::Failed(failure)) =
            (&mut operation.state, &response)
        {
            let is_unavailable = matches!(failure, Failure::Unavailable { .. });
            // The store of one member must not stop what the others can do.
            if is_unavailable || (matches!(failure, Failure::StoreFailed { .. }) && !left.is_empty()) {
                *maybe_stored |= request.is_write() && failure.maybe_stored();
                if is_unavailable {
                    self.reconcile_with(now, from);
                }
                return self.forward_on(now, number);
            }
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
