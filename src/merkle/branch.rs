//! The shape of the tree: positions, branches, and what a branch comes to.
//!
//! The tree is 16-ary over the 64 bits of a key's [`Position`]; a [`Branch`] is all positions that begin with the same
//! digits. Its [`BranchDigest`] is the number of its items and the sum of their hashes modulo 2^128, so that a parent is
//! the sum of its children, one changed item changes each branch above it by `new - old`, and equal data have equal
//! digests in whatever order they came.
//!
//! A partition is the positions that begin with its own bits, so each has a tree of its own within this one, and the
//! partitions two nodes share are one tree in which only those are counted.
//!
//! **Why** sums, and not hashes of children: a path of hashes costs a write a page for each level, a sum costs one row.
//! Sums of hashes that an attacker can choose are forgeable (Wagner, "A generalized birthday problem", 2002); these are
//! keyed, cover a counter, an epoch and a time that only coordinators choose, and a lying replica needs no forgery to lie
//! of itself. The key comes from the cluster's name alone: were its secret in it, every tree would have to be made anew
//! when that is changed.

use std::{fmt, ops::RangeInclusive};

use crate::{
    digest::{Digest, Domain},
    ident::{Key, Name},
    ring::token::{Token, routing_part},
};

/// Children of a branch.
pub const FANOUT: usize = 16;

/// Digits of a position: a branch of this depth is one position.
pub const DEPTH_MAX: u8 = 16;

/// The depth at which a branch is one value of the bits that token and position share.
const TOKEN_DEPTH: u8 = 4;

/// Where a key stands in the tree.
///
/// A key without a tag stands at its token. Keys with one share a token, so only its first 16 bits are kept, and the
/// others are a hash of the whole key: one user's ten thousand keys split like any others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(pub u64);

/// All positions with the same first digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Branch {
    /// The lowest of its positions.
    first: u64,
    /// How many digits they share; at most [`DEPTH_MAX`].
    depth: u8,
}

/// The key under which items are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ItemKey(Digest);

/// The hash of one item: a key with its object, tombstones included, and nothing that is local to a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ItemHash(pub u128);

/// What a branch comes to. The default is that of a branch without items.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct BranchDigest {
    /// Items.
    pub count: u64,
    /// Sum of their hashes modulo 2^128.
    pub sum: u128,
}

impl Position {
    /// Of `key`, whose token is `token`.
    pub fn of(token: Token, key: &[u8]) -> Position {
        if routing_part(key).len() == key.len() {
            return Position(token.0);
        }
        let below = u64::MAX >> (4 * TOKEN_DEPTH);
        Position(token.0 & !below | Digest::of(Domain::Position, &[key]).to_u64() & below)
    }
}

impl Branch {
    /// All positions.
    pub const ROOT: Branch = Branch { first: 0, depth: 0 };

    /// The branch of `depth` digits that begins at `first`; none when it is too deep, or begins elsewhere.
    pub fn new(first: u64, depth: u8) -> Option<Branch> {
        let branch = Branch { first, depth };
        (depth <= DEPTH_MAX && first & branch.span() == 0).then_some(branch)
    }

    /// The branch of `depth` digits with `position`. Deeper than [`DEPTH_MAX`] there is nothing.
    pub fn around(position: Position, depth: u8) -> Branch {
        let depth = depth.min(DEPTH_MAX);
        let span = Branch { first: 0, depth }.span();
        Branch { first: position.0 & !span, depth }
    }

    /// How many digits its positions share.
    pub fn depth(&self) -> u8 {
        self.depth
    }

    /// The lowest of its positions.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Its child number `index`, from 0 to 15; itself, where there is nothing below.
    pub fn child(&self, index: usize) -> Branch {
        if self.depth >= DEPTH_MAX {
            return *self;
        }
        let depth = self.depth + 1;
        let digit = (index % FANOUT) as u64;
        Branch { first: self.first | digit << (64 - 4 * u32::from(depth)), depth }
    }

    /// Which of its children holds `position`, if it holds it at all.
    pub fn child_with(&self, position: Position) -> Option<usize> {
        if !self.contains(position) || self.depth >= DEPTH_MAX {
            return None;
        }
        let digit = position.0 >> (60 - 4 * u32::from(self.depth)) & 15;
        Some(usize::try_from(digit).expect("four bits"))
    }

    /// Whether `position` begins with its digits.
    pub fn contains(&self, position: Position) -> bool {
        position.0 & !self.span() == self.first
    }

    /// The tokens that keys in it can have. Not all keys with such a token are in it, unless it is shallow.
    pub fn tokens(&self) -> RangeInclusive<u64> {
        let shallow = Branch::around(Position(self.first), self.depth.min(TOKEN_DEPTH));
        shallow.first..=shallow.first | shallow.span()
    }

    /// Whether not all keys with one of its tokens need be in it.
    pub fn is_within_token_range(&self) -> bool {
        self.depth > TOKEN_DEPTH
    }

    /// The bits in which its positions differ.
    fn span(&self) -> u64 {
        u64::MAX.checked_shr(4 * u32::from(self.depth)).unwrap_or(0)
    }
}

impl ItemKey {
    /// Of the cluster called `name`.
    pub fn of(name: &Name) -> ItemKey {
        ItemKey(Digest::of(Domain::ItemKey, &[name.as_str().as_bytes()]))
    }

