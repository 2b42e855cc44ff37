//! `quorate ring`: which members serve which partition, where one key stands, and what the asked one holds.
//!
//! Who serves what is a function of the membership history alone: it is told alike by every member, in the order of
//! peer ids, and after every restart. What the asked member holds (`--roots`) and whom it reaches are its own.

use std::{collections::BTreeMap, ffi::OsString};

use clap::Args;
use serde_json::{Value as Json, json};

use crate::{
    cli::{
        connect::Session,
        error::CliError,
        members::{name_in, new_table, to_lines},
        output::{Answer, Text},
        ring_row::{self, Reaches},
        ring_table,
        text::{key_of, peer_text},
    },
    ident::NodeId,
    ring::{Ring, token::Partition},
    wire::administration::RootStatus,
};

/// Arguments of `ring`.
#[derive(Debug, Clone, Args)]
pub struct RingArgs {
    /// Only the row of this key, and who stands in for its members.
    #[arg(long, value_name = "K", conflicts_with = "roots")]
    pub key: Option<OsString>,
    /// Also what the asked node holds of each partition: equal roots, equal data.
    #[arg(long)]
    pub roots: bool,
}

/// What a node holds, by partition.
type Roots = BTreeMap<Partition, RootStatus>;

/// Asks.
pub(crate) async fn run(session: &Session, args: &RingArgs) -> Result<Answer, CliError> {
    let key = args.key.as_deref().map(key_of).transpose()?;
    let roots = match args.roots {
        true => Some(session.client.roots().await.map_err(|error| session.explain(error))?),
        false => None,
    };
    let roots: Option<Roots> = roots.map(|roots| roots.into_iter().map(|root| (root.partition, root)).collect());
    let view = session.client.view();
    let name = |node: &NodeId| name_in(&view, node).unwrap_or_default();
    match (&view.ring, key) {
        (Some(ring), Some(key)) => Ok(ring_row::answer(&key, ring, &reaches(session).await, name)),
        (Some(ring), None) => Ok(answer(ring, roots.as_ref(), name)),
        (None, _) => {
            Err(CliError::Missing { detail: "the node has found no cluster yet, so there is no ring".to_owned() })
        }
    }
}

/// Whom the asked member reaches. Nobody is in it when that member does not answer: the row is known all the same.
async fn reaches(session: &Session) -> Reaches {
    match session.client.status().await {
        Ok(status) => status.members.iter().map(|member| (member.node, member.state)).collect(),
        Err(_) => Reaches::new(),
    }
}

/// `name` gives the name of a member.
fn answer(ring: &Ring, roots: Option<&Roots>, name: impl Fn(&NodeId) -> String) -> Answer {
    let partitions = ring.partitions();
    // A peer id is dear to make, and each is in many rows.
    let ids: BTreeMap<NodeId, String> =
        ring.members().iter().map(|member| (member.id, peer_text(&member.id))).collect();
    let lines = partitions.iter().map(|partition| {
        let row: Vec<&String> = ring.row(partition).iter().filter_map(|node| ids.get(node)).collect();
        let mut json = json!({
            "partition": partition.0,
            "token": partition.first_token(partitions).to_string(),
            "row": row,
        });
        if roots.is_some() {
            // One configuration is active as long as nothing moves: the row.
            json["configurations"] = json!([row]);
        }
        if let Some(root) = roots.and_then(|roots| roots.get(&partition)) {
            json["root"] = root_text(root).into();
            json["count"] = root.count.into();
            json["filled"] = root.filled.into();
        }
        json
    });
    let lines: Vec<Json> = lines.collect();
    let mut text = ring_table::to_text(ring, name);
    if let Some(roots) = roots {
        text = format!("{text}\n\nwhat the asked node holds:\n{}", roots_table(ring, roots));
    }
    Answer::many(lines, Text::Lines(text))
}

fn roots_table(ring: &Ring, roots: &Roots) -> String {
    let mut table = new_table(["partition", "token", "keys", "filled", "root"]);
    for (partition, root) in roots {
        table.add_row([
            partition.to_string(),
            partition.first_token(ring.partitions()).to_string(),
            root.count.to_string(),
            if root.filled { "yes" } else { "no" }.to_owned(),
            root_text(root),
        ]);
    }
    to_lines(&table)
}

/// A root as 32 hexadecimal digits.
fn root_text(root: &RootStatus) -> String {
    root.root.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::samples::{node, ring},
        wire::exchange::Root,
    };

    fn name(node: &NodeId) -> String {
        format!("name-of-{:02x}", node.0[0])
    }

    #[test]
    fn there_is_one_object_a_partition_with_its_token_and_its_row() {
        let answer = answer(&ring(5), None, name);
        let json = answer.into_single_json();
        let lines = json["lines"].as_array().unwrap();
        assert_eq!(lines.len(), 16);
        assert_eq!(lines[3]["partition"], 3);
        assert_eq!(lines[3]["token"], "3000000000000000");
        assert_eq!(lines[3]["row"].as_array().unwrap().len(), 3);
        assert_eq!(lines[3].as_object().unwrap().len(), 3);
    }

    #[test]
    fn roots_are_told_of_what_the_asked_node_holds_and_configurations_of_all() {
        let ring = ring(5);
        let held = ring.held_by(&node(0)).next().unwrap();
        let root = RootStatus { partition: held, count: 7, root: Root([0xab; 16]), filled: false };
        let answer = answer(&ring, Some(&Roots::from([(held, root)])), name);
        let Text::Lines(text) = &answer.text else { panic!("lines") };
        let row = text.lines().last().unwrap();
        assert!(row.contains(&"ab".repeat(16)) && row.contains('7') && row.contains("no"), "{text}");
        let json = answer.into_single_json();
        let line = |partition: Partition| json["lines"][usize::from(partition.0)].clone();
        assert_eq!(line(held)["root"], "ab".repeat(16));
        assert_eq!((&line(held)["count"], &line(held)["filled"]), (&json!(7), &json!(false)));
        assert_eq!(line(held)["configurations"], json!([line(held)["row"]]));
        let elsewhere = ring.partitions().iter().find(|partition| *partition != held).unwrap();
        assert_eq!((line(elsewhere).get("root"), line(elsewhere)["configurations"].is_array()), (None, true));
    }
}
