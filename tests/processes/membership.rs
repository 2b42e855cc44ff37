//! Members come and go: what they held is held by others before they go, and no key is lost on the way.

use serde_json::{Value as Json, json};

use crate::{
    harness::{Home, LOOPBACK, Node, Outcome, PATIENCE, poll, text},
    keys::{KEY_COUNT, SWIFT, members, put_all, read},
};

const SHAPE: [&str; 2] = ["--partitions", "64"];

/// The row of each partition, by peer id, as `node` tells it.
fn rows(home: &Home, node: &Node) -> Vec<Vec<String>> {
    let lines = home.ask(node, &["ring"]).expect(0, &[]).lines();
    let texts = |row: &Json| row.as_array().unwrap().iter().map(|peer| peer.as_str().unwrap().to_owned()).collect();
    lines.iter().map(|line| texts(&line["row"])).collect()
}

/// The partitions in whose rows `peer` is.
fn vnodes(rows: &[Vec<String>], peer: &str) -> Vec<usize> {
    rows.iter().enumerate().filter(|(_, row)| row.iter().any(|member| member == peer)).map(|(at, _)| at).collect()
}

/// Waits until each row has so many members, and nothing moves any more.
#[track_caller]
fn assert_settled(home: &Home, nodes: &[&Node], length: usize) {
    for node in nodes {
        assert!(poll(|| rows(home, node).iter().all(|row| row.len() == length)), "{}", node.name);
        home.wait_settled(node);
    }
}

/// Nodes that hold all of those keys, and what they are to hold.
fn cluster_with_keys<const N: usize>(home: &Home) -> [Node; N] {
    let nodes: [Node; N] = home.cluster(&SWIFT);
    put_all(home, &nodes[0], "k");
    nodes
}

/// Has it leave, and waits until it has.
#[track_caller]
fn leave(home: &Home, leaver: &Node) {
    let words = ["leave", "--yes", "--wait", "-o", "json", "--node", &leaver.addresses[0]];
    let left = home.run_within(3 * PATIENCE, &words).expect(0, &[]).json();
    assert_eq!((&left["ok"], &left["left"]), (&json!(true), &json!(true)), "{left:#}");
}

#[test]
fn a_member_leaves_with_nothing_lost_and_may_come_back() {
    let home = Home::new();
    let [first, second, leaver]: [Node; 3] = cluster_with_keys(&home);
    let before = rows(&home, &first);

    let plan = home.ask(&leaver, &["leave", "--dry-run"]).expect(0, &["dry_run"]).json();
    assert_eq!((&plan["order"], &plan["node"]), (&json!("leave"), &json!(leaver.peer_id)));
    assert_eq!((&plan["plan"]["vnodes"], &plan["plan"]["untaken"]), (&json!(0), &json!(64)), "{plan:#}");
    home.run(&["leave", "--dry-run", "--node", &leaver.addresses[0]]).expect(0, &["nobody takes over", "WARNING"]);
    home.ask(&leaver, &["leave"]).expect(2, &["--yes", "nothing was done"]);
    assert_eq!((rows(&home, &first), members(&home, &first).values().any(|word| word == "leaving")), (before, false));

    leave(&home, &leaver);
    let (data_dir, peer_id) = (leaver.data_dir.clone(), leaver.peer_id.clone());
    let (code, told) = leaver.wait_end();
    assert_eq!(code, 0, "{told:#?}");
    assert!(told.contains(&json!({"event": "stopped", "reason": "left"})), "{told:#?}");
    assert_settled(&home, &[&first, &second], 2);
    assert!(rows(&home, &first).iter().all(|row| row.len() == 2 && !row.contains(&peer_id)));
    assert_eq!((read(&home, &first, "k"), read(&home, &second, "k")), (KEY_COUNT, KEY_COUNT));

    // It joins anew with what is on its disk.
    let again = home.start("node-2", &[&LOOPBACK[..], &SWIFT, &["--join", &first.addresses[0]]].concat());
    assert_eq!((&again.data_dir, &again.peer_id), (&data_dir, &peer_id));
    assert_settled(&home, &[&first, &second, &again], 3);
    assert_eq!(read(&home, &again, "k"), KEY_COUNT);
}

