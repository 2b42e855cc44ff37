//! A node that stands still for a minute, and comes back as if nothing had been.

use std::time::{Duration, Instant};

use quorate::client::Client;

use crate::{
    alone,
    harness::{Home, Node},
    load::{Load, Pace, Percentiles},
    town::{client, let_pass, opinions, status, wait, wait_drained},
};

const BEFORE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_secs(60);

#[test]
fn nobody_waits_for_a_node_that_stands_still_and_it_blames_nobody() {
    let _turn = alone();
    let home = Home::new();
    let nodes: [Node; 5] = home.cluster(&["--partitions", "64"]);
    let all: Vec<&Node> = nodes.iter().collect();
    let clients: Vec<Client> = (0..8).map(|_| client(&all)).collect();
    let load = Load::begin(&clients, Pace { keys: 25, pause: Duration::from_millis(50) });
    let_pass(Duration::from_secs(3));

    let begun = Instant::now();
    let_pass(BEFORE);
    let sleeper = &nodes[3];
    let opinions_before = status(&home, sleeper)["counters"]["opinions_changed"].as_u64().unwrap();
    let stopped = Instant::now();
    sleeper.signal("STOP");
    let_pass(PAUSE);
    let resumed = Instant::now();
    sleeper.signal("CONT");

    let mut worst = 0;
    let took = wait("the resumed node sees all up", Duration::from_secs(10), || {
        let seen = opinions(&status(&home, sleeper));
        worst = worst.max(seen.values().filter(|state| *state == "down").count());
        assert!(worst < nodes.len() - 1, "it takes all others for dead: {seen:?}");
        seen.values().all(|state| state == "up")
    });
    let changed = status(&home, sleeper)["counters"]["opinions_changed"].as_u64().unwrap() - opinions_before;
    eprintln!("pauses: sees all up {took:.1?} after it resumed; at most {worst} down; {changed} opinions changed");
    assert!(changed < nodes.len() as u64 - 1, "it cannot have taken all others for dead, unseen: {changed}");
    nodes.iter().for_each(|node| home.wait_up(node, 5));
    let diary = load.end();
    eprintln!("pauses: {}", diary.summary());

    let times = |from: Instant, to: Instant| Percentiles::of(diary.between(from, to).map(|record| record.took));
    let (before, during) = (times(begun, stopped), times(stopped, resumed));
    eprintln!("pauses: before {before}\npauses: during {during}");
    eprintln!("pauses: after its first 5 s {}", times(stopped + Duration::from_secs(5), resumed));
    assert!(diary.failures().is_empty(), "{:#?}", diary.failures());
    assert!(during.p99 <= before.p99 * 2, "p99 was {:?}, and is {:?} with one silent", before.p99, during.p99);
    wait_drained(&home, &all, Duration::from_secs(60));
}
