//! The whole machine: every decision of a node, and nothing that touches the world.
//!
//! A [`Node`] owns the machines of the levels below and is driven by seven inputs; what it wants done is polled as
//! [`Effect`]s. Whoever drives it (the event loop, the simulator) reads the clock once per input, drains all effects and
//! re-arms one timer. Equal inputs give equal effects: the node draws randomness from its own seeded generator only.

pub mod effect;
mod history;
mod operations;
mod writing;
mod reading;
mod forwarding;
mod peer;
mod status;
mod upkeep;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::{
    causality::context::ContextKey,
    clock::{Deadlines, Instant, Now},
    config::NodeConfig,
    digest::Digest,
    ident::NodeId,
    membership::{
        change::Signer,
        liveness::{Liveness, Opinion},
        view::View,
    },
    node::{
        effect::{ClientId, Effect, Event, InboundId, News, OutboundId, Ticket},
        history::Records,
        operations::{Asker, OpNumber, Operations},
        upkeep::{Alarm, Dialling},
    },
    replica::{Done, Query, Work, startup::Recovered},
    ring::token::Partition,
    store::StoreError,
    wire::{
        client::ClientRequest,
        quorum::{Request, Response},
    },
};

/// Why a request to a peer brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendFailure {
    /// It was never sent.
    NotSent,
    /// It may have been carried out.
    Unknown,
}

/// What the node counts; plain numbers, only ever rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Writes and reads this node coordinated.
    pub coordinated: u64,
    /// Requests forwarded to another coordinator.
    pub forwarded: u64,
    /// Requests refused because a bound was reached.
    pub overloaded: u64,
    /// Replicas sent a repair after a read.
    pub repaired: u64,
    /// Repairs not sent because too much was under way.
    pub repairs_shed: u64,
    /// Membership changes refused.
    pub changes_refused: u64,
    /// Answers given under another history.
    pub other_history: u64,
}

/// A node of the cluster, member or about to become one.
///
/// **Inputs**: the `handle_*` functions. **Effects**: [`Node::poll_effect`]. **Time**: [`Node::next_timeout`]; inputs
/// carry the present. **Ends when** it is dropped.
#[derive(Debug)]
pub struct Node {
    me: NodeId,
    config: NodeConfig,
    signer: Signer,
    rng: ChaCha8Rng,
    context_key: ContextKey,
    records: Records,
    view: View,
    liveness: Liveness,
    identified: BTreeSet<NodeId>,
    dialling: Dialling,
    operations: Operations,
    tickets: BTreeMap<Ticket, TicketUse>,
    outbounds: BTreeMap<OutboundId, Outbound>,
    alarms: Deadlines<Alarm>,
    effects: VecDeque<Effect>,
    next_number: u64,
    counters: Counters,
    ready: bool,
}

/// What a piece of storage work is for.
#[derive(Debug, Clone, PartialEq)]
enum TicketUse {
    /// The coordinator's own write.
    Write(OpNumber),
    /// The coordinator's own answer to a read.
    Read(OpNumber),
    /// The whole answer to a client.
    Answer(OpNumber),
    /// A peer's read of a key.
    PeerRead { inbound: InboundId, partition: Partition },
    /// A peer's merge.
    PeerMerge { inbound: InboundId, partition: Partition },
    /// Membership changes on their way into the history.
    Changes,
    /// A later start of this node that others have seen; `before` is the number it went by.
    Boot { before: u64 },
    /// The boot number of a peer.
    PeerLife(NodeId),
    /// Nobody waits for it.
    Unwatched,
}

/// What a request to a peer is for.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Outbound {
    to: NodeId,
    purpose: Purpose,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Purpose {
    Operation(OpNumber),
    Reconcile,
    Repair,
}

impl Node {
    /// A node that has just started on a store which told it `recovered`.
    ///
    /// `seed` feeds its generator; `instance` names this process and must differ between processes.
    pub fn new(
        config: NodeConfig,
        signer: Signer,
        recovered: Recovered,
        instance: u64,
        seed: [u8; 32],
        now: Now,
    ) -> Node {
        let me = signer.node_id();
        let records = Records::new(&config, recovered, instance);
        let view = View::fold(records.history());
        let mut node = Node {
            me,
            context_key: config.context_key(),
            signer,
            rng: ChaCha8Rng::from_seed(seed),
            records,
            view,
            liveness: Liveness::new(),
            identified: BTreeSet::new(),
            dialling: Dialling::default(),
            operations: Operations::default(),
            tickets: BTreeMap::new(),
            outbounds: BTreeMap::new(),
            alarms: Deadlines::new(),
            effects: VecDeque::new(),
            next_number: 0,
            counters: Counters::default(),
            ready: false,
            config,
        };
        node.begin(now);
        node
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.me
    }

    /// What the history folds to.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Digest of the membership history.
    pub fn history_digest(&self) -> Digest {
        self.records.history().digest()
    }

