//! Who finds whom, and how soon.

use std::{
    io::{BufRead, BufReader, Write},
    task::Waker,
    time::{Duration, Instant},
};

use async_std::task;
use futures::{
    FutureExt, StreamExt,
    future::{join, join_all},
    join, pin_mut, select_biased,
};
use libp2p::{
    Multiaddr, PeerId, Swarm, Transport,
    core::upgrade,
    identity::Keypair,
    noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    yamux,
};
use quorate_behaviours::mdns::{self, Behaviour, Config, Event};

use crate::{
    lan::{self, FAR_ADDRESS, Witness, forged_query, forged_response, in_own_network, is_query, is_response, run},
    ours::{Ours, SOON, address, forger, full_address, listen, next_event, soon, within},
};

#[test]
fn two_peers_started_together_find_each_other_both_ways() {
    in_own_network(|| {
        lan::add_interface();
        let started = Instant::now();
        let (mut left, mut right) = (Ours::listening_on(4001), Ours::listening_on(4002));
        let (left_id, right_id) = (left.id, right.id);
        let waited =
            task::block_on(soon(async { join!(left.finds(right_id, started), right.finds(left_id, started)) }));
        eprintln!("started together: found each other after {waited:?}");
        assert_eq!(left.addresses_of(right_id), vec![full_address(4002, right_id)]);
        assert_eq!(right.addresses_of(left_id), vec![full_address(4001, left_id)]);
    });
}

#[test]
fn a_crowd_started_together_finds_itself_completely() {
    const CROWD: u16 = 24;
    in_own_network(|| {
        lan::add_interface();
        let started = Instant::now();
        let mut crowd: Vec<Ours> = (0..CROWD).map(|index| Ours::listening_on(4001 + index)).collect();
        let everybody: Vec<PeerId> = crowd.iter().map(|ours| ours.id).collect();
        let all_found = join_all(crowd.iter_mut().map(|ours| ours.finds_all(&everybody, started)));
        // They exceed what one of them may read in a second, and must make up for it by asking again.
        let waited = task::block_on(within(Duration::from_secs(20), all_found));
        let shed: u64 = crowd.iter().map(|ours| ours.mdns.counters().packets_shed).sum();
        assert!(crowd.iter_mut().all(|ours| ours.addresses_of(ours.id).is_empty()), "somebody discovered itself");
        eprintln!("a crowd of {CROWD}: the last knew all after {:?}; {shed} packets were shed", waited.iter().max());
    });
}

#[test]
fn we_announce_ourselves_unasked() {
    in_own_network(|| {
        lan::add_interface();
        let witness = Witness::new();
        let mut ours = Ours::listening_on(4001);
        task::block_on(soon(ours.asked(1)));
        assert!(witness.hears(SOON, |message| is_response(message, 360)));
    });
}

#[test]
fn a_question_is_answered_at_once() {
    in_own_network(|| {
        makes_us_speak(|_| {
            forger().send_to(&forged_query(), lan::GROUP).unwrap();
        });
    });
}

#[test]
fn somebody_unknown_is_told_of_us_at_once() {
    in_own_network(|| {
        makes_us_speak(|_| {
            let stranger = PeerId::random();
            let packet = forged_response(stranger, &[full_address(9, stranger)], 60);
            forger().send_to(&packet, lan::GROUP).unwrap();
        });
    });
}

#[test]
fn a_gained_address_is_announced_at_once() {
    in_own_network(|| makes_us_speak(|ours| ours.listen(&address(4005))));
}

#[test]
fn an_answer_above_the_rate_comes_later() {
    in_own_network(|| {
        makes_us_speak(|ours| {
            // Question after question, each after the fate of the one before is known, until one is put off.
            let forger = forger();
            let mut sent = ours.mdns.counters().responses_sent;
            assert_eq!(ours.mdns.counters().responses_delayed, 0);
            loop {
                forger.send_to(&forged_query(), lan::GROUP).unwrap();
                task::block_on(soon(ours.counts(|now| now.responses_sent > sent || now.responses_delayed > 0)));
                if ours.mdns.counters().responses_delayed > 0 {
                    break;
                }
                sent = ours.mdns.counters().responses_sent;
            }
            task::block_on(within(Duration::from_millis(500), ours.counts(|now| now.responses_sent > sent)));
        });
    });
}

/// Does something while we would say nothing of our own accord, and waits until we announce ourselves nevertheless.
fn makes_us_speak(provoke: impl FnOnce(&mut Ours)) {
    lan::add_interface();
    run("echo 1 | tee /proc/sys/net/ipv6/conf/near/disable_ipv6 /proc/sys/net/ipv6/conf/far/disable_ipv6");
    let witness = Witness::new();
    let mut ours = Ours::listening_on(4001);
    task::block_on(within(2 * SOON, ours.asked(6)));
    // All that was said before is behind us when the sixth question is; the seventh comes more than a second later.
    for _ in 0..6 {
        assert!(witness.hears(SOON, is_query));
    }
    assert!(witness.hears(SOON, |message| is_response(message, 360)));
    assert_eq!(ours.mdns.counters().queries_received, 0, "our own questions are none to us");
    provoke(&mut ours);
    assert!(witness.hears(Duration::from_millis(500), |message| is_response(message, 360)));
}

