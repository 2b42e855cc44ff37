//! Replicas that differ become equal: by themselves, by order, and after damage and loss of what is on the disk.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
    thread,
};

use serde_json::{Value as Json, json};

use crate::harness::{Home, LOOPBACK, Node, Outcome, poll, text};

/// Nothing but exchanges makes replicas equal.
const EXCHANGES_ALONE: [&str; 6] = ["--partitions", "64", "--hints", "false", "--read-repair", "false"];

/// So long that no exchange comes but those of a node that has come back, and those that are ordered.
const RARELY: [&str; 2] = ["--exchange-interval", "3600"];

const KEY_COUNT: usize = 20;

/// Puts `value` under some keys at `node`.
fn put_all(home: &Home, node: &Node, value: &str) {
    let mut shell = home.shell(node);
    for number in 0..KEY_COUNT {
        let stored = shell.ask(json!({"op": "put", "key": format!("k{number}"), "value": value}));
        assert_eq!(stored["ok"], true, "{stored:#}");
    }
}

/// How many of those keys `node` itself holds with this value.
fn held(home: &Home, node: &Node, value: &str) -> usize {
    let mut shell = home.shell(node);
    let orders: Vec<Json> =
        (0..KEY_COUNT).map(|number| json!({"op": "get", "key": format!("k{number}"), "local": true})).collect();
    let answers = orders.into_iter().map(|order| shell.ask(order));
    answers
        .filter(|found| found["siblings"].as_array().is_some_and(|all| all.len() == 1 && all[0]["value"] == value))
        .count()
}

/// What `node` holds: root and count of each partition.
fn roots(home: &Home, node: &Node) -> BTreeMap<u64, (String, u64)> {
    let lines = home.ask(node, &["ring", "--roots"]).expect(0, &[]).lines();
    let told = lines.iter().filter_map(|line| {
        let root = line.get("root")?.as_str()?.to_owned();
        assert_eq!(line["configurations"], json!([line["row"]]), "{line:#}");
        Some((line["partition"].as_u64()?, (root, line["count"].as_u64()?)))
    });
    told.collect()
}

/// All nodes hold the same, and everything.
#[track_caller]
fn assert_equal_roots(home: &Home, nodes: [&Node; 3]) {
    let [first, second, third] = nodes.map(|node| roots(home, node));
    assert_eq!((first.len(), &first), (64, &second));
    assert_eq!(first, third);
    let count: u64 = first.values().map(|(_, count)| count).sum();
    assert!(count >= KEY_COUNT as u64, "{count}");
}

fn filling(home: &Home, node: &Node) -> Option<u64> {
    home.ask(node, &["status"]).json()["partitions"]["filling"].as_u64()
}

/// Three nodes of which the first was away while the others took writes.
fn with_one_behind(home: &Home, words: &[&str]) -> [Node; 3] {
    let words = [&EXCHANGES_ALONE, words].concat();
    let [mut first, second, third]: [Node; 3] = home.cluster(&words);
    first.kill();
    put_all(home, &second, "v");
    let first = home.start("node-0", &[&LOOPBACK, &words[..]].concat());
    home.wait_up(&first, 3);
    [first, second, third]
}

#[test]
fn a_repair_that_is_waited_for_leaves_all_replicas_equal() {
    let home = Home::new();
    let [first, second, third] = with_one_behind(&home, &RARELY);
    let repaired = home.ask(&first, &["repair", "--trace"]).expect(0, &[]).json();
    assert_eq!(held(&home, &first, "v"), KEY_COUNT, "{repaired:#}");
    assert_equal_roots(&home, [&first, &second, &third]);

    for (field, expected) in [
        ("ok", json!(true)),
        ("over", json!(true)),
        ("scope", json!("everything")),
        ("peers", json!(2)),
        ("peers_done", json!(2)),
        ("partitions", json!(64)),
        ("partitions_done", json!(64)),
        ("failed", json!([])),
    ] {
        assert_eq!(repaired[field], expected, "{field}: {repaired:#}");
    }
    assert!(repaired["bytes"].as_u64() > Some(0) && repaired["seconds"].is_number(), "{repaired:#}");
    // What has come by itself before is not told again.
    let trace = repaired["trace"].as_array().unwrap();
    assert!(repaired["taken"] == 0 || !trace.is_empty(), "{repaired:#}");
    assert!(trace.iter().all(|visited| visited["branch"].as_str().is_some_and(|branch| branch.starts_with('/'))));

    let status = home.ask(&first, &["status"]).expect(0, &["healthy"]).json();
    let exchanges = status["exchanges"].as_array().unwrap();
    let agreed = |pair: &Json| pair["last"] == "in_step" && pair["agreed_seconds"].as_f64().is_some();
    assert!(exchanges.len() == 2 && exchanges.iter().all(agreed), "{status:#}");
    assert_eq!(status["repair"]["over"], true);
    home.run(&["status", "--node", &first.addresses[0]]).expect(0, &["agreed", " s ago", "repaired: "]);
    home.run(&["repair", "--wait", "--node", &second.addresses[0]])
        .expect(0, &["2 of 2 members", "0 keys changed here"]);

    let words = ["repair", "--key", "k7", "--wait"];
    let one = home.ask(&third, &words).expect(0, &[]).json();
    assert_eq!((&one["scope"], &one["partitions"]), (&json!({"key": "k7"}), &json!(1)));
    let begun = home.ask(&third, &["repair", "--partition", "3"]).expect(0, &[]).json();
    assert_eq!((&begun["ok"], &begun["scope"]), (&json!(true), &json!({"partition": 3})));
    let followed = || home.ask(&third, &["status"]).json()["repair"].clone();
    assert!(poll(|| followed()["over"] == true), "{:#}", followed());
    home.run(&["repair", "--node", &third.addresses[0]]).expect(0, &["has begun", "quorate status"]);
    let metrics = home.run(&["metrics", "--node", &first.addresses[0]]).expect(0, &[]);
    let metrics = String::from_utf8(metrics.stdout).unwrap();
    let peer = format!("peer=\"{}\"", second.peer_id);
    for word in
        ["quorate_filling_partitions", "quorate_seconds_since_agreement", &peer, "quorate_exchanges_in_step_total"]
    {
        assert!(metrics.contains(word), "it lacks {word}: {metrics}");
    }
}

