//! The TCP transport against real sockets: loopback, network namespaces of its own, and a process short of descriptors.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod connections;
mod listeners;
mod swarms;
mod system;

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    time::Duration,
};

use async_io::Timer;
use async_std::task::block_on;
use futures::{
    AsyncReadExt, AsyncWriteExt, FutureExt,
    future::{Either, join, select},
};
use libp2p::{
    Multiaddr, Transport,
    core::{
        Endpoint,
        transport::{DialOpts, ListenerId, PortUse, TransportEvent},
    },
    multiaddr::Protocol,
};
use quorate_behaviours::tcp::{TcpStream, TcpTransport};

/// Longest wait for anything that should happen.
const PATIENCE: Duration = Duration::from_secs(20);

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
