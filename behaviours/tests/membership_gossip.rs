//! Membership gossip between swarms on the memory transport.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use std::{future::poll_fn, task::Poll, time::Duration};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, Transport,
    core::{transport::MemoryTransport, upgrade::Version},
    gossipsub,
    identity::Keypair,
    noise,
    swarm::{self, DialError, NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
    yamux,
};
use quorate_behaviours::{
    membership_gossip::{
        ADDRESSES_PER_PEER_MAX, AnnounceError, Behaviour, Config, Event, MESSAGE_LIMIT_BYTES, StartError, Verdict,
    },
    private_addresses::{self, AddressRefused, Policy},
};
use serde::{Deserialize, Serialize};

/// How long anything may take here. Gossipsub's heartbeat is a second.
const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct News {
    number: u32,
    text: String,
}

fn news(number: u32) -> News {
    News { number, text: "x".repeat(40) }
}

type Gossiper = Swarm<Behaviour<News>>;

fn config() -> Config {
    Config {
        protocol_version: "/quorate-test/1".to_owned(),
        agent_version: "quorate/test".to_owned(),
        topic: "members".to_owned(),
        gossip_prefix: "/quorate-test/gossip".to_owned(),
        message_limit_bytes: MESSAGE_LIMIT_BYTES,
    }
}

fn swarm_of<B: NetworkBehaviour>(keypair: &Keypair, behaviour: B) -> Swarm<B> {
    let transport = MemoryTransport::default()
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair).unwrap())
        .multiplex(yamux::Config::default())
        .boxed();
    let config = swarm::Config::with_executor(|task| {
        async_std::task::spawn(task);
    })
    .with_idle_connection_timeout(Duration::from_secs(600));
    Swarm::new(transport, behaviour, keypair.public().to_peer_id(), config)
}

fn gossiper_with(config: Config) -> Gossiper {
    let keypair = Keypair::generate_ed25519();
    swarm_of(&keypair, Behaviour::new(&keypair, config).unwrap())
}

fn gossiper() -> Gossiper {
    gossiper_with(config())
}

async fn listen<B: NetworkBehaviour>(swarm: &mut Swarm<B>) -> Multiaddr {
    swarm.listen_on("/memory/0".parse().unwrap()).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return address;
        }
    }
}

/// Swarms in one place, and everything that they reported.
struct Party {
    swarms: Vec<Gossiper>,
    heard: Vec<Vec<(PeerId, News)>>,
    /// Who handed on what was heard.
    vias: Vec<Vec<PeerId>>,
    /// What all of them say of what they hear.
    judge: fn(&News) -> Verdict,
    identified: Vec<Vec<Event<News>>>,
}

impl Party {
    fn new(swarms: Vec<Gossiper>) -> Self {
        let heard = vec![Vec::new(); swarms.len()];
        let (vias, identified) = (vec![Vec::new(); swarms.len()], vec![Vec::new(); swarms.len()]);
        Self { swarms, heard, vias, judge: |_| Verdict::PassOn, identified }
    }

    fn peer(&self, index: usize) -> PeerId {
        *self.swarms[index].local_peer_id()
    }

    fn announce(&mut self, index: usize, news: &News) {
        self.swarms[index].behaviour_mut().announce(news).unwrap();
    }

    fn subscribers(&self, index: usize) -> usize {
        self.swarms[index].behaviour().subscribers().count()
    }

    async fn connect(&mut self, from: usize, to: usize) {
        let address = listen(&mut self.swarms[to]).await;
        self.swarms[from].dial(address).unwrap();
        let (a, b) = (self.peer(from), self.peer(to));
        self.run_until("the two are connected", |party| {
            party.swarms[from].is_connected(&b) && party.swarms[to].is_connected(&a)
        })
        .await;
    }

    /// Connects two, and waits until each knows that the other is subscribed.
    async fn befriend(&mut self, from: usize, to: usize) {
        self.connect(from, to).await;
        let (a, b) = (self.peer(from), self.peer(to));
        self.run_until("the two are subscribed", |party| {
            let knows = |index: usize, peer: PeerId| party.swarms[index].behaviour().subscribers().any(|p| *p == peer);
            knows(from, b) && knows(to, a)
        })
        .await;
    }

