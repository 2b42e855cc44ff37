//! `quorate status`: whether the cluster serves, as one member sees it.

use indicatif::HumanBytes;
use serde_json::{Map, Value as Json, json};

use crate::{
    cli::{
        connect::Session,
        error::{CliError, Exit},
        filling,
        health::{Health, Judgment},
        members,
        output::{Answer, Text},
        repair,
        text::{counted, peer_text, seconds_of},
        verify,
    },
    membership::view::View,
    wire::{
        administration::{ExchangeReport, LastExchange, PairStatus},
        client::Status,
    },
};

/// Asks.
pub(crate) async fn run(session: &Session) -> Result<Answer, CliError> {
    let status = session.client.status().await.map_err(|error| session.explain(error))?;
    let report = session.client.exchanges().await.map_err(|error| session.explain(error))?;
    Ok(answer(&status, &report, &session.client.view()))
}

fn answer(status: &Status, report: &ExchangeReport, view: &View) -> Answer {
    let judgment = Judgment::new(status, view);
    let exit = match judgment.health {
        Health::Healthy => Exit::Done,
        Health::Degraded => Exit::Degraded,
        Health::Unavailable => Exit::Unavailable,
    };
    let mut json = to_json(status, judgment);
    json["repair"] = report.repair.as_ref().map_or(Json::Null, |told| without_trace(repair::to_json(told, view)));
    json["verify"] = report.check.as_ref().map_or(Json::Null, verify::to_json);
    Answer::one(json, Text::Lines(to_text(status, report, view, judgment))).ending(exit)
}

fn to_json(status: &Status, judgment: Judgment) -> Json {
    json!({
        "state": judgment.health.word(),
        "node": { "peer_id": peer_text(&status.node), "name": name_of(status) },
        "cluster": status.cluster.as_str(),
        "members": status.members.iter().map(members::to_json).collect::<Vec<_>>(),
        "history": { "changes": status.change_count, "digest": status.history.to_string() },
        "partitions": {
            "total": status.parameters.map_or(0, |parameters| parameters.partitions.get()),
            "held": status.held_partitions,
            "owned": status.owned_partitions,
            "filling": status.filling_partitions,
            "degraded": judgment.degraded_count,
            "unavailable": judgment.unavailable_count,
            "unsettled": status.unsettled_partitions,
            "filled": status.filled_partitions,
            "handing_over": filling::handing_over(status),
        },
        "filling": filling::to_json(status),
        "replicas": status.parameters.map_or(0, |parameters| parameters.replicas),
        "keys": status.key_count,
        "key_bytes": status.key_bytes,
        "hints": { "count": status.hint_count, "bytes": status.hint_bytes },
        "marked_partitions": status.marked_partitions,
        "exchanges": status.pairs.iter().map(|pair| pair_json(pair, status)).collect::<Vec<_>>(),
        "alerts": status.alert_count,
        "counters": status.counters.iter().map(|(name, count)| (name.clone(), json!(count))).collect::<Map<_, _>>(),
        "commits": status.commit_count,
        "writes": status.write_count,
        "damaged": status.damaged_count,
        "store_failure": status.store_failure,
    })
}

/// How the asked member and another stand.
fn pair_json(pair: &PairStatus, status: &Status) -> Json {
    let name = status.members.iter().find(|member| member.node == pair.node).map(|member| member.profile.name.as_str());
    let mut json = json!({
        "peer_id": peer_text(&pair.node),
        "name": name,
        "shared_partitions": pair.shared_partitions,
        "agreed_seconds": pair.agreed_ms.map(seconds_of),
        "last": pair.last.as_ref().map(|last| match last {
            LastExchange::InStep => "in_step",
            LastExchange::Apart => "apart",
            LastExchange::Failed(_) => "failed",
        }),
    });
    if let Some(LastExchange::Failed(detail)) = &pair.last {
        json["detail"] = detail.as_str().into();
    }
    json
}

/// The branches that a repair looked at are for those who asked for them.
fn without_trace(mut repair: Json) -> Json {
    if let Some(repair) = repair.as_object_mut() {
        repair.remove("trace");
    }
    repair
}

