//! Hints at a node: keeping them, handing them over, giving them up.

use std::time::Duration;

use crate::{
    clock::{Instant, Now, WallTime},
    handoff::hints::{Delivery, HandoffEffect, Progress, Recipients},
    ident::{Key, NodeId},
    node::{
        Node, Purpose, SendFailure, TicketUse,
        effect::{Caller, ClientId},
        operations::Asker,
        upkeep::Alarm,
    },
    replica::{
        Done, Query, Work,
        hints::{HintFor, HintTotals},
    },
    ring::token::Partition,
    store::StoreError,
    wire::{
        administration::{self, HintOrder, HintStatus, Order},
        client::{ClientResponse, Cursor, Failure},
        quorum::{Request, Response},
    },
};

/// A look through the hints for one target.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sweep {
    target: NodeId,
    before: WallTime,
    /// The administrator who waits for it.
    asker: Option<ClientId>,
}

/// How often a node looks how old its hints are: twenty times in their life, but no more often and no less than this.
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(500);
/// See [`LOOK_INTERVAL_MIN`].
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(600);

/// How long two nodes are not compared because one hands hints over to the other.
const HINTS_FIRST: Duration = Duration::from_secs(600);

impl Node {
    /// A hint of `key` for `target`.
    pub(super) fn hint_for(&self, target: NodeId, key: &Key) -> HintFor {
        HintFor { target, partition: self.partition_of(key).unwrap_or(Partition(0)) }
    }

    /// A hint for `target` is stored, or may be.
    pub(super) fn on_hint_kept(&mut self, now: Now, target: NodeId) {
        let is_up = self.is_ready_for_hints(&target);
        self.schedule.on_kept(target, is_up, now.instant);
        self.arm_handoff();
    }

    /// `node` can be sent requests.
    pub(super) fn begin_handoff(&mut self, now: Now, node: &NodeId) {
        let jitter = self.fraction();
        self.schedule.on_up(node, jitter, now.instant);
        self.arm_handoff();
        self.on_exchange_peer_up(now, node);
    }

    /// A page of hints may be due.
    pub(super) fn on_handoff_alarm(&mut self, now: Now) {
        let effects = self.schedule.on_time(now.instant);
        self.on_handoff_effects(now, effects);
    }

    /// The store has told a page of hints, or not.
    pub(super) fn on_hint_page(&mut self, now: Now, target: &NodeId, result: Result<Done, StoreError>) {
        let effects = match result {
            Ok(Done::Hints(page)) => {
                let (view, is_up, is_leaving) = (&self.view, self.identified.contains(target), self.is_leaving());
                let recipients = |key: &Key| {
                    let partition = view.ring.as_ref().map_or(Partition(0), |ring| ring.partition_of(key));
                    let row = view.row(partition);
                    let is_listed = view.listed(partition).contains(target);
                    match is_up {
                        _ if !row.is_empty() && (!is_listed || is_leaving && !is_up) => Recipients::Row(row.to_vec()),
                        true => Recipients::Target,
                        false => Recipients::Nobody,
                    }
                };
                self.schedule.on_page(target, page, recipients, now.instant)
            }
            Ok(_) | Err(_) => {
                self.schedule.on_page_failed(target, now.instant);
                Vec::new()
            }
        };
        self.on_handoff_effects(now, effects);
    }

    /// A node has taken a hint, or not.
    pub(super) fn on_hint_answered(
        &mut self,
        now: Now,
        delivery: Delivery,
        from: NodeId,
        result: Result<Response, SendFailure>,
    ) {
        let effects = match result {
            Ok(Response::Merged { .. }) => self.schedule.on_acknowledged(delivery, &from, now.instant),
            Ok(_) | Err(_) => self.schedule.on_failed(delivery, &from, now.instant),
        };
        self.on_handoff_effects(now, effects);
    }

    /// This node is itself one of those that a hint is for now.
    pub(super) fn on_hint_here(&mut self, now: Now, delivery: Delivery, result: Result<Done, StoreError>) {
        let me = self.me;
        let effects = match result {
            Ok(_) => self.schedule.on_acknowledged(delivery, &me, now.instant),
            Err(_) => self.schedule.on_failed(delivery, &me, now.instant),
        };
        self.on_handoff_effects(now, effects);
    }

