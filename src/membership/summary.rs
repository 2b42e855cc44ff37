//! How far somebody knows each author.
//!
//! A [`Summary`] lists of each author the ends of what is known of it: one, as long as the author has kept to one chain; more
//! when it has signed several that part somewhere. Each end names its change, and some of those before it, so that who knows another branch finds where the two parted.
//!
//! Source: the block locator of Nakamoto's Bitcoin (2009), for naming ancestors at distances that double. **Departure**: they
//! double only up to a bound, so that what is sent again is bounded too.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    digest::Digest,
    ident::NodeId,
    limits::{CHANGES_PER_MESSAGE_MAX, FORK_COUNT_MAX, HISTORY_COUNT_MAX, MEMBER_COUNT_MAX},
    membership::change::check_counter,
};

/// Bytes of a [`Mark`]: whoever wants two changes with one mark must try 2^64.
const MARK_BYTES: usize = 16;

/// Most changes between two marks. Who knows another branch is sent so many at most that it knows already: few of what a
/// message takes, so that several authors who forked long ago do not fill it with nothing new.
const MARK_DISTANCE_MAX: usize = 32;
const _: () = assert!(8 * MARK_DISTANCE_MAX <= CHANGES_PER_MESSAGE_MAX);

/// Marks of one tip: its own, those at distances 1, 2, 4, 8 and 16, and every `MARK_DISTANCE_MAX` below the longest chain.
const MARK_COUNT_MAX: usize = 6 + HISTORY_COUNT_MAX / MARK_DISTANCE_MAX;

/// Names a change: the beginning of its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark([u8; MARK_BYTES]);

/// One end of what is known of an author: a change that no other known one continues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tip(
    /// Number of the change that would continue it; at least 1.
    #[serde(deserialize_with = "decode_next")]
    u64,
    #[serde(serialize_with = "encode_marks", deserialize_with = "decode_marks")] Vec<Mark>,
);

/// How far each author is known: its tips, by author. At most `MEMBER_COUNT_MAX` authors, of each 1 to `FORK_COUNT_MAX` tips in
/// ascending order of number and digest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Summary {
    #[serde(deserialize_with = "decode_tips")]
    tips: BTreeMap<NodeId, Vec<Tip>>,
}

impl Mark {
    /// The mark of the change that `digest` names.
    pub fn of(digest: &Digest) -> Mark {
        Mark(*digest.0.first_chunk().expect("a digest is longer"))
    }
}

impl Tip {
    /// The end with the change number `sequence`. `mark_at` tells the marks of it and of those before it, by number.
    pub fn new(sequence: u64, mark_at: impl Fn(u64) -> Mark) -> Tip {
        Tip(sequence + 1, numbers(sequence).map(mark_at).collect())
    }

    /// Number of the change that would continue it.
    pub fn next(&self) -> u64 {
        self.0
    }

    /// Its last change, and some before it: number and mark, in descending order. At least one.
    pub fn changes(&self) -> impl Iterator<Item = (u64, Mark)> + '_ {
        numbers(self.0 - 1).zip(self.1.iter().copied())
    }
}

impl Summary {
    /// Number of the first change of `author` beyond all that are known; zero for a stranger.
    pub fn next(&self, author: &NodeId) -> u64 {
        self.tips(author).iter().map(Tip::next).max().unwrap_or(0)
    }

    /// The ends of what is known of `author`; none for a stranger.
    pub fn tips(&self, author: &NodeId) -> &[Tip] {
        self.tips.get(author).map_or(&[], Vec::as_slice)
    }

    /// All authors of whom something is known, with their tips, sorted by author.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &[Tip])> {
        self.tips.iter().map(|(author, tips)| (author, tips.as_slice()))
    }
}

impl FromIterator<(NodeId, Vec<Tip>)> for Summary {
    fn from_iter<I: IntoIterator<Item = (NodeId, Vec<Tip>)>>(entries: I) -> Summary {
        Summary { tips: entries.into_iter().collect() }
    }
}

/// The numbers of the changes that a tip marks, from its own downward.
fn numbers(sequence: u64) -> impl Iterator<Item = u64> {
    let distances =
        std::iter::successors(Some(1), |distance| Some(distance + (*distance).min(MARK_DISTANCE_MAX as u64)));
    let before = distances.map_while(move |distance| sequence.checked_sub(distance)).take(MARK_COUNT_MAX - 1);
    std::iter::once(sequence).chain(before)
}

fn encode_marks<S: Serializer>(marks: &[Mark], serializer: S) -> Result<S::Ok, S::Error> {
    let bytes: Vec<u8> = marks.iter().flat_map(|mark| mark.0).collect();
    serializer.serialize_bytes(&bytes)
}

