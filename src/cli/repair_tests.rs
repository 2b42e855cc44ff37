//! Tests of `repair`: what is understood, which repair is waited for, and what is told of it.

use clap::Parser as _;

use super::*;
use crate::{
    cli::{
        ClientCommand,
        samples::{self, node, repair},
        shell::Words,
    },
    ident::Key,
    wire::administration::Visited,
};

fn request(line: &str) -> Result<RepairRequest, String> {
    let words = Words::try_parse_from(shlex::split(line).unwrap()).map_err(|error| error.to_string())?;
    match words.command {
        ClientCommand::Repair(args) => args.into_request().map_err(|error| error.to_string()),
        other => panic!("{other:?}"),
    }
}

fn view() -> View {
    samples::view(0)
}

fn text(answer: &Answer) -> &str {
    match &answer.text {
        Text::Lines(text) | Text::Note(text) => text,
        Text::Raw(_) => panic!("a text"),
    }
}

#[test]
fn a_repair_is_of_everything_a_partition_or_a_key() {
    let check = |line: &str, scope, manner| assert_eq!(request(line), Ok(RepairRequest { scope, manner }), "{line}");
    check("repair", RepairScope::Everything, Manner::Begin);
    check("repair --wait", RepairScope::Everything, Manner::Wait);
    check("repair --trace", RepairScope::Everything, Manner::Trace);
    check("repair --partition 7 --wait --trace", RepairScope::Partition(Partition(7)), Manner::Trace);
    check("repair --key k", RepairScope::Key(Key::new(b"k").unwrap()), Manner::Begin);
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (line, word) in [
        ("repair --partition 7 --key k", "cannot be used with"),
        ("repair --partition 65536", "from 0 to 65535"),
        ("repair --partition all", "from 0 to 65535"),
        ("repair --key ''", "the key is empty"),
        ("repair k", "unexpected"),
    ] {
        let refused = request(line).unwrap_err();
        assert!(refused.contains(word), "{line}: {refused}");
    }
}

#[test]
fn a_partition_that_does_not_exist_or_lies_elsewhere_is_refused_with_who_has_it() {
    let view = samples::view(5);
    let ring = view.ring.clone().unwrap();
    let check = |scope, asked| check_held(&scope, &node(asked), &view);
    assert!(check(RepairScope::Everything, 9).is_ok());
    let error = check(RepairScope::Partition(Partition(16)), 0).unwrap_err();
    assert_eq!((error.exit().code(), error.to_string().contains("this cluster has 16")), (2, true), "{error}");

    let partition = ring.partitions().iter().find(|partition| !ring.row(*partition).contains(&node(0))).unwrap();
    let error = check(RepairScope::Partition(partition), 0).unwrap_err();
    assert_eq!((error.word(), error.exit().code()), ("missing", 1));
    let text = error.to_string();
    let row = ring.row(partition);
    assert!(text.contains("--node") && row.iter().all(|node| text.contains(&peer_text(node))), "{text}");
    let held = ring.held_by(&node(0)).next().unwrap();
    assert!(check(RepairScope::Partition(held), 0).is_ok());
}

#[test]
fn another_repair_is_not_taken_for_ours() {
    let mut ours = Ours { scope: RepairScope::Everything, number: None };
    assert_eq!(ours.recognize(Some(repair(7))).unwrap(), repair(7));
    assert_eq!(ours.recognize(Some(repair(7))).unwrap(), repair(7));
    let error = ours.recognize(Some(repair(8))).unwrap_err();
    assert_eq!((error.word(), error.exit().code()), ("given_up", 1));
    assert!(error.to_string().contains("another repair"), "{error}");
    assert!(ours.recognize(None).unwrap_err().to_string().contains("started anew"));
    let mut first = Ours { scope: RepairScope::Partition(Partition(1)), number: None };
    assert!(first.recognize(Some(repair(7))).is_err(), "of something else");
}

#[test]
fn a_repair_has_the_fields_that_scripts_rely_on() {
    let visited = Visited { node: node(1), branch: "/0a3".to_owned(), found: "2 of its children differ".to_owned() };
    let told = RepairStatus { trace: vec![visited], ..repair(7) };
    let expected = json!({
        "ok": true, "over": true, "scope": "everything", "peers": 2, "peers_done": 2, "partitions": 16,
        "partitions_done": 16, "taken": 5, "given": 3, "bytes": 4_096, "seconds": 1.5, "failed": [],
        "trace": [{ "peer_id": peer_text(&node(1)), "branch": "/0a3", "found": "2 of its children differ" }],
    });
    assert_eq!(to_json(&told, &view()), expected);
    let scope = |scope| to_json(&RepairStatus { scope, ..repair(7) }, &view())["scope"].clone();
    assert_eq!(scope(RepairScope::Partition(Partition(3))), json!({ "partition": 3 }));
    assert_eq!(scope(RepairScope::Key(Key::new(b"k").unwrap())), json!({ "key": "k" }));
    let answer = outcome(&told, &view());
    assert_eq!(answer.exit, Exit::Done);
    for word in ["/0a3", "2 of its children differ", "16 partitions", "2 of 2 members", "5 keys", "3 objects", "1.50 s"]
    {
        assert!(text(&answer).contains(word), "{word}: {}", text(&answer));
    }
}

#[test]
fn what_came_to_nothing_is_a_failure_that_says_with_whom_and_what_to_do() {
    let failed = vec![(node(1), "it cannot be reached".to_owned())];
    let answer = outcome(&RepairStatus { failed, ..repair(7) }, &view());
    assert_eq!(answer.exit.code(), 1);
    for word in [peer_text(&node(1)).as_str(), "it cannot be reached", "1 of 2 members", "quorate status", "repeat it"]
    {
        assert!(text(&answer).contains(word), "{word}: {}", text(&answer));
    }
    let json = answer.into_single_json();
    assert_eq!((&json["ok"], &json["error"], &json["over"]), (&json!(false), &json!("incomplete"), &json!(true)));
    assert_eq!(json["failed"][0]["detail"], "it cannot be reached");
}

#[test]
fn where_nobody_shares_anything_there_is_nothing_to_compare() {
    let alone = RepairStatus { peers_total: 0, peers_done: 0, partitions_total: 0, partitions_done: 0, ..repair(7) };
    assert_eq!(begun_text(&alone), ALONE);
    assert!(text(&outcome(&alone, &view())).contains("nothing to compare"));
    assert!(begun_text(&repair(7)).contains("`quorate status`"));
}
