//! What happens because time passed or a connection came or went.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand_chacha::rand_core::Rng;

use crate::{
    clock::Now,
    config::Way,
    ident::NodeId,
    limits::MEMBER_COUNT_MAX,
    node::{
        Node, SendFailure, TicketUse,
        effect::{Effect, ExchangeId, OutboundId, SeedIndex},
        operations::OpNumber,
    },
    replica::Work,
};

/// How often a node looks whether a peer has fallen silent.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);

/// How often a store that failed is tried, while nothing else tries it.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// A node that wakes so much later than it wanted has stood still itself.
const OWN_PAUSE: Duration = Duration::from_secs(1);

/// What a node wants to be woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    /// A request to a peer has waited long enough.
    Outbound(OutboundId),
    /// An operation's time is up.
    Operation(OpNumber),
    /// Somebody takes longer than usual to answer a read.
    Slow(OpNumber),
    /// A page of hints is due.
    Handoff,
    /// Look how old hints are, and whether partitions are marked.
    LookAtHints,
    /// Others are to be told again that it has left.
    Stop,
    /// Something may be said of partitions, or another source asked for them.
    Fill,
    /// An exchange may be due.
    Exchange,
    /// An exchange goes on, or has waited long enough for an answer.
    Turn(ExchangeId),
    /// The next bucket is to be looked at.
    Check,
    /// Compare histories with somebody.
    Reconcile,
    /// Look whether anybody has fallen silent.
    Watch,
    /// A new member has had the time to reach the others.
    Namesakes,
    /// Looked around long enough.
    Found,
    /// Waited long enough for another to found.
    FoundAfterAll,
    /// Try again to store what this node had to say of itself.
    SayAgain,
    /// Nobody has told of another life of this node for long enough.
    Alone,
    /// Dial a member again.
    DialMember(NodeId),
    /// Dial an address given at start again.
    DialSeed(SeedIndex),
}

/// Whom this node tries to be connected with, for ever: the addresses given at start, and every member.
#[derive(Debug, Default)]
pub(super) struct Dialling {
    /// Which node was found at a seed.
    seeds: BTreeMap<SeedIndex, NodeId>,
    pauses: BTreeMap<Alarm, Duration>,
    /// Members known at the start of which it is not known yet whether they can be reached.
    untried: BTreeSet<NodeId>,
}

impl Dialling {
    /// Whether nothing has come yet of the first attempt since this node's start to reach `node`.
    pub(super) fn is_untried(&self, node: &NodeId) -> bool {
        self.untried.contains(node)
    }
}

impl Node {
    /// Notices that this node itself has stood still, before anything is concluded from what it did not hear meanwhile.
    pub(super) fn note_own_pause(&mut self, now: Now) {
        if now.instant - self.watched > WATCH_INTERVAL + OWN_PAUSE {
            self.watched = now.instant;
            self.liveness.on_own_pause(now.instant);
        }
    }

    pub(super) fn on_alarm(&mut self, now: Now, alarm: Alarm) {
        match alarm {
            Alarm::Outbound(outbound) => {
                if let Some(waiting) = self.outbounds.get(&outbound) {
                    self.liveness.on_timeout(waiting.to, now.instant);
                    self.handle_response(now, outbound, Err(SendFailure::Unknown));
                }
            }
            Alarm::Operation(number) => self.on_operation_due(now, number),
            Alarm::Slow(number) => self.on_operation_slow(now, number),
            Alarm::Handoff => self.on_handoff_alarm(now),
            Alarm::LookAtHints => self.look_at_hints(now),
            Alarm::Stop => self.on_stop_due(now),
            Alarm::Fill => self.on_fill_alarm(now),
            Alarm::Exchange => self.begin_due_exchange(now),
            Alarm::Turn(exchange) => self.on_turn_due(now, exchange),
            Alarm::Check => self.check_next(now),
            Alarm::Reconcile => {
                self.alarms.set(Alarm::Reconcile, now.instant + self.config.reconcile_interval);
                match self.config.history_ways.at_random {
                    Way::On => self.reconcile_at_random(now),
                    Way::Off => self.reconcile_where_needed(now),
                }
            }
            Alarm::Watch => self.watch(now),
            Alarm::Namesakes => self.look_for_namesakes(now),
            Alarm::Found => self.on_found_alarm(now, false),
            Alarm::FoundAfterAll => self.on_found_alarm(now, true),
            Alarm::SayAgain => self.on_say_again(now),
            Alarm::Alone => self.on_alone(now),
            Alarm::DialMember(node) => self.dial_member(now, node),
            Alarm::DialSeed(seed) => self.dial_seed(now, seed),
        }
    }

    pub(super) fn begin_dialling(&mut self, now: Now) {
        for index in 0..self.config.seed_count {
            self.dial_seed(now, SeedIndex(index));
        }
        let members: Vec<NodeId> = self.view.members.keys().copied().collect();
        self.dialling.untried = members.iter().copied().filter(|node| *node != self.me).collect();
        for node in members {
            self.dial_member(now, node);
        }
    }

    /// Gives up connections over which nothing has come for too long: a cut does not close them. Dialling begins anew when
    /// they are reported lost.
    pub(super) fn watch(&mut self, now: Now) {
        for node in self.liveness.silent(now.instant) {
            self.effects.push_back(Effect::Disconnect(node));
        }
        self.check_alerts(now);
        // Nothing tells that a source can be asked again.
        self.go_on_filling(now);
        // Nothing tells of the last hint or operation that a leaver waits for.
        self.look_at_own_standing(now);
        if self.records.store_failure().is_some() && self.is_probe_due(now) {
            // Otherwise a store that nobody writes to would stay failed for ever.
            self.store(TicketUse::Unwatched, Work::Probe);
        }
        self.watched = now.instant;
        self.alarms.set(Alarm::Watch, now.instant + WATCH_INTERVAL);
    }