fn to_text(status: &Status, report: &ExchangeReport, view: &View, judgment: Judgment) -> String {
    let total = status.parameters.map_or(0, |parameters| parameters.partitions.get());
    let replicas = status.parameters.map_or(0, |parameters| parameters.replicas);
    let mut lines = vec![
        format!("cluster {} is {}", status.cluster, judgment.health.word()),
        format!("asked: {} ({})", name_of(status), peer_text(&status.node)),
        format!(
            "holds {} of {total} partitions, heads {}; {}, tombstones included, about {}",
            status.held_partitions,
            status.owned_partitions,
            counted(status.key_count, "key"),
            HumanBytes(status.key_bytes)
        ),
        format!(
            "{} of a key; history: {}, {}",
            counted(replicas.into(), "replica"),
            counted(status.change_count, "change"),
            short(status)
        ),
    ];
    if status.parameters.is_none() {
        lines.push("it has found no cluster yet; wait, or start it with --join".to_owned());
    }
    if judgment.unavailable_count > 0 {
        lines.push(format!(
            "in {} reads or writes find no quorum: too few are up of those who must answer",
            counted(judgment.unavailable_count.into(), "partition")
        ));
    }
    if replicas as usize > status.members.len() {
        let missing = replicas as usize - status.members.len();
        let replicas = counted(replicas.into(), "replica");
        lines.push(format!(
            "for {replicas} it takes {} more: `quorate start --join …`",
            counted(missing as u64, "member")
        ));
    }
    if let Some(failure) = &status.store_failure {
        lines.push(format!("its store refuses writes: {failure}"));
    }
    lines.extend(filling::lines(status));
    lines.extend(report.repair.as_ref().map(repair::line));
    lines.extend(report.check.as_ref().map(verify::line));
    if status.hint_count > 0 {
        let hints = counted(status.hint_count, "hint");
        lines.push(format!("keeps {hints} ({} bytes) for members that were away: `quorate hints`", status.hint_bytes));
    }
    if status.marked_partitions > 0 {
        let partitions = counted(status.marked_partitions.into(), "partition");
        lines.push(format!(
            "gave up hints in {partitions}: replicas differ there until they are compared: `quorate repair`"
        ));
    }
    if status.alert_count > 0 {
        lines.push(format!("{} for its administrator: `quorate alerts`", counted(status.alert_count.into(), "alert")));
    }
    if status.damaged_count > 0 {
        lines.push(format!("{} records were found damaged since it started", status.damaged_count));
    }
    lines.extend(failures(status));
    lines.push(members::table(status, view.ring.as_deref()));
    lines.join("\n")
}

/// With whom the last exchange came to nothing, and why.
fn failures(status: &Status) -> impl Iterator<Item = String> {
    status.pairs.iter().filter_map(|pair| match &pair.last {
        Some(LastExchange::Failed(detail)) => {
            let member = status.members.iter().find(|member| member.node == pair.node);
            let name = member.map_or_else(|| peer_text(&pair.node), |member| member.profile.name.to_string());
            Some(format!("could not be compared with {name}: {detail}"))
        }
        Some(LastExchange::InStep | LastExchange::Apart) | None => None,
    })
}

fn short(status: &Status) -> String {
    let mut digest = status.history.to_string();
    digest.truncate(12);
    digest
}

