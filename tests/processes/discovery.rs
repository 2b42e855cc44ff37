//! Nodes find each other, and clients find nodes.

use std::time::{Duration, Instant};

use crate::{
    harness::{Home, LOOPBACK, Node},
    network::Network,
};

/// How soon after the last start all must know all.
const TOGETHER_MAX: Duration = Duration::from_secs(3);

/// The network; or nothing, with a word about it, where the machine does not allow one.
pub(crate) fn network(count: usize) -> Option<Network> {
    match Network::new(count) {
        Ok(network) => Some(network),
        Err(reason) => {
            eprintln!("SKIPPED: {reason}");
            None
        }
    }
}

/// All know all, soon enough after the last start; and each of them says so when asked.
#[track_caller]
fn assert_together(home: &Home, nodes: &mut [Node]) {
    let last_start = nodes.iter().map(|node| node.started).max().unwrap();
    let count = nodes.len();
    let since = |when: Instant| when.saturating_duration_since(last_start);
    let took: Vec<Duration> = nodes.iter_mut().map(|node| since(node.wait_members(count))).collect();
    eprintln!("all {count} members known after the last start, by each: {took:.0?}");
    for node in nodes.iter_mut() {
        node.wait_ready();
        let members = home.ask(node, &["members"]).json();
        assert_eq!(members.as_array().map(Vec::len), Some(count), "{}: {members:#}", node.name);
    }
    assert!(took.iter().all(|took| *took <= TOGETHER_MAX), "{took:?}");
}

#[test]
fn three_fresh_nodes_on_one_network_become_one_cluster_and_a_client_finds_it_by_itself() {
    let Some(network) = network(4) else { return };
    let home = Home::new();
    let mut nodes: Vec<Node> =
        (0..3).map(|index| home.spawn(&network.place(index), &format!("node-{index}"), &[])).collect();
    assert_together(&home, &mut nodes);
    let founders: usize = nodes.iter_mut().map(|node| usize::from(node.has_told("founded"))).sum();
    eprintln!("founders: {founders}");

    // As on a machine of its own: no node runs there, and nothing is known but the network.
    let elsewhere = Home::new();
    elsewhere.run_at(&network.place(3), &["put", "k", "v"]).expect(0, &["stored k"]);
    let got = elsewhere.run_at(&network.place(3), &["get", "k"]).expect(0, &[]);
    assert_eq!(got.stdout, b"v");
}

#[test]
fn three_fresh_nodes_on_loopback_become_one_cluster_by_the_address_of_one() {
    let home = Home::new();
    let mut nodes = vec![home.start("node-0", &LOOPBACK)];
    let seed = nodes[0].addresses[0].clone();
    for index in 1..3 {
        let words = [&LOOPBACK[..], &["--join", &seed]].concat();
        nodes.push(home.spawn(&Default::default(), &format!("node-{index}"), &words));
    }
    assert_together(&home, &mut nodes);
}

#[test]
fn two_that_founded_alone_become_one_cluster_when_the_cable_is_plugged_in() {
    let Some(network) = network(2) else { return };
    let home = Home::new();
    network.set_cable(1, "down");
    let mut nodes: Vec<Node> =
        (0..2).map(|index| home.spawn(&network.place(index), &format!("node-{index}"), &[])).collect();
    for node in &mut nodes {
        node.wait_ready();
        node.wait_event("founded");
        let key = format!("of-{}", node.name);
        home.ask(node, &["put", &key, &node.name]).expect(0, &[]);
    }
    let plugged = Instant::now();
    network.set_cable(1, "up");
    for node in &mut nodes {
        let took = node.wait_members(2).saturating_duration_since(plugged);
        eprintln!("{} knows both {took:.0?} after the cable was plugged in", node.name);
    }
    // Nothing that was written on either is lost.
    for (asked, key, value) in [(0, "of-node-1", "node-1"), (1, "of-node-0", "node-0")] {
        let node = &nodes[asked];
        let got = home.ask(node, &["get", key, "--r", "all"]).expect(0, &[]).json();
        assert_eq!(got["siblings"][0]["value"], value, "{got:#}");
    }
}

#[test]
fn a_cable_that_is_pulled_is_noticed_and_the_others_go_on() {
    let Some(network) = network(3) else { return };
    let home = Home::new();
    let mut nodes: Vec<Node> =
        (0..3).map(|index| home.spawn(&network.place(index), &format!("node-{index}"), &[])).collect();
    for node in &mut nodes {
        node.wait_ready();
    }
    nodes.iter().for_each(|node| home.wait_up(node, 3));
    nodes.iter().for_each(|node| home.wait_settled(node));
    let pulled = Instant::now();
    // No connection is closed by this: only silence tells.
    network.set_cable(2, "down");
    nodes[..2].iter().for_each(|node| home.wait_up(node, 2));
    eprintln!("noticed {:.1?} after the cable was pulled", pulled.elapsed());
    let stored = home.ask(&nodes[0], &["put", "k", "v"]).expect(0, &[]).json();
    assert_eq!((&stored["acks"], &stored["degraded"]), (&2.into(), &true.into()), "{stored:#}");
    let plugged = Instant::now();
    network.set_cable(2, "up");
    // Whoever coordinates the read must see all.
    nodes.iter().for_each(|node| home.wait_up(node, 3));
    eprintln!("all see all {:.1?} after it was plugged in again", plugged.elapsed());
    let got = home.ask(&nodes[2], &["get", "k", "--r", "all"]).expect(0, &[]).json();
    assert_eq!(got["siblings"][0]["value"], "v", "{got:#}");
}
