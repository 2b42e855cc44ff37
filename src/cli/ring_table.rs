//! `quorate ring` for people: what each member has of the ring.
//!
//! Pure functions of a ring and the names of its members: who is asked, and when, changes nothing. Members stand in the
//! order of their peer ids, and no line has more than [`WIDTH_MAX`] columns.

use comfy_table::CellAlignment;

use crate::{
    cli::{
        members::{new_table, to_lines},
        ring_picture::{Marks, WIDTH_MAX, picture, ranges},
        text::{counted, peer_text},
    },
    ident::{Name, NodeId},
    ring::{Ring, RingMember, token::Partition},
};

/// The ring for people: its counts, what each member has of it, and its picture. `name` gives the name of a member.
pub(crate) fn to_text(ring: &Ring, name: impl Fn(&NodeId) -> String) -> String {
    let shares = shares_of(ring);
    let counts = [
        counted(ring.partitions().get().into(), "partition"),
        counted(ring.replicas().into(), "replica"),
        counted(ring.members().len() as u64, "member"),
        counted(vnode_total(&shares), "vnode"),
    ];
    let head = counts.join(", ");
    if ring.members().is_empty() {
        return format!("{head}\n\n{}", picture(ring));
    }
    let (members, sets) = (members_table(ring, &shares, name), token_sets(ring, &shares));
    format!("{head}\n\n{members}\n\n{sets}\n\n{}", picture(ring))
}

/// What of a ring is a member's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Share {
    /// Its token set: the partitions whose row it heads, ascending.
    tokens: Vec<Partition>,
    /// In how many rows it is.
    vnode_count: u64,
}

/// The share of each member, in the order of [`Ring::members`]. One walk over the ring, however many there are.
fn shares_of(ring: &Ring) -> Vec<Share> {
    let mut shares = vec![Share::default(); ring.members().len()];
    for partition in ring.partitions().iter() {
        let row = ring.row(partition);
        if let Some(place) = row.first().and_then(|head| place_of(ring, head)) {
            shares[place].tokens.push(partition);
        }
        for place in row.iter().filter_map(|node| place_of(ring, node)) {
            shares[place].vnode_count += 1;
        }
    }
    shares
}

fn vnode_total(shares: &[Share]) -> u64 {
    shares.iter().map(|share| share.vnode_count).sum()
}

/// All members with their shares. At most [`WIDTH_MAX`] columns, so without the peer ids, which take most of that.
fn members_table(ring: &Ring, shares: &[Share], name: impl Fn(&NodeId) -> String) -> String {
    let marks = Marks::new(ring.members().len());
    let total = vnode_total(shares).max(1);
    let mut table = new_table(["", "name", "zone", "weight", "tokens", "vnodes", "share"]);
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for (index, (member, share)) in ring.members().iter().zip(shares).enumerate() {
        table.add_row([
            marks.of(index),
            shortened(&name(&member.id)),
            shortened(&zone_text(Some(member))),
            member.weight.to_string(),
            share.tokens.len().to_string(),
            share.vnode_count.to_string(),
            format!("{:.1} %", share.vnode_count as f64 * 100.0 / total as f64),
        ]);
    }
    to_lines(&table)
}

/// Who each mark is, and the partitions it heads.
fn token_sets(ring: &Ring, shares: &[Share]) -> String {
    let marks = Marks::new(ring.members().len());
    let mut text = "the token set of each (the partitions whose row it heads):".to_owned();
    for (index, (member, share)) in ring.members().iter().zip(shares).enumerate() {
        text += &format!("\n {}  {}", marks.of(index), peer_text(&member.id));
        for line in ranges(&share.tokens, WIDTH_MAX - SET_INDENT.len()) {
            text += &format!("\n{SET_INDENT}{line}");
        }
    }
    text
}

/// What stands before each line of a token set.
const SET_INDENT: &str = "    ";

/// `text`, or its beginning if it has more than [`NAME_COLUMNS`] characters.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(NAME_COLUMNS) {
        None => text.to_owned(),
        Some(_) => text.chars().take(NAME_COLUMNS - 1).chain(['…']).collect(),
    }
}

/// Longest name of a member or a zone in the table of all; `quorate members` tells them whole.
const NAME_COLUMNS: usize = 16;

