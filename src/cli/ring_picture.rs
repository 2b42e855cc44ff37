//! How a ring is drawn in a terminal: a mark for each member, a cell for each arc, and sets of partitions as ranges.
//!
//! Pure functions of a [`Ring`]: equal rings, equal pictures, whoever is asked. Nothing here is wider than
//! [`WIDTH_MAX`], and a picture has at most [`PICTURE_LINES_MAX`] lines, however many partitions and members there are.
//! Everything is ASCII but the ellipsis, and nothing is coloured: what is shown must survive a mail.

use crate::{
    limits::MEMBER_COUNT_MAX,
    ring::{Ring, token::Partition},
};

/// Columns of the narrowest terminal that everything must fit into.
pub(crate) const WIDTH_MAX: usize = 80;

/// Lines of cells of the largest picture.
const PICTURE_LINES_MAX: usize = 16;

/// Columns of cells in one line. A power of two, as the number of partitions is, so that lines begin at round tokens;
/// with the labels before them they fit into [`WIDTH_MAX`].
const PICTURE_COLUMNS: usize = 64;

/// Lines of ranges for one set of partitions.
const RANGE_LINES_MAX: usize = 2;

const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// How members are called in a picture: by a letter or digit, and where those do not suffice by two letters, `Aa` to
/// `Zz`. Distinct for all members of a ring, and a function of their number and order alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marks {
    /// One character a member.
    Single,
    /// Two characters a member.
    Double,
}

const _: () = assert!(MEMBER_COUNT_MAX <= 26 * 26);

impl Marks {
    /// The marks for so many members.
    pub(crate) fn new(member_count: usize) -> Marks {
        if member_count <= LETTERS.len() { Marks::Single } else { Marks::Double }
    }

    /// The mark of the member at this place in [`Ring::members`].
    pub(crate) fn of(self, index: usize) -> String {
        let letter = |index: usize| char::from(LETTERS[index % LETTERS.len()]);
        match self {
            Marks::Single => letter(index).to_string(),
            Marks::Double => [letter(index / 26), letter(index % 26).to_ascii_lowercase()].iter().collect(),
        }
    }

    /// Columns of a mark.
    fn width(self) -> usize {
        match self {
            Marks::Single => 1,
            Marks::Double => 2,
        }
    }
}

/// The ring as lines of cells, clockwise from token zero: each cell has the mark of the member that heads its
/// partitions. Before each line stand its first partition and the first digits of that one's token.
///
/// A ring with more partitions than cells has several in each; then the cell belongs to the member that heads most of
/// them, of equals to the first by id. Without a second member there is nothing to draw, and a sentence says so.
pub(crate) fn picture(ring: &Ring) -> String {
    let marks = Marks::new(ring.members().len());
    match ring.members() {
        [] => "there are no members, so nobody heads a partition".to_owned(),
        [_] => format!("{} heads every partition: there is no other member", marks.of(0)),
        _ => draw(ring, marks),
    }
}

fn draw(ring: &Ring, marks: Marks) -> String {
    let heads = heads_of(ring);
    let line_cells = PICTURE_COLUMNS / marks.width();
    let cell_partitions = heads.len().div_ceil(line_cells * PICTURE_LINES_MAX);
    let mut text = match cell_partitions {
        1 => "who heads which partition (one a cell; after the last comes the first):".to_owned(),
        _ => {
            format!("who heads most ({cell_partitions} partitions a cell; after the last comes the first):")
        }
    };
    let line_partitions = line_cells * cell_partitions;
    for (first, heads) in ring.partitions().iter().step_by(line_partitions).zip(heads.chunks(line_partitions)) {
        let cells =
            heads.chunks(cell_partitions).map(|heads| most_frequent(heads).map_or(blank(marks), |i| marks.of(i)));
        let token = first.first_token(ring.partitions()).to_string();
        text += &format!("\n{first:>5}  {}…  {}", &token[..4], cells.collect::<String>());
    }
    text
}

