//! Stores that are lost or old and become whole by comparing alone: no hints, no repair by reads, nobody reads.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    future::Future,
    ops::Range,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use async_io::Timer;
use async_std::task::block_on;
use futures::future::join_all;
use libp2p::Multiaddr;
use quorate::{
    ident::Key,
    quorum::put::Hinting,
    ring::token::{Partition, PartitionCount, Token},
    runtime::{Settings, handle::Handle},
    store::{
        ReadTxn as _, Store as _, Table, Walk,
        lmdb::{Durability, LmdbStore, Options},
    },
    wire::{
        client::{ClientRequest, ClientResponse, Consistency},
        exchange::Root,
    },
};
use quorate_behaviours::merkle_exchange;

use crate::{
    alone,
    cluster::{self, TestNode, put, status, wait_for_members},
    town::object_bytes,
};

/// Puts under way at a time.
const IN_FLIGHT: usize = 256;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pairs are compared so often.
const INTERVAL: Duration = Duration::from_secs(2);

/// Nodes of one cluster in one directory.
struct Town {
    dir: tempfile::TempDir,
    replicas: u8,
    interval: Duration,
    nodes: BTreeMap<usize, TestNode>,
}

#[test]
fn a_wiped_store_under_a_kept_identity_is_whole_again_by_comparing_alone() {
    const KEYS: usize = 50_000;
    let _turn = alone();
    block_on(async {
        let mut town = Town::begin(5, 3, INTERVAL).await;
        let failures = write(&town.handles(), "wiped", 0..KEYS).await;
        assert!(failures * 100 <= KEYS, "{failures} puts failed, though everybody was there");
        town.wait_equal().await;
        let before = roots(&town.handles()[0]).await;
        let data_bytes = bytes_of("wiped", 0..KEYS, &before.keys().copied().collect());

        town.stop(0).await;
        fs::remove_dir_all(town.store_dir(0)).unwrap();
        let (shipped_before, begun) = (bytes_sent(&town.handles()).await, Instant::now());
        town.start(0).await;
        town.wait_equal().await;
        let took = begun.elapsed();
        let shipped_bytes = bytes_sent(&town.handles()).await - shipped_before;
        let held: u64 = before.values().map(|(count, _)| count).sum();
        let [data, shipped] = [data_bytes, shipped_bytes].map(|bytes| f64::from(u32::try_from(bytes).unwrap()));
        eprintln!("wiped: {held} keys, {data_bytes} bytes; {shipped_bytes} bytes shipped in {took:.1?}");
        eprintln!("wiped: {:.3} bytes shipped for a byte of data", shipped / data);
        assert_eq!(roots(&town.handles()[0]).await, before, "it holds what it held");
        assert!(0.9 * data <= shipped && shipped <= 1.1 * data, "{shipped_bytes} bytes for {data_bytes}");
        town.assert_nothing_is_left().await;
    });
}

#[test]
fn an_old_copy_of_a_store_catches_up() {
    const KEYS: usize = 3_000;
    let _turn = alone();
    block_on(async {
        let mut town = Town::begin(5, 3, INTERVAL).await;
        write(&town.handles(), "before", 0..KEYS).await;
        town.stop(0).await;
        let copy = town.dir.path().join("copy");
        copy_dir(&town.store_dir(0), &copy);

        town.start(0).await;
        write(&town.handles(), "after", 0..KEYS).await;
        town.stop(0).await;
        town.start(0).await;
        town.wait_equal().await;
        let whole = roots(&town.handles()[0]).await;
        town.stop(0).await;
        fs::remove_dir_all(town.store_dir(0)).unwrap();
        fs::rename(copy, town.store_dir(0)).unwrap();
        let begun = Instant::now();
        town.start(0).await;
        town.wait_equal().await;
        let taken = counter(&town.handles()[0], "items_taken").await;
        eprintln!("old copy: {taken} keys taken, equal after {:.1?}", begun.elapsed());
        assert_eq!(roots(&town.handles()[0]).await, whole, "nothing is lost");
        assert!(taken > 0, "the copy was not old");
        town.assert_nothing_is_left().await;
    });
}

