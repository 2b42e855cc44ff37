//! Members come and go under load: no key is lost, every read succeeds, and hardly more is moved than must be.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_io::Timer;
use async_std::task::{JoinHandle, block_on, spawn};
use quorate::{
    client::Client,
    ident::Key,
    wire::client::{Consistency, Found},
};
use serde_json::json;

use crate::{
    alone,
    harness::{Home, LOOPBACK, Node, text},
    load::{Diary, Load, Outcome, Pace, values},
    town::{Rows, client, key, object_bytes, wait},
};

const KEYS: usize = 20_000;

/// Lines of one import.
const IMPORT_LINES: usize = 2_000;

/// Histories are compared often, so that a change is known soon.
const WORDS: [&str; 6] = ["--partitions", "256", "--reconcile-interval", "0.2", "--durability", "periodic"];

/// How much those write who write all the time, each of two.
const PACE: Pace = Pace { keys: 10, pause: Duration::from_millis(250) };

/// From one read of what was imported to the next, by each of two.
const READ_PAUSE: Duration = Duration::from_millis(30);

/// Longest wait for a command that is about all keys, and for a change to be over.
const PATIENCE: Duration = Duration::from_secs(180);

/// The most that may be moved for a byte that must be. Of two that join three, the first may hold three quarters of all rows
/// before the second displaces it in some: 0.75 and 0.6 are taken then where twice 0.6 is left, which is 1.125 and nobody's fault.
const COST_MAX: f64 = 1.15;

/// What was imported: the values by number.
struct Data(Vec<String>);

/// A cluster whose members change.
struct Story<'a> {
    home: &'a Home,
    data: &'a Data,
    /// Keys that are written all the time.
    restless: Vec<Key>,
    moved: Moved,
}

/// How things stand before a change.
struct Stand {
    rows: Rows,
    /// Of each node, by peer id.
    counted: BTreeMap<String, Moved>,
    begun: Instant,
}

/// What a change has moved.
#[derive(Debug, Clone, Copy, Default)]
struct Moved {
    /// Bytes of keys and objects of all vnodes that somebody has taken over.
    least: u64,
    /// Bytes of objects received by those who had something to fill.
    objects: u64,
    /// Bytes of what they compared.
    compared: u64,
    /// Bytes of all exchanges, counted at both ends as far as those are left.
    exchanged: u64,
    /// Keys changed by exchanges.
    keys: u64,
}

#[test]
fn two_join_one_leaves_one_is_removed_one_is_replaced_and_hardly_more_is_moved_than_must_be() {
    let _turn = alone();
    let home = Home::new();
    let data = Data::new();
    // One alone takes all that is imported, which is soonest done, and hands it to two others.
    let leaver = home.start("node-0", &[&LOOPBACK[..], &WORDS].concat());
    data.import(&home, &leaver);
    let mut story = Story { home: &home, data: &data, restless: Vec::new(), moved: Moved::default() };
    let stand = story.stand(&[&leaver]);
    let join = |name: &str| home.start(name, &[&LOOPBACK[..], &WORDS, &["--join", &leaver.addresses[0]]].concat());
    let [mut doomed, stayer] = ["node-1", "node-2"].map(join);
    story.settle("two join the founder", &stand, &[&leaver, &doomed, &stayer]);
    let before = export(&home, &stayer);
    assert!(before == data.lines(0..KEYS), "what was put in comes out");

    let clients: Vec<Client> = (0..2).map(|_| client(&[&stayer, &doomed])).collect();
    let restless = (0..2).flat_map(|writer| (0..PACE.keys).map(move |index| key(&format!("writer-{writer}-{index}"))));
    story.restless = restless.collect();
    let load = Load::begin(&clients, PACE);
    let readers = Readers::begin(&clients, &data);

    let stand = story.stand(&[&leaver, &doomed, &stayer]);
    let join = |name: &str| home.start(name, &[&LOOPBACK[..], &WORDS, &["--join", &stayer.addresses[0]]].concat());
    let [mut fourth, fifth] = ["node-3", "node-4"].map(join);
    story.settle("two join", &stand, &[&leaver, &doomed, &stayer, &fourth, &fifth]);

    let stand = story.stand(&[&doomed, &stayer, &fourth, &fifth]);
    home.ask(&leaver, &["leave", "--yes"]).expect(0, &[]);
    story.settle("one leaves", &stand, &[&doomed, &stayer, &fourth, &fifth]);
    assert_eq!(leaver.wait_end().0, 0);

    let mut deaths = vec![Instant::now()];
    fourth.kill();
    [&doomed, &stayer, &fifth].into_iter().for_each(|node| home.wait_up(node, 3));
    let stand = story.stand(&[&doomed, &stayer, &fifth]);
    home.ask(&stayer, &["remove", &fourth.peer_id, "--yes"]).expect(0, &[]);
    story.settle("one is removed", &stand, &[&doomed, &stayer, &fifth]);

    deaths.push(Instant::now());
    doomed.kill();
    [&stayer, &fifth].into_iter().for_each(|node| home.wait_up(node, 2));
    let stand = story.stand(&[&stayer, &fifth]);
    let made = home.run(&["id", "--create", "--data-dir", text(&home.path("heir")), "-o", "json"]).expect(0, &[]);
    let heir = made.json()["peer_id"].as_str().unwrap().to_owned();
    home.ask(&stayer, &["replace", &doomed.peer_id, &heir, "--yes"]).expect(0, &[]);
    let heir = join("heir");
    story.settle("one is replaced", &stand, &[&stayer, &fifth, &heir]);

    let (diary, read_count) = (load.end(), readers.end());
    eprintln!("members: {}; {read_count} reads of what was imported", diary.summary());
    assert_reads_succeeded(&diary);
    assert!(read_count > 100, "{read_count}");
    story.moved.assert_little("in all");
    story.restless.clear();
    story.wait_equal(&[&stayer, &fifth, &heir]);
    let mut doubtful = diary.doubtful(&deaths);
    doubtful.extend(diary.keys.iter().filter(|(_, written)| written.unknown.is_some()).map(|(key, _)| key.clone()));
    let expected = before + &lines_of(&diary);
    assert!(
        without(&expected, &doubtful) == without(&export(&home, &heir), &doubtful),
        "as it was, and what was written"
    );
}

