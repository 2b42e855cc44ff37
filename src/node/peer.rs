//! What peers ask of this node.
//!
//! Reads and merges are served to members only. They are served whatever the asker's history says of the partition: the
//! answer carries this node's own partition digest, and the asker judges.

use crate::{
    clock::{Instant, Now},
    digest::Digest,
    ident::{Key, NodeId},
    node::{
        Node, TicketUse,
        effect::{Effect, InboundId},
        operations::Asker,
    },
    quorum::put::Hinting,
    replica::{Done, Work},
    ring::token::Partition,
    store::StoreError,
    wire::quorum::{Refusal, Request, Response},
};

/// Most partitions that one request marks.
const MARKS_MAX: usize = 4_096;

impl Node {
    pub(super) fn answer_peer(&mut self, now: Now, from: NodeId, inbound: InboundId, due: Instant, request: Request) {
        if let Request::Reconcile(reconcile) = request {
            return self.on_reconcile_request(now, from, inbound, reconcile);
        }
        if !self.view.members.contains_key(&from) {
            return self.refuse(inbound, Refusal::NotAMember);
        }
        match request {
            Request::Forward(request) => self.begin_request(now, Asker::Peer(inbound), request),
            Request::Read { key, partition: _, whole_bytes_max } => {
                let Some(partition) = self.partition_of(&key) else {
                    return self.refuse(inbound, Refusal::NotAMember);
                };
                let query = self.query_of(key);
                self.query_by(Some(due), TicketUse::PeerRead { inbound, partition, whole_bytes_max }, query);
            }
            Request::KeepHint { target, key, object, partition: _ } if target != self.me => {
                let Some(partition) = self.partition_of(&key) else {
                    return self.refuse(inbound, Refusal::NotAMember);
                };
                if self.config.hinting == Hinting::Off || self.is_leaving() || self.stopping.is_some() {
                    return self.refuse(inbound, Refusal::HintsFull);
                }
                if !self.view.members.contains_key(&target) {
                    return self.refuse(inbound, Refusal::UnknownTarget);
                }
                let hint = self.hint_for(target, &key);
                let ticket = TicketUse::PeerMerge { inbound, partition, target: Some(target) };
                self.store_by(Some(due), ticket, Work::KeepHint { hint, key, object });
            }
            // A hint for oneself is no hint.
            Request::Merge { key, object, partition: _ } | Request::KeepHint { key, object, .. } => {
                let Some(partition) = self.partition_of(&key) else {
                    return self.refuse(inbound, Refusal::NotAMember);
                };
                if !self.view.holds(&self.me, partition) {
                    let partition = self.view.partition_digest(partition);
                    return self.respond(inbound, Response::Unknown { partition });
                }
                let ticket = TicketUse::PeerMerge { inbound, partition, target: None };
                self.store_by(Some(due), ticket, Work::Merge { key, object });
            }
            Request::Mark { partitions } => {
                let held: Vec<Partition> =
                    partitions.into_iter().filter(|it| self.holds(*it)).take(MARKS_MAX).collect();
                self.on_marks_seen(now, &held);
                self.store_by(Some(due), TicketUse::PeerMark(inbound), Work::Mark(held));
            }
            Request::Reconcile(_) => unreachable!("answered above"),
        }
    }

    pub(super) fn on_peer_read(
        &mut self,
        inbound: InboundId,
        partition: Partition,
        whole_bytes_max: u32,
        result: Result<Done, StoreError>,
    ) {
        let is_in_doubt = self.doubt.is_about(partition);
        let partition = self.view.partition_digest(partition);
        let response = match result {
            // It may have lost what it once acknowledged: what it has proves nothing.
            Ok(Done::Object(_) | Done::Known(_)) if is_in_doubt => Response::Unknown { partition },
            Ok(Done::Object(object) | Done::Known(Some(object))) if object.size_bytes() > whole_bytes_max as usize => {
                Response::Digest { digest: object.digest(), partition }
            }
            Ok(Done::Object(object) | Done::Known(Some(object))) => Response::Object { object, partition },
            Ok(Done::Known(None)) => Response::Unknown { partition },
            Err(StoreError::Busy { .. }) => Response::Refused(Refusal::Overloaded),
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
            Ok(Done::Refused(_)) => {
                self.counters.hints_refused += 1;
                Response::Refused(Refusal::HintsFull)
            }
            Ok(_) => Response::Merged { partition: self.view.partition_digest(partition) },
            Err(StoreError::Busy { .. }) => Response::Refused(Refusal::Overloaded),
            Err(_) => Response::Refused(Refusal::StoreFailed),
        };
        self.respond(inbound, response);
    }

    pub(super) fn on_peer_marked(&mut self, inbound: InboundId, result: Result<Done, StoreError>) {
        let response = match result {
            Ok(_) => Response::Marked,
            Err(StoreError::Busy { .. }) => Response::Refused(Refusal::Overloaded),
            Err(_) => Response::Refused(Refusal::StoreFailed),
        };
        self.respond(inbound, response);
    }

    fn holds(&self, partition: Partition) -> bool {
        self.view.row(partition).contains(&self.me)
    }

    pub(super) fn refuse(&mut self, inbound: InboundId, refusal: Refusal) {
        self.respond(inbound, Response::Refused(refusal));
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
