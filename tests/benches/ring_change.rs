//! What a change of ring costs a cluster that holds many keys: `cargo bench --bench ring_change -- [--keys N]`.
//!
//! Three real nodes on loopback begin with equal stores, and a fourth joins. Told are the keys it holds in the end, the bytes
//! that were exchanged, and how many items were hashed again though nothing in them had changed: none may be.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark tells what it has measured")]

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use async_io::Timer;
use async_std::{future::timeout, task::block_on};
use libp2p::Multiaddr;
use quorate::{
    causality::{
        dot::Actor,
        seen::Seen,
        siblings::{NewValue, Object},
    },
    clock::WallTime,
    config::{Founding, NodeConfig},
    ident::{Key, Name, OpId, Value},
    membership::change::{Parameters, Profile},
    merkle::branch::ItemKey,
    replica::{Work, batch::Committer, hints::HintLimits, rules::Rules},
    ring::token::{Partition, PartitionCount, Token},
    runtime::{self, Notice, Running, Settings, handle::Handle},
    store::{
        Store as _, StoreError,
        lmdb::{Durability, LmdbStore, Options},
    },
    wire::{
        client::{ClientRequest, ClientResponse, Status},
        exchange::Root,
    },
};

const CLUSTER: &str = "bench";
const NOW: WallTime = WallTime(1_700_000_000_000);
const PATIENCE: Duration = Duration::from_secs(600);
const OPTIONS: Options = Options { durability: Durability::Periodic, map_size_bytes: 1 << 30 };

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let given = arguments.iter().position(|argument| argument == "--keys").and_then(|index| arguments.get(index + 1));
    let keys = given.map_or(1_000_000, |text| text.parse().expect("--keys is a number"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let stores: Vec<_> = (0..3).map(|index| dir.path().join(format!("node-{index}")).join("store")).collect();
    eprintln!("{keys} keys: filling …");
    for store in &stores {
        fs::create_dir_all(store).expect("a directory is made");
    }
    fill(&stores[0], keys);
    let full = LmdbStore::open(&stores[0], OPTIONS).expect("the store opens");
    for store in &stores[1..] {
        full.copy_to(&store.join("data.mdb")).expect("the store is copied");
    }
    drop(full);
    block_on(measure(dir.path(), keys));
}

/// The same keys everywhere, in a store that no node has opened yet.
fn fill(path: &Path, keys: usize) {
    let store = LmdbStore::open(path, OPTIONS).expect("the store opens");
    let limits = HintLimits { target_bytes: 1, total_bytes: 1 };
    let item_key = ItemKey::of(&Name::new(CLUSTER).expect("a name"));
    let mut committer = Committer::new(1, item_key, Rules::sound(), limits, 1);
    let mut numbers: Vec<(u64, usize)> = (0..keys).map(|number| (Token::of(&key(number)).0, number)).collect();
    numbers.sort_unstable();
    for chunk in numbers.chunks(4_096) {
        let batch: Vec<((), Work)> =
            chunk.iter().map(|(_, number)| ((), Work::Merge { key: key(*number), object: object() })).collect();
        while let Err(error) = committer.run(&store, &batch, NOW) {
            assert!(matches!(error, StoreError::MapFull { .. }), "{error}");
            store.grow().expect("the map grows");
        }
    }
    store.sync().expect("the store is synchronised");
    drop(store.read());
}

fn key(number: usize) -> Key {
    Key::new(format!("key-{number:08}").as_bytes()).expect("a key")
}

fn object() -> Object {
    let mut object = Object::default();
    let value = Value::new(&[7; 32]).expect("a value");
    let new = NewValue { op: OpId([1; 16]), value, written_at: NOW, expires_at: None };
    object.put(&Seen::default(), Actor { node: 1, epoch: 0 }, new);
    object
}

async fn measure(dir: &Path, keys: usize) {
    let mut nodes = vec![start(dir, 0, &[]).await];
    for index in 1..3 {
        let join = nodes[0].1.clone();
        nodes.push(start(dir, index, &join).await);
    }
    let handles: Vec<Handle> = nodes.iter().map(|(running, _)| running.handle()).collect();
    wait("three are members", async || status(&handles[0]).await.members.len() == 3).await;
    let before = roots(&handles[0]).await;
    let held: u64 = before.values().map(|(count, _)| count).sum();
    assert_eq!(held, keys as u64, "each of the three holds everything");

    let (begun, join) = (Instant::now(), nodes[0].1.clone());
    let joiner = start(dir, 3, &join).await;
    let newcomer = joiner.0.handle();
    wait("the newcomer holds its share", async || {
        let share = roots(&newcomer).await;
        !share.is_empty() && share.iter().all(|(partition, root)| before.get(partition) == Some(root))
    })
    .await;
    let took = begun.elapsed();
    let share: u64 = roots(&newcomer).await.values().map(|(count, _)| count).sum();
    let bytes = newcomer.counters().await.expect("the node runs").exchange;
    println!(
        "ring change, {keys} keys at three nodes: a fourth got {share} of them in {took:.1?}; {} bytes received, {} sent",
        bytes.bytes_received, bytes.bytes_sent
    );
    for (index, handle) in handles.iter().chain([&newcomer]).enumerate() {
        let status = status(handle).await;
        let counter = |name| status.counters.iter().find(|(it, _)| it == name).map_or(0, |(_, count)| *count);
        let (rehashed, leaves) = (counter("items_rehashed"), counter("leaves_read"));
        println!("node {index}: rehashed = {rehashed}, leaves read = {leaves}");
        assert_eq!(rehashed, 0);
    }
    for (running, _) in nodes.into_iter().chain([joiner]) {
        running.stop().await;
    }
}

async fn start(dir: &Path, index: usize, join: &[Multiaddr]) -> (Running, Vec<Multiaddr>) {
    let name = Name::new(&format!("node-{index}")).expect("a name");
    let profile = Profile { name, zone: None, weight: 1, addresses: Vec::new() };
    let partitions = PartitionCount::new(1_024).expect("a power of two");
    let parameters = Parameters { partitions, replicas: 3 };
    let mut node = NodeConfig::lan(Name::new(CLUSTER).expect("a name"), profile, parameters);
    node.founding = if join.is_empty() { Founding::After(Duration::from_millis(50)) } else { Founding::Never };
    let settings = Settings {
        data_dir: dir.join(format!("node-{index}")),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")],
        join: join.to_vec(),
        mdns: false,
        swarm_key: None,
        durability: Durability::Periodic,
        node,
    };
    let mut running = runtime::start(settings).await.expect("the node starts");
    loop {
        let notice = timeout(PATIENCE, running.next_notice()).await.expect("it becomes a member in time");
        if let Notice::Ready { addresses } = notice.expect("the node goes on") {
            return (running, addresses);
        }
    }
}

async fn status(handle: &Handle) -> Status {
    match handle.request(ClientRequest::Status).await.expect("the node runs") {
        ClientResponse::Status(status) => *status,
        other => panic!("not a status: {other:?}"),
    }
}

async fn roots(handle: &Handle) -> BTreeMap<Partition, (u64, Root)> {
    match handle.request(ClientRequest::Roots).await.expect("the node runs") {
        ClientResponse::Roots(roots) => {
            roots.into_iter().map(|root| (root.partition, (root.count, root.root))).collect()
        }
        other => panic!("no roots: {other:?}"),
    }
}

/// Looks ten times a second whether it is so.
async fn wait(what: &str, is_so: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        Timer::after(Duration::from_millis(100)).await;
    }
}
