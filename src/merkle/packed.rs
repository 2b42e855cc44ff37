//! Questions about branches, and what is below them, as bytes.
//!
//! ```text
//! branch    = depth (1 byte) ‖ its digits, two a byte, the first in the high half
//! listing   = which of the 16 children have items (2 bytes, the first child in the lowest bit) ‖ 4 bytes for each
//! compare   = 0 ‖ branch ‖ listing
//! want      = 1 ‖ branch ‖ count (2) ‖ 4 bytes for each item
//! want all  = 2 ‖ branch ‖ length (2) ‖ the row to go on at; a length of 0 is the beginning
//! below     = number of items (1), at most 254 ‖ 4 bytes for each
//!           | 255 ‖ listing
//! answer    = which of the 16 children differ (2) ‖ below, for each
//! ```
//!
//! Numbers are big-endian. **Invariant**: what is read costs memory in proportion to the bytes; whatever the bytes are,
//! reading them does not panic.

use thiserror::Error;

use crate::{
    merkle::{
        Short,
        branch::{Branch, DEPTH_MAX, FANOUT},
    },
    wire::client::Cursor,
};

/// Most questions in one step.
pub const QUESTION_COUNT_MAX: usize = 16_384;

/// Most items told of one branch. Only a collision in 60 bits of hashes could exceed it.
pub const IDS_COUNT_MAX: usize = 254;

/// What the children of a branch come to; nothing for those without items.
pub type Listing = [Option<Short>; FANOUT];

/// A question about a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BranchQuestion {
    /// These are my children of it: what is below yours that differ?
    Compare {
        /// The branch.
        branch: Branch,
        /// The asker's children of it.
        children: Listing,
    },
    /// Send these items of it.
    Want {
        /// The branch.
        branch: Branch,
        /// The items. Some may be gone.
        ids: Vec<Short>,
    },
    /// Send all of it.
    WantAll {
        /// The branch.
        branch: Branch,
        /// Where the answer before ended.
        after: Option<Cursor>,
    },
}

/// What is below a branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Below {
    /// Few items: all of them, in no order that matters.
    Ids(Vec<Short>),
    /// Its children.
    Children(Listing),
}

/// What is below the children of a branch that differ: number of the child, and what is there. Ascending.
pub type Compared = Vec<(u8, Below)>;

/// The bytes are no part of a tree of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("packed branches are malformed {left_bytes} bytes before their end")]
pub struct Malformed {
    /// Where.
    pub left_bytes: usize,
}

/// Packs questions.
pub fn write_questions(questions: &[BranchQuestion]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for question in questions {
        match question {
            BranchQuestion::Compare { branch, children } => {
                bytes.push(COMPARE);
                write_branch(&mut bytes, branch);
                write_listing(&mut bytes, children);
            }
            BranchQuestion::Want { branch, ids } => {
                bytes.push(WANT);
                write_branch(&mut bytes, branch);
                write_count(&mut bytes, ids.len());
                ids.iter().take(usize::from(u16::MAX)).for_each(|id| bytes.extend(id.0));
            }
            BranchQuestion::WantAll { branch, after } => {
                bytes.push(WANT_ALL);
                write_branch(&mut bytes, branch);
                let after = after.as_ref().map_or(&[][..], |cursor| &cursor.0);
                write_count(&mut bytes, after.len());
                bytes.extend(after);
            }
        }
    }
    bytes
}

/// Reads what [`write_questions`] wrote; at most [`QUESTION_COUNT_MAX`].
pub fn read_questions(bytes: &[u8]) -> Result<Vec<BranchQuestion>, Malformed> {
    let mut reader = Reader { bytes };
    let mut questions = Vec::new();
    while !reader.bytes.is_empty() {
        if questions.len() == QUESTION_COUNT_MAX {
            return Err(reader.malformed());
        }
        let kind = reader.byte()?;
        let branch = reader.branch()?;
        questions.push(match kind {
            COMPARE => BranchQuestion::Compare { branch, children: reader.listing()? },
            WANT => {
                let count = reader.count()?;
                BranchQuestion::Want { branch, ids: reader.shorts(count)? }
            }
            WANT_ALL => {
                let length = reader.count()?;
                let after = reader.take(length)?;
                BranchQuestion::WantAll { branch, after: (length > 0).then(|| Cursor(after.to_vec())) }
            }
            _ => return Err(reader.malformed()),
        });
    }
    Ok(questions)
}

