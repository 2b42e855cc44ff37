//! A store in memory: the twin of LMDB, with the same semantics and with faults on demand.
//!
//! A write transaction is a layer of changes over the committed tables; to commit moves the changes down, to drop it
//! forgets them. Committed tables are shared, never copied, by read transactions and snapshots; a table is copied only
//! when it is written to while such a reader or snapshot of it is alive. Simulated crashes are dropped transactions,
//! rolled-back disks are restored [`Snapshot`]s, wiped disks are restored empty ones.
//!
//! For one thread: a second write transaction is refused, not waited for. Nothing outlives the value.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, btree_map},
    iter::Peekable,
    ops::Bound,
    sync::Arc,
};

use crate::store::{ReadTxn, Store, StoreError, Table, Visitor, Walk, WriteTxn, check_row_key};

/// A store in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    committed: RefCell<Snapshot>,
    is_writing: Cell<bool>,
    restored_count: Cell<u64>,
    fault: RefCell<Option<Fault>>,
}

/// One committed state of a [`MemoryStore`]. Cloning shares the rows; the default is an empty store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    tables: [Arc<Rows>; TABLE_COUNT],
}

/// See [`Store::read`].
#[derive(Debug)]
pub struct MemoryRead {
    state: Snapshot,
}

/// See [`Store::write`].
#[derive(Debug)]
pub struct MemoryWrite<'a> {
    store: &'a MemoryStore,
    base: Snapshot,
    changes: [Changes; TABLE_COUNT],
    counts: [u64; TABLE_COUNT],
    restored_count: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// The latest committed state. Cheap.
    pub fn snapshot(&self) -> Snapshot {
        self.committed.borrow().clone()
    }

    /// Goes back (or over) to the state of `snapshot`. A write transaction that is open now can no longer commit.
    pub fn restore(&self, snapshot: &Snapshot) {
        *self.committed.borrow_mut() = snapshot.clone();
        self.restored_count.set(self.restored_count.get() + 1);
    }

    /// Lets the next commit fail with `error` and leave no trace.
    pub fn fail_next_commit(&self, error: StoreError) {
        *self.fault.borrow_mut() = Some(Fault { error, is_applied: false });
    }

    /// Lets the next commit fail with `error` although all of it has been stored: what a medium does that dies between
    /// its work and its answer.
    pub fn fail_next_commit_after_storing(&self, error: StoreError) {
        *self.fault.borrow_mut() = Some(Fault { error, is_applied: true });
    }
}

impl Store for MemoryStore {
    type Read<'a> = MemoryRead;
    type Write<'a> = MemoryWrite<'a>;

    fn read(&self) -> Result<MemoryRead, StoreError> {
        Ok(MemoryRead { state: self.snapshot() })
    }

    fn write(&self) -> Result<MemoryWrite<'_>, StoreError> {
        if self.is_writing.replace(true) {
            return Err(StoreError::Failed { detail: "another write transaction is open".to_owned() });
        }
        let base = self.snapshot();
        Ok(MemoryWrite {
            store: self,
            counts: base.tables.each_ref().map(|rows| rows.len() as u64),
            base,
            changes: Default::default(),
            restored_count: self.restored_count.get(),
        })
    }
}

impl ReadTxn for MemoryRead {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        check_row_key(key)?;
        Ok(self.state.rows(table).get(key).map(|row| &**row))
    }

    fn visit(&self, table: Table, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        for (key, row) in self.state.rows(table).range::<[u8], _>(starting(from)) {
            if visit(key, row)? == Walk::Stop {
                break;
            }
        }
        Ok(())
    }

    fn count(&self, table: Table) -> Result<u64, StoreError> {
        Ok(self.state.rows(table).len() as u64)
    }
}

