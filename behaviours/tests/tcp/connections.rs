//! Dialling, and what flows through a connection.

use std::{
    io,
    net::{self, SocketAddr},
    time::{Duration, Instant},
};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{
    Transport,
    core::transport::{ListenerId, MemoryTransport, TransportError},
    identity::Keypair,
};
use quorate_behaviours::tcp::{DialError, TcpConfig, TcpTransport};
use socket2::{Domain, Socket, Type};

use crate::{DIAL, connect, exchange_bytes, listen_on_one, multiaddr, port, wait};

fn check_connects(listen_addr: &str, target: impl Fn(u16) -> String) {
    let (mut dialer, mut listener) = (TcpTransport::default(), TcpTransport::default());
    let (_, addr) = listen_on_one(&mut listener, listen_addr);
    let streams = connect(&mut dialer, multiaddr(&target(port(&addr))), &mut listener);
    assert!(streams.0.get_ref().nodelay().unwrap() && streams.1.get_ref().nodelay().unwrap());
    exchange_bytes(streams);
}

#[test]
fn two_transports_exchange_bytes_over_ipv4() {
    check_connects("/ip4/127.0.0.1/tcp/0", |port| format!("/ip4/127.0.0.1/tcp/{port}"));
}

#[test]
fn two_transports_exchange_bytes_over_ipv6() {
    check_connects("/ip6/::1/tcp/0", |port| format!("/ip6/::1/tcp/{port}"));
}

#[test]
fn a_name_is_resolved_before_dialling() {
    check_connects("/ip4/127.0.0.1/tcp/0", |port| format!("/dns4/localhost/tcp/{port}"));
    check_connects("/ip4/127.0.0.1/tcp/0", |port| format!("/dns/localhost/tcp/{port}"));
}

#[test]
fn the_peer_at_the_end_of_an_address_is_accepted() {
    let peer = Keypair::generate_ed25519().public().to_peer_id();
    check_connects("/ip4/127.0.0.1/tcp/0", |port| format!("/ip4/127.0.0.1/tcp/{port}/p2p/{peer}"));
    check_connects("/ip4/127.0.0.1/tcp/0", |port| format!("/dns4/localhost/tcp/{port}/p2p/{peer}"));
}

#[test]
fn nodelay_is_as_configured() {
    let config = TcpConfig { nodelay: false, ..TcpConfig::default() };
    let (mut dialer, mut listener) = (TcpTransport::new(config.clone()), TcpTransport::new(config));
    let (_, addr) = listen_on_one(&mut listener, "/ip4/127.0.0.1/tcp/0");
    let (ours, theirs) = connect(&mut dialer, addr, &mut listener);
    assert!(!ours.get_ref().nodelay().unwrap() && !theirs.get_ref().nodelay().unwrap());
}

#[test]
fn closing_a_stream_ends_the_sending_half_only() {
    let (mut dialer, mut listener) = (TcpTransport::default(), TcpTransport::default());
    let (_, addr) = listen_on_one(&mut listener, "/ip4/127.0.0.1/tcp/0");
    let (mut ours, mut theirs) = connect(&mut dialer, addr, &mut listener);
    wait(async {
        ours.write_all(b"question").await.unwrap();
        ours.close().await.unwrap();
        ours.close().await.unwrap();
        let mut received = Vec::new();
        theirs.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"question");

        theirs.write_all(b"answer").await.unwrap();
        theirs.close().await.unwrap();
        received.clear();
        ours.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, b"answer");
    });
}

#[test]
fn a_silent_peer_fails_the_dial_with_its_address_and_the_time() {
    // The queue of this listener is full, so the kernel drops what we send.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    let _first = net::TcpStream::connect(addr).unwrap();

    let connect_timeout = Duration::from_millis(150);
    let mut dialer = TcpTransport::new(TcpConfig { connect_timeout, ..TcpConfig::default() });
    let target = multiaddr(&format!("/ip4/127.0.0.1/tcp/{}", addr.port()));
    let started = Instant::now();
    let error = wait(dialer.dial(target, DIAL).unwrap()).unwrap_err();
    assert!(started.elapsed() >= connect_timeout);
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(error.to_string(), format!("no connection to {addr} within 150ms"));
    let inner = error.get_ref().unwrap().downcast_ref::<DialError>();
    assert!(matches!(inner, Some(DialError::TimedOut { .. })));
}

#[test]
fn a_refused_dial_is_the_error_of_the_system() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    let dial = TcpTransport::default().dial(multiaddr(&format!("/ip4/127.0.0.1/tcp/{port}")), DIAL).unwrap();
    assert_eq!(wait(dial).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_dial_does_nothing_before_it_is_polled() {
    let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let target = multiaddr(&format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port()));
    let dial = TcpTransport::default().dial(target, DIAL).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let _stream = wait(dial).unwrap();
    listener.accept().unwrap();
}

#[test]
fn addresses_of_other_transports_are_handed_back_unchanged() {
    let mut transport = TcpTransport::default();
    for addr in ["/memory/7", "/ip4/0.0.0.0/tcp/80", "/dnsaddr/a.example", "/ip4/127.0.0.1/tcp/80/ws"] {
        match transport.dial(multiaddr(addr), DIAL) {
            Err(TransportError::MultiaddrNotSupported(refused)) => assert_eq!(refused, multiaddr(addr)),
            _ => panic!("{addr} should be refused"),
        }
    }
    let mut both = TcpTransport::default().or_transport(MemoryTransport::default());
    both.listen_on(ListenerId::next(), multiaddr("/memory/0")).unwrap();
    both.listen_on(ListenerId::next(), multiaddr("/ip4/127.0.0.1/tcp/0")).unwrap();
}
