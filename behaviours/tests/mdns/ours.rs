//! Behaviours driven by hand, as a swarm would drive them, and waiting for what they say.

use std::{
    collections::BTreeSet,
    net::UdpSocket,
    time::{Duration, Instant},
};

use async_io::Timer;
use futures::{FutureExt, future::join, pin_mut, select_biased};
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::ListenerId},
    swarm::{ConnectionId, ExpiredListenAddr, FromSwarm, NetworkBehaviour, NewListenAddr, ToSwarm},
};
use quorate_behaviours::mdns::{Behaviour, Config, Counters, Event};

use crate::lan::{self, NEAR_ADDRESS};

/// Within this time what should happen at once must have happened, on a machine that is busy with other things.
pub(crate) const SOON: Duration = Duration::from_secs(3);

/// One of our behaviours, driven as a swarm would.
pub(crate) struct Ours {
    pub(crate) id: PeerId,
    pub(crate) mdns: Behaviour,
}

impl Ours {
    pub(crate) fn new(config: Config) -> Self {
        let id = PeerId::random();
        Self { id, mdns: Behaviour::new(id, config).unwrap() }
    }

    pub(crate) fn listening_on(port: u16) -> Self {
        Self::listening_on_with(port, Config::default())
    }

    pub(crate) fn listening_on_with(port: u16, config: Config) -> Self {
        let mut ours = Self::new(config);
        ours.listen(&address(port));
        ours
    }

    pub(crate) fn listen(&mut self, address: &Multiaddr) {
        listen(&mut self.mdns, address);
    }

    pub(crate) fn stop_listening(&mut self, addr: &Multiaddr) {
        let event = ExpiredListenAddr { listener_id: ListenerId::next(), addr };
        self.mdns.on_swarm_event(FromSwarm::ExpiredListenAddr(event));
    }

    /// Waits until `peer` is discovered. Returns the time since `started`.
    pub(crate) async fn finds(&mut self, peer: PeerId, started: Instant) -> Duration {
        while !self.found().await.iter().any(|(found, _)| *found == peer) {}
        started.elapsed()
    }

    /// Waits until all `peers` but itself are discovered; its sockets answer on. Returns the time since `started`.
    pub(crate) async fn finds_all(&mut self, peers: &[PeerId], started: Instant) -> Duration {
        let mut missing: BTreeSet<PeerId> = peers.iter().copied().filter(|peer| *peer != self.id).collect();
        while !missing.is_empty() {
            for (peer, _) in self.found().await {
                missing.remove(&peer);
            }
        }
        started.elapsed()
    }

    pub(crate) async fn found(&mut self) -> Vec<(PeerId, Multiaddr)> {
        loop {
            if let Event::Discovered(found) = next_event(&mut self.mdns).await {
                return found;
            }
        }
    }

    /// What is discovered before `time` is over.
    pub(crate) async fn found_within(&mut self, time: Duration) -> Vec<(PeerId, Multiaddr)> {
        let mut all = Vec::new();
        let mut timer = FutureExt::fuse(Timer::after(time));
        loop {
            let found = self.found().fuse();
            pin_mut!(found);
            select_biased! { found = found => all.extend(found), _ = timer => return all }
        }
    }

    /// Polls the behaviour until it has asked `queries` times.
    pub(crate) async fn asked(&mut self, queries: u64) {
        self.counts(|counters| counters.queries_sent >= queries).await;
    }

    /// Polls the behaviour until its counters are as wanted.
    pub(crate) async fn counts(&mut self, wanted: impl Fn(Counters) -> bool) {
        while !wanted(self.mdns.counters()) {
            self.found_within(Duration::from_millis(1)).await;
        }
    }

    /// Polls the behaviour, which opens its sockets, until `other` is ready.
    pub(crate) async fn polled_during<T>(&mut self, other: impl Future<Output = T>) -> T {
        let polled = async {
            while !matches!(next_event(&mut self.mdns).await, Event::Discovered(never) if never.is_empty()) {}
        };
        let (other, polled) = (other.fuse(), polled.fuse());
        pin_mut!(other, polled);
        select_biased! { value = other => value, _ = polled => unreachable!("an event is never empty") }
    }

    pub(crate) async fn expired(&mut self) -> Vec<(PeerId, Multiaddr)> {
        loop {
            if let Event::Expired(expired) = next_event(&mut self.mdns).await {
                return expired;
            }
        }
    }

    /// What a swarm would dial for `peer`.
    pub(crate) fn addresses_of(&mut self, peer: PeerId) -> Vec<Multiaddr> {
        let id = ConnectionId::new_unchecked(0);
        self.mdns.handle_pending_outbound_connection(id, Some(peer), &[], Endpoint::Dialer).unwrap()
    }
}

/// Two that have found each other, on ports 4001 and 4002.
pub(crate) async fn acquainted() -> (Ours, Ours) {
    let (mut left, mut right) = (Ours::listening_on(4001), Ours::listening_on(4002));
    let (left_id, right_id, started) = (left.id, right.id, Instant::now());
    soon(join(left.finds(right_id, started), right.finds(left_id, started))).await;
    (left, right)
}

pub(crate) fn address(port: u16) -> Multiaddr {
    format!("/ip4/{NEAR_ADDRESS}/tcp/{port}").parse().unwrap()
}

pub(crate) fn full_address(port: u16, peer: PeerId) -> Multiaddr {
    address(port).with_p2p(peer).unwrap()
}

pub(crate) fn forger() -> UdpSocket {
    lan::forger(NEAR_ADDRESS)
}

pub(crate) fn listen(behaviour: &mut impl NetworkBehaviour, addr: &Multiaddr) {
    behaviour.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id: ListenerId::next(), addr }));
}

pub(crate) async fn next_event<B: NetworkBehaviour>(behaviour: &mut B) -> B::ToSwarm {
    loop {
        if let ToSwarm::GenerateEvent(event) = futures::future::poll_fn(|cx| behaviour.poll(cx)).await {
            return event;
        }
    }
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    within(SOON, future).await
}

pub(crate) async fn within<T>(time: Duration, future: impl Future<Output = T>) -> T {
    let (future, mut timer) = (future.fuse(), FutureExt::fuse(Timer::after(time)));
    pin_mut!(future);
    select_biased! { value = future => value, _ = timer => panic!("not within {time:?}") }
}
