//! The whole machine: every decision of a node, and nothing that touches the world.
//!
//! A [`Node`] owns the machines of the levels below and is driven by seven inputs; what it wants done is polled as
//! [`Effect`]s. Whoever drives it (the event loop, the simulator) reads the clock once per input, drains all effects and
//! re-arms one timer. Equal inputs give equal effects: the node draws randomness from its own seeded generator only.

pub mod effect;
pub mod counters;
mod ticket;
mod history;
mod lives;
mod judging;
mod reconciling;
mod operations;
mod questions;
mod writing;
mod reading;
mod forwarding;
mod peer;
mod handoff;
mod asking;
mod exchanging;
mod exchange_sizes;
mod repairing;
mod marking;
mod answering;
mod penalties;
mod doubt;
mod filling;
mod standing;
mod checking;
mod alerts;
mod status;
mod upkeep;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod operation_tests;
#[cfg(test)]
mod life_tests;
#[cfg(test)]
mod order_tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::{
    causality::context::ContextKey,
    clock::{Deadlines, Instant, Now},
    config::NodeConfig,
    digest::Digest,
    handoff::{
        filling::Filling,
        hints::{Delivery, HintSchedule},
    },
    ident::NodeId,
    membership::{
        change::Signer,
        liveness::{Liveness, Opinion},
        view::View,
    },
    node::{
        alerts::Alerts,
        answering::Answering,
        asking::Exchanging,
        checking::Checking,
        counters::Counters,
        doubt::Doubt,
        effect::{Caller, ClientId, Effect, Event, ExchangeNews, InboundId, News, OutboundId, Stop, Ticket},
        filling::Handing,
        history::Records,
        lives::Lives,
        marking::Marks,
        operations::{Asker, OpNumber, Operations},
        penalties::Penalties,
        reconciling::Reconciling,
        standing::Orders,
        ticket::TicketUse,
        upkeep::{Alarm, Dialling},
    },
    replica::{Done, Query, Work, startup::Recovered},
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
    lives: Lives,
    view: View,
    liveness: Liveness,
    schedule: HintSchedule,
    exchanging: Exchanging,
    marks: Marks,
    answering: Answering,
    penalties: Penalties,
    checking: Checking,
    doubt: Doubt,
    alerts: Alerts,
    filling: Filling,
    handing: Handing,
    /// Peers that cannot vouch for what they hold, as they said last.
    doubters: BTreeSet<NodeId>,
    /// When this node may next say something of partitions, and when it last did.
    statement_due: Instant,
    last_statement: Instant,
    /// When it next asks those whose word is missing.
    witnesses_due: Instant,
    /// The other members of the rows this node is in.
    co_owners: BTreeSet<NodeId>,
    identified: BTreeSet<NodeId>,
    dialling: Dialling,
    reconciling: Reconciling,
    operations: Operations,
    tickets: BTreeMap<Ticket, TicketUse>,
    outbounds: BTreeMap<OutboundId, Outbound>,
    alarms: Deadlines<Alarm>,
    effects: VecDeque<Effect>,
    next_number: u64,
    counters: Counters,
    ready: bool,
    /// It is about to stop, and why.
    stopping: Option<Stop>,
    /// The placement digest under which one that stays knew that this node leaves.
    farewell: Option<Digest>,
    has_stopped: bool,
    orders: Orders,
    /// When a store that failed was last tried.
    probed: Option<Instant>,
    /// When it was last looked whether anybody has fallen silent.
    watched: Instant,
}

/// What a request to a peer is for.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Outbound {
    to: NodeId,
    purpose: Purpose,
    /// When a read was sent: how long reads take says how near a peer is. Nothing for what waits for a disk.
    read_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Purpose {
    Operation(OpNumber),
    Reconcile,
    Repair,
    Hint(Delivery),
    /// Another is to compare these partitions early.
    Mark,
}

