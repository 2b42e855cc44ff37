//! `quorate members`: who belongs to the cluster, and whom the asked member reaches.

use std::time::Duration;

use comfy_table::{Table, presets};
use serde_json::{Value as Json, json};

use crate::{
    cli::{
        connect::Session,
        error::CliError,
        filling,
        output::{Answer, Text},
        text::{age_text, peer_text},
    },
    ident::NodeId,
    membership::view::View,
    ring::Ring,
    wire::{
        administration::PairStatus,
        client::{MemberStatus, Reach, Status},
    },
};

/// Asks.
pub(crate) async fn run(session: &Session) -> Result<Answer, CliError> {
    let status = session.client.status().await.map_err(|error| session.explain(error))?;
    let view = session.client.view();
    Ok(answer(&status, view.ring.as_deref()))
}

fn answer(status: &Status, ring: Option<&Ring>) -> Answer {
    let json = status.members.iter().map(|member| {
        let mut json = to_json(member);
        json["addresses"] = member.profile.addresses.clone().into();
        if let Some(ring) = ring {
            json["held"] = ring.held_by(&member.node).count().into();
            json["owned"] = ring.tokens_of(&member.node).len().into();
        }
        // How far others are, they tell themselves.
        if member.node == status.node {
            json["filling"] = filling::to_json(status);
            json["handing_over"] = filling::handing_over(status).into();
        }
        json
    });
    let mut lines = vec![table(status, ring)];
    let goes_on = filling::lines(status);
    if !goes_on.is_empty() {
        lines.push(format!("of the asked node, {}:", peer_text(&status.node)));
        lines.extend(goes_on);
    }
    Answer::one(Json::Array(json.collect()), Text::Lines(lines.join("\n")))
}

/// One member, as `status` tells it.
pub(crate) fn to_json(member: &MemberStatus) -> Json {
    json!({
        "peer_id": peer_text(&member.node),
        "name": member.profile.name.as_str(),
        "state": reach_text(member.state),
        "membership": membership_text(member),
        "zone": member.profile.zone.as_ref().map(|zone| zone.as_str()),
        "weight": member.profile.weight,
    })
}

/// All members for people.
pub(crate) fn table(status: &Status, ring: Option<&Ring>) -> String {
    let header =
        ["name", "state", "membership", "zone", "weight", "partitions", "heads", "agreed", "peer id", "addresses"];
    let mut table = new_table(header);
    for member in &status.members {
        let pair = status.pairs.iter().find(|pair| pair.node == member.node);
        let count = |count: Option<usize>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
        table.add_row([
            member.profile.name.to_string(),
            reach_text(member.state).to_owned(),
            membership_text(member).to_owned(),
            member.profile.zone.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            member.profile.weight.to_string(),
            count(ring.map(|ring| ring.held_by(&member.node).count())),
            count(ring.map(|ring| ring.tokens_of(&member.node).len())),
            pair.map_or_else(|| "-".to_owned(), agreed_text),
            peer_text(&member.node),
            // A member's addresses are whatever it claims: kept from speaking to the terminal.
            member.profile.addresses.iter().map(|text| text.escape_default().to_string()).collect::<Vec<_>>().join(" "),
        ]);
    }
    to_lines(&table)
}

/// When the asked member and another last held the same.
fn agreed_text(pair: &PairStatus) -> String {
    let ago = |ms| format!("{} ago", age_text(Duration::from_millis(ms)));
    pair.agreed_ms.map_or_else(|| "never".to_owned(), ago)
}

/// The name of `node`, where it is known.
pub(crate) fn name_in(view: &View, node: &NodeId) -> Option<String> {
    view.members.get(node).map(|member| member.profile.name.to_string())
}

/// A table without frames, as all our tables are.
pub(crate) fn new_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

/// The table's lines, without the blanks at their ends.
pub(crate) fn to_lines(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// How a member is reached, in a word.
pub(crate) fn reach_text(state: Reach) -> &'static str {
    match state {
        Reach::Up => "up",
        Reach::Suspect => "suspect",
        Reach::Down => "down",
    }
}

/// Whether it stays, in a word.
fn membership_text(member: &MemberStatus) -> &'static str {
    if member.is_leaving { "leaving" } else { "member" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples::{node, ring, status};

    #[test]
    fn who_is_about_to_leave_is_told_to_people_and_to_programs() {
        let mut told = status(&[Reach::Up, Reach::Up]);
        told.members[1].is_leaving = true;
        (told.filling_partitions, told.filled_partitions) = (2, 6);
        let answer = answer(&told, Some(&ring(1)));
        let Text::Lines(text) = &answer.text else { panic!("lines") };
        let is_told = |line: usize| text.lines().nth(line).unwrap().contains("leaving");
        assert_eq!((is_told(1), is_told(2)), (false, true), "{text}");
        assert!(text.contains(&format!("{}:\nfilling: 75 % done, 2 partitions left", peer_text(&node(0)))), "{text}");
        let json = answer.into_single_json();
        assert_eq!((&json[0]["filling"]["percent"], json[1].get("filling")), (&json!(75), None));
        assert_eq!((&json[0]["membership"], &json[1]["membership"]), (&json!("member"), &json!("leaving")));
    }

    #[test]
    fn every_member_is_told_with_its_share() {
        let answer = answer(&status(&[Reach::Up, Reach::Down]), Some(&ring(2)));
        let Text::Lines(text) = &answer.text else { panic!("lines") };
        assert!(text.contains("node-0") && text.contains("down") && text.contains("/ip4/127.0.0.1/tcp/4002"), "{text}");
        let json = answer.into_single_json();
        let shares: Vec<u64> = (0..2).map(|index| json[index]["owned"].as_u64().unwrap()).collect();
        assert_eq!(shares.iter().sum::<u64>(), 16);
        assert_eq!(json[0]["held"], 16);
    }
    #[test]
    fn people_see_when_each_member_and_the_asked_one_last_held_the_same() {
        let pair = |number, agreed_ms| PairStatus { node: node(number), shared_partitions: 16, agreed_ms, last: None };
        let pairs = vec![pair(1, Some(12_300)), pair(2, None)];
        let text = table(&Status { pairs, ..status(&[Reach::Up, Reach::Up, Reach::Up]) }, Some(&ring(3)));
        let rows: Vec<&str> = text.lines().collect();
        assert!(rows[2].contains("12 s ago") && rows[3].contains("never"), "{text}");
        assert!(!rows[1].contains("never"), "with itself nobody compares: {text}");
    }
}