    /// Rows have changed: hints may have to go elsewhere.
    pub(super) fn on_rows_changed(&mut self, now: Now) {
        self.readdress_hints(now);
        self.on_shares_changed(now);
    }

    /// Looks how old hints are.
    pub(super) fn look_at_hints(&mut self, now: Now) {
        let interval = (self.config.hint_ttl / 20).clamp(LOOK_INTERVAL_MIN, LOOK_INTERVAL_MAX);
        self.alarms.set(Alarm::LookAtHints, now.instant + interval);
        self.query(TicketUse::HintTotals, Query::Totals);
    }

    /// What hints come to, as the store has just told. Those with old ones are looked through: the totals only know that
    /// none is older.
    pub(super) fn on_hint_totals(&mut self, now: Now, result: Result<Done, StoreError>) {
        let Ok(Done::Totals { hints: totals, marked, .. }) = result else { return };
        self.on_marks_seen(now, &marked);
        for (target, _) in &totals {
            // Delivery should know of all of them; if it does not, it does now.
            if self.schedule.progress(target, now.instant).is_none() {
                self.schedule.on_kept(*target, self.is_ready_for_hints(target), now.instant);
            }
        }
        self.arm_handoff();
        let half = self.config.hint_ttl / 2;
        for (target, _) in totals.iter().filter(|(_, totals)| age_of(totals, now.wall) >= half) {
            let before = WallTime(now.wall.0.saturating_sub(millis(self.config.hint_ttl)));
            self.sweep(Sweep { target: *target, before, asker: None }, None, None);
        }
        self.on_totals_seen(&totals);
    }

    /// What hints come to.
    pub(super) fn on_totals_seen(&mut self, totals: &[(NodeId, HintTotals)]) {
        self.alerts.note_hints(totals);
    }

    /// Part of a sweep is done, or failed.
    pub(super) fn on_swept(&mut self, _now: Now, sweep: Sweep, result: Result<Done, StoreError>) {
        let response = match result {
            Ok(Done::Swept(swept)) => {
                self.counters.hints_given_up += swept.dropped;
                if swept.next.is_some() {
                    return self.sweep(sweep, swept.next, swept.oldest);
                }
                ClientResponse::Administered
            }
            Ok(_) => unreachable!("a sweep is answered by Swept"),
            Err(error) => {
                ClientResponse::Failed(Failure::StoreFailed { detail: error.to_string(), maybe_stored: false })
            }
        };
        if let Some(client) = sweep.asker {
            self.answer(Asker::Client(client), response);
        }
    }

    /// An administrator, or somebody who says so, wants something done.
    pub(super) fn on_order(&mut self, now: Now, client: ClientId, caller: Caller, order: Order) {
        let is_permitted = match caller {
            Caller::Owner => true,
            Caller::Peer(peer) => self.config.admins.contains(&peer),
        };
        if !is_permitted {
            let detail =
                "the holder of admin.key in the node's data directory, or of a peer id listed in admins".into();
            let response = ClientResponse::Failed(Failure::NotPermitted { detail });
            return self.answer(Asker::Client(client), response);
        }
        let response = match order {
            Order::Hints(order) => return self.on_hint_order(now, client, order),
            Order::Membership(order) => return self.on_membership_order(now, client, order),
            Order::Check => {
                self.begin_check(now);
                ClientResponse::Administered
            }
            Order::Repair { scope, is_traced } => match self.begin_repair(now, scope, is_traced) {
                Ok(()) => ClientResponse::Administered,
                Err(failure) => ClientResponse::Failed(failure),
            },
        };
        self.answer(Asker::Client(client), response);
    }

    fn on_hint_order(&mut self, now: Now, client: ClientId, order: HintOrder) {
        match order {
            HintOrder::Deliver { .. } if self.schedule.is_paused() => {
                let detail = "the delivery of hints is paused; resume it first".to_owned();
                let response = ClientResponse::Failed(Failure::Unavailable { detail });
                return self.answer(Asker::Client(client), response);
            }
            HintOrder::Deliver { target } => self.schedule.on_wanted(target.as_ref(), now.instant),
            HintOrder::Pause => self.schedule.on_paused(),
            HintOrder::Resume => self.schedule.on_resumed(now.instant),
            HintOrder::Drop { target } => {
                let sweep = Sweep { target, before: WallTime(u64::MAX), asker: Some(client) };
                return self.sweep(sweep, None, None);
            }
        }
        self.arm_handoff();
        self.answer(Asker::Client(client), ClientResponse::Administered);
    }

