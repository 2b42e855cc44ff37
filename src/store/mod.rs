//! The storage interface: tables of ordered byte rows under transactions.
//!
//! What is assumed of the medium: a committed transaction survives a crash of the process (and, where durability is
//! `sync`, of the machine) as a whole; one that was dropped leaves no trace; one whose commit failed is there as a
//! whole or not at all, and nobody can tell which; transactions commit in the order in which they were made; a read
//! transaction sees one committed state. Nothing is assumed of single bytes: every record carries its own checksum
//! ([`record`]).
//!
//! There is one writer at a time. A row key has 1 to 511 bytes in every implementation. What the rows mean is not
//! known here; how their keys are laid out is in [`schema`].

pub mod schema;
pub mod record;
pub mod memory;

#[cfg(feature = "node")]
pub mod lmdb;
#[cfg(feature = "node")]
pub mod lmdb_file;
#[cfg(feature = "node")]
mod lmdb_gate;

use thiserror::Error;

use crate::limits::LMDB_KEY_BYTES_MAX;

/// The tables of a store. Rows are ordered by the bytes of their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Single facts about this store: format version, epochs, boot number, clean stop.
    Meta,
    /// One row per key: the object and its local record.
    Objects,
    /// One row per membership change.
    History,
    /// One row per peer ever met: its highest boot number.
    Peers,
    /// One row per hint: what is kept of a key for a node that could not be reached. Not this node's own data.
    Hints,
    /// One row per node that hints are kept for: how many, how large, since when.
    HintTotals,
    /// One row per partition that was left incomplete knowingly, and wants to be compared early.
    Marks,
    /// One row per bucket of the Merkle tree that has items: what they come to.
    Trees,
}

impl Table {
    /// All of them.
    pub const ALL: [Table; 8] = [
        Table::Meta,
        Table::Objects,
        Table::History,
        Table::Peers,
        Table::Hints,
        Table::HintTotals,
        Table::Marks,
        Table::Trees,
    ];

    /// Its place in [`Table::ALL`]. Never changes: it is in the checksums on people's disks.
    pub const fn number(self) -> u8 {
        match self {
            Table::Meta => 0,
            Table::Objects => 1,
            Table::History => 2,
            Table::Peers => 3,
            Table::Hints => 4,
            Table::HintTotals => 5,
            Table::Marks => 6,
            Table::Trees => 7,
        }
    }
}

/// Why the store did not do what it was asked. The transaction it happened in must be dropped; nothing of it stays.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// It was not begun: too much waits already, or its time was over. Nothing changed, and nothing is wrong.
    #[error("the store has too much to do: {detail}")]
    Busy {
        /// Why it was not begun.
        detail: String,
    },
    /// The map is full. Reads go on; grow the store, then try the same again.
    #[error("the map of the store is full: it has {map_bytes} bytes")]
    MapFull {
        /// Its size.
        map_bytes: u64,
    },
    /// The disk is full. Reads go on; a later retry may succeed.
    #[error("the store is full: {detail}")]
    Full {
        /// What the medium said.
        detail: String,
    },
    /// The medium refused or failed. Reads may go on.
    #[error("the store failed: {detail}")]
    Failed {
        /// What the medium said.
        detail: String,
    },
    /// A row is not what this program wrote; see the detail.
    #[error("the store is damaged: {detail}")]
    Damaged {
        /// Which row, and what is wrong with it.
        detail: String,
    },
}

/// Whether a visit of rows goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// Show the next row.
    On,
    /// Enough.
    Stop,
}

/// What is shown the rows of a table, one by one: key, row. An error ends the visit and is handed on.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> Result<Walk, StoreError> + 'a;

/// One committed state of the store.
pub trait ReadTxn {
    /// The row of `key`, if there is one.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>, StoreError>;

    /// Shows the rows whose keys are at least `from`, in order of their keys, until `visit` says stop.
    fn visit(&self, table: Table, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError>;

    /// Number of rows in `table`. Cheap: kept by the store, not counted.
    fn count(&self, table: Table) -> Result<u64, StoreError>;

    /// About how many bytes `table` takes. Cheap where the store keeps it; this one looks at every row.
    fn size_bytes(&self, table: Table) -> Result<u64, StoreError> {
        let mut bytes = 0;
        self.visit(table, &[], &mut |key, row| {
            bytes += (key.len() + row.len()) as u64;
            Ok(Walk::On)
        })?;
        Ok(bytes)
    }
}

/// A transaction that sees its own changes. Dropping it leaves no trace.
pub trait WriteTxn: ReadTxn {
    /// Sets the row of `key`.
    fn put(&mut self, table: Table, key: &[u8], row: &[u8]) -> Result<(), StoreError>;

    /// Removes the row of `key`. Returns whether there was one.
    fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool, StoreError>;

    /// Makes all changes durable at once. After an error nothing of them is promised: some media cannot tell.
    fn commit(self) -> Result<(), StoreError>
    where
        Self: Sized;
}

/// A store: any number of readers, one writer.
pub trait Store {
    /// See [`Store::read`].
    type Read<'a>: ReadTxn
    where
        Self: 'a;
    /// See [`Store::write`].
    type Write<'a>: WriteTxn
    where
        Self: 'a;

    /// The latest committed state.
    fn read(&self) -> Result<Self::Read<'_>, StoreError>;

    /// Begins the one write transaction. While another is open it waits or refuses; a thread never needs two.
    fn write(&self) -> Result<Self::Write<'_>, StoreError>;
}

/// Refuses a row key that no table can hold.
fn check_row_key(key: &[u8]) -> Result<(), StoreError> {
    if (1..=LMDB_KEY_BYTES_MAX).contains(&key.len()) {
        return Ok(());
    }
    Err(StoreError::Failed { detail: format!("a row key has 1 to {LMDB_KEY_BYTES_MAX} bytes, not {}", key.len()) })
}
