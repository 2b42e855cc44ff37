//! What the behaviour and the task of a link share: the link's addresses, its socket, and what was announced on it.
//!
//! Invariant: what [`Link`] has announced, it takes back when it closes, exactly once, and it announces nothing after.
//! Whoever closes it first, the task or the behaviour that is dropped, does so: everything here is synchronous.
//!
//! Packets are sent without waiting. One that the system has no room for is lost and counted, as any may be lost on
//! its way.

use std::{
    net::{IpAddr, Ipv6Addr, UdpSocket},
    sync::{Mutex, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use async_io::Async;
use hickory_proto::ProtoError;
use if_watch::IpNet;
use libp2p::{Multiaddr, PeerId, core::multiaddr::Protocol};

use crate::mdns::{
    config::{Config, Counters},
    message::Encoder,
    socket::LinkId,
    table::{TTL_MAX, TTL_MIN},
};

/// What all links of one behaviour share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Who we are.
    pub(crate) me: PeerId,
    /// As the user chose.
    pub(crate) config: Config,
    /// Writes our packets.
    pub(crate) encoder: Encoder,
    listening: RwLock<Vec<Multiaddr>>,
    counters: Mutex<Counters>,
}

impl Shared {
    /// Nothing listened to and nothing counted yet.
    pub(crate) fn new(me: PeerId, config: Config, encoder: Encoder) -> Self {
        Self { me, config, encoder, listening: RwLock::default(), counters: Mutex::default() }
    }

    /// Replaces the addresses on which the swarm listens.
    pub(crate) fn listen_on(&self, addresses: Vec<Multiaddr>) {
        *self.listening.write().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Changes the counters.
    pub(crate) fn count(&self, change: impl FnOnce(&mut Counters)) {
        change(&mut self.counters.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The counters as they are now.
    pub(crate) fn counters(&self) -> Counters {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Our time to live, in whole seconds as sent; at least 1, as 0 is a goodbye.
    pub(crate) fn ttl_secs(&self) -> u32 {
        let ttl: Duration = self.config.ttl.clamp(TTL_MIN, TTL_MAX);
        u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)
    }
}

/// One link: a place where packets go out and come in.
#[derive(Debug)]
pub(crate) struct Link {
    id: LinkId,
    nets: RwLock<Vec<IpNet>>,
    socket: OnceLock<Async<UdpSocket>>,
    /// What others may believe of us on this link; `None` once closed.
    announced: Mutex<Option<Vec<Multiaddr>>>,
}

impl Link {
    /// A link with the addresses of this host on it, not yet open.
    pub(crate) fn new(id: LinkId, net: IpNet) -> Self {
        Self { id, nets: RwLock::new(vec![net]), socket: OnceLock::new(), announced: Mutex::new(Some(Vec::new())) }
    }

    /// What it is bound to.
    pub(crate) fn id(&self) -> LinkId {
        self.id
    }

    /// Notes another address of this host on the link.
    pub(crate) fn add_net(&self, net: IpNet) {
        let mut nets = self.nets.write().unwrap_or_else(PoisonError::into_inner);
        if !nets.contains(&net) {
            nets.push(net);
        }
    }

    /// Notes that this host has lost an address on the link. Returns whether it was the last one.
    pub(crate) fn remove_net(&self, net: &IpNet) -> bool {
        let mut nets = self.nets.write().unwrap_or_else(PoisonError::into_inner);
        nets.retain(|known| known != net);
        nets.is_empty()
    }

    /// Whether this host has this address on the link.
    pub(crate) fn has_net(&self, net: &IpNet) -> bool {
        self.nets.read().unwrap_or_else(PoisonError::into_inner).contains(net)
    }

    /// The socket, opened if it was not.
    ///
    /// # Errors
    ///
    /// When the system refuses; trying again later may succeed.
    pub(crate) fn open(&self) -> std::io::Result<&Async<UdpSocket>> {
        if let Some(socket) = self.socket.get() {
            return Ok(socket);
        }
        let socket = self.id.open()?;
        Ok(self.socket.get_or_init(|| socket))
    }

    /// Whether `address` is one of this host's on the link.
    pub(crate) fn is_ours(&self, address: IpAddr) -> bool {
        self.nets.read().unwrap_or_else(PoisonError::into_inner).iter().any(|net| net.addr() == address)
    }

    /// Whether a packet from `source` can have been sent by a neighbour on the link.
    pub(crate) fn is_neighbour(&self, source: IpAddr) -> bool {
        let link_local = matches!((self.id, source), (LinkId::V6(_), IpAddr::V6(ip)) if ip.is_unicast_link_local());
        link_local || self.contains(source)
    }

    /// Whether `address` leads to somebody in the networks of the link.
    ///
    /// IPv6 link-local addresses do not: without the zone, which an announced address lacks, nobody can dial them. Nor
    /// do relayed addresses, whose first hop says nothing about the peer.
    pub(crate) fn leads_here(&self, address: &Multiaddr) -> bool {
        let direct = !address.iter().any(|protocol| matches!(protocol, Protocol::P2pCircuit));
        direct && ip_of(address).is_some_and(|ip| self.contains(ip))
    }

    /// Says where we listen on this link, if anywhere. Returns whether there was something to say.
    pub(crate) fn announce(&self, shared: &Shared) -> bool {
        let addresses = self.announceable(shared);
        let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(announced) = announced.as_mut().filter(|_| !addresses.is_empty()) else { return false };
        self.send_response(&addresses, shared.ttl_secs(), shared);
        for address in addresses {
            if !announced.contains(&address) {
                announced.push(address);
            }
        }
        true
    }

    /// Whether there is anything to announce.
    pub(crate) fn has_addresses(&self, shared: &Shared) -> bool {
        !self.announceable(shared).is_empty()
    }

    /// Takes back what was announced and is true no longer. Returns whether something is true that was not announced.
    pub(crate) fn withdraw_outdated(&self, shared: &Shared) -> bool {
        let addresses = self.announceable(shared);
        let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(announced) = announced.as_mut() else { return false };
        let outdated: Vec<Multiaddr> = announced.extract_if(.., |address| !addresses.contains(address)).collect();
        self.send_response(&outdated, 0, shared);
        addresses.iter().any(|address| !announced.contains(address))
    }

    /// Takes back everything that was announced, and says nothing ever after. The second time does nothing.
    pub(crate) fn close(&self, shared: &Shared) {
        let announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.send_response(&announced.unwrap_or_default(), 0, shared);
    }

    /// Asks who is there, under the number `id`.
    pub(crate) fn query(&self, id: u16, shared: &Shared) {
        if self.send(shared.encoder.query(id), shared) {
            shared.count(|counters| counters.queries_sent += 1);
        }
    }

    /// Says that libp2p is among the services of the link.
    pub(crate) fn list_services(&self, shared: &Shared) {
        if self.send(shared.encoder.service_list(shared.ttl_secs()), shared) {
            shared.count(|counters| counters.responses_sent += 1);
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.nets.read().unwrap_or_else(PoisonError::into_inner).iter().any(|net| net.contains(&address))
    }

    /// The addresses that others on this link can dial: those of this host on the link itself. Distinct.
    fn announceable(&self, shared: &Shared) -> Vec<Multiaddr> {
        let listening = shared.listening.read().unwrap_or_else(PoisonError::into_inner);
        let here = |address: &&Multiaddr| self.leads_here(address) && ip_of(address).is_some_and(|ip| self.is_ours(ip));
        listening.iter().filter(here).cloned().collect()
    }

    fn send_response(&self, addresses: &[Multiaddr], ttl_secs: u32, shared: &Shared) {
        match shared.encoder.response(shared.me, addresses, ttl_secs) {
            Ok(packets) => {
                for packet in packets {
                    if self.send(Ok(packet), shared) {
                        shared.count(|counters| counters.responses_sent += 1);
                    }
                }
            }
            Err(error) => tracing::debug!(link = ?self.id, %error, "mdns response not encoded"),
        }
    }

    /// Sends without waiting. Returns whether the system took the packet.
    fn send(&self, packet: Result<Vec<u8>, ProtoError>, shared: &Shared) -> bool {
        let sent = match (packet, self.socket.get()) {
            (Ok(packet), Some(socket)) => socket.get_ref().send_to(&packet, self.id.group()).map(drop),
            (Ok(_), None) => return false,
            (Err(error), _) => Err(std::io::Error::other(error)),
        };
        if let Err(error) = &sent {
            shared.count(|counters| counters.send_failures += 1);
            tracing::debug!(link = ?self.id, %error, "mdns packet not sent");
        }
        sent.is_ok()
    }
}

/// The address of the network layer that a dialler would use. `None` for names, relays and other media, and for IPv6
/// link-local addresses.
fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(IpAddr::V4(ip)),
        Some(Protocol::Ip6(ip)) => Some(IpAddr::V6(ip)).filter(|_| !is_link_local(ip)),
        _ => None,
    }
}

fn is_link_local(ip: Ipv6Addr) -> bool {
    ip.is_unicast_link_local()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn link(nets: &[&str]) -> Link {
        let mut nets = nets.iter().map(|net| net.parse::<IpNet>().unwrap());
        let first = nets.next().unwrap();
        let id = match first.addr() {
            IpAddr::V4(ip) => LinkId::V4(ip),
            IpAddr::V6(_) => LinkId::V6(2),
        };
        let link = Link::new(id, first);
        nets.for_each(|net| link.add_net(net));
        link
    }

    fn shared(listening: &[&str]) -> Shared {
        let shared = Shared::new(PeerId::random(), Config::default(), Encoder::new().unwrap());
        shared.listen_on(listening.iter().map(|address| address.parse().unwrap()).collect());
        shared
    }

    #[test]
    fn only_addresses_in_the_networks_of_the_link_lead_there() {
        let check = |link: &Link, address: &str, expected: bool| {
            assert_eq!(link.leads_here(&address.parse().unwrap()), expected, "{address}");
        };
        let v4 = link(&["10.1.0.1/24"]);
        check(&v4, "/ip4/10.1.0.9/tcp/1", true);
        check(&v4, "/ip4/10.1.1.9/tcp/1", false);
        check(&v4, "/ip4/127.0.0.1/tcp/1", false);
        check(&v4, "/ip4/8.8.8.8/udp/1/quic-v1", false);
        check(&v4, "/dns4/localhost/tcp/1", false);
        check(&v4, "/memory/1", false);
        let relay = PeerId::random();
        check(&v4, &format!("/ip4/10.1.0.9/tcp/1/p2p/{relay}/p2p-circuit"), false);
        let v6 = link(&["fe80::1/64", "fd00::1/64"]);
        check(&v6, "/ip6/fd00::9/tcp/1", true);
        check(&v6, "/ip6/fd01::9/tcp/1", false);
        check(&v6, "/ip6/fe80::9/tcp/1", false);
    }

    #[test]
    fn only_neighbours_are_believed() {
        let check = |link: &Link, source: &str, expected: bool| {
            assert_eq!(link.is_neighbour(source.parse().unwrap()), expected, "{source}");
        };
        check(&link(&["10.1.0.1/24"]), "10.1.0.77", true);
        check(&link(&["10.1.0.1/24"]), "10.2.0.77", false);
        check(&link(&["10.1.0.1/24"]), "fe80::1", false);
        check(&link(&["fd00::1/64"]), "fe80::7", true);
        check(&link(&["fd00::1/64"]), "fd00::7", true);
        check(&link(&["fd00::1/64"]), "2001:db8::7", false);
    }

    #[test]
    fn only_our_own_addresses_on_the_link_are_announced() {
        let shared =
            shared(&["/ip4/10.1.0.1/tcp/1", "/ip4/10.2.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip4/10.1.0.2/tcp/1"]);
        let expected: Vec<Multiaddr> = vec!["/ip4/10.1.0.1/tcp/1".parse().unwrap()];
        assert_eq!(link(&["10.1.0.1/24"]).announceable(&shared), expected);
    }

    #[test]
    fn the_last_address_that_goes_is_told() {
        let link = link(&["fe80::1/64", "fd00::1/64"]);
        assert!(!link.remove_net(&"fe80::1/64".parse().unwrap()));
        assert!(link.remove_net(&"fd00::1/64".parse().unwrap()));
    }

    #[test]
    fn a_closed_link_announces_nothing() {
        let (link, shared) = (link(&["10.1.0.1/24"]), shared(&["/ip4/10.1.0.1/tcp/1"]));
        assert!(link.announce(&shared));
        assert!(!link.withdraw_outdated(&shared));
        link.close(&shared);
        assert!(!link.announce(&shared));
        assert!(!link.withdraw_outdated(&shared));
    }

    #[test]
    fn a_new_address_is_news_until_it_is_announced() {
        let (link, shared) = (link(&["10.1.0.1/24"]), shared(&[]));
        assert!(!link.announce(&shared));
        shared.listen_on(vec!["/ip4/10.1.0.1/tcp/1".parse().unwrap()]);
        assert!(link.withdraw_outdated(&shared));
        assert!(link.announce(&shared));
        assert!(!link.withdraw_outdated(&shared));
        shared.listen_on(Vec::new());
        assert!(!link.withdraw_outdated(&shared));
        assert_eq!(link.announced.lock().unwrap().as_deref(), Some(&[][..]));
    }
}
