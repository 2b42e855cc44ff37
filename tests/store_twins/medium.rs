//! What only the store on disk can suffer: files that were cut or overwritten, directories in use or of other users, full
//! maps and full disks. Where a signal would be the failure, the store is opened in a process of its own.

use std::{
    fs,
    os::unix::{
        fs::{FileExt, MetadataExt, chown},
        process::ExitStatusExt,
    },
    path::Path,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use quorate::store::{
    ReadTxn, Store, StoreError, Table, WriteTxn,
    lmdb::{LmdbStore, Options},
    lmdb_file::OpenError,
    record::{self, RecordDamage},
};
use tempfile::{TempDir, tempdir};

use crate::{OPTIONS, Random, open, put, rows};

#[test]
fn a_file_cut_at_any_length_is_refused_with_a_clear_error() {
    let whole = copy_of_some_store();
    let mut lengths: Vec<usize> = (1..200).chain((200..whole.len()).step_by(997)).collect();
    lengths.extend([4095, 4096, 4097, 4096 + 151, 4096 + 152, 8191, 8192, whole.len() - 4096, whole.len() - 1]);
    for length in lengths {
        let dir = dir_with(&whole[..length]);
        let error = LmdbStore::open(dir.path(), OPTIONS).expect_err("a cut file must not be opened");
        let OpenError::Truncated { actual_bytes, needed_bytes, .. } = error else {
            panic!("{length} bytes: {error}");
        };
        assert_eq!(actual_bytes, length as u64);
        assert!(actual_bytes < needed_bytes && needed_bytes <= whole.len() as u64, "{needed_bytes}");
        assert_eq!(fs::read(dir.path().join("data.mdb")).unwrap(), whole[..length], "the file was changed");
    }
}

#[test]
fn a_cut_file_ends_a_process_with_an_error_and_never_with_a_signal() {
    const NAME: &str = "a_cut_file_ends_a_process_with_an_error_and_never_with_a_signal";
    if let Some(dir) = dir_of_child() {
        let store = LmdbStore::open(&dir, OPTIONS).unwrap_or_else(|error| panic!("refused: {error}"));
        println!("{} rows", rows(&store.read().unwrap()).len());
        return;
    }
    let whole = copy_of_some_store();
    for length in [100, 5_000, 8_192, whole.len() / 2, whole.len() - 1] {
        let dir = dir_with(&whole[..length]);
        let output = run_as_child(NAME, dir.path(), &[]);
        assert_eq!(output.status.signal(), None, "{length} bytes");
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && said.contains("was truncated"), "{length} bytes: {said}");
    }
    let output = run_as_child(NAME, dir_with(&whole).path(), &[]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("100 rows"), "{output:?}");
}

#[test]
fn a_file_that_is_not_or_no_longer_lmdbs_is_refused_with_a_clear_error() {
    let whole = copy_of_some_store();
    let noise: Vec<u8> = {
        let mut random = Random(7);
        (0..whole.len()).map(|_| random.below(256) as u8).collect()
    };
    let overwritten = |range: std::ops::Range<usize>, with: &[u8]| {
        let mut bytes = whole.clone();
        bytes[range.clone()].copy_from_slice(&with[range]);
        bytes
    };
    let zeros = vec![0; whole.len()];
    let newest = if u64_at(&whole, 144) < u64_at(&whole, 4096 + 144) { 4096 } else { 0 };
    let root = usize::try_from(u64_at(&whole, newest + 128)).unwrap() * 4096;
    let cases = [
        ("text", b"These are not the bytes that you are looking for. ".repeat(200)),
        ("noise", noise.clone()),
        ("zeros", zeros.clone()),
        ("noise in the first meta page", overwritten(0..4096, &noise)),
        ("noise in the second meta page", overwritten(4096..8192, &noise)),
        ("zeros in the second meta page", overwritten(4096..8192, &zeros)),
        ("not a meta page", overwritten(10..12, &zeros)),
        ("another magic number", overwritten(16..20, &noise)),
        ("another version", overwritten(20..24, &noise)),
        ("another page size", overwritten(40..44, &zeros)),
        ("an absurd last page", overwritten(newest + 136..newest + 144, &vec![0xff; whole.len()])),
        ("a zeroed root page", overwritten(root..root + 4096, &zeros)),
        ("a root page of noise", overwritten(root..root + 4096, &noise)),
        ("a root beyond the end", overwritten(newest + 128..newest + 136, &vec![0x0f; whole.len()])),
    ];
    for (case, bytes) in cases {
        let dir = dir_with(&bytes);
        match LmdbStore::open(dir.path(), OPTIONS) {
            Err(error @ OpenError::Damaged { .. }) => {
                let line = error.to_string();
                assert!(line.contains("data.mdb") && line.contains("restore a backup"), "{case}: {line}");
            }
            other => panic!("{case}: {other:?}"),
        }
    }
}