/// Packs what is below one branch.
pub fn write_below(below: &Below) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_below(&mut bytes, below);
    bytes
}

/// Reads what [`write_below`] wrote.
pub fn read_below(bytes: &[u8]) -> Result<Below, Malformed> {
    let mut reader = Reader { bytes };
    let below = reader.below()?;
    reader.end()?;
    Ok(below)
}

/// Packs answers to `Compare` questions, in their order.
pub fn write_answers(answers: &[Compared]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for compared in answers {
        let mask = compared.iter().fold(0_u16, |mask, (index, _)| mask | 1 << (index % 16));
        bytes.extend(mask.to_be_bytes());
        compared.iter().for_each(|(_, below)| push_below(&mut bytes, below));
    }
    bytes
}

/// Reads what [`write_answers`] wrote for `count` questions.
pub fn read_answers(bytes: &[u8], count: usize) -> Result<Vec<Compared>, Malformed> {
    let mut reader = Reader { bytes };
    let mut answers = Vec::new();
    for _ in 0..count {
        let mask = reader.mask()?;
        let differing = (0..16).filter(|index| mask & 1 << index != 0);
        answers.push(differing.map(|index| Ok((index, reader.below()?))).collect::<Result<Compared, _>>()?);
    }
    reader.end()?;
    Ok(answers)
}

const COMPARE: u8 = 0;
const WANT: u8 = 1;
const WANT_ALL: u8 = 2;
const CHILDREN: u8 = 255;

fn push_below(bytes: &mut Vec<u8>, below: &Below) {
    match below {
        Below::Ids(ids) => {
            let ids = &ids[..ids.len().min(IDS_COUNT_MAX)];
            bytes.push(u8::try_from(ids.len()).expect("at most 254"));
            ids.iter().for_each(|id| bytes.extend(id.0));
        }
        Below::Children(listing) => {
            bytes.push(CHILDREN);
            write_listing(bytes, listing);
        }
    }
}

fn write_branch(bytes: &mut Vec<u8>, branch: &Branch) {
    bytes.push(branch.depth());
    bytes.extend(&branch.first().to_be_bytes()[..usize::from(branch.depth()).div_ceil(2)]);
}

fn write_listing(bytes: &mut Vec<u8>, listing: &Listing) {
    let mask = (0..FANOUT).fold(0_u16, |mask, index| mask | u16::from(listing[index].is_some()) << index);
    bytes.extend(mask.to_be_bytes());
    listing.iter().flatten().for_each(|short| bytes.extend(short.0));
}

