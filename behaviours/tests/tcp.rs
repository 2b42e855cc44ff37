//! The TCP transport against real sockets: loopback, network namespaces of its own, and a process short of descriptors.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    collections::BTreeSet,
    env,
    fs::File,
    future::{Future, poll_fn},
    io,
    net::{self, SocketAddr},
    pin::{Pin, pin},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
    time::{Duration, Instant},
};

use async_io::Timer;
use async_std::task::block_on;
use futures::{
    AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt,
    future::{Either, join, select},
};
use libp2p::{
    Multiaddr, Swarm, Transport,
    core::{
        Endpoint,
        transport::{DialOpts, ListenerId, MemoryTransport, PortUse, TransportError, TransportEvent},
        upgrade::Version,
    },
    identity::Keypair,
    multiaddr::Protocol,
    noise, ping,
    swarm::{self, SwarmEvent},
    yamux,
};
use quorate_behaviours::tcp::{DialError, TcpConfig, TcpStream, TcpTransport};
use socket2::{Domain, Socket, Type};

/// Longest wait for anything that should happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// Set in a process that a test started to run itself again.
const CHILD: &str = "QUORATE_TCP_TEST_CHILD";
/// The kernel's number for "too many open files in this process".
const EMFILE: i32 = 24;

const DIAL: DialOpts = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };

type Event = TransportEvent<<TcpTransport as Transport>::ListenerUpgrade, io::Error>;

#[track_caller]
fn wait<F: Future>(work: F) -> F::Output {
    block_on(async {
        match select(pin!(work), Timer::after(PATIENCE)).await {
            Either::Left((output, _)) => output,
            Either::Right(_) => panic!("nothing happened within {PATIENCE:?}"),
        }
    })
}

async fn next(transport: &mut TcpTransport) -> Event {
    poll_fn(|cx| Pin::new(&mut *transport).poll(cx)).await
}

fn multiaddr(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

fn listen(transport: &mut TcpTransport, addr: &str) -> ListenerId {
    let id = ListenerId::next();
    transport.listen_on(id, multiaddr(addr)).unwrap();
    id
}

/// Listens on an address that is no wildcard, and returns it with its port.
fn listen_on_one(transport: &mut TcpTransport, addr: &str) -> (ListenerId, Multiaddr) {
    let id = listen(transport, addr);
    match wait(next(transport)) {
        TransportEvent::NewAddress { listener_id, listen_addr } if listener_id == id => (id, listen_addr),
        event => panic!("expected the new address, got {event:?}"),
    }
}

fn port(addr: &Multiaddr) -> u16 {
    addr.iter().find_map(|protocol| if let Protocol::Tcp(port) = protocol { Some(port) } else { None }).unwrap()
}

fn socket_addr(addr: &Multiaddr) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port(addr)))
}

/// Dials `target`, accepts at `listener`, and returns both ends.
fn connect(dialer: &mut TcpTransport, target: Multiaddr, listener: &mut TcpTransport) -> (TcpStream, TcpStream) {
    let dial = dialer.dial(target, DIAL).unwrap();
    let accept = async {
        loop {
            if let TransportEvent::Incoming { upgrade, .. } = next(listener).await {
                break upgrade.await.unwrap();
            }
        }
    };
    wait(join(dial.map(Result::unwrap), accept))
}

async fn send(from: &mut TcpStream, to: &mut TcpStream, message: &[u8]) {
    from.write_all(message).await.unwrap();
    let mut received = vec![0; message.len()];
    to.read_exact(&mut received).await.unwrap();
    assert_eq!(received, message);
}

fn exchange_bytes((mut ours, mut theirs): (TcpStream, TcpStream)) {
    wait(async {
        send(&mut ours, &mut theirs, b"there").await;
        send(&mut theirs, &mut ours, b"and back").await;
    });
}

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