#[test]
fn a_node_that_was_away_becomes_equal_without_any_order() {
    let home = Home::new();
    let [first, second, third] = with_one_behind(&home, &["--exchange-interval", "2"]);
    assert!(poll(|| held(&home, &first, "v") == KEY_COUNT), "it holds {}", held(&home, &first, "v"));
    assert!(poll(|| roots(&home, &first) == roots(&home, &third)));
    assert_equal_roots(&home, [&first, &second, &third]);
}

#[test]
fn a_flipped_byte_on_the_disk_is_found_and_mended() {
    let home = Home::new();
    let words = [&EXCHANGES_ALONE[..], &RARELY].concat();
    let [first, second, _third]: [Node; 3] = home.cluster(&words);
    put_all(&home, &second, "v");
    let value = "a value like no other: 7b1c64e0";
    home.ask(&second, &["put", "distinct", value, "--w", "all"]).expect(0, &[]);
    let (file, address) = (first.data_dir.join("store").join("data.mdb"), second.addresses[0].clone());
    assert_eq!(first.stop(), 0);
    assert!(flip(&file, value.as_bytes()) > 0, "the value is in the store");

    let first = home.start("node-0", &[&LOOPBACK, &words[..], &["--join", &address]].concat());
    home.wait_up(&first, 3);
    let verified = home.ask(&first, &["verify", "--wait"]).expect(0, &[]).json();
    assert_eq!((&verified["ok"], &verified["over"], &verified["damaged"]), (&json!(true), &json!(true), &json!(1)));
    assert_eq!(verified["buckets_done"], verified["buckets"]);
    let mut found = Json::Null;
    let is_back = poll(|| {
        found = home.ask(&first, &["get", "distinct", "--local"]).json();
        found["siblings"][0]["value"] == value
    });
    assert!(is_back, "{found:#}");
    let begun = home.ask(&first, &["verify"]).expect(0, &[]).json();
    assert_eq!(begun["ok"], true);
    home.run(&["status", "--node", &first.addresses[0]]).expect(0, &["verif"]);
}

/// Flips one bit of the middle byte of each copy of `value` in a file. Returns how many there were.
fn flip(file: &Path, value: &[u8]) -> usize {
    let file = File::options().read(true).write(true).open(file).unwrap();
    let bytes = written(&file);
    let starts = (0..bytes.len() - value.len()).filter(|&at| bytes[at..].starts_with(value));
    let flipped = starts.map(|start| start + value.len() / 2);
    flipped.map(|at| file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap()).count()
}

/// The part of a store's file that was ever written. It is filled from the front, and the rest is a hole of zeros.
fn written(file: &File) -> Vec<u8> {
    const CHUNK_BYTES: usize = 1 << 20;
    let mut bytes = Vec::new();
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let length = file.read_at(&mut chunk, bytes.len() as u64).unwrap();
        if chunk.iter().all(|byte| *byte == 0) {
            return bytes;
        }
        bytes.extend(&chunk[..length]);
    }
}

#[test]
fn a_node_whose_store_was_wiped_becomes_whole_without_any_order() {
    let home = Home::new();
    let words = [&EXCHANGES_ALONE[..], &RARELY].concat();
    let [first, second, third]: [Node; 3] = home.cluster(&words);
    put_all(&home, &second, "v");
    let (store, address) = (first.data_dir.join("store"), second.addresses[0].clone());
    let peer_id = first.peer_id.clone();
    assert_eq!(first.stop(), 0);
    fs::remove_dir_all(store).unwrap();

    let mut first = home.start("node-0", &[&LOOPBACK, &words[..], &["--join", &address]].concat());
    assert_eq!(first.peer_id, peer_id);
    assert!(poll(|| first.has_told("store_is_old") || filling(&home, &first) > Some(0)), "it knows what it has lost");
    let is_whole = || filling(&home, &first) == Some(0) && held(&home, &first, "v") == KEY_COUNT;
    assert!(poll(is_whole), "{:?} partitions are in doubt", filling(&home, &first));
    assert!(poll(|| roots(&home, &first) == roots(&home, &second)));
    assert_equal_roots(&home, [&first, &second, &third]);
}

