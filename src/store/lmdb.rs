//! The store on disk: LMDB, through heed.
//!
//! One environment per directory, one process per environment, one table of LMDB's per [`Table`]. Reading never waits
//! for writing nor writing for reading; a read transaction may go from thread to thread, a write transaction stays on
//! the thread that began it. While a read transaction lives, the pages of its state are not used again: keep it short.
//!
//! When the map is full, the transaction fails with [`StoreError::MapFull`]; [`LmdbStore::grow`], then try again. After
//! a failure to write a meta page LMDB serves nothing more, not even reads: drop the store and open it anew.
//!
//! The file is as long as the map, most of it a hole that takes no room (`du` tells the truth, `ls` does not); the
//! reason is in [`lmdb_file`], as is all that must be known of a directory before it is
//! opened. This is the only file of the package with `unsafe` code: opening the map, and making it larger.

use std::{
    fmt, fs,
    marker::PhantomData,
    ops::Bound,
    path::{Path, PathBuf},
};

use heed::{
    CommitOrAbort, CompactionOption, Database, Env, EnvFlags, EnvOpenOptions, MdbError, RoTxn, RwTxn, WithoutTls,
    types::Bytes,
};

use crate::store::{
    ReadTxn, Store, StoreError, Table, Visitor, Walk, WriteTxn, check_row_key,
    lmdb_file::{self, Claim, DataFile, OpenError},
    lmdb_gate::{Closed, Gate, Pass},
};

/// When a commit is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When it returns: it survives a loss of power.
    Sync,
    /// When [`LmdbStore::sync`] returns: until then it survives the end of the process, but not of the machine, which
    /// may even leave the file damaged (where the file system does not keep the order of writes).
    Periodic,
}

/// How to open a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// When a commit is on the disk.
    pub durability: Durability,
    /// Smallest size of the map in bytes, rounded up to whole pages. A store that has grown beyond it stays grown.
    pub map_size_bytes: u64,
}

/// A store on disk.
///
/// Dropping it closes the environment and gives its directory free.
pub struct LmdbStore {
    // Dropped in this order: first the environment, then the right to it.
    env: Env<WithoutTls>,
    tables: Tables,
    gate: Gate,
    dir: PathBuf,
    _claim: Claim,
}

/// See [`Store::read`]. May be sent to another thread.
pub struct LmdbRead<'a> {
    // Dropped in this order: the gate must not count us out before the transaction has ended.
    txn: RoTxn<'a, WithoutTls>,
    tables: Tables,
    _pass: Pass<'a>,
}

/// See [`Store::write`]. Stays on its thread: LMDB's writer holds a mutex of that thread.
pub struct LmdbWrite<'a> {
    txn: RwTxn<'a>,
    store: &'a LmdbStore,
    _pass: Pass<'a>,
    _stays_on_its_thread: PhantomData<*const ()>,
}

impl LmdbStore {
    /// Opens the store in `dir`; makes directory and store when there are none.
    ///
    /// The directory must be ours and nobody else may have it open; a file that was cut or is not LMDB's is refused.
    pub fn open(dir: &Path, options: Options) -> Result<LmdbStore, OpenError> {
        let claim = lmdb_file::claim(dir)?;
        let length_bytes = match lmdb_file::check(dir)? {
            DataFile::Fresh => 0,
            DataFile::Whole { length_bytes } => length_bytes,
        };
        let size_bytes = options.map_size_bytes.clamp(MAP_SIZE_MIN_BYTES, MAP_SIZE_MAX_BYTES).max(length_bytes);
        let size_bytes = size_bytes.next_multiple_of(PAGE_MULTIPLE_BYTES);
        let refused = |error: heed::Error| OpenError::Refused { path: dir.to_owned(), detail: error.to_string() };

        let env = open_env(dir, size_bytes, options.durability).map_err(refused)?;
        // Before the first transaction, so that the file is never shorter than its last page.
        lmdb_file::stretch(dir, size_bytes)?;
        env.clear_stale_readers().map_err(refused)?;
        let tables = open_tables(&env).map_err(refused)?;
        Ok(LmdbStore { env, tables, gate: Gate::new(size_bytes), dir: dir.to_owned(), _claim: claim })
    }

