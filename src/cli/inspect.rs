//! `quorate inspect`: what each replica holds of one key.

use std::ffi::OsString;

use clap::Args;
use serde_json::{Value as Json, json};

use crate::{
    cli::{
        connect::Session,
        error::CliError,
        members::{new_table, to_lines},
        output::{Answer, Text},
        text::{clock_json, key_of, peer_text},
    },
    wire::client::{InspectedReplica, Inspection},
};

/// Arguments of `inspect`.
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// The key.
    pub key: OsString,
}

/// Asks.
pub(crate) async fn run(session: &Session, args: InspectArgs) -> Result<Answer, CliError> {
    let key = key_of(&args.key)?;
    let inspection = session.client.inspect(&key).await.map_err(|error| session.explain(error))?;
    Ok(answer(&inspection))
}

fn answer(inspection: &Inspection) -> Answer {
    let json = json!({
        "partition": inspection.partition,
        "row": inspection.row.iter().map(to_json).collect::<Vec<_>>(),
        "hints": [],
    });
    Answer::one(json, Text::Lines(to_text(inspection)))
}

fn to_json(replica: &InspectedReplica) -> Json {
    let state = replica.state.as_ref();
    json!({
        "peer_id": peer_text(&replica.node),
        "primary": true,
        "reachable": state.is_some(),
        // Ownership moves with the row for now, so a member of the row that answers holds the partition.
        "filled": state.is_some(),
        "hash": state.map(|state| state.hash.to_string()),
        "clock": state.map(|state| clock_json(&state.clock)),
        "siblings": state.map(|state| state.sibling_count),
    })
}

fn to_text(inspection: &Inspection) -> String {
    let mut table = new_table(["peer id", "reachable", "siblings", "hash", "clock"]);
    for replica in &inspection.row {
        let dash = || "-".to_owned();
        let state = replica.state.as_ref();
        table.add_row([
            peer_text(&replica.node),
            if state.is_some() { "yes".to_owned() } else { "no".to_owned() },
            state.map_or_else(dash, |state| state.sibling_count.to_string()),
            state.map_or_else(dash, |state| state.hash.to_string()[..12].to_owned()),
            state.map_or_else(dash, |state| clock_json(&state.clock).to_string()),
        ]);
    }
    let mut hashes: Vec<_> = inspection.row.iter().filter_map(|replica| replica.state.as_ref()).collect();
    hashes.dedup_by_key(|state| state.hash);
    let verdict = match hashes.len() {
        0 => "no replica answered",
        1 => "all that answered hold the same",
        _ => "they differ: the next read repairs them",
    };
    format!("partition {}\n{}\n{verdict}", inspection.partition, to_lines(&table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        causality::version_vector::VersionVector, cli::samples::node, digest::Digest, wire::client::InspectedState,
    };

    fn replica(number: u8, hash: Option<u8>) -> InspectedReplica {
        let state = |hash| InspectedState { hash: Digest([hash; 32]), clock: VersionVector::new(), sibling_count: 1 };
        InspectedReplica { node: node(number), state: hash.map(state) }
    }

    #[test]
    fn each_replica_is_told_with_the_fields_that_scripts_rely_on() {
        let json = answer(&Inspection { partition: 7, row: vec![replica(0, Some(1)), replica(1, None)] });
        let json = json.into_single_json();
        for field in ["peer_id", "primary", "reachable", "filled", "hash", "clock", "siblings"] {
            assert!(json["row"][0].get(field).is_some(), "{field}");
        }
        assert_eq!((&json["partition"], &json["row"][1]["reachable"]), (&json!(7), &json!(false)));
        assert_eq!(json["hints"], json!([]));
    }

    #[test]
    fn replicas_that_differ_are_named_so() {
        let text = |row| to_text(&Inspection { partition: 0, row });
        assert!(text(vec![replica(0, Some(1)), replica(1, Some(1))]).contains("the same"));
        assert!(text(vec![replica(0, Some(1)), replica(1, Some(2))]).contains("differ"));
        assert!(text(vec![replica(0, None)]).contains("no replica answered"));
    }
}
