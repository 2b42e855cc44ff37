//! A whole cluster in one thread: real nodes, simulated computers, and the queue of what happens next.
//!
//! A **step** is one happening, or one node's timer, and all effects that follow from it. Nothing is committed, and no
//! message arrives, in the middle of a step. A computer that stands still takes everything later. Whoever drives the
//! cluster takes the [`Outcome`]s after each step. Equal seeds and equal calls give equal runs; the trace, when it is
//! asked for, is a digest of every effect.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use quorate::{
    clock::Instant,
    config::{AntiEntropy, Founding, HistoryWays, NodeConfig, NodeRules},
    ident::{Key, Name, NodeId},
    membership::change::{Parameters, Profile},
    node::{
        Node, SendFailure,
        effect::{Caller, ClientId, Event, Heard, InboundId, News, OutboundId, SeedIndex, Ticket, Verdict},
    },
    quorum::put::Hinting,
    replica::{Query, hints::HintLimits, rules::Rules},
    ring::token::PartitionCount,
    store::StoreError,
    wire::{
        client::{ClientRequest, ClientResponse},
        quorum::{Request, Response},
    },
};

use crate::{
    checker::Checker,
    dice::Dice,
    exchanges::{ExchangeHappening, Exchanges},
    histories::Toll,
    machine::{Acknowledge, Machine, Results},
    network::{Network, Weather},
};

/// How a cluster is set up.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) nodes: usize,
    pub(crate) replicas: u8,
    pub(crate) rules: Rules,
    pub(crate) node_rules: NodeRules,
    pub(crate) hinting: Hinting,
    /// What a node keeps for others, how long, and when people are told of a member; nothing for what is usual.
    pub(crate) hint_limits: Option<HintLimits>,
    pub(crate) hint_ttl: Option<Duration>,
    pub(crate) read_repair: bool,
    pub(crate) anti_entropy: AntiEntropy,
    pub(crate) exchange_interval: Option<Duration>,
    pub(crate) exchange_bytes_per_second: Option<u64>,
    pub(crate) history_ways: HistoryWays,
    pub(crate) dead_after: Option<Duration>,
    pub(crate) digest_above_bytes: Option<u32>,
    /// How many zones the nodes are spread over, one after the other; none for 0.
    pub(crate) zones: usize,
    pub(crate) acknowledge: Acknowledge,
    pub(crate) weather: Weather,
    pub(crate) is_traced: bool,
}

impl Setup {
    /// Sound rules and fair weather.
    pub(crate) fn sound(nodes: usize, replicas: u8) -> Setup {
        Setup {
            nodes,
            replicas,
            rules: Rules::sound(),
            node_rules: NodeRules::sound(),
            hinting: Hinting::On,
            hint_limits: None,
            hint_ttl: None,
            read_repair: true,
            anti_entropy: AntiEntropy::On,
            exchange_interval: None,
            exchange_bytes_per_second: None,
            history_ways: HistoryWays::all(),
            dead_after: None,
            digest_above_bytes: None,
            zones: 0,
            acknowledge: Acknowledge::AfterCommit,
            weather: Weather::FAIR,
            is_traced: false,
        }
    }
}

/// What a step brought about outside the nodes.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "few at a time")]
pub(crate) enum Outcome {
    /// The time has come that [`Cluster::wake`] asked for.
    Woken(u64),
    /// A client's request was answered.
    Replied(u64, ClientResponse),
    /// The node that was asked is gone: nobody knows what became of the request.
    Unknown(u64),
}

/// Something that waits for its time.
#[derive(Debug)]
pub(crate) enum Happening {
    Request { from: ReturnAddress, to: usize, life: u64, due: Instant, request: Request },
    Response { to: usize, life: u64, outbound: OutboundId, result: Result<Response, SendFailure> },
    Announced { from: usize, to: usize, news: News },
    Dialled { from: usize, life: u64, to: usize, seed: Option<SeedIndex> },
    Identified { node: usize, peer: usize, generation: u64 },
    Lost { node: usize, peer: usize, generation: u64, cause: Cause },
    Commit { node: usize, life: u64 },
    Committed { node: usize, life: u64, results: Results },
    Queried { node: usize, life: u64, ticket: Ticket, query: Query },
    Exchange(ExchangeHappening),
    Start { node: usize },
    End { node: usize, life: u64 },
    LookAround,
    Wake(u64),
}

