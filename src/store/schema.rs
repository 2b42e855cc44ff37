//! How the keys of rows are laid out, table by table.
//!
//! | Table | Row key | Order of its rows |
//! |---|---|---|
//! | [`Table::Objects`] | token, 8 bytes ‖ the client's key, 1 to 400 bytes | by token, then by key |
//! | [`Table::History`] | author, 32 bytes ‖ sequence, 8 bytes | by author, then by sequence |
//! | [`Table::Peers`] | node, 32 bytes | by node |
//! | [`Table::Hints`] | target, 32 bytes ‖ token, 8 bytes ‖ the client's key | by target, then as objects |
//! | [`Table::HintTotals`] | target, 32 bytes | by target |
//! | [`Table::Marks`] | partition, 2 bytes | by partition |
//! | [`Table::Trees`] | bucket, 2 bytes | by bucket, as the objects in it |
//! | [`Table::Meta`] | a fixed name | none that matters |
//!
//! Numbers are big-endian, so that the order of bytes is the order of numbers. Rows of objects in the order of their
//! tokens make a partition one contiguous range; the keys of one `{tag}` share a token, so they lie together and in
//! the order of the keys, ready to be scanned.
//!
//! All layouts together have one version, [`FORMAT_VERSION`], kept in [`MetaRow::FormatVersion`]. Every layout fits
//! LMDB's longest key; that is asserted at compile time. What a row holds is not known here.
//!
//! [`Table::Objects`]: crate::store::Table::Objects
//! [`Table::History`]: crate::store::Table::History
//! [`Table::Peers`]: crate::store::Table::Peers
//! [`Table::Hints`]: crate::store::Table::Hints
//! [`Table::HintTotals`]: crate::store::Table::HintTotals
//! [`Table::Marks`]: crate::store::Table::Marks
//! [`Table::Trees`]: crate::store::Table::Trees
//! [`Table::Meta`]: crate::store::Table::Meta

use std::fmt;

use crate::{
    digest::Digest,
    ident::{Key, NodeId},
    limits::{KEY_LIMIT_BYTES, LMDB_KEY_BYTES_MAX},
    ring::token::Partition,
};

/// Version of all layouts in this file. A store of another version is not opened.
pub const FORMAT_VERSION: u32 = 2;

/// The key of a row; on the stack, at most [`ROW_BYTES_MAX`] long.
#[derive(Clone, Copy)]
pub struct RowKey {
    length: usize,
    bytes: [u8; ROW_BYTES_MAX],
}

/// The single facts that a store keeps about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MetaRow {
    /// The [`FORMAT_VERSION`] it was made with.
    FormatVersion,
    /// The next epoch to be drawn, and the floor below which none is minted under.
    Epochs,
    /// How often a node was started on it.
    BootNumber,
    /// Whether the last stop was clean.
    CleanStop,
    /// Id of the node whose store this is: another identity must not use it.
    Owner,
    /// When it was made.
    Created,
    /// Of which partitions it may have lost something.
    InDoubt,
}

impl RowKey {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Concatenates `parts`, which together have at most [`ROW_BYTES_MAX`] bytes.
    fn of<const N: usize>(parts: [&[u8]; N]) -> RowKey {
        let mut row = RowKey { length: 0, bytes: [0; ROW_BYTES_MAX] };
        for part in parts {
            row.bytes[row.length..row.length + part.len()].copy_from_slice(part);
            row.length += part.len();
        }
        row
    }
}

impl MetaRow {
    /// All of them.
    pub const ALL: [MetaRow; 7] = [
        MetaRow::FormatVersion,
        MetaRow::Epochs,
        MetaRow::BootNumber,
        MetaRow::CleanStop,
        MetaRow::Owner,
        MetaRow::Created,
        MetaRow::InDoubt,
    ];

    /// The key of its row. Never changes: it is on people's disks.
    pub const fn key(self) -> &'static [u8] {
        match self {
            MetaRow::FormatVersion => b"format version",
            MetaRow::Epochs => b"epochs",
            MetaRow::BootNumber => b"boot number",
            MetaRow::CleanStop => b"clean stop",
            MetaRow::Owner => b"owner",
            MetaRow::Created => b"created",
            MetaRow::InDoubt => b"in doubt",
        }
    }
}