#[test]
fn in_step_two_nodes_spend_one_question_and_one_answer() {
    const KEYS: usize = 10_000;
    let _turn = alone();
    block_on(async {
        let town = Town::begin(2, 2, Duration::from_millis(500)).await;
        write(&town.handles(), "quiet", 0..KEYS).await;
        town.wait_equal().await;
        let handle = town.handles().remove(0);
        let before = quiet(&handle, 0).await;
        let after = quiet(&handle, before.1.questions_sent + before.1.questions_received + 8).await;
        let spent = |count: fn(&merkle_exchange::Counters) -> u64| count(&after.1) - count(&before.1);
        let counted = |name: &str| after.0[name] - before.0[name];
        let (asked, was_asked) = (spent(|it| it.questions_sent), spent(|it| it.questions_received));
        let bytes = spent(|it| it.bytes_sent + it.bytes_received);
        eprintln!("in step: {asked} exchanges begun and {was_asked} answered, {bytes} bytes both ways");
        // Every question was a whole exchange.
        assert_eq!((counted("exchanges_begun"), counted("exchanges_in_step")), (asked, asked + was_asked));
        assert_eq!((spent(|it| it.answers_received), spent(|it| it.answers_sent)), (asked, was_asked));
        assert!(bytes < 200 * (asked + was_asked), "{bytes} bytes for {} exchanges", asked + was_asked);
        // One digest of everything for each that began here: nothing below it was looked at.
        assert_eq!(counted("hashes_compared"), asked);
        for name in ["items_taken", "items_given", "exchanges_apart", "exchanges_failed"] {
            assert_eq!(counted(name), 0, "{name}");
        }
        assert_eq!(status(&handle).await.key_count, KEYS as u64);
    });
}

#[test]
fn a_change_of_ring_leaves_every_digest_as_it_was_and_the_joiner_gets_its_share_by_comparing() {
    const KEYS: usize = 5_000;
    let _turn = alone();
    block_on(async {
        let mut town = Town::begin(3, 3, INTERVAL).await;
        write(&town.handles(), "ring", 0..KEYS).await;
        town.wait_equal().await;
        let held = roots(&town.handles()[0]).await;
        for index in 0..3 {
            town.stop(index).await;
        }
        let rows: Vec<_> = (0..3).map(|index| tree_rows(&town.store_dir(index))).collect();
        for index in 0..3 {
            town.start(index).await;
        }
        town.wait_equal().await;
        let mut works_before = Vec::new();
        for handle in town.handles() {
            works_before.push(status(&handle).await.write_count);
        }

        town.start(3).await;
        town.wait_equal().await;
        let handles = town.handles();
        let joiner = roots(&handles[3]).await;
        assert!(joiner.len() >= 32 && joiner.iter().all(|(partition, root)| held[partition] == *root), "its share");
        eprintln!("ring: {} of {} partitions at the joiner", joiner.len(), held.len());
        for (index, before) in works_before.into_iter().enumerate() {
            let works = status(&handles[index]).await.write_count - before;
            let mended = counter(&handles[index], "buckets_mended").await;
            let rehashed = counter(&handles[index], "items_rehashed").await;
            eprintln!("ring: {works} works at an owner, {mended} buckets mended, {rehashed} items hashed again");
            assert_eq!(rehashed, 0);
            assert!(works < 300 && mended == 0, "{works} works and {mended} buckets for {KEYS} keys");
        }
        for (index, before) in rows.iter().enumerate() {
            town.stop(index).await;
            // What the joiner has instead of it is dropped; all else is as it was.
            let after = tree_rows(&town.store_dir(index));
            let is_as_before = after.iter().all(|row| before.contains(row));
            assert!(!after.is_empty() && after.len() <= before.len() && is_as_before, "the tree of node {index}");
        }
    });
}