    /// Drives all until `done`, which may also change without an event.
    async fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let progress = poll_fn(|context| {
            let mut busy = true;
            while busy && !done(self) {
                busy = false;
                for index in 0..self.swarms.len() {
                    while let Poll::Ready(Some(event)) = self.swarms[index].poll_next_unpin(context) {
                        self.record(index, event);
                        busy = true;
                    }
                }
            }
            if done(self) { Poll::Ready(()) } else { Poll::Pending }
        });
        let in_time = async_std::future::timeout(DEADLINE, progress).await.is_ok();
        assert!(in_time, "not within {DEADLINE:?}: {what}");
    }

    fn record(&mut self, index: usize, event: SwarmEvent<Event<News>>) {
        match event {
            SwarmEvent::Behaviour(Event::Announced { from, via, name, message }) => {
                let verdict = (self.judge)(&message);
                self.swarms[index].behaviour_mut().judge(&name, &via, verdict);
                self.heard[index].push((from, message));
                self.vias[index].push(via);
            }
            SwarmEvent::Behaviour(event) => self.identified[index].push(event),
            _ => {}
        }
    }
}

fn run(test: impl Future<Output = ()>) {
    async_std::task::block_on(test);
}

#[test]
fn an_announcement_reaches_the_other_of_two() {
    run(async {
        let mut party = Party::new(vec![gossiper(), gossiper()]);
        party.befriend(0, 1).await;
        party.announce(0, &news(1));
        party.announce(1, &news(2));
        party.run_until("both have heard", |party| party.heard.iter().all(|heard| heard.len() == 1)).await;
        assert_eq!(party.heard[1], [(party.peer(0), news(1))]);
        assert_eq!(party.heard[0], [(party.peer(1), news(2))]);
        assert_eq!(party.swarms[0].behaviour().counters().announced, 1);
    });
}

#[test]
fn an_announcement_is_passed_on_with_its_author() {
    run(async {
        let mut party = Party::new(vec![gossiper(), gossiper(), gossiper()]);
        party.befriend(0, 1).await;
        party.befriend(1, 2).await;
        party.announce(0, &news(1));
        party.run_until("the far one has heard", |party| !party.heard[2].is_empty()).await;
        assert_eq!(party.heard[2], [(party.peer(0), news(1))]);
    });
}

#[test]
fn what_is_judged_a_lie_or_of_no_use_goes_no_further_and_it_is_known_who_handed_it_on() {
    run(async {
        let mut party = Party::new(vec![gossiper(), gossiper(), gossiper()]);
        party.judge = |news| match news.number {
            1 => Verdict::Reject,
            2 => Verdict::Keep,
            _ => Verdict::PassOn,
        };
        party.befriend(0, 1).await;
        party.befriend(1, 2).await;
        for number in 1..=3 {
            party.announce(0, &news(number));
        }
        party.run_until("the far one has heard", |party| !party.heard[2].is_empty()).await;
        // Another on the same way shows that nothing follows.
        party.announce(0, &news(4));
        party.run_until("the far one has heard the last", |party| party.heard[2].len() == 2).await;
        let numbers = |index: usize| party.heard[index].iter().map(|(_, news)| news.number).collect::<Vec<_>>();
        assert_eq!((numbers(1), numbers(2)), (vec![1, 2, 3, 4], vec![3, 4]));
        assert_eq!((&party.vias[1], &party.vias[2]), (&vec![party.peer(0); 4], &vec![party.peer(1); 2]));
        let rejected = |index: usize| party.swarms[index].behaviour().counters().rejected;
        assert_eq!((rejected(1), rejected(2)), (1, 0));
    });
}