#[test]
fn what_cannot_be_repaired_is_refused_with_the_reason_and_what_to_do() {
    let home = Home::new();
    let nodes: [Node; 4] = home.cluster(&["--partitions", "64"]);
    let [first, ..] = &nodes;
    home.ask(first, &["repair", "--partition", "64"]).expect(2, &["there is no partition 64", "has 64"]);
    home.ask(first, &["repair", "--partition", "x"]).expect(2, &["from 0 to 65535"]);
    home.ask(first, &["repair", "--partition", "1", "--key", "k"]).expect(2, &["cannot be used with"]);

    let ring = home.ask(first, &["ring"]).expect(0, &[]).lines();
    let is_held = |line: &Json| line["row"].as_array().unwrap().contains(&json!(first.peer_id));
    let elsewhere = ring.iter().find(|line| !is_held(line)).expect("a row has three of four nodes");
    let holder = nodes.iter().find(|node| elsewhere["row"][0] == node.peer_id.as_str()).unwrap();
    let (address, _) = holder.addresses[0].split_once("/p2p/").unwrap();
    let partition = elsewhere["partition"].to_string();
    let refused = home.ask(first, &["repair", "--partition", &partition, "--wait"]);
    let refused = refused.expect(1, &["does not hold partition", "--node", address]).json();
    assert_eq!((&refused["ok"], &refused["error"]), (&json!(false), &json!("missing")));

    // Whoever cannot read the node's admin.key may look, and no more.
    let nowhere = home.path("elsewhere");
    let stranger = |words: &[&str]| -> Outcome {
        let words = [words, &["-o", "json", "--node", &first.addresses[0]]].concat();
        home.run_with_variable(&words, ("XDG_RUNTIME_DIR", text(&nowhere)))
    };
    stranger(&["ring", "--roots"]).expect(0, &["root"]);
    for words in [["repair", "--wait"], ["verify", "--wait"]] {
        let refused = stranger(&words).expect(6, &["admin.key"]).json();
        assert_eq!((&refused["ok"], &refused["error"]), (&json!(false), &json!("not_permitted")));
    }
}

#[test]
fn a_repair_with_one_that_is_away_fails_with_its_name_and_the_rest_is_done() {
    let home = Home::new();
    let [first, _second, mut third]: [Node; 3] = home.cluster(&EXCHANGES_ALONE);
    third.kill();
    home.wait_up(&first, 2);
    let partly = home.ask(&first, &["repair", "--wait"]).expect(1, &["quorate status"]).json();
    assert_eq!((&partly["ok"], &partly["error"], &partly["over"]), (&json!(false), &json!("incomplete"), &json!(true)));
    assert_eq!((&partly["peers"], &partly["peers_done"]), (&json!(2), &json!(2)));
    assert_eq!(partly["failed"].as_array().unwrap().len(), 1, "{partly:#}");
    assert_eq!(partly["failed"][0]["peer_id"], third.peer_id.as_str());
    home.run(&["status", "--node", &first.addresses[0]]).expect(10, &["repaired in part"]);
}

#[test]
fn a_repair_that_another_takes_the_place_of_is_not_waited_for() {
    let home = Home::new();
    let [first, _second, mut third]: [Node; 3] = home.cluster(&EXCHANGES_ALONE);
    third.kill();
    let words = ["repair", "--wait", "-o", "json", "--node", &first.addresses[0]];
    thread::scope(|scope| {
        let waiting = scope.spawn(|| home.run(&words));
        // It tries the one that is away again for a while.
        assert!(poll(|| home.ask(&first, &["status"]).json()["repair"]["over"] == false));
        home.ask(&first, &["repair", "--key", "k"]).expect(0, &[]);
        let given_up = waiting.join().unwrap().expect(1, &["another repair", "quorate status"]).json();
        assert_eq!((&given_up["ok"], &given_up["error"]), (&json!(false), &json!("given_up")));
    });
}

#[test]
fn without_anti_entropy_a_repair_says_that_it_is_switched_off() {
    let home = Home::new();
    let node = home.start("node", &[&LOOPBACK[..], &["--partitions", "16", "--anti-entropy", "false"]].concat());
    home.ask(&node, &["repair", "--wait"]).expect(1, &["anti_entropy is switched off"]);
    assert_eq!(node.stop(), 0);
    let node = home.start("node", &LOOPBACK);
    home.run(&["repair", "--wait", "--node", &node.addresses[0]]).expect(0, &["nothing to compare"]);
    home.run(&["verify", "--wait", "--node", &node.addresses[0]]).expect(0, &["all are sound"]);
}
