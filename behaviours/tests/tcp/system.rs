//! What needs a process of its own: one short of descriptors, one whose interfaces change.

use std::{
    collections::BTreeSet,
    env,
    fs::File,
    future::poll_fn,
    net,
    pin::Pin,
    process::{Command, Output},
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, Transport, core::transport::TransportEvent};
use quorate_behaviours::tcp::{TcpConfig, TcpTransport};

use crate::{listen, listen_on_one, next, port, socket_addr, wait};

/// Set in a process that a test started to run itself again.
const CHILD: &str = "QUORATE_TCP_TEST_CHILD";

/// The kernel's number for "too many open files in this process".
const EMFILE: i32 = 24;

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
        "system::without_descriptors_a_listener_pauses_and_later_resumes",
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
    assert_success(&run_again(&["unshare", "-n"], "system::an_address_that_goes_away_expires"));
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
