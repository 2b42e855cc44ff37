//! All nodes of a cluster go down and come back, and nobody tells them of each other.

use std::net::TcpListener;

use serde_json::json;

use crate::harness::{Home, LOOPBACK, Node, Place};

const SHAPE: [&str; 2] = ["--partitions", "64"];

#[test]
fn members_that_were_all_killed_find_each_other_again_by_themselves_and_have_what_they_had() {
    let home = Home::new();
    let mut nodes: [Node; 3] = home.cluster(&SHAPE);
    let mut shell = home.shell(&nodes[0]);
    for number in 0..50 {
        let stored = shell.ask(json!({"op": "put", "key": format!("k{number}"), "value": format!("v{number}")}));
        assert_eq!(stored["ok"], true, "{stored:#}");
    }
    drop(shell);
    nodes.iter_mut().for_each(Node::kill);

    // Each listens where it did before: that is where the others look for it.
    let again = [0, 1, 2].map(|index| home.start(&format!("node-{index}"), &LOOPBACK));
    for (before, node) in nodes.iter().zip(&again) {
        assert_eq!((&node.peer_id, &node.addresses), (&before.peer_id, &before.addresses));
        home.wait_up(node, 3);
    }
    for node in &again {
        let mut shell = home.shell(node);
        for number in 0..50 {
            let found = shell.ask(json!({"op": "get", "key": format!("k{number}"), "r": "all"}));
            assert_eq!(found["siblings"][0]["value"], format!("v{number}"), "{}: {found:#}", node.name);
        }
    }
    home.ask(&again[0], &["status"]).expect(0, &["healthy"]);
}

#[test]
fn a_node_whose_port_was_taken_says_so_and_finds_the_others_as_long_as_it_knows_where_one_is() {
    let home = Home::new();
    let [mut first, second, _third]: [Node; 3] = home.cluster(&SHAPE);
    let address = first.addresses[0].clone();
    let port: u16 = address.split('/').nth(4).unwrap().parse().unwrap();
    first.kill();
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let mut first = home.spawn(&Place::default(), "node-0", &LOOPBACK);
    first.wait_warning(&[&format!("/ip4/127.0.0.1/tcp/{port}"), "taken by another process", "--listen"]);
    first.wait_ready();
    assert_ne!(first.addresses[0], address);
    home.wait_up(&second, 3);
    home.wait_up(&first, 3);
}
