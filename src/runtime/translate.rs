//! Between the swarm's words and the node's: events to inputs, effects to calls, and who waits for which answer.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt, io,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _, future::OptionFuture};
use libp2p::{
    Multiaddr, PeerId, Swarm,
    identity::Keypair,
    multiaddr::Protocol,
    ping,
    swarm::{
        ConnectionId, DialError, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use quorate_behaviours::{mdns, membership_gossip, quorum_rpc, quorum_rpc::Lane};

use crate::{
    ident::{Name, NodeId},
    limits::{ADDRESS_COUNT_MAX, ADDRESS_LIMIT_BYTES},
    membership::change::Change,
    node::{
        SendFailure,
        effect::{ClientId, ExchangeNews, Heard, InboundId, News, OutboundId, SeedIndex},
    },
    runtime::{
        LISTEN_TIMEOUT, Notice, StartError,
        address::{is_loopback, peer_of, with_tcp_port},
        behaviour::{Behaviour, BehaviourEvent, NODE_AGENT, NetworkConfig, build_swarm},
        dial_error,
        exchanges::{ExchangeBehaviour, ExchangeEvent, Exchanges},
        handle::NetworkCounters,
        identity::{node_id, peer_id},
        offenders::{MALFORMED_COUNT_MAX, Measure, Offence, Offenders},
    },
    wire::{
        self,
        client::{ClientRequest, ClientResponse},
        quorum::{Request, Response},
    },
};

/// Most peers of other clusters that are remembered, so as not to be dialled whenever they are seen.
const STRANGERS_MAX: usize = 4_096;

/// How long to wait for more addresses once the first one is known: they come one by one.
const MORE_ADDRESSES: Duration = Duration::from_millis(50);

/// What the network brings the node.
#[derive(Debug)]
pub(crate) enum NetworkInput {
    News(News),
    Request { from: NodeId, inbound: InboundId, deadline: Instant, request: Request },
    Response { outbound: OutboundId, result: Result<Response, SendFailure> },
    ClientRequest { client: ClientId, from: NodeId, request: ClientRequest },
    Exchange(ExchangeNews),
    Notice(Notice),
    Nothing,
}

/// The swarm, and the tables that translate.
pub(crate) struct Translator {
    swarm: Swarm<Behaviour>,
    me: PeerId,
    cluster: Name,
    seeds: Vec<Multiaddr>,
    /// Seeds being dialled, and what was last said of each.
    seed_dials: HashMap<ConnectionId, SeedIndex>,
    seed_complaints: HashMap<SeedIndex, String>,
    listening: Vec<Multiaddr>,
    /// What happened before the node was there to be told.
    early: VecDeque<SwarmEvent<BehaviourEvent>>,
    strangers: HashSet<PeerId>,
    /// The connections that this node made, and with whom.
    dialled: HashMap<ConnectionId, PeerId>,
    offenders: Offenders,
    outbound: HashMap<quorum_rpc::RequestId, OutboundId>,
    inbound: HashMap<InboundId, quorum_rpc::InboundId>,
    clients: HashMap<ClientId, quorum_rpc::InboundId>,
    exchanges: Exchanges,
    next_number: u64,
}

impl Translator {
    pub(crate) fn new(keypair: &Keypair, config: &NetworkConfig, seeds: Vec<Multiaddr>) -> io::Result<Translator> {
        Ok(Translator {
            swarm: build_swarm(keypair, config)?,
            me: keypair.public().to_peer_id(),
            cluster: config.cluster.clone(),
            seeds,
            seed_dials: HashMap::new(),
            seed_complaints: HashMap::new(),
            listening: Vec::new(),
            early: VecDeque::new(),
            strangers: HashSet::new(),
            dialled: HashMap::new(),
            offenders: Offenders::default(),
            outbound: HashMap::new(),
            inbound: HashMap::new(),
            clients: HashMap::new(),
            exchanges: Exchanges::default(),
            next_number: 0,
        })
    }

    /// Listens at `at`, those with port 0 at one of `last_ports` if it is free, and waits for the first addresses
    /// to be known. Returns the addresses of the last start that were not to be had.
    pub(crate) async fn listen(&mut self, at: &[Multiaddr], last_ports: &[u16]) -> Result<Vec<Multiaddr>, StartError> {
        let mut taken = Vec::new();
        for address in at {
            let again = last_ports.iter().filter_map(|port| with_tcp_port(address, *port)).collect::<Vec<_>>();
            let is_bound = again.iter().any(|again| self.swarm.listen_on(again.clone()).is_ok());
            if !is_bound {
                taken.extend(again);
                self.swarm.listen_on(address.clone()).map_err(|error| StartError::Listen {
                    address: address.clone(),
                    detail: dial_error::causes(&error),
                })?;
            }
        }
        let deadline = Instant::now() + LISTEN_TIMEOUT;
        let mut patience = LISTEN_TIMEOUT;
        while !at.is_empty() && Instant::now() < deadline {
            match async_std::future::timeout(patience, self.swarm.select_next_some()).await {
                Ok(SwarmEvent::NewListenAddr { address, .. }) => {
                    self.listening.push(address);
                    patience = MORE_ADDRESSES;
                }
                Ok(SwarmEvent::ListenerClosed { reason: Err(error), .. }) => {
                    let address = at[0].clone();
                    return Err(StartError::Listen { address, detail: error.to_string() });
                }
                // A peer that knew this node may be back already.
                Ok(event) => self.early.push_back(event),
                Err(_) => break,
            }
        }
        Ok(taken)
    }

    /// Where this node can be reached, each with its own `/p2p/`.
    pub(crate) fn addresses(&self) -> Vec<Multiaddr> {
        self.listening.iter().map(|address| address.clone().with(Protocol::P2p(self.me))).collect()
    }

    /// What this node tells of where it is: no loopback addresses, unless there are no others.
    pub(crate) fn profile_addresses(&self) -> Vec<String> {
        let (loopback, other): (Vec<_>, Vec<_>) = self.listening.iter().partition(|address| is_loopback(address));
        let told = if other.is_empty() { loopback } else { other };
        let texts = told.into_iter().map(Multiaddr::to_string).filter(|text| text.len() <= ADDRESS_LIMIT_BYTES);
        let mut texts: Vec<String> = texts.take(ADDRESS_COUNT_MAX).collect();
        texts.sort();
        texts.dedup();
        texts
    }

    /// The next thing the network brings.
    pub(crate) async fn next(&mut self) -> NetworkInput {
        let event = match self.early.pop_front() {
            Some(event) => event,
            None => self.swarm.select_next_some().await,
        };
        self.translate(event)
    }

    /// Sends one request to several peers, encoded once. Returns those that were refused.
    pub(crate) fn send(&mut self, to: &[(NodeId, OutboundId)], request: &Request, due: Instant) -> Vec<OutboundId> {
        let quorum = &mut self.swarm.behaviour_mut().quorum;
        let encoded = match quorum.encode(request) {
            Ok(encoded) => encoded,
            Err(error) => {
                tracing::warn!(%error, "a request could not be sent");
                return to.iter().map(|(_, outbound)| *outbound).collect();
            }
        };
        let mut refused = Vec::new();
        for (node, outbound) in to {
            let sent = peer_id(node).and_then(|peer| quorum.send(peer, lane_of(request), encoded.clone(), due).ok());
            match sent {
                Some(id) => drop(self.outbound.insert(id, *outbound)),
                None => refused.push(*outbound),
            }
        }
        refused
    }

    pub(crate) fn respond(&mut self, inbound: InboundId, response: Response) {
        if let Some(id) = self.inbound.remove(&inbound)
            && let Err(error) = self.swarm.behaviour_mut().quorum.respond(id, response)
        {
            tracing::debug!(%error, "an answer was not sent");
        }
    }

    pub(crate) fn reply(&mut self, client: ClientId, response: ClientResponse) {
        if let Some(id) = self.clients.remove(&client)
            && let Err(error) = self.swarm.behaviour_mut().clients.respond(id, response)
        {
            tracing::debug!(%error, "an answer was not sent");
        }
    }

    /// The exchanges under way, and what carries them.
    pub(crate) fn exchanges(&mut self) -> (&mut Exchanges, &mut ExchangeBehaviour) {
        (&mut self.exchanges, &mut self.swarm.behaviour_mut().exchange)
    }

    /// What carries announcements.
    pub(crate) fn gossip(&mut self) -> &mut membership_gossip::Behaviour<Change> {
        &mut self.swarm.behaviour_mut().gossip
    }

    /// Dials a node. Returns whether a dial is under way.
    pub(crate) fn dial(&mut self, node: &NodeId, addresses: &[String]) -> bool {
        let Some(peer) = peer_id(node).filter(|peer| !self.strangers.contains(peer)) else { return false };
        let addresses = addresses.iter().filter_map(|text| text.parse().ok()).collect();
        let options = DialOpts::peer_id(peer)
            .addresses(addresses)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .extend_addresses_through_behaviour()
            .build();
        match self.swarm.dial(options) {
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => true,
            Err(error) => {
                tracing::debug!(%peer, %error, "a member could not be dialled");
                false
            }
        }
    }

    /// Closes the connections to a node; that they are lost is reported like any other loss.
    pub(crate) fn disconnect(&mut self, node: &NodeId) {
        if let Some(peer) = peer_id(node) {
            // Fails only if there is none any more.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    /// Dials an address given at start. Returns what to tell people, if that failed at once in a new way.
    pub(crate) fn dial_seed(&mut self, seed: SeedIndex) -> Option<Notice> {
        let address = self.seeds.get(seed.0)?.clone();
        if self.seed_dials.values().any(|dialled| *dialled == seed) {
            return None;
        }
        let options = match peer_of(&address) {
            Some(peer) => DialOpts::peer_id(peer)
                .addresses(vec![address])
                .condition(PeerCondition::DisconnectedAndNotDialing)
                .build(),
            None => DialOpts::unknown_peer_id().address(address).build(),
        };
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.seed_dials.insert(connection, seed);
                None
            }
            Err(DialError::DialPeerConditionFalse(_) | DialError::LocalPeerId { .. }) => None,
            Err(error) => self.complain(seed, &dial_error::words(&error)),
        }
    }

    /// Tells the local network that this node goes.
    pub(crate) async fn say_goodbye(&mut self) {
        let farewell = self.swarm.behaviour_mut().mdns.as_mut().map(mdns::Behaviour::farewell);
        OptionFuture::from(farewell).await;
        // What has been answered is still on its way out of the streams.
        let flushed = async {
            loop {
                self.swarm.select_next_some().await;
            }
        };
        let _: Result<(), _> = async_std::future::timeout(MORE_ADDRESSES, flushed.fuse()).await;
    }

    /// What the protocols between members have cost so far.
    pub(crate) fn counters(&self) -> NetworkCounters {
        let behaviour = self.swarm.behaviour();
        NetworkCounters { quorum: behaviour.quorum.counters(), exchange: behaviour.exchange.counters() }
    }

    pub(crate) fn next_client_id(&mut self) -> ClientId {
        ClientId(self.number())
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn translate(&mut self, event: SwarmEvent<BehaviourEvent>) -> NetworkInput {
        match event {
            SwarmEvent::Behaviour(event) => self.translate_behaviour(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, num_established, endpoint, .. } => {
                if endpoint.is_dialer() {
                    self.dialled.insert(connection_id, peer_id);
                }
                let seed = self.seed_dials.remove(&connection_id);
                match node_id(&peer_id) {
                    Some(node) if num_established.get() == 1 || seed.is_some() => {
                        NetworkInput::News(News::Connected { node, seed })
                    }
                    Some(_) | None => NetworkInput::Nothing,
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, .. } => {
                self.dialled.remove(&connection_id);
                match node_id(&peer_id) {
                    Some(node) if num_established == 0 => NetworkInput::News(News::Lost(node)),
                    Some(_) | None => NetworkInput::Nothing,
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error, .. } => {
                if let Some(seed) = self.seed_dials.remove(&connection_id) {
                    let notice = self.complain(seed, &dial_error::words(&error));
                    return notice.map_or(NetworkInput::Nothing, NetworkInput::Notice);
                }
                tracing::debug!(?peer_id, %error, "a dial failed");
                match peer_id.as_ref().and_then(node_id) {
                    Some(node) => NetworkInput::News(News::DialFailed(node)),
                    None => NetworkInput::Nothing,
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                self.listening.push(address.clone());
                NetworkInput::News(News::Listening(self.profile_addresses()))
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.listening.retain(|known| *known != address);
                NetworkInput::News(News::Listening(self.profile_addresses()))
            }
            SwarmEvent::ListenerError { error, .. } => {
                NetworkInput::Notice(Notice::Warning(format!("a listener had a problem: {error}")))
            }
            _ => NetworkInput::Nothing,
        }
    }

    fn translate_behaviour(&mut self, event: BehaviourEvent) -> NetworkInput {
        match event {
            BehaviourEvent::Quorum(event) => self.translate_quorum(event),
            BehaviourEvent::Clients(quorum_rpc::Event::Request { peer, inbound, request, .. }) => {
                // Only a peer with another kind of key has no such name; it is nobody's administrator.
                let from = node_id(&peer).unwrap_or(NodeId([0; 32]));
                let client = self.next_client_id();
                self.clients.insert(client, inbound);
                NetworkInput::ClientRequest { client, from, request }
            }
            BehaviourEvent::Clients(quorum_rpc::Event::Misbehaved { peer, error }) => {
                self.on_misbehaved(peer, &error, Offence::of_request(&error))
            }
            BehaviourEvent::Exchange(event) => match self.exchanges.translate(event) {
                ExchangeEvent::News(news) => NetworkInput::Exchange(news),
                ExchangeEvent::Misbehaved(peer, error) => {
                    self.on_misbehaved(peer, &error, Offence::of_exchange(&error))
                }
                ExchangeEvent::Nothing => NetworkInput::Nothing,
            },
            BehaviourEvent::Gossip(membership_gossip::Event::Announced { via, name, message, .. }) => {
                // Only a peer with another kind of key has no such name; nothing of it goes further.
                let via = node_id(&via).map(|via| Heard { via, name });
                via.map_or(NetworkInput::Nothing, |heard| {
                    NetworkInput::News(News::Announced { heard, change: message })
                })
            }
            BehaviourEvent::Gossip(membership_gossip::Event::Identified {
                peer,
                protocol_version,
                agent_version,
                ..
            }) => self.on_identified(peer, &protocol_version, &agent_version),
            BehaviourEvent::Ping(ping::Event { peer, result: Ok(_), .. }) => match node_id(&peer) {
                Some(node) => NetworkInput::News(News::Heartbeat(node)),
                None => NetworkInput::Nothing,
            },
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => self.on_discovered(found),
            _ => NetworkInput::Nothing,
        }
    }

    fn translate_quorum(&mut self, event: quorum_rpc::Event<Request, Response>) -> NetworkInput {
        match event {
            quorum_rpc::Event::Request { peer, inbound, deadline, request } => {
                let Some(from) = node_id(&peer) else { return NetworkInput::Nothing };
                let name = InboundId(self.number());
                self.inbound.insert(name, inbound);
                NetworkInput::Request { from, inbound: name, deadline, request }
            }
            quorum_rpc::Event::Response { request, response, .. } => match self.outbound.remove(&request) {
                Some(outbound) => NetworkInput::Response { outbound, result: Ok(response) },
                None => NetworkInput::Nothing,
            },
            quorum_rpc::Event::Failed { request, error, .. } => match self.outbound.remove(&request) {
                Some(outbound) => {
                    let failure = if error.may_have_arrived() { SendFailure::Unknown } else { SendFailure::NotSent };
                    NetworkInput::Response { outbound, result: Err(failure) }
                }
                None => NetworkInput::Nothing,
            },
            quorum_rpc::Event::Misbehaved { peer, error } => {
                self.on_misbehaved(peer, &error, Offence::of_request(&error))
            }
        }
    }

    /// A peer sent what is no frame of ours. One that goes on with it is shut out until this node starts anew.
    fn on_misbehaved(&mut self, peer: PeerId, error: &dyn fmt::Display, offence: Offence) -> NetworkInput {
        match self.offenders.note(peer, offence) {
            Measure::None => tracing::debug!(%peer, %error, "a peer sent what is no frame of ours"),
            Measure::Warn => tracing::warn!(%peer, %error, "a peer sent what is no request"),
            Measure::Block => {
                tracing::warn!(
                    %peer, %error,
                    "a peer has sent more than {MALFORMED_COUNT_MAX} frames that are no requests; its connections are \
                     refused until this node is started again"
                );
                self.swarm.behaviour_mut().blocked.block_peer(peer);
            }
        }
        NetworkInput::Nothing
    }

    /// A peer told who it is. Those of other clusters get no further.
    fn on_identified(&mut self, peer: PeerId, protocol_version: &str, agent_version: &str) -> NetworkInput {
        let theirs = wire::identified_cluster(protocol_version);
        if theirs.as_ref() == Some(&self.cluster) {
            self.strangers.remove(&peer);
            let is_node = agent_version.split('/').next() == NODE_AGENT.split('/').next();
            return match node_id(&peer) {
                Some(node) if is_node => NetworkInput::News(News::Identified(node)),
                Some(_) | None => NetworkInput::Nothing,
            };
        }
        let is_known = self.strangers.contains(&peer);
        if self.strangers.len() < STRANGERS_MAX {
            self.strangers.insert(peer);
        }
        // Only who dialled hangs up: the other side may not have heard yet whom it has reached, and must be able to say so.
        let dialled = self.dialled.iter().filter(|(_, dialled)| **dialled == peer);
        for connection in dialled.map(|(connection, _)| *connection).collect::<Vec<_>>() {
            self.swarm.close_connection(connection);
        }
        let complaint = match theirs {
            Some(theirs) => format!(
                "{peer} belongs to cluster \"{theirs}\", this node to \"{}\"; start it with --cluster {theirs} to join \
                 that one",
                self.cluster
            ),
            None => format!("{peer} is a libp2p peer ({agent_version}), but not of Quorate"),
        };
        let is_seed = self.seeds.iter().any(|seed| peer_of(seed).is_none_or(|named| named == peer));
        // An address given at start is dialled for ever; what was found there is told once.
        if is_seed && !is_known { NetworkInput::Notice(Notice::Warning(complaint)) } else { NetworkInput::Nothing }
    }

    fn on_discovered(&mut self, found: Vec<(PeerId, Multiaddr)>) -> NetworkInput {
        let mut by_peer: BTreeMap<PeerId, Vec<String>> = BTreeMap::new();
        for (peer, address) in found {
            by_peer.entry(peer).or_default().push(address.to_string());
        }
        let known = by_peer.into_iter().filter(|(peer, _)| !self.strangers.contains(peer));
        let nodes = known.filter_map(|(peer, addresses)| Some((node_id(&peer)?, addresses))).collect();
        NetworkInput::News(News::Discovered(nodes))
    }

    /// What to tell people of a seed that cannot be reached, unless it is what they were told last.
    fn complain(&mut self, seed: SeedIndex, cause: &str) -> Option<Notice> {
        let before = self.seed_complaints.insert(seed, cause.to_owned());
        let is_new = before.as_deref() != Some(cause);
        let address = self.seeds.get(seed.0)?;
        is_new.then(|| Notice::Warning(format!("cannot join through {address}: {cause}; will keep trying")))
    }
}

/// Which lane a request travels in: those that wait for a disk must not delay those that do not, and those that wait for
/// other requests must delay none of them.
fn lane_of(request: &Request) -> Lane {
    match request {
        Request::Read { .. } => Lane::Read,
        Request::Forward(_) => Lane::Forward,
        Request::Merge { .. } | Request::KeepHint { .. } | Request::Mark { .. } | Request::Reconcile(_) => Lane::Write,
    }
}