    /// Puts all commits on the disk. What [`Durability::Periodic`] needs now and then; else there is nothing to do.
    pub fn sync(&self) -> Result<(), StoreError> {
        let _pass = self.gate.enter()?;
        self.env.force_sync().map_err(|error| self.store_error(error))
    }

    /// Makes the map larger: twice as large, but at most by 16 GiB. Returns its new size in bytes.
    ///
    /// Waits for transactions that are open to end, and lets new ones wait meanwhile. The thread that calls must have
    /// none open, and no thread should open a second one while it has one. When some are still open after ten seconds, nothing is changed and the error says so.
    pub fn grow(&self) -> Result<u64, StoreError> {
        let mut closed = self.gate.close()?;
        let now_bytes = closed.map_size_bytes();
        let size_bytes = (now_bytes + now_bytes.min(GROWTH_MAX_BYTES)).min(MAP_SIZE_MAX_BYTES);
        if size_bytes <= now_bytes {
            return Err(StoreError::Full { detail: format!("the map has its largest size, {now_bytes} bytes") });
        }
        lmdb_file::stretch(&self.dir, size_bytes).map_err(|error| match error {
            OpenError::Io { source, .. } => io_store_error(&source),
            other => StoreError::Failed { detail: other.to_string() },
        })?;
        if let Err(error) = resize(&self.env, size_bytes, &closed) {
            // LMDB has already let go of the old map.
            closed.break_down();
            return Err(StoreError::Failed {
                detail: format!("the map could not be made {size_bytes} bytes large: {error}"),
            });
        }
        closed.set_map_size_bytes(size_bytes);
        Ok(size_bytes)
    }

    /// Size of the map in bytes: how much the store can hold before it must grow.
    pub fn map_size_bytes(&self) -> u64 {
        self.gate.map_size_bytes()
    }

    /// Copies the latest committed state into a new file at `path`, without holding up writers. In an empty directory
    /// under the name `data.mdb` the copy is a store. Returns its length in bytes.
    pub fn copy_to(&self, path: &Path) -> Result<u64, StoreError> {
        let _pass = self.gate.enter()?;
        let mut file = fs::File::create_new(path).map_err(|error| io_store_error(&error))?;
        let copied =
            self.env.copy_to_file(&mut file, CompactionOption::Enabled).map_err(|error| self.store_error(error));
        let synced = copied.and_then(|()| {
            let length_bytes = file.sync_all().and_then(|()| file.metadata()).map(|metadata| metadata.len());
            length_bytes.map_err(|error| io_store_error(&error))
        });
        if synced.is_err() {
            // The error is the one worth telling, not that its remains could not be removed.
            let _ = fs::remove_file(path);
        }
        synced
    }

    fn full_or_failed(&self, error: &std::io::Error) -> StoreError {
        match lmdb_file::free_bytes(&self.dir) {
            Ok(free_bytes) if free_bytes < FREE_BYTES_MIN => {
                StoreError::Full { detail: format!("{error}; {} has {free_bytes} bytes left", self.dir.display()) }
            }
            _ => io_store_error(error),
        }
    }

    fn store_error(&self, error: heed::Error) -> StoreError {
        match error {
            heed::Error::Mdb(MdbError::MapFull) => StoreError::MapFull { map_bytes: self.map_size_bytes() },
            // What LMDB makes of a write that was cut short, which is how a disk runs full.
            heed::Error::Io(error) if error.raw_os_error() == Some(EIO) => self.full_or_failed(&error),
            other => plain_store_error(&other),
        }
    }
}

impl fmt::Debug for LmdbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LmdbStore({})", self.dir.display())
    }
}

