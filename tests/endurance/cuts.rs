//! Two that cannot reach each other, while a third reaches both.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value as Json, json};

use crate::{
    alone,
    harness::{Home, Node, Shell, system},
    network::Network,
    town::{Rows, key, opinions, status, wait, wait_drained},
};

/// Keys that are written and read through A in each round.
const KEYS: usize = 12;

#[test]
fn a_goes_on_without_b_though_c_sees_both() {
    let _turn = alone();
    let network = match Network::new(4) {
        Ok(network) => network,
        Err(reason) => return eprintln!("SKIPPED: {reason}"),
    };
    let home = Home::new();
    let nodes = start(&home, &network);
    let [a, b, c, _d] = &nodes;
    let rows = Rows::of(&home, a);
    // Led by A, so that a client beside A asks A; and B is in the row, so that A must do without one of it.
    let is_wanted = |name: &String| {
        let row = rows.row(&key(name));
        row[0] == a.peer_id && row.contains(&b.peer_id)
    };
    let keys: Vec<String> = (0..).map(|number| format!("key-{number}")).filter(is_wanted).take(KEYS).collect();
    let mut shell = home.shell(a);
    put_and_get(&mut shell, &keys, 0, "quorum");

    let places = [network.place(0), network.place(1)];
    let route = |change: &str, index: usize| {
        let line = format!("ip route {change} blackhole 10.77.0.{}/32", 2 - index);
        let words: Vec<&str> = places[index].enter.iter().map(String::as_str).chain(line.split(' ')).collect();
        let (is_done, said) = system(&words);
        assert!(is_done, "{line}: {said}");
    };
    [0, 1].into_iter().for_each(|index| route("add", index));
    // While it is being found out as well as afterwards.
    let mut round = 1;
    let took = wait("A takes B for dead", Duration::from_secs(20), || {
        put_and_get(&mut shell, &keys, round, "quorum");
        round += 1;
        opinions(&status(&home, a))["node-1"] == "down"
    });
    // The fallback counts, and is waited for.
    let hinted = put_and_get(&mut shell, &keys, round, "all");
    eprintln!("cuts: A saw B down after {took:.1?}, in which {round} rounds of {KEYS} puts and gets went through A");
    assert!(hinted.iter().all(|hinted| *hinted == json!([b.peer_id])), "kept for B: {hinted:?}");
    let states = |node: &Node| -> BTreeMap<String, String> { opinions(&status(&home, node)) };
    assert_eq!(states(a)["node-1"], "down");
    assert_eq!((states(a)["node-2"].as_str(), states(a)["node-3"].as_str()), ("up", "up"));
    assert!(states(c).values().all(|state| state == "up"), "C reaches both: {:?}", states(c));
    // What A writes is read where B is, though B has missed it.
    let got = home.ask(b, &["get", &keys[0]]).expect(0, &[]).json();
    assert_eq!(got["siblings"][0]["value"], format!("round {round}"), "{got:#}");

    [0, 1].into_iter().for_each(|index| route("del", index));
    nodes.iter().for_each(|node| home.wait_up(node, 4));
    let took = wait_drained(&home, &nodes.each_ref(), Duration::from_secs(60));
    eprintln!("cuts: mended; no hints are left {took:.1?} after all saw all");
    let mut at_b = home.shell(b);
    for name in &keys {
        let held = at_b.ask(json!({"op": "get", "key": name, "local": true}));
        assert_eq!(values(&held), [format!("round {round}")], "{name} at B: {held:#}");
    }
}

/// Puts and gets all keys, one after another. Returns for whom each was kept.
#[track_caller]
fn put_and_get(shell: &mut Shell, keys: &[String], round: usize, w: &str) -> Vec<Json> {
    let mut hinted = Vec::new();
    for name in keys {
        let value = format!("round {round}");
        let stored = shell.ask(json!({"op": "put", "key": name, "value": value, "w": w}));
        assert_eq!(stored["ok"], true, "{name} in round {round}: {stored:#}");
        let got = shell.ask(json!({"op": "get", "key": name}));
        assert_eq!(values(&got), [value], "{name} in round {round}: {got:#}");
        hinted.push(stored["hinted"].clone());
    }
    hinted
}

fn values(found: &Json) -> Vec<&str> {
    let siblings = found["siblings"].as_array().into_iter().flatten();
    siblings.filter_map(|sibling| sibling["value"].as_str()).collect()
}

/// Four nodes, each on a host of its own.
fn start(home: &Home, network: &Network) -> [Node; 4] {
    let mut nodes: Vec<Node> = Vec::new();
    for index in 0..4 {
        let listen = format!("/ip4/10.77.0.{}/tcp/7000", index + 1);
        let mut words = vec!["--no-mdns", "--partitions", "64", "--listen", &listen];
        let seed = nodes.first().map(|node| node.addresses[0].clone());
        words.extend(seed.iter().flat_map(|seed| ["--join", seed]));
        let name = format!("node-{index}");
        words.extend(["--name", &name]);
        let mut node = home.spawn(&network.place(index), &name, &words);
        node.wait_ready();
        nodes.push(node);
    }
    nodes.iter().for_each(|node| home.wait_up(node, 4));
    nodes.try_into().unwrap_or_else(|_| unreachable!("as many were started"))
}