#[test]
fn an_announcement_by_two_routes_and_from_two_authors_is_heard_once() {
    run(async {
        let mut party = Party::new(vec![gossiper(), gossiper(), gossiper()]);
        party.befriend(0, 1).await;
        party.befriend(1, 2).await;
        party.befriend(2, 0).await;
        party.announce(0, &news(1));
        party.announce(1, &news(1));
        party.run_until("the third has heard", |party| !party.heard[2].is_empty()).await;
        // What follows on the same routes shows that what came before has arrived.
        party.announce(0, &news(2));
        party.announce(1, &news(3));
        party.run_until("the third has heard the rest", |party| party.heard[2].len() >= 3).await;
        let numbers: Vec<_> = party.heard[2].iter().map(|(_, news)| news.number).collect();
        assert_eq!(numbers.iter().filter(|number| **number == 1).count(), 1, "{numbers:?}");
        assert!(party.heard[0].iter().chain(&party.heard[1]).all(|(_, heard)| heard.number != 1));
    });
}

#[test]
fn the_trusted_are_told_outside_the_mesh() {
    run(async {
        // Takes no part in a mesh and ignores what it is offered, so it hears only what is sent to it directly. It
        // answers number n with 100 + n.
        let key = Keypair::generate_ed25519();
        let (trusted, topic) = (key.public().to_peer_id(), gossipsub::IdentTopic::new("members"));
        let mut recluse = swarm_of(
            &key,
            plain_gossipsub(
                &key,
                gossipsub_config()
                    .mesh_n(0)
                    .mesh_n_low(0)
                    .mesh_n_high(0)
                    .mesh_outbound_min(0)
                    .max_ihave_messages_heartbeat(0),
            ),
        );
        recluse.behaviour_mut().subscribe(&topic).unwrap();
        let address = listen(&mut recluse).await;
        let recluse = async_std::task::spawn(async move {
            loop {
                if let SwarmEvent::Behaviour(gossipsub::Event::Message { message, .. }) =
                    recluse.select_next_some().await
                {
                    let heard: News = cbor4ii::serde::from_slice(&message.data).unwrap();
                    let answer = cbor4ii::serde::to_vec(Vec::new(), &news(100 + heard.number)).unwrap();
                    recluse.behaviour_mut().publish(topic.clone(), answer).unwrap();
                }
            }
        });
        let mut party = Party::new(vec![gossiper(), gossiper()]);
        party.befriend(0, 1).await;
        party.swarms[1].dial(address).unwrap();
        party.run_until("the recluse is subscribed", |party| party.subscribers(1) == 2).await;
        let has = |party: &Party, number: u32| party.heard[1].iter().any(|(_, heard)| heard.number == number);

        party.swarms[1].behaviour_mut().trust(&trusted);
        party.announce(0, &news(1));
        party.run_until("the trusted has heard", |party| has(party, 101)).await;
        party.swarms[1].behaviour_mut().distrust(&trusted);
        party.announce(0, &news(2));
        party.run_until("its friend has heard", |party| has(party, 2)).await;
        party.swarms[1].behaviour_mut().trust(&trusted);
        party.announce(0, &news(3));
        party.run_until("the trusted has heard again", |party| has(party, 103)).await;
        assert!(!has(&party, 102), "{:?}", party.heard[1]);
        recluse.cancel().await;
    });
}

#[test]
fn to_announce_alone_or_twice_is_no_failure() {
    run(async {
        let mut party = Party::new(vec![gossiper(), gossiper()]);
        party.announce(0, &news(1));
        assert_eq!(party.swarms[0].behaviour().counters().unheard, 1);
        party.befriend(0, 1).await;
        party.announce(0, &news(1));
        party.announce(0, &news(1));
        let counters = party.swarms[0].behaviour().counters();
        assert_eq!((counters.announced, counters.unheard), (1, 2));
        party.run_until("it is heard", |party| party.heard[1].len() == 1).await;
    });
}

/// The announcement whose encoding has `size` bytes.
fn news_of_size(size: usize) -> News {
    let empty = News { number: 0, text: "x".repeat(MESSAGE_LIMIT_BYTES - 100) };
    let overhead = cbor4ii::serde::to_vec(Vec::new(), &empty).unwrap().len() - empty.text.len();
    News { number: 0, text: "x".repeat(size - overhead) }
}

