//! Values written concurrently stand side by side until somebody who has seen them replaces them.

use std::{collections::BTreeSet, thread};

use serde_json::{Value as Json, json};

use crate::harness::{Home, Node};

fn values(found: &Json) -> BTreeSet<String> {
    let siblings = found["siblings"].as_array().unwrap_or_else(|| panic!("{found:#}"));
    siblings.iter().map(|sibling| sibling["value"].as_str().unwrap().to_owned()).collect()
}

fn set<const N: usize>(words: [&str; N]) -> BTreeSet<String> {
    words.map(str::to_owned).into()
}

#[test]
fn two_clients_that_have_not_seen_each_other_make_siblings_and_a_put_with_the_context_leaves_one() {
    let home = Home::new();
    let nodes: [Node; 3] = home.cluster(&["--partitions", "64"]);
    home.ask(&nodes[0], &["put", "cart", "apples", "--create"]).expect(0, &[]);
    home.ask(&nodes[1], &["put", "cart", "pears", "--create"]).expect(0, &[]);

    let found = home.ask(&nodes[2], &["get", "cart"]).expect(3, &[]).json();
    assert_eq!(values(&found), set(["apples", "pears"]));
    let shown = home.run(&["get", "cart", "--node", &nodes[2].addresses[0]]);
    shown.expect(3, &["cart has 2 siblings", "\napples\n", "\npears\n", "quorate put cart"]);

    let context = found["context"].as_str().unwrap();
    home.ask(&nodes[0], &["put", "cart", "both", "--context", context]).expect(0, &[]);
    for node in &nodes {
        assert_eq!(values(&home.ask(node, &["get", "cart"]).expect(0, &[]).json()), set(["both"]));
    }
    // The same context once more has not seen what it made.
    home.ask(&nodes[1], &["put", "cart", "late", "--context", context]).expect(0, &[]);
    assert_eq!(values(&home.ask(&nodes[2], &["get", "cart"]).expect(3, &[]).json()), set(["both", "late"]));

    // What a person types replaces what is there; and what is deleted is gone.
    home.ask(&nodes[0], &["put", "cart", "plums"]).expect(0, &[]);
    assert_eq!(values(&home.ask(&nodes[1], &["get", "cart"]).expect(0, &[]).json()), set(["plums"]));
    home.ask(&nodes[1], &["delete", "cart"]).expect(0, &[]);
    home.ask(&nodes[2], &["get", "cart"]).expect(4, &[]);
}

#[test]
fn writers_with_stale_contexts_never_make_more_siblings_than_there_are_writers() {
    const ROUNDS: usize = 20;
    let home = Home::new();
    let nodes: [Node; 3] = home.cluster(&["--partitions", "64"]);
    let mut writers: Vec<_> = nodes.iter().map(|node| (home.shell(node), None::<String>)).collect();
    let mut reader = home.shell(&nodes[0]);
    for round in 0..ROUNDS {
        thread::scope(|scope| {
            for (number, (shell, context)) in writers.iter_mut().enumerate() {
                scope.spawn(move || {
                    // Each knows its own writes only: to all others its context is stale.
                    let mut order = json!({"op": "put", "key": "k", "value": format!("{number} in round {round}")});
                    match context {
                        Some(context) => order["context"] = context.as_str().into(),
                        None => order["create"] = true.into(),
                    }
                    let answer = shell.ask(order);
                    *context = Some(answer["context"].as_str().unwrap_or_else(|| panic!("{answer:#}")).to_owned());
                });
            }
        });
        let found = reader.ask(json!({"op": "get", "key": "k", "r": "all"}));
        let expected: BTreeSet<String> = (0..3).map(|number| format!("{number} in round {round}")).collect();
        assert_eq!(values(&found), expected, "in round {round}");
    }
}

#[test]
fn writers_that_read_at_different_times_never_make_more_siblings_than_there_are_writers() {
    const ROUNDS: usize = 30;
    let home = Home::new();
    let nodes: [Node; 3] = home.cluster(&["--partitions", "64"]);
    let mut writers: Vec<_> = nodes.iter().map(|node| (home.shell(node), None::<Json>)).collect();
    for round in 0..ROUNDS {
        for (number, (shell, context)) in writers.iter_mut().enumerate() {
            // One reads before each write, the second every third time, the last never but for its own writes.
            if (number == 0) || (number == 1 && round % 3 == 0) {
                *context = Some(shell.ask(json!({"op": "get", "key": "k"}))["context"].clone());
            }
            let mut order = json!({"op": "put", "key": "k", "value": format!("{number} in round {round}")});
            match context {
                Some(context) => order["context"] = context.clone(),
                None => order["create"] = true.into(),
            }
            let answer = shell.ask(order);
            assert_eq!(answer["ok"], true, "{answer:#}");
            *context = Some(answer["context"].clone());
            let found = shell.ask(json!({"op": "get", "key": "k"}));
            let values = values(&found);
            assert!(values.len() <= 3, "in round {round}: {values:?}");
            assert!(values.contains(&format!("{number} in round {round}")), "in round {round}: {values:?}");
        }
    }
}
