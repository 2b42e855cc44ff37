//! The JSON that scripts rely on, from the commands themselves.

use serde_json::{Value as Json, json};

use crate::harness::{Home, LOOPBACK, Node, poll, text};

#[track_caller]
fn assert_fields(json: &Json, fields: &[&str]) {
    for field in fields {
        assert!(json.get(field).is_some(), "it lacks {field}: {json:#}");
    }
}

fn start(home: &Home, words: &[&str]) -> Node {
    home.start("node", &[&LOOPBACK[..], &["--partitions", "16"], words].concat())
}

#[test]
fn every_command_answers_the_fields_that_scripts_rely_on() {
    let home = Home::new();
    let mut node = start(&home, &["--name", "one", "--zone", "here"]);
    let (_, ready) = node.wait_event("ready");
    assert_fields(&ready, &["event", "peer_id", "name", "cluster", "data_dir", "addresses"]);
    assert!(ready["addresses"][0].as_str().unwrap().ends_with(&format!("/p2p/{}", node.peer_id)));

    let stored = home.ask(&node, &["put", "k", "v"]).expect(0, &[]).json();
    assert_fields(&stored, &["ok", "context", "acks", "primaries", "hinted", "degraded"]);
    let found = home.ask(&node, &["get", "k"]).expect(0, &[]).json();
    assert_fields(&found, &["ok", "found", "siblings", "context", "degraded"]);
    assert_fields(&found["siblings"][0], &["value", "written_at"]);
    let local = home.ask(&node, &["get", "k", "--local"]).expect(0, &[]).json();
    assert_fields(&local, &["ok", "found", "siblings", "context", "replica", "filled", "clock"]);
    let missing = home.ask(&node, &["get", "nothing"]).expect(4, &[]).json();
    assert_eq!((&missing["ok"], &missing["found"]), (&true.into(), &false.into()));

    let status = home.ask(&node, &["status"]).expect(10, &[]).json();
    assert_fields(&status, &["state", "node", "members", "history", "partitions", "keys", "hints", "exchanges"]);
    assert_fields(&status["members"][0], &["peer_id", "name", "state", "membership", "zone", "weight"]);
    assert_fields(&status["partitions"], &["total", "held", "owned", "filling"]);
    assert_eq!((&status["node"]["name"], &status["keys"]), (&"one".into(), &1.into()));

    let inspected = home.ask(&node, &["inspect", "k"]).expect(0, &[]).json();
    assert_fields(&inspected, &["partition", "row", "hints"]);
    let fields = ["peer_id", "primary", "reachable", "filled", "hash", "clock", "siblings"];
    assert_fields(&inspected["row"][0], &fields);
    let ring = home.ask(&node, &["ring"]).expect(0, &[]).lines();
    assert_eq!(ring.len(), 16);
    assert_fields(&ring[0], &["partition", "token", "row"]);
    let ring = home.ask(&node, &["ring", "--roots"]).expect(0, &[]).lines();
    assert_fields(&ring[15], &["partition", "token", "row", "root", "count", "filled", "configurations"]);
    let repaired = home.ask(&node, &["repair", "--wait"]).expect(0, &[]).json();
    assert_fields(&repaired, &["ok", "over", "scope", "peers", "peers_done", "partitions", "partitions_done"]);
    assert_fields(&repaired, &["taken", "given", "bytes", "seconds", "failed", "trace"]);
    let verified = home.ask(&node, &["verify", "--wait"]).expect(0, &[]).json();
    assert_fields(&verified, &["ok", "over", "records", "damaged", "misnamed", "wrong_sums", "failed"]);
    assert_fields(&verified, &["buckets", "buckets_done"]);
    let history = home.ask(&node, &["history", "--verify"]).expect(0, &[]).lines();
    assert_eq!(history.iter().map(|change| &change["kind"]).collect::<Vec<_>>(), ["founded", "joined"]);
    let members = home.ask(&node, &["members"]).expect(0, &[]).json();
    assert_eq!((&members[0]["state"], &members[0]["zone"]), (&"up".into(), &"here".into()));

    let deleted = home.ask(&node, &["delete", "k"]).expect(0, &[]).json();
    assert_fields(&deleted, &["ok", "context", "acks", "primaries", "hinted", "degraded"]);
}

