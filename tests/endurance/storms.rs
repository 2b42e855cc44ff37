//! A node that comes back to fifty thousand hints, and holders that keep no more than they may.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_io::Timer;
use async_std::task::{block_on, spawn};
use futures::future::join_all;
use quorate::{
    client::{Client, Write},
    ident::{Key, NodeId, Value},
    replica::hints::HintLimits,
    ring::Ring,
    wire::client::{ClientResponse, Consistency},
};

use crate::{
    alone, cluster,
    harness::{Home, Node},
    load::Percentiles,
    town::{client, id_of, key, let_pass, resident, restart},
};

/// Hints for one target.
const HINTS: usize = 50_000;

/// Puts under way at a time, of all clients together.
const IN_FLIGHT: usize = 256;

/// The light load: so often somebody wants something of the target, and so often while nothing else happens.
const PAUSE: Duration = Duration::from_millis(20);
const IDLE_COUNT: usize = 1_000;

/// Longest time for all hints to be handed over.
const DRAINED_WITHIN: Duration = Duration::from_secs(150);

#[test]
fn fifty_thousand_hints_are_handed_over_while_the_target_goes_on_serving() {
    let _turn = alone();
    let home = Home::new();
    let mut nodes: [Node; 4] = home.cluster(&["--partitions", "64"]);
    let target = id_of(&nodes[3]);
    let ring = resident(&nodes[0]).view().ring.clone().unwrap();
    let led: Vec<Key> = keys("light", &ring, |row| row[0] == target).take(50).collect();
    let idle = block_on(light(client(&[&nodes[3]]), led.clone(), IDLE_COUNT, Arc::default()));

    nodes[3].kill();
    let clients: Vec<Client> = nodes[..3].iter().map(resident).collect();
    let written = keys("storm", &ring, |row| row.contains(&target)).take(HINTS).collect();
    let took = write_all(&clients, written);
    let kept = || -> u64 { clients.iter().map(|client| block_on(client.status()).unwrap().hint_count).sum() };
    eprintln!("storm: {HINTS} puts in {took:.1?}, {:.0} a second; {} hints", rate(HINTS, took), kept());
    assert!(kept() >= HINTS as u64, "only {} hints", kept());

    restart(&home, &mut nodes[3]);
    let begun = Instant::now();
    let is_over = Arc::new(AtomicBool::new(false));
    let load = spawn(light(client(&[&nodes[3]]), led, usize::MAX, is_over.clone()));
    while kept() > 0 {
        assert!(begun.elapsed() < DRAINED_WITHIN, "{} hints are left", kept());
        // Whoever asks all the time is load, too.
        let_pass(Duration::from_millis(250));
    }
    let took = begun.elapsed();
    is_over.store(true, Ordering::Relaxed);
    let busy = block_on(load);
    eprintln!("storm: handed over in {took:.1?}, {:.0} a second", rate(HINTS, took));
    eprintln!("storm: light load at the target, idle {idle}\nstorm: light load at the target, busy {busy}");
    let status = block_on(resident(&nodes[3]).status()).unwrap();
    assert!(status.key_count >= HINTS as u64, "{} keys at the target", status.key_count);
    assert!(busy.p50 <= idle.p50 * 3, "p50 was {:?} when idle, and is {:?}", idle.p50, busy.p50);
    assert!(busy.p99 <= idle.p99 * 3, "p99 was {:?} when idle, and is {:?}", idle.p99, busy.p99);
}

#[test]
fn at_the_bound_hints_are_refused_and_partitions_marked_and_puts_go_on() {
    const LIMIT_BYTES: u64 = 20_000;
    let _turn = alone();
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let mut nodes = Vec::new();
        for index in 0..4 {
            let join = nodes.first().map_or_else(Vec::new, |first: &cluster::TestNode| first.addresses.clone());
            let mut settings = cluster::settings(dir.path(), &format!("node-{index}"), &join);
            settings.node.hint_limits = HintLimits { target_bytes: LIMIT_BYTES, total_bytes: 4 * LIMIT_BYTES };
            nodes.push(cluster::start(settings).await);
        }
        for node in &nodes {
            cluster::wait_for_members(&node.running.handle(), 4).await;
        }
        let away = nodes.remove(3);
        away.running.stop().await;
        let values = "v".repeat(100);
        for number in 0..1_500 {
            let handle = nodes[number % 3].running.handle();
            let answer = cluster::put(&handle, &format!("k-{number}"), &values, Consistency::Quorum).await;
            assert!(matches!(answer, ClientResponse::Stored(_)), "put {number}: {answer:?}");
        }
        for node in &nodes {
            let status = cluster::status(&node.running.handle()).await;
            let counter = |name: &str| status.counters.iter().find(|(it, _)| it == name).map_or(0, |(_, count)| *count);
            eprintln!(
                "bound: {} hints of {} bytes, {} partitions marked, {} refused",
                status.hint_count,
                status.hint_bytes,
                status.marked_partitions,
                counter("hints_refused")
            );
            assert!(status.hint_bytes <= LIMIT_BYTES, "{} bytes", status.hint_bytes);
            assert!(
                status.hint_bytes > LIMIT_BYTES / 2 && status.marked_partitions > 0 && counter("hints_refused") > 0
            );
        }
    });
}

/// Keys whose row is as wanted, without end.
fn keys<'a>(
    name: &'a str,
    ring: &'a Ring,
    is_wanted: impl Fn(&[NodeId]) -> bool + 'a,
) -> impl Iterator<Item = Key> + 'a {
    let all = (0_u64..).map(move |number| key(&format!("{name}-{number}")));
    all.filter(move |key| is_wanted(ring.row(ring.partition_of(key))))
}

/// Puts all keys, many at a time.
fn write_all(clients: &[Client], keys: Vec<Key>) -> Duration {
    let (keys, next, begun) = (Arc::new(keys), Arc::new(AtomicUsize::new(0)), Instant::now());
    let tasks = clients.iter().cycle().take(IN_FLIGHT).map(|client| {
        let (client, keys, next) = (client.clone(), keys.clone(), next.clone());
        spawn(async move {
            while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                let stored = client.put(key, Value::new(b"small").unwrap(), Write::default()).await;
                assert!(stored.is_ok(), "{key:?}: {stored:?}");
            }
        })
    });
    block_on(join_all(tasks.collect::<Vec<_>>()));
    begun.elapsed()
}

/// Puts and gets in turn, one at a time and not too often; so many of them, or until it is over.
async fn light(client: Client, keys: Vec<Key>, count: usize, is_over: Arc<AtomicBool>) -> Percentiles {
    let mut times = Vec::new();
    let mut contexts = vec![None; keys.len()];
    let mut next = Instant::now();
    while times.len() < count && !is_over.load(Ordering::Relaxed) {
        Timer::at(next).await;
        next = (next + PAUSE).max(Instant::now());
        let index = times.len() / 2 % keys.len();
        let began = Instant::now();
        if times.len() % 2 == 0 {
            let write = Write { context: contexts[index].take(), ..Write::default() };
            let stored = client.put(&keys[index], Value::new(b"light").unwrap(), write).await.unwrap();
            contexts[index] = Some(stored.context);
        } else {
            client.get(&keys[index], Consistency::Quorum).await.unwrap();
        }
        times.push(began.elapsed());
    }
    Percentiles::of(times.into_iter())
}

#[expect(clippy::cast_precision_loss, reason = "a rate is told roughly")]
fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