/// Why a connection is noticed to be lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Cause {
    /// Nothing comes through; forgiven if that is over.
    Cut,
    /// The other process is gone.
    Crash,
}

/// Where the answer to a request goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReturnAddress {
    pub(crate) node: usize,
    pub(crate) life: u64,
    pub(crate) outbound: OutboundId,
    /// Who answers.
    pub(crate) answerer: usize,
}

/// The simulated cluster.
pub(crate) struct Cluster {
    pub(crate) machines: Vec<Machine>,
    pub(crate) network: Network,
    pub(crate) checker: Checker,
    pub(crate) dice: Dice,
    pub(crate) outcomes: VecDeque<Outcome>,
    /// What nodes have told people, by index of the node.
    pub(crate) told: Vec<(usize, Event)>,
    /// What nodes have said of announcements, by index of the node.
    pub(crate) judged: Vec<(usize, Heard, Verdict)>,
    pub(crate) now_ms: u64,
    pub(crate) step_count: u64,
    happenings: BTreeMap<(u64, u64), Happening>,
    happening_count: u64,
    pub(crate) indices: BTreeMap<NodeId, usize>,
    /// The computer with a copy of another's disk, by that other.
    pub(crate) copies: BTreeMap<usize, usize>,
    pub(crate) inbounds: BTreeMap<InboundId, ReturnAddress>,
    pub(crate) inbound_count: u64,
    pub(crate) exchanges: Exchanges,
    /// Which node owes an answer to a client.
    pub(crate) asked: BTreeMap<u64, usize>,
    request_count: u64,
    pub(crate) trace: Option<blake3::Hasher>,
    /// Members come and go.
    pub(crate) rows_change: bool,
    /// What comparing histories costs, while that is counted.
    pub(crate) toll: Option<Toll>,
}

impl Cluster {
    /// Computers with empty disks, all switched off, that see each other on the local network.
    pub(crate) fn new(seed: u64, setup: &Setup) -> Cluster {
        let mut dice = Dice::new(seed);
        let parameters =
            Parameters { partitions: PartitionCount::new(16).expect("a power of two"), replicas: setup.replicas };
        let machines: Vec<Machine> = (0..setup.nodes)
            .map(|index| {
                let mut config = config(&format!("n{index}"), parameters);
                config.rules = setup.node_rules;
                config.hinting = setup.hinting;
                config.hint_limits = setup.hint_limits.unwrap_or(config.hint_limits);
                config.read_repair = setup.read_repair;
                config.anti_entropy = setup.anti_entropy;
                config.history_ways = setup.history_ways;
                config.exchange_interval = setup.exchange_interval.unwrap_or(config.exchange_interval);
                let rate = setup.exchange_bytes_per_second;
                config.exchange_bytes_per_second = rate.unwrap_or(config.exchange_bytes_per_second);
                config.hint_ttl = setup.hint_ttl.unwrap_or(config.hint_ttl);
                config.digest_above_bytes = setup.digest_above_bytes.unwrap_or(config.digest_above_bytes);
                config.dead_after = setup.dead_after.unwrap_or(config.dead_after);
                let zone = (setup.zones > 0).then(|| format!("z{}", index % setup.zones));
                config.profile.zone = zone.map(|zone| Name::new(&zone).expect("a name"));
                let mut machine = Machine::new(dice.bytes(), config, setup.rules, setup.acknowledge);
                machine.wall_skew_ms = dice.below(5_000);
                machine
            })
            .collect();
        let indices = machines.iter().enumerate().map(|(index, machine)| (machine.id, index)).collect();
        let mut cluster = Cluster {
            machines,
            network: Network::new(setup.weather),
            checker: Checker::default(),
            dice,
            outcomes: VecDeque::new(),
            told: Vec::new(),
            judged: Vec::new(),
            now_ms: 0,
            step_count: 0,
            happenings: BTreeMap::new(),
            happening_count: 0,
            indices,
            copies: BTreeMap::new(),
            inbounds: BTreeMap::new(),
            inbound_count: 0,
            exchanges: Exchanges::default(),
            asked: BTreeMap::new(),
            request_count: 0,
            trace: setup.is_traced.then(blake3::Hasher::new),
            rows_change: false,
            toll: None,
        };
        cluster.later(10, Happening::LookAround);
        cluster
    }

