//! The side of an exchange that asks, and when it does.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use rand_chacha::rand_core::Rng as _;

use crate::{
    clock::{Instant, Now},
    config::AntiEntropy,
    handoff::exchanges::Ended,
    ident::NodeId,
    merkle::{
        Comparison, Salt,
        branch::{Branch, DEPTH_MAX, Position},
        descent::{Descent, Ending, Turn},
    },
    node::{
        Node, TicketUse,
        answering::is_of,
        asking::{Asking, Errand, Outcome, Stand},
        effect::{Effect, ExchangeId},
        exchange_sizes::{MessageSize, Way, items_of, size_of_answer, size_of_question, take_chunk},
        penalties::Offence,
        upkeep::Alarm,
    },
    replica::{Done, Query, Work},
    ring::{
        partition_set::PartitionSet,
        token::{Partition, Token},
    },
    store::StoreError,
    wire::{
        administration::{LastExchange, RepairScope},
        exchange::{Answer, EXCHANGE_VERSION, ExchangeRefusal, Opening, Root},
    },
};

/// Longest time from a question to its answer. The shell gives up before that.
const PATIENCE: Duration = Duration::from_secs(120);

/// Longest time of one exchange. One begins at a time: whoever answers slowly must not keep this node from all others.
const EXCHANGE_TIME_MAX: Duration = Duration::from_secs(600);

/// Whoever says nothing for so long in an exchange is not waited for with others.
pub(super) const STALL: Duration = Duration::from_secs(2);

/// What is said of an exchange that began under another history.
const OUTDATED: &str = "the history has changed meanwhile";

/// What is said of an exchange that reached a bound.
const UNFINISHED: &str = "there is more than one exchange may move; the next one goes on";

impl Node {
    /// The partitions that this node and `peer` share, or the one that is meant; nothing if there are none.
    pub(super) fn shared_with(&self, peer: &NodeId, partition: Option<Partition>) -> Option<Arc<PartitionSet>> {
        let ring = self.view.ring.as_ref()?;
        let is_meant = |held: &Partition| partition.is_none_or(|partition| partition == *held);
        let held = ring.held_by(&self.me).filter(is_meant).filter(|held| ring.row(*held).contains(peer));
        let shared = PartitionSet::new(ring.partitions(), held);
        (!shared.is_empty()).then(|| Arc::new(shared))
    }

    /// Rows have changed, or are known for the first time.
    pub(super) fn on_shares_changed(&mut self, now: Now) {
        self.outdate_exchanges(now);
        self.marks.forget();
        let jitter = self.fraction();
        self.exchanging.schedule.on_rows_changed(&self.co_owners, jitter, now.instant);
        let up: Vec<NodeId> = self.co_owners.intersection(&self.identified).copied().collect();
        for node in up {
            self.on_exchange_peer_up(now, &node);
        }
        self.settle_doubt();
        self.begin_due_exchange(now);
    }

    /// What is under way counts for nothing any more. Objects that are on their way are taken in all the same, for they have cost
    /// what they cost.
    fn outdate_exchanges(&mut self, now: Now) {
        let mut over = Vec::new();
        for (exchange, asking) in &mut self.exchanging.asking {
            asking.is_outdated = true;
            match asking.stand {
                Stand::Asked(_) => self.alarms.set(Alarm::Turn(*exchange), now.instant + STALL),
                Stand::TakingIn(..) => {}
                Stand::InStore | Stand::Resting(..) => over.push(*exchange),
            }
        }
        for exchange in over {
            self.finish_exchange(now, exchange, Outcome::Failed(OUTDATED.to_owned()));
        }
    }

    /// `node` can be asked.
    pub(super) fn on_exchange_peer_up(&mut self, now: Now, node: &NodeId) {
        let jitter = self.fraction();
        self.exchanging.schedule.on_up(node, jitter, now.instant);
        self.arm_exchanges(now);
    }

    /// `node` cannot be asked any more. What is under way with it fails on its own.
    pub(super) fn on_exchange_peer_lost(&mut self, now: Now, node: &NodeId) {
        self.exchanging.schedule.on_down(node);
        self.arm_exchanges(now);
    }