fn write_count(bytes: &mut Vec<u8>, count: usize) {
    bytes.extend(u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
}

/// What is left to be read.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(self.malformed())?;
        self.bytes = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn mask(&mut self) -> Result<u16, Malformed> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn count(&mut self) -> Result<usize, Malformed> {
        self.mask().map(usize::from)
    }

    fn branch(&mut self) -> Result<Branch, Malformed> {
        let depth = self.byte()?;
        if depth > DEPTH_MAX {
            return Err(self.malformed());
        }
        let digits = self.take(usize::from(depth).div_ceil(2))?;
        let mut first = [0; 8];
        first[..digits.len()].copy_from_slice(digits);
        Branch::new(u64::from_be_bytes(first), depth).ok_or(self.malformed())
    }

    fn shorts(&mut self, count: usize) -> Result<Vec<Short>, Malformed> {
        let (shorts, _) = self.take(4 * count)?.as_chunks::<4>();
        Ok(shorts.iter().map(|bytes| Short(*bytes)).collect())
    }

    fn listing(&mut self) -> Result<Listing, Malformed> {
        let mask = self.mask()?;
        let mut shorts = self.shorts(mask.count_ones() as usize)?.into_iter();
        Ok(std::array::from_fn(|index| (mask & 1 << index != 0).then(|| shorts.next()).flatten()))
    }

    fn below(&mut self) -> Result<Below, Malformed> {
        match self.byte()? {
            CHILDREN => self.listing().map(Below::Children),
            count => self.shorts(usize::from(count)).map(Below::Ids),
        }
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }

    fn malformed(&self) -> Malformed {
        Malformed { left_bytes: self.bytes.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(number: u8) -> Short {
        Short([number; 4])
    }

    fn listing(of: &[usize]) -> Listing {
        std::array::from_fn(|index| of.contains(&index).then(|| short(u8::try_from(index).unwrap())))
    }

    fn questions() -> Vec<BranchQuestion> {
        let branch = |first, depth| Branch::new(first, depth).unwrap();
        vec![
            BranchQuestion::Compare { branch: Branch::ROOT, children: listing(&[]) },
            BranchQuestion::Compare { branch: branch(0xabc0 << 48, 3), children: listing(&[0, 7, 15]) },
            BranchQuestion::Want { branch: branch(u64::MAX, 16), ids: vec![short(1), short(2)] },
            BranchQuestion::WantAll { branch: branch(1 << 60, 1), after: None },
            BranchQuestion::WantAll { branch: branch(1 << 60, 1), after: Some(Cursor(vec![9; 408])) },
        ]
    }

    fn answers() -> Vec<Compared> {
        let (few, many) = (Below::Ids(vec![short(3), short(4)]), Below::Children(listing(&[1, 2])));
        vec![vec![], vec![(0, few), (15, many)], vec![(3, Below::Ids(vec![]))]]
    }

    #[test]
    fn what_was_packed_is_read_back() {
        assert_eq!(read_questions(&write_questions(&questions())).as_deref(), Ok(&questions()[..]));
        assert_eq!(read_answers(&write_answers(&answers()), 3).as_ref(), Ok(&answers()));
        let below = Below::Children(listing(&[4]));
        assert_eq!(read_below(&write_below(&below)), Ok(below));
    }

    #[test]
    fn a_compared_branch_of_full_children_takes_seventy_bytes() {
        let all: Vec<usize> = (0..16).collect();
        let question = BranchQuestion::Compare { branch: Branch::ROOT.child(1).child(2), children: listing(&all) };
        assert_eq!(write_questions(&[question]).len(), 1 + 2 + 2 + 64);
    }

    #[test]
    fn bytes_that_are_cut_changed_or_too_many_are_refused_or_mean_something_else() {
        let (asked, answered) = (write_questions(&questions()), write_answers(&answers()));
        for length in 0..asked.len() {
            assert_ne!(read_questions(&asked[..length]).as_deref(), Ok(&questions()[..]), "{length} bytes");
        }
        for length in 0..answered.len() {
            assert!(read_answers(&answered[..length], 3).is_err(), "{length} bytes");
        }
        assert!(read_answers(&answered, 2).is_err());
        assert!(read_questions(&[COMPARE, 17]).is_err(), "too deep");
        assert!(read_questions(&[COMPARE, 1, 0x11, 0, 0]).is_err(), "digits beyond the depth");
        assert!(read_questions(&[9, 0]).is_err());
        assert!(read_questions(&[COMPARE, 0, 0, 0].repeat(QUESTION_COUNT_MAX + 1)).is_err());
        for byte in 0..=255 {
            // Whatever comes, it is an answer and no panic.
            let _ = (read_questions(&[byte; 300]), read_answers(&[byte; 300], 5), read_below(&[byte; 300]));
        }
    }
}
