//! `quorate verify`: has a node look at every record and every bucket of its tree, and put right what is wrong.
//!
//! An administrator's order. A damaged record is deleted, and what it held comes back from the other members of its row;
//! hashes and sums are made anew. One look at a time: an order that meets one under way joins it.

use clap::Args;
use serde_json::{Value as Json, json};

use crate::{
    cli::{
        connect::Session,
        error::{CliError, Exit},
        output::{Answer, Text},
        text::counted,
        watch::{Look, Progress, watch},
    },
    wire::administration::{CheckStatus, Order},
};

/// Arguments of `verify`.
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// Wait until everything was looked at, with a progress bar.
    #[arg(long)]
    pub wait: bool,
}

/// Gives the order, and waits if asked to.
pub(crate) async fn run(session: &Session, args: VerifyArgs) -> Result<Answer, CliError> {
    session.administer(Order::Check).await?;
    let mut seen = Seen::default();
    if !args.wait {
        let begun = watch(session, |report| Ok(Look::Over(seen.recognize(report.check)?))).await?;
        let buckets = counted(begun.buckets_total.into(), "bucket");
        let text = format!("{buckets} of records are being looked at; `quorate status` tells how it goes");
        return Ok(Answer::one(to_json(&begun), Text::Note(text)));
    }
    let mut bar = Progress::new("{bar:40} {pos}/{len} buckets, {msg}, {time_left}");
    let ended = watch(session, |report| {
        let check = seen.recognize(report.check)?;
        let message = format!("{}, {} damaged", counted(check.records, "record"), check.damaged);
        bar.show(check.buckets_done, check.buckets_total, message);
        Ok(if is_over(&check) { Look::Over(check) } else { Look::GoesOn })
    })
    .await;
    drop(bar);
    Ok(outcome(&ended?))
}

/// How far the look was when last asked about.
#[derive(Debug, Default)]
struct Seen {
    buckets_done: u32,
}

impl Seen {
    /// Takes `told` for the look that is watched, or says what has become of that.
    fn recognize(&mut self, told: Option<CheckStatus>) -> Result<CheckStatus, CliError> {
        let given_up = |detail: &str| Err(CliError::GivenUp { detail: detail.to_owned() });
        match told {
            None => given_up("the node was started anew before it had looked at everything; repeat it"),
            // A look never goes back.
            Some(check) if check.buckets_done < self.buckets_done => given_up(
                "another look at everything has begun since, and what this one found is not told any more; repeat it",
            ),
            Some(check) => {
                self.buckets_done = check.buckets_done;
                Ok(check)
            }
        }
    }
}

fn is_over(check: &CheckStatus) -> bool {
    check.buckets_done >= check.buckets_total
}

/// A look for programs.
pub(crate) fn to_json(check: &CheckStatus) -> Json {
    json!({
        "ok": true,
        "over": is_over(check),
        "records": check.records,
        "damaged": check.damaged,
        "misnamed": check.misnamed,
        "wrong_sums": check.wrong_sums,
        "failed": check.failed,
        "buckets": check.buckets_total,
        "buckets_done": check.buckets_done,
    })
}

fn outcome(check: &CheckStatus) -> Answer {
    let mut json = to_json(check);
    let mut lines = vec![format!(
        "looked at {} in {}: {}",
        counted(check.records, "record"),
        counted(check.buckets_total.into(), "bucket"),
        if is_sound(check) { "all are sound" } else { "not all were sound" }
    )];
    let were = |count: u64, noun| format!("{} {}", counted(count, noun), if count == 1 { "was" } else { "were" });
    if check.damaged > 0 {
        lines.push(format!(
            "{} DAMAGED on the disk and deleted here; what they held comes back from the other members of their rows: \
             `quorate repair --wait` waits for that. If this comes again, mistrust the disk",
            were(check.damaged, "record")
        ));
    }
    if check.misnamed > 0 {
        lines.push(format!("{} under a wrong hash, which was made anew", were(check.misnamed, "record")));
    }
    if check.wrong_sums > 0 {
        let digests = counted(check.wrong_sums, "bucket");
        lines.push(format!("{digests} had a digest that was not the sum of the records, and was made anew"));
    }
    if check.failed == 0 {
        return Answer::one(json, Text::Lines(lines.join("\n")));
    }
    let failed =
        format!("{} could not be looked at: see the log of that node, and repeat it", counted(check.failed, "bucket"));
    json["ok"] = false.into();
    json["error"] = "incomplete".into();
    json["maybe_stored"] = false.into();
    json["detail"] = failed.as_str().into();
    lines.push(failed);
    Answer::one(json, Text::Lines(lines.join("\n"))).ending(Exit::Failed)
}