    /// Something is missing here: whoever shares a row is to be compared with at once.
    pub(super) fn want_exchanges(&mut self, now: Now) {
        let others: Vec<NodeId> = self.co_owners.iter().copied().collect();
        for node in others {
            self.exchanging.schedule.on_wanted(&node, now.instant);
        }
        self.begin_due_exchange(now);
    }

    /// Begins the next exchange, if one is wanted or due. One at a time. What is to be filled or handed over does not wait for
    /// an administrator to switch anti-entropy on.
    pub(super) fn begin_due_exchange(&mut self, now: Now) {
        let may_begin = !self.waits_for_asker(now);
        while self.exchanging.asking.is_empty() && may_begin {
            let ordered = self.exchanging.next_errand(now.instant).or_else(|| self.next_duty(now.instant));
            let due = |node: &mut Node| match node.config.anti_entropy {
                AntiEntropy::On => node.exchanging.next_pair(now.instant),
                AntiEntropy::Off => None,
            };
            let Some(errand) = ordered.or_else(|| due(self)) else { break };
            let is_pair = errand.listed.is_none() && !errand.is_ordered;
            if is_pair && self.is_handing_over_to(now, &errand.peer) {
                self.exchanging.schedule.on_ended(&errand.peer, Ended::Failed, 1.0, now.instant);
            } else {
                self.begin_exchange(now, errand);
            }
        }
        self.arm_exchanges(now);
    }

    /// Compares with a peer what the errand says. `end_of_errand` follows once.
    fn begin_exchange(&mut self, now: Now, errand: Errand) {
        let exchange = ExchangeId(self.number());
        let (partition, branch) = match &errand.scope {
            RepairScope::Everything => (None, Branch::ROOT),
            RepairScope::Partition(partition) => (Some(*partition), Branch::ROOT),
            RepairScope::Key(key) => {
                let position = Position::of(Token::of(key), key.as_bytes());
                (self.partition_of(key), Branch::around(position, DEPTH_MAX))
            }
        };
        let shared = errand.listed.clone().or_else(|| self.shared_with(&errand.peer, partition));
        let Some(shared) = shared.filter(|_| self.identified.contains(&errand.peer)) else {
            let reason = "it cannot be reached, or the two share nothing of it any more".to_owned();
            self.note_exchange_failed(now, &errand);
            return self.end_of_errand(now, &errand, Outcome::Failed(reason));
        };
        let is_part = errand.listed.is_some() || partition.is_some();
        let salt = self.rng.next_u64();
        let opening = Opening {
            version: EXCHANGE_VERSION,
            capabilities: 0,
            salt,
            label: self.view.placement_digest(),
            partitions: is_part.then(|| PartitionSet::clone(&shared)),
            branch: (branch.first(), branch.depth()),
            root: Root([0; 16]),
        };
        let comparison = Comparison { salt: Salt::new(salt), rule: self.config.rules.compare };
        let descent = Descent::new(opening, comparison, errand.is_traced).expect("it begins at a branch");
        self.counters.exchanges_begun += 1;
        let asking = Asking {
            errand,
            shared,
            stand: Stand::InStore,
            is_open: false,
            is_outdated: false,
            moved: 0,
            restless_bytes: 0,
            begun: now.instant,
            asked: now.instant,
        };
        self.exchanging.asking.insert(exchange, asking);
        self.descend(exchange, Box::new(descent), None);
    }

