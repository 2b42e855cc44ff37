//! The task that drives a client's swarm: connections, the view, and requests on their way.
//!
//! What it does by the clock is in [`upkeep`].
//!
//! **Invariant**: every request handed in is answered exactly once, or its asker is gone; the view only ever grows. It
//! retries nothing; that is for [`crate::client::operation`]. It ends when the last handle is dropped, or when
//! connecting has failed.

mod upkeep;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use async_io::Timer;
use futures::{
    StreamExt,
    channel::{mpsc, oneshot},
    select_biased,
};
use libp2p::{
    PeerId, Swarm, identify,
    swarm::{StreamUpgradeError, SwarmEvent, dial_opts::DialOpts},
};
use quorate_behaviours::{
    mdns,
    quorum_rpc::{self, Lane, RequestId, SendFailure, SendRefused},
};
use tracing::{debug, warn};

use crate::{
    client::{
        ClientConfig, Shared,
        dialling::{Dialling, Finding},
        error::ClientError,
        swarm::{Behaviour, BehaviourEvent, may_dial},
    },
    ident::{Name, NodeId},
    membership::{history::History, view::View},
    runtime::identity,
    wire::{
        self,
        client::{ClientRequest, ClientResponse},
    },
};

/// One request to one node, once.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) node: NodeId,
    pub(super) request: ClientRequest,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Answer>,
}

/// What became of an [`Ask`].
pub(super) type Answer = Result<ClientResponse, AskError>;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AskError {
    /// The node has certainly not seen the request.
    NotSent,
    /// The node, or the queue towards it, is full; it has not begun.
    Overloaded(String),
    /// The request does not fit into a frame, or a read's answer does not.
    TooLarge(String),
    /// The node may have carried it out.
    Unknown(String),
}

/// What everybody may look at while the task goes on.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) view: Arc<View>,
    /// Nodes of our cluster that a request can be sent to at once.
    pub(super) connected: Arc<BTreeSet<NodeId>>,
    /// Who is not, and why; for error messages.
    pub(super) trouble: String,
}

/// See the [module](self).
pub(super) struct Task {
    swarm: Swarm<Behaviour>,
    asks: mpsc::Receiver<Ask>,
    shared: Arc<Shared>,
    cluster: Name,
    is_open: bool,
    dialling: Dialling,
    connected: BTreeMap<NodeId, PeerId>,
    waiting: BTreeMap<RequestId, Waiting>,
    history: History,
    refresh: Refresh,
    /// Suspects that have been asked for a word.
    probing: BTreeSet<NodeId>,
    starting: Option<Starting>,
}

/// Tells the caller of `connect` which node was reached first.
pub(super) struct Starting {
    pub(super) reply: oneshot::Sender<Result<NodeId, ClientError>>,
    pub(super) within: Duration,
    /// With mDNS there is hope as long as there is time.
    pub(super) gives_up_early: bool,
    pub(super) deadline: Instant,
}

enum Waiting {
    Ask {
        node: NodeId,
        reply: oneshot::Sender<Answer>,
    },
    History {
        node: NodeId,
    },
    /// Whether a node answers at all.
    Probe {
        node: NodeId,
    },
}

/// When and with whom the history is compared.
struct Refresh {
    next: Instant,
    last: Instant,
    in_flight: bool,
    /// The history has grown beyond the view.
    is_dirty: bool,
    turn: usize,
}

impl Task {
    /// A task that has not begun to dial.
    pub(super) fn new(
        config: &ClientConfig,
        swarm: Swarm<Behaviour>,
        asks: mpsc::Receiver<Ask>,
        shared: Arc<Shared>,
        starting: Starting,
    ) -> Task {
        let now = Instant::now();
        Task {
            swarm,
            asks,
            shared,
            cluster: config.cluster.clone(),
            is_open: config.swarm_key.is_none(),
            dialling: Dialling::new(&config.nodes),
            connected: BTreeMap::new(),
            waiting: BTreeMap::new(),
            history: History::new(config.cluster.clone()),
            refresh: Refresh { next: now, last: now, in_flight: false, is_dirty: false, turn: 0 },
            probing: BTreeSet::new(),
            starting: Some(starting),
        }
    }