impl ReadTxn for MemoryWrite<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        check_row_key(key)?;
        Ok(match self.changes[usize::from(table.number())].get(key) {
            Some(change) => change.as_deref(),
            None => self.base.rows(table).get(key).map(|row| &**row),
        })
    }

    fn visit(&self, table: Table, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        let layers = Layers {
            base: self.base.rows(table).range::<[u8], _>(starting(from)).peekable(),
            changes: self.changes[usize::from(table.number())].range::<[u8], _>(starting(from)).peekable(),
        };
        for (key, row) in layers {
            if visit(key, row)? == Walk::Stop {
                break;
            }
        }
        Ok(())
    }

    fn count(&self, table: Table) -> Result<u64, StoreError> {
        Ok(self.counts[usize::from(table.number())])
    }
}

impl WriteTxn for MemoryWrite<'_> {
    fn put(&mut self, table: Table, key: &[u8], row: &[u8]) -> Result<(), StoreError> {
        if self.get(table, key)?.is_none() {
            self.counts[usize::from(table.number())] += 1;
        }
        self.changes[usize::from(table.number())].insert(key.into(), Some(row.into()));
        Ok(())
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool, StoreError> {
        if self.get(table, key)?.is_none() {
            return Ok(false);
        }
        self.counts[usize::from(table.number())] -= 1;
        self.changes[usize::from(table.number())].insert(key.into(), None);
        Ok(true)
    }

    fn commit(mut self) -> Result<(), StoreError> {
        if self.restored_count != self.store.restored_count.get() {
            return Err(StoreError::Failed { detail: "the store was restored under the transaction".to_owned() });
        }
        match self.store.fault.borrow_mut().take() {
            None => self.apply(),
            Some(Fault { error, is_applied }) => {
                if is_applied {
                    self.apply();
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

impl MemoryWrite<'_> {
    /// Moves the changes down into the committed tables.
    fn apply(&mut self) {
        // Our own share of the committed tables would force a copy of each that changes.
        self.base = Snapshot::default();
        let mut committed = self.store.committed.borrow_mut();
        for (rows, changes) in committed.tables.iter_mut().zip(&mut self.changes) {
            if changes.is_empty() {
                continue;
            }
            let rows = Arc::make_mut(rows);
            for (key, change) in std::mem::take(changes) {
                match change {
                    Some(row) => rows.insert(key, row),
                    None => rows.remove(&key),
                };
            }
        }
    }
}

impl Drop for MemoryWrite<'_> {
    fn drop(&mut self) {
        self.store.is_writing.set(false);
    }
}

impl Snapshot {
    fn rows(&self, table: Table) -> &Rows {
        &self.tables[usize::from(table.number())]
    }
}

type Row = Arc<[u8]>;
type Rows = BTreeMap<Arc<[u8]>, Row>;
/// What a transaction has changed of a table: the new row, or `None` where it removed one.
type Changes = BTreeMap<Arc<[u8]>, Option<Row>>;
type Range<'a, T> = btree_map::Range<'a, Arc<[u8]>, T>;

#[derive(Debug)]
struct Fault {
    error: StoreError,
    is_applied: bool,
}

/// The rows of a table as a transaction sees them: its changes laid over the base, both in the order of keys.
struct Layers<'a> {
    base: Peekable<Range<'a, Row>>,
    changes: Peekable<Range<'a, Option<Row>>>,
}

impl<'a> Iterator for Layers<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        loop {
            let base_key = self.base.peek().map(|(key, _)| *key);
            let Some((key, change)) = self.changes.next_if(|(key, _)| base_key.is_none_or(|base| *key <= base)) else {
                return self.base.next().map(|(key, row)| (&**key, &**row));
            };
            self.base.next_if(|(base, _)| *base == key);
            if let Some(row) = change {
                return Some((key, row));
            }
        }
    }
}

fn starting(from: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Included(from), Bound::Unbounded)
}

