//! Floods and forgeries.

use std::time::{Duration, Instant};

use async_std::task;
use libp2p::{Multiaddr, PeerId};
use quorate_behaviours::mdns::Config;

use crate::{
    lan::{self, forged_query, forged_response, in_own_network},
    ours::{Ours, SOON, forger, full_address, soon},
};

#[test]
fn a_flood_of_forged_answers_is_bounded_in_memory_and_in_discoveries() {
    in_own_network(|| {
        lan::add_interface();
        let mut config = Config::default();
        config.records_max = 100;
        config.discoveries_per_second = 20;
        config.packets_per_second = 2000;
        task::block_on(async {
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
    in_own_network(|| {
        lan::add_interface();
        let mut config = Config::default();
        config.packets_per_second = 50;
        config.responses_per_second = 5;
        task::block_on(async {
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
    in_own_network(|| {
        lan::add_interface();
        lan::give_far_end_a_foreign_address();
        let foreign: Multiaddr = "/ip4/192.0.2.9/tcp/1".parse().unwrap();
        let mut trusting_config = Config::default();
        trusting_config.accept_foreign_addresses = true;
        task::block_on(async {
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
