//! The one composed behaviour of a node, and its swarm.

use std::{io, time::Duration};

use libp2p::{
    StreamProtocol, Swarm, allow_block_list,
    connection_limits::{self, ConnectionLimits},
    identity::Keypair,
    ping,
    pnet::PreSharedKey,
    swarm::{self, NetworkBehaviour, behaviour::toggle::Toggle},
};
use quorate_behaviours::{
    mdns, membership_gossip, merkle_exchange,
    private_addresses::{self, Policy},
    quorum_rpc,
    tcp::TcpConfig,
    transport,
};

use crate::{
    ident::Name,
    membership::change::Change,
    runtime::exchanges::ExchangeBehaviour,
    wire::{
        self,
        client::{ClientRequest, ClientResponse},
        quorum::{Request, Response},
    },
};

/// Members keep quiet connections: libp2p's ten seconds would close them between two requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// Connections of one peer. Two, because both ends dial when they discover each other.
const CONNECTIONS_PER_PEER_MAX: u32 = 4;

/// Connections in all, and those still being set up.
const CONNECTIONS_MAX: u32 = 2_048;
const PENDING_CONNECTIONS_MAX: u32 = 256;

/// How often peers give each other a sign of life.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// What this program calls itself to peers; also what tells a node from a client.
pub(crate) const NODE_AGENT: &str = concat!("quorate-node/", env!("CARGO_PKG_VERSION"));

/// Everything a node speaks.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) private_addresses: private_addresses::Behaviour,
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) blocked: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    pub(crate) quorum: quorum_rpc::Behaviour<Request, Response>,
    pub(crate) clients: quorum_rpc::Behaviour<ClientRequest, ClientResponse>,
    pub(crate) exchange: ExchangeBehaviour,
    pub(crate) gossip: membership_gossip::Behaviour<Change>,
    pub(crate) ping: ping::Behaviour,
    pub(crate) mdns: Toggle<mdns::Behaviour>,
}

/// What of the network an operator chooses.
#[derive(Debug, Clone)]
pub(crate) struct NetworkConfig {
    pub(crate) cluster: Name,
    pub(crate) swarm_key: Option<PreSharedKey>,
    pub(crate) mdns: bool,
}

/// The swarm of a node.
pub(crate) fn build_swarm(keypair: &Keypair, config: &NetworkConfig) -> io::Result<Swarm<Behaviour>> {
    let peer_id = keypair.public().to_peer_id();
    let transport = transport::build(keypair, config.swarm_key, TcpConfig::default())?;
    let policy = if config.swarm_key.is_some() { Policy::Anywhere } else { Policy::PrivateOnly };
    let behaviour = Behaviour {
        private_addresses: private_addresses::Behaviour::new(policy),
        limits: connection_limits::Behaviour::new(
            ConnectionLimits::default()
                .with_max_established(Some(CONNECTIONS_MAX))
                .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX))
                .with_max_pending_incoming(Some(PENDING_CONNECTIONS_MAX))
                .with_max_pending_outgoing(Some(PENDING_CONNECTIONS_MAX)),
        ),
        blocked: allow_block_list::Behaviour::default(),
        quorum: quorum_rpc::Behaviour::new(quorum_rpc::Config::new(protocol(wire::quorum_protocol(&config.cluster)))),
        clients: quorum_rpc::Behaviour::new(quorum_rpc::Config::new(protocol(wire::client_protocol(&config.cluster)))),
        exchange: merkle_exchange::Behaviour::new(merkle_exchange::Config::new(protocol(wire::exchange_protocol(
            &config.cluster,
        )))),
        gossip: membership_gossip::Behaviour::new(
            keypair,
            membership_gossip::Config {
                protocol_version: wire::identify_version(&config.cluster),
                agent_version: NODE_AGENT.to_owned(),
                topic: wire::history_topic(&config.cluster),
                gossip_prefix: wire::gossip_prefix(&config.cluster),
                message_limit_bytes: membership_gossip::MESSAGE_LIMIT_BYTES,
            },
        )
        .map_err(io::Error::other)?,
        ping: ping::Behaviour::new(ping::Config::new().with_interval(HEARTBEAT_INTERVAL)),
        mdns: if config.mdns {
            let behaviour = mdns::Behaviour::new(peer_id, mdns::Config::default()).map_err(io::Error::other)?;
            Some(behaviour).into()
        } else {
            None.into()
        },
    };
    let executor = |task| {
        async_std::task::spawn(task);
    };
    let config = swarm::Config::with_executor(executor).with_idle_connection_timeout(IDLE_TIMEOUT);
    Ok(Swarm::new(transport, behaviour, peer_id, config))
}

fn protocol(name: String) -> StreamProtocol {
    StreamProtocol::try_from_owned(name).expect("our protocol names begin with a slash")
}