fn is_sound(check: &CheckStatus) -> bool {
    check.damaged == 0 && check.misnamed == 0 && check.wrong_sums == 0
}

/// A look in one line, for `status`.
pub(crate) fn line(check: &CheckStatus) -> String {
    let found = format!("{}, {} damaged", counted(check.records, "record"), check.damaged);
    match is_over(check) {
        true if check.failed > 0 => {
            format!("verified in part: {found}; {} buckets could not be looked at", check.failed)
        }
        true if is_sound(check) => format!("verified: {}, all sound", counted(check.records, "record")),
        true => format!("verified: {found}, all that was wrong is put right"),
        false => format!("verifies: {} of {} buckets looked at, {found}", check.buckets_done, check.buckets_total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(buckets_done: u32) -> CheckStatus {
        CheckStatus { buckets_total: 16, buckets_done, records: 90, ..CheckStatus::default() }
    }

    fn text(answer: &Answer) -> &str {
        match &answer.text {
            Text::Lines(text) | Text::Note(text) => text,
            Text::Raw(_) => panic!("a text"),
        }
    }

    #[test]
    fn a_look_has_the_fields_that_scripts_rely_on() {
        let expected = json!({
            "ok": true, "over": false, "records": 90, "damaged": 0, "misnamed": 0, "wrong_sums": 0, "failed": 0,
            "buckets": 16, "buckets_done": 3,
        });
        assert_eq!(to_json(&check(3)), expected);
        assert_eq!(to_json(&check(16))["over"], true);
    }

    #[test]
    fn what_was_mended_is_said_clearly_and_is_no_failure() {
        let sound = outcome(&check(16));
        assert!(text(&sound).contains("all are sound") && sound.exit == Exit::Done, "{sound:?}");
        let mended = outcome(&CheckStatus { damaged: 1, misnamed: 2, wrong_sums: 3, ..check(16) });
        assert_eq!(mended.exit, Exit::Done);
        for word in
            ["not all were sound", "1 record was DAMAGED", "quorate repair --wait", "2 records were", "3 buckets"]
        {
            assert!(text(&mended).contains(word), "{word}: {}", text(&mended));
        }
    }

    #[test]
    fn status_tells_in_one_line_how_far_a_look_is_and_what_it_found() {
        let told = |status| line(&status);
        assert_eq!(told(check(4)), "verifies: 4 of 16 buckets looked at, 90 records, 0 damaged");
        assert_eq!(told(check(16)), "verified: 90 records, all sound");
        assert!(told(CheckStatus { damaged: 2, ..check(16) }).contains("2 damaged, all that was wrong is put right"));
        assert!(told(CheckStatus { failed: 1, ..check(16) }).starts_with("verified in part"));
    }

    #[test]
    fn what_could_not_be_looked_at_is_a_failure_with_all_that_is_known() {
        let answer = outcome(&CheckStatus { failed: 2, damaged: 1, ..check(16) });
        assert_eq!(answer.exit.code(), 1);
        assert!(text(&answer).contains("2 buckets could not"), "{}", text(&answer));
        let json = answer.into_single_json();
        assert_eq!((&json["ok"], &json["error"], &json["damaged"]), (&json!(false), &json!("incomplete"), &json!(1)));
    }

    #[test]
    fn a_look_that_is_gone_or_begins_again_is_not_waited_for() {
        let mut seen = Seen::default();
        assert_eq!(seen.recognize(Some(check(3))).unwrap(), check(3));
        assert_eq!(seen.recognize(Some(check(3))).unwrap(), check(3));
        let error = seen.recognize(Some(check(2))).unwrap_err();
        assert_eq!((error.word(), error.exit().code()), ("given_up", 1));
        assert!(seen.recognize(None).unwrap_err().to_string().contains("started anew"));
    }
}
