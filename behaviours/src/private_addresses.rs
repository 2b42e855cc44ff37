//! Keeps an open cluster off the public network: a behaviour that refuses connections with public addresses.
//!
//! Invariant: while the [`Policy`] is [`PrivateOnly`](Policy::PrivateOnly), no connection is established whose remote
//! address is known to be public. An inbound one is refused before its handshake. An outbound one is refused before it
//! is dialled when none of its addresses may be, and otherwise as soon as it turns out that a public one answered.
//!
//! It lacks two things, because libp2p does not show them to a behaviour:
//!
//! - **What a name resolved to.** The transport resolves `/dns*`, and the connection keeps the name as its address. A
//!   connection by name is therefore allowed, and a name must come from the operator. Names that peers tell belong out
//!   of the address book: ask [`reach_of`].
//! - **Single addresses of a dial.** A behaviour refuses a dial as a whole, and does not see the addresses that other
//!   behaviours add to it. A public address among private ones is tried, and its connection is closed before any
//!   protocol runs on it. Whoever keeps an address book for an open cluster gives out only what [`reach_of`] calls
//!   something other than [`Public`](Reach::Public) or [`Unknown`](Reach::Unknown).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm, dummy,
    },
};
use thiserror::Error;
use tracing::debug;
use void::Void;

/// Whom this peer may be connected with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Only peers on this machine, on the same link or in a private network: for a cluster without a `swarm.key`.
    PrivateOnly,
    /// Anybody who completes the handshake: for a cluster with a `swarm.key`.
    Anywhere,
}

/// How far away an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Within this process: `/memory`.
    Process,
    /// Loopback, link-local or private.
    Private,
    /// A name; what it stands for is known only to the transport that dials it.
    Named,
    /// Any other IP address, including the unspecified and the multicast ones.
    Public,
    /// No address of a machine that we can judge: empty, relayed, or of a network that we do not speak.
    Unknown,
}

/// Why a connection was refused. Nothing was exchanged over it; trying again leads to the same refusal.
///
/// Found inside a [`ConnectionDenied`] (`cause.downcast::<AddressRefused>()`).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AddressRefused {
    /// The remote address is public.
    #[error(
        "{address} is a public address and this cluster is open: \
         start every node of it with the same swarm.key to accept public addresses"
    )]
    Public {
        /// The remote's.
        address: Multiaddr,
    },
    /// The remote address cannot be judged.
    #[error(
        "{address} cannot be told to be private and this cluster is open: \
         start every node of it with the same swarm.key to accept such addresses"
    )]
    Unknown {
        /// The remote's.
        address: Multiaddr,
    },
}

/// Refuses connections that its [`Policy`] excludes. Speaks no protocol and emits nothing.
///
/// Composed with others, it should be the first: behaviours are asked in order.
#[derive(Debug)]
pub struct Behaviour {
    policy: Policy,
    refused_count: u64,
}

impl Behaviour {
    /// A behaviour that keeps to `policy`.
    pub fn new(policy: Policy) -> Self {
        Self { policy, refused_count: 0 }
    }

    /// Connections and dials refused since the start.
    pub fn refused_count(&self) -> u64 {
        self.refused_count
    }

    /// Whether the policy lets a connection with `address` be.
    ///
    /// # Errors
    ///
    /// When it does not: why.
    pub fn judge(&self, address: &Multiaddr) -> Result<(), AddressRefused> {
        match self.policy {
            Policy::Anywhere => Ok(()),
            Policy::PrivateOnly => match reach_of(address) {
                Reach::Process | Reach::Private | Reach::Named => Ok(()),
                Reach::Public => Err(AddressRefused::Public { address: address.clone() }),
                Reach::Unknown => Err(AddressRefused::Unknown { address: address.clone() }),
            },
        }
    }

    fn refuse(&mut self, refusal: AddressRefused) -> ConnectionDenied {
        self.refused_count = self.refused_count.saturating_add(1);
        debug!(%refusal, "connection refused");
        ConnectionDenied::new(refusal)
    }