/// Polls a transport that has nothing to say, and returns what it will wake.
#[track_caller]
fn poll_in_vain(transport: &mut TcpTransport) -> Arc<Alarm> {
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(alarm.clone());
    assert!(Pin::new(transport).poll(&mut Context::from_waker(&waker)).is_pending());
    alarm
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
    let mut transport = TcpTransport::default();
    let (_, busy_addr) = listen_on_one(&mut transport, "/ip4/127.0.0.1/tcp/0");
    let (quiet, quiet_addr) = listen_on_one(&mut transport, "/ip4/127.0.0.1/tcp/0");
    let open = |addr: &Multiaddr| net::TcpStream::connect(socket_addr(addr)).unwrap();
    let _clients: Vec<_> = (0..100).map(|_| open(&busy_addr)).chain([open(&quiet_addr)]).collect();

    let turn = wait(async {
        for turn in 1.. {
            match next(&mut transport).await {
                TransportEvent::Incoming { listener_id, .. } if listener_id == quiet => return turn,
                TransportEvent::Incoming { .. } => {}
                event => panic!("expected a connection, got {event:?}"),
            }
        }
        unreachable!("the range has no end");
    });
    assert!(turn <= 50, "the quiet listener waited for turn {turn}");
}

/// Runs one test of this file again, in a process of its own, behind the words of `prefix`.
fn run_again(prefix: &[&str], test: &str) -> Output {
    let (program, arguments) = prefix.split_first().unwrap();
    Command::new(program)
        .args(arguments)
        .arg(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap()
}

#[track_caller]
fn assert_success(output: &Output) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let all = format!("{}\n{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && all.contains("1 passed"), "{all}");
}

#[test]
fn without_descriptors_a_listener_pauses_and_later_resumes() {
    if env::var_os(CHILD).is_some() {
        return exhaust_descriptors();
    }
    let output = run_again(
        &["sh", "-c", "ulimit -n 64 && exec \"$@\"", "sh"],
        "without_descriptors_a_listener_pauses_and_later_resumes",
    );
    assert_success(&output);
}

fn exhaust_descriptors() {
    let accept_pause = Duration::from_millis(50);
    let mut transport = TcpTransport::new(TcpConfig { accept_pause, ..TcpConfig::default() });
    let (id, addr) = listen_on_one(&mut transport, "/ip4/127.0.0.1/tcp/0");
    // The kernel completes the connection before anybody accepts it.
    let _client = net::TcpStream::connect(socket_addr(&addr)).unwrap();
    let mut files = Vec::new();
    let error = loop {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(EMFILE));

    let started = Instant::now();
    let mut polls = 0;
    for _ in 0..5 {
        let event = wait(poll_fn(|cx| {
            polls += 1;
            Pin::new(&mut transport).poll(cx)
        }));
        match event {
            TransportEvent::ListenerError { listener_id, error } => {
                assert_eq!((listener_id, error.raw_os_error()), (id, Some(EMFILE)));
            }
            event => panic!("expected an error, got {event:?}"),
        }
    }
    // Four pauses lie between five errors. A few polls more than errors are wake-ups of the reactor.
    assert!(started.elapsed() >= accept_pause * 4, "five errors within {:?}", started.elapsed());
    assert!(polls <= 20, "{polls} polls for five errors");

    drop(files);
    match wait(next(&mut transport)) {
        TransportEvent::Incoming { upgrade, .. } => drop(wait(upgrade).unwrap()),
        event => panic!("expected the waiting connection, got {event:?}"),
    }
}

#[test]
fn an_address_that_goes_away_expires() {
    if env::var_os(CHILD).is_some() {
        return change_addresses();
    }
    let possible = Command::new("unshare").args(["-n", "ip", "link", "set", "lo", "up"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        #[expect(clippy::print_stderr, reason = "whoever runs the test must know that it showed nothing")]
        {
            eprintln!("SKIPPED: no network namespace can be made here, so no address can be removed");
        }
        return;
    }
    assert_success(&run_again(&["unshare", "-n"], "an_address_that_goes_away_expires"));
}

/// Runs `ip` with the words of `arguments`.
fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn change_addresses() {
    ip("link set lo up");
    let mut transport = TcpTransport::default();
    listen(&mut transport, "/ip4/0.0.0.0/tcp/0");
    listen(&mut transport, "/ip6/::/tcp/0");
    expect_changes(&mut transport, &["+/ip4/127.0.0.1", "+/ip6/::1"]);

    ip("addr add 10.77.0.1/32 dev lo");
    ip("addr add 2001:db8::77/128 dev lo");
    expect_changes(&mut transport, &["+/ip4/10.77.0.1", "+/ip6/2001:db8::77"]);
    ip("addr del 10.77.0.1/32 dev lo");
    ip("addr del 2001:db8::77/128 dev lo");
    expect_changes(&mut transport, &["-/ip4/10.77.0.1", "-/ip6/2001:db8::77"]);

    // A whole interface goes. Its link-local address is in none of the lists.
    ip("link add q0 type veth peer name q1");
    ip("link set q1 up");
    ip("link set q0 up");
    ip("addr add 10.78.0.1/24 dev q0");
    ip("addr add 2001:db8::78/64 dev q0 nodad");
    expect_changes(&mut transport, &["+/ip4/10.78.0.1", "+/ip6/2001:db8::78"]);
    ip("link del q0");
    expect_changes(&mut transport, &["-/ip4/10.78.0.1", "-/ip6/2001:db8::78"]);
}

/// Takes as many events as there are changes, which may come in any order; `+` is new, `-` is expired.
#[track_caller]
fn expect_changes(transport: &mut TcpTransport, changes: &[&str]) {
    let expected: BTreeSet<_> = changes.iter().map(|change| (*change).to_owned()).collect();
    let mut seen = BTreeSet::new();
    while seen.len() < expected.len() {
        let (sign, addr) = match wait(next(transport)) {
            TransportEvent::NewAddress { listen_addr, .. } => ('+', listen_addr),
            TransportEvent::AddressExpired { listen_addr, .. } => ('-', listen_addr),
            event => panic!("expected a change of address, got {event:?}"),
        };
        assert_ne!(port(&addr), 0);
        let host = addr.iter().next().unwrap();
        seen.insert(format!("{sign}{}", Multiaddr::empty().with(host)));
    }
    assert_eq!(seen, expected);
}

fn swarm() -> Swarm<ping::Behaviour> {
    let key = Keypair::generate_ed25519();
    let transport = TcpTransport::default()
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&key).unwrap())
        .multiplex(yamux::Config::default())
        .boxed();
    let behaviour = ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_millis(20)));
    let config = swarm::Config::with_executor(|task| {
        async_std::task::spawn(task);
    });
    Swarm::new(transport, behaviour, key.public().to_peer_id(), config)
}