impl Store for LmdbStore {
    type Read<'a> = LmdbRead<'a>;
    type Write<'a> = LmdbWrite<'a>;

    fn read(&self) -> Result<LmdbRead<'_>, StoreError> {
        let pass = self.gate.enter()?;
        let txn = self.env.read_txn().map_err(|error| self.store_error(error))?;
        Ok(LmdbRead { txn, tables: self.tables, _pass: pass })
    }

    fn write(&self) -> Result<LmdbWrite<'_>, StoreError> {
        let pass = self.gate.enter()?;
        let txn = self.env.write_txn().map_err(|error| self.store_error(error))?;
        Ok(LmdbWrite { txn, store: self, _pass: pass, _stays_on_its_thread: PhantomData })
    }
}

impl ReadTxn for LmdbRead<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        get(&self.txn, of(&self.tables, table), key)
    }

    fn visit(&self, table: Table, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        visit_rows(&self.txn, of(&self.tables, table), from, visit)
    }

    fn count(&self, table: Table) -> Result<u64, StoreError> {
        of(&self.tables, table).len(&self.txn).map_err(|error| plain_store_error(&error))
    }

    fn size_bytes(&self, table: Table) -> Result<u64, StoreError> {
        let stat = of(&self.tables, table).stat(&self.txn).map_err(|error| plain_store_error(&error))?;
        let pages = stat.branch_pages as u64 + stat.leaf_pages as u64 + stat.overflow_pages as u64;
        Ok(pages * u64::from(stat.page_size))
    }
}

impl ReadTxn for LmdbWrite<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        get(&self.txn, of(&self.store.tables, table), key)
    }

    fn visit(&self, table: Table, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        visit_rows(&self.txn, of(&self.store.tables, table), from, visit)
    }

    fn count(&self, table: Table) -> Result<u64, StoreError> {
        of(&self.store.tables, table).len(&self.txn).map_err(|error| plain_store_error(&error))
    }
}

impl WriteTxn for LmdbWrite<'_> {
    fn put(&mut self, table: Table, key: &[u8], row: &[u8]) -> Result<(), StoreError> {
        check_row_key(key)?;
        let put = of(&self.store.tables, table).put(&mut self.txn, key, row);
        put.map_err(|error| self.store.store_error(error))
    }

    fn delete(&mut self, table: Table, key: &[u8]) -> Result<bool, StoreError> {
        check_row_key(key)?;
        let deleted = of(&self.store.tables, table).delete(&mut self.txn, key);
        deleted.map_err(|error| self.store.store_error(error))
    }

    fn commit(self) -> Result<(), StoreError> {
        let LmdbWrite { txn, store, _pass, .. } = self;
        txn.commit().map_err(|error| store.store_error(error))
    }
}

type Rows = Database<'static, Bytes, Bytes>;
type Tables = [Rows; Table::ALL.len()];

#[expect(unsafe_code, reason = "opening a memory map is unsafe by nature")]
fn open_env(dir: &Path, size_bytes: u64, durability: Durability) -> heed::Result<Env<WithoutTls>> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(as_size(size_bytes)).max_readers(READER_COUNT_MAX).max_dbs(TABLE_COUNT_MAX);
    // SAFETY: The map stays valid as long as nobody else changes or cuts the file. The caller holds the claim on the
    // directory, so no other node has the file open, here or in another process; its owner was checked to be us; its
    // length was checked against its meta pages. NO_SYNC is unsafe only for what a crash of the machine leaves, and
    // `Durability::Periodic` says so. Each transaction is tied to the store by its lifetime.
    unsafe {
        match durability {
            Durability::Sync => {}
            Durability::Periodic => {
                options.flags(EnvFlags::NO_SYNC);
            }
        }
        options.open(dir)
    }
}

