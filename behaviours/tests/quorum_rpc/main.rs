//! Batched request-response between real swarms over libp2p's memory transport, noise and yamux.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod batching;
mod bounds;
mod failures;
mod hostility;
mod raw;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_io::Timer;
use async_std::task::block_on;
use futures::StreamExt;
use futures::future::{Either, select};
use libp2p::core::transport::MemoryTransport;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::{self, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, Transport, noise, yamux};
use quorate_behaviours::quorum_rpc::{
    Behaviour, Config, Event, InboundId, Lane, Misbehaviour, RequestId, SendFailure, SendRefused,
};
use serde::{Deserialize, Serialize};

/// Longest wait for anything that should happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longer than any test.
const LONG: Duration = Duration::from_secs(60);

const PROTOCOL: StreamProtocol = StreamProtocol::new("/test/quorum/1");

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Ask {
    /// Answered with the same.
    Echo(String),
    /// Answered with this many bytes.
    Produce(usize),
    /// Not answered by itself.
    Hold(u64),
    /// Recurses as deeply as its bytes say.
    Nested(Vec<Ask>),
}

type Rpc = Behaviour<Ask, String>;
type Ending = Result<String, SendFailure>;

/// A request that was received and not answered.
#[derive(Debug)]
struct Held {
    at: usize,
    inbound: InboundId,
    request: Ask,
}

/// Some swarms that are driven together, and what has come out of them.
struct Net {
    swarms: Vec<Swarm<Rpc>>,
    raw: Option<raw::Peer>,
    endings: BTreeMap<(usize, RequestId), Ending>,
    held: Vec<Held>,
    misbehaved: Vec<(usize, PeerId, Misbehaviour)>,
    /// Requests received, by swarm.
    executed: Vec<usize>,
}

impl Net {
    /// A swarm for each configuration, none connected.
    fn apart(configs: Vec<Config>) -> Self {
        let executed = vec![0; configs.len()];
        let swarms = configs.into_iter().map(|config| swarm(Behaviour::new(config))).collect();
        Self { swarms, raw: None, endings: BTreeMap::new(), held: Vec::new(), misbehaved: Vec::new(), executed }
    }

    /// All swarms connected to the last.
    fn star(configs: Vec<Config>) -> Self {
        let mut net = Self::apart(configs);
        let hub = net.swarms.len() - 1;
        let address = net.listen(hub);
        for swarm in &mut net.swarms[..hub] {
            swarm.dial(address.clone()).unwrap();
        }
        for spoke in 0..hub {
            let (hub_id, spoke_id) = (net.id(hub), net.id(spoke));
            net.until(|net| net.rpc(spoke).is_connected(&hub_id) && net.rpc(hub).is_connected(&spoke_id));
        }
        net
    }

    /// Two connected swarms.
    fn pair(configure: impl Fn(&mut Config)) -> Self {
        Self::star(vec![config(&configure), config(&configure)])
    }

    fn listen(&mut self, at: usize) -> Multiaddr {
        self.swarms[at].listen_on("/memory/0".parse().unwrap()).unwrap();
        self.until(|net| net.swarms[at].listeners().next().is_some());
        self.swarms[at].listeners().next().unwrap().clone()
    }

    fn id(&self, at: usize) -> PeerId {
        *self.swarms[at].local_peer_id()
    }

    fn rpc(&mut self, at: usize) -> &mut Rpc {
        self.swarms[at].behaviour_mut()
    }

    fn try_send(
        &mut self,
        from: usize,
        to: usize,
        lane: Lane,
        request: &Ask,
        time: Duration,
    ) -> Result<RequestId, SendRefused> {
        let peer = self.id(to);
        let encoded = self.rpc(from).encode(request)?;
        self.rpc(from).send(peer, lane, encoded, Instant::now() + time)
    }

    fn read(&mut self, from: usize, to: usize, request: &Ask) -> RequestId {
        self.try_send(from, to, Lane::Read, request, LONG).unwrap()
    }

    fn ending(&mut self, at: usize, request: RequestId) -> Ending {
        self.until(|net| net.endings.contains_key(&(at, request)));
        self.endings[&(at, request)].clone()
    }

    /// Drives all swarms until `is_done`.
    #[track_caller]
    fn until(&mut self, mut is_done: impl FnMut(&mut Self) -> bool) {
        let work = poll_fn(|cx| {
            while !is_done(self) {
                // A poll without an event may have done something too.
                if self.poll_step(cx).is_pending() {
                    return if is_done(self) { Poll::Ready(()) } else { Poll::Pending };
                }
            }
            Poll::Ready(())
        });
        let ending = block_on(select(work, Timer::after(PATIENCE)));
        assert!(matches!(ending, Either::Left(_)), "not done within {PATIENCE:?}");
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for at in 0..self.swarms.len() {
            if let Poll::Ready(Some(event)) = self.swarms[at].poll_next_unpin(cx) {
                if let SwarmEvent::Behaviour(event) = event {
                    self.on_event(at, event);
                }
                return Poll::Ready(());
            }
        }
        self.raw.as_mut().map_or(Poll::Pending, |raw| raw.poll_step(cx))
    }

    fn on_event(&mut self, at: usize, event: Event<Ask, String>) {
        match event {
            Event::Request { inbound, request, .. } => {
                self.executed[at] += 1;
                match request {
                    Ask::Echo(text) => self.rpc(at).respond(inbound, text).unwrap(),
                    Ask::Produce(bytes) => self.rpc(at).respond(inbound, "x".repeat(bytes)).unwrap(),
                    request @ (Ask::Hold(_) | Ask::Nested(_)) => self.held.push(Held { at, inbound, request }),
                }
            }
            Event::Response { request, response, .. } => self.end(at, request, Ok(response)),
            Event::Failed { request, error, .. } => self.end(at, request, Err(error)),
            Event::Misbehaved { peer, error } => self.misbehaved.push((at, peer, error)),
        }
    }

    fn end(&mut self, at: usize, request: RequestId, ending: Ending) {
        let before = self.endings.insert((at, request), ending);
        assert_eq!(before, None, "{request:?} ended twice");
    }

    /// Answers what is held with this number.
    fn release(&mut self, mark: u64) {
        for held in std::mem::take(&mut self.held) {
            if held.request == Ask::Hold(mark) {
                self.rpc(held.at).respond(held.inbound, format!("released {mark}")).unwrap();
            } else {
                self.held.push(held);
            }
        }
    }
}

fn config(configure: &impl Fn(&mut Config)) -> Config {
    let mut config = Config::new(PROTOCOL);
    configure(&mut config);
    config
}

fn swarm<B: NetworkBehaviour>(behaviour: B) -> Swarm<B> {
    let key = Keypair::generate_ed25519();
    let transport = MemoryTransport::default()
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&key).unwrap())
        .multiplex(yamux::Config::default())
        .boxed();
    let config = swarm::Config::with_executor(|task| {
        async_std::task::spawn(task);
    })
    .with_idle_connection_timeout(LONG);
    Swarm::new(transport, behaviour, key.public().to_peer_id(), config)
}