#[test]
fn peers_on_two_hosts_find_each_other_over_the_wire() {
    if lan::is_far_host() {
        return far_host();
    }
    in_own_network(|| {
        lan::add_interface();
        let mut far = lan::start_far_host(peers_on_two_hosts_find_each_other_over_the_wire);
        let mut lines = BufReader::new(far.stdout.take().unwrap()).lines().map_while(Result::ok);
        lan::expect_line(&mut lines, "far: ready");
        lan::move_far_end(far.id());
        let started = Instant::now();
        let mut near = Ours::listening_on(4001);
        let mut far_input = far.stdin.take().unwrap();
        writeln!(far_input, "{}", near.id).unwrap();
        let far_id: PeerId = lan::expect_line(&mut lines, "far: id ").parse().unwrap();
        let waited = task::block_on(soon(near.finds(far_id, started)));
        let far_waited = lan::expect_line(&mut lines, "far: found after ");
        eprintln!("over the wire: the near one found after {waited:?}, the far one {far_waited}");
        writeln!(far_input, "leave").unwrap();
        let expired = task::block_on(soon(near.expired()));
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
    let waited = task::block_on(soon(far.finds(near_id, started)));
    lan::tell(&format!("far: found after {waited:?}"));
    assert_eq!(input.next().as_deref(), Some("leave"));
    task::block_on(far.mdns.farewell());
}

#[test]
fn peers_find_each_other_over_ipv6() {
    in_own_network(|| {
        lan::add_interface();
        run("ip addr add fd77::1/64 dev near nodad");
        let started = Instant::now();
        let (mut left, mut right) = (Ours::new(Config::default()), Ours::new(Config::default()));
        left.listen(&"/ip6/fd77::1/tcp/4001".parse().unwrap());
        right.listen(&"/ip6/fd77::1/tcp/4002".parse().unwrap());
        let (left_id, right_id) = (left.id, right.id);
        // The link-local address, from which packets are sent, is tentative for the first second or two.
        let waited = task::block_on(within(Duration::from_secs(10), async {
            join!(left.finds(right_id, started), right.finds(left_id, started))
        }));
        eprintln!("over IPv6: found each other after {waited:?}");
    });
}

#[test]
fn swarms_that_dial_what_they_discover_are_connected() {
    in_own_network(|| {
        lan::add_interface();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(soon(async {
            let started = Instant::now();
            let (mut left, mut right) = (swarm(), swarm());
            let (left_id, right_id) = (*left.local_peer_id(), *right.local_peer_id());
            join(connects(&mut left, right_id), connects(&mut right, left_id)).await;
            eprintln!("swarms: connected after {:?}", started.elapsed());
        }));
    });
}

/// A swarm with nothing but discovery, which listens on all addresses of the host.
fn swarm() -> Swarm<Behaviour> {
    let keys = Keypair::generate_ed25519();
    let id = keys.public().to_peer_id();
    let transport = libp2p_tcp::tokio::Transport::default()
        .upgrade(upgrade::Version::V1)
        .authenticate(noise::Config::new(&keys).unwrap())
        .multiplex(yamux::Config::default())
        .boxed();
    let mdns = Behaviour::new(id, Config::default()).unwrap();
    let config = libp2p::swarm::Config::with_executor(|task| drop(tokio::spawn(task)));
    let mut swarm = Swarm::new(transport, mdns, id, config);
    swarm.listen_on("/ip4/0.0.0.0/tcp/0".parse().unwrap()).unwrap();
    swarm
}

/// Dials whoever is discovered, by name alone, until `peer` is connected.
async fn connects(swarm: &mut Swarm<Behaviour>, peer: PeerId) {
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(Event::Discovered(found)) => {
                // A second dial of the same peer is refused, which is as good.
                found.into_iter().for_each(|(peer, _)| drop(swarm.dial(peer)));
            }
            SwarmEvent::ConnectionEstablished { peer_id, .. } if peer_id == peer => return,
            _ => {}
        }
    }
}

#[test]
fn stock_libp2p_finds_us_and_is_found() {
    in_own_network(|| {
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
    in_own_network(|| {
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
fn who_listens_nowhere_finds_and_is_not_found() {
    in_own_network(|| {
        lan::add_interface();
        task::block_on(async {
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
    in_own_network(|| {
        task::block_on(async {
            let (mut left, mut right) = (Ours::listening_on(4001), Ours::listening_on(4002));
            let (left_id, right_id, started) = (left.id, right.id, Instant::now());
            assert!(left.mdns.poll(&mut std::task::Context::from_waker(Waker::noop())).is_pending());
            lan::add_interface();
            soon(join(left.finds(right_id, started), right.finds(left_id, started))).await;
        });
    });
}

#[test]
fn loopback_is_used_only_when_asked_for() {
    in_own_network(|| {
        let mut config = Config::default();
        config.loopback = true;
        let loopback = |port: u16| format!("/ip4/127.0.0.1/tcp/{port}").parse::<Multiaddr>().unwrap();
        task::block_on(async {
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

async fn stock_finds(stock: &mut libp2p_mdns::tokio::Behaviour, peer: PeerId, started: Instant) -> Duration {
    loop {
        if let libp2p_mdns::Event::Discovered(found) = next_event(stock).await
            && found.iter().any(|(found, _)| *found == peer)
        {
            return started.elapsed();
        }
    }
}
