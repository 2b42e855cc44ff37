//! Bad input is refused with a clear word, and harms nothing.

use std::{fs, os::unix::fs::chown};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value as Json, json};

use crate::harness::{Home, LOOPBACK, Node, text};

fn start(home: &Home, name: &str, words: &[&str]) -> Node {
    home.start(name, &[&LOOPBACK[..], &["--partitions", "16"], words].concat())
}

/// Words that start a node on `dir`, should it start at all.
fn on<'a>(dir: &'a str, words: &[&'a str]) -> Vec<&'a str> {
    [&["start", "--data-dir", dir], &LOOPBACK[..], words].concat()
}

#[test]
fn keys_and_values_beyond_their_limits_are_refused() {
    let home = Home::new();
    let node = start(&home, "node", &[]);
    let long_key = "k".repeat(401);
    home.ask(&node, &["put", &long_key, "v"]).expect(6, &["too_large", "401 bytes", "400"]);
    home.ask(&node, &["get", &long_key]).expect(6, &["too_large", "401 bytes", "400"]);
    home.ask(&node, &["put", &"k".repeat(400), "v"]).expect(0, &[]);
    home.ask(&node, &["put", "", "v"]).expect(2, &["the key is empty", "1 to 400 bytes"]);

    let words = ["put", "k", "-", "-o", "json", "--node", &node.addresses[0]];
    home.run_with_input(&words, &vec![b'x'; (1 << 20) + 1]).expect(6, &["too_large", "1048576 bytes"]);
    home.ask(&node, &["get", "k"]).expect(4, &[]);
    home.ask(&node, &["scan"]).expect(0, &[&"k".repeat(400)]);
}

#[test]
fn a_context_of_another_key_or_cluster_or_with_any_bit_flipped_is_refused() {
    let home = Home::new();
    let node = start(&home, "node", &[]);
    let other = start(&home, "other", &["--cluster", "other"]);
    home.ask(&node, &["put", "k", "mine"]).expect(0, &[]);
    let stored = home.ask(&node, &["put", "elsewhere", "v"]).expect(0, &[]).json();
    let of_other_key = stored["context"].as_str().unwrap();
    let refused = home.ask(&node, &["put", "k", "v", "--context", of_other_key]);
    refused.expect(6, &["invalid_context", "another key", "read this key"]);

    let place = ["--cluster", "other", "--node", &other.addresses[0]];
    home.run(&[&["put", "k", "theirs"], &place[..]].concat()).expect(0, &[]);
    let theirs = home.run(&[&["get", "k", "-o", "json"], &place[..]].concat()).json();
    let refused = home.ask(&node, &["put", "k", "v", "--context", theirs["context"].as_str().unwrap()]);
    refused.expect(6, &["invalid_context", "another cluster", "read the key again"]);
    home.ask(&node, &["delete", "k", "--context", "%%"]).expect(6, &["invalid_context"]);

    let mine = home.ask(&node, &["get", "k"]).json();
    let context = URL_SAFE_NO_PAD.decode(mine["context"].as_str().unwrap()).unwrap();
    let flipped = (0..context.len() * 8).map(|bit| {
        let mut forged = context.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        json!({"op": "put", "key": "k", "value": "forged", "context": URL_SAFE_NO_PAD.encode(forged), "id": bit})
    });
    let orders: Vec<Json> = flipped.collect();
    for answer in home.shell(&node).ask_all(&orders) {
        assert_eq!((&answer["ok"], &answer["error"]), (&false.into(), &"invalid_context".into()), "{answer:#}");
    }
    assert_eq!(home.ask(&node, &["get", "k"]).json()["siblings"], mine["siblings"]);
}

#[test]
fn settings_that_mean_nothing_are_refused_with_what_was_probably_meant() {
    let home = Home::new();
    let dir = home.path("node");
    let file = home.path("quorate.toml");
    fs::write(&file, "replica = 3\n").unwrap();
    home.run(&on(text(&dir), &["--config", text(&file)])).expect(2, &["quorate.toml", "`replica`", "`replicas`"]);
    fs::write(&file, "replicas = [\n").unwrap();
    home.run(&on(text(&dir), &["--config", text(&file)])).expect(2, &["quorate.toml", "not TOML"]);
    home.run(&on(text(&dir), &["--config", "nowhere.toml"]))
        .expect(2, &["settings file nowhere.toml cannot be read", "No such file"]);

    let outcome = home.run_with_variable(&on(text(&dir), &[]), ("QUORATE_REPLICA", "3"));
    outcome.expect(2, &["QUORATE_REPLICA", "QUORATE_REPLICAS", "unset"]);
    let outcome = home.run_with_variable(&on(text(&dir), &[]), ("QUORATE_REPLICAS", "many"));
    outcome.expect(2, &["replicas = many", "environment QUORATE_REPLICAS", "whole number from 1"]);

    home.run(&on(text(&dir), &["--replicas", "0"])).expect(2, &["replicas = 0", "--replicas", "from 1 to 16"]);
    home.run(&on(text(&dir), &["--partitions", "1000"])).expect(2, &["partitions = 1000", "power of two"]);
    home.run(&on(text(&dir), &["--join", "10.0.0.1:4001"])).expect(2, &["join", "10.0.0.1:4001", "/ip4/"]);
    home.run(&on(text(&dir), &["--swarm-key", text(&file)])).expect(2, &["quorate.toml", "keygen"]);
    home.run(&["get", "k", "--node", "10.0.0.1:4001"]).expect(2, &["10.0.0.1:4001", "--node", "/ip4/"]);
    home.run(&["fetch", "k", "-o", "json"]).expect(2, &["usage", "fetch"]);
    assert!(!dir.join("store").join("data.mdb").exists());
}

#[test]
fn a_place_where_nobody_can_listen_is_named() {
    let home = Home::new();
    let node = start(&home, "node", &[]);
    let taken = node.addresses[0].split("/p2p/").next().unwrap();
    let dir = home.path("other");
    for (address, cause) in [(taken, "in use"), ("/ip4/127.0.0.1/udp/1/quic-v1", "not supported")] {
        let refused = home.run(&["start", "--data-dir", text(&dir), "--no-mdns", "--listen", address]);
        refused.expect(1, &["cannot listen on", address, cause, "--listen"]);
    }
    // It can be put right: the same directory does for a good address.
    start(&home, "other", &[]);
}

#[test]
fn a_data_directory_that_another_node_uses_is_refused() {
    let home = Home::new();
    let node = start(&home, "node", &[]);
    let refused = home.run(&on(text(&node.data_dir), &[]));
    refused.expect(1, &["in use by process", text(&node.data_dir), "another data directory"]);
    home.ask(&node, &["put", "k", "v"]).expect(0, &[]);
}

#[test]
fn a_data_directory_of_another_user_is_refused_and_left_as_it_is() {
    let home = Home::new();
    let dir = home.path("node");
    fs::create_dir(&dir).unwrap();
    if chown(&dir, Some(12_345), None).is_err() {
        return eprintln!("SKIPPED: only root can give a directory to another user");
    }
    home.run(&on(text(&dir), &[])).expect(1, &["12345", text(&dir), "another data directory"]);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn a_truncated_store_is_refused_in_one_clear_line() {
    let home = Home::new();
    let node = start(&home, "node", &[]);
    home.ask(&node, &["put", "k", "v"]).expect(0, &[]);
    let dir = node.data_dir.clone();
    assert_eq!(node.stop(), 0);
    let file = dir.join("store").join("data.mdb");
    fs::File::options().write(true).open(&file).unwrap().set_len(9_000).unwrap();
    let refused = home.run(&on(text(&dir), &[])).expect(1, &["data.mdb", "9000 bytes", "backup"]);
    assert_eq!(refused.stderr.lines().filter(|line| line.starts_with("quorate:")).count(), 1, "{refused}");
    assert_eq!(fs::metadata(&file).unwrap().len(), 9_000);
}

#[test]
fn a_data_directory_of_another_cluster_is_refused_and_goes_on_in_its_own() {
    let home = Home::new();
    let node = start(&home, "node", &["--cluster", "red"]);
    let place = ["--cluster", "red", "--node"];
    home.run(&[&["put", "k", "v"], &place[..], &[&node.addresses[0]]].concat()).expect(0, &[]);
    let dir = node.data_dir.clone();
    assert_eq!(node.stop(), 0);
    let refused = home.run(&on(text(&dir), &["--cluster", "blue"]));
    refused.expect(1, &["another cluster than \"blue\"", text(&dir), "another data directory"]);

    let node = start(&home, "node", &["--cluster", "red"]);
    let got = home.run(&[&["get", "k"], &place[..], &[&node.addresses[0]]].concat()).expect(0, &[]);
    assert_eq!(got.stdout, b"v");
}

#[test]
fn a_command_that_finds_no_node_says_where_it_looked() {
    let home = Home::new();
    home.run(&["get", "k", "--no-mdns"]).expect(7, &["no node runs here", "quorate start", "--node"]);
    let dir = home.path("node");
    home.run(&["get", "k", "--data-dir", text(&dir)]).expect(7, &["no node runs on", text(&dir)]);
    // Port 9 of loopback: nobody is there.
    let refused = home.run(&["get", "k", "-o", "json", "--node", "/ip4/127.0.0.1/tcp/9"]);
    let refused = refused.expect(7, &["127.0.0.1:9", "refused"]);
    assert_eq!((&refused.json()["error"], &refused.json()["maybe_stored"]), (&"unreachable".into(), &false.into()));
}
