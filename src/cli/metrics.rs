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
    });
    Answer::one(json, Text::Lines(to_text(status, &metrics)))
}

fn metrics(status: &Status) -> Vec<Metric> {
    let members = |state| status.members.iter().filter(|member| member.state == state).count() as u64;
    let gauges = [
        ("keys", "Keys in the node's store, tombstones included.", status.key_count),
        ("partitions_held", "Partitions of whose row the node is.", status.held_partitions.into()),
        ("partitions_owned", "Partitions whose row the node heads.", status.owned_partitions.into()),
        ("members_up", "Members that the node reaches, itself included.", members(Reach::Up)),
        ("members_suspect", "Members that are slower than usual.", members(Reach::Suspect)),
        ("members_down", "Members that the node does not reach.", members(Reach::Down)),
        ("hints", "Hints that the node keeps for others.", status.hint_count),
        ("hint_bytes", "Size of those hints.", status.hint_bytes),
        ("marked_partitions", "Partitions in which hints were given up.", status.marked_partitions.into()),
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
    use crate::cli::samples::{node, status};

    fn busy() -> Status {
        let counters = vec![("hints_kept".to_owned(), 7), ("odd} 1\nforged".to_owned(), 8), (String::new(), 9)];
        Status { hint_count: 3, hint_bytes: 300, counters, ..status(&[Reach::Up, Reach::Down, Reach::Up]) }
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
    fn every_metric_is_told_once_and_the_same_in_json() {
        let metrics = metrics(&busy());
        let names: BTreeSet<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names.len(), metrics.len());
        let json = answer(&busy()).into_single_json();
        assert_eq!(json["metrics"].as_object().unwrap().len(), metrics.len());
        assert_eq!((&json["metrics"]["quorate_hints"], &json["node"]["name"]), (&json!(3), &json!("node-0")));
    }

    #[test]
    fn a_label_cannot_leave_its_quotes() {
        assert_eq!(label("a\"b\\c\nd"), r#""a\"b\\c\nd""#);
    }
}