const TABLE_COUNT: usize = Table::ALL.len();

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Table = Table::Objects;

    fn put(store: &MemoryStore, key: &[u8], row: &[u8]) {
        let mut txn = store.write().unwrap();
        txn.put(TABLE, key, row).unwrap();
        txn.commit().unwrap();
    }

    fn rows(txn: &impl ReadTxn) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        txn.visit(TABLE, b"", &mut |key, row| {
            rows.push((key.to_vec(), row.to_vec()));
            Ok(Walk::On)
        })
        .unwrap();
        rows
    }

    fn full() -> StoreError {
        StoreError::Full { detail: "as told".to_owned() }
    }

    #[test]
    fn a_transaction_sees_its_own_changes_laid_over_the_committed_rows() {
        let store = MemoryStore::new();
        for key in [b"b", b"d", b"f"] {
            put(&store, key, b"old");
        }
        let mut txn = store.write().unwrap();
        txn.put(TABLE, b"a", b"new").unwrap();
        txn.put(TABLE, b"d", b"new").unwrap();
        txn.put(TABLE, b"g", b"new").unwrap();
        assert!(txn.delete(TABLE, b"f").unwrap());
        assert!(!txn.delete(TABLE, b"f").unwrap());
        let expected = [("a", "new"), ("b", "old"), ("d", "new"), ("g", "new")];
        assert_eq!(rows(&txn), expected.map(|(key, row)| (key.into(), row.into())));
        assert_eq!(txn.count(TABLE).unwrap(), 4);
        assert_eq!(txn.get(TABLE, b"f").unwrap(), None);
        txn.commit().unwrap();
        assert_eq!(rows(&store.read().unwrap()), expected.map(|(key, row)| (key.into(), row.into())));
    }

    #[test]
    fn a_dropped_transaction_and_a_failed_commit_leave_no_trace() {
        let store = MemoryStore::new();
        put(&store, b"a", b"1");
        let before = store.snapshot();

        let mut txn = store.write().unwrap();
        txn.put(TABLE, b"b", b"2").unwrap();
        drop(txn);
        assert_eq!(store.snapshot(), before);

        store.fail_next_commit(full());
        let mut txn = store.write().unwrap();
        txn.delete(TABLE, b"a").unwrap();
        assert_eq!(txn.commit(), Err(full()));
        assert_eq!(store.snapshot(), before);
        put(&store, b"b", b"2");
    }

    #[test]
    fn a_commit_can_fail_after_everything_was_stored() {
        let store = MemoryStore::new();
        store.fail_next_commit_after_storing(full());
        let mut txn = store.write().unwrap();
        txn.put(TABLE, b"a", b"1").unwrap();
        assert_eq!(txn.commit(), Err(full()));
        assert_eq!(store.read().unwrap().get(TABLE, b"a").unwrap(), Some(&b"1"[..]));
    }

    #[test]
    fn a_reader_and_a_snapshot_keep_their_state_while_others_commit() {
        let store = MemoryStore::new();
        put(&store, b"a", b"1");
        let (reader, snapshot) = (store.read().unwrap(), store.snapshot());
        put(&store, b"a", b"2");
        assert_eq!(reader.get(TABLE, b"a").unwrap(), Some(&b"1"[..]));
        store.restore(&snapshot);
        assert_eq!(store.read().unwrap().get(TABLE, b"a").unwrap(), Some(&b"1"[..]));
        store.restore(&Snapshot::default());
        assert_eq!(store.read().unwrap().count(TABLE).unwrap(), 0);
    }

    #[test]
    fn a_transaction_begun_before_a_restore_cannot_commit_after_it() {
        let store = MemoryStore::new();
        let mut txn = store.write().unwrap();
        txn.put(TABLE, b"a", b"1").unwrap();
        store.restore(&Snapshot::default());
        assert!(txn.commit().is_err());
        assert_eq!(store.snapshot(), Snapshot::default());
    }

    #[test]
    fn there_is_one_writer_at_a_time() {
        let store = MemoryStore::new();
        let txn = store.write().unwrap();
        assert!(store.write().is_err());
        drop(txn);
        assert!(store.write().is_ok());
    }

    #[test]
    fn a_commit_copies_no_table_that_nobody_else_holds() {
        let store = MemoryStore::new();
        put(&store, b"a", b"1");
        let before = Arc::as_ptr(&store.committed.borrow().tables[usize::from(TABLE.number())]);
        put(&store, b"b", b"2");
        assert_eq!(Arc::as_ptr(&store.committed.borrow().tables[usize::from(TABLE.number())]), before);
    }
}