    /// Hash of `key` with the object that has this [digest](crate::causality::siblings::Object::digest).
    pub fn hash(&self, key: &Key, object: &Digest) -> ItemHash {
        let length = (key.as_bytes().len() as u64).to_be_bytes();
        let Digest(hash) = Digest::keyed(&self.0, &[&length, key.as_bytes(), &object.0]);
        let head = hash.first_chunk::<16>().expect("32 bytes hold 16");
        ItemHash(u128::from_be_bytes(*head))
    }
}

impl BranchDigest {
    /// Of the one item.
    pub fn of(item: ItemHash) -> BranchDigest {
        BranchDigest { count: 1, sum: item.0 }
    }

    /// Takes in what another branch, apart from this one, comes to.
    pub fn add(&mut self, other: BranchDigest) {
        self.count = self.count.wrapping_add(other.count);
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// Takes out what part of it comes to.
    pub fn remove(&mut self, other: BranchDigest) {
        self.count = self.count.wrapping_sub(other.count);
        self.sum = self.sum.wrapping_sub(other.sum);
    }

    /// Without items.
    pub fn is_empty(&self) -> bool {
        *self == BranchDigest::default()
    }

    /// Its 24 bytes: count, then sum, big-endian.
    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.count.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sum.to_be_bytes());
        bytes
    }

    /// Reads what [`BranchDigest::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8; 24]) -> BranchDigest {
        let (count, sum) = bytes.split_first_chunk::<8>().expect("24 bytes hold 8");
        let sum = sum.try_into().expect("24 bytes less 8");
        BranchDigest { count: u64::from_be_bytes(*count), sum: u128::from_be_bytes(sum) }
    }
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:016x}", self.first);
        write!(f, "/{}", &digits[..usize::from(self.depth)])
    }
}

impl fmt::Debug for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Debug for BranchDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} items, {:08x}…", self.count, self.sum >> 96)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causality::siblings::Object;

    fn position(key: &[u8]) -> Position {
        Position::of(Token::of(&Key::new(key).unwrap()), key)
    }

    #[test]
    fn children_cut_a_branch_into_sixteen_and_the_last_has_none() {
        let mut branch = Branch::ROOT;
        let position = Position(0x0123_4567_89ab_cdef);
        for depth in 0..DEPTH_MAX {
            assert_eq!((branch.depth(), branch), (depth, Branch::around(position, depth)));
            assert_eq!(Branch::new(branch.first(), depth), Some(branch));
            let holders = (0..FANOUT).filter(|index| branch.child(*index).contains(position));
            assert_eq!(holders.collect::<Vec<_>>(), [usize::from(depth)]);
            assert_eq!(branch.child_with(position), Some(usize::from(depth)));
            branch = branch.child(usize::from(depth));
        }
        assert_eq!((branch.to_string(), branch.child(3)), ("/0123456789abcdef".to_owned(), branch));
        assert_eq!((branch.child_with(position), Branch::new(1, 15), Branch::new(0, 17)), (None, None, None));
    }

    #[test]
    fn keys_of_one_tag_share_sixteen_bits_and_split_below_them() {
        assert_eq!(position(b"plain").0, Token::of(&Key::new(b"plain").unwrap()).0);
        let (cart, orders) = (position(b"{ann}/cart"), position(b"{ann}/orders"));
        assert_eq!(cart.0 >> 48, Token::of(&Key::new(b"ann").unwrap()).0 >> 48);
        assert!(cart != orders && cart.0 >> 48 == orders.0 >> 48);
        for depth in 0..=DEPTH_MAX {
            let tokens = Branch::around(cart, depth).tokens();
            assert!(tokens.contains(&Token::of(&Key::new(b"{ann}/cart").unwrap()).0), "{depth}");
        }
    }

    #[test]
    fn a_digest_forgets_the_order_and_notices_everything_else() {
        let (mut left, mut right) = (BranchDigest::default(), BranchDigest::default());
        let items = [ItemHash(7), ItemHash(u128::MAX), ItemHash(9)].map(BranchDigest::of);
        items.iter().for_each(|item| left.add(*item));
        items.iter().rev().for_each(|item| right.add(*item));
        assert_eq!(left, right);
        assert_eq!(BranchDigest::from_bytes(&left.to_bytes()), left);
        right.add(BranchDigest::of(ItemHash(0)));
        assert_ne!(left, right, "the count tells it");
        items.iter().for_each(|item| left.remove(*item));
        assert!(left.is_empty());
    }

    #[test]
    fn the_hash_of_an_item_covers_its_cluster_its_key_and_its_clock() {
        let cluster = |name| ItemKey::of(&Name::new(name).unwrap());
        let key = |key: &[u8]| Key::new(key).unwrap();
        let empty = Object::default().digest();
        let mut tombstone = Object::default();
        let mut clock = crate::causality::version_vector::VersionVector::new();
        clock.raise(crate::causality::dot::Actor { node: 1, epoch: 0 }, 1);
        tombstone.delete(&clock.into());
        let tombstone = tombstone.digest();
        let hash = cluster("a").hash(&key(b"k"), &empty);
        assert_eq!(hash, cluster("a").hash(&key(b"k"), &empty));
        assert_ne!(hash, cluster("b").hash(&key(b"k"), &empty));
        assert_ne!(hash, cluster("a").hash(&key(b"l"), &empty));
        assert_ne!(hash, cluster("a").hash(&key(b"k"), &tombstone));
    }
}
