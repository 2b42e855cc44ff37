//! Tests of `hints`: what is understood, what is told, and what waits for a yes.

use clap::Parser as _;

use super::*;
use crate::cli::{output::Lines, samples::node, shell::Words};

fn request(line: &str) -> Result<HintsRequest, String> {
    let words = Words::try_parse_from(shlex::split(line).unwrap()).map_err(|error| error.to_string())?;
    match words.command {
        crate::cli::ClientCommand::Hints(args) => args.into_request().map_err(|error| error.to_string()),
        other => panic!("{other:?}"),
    }
}

fn hint(delivered: (u64, u64), delivery: Delivery) -> HintStatus {
    HintStatus { target: node(1), count: 90, bytes: 4_096, oldest_ms: 61_500, delivered, delivery }
}

fn view() -> View {
    View::fold(&crate::membership::history::History::new(crate::ident::Name::new("quorate").unwrap()))
}

#[test]
fn the_status_is_asked_for_without_a_word_and_orders_by_name() {
    let target = node(3);
    let peer = peer_text(&target);
    let check = |line: &str, expected| assert_eq!(request(line), Ok(expected), "{line}");
    check("hints", HintsRequest::Status);
    check("hints status", HintsRequest::Status);
    check("hints pause", HintsRequest::Give(HintOrder::Pause));
    check("hints resume", HintsRequest::Give(HintOrder::Resume));
    check("hints deliver", HintsRequest::Give(HintOrder::Deliver { target: None }));
    let one = HintsRequest::Give(HintOrder::Deliver { target: Some(target) });
    check(&format!("hints deliver --target {peer}"), one);
    let drop = |consent| HintsRequest::Drop { target, consent };
    check(&format!("hints drop --target {peer}"), drop(Consent::Unasked));
    check(&format!("hints drop --target {peer} --yes"), drop(Consent::Given));
    check(&format!("hints drop --target {peer} --dry-run"), drop(Consent::PlanOnly));
}

#[test]
fn what_makes_no_sense_is_refused_with_what_would() {
    let peer = peer_text(&node(3));
    let check = |line: &str, words: &[&str]| {
        let refused = request(line).unwrap_err();
        assert!(words.iter().all(|word| refused.contains(word)), "{line}: {refused}");
    };
    check("hints drop", &["hints drop", "--target PEER_ID", "quorate hints"]);
    for action in ["status", "pause", "resume"] {
        check(&format!("hints {action} --target {peer}"), &["--target", "`hints deliver`", "`hints drop`"]);
    }
    check("hints deliver --yes", &["--yes", "`hints drop`"]);
    check(&format!("hints drop --target {peer} --yes --dry-run"), &["--yes", "--dry-run"]);
    check("hints drop --target ann", &["ann", "--target", "quorate id"]);
    check("hints away", &["away", "status", "drop"]);
}

#[test]
fn hints_are_one_list_with_the_fields_that_scripts_rely_on() {
    let answer = status(&[hint((0, 0), Delivery::Waiting), hint((10, 2_000), Delivery::Delivering)], &view());
    let Lines::One(json) = answer.json else { panic!("one line") };
    let expected = json!({
        "target": peer_text(&node(1)), "count": 90, "bytes": 4_096, "oldest_seconds": 61.5,
        "delivery": "waiting", "delivered": 0, "rate_per_second": null, "seconds_left": null,
    });
    assert_eq!(json[0], expected);
    assert_eq!(json[1]["delivery"], "delivering");
    assert_eq!((&json[1]["rate_per_second"], &json[1]["seconds_left"]), (&json!(5.0), &json!(18)));
    assert_eq!(status(&[], &view()).json, Lines::One(json!([])));
}

#[test]
fn time_left_is_known_only_while_hints_are_delivered() {
    assert_eq!(seconds_left(&hint((10, 2_000), Delivery::Delivering)), Some(18));
    assert_eq!(seconds_left(&hint((10, 2_000), Delivery::Paused)), None);
    assert_eq!(seconds_left(&hint((0, 2_000), Delivery::Delivering)), None);
    assert_eq!(seconds_left(&hint((u64::MAX, u64::MAX), Delivery::Delivering)), Some(1));
}

#[test]
fn people_see_a_table_or_that_there_is_nothing() {
    let Text::Lines(text) = status(&[hint((10, 2_000), Delivery::Delivering)], &view()).text else { panic!("lines") };
    let row = text.lines().nth(1).unwrap();
    for cell in [peer_text(&node(1)).as_str(), "90", "4096", "1 min 1 s", "delivering", "5.0", "18 s"] {
        assert!(row.contains(cell), "{cell}: {text}");
    }
    assert!(matches!(status(&[], &view()).text, Text::Lines(text) if text.contains("no hints")));
}

#[test]
fn nothing_is_given_up_without_a_yes() {
    let hints = [hint((0, 0), Delivery::Waiting)];
    let plan = Plan::new(node(1), &hints, &view());
    let refused = plan.without_yes(Consent::Unasked).unwrap_err();
    assert_eq!(refused.exit().code(), 2);
    let text = refused.to_string();
    for word in ["90 hints", "4096 bytes", &peer_text(&node(1)), "--yes"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let json = plan.without_yes(Consent::PlanOnly).unwrap().into_single_json();
    assert_eq!((&json["dry_run"], &json["count"], &json["bytes"]), (&json!(true), &json!(90), &json!(4_096)));
    assert_eq!(plan.done().into_single_json()["dropped"], true);
    assert_eq!(Plan::new(node(2), &hints, &view()).count, 0);
}