fn decode_marks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Mark>, D::Error> {
    deserializer.deserialize_bytes(Marks)
}

fn decode_next<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let next = u64::deserialize(deserializer)?;
    check_counter(next).map_err(de::Error::custom)?;
    if next == 0 { Err(de::Error::custom("a tip has a change")) } else { Ok(next) }
}

fn decode_tips<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<NodeId, Vec<Tip>>, D::Error> {
    deserializer.deserialize_map(TipsByAuthor)
}

/// Reads the marks of a tip: one at least.
struct Marks;

impl de::Visitor<'_> for Marks {
    type Value = Vec<Mark>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1 to {MARK_COUNT_MAX} marks of {MARK_BYTES} bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<Mark>, E> {
        let (marks, rest) = bytes.as_chunks::<MARK_BYTES>();
        if rest.is_empty() && (1..=MARK_COUNT_MAX).contains(&marks.len()) {
            Ok(marks.iter().copied().map(Mark).collect())
        } else {
            Err(E::invalid_length(bytes.len(), &self))
        }
    }
}

/// Reads the entries of a summary and stops at the first too many.
struct TipsByAuthor;

impl<'de> de::Visitor<'de> for TipsByAuthor {
    type Value = BTreeMap<NodeId, Vec<Tip>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1 to {FORK_COUNT_MAX} tips of each of at most {MEMBER_COUNT_MAX} authors")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<BTreeMap<NodeId, Vec<Tip>>, A::Error> {
        let mut by_author = BTreeMap::new();
        while let Some((author, Tips(tips))) = map.next_entry::<NodeId, Tips>()? {
            if by_author.len() == MEMBER_COUNT_MAX {
                return Err(de::Error::invalid_length(MEMBER_COUNT_MAX + 1, &self));
            }
            by_author.insert(author, tips);
        }
        Ok(by_author)
    }
}

/// The tips of one author, as they are read.
struct Tips(Vec<Tip>);

impl<'de> Deserialize<'de> for Tips {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tips, D::Error> {
        deserializer.deserialize_seq(TipList).map(Tips)
    }
}

/// Reads the tips of one author and stops at the first too many.
struct TipList;

impl<'de> de::Visitor<'de> for TipList {
    type Value = Vec<Tip>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1 to {FORK_COUNT_MAX} tips")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<Tip>, A::Error> {
        let mut tips = Vec::new();
        while let Some(tip) = sequence.next_element::<Tip>()? {
            if tips.len() == FORK_COUNT_MAX {
                return Err(de::Error::invalid_length(FORK_COUNT_MAX + 1, &self));
            }
            tips.push(tip);
        }
        if tips.is_empty() { Err(de::Error::invalid_length(0, &self)) } else { Ok(tips) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(number: u64) -> Mark {
        Mark::of(&Digest([u8::try_from(number % 251).unwrap(); 32]))
    }

    fn bytes(summary: &Summary) -> Vec<u8> {
        cbor4ii::serde::to_vec(Vec::new(), summary).unwrap()
    }

    fn is_read(tips: Vec<Tip>) -> bool {
        let summary: Summary = [(NodeId([1; 32]), tips)].into_iter().collect();
        cbor4ii::serde::from_slice::<Summary>(&bytes(&summary)).is_ok_and(|read| read == summary)
    }

    #[test]
    fn a_tip_marks_itself_and_changes_before_it_at_distances_that_grow() {
        let numbers: Vec<u64> = Tip::new(120, mark).changes().map(|(number, _)| number).collect();
        assert_eq!(numbers, [120, 119, 118, 116, 112, 104, 88, 56, 24]);
        assert_eq!(Tip::new(0, mark).changes().collect::<Vec<_>>(), [(0, mark(0))]);
        let longest = Tip::new(HISTORY_COUNT_MAX as u64, mark);
        let last = longest.changes().last().unwrap().0;
        assert!(last < MARK_DISTANCE_MAX as u64, "all of a full history is within reach: {last}");
    }

    #[test]
    fn a_summary_is_read_as_it_was_written_and_nothing_out_of_bounds_is() {
        assert!(is_read((0..8).map(|number| Tip::new(number, mark)).collect()));
        assert!(!is_read((0..9).map(|number| Tip::new(number, mark)).collect()), "too many tips");
        assert!(!is_read(Vec::new()));
        assert!(!is_read(vec![Tip(0, vec![mark(0)])]));
        assert!(!is_read(vec![Tip(u64::MAX, vec![mark(0)])]));
        assert!(!is_read(vec![Tip(1, Vec::new())]));
        assert!(!is_read(vec![Tip(1, vec![mark(0); MARK_COUNT_MAX + 1])]));
    }
}