impl Node {
    /// A node that has just started on a store which told it `recovered`.
    ///
    /// `seed` feeds its generator; `instance` names this process: no other has it, and one that was started later has a higher
    /// one.
    pub fn new(
        config: NodeConfig,
        signer: Signer,
        recovered: Recovered,
        instance: u64,
        seed: [u8; 32],
        now: Now,
    ) -> Node {
        let me = signer.node_id();
        let schedule = HintSchedule::new(recovered.hint_targets.iter().copied(), config.rules.handoff);
        let doubt = Doubt::new(&recovered.in_doubt);
        let lives = Lives::new((recovered.boot, instance), recovered.peer_lives);
        let records = Records::new(&config, recovered.changes);
        let view = View::fold_by(records.history(), config.rules.placement);
        let co_owners = view.co_owners(&me);
        let mut node = Node {
            me,
            context_key: config.context_key(),
            signer,
            rng: ChaCha8Rng::from_seed(seed),
            records,
            lives,
            view,
            liveness: Liveness::new(),
            schedule,
            exchanging: Exchanging::new(config.exchange_interval),
            marks: Marks::default(),
            answering: Answering::default(),
            penalties: Penalties::default(),
            checking: Checking::default(),
            doubt,
            alerts: Alerts::default(),
            filling: Filling::new(me, config.rules.filling),
            handing: Handing::new(),
            doubters: BTreeSet::new(),
            statement_due: now.instant,
            last_statement: Instant(0),
            witnesses_due: now.instant,
            co_owners,
            identified: BTreeSet::new(),
            dialling: Dialling::default(),
            reconciling: Reconciling::default(),
            operations: Operations::default(),
            tickets: BTreeMap::new(),
            outbounds: BTreeMap::new(),
            alarms: Deadlines::new(),
            effects: VecDeque::new(),
            next_number: 0,
            counters: Counters::default(),
            ready: false,
            stopping: None,
            farewell: None,
            has_stopped: false,
            orders: Orders::default(),
            probed: None,
            watched: now.instant,
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

    /// How many partitions it holds that it cannot vouch for.
    pub fn doubted_partition_count(&self) -> usize {
        self.doubted_partitions()
    }

    /// Partitions that it is to hold and cannot vouch for yet, and those it has something of and is to hold no more; at least one
    /// of these while it is not known that there is none.
    pub fn duty_counts(&self) -> (usize, usize) {
        let is_over = usize::from(!self.handing.is_over());
        (self.filling.progress().0, self.handing.len().max(is_over))
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
    pub fn handle_client(&mut self, now: Now, client: ClientId, caller: Caller, request: ClientRequest) {
        match request {
            ClientRequest::Administer(order) => self.on_order(now, client, caller, order),
            request => self.begin_request(now, Asker::Client(client), request),
        }
    }

    /// A peer asks, and loses interest at `due`. `Respond` follows exactly once.
    pub fn handle_request(&mut self, now: Now, from: NodeId, inbound: InboundId, due: Instant, request: Request) {
        self.answer_peer(now, from, inbound, due, request);
    }

    /// A peer has answered, or cannot. Ignored when the node has lost interest.
    pub fn handle_response(&mut self, now: Now, outbound: OutboundId, result: Result<Response, SendFailure>) {
        let Some(Outbound { to, purpose, read_at }) = self.outbounds.remove(&outbound) else { return };
        self.alarms.clear(&Alarm::Outbound(outbound));
        if result.is_ok() {
            self.liveness.on_answer(to, now.instant);
            if let Some(read_at) = read_at {
                self.liveness.on_response_time(to, now.instant - read_at);
            }
        }
        match purpose {
            Purpose::Operation(number) => self.on_operation_response(now, number, to, result),
            Purpose::Reconcile => self.on_reconcile_response(now, to, result),
            Purpose::Repair => {}
            Purpose::Mark => self.on_marks_passed_on(to, &result),
            Purpose::Hint(delivery) => self.on_hint_answered(now, delivery, to, result),
        }
    }

    /// The store committed, or failed.
    pub fn handle_done(&mut self, now: Now, ticket: Ticket, result: Result<Done, StoreError>) {
        let Some(purpose) = self.tickets.remove(&ticket) else { return };
        match &result {
            Ok(
                Done::Written { .. }
                | Done::Merged
                | Done::MergedAll { .. }
                | Done::Saved
                | Done::Swept(_)
                | Done::Dropped { .. },
            ) => {
                self.records.note_store_failure(None);
            }
            // A refusal or an answer says nothing of whether the store takes writes.
            Ok(
                Done::Refused(_)
                | Done::Object(_)
                | Done::Known(_)
                | Done::Keys(_)
                | Done::Hints(_)
                | Done::HintTotals(_)
                | Done::Totals { .. }
                | Done::Checked(_)
                | Done::Roots(_)
                | Done::Answered { .. }
                | Done::Descended { .. },
            ) => {}
            Err(StoreError::Busy { .. }) => self.counters.overloaded += 1,
            Err(error) => {
                self.records.note_store_failure(Some(error.to_string()));
                self.tell(Event::StoreFailed { detail: error.to_string() });
            }
        }
        if let Some(target) = purpose.hint_target() {
            // Also after a failure: some media store what they say they could not.
            self.counters.hints_kept += u64::from(matches!(result, Ok(Done::Merged | Done::Written { .. })));
            self.on_hint_kept(now, target);
        }
        match purpose {
            TicketUse::Write { number, .. } => self.on_written(now, number, result),
            TicketUse::Read(number) => self.on_read_here(now, number, result),
            TicketUse::Answer(number) => self.on_answer_read(now, number, result),
            TicketUse::CopyHere { number, target } => self.on_copied_here(now, number, target, result),
            TicketUse::PeerRead { inbound, partition, whole_bytes_max } => {
                self.on_peer_read(inbound, partition, whole_bytes_max, result);
            }
            TicketUse::PeerMerge { inbound, partition, .. } => self.on_peer_merged(inbound, partition, result),
            TicketUse::PeerMark(inbound) => self.on_peer_marked(inbound, result),
            TicketUse::HintPage(target) => self.on_hint_page(now, &target, result),
            TicketUse::HintHere(delivery) => self.on_hint_here(now, delivery, result),
            TicketUse::HintTotals => self.on_hint_totals(now, result),
            TicketUse::Sweep(sweep) => self.on_swept(now, sweep, result),
            TicketUse::Descend(exchange) => self.on_turn(now, exchange, result),
            TicketUse::TakenIn(exchange) => self.on_taken_in(now, exchange, result),
            TicketUse::AnswerExchange(exchange) => self.on_answer_found(now, exchange, result),
            TicketUse::GivenIn(exchange) => self.on_given_in(now, exchange, result),
            TicketUse::Check(bucket) => self.on_checked(now, bucket, result),
            TicketUse::Mend(bucket) => self.on_mended(now, bucket, result),
            TicketUse::BeforeLeftovers(partitions) => self.on_before_leftovers(partitions),
            TicketUse::Leftovers => self.on_leftovers(now, result),
            TicketUse::Drop => self.on_dropped(now, result),
            TicketUse::Changes => self.on_changes_saved(now, result),
            TicketUse::Boot { before } if result.is_err() => self.on_boot_not_raised(before),
            TicketUse::PeerLife(peer) if result.is_err() => self.on_peer_life_not_saved(&peer),
            TicketUse::Boot { .. } | TicketUse::PeerLife(_) | TicketUse::Unwatched => {}
        }
    }

    /// Something has come of an exchange. Ignored when the node has lost interest.
    pub fn handle_exchange(&mut self, now: Now, news: ExchangeNews) {
        match news {
            ExchangeNews::Asked { from, exchange, question } => {
                self.on_exchange_question(now, from, exchange, question)
            }
            ExchangeNews::AskerGone(exchange) => self.on_asker_gone(now, exchange),
            ExchangeNews::Answered { exchange, answer } => self.on_exchange_answer(now, exchange, answer),
            ExchangeNews::Failed { exchange, is_busy } => self.on_exchange_failed(now, exchange, is_busy),
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
            News::Announced { heard, change } => self.on_announced(now, heard, change),
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.note_own_pause(now);
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

    /// Everybody that this node does not believe to be down; itself not among them.
    fn is_reachable(&self, now: Now, node: &NodeId) -> bool {
        self.liveness.opinion(node, now.instant) != Opinion::Down
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn store(&mut self, purpose: TicketUse, work: Work) {
        self.store_by(None, purpose, work);
    }

    /// Has the store do something that nobody wants any more after `due`.
    fn store_by(&mut self, due: Option<Instant>, purpose: TicketUse, work: Work) {
        let ticket = Ticket(self.number());
        self.tickets.insert(ticket, purpose);
        self.effects.push_back(Effect::Store { ticket, work, due });
    }

    fn query(&mut self, purpose: TicketUse, query: Query) {
        self.query_by(None, purpose, query);
    }

    /// Asks the store what nobody wants to know any more after `due`.
    fn query_by(&mut self, due: Option<Instant>, purpose: TicketUse, query: Query) {
        let ticket = Ticket(self.number());
        self.tickets.insert(ticket, purpose);
        self.effects.push_back(Effect::Query { ticket, query, due });
    }

    /// Sends one request to several peers. Each must answer by `due`, or fails.
    fn send(&mut self, now: Instant, to: &[NodeId], purpose: Purpose, request: Request, due: Instant) {
        let mut named = Vec::with_capacity(to.len());
        let read_at = matches!(request, Request::Read { .. }).then_some(now);
        for node in to {
            let outbound = OutboundId(self.number());
            self.outbounds.insert(outbound, Outbound { to: *node, purpose, read_at });
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
