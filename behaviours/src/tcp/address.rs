//! Multiaddresses of TCP, and what they mean as socket addresses.
//!
//! Accepts exactly the forms in the table of [`super`]; everything else is `None`. It resolves nothing.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use libp2p::{Multiaddr, multiaddr::Protocol};

/// Longest name a dial takes, in bytes. Source: RFC 1035, section 2.3.4, without the trailing dot.
const NAME_LIMIT_BYTES: usize = 253;

/// What a dial goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// One socket.
    Socket(SocketAddr),
    /// Whatever sockets a name stands for.
    Name(Name),
}

/// A name that is still to be resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    /// 1 to [`NAME_LIMIT_BYTES`] bytes, otherwise unchecked.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) family: Family,
}

/// Which addresses of a name are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// `/dns`.
    Any,
    /// `/dns4`.
    V4,
    /// `/dns6`.
    V6,
}

impl Family {
    pub(super) fn includes(self, ip: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => ip.is_ipv4(),
            Self::V6 => ip.is_ipv6(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.family {
            Family::Any => "dns",
            Family::V4 => "dns4",
            Family::V6 => "dns6",
        };
        write!(f, "/{protocol}/{}/tcp/{}", self.host, self.port)
    }
}

/// The socket to listen on; `None` if the address is not one of ours.
pub(super) fn to_listen(addr: &Multiaddr) -> Option<SocketAddr> {
    match parse(addr)? {
        Target::Socket(socket_addr) => Some(socket_addr),
        Target::Name(_) => None,
    }
}

/// What to dial; `None` if the address is not one of ours or nobody can be reached there.
pub(super) fn to_dial(addr: &Multiaddr) -> Option<Target> {
    parse(addr).filter(|target| match target {
        Target::Socket(socket_addr) => is_diallable(*socket_addr),
        Target::Name(name) => name.port != 0 && (1..=NAME_LIMIT_BYTES).contains(&name.host.len()),
    })
}

/// Whether somebody can be listening at `addr`, as seen from here.
pub(super) fn is_diallable(addr: SocketAddr) -> bool {
    let has_zone = matches!(addr, SocketAddr::V6(v6) if v6.scope_id() != 0);
    addr.port() != 0 && !addr.ip().is_unspecified() && (has_zone || is_whole(addr.ip()))
}

/// Whether the address says by itself, within its own family, where it is.
///
/// False for link-local IPv6, which needs a zone, and for IPv4 written as IPv6, which IPv6-only sockets refuse.
pub(super) fn is_whole(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none(),
    }
}

/// `/ip4/…/tcp/…` or `/ip6/…/tcp/…`. A zone or flow label is lost.
pub(super) fn to_multiaddr(ip: IpAddr, port: u16) -> Multiaddr {
    Multiaddr::from(ip).with(Protocol::Tcp(port))
}

