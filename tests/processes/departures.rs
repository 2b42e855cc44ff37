//! Members that leave and are killed in the middle of it, and several that leave at once.

use std::process::{Child, Stdio};

use serde_json::json;

use crate::{
    harness::{Home, LOOPBACK, Node, Place, poll},
    keys::{KEY_COUNT, SWIFT, members, put_all, read},
};

/// What `node` says of the membership of `peer`; nothing if that is no member.
fn standing(home: &Home, node: &Node, peer: &str) -> Option<String> {
    members(home, node).remove(peer)
}

#[track_caller]
fn assert_left(node: Node) {
    let (code, told) = node.wait_end();
    assert_eq!(code, 0, "{told:#?}");
    assert!(told.contains(&json!({"event": "stopped", "reason": "left"})), "{told:#?}");
}

#[test]
fn a_leaver_that_is_killed_in_the_middle_goes_on_when_it_starts_again() {
    let home = Home::new();
    let [first, second, mut leaver, mut away]: [Node; 4] = home.cluster(&SWIFT);
    put_all(&home, &first, "k");
    // As long as it is away it cannot take over what the leaver has.
    away.kill();
    home.wait_up(&first, 3);
    home.ask(&leaver, &["leave", "--yes"]).expect(0, &[]);
    assert!(poll(|| standing(&home, &first, &leaver.peer_id).as_deref() == Some("leaving")));
    leaver.kill();
    home.wait_up(&first, 2);

    let leaver = home.start("node-2", &[&LOOPBACK[..], &["--join", &first.addresses[0]]].concat());
    home.wait_up(&first, 3);
    assert_eq!(standing(&home, &first, &leaver.peer_id).as_deref(), Some("leaving"));
    assert_eq!(read(&home, &leaver, "k"), KEY_COUNT, "it serves until it has left");
    let away = home.start("node-3", &[&LOOPBACK[..], &["--join", &first.addresses[0]]].concat());
    let gone = leaver.peer_id.clone();
    assert_left(leaver);
    for node in [&first, &second, &away] {
        assert!(poll(|| standing(&home, node, &gone).is_none()), "{}", node.name);
        home.wait_settled(node);
        assert_eq!(read(&home, node, "k"), KEY_COUNT);
    }
}

#[test]
fn two_leave_at_once_and_a_third_of_five_is_killed_meanwhile() {
    let home = Home::new();
    let [first, second, mut third, one, other]: [Node; 5] = home.cluster(&SWIFT);
    put_all(&home, &first, "k");
    for leaver in [&one, &other] {
        home.ask(leaver, &["leave", "--yes"]).expect(0, &[]);
    }
    third.kill();
    assert_eq!(read(&home, &first, "k"), KEY_COUNT);
    let third = home.start("node-2", &[&LOOPBACK[..], &["--join", &first.addresses[0]]].concat());
    [one, other].into_iter().for_each(assert_left);
    for node in [&first, &second, &third] {
        home.wait_up(node, 3);
        home.wait_settled(node);
        assert_eq!(read(&home, node, "k"), KEY_COUNT);
    }
}

#[test]
fn of_two_that_are_told_to_leave_at_once_one_stays_with_everything() {
    let home = Home::new();
    let nodes: [Node; 2] = home.cluster(&SWIFT);
    put_all(&home, &nodes[0], "k");
    let order = |node: &Node| {
        let words = ["leave", "--yes", "--node", &node.addresses[0]];
        home.command(&Place::default(), &words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let orders: Vec<Child> = nodes.iter().map(order).collect();
    for mut order in orders {
        order.wait().unwrap();
    }
    // One may have heard of the other in time, and refused. Whichever stays has all.
    let mut nodes = Vec::from(nodes);
    let mut gone = None;
    assert!(poll(|| {
        gone = nodes.iter_mut().position(|node| node.has_told("stopped"));
        gone.is_some()
    }));
    assert_left(nodes.remove(gone.expect("one has stopped")));
    assert_eq!(read(&home, &nodes[0], "k"), KEY_COUNT);
    home.ask(&nodes[0], &["leave", "--yes"]).expect(6, &["last member"]);
}
