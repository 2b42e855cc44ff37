//! What is said when not enough replicas answer: how many did, how many had to, and that the value may be stored.

use std::time::Duration;

use crate::harness::{Home, LOOPBACK, Node};

/// A command's deadline, and what its process takes beside.
const IN_TIME: Duration = Duration::from_secs(12);

#[test]
fn a_put_to_all_while_one_is_down_says_how_many_have_it_and_that_it_may_be_stored() {
    let home = Home::new();
    let [mut first, second, third]: [Node; 3] = home.cluster(&["--partitions", "64"]);
    first.kill();
    let put = home.ask(&second, &["put", "k", "v", "--create", "--w", "all"]).expect(5, &["2 of 3 replicas"]);
    assert!(put.took < IN_TIME, "{:?}", put.took);
    let json = put.json();
    assert_eq!((&json["ok"], &json["maybe_stored"]), (&false.into(), &true.into()), "{json:#}");
    assert!(["quorum_not_met", "timeout"].contains(&json["error"].as_str().unwrap()), "{json:#}");

    // In words as well; and for a write that reads first.
    let shown = home.run(&["put", "k", "v", "--w", "all", "--node", &third.addresses[0]]);
    let shown = shown.expect(5, &["2 of 3 replicas", "may have been stored", "quorate status"]);
    assert!(shown.stdout.is_empty());
    home.ask(&second, &["get", "k", "--r", "all"]).expect(5, &["2 of 3 replicas"]);

    // With a quorum it goes on, and says that somebody is missing.
    home.ask(&second, &["put", "k", "w"]).expect(0, &[]);
    home.ask(&third, &["status"]).expect(10, &["degraded"]);

    let first = home.start("node-0", &LOOPBACK);
    home.wait_up(&second, 3);
    home.wait_up(&first, 3);
    home.ask(&second, &["put", "k", "x", "--w", "all"]).expect(0, &[]);
    home.ask(&third, &["status"]).expect(0, &["healthy"]);
}

#[test]
fn a_put_to_all_while_one_is_silent_ends_at_the_deadline() {
    let home = Home::new();
    let [first, second, _third]: [Node; 3] = home.cluster(&["--partitions", "64"]);
    first.signal("STOP");
    let put = home.ask(&second, &["put", "k", "v", "--create", "--w", "all"]).expect(5, &["2 of 3 replicas"]);
    eprintln!("with a silent replica: exit code 5 after {:.1?}", put.took);
    assert!(put.took < IN_TIME, "{:?}", put.took);
    assert_eq!(put.json()["maybe_stored"], true);
    home.ask(&second, &["put", "k", "v", "--create"]).expect(0, &[]);
    first.signal("CONT");
    home.wait_up(&second, 3);
}
