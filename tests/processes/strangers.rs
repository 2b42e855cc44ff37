//! Whoever is no node of this cluster is recognised, named, and gets no further.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
};

use crate::harness::{Home, LOOPBACK, Node, poll, text};

/// A program that answers everybody as a web server would. It ends with the process.
fn web_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 64]);
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
            });
        }
    });
    format!("/ip4/127.0.0.1/tcp/{port}")
}

fn spawn(home: &Home, name: &str, words: &[&str]) -> Node {
    home.spawn(&Default::default(), name, &[&LOOPBACK[..], &["--partitions", "16"], words].concat())
}

/// Waits for a warning with all these words.
#[track_caller]
fn expect_warning(node: &mut Node, words: &[&str]) {
    node.wait_warning(words);
    assert!(!node.has_told("founded") && !node.has_told("ready"), "one that was told whom to join never founds");
}

#[test]
fn whoever_joins_a_web_server_is_told_so_and_never_founds() {
    let home = Home::new();
    let address = web_server();
    let port = address.rsplit('/').next().unwrap();
    let mut node = spawn(&home, "node", &["--join", &address]);
    expect_warning(&mut node, &[port, "libp2p"]);
    let asked = home.run(&["get", "k", "-o", "json", "--node", &address]);
    asked.expect(7, &["unreachable", port, "not as a libp2p peer"]);
}

#[test]
fn whoever_joins_another_cluster_is_told_both_names_and_the_cluster_notices_nothing() {
    let home = Home::new();
    let red = home.start("red", &[&LOOPBACK[..], &["--cluster", "red", "--partitions", "16"]].concat());
    let mut blue = spawn(&home, "blue", &["--cluster", "blue", "--join", &red.addresses[0]]);
    expect_warning(&mut blue, &["red", "blue"]);
    let asked = home.run(&["get", "k", "-o", "json", "--node", &red.addresses[0]]);
    asked.expect(7, &["other_cluster", "\\\"red\\\"", "\\\"quorate\\\"", "--cluster"]);
    let members = home.run(&["members", "-o", "json", "--cluster", "red", "--node", &red.addresses[0]]);
    assert_eq!(members.expect(0, &[]).json().as_array().map(Vec::len), Some(1));
}

#[test]
fn only_who_holds_the_swarm_key_can_join_and_ask() {
    let home = Home::new();
    let key = home.run(&["keygen"]).expect(0, &["/key/swarm/psk/1.0.0/"]);
    fs::write(home.path("swarm.key"), &key.stdout).unwrap();
    let path = home.path("swarm.key");
    let with_key = ["--swarm-key", text(&path)];

    let first = home.start("first", &[&LOOPBACK[..], &["--partitions", "16"], &with_key].concat());
    let seed = first.addresses[0].as_str();
    let mut keyless = spawn(&home, "keyless", &["--join", seed]);
    expect_warning(&mut keyless, &["swarm"]);
    home.run(&["get", "k", "--node", seed]).expect(7, &["swarm"]);

    let second = home.start("second", &[&LOOPBACK[..], &["--join", seed], &with_key].concat());
    home.run(&[&["put", "k", "v", "--node", seed], &with_key[..]].concat()).expect(0, &[]);
    let of_second = [&["members", "-o", "json", "--node", &second.addresses[0]], &with_key[..]].concat();
    let mut count = None;
    let both = poll(|| {
        count = home.run(&of_second).json().as_array().map(Vec::len);
        count == Some(2)
    });
    assert!(both, "{count:?} members");
}