#[test]
fn an_empty_file_is_a_store_that_was_never_written() {
    let dir = dir_with(b"");
    assert_eq!(open(dir.path()).read().unwrap().count(Table::Objects).unwrap(), 0);
}

#[test]
fn a_store_that_took_pages_and_gave_them_back_at_once_opens_again() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    // So that there are free pages, and what the last commit itself needs is not taken at the end.
    for key in 0..50_u8 {
        put(&store, &[key % 10], &[key; 2_000]);
    }
    let mut txn = store.write().unwrap();
    txn.put(Table::Objects, b"small", b"1").unwrap();
    txn.put(Table::Objects, b"large", &vec![1; 1 << 20]).unwrap();
    assert!(txn.delete(Table::Objects, b"large").unwrap());
    txn.commit().unwrap();
    drop(store);
    assert_eq!(open(dir.path()).read().unwrap().count(Table::Objects).unwrap(), 11);
}

#[test]
fn a_directory_in_use_is_refused_and_free_again_after_it_was_closed() {
    const NAME: &str = "a_directory_in_use_is_refused_and_free_again_after_it_was_closed";
    if let Some(dir) = dir_of_child() {
        LmdbStore::open(&dir, OPTIONS).unwrap_or_else(|error| panic!("refused: {error}"));
        return;
    }
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    match LmdbStore::open(dir.path(), OPTIONS) {
        Err(OpenError::InUse { dir: named, pid }) => {
            assert_eq!((named.as_path(), pid), (dir.path(), Some(std::process::id())));
        }
        other => panic!("{other:?}"),
    }
    let output = run_as_child(NAME, dir.path(), &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&format!("is in use by process {}", std::process::id())), "{said}");
    assert!(!output.status.success());

    drop(store);
    assert!(run_as_child(NAME, dir.path(), &[]).status.success());
    open(dir.path());
}

#[test]
fn a_directory_or_a_file_of_another_user_is_refused() {
    let dir = tempdir().unwrap();
    drop(open(dir.path()));
    let ours = fs::metadata(dir.path()).unwrap().uid();
    for path in [dir.path().to_owned(), dir.path().join("data.mdb")] {
        if chown(&path, Some(12_345), None).is_err() {
            eprintln!("skipped: only root can give a directory to another user");
            return;
        }
        match LmdbStore::open(dir.path(), OPTIONS) {
            Err(error @ OpenError::NotOurs { owner_uid: 12_345, .. }) => {
                assert!(error.to_string().contains(&format!("chown -R {ours} ")), "{error}");
            }
            other => panic!("{other:?}"),
        }
        chown(&path, Some(ours), None).unwrap();
    }
    open(dir.path());
}

#[test]
fn a_full_map_says_so_keeps_what_it_has_and_takes_more_once_it_has_grown() {
    let dir = tempdir().unwrap();
    let store = LmdbStore::open(dir.path(), Options { map_size_bytes: 1, ..OPTIONS }).unwrap();
    put(&store, b"first", b"1");
    let size_bytes = store.map_size_bytes();
    let row = vec![7; usize::try_from(size_bytes).unwrap()];
    let mut txn = store.write().unwrap();
    assert_eq!(txn.put(Table::Objects, b"large", &row), Err(StoreError::MapFull { map_bytes: size_bytes }));
    drop(txn);
    assert_eq!(rows(&store.read().unwrap()), [(b"first".to_vec(), b"1".to_vec())]);

    assert_eq!(store.grow(), Ok(2 * size_bytes));
    assert_eq!(store.map_size_bytes(), 2 * size_bytes);
    put(&store, b"large", &row);
    drop(store);
    let store = LmdbStore::open(dir.path(), Options { map_size_bytes: 1, ..OPTIONS }).unwrap();
    assert_eq!(store.map_size_bytes(), 2 * size_bytes, "a grown store stays grown");
    assert_eq!(store.read().unwrap().get(Table::Objects, b"large").unwrap(), Some(&row[..]));
}

#[test]
fn growing_waits_for_readers_to_end_and_they_see_the_old_map_until_then() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    put(&store, b"a", b"1");
    let size_bytes = store.map_size_bytes();
    let reader = store.read().unwrap();
    thread::scope(|scope| {
        let grown = scope.spawn(|| (store.grow(), Instant::now()));
        thread::yield_now();
        assert_eq!(reader.get(Table::Objects, b"a").unwrap(), Some(&b"1"[..]));
        assert!(!grown.is_finished());
        let ended = Instant::now();
        drop(reader);
        let (result, at) = grown.join().unwrap();
        assert_eq!(result, Ok(2 * size_bytes));
        assert!(ended <= at && at < ended + Duration::from_secs(5));
    });
    put(&store, b"a", b"2");
}

