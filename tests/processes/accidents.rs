//! What people do to data directories: copy one and start both, lose one, put an old one back.

use std::{fs, path::Path};

use serde_json::{Value as Json, json};

use crate::{
    harness::{Home, LOOPBACK, Node, Place, poll, text},
    keys::{KEY_COUNT, SWIFT, put, put_all, read, read_local},
};

fn words<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&LOOPBACK[..], &SWIFT, more].concat()
}

/// Copies a directory and all that is in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => assert!(fs::copy(entry.path(), to).is_ok(), "{entry:?}"),
        }
    }
}

fn alerts(home: &Home, node: &Node) -> Vec<String> {
    let lines = home.ask(node, &["alerts"]).expect(0, &[]).lines();
    lines.iter().map(|alert| alert["alert"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn of_a_data_directory_that_was_copied_and_started_twice_the_older_process_serves_and_the_younger_ends() {
    let home = Home::new();
    let [original, second, third]: [Node; 3] = home.cluster(&SWIFT);
    put(&home, &original, "before", "all");
    let (data_dir, peer_id) = (original.data_dir.clone(), original.peer_id.clone());
    assert_eq!(original.stop(), 0);
    copy(&data_dir, &home.path("copy"));

    let mut original = home.start("node-0", &words(&[]));
    home.wait_up(&second, 3);
    let double = home.spawn(&Place::default(), "copy", &words(&[]));
    let begun = double.started;
    // A replica may be the one that is about to end.
    put_all(&home, &second, "meanwhile");
    let (code, told) = double.wait_end();
    eprintln!("the younger ended {:.1?} after its start", begun.elapsed());
    assert_eq!(code, 1, "{told:#?}");
    assert!(told.contains(&json!({"event": "stopped", "reason": "twin"})), "{told:#?}");
    let advice = ["another process, started before this one", "data directory was copied", "delete its identity.key"];
    let is_advice = |line: &Json| advice.iter().all(|words| line.to_string().contains(words));
    assert!(told.iter().any(is_advice), "{told:#?}");

    assert_eq!(original.peer_id, peer_id);
    let (_, alert) = original.wait_event("alert");
    assert_eq!(alert["alert"], "twin", "{alert:#}");
    put_all(&home, &third, "after");
    for node in [&original, &second, &third] {
        let found = ["before", "meanwhile", "after"].map(|name| read(&home, node, name));
        assert_eq!(found, [KEY_COUNT; 3], "{}", node.name);
    }
    // What the younger took in is fetched from others, and nothing was said twice under one number.
    let local = |name| read_local(&home, &original, name);
    assert!(poll(|| ["before", "meanwhile", "after"].map(local) == [KEY_COUNT; 3]));
    assert!(poll(|| alerts(&home, &original).is_empty()), "{:?}", alerts(&home, &original));
    assert!(alerts(&home, &second).is_empty(), "{:?}", alerts(&home, &second));
    assert!(!original.has_told("stopped"));
    home.ask(&original, &["status"]).expect(0, &["healthy"]);

    // As it was told to be: the copy becomes a member of its own.
    fs::remove_file(home.path("copy").join("identity.key")).unwrap();
    fs::remove_dir_all(home.path("copy").join("store")).unwrap();
    let fourth = home.start("copy", &words(&["--join", &second.addresses[0]]));
    assert_ne!(fourth.peer_id, peer_id);
    home.wait_up(&original, 4);
}

#[test]
fn a_node_that_is_killed_and_started_again_and_again_is_no_twin_of_itself() {
    let home = Home::new();
    let [mut first, second, _third]: [Node; 3] = home.cluster(&SWIFT);
    put(&home, &second, "k", "all");
    for _ in 0..5 {
        first.kill();
        first = home.start("node-0", &words(&[]));
    }
    home.wait_up(&second, 3);
    home.wait_up(&first, 3);
    assert_eq!(read(&home, &first, "k"), KEY_COUNT);
    assert!(!first.has_told("stopped") && !first.has_told("store_is_old") && !first.has_told("alert"));
}

#[test]
fn a_node_that_lost_its_data_directory_is_a_new_member_and_is_told_how_to_take_its_old_place() {
    let home = Home::new();
    let [first, second, mut lost]: [Node; 3] = home.cluster(&SWIFT);
    put(&home, &first, "k", "all");
    lost.kill();
    fs::remove_dir_all(&lost.data_dir).unwrap();

    let mut new = home.start("node-2", &words(&["--join", &first.addresses[0]]));
    assert_ne!(new.peer_id, lost.peer_id);
    let (_, namesake) = new.wait_event("namesake");
    assert_eq!(namesake["peer_id"], lost.peer_id, "{namesake:#}");
    let state_of = |peer: &str| {
        let members = home.ask(&first, &["members"]).json();
        let found = members.as_array().unwrap().iter().find(|member| member["peer_id"] == peer);
        found.map(|member| (member["state"].clone(), member["membership"].clone()))
    };
    assert_eq!(state_of(&lost.peer_id), Some(("down".into(), "member".into())), "only people remove a member");

    home.ask(&first, &["replace", &lost.peer_id, &new.peer_id, "--yes"]).expect(0, &["replaced"]);
    assert!(poll(|| state_of(&lost.peer_id).is_none()));
    for node in [&first, &second, &new] {
        home.wait_settled(node);
        assert_eq!(read(&home, node, "k"), KEY_COUNT, "{}", node.name);
    }
    assert_eq!(read_local(&home, &new, "k"), KEY_COUNT);
}

#[test]
fn a_data_directory_that_was_put_back_is_known_to_be_old_and_becomes_whole() {
    let home = Home::new();
    let [first, second, third]: [Node; 3] = home.cluster(&SWIFT);
    put(&home, &first, "early", "all");
    let (data_dir, backup) = (third.data_dir.clone(), home.path("backup"));
    assert_eq!(third.stop(), 0);
    copy(&data_dir, &backup);
    let mut third = home.start("node-2", &words(&[]));
    home.wait_up(&first, 3);
    put(&home, &third, "late", "all");
    third.kill();
    fs::remove_dir_all(&data_dir).unwrap();
    copy(&backup, &data_dir);

    let mut third = home.start("node-2", &words(&[]));
    third.wait_event("store_is_old");
    home.wait_up(&third, 3);
    put(&home, &third, "after", "all");
    for node in [&first, &second, &third] {
        let found = ["early", "late", "after"].map(|name| read(&home, node, name));
        assert_eq!(found, [KEY_COUNT; 3], "{}", node.name);
    }
    let local = |name| read_local(&home, &third, name);
    assert!(poll(|| ["early", "late", "after"].map(local) == [KEY_COUNT; 3]));
    home.wait_settled(&third);
    assert!(!third.has_told("stopped") && !third.has_told("alert"), "an old store is no twin");
    assert!(data_dir.join("identity.key").exists(), "{}", text(&data_dir));
}