    /// Digest of all effects so far.
    pub(crate) fn trace(&self) -> Option<blake3::Hash> {
        self.trace.as_ref().map(blake3::Hasher::finalize)
    }

    pub(crate) fn node(&self, index: usize) -> Option<&Node> {
        self.machines[index].process.as_ref().map(|process| &process.node)
    }

    pub(crate) fn is_up(&self, index: usize) -> bool {
        self.machines[index].process.is_some()
    }

    /// The next thing that happens. There always is one.
    pub(crate) fn step(&mut self) {
        self.step_count += 1;
        let timer = self.next_timer();
        let queued = self.happenings.first_key_value().map(|((due, _), _)| *due);
        match (timer, queued) {
            (Some((due, node)), queued) if queued.is_none_or(|queued| due < queued) => {
                self.now_ms = self.now_ms.max(due);
                self.input(node, |node, now| node.handle_timeout(now));
            }
            _ => {
                let ((due, _), happening) = self.happenings.pop_first().expect("looking around goes on for ever");
                self.now_ms = self.now_ms.max(due);
                match self.pause_left_ms(&happening) {
                    0 => self.happen(happening),
                    left_ms => self.later(left_ms, happening),
                }
            }
        }
    }

    /// Asks to be woken after `delay_ms`.
    pub(crate) fn wake(&mut self, delay_ms: u64, what: u64) {
        self.later(delay_ms, Happening::Wake(what));
    }

    /// A client's request to a node; one outcome follows. `None` if the node is down.
    pub(crate) fn submit(&mut self, node: usize, request: ClientRequest) -> Option<u64> {
        if !self.is_up(node) {
            return None;
        }
        self.request_count += 1;
        let number = self.request_count;
        self.asked.insert(number, node);
        self.input(node, |node, now| node.handle_client(now, ClientId(number), Caller::Owner, request));
        Some(number)
    }

    /// Client requests that still wait for an answer.
    pub(crate) fn asked_count(&self) -> usize {
        self.asked.len()
    }

    /// Switches a computer on. A disk that fails delays it.
    pub(crate) fn start(&mut self, index: usize) {
        if self.is_up(index) || self.machines[index].ended.is_some() || self.machines[index].is_lost {
            return;
        }
        let seed = self.dice.bytes();
        let now_ms = self.now_ms;
        match self.machines[index].start(now_ms, seed) {
            Ok(()) => self.drain(index),
            Err(_) => self.start_later(index, 100),
        }
    }

    pub(crate) fn start_later(&mut self, index: usize, delay_ms: u64) {
        self.later(delay_ms, Happening::Start { node: index });
    }

    /// Ends a process without warning. Peers notice after `noticed_ms` at most.
    pub(crate) fn crash(&mut self, index: usize, noticed_ms: u64) {
        if self.is_up(index) {
            self.machines[index].process = None;
            self.gone(index, noticed_ms);
        }
    }

    /// Ends a process cleanly. Peers notice soon.
    pub(crate) fn stop(&mut self, index: usize) {
        if self.is_up(index) {
            let touched: Vec<Key> = self.machines[index].waiting_keys();
            self.machines[index].stop_cleanly(self.now_ms);
            self.checker.on_commit(&self.machines[index], &touched);
            self.gone(index, 20);
        }
    }

    fn next_timer(&self) -> Option<(u64, usize)> {
        let timer_of =
            |(index, machine): (usize, &Machine)| Some((machine.process.as_ref()?.node.next_timeout()?.0, index));
        self.machines.iter().enumerate().filter_map(timer_of).min()
    }

