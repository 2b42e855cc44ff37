//! Who serves what is told alike by every node, to people and to programs, before and after a restart.

use serde_json::{Value as Json, json};

use crate::harness::{Home, LOOPBACK, Node, poll};

/// One fallback for every key: two replicas of three members.
const SHAPE: [&str; 4] = ["--partitions", "64", "--replicas", "2"];

/// Three members that differ in all that a person may choose.
const MEMBERS: [[&str; 6]; 3] = [
    ["--name", "ann", "--zone", "north", "--weight", "1"],
    ["--name", "bob", "--zone", "south", "--weight", "2"],
    ["--name", "cleo", "--zone", "north", "--weight", "3"],
];

const KEYS: [&str; 4] = ["cart", "{ann}/cart", "an apple", "ümläut"];

/// What the member of this number is started with.
fn words(number: usize) -> Vec<&'static str> {
    [&LOOPBACK[..], &SHAPE, &MEMBERS[number]].concat()
}

/// Three members that know each other.
fn cluster(home: &Home) -> [Node; 3] {
    let first = home.start("node-0", &words(0));
    let seed = first.addresses[0].clone();
    let [second, third] =
        [1, 2].map(|number| home.start(&format!("node-{number}"), &[&words(number)[..], &["--join", &seed]].concat()));
    let mut nodes = [first, second, third];
    for node in &mut nodes {
        node.wait_members(3);
    }
    nodes.iter().for_each(|node| home.wait_up(node, 3));
    nodes
}

/// The output of a command about the ring, for people, less how far the asked node is with filling: that is its own.
fn shown(home: &Home, node: &Node, words: &[&str]) -> String {
    let shown = home.run(&[&["ring"], words, &["--node", &node.addresses[0]]].concat()).expect(0, &[]);
    let text = String::from_utf8(shown.stdout).unwrap();
    text.lines().filter(|line| !line.starts_with("filling: ")).fold(String::new(), |text, line| text + line + "\n")
}

/// All that `node` tells of who serves what: the whole ring for people, then for programs, then the rows of some keys.
fn told(home: &Home, node: &Node) -> Vec<String> {
    let rows = KEYS.map(|key| ["ring", "--key", key]);
    let for_programs = [["ring"].as_slice()].into_iter().chain(rows.iter().map(<[_; 3]>::as_slice));
    let for_programs = for_programs.map(|words| home.ask(node, words).expect(0, &[]).stdout);
    [shown(home, node, &[])].into_iter().chain(for_programs.map(|bytes| String::from_utf8(bytes).unwrap())).collect()
}

/// The rows of those keys, for people: with who is up, which is each node's own opinion.
fn rows_shown(home: &Home, node: &Node) -> Vec<String> {
    KEYS.iter().map(|key| shown(home, node, &["--key", key])).collect()
}

#[test]
fn every_node_tells_the_same_ring_and_rows_and_so_it_does_after_a_restart() {
    let home = Home::new();
    let mut nodes: [Node; 3] = cluster(&home);
    let (before, rows_before) = (told(&home, &nodes[0]), rows_shown(&home, &nodes[0]));
    eprintln!("{}\n{}", before[0], rows_before[0]);
    assert!(before[0].starts_with("64 partitions, 2 replicas, 3 members, 128 vnodes\n"), "{}", before[0]);
    for part in nodes.iter().map(|node| node.peer_id.as_str()).chain(MEMBERS.as_flattened().iter().copied()) {
        assert!(part.starts_with("--") || before[0].contains(part), "it lacks {part}: {}", before[0]);
    }
    let assert_same = |nodes: &[Node; 3]| {
        for node in nodes {
            assert_eq!(told(&home, node), before);
            // A member that was slow a moment ago may be suspect still.
            assert!(poll(|| rows_shown(&home, node) == rows_before), "{:#?}", rows_shown(&home, node));
        }
    };
    assert_same(&nodes);

    // The same on all when one has come back, though its address is another.
    nodes[1].kill();
    nodes[1] = home.start("node-1", &words(1));
    nodes.iter().for_each(|node| home.wait_up(node, 3));
    assert_same(&nodes);

    // And when all have come back, though none finds the others.
    nodes.iter_mut().for_each(Node::kill);
    for number in 0..3 {
        let node = home.start(&format!("node-{number}"), &words(number));
        assert_eq!(told(&home, &node), before);
    }
}

#[test]
fn the_row_of_a_key_is_that_of_its_partition_and_the_fallbacks_are_all_others() {
    let home = Home::new();
    let nodes: [Node; 3] = cluster(&home);
    let lines = home.ask(&nodes[0], &["ring"]).expect(0, &[]).lines();
    for key in KEYS {
        let row = home.ask(&nodes[1], &["ring", "--key", key]).expect(0, &[]).json();
        let fields: Vec<&str> = row.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields.len(), 5, "{row:#}");
        let partition = usize::try_from(row["partition"].as_u64().unwrap()).unwrap();
        assert_eq!((&row["key"], &row["row"]), (&key.into(), &lines[partition]["row"]));
        assert!(row["token"].as_str().unwrap() >= lines[partition]["token"].as_str().unwrap(), "{row:#}");
        let mut everybody: Vec<&Json> =
            ["row", "fallbacks"].iter().flat_map(|name| row[name].as_array().unwrap()).collect();
        everybody.sort_by_key(|peer_id| peer_id.as_str());
        let mut members: Vec<&str> = nodes.iter().map(|node| node.peer_id.as_str()).collect();
        members.sort_unstable();
        assert_eq!(everybody, members);
    }
    // Keys of one tag have one token; and a shell may ask for any key as well.
    let mut shell = home.shell(&nodes[2]);
    let by_tag = ["{ann}/cart", "{ann}/list"].map(|key| shell.ask(json!({"op": "ring", "key": key}))["token"].clone());
    assert_eq!(by_tag[0], by_tag[1]);
    home.ask(&nodes[0], &["ring", "--key", ""]).expect(2, &["the key is empty"]);
}

#[test]
fn people_see_who_of_a_row_is_away() {
    let home = Home::new();
    let mut nodes: [Node; 3] = cluster(&home);
    nodes[2].kill();
    let mut text = String::new();
    let is_so = poll(|| {
        text = shown(&home, &nodes[0], &["--key", "cart"]);
        let line = |node: &Node| text.lines().find(|line| line.contains(&node.peer_id)).unwrap();
        line(&nodes[2]).contains(" down ") && nodes[..2].iter().all(|node| line(node).contains(" up "))
    });
    assert!(is_so, "{text}");
}

#[test]
fn a_node_alone_has_the_whole_ring() {
    let home = Home::new();
    let node = home.start("node", &[&LOOPBACK[..], &["--partitions", "16"]].concat());
    let of_node = ["--node", &node.addresses[0]];
    let words = ["1 member, 16 vnodes", "100.0 %", "0-15", "A heads every partition"];
    home.run(&[&["ring"], &of_node[..]].concat()).expect(0, &words);
    home.run(&[&["ring", "--key", "k"], &of_node[..]].concat()).expect(0, &["no fallbacks", &node.peer_id, "up"]);
}
