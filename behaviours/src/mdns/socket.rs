//! Multicast sockets, one for each link.
//!
//! A link is one IPv4 address, or all IPv6 addresses of one interface: IPv4 multicast is joined by address, IPv6
//! multicast by interface, and IPv6 packets come from the link-local address whatever else the interface has.
//!
//! The sockets share port 5353 with every other mDNS responder of the host, and hear only what arrives on their own
//! link (on Linux; elsewhere what arrives on the host, and the check of the sender makes up for it).

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
};

use async_io::Async;
use if_watch::IpNet;
use socket2::{Domain, Protocol, Socket, Type};

const MDNS_PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// Multicast packets must carry the highest hop limit (RFC 6762, section 11); none leaves the link anyhow.
const HOP_LIMIT: u32 = 255;

/// What a socket is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LinkId {
    /// One IPv4 address of this host.
    V4(Ipv4Addr),
    /// The interface of this index, for IPv6; 0 lets the system choose.
    V6(u32),
}

impl LinkId {
    /// The link to which an address of this host belongs.
    pub(crate) fn of(net: &IpNet) -> Self {
        match net.addr() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6(interface_index(address).unwrap_or(0)),
        }
    }

    /// Where packets for everybody on the link go.
    pub(crate) fn group(self) -> SocketAddr {
        match self {
            Self::V4(_) => (GROUP_V4, MDNS_PORT).into(),
            Self::V6(index) => SocketAddrV6::new(GROUP_V6, MDNS_PORT, 0, index).into(),
        }
    }

    /// Opens the socket of the link.
    ///
    /// # Errors
    ///
    /// When the system refuses: the port is held by one who does not share, or the link cannot multicast (yet).
    pub(crate) fn open(self) -> io::Result<Async<UdpSocket>> {
        let socket = match self {
            Self::V4(address) => open_v4(address)?,
            Self::V6(index) => open_v6(index)?,
        };
        Async::new(socket.into())
    }
}

fn open_v4(address: Ipv4Addr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    share_port(&socket)?;
    #[cfg(target_os = "linux")]
    socket.set_multicast_all_v4(false)?;
    socket.set_multicast_loop_v4(true)?;
    socket.set_multicast_ttl_v4(HOP_LIMIT)?;
    socket.set_multicast_if_v4(&address)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, MDNS_PORT)).into())?;
    socket.join_multicast_v4(&GROUP_V4, &address)?;
    Ok(socket)
}

fn open_v6(index: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    share_port(&socket)?;
    socket.set_only_v6(true)?;
    #[cfg(target_os = "linux")]
    socket.set_multicast_all_v6(false)?;
    socket.set_multicast_loop_v6(true)?;
    socket.set_multicast_hops_v6(HOP_LIMIT)?;
    socket.set_multicast_if_v6(index)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, MDNS_PORT)).into())?;
    socket.join_multicast_v6(&GROUP_V6, index)?;
    Ok(socket)
}

fn share_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    Ok(())
}

/// The index of the interface that has `address`. `None` where the system does not tell (it does on Linux).
///
/// Why not asked of the interface watcher: it knows addresses only.
fn interface_index(address: Ipv6Addr) -> Option<u32> {
    find_index(address, &fs::read_to_string("/proc/net/if_inet6").ok()?)
}

/// Looks `address` up in the kernel's list: address and index, in hexadecimal, are the first two words of a line.
fn find_index(address: Ipv6Addr, list: &str) -> Option<u32> {
    let wanted = format!("{:032x}", address.to_bits());
    list.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let found = words.next()? == wanted;
        let index = u32::from_str_radix(words.next()?, 16).ok()?;
        found.then_some(index)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn the_index_of_an_address_is_found_in_the_list_of_the_kernel() {
        let list = "00000000000000000000000000000001 01 80 10 80       lo\n\
                    fe80000000000000e06adffffebf07bd 1f 40 20 c0       eth0\n\
                    nonsense\n";
        assert_eq!(find_index("fe80::e06a:dfff:febf:7bd".parse().unwrap(), list), Some(31));
        assert_eq!(find_index("::1".parse().unwrap(), list), Some(1));
        assert_eq!(find_index("::2".parse().unwrap(), list), None);
    }
}