/// For each partition the place in [`Ring::members`] of who heads its row.
fn heads_of(ring: &Ring) -> Vec<Option<usize>> {
    let place = |partition| {
        let head = ring.row(partition).first()?;
        ring.members().binary_search_by(|member| member.id.cmp(head)).ok()
    };
    ring.partitions().iter().map(place).collect()
}

/// A cell whose partitions nobody heads.
fn blank(marks: Marks) -> String {
    ".".repeat(marks.width())
}

/// The place that occurs most often, of equals the lowest.
fn most_frequent(places: &[Option<usize>]) -> Option<usize> {
    let mut places: Vec<usize> = places.iter().flatten().copied().collect();
    places.sort_unstable();
    let runs = places.chunk_by(|one, other| one == other);
    // The first of the longest runs: of equals `max_by_key` would take the last.
    let longest = runs.rev().max_by_key(|run| run.len());
    longest.and_then(|run| run.first().copied())
}

/// A set of partitions, given in ascending order, as ranges: `0-3 7 9-12`. Lines of at most `width` columns, at most
/// [`RANGE_LINES_MAX`]; what does not fit is counted. `none` for the empty set.
pub(crate) fn ranges(partitions: &[Partition], width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut shown = 0;
    for run in partitions.chunk_by(|one, other| u32::from(one.0) + 1 == u32::from(other.0)) {
        let word = range_text(run);
        let is_last_line = lines.len() == RANGE_LINES_MAX;
        let line = lines.last_mut().expect("there is a line from the beginning");
        let is_all = shown + run.len() == partitions.len();
        // Behind anything but the very last range there must be room to say how many more there are.
        let room = if is_last_line && !is_all { width.saturating_sub(MORE_COLUMNS) } else { width };
        match line.len() + 1 + word.len() {
            _ if line.is_empty() => *line = word,
            length if length <= room => *line = format!("{line} {word}"),
            _ if !is_last_line => lines.push(word),
            _ => {
                *line = format!("{line} … and {} more", partitions.len() - shown);
                return lines;
            }
        }
        shown += run.len();
    }
    if partitions.is_empty() { vec!["none".to_owned()] } else { lines }
}

/// Columns of ` … and 65536 more`.
const MORE_COLUMNS: usize = 17;