#[test]
fn of_four_one_leaves_and_its_vnodes_go_where_the_plan_said() {
    let home = Home::new();
    let [first, second, third, leaver]: [Node; 4] = cluster_with_keys(&home);
    let before = rows(&home, &first);
    let plan = home.ask(&leaver, &["leave", "--dry-run"]).expect(0, &[]).json()["plan"].clone();
    let given_up = vnodes(&before, &leaver.peer_id);
    assert_eq!((&plan["vnodes"], &plan["moves_between_others"]), (&json!(given_up.len()), &json!(0)), "{plan:#}");
    assert_eq!((&plan["keys_exact"], plan["bytes"].is_u64()), (&json!(true), true), "{plan:#}");
    leave(&home, &leaver);
    let peer_id = leaver.peer_id.clone();
    assert_eq!(leaver.wait_end().0, 0);
    assert_settled(&home, &[&first, &second, &third], 3);
    let after = rows(&home, &first);
    for planned in plan["moves"].as_array().unwrap() {
        assert_eq!(planned["from"], peer_id.as_str());
        let to = planned["to"].as_str().unwrap();
        let held_before = vnodes(&before, to);
        let gained: Vec<usize> = vnodes(&after, to).into_iter().filter(|at| !held_before.contains(at)).collect();
        assert_eq!((&planned["vnodes"], &planned["partitions"]), (&json!(gained.len()), &json!(gained)));
    }
    assert_eq!(read(&home, &second, "k"), KEY_COUNT);
}

#[test]
fn the_last_member_does_not_leave() {
    let home = Home::new();
    let node = home.start("node", &[&LOOPBACK[..], &SHAPE].concat());
    home.run(&["leave", "--dry-run", "--node", &node.addresses[0]]).expect(0, &["no other member stays"]);
    let refused = home.ask(&node, &["leave", "--yes"]).expect(6, &["last member", "stop it instead"]).json();
    assert_eq!((&refused["ok"], &refused["error"]), (&json!(false), &json!("refused")));
    // Whoever cannot read the node's admin.key may look, and no more.
    let nowhere = home.path("elsewhere");
    let stranger = |words: &[&str]| -> Outcome {
        let words = [words, &["-o", "json", "--node", &node.addresses[0]]].concat();
        home.run_with_variable(&words, ("XDG_RUNTIME_DIR", text(&nowhere)))
    };
    stranger(&["leave", "--dry-run"]).expect(0, &["dry_run"]);
    stranger(&["leave", "--yes"]).expect(6, &["not_permitted", "admin.key"]);
}

#[test]
fn a_leaver_that_is_told_to_stay_stays() {
    let home = Home::new();
    let [first, _second, leaver, mut away]: [Node; 4] = cluster_with_keys(&home);
    // As long as it is away it cannot take over what the leaver has.
    away.kill();
    home.wait_up(&first, 3);
    let leaving = home.ask(&leaver, &["leave", "--yes"]).expect(0, &[]).json();
    assert_eq!(leaving["leaving"], true, "{leaving:#}");
    assert!(poll(|| members(&home, &first)[&leaver.peer_id] == "leaving"), "{:?}", members(&home, &first));
    home.run(&["status", "--node", &leaver.addresses[0]]).expect(10, &["leaving"]);
    home.ask(&leaver, &["leave", "--cancel"]).expect(0, &["stay"]);
    assert!(poll(|| members(&home, &first)[&leaver.peer_id] == "member"), "{:?}", members(&home, &first));
    let _back = home.start("node-3", &LOOPBACK);
    assert_settled(&home, &[&first, &leaver], 3);
    assert_eq!(read(&home, &leaver, "k"), KEY_COUNT);
}

#[test]
fn the_dead_are_removed_the_living_are_not_and_a_removed_one_learns_why_it_stops() {
    let home = Home::new();
    let [first, mut second, mut dead]: [Node; 3] = cluster_with_keys(&home);
    home.ask(&first, &["remove", "nobody", "--yes"]).expect(1, &["quorate members"]);
    dead.kill();
    home.wait_up(&first, 2);
    let alive = home.ask(&first, &["remove", &second.peer_id, "--yes"]).expect(6, &["alive"]).json();
    assert_eq!((&alive["ok"], &alive["error"]), (&json!(false), &json!("refused")));
    home.ask(&first, &["remove", &first.peer_id, "--yes"]).expect(6, &["does not remove itself"]);

    let plan = home.ask(&first, &["remove", &dead.peer_id[..24], "--dry-run"]).expect(0, &[]).json()["plan"].clone();
    assert_eq!((&plan["missing"], &plan["below_quorum"]), (&json!([{"copies": 1, "partitions": 64}]), &json!(0)));
    assert_eq!(members(&home, &first).len(), 3, "a plan changes nothing");
    home.ask(&first, &["remove", &dead.peer_id]).expect(2, &["--yes", "nothing was done"]);
    let removed = home.ask(&first, &["remove", &dead.peer_id, "--yes"]).expect(0, &[]).json();
    assert_eq!((&removed["order"], &removed["removed"]), (&json!("remove"), &json!(true)));
    assert_settled(&home, &[&first, &second], 2);
    assert_eq!((read(&home, &first, "k"), read(&home, &second, "k")), (KEY_COUNT, KEY_COUNT));
    home.ask(&first, &["remove", &dead.peer_id, "--yes"]).expect(6, &["removed already"]);
    let (_, gone) = second.wait_event("member_gone");
    assert_eq!(gone["peer_id"], dead.peer_id.as_str());

    let again = home.spawn(&dead.place.clone(), "node-2", &[&LOOPBACK[..], &["--join", &first.addresses[0]]].concat());
    let (code, told) = again.wait_end();
    assert_eq!(code, 1, "{told:#?}");
    assert!(told.iter().any(|line| line.to_string().contains("removed from the cluster for ever")), "{told:#?}");
    assert!(!members(&home, &first).contains_key(&dead.peer_id));
}