#[test]
fn the_longest_announcement_arrives_and_a_longer_one_is_refused() {
    run(async {
        let mut party = Party::new(vec![gossiper(), gossiper()]);
        party.befriend(0, 1).await;
        let refusal = party.swarms[0].behaviour_mut().announce(&news_of_size(MESSAGE_LIMIT_BYTES + 1)).unwrap_err();
        assert!(
            matches!(refusal, AnnounceError::TooLarge { actual_bytes, limit_bytes }
                if actual_bytes == MESSAGE_LIMIT_BYTES + 1 && limit_bytes == MESSAGE_LIMIT_BYTES),
            "{refusal}"
        );
        let longest = news_of_size(MESSAGE_LIMIT_BYTES);
        party.announce(0, &longest);
        party.run_until("the longest is heard", |party| !party.heard[1].is_empty()).await;
        assert_eq!(party.heard[1], [(party.peer(0), longest)]);
    });
}

#[test]
fn the_malformed_is_counted_and_not_passed_on() {
    run(async {
        // The stranger speaks the protocol and announces what is no `News`, though it would be for itself.
        let stranger_key = Keypair::generate_ed25519();
        let mut stranger = swarm_of(&stranger_key, plain_gossipsub(&stranger_key, &gossipsub_config()));
        let topic = gossipsub::IdentTopic::new("members");
        stranger.behaviour_mut().subscribe(&topic).unwrap();
        let mut party = Party::new(vec![gossiper(), gossiper()]);
        party.befriend(0, 1).await;
        let address = listen(&mut party.swarms[0]).await;
        stranger.dial(address).unwrap();
        let mut trailing = cbor4ii::serde::to_vec(Vec::new(), &news(8)).unwrap();
        trailing.push(0);
        let too_long = cbor4ii::serde::to_vec(Vec::new(), &news_of_size(MESSAGE_LIMIT_BYTES + 1)).unwrap();
        let nested = vec![0x81; 4000];
        let good = cbor4ii::serde::to_vec(Vec::new(), &news(9)).unwrap();
        let stranger = async_std::task::spawn(async move {
            loop {
                let SwarmEvent::Behaviour(event) = stranger.select_next_some().await else { continue };
                if let gossipsub::Event::Subscribed { .. } = event {
                    for data in [b"nonsense".to_vec(), Vec::new(), trailing.clone(), nested.clone(), too_long.clone()] {
                        stranger.behaviour_mut().publish(topic.clone(), data).unwrap();
                    }
                    stranger.behaviour_mut().publish(topic.clone(), good.clone()).unwrap();
                }
            }
        });
        let from = stranger_key.public().to_peer_id();
        party.run_until("the good one is passed on", |party| !party.heard[1].is_empty()).await;
        party
            .run_until("the malformed are counted", |party| party.swarms[0].behaviour().counters().malformed == 5)
            .await;
        assert_eq!(party.heard, vec![vec![(from, news(9))]; 2]);
        assert_eq!(party.swarms[1].behaviour().counters().malformed, 0, "passed on");
        stranger.cancel().await;
    });
}

/// Gossipsub that understands the behaviour's, and leaves what is said in it to the test.
fn plain_gossipsub(keypair: &Keypair, config: &gossipsub::ConfigBuilder) -> gossipsub::Behaviour {
    let author = gossipsub::MessageAuthenticity::Signed(keypair.clone());
    gossipsub::Behaviour::new(author, config.build().unwrap()).unwrap()
}

fn gossipsub_config() -> gossipsub::ConfigBuilder {
    let mut config = gossipsub::ConfigBuilder::default();
    config.protocol_id_prefix("/quorate-test/gossip");
    config
}

#[test]
fn another_cluster_is_identified_and_hears_nothing() {
    run(async {
        let other = Config {
            protocol_version: "/quorate-other/1".to_owned(),
            gossip_prefix: "/quorate-other/gossip".to_owned(),
            ..config()
        };
        let mut party = Party::new(vec![gossiper(), gossiper_with(other), gossiper()]);
        party.connect(0, 1).await;
        party.befriend(0, 2).await;
        party.run_until("the other is identified", |party| party.identified.iter().all(|it| !it.is_empty())).await;
        let stranger = party.peer(1);
        assert!(party.identified[0].iter().any(|event| matches!(event,
            Event::Identified { peer, protocol_version, .. } if *peer == stranger && protocol_version == "/quorate-other/1")));
        party.announce(0, &news(1));
        party.run_until("the member has heard", |party| !party.heard[2].is_empty()).await;
        assert_eq!((party.subscribers(0), party.subscribers(1)), (1, 0));
        assert!(party.heard[1].is_empty());
    });
}

