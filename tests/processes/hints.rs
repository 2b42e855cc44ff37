//! What nodes keep for one that is away, told and ordered from the command line.

use serde_json::Value as Json;

use crate::harness::{Home, LOOPBACK, Node, poll, text};

/// All hints that these nodes keep.
fn kept(home: &Home, nodes: &[&Node]) -> u64 {
    let at = |node: &&Node| {
        let hints = home.ask(node, &["hints"]).expect(0, &[]).json();
        hints.as_array().unwrap().iter().map(|hint| hint["count"].as_u64().unwrap()).sum::<u64>()
    };
    nodes.iter().map(at).sum()
}

/// Puts keys until one of `nodes` keeps a hint; which one.
fn keeper<'a>(home: &Home, nodes: &[&'a Node], away: &Node) -> &'a Node {
    for number in 0..100 {
        let stored = home.ask(nodes[0], &["put", &format!("k{number}"), "v", "--w", "all"]).expect(0, &[]).json();
        if stored["hinted"] == serde_json::json!([away.peer_id]) {
            assert_eq!((&stored["acks"], &stored["primaries"]), (&3.into(), &2.into()), "{stored:#}");
            let keeps = |node: &&&Node| home.ask(node, &["hints"]).json()[0]["target"] == away.peer_id.as_str();
            return nodes.iter().find(keeps).expect("somebody keeps it");
        }
    }
    panic!("a row in four has everybody but one");
}

#[test]
fn a_hint_is_listed_paused_by_its_administrator_alone_and_handed_over_when_its_target_returns() {
    let home = Home::new();
    let [first, second, third, mut away]: [Node; 4] = home.cluster(&["--partitions", "64"]);
    away.kill();
    let up = [&first, &second, &third];
    let keeper = keeper(&home, &up, &away);
    let hint = home.ask(keeper, &["hints", "status"]).expect(0, &[]).json()[0].clone();
    for field in ["target", "count", "bytes", "oldest_seconds", "delivery", "seconds_left"] {
        assert!(hint.get(field).is_some(), "{field}: {hint:#}");
    }
    assert_eq!((&hint["delivery"], &hint["seconds_left"]), (&"waiting".into(), &Json::Null));
    home.run(&["hints", "--node", &keeper.addresses[0]]).expect(0, &[&away.peer_id, "waiting"]);
    let status = home.ask(keeper, &["status"]).expect(10, &[]).json();
    assert_eq!(status["hints"]["count"], hint["count"]);

    // Whoever cannot read the node's admin.key may look, and no more.
    let elsewhere = home.path("elsewhere");
    let stranger = |words: &[&str]| {
        let words = [words, &["-o", "json", "--node", &keeper.addresses[0]]].concat();
        home.run_with_variable(&words, ("XDG_RUNTIME_DIR", text(&elsewhere)))
    };
    stranger(&["hints"]).expect(0, &[]);
    let refused = stranger(&["hints", "pause"]).expect(6, &["admin.key"]).json();
    assert_eq!((&refused["ok"], &refused["error"]), (&false.into(), &"not_permitted".into()));

    for node in up {
        home.ask(node, &["hints", "pause"]).expect(0, &[]);
    }
    home.ask(keeper, &["hints", "deliver"]).expect(1, &["paused", "resume"]);
    let away = home.start("node-3", &LOOPBACK);
    up.iter().for_each(|node| home.wait_up(node, 4));
    assert_eq!(home.ask(keeper, &["hints"]).json()[0]["delivery"], "paused");
    for node in up {
        home.ask(node, &["hints", "resume"]).expect(0, &[]);
    }
    assert!(poll(|| kept(&home, &up) == 0), "{} hints are left", kept(&home, &up));
    let found = home.ask(&away, &["status"]).json();
    assert!(found["keys"].as_u64().unwrap() > 0, "it holds what was kept for it: {found:#}");
}

#[test]
fn hints_are_given_up_only_with_a_yes_and_their_partitions_are_marked() {
    let home = Home::new();
    let [first, second, third, mut away]: [Node; 4] = home.cluster(&["--partitions", "64"]);
    away.kill();
    let up = [&first, &second, &third];
    let keeper = keeper(&home, &up, &away);
    let drop = ["hints", "drop", "--target", &away.peer_id];
    home.ask(keeper, &["hints", "drop"]).expect(2, &["--target"]);
    home.ask(keeper, &drop).expect(2, &["--yes", &away.peer_id]);
    home.ask(keeper, &[&drop[..], &["--dry-run"]].concat()).expect(0, &["dry_run"]);
    assert_ne!(kept(&home, &[keeper]), 0, "nothing is given up so far");
    home.ask(keeper, &[&drop[..], &["--yes"]].concat()).expect(0, &["dropped"]);
    assert_eq!(kept(&home, &[keeper]), 0);
    let status = home.ask(keeper, &["status"]).expect(10, &[]).json();
    assert!(status["marked_partitions"].as_u64().unwrap() > 0, "{status:#}");
}

#[test]
fn the_admin_key_is_the_nodes_own_secret() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    let node = home.start("node", &LOOPBACK);
    let key = node.data_dir.join("admin.key");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let before = std::fs::read(&key).unwrap();
    assert_eq!(node.stop(), 0);
    let node = home.start("node", &LOOPBACK);
    assert_eq!(std::fs::read(&key).unwrap(), before, "it stays the same");
    home.ask(&node, &["hints", "pause"]).expect(0, &[]);
}
