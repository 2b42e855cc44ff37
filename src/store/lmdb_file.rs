//! The directory of an LMDB store before its map is opened: whose it is, who uses it, and whether its file is whole.
//!
//! LMDB maps its file. Where the file is shorter than its pages say, a read is a SIGBUS that ends the process, and
//! LMDB itself does not look. So the two meta pages are read here by hand, and the length of the file is compared with
//! the last page they name. LMDB may count pages at the end that it has never written (freed in the transaction that
//! took them), therefore `stretch` makes the file as long as the map, without taking room on the disk: a file that
//! ends before its last page has then always been cut.
//!
//! Not noticed here: damage inside the pages of a tree. Records have checksums, inner pages have none.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Why a store was not opened. Nothing in its directory was changed, except that it may have been created.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process (or this one) has it open.
    #[error(
        "the store in {} is in use by {}: stop that node first, or give this one another data directory",
        dir.display(),
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The directory of the store.
        dir: PathBuf,
        /// The process that has it open, if it has said so.
        pid: Option<u32>,
    },
    /// It belongs to another user: what we would write, that user could not read any more.
    #[error(
        "{} belongs to the user with uid {owner_uid}, but this process runs as uid {our_uid}: run it as that user, \
         or hand over the directory (chown -R {our_uid} {}), or give another data directory",
        path.display(),
        path.display()
    )]
    NotOurs {
        /// The directory, or the file in it.
        path: PathBuf,
        /// Whose it is.
        owner_uid: u32,
        /// As whom we run (effective user).
        our_uid: u32,
    },
    /// The file ends before its last page.
    #[error(
        "{} was truncated: it has {actual_bytes} bytes and needs {needed_bytes}: restore a backup, or move its \
         directory away and let the node fill again from its peers",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length.
        actual_bytes: u64,
        /// The length that its newest meta page asks for.
        needed_bytes: u64,
    },
    /// The file is not one that LMDB wrote, or no longer.
    #[error(
        "{} is damaged: {detail}: restore a backup, or move its directory away and let the node fill again from its \
         peers",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The operating system refused.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// What was tried; a verb.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// LMDB refused.
    #[error("LMDB could not open {}: {detail}", path.display())]
    Refused {
        /// The directory of the store.
        path: PathBuf,
        /// What it said.
        detail: String,
    },
}

/// The sole right to use a directory, from `claim` until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Claim {
    /// Holds the lock while it is open.
    _lock: File,
}

/// What is to be known of a data file before it is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataFile {
    /// There is none, or an empty one: a crash between making it and writing to it leaves 0 bytes.
    Fresh,
    /// A whole one, of so many bytes.
    Whole {
        /// Its length.
        length_bytes: u64,
    },
}

/// Takes `dir` for this process; makes it (with mode 0700) when it does not exist.
pub(crate) fn claim(dir: &Path) -> Result<Claim, OpenError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("create the directory", dir))?;
    check_owner(dir)?;
    let data = dir.join(DATA_FILE);
    if data.try_exists().map_err(io_error("look for", &data))? {
        check_owner(&data)?;
    }

    let path = dir.join(LOCK_FILE);
    let mut lock = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io_error("open", &path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(OpenError::InUse { dir: dir.to_owned(), pid: read_pid(&mut lock) });
        }
        Err(TryLockError::Error(source)) => return Err(io_error("lock", &path)(source)),
    }
    write_pid(&mut lock).map_err(io_error("write", &path))?;
    Ok(Claim { _lock: lock })
}

/// Looks at the data file in `dir`, which must be claimed.
pub(crate) fn check(dir: &Path) -> Result<DataFile, OpenError> {
    let path = dir.join(DATA_FILE);
    let mut file = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DataFile::Fresh),
        opened => opened.map_err(io_error("open", &path))?,
    };
    let length_bytes = file.metadata().map_err(io_error("read", &path))?.len();
    if length_bytes == 0 {
        return Ok(DataFile::Fresh);
    }
    let damaged = |detail: String| OpenError::Damaged { path: path.clone(), detail };
    let truncated =
        |needed_bytes| OpenError::Truncated { path: path.clone(), actual_bytes: length_bytes, needed_bytes };

    if length_bytes < META_END_BYTES as u64 {
        return Err(truncated(META_END_BYTES as u64));
    }
    let first = read_meta(&mut file, 0).map_err(io_error("read", &path))?;
    let first = Meta::parse(0, &first).map_err(damaged)?;
    if length_bytes < 2 * first.page_bytes {
        return Err(truncated(2 * first.page_bytes));
    }
    let second = read_meta(&mut file, first.page_bytes).map_err(io_error("read", &path))?;
    let second = Meta::parse(1, &second).map_err(damaged)?;
    if first.page_bytes != second.page_bytes {
        return Err(damaged(format!("its meta pages name two page sizes, {first:?} and {second:?}")));
    }

    // LMDB takes the first of two equally new ones.
    let newest = if first.transaction < second.transaction { second } else { first };
    let needed_bytes = newest.needed_bytes().ok_or_else(|| damaged(format!("its last page is absurd, {newest:?}")))?;
    if length_bytes < needed_bytes {
        return Err(truncated(needed_bytes));
    }
    for root in newest.roots {
        check_root(&mut file, root, &newest).map_err(io_error("read", &path))?.map_err(damaged)?;
    }
    Ok(DataFile::Whole { length_bytes })
}

