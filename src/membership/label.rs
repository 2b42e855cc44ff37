//! Labels: which of the changes that decide who serves what somebody knew.
//!
//! Changes that decide are those that join, leave, remove, replace, or move a member to another zone or weight. A
//! [`Label`] names a set of them, author by author, as so many of its first changes. Statements about who holds what are
//! made under a label: they hold for the rows that follow from just those changes.
//!
//! Of an author who signed different changes under one number a label has all of them. Until everybody knows all of them it may
//! mean different rows to different nodes; [`crate::membership::view::View::placement_digest`] tells those apart.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    digest::{Digest, Domain},
    ident::NodeId,
    limits::MEMBER_COUNT_MAX,
    membership::change::{Change, check_counter, decode_by_author},
};

/// A set of deciding changes: of each author, all those with a number below the one given here. At most
/// `MEMBER_COUNT_MAX` authors; the empty label decides nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Label {
    #[serde(deserialize_with = "decode_next")]
    next: BTreeMap<NodeId, u64>,
}

impl Label {
    /// Adds a deciding change, and what its author had said before it.
    pub fn add(&mut self, change: &Change) {
        let next = self.next.entry(change.author).or_insert(0);
        *next = (*next).max(change.sequence + 1);
    }

    /// Whether `change` is one of its changes, or one that its author made before one of them.
    pub fn covers(&self, change: &Change) -> bool {
        self.next.get(&change.author).is_some_and(|next| change.sequence < *next)
    }

    /// Whether all of it is in `other`, and `other` has more.
    pub fn is_strictly_within(&self, other: &Label) -> bool {
        self != other && self.is_known_by(|author| other.next.get(author).copied().unwrap_or(0))
    }

    /// Whether somebody knows all of it who knows so many changes of each author.
    pub fn is_known_by(&self, known: impl Fn(&NodeId) -> u64) -> bool {
        self.next.iter().all(|(author, next)| *next <= known(author))
    }

    /// Names the label: equal labels, equal digest.
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::with_capacity(1 + self.next.len() * 40);
        // Tells this digest from that of a history, which has the same purpose.
        bytes.push(1);
        for (author, next) in &self.next {
            bytes.extend_from_slice(&author.0);
            bytes.extend_from_slice(&next.to_be_bytes());
        }
        Digest::of(Domain::History, &[&bytes])
    }

    /// How many authors it has changes of.
    pub fn len(&self) -> usize {
        self.next.len()
    }

    /// Whether it decides nothing.
    pub fn is_empty(&self) -> bool {
        self.next.is_empty()
    }
}

fn decode_next<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<NodeId, u64>, D::Error> {
    let next = decode_by_author(deserializer)?;
    debug_assert!(next.len() <= MEMBER_COUNT_MAX);
    next.values().try_for_each(|number| check_counter(*number)).map_err(serde::de::Error::custom)?;
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::samples::{chain, joined};

    #[test]
    fn a_label_covers_what_came_before_its_last_change_and_nothing_later() {
        let [first, second, third] = &chain(1, [joined(1), joined(1), joined(1)])[..] else { panic!("three") };
        let mut label = Label::default();
        label.add(second);
        assert!(label.covers(first) && label.covers(second) && !label.covers(third));
        let mut larger = label.clone();
        larger.add(third);
        assert!(label.is_strictly_within(&larger) && !larger.is_strictly_within(&label));
        assert!(!label.is_strictly_within(&label) && label != larger && label.digest() != larger.digest());
        larger.add(first);
        assert_eq!(larger.len(), 1, "what is covered adds nothing");
    }
}