    /// The store has found what to say next, or not.
    pub(super) fn on_turn(&mut self, now: Now, exchange: ExchangeId, result: Result<Done, StoreError>) {
        let Some(asking) = self.exchanging.asking.get_mut(&exchange) else { return };
        let (mut descent, turn, damaged) = match result {
            Ok(Done::Descended { descent, turn, damaged }) => (descent, turn, damaged),
            Ok(_) => unreachable!("a descent is answered by its next turn"),
            Err(error) => return self.finish_exchange(now, exchange, Outcome::Failed(error.to_string())),
        };
        let peer = asking.errand.peer;
        self.exchanging.repairing.note_visits(&peer, descent.take_trace());
        match turn {
            Turn::Ask(question) => {
                asking.is_open = true;
                asking.moved += items_of(&question);
                asking.stand = Stand::Asked(descent);
                asking.asked = now.instant;
                let (shared, size) = (Arc::clone(&asking.shared), size_of_question(&question));
                asking.restless_bytes += size.total();
                self.note_exchanged(&shared, size, Way::Sent);
                self.exchanging.repairing.note(&peer, 0, items_of(&question) as u64, size.total());
                self.counters.items_given += items_of(&question) as u64;
                self.alarms.set(Alarm::Turn(exchange), now.instant + PATIENCE);
                self.effects.push_back(Effect::Ask { exchange, to: peer, question });
            }
            Turn::End(ending) => {
                self.counters.hashes_compared += descent.progress().hashes_compared;
                let outcome = match ending {
                    Ending::InStep => Outcome::InStep,
                    Ending::Apart { fruitless } => {
                        if asking.moved == 0 {
                            // Nothing differs, and yet something does: somebody's digest is wrong, maybe ours.
                            self.look_into_branches(now, &fruitless);
                        }
                        Outcome::Apart
                    }
                    Ending::Unfinished => Outcome::Failed(UNFINISHED.to_owned()),
                    Ending::Malformed => {
                        self.note_offence(now, peer, Offence::Exchange);
                        Outcome::Failed("its answer was none".to_owned())
                    }
                };
                self.finish_exchange(now, exchange, outcome);
            }
        }
        self.look_into(damaged);
    }

    /// A peer has answered.
    pub(super) fn on_exchange_answer(&mut self, now: Now, exchange: ExchangeId, answer: Answer) {
        let Some(asking) = self.exchanging.asking.get_mut(&exchange) else { return };
        let (peer, shared, size) = (asking.errand.peer, Arc::clone(&asking.shared), size_of_answer(&answer));
        asking.restless_bytes += size.total();
        self.note_exchanged(&shared, size, Way::Received);
        self.exchanging.repairing.note(&peer, 0, 0, size.total());
        let Some(asking) = self.exchanging.asking.get_mut(&exchange) else { return };
        let Stand::Asked(descent) = std::mem::replace(&mut asking.stand, Stand::InStore) else { return };
        if now.instant - asking.begun > EXCHANGE_TIME_MAX {
            return self.finish_exchange(now, exchange, Outcome::Failed(UNFINISHED.to_owned()));
        }
        match answer {
            Answer::Refused(refusal) => self.on_refused(now, exchange, refusal),
            Answer::Step(step) if step.items.is_empty() && step.next.is_some() => {
                // Who has more to send has sent something.
                self.note_offence(now, peer, Offence::Exchange);
                self.finish_exchange(now, exchange, Outcome::Failed("it promises more and sends nothing".to_owned()));
            }
            Answer::Step(mut step) if !step.items.is_empty() => {
                let items = std::mem::take(&mut step.items);
                asking.moved += items.len();
                if !items.iter().all(|item| is_of(&asking.shared, &item.key)) {
                    self.note_offence(now, peer, Offence::Exchange);
                    let reason = "it sent what the two do not share".to_owned();
                    return self.finish_exchange(now, exchange, Outcome::Failed(reason));
                }
                asking.stand = Stand::TakingIn(descent, Answer::Step(step), VecDeque::from(items));
                self.alarms.clear(&Alarm::Turn(exchange));
                self.take_in(now, exchange);
            }
            Answer::Same | Answer::Differs(_) | Answer::Step(_) => {
                asking.stand = Stand::Resting(descent, answer);
                self.rest(now, exchange);
            }
        }
    }

    /// What an answer brought is durable, or not.
    pub(super) fn on_taken_in(&mut self, now: Now, exchange: ExchangeId, result: Result<Done, StoreError>) {
        let Some(asking) = self.exchanging.asking.get_mut(&exchange) else { return };
        let changed = match result {
            Ok(Done::MergedAll { changed, .. }) => changed,
            Ok(_) => unreachable!("a merge is answered by what it changed"),
            Err(error) => return self.finish_exchange(now, exchange, Outcome::Failed(error.to_string())),
        };
        self.counters.items_taken += changed;
        self.exchanging.repairing.note(&asking.errand.peer, changed, 0, 0);
        self.filling.on_moved(&asking.shared, changed, 0);
        self.take_in(now, exchange);
    }