    /// How long the computer that this happens to still stands still.
    fn pause_left_ms(&self, happening: &Happening) -> u64 {
        let node = match happening {
            Happening::Request { to: node, .. }
            | Happening::Response { to: node, .. }
            | Happening::Announced { to: node, .. }
            | Happening::Identified { node, .. }
            | Happening::Lost { node, .. }
            | Happening::Commit { node, .. }
            | Happening::Committed { node, .. }
            | Happening::Queried { node, .. } => *node,
            Happening::Exchange(happening) => happening.node(),
            Happening::Dialled { .. }
            | Happening::Start { .. }
            | Happening::End { .. }
            | Happening::LookAround
            | Happening::Wake(_) => {
                return 0;
            }
        };
        self.machines[node].paused_until_ms.saturating_sub(self.now_ms)
    }

    pub(crate) fn later(&mut self, delay_ms: u64, happening: Happening) {
        self.happening_count += 1;
        self.happenings.insert((self.now_ms + delay_ms, self.happening_count), happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Request { from, to, life, due, request } => self.on_request(from, to, life, due, request),
            Happening::Response { to, life, outbound, result } => {
                if self.lives(to, life) {
                    self.input(to, |node, now| node.handle_response(now, outbound, result));
                }
            }
            Happening::Announced { from, to, news } => {
                if self.network.is_open(from, to) && self.network.believed(to, from).is_some() {
                    self.input(to, |node, now| node.handle_news(now, news));
                }
            }
            Happening::Dialled { from, life, to, seed } => self.on_dialled(from, life, to, seed),
            Happening::Identified { node, peer, generation } => {
                if self.network.believed(node, peer).is_some_and(|(_, current)| current == generation) {
                    let id = self.machines[peer].id;
                    self.input(node, |node, now| node.handle_news(now, News::Identified(id)));
                }
            }
            Happening::Lost { node, peer, generation, cause } => self.on_lost(node, peer, generation, cause),
            Happening::Commit { node, life } => {
                if self.lives(node, life) {
                    self.commit(node);
                }
            }
            Happening::Committed { node, life, results } => {
                for (ticket, result) in results {
                    if self.lives(node, life) {
                        self.input(node, |node, now| node.handle_done(now, ticket, result));
                    }
                }
            }
            Happening::Queried { node, life, ticket, query } => {
                if self.lives(node, life) {
                    let result = self.machines[node].query(self.now_ms, &query);
                    self.input(node, |node, now| node.handle_done(now, ticket, result));
                }
            }
            Happening::Exchange(happening) => self.happen_in_exchange(happening),
            Happening::Start { node } => self.start(node),
            Happening::End { node, life } => {
                if self.lives(node, life) {
                    self.stop(node);
                }
            }
            Happening::LookAround => self.look_around(),
            Happening::Wake(what) => self.outcomes.push_back(Outcome::Woken(what)),
        }
    }

    pub(crate) fn lives(&self, index: usize, life: u64) -> bool {
        self.is_up(index) && self.machines[index].life == life
    }

    /// Lets the disk of a node fail its next commit; it may have stored it all the same.
    pub(crate) fn fail_next_commit(&mut self, index: usize) {
        let error = StoreError::Failed { detail: "as the test wished".to_owned() };
        if self.dice.permille(500) {
            self.machines[index].store.fail_next_commit(error);
        } else {
            self.machines[index].store.fail_next_commit_after_storing(error);
        }
    }
}

fn config(name: &str, parameters: Parameters) -> NodeConfig {
    let profile = Profile { name: Name::new(name).expect("a name"), zone: None, weight: 1, addresses: Vec::new() };
    let mut config = NodeConfig::lan(cluster_name(), profile, parameters);
    config.statement_interval = Duration::from_millis(500);
    config.founding = Founding::After(Duration::from_millis(1_000));
    config
}

/// The name of every simulated cluster.
pub(crate) fn cluster_name() -> Name {
    Name::new("simulated").expect("a name")
}
