//! Tests of what `start` says and is told.

use super::*;
use crate::cli::{samples::node, settings::Sources, text::peer_text};

fn settings(flags: &[(&'static str, &str)]) -> Settings {
    let flag = |&(key, value): &(&'static str, &str)| (key, "--flag", Raw::One(value.to_owned()));
    let sources = Sources { flags: flags.iter().map(flag).collect(), host: "h".to_owned(), ..Sources::default() };
    Settings::load(&sources).unwrap()
}

fn announcer(flags: &[(&'static str, &str)]) -> Announcer {
    Announcer::new(&settings(flags), PeerId::random(), Terminal { format: Format::Json })
}

fn address(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

#[test]
fn a_node_that_was_told_whom_to_join_never_founds() {
    let founding = |flags: &[_]| to_runtime(&settings(flags)).unwrap().node.founding;
    assert_eq!(founding(&[("join", "/ip4/127.0.0.1/tcp/1")]), Founding::Never);
    let window = [("discovery_window", "0.5")];
    assert_eq!(founding(&window), Founding::After(std::time::Duration::from_millis(500)));
}

#[test]
fn without_a_word_hints_exchanges_and_alerts_are_those_of_a_local_network() {
    let node = to_runtime(&settings(&[])).unwrap().node;
    let lan = NodeConfig::lan(node.cluster.clone(), node.profile.clone(), node.parameters);
    assert_eq!(node, NodeConfig { founding: node.founding, ..lan });
}

#[test]
fn what_is_said_of_hints_exchanges_and_alerts_reaches_the_node() {
    let admin = peer_text(&node(7));
    let flags = [
        ("sloppy", "false"),
        ("hints", "false"),
        ("hint_ttl", "90"),
        ("hint_bytes_per_target", "1000"),
        ("hint_bytes", "2000"),
        ("dead_after", "1.5"),
        ("anti_entropy", "false"),
        ("exchange_interval", "2.5"),
        ("exchange_bytes_per_second", "5000"),
        ("admins", admin.as_str()),
    ];
    let told = to_runtime(&settings(&flags)).unwrap().node;
    assert_eq!((told.scope, told.hinting), (Scope::Strict, Hinting::Off));
    assert_eq!((told.hint_limits.target_bytes, told.hint_limits.total_bytes), (1_000, 2_000));
    assert_eq!((told.hint_ttl.as_secs(), told.dead_after.as_millis()), (90, 1_500));
    assert_eq!(told.admins, [node(7)].into());
    assert_eq!((told.anti_entropy, told.exchange_bytes_per_second), (AntiEntropy::Off, 5_000));
    assert_eq!(told.exchange_interval.as_millis(), 2_500);
}

#[test]
fn a_key_closes_the_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, libp2p::pnet::PreSharedKey::new([7; 32]).to_key_file()).unwrap();
    let closed = to_runtime(&settings(&[("swarm_key", path.to_str().unwrap())])).unwrap();
    assert_eq!((closed.node.cluster_secret, closed.swarm_key.is_some()), (Some(vec![7; 32]), true));
    let open = to_runtime(&settings(&[("data_dir", "/nowhere")])).unwrap();
    assert_eq!((open.node.cluster_secret, open.swarm_key.is_some()), (None, false));
    assert_eq!(to_runtime(&settings(&[("swarm_key", "/nowhere")])).err().unwrap().exit().code(), 2);
}

#[test]
fn the_first_event_says_where_the_node_is() {
    let announcer = announcer(&[("data_dir", "/data")]);
    let address = with_peer(&address("/ip4/127.0.0.1/tcp/1"), announcer.peer);
    let json = announcer.ready_json(std::slice::from_ref(&address));
    let fields: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["event", "peer_id", "name", "cluster", "data_dir", "addresses"]);
    assert_eq!((&json["event"], &json["data_dir"]), (&json!("ready"), &json!("/data")));
    assert!(json["addresses"][0].as_str().unwrap().ends_with(&format!("/p2p/{}", announcer.peer)));
    assert_eq!(with_peer(&address, announcer.peer), address);
}

#[test]
fn events_wait_until_the_node_serves() {
    let mut announcer = announcer(&[]);
    announcer.announce(Notice::Event(Event::MemberJoined(node(0)))).unwrap();
    assert_eq!(announcer.waiting.len(), 1);
    assert_eq!(announcer.waiting[0]["event"], "member_joined");
    assert_eq!(announcer.announce(Notice::Fatal("disk".to_owned())).unwrap_err().to_string(), "disk");
}

#[test]
fn the_line_for_the_next_machine_names_an_address_that_it_can_reach() {
    let far = address("/ip4/192.168.1.7/tcp/1");
    let addresses = [address("/ip4/127.0.0.1/tcp/1"), address("/ip6/fe80::1/tcp/1"), far.clone()];
    assert_eq!(best_address(&addresses), Some(&far));
    assert_eq!(best_address(&addresses[..2]), Some(&addresses[0]));
    let text = announcer(&[("cluster", "prod")]).ready_text(&addresses);
    assert!(text.contains("quorate start --join /ip4/192.168.1.7/tcp/1 --cluster prod"), "{text}");
}

#[test]
fn people_are_warned_of_an_open_cluster_and_of_lazy_disks() {
    let text = announcer(&[("durability", "periodic"), ("data_dir", "/nowhere")]).introduction();
    assert!(text.contains("open cluster") && text.contains("PERIODIC") && text.contains("/nowhere"), "{text}");
    assert!(!announcer(&[("swarm_key", "key")]).introduction().contains("open cluster"));
}

#[test]
fn a_member_that_is_gone_is_told_and_ends_nothing() {
    let gone = Notice::Event(Event::MemberGone(node(3)));
    assert_eq!(to_json(&gone), json!({ "event": "member_gone", "peer_id": peer_text(&node(3)) }));
    assert_eq!(to_text(&gone), format!("gone      {}", peer_text(&node(3))));
    assert!(end_of(&gone).is_none());
    assert!(end_of(&Notice::Warning("disk".to_owned())).is_none());
}

#[test]
fn a_node_that_has_left_has_done_what_it_was_asked_to() {
    let left = Notice::Event(Event::Stopped(Stop::Left));
    assert_eq!(to_json(&left), json!({ "event": "stopped", "reason": "left" }));
    assert!(to_text(&left).contains("has left the cluster"), "{}", to_text(&left));
    assert_eq!(end_of(&left).unwrap().unwrap().code(), 0);
}

#[test]
fn a_node_that_was_removed_fails_with_the_reason_and_what_to_do() {
    let removed = Notice::Event(Event::Stopped(Stop::Removed));
    assert_eq!(to_json(&removed), json!({ "event": "stopped", "reason": "removed" }));
    let error = end_of(&removed).unwrap().unwrap_err();
    assert_eq!(error.exit().code(), 1);
    let text = error.to_string();
    assert!(text.contains("removed from the cluster for ever") && text.contains("--data-dir"), "{text}");
}
