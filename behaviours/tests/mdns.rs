//! mDNS discovery between real sockets, in networks of the tests' own.
//!
//! Every test runs itself again in a fresh network namespace, so it neither hears nor disturbs whatever else speaks
//! mDNS on this machine. Where namespaces cannot be made it says so and passes.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "this is a test, and what it measured is worth seeing")]

#[path = "mdns/lan.rs"]
mod lan;

use std::{
    io::{BufRead, BufReader, Write},
    net::UdpSocket,
    time::{Duration, Instant},
};

use async_io::Timer;
use futures::{FutureExt, future::join, join, pin_mut, select_biased};
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::ListenerId},
    swarm::{ConnectionId, ExpiredListenAddr, FromSwarm, NetworkBehaviour, NewListenAddr, ToSwarm},
};
use quorate_behaviours::mdns::{self, Behaviour, Config, Event};

use crate::lan::{FAR_ADDRESS, NEAR_ADDRESS, forged_query, forged_response, in_own_network, run};

/// Within this time what should happen at once must have happened, on a machine that is busy with other things.
const SOON: Duration = Duration::from_secs(3);

#[test]
fn two_peers_started_together_find_each_other_both_ways() {
    in_own_network("two_peers_started_together_find_each_other_both_ways", || {
        lan::add_interface();
        let started = Instant::now();
        let (mut left, mut right) = (Ours::listening_on(4001), Ours::listening_on(4002));
        let (left_id, right_id) = (left.id, right.id);
        let waited = async_std::task::block_on(soon(async {
            join!(left.finds(right_id, started), right.finds(left_id, started))
        }));
        eprintln!("started together: found each other after {waited:?}");
        assert_eq!(left.addresses_of(right_id), vec![full_address(4002, right_id)]);
        assert_eq!(right.addresses_of(left_id), vec![full_address(4001, left_id)]);
    });
}

#[test]
fn peers_on_two_hosts_find_each_other_over_the_wire() {
    const NAME: &str = "peers_on_two_hosts_find_each_other_over_the_wire";
    if lan::is_far_host() {
        return far_host();
    }
    in_own_network(NAME, || {
        lan::add_interface();
        let mut far = lan::start_far_host(NAME);
        let mut lines = BufReader::new(far.stdout.take().unwrap()).lines().map_while(Result::ok);
        lan::expect_line(&mut lines, "far: ready");
        lan::move_far_end(far.id());
        let started = Instant::now();
        let mut near = Ours::listening_on(4001);
        let mut far_input = far.stdin.take().unwrap();
        writeln!(far_input, "{}", near.id).unwrap();
        let far_id: PeerId = lan::expect_line(&mut lines, "far: id ").parse().unwrap();
        let waited = async_std::task::block_on(soon(near.finds(far_id, started)));
        let far_waited = lan::expect_line(&mut lines, "far: found after ");
        eprintln!("over the wire: the near one found after {waited:?}, the far one {far_waited}");
        writeln!(far_input, "leave").unwrap();
        let expired = async_std::task::block_on(soon(near.expired()));
        assert_eq!(expired, vec![(far_id, format!("/ip4/{FAR_ADDRESS}/tcp/4002/p2p/{far_id}").parse().unwrap())]);
        assert!(far.wait().unwrap().success());
    });
}

/// The other side of the test above: finds the peer it is told of, and says goodbye when it is told to.
fn far_host() {
    let mut input = std::io::stdin().lines().map(Result::unwrap);
    lan::tell("far: ready");
    let near_id: PeerId = input.next().unwrap().parse().unwrap();
    let started = Instant::now();
    lan::bring_far_end_up();
    let mut far = Ours::new(Config::default());
    far.listen(&format!("/ip4/{FAR_ADDRESS}/tcp/4002").parse().unwrap());
    lan::tell(&format!("far: id {}", far.id));
    let waited = async_std::task::block_on(soon(far.finds(near_id, started)));
    lan::tell(&format!("far: found after {waited:?}"));
    assert_eq!(input.next().as_deref(), Some("leave"));
    async_std::task::block_on(far.mdns.farewell());
}