    /// Has the next part of what an answer brought stored, if there is any. What this node is to hold no more is left out: it
    /// may have dropped it already.
    fn take_in(&mut self, now: Now, exchange: ExchangeId) {
        let Node { exchanging, view, me, .. } = self;
        let Some(asking) = exchanging.asking.get_mut(&exchange) else { return };
        let Stand::TakingIn(descent, answer, mut items) = std::mem::replace(&mut asking.stand, Stand::InStore) else {
            return;
        };
        let chunk = take_chunk(&mut items, |key| view.holds_key(me, key));
        if chunk.is_empty() {
            asking.stand = Stand::Resting(descent, answer);
            self.rest(now, exchange);
        } else {
            asking.stand = Stand::TakingIn(descent, answer, items);
            self.store(TicketUse::TakenIn(exchange), Work::MergeAll(chunk));
        }
    }

    /// Its rest is over, or its peer has taken too long.
    pub(super) fn on_turn_due(&mut self, now: Now, exchange: ExchangeId) {
        let Some(asking) = self.exchanging.asking.get_mut(&exchange) else { return };
        match std::mem::replace(&mut asking.stand, Stand::InStore) {
            Stand::Resting(descent, answer) => self.descend(exchange, descent, Some(answer)),
            Stand::Asked(_) => {
                self.finish_exchange(now, exchange, Outcome::Failed("it did not answer in time".to_owned()));
            }
            busy @ (Stand::InStore | Stand::TakingIn(..)) => asking.stand = busy,
        }
    }

    /// There will be no answer.
    pub(super) fn on_exchange_failed(&mut self, now: Now, exchange: ExchangeId, is_busy: bool) {
        if let Some(asking) = self.exchanging.asking.get_mut(&exchange) {
            asking.is_open = false;
            let reason =
                if is_busy { "it is busy with others" } else { "the connection was lost, or it did not answer" };
            self.finish_exchange(now, exchange, Outcome::Failed(reason.to_owned()));
        }
    }

    /// An exchange came to nothing: its peer is left alone for a while.
    fn note_exchange_failed(&mut self, now: Now, errand: &Errand) {
        if errand.listed.is_some() {
            self.filling.on_failed(errand.peer, now.instant);
        } else {
            self.exchanging.schedule.on_ended(&errand.peer, Ended::Failed, 1.0, now.instant);
        }
    }

    /// An exchange over everything that this node and `peer` share has ended, whoever began it.
    pub(super) fn end_of_exchange(
        &mut self,
        now: Now,
        peer: NodeId,
        shared: &PartitionSet,
        begun: Instant,
        ended: Ended,
    ) {
        let jitter = self.fraction();
        self.exchanging.schedule.on_ended(&peer, ended, jitter, now.instant);
        match ended {
            Ended::InStep => drop(self.exchanging.last.insert(peer, LastExchange::InStep)),
            Ended::Apart => drop(self.exchanging.last.insert(peer, LastExchange::Apart)),
            Ended::Failed => {}
        }
        if ended != Ended::Failed {
            self.on_compared(now, peer, shared, begun);
            self.note_marks_compared(peer, shared);
        }
        self.arm_exchanges(now);
    }

    /// A message of an exchange over `partitions` was sent or received. Objects count as filling where they arrive.
    pub(super) fn note_exchanged(&mut self, partitions: &PartitionSet, size: MessageSize, way: Way) {
        self.counters.exchange_bytes += size.total();
        let objects = match way {
            Way::Sent => 0,
            Way::Received => size.objects,
        };
        if self.filling.on_moved(partitions, 0, objects + size.compared) {
            self.counters.filling_object_bytes += objects;
            self.counters.filling_compared_bytes += size.compared;
        }
    }

    fn on_refused(&mut self, now: Now, exchange: ExchangeId, refusal: ExchangeRefusal) {
        if refusal == ExchangeRefusal::OtherHistory
            && let Some(asking) = self.exchanging.asking.get(&exchange)
        {
            let peer = asking.errand.peer;
            self.on_other_history(now, peer);
        }
        let reason = match refusal {
            ExchangeRefusal::NotAnOwner => "it says that the two share nothing of it",
            ExchangeRefusal::OtherHistory => "its membership history differs; the two are reconciling",
            ExchangeRefusal::Busy => "it is busy with others",
            ExchangeRefusal::HintsFirst => "it is handing over hints to this node first",
            ExchangeRefusal::UnknownVersion(_) => "it does not speak this version of the exchange",
            ExchangeRefusal::Malformed => "it could not read the question",
            ExchangeRefusal::StoreFailed => "its store failed",
            ExchangeRefusal::SwitchedOff => "its anti-entropy is switched off",
        };
        self.finish_exchange(now, exchange, Outcome::Failed(reason.to_owned()));
    }

