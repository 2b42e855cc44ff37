//! Nodes that die and come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use async_std::task::block_on;
use quorate::{
    client::{Client, Write},
    ident::{Key, NodeId, Value},
    wire::client::Consistency,
};

use crate::{
    alone,
    harness::{Home, Node},
    load::{Diary, Load, Outcome, Pace, Record, values},
    town::{client, id_of, key, let_pass, resident, restart, status, wait, wait_drained},
};

/// How long the cluster works between two events.
const SPAN: Duration = Duration::from_secs(8);

#[test]
fn any_one_may_die_and_any_two_and_nothing_acknowledged_is_lost() {
    let _turn = alone();
    let home = Home::new();
    let mut nodes: [Node; 5] = home.cluster(&["--partitions", "64"]);
    // Different homes, and each knows a second address.
    let clients: Vec<Client> = (0..8).map(|index| client(&[&nodes[index % 5], &nodes[(index + 1) % 5]])).collect();
    let load = Load::begin(&clients, Pace { keys: 25, pause: Duration::from_millis(40) });
    let_pass(SPAN);

    let mut deaths = vec![Instant::now()];
    nodes[1].kill();
    let_pass(SPAN);
    restart(&home, &mut nodes[1]);
    nodes.iter().for_each(|node| home.wait_up(node, 5));
    let second = Instant::now();
    let_pass(SPAN);

    deaths.push(Instant::now());
    nodes[2].kill();
    nodes[4].kill();
    deaths.push(Instant::now());
    let_pass(SPAN);
    restart(&home, &mut nodes[2]);
    restart(&home, &mut nodes[4]);
    nodes.iter().for_each(|node| home.wait_up(node, 5));
    let_pass(Duration::from_secs(2));
    let diary = load.end();
    eprintln!("deaths: {}", diary.summary());

    let early: Vec<&Record> = diary.failures().into_iter().filter(|record| record.began < second).collect();
    assert!(early.is_empty(), "while one was dead: {early:#?}");
    let (first, last) = (deaths[1], deaths[2]);
    for record in diary.failures() {
        let after = record.began.saturating_duration_since(last);
        eprintln!("deaths: begun {after:.1?} after they died: {record:?}");
    }
    for record in diary.failures() {
        assert!(record.was_under_way(first) || record.was_under_way(last), "not when they died: {record:?}");
        assert!(!record.is_put || matches!(record.outcome, Outcome::Unknown(_)), "it must be unknown: {record:?}");
    }

    let took = wait_drained(&home, &nodes.each_ref(), Duration::from_secs(60));
    eprintln!("deaths: no hints are left after {took:.1?}");
    assert_whole(&nodes, &diary, &diary.doubtful(&deaths));
}

/// Every primary of every key holds what was acknowledged, once, or what replaced it.
#[track_caller]
fn assert_whole(nodes: &[Node], diary: &Diary, doubtful: &BTreeSet<Key>) {
    let residents: BTreeMap<NodeId, Client> = nodes.iter().map(|node| (id_of(node), resident(node))).collect();
    let ring = residents.values().next().unwrap().view().ring.clone().unwrap();
    let (mut copies, mut twins) = (0, 0);
    for (key, written) in &diary.keys {
        for primary in ring.row(ring.partition_of(key)) {
            let held = values(&block_on(residents[primary].get_local(key)).unwrap());
            copies += 1;
            if written.unknown.is_none() && !doubtful.contains(key) {
                assert_eq!(held, written.acknowledged.iter().cloned().collect::<Vec<_>>(), "{key:?} at {primary:?}");
                continue;
            }
            twins += usize::from(held.len() > 1);
            assert!(held.len() <= 2, "{key:?} at {primary:?}: {held:?}");
            let mut may = written.acknowledged.iter().chain(&written.unknown);
            assert!(
                may.clone().next().is_none() || may.any(|it| held.contains(it)),
                "{key:?} at {primary:?}: {held:?}"
            );
        }
    }
    let count = doubtful.len();
    eprintln!("deaths: {copies} copies are as they must be; {count} keys may have had two siblings, {twins} copies do");
}

#[test]
fn a_put_while_a_is_dead_waits_for_it_at_d_which_may_die_too() {
    let _turn = alone();
    let home = Home::new();
    let nodes: [Node; 4] = home.cluster(&["--partitions", "64"]);
    let cart = key("cart");
    let ring = resident(&nodes[0]).view().ring.clone().unwrap();
    let ranking = ring.ranking(ring.partition_of(&cart));
    let place = |node: &Node| ranking.iter().position(|id| *id == id_of(node));
    let mut nodes = nodes;
    nodes.sort_by_key(place);
    let [mut a, b, c, mut d] = nodes;

    a.kill();
    let writer = client(&[&b, &c, &d]);
    let write = Write { w: Consistency::All, ..Write::default() };
    let stored = block_on(writer.put(&cart, Value::new(b"book").unwrap(), write)).unwrap();
    assert_eq!((stored.acks, stored.primaries, stored.hinted), (3, 2, vec![id_of(&a)]));

    let [at_b, at_c] = [&b, &c].map(resident);
    let holds = |client: &Client| values(&block_on(client.get_local(&cart)).unwrap()) == ["book"];
    let hints = |client: &Client| -> Vec<(NodeId, u64)> {
        block_on(client.hints()).unwrap().iter().map(|hint| (hint.target, hint.count)).collect()
    };
    let at_d = resident(&d);
    assert_eq!(hints(&at_d), [(id_of(&a), 1)], "D keeps it for A");
    assert_eq!(status(&home, &d)["hints"]["count"], 1);
    assert_eq!([holds(&at_b), holds(&at_c)], [true; 2], "and with B and C there are three");

    d.kill();
    assert_eq!([holds(&at_b), holds(&at_c)], [true; 2], "two while D is away");
    restart(&home, &mut d);
    let at_d = resident(&d);
    assert_eq!(hints(&at_d), [(id_of(&a), 1)], "D has not forgotten");

    restart(&home, &mut a);
    let at_a = resident(&a);
    let mut fewest = usize::MAX;
    let took = wait("A holds it", Duration::from_secs(5), || {
        let is_kept = usize::from(!hints(&at_d).is_empty());
        // Asked after D, so that what moves meanwhile is counted twice and never missed.
        let held = [&at_a, &at_b, &at_c].map(holds);
        fewest = fewest.min(is_kept + held.iter().filter(|holds| **holds).count());
        held[0]
    });
    eprintln!("seed: A holds it {took:.1?} after it serves; never fewer than {fewest} replicas");
    assert!(fewest >= 3, "{fewest}");
    wait("D keeps nothing any more", Duration::from_secs(5), || hints(&at_d).is_empty());
    assert!(!holds(&at_d), "it is none of D's own");
    assert_eq!([&at_a, &at_b, &at_c].map(holds), [true; 3]);
}
