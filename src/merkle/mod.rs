//! Merkle trees over what replicas hold, and the exchange by which two of them become equal.
//!
//! [`branch`] is the shape of the tree, [`packed`] how parts of it travel, [`answers`] what the asked side tells of its own,
//! and [`descent`] the asking side: from the roots down, everywhere at once, to the items that differ. The store behind them
//! is a [`Source`]; nothing here knows where rows lie, who is responsible for them, or when to compare.
//!
//! Invariant: nothing is concluded from a digest but that two branches are equal. What differs is exchanged as whole
//! objects and merged like any other; so a wrong digest, a lost message or a write in between costs time, never data.
//!
//! Source: DeCandia et al., "Dynamo" (SOSP 2007), section 4.7. **Departure**: digests are sums, and the tree is bound to the
//! hashes of keys and not to ranges of members, so that a change of ring leaves every digest as it was.

pub mod branch;
pub mod packed;
pub mod answers;
pub mod descent;

use crate::{
    causality::siblings::Object,
    digest::{Digest, Domain},
    ident::Key,
    merkle::{
        branch::{Branch, BranchDigest, FANOUT, ItemHash},
        packed::Listing,
    },
    store::{StoreError, Walk},
    wire::client::Cursor,
};

/// Branches with at most this many items are told as the list of their items. Where there are 16 on average, which is the
/// fewest a level has that is gone down to, one in 10^11 has more.
pub const LEAF_COUNT_MAX: u64 = 48;

/// From this depth on, branches are told as the list of their items however many there are.
pub const LEAF_DEPTH: u8 = 15;

/// What is shown the items of a branch: where its row is, the client's key, the hash.
pub type ShowItem<'a> = dyn FnMut(&[u8], &[u8], ItemHash) -> Walk + 'a;

/// One committed state of a store, and of it only the partitions that are to be compared.
pub trait Source {
    /// What `branch` comes to.
    fn digest(&mut self, branch: &Branch) -> Result<BranchDigest, StoreError>;

    /// What the children of `branch` come to.
    fn children(&mut self, branch: &Branch) -> Result<[BranchDigest; FANOUT], StoreError>;

    /// Shows the items of `branch` in the order of their rows, from where `from` says, until `show` says stop.
    fn items(&mut self, branch: &Branch, from: Option<&Cursor>, show: &mut ShowItem<'_>) -> Result<(), StoreError>;

    /// The object of `key`, if it is whole.
    fn object(&mut self, key: &Key) -> Result<Option<Object>, StoreError>;

    /// Rows it has looked at so far.
    fn rows_read(&self) -> u64;
}

/// Four bytes of a digest, under the salt of one exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Short(pub [u8; 4]);

/// How the branches of two sides are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    /// What digests are shortened with.
    pub salt: Salt,
    /// Which of them are looked at.
    pub rule: CompareRule,
}

/// Which children of a branch are compared. All but the first exist so that tests can plant a bug and see it caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareRule {
    /// All sixteen.
    All,
    /// All but one. Breaks P3: what lies below it never becomes equal.
    AllButOne,
}

impl Comparison {
    /// The children as they are told.
    pub fn listing(&self, children: &[BranchDigest; FANOUT]) -> Listing {
        std::array::from_fn(|index| self.salt.branch(&children[index]))
    }

    /// Which children differ, ascending.
    pub fn differing(&self, mine: &[BranchDigest; FANOUT], theirs: &Listing) -> Vec<usize> {
        let mine = self.listing(mine);
        let is_compared = |index: &usize| self.rule == CompareRule::All || *index != 5;
        (0..FANOUT).filter(is_compared).filter(|index| mine[*index] != theirs[*index]).collect()
    }
}

/// Makes digests short. A false match hides a difference until the next exchange, which has another salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Salt(Digest);

impl Salt {
    /// From the eight bytes that the asking side has drawn.
    pub fn new(drawn: u64) -> Salt {
        Salt(Digest::of(Domain::Salt, &[&drawn.to_be_bytes()]))
    }

    /// Of the branch where an exchange begins: 16 bytes, for here a false match would hide everything.
    pub fn root(&self, digest: &BranchDigest) -> [u8; 16] {
        *self.hash(&digest.to_bytes()).first_chunk().expect("32 bytes hold 16")
    }

    /// Of a branch; nothing when it has no items.
    pub fn branch(&self, digest: &BranchDigest) -> Option<Short> {
        (!digest.is_empty()).then(|| self.short(&digest.to_bytes()))
    }

    /// Of an item.
    pub fn item(&self, item: ItemHash) -> Short {
        self.short(&item.0.to_be_bytes())
    }

    fn short(&self, bytes: &[u8]) -> Short {
        Short(*self.hash(bytes).first_chunk().expect("32 bytes hold 4"))
    }

    fn hash(&self, bytes: &[u8]) -> [u8; 32] {
        Digest::keyed(&self.0, &[bytes]).0
    }
}
