//! The two stores are twins: whatever memory does, LMDB does. And what only the one on disk can suffer.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that cannot go on may panic, and says where it skips"
)]

mod twins;
mod medium;

use std::path::Path;

use quorate::store::{
    ReadTxn, Store, Table, Walk, WriteTxn,
    lmdb::{Durability, LmdbStore, Options},
};

const OPTIONS: Options = Options { durability: Durability::Periodic, map_size_bytes: 16 << 20 };

pub(crate) type RowList = Vec<(Vec<u8>, Vec<u8>)>;

pub(crate) fn contents(txn: &impl ReadTxn) -> Vec<(u64, RowList)> {
    let of = |table| {
        let mut seen = Vec::new();
        txn.visit(table, b"", &mut |key, row| {
            assert_eq!(txn.get(table, key)?, Some(row));
            seen.push((key.to_vec(), row.to_vec()));
            Ok(Walk::On)
        })
        .unwrap();
        assert_eq!(txn.size_bytes(table).unwrap() > 0, !seen.is_empty(), "{table:?}");
        (txn.count(table).unwrap(), seen)
    };
    Table::ALL.map(of).to_vec()
}

pub(crate) fn rows(txn: &impl ReadTxn) -> RowList {
    contents(txn).swap_remove(usize::from(Table::Objects.number())).1
}

pub(crate) fn open(dir: &Path) -> LmdbStore {
    LmdbStore::open(dir, OPTIONS).unwrap()
}

pub(crate) fn put(store: &LmdbStore, key: &[u8], row: &[u8]) {
    let mut txn = store.write().unwrap();
    txn.put(Table::Objects, key, row).unwrap();
    txn.commit().unwrap();
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded, the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}
