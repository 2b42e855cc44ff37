//! What stands in a multiaddr.

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

/// The TCP port of an address.
pub(crate) fn tcp_port(address: &Multiaddr) -> Option<u16> {
    address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    })
}

/// The same address with this port, if it asks for any port.
pub(crate) fn with_tcp_port(address: &Multiaddr, port: u16) -> Option<Multiaddr> {
    (tcp_port(address) == Some(0)).then(|| {
        address.iter().map(|part| if matches!(part, Protocol::Tcp(_)) { Protocol::Tcp(port) } else { part }).collect()
    })
}

/// The peer that an address names.
pub(crate) fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// Whether it leads to this machine only.
pub(crate) fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}
