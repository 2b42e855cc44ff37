//! What peers ask of this node.
//!
//! Reads and merges are served to members only. They are served whatever the asker's history says of the partition: the
//! answer carries this node's own partition digest, and the asker judges.

use crate::{
    clock::Now,
    digest::Digest,
    ident::{Key, NodeId},
    node::{
        Node, TicketUse,
        effect::{Effect, InboundId},
        operations::Asker,
    },
    replica::{Done, Query, Work},
    ring::token::Partition,
    store::StoreError,
    wire::quorum::{Refusal, Request, Response},
};

impl Node {
    pub(super) fn answer_peer(&mut self, now: Now, from: NodeId, inbound: InboundId, request: Request) {
        let is_member = self.view.members.contains_key(&from);
        match request {
            Request::Reconcile(reconcile) => self.on_reconcile_request(now, from, inbound, reconcile),
            Request::Forward(_) | Request::Read { .. } | Request::Merge { .. } if !is_member => {
                self.respond(inbound, Response::Refused(Refusal::NotAMember));
            }
            Request::Forward(request) => self.begin_request(now, Asker::Peer(inbound), request),
            Request::Read { key, partition: _ } => {
                let Some(partition) = self.partition_of(&key) else {
                    return self.respond(inbound, Response::Refused(Refusal::NotAMember));
                };
                self.query(TicketUse::PeerRead { inbound, partition }, Query::Object(key));
            }
            Request::Merge { key, object, partition: _ } => {
                let Some(partition) = self.partition_of(&key) else {
                    return self.respond(inbound, Response::Refused(Refusal::NotAMember));
                };
                self.store(TicketUse::PeerMerge { inbound, partition }, Work::Merge { key, object });
            }
        }
    }

    pub(super) fn on_peer_read(&mut self, inbound: InboundId, partition: Partition, result: Result<Done, StoreError>) {
        let response = match result {
            Ok(Done::Object(object)) => Response::Object { object, partition: self.view.partition_digest(partition) },
            Ok(_) | Err(_) => Response::Refused(Refusal::StoreFailed),
        };
        self.respond(inbound, response);
    }

    pub(super) fn on_peer_merged(
        &mut self,
        inbound: InboundId,
        partition: Partition,
        result: Result<Done, StoreError>,
    ) {
        let response = match result {
            Ok(_) => Response::Merged { partition: self.view.partition_digest(partition) },
            Err(_) => Response::Refused(Refusal::StoreFailed),
        };
        self.respond(inbound, response);
    }

    pub(super) fn respond(&mut self, inbound: InboundId, response: Response) {
        self.effects.push_back(Effect::Respond { inbound, response });
    }

    pub(super) fn partition_of(&self, key: &Key) -> Option<Partition> {
        self.view.ring.as_ref().map(|ring| ring.partition_of(key))
    }

    pub(super) fn partition_digest(&self, key: &Key) -> Digest {
        self.partition_of(key).map_or(Digest([0; 32]), |partition| self.view.partition_digest(partition))
    }
}