/// The name of the node that was asked.
pub(crate) fn name_of(status: &Status) -> String {
    let me = status.members.iter().find(|member| member.node == status.node);
    me.map_or_else(String::new, |member| member.profile.name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::samples::{node, repair, report, settled_view, status, view},
        wire::{administration::CheckStatus, client::Reach},
    };

    fn text(answer: Answer) -> String {
        match answer.text {
            Text::Lines(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn how_healthy_the_cluster_is_is_told_by_a_word_a_code_and_numbers() {
        use Reach::{Down, Up};
        let check = |states: &[Reach], word: &str, code: u8, counts: (u64, u64)| {
            let answer = answer(&status(states), &report(), &settled_view(states.len()));
            assert_eq!(answer.exit.code(), code);
            let json = answer.into_single_json();
            assert_eq!(json["state"], word);
            let count = |name: &str| json["partitions"][name].as_u64().unwrap();
            assert_eq!((count("degraded"), count("unavailable")), counts);
        };
        check(&[Up, Up, Up], "healthy", 0, (0, 0));
        check(&[Up, Up, Down], "degraded", 10, (16, 0));
        check(&[Up, Down, Down], "unavailable", 11, (0, 16));
        let said = |states: &[Reach]| text(answer(&status(states), &report(), &settled_view(3)));
        assert!(
            said(&[Up, Down, Down]).contains("in 16 partitions reads or writes find no quorum"),
            "{}",
            said(&[Up, Down, Down])
        );
        assert!(!said(&[Up, Up, Down]).contains("no quorum"));
    }

    #[test]
    fn a_store_that_refuses_is_degraded_and_said() {
        let failing = Status { store_failure: Some("disk full".to_owned()), ..status(&[Reach::Up; 3]) };
        let answer = answer(&failing, &report(), &view(3));
        assert_eq!(answer.exit, Exit::Degraded);
        assert!(text(answer).contains("disk full"));
    }

    #[test]
    fn the_status_has_the_fields_that_scripts_rely_on() {
        let json = answer(&status(&[Reach::Up, Reach::Down, Reach::Up]), &report(), &view(3)).into_single_json();
        for path in [
            "/state",
            "/node/peer_id",
            "/node/name",
            "/members/0/peer_id",
            "/members/0/name",
            "/members/0/state",
            "/members/0/membership",
            "/members/0/zone",
            "/members/0/weight",
            "/history/changes",
            "/history/digest",
            "/partitions/total",
            "/partitions/held",
            "/partitions/owned",
            "/partitions/filling",
            "/partitions/degraded",
            "/partitions/unavailable",
            "/partitions/filled",
            "/partitions/handing_over",
            "/filling",
            "/keys",
            "/hints/count",
            "/hints/bytes",
            "/exchanges",
            "/repair",
            "/verify",
        ] {
            assert!(json.pointer(path).is_some(), "{path}");
        }
        assert_eq!((&json["state"], &json["members"][1]["state"]), (&json!("degraded"), &json!("down")));
    }

    #[test]
    fn how_the_asked_member_and_each_other_stand_is_told() {
        let pair = |number, agreed_ms, last| PairStatus { node: node(number), shared_partitions: 16, agreed_ms, last };
        let failed = LastExchange::Failed("it is busy with others".to_owned());
        let pairs =
            vec![pair(1, Some(1_500), Some(LastExchange::InStep)), pair(2, None, Some(failed)), pair(9, None, None)];
        let told = Status { pairs, ..status(&[Reach::Up; 3]) };
        let json = answer(&told, &report(), &view(3)).into_single_json();
        let expected = json!([
            { "peer_id": peer_text(&node(1)), "name": "node-1", "shared_partitions": 16, "agreed_seconds": 1.5,
              "last": "in_step" },
            { "peer_id": peer_text(&node(2)), "name": "node-2", "shared_partitions": 16, "agreed_seconds": null,
              "last": "failed", "detail": "it is busy with others" },
            { "peer_id": peer_text(&node(9)), "name": null, "shared_partitions": 16, "agreed_seconds": null,
              "last": null },
        ]);
        assert_eq!(json["exchanges"], expected);
        let text = text(answer(&told, &report(), &view(3)));
        assert!(text.contains("could not be compared with node-2: it is busy") && text.contains("1 s ago"), "{text}");
    }

    #[test]
    fn what_a_member_cannot_vouch_for_is_a_number_and_a_sentence() {
        let told = Status { filling_partitions: 7, ..status(&[Reach::Up; 3]) };
        assert_eq!(answer(&told, &report(), &view(3)).into_single_json()["partitions"]["filling"], 7);
        let said = text(answer(&told, &report(), &view(3)));
        assert!(said.contains("cannot vouch for 7 partitions") && said.contains("wiped"), "{said}");
        assert!(said.contains("filling: 0 % done, 7 partitions left, time left unknown"), "{said}");
        assert!(!text(answer(&status(&[Reach::Up; 3]), &report(), &view(3))).contains("vouch"));
    }

    #[test]
    fn a_repair_and_a_look_at_everything_can_be_followed() {
        let check = CheckStatus { buckets_total: 16, buckets_done: 4, ..CheckStatus::default() };
        let going = ExchangeReport { repair: Some(repair(7)), check: Some(check), ..report() };
        let json = answer(&status(&[Reach::Up; 3]), &going, &view(3)).into_single_json();
        assert_eq!((&json["repair"]["over"], &json["verify"]["buckets_done"]), (&json!(true), &json!(4)));
        assert_eq!(json["repair"].get("trace"), None);
        let said = text(answer(&status(&[Reach::Up; 3]), &going, &view(3)));
        assert!(said.contains("repaired: ") && said.contains("verifies: 4 of 16 buckets"), "{said}");
    }
}