/// One run of partitions without a gap.
fn range_text(run: &[Partition]) -> String {
    match run {
        [] => String::new(),
        [only] => only.to_string(),
        [first, .., last] => format!("{first}-{last}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        cli::samples::ring,
        ident::NodeId,
        ring::{RingMember, token::PartitionCount},
    };

    /// A ring of so many members without sound keys: here nobody looks at them.
    fn ring_of(members: u16, partitions: u32) -> Ring {
        let member = |number: u16| {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&number.to_be_bytes());
            RingMember { id: NodeId(id), placement: NodeId(id), zone: None, weight: 1 }
        };
        Ring::new((0..members).map(member).collect(), PartitionCount::new(partitions).unwrap(), 3)
    }

    /// The cells of a picture, line after line.
    fn cells(picture: &str) -> Vec<&str> {
        picture.lines().skip(1).map(|line| line.rsplit_once("  ").unwrap().1).collect()
    }

    #[test]
    fn each_cell_is_the_mark_of_who_heads_its_partition() {
        let ring = ring(5);
        let picture = picture(&ring);
        let cells = cells(&picture).concat();
        assert_eq!(cells.len(), 16, "{picture}");
        for (partition, cell) in ring.partitions().iter().zip(cells.chars()) {
            let place = LETTERS.iter().position(|letter| char::from(*letter) == cell).unwrap();
            assert_eq!(ring.members()[place].id, ring.row(partition)[0], "{partition} in {picture}");
        }
    }

    #[test]
    fn lines_begin_at_round_tokens_and_say_so() {
        let picture = picture(&ring_of(3, 256));
        let labels: Vec<&str> = picture.lines().skip(1).map(|line| &line[..line.find('…').unwrap()]).collect();
        assert_eq!(labels, ["    0  0000", "   64  4000", "  128  8000", "  192  c000"]);
    }

    #[test]
    fn no_picture_is_wider_than_a_terminal_or_higher_than_its_bound() {
        for members in [2, 3, 62, 63, 70] {
            for partitions in [1, 2, 64, 1_024, 2_048, 1 << 16] {
                // The largest ring of many members would take minutes without optimization, and shows nothing new.
                if members > 3 && partitions > 2_048 {
                    continue;
                }
                let picture = picture(&ring_of(members, partitions));
                let widest = picture.lines().map(|line| line.chars().count()).max();
                assert!(widest <= Some(WIDTH_MAX), "{members} members: {picture}");
                assert!(picture.lines().count() <= PICTURE_LINES_MAX + 1, "{members} members: {picture}");
            }
        }
    }

    #[test]
    fn a_cell_of_several_partitions_belongs_to_who_heads_most_of_them() {
        assert_eq!(most_frequent(&[Some(2), Some(1), Some(2), None]), Some(2));
        assert_eq!(most_frequent(&[Some(2), Some(1), None]), Some(1));
        assert_eq!(most_frequent(&[None, None]), None);
        let picture = picture(&ring_of(3, 2_048));
        assert!(picture.starts_with("who heads most (2 partitions a cell;"), "{picture}");
        assert!(cells(&picture).iter().all(|line| line.len() == PICTURE_COLUMNS), "{picture}");
        assert_eq!(cells(&picture).len(), PICTURE_LINES_MAX);
    }

    #[test]
    fn a_ring_of_one_or_of_nobody_is_a_sentence() {
        assert_eq!(picture(&ring(1)), "A heads every partition: there is no other member");
        assert_eq!(picture(&ring(0)), "there are no members, so nobody heads a partition");
    }

    #[test]
    fn marks_are_distinct_however_many_members_there_are() {
        for count in [1, 62, 63, MEMBER_COUNT_MAX] {
            let marks = Marks::new(count);
            let all: BTreeSet<String> = (0..count).map(|index| marks.of(index)).collect();
            assert_eq!(all.len(), count);
            assert!(all.iter().all(|mark| mark.len() == marks.width()));
        }
        assert_eq!((Marks::new(62).of(61), Marks::new(63).of(62)), ("9".to_owned(), "Ck".to_owned()));
    }

    #[test]
    fn partitions_in_a_row_become_a_range() {
        let check = |numbers: &[u16], expected: &str| {
            let partitions: Vec<Partition> = numbers.iter().copied().map(Partition).collect();
            assert_eq!(ranges(&partitions, 77), [expected]);
        };
        check(&[], "none");
        check(&[7], "7");
        check(&[0, 1, 3, 5, 6, 7], "0-1 3 5-7");
        check(&[65_534, 65_535], "65534-65535");
    }

    #[test]
    fn a_long_set_is_cut_and_what_is_left_out_is_counted() {
        for step in [2, 3, 7] {
            for count in [10, 20, 40, 60, 1_000, 9_000] {
                let partitions: Vec<Partition> = (0..count).map(|number| Partition(number * step)).collect();
                let lines = ranges(&partitions, 60);
                assert!(
                    lines.len() <= RANGE_LINES_MAX && lines.iter().all(|line| line.chars().count() <= 60),
                    "{lines:?}"
                );
                let text = lines.join(" ");
                let (shown, left) = text.split_once(" … and ").unwrap_or((&text, "0 more"));
                let left: usize = left.strip_suffix(" more").unwrap().parse().unwrap();
                assert_eq!(shown.split(' ').count() + left, usize::from(count), "{lines:?}");
            }
        }
    }
}