#[test]
fn peers_find_each_other_over_ipv6() {
    in_own_network("peers_find_each_other_over_ipv6", || {
        lan::add_interface();
        run("ip addr add fd77::1/64 dev near nodad");
        let started = Instant::now();
        let (mut left, mut right) = (Ours::new(Config::default()), Ours::new(Config::default()));
        left.listen(&"/ip6/fd77::1/tcp/4001".parse().unwrap());
        right.listen(&"/ip6/fd77::1/tcp/4002".parse().unwrap());
        let (left_id, right_id) = (left.id, right.id);
        // The link-local address, from which packets are sent, is tentative for the first second or two.
        let waited = async_std::task::block_on(within(Duration::from_secs(10), async {
            join!(left.finds(right_id, started), right.finds(left_id, started))
        }));
        eprintln!("over IPv6: found each other after {waited:?}");
    });
}

#[test]
fn stock_libp2p_finds_us_and_is_found() {
    in_own_network("stock_libp2p_finds_us_and_is_found", || {
        lan::add_interface();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let started = Instant::now();
            let stock_id = PeerId::random();
            let mut stock = libp2p_mdns::tokio::Behaviour::new(libp2p_mdns::Config::default(), stock_id).unwrap();
            listen(&mut stock, &address(4002));
            let mut ours = Ours::listening_on(4001);
            let ours_id = ours.id;
            let waited = soon(join(ours.finds(stock_id, started), stock_finds(&mut stock, ours_id, started))).await;
            eprintln!("with stock libp2p: found it after {:?}, found by it after {:?}", waited.0, waited.1);
            assert_eq!(ours.addresses_of(stock_id), vec![full_address(4002, stock_id)]);
        });
    });
}

#[test]
fn a_late_comer_and_stock_libp2p_find_each_other() {
    in_own_network("a_late_comer_and_stock_libp2p_find_each_other", || {
        lan::add_interface();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stock_id = PeerId::random();
            let mut stock = libp2p_mdns::tokio::Behaviour::new(libp2p_mdns::Config::default(), stock_id).unwrap();
            listen(&mut stock, &address(4002));
            let mut first = Ours::listening_on(4001);
            let first_id = first.id;
            // Once it has found somebody, stock libp2p asks no more for five minutes.
            soon(first.polled_during(stock_finds(&mut stock, first_id, Instant::now()))).await;
            let started = Instant::now();
            let mut late = Ours::listening_on(4003);
            let late_id = late.id;
            let waited = soon(join(late.finds(stock_id, started), stock_finds(&mut stock, late_id, started))).await;
            eprintln!("late, with stock libp2p: found it after {:?}, found by it after {:?}", waited.0, waited.1);
            soon(first.finds(late_id, started)).await;
        });
    });
}

#[test]
fn a_farewell_expires_us_everywhere_at_once() {
    in_own_network("a_farewell_expires_us_everywhere_at_once", || {
        lan::add_interface();
        async_std::task::block_on(async {
            let (mut leaver, mut stayer) = acquainted().await;
            let started = Instant::now();
            leaver.mdns.farewell().await;
            let expired = soon(stayer.expired()).await;
            eprintln!("farewell: noticed after {:?}", started.elapsed());
            assert_eq!(expired, vec![(leaver.id, full_address(4001, leaver.id))]);
            // It stays silent, whatever happens.
            let sent = leaver.mdns.counters();
            leaver.listen(&address(4009));
            let mut newcomer = Ours::listening_on(4003);
            let stayer_id = stayer.id;
            soon(leaver.polled_during(newcomer.finds(stayer_id, started))).await;
            assert_eq!(leaver.mdns.counters(), sent);
            assert!(newcomer.addresses_of(leaver.id).is_empty());
        });
    });
}

#[test]
fn dropping_the_behaviour_says_goodbye_too() {
    in_own_network("dropping_the_behaviour_says_goodbye_too", || {
        lan::add_interface();
        async_std::task::block_on(async {
            let (leaver, mut stayer) = acquainted().await;
            let leaver_id = leaver.id;
            drop(leaver);
            assert_eq!(soon(stayer.expired()).await, vec![(leaver_id, full_address(4001, leaver_id))]);
        });
    });
}

#[test]
fn a_changed_listen_address_is_announced_and_the_old_one_taken_back() {
    in_own_network("a_changed_listen_address_is_announced_and_the_old_one_taken_back", || {
        lan::add_interface();
        async_std::task::block_on(async {
            let (mut changer, mut other) = acquainted().await;
            let id = changer.id;
            changer.stop_listening(&address(4001));
            assert_eq!(soon(other.expired()).await, vec![(id, full_address(4001, id))]);
            let started = Instant::now();
            changer.listen(&address(4005));
            let waited = soon(other.finds(id, started)).await;
            eprintln!("a new address was known after {waited:?}");
            assert_eq!(other.addresses_of(id), vec![full_address(4005, id)]);
        });
    });
}