    /// Dials a member that is not connected, and again after a pause that doubles, until it is.
    pub(super) fn dial_member(&mut self, now: Now, node: NodeId) {
        if node == self.me || self.liveness.is_connected(&node) {
            return;
        }
        if self.view.members.contains_key(&node) {
            self.dial_once(node);
            self.dial_again_later(now, Alarm::DialMember(node));
        }
    }

    /// Dials a member that is not connected. The pauses between dials stay what they are.
    pub(super) fn dial_once(&mut self, node: NodeId) {
        let Some(member) = self.view.members.get(&node) else { return };
        let addresses = member.profile.addresses.clone();
        self.counters.dials += 1;
        self.effects.push_back(Effect::Dial { node, addresses });
    }

    /// Addresses given at start at which nobody is connected.
    pub(super) fn silent_seeds(&self) -> impl Iterator<Item = SeedIndex> {
        let is_connected =
            |seed: &SeedIndex| self.dialling.seeds.get(seed).is_some_and(|node| self.liveness.is_connected(node));
        (0..self.config.seed_count).map(SeedIndex).filter(move |seed| !is_connected(seed))
    }

    /// Peers were seen on the local network. How many of them a second is bounded by whoever sees them.
    pub(super) fn on_discovered(&mut self, seen: Vec<(NodeId, Vec<String>)>) {
        for (node, addresses) in seen {
            if node != self.me && !self.liveness.is_connected(&node) {
                self.effects.push_back(Effect::Dial { node, addresses });
            }
        }
    }

    pub(super) fn on_connected(&mut self, now: Now, node: NodeId, seed: Option<SeedIndex>) {
        if let Some(seed) = seed {
            self.dialling.seeds.insert(seed, node);
        }
        self.liveness.on_connected(node, now.instant);
        self.dialling.untried.remove(&node);
        self.alarms.clear(&Alarm::DialMember(node));
    }

    pub(super) fn on_lost(&mut self, now: Now, node: NodeId) {
        self.liveness.on_lost(node, now.instant);
        let was_identified = self.identified.remove(&node);
        if !self.is_ready_for_hints(&node) {
            self.schedule.on_down(&node);
        }
        self.on_exchange_peer_lost(now, &node);
        let waiting: Vec<OutboundId> =
            self.outbounds.iter().filter(|(_, waiting)| waiting.to == node).map(|(outbound, _)| *outbound).collect();
        for outbound in waiting {
            self.handle_response(now, outbound, Err(SendFailure::Unknown));
        }
        if !was_identified {
            // It closes connections before anything is said on them: dialling it at once would go on without end.
            if self.view.members.contains_key(&node) {
                self.dial_again_later(now, Alarm::DialMember(node));
            }
            return;
        }
        self.dial_member(now, node);
        let seeds: Vec<SeedIndex> =
            self.dialling.seeds.iter().filter(|(_, found)| **found == node).map(|(seed, _)| *seed).collect();
        for seed in seeds {
            self.dial_seed(now, seed);
        }
    }

    /// The pause before the next dial is already running.
    pub(super) fn on_dial_failed(&mut self, now: Now, node: NodeId) {
        self.dialling.untried.remove(&node);
        if !self.liveness.is_connected(&node) {
            self.liveness.on_lost(node, now.instant);
        }
    }

    /// A peer turned out to be a node of this cluster.
    pub(super) fn on_identified(&mut self, now: Now, node: NodeId) {
        if self.identified.len() < 2 * MEMBER_COUNT_MAX {
            self.identified.insert(node);
        }
        self.dialling.pauses.remove(&Alarm::DialMember(node));
        if self.config.history_ways.compares_on_connection() {
            self.reconcile_with(now, node);
        }
        self.begin_handoff(now, &node);
    }

    fn is_probe_due(&mut self, now: Now) -> bool {
        let is_due = self.probed.is_none_or(|probed| now.instant - probed >= PROBE_INTERVAL);
        if is_due {
            self.probed = Some(now.instant);
        }
        is_due
    }

    fn dial_seed(&mut self, now: Now, seed: SeedIndex) {
        let is_connected = self.dialling.seeds.get(&seed).is_some_and(|node| self.liveness.is_connected(node));
        if !is_connected {
            self.effects.push_back(Effect::DialSeed(seed));
        }
        self.dial_again_later(now, Alarm::DialSeed(seed));
    }

    /// Doubles the pause up to its cap, and takes off up to a quarter at random so that peers do not dial in step.
    fn dial_again_later(&mut self, now: Now, alarm: Alarm) {
        let pause = self.dialling.pauses.get(&alarm).map_or(self.config.redial_min, |pause| *pause * 2);
        let pause = pause.min(self.config.redial_max);
        self.dialling.pauses.insert(alarm, pause);
        let due = now.instant + pause.mul_f64(1.0 - self.fraction() / 4.0);
        self.alarms.set(alarm, due);
    }

    /// From 0 to 1.
    pub(super) fn fraction(&mut self) -> f64 {
        f64::from(self.rng.next_u32()) / f64::from(u32::MAX)
    }
}
