//! Sessions between real swarms over loopback TCP, noise and yamux, and with a peer that says what it likes.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod turns;
mod endings;
mod bounds;
mod hostility;
mod raw;

use std::{
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use async_io::Timer;
use async_std::task::block_on;
use futures::{
    FutureExt, StreamExt,
    future::{Either, select},
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm,
    core::muxing::StreamMuxerExt,
    identity::Keypair,
    swarm::{self, SwarmEvent},
};
use quorate_behaviours::{
    framing,
    merkle_exchange::{
        Behaviour, Config, Counters, EndReason, Event, InboundSessionId, Misbehaviour, OpenRefused, SessionId,
        TurnRefused,
    },
    tcp::TcpConfig,
    transport,
};
use serde::{Deserialize, Serialize};

/// Longest wait for anything that should happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longer than any test.
const LONG: Duration = Duration::from_secs(60);

/// Long enough to reach the peer, short enough to wait for.
const SHORT: Duration = Duration::from_millis(300);

const PROTOCOL_NAME: &str = "/test/merkle/1";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Ask {
    /// Answered with the same.
    Echo(String),
    /// Answered with this many bytes.
    Produce(usize),
    /// Not answered by itself.
    Hold,
}

type Exchange = Behaviour<Ask, String>;

/// Some swarms that are driven together, and what has come out of them. Swarms are named by their index.
struct Net {
    swarms: Vec<Swarm<Exchange>>,
    /// The connection of a peer without a swarm.
    raw: Option<raw::Muxer>,
    /// Questions that wait for an answer.
    held: Vec<(usize, InboundSessionId)>,
    /// Questions received, by swarm.
    asked: Vec<usize>,
    answers: BTreeMap<(usize, SessionId), Vec<String>>,
    ended: BTreeMap<(usize, SessionId), EndReason>,
    inbound_ended: BTreeMap<(usize, InboundSessionId), EndReason>,
    misbehaved: Vec<(usize, PeerId, Misbehaviour)>,
}

impl Net {
    /// A swarm for each configuration; all are connected to the last, which listens.
    fn star(configs: Vec<Config>) -> Self {
        Self::star_with(configs, LONG)
    }

    /// A star whose connections end when nothing has kept them alive for `idle_timeout`.
    fn star_with(configs: Vec<Config>, idle_timeout: Duration) -> Self {
        let mut net = Self {
            asked: vec![0; configs.len()],
            swarms: configs.into_iter().map(|config| swarm(config, idle_timeout)).collect(),
            raw: None,
            held: Vec::new(),
            answers: BTreeMap::new(),
            ended: BTreeMap::new(),
            inbound_ended: BTreeMap::new(),
            misbehaved: Vec::new(),
        };
        let hub = net.swarms.len() - 1;
        net.swarms[hub].listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        net.until(|net| net.swarms[hub].listeners().next().is_some());
        for spoke in 0..hub {
            net.connect(spoke, hub);
        }
        net
    }

    /// Two connected swarms.
    fn pair(configure: impl Fn(&mut Config)) -> Self {
        Self::star(vec![config(&configure), config(&configure)])
    }

    fn connect(&mut self, from: usize, to: usize) {
        let address = self.address(to);
        self.swarms[from].dial(address).unwrap();
        let (from_id, to_id) = (self.id(from), self.id(to));
        self.until(|net| net.exchange(from).is_connected(&to_id) && net.exchange(to).is_connected(&from_id));
    }

    fn address(&self, at: usize) -> Multiaddr {
        self.swarms[at].listeners().next().unwrap().clone()
    }

    fn id(&self, at: usize) -> PeerId {
        *self.swarms[at].local_peer_id()
    }

    fn exchange(&mut self, at: usize) -> &mut Exchange {
        self.swarms[at].behaviour_mut()
    }

    fn counters(&self, at: usize) -> Counters {
        self.swarms[at].behaviour().counters()
    }

    fn try_open(&mut self, from: usize, to: usize, question: &Ask) -> Result<SessionId, OpenRefused> {
        let peer = self.id(to);
        self.exchange(from).open(peer, question)
    }

    fn open(&mut self, from: usize, to: usize, question: &Ask) -> SessionId {
        self.try_open(from, to, question).unwrap()
    }

    /// The next answer of a session.
    #[track_caller]
    fn answer(&mut self, at: usize, session: SessionId) -> String {
        self.until(|net| net.answers.get(&(at, session)).is_some_and(|answers| !answers.is_empty()));
        self.answers.get_mut(&(at, session)).unwrap().remove(0)
    }

    #[track_caller]
    fn echo(&mut self, from: usize, to: usize, text: &str) {
        let session = self.open(from, to, &Ask::Echo(text.to_owned()));
        assert_eq!(self.answer(from, session), text);
        self.exchange(from).close(session);
    }

    #[track_caller]
    fn end(&mut self, at: usize, session: SessionId) -> EndReason {
        self.until(|net| net.ended.contains_key(&(at, session)));
        self.ended[&(at, session)]
    }

    #[track_caller]
    fn inbound_end(&mut self, at: usize, session: InboundSessionId) -> EndReason {
        self.until(|net| net.inbound_ended.contains_key(&(at, session)));
        self.inbound_ended[&(at, session)]
    }

    /// The session whose question waits for an answer at `at`, once there is one.
    #[track_caller]
    fn held(&mut self, at: usize) -> InboundSessionId {
        self.until(|net| net.held.iter().any(|(holder, _)| *holder == at));
        let index = self.held.iter().position(|(holder, _)| *holder == at).unwrap();
        self.held.remove(index).1
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

    /// Drives all swarms while `script` runs.
    #[track_caller]
    fn run<T>(&mut self, script: impl Future<Output = T>) -> T {
        let mut script = pin!(script);
        let mut output = None;
        let work = poll_fn(|cx| {
            while output.is_none() {
                if let Poll::Ready(value) = script.poll_unpin(cx) {
                    output = Some(value);
                } else if self.poll_step(cx).is_pending() {
                    return Poll::Pending;
                }
            }
            Poll::Ready(())
        });
        let ending = block_on(select(work, Timer::after(PATIENCE)));
        assert!(matches!(ending, Either::Left(_)), "not done within {PATIENCE:?}");
        output.unwrap()
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
        if let Some(raw) = &self.raw {
            // Nothing comes of it but that bytes move.
            drop(raw.lock().unwrap().poll_unpin(cx));
        }
        Poll::Pending
    }

    fn on_event(&mut self, at: usize, event: Event<Ask, String>) {
        match event {
            Event::Asked { session, question, .. } => {
                assert!(!self.inbound_ended.contains_key(&(at, session)), "{session:?} goes on after its end");
                self.asked[at] += 1;
                match question {
                    Ask::Echo(text) => self.exchange(at).answer(session, &text).unwrap(),
                    Ask::Produce(count) => self.exchange(at).answer(session, &"x".repeat(count)).unwrap(),
                    Ask::Hold => self.held.push((at, session)),
                }
            }
            Event::Answered { session, answer, .. } => {
                assert!(!self.ended.contains_key(&(at, session)), "{session:?} goes on after its end");
                self.answers.entry((at, session)).or_default().push(answer);
            }
            Event::Ended { session, reason, .. } => {
                let before = self.ended.insert((at, session), reason);
                assert_eq!(before, None, "{session:?} ended twice");
            }
            Event::InboundEnded { session, reason, .. } => {
                let before = self.inbound_ended.insert((at, session), reason);
                assert_eq!(before, None, "{session:?} ended twice");
            }
            Event::Misbehaved { peer, error } => self.misbehaved.push((at, peer, error)),
        }
    }
}

fn config(configure: &impl Fn(&mut Config)) -> Config {
    let mut config = Config::new(StreamProtocol::new(PROTOCOL_NAME));
    (config.answer_timeout, config.question_timeout) = (LONG, LONG);
    configure(&mut config);
    config
}

fn swarm(config: Config, idle_timeout: Duration) -> Swarm<Exchange> {
    let key = Keypair::generate_ed25519();
    let transport = transport::build(&key, None, TcpConfig::default()).unwrap();
    let swarm_config = swarm::Config::with_executor(|task| {
        async_std::task::spawn(task);
    })
    .with_idle_connection_timeout(idle_timeout);
    Swarm::new(transport, Behaviour::new(config), key.public().to_peer_id(), swarm_config)
}

/// Length of a message's CBOR.
fn encoded_bytes<M: Serialize>(message: &M) -> usize {
    framing::encode(message, usize::MAX).unwrap().len()
}