#[test]
fn who_listens_nowhere_finds_and_is_not_found() {
    in_own_network("who_listens_nowhere_finds_and_is_not_found", || {
        lan::add_interface();
        async_std::task::block_on(async {
            let mut server = Ours::listening_on(4001);
            let mut client = Ours::new(Config::default());
            let server_id = server.id;
            soon(server.polled_during(client.finds(server_id, Instant::now()))).await;
            // Whoever comes now hears everybody that announces himself; the client is not among them.
            let mut witness = Ours::listening_on(4002);
            let witness_id = witness.id;
            soon(join(witness.finds(server_id, Instant::now()), server.finds(witness_id, Instant::now()))).await;
            assert_eq!(client.mdns.counters().responses_sent, 0);
            assert!(server.addresses_of(client.id).is_empty() && witness.addresses_of(client.id).is_empty());
        });
    });
}

#[test]
fn an_interface_that_appears_later_is_used() {
    in_own_network("an_interface_that_appears_later_is_used", || {
        async_std::task::block_on(async {
            let (mut left, mut right) = (Ours::listening_on(4001), Ours::listening_on(4002));
            let (left_id, right_id, started) = (left.id, right.id, Instant::now());
            assert!(left.mdns.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending());
            lan::add_interface();
            soon(join(left.finds(right_id, started), right.finds(left_id, started))).await;
        });
    });
}

#[test]
fn loopback_is_used_only_when_asked_for() {
    in_own_network("loopback_is_used_only_when_asked_for", || {
        let mut config = Config::default();
        config.loopback = true;
        let loopback = |port: u16| format!("/ip4/127.0.0.1/tcp/{port}").parse::<Multiaddr>().unwrap();
        async_std::task::block_on(async {
            let mut plain = Ours::new(Config::default());
            plain.listen(&loopback(4003));
            let (mut left, mut right) = (Ours::new(config.clone()), Ours::new(config));
            left.listen(&loopback(4001));
            right.listen(&loopback(4002));
            let (left_id, right_id, started) = (left.id, right.id, Instant::now());
            soon(async {
                let both = join(left.finds(right_id, started), right.finds(left_id, started)).fuse();
                let never = plain.expired().fuse();
                pin_mut!(both, never);
                select_biased! { _ = both => {}, _ = never => unreachable!("the plain one discovered nothing") }
            })
            .await;
            assert_eq!(plain.mdns.counters(), mdns::Counters::default());
        });
    });
}

#[test]
fn a_flood_of_forged_answers_is_bounded_in_memory_and_in_discoveries() {
    in_own_network("a_flood_of_forged_answers_is_bounded_in_memory_and_in_discoveries", || {
        lan::add_interface();
        let mut config = Config::default();
        config.records_max = 100;
        config.discoveries_per_second = 20;
        config.packets_per_second = 2000;
        async_std::task::block_on(async {
            let mut victim = Ours::new(config);
            let forger = forger();
            let started = Instant::now();
            let mut found = Vec::new();
            for _ in 0..300 {
                for _ in 0..10 {
                    let id = PeerId::random();
                    forger.send_to(&forged_response(id, &[full_address(1, id)], 3600), lan::GROUP).unwrap();
                }
                found.extend(victim.found_within(Duration::from_millis(5)).await.iter().map(|_| Instant::now()));
                assert!(victim.mdns.record_count() <= 100);
            }
            while found.len() < 100 {
                found.extend(soon(victim.found()).await.iter().map(|_| Instant::now()));
            }
            let counters = victim.mdns.counters();
            eprintln!("flood: {} handed up in {:?}; {counters:?}", found.len(), started.elapsed());
            assert_eq!((found.len(), victim.mdns.record_count()), (100, 100));
            assert!(counters.addresses_refused > 500, "{counters:?}");
            let in_one_second =
                |from: Instant| found.iter().filter(|at| from <= **at && **at < from + Duration::from_secs(1)).count();
            let most = found.iter().map(|from| in_one_second(*from)).max().unwrap();
            assert!(most <= 40, "{most} discoveries in one second");
            assert!(found.last().unwrap().duration_since(started) >= Duration::from_millis(3900));
        });
    });
}

