//! Listening: addresses, turns and the end of a listener.

use std::{
    io,
    net::{self, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use libp2p::{
    Transport,
    core::transport::{ListenerId, TransportError, TransportEvent},
};
use quorate_behaviours::tcp::TcpTransport;
use socket2::{Domain, Socket, Type};

use crate::{connect, exchange_bytes, listen, listen_on_one, multiaddr, next, port, socket_addr, wait};

#[test]
fn incoming_connections_carry_the_addresses_of_both_ends() {
    let mut listener = TcpTransport::default();
    let (id, addr) = listen_on_one(&mut listener, "/ip4/127.0.0.1/tcp/0");
    let client = net::TcpStream::connect(socket_addr(&addr)).unwrap();
    match wait(next(&mut listener)) {
        TransportEvent::Incoming { listener_id, local_addr, send_back_addr, .. } => {
            assert_eq!((listener_id, local_addr), (id, addr));
            assert_eq!(port(&send_back_addr), client.local_addr().unwrap().port());
        }
        event => panic!("expected a connection, got {event:?}"),
    }
}

#[test]
fn a_wildcard_listener_announces_loopback_and_is_reached_there() {
    for (wildcard, loopback) in [("/ip4/0.0.0.0/tcp/0", "/ip4/127.0.0.1"), ("/ip6/::/tcp/0", "/ip6/::1")] {
        let mut listener = TcpTransport::default();
        let id = listen(&mut listener, wildcard);
        let addr = wait(async {
            loop {
                match next(&mut listener).await {
                    TransportEvent::NewAddress { listener_id, listen_addr } => {
                        assert_eq!(listener_id, id);
                        if listen_addr.to_string().starts_with(&format!("{loopback}/tcp/")) {
                            break listen_addr;
                        }
                    }
                    event => panic!("expected addresses, got {event:?}"),
                }
            }
        });
        assert_ne!(port(&addr), 0);
        exchange_bytes(connect(&mut TcpTransport::default(), addr, &mut listener));
    }
}

#[test]
fn both_wildcards_can_share_a_port() {
    let mut transport = TcpTransport::default();
    // Another process may hold the port in the other family; then another port will do.
    let shared = (0..10).any(|_| {
        let first = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
        first.bind(&"[::]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        let port = first.local_addr().unwrap().as_socket().unwrap().port();
        drop(first);
        let listen = |transport: &mut TcpTransport, ip: &str| {
            transport.listen_on(ListenerId::next(), multiaddr(&format!("{ip}/tcp/{port}")))
        };
        listen(&mut transport, "/ip6/::").is_ok() && listen(&mut transport, "/ip4/0.0.0.0").is_ok()
    });
    assert!(shared);
}

#[test]
fn a_port_in_use_is_an_error_at_once() {
    let mut transport = TcpTransport::default();
    let (_, addr) = listen_on_one(&mut transport, "/ip4/127.0.0.1/tcp/0");
    match transport.listen_on(ListenerId::next(), addr) {
        Err(TransportError::Other(error)) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse),
        result => panic!("expected an error of the system, got {result:?}"),
    }
}

#[test]
fn a_removed_listener_says_goodbye_and_frees_its_port() {
    let mut transport = TcpTransport::default();
    let (removed, addr) = listen_on_one(&mut transport, "/ip4/127.0.0.1/tcp/0");
    let (kept, _) = listen_on_one(&mut transport, "/ip4/127.0.0.1/tcp/0");

    assert!(transport.remove_listener(removed));
    assert!(!transport.remove_listener(removed));
    transport.listen_on(ListenerId::next(), addr).unwrap();
    match wait(next(&mut transport)) {
        TransportEvent::ListenerClosed { listener_id, reason: Ok(()) } => assert_eq!(listener_id, removed),
        event => panic!("expected the end of the listener, got {event:?}"),
    }
    assert!(transport.remove_listener(kept));
}

/// Remembers whether it was woken.
#[derive(Default)]
struct Alarm {
    rang: AtomicBool,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.rang.store(true, Ordering::SeqCst);
    }
}

/// Polls a transport until it waits in earnest, and returns what it will wake. The first poll after an event may only
/// ask to be polled again.
#[track_caller]
fn poll_in_vain(transport: &mut TcpTransport) -> Arc<Alarm> {
    for _ in 0..10 {
        let alarm = Arc::new(Alarm::default());
        let waker = Waker::from(alarm.clone());
        assert!(Pin::new(&mut *transport).poll(&mut Context::from_waker(&waker)).is_pending());
        if !alarm.rang.load(Ordering::SeqCst) {
            return alarm;
        }
    }
    panic!("the transport keeps waking itself");
}

#[test]
fn a_waiting_task_is_woken_for_a_listener_added_or_removed() {
    let mut transport = TcpTransport::default();
    let alarm = poll_in_vain(&mut transport);
    let id = listen(&mut transport, "/ip4/127.0.0.1/tcp/0");
    assert!(alarm.rang.load(Ordering::SeqCst), "the new listener has an address to announce");
    assert!(matches!(wait(next(&mut transport)), TransportEvent::NewAddress { .. }));

    let alarm = poll_in_vain(&mut transport);
    transport.remove_listener(id);
    assert!(alarm.rang.load(Ordering::SeqCst), "the end of the listener must be reported");
}

#[test]
fn a_busy_listener_does_not_starve_another() {
    check_turns(0, 1);
    check_turns(1, 0);
}

/// Crowds the first of two listeners, and expects a connection at the second in good time.
#[track_caller]
fn check_turns(busy: usize, quiet: usize) {
    let mut transport = TcpTransport::default();
    let listeners = [(); 2].map(|()| listen_on_one(&mut transport, "/ip4/127.0.0.1/tcp/0"));
    let open = |listener: usize| net::TcpStream::connect(socket_addr(&listeners[listener].1)).unwrap();
    let _clients: Vec<_> = (0..100).map(|_| open(busy)).chain([open(quiet)]).collect();

    let mut turns = 0;
    loop {
        turns += 1;
        match wait(next(&mut transport)) {
            TransportEvent::Incoming { listener_id, .. } if listener_id == listeners[quiet].0 => break,
            TransportEvent::Incoming { .. } => {}
            event => panic!("expected a connection, got {event:?}"),
        }
    }
    assert!(turns <= 50, "the quiet listener waited for turn {turns}");
}
