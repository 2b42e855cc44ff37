//! `quorate metrics`: the counters and gauges of a node, in the text format of Prometheus.
//!
//! For a textfile collector: nodes speak libp2p and nothing else, so nobody can scrape them over HTTP. Counters begin at
//! zero when the node starts. Every sample names the node, so that the files of several nodes of one machine can be
//! collected together.

use serde_json::{Map, Value as Json, json};

use crate::{
    cli::{
        connect::Session,
        error::CliError,
        filling::handing_over,
        output::{Answer, Text},
        status::name_of,
        text::peer_text,
    },
    wire::client::{Reach, Status},
};

/// Asks.
pub(crate) async fn run(session: &Session) -> Result<Answer, CliError> {
    let status = session.client.status().await.map_err(|error| session.explain(error))?;
    Ok(answer(&status))
}

/// One number of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Metric {
    name: String,
    kind: &'static str,
    help: &'static str,
    value: u64,
}

fn answer(status: &Status) -> Answer {
    let metrics = metrics(status);
    let numbers: Map<String, Json> =
        metrics.iter().map(|metric| (metric.name.clone(), Json::from(metric.value))).collect();
    let json = json!({
        "node": { "peer_id": peer_text(&status.node), "name": name_of(status) },
        "cluster": status.cluster.as_str(),
        "metrics": numbers,
        "seconds_since_agreement": agreements(status).collect::<Map<_, _>>(),
    });
    Answer::one(json, Text::Lines(to_text(status, &metrics)))
}

fn metrics(status: &Status) -> Vec<Metric> {
    let members = |state| status.members.iter().filter(|member| member.state == state).count() as u64;
    let gauges = [
        ("keys", "Keys in the node's store, tombstones included.", status.key_count),
        ("key_bytes", "About how many bytes those take.", status.key_bytes),
        ("partitions_held", "Partitions of whose row the node is.", status.held_partitions.into()),
        ("partitions_owned", "Partitions whose row the node heads.", status.owned_partitions.into()),
        ("members_up", "Members that the node reaches, itself included.", members(Reach::Up)),
        ("members_suspect", "Members that are slower than usual.", members(Reach::Suspect)),
        ("members_down", "Members that the node does not reach.", members(Reach::Down)),
        ("hints", "Hints that the node keeps for others.", status.hint_count),
        ("hint_bytes", "Size of those hints.", status.hint_bytes),
        ("marked_partitions", "Partitions in which hints were given up.", status.marked_partitions.into()),
        ("filling_partitions", "Partitions that the node cannot vouch for yet.", status.filling_partitions.into()),
        ("handing_over_partitions", "Partitions that the node is to hold no more.", handing_over(status).into()),
        ("alerts", "Alerts that stand.", status.alert_count.into()),
        ("store_writable", "Whether the store takes writes.", u64::from(status.store_failure.is_none())),
    ];
    let counters = [
        ("commits", "Commits of the store.", status.commit_count),
        ("writes", "Changes that were committed.", status.write_count),
        ("damaged", "Records that were found damaged.", status.damaged_count),
    ];
    let gauges = gauges.into_iter().map(|(name, help, value)| Metric {
        name: format!("quorate_{name}"),
        kind: "gauge",
        help,
        value,
    });
    let counter = |(name, help, value): (&str, _, _)| Metric {
        name: format!("quorate_{name}_total"),
        kind: "counter",
        help,
        value,
    };
    // A name comes from the node: what is none is left out, so that the file stays readable whatever it says.
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let told = status.counters.iter().filter(|(name, _)| is_name(name));
    let told = told.map(|(name, value)| counter((name.as_str(), "", *value)));
    gauges.chain(counters.into_iter().map(counter)).chain(told).collect()
}

/// For each other member of the node's rows, by peer id, the seconds since the two last held the same; those for which
/// that has not happened yet are left out.
fn agreements(status: &Status) -> impl Iterator<Item = (String, Json)> {
    let agreed = status.pairs.iter().filter_map(|pair| Some((&pair.node, pair.agreed_ms?)));
    agreed.map(|(node, ms)| (peer_text(node), Json::from(ms / 1_000)))
}