/// The row of `key`, whose token is `token`.
pub fn object_row(token: u64, key: &Key) -> RowKey {
    RowKey::of([&token.to_be_bytes(), key.as_bytes()])
}

/// Token and client key of a row of objects; `None` when the bytes are not such a row's key.
pub fn parse_object_row(row_key: &[u8]) -> Option<(u64, &[u8])> {
    let (token, key) = row_key.split_first_chunk::<8>()?;
    let fits = (1..=KEY_LIMIT_BYTES).contains(&key.len());
    fits.then_some((u64::from_be_bytes(*token), key))
}

/// Where the rows of objects with tokens of at least `token` begin: sorts before all of them and after all others.
pub fn object_range_start(token: u64) -> [u8; 8] {
    token.to_be_bytes()
}

/// The row of the change that `author` numbered `sequence`.
pub fn history_row(author: &NodeId, sequence: u64) -> RowKey {
    RowKey::of([&author.0, &sequence.to_be_bytes()])
}

/// The row of another change that `author` numbered `sequence`: of an author who signed different ones, all but the first
/// that arrived here. Sorts after [`history_row`].
pub fn forked_history_row(author: &NodeId, sequence: u64, digest: &Digest) -> RowKey {
    RowKey::of([&author.0, &sequence.to_be_bytes(), &digest.0])
}

/// Author and sequence of a row of the history; `None` when the bytes are not such a row's key.
pub fn parse_history_row(row_key: &[u8]) -> Option<(NodeId, u64)> {
    let (author, rest) = row_key.split_first_chunk::<32>()?;
    let (sequence, digest) = rest.split_first_chunk::<8>()?;
    let is_row = digest.is_empty() || digest.len() == 32;
    is_row.then_some((NodeId(*author), u64::from_be_bytes(*sequence)))
}

/// The row of what is known of `node`.
pub fn peer_row(node: &NodeId) -> RowKey {
    RowKey::of([&node.0])
}

/// The node of a row of peers; `None` when the bytes are not such a row's key.
pub fn parse_peer_row(row_key: &[u8]) -> Option<NodeId> {
    row_key.try_into().ok().map(NodeId)
}

/// The row of what is kept of `key`, whose token is `token`, for `target`. All of a target's begin with its id.
pub fn hint_row(target: &NodeId, token: u64, key: &Key) -> RowKey {
    RowKey::of([&target.0, &token.to_be_bytes(), key.as_bytes()])
}

/// Target, token and client key of a row of hints; `None` when the bytes are not such a row's key.
pub fn parse_hint_row(row_key: &[u8]) -> Option<(NodeId, u64, &[u8])> {
    let (target, object_row) = row_key.split_first_chunk::<32>()?;
    let (token, key) = parse_object_row(object_row)?;
    Some((NodeId(*target), token, key))
}

/// The row of what hints for `target` come to.
pub fn hint_totals_row(target: &NodeId) -> RowKey {
    RowKey::of([&target.0])
}

/// The row that marks `partition`.
pub fn mark_row(partition: Partition) -> RowKey {
    RowKey::of([&partition.0.to_be_bytes()])
}

/// The partition of a row of marks; `None` when the bytes are not such a row's key.
pub fn parse_mark_row(row_key: &[u8]) -> Option<Partition> {
    row_key.try_into().ok().map(u16::from_be_bytes).map(Partition)
}

/// The row of what the items of bucket number `bucket` come to.
pub fn bucket_row(bucket: u16) -> RowKey {
    RowKey::of([&bucket.to_be_bytes()])
}

/// The number of the bucket of such a row; `None` when the bytes are not such a row's key.
pub fn parse_bucket_row(row_key: &[u8]) -> Option<u16> {
    row_key.try_into().ok().map(u16::from_be_bytes)
}

impl AsRef<[u8]> for RowKey {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl fmt::Debug for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowKey({})", self.as_bytes().escape_ascii())
    }
}

/// Longest row key of all tables, in bytes: that of [`Table::Hints`](crate::store::Table::Hints).
pub const ROW_BYTES_MAX: usize = 32 + OBJECT_ROW_BYTES_MAX;
const OBJECT_ROW_BYTES_MAX: usize = 8 + KEY_LIMIT_BYTES;
const HISTORY_ROW_BYTES: usize = 32 + 8;
const PEER_ROW_BYTES: usize = 32;

