//! A member that says what it is told to: it joins like any other, and its exchanges are made by hand.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use async_std::{
    channel::{self, Receiver, Sender},
    future::timeout,
    task,
};
use futures::{FutureExt as _, StreamExt as _};
use libp2p::{
    PeerId, StreamProtocol, Swarm,
    identity::Keypair,
    ping,
    swarm::{self, NetworkBehaviour, SwarmEvent},
};
use quorate::{
    ident::{Name, NodeId},
    membership::{
        change::{Change, ChangeKind, Profile, Signer},
        history::History,
        view::View,
    },
    runtime::identity,
    wire::{
        self,
        exchange::{Answer, ExchangeRefusal, Question},
        quorum::{Reconcile, Refusal, Request, Response},
    },
};
use quorate_behaviours::{
    membership_gossip,
    merkle_exchange::{self, SessionId},
    quorum_rpc::{self, Lane},
    tcp::TcpConfig,
    transport,
};

use crate::harness::{PATIENCE, TestNode};

/// What it answers to a question; nothing is silence.
pub(crate) type Script = Box<dyn FnMut(&Question) -> Option<Answer> + Send>;

/// Speaks to one node, until it is dropped.
pub(crate) struct Mole {
    pub(crate) id: NodeId,
    pub(crate) signer: Signer,
    /// What it knew when it began.
    pub(crate) history: History,
    pub(crate) view: View,
    orders: Sender<Order>,
}

/// Whether it is a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Member,
    Stranger,
}

enum Order {
    Ask(Vec<Question>, Sender<Vec<Answer>>),
    Follow(Script),
    Tell(Vec<Change>, Sender<Response>),
    Announce(Box<Change>),
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    quorum: quorum_rpc::Behaviour<Request, Response>,
    exchange: merkle_exchange::Behaviour<Question, Answer>,
    gossip: membership_gossip::Behaviour<Change>,
    ping: ping::Behaviour,
}

/// A session that it has opened.
struct Asking {
    left: VecDeque<Question>,
    answers: Vec<Answer>,
    reply: Sender<Vec<Answer>>,
}

struct Peer {
    swarm: Swarm<Behaviour>,
    node: PeerId,
    history: History,
    script: Script,
    asking: HashMap<SessionId, Asking>,
    /// Who waits for the answer to a comparison of histories.
    telling: Option<Sender<Response>>,
}

impl Mole {
    /// Connects to `node`, learns its history, and adds itself to it if it is to be a member.
    pub(crate) async fn meet(node: &TestNode, standing: Standing) -> Mole {
        let keypair = Keypair::generate_ed25519();
        let signer = identity::signer_of(&keypair);
        let mut peer = Peer::connect(&keypair, node).await;
        peer.reconcile(Vec::new()).await;
        if standing == Standing::Member {
            let name = Name::new("mole").unwrap();
            let profile = Profile { name, zone: None, weight: 1, addresses: Vec::new() };
            let joined = peer.history.next_change(&signer, ChangeKind::Joined(profile));
            peer.history.insert(joined.clone()).unwrap();
            peer.reconcile(vec![joined]).await;
        }
        let (orders, queue) = channel::bounded(16);
        let (view, history) = (View::fold(&peer.history), peer.history.clone());
        task::spawn(peer.run(queue));
        Mole { id: signer.node_id(), signer, history, view, orders }
    }

    /// Asks these one after the other in one session, until one is refused. Returns the answers there were.
    pub(crate) async fn ask(&self, questions: Vec<Question>) -> Vec<Answer> {
        let (reply, answers) = channel::bounded(1);
        self.orders.send(Order::Ask(questions, reply)).await.unwrap();
        timeout(PATIENCE, answers.recv()).await.expect("the session ends in time").unwrap()
    }