impl Town {
    async fn begin(count: usize, replicas: u8, interval: Duration) -> Town {
        let mut town = Town { dir: tempfile::tempdir().unwrap(), replicas, interval, nodes: BTreeMap::new() };
        for index in 0..count {
            town.start(index).await;
        }
        town.wait_up().await;
        town
    }

    /// Starts a node on what it has, or anew.
    async fn start(&mut self, index: usize) {
        let join: Vec<Multiaddr> = self.nodes.values().flat_map(|node| node.addresses.clone()).collect();
        let node = cluster::start(self.settings(index, &join)).await;
        self.nodes.insert(index, node);
    }

    async fn stop(&mut self, index: usize) {
        self.nodes.remove(&index).unwrap().running.stop().await;
    }

    fn settings(&self, index: usize, join: &[Multiaddr]) -> Settings {
        let mut settings = cluster::settings(self.dir.path(), &name_of(index), join);
        settings.durability = Durability::Periodic;
        settings.node.parameters.replicas = self.replicas;
        settings.node.exchange_interval = self.interval;
        settings.node.hinting = Hinting::Off;
        settings.node.read_repair = false;
        settings
    }

    fn store_dir(&self, index: usize) -> PathBuf {
        self.dir.path().join(name_of(index)).join("store")
    }

    /// By number.
    fn handles(&self) -> Vec<Handle> {
        self.nodes.values().map(|node| node.running.handle()).collect()
    }

    async fn wait_up(&self) {
        for handle in self.handles() {
            wait_for_members(&handle, self.nodes.len()).await;
        }
    }

    /// Waits until all who share a partition hold the same of it, and all can vouch for what they hold.
    async fn wait_equal(&self) {
        self.wait_up().await;
        let handles = self.handles();
        until("all are equal", || async {
            let mut all: BTreeMap<Partition, (u64, Root)> = BTreeMap::new();
            for handle in &handles {
                if status(handle).await.filling_partitions > 0 {
                    return false;
                }
                for (partition, root) in roots(handle).await {
                    if *all.entry(partition).or_insert(root) != root {
                        return false;
                    }
                }
            }
            true
        })
        .await;
    }

    /// Three times everybody is compared with everybody, and nothing moves.
    async fn assert_nothing_is_left(&self) {
        // What was under way when all became equal may still have something on its way.
        self.wait_rounds(1).await;
        let mut before = Vec::new();
        for handle in self.handles() {
            before.push(counters(&handle).await);
        }
        self.wait_rounds(3).await;
        for (handle, before) in self.handles().iter().zip(&before) {
            let after = counters(handle).await;
            for name in ["items_taken", "items_given", "exchanges_apart"] {
                assert_eq!(after[name], before[name], "{name}");
            }
        }
    }

    /// Waits until each has been found in step with as many as that takes.
    async fn wait_rounds(&self, rounds: u64) {
        let handles = self.handles();
        let count = rounds * (handles.len() as u64 - 1);
        let mut before = Vec::new();
        for handle in &handles {
            before.push(counter(handle, "exchanges_in_step").await);
        }
        until("so many rounds are over", || async {
            for (handle, before) in handles.iter().zip(&before) {
                if counter(handle, "exchanges_in_step").await < before + count {
                    return false;
                }
            }
            true
        })
        .await;
    }
}

fn name_of(index: usize) -> String {
    format!("node-{index}")
}

fn key_of(name: &str, number: usize) -> Key {
    Key::new(format!("{name}-{number}").as_bytes()).unwrap()
}

/// Between 200 and 1 000 bytes.
fn value_of(number: usize) -> String {
    "v".repeat(200 + number * 7_919 % 801)
}

