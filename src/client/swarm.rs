//! The swarm of a client: the client protocol, identify, and mDNS if it is wanted. It listens nowhere.

use std::time::Duration;

use libp2p::{
    Multiaddr, StreamProtocol, Swarm,
    connection_limits::{self, ConnectionLimits},
    identify,
    identity::Keypair,
    multiaddr::Protocol,
    request_response::ProtocolSupport,
    swarm::{self, NetworkBehaviour, behaviour::toggle::Toggle},
};
use quorate_behaviours::{mdns, quorum_rpc, tcp::TcpConfig, transport};
use tracing::warn;

use crate::{
    client::{ClientConfig, error::ClientError},
    limits::{DEADLINE_MAX, FRAME_LIMIT_BYTES, MEMBER_COUNT_MAX},
    wire::{
        self,
        client::{ClientRequest, ClientResponse},
    },
};

/// All protocols of a client.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    /// First, so that nothing else is asked about a connection that is refused.
    limits: connection_limits::Behaviour,
    pub(super) rpc: quorum_rpc::Behaviour<ClientRequest, ClientResponse>,
    identify: identify::Behaviour,
    mdns: Toggle<mdns::Behaviour>,
}

/// The swarm that `config` asks for.
///
/// When mDNS does not start, the addresses given must do; without any this is an error.
pub(super) fn build(config: &ClientConfig) -> Result<Swarm<Behaviour>, ClientError> {
    let keypair = config.keypair.clone().unwrap_or_else(Keypair::generate_ed25519);
    let peer = keypair.public().to_peer_id();
    let transport = transport::build(&keypair, config.swarm_key, TcpConfig::default())
        .map_err(|error| ClientError::Unreachable { detail: format!("this client's key cannot be used: {error}") })?;

    let mdns = match config.mdns.then(|| mdns::Behaviour::new(peer, mdns::Config::default())) {
        Some(Err(error)) if config.nodes.is_empty() => {
            return Err(ClientError::Unreachable { detail: format!("mDNS does not start: {error}") });
        }
        Some(Err(error)) => {
            warn!(%error, "mDNS does not start");
            None
        }
        Some(Ok(mdns)) => Some(mdns),
        None => None,
    };
    let behaviour = Behaviour {
        limits: connection_limits::Behaviour::new(limits()),
        rpc: quorum_rpc::Behaviour::new(rpc_config(config)?),
        identify: identify::Behaviour::new(
            identify::Config::new(wire::identify_version(&config.cluster), keypair.public())
                .with_agent_version(format!("quorate-client/{}", env!("CARGO_PKG_VERSION"))),
        ),
        mdns: mdns.into(),
    };
    let swarm_config = swarm::Config::with_executor(|task| {
        async_std::task::spawn(task);
    })
    .with_idle_connection_timeout(IDLE_TIMEOUT);
    Ok(Swarm::new(transport, behaviour, peer, swarm_config))
}

/// Whether an address that somebody else told may be dialled.
///
/// An open cluster stays on its own networks: without a key anybody could send its clients anywhere. Names are refused
/// with the public addresses, since nobody knows where they lead.
pub(super) fn may_dial(address: &Multiaddr, is_open: bool) -> bool {
    let is_near = match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        Some(_) | None => false,
    };
    is_near || !is_open
}

fn rpc_config(config: &ClientConfig) -> Result<quorum_rpc::Config, ClientError> {
    let protocol = StreamProtocol::try_from_owned(wire::client_protocol(&config.cluster))
        .map_err(|error| ClientError::Unreachable { detail: format!("the cluster's name cannot be used: {error}") })?;
    let mut rpc = quorum_rpc::Config::new(protocol);
    rpc.support = ProtocolSupport::Outbound;
    rpc.request_timeout = DEADLINE_MAX;
    rpc.frame_limit_bytes = FRAME_LIMIT_BYTES;
    Ok(rpc)
}

fn limits() -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(0))
        .with_max_established_incoming(Some(0))
        .with_max_pending_outgoing(Some(PENDING_DIALS_MAX))
        .with_max_established_outgoing(u32::try_from(MEMBER_COUNT_MAX * 2).ok())
        .with_max_established_per_peer(Some(2))
}

/// A connection that nobody uses for so long is closed, and made again when the time comes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// Most dials at a time.
const PENDING_DIALS_MAX: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_cluster_cannot_send_its_clients_out_of_the_local_network() {
        let check = |address: &str, near: bool| {
            let address = address.parse().unwrap();
            assert_eq!(may_dial(&address, true), near, "{address}");
            assert!(may_dial(&address, false));
        };
        check("/ip4/127.0.0.1/tcp/1", true);
        check("/ip4/192.168.7.1/tcp/1", true);
        check("/ip4/169.254.7.1/tcp/1", true);
        check("/ip4/8.8.8.8/tcp/1", false);
        check("/ip6/::1/tcp/1", true);
        check("/ip6/fd00::1/tcp/1", true);
        check("/ip6/2001:db8::1/tcp/1", false);
        check("/dns4/example.org/tcp/1", false);
        check("/tcp/1", false);
    }
}
