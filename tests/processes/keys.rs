//! A few keys in, and out again.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::harness::{Home, Node};

/// Few partitions, and histories that are compared often: so that a change is known soon.
pub(crate) const SWIFT: [&str; 4] = ["--partitions", "64", "--reconcile-interval", "0.2"];

/// How many keys are put under one name.
pub(crate) const KEY_COUNT: usize = 30;

/// Puts the keys `name-0`, `name-1`, …, at a quorum.
#[track_caller]
pub(crate) fn put_all(home: &Home, node: &Node, name: &str) {
    put(home, node, name, "quorum");
}

/// The same, at so many replicas.
#[track_caller]
pub(crate) fn put(home: &Home, node: &Node, name: &str, w: &str) {
    let mut shell = home.shell(node);
    for number in 0..KEY_COUNT {
        let (key, value) = (format!("{name}-{number}"), format!("v{number}"));
        let stored = shell.ask(json!({"op": "put", "key": key, "value": value, "w": w}));
        assert_eq!(stored["ok"], true, "{stored:#}");
    }
}

/// How many of those keys are read at a quorum through `node`.
pub(crate) fn read(home: &Home, node: &Node, name: &str) -> usize {
    read_from(home, node, name, ("r", "quorum".into()))
}

/// How many of them are on its own disk.
pub(crate) fn read_local(home: &Home, node: &Node, name: &str) -> usize {
    read_from(home, node, name, ("local", true.into()))
}

fn read_from(home: &Home, node: &Node, name: &str, (how, value): (&str, Json)) -> usize {
    let mut shell = home.shell(node);
    let found = |number: &usize| {
        let found = shell.ask(json!({"op": "get", "key": format!("{name}-{number}"), how: value}));
        found["siblings"].as_array().is_some_and(|all| all.len() == 1 && all[0]["value"] == format!("v{number}"))
    };
    (0..KEY_COUNT).filter(found).count()
}

/// The members as `node` tells them: what becomes of each, by peer id.
pub(crate) fn members(home: &Home, node: &Node) -> BTreeMap<String, String> {
    let told = home.ask(node, &["members"]).expect(0, &[]).json();
    let text = |member: &Json, field: &str| member[field].as_str().unwrap().to_owned();
    told.as_array().unwrap().iter().map(|member| (text(member, "peer_id"), text(member, "membership"))).collect()
}