impl Data {
    fn new() -> Data {
        // Of 300 to 999 bytes.
        let value = |number: usize| format!("{number:07} ").repeat(125)[..300 + number * 7 % 700].to_owned();
        Data((0..KEYS).map(value).collect())
    }

    fn key(number: usize) -> Key {
        key(&format!("key-{number:05}"))
    }

    /// As they are imported and exported.
    fn lines(&self, numbers: std::ops::Range<usize>) -> String {
        numbers.map(|number| line(&Data::key(number), &self.0[number])).collect()
    }

    fn import(&self, home: &Home, node: &Node) {
        let words = ["import", "-", "--node", &node.addresses[0]];
        for first in (0..KEYS).step_by(IMPORT_LINES) {
            home.run_with_input(&words, self.lines(first..first + IMPORT_LINES).as_bytes()).expect(0, &[]);
        }
    }

    /// How many bytes the keys and objects of each partition take.
    fn bytes_by_partition(&self, rows: &Rows) -> BTreeMap<usize, u64> {
        let mut bytes = BTreeMap::new();
        for (number, value) in self.0.iter().enumerate() {
            let key = Data::key(number);
            *bytes.entry(rows.partition_of(&key)).or_default() += object_bytes(&key, value);
        }
        bytes
    }
}

impl Story<'_> {
    fn stand(&self, nodes: &[&Node]) -> Stand {
        let counted = nodes.iter().map(|node| (node.peer_id.clone(), self.counted(node))).collect();
        Stand { rows: Rows::of(self.home, nodes[0]), counted, begun: Instant::now() }
    }

    /// Waits until the change is over, of which these are left, and each partition is the same at all that hold it. Tells what
    /// it has moved.
    #[track_caller]
    fn settle(&mut self, what: &str, stand: &Stand, nodes: &[&Node]) {
        let peers: BTreeSet<&str> = nodes.iter().map(|node| node.peer_id.as_str()).collect();
        for node in nodes {
            let are_known = || Rows::of(self.home, node).members() == peers.iter().map(|it| (*it).to_owned()).collect();
            wait(what, PATIENCE, are_known);
        }
        nodes.iter().for_each(|node| self.home.wait_settled(node));
        let took = stand.begun.elapsed();
        self.wait_equal(nodes);
        let mut moved = Moved { least: self.least(&stand.rows, &Rows::of(self.home, nodes[0])), ..Moved::default() };
        for node in nodes {
            let before = stand.counted.get(&node.peer_id).copied().unwrap_or_default();
            let after = self.counted(node);
            moved.objects += after.objects - before.objects;
            moved.compared += after.compared - before.compared;
            moved.exchanged += after.exchanged - before.exchanged;
            moved.keys += after.keys - before.keys;
        }
        eprintln!("members: {what}: {moved}; settled after {took:.1?}");
        moved.assert_little(what);
        self.moved.add(moved);
    }

    /// What must be moved at least, so that rows which were like this are like that.
    fn least(&self, before: &Rows, after: &Rows) -> u64 {
        let bytes = self.data.bytes_by_partition(after);
        let newcomers = |partition: usize| {
            let row = before.row_at(partition);
            after.row_at(partition).iter().filter(|peer| !row.contains(peer)).count() as u64
        };
        bytes.into_iter().map(|(partition, bytes)| bytes * newcomers(partition)).sum()
    }

    fn counted(&self, node: &Node) -> Moved {
        let told = self.home.ask(node, &["metrics"]).expect(0, &[]).json();
        let count = |name: &str| told["metrics"][format!("quorate_{name}_total")].as_u64().unwrap();
        let (objects, compared) = (count("filling_object_bytes"), count("filling_compared_bytes"));
        Moved { least: 0, objects, compared, exchanged: count("exchange_bytes"), keys: count("items_taken") }
    }

    /// Waits until all that hold a partition have the same root of it, but for those where something is written all the time.
    #[track_caller]
    fn wait_equal(&self, nodes: &[&Node]) {
        let rows = Rows::of(self.home, nodes[0]);
        let restless: BTreeSet<usize> = self.restless.iter().map(|key| rows.partition_of(key)).collect();
        let mut roots: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        let are_equal = || {
            roots.clear();
            for node in nodes {
                for line in self.home.ask(node, &["ring", "--roots"]).expect(0, &[]).lines() {
                    let partition = usize::try_from(line["partition"].as_u64().unwrap()).unwrap();
                    if line["root"].is_string() && !restless.contains(&partition) {
                        let told = format!("{} of {}, {}", line["root"], line["count"], line["filled"]);
                        roots.entry(partition).or_default().push(told);
                    }
                }
            }
            let is_so = |roots: &Vec<String>| roots.len() == 3 && roots.iter().all(|root| *root == roots[0]);
            roots.len() + restless.len() == rows.len() && roots.values().all(is_so)
        };
        wait("all that hold a partition hold the same", PATIENCE, are_equal);
    }
}

