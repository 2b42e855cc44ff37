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
        filling,
        members::{name_in, new_table, to_lines},
        output::{Answer, Text},
        ring_row::{self, Reaches},
        ring_table,
        text::{key_of, peer_text},
    },
    ident::NodeId,
    membership::configuration::Configurations,
    ring::{Ring, token::Partition},
    wire::{administration::RootStatus, client::Status},
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
    let status = session.client.status().await.ok();
    let view = session.client.view();
    let name = |node: &NodeId| name_in(&view, node).unwrap_or_default();
    match (&view.ring, key) {
        (Some(ring), Some(key)) => Ok(ring_row::answer(&key, ring, &reaches(status.as_ref()), name)),
        (Some(ring), None) => {
            let filling = status.as_ref().and_then(filling::line);
            Ok(answer(ring, roots.as_ref().map(|roots| (roots, &view.configurations)), filling, name))
        }
        (None, _) => {
            Err(CliError::Missing { detail: "the node has found no cluster yet, so there is no ring".to_owned() })
        }
    }
}

/// Whom the asked member reaches. Nobody is in it when that member does not answer: the row is known all the same.
fn reaches(status: Option<&Status>) -> Reaches {
    let members = status.into_iter().flat_map(|status| &status.members);
    members.map(|member| (member.node, member.state)).collect()
}

/// `name` gives the name of a member, `filling` says how far the asked one is with filling, if it does. With roots it is
/// also told which rows quorums are asked for in.
fn answer(
    ring: &Ring,
    roots: Option<(&Roots, &Configurations)>,
    filling: Option<String>,
    name: impl Fn(&NodeId) -> String,
) -> Answer {
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
        if let Some((_, configurations)) = roots {
            // Its members may have left the ring since.
            let texts = |row: &&[NodeId]| -> Vec<String> {
                row.iter().map(|node| ids.get(node).cloned().unwrap_or_else(|| peer_text(node))).collect()
            };
            json["configurations"] = configurations.active(partition).iter().map(texts).collect::<Vec<_>>().into();
        }
        if let Some(root) = roots.and_then(|(roots, _)| roots.get(&partition)) {
            json["root"] = root_text(root).into();
            json["count"] = root.count.into();
            json["filled"] = root.filled.into();
        }
        json
    });
    let lines: Vec<Json> = lines.collect();
    let mut text = ring_table::to_text(ring, name);
    if let Some(filling) = filling {
        text = format!("{text}\n{filling}");
    }
    if let Some((roots, configurations)) = roots {
        text = format!("{text}\n\nwhat the asked node holds:\n{}", roots_table(ring, roots, configurations));
    }
    Answer::many(lines, Text::Lines(text))
}

fn roots_table(ring: &Ring, roots: &Roots, configurations: &Configurations) -> String {
    let mut table = new_table(["partition", "token", "keys", "filled", "configurations", "root"]);
    for (partition, root) in roots {
        table.add_row([
            partition.to_string(),
            partition.first_token(ring.partitions()).to_string(),
            root.count.to_string(),
            if root.filled { "yes" } else { "no" }.to_owned(),
            configurations.active(*partition).len().to_string(),
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
        cli::samples::ring,
        membership::{change::ChangeKind, samples::Cluster},
        wire::exchange::Root,
    };

    fn name(node: &NodeId) -> String {
        format!("name-of-{:02x}", node.0[0])
    }

    #[test]
    fn there_is_one_object_a_partition_with_its_token_and_its_row() {
        let answer = answer(&ring(5), None, None, name);
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
        let mut cluster = Cluster::settled(4);
        cluster.say(4, |_| ChangeKind::Leaving);
        (1..=3).for_each(|number| cluster.fill(number));
        let view = cluster.view();
        let ring = view.ring.as_deref().unwrap();
        // What the leaver held is held by three others now as well, and nobody has said yet that it need not keep it.
        let is_twofold = |partition: &Partition| view.configurations.active(*partition).len() == 2;
        let held = view.partitions().find(is_twofold).unwrap();
        let root = RootStatus { partition: held, count: 7, root: Root([0xab; 16]), filled: false };
        let roots = Roots::from([(held, root)]);
        let answer = answer(ring, Some((&roots, &view.configurations)), None, name);
        let Text::Lines(text) = &answer.text else { panic!("lines") };
        let row = text.lines().last().unwrap();
        assert!(row.contains(&"ab".repeat(16)) && row.contains('7') && row.contains("no"), "{text}");
        let json = answer.into_single_json();
        let line = |partition: Partition| json["lines"][usize::from(partition.0)].clone();
        assert_eq!(line(held)["root"], "ab".repeat(16));
        assert_eq!((&line(held)["count"], &line(held)["filled"]), (&json!(7), &json!(false)));
        let configurations = line(held)["configurations"].as_array().unwrap().clone();
        assert_eq!(
            (configurations.len(), configurations.contains(&line(held)["row"])),
            (2, true),
            "{configurations:?}"
        );
        assert!(configurations.iter().any(|row| row.to_string().contains(&peer_text(&cluster.id(4)))));
        let elsewhere = view.partitions().find(|partition| !is_twofold(partition)).unwrap();
        assert_eq!(line(elsewhere).get("root"), None);
        let sorted = |row: &Json| {
            let mut row: Vec<String> = row.as_array().unwrap().iter().map(Json::to_string).collect();
            row.sort();
            row
        };
        let configurations = line(elsewhere)["configurations"].as_array().unwrap().clone();
        assert_eq!(configurations.len(), 1);
        assert_eq!(sorted(&configurations[0]), sorted(&line(elsewhere)["row"]));
    }

    #[test]
    fn below_the_picture_it_is_said_how_far_filling_is() {
        let shown = |filling: Option<&str>| match answer(&ring(5), None, filling.map(str::to_owned), name).text {
            Text::Lines(text) => text,
            other => panic!("{other:?}"),
        };
        let text = shown(Some("filling: 75 % done, 2 partitions left, about 1 s"));
        assert_eq!(text, format!("{}\nfilling: 75 % done, 2 partitions left, about 1 s", shown(None)));
    }
}
