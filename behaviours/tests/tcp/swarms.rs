//! The transport under a real swarm.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    thread,
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite, FutureExt, StreamExt, channel::oneshot};
use libp2p::{
    Multiaddr, Swarm, Transport,
    core::upgrade::Version,
    identity::Keypair,
    multiaddr::Protocol,
    noise, ping,
    swarm::{self, SwarmEvent},
    yamux,
};
use quorate_behaviours::tcp::TcpTransport;

use crate::{multiaddr, wait};

/// A swarm that pings whoever it is connected to, on `transport`.
fn swarm_on<T>(transport: T, spawn: fn(Task)) -> Swarm<ping::Behaviour>
where
    T: Transport<Error = io::Error, Output: AsyncRead + AsyncWrite + Send + Unpin + 'static> + Send + Unpin + 'static,
    T::Dial: Send,
    T::ListenerUpgrade: Send,
{
    let key = Keypair::generate_ed25519();
    let transport = transport
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&key).unwrap())
        .multiplex(yamux::Config::default())
        .boxed();
    let behaviour = ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_millis(20)));
    Swarm::new(transport, behaviour, key.public().to_peer_id(), swarm::Config::with_executor(spawn))
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

fn swarm() -> Swarm<ping::Behaviour> {
    swarm_on(TcpTransport::default(), |task| {
        async_std::task::spawn(task);
    })
}

/// Drives `swarm` until it listens, and returns where, with its peer.
async fn listen(swarm: &mut Swarm<ping::Behaviour>) -> Multiaddr {
    swarm.listen_on(multiaddr("/ip4/127.0.0.1/tcp/0")).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address.with(Protocol::P2p(*swarm.local_peer_id()));
        }
    }
}

/// Drives `swarm` until it has been answered three times.
async fn ping_thrice(swarm: &mut Swarm<ping::Behaviour>) {
    let mut answers = 0;
    while answers < 3 {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(ping::Event { result, .. }) => {
                result.unwrap();
                answers += 1;
            }
            SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
            SwarmEvent::IncomingConnectionError { error, .. } => panic!("{error}"),
            SwarmEvent::ConnectionClosed { cause, .. } => panic!("{cause:?}"),
            _ => {}
        }
    }
}

/// Drives `swarm` for as long as `work` takes.
async fn serve_while(swarm: &mut Swarm<ping::Behaviour>, work: impl Future<Output = ()>) {
    let mut work = pin!(work.fuse());
    loop {
        futures::select! {
            () = work => break,
            _ = swarm.select_next_some() => {}
        }
    }
}

#[test]
fn two_swarms_ping_each_other_through_noise_and_yamux() {
    let (mut dialer, mut listener) = (swarm(), swarm());
    wait(async {
        let addr = listen(&mut listener).await;
        dialer.dial(addr).unwrap();
        serve_while(&mut listener, ping_thrice(&mut dialer)).await;
        serve_while(&mut dialer, ping_thrice(&mut listener)).await;
    });
}

#[test]
fn the_tcp_transport_of_libp2p_on_tokio_is_a_good_partner() {
    let (tell_address, address) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let stock = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut swarm = swarm_on(libp2p_tcp::tokio::Transport::default(), |task| {
                tokio::spawn(task);
            });
            tell_address.send(listen(&mut swarm).await).unwrap();
            serve_while(&mut swarm, stopped.map(drop)).await;
        });
    });

    let mut ours = swarm();
    wait(async {
        ours.dial(address.await.unwrap()).unwrap();
        ping_thrice(&mut ours).await;
    });
    drop(stop);
    stock.join().unwrap();
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
