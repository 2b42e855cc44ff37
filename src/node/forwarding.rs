//! Passing a client's request on to a member of the key's row.

use crate::{
    clock::{Instant, Now},
    ident::{Key, NodeId},
    membership::liveness::Opinion,
    node::{
        Node, Purpose,
        operations::{Asker, OpNumber, Operation, Origin, State, asked_of},
    },
    quorum::row::Row,
    wire::{
        client::{ClientRequest, ClientResponse, Failure, Get, ReadFrom},
        quorum::Request,
    },
};

impl Node {
    /// Whether this node has just started, and has reached so few of the row that it could only fail, or mistake for lost
    /// whom it has not tried yet. Another node knows better.
    pub(super) fn is_too_early(&self, now: Now, row: &Row, request: &ClientRequest) -> bool {
        let is_local = matches!(request, ClientRequest::Get(Get { from: ReadFrom::Local, .. }));
        if is_local || matches!(request, ClientRequest::Inspect { .. }) {
            return false;
        }
        let is_reached = |node: &NodeId| *node == self.me || self.is_reachable(now, node);
        !row.is_met_by(is_reached) && row.nodes.iter().any(|node| self.dialling.is_untried(node))
    }

    /// Passes a request to a member of the row that can be reached, those first that are not suspected.
    pub(super) fn forward(&mut self, now: Now, asker: Asker, key: Key, row: Row, due: Instant, request: ClientRequest) {
        self.counters.forwarded += 1;
        let opinion = |node: &NodeId| self.liveness.opinion(node, now.instant);
        let is_up = |node: &NodeId| *node != self.me && opinion(node) != Opinion::Down;
        let mut left: Vec<NodeId> = row.nodes.into_iter().filter(is_up).collect();
        left.sort_by_key(opinion);
        left.reverse();
        let origin = Origin { asker, due, maybe_stored: false };
        let (_, consistency) = asked_of(&request);
        let number = self.begin_operation(origin, key, consistency, State::Forwarded { request, left });
        self.forward_on(now, number);
    }

    /// Tries the next member of the row, with the same operation id: a second copy would be folded when read. When no
    /// primary can coordinate, this node does.
    pub(super) fn forward_on(&mut self, now: Now, number: OpNumber) {
        let Some(operation) = self.operations.by_number.get_mut(&number) else { return };
        let State::Forwarded { request, left } = &mut operation.state else { return };
        let remaining = operation.due - now.instant;
        if remaining.is_zero() {
            return self.on_operation_due(now, number);
        }
        match left.pop() {
            Some(node) => {
                // A coordinator waits for its own peers first; one that is mute must leave time for the next.
                let patience = (remaining / 2).min(2 * self.config.peer_timeout);
                let mut request = request.clone();
                if let Some(budget_ms) = request.budget_ms_mut() {
                    *budget_ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
                }
                let due = now.instant + patience;
                self.send(now.instant, &[node], Purpose::Operation(number), Request::Forward(request), due);
            }
            None => {
                let Some(Operation { asker, key, due, maybe_stored, state, .. }) = self.end(number) else { return };
                let State::Forwarded { request, .. } = state else { return };
                let (access, consistency) = asked_of(&request);
                let Some(row) = self.row_of(&key, access, consistency) else { return };
                let origin = Origin { asker, due, maybe_stored };
                if row.nodes.contains(&self.me) {
                    // Its store takes no writes, but nobody else can be asked; or the row has changed meanwhile.
                    self.coordinate(now, origin, key, row, request);
                } else {
                    self.coordinate_from_outside(now, origin, key, row, request);
                }
            }
        }
    }

    pub(super) fn on_forwarded(&mut self, now: Now, number: OpNumber, from: NodeId, response: ClientResponse) {
        let Some(operation) = self.operations.by_number.get_mut(&number) else { return };
        if let (State::Forwarded { request, .. }, ClientResponse::Failed(failure)) = (&operation.state, &response) {
            let is_unavailable = matches!(failure, Failure::Unavailable { .. });
            // The store of one member must not stop what the others can do.
            if is_unavailable || matches!(failure, Failure::StoreFailed { .. } | Failure::Overloaded { .. }) {
                operation.maybe_stored |= request.is_write() && failure.maybe_stored();
                if is_unavailable {
                    self.reconcile_with(now, from);
                }
                return self.forward_on(now, number);
            }
        }
        let Some(Operation { asker, due, maybe_stored, .. }) = self.end(number) else { return };
        self.answer_after(Origin { asker, due, maybe_stored }, response);
    }
}