#[test]
fn a_replacement_holds_exactly_what_the_dead_one_had() {
    let home = Home::new();
    let [first, second, third, mut dead]: [Node; 4] = cluster_with_keys(&home);
    dead.kill();
    home.wait_up(&first, 3);
    let before = rows(&home, &first);
    let data_dir = home.path("heir");
    let made = home.run(&["id", "--create", "--data-dir", text(&data_dir), "-o", "json"]).expect(0, &[]).json();
    let heir_id = made["peer_id"].as_str().unwrap().to_owned();

    let words = ["replace", &dead.peer_id, &heir_id];
    let plan = home.ask(&first, &[&words[..], &["--dry-run"]].concat()).expect(0, &["has not joined"]).json();
    let held = vnodes(&before, &dead.peer_id);
    let expected = json!([{"from": dead.peer_id, "to": heir_id, "vnodes": held.len(), "partitions": held}]);
    assert_eq!((&plan["new"], &plan["plan"]["moves"]), (&json!(heir_id), &expected), "{plan:#}");
    home.ask(&first, &[&words[..], &["--yes"]].concat()).expect(0, &["replaced"]);

    let heir = home.start("heir", &[&LOOPBACK[..], &SWIFT, &["--join", &first.addresses[0]]].concat());
    assert_eq!(heir.peer_id, heir_id);
    assert_settled(&home, &[&first, &second, &third, &heir], 3);
    let after = rows(&home, &heir);
    assert_eq!(vnodes(&after, &heir_id), held);
    let renamed = |row: &Vec<String>| -> Vec<String> {
        row.iter().map(|peer| if *peer == dead.peer_id { heir_id.clone() } else { peer.clone() }).collect()
    };
    assert_eq!(after, before.iter().map(renamed).collect::<Vec<_>>(), "nothing else moves");
    assert_eq!(read(&home, &heir, "k"), KEY_COUNT);
}

#[test]
fn a_quorum_of_its_own_zone_is_reached_without_the_other_and_one_of_each_is_not() {
    let home = Home::new();
    let words = |zone| [&LOOPBACK[..], &SWIFT, &["--zone", zone]].concat();
    let first = home.start("node-0", &words("north"));
    let joins = |name: &str, zone| home.start(name, &[&words(zone)[..], &["--join", &first.addresses[0]]].concat());
    let second = joins("node-1", "north");
    let mut far = [joins("node-2", "south"), joins("node-3", "south")];
    for node in [&first, &second].into_iter().chain(&far) {
        home.wait_up(node, 4);
        home.wait_settled(node);
    }
    // A key of which two replicas are in the other zone: a quorum of all is lost with that.
    let is_near = |peer: &Json| [&first, &second].into_iter().any(|node| *peer == node.peer_id.as_str());
    let near_count = |key: &str| {
        let row = home.ask(&first, &["ring", "--key", key]).expect(0, &[]).json()["row"].clone();
        row.as_array().unwrap().iter().filter(|peer| is_near(peer)).count()
    };
    let keys: Vec<String> = (0..50).map(|number| format!("k{number}")).collect();
    let key = keys.iter().find(|key| near_count(key) == 1).expect("rows of three differ in where their two are");
    home.ask(&first, &["put", key, "of both", "--w", "each-quorum"]).expect(0, &[]);
    far.iter_mut().for_each(Node::kill);
    [&first, &second].into_iter().for_each(|node| home.wait_up(node, 2));
    home.ask(&first, &["put", key, "of one", "--w", "local-quorum", "--strict"]).expect(0, &[]);
    let found = home.ask(&second, &["get", key, "--r", "local-quorum", "--strict"]).expect(0, &[]).json();
    assert_eq!(found["siblings"][0]["value"], "of one", "{found:#}");
    let write = ["put", key, "v", "--create", "--w"];
    let (each, all) = ([&write[..], &["each-quorum"]].concat(), [&write[..], &["quorum", "--strict"]].concat());
    for words in [&each[..], &all, &["get", key, "--r", "each-quorum"]] {
        let failed = home.ask(&first, words).expect(5, &[]).json();
        assert_eq!((&failed["ok"], &failed["error"]), (&json!(false), &json!("quorum_not_met")), "{failed:#}");
    }
}
