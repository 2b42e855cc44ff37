//! The transport under a real swarm.

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use libp2p::{
    Swarm, Transport,
    core::upgrade::Version,
    identity::Keypair,
    multiaddr::Protocol,
    noise, ping,
    swarm::{self, SwarmEvent},
    yamux,
};
use quorate_behaviours::tcp::TcpTransport;

use crate::{multiaddr, wait};

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