#[test]
fn two_swarms_ping_each_other_through_noise_and_yamux() {
    let (mut dialer, mut listener) = (swarm(), swarm());
    listener.listen_on(multiaddr("/ip4/127.0.0.1/tcp/0")).unwrap();
    wait(async {
        let addr = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = listener.select_next_some().await {
                break address;
            }
        };
        dialer.dial(addr.with(Protocol::P2p(*listener.local_peer_id()))).unwrap();
        let (mut there, mut back) = (0, 0);
        while there < 3 || back < 3 {
            let (event, pings) = futures::select! {
                event = dialer.select_next_some() => (event, &mut there),
                event = listener.select_next_some() => (event, &mut back),
            };
            match event {
                SwarmEvent::Behaviour(ping::Event { result, .. }) => {
                    result.unwrap();
                    *pings += 1;
                }
                SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
                SwarmEvent::ConnectionClosed { cause, .. } => panic!("{cause:?}"),
                _ => {}
            }
        }
    });
}

#[test]
fn a_swarm_lists_the_addresses_that_end_with_a_listener() {
    let mut swarm = swarm();
    let id = swarm.listen_on(multiaddr("/ip4/127.0.0.1/tcp/0")).unwrap();
    wait(async {
        let mut announced = None;
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { address, .. } => {
                    announced = Some(address);
                    assert!(swarm.remove_listener(id));
                }
                SwarmEvent::ListenerClosed { listener_id, addresses, reason: Ok(()) } => {
                    assert_eq!(listener_id, id);
                    assert_eq!(Some(addresses), announced.map(|address| vec![address]));
                    break;
                }
                event => panic!("unexpected {event:?}"),
            }
        }
    });
    assert_eq!(swarm.listeners().count(), 0);
    assert!(swarm.next().now_or_never().is_none());
}
