//! `quorate ring --key`: where one key stands on the ring, who keeps it, and who would stand in for them.
//!
//! The row and the fallbacks are a function of the ring and the key: every member tells the same, before and after a
//! restart. Whether a member is up is the asked one's own opinion, so it is for people only.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::{
    cli::{
        members::{new_table, reach_text, to_lines},
        output::{Answer, Text},
        ring_table::{member_of, zone_text},
        text::{key_json, peer_text, printable},
    },
    ident::{Key, NodeId},
    ring::{Ring, token::Token},
    wire::client::Reach,
};

/// Whom the asked member reaches; nobody's state is known where it could not be asked.
pub(crate) type Reaches = BTreeMap<NodeId, Reach>;

/// Where `key` stands on `ring`. `name` gives a member's name.
pub(crate) fn answer(key: &Key, ring: &Ring, reaches: &Reaches, name: impl Fn(&NodeId) -> String) -> Answer {
    let partition = ring.partition_of(key);
    let (row, fallbacks) = (ring.row(partition), ring.fallbacks(partition).collect::<Vec<NodeId>>());
    let texts = |nodes: &[NodeId]| Json::from(nodes.iter().map(peer_text).collect::<Vec<_>>());
    let mut json = key_json(key);
    json.insert("token".to_owned(), Token::of(key).to_string().into());
    json.insert("partition".to_owned(), partition.0.into());
    json.insert("row".to_owned(), texts(row));
    json.insert("fallbacks".to_owned(), texts(&fallbacks));

    let head = format!(
        "key {}\ntoken {}, partition {partition} of {}",
        printable(key.as_bytes()),
        Token::of(key),
        ring.partitions()
    );
    let who = match row {
        [] => "there are no members, so nobody keeps it".to_owned(),
        _ => members_text(ring, row, &fallbacks, reaches, name),
    };
    Answer::one(Json::Object(json), Text::Lines(format!("{head}\n\n{who}")))
}

/// The row, then the fallbacks, as one table: so that their columns agree.
fn members_text(
    ring: &Ring,
    row: &[NodeId],
    fallbacks: &[NodeId],
    reaches: &Reaches,
    name: impl Fn(&NodeId) -> String,
) -> String {
    let mut table = new_table(["", "name", "state", "zone", "peer id"]);
    for (number, node) in (1..).zip(row.iter().chain(fallbacks)) {
        table.add_row([
            number.to_string(),
            name(node),
            reaches.get(node).map_or("unknown", |reach| reach_text(*reach)).to_owned(),
            zone_text(member_of(ring, node)),
            peer_text(node),
        ]);
    }
    let text = to_lines(&table);
    let lines: Vec<&str> = text.lines().collect();
    // The header is the first line.
    let (row_lines, fallback_lines) = lines.split_at(1 + row.len());
    let row_text = format!("its row, in order:\n{}", row_lines.join("\n"));
    match fallback_lines {
        [] => format!("{row_text}\nno fallbacks: every member is in its row"),
        lines => format!("{row_text}\nits fallbacks, in the order in which they stand in:\n{}", lines.join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::samples::{node, ring};

    fn key(bytes: &[u8]) -> Key {
        Key::new(bytes).unwrap()
    }

    fn name(node: &NodeId) -> String {
        format!("name-of-{:02x}", node.0[0])
    }

    fn text_of(answer: &Answer) -> &str {
        let Text::Lines(text) = &answer.text else { panic!("lines") };
        text
    }

    #[test]
    fn programs_get_the_key_its_place_its_row_and_its_fallbacks() {
        let (ring, key) = (ring(5), key(b"cart"));
        let json = answer(&key, &ring, &Reaches::new(), name).into_single_json();
        let partition = Token::of(&key).partition(ring.partitions());
        let ranking: Vec<String> = ring.ranking(partition).iter().map(peer_text).collect();
        let expected = json!({
            "key": "cart",
            "token": Token::of(&key).to_string(),
            "partition": partition.0,
            "row": ranking[..3],
            "fallbacks": ranking[3..],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn a_key_that_is_no_text_is_told_in_base64() {
        let answer = answer(&key(&[0xff]), &ring(1), &Reaches::new(), name);
        assert!(text_of(&answer).starts_with("key \\xff\ntoken "), "{}", text_of(&answer));
        assert_eq!(answer.into_single_json()["key_base64"], "/w==");
    }

    #[test]
    fn people_see_the_row_in_order_then_the_fallbacks_and_who_is_up() {
        let (ring, key) = (ring(5), key(b"cart"));
        let ranking = ring.ranking(ring.partition_of(&key));
        let states = [Reach::Up, Reach::Suspect, Reach::Down, Reach::Up];
        let reaches: Reaches = ranking.iter().copied().zip(states).collect();
        let answer = answer(&key, &ring, &reaches, name);
        let lines: Vec<&str> = text_of(&answer).lines().collect();
        assert_eq!((lines[0], lines[3]), ("key cart", "its row, in order:"));
        assert_eq!(lines[8], "its fallbacks, in the order in which they stand in:");
        let told = lines[5..8].iter().chain(&lines[9..]);
        let words = ["up", "suspect", "down", "up", "unknown"];
        assert_eq!(lines.len(), 11);
        for (index, ((line, member), word)) in told.zip(&ranking).zip(words).enumerate() {
            for part in [format!(" {}  ", index + 1), name(member), format!(" {word} "), peer_text(member)] {
                assert!(line.contains(&part), "{line:?} lacks {part:?}");
            }
        }
    }

    #[test]
    fn a_small_cluster_has_no_fallbacks_and_an_empty_one_nobody() {
        let shown = |count| {
            let answer = answer(&key(b"k"), &ring(count), &Reaches::from([(node(0), Reach::Up)]), name);
            text_of(&answer).lines().last().unwrap().to_owned()
        };
        assert_eq!(shown(3), "no fallbacks: every member is in its row");
        assert_eq!(shown(1), "no fallbacks: every member is in its row");
        assert_eq!(shown(0), "there are no members, so nobody keeps it");
    }
}
