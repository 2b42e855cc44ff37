//! What the administrator of a node is told: once, with since when, and that it is over.

use crate::harness::{Home, LOOPBACK, Node, poll, text};

#[test]
fn of_a_member_that_stays_away_people_are_told_once_and_that_it_is_back() {
    let home = Home::new();
    let file = home.path("alerts.ndjson");
    let command = format!("cat >> {}", text(&file));
    let words = ["--partitions", "16", "--dead-after", "1", "--on-alert", &command];
    let [mut first, second, mut third]: [Node; 3] = home.cluster(&words);
    assert!(home.ask(&first, &["alerts"]).expect(0, &[]).lines().is_empty());
    // Each of the two others would tell it.
    assert_eq!(second.stop(), 0);
    third.kill();

    let (_, event) = first.wait_event("alert");
    let kinds = || -> Vec<String> {
        let lines = home.ask(&first, &["alerts"]).expect(0, &[]).lines();
        lines.iter().map(|alert| alert["alert"].as_str().unwrap().to_owned()).collect()
    };
    assert!(poll(|| kinds().iter().filter(|kind| *kind == "member_away").count() == 2), "{:?}", kinds());
    assert!(poll(|| kinds().contains(&"isolated".to_owned())), "{:?}", kinds());
    assert!(event["since"].as_str().is_some() && event["detail"].as_str().is_some(), "{event:#}");
    let told = home.run(&["alerts", "--node", &first.addresses[0]]).expect(0, &[&third.peer_id]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("member_away"), "{told}");
    let commands = || std::fs::read_to_string(&file).unwrap_or_default();
    let count = |kind: &str| {
        let lines = commands();
        let of_kind = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        of_kind.filter(|alert| alert["alert"] == kind).count()
    };
    assert!(poll(|| (count("member_away"), count("isolated")) == (2, 1)), "{}", commands());

    let _back = [home.start("node-1", &LOOPBACK), home.start("node-2", &LOOPBACK)];
    home.wait_up(&first, 3);
    assert!(poll(|| kinds().is_empty()), "{:?}", kinds());
    first.wait_event("alert_cleared");
    assert_eq!((count("member_away"), count("isolated")), (2, 1), "the command is run once for each: {}", commands());
}

#[test]
fn metrics_are_lines_of_a_name_and_a_number() {
    let home = Home::new();
    let node = home.start("node", &LOOPBACK);
    home.ask(&node, &["put", "k", "v"]).expect(0, &[]);
    let told = home.run(&["metrics", "--node", &node.addresses[0]]).expect(0, &["quorate_keys{"]);
    for line in str::from_utf8(&told.stdout).unwrap().lines().filter(|line| !line.starts_with('#')) {
        let (name, number) = line.rsplit_once(' ').unwrap();
        assert!(name.contains('{') && name.ends_with('}') && number.parse::<u64>().is_ok(), "{line}");
    }
    let json = home.ask(&node, &["metrics"]).expect(0, &[]).json();
    assert_eq!((&json["metrics"]["quorate_keys"], &json["metrics"]["quorate_alerts"]), (&1.into(), &0.into()));
}