/// Puts all keys, many at a time, each at the node that heads its row.
async fn write(handles: &[Handle], name: &str, numbers: Range<usize>) -> usize {
    let (begun, count, next) = (Instant::now(), numbers.len(), RefCell::new(numbers));
    let failures = RefCell::new(0);
    let writer = async || {
        loop {
            let Some(number) = next.borrow_mut().next() else { return };
            let (key, value) = (format!("{name}-{number}"), value_of(number));
            // Whoever it is: nodes pass on what is not theirs, all of them at the same time.
            let handle = &handles[number % handles.len()];
            // Connections may still be settling: who is refused asks again.
            while !matches!(put(handle, &key, &value, Consistency::Quorum).await, ClientResponse::Stored(_)) {
                *failures.borrow_mut() += 1;
                assert!(begun.elapsed() < PATIENCE, "not written in time: {key}");
            }
        }
    };
    join_all((0..IN_FLIGHT).map(|_| writer())).await;
    eprintln!("{name}: {count} puts in {:.1?}, {} asked again", begun.elapsed(), failures.borrow());
    failures.into_inner()
}

/// What was written to these partitions: keys, values, and what an object has beside its value.
fn bytes_of(name: &str, numbers: Range<usize>, partitions: &BTreeSet<Partition>) -> u64 {
    let count = PartitionCount::new(64).unwrap();
    let meant = numbers.filter(|number| partitions.contains(&Token::of(&key_of(name, *number)).partition(count)));
    meant.map(|number| object_bytes(&key_of(name, number), &value_of(number))).sum()
}

/// What each partition comes to that a node holds and can vouch for.
async fn roots(handle: &Handle) -> BTreeMap<Partition, (u64, Root)> {
    match handle.request(ClientRequest::Roots).await.unwrap() {
        ClientResponse::Roots(roots) => roots.into_iter().map(|it| (it.partition, (it.count, it.root))).collect(),
        other => panic!("no roots: {other:?}"),
    }
}

async fn counters(handle: &Handle) -> BTreeMap<String, u64> {
    status(handle).await.counters.into_iter().collect()
}

async fn counter(handle: &Handle, name: &str) -> u64 {
    counters(handle).await[name]
}

/// By all of them: what one sends another receives.
async fn bytes_sent(handles: &[Handle]) -> u64 {
    let mut bytes = 0;
    for handle in handles {
        bytes += handle.counters().await.unwrap().exchange.bytes_sent;
    }
    bytes
}

/// What a node has counted when so many questions were asked, whoever asked, and no exchange is under way.
async fn quiet(handle: &Handle, questions: u64) -> (BTreeMap<String, u64>, merkle_exchange::Counters) {
    let found = RefCell::new(None);
    until("no exchange is under way", || async {
        let before = handle.counters().await.unwrap().exchange;
        let ClientResponse::Exchanges(report) = handle.request(ClientRequest::Exchanges).await.unwrap() else {
            panic!("no report");
        };
        let counted = counters(handle).await;
        let is_quiet = report.under_way == 0
            && before.questions_sent == before.answers_received
            && before.questions_received == before.answers_sent;
        let is_enough = before.questions_sent + before.questions_received >= questions;
        let is_same = handle.counters().await.unwrap().exchange == before;
        let is_found = is_quiet && is_enough && is_same;
        if is_found {
            *found.borrow_mut() = Some((counted, before));
        }
        is_found
    })
    .await;
    found.into_inner().unwrap()
}

/// The stored digests of a store that nobody uses.
fn tree_rows(store: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let options = Options { durability: Durability::Periodic, map_size_bytes: 1 << 30 };
    let store = LmdbStore::open(store, options).unwrap();
    let txn = store.read().unwrap();
    let mut rows = Vec::new();
    txn.visit(Table::Trees, &[], &mut |row, digest| {
        rows.push((row.to_vec(), digest.to_vec()));
        Ok(Walk::On)
    })
    .unwrap();
    rows
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Asks until it is so. Whoever asks all the time is load, too.
async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        Timer::after(Duration::from_millis(20)).await;
    }
}