    /// Runs until nobody holds a handle any more.
    pub(super) async fn run(mut self) {
        let mut ticks = Timer::interval(TICK).fuse();
        self.dial_due();
        loop {
            select_biased! {
                ask = self.asks.next() => match ask {
                    Some(ask) => self.on_ask(ask),
                    None => break,
                },
                event = self.swarm.select_next_some() => self.on_event(event),
                _ = ticks.select_next_some() => {
                    self.dial_due();
                    self.probe_suspects();
                }
            }
            self.refresh_if_due();
            if self.gives_up() {
                break;
            }
        }
        debug!("client ended");
    }

    fn on_ask(&mut self, ask: Ask) {
        let Ask { node, request, deadline, reply } = ask;
        if reply.is_canceled() {
            return;
        }
        match self.send(node, &request, deadline) {
            Ok(id) => {
                self.waiting.insert(id, Waiting::Ask { node, reply });
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn send(&mut self, node: NodeId, request: &ClientRequest, deadline: Instant) -> Result<RequestId, AskError> {
        let peer = *self.connected.get(&node).ok_or(AskError::NotSent)?;
        let lane = if request.is_write() { Lane::Write } else { Lane::Read };
        let rpc = &mut self.swarm.behaviour_mut().rpc;
        let sent = rpc.encode(request).and_then(|encoded| rpc.send(peer, lane, encoded, deadline));
        sent.map_err(|refused| match refused {
            SendRefused::Overloaded { .. } => AskError::Overloaded(refused.to_string()),
            _ => AskError::TooLarge(refused.to_string()),
        })
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Rpc(event)) => self.on_rpc(event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(event)) => self.on_identify(event),
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(found))) => {
                for (peer, address) in found.into_iter().filter(|(_, address)| may_dial(address, self.is_open)) {
                    self.dialling.heard(peer, address);
                }
                self.dial_due();
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } => {
                self.dialling.connected(connection_id, peer_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                debug!(%error, "dial failed");
                self.dialling.connection_failed(connection_id, &error, Instant::now());
                self.publish_connected();
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                self.dialling.disconnected(peer_id, Instant::now());
                self.connected.retain(|_, peer| *peer != peer_id);
                self.publish_connected();
            }
            // A client listens nowhere; the rest is news of listeners and addresses.
            _ => {}
        }
    }

    fn on_rpc(&mut self, event: quorum_rpc::Event<ClientRequest, ClientResponse>) {
        let (request, outcome) = match event {
            quorum_rpc::Event::Response { request, response, .. } => (request, Ok(response)),
            quorum_rpc::Event::Failed { request, error, .. } => (request, Err(error)),
            quorum_rpc::Event::Misbehaved { peer, error } => {
                return warn!(%peer, %error, "a node sent what cannot be read");
            }
            // Only asking is spoken here; the swarm refuses inbound streams.
            quorum_rpc::Event::Request { .. } => return,
        };
        match self.waiting.remove(&request) {
            Some(Waiting::Ask { node, reply }) => {
                if outcome.is_ok() {
                    self.shared.suspects().remove(&node);
                }
                let answer = outcome.map_err(to_ask_error);
                debug!(?node, failure = ?answer.as_ref().err(), "answered");
                // Whoever asked may have had its answer from another node.
                drop(reply.send(answer));
            }
            Some(Waiting::History { node }) => {
                self.refresh.in_flight = false;
                match outcome {
                    Ok(ClientResponse::History(changes)) => self.learn(node, changes),
                    Ok(_) | Err(_) => self.end_refresh(None),
                }
            }
            Some(Waiting::Probe { node }) => self.end_probe(node, outcome.err().as_ref()),
            None => {}
        }
    }

