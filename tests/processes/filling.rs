//! A newcomer takes what is its own from those who have it: no faster than it may, and to the end, whoever dies meanwhile.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value as Json, json};

use crate::harness::{Home, LOOPBACK, Node, poll};

/// Bytes that a newcomer takes in a second, so that it takes some seconds, in several steps.
const BYTES_PER_SECOND: u64 = 40_000;

const WORDS: [&str; 6] = ["--partitions", "256", "--reconcile-interval", "0.2", "--exchange-bytes-per-second", "40000"];

const KEY_COUNT: usize = 120;

/// Three nodes with keys.
fn cluster(home: &Home) -> [Node; 3] {
    let nodes: [Node; 3] = home.cluster(&WORDS);
    let line = |number| format!("{}\n", json!({ "key": format!("k{number}"), "value": "v".repeat(4_096) }));
    let lines: String = (0..KEY_COUNT).map(line).collect();
    home.run_with_input(&["import", "-", "--w", "all", "--node", &nodes[0].addresses[0]], lines.as_bytes())
        .expect(0, &[]);
    nodes
}

fn join(home: &Home, seed: &Node) -> Node {
    home.start("joiner", &[&LOOPBACK[..], &WORDS, &["--join", &seed.addresses[0]]].concat())
}

/// What a node has counted since its start.
fn counter(home: &Home, node: &Node, name: &str) -> u64 {
    let told = home.ask(node, &["metrics"]).expect(0, &[]).json();
    told["metrics"][format!("quorate_{name}_total")].as_u64().unwrap()
}

/// Waits until the joiner has some of what it is to hold. Returns how many keys, which are not all.
#[track_caller]
fn wait_begun(home: &Home, joiner: &Node) -> u64 {
    let mut taken = 0;
    let has_begun = poll(|| {
        taken = counter(home, joiner, "items_taken");
        taken > 0
    });
    let told = home.ask(joiner, &["status"]).json();
    assert!(has_begun && told["filling"].is_object(), "{taken} keys taken; {told:#}");
    taken
}

fn left_to_fill(home: &Home, node: &Node) -> Json {
    home.ask(node, &["status"]).json()["partitions"]["filling"].clone()
}

/// Waits until all that hold a partition hold the same of it, each key three times. Returns how many keys the first has.
#[track_caller]
fn wait_equal(home: &Home, nodes: &[&Node]) -> u64 {
    nodes.iter().for_each(|node| home.wait_settled(node));
    let mut counts: Vec<u64> = Vec::new();
    let mut roots: BTreeMap<u64, Vec<Json>> = BTreeMap::new();
    let is_so = poll(|| {
        counts.clear();
        roots.clear();
        for node in nodes {
            let lines = home.ask(node, &["ring", "--roots"]).expect(0, &[]).lines();
            counts.push(lines.iter().filter_map(|line| line["count"].as_u64()).sum());
            for line in lines.into_iter().filter(|line| line["root"].is_string()) {
                roots.entry(line["partition"].as_u64().unwrap()).or_default().push(line["root"].clone());
            }
        }
        let are_equal = |roots: &Vec<Json>| roots.len() == 3 && roots.iter().all(|root| *root == roots[0]);
        roots.values().all(are_equal) && counts.iter().sum::<u64>() == 3 * KEY_COUNT as u64
    });
    assert!(is_so, "{counts:?} keys: {roots:#?}");
    counts[0]
}

#[test]
fn a_joiner_tells_how_far_it_is_with_filling_and_takes_its_time() {
    let home = Home::new();
    let [first, second, third] = cluster(&home);
    let joiner = join(&home, &first);
    let mut told = Json::Null;
    let is_told = poll(|| {
        told = home.ask(&joiner, &["status"]).json();
        let filling = &told["filling"];
        filling["percent"].as_u64() > Some(0)
            && ["seconds_left", "bytes_left", "keys_left"].iter().all(|it| filling[it].is_u64())
    });
    assert!(is_told, "{told:#}");
    eprintln!("filling: {}", told["filling"]);
    assert_eq!(told["filling"]["partitions_left"], told["partitions"]["filling"], "{told:#}");
    home.run(&["ring", "--node", &joiner.addresses[0]]).expect(0, &["\nfilling: ", "% done", "left, "]);
    assert!(poll(|| left_to_fill(&home, &joiner) == 0));
    let took = joiner.started.elapsed();
    assert_eq!(home.ask(&joiner, &["status"]).json()["filling"], Json::Null);

    let held = wait_equal(&home, &[&joiner, &first, &second, &third]);
    let bytes = counter(&home, &joiner, "filling_object_bytes");
    eprintln!("filling: {bytes} bytes of {held} keys in {took:.1?}");
    assert!(held * 4_096 <= bytes && bytes <= held * 4_300, "{bytes} bytes for {held} keys");
    assert!(took >= Duration::from_secs(bytes / BYTES_PER_SECOND), "{bytes} bytes in {took:?}");
}

#[test]
fn a_joiner_that_dies_while_it_fills_goes_on_where_it_was() {
    let home = Home::new();
    let [first, second, third] = cluster(&home);
    let mut joiner = join(&home, &first);
    let before = wait_begun(&home, &joiner);
    joiner.kill();
    let joiner = join(&home, &first);
    let held = wait_equal(&home, &[&joiner, &first, &second, &third]);
    let after = counter(&home, &joiner, "items_taken");
    eprintln!("filling: {before} keys before it died, {after} afterwards");
    assert!(before < held && before + after >= held, "{before} and {after} of {held}");
    let bytes = counter(&home, &joiner, "filling_object_bytes");
    assert!(bytes <= (held - before) * 4_300, "{bytes} bytes for {} keys", held - before);
}

#[test]
fn a_joiner_whose_source_dies_takes_the_rest_from_others() {
    let home = Home::new();
    let nodes = cluster(&home);
    let joiner = join(&home, &nodes[0]);
    wait_begun(&home, &joiner);
    // It takes from one at a time; by now that may be the second.
    let given = nodes.each_ref().map(|node| counter(&home, node, "items_given"));
    let most = (0..nodes.len()).max_by_key(|index| given[*index]).unwrap();
    let mut others = Vec::from(nodes);
    let mut source = others.remove(most);
    source.kill();
    assert!(given[most] > 0 && left_to_fill(&home, &joiner) != 0, "{given:?}");
    assert!(poll(|| left_to_fill(&home, &joiner) == 0), "{}", left_to_fill(&home, &joiner));

    // The source has a say in when the old rows are over.
    let back = home.start(&source.name.clone(), &[&LOOPBACK[..], &WORDS].concat());
    let held = wait_equal(&home, &[&joiner, &back, &others[0], &others[1]]);
    assert_eq!(counter(&home, &joiner, "items_taken"), held, "each key once");
}