/// Makes the data file in `dir` at least `length_bytes` long, and its length durable. Takes no room on the disk.
pub(crate) fn stretch(dir: &Path, length_bytes: u64) -> Result<(), OpenError> {
    let path = dir.join(DATA_FILE);
    let stretched = File::options().write(true).open(&path).and_then(|file| {
        if file.metadata()?.len() < length_bytes {
            file.set_len(length_bytes)?;
            file.sync_all()?;
        }
        Ok(())
    });
    stretched.map_err(io_error("lengthen", &path))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", dir))
}

/// Room that the file system of `dir` has left for us, in bytes.
pub(crate) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let file_system = rustix::fs::statvfs(dir)?;
    Ok(file_system.f_bavail.saturating_mul(file_system.f_frsize))
}

/// One of the two meta pages; the newest says what the file holds.
#[derive(Debug, Clone, Copy)]
struct Meta {
    page_bytes: u64,
    last_page: u64,
    transaction: u64,
    /// Root pages of the tree of free pages and of the tree of tables; `u64::MAX` for an empty one.
    roots: [u64; 2],
}

impl Meta {
    /// Reads meta page `number`, or says what is wrong with it.
    fn parse(number: u64, page: &[u8; META_END_BYTES]) -> Result<Meta, String> {
        let [flags, magic, version] =
            [u64::from(u16_at(page, 10)), u64::from(u32_at(page, 16)), u64::from(u32_at(page, 20))];
        if magic != MAGIC || flags & PAGE_IS_META == 0 {
            return Err(format!("its meta page {number} is not one of LMDB's"));
        }
        if version != LMDB_VERSION {
            return Err(format!("its meta page {number} has version {version} of LMDB's format, not {LMDB_VERSION}"));
        }
        let meta = Meta {
            page_bytes: u64::from(u32_at(page, 40)),
            roots: [u64_at(page, 80), u64_at(page, 128)],
            last_page: u64_at(page, 136),
            transaction: u64_at(page, 144),
        };
        let is_page_size = meta.page_bytes.is_power_of_two() && (512..=65_536).contains(&meta.page_bytes);
        if !is_page_size || meta.last_page < 1 {
            return Err(format!("its meta page {number} makes no sense, {meta:?}"));
        }
        Ok(meta)
    }

    /// Length of the file that it describes; `None` when no file can be that long.
    fn needed_bytes(&self) -> Option<u64> {
        let needed_bytes = self.last_page.checked_add(1)?.checked_mul(self.page_bytes)?;
        i64::try_from(needed_bytes).is_ok().then_some(needed_bytes)
    }
}

fn read_meta(file: &mut File, offset_bytes: u64) -> io::Result<[u8; META_END_BYTES]> {
    let mut page = [0; META_END_BYTES];
    file.seek(SeekFrom::Start(offset_bytes))?;
    file.read_exact(&mut page)?;
    Ok(page)
}

/// Looks whether a root page is the page of a tree at all; one that was zeroed or exchanged is not.
fn check_root(file: &mut File, root: u64, meta: &Meta) -> io::Result<Result<(), String>> {
    if root == u64::MAX {
        return Ok(Ok(()));
    }
    if meta.last_page < root {
        return Ok(Err(format!("its root page {root} lies after its last page {}", meta.last_page)));
    }
    let mut head = [0; PAGE_HEAD_BYTES];
    file.seek(SeekFrom::Start(root * meta.page_bytes))?;
    file.read_exact(&mut head)?;
    let is_tree = u64::from(u16_at(&head, 10)) & PAGE_IS_TREE != 0;
    if u64_at(&head, 0) != root || !is_tree {
        return Ok(Err(format!("its root page {root} is not the page of a tree")));
    }
    Ok(Ok(()))
}

fn check_owner(path: &Path) -> Result<(), OpenError> {
    let owner_uid = fs::metadata(path).map_err(io_error("read", path))?.uid();
    let our_uid = rustix::process::geteuid().as_raw();
    if owner_uid != our_uid {
        return Err(OpenError::NotOurs { path: path.to_owned(), owner_uid, our_uid });
    }
    Ok(())
}

fn read_pid(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.take(20).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    writeln!(lock, "{}", std::process::id())
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { action, path: path.to_owned(), source }
}

/// LMDB writes the numbers of its pages as the machine holds them.
fn u16_at(page: &[u8], offset: usize) -> u16 {
    u16::from_ne_bytes(bytes_at(page, offset))
}

fn u32_at(page: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes(bytes_at(page, offset))
}

fn u64_at(page: &[u8], offset: usize) -> u64 {
    u64::from_ne_bytes(bytes_at(page, offset))
}

fn bytes_at<const N: usize>(page: &[u8], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&page[offset..offset + N]);
    bytes
}

/// LMDB's name for the file.
pub(crate) const DATA_FILE: &str = "data.mdb";
/// Ours for the one that says who uses the directory. (LMDB has its own `lock.mdb` for readers.)
const LOCK_FILE: &str = "lock";

// The layout of LMDB's pages on 64-bit machines: a head of 16 bytes (number 8, padding 2, flags 2, bounds 4), then in a
// meta page: magic 4, version 4, address 8, map size 8, twice a tree of 48 (the first begins with the page size, 4; the
// root, 8, is last), last page 8, transaction 8.
const _: () = assert!(usize::BITS == 64, "the meta pages of LMDB are laid out differently on such a machine");
const META_END_BYTES: usize = 152;
const PAGE_HEAD_BYTES: usize = 16;
const MAGIC: u64 = 0xBEEF_C0DE;
const LMDB_VERSION: u64 = 1;
const PAGE_IS_META: u64 = 0x08;
/// Branch or leaf.
const PAGE_IS_TREE: u64 = 0x01 | 0x02;