#[test]
fn identify_tells_who_where_and_what() {
    run(async {
        let mut party = Party::new(vec![gossiper(), gossiper()]);
        party.connect(0, 1).await;
        party.run_until("both are identified", |party| party.identified.iter().all(|it| !it.is_empty())).await;
        let Event::Identified { peer, protocol_version, agent_version, listen_addresses, protocols, observed } =
            &party.identified[0][0]
        else {
            panic!("an announcement among the identified");
        };
        assert_eq!(*peer, party.peer(1));
        assert_eq!((protocol_version.as_str(), agent_version.as_str()), ("/quorate-test/1", "quorate/test"));
        assert_eq!(*listen_addresses, party.swarms[1].listeners().cloned().collect::<Vec<_>>());
        assert!(protocols.iter().any(|protocol| protocol == "/quorate-test/gossip/1.1.0"), "{protocols:?}");
        assert!(observed.to_string().starts_with("/memory/"), "{observed}");
    });
}

#[test]
fn a_new_address_is_told_at_once_and_only_so_many_are_reported() {
    run(async {
        let mut party = Party::new(vec![gossiper(), gossiper()]);
        party.connect(0, 1).await;
        let most = |party: &Party| {
            let addresses = party.identified[0].iter().map(|event| match event {
                Event::Identified { listen_addresses, .. } => listen_addresses.len(),
                Event::Announced { .. } => 0,
            });
            addresses.max().unwrap_or(0)
        };
        // One at a time: libp2p drops pushes beyond a few under way on a connection.
        for count in 2..=ADDRESSES_PER_PEER_MAX {
            listen(&mut party.swarms[1]).await;
            party.run_until("the new address is told", |party| most(party) == count).await;
        }
        let reports = party.identified[0].len();
        listen(&mut party.swarms[1]).await;
        party.run_until("one more is told", |party| party.identified[0].len() > reports).await;
        assert_eq!(most(&party), ADDRESSES_PER_PEER_MAX);
    });
}

#[test]
fn a_prefix_that_is_no_protocol_name_is_refused() {
    let config = Config { gossip_prefix: "no slash".to_owned(), ..config() };
    let refusal = Behaviour::<News>::new(&Keypair::generate_ed25519(), config).err();
    assert!(matches!(refusal, Some(StartError::Config { prefix, .. }) if prefix == "no slash"));
}

#[test]
fn a_swarm_of_an_open_cluster_dials_no_public_address() {
    run(async {
        let keypair = Keypair::generate_ed25519();
        let mut open = swarm_of(&keypair, private_addresses::Behaviour::new(Policy::PrivateOnly));
        let public: Multiaddr = "/ip4/1.1.1.1/tcp/1".parse().unwrap();
        let dial = DialOpts::unknown_peer_id().address(public.clone()).build();
        let Err(DialError::Denied { cause }) = open.dial(dial) else { panic!("a public address was dialled") };
        assert_eq!(cause.downcast::<AddressRefused>().unwrap(), AddressRefused::Public { address: public });

        // The process itself is allowed.
        let other = Keypair::generate_ed25519();
        let mut other = swarm_of(&other, private_addresses::Behaviour::new(Policy::PrivateOnly));
        open.dial(listen(&mut other).await).unwrap();
        let (a, b) = (*open.local_peer_id(), *other.local_peer_id());
        let connected = async {
            while !(open.is_connected(&b) && other.is_connected(&a)) {
                futures::future::select(open.select_next_some(), other.select_next_some()).await;
            }
        };
        async_std::future::timeout(DEADLINE, connected).await.unwrap();
    });
}