#[test]
fn a_command_finds_the_node_by_its_data_directory_and_the_one_that_runs_here_without_a_word() {
    let home = Home::new();
    let node = start(&home, &["--cluster", "blue"]);
    let by_dir = ["--data-dir", text(&node.data_dir)];
    home.run(&[&["put", "k", "v"], &by_dir[..]].concat()).expect(0, &[]);
    assert_eq!(home.run(&["get", "k", "--no-mdns"]).expect(0, &[]).stdout, b"v");
    assert_eq!(home.run(&["get", "k", "--cluster", "blue", "--no-mdns"]).expect(0, &[]).stdout, b"v");
    let id = home.run(&[&["id", "-o", "json"], &by_dir[..]].concat()).expect(0, &[]).json();
    assert_eq!(id["peer_id"], node.peer_id.as_str());

    // Once it has stopped nobody looks for it there.
    let dir = node.data_dir.clone();
    assert_eq!(node.stop(), 0);
    home.run(&["get", "k", "--data-dir", text(&dir)]).expect(7, &["no node runs on"]);
    home.run(&["get", "k", "--no-mdns"]).expect(7, &["no node runs here"]);
}

#[test]
fn the_keys_of_one_tag_are_listed_in_order() {
    let home = Home::new();
    let nodes: [Node; 3] = home.cluster(&["--partitions", "64"]);
    let mut shell = home.shell(&nodes[0]);
    for key in ["{ann}/b", "{ann}/a", "{ann}/c", "{bob}/a", "other"] {
        assert_eq!(shell.ask(json!({"op": "put", "key": key, "value": "v"}))["ok"], true);
    }
    let keys = |words: &[&str]| -> Vec<String> {
        let listed = home.ask(&nodes[1], words).expect(0, &[]).lines();
        listed.iter().map(|line| line["key"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(keys(&["scan", "{ann}"]), ["{ann}/a", "{ann}/b", "{ann}/c"]);
    assert_eq!(keys(&["scan", "{ann}", "--limit", "2"]), ["{ann}/a", "{ann}/b"]);
    assert_eq!(keys(&["scan", ""]), ["other", "{ann}/a", "{ann}/b", "{ann}/c", "{bob}/a"]);
    assert!(keys(&["scan", "{nobody}"]).is_empty());
}

#[test]
fn a_shell_answers_each_line_with_one_and_gives_the_id_back() {
    let home = Home::new();
    let node = start(&home, &[]);
    let input = concat!(
        "put 'a key' 'a value'\n",
        r#"{"op":"get","key":"a key","id":7}"#,
        "\n\n",
        r#"{"op":"fetch","id":"x"}"#,
        "\nget nothing\nscan\nbogus\n",
    );
    let said = home.run_with_input(&["shell", "--node", &node.addresses[0]], input.as_bytes()).expect(0, &[]);
    let answers = said.lines();
    assert_eq!(answers.len(), 6, "{said}");
    assert_eq!(answers[0]["ok"], true);
    let by_id = |id: Json| answers.iter().find(|answer| answer["id"] == id).unwrap();
    assert_eq!(by_id(7.into())["siblings"][0]["value"], "a value");
    assert_eq!((&by_id("x".into())["ok"], &by_id("x".into())["error"]), (&false.into(), &"usage".into()));
    assert_eq!((&answers[3]["found"], &answers[4]["lines"][0]["key"]), (&false.into(), &"a key".into()));
    assert_eq!(answers[5]["ok"], false);
}

#[test]
fn a_value_with_a_time_to_live_is_gone_when_it_is_over() {
    let home = Home::new();
    let node = start(&home, &[]);
    home.ask(&node, &["put", "k", "v", "--ttl", "1s"]).expect(0, &[]);
    let mut shell = home.shell(&node);
    assert!(poll(|| shell.ask(json!({"op": "get", "key": "k"}))["found"] == false));
    home.ask(&node, &["get", "k"]).expect(4, &[]);
    home.ask(&node, &["put", "k", "v", "--ttl", "soon"]).expect(2, &["soon", "1h"]);
}

#[test]
fn settings_are_shown_with_where_each_came_from() {
    let home = Home::new();
    std::fs::write(home.path("quorate.toml"), "replicas = 5\nzone = \"a\"\n").unwrap();
    let words = ["config", "show", "--origin", "-o", "json", "--config", "quorate.toml", "--zone", "b"];
    let shown = home.run_with_variable(&words, ("QUORATE_WEIGHT", "2")).expect(0, &[]).json();
    let check = |key: &str, value: Json, origin: &str| {
        assert_eq!(shown[key], json!({"value": value, "origin": origin}));
    };
    check("replicas", 5.into(), "file quorate.toml");
    check("weight", 2.into(), "environment QUORATE_WEIGHT");
    check("zone", "b".into(), "flag --zone");
    check("cluster", "quorate".into(), "default");
}