    /// The same, again and again while the node is busy: it would fill from the mole, which is a member, and tries that too.
    pub(crate) async fn ask_until_heard(&self, questions: Vec<Question>) -> Vec<Answer> {
        let heard = async {
            loop {
                let answers = self.ask(questions.clone()).await;
                if answers[..] != [Answer::Refused(ExchangeRefusal::Busy)] {
                    return answers;
                }
            }
        };
        timeout(PATIENCE, heard).await.expect("it is heard in time")
    }

    /// Compares histories, and tells these changes. Returns the answer.
    pub(crate) async fn tell(&self, changes: Vec<Change>) -> Response {
        let (reply, answer) = channel::bounded(1);
        self.orders.send(Order::Tell(changes, reply)).await.unwrap();
        timeout(PATIENCE, answer.recv()).await.expect("it is answered in time").unwrap()
    }

    /// Announces this change to whoever listens.
    pub(crate) async fn announce(&self, change: Change) {
        self.orders.send(Order::Announce(Box::new(change))).await.unwrap();
    }

    /// Answers so from now on.
    pub(crate) async fn follow(&self, script: impl FnMut(&Question) -> Option<Answer> + Send + 'static) {
        self.orders.send(Order::Follow(Box::new(script))).await.unwrap();
    }
}

impl Peer {
    async fn connect(keypair: &Keypair, node: &TestNode) -> Peer {
        let cluster = Name::new("test").unwrap();
        let protocol = |name| StreamProtocol::try_from_owned(name).unwrap();
        let config = membership_gossip::Config {
            protocol_version: wire::identify_version(&cluster),
            agent_version: "quorate-node/mole".to_owned(),
            topic: wire::history_topic(&cluster),
            gossip_prefix: wire::gossip_prefix(&cluster),
            message_limit_bytes: membership_gossip::MESSAGE_LIMIT_BYTES,
        };
        let quorum = quorum_rpc::Config::new(protocol(wire::quorum_protocol(&cluster)));
        let exchange = merkle_exchange::Config::new(protocol(wire::exchange_protocol(&cluster)));
        let behaviour = Behaviour {
            quorum: quorum_rpc::Behaviour::new(quorum),
            exchange: merkle_exchange::Behaviour::new(exchange),
            gossip: membership_gossip::Behaviour::new(keypair, config).unwrap(),
            ping: ping::Behaviour::default(),
        };
        let executor = |task| {
            task::spawn(task);
        };
        let config = swarm::Config::with_executor(executor).with_idle_connection_timeout(Duration::from_secs(60));
        let transport = transport::build(keypair, None, TcpConfig::default()).unwrap();
        let mut swarm = Swarm::new(transport, behaviour, keypair.public().to_peer_id(), config);
        swarm.dial(node.addresses[0].clone()).unwrap();
        let (node, history) = (node.running.peer_id(), History::new(cluster));
        let mut peer = Peer { swarm, node, history, script: Box::new(|_| None), asking: HashMap::new(), telling: None };
        peer.until(|event| matches!(event, SwarmEvent::ConnectionEstablished { .. }).then_some(())).await;
        peer
    }

