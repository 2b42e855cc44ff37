//! `quorate alerts`: what the administrator of a node should know.

use serde_json::{Value as Json, json};

use crate::{
    cli::{
        connect::Session,
        error::CliError,
        members::{new_table, to_lines},
        output::{Answer, Text},
        text::{peer_text, printable, time_text},
    },
    wire::administration::Alert,
};

/// Asks. That something is the matter is no failure of the command.
pub(crate) async fn run(session: &Session) -> Result<Answer, CliError> {
    let alerts = session.client.alerts().await.map_err(|error| session.explain(error))?;
    Ok(answer(&alerts))
}

fn answer(alerts: &[Alert]) -> Answer {
    let text = if alerts.is_empty() { "nothing is the matter".to_owned() } else { table(alerts) };
    Answer::many(alerts.iter().map(to_json).collect(), Text::Lines(text))
}

/// One alert as programs read it.
pub(crate) fn to_json(alert: &Alert) -> Json {
    json!({
        "alert": alert.kind.name(),
        "peer_id": alert.kind.node().map(peer_text),
        "since": time_text(alert.since),
        "detail": alert.detail,
    })
}

fn table(alerts: &[Alert]) -> String {
    let mut table = new_table(["alert", "since", "peer id", "what it means"]);
    for alert in alerts {
        table.add_row([
            alert.kind.name().to_owned(),
            time_text(alert.since),
            alert.kind.node().map_or_else(|| "-".to_owned(), peer_text),
            // Whatever the node says: kept from speaking to the terminal.
            printable(alert.detail.as_bytes()),
        ]);
    }
    to_lines(&table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::{
            output::{Format, Lines, Terminal},
            samples::node,
        },
        clock::WallTime,
        wire::administration::AlertKind,
    };

    fn alert(kind: AlertKind, detail: &str) -> Alert {
        Alert { kind, since: WallTime(1_000), detail: detail.to_owned() }
    }

    #[test]
    fn each_alert_is_one_object_a_line_and_the_command_has_done_its_work() {
        let answer = answer(&[alert(AlertKind::MemberAway(node(1)), "away"), alert(AlertKind::Isolated, "alone")]);
        assert_eq!(answer.exit.code(), 0);
        let Lines::Many(lines) = answer.json else { panic!("many lines") };
        let since = "1970-01-01T00:00:01.000Z";
        assert_eq!(
            lines,
            [
                json!({ "alert": "member_away", "peer_id": peer_text(&node(1)), "since": since, "detail": "away" }),
                json!({ "alert": "isolated", "peer_id": null, "since": since, "detail": "alone" }),
            ]
        );
    }

    #[test]
    fn a_fork_is_told_with_whose_identity_it_is() {
        let Lines::Many(lines) = answer(&[alert(AlertKind::Forked(node(2)), "two")]).json else { panic!("many lines") };
        assert_eq!((&lines[0]["alert"], &lines[0]["peer_id"]), (&json!("forked"), &json!(peer_text(&node(2)))));
    }

    #[test]
    fn people_see_a_table_without_tricks_or_that_nothing_is_the_matter() {
        let Text::Lines(text) = answer(&[alert(AlertKind::StoreUnwritable, "\u{1b}[2Jfull")]).text else {
            panic!("lines")
        };
        assert!(text.contains("store_unwritable") && text.contains("[2Jfull") && !text.contains('\u{1b}'), "{text}");
        let nothing = answer(&[]);
        assert_eq!(nothing.text, Text::Lines("nothing is the matter".to_owned()));
        assert_eq!(Terminal { format: Format::Json }.show(nothing).unwrap().code(), 0);
    }
}
