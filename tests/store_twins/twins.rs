//! One script of transactions has one outcome in memory and in LMDB.

use std::{sync::mpsc, thread};

use quorate::store::{
    ReadTxn, Store, Table, Walk, WriteTxn,
    lmdb::{Durability, LmdbRead, LmdbStore, Options},
    memory::MemoryStore,
};
use tempfile::tempdir;

use crate::{OPTIONS, Random, contents, open, put, rows};

#[test]
fn one_script_has_one_outcome_in_memory_and_on_disk() {
    for seed in 0..20 {
        let dir = tempdir().unwrap();
        let memory = MemoryStore::new();
        let mut disk = open(dir.path());
        let mut random = Random(seed);
        for _ in 0..60 {
            let steps: Vec<Step> = (0..random.below(40)).map(|_| Step::draw(&mut random)).collect();
            let is_committed = random.below(4) > 0;
            let expected = play(&memory, &steps, is_committed);
            assert_eq!(play(&disk, &steps, is_committed), expected, "seed {seed}");
            assert_eq!(contents(&disk.read().unwrap()), contents(&memory.read().unwrap()), "seed {seed}");
            if random.below(10) == 0 {
                drop(disk);
                disk = open(dir.path());
            }
        }
    }
}

#[test]
fn what_was_committed_is_there_after_opening_again_and_what_was_dropped_is_not() {
    for durability in [Durability::Sync, Durability::Periodic] {
        let dir = tempdir().unwrap();
        let store = LmdbStore::open(dir.path(), Options { durability, ..OPTIONS }).unwrap();
        put(&store, b"kept", b"1");
        let mut dropped = store.write().unwrap();
        dropped.put(Table::Objects, b"dropped", b"2").unwrap();
        drop(dropped);
        store.sync().unwrap();
        drop(store);

        let store = LmdbStore::open(dir.path(), Options { durability, ..OPTIONS }).unwrap();
        let txn = store.read().unwrap();
        assert_eq!(txn.get(Table::Objects, b"kept").unwrap(), Some(&b"1"[..]));
        assert_eq!(txn.get(Table::Objects, b"dropped").unwrap(), None);
        assert_eq!(txn.count(Table::Objects).unwrap(), 1);
    }
}

#[test]
fn a_reader_on_another_thread_keeps_its_state_while_the_writer_commits() {
    let dir = tempdir().unwrap();
    let store = open(dir.path());
    for key in 0..10_u8 {
        put(&store, &[key], b"before");
    }
    let before = store.read().unwrap();
    let (tell, told) = mpsc::sync_channel(1);
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            told.recv().unwrap();
            rows(&before)
        });
        let mut txn = store.write().unwrap();
        for key in 0..10_u8 {
            txn.put(Table::Objects, &[key], b"after").unwrap();
        }
        assert_eq!(store.read().unwrap().get(Table::Objects, &[0]).unwrap(), Some(&b"before"[..]));
        txn.commit().unwrap();
        tell.send(()).unwrap();
        let seen = reader.join().unwrap();
        assert_eq!(seen.len(), 10);
        assert!(seen.iter().all(|(_, row)| row == b"before"));
    });
    assert!(rows(&store.read().unwrap()).iter().all(|(_, row)| row == b"after"));
}

#[test]
fn a_store_may_be_shared_and_its_readers_sent_between_threads() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<LmdbStore>();
    sent::<LmdbRead<'_>>();
}

/// One step of a script; the keys are few, so that steps meet.
struct Step {
    table: Table,
    key: Vec<u8>,
    deed: Deed,
}

enum Deed {
    Put(Vec<u8>),
    Delete,
    Get,
    Visit(usize),
    Count,
}

impl Step {
    fn draw(random: &mut Random) -> Step {
        let table = Table::ALL[random.below(4)];
        let key = match random.below(30) {
            0 => Vec::new(),
            1 => vec![1; 511],
            2 => vec![1; 512],
            _ => (0..=random.below(3)).map(|_| random.below(5) as u8 * 60).collect(),
        };
        let deed = match random.below(10) {
            0..=3 => Deed::Put(vec![random.below(256) as u8; [0, 1, 30, 5_000][random.below(4)]]),
            4..=5 => Deed::Delete,
            6..=7 => Deed::Get,
            8 => Deed::Visit(random.below(8)),
            _ => Deed::Count,
        };
        Step { table, key, deed }
    }

    /// Plays the step in `txn`; returns what it answered.
    fn play(&self, txn: &mut impl WriteTxn) -> String {
        match &self.deed {
            Deed::Put(row) => format!("{:?}", txn.put(self.table, &self.key, row)),
            Deed::Delete => format!("{:?}", txn.delete(self.table, &self.key)),
            Deed::Get => format!("{:?}", txn.get(self.table, &self.key)),
            Deed::Count => format!("{:?}", txn.count(self.table)),
            Deed::Visit(limit) => {
                let mut seen = Vec::new();
                let result = txn.visit(self.table, &self.key, &mut |key, row| {
                    seen.push((key.to_vec(), row.to_vec()));
                    Ok(if seen.len() <= *limit { Walk::On } else { Walk::Stop })
                });
                format!("{result:?} {seen:?}")
            }
        }
    }
}

/// Plays `steps` in one transaction, which is then committed or dropped; then reads what they were about.
fn play<S: Store>(store: &S, steps: &[Step], is_committed: bool) -> Vec<String> {
    let mut txn = store.write().unwrap();
    let mut answers: Vec<String> = steps.iter().map(|step| step.play(&mut txn)).collect();
    if is_committed {
        answers.push(format!("{:?}", txn.commit()));
    } else {
        drop(txn);
    }
    let txn = store.read().unwrap();
    answers.extend(steps.iter().map(|step| format!("{:?}", txn.get(step.table, &step.key))));
    answers
}
