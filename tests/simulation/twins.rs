//! Stories of a disk that was copied, and of two computers that start from it.

use std::time::Duration;

use quorate::{
    node::effect::{Event, Stop},
    wire::{
        administration::AlertKind,
        client::{ClientResponse, Consistency},
    },
};

use crate::{
    checker,
    cluster::{Cluster, Setup},
    network::Weather,
    stage::values,
};

/// Within this time the younger must have stopped.
const SOON_MS: u64 = 20_000;

impl Cluster {
    /// Stops a node and copies its disk to another computer. Returns that one.
    fn copy(&mut self, node: usize) -> usize {
        self.stop(node);
        self.run_for(100);
        self.machines.push(self.machines[node].copied());
        let copy = self.machines.len() - 1;
        self.copies.insert(node, copy);
        copy
    }

    fn has_stopped(&self, node: usize) -> bool {
        self.machines[node].ended == Some(Stop::Twin)
    }

    /// Whether it was acknowledged.
    fn is_stored(&mut self, node: usize, key: &str, value: &str, w: Consistency) -> bool {
        let put = self.put_request(key, value, None, w);
        matches!(self.try_ask(node, put), Some(ClientResponse::Stored(_)))
    }

    /// Writes at whoever is up, keys that are held from before and new ones. Every commit is checked for dots that two with one
    /// identity have minted.
    fn write_at(&mut self, nodes: &[usize], round: u64) {
        for node in nodes {
            for key in ["old", &format!("new-{}", round % 3)] {
                self.is_stored(*node, key, &format!("{node} {round}"), Consistency::One);
            }
        }
    }
}

fn is_twin_told(event: &Event) -> bool {
    matches!(event, Event::AlertRaised(alert) if alert.kind == AlertKind::Twin)
}

/// Node 0 and a copy of it are started, the copy so much later; both are written to. Returns the cluster when the younger
/// has stopped.
#[track_caller]
fn started_twice(seed: u64, setup: &Setup, later_ms: u64) -> (Cluster, usize) {
    let mut cluster = Cluster::settled_with(seed, setup);
    for _ in 0..3 {
        cluster.put(0, "old", "o", Consistency::All).expect_stored();
    }
    let copy = cluster.copy(0);
    cluster.start(0);
    cluster.run_for(later_ms);
    cluster.start(copy);
    let begun_ms = cluster.now_ms;
    let mut round = 0;
    while !cluster.has_stopped(0) && !cluster.has_stopped(copy) {
        assert!(cluster.now_ms - begun_ms < SOON_MS, "seed {seed}: neither has stopped");
        cluster.write_at(&[0, copy, 1], round);
        round += 1;
        cluster.run_for(50);
    }
    (cluster, copy)
}

#[test]
fn of_two_that_start_from_one_disk_the_younger_stops_and_no_dot_is_minted_twice() {
    for (seed, nodes) in (300..320).zip([3, 4, 5].into_iter().cycle()) {
        for later_ms in [1, 300, 5_000] {
            let setup = Setup {
                weather: if seed % 2 == 0 { Weather::FAIR } else { Weather::FOUL },
                exchange_interval: Some(Duration::from_secs(5)),
                ..Setup::sound(nodes, 3)
            };
            let (mut cluster, copy) = started_twice(seed, &setup, later_ms);
            assert!(cluster.has_stopped(copy) && !cluster.has_stopped(0), "seed {seed}, {later_ms} ms later");
            cluster.run_for(3_000);
            assert!(!cluster.is_up(copy) && cluster.is_up(0));
            assert!(cluster.was_told(0, is_twin_told), "seed {seed}, {later_ms} ms later");
            cluster.run_until(120_000, "it can be trusted again", |cluster| cluster.doubted_partitions() == 0);
            cluster.run_for(40_000);
            assert!(!cluster.has_stopped(0), "seed {seed}");
            cluster.put(0, "last", "v", Consistency::All).expect_stored();
            assert_eq!(values(&cluster.get(1, "last", Consistency::All)), ["v"]);
            // What is on the copy is nobody's any more, the hints that it kept among it.
            cluster.machines[copy].lose_disk();
            cluster.network.weather = Weather::FAIR;
            cluster.run_until(60_000, "replicas are equal", |cluster| checker::differing_replicas(cluster).is_none());
        }
    }
}