    fn descend(&mut self, exchange: ExchangeId, descent: Box<Descent>, answer: Option<Answer>) {
        let Some(asking) = self.exchanging.asking.get(&exchange) else { return };
        let query = Query::Descend { partitions: Arc::clone(&asking.shared), descent, answer };
        self.query(TicketUse::Descend(exchange), query);
    }

    /// Waits before the next turn as long as what was sent and received for the last one may take.
    fn rest(&mut self, now: Now, exchange: ExchangeId) {
        let Some(asking) = self.exchanging.asking.get_mut(&exchange) else { return };
        if asking.is_outdated {
            return self.finish_exchange(now, exchange, Outcome::Failed(OUTDATED.to_owned()));
        }
        let bytes = std::mem::take(&mut asking.restless_bytes);
        let rate = self.config.exchange_bytes_per_second.max(1);
        let rest = Duration::from_millis(bytes.saturating_mul(1_000) / rate);
        if rest.is_zero() {
            self.alarms.clear(&Alarm::Turn(exchange));
            self.on_turn_due(now, exchange);
        } else {
            self.alarms.set(Alarm::Turn(exchange), now.instant + rest);
        }
    }

    fn finish_exchange(&mut self, now: Now, exchange: ExchangeId, outcome: Outcome) {
        let Some(asking) = self.exchanging.asking.remove(&exchange) else { return };
        let Asking { errand, shared, is_open, begun, .. } = asking;
        self.alarms.clear(&Alarm::Turn(exchange));
        if is_open {
            self.effects.push_back(Effect::EndExchange(exchange));
        }
        match &outcome {
            Outcome::InStep => self.counters.exchanges_in_step += 1,
            Outcome::Apart => self.counters.exchanges_apart += 1,
            Outcome::Failed(_) => self.counters.exchanges_failed += 1,
        }
        if errand.listed.is_some() {
            match &outcome {
                Outcome::InStep | Outcome::Apart => self.on_compared(now, errand.peer, &shared, begun),
                Outcome::Failed(_) => self.note_exchange_failed(now, &errand),
            }
        } else if errand.scope == RepairScope::Everything {
            let ended = match &outcome {
                Outcome::InStep => Ended::InStep,
                Outcome::Apart => Ended::Apart,
                Outcome::Failed(reason) => {
                    self.exchanging.last.insert(errand.peer, LastExchange::Failed(reason.clone()));
                    Ended::Failed
                }
            };
            self.end_of_exchange(now, errand.peer, &shared, begun, ended);
        }
        self.end_of_errand(now, &errand, outcome);
        self.begin_due_exchange(now);
    }

    /// Whether it is busy with an exchange of its own, and hears something in it.
    pub(super) fn is_asking(&self, now: Now) -> bool {
        self.exchanging.asking.values().any(|asking| match asking.stand {
            Stand::Asked(_) => now.instant - asking.asked < STALL,
            Stand::InStore | Stand::TakingIn(..) | Stand::Resting(..) => true,
        })
    }

    /// Whether somebody else is sending it what it may lack.
    fn waits_for_asker(&self, now: Now) -> bool {
        self.exchanging.schedule.is_behind() && self.lively_askers(now) > 0
    }

    /// Wakes this node when there is something to compare.
    pub(super) fn arm_exchanges(&mut self, now: Now) {
        let is_idle = self.exchanging.asking.is_empty();
        let earliest = if self.waits_for_asker(now) { now.instant + STALL } else { Instant(0) };
        let due = match self.config.anti_entropy {
            AntiEntropy::On => self.exchanging.next_timeout(),
            AntiEntropy::Off => None,
        };
        let rest = self.filling.next_timeout(now.instant);
        match due.into_iter().chain(rest).min().filter(|_| is_idle) {
            Some(due) => self.alarms.set(Alarm::Exchange, due.max(earliest)),
            None => drop(self.alarms.clear(&Alarm::Exchange)),
        }
    }
}
