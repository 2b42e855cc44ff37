//! Clusters of one name that were founded apart, and learn of each other.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use crate::{
    harness::{Home, LOOPBACK, Node, poll},
    keys::SWIFT,
};

const KEY_COUNT: usize = 20;

/// Two nodes that have found nobody but each other.
fn island(home: &Home, name: &str, words: &[&str]) -> [Node; 2] {
    let words = [&LOOPBACK[..], words].concat();
    let first = home.start(&format!("{name}-0"), &words);
    let second = home.start(&format!("{name}-1"), &[&words[..], &["--join", &first.addresses[0]]].concat());
    [&first, &second].into_iter().for_each(|node| home.wait_up(node, 2));
    [first, second]
}

/// Puts keys that only this island has, and keys that another has as well.
fn put_all(home: &Home, node: &Node, island: &str) {
    let mut shell = home.shell(node);
    for name in (0..KEY_COUNT).flat_map(|number| [format!("{island}-{number}"), format!("both-{number}")]) {
        let stored = shell.ask(json!({"op": "put", "key": name, "value": format!("of {island}"), "create": true}));
        assert_eq!(stored["ok"], true, "{stored:#}");
    }
}

/// The values of a key, as they are read at a quorum.
fn values(home: &Home, node: &Node, names: &[String]) -> Vec<BTreeSet<String>> {
    let mut shell = home.shell(node);
    let text = |sibling: &Json| sibling["value"].as_str().unwrap().to_owned();
    let found = names.iter().map(|name| shell.ask(json!({"op": "get", "key": name, "r": "quorum"})));
    found.map(|found| found["siblings"].as_array().unwrap().iter().map(text).collect()).collect()
}

fn members(home: &Home, node: &Node) -> BTreeSet<String> {
    let told = home.ask(node, &["members"]).expect(0, &[]).json();
    told.as_array().unwrap().iter().map(|member| member["peer_id"].as_str().unwrap().to_owned()).collect()
}

fn names(kind: &str) -> Vec<String> {
    (0..KEY_COUNT).map(|number| format!("{kind}-{number}")).collect()
}

#[test]
fn two_islands_of_which_one_node_learns_an_address_of_the_other_become_one_cluster_with_all_that_both_have() {
    let home = Home::new();
    let [east, other_east] = island(&home, "east", &SWIFT);
    let [west, other_west] = island(&home, "west", &SWIFT);
    put_all(&home, &east, "east");
    put_all(&home, &west, "west");
    assert_eq!((members(&home, &east).len(), members(&home, &west).len()), (2, 2));

    // An administrator tells one node, by starting it again.
    assert_eq!(west.stop(), 0);
    let west = home.start("west-0", &[&LOOPBACK[..], &SWIFT, &["--join", &east.addresses[0]]].concat());
    let nodes = [&east, &other_east, &west, &other_west];
    let all: BTreeSet<String> = nodes.iter().map(|node| node.peer_id.clone()).collect();
    for node in nodes {
        assert!(poll(|| members(&home, node) == all), "{}: {:?}", node.name, members(&home, node));
    }
    nodes.into_iter().for_each(|node| home.wait_up(node, 4));
    let of = |texts: &[&str]| vec![texts.iter().map(|text| (*text).to_owned()).collect::<BTreeSet<_>>(); KEY_COUNT];
    for node in nodes {
        assert_eq!(values(&home, node, &names("east")), of(&["of east"]), "at {}", node.name);
        assert_eq!(values(&home, node, &names("west")), of(&["of west"]), "at {}", node.name);
        assert_eq!(values(&home, node, &names("both")), of(&["of east", "of west"]), "at {}", node.name);
    }
    let exported = home.ask(&other_east, &["export"]).expect(0, &[]).lines();
    assert_eq!(exported.len(), 4 * KEY_COUNT, "each key of one, and each of both twice");
}

#[test]
fn islands_that_were_founded_otherwise_stay_apart_and_both_say_what_differs() {
    for (partitions, replicas) in [("128", "3"), ("64", "2")] {
        let home = Home::new();
        let [mut east, other_east] = island(&home, "east", &SWIFT);
        let words = ["--partitions", partitions, "--replicas", replicas, "--reconcile-interval", "0.2"];
        let [west, other_west] = island(&home, "west", &words);
        put_all(&home, &east, "east");
        put_all(&home, &west, "west");
        assert_eq!(west.stop(), 0);
        let mut west = home.start("west-0", &[&LOOPBACK[..], &words, &["--join", &east.addresses[0]]].concat());

        let founded = |partitions, replicas| format!("founded with {partitions} partitions and {replicas} replicas");
        let told = [(&mut east, founded(partitions, replicas), "64 and 3".to_owned())];
        let told = told.into_iter().chain([(&mut west, founded("64", "3"), format!("{partitions} and {replicas}"))]);
        for (node, theirs, ours) in told {
            let (_, refused) = node.wait_event("history_refused");
            let detail = refused["detail"].as_str().unwrap();
            assert!(detail.contains(&theirs) && detail.ends_with(&format!("ours with {ours}")), "{detail}");
        }
        for (island, nodes) in [("east", [&east, &other_east]), ("west", [&west, &other_west])] {
            let value = BTreeSet::from([format!("of {island}")]);
            for node in nodes {
                assert_eq!(members(&home, node), nodes.iter().map(|node| node.peer_id.clone()).collect());
                assert_eq!(values(&home, node, &names("both")), vec![value.clone(); KEY_COUNT], "at {}", node.name);
            }
        }
    }
}