#[test]
fn a_full_disk_refuses_writes_with_the_reason_while_reads_go_on_and_recovers() {
    const NAME: &str = "a_full_disk_refuses_writes_with_the_reason_while_reads_go_on_and_recovers";
    if let Some(dir) = dir_of_child() {
        let store = open(&dir.join("store"));
        put(&store, b"first", b"1");
        let filler = dir.join("filler");
        fs::write(&filler, vec![1; 1 << 20]).unwrap();
        let mut txn = store.write().unwrap();
        let result = txn.put(Table::Objects, b"large", &vec![7; 2 << 20]).and_then(|()| txn.commit());
        assert!(matches!(result, Err(StoreError::Full { .. })), "{result:?}");
        assert_eq!(rows(&store.read().unwrap()), [(b"first".to_vec(), b"1".to_vec())]);
        fs::remove_file(filler).unwrap();
        put(&store, b"large", &vec![7; 2 << 20]);
        println!("recovered");
        return;
    }
    let dir = tempdir().unwrap();
    let mount = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=3m none \"$0\" && exec \"$@\""];
    let probe = Command::new(mount[0]).args(&mount[1..]).arg(dir.path()).arg("true").output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: a small file system can be mounted by root only");
        return;
    }
    let output = run_as_child(NAME, dir.path(), &mount);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("recovered"), "{output:?}");
}

#[test]
fn a_byte_flipped_on_the_disk_is_noticed_by_the_record() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    let body = b"a body to be found again".repeat(10);
    put(&store, b"row", &record::seal(Table::Objects, b"row", &body));
    drop(store);

    let file = fs::File::options().read(true).write(true).open(dir.path().join("data.mdb")).unwrap();
    let mut bytes = vec![0; 1 << 20];
    let length = file.read_at(&mut bytes, 0).unwrap();
    let places: Vec<usize> = (0..length - body.len()).filter(|at| bytes[*at..].starts_with(&body)).collect();
    assert!(!places.is_empty());
    for at in places {
        file.write_all_at(&[bytes[at + 100] ^ 0x20], at as u64 + 100).unwrap();
    }

    let store = open(dir.path());
    let txn = store.read().unwrap();
    let stored = txn.get(Table::Objects, b"row").unwrap().unwrap();
    assert_eq!(record::open(Table::Objects, b"row", stored), Err(RecordDamage::ChecksumWrong));
}

#[test]
fn a_copy_made_while_a_writer_is_at_work_is_a_store_with_the_committed_state() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    put(&store, b"a", b"1");
    let mut txn = store.write().unwrap();
    txn.put(Table::Objects, b"b", b"2").unwrap();

    let backup = tempdir().unwrap();
    let path = backup.path().join("data.mdb");
    let length_bytes = store.copy_to(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), length_bytes);
    assert!(store.copy_to(&path).is_err(), "a file that is there is not overwritten");
    txn.commit().unwrap();
    assert_eq!(rows(&open(backup.path()).read().unwrap()), [(b"a".to_vec(), b"1".to_vec())]);
}

/// The data file of a store with a hundred rows, without a byte too many.
fn copy_of_some_store() -> Vec<u8> {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    for key in 0..100_u8 {
        put(&store, &[key], &[key; 700]);
    }
    let path = dir.path().join("copy");
    store.copy_to(&path).unwrap();
    fs::read(path).unwrap()
}

fn dir_with(data: &[u8]) -> TempDir {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("data.mdb"), data).unwrap();
    dir
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_ne_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// The directory that this process was given to work on, if it is the child of a test.
fn dir_of_child() -> Option<std::path::PathBuf> {
    std::env::var_os(CHILD_DIR).map(Into::into)
}

/// Runs the test `name` in a process of its own that works on `dir`; `wrapper` is a command that gets `dir` and what
/// to run as arguments.
fn run_as_child(name: &str, dir: &Path, wrapper: &[&str]) -> Output {
    let test = std::env::current_exe().unwrap();
    let mut command = match wrapper {
        [] => Command::new(&test),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(dir).arg(&test);
            command
        }
    };
    command.args(["--exact", &format!("medium::{name}"), "--nocapture"]).env(CHILD_DIR, dir).output().unwrap()
}

const CHILD_DIR: &str = "QUORATE_TEST_STORE_DIR";