#[expect(unsafe_code, reason = "LMDB does not check that no transaction is open; the closed gate proves it")]
fn resize(env: &Env<WithoutTls>, size_bytes: u64, _closed: &Closed<'_>) -> heed::Result<()> {
    // SAFETY: Every transaction holds a pass of the gate until it has ended; the gate is closed and nobody is inside.
    unsafe { env.resize(as_size(size_bytes)) }
}

fn open_tables(env: &Env<WithoutTls>) -> heed::Result<Tables> {
    let opened = env.create_databases_and_commit(env.write_txn()?, |opener, txn| {
        let mut create = |table| opener.create_database::<Bytes, Bytes>(txn, Some(name(table)));
        let [a, b, c, d, e, f, g, h] = Table::ALL;
        let tables = [create(a)?, create(b)?, create(c)?, create(d)?, create(e)?, create(f)?, create(g)?, create(h)?];
        Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(tables))
    })?;
    Ok(opened.unwrap_commit())
}

/// Name of a table inside the environment. Never changes: it is on people's disks.
fn name(table: Table) -> &'static str {
    match table {
        Table::Meta => "meta",
        Table::Objects => "objects",
        Table::History => "history",
        Table::Peers => "peers",
        Table::Hints => "hints",
        Table::HintTotals => "hint totals",
        Table::Marks => "marks",
        Table::Trees => "trees",
    }
}

fn of(tables: &Tables, table: Table) -> &Rows {
    &tables[usize::from(table.number())]
}

fn get<'txn>(txn: &'txn RoTxn<'_>, rows: &Rows, key: &[u8]) -> Result<Option<&'txn [u8]>, StoreError> {
    check_row_key(key)?;
    rows.get(txn, key).map_err(|error| plain_store_error(&error))
}

fn visit_rows(txn: &RoTxn<'_>, rows: &Rows, from: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
    let start = if from.is_empty() { Bound::Unbounded } else { Bound::Included(from) };
    let range = (start, Bound::Unbounded);
    for entry in rows.range(txn, &range).map_err(|error| plain_store_error(&error))? {
        let (key, row) = entry.map_err(|error| plain_store_error(&error))?;
        if visit(key, row)? == Walk::Stop {
            break;
        }
    }
    Ok(())
}

fn plain_store_error(error: &heed::Error) -> StoreError {
    match error {
        heed::Error::Io(source) => io_store_error(source),
        heed::Error::Mdb(MdbError::PageNotFound | MdbError::Corrupted | MdbError::Invalid) => {
            StoreError::Damaged { detail: format!("LMDB found its file damaged: {error}") }
        }
        other => StoreError::Failed { detail: other.to_string() },
    }
}

fn io_store_error(error: &std::io::Error) -> StoreError {
    use std::io::ErrorKind;
    let detail = error.to_string();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => StoreError::Full { detail },
        _ => StoreError::Failed { detail },
    }
}

/// Lossless: only machines of 64 bits are built for.
fn as_size(size_bytes: u64) -> usize {
    usize::try_from(size_bytes).unwrap_or(usize::MAX)
}

/// A multiple of the page size of every machine.
const PAGE_MULTIPLE_BYTES: u64 = 65_536;
/// The tables themselves need a few pages.
const MAP_SIZE_MIN_BYTES: u64 = 4 * PAGE_MULTIPLE_BYTES;
/// 8 TiB: what common file systems let a file be.
const MAP_SIZE_MAX_BYTES: u64 = 8 << 40;
const GROWTH_MAX_BYTES: u64 = 16 << 30;
/// Read transactions at once; one more is refused. Each takes 64 bytes of LMDB's lock file.
const READER_COUNT_MAX: u32 = 256;
/// More than there are, for tables of later versions.
const TABLE_COUNT_MAX: u32 = 16;
/// A disk with less room, in bytes, that has just failed to write was full.
const FREE_BYTES_MIN: u64 = 1 << 20;
/// Linux's, macOS's and the BSDs' number for an input/output error.
const EIO: i32 = 5;