#[test]
fn what_was_acknowledged_by_the_younger_is_read_through_all_when_it_is_gone() {
    for seed in 330..340 {
        let mut cluster = Cluster::settled(seed, 3, 3);
        let copy = cluster.copy(0);
        cluster.start(0);
        cluster.run_for(500);
        cluster.start(copy);
        let mut acknowledged = Vec::new();
        let mut keys = (0..10_000).map(|number| format!("k{number}"));
        while !cluster.has_stopped(copy) {
            for node in [copy, 1] {
                let key = keys.next().expect("it stops before");
                if cluster.is_stored(node, &key, "v", Consistency::Quorum) {
                    acknowledged.push(key);
                }
            }
        }
        // Of the younger's disk nothing is left.
        cluster.run_for(200);
        for key in &acknowledged {
            assert_eq!(values(&cluster.get(2, key, Consistency::Quorum)), ["v"], "seed {seed}, {key}");
        }
    }
}

#[test]
fn a_third_that_starts_from_the_same_disk_later_stops_as_well() {
    let (mut cluster, copy) = started_twice(350, &Setup::sound(4, 3), 300);
    cluster.run_for(1_000);
    cluster.machines[copy].ended = None;
    cluster.start(copy);
    cluster.run_until(SOON_MS, "it stops again", |cluster| cluster.has_stopped(copy));
    assert!(!cluster.has_stopped(0));
}

#[test]
fn restarts_at_any_pace_in_any_weather_are_no_twins() {
    for seed in 360..370 {
        let mut cluster = Cluster::settled_with(seed, &Setup { weather: Weather::FOUL, ..Setup::sound(4, 3) });
        for round in 0..40 {
            let node = cluster.dice.index(4);
            let noticed_ms = cluster.dice.between(1, 3_000);
            cluster.crash(node, noticed_ms);
            let pause_ms = cluster.dice.between(1, 400);
            cluster.run_for(pause_ms);
            cluster.start(node);
            if round % 5 == 0 {
                cluster.run_for(1_000);
            }
        }
        cluster.run_for(10_000);
        assert!((0..4).all(|node| cluster.is_up(node) && !cluster.was_told(node, is_twin_told)), "seed {seed}");
    }
}

#[test]
fn a_disk_that_was_put_back_is_old_and_no_twin() {
    for seed in 370..380 {
        let mut cluster = Cluster::settled_with(seed, &Setup { weather: Weather::FOUL, ..Setup::sound(4, 3) });
        let old = cluster.machines[0].store.snapshot();
        for _ in 0..3 {
            cluster.restart(0);
            cluster.run_for(1_000);
        }
        cluster.crash(0, 20);
        cluster.machines[0].store.restore(&old);
        cluster.run_for(10);
        cluster.start(0);
        cluster.run_for(20_000);
        assert!(cluster.was_told(0, |event| matches!(event, Event::StoreIsOld { .. })), "seed {seed}");
        assert!(cluster.is_up(0) && !cluster.was_told(0, is_twin_told), "seed {seed}");
    }
}

#[test]
fn a_new_member_hears_of_one_of_its_name_that_is_away_and_of_no_other() {
    for is_away in [true, false] {
        let mut cluster = Cluster::new(390, &Setup::sound(4, 3));
        (0..3).for_each(|node| cluster.start(node));
        cluster.run_for(10_000);
        if is_away {
            cluster.crash(2, 20);
        }
        cluster.machines[3].config.profile.name = cluster.machines[2].config.profile.name.clone();
        cluster.start(3);
        cluster.run_for(10_000);
        let old = cluster.machines[2].id;
        let namesakes: Vec<&Event> =
            cluster.told.iter().map(|(_, event)| event).filter(|it| matches!(it, Event::Namesake { .. })).collect();
        let is_it = |event: &&Event| matches!(event, Event::Namesake { node, .. } if *node == old);
        assert_eq!((namesakes.len(), namesakes.iter().all(is_it)), (usize::from(is_away), true), "{namesakes:?}");
        assert!(cluster.was_told(3, |event| matches!(event, Event::Namesake { .. })) == is_away);
    }
}

#[test]
fn members_that_all_went_down_find_each_other_without_seeds_and_without_looking_around() {
    let mut cluster = Cluster::settled(395, 3, 3);
    cluster.put(0, "k", "v", Consistency::All).expect_stored();
    (0..3).for_each(|node| cluster.crash(node, 20));
    cluster.run_for(1_000);
    // A seed that leads nowhere switches the looking around off.
    for node in 0..3 {
        cluster.machines[node].seeds = vec![node];
    }
    (0..3).for_each(|node| cluster.start(node));
    cluster.run_until(10_000, "all are one again", |cluster| {
        let is_linked = |one: usize| (0..3).all(|other| one == other || cluster.network.believed(one, other).is_some());
        (0..3).all(is_linked)
    });
    for node in 0..3 {
        assert_eq!(values(&cluster.get(node, "k", Consistency::All)), ["v"]);
    }
}
