//! Nodes as the test wants them: real swarms on loopback that answer what a script says.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    channel::oneshot,
    future::{Either, select},
};
use libp2p::{
    Multiaddr, StreamProtocol, Swarm, identify,
    identity::Keypair,
    multiaddr::Protocol,
    pnet::PreSharedKey,
    swarm::{self, NetworkBehaviour, SwarmEvent},
};
use quorate::{
    client::ClientConfig,
    ident::{Name, NodeId},
    membership::{
        change::{Change, ChangeKind, Parameters, Profile},
        history::History,
        summary::Summary,
    },
    ring::token::PartitionCount,
    runtime::identity,
    wire::{
        self,
        client::{ClientRequest, ClientResponse},
    },
};
use quorate_behaviours::{quorum_rpc, tcp::TcpConfig, transport};

/// What a node answers: nothing means that it keeps silent.
pub(crate) type Script = Arc<dyn Fn(&ClientRequest) -> Option<ClientResponse> + Send + Sync>;

#[derive(NetworkBehaviour)]
struct Behaviour {
    rpc: quorum_rpc::Behaviour<ClientRequest, ClientResponse>,
    identify: identify::Behaviour,
}

/// A node of the stage; it stops when this is dropped.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) address: Multiaddr,
    /// Everything it was asked but for histories, in order.
    pub(crate) asked: Arc<Mutex<Vec<ClientRequest>>>,
    _stop: oneshot::Sender<()>,
}

/// A node that listens, but has no script yet.
pub(crate) struct Extra {
    keypair: Keypair,
    cluster: Name,
    swarm: Swarm<Behaviour>,
    pub(crate) address: Multiaddr,
}

impl Extra {
    /// Listens on loopback as a node of the cluster called `cluster`.
    pub(crate) async fn listen(cluster: &str) -> Extra {
        Extra::listen_under(None, cluster).await
    }

    /// The same, under a swarm key.
    pub(crate) async fn listen_under(swarm_key: Option<PreSharedKey>, cluster: &str) -> Extra {
        let cluster = Name::new(cluster).unwrap();
        let keypair = Keypair::generate_ed25519();
        let protocol = StreamProtocol::try_from_owned(wire::client_protocol(&cluster)).unwrap();
        let version = wire::identify_version(&cluster);
        let behaviour = Behaviour {
            rpc: quorum_rpc::Behaviour::new(quorum_rpc::Config::new(protocol)),
            identify: identify::Behaviour::new(identify::Config::new(version, keypair.public())),
        };
        let transport = transport::build(&keypair, swarm_key, TcpConfig::default()).unwrap();
        let config = swarm::Config::with_executor(|task| {
            async_std::task::spawn(task);
        })
        .with_idle_connection_timeout(Duration::from_secs(60));
        let peer = keypair.public().to_peer_id();
        let mut swarm = Swarm::new(transport, behaviour, peer, config);
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let address = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address.with(Protocol::P2p(peer));
            }
        };
        Extra { keypair, cluster, swarm, address }
    }

    pub(crate) fn id(&self) -> NodeId {
        identity::node_id(&self.keypair.public().to_peer_id()).unwrap()
    }

    /// Plays: histories from `history`, two changes at a time, everything else by `script`.
    pub(crate) fn play(self, history: History, script: Script) -> Node {
        self.play_histories(move |summary| Told::Changes(history.since(summary, 2)), script)
    }

    /// Plays: to whoever asks for histories it tells all of `changes`.
    pub(crate) fn play_changes(self, changes: Vec<Change>, script: Script) -> Node {
        self.play_histories(move |_| Told::Changes(changes.clone()), script)
    }

    /// Plays a node that completes connections and then answers nothing at all.
    pub(crate) fn play_mute(self) -> Node {
        self.play_histories(|_| Told::Nothing, Arc::new(|_| None))
    }

    /// Plays a node that completes connections and stops dead at the first question for its history, like a process
    /// that was suspended.
    pub(crate) fn play_frozen(self) -> Node {
        self.play_histories(|_| Told::Freeze, Arc::new(|_| None))
    }

    fn play_histories(self, tell: impl Fn(&Summary) -> Told + Send + 'static, script: Script) -> Node {
        let (id, address, asked) = (self.id(), self.address.clone(), Arc::<Mutex<Vec<ClientRequest>>>::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let (mut swarm, seen) = (self.swarm, asked.clone());
        async_std::task::spawn(async move {
            let mut stopped = stopped.fuse();
            loop {
                let event = futures::select! {
                    event = swarm.select_next_some() => event,
                    _ = stopped => break,
                };
                let SwarmEvent::Behaviour(BehaviourEvent::Rpc(quorum_rpc::Event::Request { inbound, request, .. })) =
                    event
                else {
                    continue;
                };
                let answer = match &request {
                    ClientRequest::History(summary) => match tell(summary) {
                        Told::Changes(changes) => Some(ClientResponse::History(changes)),
                        Told::Nothing => None,
                        Told::Freeze => {
                            let _ = (&mut stopped).await;
                            break;
                        }
                    },
                    other => {
                        seen.lock().unwrap().push(other.clone());
                        script(other)
                    }
                };
                if let Some(answer) = answer {
                    swarm.behaviour_mut().rpc.respond(inbound, answer).unwrap();
                }
            }
        });
        Node { id, address, asked, _stop: stop }
    }
}

/// What a node tells of its history.
enum Told {
    Changes(Vec<Change>),
    Nothing,
    Freeze,
}

/// A cluster of all `extras` with three replicas, founded by the first.
pub(crate) fn history_of(extras: &[Extra]) -> History {
    let mut history = History::new(extras[0].cluster.clone());
    let founding = ChangeKind::Founded(Parameters { partitions: PartitionCount::new(16).unwrap(), replicas: 3 });
    let insert = |history: &mut History, extra: &Extra, kind| {
        let change: Change = history.next_change(&identity::signer_of(&extra.keypair), kind);
        history.insert(change).unwrap();
    };
    insert(&mut history, &extras[0], founding);
    for extra in extras {
        let addresses = vec![extra.address.to_string()];
        let profile = Profile { name: Name::new("extra").unwrap(), zone: None, weight: 1, addresses };
        insert(&mut history, extra, ChangeKind::Joined(profile));
    }
    history
}

/// Listening nodes of one cluster and their history.
pub(crate) async fn cluster_of(count: usize) -> (Vec<Extra>, History) {
    let mut extras = Vec::new();
    for _ in 0..count {
        extras.push(Extra::listen("stage").await);
    }
    let history = history_of(&extras);
    (extras, history)
}

pub(crate) fn config(nodes: Vec<Multiaddr>) -> ClientConfig {
    ClientConfig {
        nodes,
        mdns: false,
        deadline: Duration::from_secs(4),
        connect_within: Duration::from_secs(5),
        ..ClientConfig::lan(Name::new("stage").unwrap())
    }
}

/// Runs a test to its end, which must come within half a minute.
pub(crate) fn play<T>(test: impl Future<Output = T>) -> T {
    async_std::task::block_on(async {
        match select(pin!(test), pin!(async_std::task::sleep(Duration::from_secs(30)))).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => panic!("no end within 30 s"),
        }
    })
}

/// Waits until `condition` holds; looks again and again, for 10 s at most.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if condition() {
            return;
        }
        async_std::task::sleep(Duration::from_millis(10)).await;
    }
    panic!("did not happen within 10 s: {what}");
}