    fn admit(&mut self, address: &Multiaddr) -> Result<(), ConnectionDenied> {
        self.judge(address).map_err(|refusal| self.refuse(refusal))
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Void;

    fn handle_pending_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.admit(remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(remote).map(|()| dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let mut refusal = None;
        for address in addresses {
            match self.judge(address) {
                Ok(()) => return Ok(Vec::new()),
                Err(first) => refusal = refusal.or(Some(first)),
            }
        }
        // Without addresses there is nothing to judge yet: another behaviour will add some.
        refusal.map_or_else(|| Ok(Vec::new()), |refusal| Err(self.refuse(refusal)))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(remote).map(|()| dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Void, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

/// How far away the machine at `address` is. Looks at the address only; resolves nothing.
///
/// Private are: loopback (127.0.0.0/8, ::1), link-local (169.254.0.0/16, fe80::/10, RFC 3927 and 4291), private
/// (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, RFC 1918; fc00::/7, RFC 4193), and shared behind a carrier's or an
/// overlay's translation (100.64.0.0/10, RFC 6598). An IPv4 address inside an IPv6 one (::ffff:0:0/96) is judged as
/// itself, since a socket of both families shows it so.
pub fn reach_of(address: &Multiaddr) -> Reach {
    // What lies beyond a relay is not what the address begins with.
    if address.iter().any(|protocol| protocol == Protocol::P2pCircuit) {
        return Reach::Unknown;
    }
    match address.iter().find(|protocol| !matches!(protocol, Protocol::Ip6zone(_))) {
        Some(Protocol::Ip4(ip)) => reach_of_ip(IpAddr::V4(ip)),
        Some(Protocol::Ip6(ip)) => reach_of_ip(IpAddr::V6(ip)),
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_)) => Reach::Named,
        Some(Protocol::Memory(_)) => Reach::Process,
        _ => Reach::Unknown,
    }
}

fn reach_of_ip(ip: IpAddr) -> Reach {
    let private = match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_private() || is_shared(ip),
        IpAddr::V6(ip) => is_private_v6(ip),
    };
    if private { Reach::Private } else { Reach::Public }
}

/// 100.64.0.0/10.
fn is_shared(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    first == 100 && (64..128).contains(&second)
}

fn is_private_v6(ip: Ipv6Addr) -> bool {
    ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unique_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn multiaddr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(expected: Reach, addresses: &[&str]) {
        for address in addresses {
            assert_eq!(reach_of(&multiaddr(address)), expected, "{address}");
        }
    }

    fn pend(behaviour: &mut Behaviour, addresses: &[&str]) -> Result<Vec<Multiaddr>, AddressRefused> {
        let addresses: Vec<_> = addresses.iter().map(|address| multiaddr(address)).collect();
        let id = ConnectionId::new_unchecked(1);
        behaviour
            .handle_pending_outbound_connection(id, None, &addresses, Endpoint::Dialer)
            .map_err(|denied| denied.downcast().unwrap())
    }

    #[test]
    fn private_are_the_private_ranges_to_their_edges() {
        check(
            Reach::Private,
            &[
                "/ip4/127.0.0.1/tcp/1",
                "/ip4/127.255.255.255/tcp/1",
                "/ip4/10.0.0.0/tcp/1",
                "/ip4/10.255.255.255/tcp/1",
                "/ip4/172.16.0.0/tcp/1",
                "/ip4/172.31.255.255/tcp/1",
                "/ip4/192.168.0.0/tcp/1",
                "/ip4/192.168.255.255/tcp/1",
                "/ip4/169.254.0.0/tcp/1",
                "/ip4/169.254.255.255/tcp/1",
                "/ip4/100.64.0.0/tcp/1",
                "/ip4/100.127.255.255/tcp/1",
                "/ip6/::1/tcp/1",
                "/ip6/fe80::/tcp/1",
                "/ip6/febf:ffff::1/tcp/1",
                "/ip6zone/eth0/ip6/fe80::1/tcp/1",
                "/ip6/fc00::/tcp/1",
                "/ip6/fdff:ffff::1/tcp/1",
                "/ip6/::ffff:192.168.0.1/tcp/1",
            ],
        );
    }

    #[test]
    fn public_is_what_lies_just_beyond_the_edges() {
        check(
            Reach::Public,
            &[
                "/ip4/0.0.0.0/tcp/1",
                "/ip4/1.1.1.1/tcp/1",
                "/ip4/9.255.255.255/tcp/1",
                "/ip4/11.0.0.0/tcp/1",
                "/ip4/126.255.255.255/tcp/1",
                "/ip4/128.0.0.0/tcp/1",
                "/ip4/172.15.255.255/tcp/1",
                "/ip4/172.32.0.0/tcp/1",
                "/ip4/192.167.255.255/tcp/1",
                "/ip4/192.169.0.0/tcp/1",
                "/ip4/169.253.255.255/tcp/1",
                "/ip4/169.255.0.0/tcp/1",
                "/ip4/100.63.255.255/tcp/1",
                "/ip4/100.128.0.0/tcp/1",
                "/ip4/224.0.0.1/tcp/1",
                "/ip6/::/tcp/1",
                "/ip6/::2/tcp/1",
                "/ip6/::127.0.0.1/tcp/1",
                "/ip6/64:ff9b::a00:1/tcp/1",
                "/ip6/fe7f:ffff::1/tcp/1",
                "/ip6/fec0::1/tcp/1",
                "/ip6/fbff:ffff::1/tcp/1",
                "/ip6/fe00::1/tcp/1",
                "/ip6/2606:4700::1111/tcp/1",
                "/ip6/::ffff:1.1.1.1/tcp/1",
                "/ip6zone/eth0/ip6/2606:4700::1111/tcp/1",
            ],
        );
    }

    #[test]
    fn names_memory_and_the_rest_are_told_apart() {
        check(Reach::Named, &["/dns/a.example/tcp/1", "/dns4/a/tcp/1", "/dns6/a/tcp/1", "/dnsaddr/a.example"]);
        check(Reach::Process, &["/memory/1"]);
        check(Reach::Unknown, &["", "/unix/tmp", "/tcp/1", "/ip4/10.0.0.1/tcp/1/p2p-circuit", "/ip6zone/eth0"]);
    }

    #[test]
    fn a_dial_is_refused_when_none_of_its_addresses_is_private() {
        let mut behaviour = Behaviour::new(Policy::PrivateOnly);
        let public = multiaddr("/ip4/1.1.1.1/tcp/1");
        let refusal = pend(&mut behaviour, &["/ip4/1.1.1.1/tcp/1", "/ip4/1.0.0.1/tcp/1"]).unwrap_err();
        assert_eq!(refusal, AddressRefused::Public { address: public });
        assert!(refusal.to_string().contains("swarm.key"), "{refusal}");
        assert_eq!(behaviour.refused_count(), 1);

        for addresses in [&["/ip4/1.1.1.1/tcp/1", "/ip4/10.0.0.1/tcp/1"][..], &["/dns4/a.example/tcp/1"], &[]] {
            assert_eq!(pend(&mut behaviour, addresses), Ok(Vec::new()), "{addresses:?}");
        }
    }

    #[test]
    fn a_public_address_that_answered_is_refused() {
        let mut behaviour = Behaviour::new(Policy::PrivateOnly);
        let (id, peer) = (ConnectionId::new_unchecked(1), PeerId::random());
        let (local, public) = (multiaddr("/ip4/10.0.0.1/tcp/1"), multiaddr("/ip4/1.1.1.1/tcp/1"));
        assert!(behaviour.handle_pending_inbound_connection(id, &local, &public).is_err());
        assert!(behaviour.handle_established_inbound_connection(id, peer, &local, &public).is_err());
        let outcome =
            behaviour.handle_established_outbound_connection(id, peer, &public, Endpoint::Dialer, PortUse::Reuse);
        let refusal = outcome.map(|_| ()).unwrap_err().downcast::<AddressRefused>().unwrap();
        assert_eq!(refusal, AddressRefused::Public { address: public });
        assert_eq!(behaviour.refused_count(), 3);
    }

    #[test]
    fn anywhere_is_anywhere() {
        let mut behaviour = Behaviour::new(Policy::Anywhere);
        assert_eq!(pend(&mut behaviour, &["/ip4/1.1.1.1/tcp/1"]), Ok(Vec::new()));
        let (id, local, public) =
            (ConnectionId::new_unchecked(1), multiaddr("/ip4/10.0.0.1/tcp/1"), multiaddr("/ip4/1.1.1.1/tcp/1"));
        assert!(behaviour.handle_pending_inbound_connection(id, &local, &public).is_ok());
        assert_eq!(behaviour.refused_count(), 0);
    }
}