fn parse(addr: &Multiaddr) -> Option<Target> {
    let mut protocols = addr.iter();
    let host = protocols.next()?;
    let Some(Protocol::Tcp(port)) = protocols.next() else {
        return None;
    };
    match (protocols.next(), protocols.next()) {
        (None | Some(Protocol::P2p(_)), None) => {}
        _ => return None,
    }
    let name = |host: &str, family| Target::Name(Name { host: host.to_owned(), port, family });
    match host {
        Protocol::Ip4(v4) => Some(Target::Socket(SocketAddr::new(v4.into(), port))),
        Protocol::Ip6(v6) => is_whole(v6.into()).then(|| Target::Socket(SocketAddr::new(v6.into(), port))),
        Protocol::Dns(host) => Some(name(&host, Family::Any)),
        Protocol::Dns4(host) => Some(name(&host, Family::V4)),
        Protocol::Dns6(host) => Some(name(&host, Family::V6)),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    const PEER: &str = "12D3KooWGyQEKtDrnCFkzUnjeRtWwWvYm7EpGa8TBkAGV4ZZYwJk";

    /// Writes a target the way a person would, or `-` for a refusal.
    fn show(target: Option<Target>) -> String {
        match target {
            None => "-".to_owned(),
            Some(Target::Socket(socket_addr)) => socket_addr.to_string(),
            Some(Target::Name(name)) => name.to_string(),
        }
    }

    #[track_caller]
    fn check(addr: &str, listen: &str, dial: &str) {
        for addr in [addr.to_owned(), format!("{addr}/p2p/{PEER}")] {
            let addr: Multiaddr = addr.parse().unwrap();
            assert_eq!(show(to_listen(&addr).map(Target::Socket)), listen, "listening on {addr}");
            assert_eq!(show(to_dial(&addr)), dial, "dialling {addr}");
        }
    }

    #[test]
    fn ip_addresses_with_a_port_are_taken() {
        check("/ip4/192.0.2.1/tcp/80", "192.0.2.1:80", "192.0.2.1:80");
        check("/ip6/2001:db8::1/tcp/80", "[2001:db8::1]:80", "[2001:db8::1]:80");
        check("/ip6/::1/tcp/80", "[::1]:80", "[::1]:80");
    }

    #[test]
    fn wildcards_and_port_zero_can_be_listened_on_but_not_dialled() {
        check("/ip4/0.0.0.0/tcp/80", "0.0.0.0:80", "-");
        check("/ip6/::/tcp/80", "[::]:80", "-");
        check("/ip4/127.0.0.1/tcp/0", "127.0.0.1:0", "-");
    }

    #[test]
    fn names_can_be_dialled_but_not_listened_on() {
        check("/dns/a.example/tcp/80", "-", "/dns/a.example/tcp/80");
        check("/dns4/a.example/tcp/80", "-", "/dns4/a.example/tcp/80");
        check("/dns6/a.example/tcp/80", "-", "/dns6/a.example/tcp/80");
        check("/dns6/a.example/tcp/0", "-", "-");
    }

    #[test]
    fn a_name_is_at_most_as_long_as_dns_allows() {
        let longest = "n".repeat(253);
        check(&format!("/dns/{longest}/tcp/80"), "-", &format!("/dns/{longest}/tcp/80"));
        check(&format!("/dns/{longest}n/tcp/80"), "-", "-");
    }

    #[test]
    fn addresses_that_need_a_zone_or_hide_ipv4_are_refused() {
        check("/ip6/fe80::1/tcp/80", "-", "-");
        check("/ip6/::ffff:127.0.0.1/tcp/80", "-", "-");
    }

    #[test]
    fn a_resolved_link_local_address_may_be_dialled_if_it_has_a_zone() {
        assert!(is_diallable("[fe80::1%2]:80".parse().unwrap()));
        assert!(!is_diallable("[fe80::1]:80".parse().unwrap()));
    }

    #[test]
    fn other_protocols_are_left_to_other_transports() {
        check("/ip4/127.0.0.1/udp/80", "-", "-");
        check("/ip4/127.0.0.1/udp/80/quic-v1", "-", "-");
        check("/ip4/127.0.0.1/tcp/80/ws", "-", "-");
        check("/ip4/127.0.0.1", "-", "-");
        check("/tcp/80", "-", "-");
        check("/memory/80", "-", "-");
        check("/dnsaddr/a.example", "-", "-");
        check("/dnsaddr/a.example/tcp/80", "-", "-");
        check(&format!("/ip4/127.0.0.1/tcp/80/p2p/{PEER}/p2p-circuit"), "-", "-");
    }

    #[test]
    fn a_socket_address_becomes_a_multiaddress_without_its_zone() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(to_multiaddr(ip("127.0.0.1"), 80).to_string(), "/ip4/127.0.0.1/tcp/80");
        assert_eq!(to_multiaddr(ip("fe80::1"), 80).to_string(), "/ip6/fe80::1/tcp/80");
    }
}