#[test]
fn a_flood_of_packets_is_read_and_answered_at_a_bounded_rate() {
    in_own_network("a_flood_of_packets_is_read_and_answered_at_a_bounded_rate", || {
        lan::add_interface();
        let mut config = Config::default();
        config.packets_per_second = 50;
        config.responses_per_second = 5;
        async_std::task::block_on(async {
            let mut victim = Ours::listening_on_with(4001, config);
            let (forger, started) = (forger(), Instant::now());
            let mut nonsense = 0;
            while victim.mdns.counters().packets_received < 3000 {
                let packet = if nonsense % 2 == 0 { forged_query() } else { vec![0xff; 40] };
                nonsense += 1;
                forger.send_to(&packet, lan::GROUP).unwrap();
                victim.found_within(Duration::from_micros(200)).await;
                assert!(started.elapsed() < Duration::from_secs(20));
            }
            let (counters, seconds) = (victim.mdns.counters(), started.elapsed().as_secs() + 2);
            eprintln!("packets: {counters:?} in {:?}", started.elapsed());
            let read = counters.packets_received - counters.packets_shed;
            // Three links: one of IPv4, and one of IPv6 at each end of the cable; the flood is on the first.
            assert!(read <= 50 * seconds + 50, "{counters:?}");
            assert!(counters.responses_sent <= 5 * seconds, "{counters:?}");
            assert!(counters.packets_malformed > 0 && counters.queries_received > 0, "{counters:?}");
        });
    });
}

#[test]
fn addresses_and_senders_of_foreign_networks_are_ignored() {
    in_own_network("addresses_and_senders_of_foreign_networks_are_ignored", || {
        lan::add_interface();
        lan::give_far_end_a_foreign_address();
        let foreign: Multiaddr = "/ip4/192.0.2.9/tcp/1".parse().unwrap();
        let mut trusting_config = Config::default();
        trusting_config.accept_foreign_addresses = true;
        async_std::task::block_on(async {
            let (mut strict, mut trusting) = (Ours::new(Config::default()), Ours::new(trusting_config));
            let (neighbour_id, stranger_id) = (PeerId::random(), PeerId::random());
            let stranger = lan::forger(lan::FOREIGN_ADDRESS);
            let foreign_of_neighbour = foreign.clone().with_p2p(neighbour_id).unwrap();
            let from_neighbour = [foreign_of_neighbour.clone(), full_address(1, neighbour_id)];
            let neighbour = forger();
            // Repeated, since the sockets may not be open yet; the trusting one shows that the stranger is heard.
            let mut seen = Vec::new();
            let deadline = Instant::now() + SOON;
            while seen.len() < 3 || strict.addresses_of(neighbour_id).is_empty() {
                assert!(Instant::now() < deadline, "{seen:?}; {:?}", strict.mdns.counters());
                stranger
                    .send_to(&forged_response(stranger_id, &[full_address(2, stranger_id)], 60), lan::GROUP)
                    .unwrap();
                neighbour.send_to(&forged_response(neighbour_id, &from_neighbour, 60), lan::GROUP).unwrap();
                seen.extend(trusting.found_within(Duration::from_millis(20)).await);
                strict.found_within(Duration::from_millis(20)).await;
            }
            assert!(seen.contains(&(neighbour_id, foreign_of_neighbour)), "{seen:?}");
            assert!(seen.contains(&(stranger_id, full_address(2, stranger_id))), "{seen:?}");
            assert_eq!(strict.addresses_of(neighbour_id), vec![full_address(1, neighbour_id)]);
            assert!(strict.addresses_of(stranger_id).is_empty());
            let counters = strict.mdns.counters();
            eprintln!("foreign: {counters:?}");
            assert!(counters.addresses_foreign > 0 && counters.packets_foreign > 0, "{counters:?}");
        });
    });
}

/// One of our behaviours, driven as a swarm would.
struct Ours {
    id: PeerId,
    mdns: Behaviour,
}

impl Ours {
    fn new(config: Config) -> Self {
        let id = PeerId::random();
        Self { id, mdns: Behaviour::new(id, config).unwrap() }
    }