    fn on_identify(&mut self, event: identify::Event) {
        let (peer, finding) = match event {
            identify::Event::Received { peer_id, info, .. } if identity::node_id(&peer_id).is_some() => {
                (peer_id, self.judge(&info))
            }
            identify::Event::Received { peer_id, .. } => {
                (peer_id, Finding::NotQuorate("its key is not an Ed25519 key".into()))
            }
            identify::Event::Error { peer_id, error, .. } => (peer_id, to_finding(&error)),
            identify::Event::Sent { .. } | identify::Event::Pushed { .. } => return,
        };
        let node = identity::node_id(&peer).filter(|_| finding == Finding::Ours);
        debug!(%peer, %finding, "identified");
        // An error at a later round of questions does not unmake a node.
        if node.is_none() && self.connected.values().any(|connected| *connected == peer) {
            return;
        }
        self.dialling.identified(peer, &finding);
        match node {
            Some(node) => {
                self.connected.insert(node, peer);
            }
            // An error only says that it is already gone.
            None => {
                let _ = self.swarm.disconnect_peer_id(peer);
            }
        }
        self.publish_connected();
    }

    fn judge(&self, info: &identify::Info) -> Finding {
        match wire::identified_cluster(&info.protocol_version) {
            Some(cluster) if cluster == self.cluster => Finding::Ours,
            Some(cluster) => Finding::OtherCluster(cluster),
            None => Finding::NotQuorate(info.protocol_version.escape_debug().take(80).collect()),
        }
    }

    fn dial_due(&mut self) {
        let due = self.dialling.due(Instant::now(), |peer| self.swarm.is_connected(peer));
        for (target, opts) in due {
            let connection = DialOpts::connection_id(&opts);
            match self.swarm.dial(opts) {
                Ok(()) => self.dialling.began(target, connection),
                Err(error) => self.dialling.failed(target, error.to_string(), Instant::now()),
            }
        }
    }

    fn publish_connected(&self) {
        let connected: BTreeSet<NodeId> = self.connected.keys().copied().collect();
        let trouble = self.dialling.to_detail(None);
        self.shared.write_directory(|directory| {
            directory.connected = Arc::new(connected);
            directory.trouble = trouble;
        });
    }

    /// Whether connecting has failed; whoever waits is told.
    fn gives_up(&mut self) -> bool {
        let Some(starting) = &self.starting else { return false };
        let is_late = starting.deadline <= Instant::now();
        let is_hopeless = starting.gives_up_early && self.connected.is_empty() && self.dialling.all_given_failed();
        if !(is_late || is_hopeless) {
            return false;
        }
        let error = match self.connected.keys().next() {
            Some(node) => {
                ClientError::Unreachable { detail: format!("{node:?} is connected, but does not tell its history") }
            }
            None => self.dialling.to_error(&self.cluster, is_late.then_some(starting.within)),
        };
        if let Some(starting) = self.starting.take() {
            drop(starting.reply.send(Err(error)));
        }
        true
    }
}

impl Directory {
    /// Knows nobody.
    pub(super) fn new(cluster: Name) -> RwLock<Directory> {
        RwLock::new(Directory {
            view: Arc::new(View::fold(&History::new(cluster))),
            connected: Arc::default(),
            trouble: String::new(),
        })
    }
}

impl Shared {
    pub(super) fn read_directory(&self) -> std::sync::RwLockReadGuard<'_, Directory> {
        // Every change is one assignment, so that a panic elsewhere leaves nothing half done.
        self.directory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_directory(&self, change: impl FnOnce(&mut Directory)) {
        change(&mut self.directory.write().unwrap_or_else(PoisonError::into_inner));
    }
}

fn to_finding(error: &StreamUpgradeError<identify::UpgradeError>) -> Finding {
    let detail = format!("it does not say what it is: {error}");
    match error {
        StreamUpgradeError::NegotiationFailed => Finding::NotQuorate(detail),
        // The connection may have broken; the next one may hold.
        StreamUpgradeError::Timeout | StreamUpgradeError::Apply(_) | StreamUpgradeError::Io(_) => {
            Finding::Failed(detail)
        }
    }
}

fn to_ask_error(failure: SendFailure) -> AskError {
    match failure {
        SendFailure::Overloaded => AskError::Overloaded(failure.to_string()),
        SendFailure::AnswerTooLarge => AskError::TooLarge(failure.to_string()),
        other if other.may_have_arrived() => AskError::Unknown(other.to_string()),
        _ => AskError::NotSent,
    }
}

/// How often timers are looked at. The view is refreshed no more often, and connecting ends no later.
const TICK: Duration = Duration::from_millis(100);