    /// This node's private opinion of another.
    pub fn opinion(&self, now: Now, node: &NodeId) -> Opinion {
        self.liveness.opinion(node, now.instant)
    }

    /// What has been counted so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How much is under way: operations, storage work, requests to peers. All bounded.
    pub fn load(&self) -> [usize; 3] {
        [self.operations.len(), self.tickets.len(), self.outbounds.len()]
    }

    /// A client, local or remote, wants something. `Reply` follows exactly once.
    pub fn handle_client(&mut self, now: Now, client: ClientId, request: ClientRequest) {
        self.begin_request(now, Asker::Client(client), request);
    }

    /// A peer asks. `Respond` follows exactly once.
    pub fn handle_request(&mut self, now: Now, from: NodeId, inbound: InboundId, request: Request) {
        self.answer_peer(now, from, inbound, request);
    }

    /// A peer has answered, or cannot. Ignored when the node has lost interest.
    pub fn handle_response(&mut self, now: Now, outbound: OutboundId, result: Result<Response, SendFailure>) {
        let Some(Outbound { to, purpose }) = self.outbounds.remove(&outbound) else { return };
        self.alarms.clear(&Alarm::Outbound(outbound));
        if result.is_ok() {
            self.liveness.on_answer(to, now.instant);
        }
        match purpose {
            Purpose::Operation(number) => self.on_operation_response(now, number, to, result),
            Purpose::Reconcile => self.on_reconcile_response(now, to, result),
            Purpose::Repair => {}
        }
    }

    /// The store committed, or failed.
    pub fn handle_done(&mut self, now: Now, ticket: Ticket, result: Result<Done, StoreError>) {
        let Some(purpose) = self.tickets.remove(&ticket) else { return };
        match &result {
            Ok(Done::Written { .. } | Done::Merged | Done::Saved) => self.records.note_store_failure(None),
            // A refusal or an answer says nothing of whether the store takes writes.
            Ok(Done::Refused(_) | Done::Object(_) | Done::Keys(_) | Done::Totals { .. }) => {}
            Err(error) => {
                self.records.note_store_failure(Some(error.to_string()));
                self.tell(Event::StoreFailed { detail: error.to_string() });
            }
        }
        match purpose {
            TicketUse::Write(number) => self.on_written(now, number, result),
            TicketUse::Read(number) => self.on_read_here(now, number, result),
            TicketUse::Answer(number) => self.on_answer_read(now, number, result),
            TicketUse::PeerRead { inbound, partition } => self.on_peer_read(inbound, partition, result),
            TicketUse::PeerMerge { inbound, partition } => self.on_peer_merged(inbound, partition, result),
            TicketUse::Changes => self.on_changes_saved(now, result),
            TicketUse::Boot { before } if result.is_err() => self.on_boot_not_raised(before),
            TicketUse::PeerLife(peer) if result.is_err() => self.on_peer_life_not_saved(&peer),
            TicketUse::Boot { .. } | TicketUse::PeerLife(_) | TicketUse::Unwatched => {}
        }
    }

    /// The network has news.
    pub fn handle_news(&mut self, now: Now, news: News) {
        match news {
            News::Connected { node, seed } => self.on_connected(now, node, seed),
            News::Lost(node) => self.on_lost(now, node),
            News::Heartbeat(node) => self.liveness.on_heartbeat(node, now.instant),
            News::DialFailed(node) => self.on_dial_failed(now, node),
            News::Identified(node) => self.on_identified(now, node),
            News::Discovered(seen) => self.on_discovered(seen),
            News::Listening(addresses) => self.on_listening(now, addresses),
            News::Announced(change) => self.on_announced(now, change),
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(alarm) = self.alarms.take_due(now.instant) {
            self.on_alarm(now, alarm);
        }
    }

    /// The next thing to do, in order.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When `handle_timeout` is wanted next.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.alarms.next()
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn store(&mut self, purpose: TicketUse, work: Work) {
        let ticket = Ticket(self.number());
        self.tickets.insert(ticket, purpose);
        self.effects.push_back(Effect::Store { ticket, work });
    }

    fn query(&mut self, purpose: TicketUse, query: Query) {
        let ticket = Ticket(self.number());
        self.tickets.insert(ticket, purpose);
        self.effects.push_back(Effect::Query { ticket, query });
    }

    /// Sends one request to several peers. Each must answer by `due`, or fails.
    fn send(&mut self, to: &[NodeId], purpose: Purpose, request: Request, due: Instant) {
        let mut named = Vec::with_capacity(to.len());
        for node in to {
            let outbound = OutboundId(self.number());
            self.outbounds.insert(outbound, Outbound { to: *node, purpose });
            self.alarms.set(Alarm::Outbound(outbound), due);
            named.push((*node, outbound));
        }
        if !named.is_empty() {
            self.effects.push_back(Effect::Send { to: named, request, due });
        }
    }

    fn tell(&mut self, event: Event) {
        self.effects.push_back(Effect::Tell(event));
    }
}