    /// Compares histories with the node, and takes over what it knows.
    async fn reconcile(&mut self, changes: Vec<Change>) {
        self.send(changes);
        let answer = self.until(|event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Quorum(quorum_rpc::Event::Response { response, .. })) => {
                Some(response.clone())
            }
            _ => None,
        });
        let Response::Reconciled(reconcile) = answer.await else { panic!("it does not reconcile") };
        self.learn(reconcile.changes);
        assert_eq!(self.history.digest(), reconcile.history);
    }

    fn send(&mut self, changes: Vec<Change>) {
        let request = Request::Reconcile(self.greeting(changes));
        let quorum = &mut self.swarm.behaviour_mut().quorum;
        let encoded = quorum.encode(&request).unwrap();
        quorum.send(self.node, Lane::Write, encoded, Instant::now() + PATIENCE).unwrap();
    }

    fn greeting(&self, changes: Vec<Change>) -> Reconcile {
        Reconcile {
            boot: 1,
            instance: 1,
            word: None,
            your_life: (0, 0),
            your_word: None,
            is_in_doubt: false,
            history: self.history.digest(),
            summary: Some(self.history.summary()),
            changes,
        }
    }

    fn learn(&mut self, changes: Vec<Change>) {
        changes.into_iter().for_each(|change| assert!(self.history.insert(change).is_ok()));
    }

    async fn until<T>(&mut self, mut is_wanted: impl FnMut(&SwarmEvent<BehaviourEvent>) -> Option<T>) -> T {
        let found = async {
            loop {
                let event = self.swarm.select_next_some().await;
                let found = is_wanted(&event);
                self.on_event(event);
                if let Some(found) = found {
                    return found;
                }
            }
        };
        timeout(PATIENCE, found).await.expect("it comes in time")
    }

    async fn run(mut self, orders: Receiver<Order>) {
        loop {
            futures::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                order = orders.recv().fuse() => match order {
                    Ok(Order::Ask(questions, reply)) => self.open(questions.into(), reply),
                    Ok(Order::Follow(script)) => self.script = script,
                    Ok(Order::Tell(changes, reply)) => {
                        self.send(changes);
                        self.telling = Some(reply);
                    }
                    Ok(Order::Announce(change)) => self.announce(&change).await,
                    Err(_) => return,
                },
            }
        }
    }

    async fn announce(&mut self, change: &Change) {
        while self.swarm.behaviour().gossip.subscribers().next().is_none() {
            let event = self.swarm.select_next_some().await;
            self.on_event(event);
        }
        self.swarm.behaviour_mut().gossip.announce(change).unwrap();
    }

    fn open(&mut self, mut left: VecDeque<Question>, reply: Sender<Vec<Answer>>) {
        let first = left.pop_front().unwrap();
        match self.swarm.behaviour_mut().exchange.open(self.node, &first) {
            Ok(session) => drop(self.asking.insert(session, Asking { left, answers: Vec::new(), reply })),
            Err(error) => panic!("no session: {error}"),
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Quorum(quorum_rpc::Event::Request { inbound, request, .. })) => {
                let answer = match request {
                    Request::Reconcile(reconcile) => {
                        self.learn(reconcile.changes);
                        Response::Reconciled(self.greeting(Vec::new()))
                    }
                    _ => Response::Refused(Refusal::StoreFailed),
                };
                let _ = self.swarm.behaviour_mut().quorum.respond(inbound, answer);
            }
            SwarmEvent::Behaviour(BehaviourEvent::Quorum(quorum_rpc::Event::Response { response, .. })) => {
                if let Some(reply) = self.telling.take() {
                    let _ = reply.try_send(response);
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Exchange(event)) => self.on_exchange(event),
            _ => {}
        }
    }

    fn on_exchange(&mut self, event: merkle_exchange::Event<Question, Answer>) {
        let exchange = &mut self.swarm.behaviour_mut().exchange;
        match event {
            merkle_exchange::Event::Asked { session, question, .. } => {
                if let Some(answer) = (self.script)(&question) {
                    let _ = exchange.answer(session, &answer);
                }
            }
            merkle_exchange::Event::Answered { session, answer, .. } => {
                let Some(asking) = self.asking.get_mut(&session) else { return };
                let is_refused = matches!(answer, Answer::Refused(_));
                asking.answers.push(answer);
                match asking.left.pop_front().filter(|_| !is_refused) {
                    Some(next) => exchange.ask(session, &next).unwrap(),
                    None => {
                        exchange.close(session);
                        self.end(session);
                    }
                }
            }
            merkle_exchange::Event::Ended { session, .. } => self.end(session),
            _ => {}
        }
    }

    fn end(&mut self, session: SessionId) {
        if let Some(asking) = self.asking.remove(&session) {
            // Whoever asked may have lost interest.
            let _ = asking.reply.try_send(asking.answers);
        }
    }
}