impl Moved {
    fn add(&mut self, other: Moved) {
        let Moved { least, objects, compared, exchanged, keys } = other;
        self.least += least;
        self.objects += objects;
        self.compared += compared;
        self.exchanged += exchanged;
        self.keys += keys;
    }

    /// How much was moved for a byte that had to be: as those say who had something to fill, and in all exchanges.
    fn costs(&self) -> [f64; 2] {
        let per_byte = |bytes: u64| bytes as f64 / self.least as f64;
        [per_byte(self.objects + self.compared), per_byte(self.exchanged / 2)]
    }

    #[track_caller]
    fn assert_little(&self, what: &str) {
        let [told, all] = self.costs();
        assert!(told > 0.99, "{what}: not all is counted: {self}");
        assert!(told <= COST_MAX && all <= COST_MAX, "{what}: too much: {self}");
    }
}

impl std::fmt::Display for Moved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Moved { least, objects, compared, exchanged, keys } = self;
        let [told, all] = self.costs();
        write!(f, "{objects} bytes of objects ({keys} keys) and {compared} of comparing for {least}: {told:.3}")?;
        write!(f, "; all exchanges, at both ends, {exchanged}: {all:.3}")
    }
}

/// Clients that read what was imported, and never find anything else.
struct Readers {
    is_over: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<usize>>,
}

impl Readers {
    fn begin(clients: &[Client], data: &Data) -> Readers {
        let (is_over, values) = (Arc::new(AtomicBool::new(false)), Arc::new(data.0.clone()));
        let clients = clients.iter().enumerate();
        let task =
            |(number, client): (usize, &Client)| spawn(read(number, client.clone(), values.clone(), is_over.clone()));
        Readers { tasks: clients.map(task).collect(), is_over }
    }

    /// Ends it. Returns how many reads there were.
    #[track_caller]
    fn end(self) -> usize {
        self.is_over.store(true, Ordering::Relaxed);
        self.tasks.into_iter().map(block_on).sum()
    }
}

async fn read(reader: usize, client: Client, data: Arc<Vec<String>>, is_over: Arc<AtomicBool>) -> usize {
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        Timer::after(READ_PAUSE).await;
        // Far from the one before it: all partitions are read in turn.
        let number = (count * 7_919 + reader * KEYS / 2) % KEYS;
        let found: Found = client.get(&Data::key(number), Consistency::Quorum).await.unwrap();
        assert_eq!(values(&found), [data[number].as_str()], "key {number}");
        count += 1;
    }
    count
}

fn export(home: &Home, node: &Node) -> String {
    let told = home.run_within(PATIENCE, &["export", "--node", &node.addresses[0]]).expect(0, &[]);
    String::from_utf8(told.stdout).unwrap()
}

fn line(key: &Key, value: &str) -> String {
    format!("{}\n", json!({ "key": String::from_utf8_lossy(key.as_bytes()), "value": value }))
}

/// What was acknowledged, as it is exported.
fn lines_of(diary: &Diary) -> String {
    let acknowledged = diary.keys.iter().filter_map(|(key, it)| Some((key, it.acknowledged.as_ref()?)));
    acknowledged.map(|(key, value)| line(key, value)).collect()
}

/// The lines of all keys but these.
fn without(lines: &str, keys: &BTreeSet<Key>) -> String {
    let named: Vec<String> =
        keys.iter().map(|key| format!("{{{:?}:{:?},", "key", String::from_utf8_lossy(key.as_bytes()))).collect();
    let is_meant = |line: &&str| !named.iter().any(|name| line.starts_with(name));
    lines.lines().filter(is_meant).map(|line| format!("{line}\n")).collect()
}

#[track_caller]
fn assert_reads_succeeded(diary: &Diary) {
    let failed: Vec<_> = diary.failures().into_iter().filter(|record| !record.is_put).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let lost: Vec<_> = diary.failures().into_iter().filter(|it| matches!(it.outcome, Outcome::Failed(_))).collect();
    assert!(lost.is_empty(), "{lost:#?}");
}