fn to_text(status: &Status, metrics: &[Metric]) -> String {
    let node = label(&peer_text(&status.node));
    let (name, cluster) = (label(&name_of(status)), label(status.cluster.as_str()));
    let mut lines = vec![
        "# HELP quorate_node_info Which node this is.".to_owned(),
        "# TYPE quorate_node_info gauge".to_owned(),
        format!("quorate_node_info{{node={node},name={name},cluster={cluster}}} 1"),
    ];
    for Metric { name, kind, help, value } in metrics {
        if !help.is_empty() {
            lines.push(format!("# HELP {name} {help}"));
        }
        lines.push(format!("# TYPE {name} {kind}"));
        lines.push(format!("{name}{{node={node}}} {value}"));
    }
    const AGREEMENT: &str = "quorate_seconds_since_agreement";
    for (index, (peer, seconds)) in agreements(status).enumerate() {
        if index == 0 {
            lines.push(format!("# HELP {AGREEMENT} Seconds since the node and this peer last held the same."));
            lines.push(format!("# TYPE {AGREEMENT} gauge"));
        }
        lines.push(format!("{AGREEMENT}{{node={node},peer={}}} {seconds}", label(&peer)));
    }
    lines.join("\n")
}

/// A label's value in quotes.
fn label(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        cli::samples::{node, status},
        wire::administration::PairStatus,
    };

    fn busy() -> Status {
        let counters = vec![("hints_kept".to_owned(), 7), ("odd} 1\nforged".to_owned(), 8), (String::new(), 9)];
        let pair = |number, agreed_ms| PairStatus { node: node(number), shared_partitions: 16, agreed_ms, last: None };
        let pairs = vec![pair(1, Some(12_300)), pair(2, None)];
        Status { hint_count: 3, hint_bytes: 300, counters, pairs, ..status(&[Reach::Up, Reach::Down, Reach::Up]) }
    }

    #[test]
    fn every_line_is_a_comment_or_a_name_with_labels_and_a_number() {
        let Text::Lines(text) = answer(&busy()).text else { panic!("lines") };
        let node = format!("{{node=\"{}\"}}", peer_text(&node(0)));
        for sample in ["quorate_hints_kept_total", "quorate_members_down", "quorate_hint_bytes"] {
            assert!(text.lines().any(|line| line.starts_with(&format!("{sample}{node} "))), "{sample}: {text}");
        }
        assert!(text.contains(&format!("quorate_hints_kept_total{node} 7")), "{text}");
        assert!(text.contains(&format!("quorate_members_down{node} 1")), "{text}");
        for line in text.lines().filter(|line| !line.starts_with("# ")) {
            let (name, number) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("quorate_") && name.ends_with('}') && number.parse::<u64>().is_ok(), "{line}");
        }
        assert!(!text.contains("forged"), "{text}");
    }

    #[test]
    fn the_time_since_a_pair_agreed_names_the_peer_and_is_left_out_before_it_has() {
        let Text::Lines(text) = answer(&busy()).text else { panic!("lines") };
        let told: Vec<&str> = text.lines().filter(|line| line.starts_with("quorate_seconds_since_agreement")).collect();
        let (node, peer) = (peer_text(&node(0)), peer_text(&node(1)));
        assert_eq!(told, [format!("quorate_seconds_since_agreement{{node=\"{node}\",peer=\"{peer}\"}} 12")]);
        let comments = text.lines().filter(|line| line.starts_with("# ") && line.contains("quorate_seconds_since"));
        assert_eq!(comments.count(), 2, "{text}");
    }

    #[test]
    fn every_metric_is_told_once_and_the_same_in_json() {
        let metrics = metrics(&busy());
        let names: BTreeSet<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names.len(), metrics.len());
        let json = answer(&busy()).into_single_json();
        assert_eq!(json["metrics"].as_object().unwrap().len(), metrics.len());
        assert_eq!(json["seconds_since_agreement"], json!({ peer_text(&node(1)): 12 }));
        assert_eq!((&json["metrics"]["quorate_hints"], &json["node"]["name"]), (&json!(3), &json!("node-0")));
    }

    #[test]
    fn a_label_cannot_leave_its_quotes() {
        assert_eq!(label("a\"b\\c\nd"), r#""a\"b\\c\nd""#);
    }
}