const _: () = assert!(ROW_BYTES_MAX <= LMDB_KEY_BYTES_MAX);
const _: () = assert!(HISTORY_ROW_BYTES <= ROW_BYTES_MAX);
const _: () = assert!(PEER_ROW_BYTES <= ROW_BYTES_MAX);
const _: () = {
    let mut index = 0;
    while index < MetaRow::ALL.len() {
        let length = MetaRow::ALL[index].key().len();
        assert!(1 <= length && length <= LMDB_KEY_BYTES_MAX);
        index += 1;
    }
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn key(bytes: &[u8]) -> Key {
        Key::new(bytes).unwrap()
    }

    #[test]
    fn rows_sort_by_token_first_and_by_key_below_it() {
        let rows = [
            object_row(0, &key(b"\xff\xff")),
            object_row(1, &key(b"\x00")),
            object_row(1, &key(b"a")),
            object_row(1, &key(b"a\x00")),
            object_row(1, &key(b"b")),
            object_row(255, &key(b"a")),
            object_row(256, &key(b"a")),
            object_row(u64::MAX, &key(b"a")),
        ];
        assert!(rows.windows(2).all(|pair| pair[0].as_bytes() < pair[1].as_bytes()), "{rows:?}");
    }

    #[test]
    fn a_range_starts_after_all_smaller_tokens_and_before_its_own_keys() {
        let longest = key(&[0xff; KEY_LIMIT_BYTES]);
        assert!(object_row(0x0fff, &longest).as_bytes() < object_range_start(0x1000).as_slice());
        assert!(object_range_start(0x1000).as_slice() < object_row(0x1000, &key(b"\x00")).as_bytes());
    }

    #[test]
    fn every_row_key_is_read_back_as_it_was_written() {
        let longest = key(&[7; KEY_LIMIT_BYTES]);
        let row = object_row(42, &longest);
        assert_eq!(row.as_bytes().len(), 408);
        assert_eq!(parse_object_row(row.as_bytes()), Some((42, longest.as_bytes())));

        let node = NodeId([9; 32]);
        assert_eq!(parse_history_row(history_row(&node, 7).as_bytes()), Some((node, 7)));
        assert_eq!(parse_peer_row(peer_row(&node).as_bytes()), Some(node));

        let hint = hint_row(&node, 42, &longest);
        assert_eq!(hint.as_bytes().len(), ROW_BYTES_MAX);
        assert_eq!(parse_hint_row(hint.as_bytes()), Some((node, 42, longest.as_bytes())));
        assert_eq!(parse_bucket_row(bucket_row(700).as_bytes()), Some(700));
        assert_eq!(parse_mark_row(mark_row(Partition(700)).as_bytes()), Some(Partition(700)));
    }

    #[test]
    fn bytes_that_are_no_row_key_are_not_read_as_one() {
        assert_eq!(parse_object_row(&[0; 7]), None);
        assert_eq!(parse_object_row(&[0; 8]), None, "a key is never empty");
        assert_eq!(parse_object_row(&[0; 8 + KEY_LIMIT_BYTES + 1]), None);
        assert_eq!(parse_history_row(&[0; 39]), None);
        assert_eq!(parse_history_row(&[0; 41]), None);
        let node = NodeId([2; 32]);
        let forked = forked_history_row(&node, 7, &Digest([3; 32]));
        assert_eq!(parse_history_row(forked.as_bytes()), Some((node, 7)));
        assert!(
            forked.as_bytes() > history_row(&node, 7).as_bytes()
                && forked.as_bytes() < history_row(&node, 8).as_bytes()
        );
        assert_eq!(parse_peer_row(&[0; 31]), None);
        assert_eq!(parse_peer_row(&[0; 33]), None);
        assert_eq!(parse_hint_row(&[0; 40]), None, "a key is never empty");
        assert_eq!(parse_mark_row(&[0; 3]), None);
        assert_eq!(parse_bucket_row(&[0; 1]), None);
    }

    #[test]
    fn every_fact_of_the_store_has_a_row_of_its_own() {
        let keys: BTreeSet<_> = MetaRow::ALL.iter().map(|row| row.key()).collect();
        assert_eq!(keys.len(), MetaRow::ALL.len());
    }
}