    /// What this node keeps for others.
    pub(super) fn hints_answer(&self, now: Now, totals: &[(NodeId, HintTotals)]) -> ClientResponse {
        let status = |(target, totals): &(NodeId, HintTotals)| {
            let progress = self.schedule.progress(target, now.instant);
            HintStatus {
                target: *target,
                count: totals.count,
                bytes: totals.bytes,
                oldest_ms: millis(age_of(totals, now.wall)),
                delivered: progress.map_or((0, 0), |progress| (progress.delivered, millis(progress.lasted))),
                delivery: match progress {
                    _ if self.schedule.is_paused() => administration::Delivery::Paused,
                    Some(progress) if progress.is_up => administration::Delivery::Delivering,
                    Some(_) | None => administration::Delivery::Waiting,
                },
            }
        };
        ClientResponse::Hints(totals.iter().map(status).collect())
    }

    fn on_handoff_effects(&mut self, now: Now, effects: Vec<HandoffEffect>) {
        for effect in effects {
            match effect {
                HandoffEffect::Take { target, after, limit } => {
                    self.query(TicketUse::HintPage(target), Query::Hints { target, after, limit });
                }
                HandoffEffect::Send { delivery, nodes, key, object } => {
                    if nodes.contains(&self.me) {
                        let work = Work::Merge { key: key.clone(), object: object.clone() };
                        self.store(TicketUse::HintHere(delivery), work);
                    }
                    let others: Vec<NodeId> = nodes.into_iter().filter(|node| *node != self.me).collect();
                    let partition = self.partition_digest(&key);
                    let due = now.instant + self.config.peer_timeout;
                    let request = Request::Merge { key, object, partition };
                    self.send(now.instant, &others, Purpose::Hint(delivery), request, due);
                }
                HandoffEffect::Drop { target, key, sent } => {
                    self.counters.hints_delivered += 1;
                    self.store(TicketUse::Unwatched, Work::DropHint { target, key, sent });
                }
            }
        }
        self.arm_handoff();
    }

    fn sweep(&mut self, sweep: Sweep, after: Option<Cursor>, oldest: Option<WallTime>) {
        let Some(parameters) = self.view.parameters else { return };
        let Sweep { target, before, .. } = sweep;
        let partitions = parameters.partitions;
        self.store(TicketUse::Sweep(sweep), Work::SweepHints { target, before, after, oldest, partitions });
    }

    /// Whether hints are on their way to `node`, and bring it most of what it lacks. Not for ever: a delivery that does not end
    /// must not keep the two from being compared.
    pub(super) fn is_handing_over_to(&self, now: Now, node: &NodeId) -> bool {
        let is_on_its_way = |progress: Progress| progress.is_up && progress.lasted < HINTS_FIRST;
        !self.schedule.is_paused() && self.schedule.progress(node, now.instant).is_some_and(is_on_its_way)
    }

    /// Whether what is kept for `target` can be delivered: to itself, or to others because it is no member any more, or because
    /// this node is about to leave.
    pub(super) fn is_ready_for_hints(&self, target: &NodeId) -> bool {
        self.identified.contains(target) || !self.view.members.contains_key(target) || self.is_leaving()
    }

    /// What the history says of partitions has changed: hints may have to go elsewhere.
    pub(super) fn readdress_hints(&mut self, now: Now) {
        self.schedule.on_rows_changed(now.instant);
        let targets = self.schedule.targets().filter(|target| self.is_ready_for_hints(target));
        let targets: Vec<NodeId> = targets.copied().collect();
        targets.iter().for_each(|target| self.schedule.on_up(target, 0.0, now.instant));
        self.arm_handoff();
    }

    fn arm_handoff(&mut self) {
        match self.schedule.next_timeout() {
            Some(due) => self.alarms.set(Alarm::Handoff, due),
            None => drop(self.alarms.clear(&Alarm::Handoff)),
        }
    }
}

/// For how long the oldest may have been kept.
fn age_of(totals: &HintTotals, now: WallTime) -> Duration {
    Instant(now.0) - Instant(totals.oldest.0)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