/// The member of this id.
pub(crate) fn member_of<'a>(ring: &'a Ring, node: &NodeId) -> Option<&'a RingMember> {
    ring.members().get(place_of(ring, node)?)
}

/// The place of `node` in [`Ring::members`].
fn place_of(ring: &Ring, node: &NodeId) -> Option<usize> {
    ring.members().binary_search_by(|member| member.id.cmp(node)).ok()
}

/// The zone of a member, for people.
pub(crate) fn zone_text(member: Option<&RingMember>) -> String {
    member.and_then(|member| member.zone.as_ref()).map_or_else(|| "-".to_owned(), Name::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::samples::{node, ring},
        ring::token::PartitionCount,
    };

    fn name(node: &NodeId) -> String {
        format!("name-of-{:02x}", node.0[0])
    }

    /// Five members that differ in all that a person may choose.
    fn colourful_ring(partitions: u32) -> Ring {
        let member = |number: u8| RingMember {
            id: node(number),
            placement: node(number),
            zone: (number > 0).then(|| Name::new(&"z".repeat(usize::from(number) * 16)).unwrap()),
            weight: u16::from(number) + 1,
        };
        Ring::new((0..5).map(member).collect(), PartitionCount::new(partitions).unwrap(), 3)
    }

    #[test]
    fn the_share_of_each_member_is_what_the_ring_says() {
        for ring in [ring(0), ring(1), ring(5), colourful_ring(64)] {
            let shares = shares_of(&ring);
            assert_eq!(shares.len(), ring.members().len());
            for (member, share) in ring.members().iter().zip(&shares) {
                assert_eq!(share.tokens, ring.tokens_of(&member.id));
                assert_eq!(share.vnode_count, ring.held_by(&member.id).count() as u64);
            }
            let rows: usize = ring.partitions().iter().map(|partition| ring.row(partition).len()).sum();
            assert_eq!(vnode_total(&shares), rows as u64);
        }
    }

    #[test]
    fn people_see_what_each_member_has_in_the_order_of_peer_ids() {
        let ring = colourful_ring(64);
        let text = to_text(&ring, name);
        assert!(text.starts_with("64 partitions, 3 replicas, 5 members, 192 vnodes\n"), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        let mut shares = Vec::new();
        for (index, member) in ring.members().iter().enumerate() {
            let cells: Vec<&str> = lines[3 + index].split_whitespace().collect();
            let zone = shortened(&zone_text(Some(member)));
            let (tokens, vnodes) = (ring.tokens_of(&member.id).len(), ring.held_by(&member.id).count());
            let expected = [name(&member.id), zone, member.weight.to_string(), tokens.to_string(), vnodes.to_string()];
            assert_eq!(
                (cells[0], &cells[1..6]),
                (&*Marks::new(5).of(index), expected.each_ref().map(|s| &**s).as_slice())
            );
            shares.push(cells[6].parse::<f64>().unwrap());
        }
        assert!((shares.iter().sum::<f64>() - 100.0).abs() < 0.3, "{shares:?}");
        let ids: Vec<&str> =
            lines.iter().filter_map(|line| line.split("  ").find(|word| word.starts_with("12D3Koo"))).collect();
        assert!(ids.len() == 5 && ids.is_sorted(), "{text}");
    }

    #[test]
    fn nothing_that_people_see_is_wider_than_a_terminal() {
        let long_name = |_: &NodeId| "n".repeat(64);
        for ring in [ring(0), ring(1), ring(5), colourful_ring(16), colourful_ring(1_024), colourful_ring(1 << 14)] {
            let text = to_text(&ring, long_name);
            assert!(text.lines().all(|line| line.chars().count() <= WIDTH_MAX), "{text}");
            assert!(text.lines().count() < 50, "{text}");
        }
    }

    #[test]
    fn a_ring_of_one_or_of_nobody_is_told_as_well() {
        let text = to_text(&ring(1), name);
        assert!(
            text.contains("1 member, 16 vnodes") && text.contains("100.0 %") && text.contains("\n    0-15\n"),
            "{text}"
        );
        let text = to_text(&ring(0), name);
        assert_eq!(
            text,
            "16 partitions, 3 replicas, 0 members, 0 vnodes\n\nthere are no members, so nobody heads a partition"
        );
    }
}
