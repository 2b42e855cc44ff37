//! `quorate ring`: which members serve which partition, and what the asked one holds of it.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value as Json, json};

use crate::{
    cli::{
        connect::Session,
        error::CliError,
        members::{new_table, to_lines},
        output::{Answer, Text},
        text::{counted, peer_text},
    },
    membership::view::View,
    ring::{Ring, token::Partition},
    wire::administration::RootStatus,
};

/// Arguments of `ring`.
#[derive(Debug, Clone, Args)]
pub struct RingArgs {
    /// Also what the asked node holds of each partition: equal roots, equal data.
    #[arg(long)]
    pub roots: bool,
}

/// What a node holds, by partition.
type Roots = BTreeMap<Partition, RootStatus>;

/// Asks.
pub(crate) async fn run(session: &Session, args: &RingArgs) -> Result<Answer, CliError> {
    let roots = match args.roots {
        true => Some(session.client.roots().await.map_err(|error| session.explain(error))?),
        false => None,
    };
    let roots: Option<Roots> = roots.map(|roots| roots.into_iter().map(|root| (root.partition, root)).collect());
    let view = session.client.view();
    match &view.ring {
        Some(ring) => Ok(answer(ring, roots.as_ref(), |index| name_of(&view, ring, index))),
        None => Err(CliError::Missing { detail: "the node has found no cluster yet, so there is no ring".to_owned() }),
    }
}

/// `name` gives the name of the member at a place in [`Ring::members`].
fn answer(ring: &Ring, roots: Option<&Roots>, name: impl Fn(usize) -> String) -> Answer {
    let partitions = ring.partitions();
    let lines = partitions.iter().map(|partition| {
        let row: Vec<String> = ring.row(partition).iter().map(peer_text).collect();
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
    let mut text = to_text(ring, name);
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

fn to_text(ring: &Ring, name: impl Fn(usize) -> String) -> String {
    let total = ring.partitions().get();
    let counts = [
        counted(total.into(), "partition"),
        counted(ring.replicas().into(), "replica"),
        counted(ring.members().len() as u64, "member"),
    ];
    let head = counts.join(", ");
    let mut table = new_table(["", "name", "partitions", "share", "heads", "first tokens", "peer id"]);
    let vnode_count: usize = ring.members().iter().map(|member| ring.held_by(&member.id).count()).sum();
    for (index, member) in ring.members().iter().enumerate() {
        let (held, tokens) = (ring.held_by(&member.id).count(), ring.tokens_of(&member.id));
        let first = tokens.iter().take(TOKENS_SHOWN).map(|token| token.first_token(ring.partitions()).to_string());
        let more = if tokens.len() > TOKENS_SHOWN { " …" } else { "" };
        table.add_row([
            letter(index).to_string(),
            name(index),
            held.to_string(),
            format!("{:.1} %", held as f64 * 100.0 / vnode_count.max(1) as f64),
            tokens.len().to_string(),
            first.collect::<Vec<_>>().join(" ") + more,
            peer_text(&member.id),
        ]);
    }
    format!("{head}\n{}\n\nwho heads which partition:\n{}", to_lines(&table), picture(ring))
}

/// One letter a partition, in the order of the ring: who heads its row. A picture of at most [`PICTURE_LETTERS_MAX`]
/// letters; of a larger ring every second, fourth, … partition.
fn picture(ring: &Ring) -> String {
    let step = (ring.partitions().get() as usize).div_ceil(PICTURE_LETTERS_MAX);
    let head_of = |partition| {
        let head = ring.row(partition).first()?;
        ring.members().iter().position(|member| member.id == *head)
    };
    let heads = ring.partitions().iter().step_by(step).map(|partition| head_of(partition).map_or('·', letter));
    let letters: Vec<char> = heads.collect();
    letters.chunks(PICTURE_WIDTH).map(|line| line.iter().collect::<String>()).collect::<Vec<_>>().join("\n")
}

/// The letter of a member; beyond 62 they come again.
fn letter(index: usize) -> char {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    char::from(LETTERS[index % LETTERS.len()])
}

/// Tokens of a member that are written out.
const TOKENS_SHOWN: usize = 3;
const PICTURE_WIDTH: usize = 64;
const PICTURE_LETTERS_MAX: usize = 1_024;

fn name_of(view: &View, ring: &Ring, index: usize) -> String {
    let member = ring.members().get(index).and_then(|member| view.members.get(&member.id));
    member.map_or_else(String::new, |member| member.profile.name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::samples::{node, ring},
        wire::exchange::Root,
    };

    #[test]
    fn there_is_one_object_a_partition_with_its_token_and_its_row() {
        let answer = answer(&ring(5), None, |index| format!("node-{index}"));
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
        let answer = answer(&ring, Some(&Roots::from([(held, root)])), |index| format!("node-{index}"));
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

    #[test]
    fn the_picture_has_a_letter_for_each_partition() {
        let picture = picture(&ring(5));
        assert_eq!(picture.chars().count(), 16);
        assert!(picture.chars().all(|letter| ('A'..='E').contains(&letter)), "{picture}");
        assert_eq!(self::picture(&ring(0)), "·".repeat(16));
    }
}