    fn listening_on(port: u16) -> Self {
        Self::listening_on_with(port, Config::default())
    }

    fn listening_on_with(port: u16, config: Config) -> Self {
        let mut ours = Self::new(config);
        ours.listen(&address(port));
        ours
    }

    fn listen(&mut self, address: &Multiaddr) {
        listen(&mut self.mdns, address);
    }

    fn stop_listening(&mut self, addr: &Multiaddr) {
        let event = ExpiredListenAddr { listener_id: ListenerId::next(), addr };
        self.mdns.on_swarm_event(FromSwarm::ExpiredListenAddr(event));
    }

    /// Waits until `peer` is discovered. Returns the time since `started`.
    async fn finds(&mut self, peer: PeerId, started: Instant) -> Duration {
        while !self.found().await.iter().any(|(found, _)| *found == peer) {}
        started.elapsed()
    }

    async fn found(&mut self) -> Vec<(PeerId, Multiaddr)> {
        loop {
            if let Event::Discovered(found) = next_event(&mut self.mdns).await {
                return found;
            }
        }
    }

    /// What is discovered before `time` is over.
    async fn found_within(&mut self, time: Duration) -> Vec<(PeerId, Multiaddr)> {
        let mut all = Vec::new();
        let mut timer = FutureExt::fuse(Timer::after(time));
        loop {
            let found = self.found().fuse();
            pin_mut!(found);
            select_biased! { found = found => all.extend(found), _ = timer => return all }
        }
    }

    /// Polls the behaviour, which opens its sockets, until `other` is ready.
    async fn polled_during<T>(&mut self, other: impl Future<Output = T>) -> T {
        let polled = async {
            while !matches!(next_event(&mut self.mdns).await, Event::Discovered(never) if never.is_empty()) {}
        };
        let (other, polled) = (other.fuse(), polled.fuse());
        pin_mut!(other, polled);
        select_biased! { value = other => value, _ = polled => unreachable!("an event is never empty") }
    }

    async fn expired(&mut self) -> Vec<(PeerId, Multiaddr)> {
        loop {
            if let Event::Expired(expired) = next_event(&mut self.mdns).await {
                return expired;
            }
        }
    }

    /// What a swarm would dial for `peer`.
    fn addresses_of(&mut self, peer: PeerId) -> Vec<Multiaddr> {
        let id = ConnectionId::new_unchecked(0);
        self.mdns.handle_pending_outbound_connection(id, Some(peer), &[], Endpoint::Dialer).unwrap()
    }
}

/// Two that have found each other, on ports 4001 and 4002.
async fn acquainted() -> (Ours, Ours) {
    let (mut left, mut right) = (Ours::listening_on(4001), Ours::listening_on(4002));
    let (left_id, right_id, started) = (left.id, right.id, Instant::now());
    soon(join(left.finds(right_id, started), right.finds(left_id, started))).await;
    (left, right)
}

fn address(port: u16) -> Multiaddr {
    format!("/ip4/{NEAR_ADDRESS}/tcp/{port}").parse().unwrap()
}

fn full_address(port: u16, peer: PeerId) -> Multiaddr {
    address(port).with_p2p(peer).unwrap()
}

fn forger() -> UdpSocket {
    lan::forger(NEAR_ADDRESS)
}

fn listen(behaviour: &mut impl NetworkBehaviour, addr: &Multiaddr) {
    behaviour.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id: ListenerId::next(), addr }));
}

async fn stock_finds(stock: &mut libp2p_mdns::tokio::Behaviour, peer: PeerId, started: Instant) -> Duration {
    loop {
        if let libp2p_mdns::Event::Discovered(found) = next_event(stock).await
            && found.iter().any(|(found, _)| *found == peer)
        {
            return started.elapsed();
        }
    }
}

async fn next_event<B: NetworkBehaviour>(behaviour: &mut B) -> B::ToSwarm {
    loop {
        if let ToSwarm::GenerateEvent(event) = futures::future::poll_fn(|cx| behaviour.poll(cx)).await {
            return event;
        }
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    within(SOON, future).await
}

async fn within<T>(time: Duration, future: impl Future<Output = T>) -> T {
    let (future, mut timer) = (future.fuse(), FutureExt::fuse(Timer::after(time)));
    pin_mut!(future);
    select_biased! { value = future => value, _ = timer => panic!("not within {time:?}") }
}
