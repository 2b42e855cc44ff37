//! What an exchange costs, and what the tree costs the write path: `cargo bench`.
//!
//! Two stores on disk hold the same keys; then one of them changes some, and the other asks. Both sides are played in one
//! thread by the functions that nodes use; every question and answer is encoded as it travels, and its bytes are counted with
//! the headers of its frames. Objects are counted apart: they must be sent by whatever means.
//!
//! `cargo bench --bench exchange -- [--keys N]... [--writes N]`

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark tells what it has measured")]

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use quorate::{
    causality::{
        dot::Actor,
        seen::Seen,
        siblings::{NewValue, Object},
    },
    clock::WallTime,
    digest::Digest,
    ident::{Key, Name, OpId, Value},
    merkle::{
        CompareRule, Comparison, Salt,
        branch::{Branch, ItemKey},
        descent::{Descent, Ending, Turn},
        packed,
    },
    replica::{
        Done, Query, StoreCounts, Work, answer,
        batch::Committer,
        hints::HintLimits,
        rules::{Rules, TreeRule},
        values::Place,
    },
    ring::{
        partition_set::PartitionSet,
        token::{PartitionCount, Token},
    },
    store::{
        Store as _, StoreError,
        lmdb::{Durability, LmdbStore, Options},
    },
    wire::exchange::{Answer, EXCHANGE_VERSION, Opening, Question, Root},
};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

const NOW: WallTime = WallTime(1_700_000_000_000);
const BATCH: usize = 64;
/// A header for every so many bytes of a message.
const FRAME_BYTES: usize = 256 << 10;
const HEADER_BYTES: usize = 4;

fn main() {
    let (mut keys, mut writes) = (Vec::new(), 200_000);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|text| text.parse().ok()).expect("a number follows");
        match argument.as_str() {
            "--keys" => keys.push(number()),
            "--writes" => writes = number(),
            // Cargo passes this on.
            "--bench" => {}
            other => panic!("{other} is none of --keys N, --writes N"),
        }
    }
    if keys.is_empty() {
        keys = vec![100_000, 1_000_000];
    }
    write_path(writes);
    let rows: Vec<Row> = keys.into_iter().flat_map(exchanges).collect();
    print_table(&rows);
    print_tsv(&rows);
}

/// One side: a store, and what it counts.
struct Side {
    store: LmdbStore,
    committer: Committer,
    counts: StoreCounts,
    cpu: Duration,
}

impl Side {
    fn open(dir: &Path, trees: TreeRule) -> Side {
        let options = Options { durability: Durability::Periodic, map_size_bytes: 1 << 30 };
        let store = LmdbStore::open(dir, options).expect("the store opens");
        let limits = HintLimits { target_bytes: 1, total_bytes: 1 };
        let item_key = ItemKey::of(&Name::new("bench").expect("a name"));
        let mut committer = Committer::new(1, item_key, Rules { trees, ..Rules::sound() }, limits, 1);
        run(&mut committer, &store, &[((), Work::ConfirmLife)]);
        Side { store, committer, counts: StoreCounts::default(), cpu: Duration::ZERO }
    }

    fn run(&mut self, works: Vec<Work>) -> Vec<Done> {
        let batch: Vec<((), Work)> = works.into_iter().map(|work| ((), work)).collect();
        run(&mut self.committer, &self.store, &batch)
    }

    fn ask(&mut self, query: &Query) -> Done {
        let txn = self.store.read().expect("a read transaction begins");
        answer(&txn, query, NOW, &mut self.counts).expect("the store answers")
    }

    /// Does something on this side's account.
    fn timed<T>(&mut self, what: impl FnOnce(&mut Side) -> T) -> T {
        let before = cpu_time();
        let result = what(self);
        self.cpu += cpu_time() - before;
        result
    }
}

fn run(committer: &mut Committer, store: &LmdbStore, batch: &[((), Work)]) -> Vec<Done> {
    loop {
        match committer.run(store, batch, NOW) {
            Ok(done) => return done.into_iter().map(|(_, done)| done).collect(),
            Err(StoreError::MapFull { .. }) => drop(store.grow().expect("the map grows")),
            Err(error) => panic!("{error}"),
        }
    }
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).expect("time goes on"), u32::try_from(time.tv_nsec).expect("nanoseconds"))
}

/// One exchange, measured.
struct Row {
    keys: usize,
    differences: usize,
    kind: &'static str,
    sent: usize,
    received: usize,
    object_bytes: usize,
    round_trips: u64,
    hashes: u64,
    leaves: u64,
    cpu_asker: Duration,
    cpu_other: Duration,
    minimum: f64,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Changed,
    Missing,
    Clustered,
}

fn exchanges(keys: usize) -> Vec<Row> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let paths = [dir.path().join("a"), dir.path().join("b")];
    eprintln!("{keys} keys: filling …");
    fill(&paths[0], keys);
    copy(&paths[0], &paths[1]);
    let [mut asker, mut other] = paths.map(|path| Side::open(&path, TreeRule::InStep));
    let mut rows = vec![measure(&mut asker, &mut other, (keys, 0, "-"))];
    let mut made = 0;
    for (kind, name) in [(Kind::Changed, "changed"), (Kind::Missing, "missing"), (Kind::Clustered, "clustered")] {
        for differences in [1, 10, 100, 1_000, 10_000] {
            make_differ(&mut other, kind, keys, differences, &mut made);
            rows.push(measure(&mut asker, &mut other, (keys, differences, name)));
        }
    }
    rows
}

fn fill(path: &Path, keys: usize) {
    let mut side = Side::open(path, TreeRule::InStep);
    let mut numbers: Vec<(u64, usize)> = (0..keys).map(|number| (Token::of(&key(number)).0, number)).collect();
    // In the order of the rows: an ordinary store gets there by splitting its pages.
    numbers.sort_unstable();
    for chunk in numbers.chunks(4_096) {
        side.run(chunk.iter().map(|(_, number)| Work::Merge { key: key(*number), object: object(1, 1) }).collect());
    }
    side.store.sync().expect("the store is synchronised");
}

fn copy(from: &Path, to: &Path) {
    let store = LmdbStore::open(from, Options { durability: Durability::Periodic, map_size_bytes: 1 << 30 });
    std::fs::create_dir(to).expect("a directory is made");
    store.expect("the store opens").copy_to(&to.join("data.mdb")).expect("the store is copied");
}

fn key(number: usize) -> Key {
    Key::new(format!("key-{number:08}").as_bytes()).expect("a key")
}

/// What one actor has written so often, in the end.
fn object(actor: u64, times: u64) -> Object {
    let mut object = Object::default();
    for time in 1..=times {
        let mut op = [0; 16];
        op[..8].copy_from_slice(&time.to_be_bytes());
        let value = Value::new(&[7; 32]).expect("a value");
        let new = NewValue { op: OpId(op), value, written_at: WallTime(NOW.0 + time), expires_at: None };
        let seen: Seen = object.clock().clone().into();
        object.put(&seen, Actor { node: actor, epoch: 0 }, new);
    }
    object
}

/// Changes, at one side, so many keys that both have, or makes new ones; spread over all, or side by side.
fn make_differ(side: &mut Side, kind: Kind, keys: usize, differences: usize, made: &mut usize) {
    let step = (keys / differences).max(1);
    let works: Vec<Work> = (0..differences)
        .map(|number| {
            *made += 1;
            let times = 2 + *made as u64;
            match kind {
                Kind::Changed => {
                    let mut changed = object(1, 1);
                    let seen: Seen = changed.clock().clone().into();
                    let mut op = [9; 16];
                    op[..8].copy_from_slice(&times.to_be_bytes());
                    let value = Value::new(&[8; 32]).expect("a value");
                    let new = NewValue { op: OpId(op), value, written_at: WallTime(NOW.0 + times), expires_at: None };
                    changed.put(&seen, Actor { node: 2, epoch: times }, new);
                    Work::Merge { key: key(number * step), object: changed }
                }
                Kind::Missing => {
                    let key = Key::new(format!("new-{made}").as_bytes()).expect("a key");
                    Work::Merge { key, object: object(1, 1) }
                }
                Kind::Clustered => {
                    let key = Key::new(format!("{{one user}}/{made}").as_bytes()).expect("a key");
                    Work::Merge { key, object: object(1, 1) }
                }
            }
        })
        .collect();
    for chunk in works.chunks(4_096) {
        side.run(chunk.to_vec());
    }
}

fn measure(asker: &mut Side, other: &mut Side, (keys, differences, kind): (usize, usize, &'static str)) -> Row {
    for side in [&mut *asker, &mut *other] {
        (side.counts, side.cpu) = (StoreCounts::default(), Duration::ZERO);
    }
    let count = PartitionCount::new(1_024).expect("a power of two");
    let partitions = Arc::new(PartitionSet::new(count, count.iter()));
    let salt = 7 + differences as u64;
    let comparison = Comparison { salt: Salt::new(salt), rule: CompareRule::All };
    let label = Digest([0xd1; 32]);
    let (root, branch) = (Root([0; 16]), (0, 0));
    let opening = Opening { version: EXCHANGE_VERSION, capabilities: 0, salt, label, partitions: None, branch, root };
    let mut descent = Box::new(Descent::new(opening, comparison, false).expect("it begins at the root"));
    let (mut sent, mut received, mut object_bytes, mut reply) = (0, 0, 0, None);
    loop {
        let query = Query::Descend { partitions: Arc::clone(&partitions), descent, answer: reply.take() };
        let Done::Descended { descent: after, turn, .. } = asker.timed(|side| side.ask(&query)) else {
            panic!("a descent is answered by its next turn")
        };
        descent = after;
        let question = match turn {
            Turn::Ask(question) => question,
            Turn::End(ending) => {
                assert_eq!(ending, Ending::InStep);
                break;
            }
        };
        let (all, bare) = split_question(&question);
        sent += bare;
        object_bytes += all - bare;
        let mut answer = other.timed(|side| reply_to(side, &partitions, comparison, question));
        let (all, bare) = split_answer(&answer);
        received += bare;
        object_bytes += all - bare;
        if let Answer::Step(step) = &mut answer
            && !step.items.is_empty()
        {
            let items = std::mem::take(&mut step.items);
            asker.timed(|side| side.run(vec![Work::MergeAll(items)]));
        }
        reply = Some(answer);
    }
    Row {
        keys,
        differences,
        kind,
        sent,
        received,
        object_bytes,
        round_trips: descent.progress().round_trips,
        hashes: descent.progress().hashes_compared,
        leaves: asker.counts.leaves_read + other.counts.leaves_read,
        cpu_asker: asker.cpu,
        cpu_other: other.cpu,
        minimum: information_bytes(keys, differences),
    }
}

fn reply_to(side: &mut Side, partitions: &Arc<PartitionSet>, comparison: Comparison, question: Question) -> Answer {
    let partitions = Arc::clone(partitions);
    let (query, left) = match question {
        Question::Open(Opening { root, .. }) => {
            (Query::AnswerOpening { partitions, comparison, branch: Branch::ROOT, root }, Vec::new())
        }
        Question::Step(step) => {
            let merged = (!step.items.is_empty()).then(|| side.run(vec![Work::MergeAll(step.items)]));
            let left = match merged.and_then(|mut done| done.pop()) {
                Some(Done::MergedAll { left, .. }) => left,
                _ => Vec::new(),
            };
            let questions = packed::read_questions(&step.questions.0).expect("our own questions");
            (Query::AnswerStep { partitions, comparison, questions }, left)
        }
    };
    match side.ask(&query) {
        Done::Answered { answer: Answer::Step(mut step), .. } => {
            let is_new = |key: &Key| !step.items.iter().any(|item| item.key == *key);
            let left: Vec<_> = left.into_iter().filter(|item| is_new(&item.key)).collect();
            step.items.extend(left);
            Answer::Step(step)
        }
        Done::Answered { answer, .. } => answer,
        other => panic!("{other:?} is no answer"),
    }
}

/// Bytes of a question as it travels: with its objects, and without.
fn split_question(question: &Question) -> (usize, usize) {
    let mut bare = question.clone();
    if let Question::Step(step) = &mut bare {
        step.items.clear();
    }
    (bytes_of(question), bytes_of(&bare))
}

fn split_answer(answer: &Answer) -> (usize, usize) {
    let mut bare = answer.clone();
    if let Answer::Step(step) = &mut bare {
        step.items.clear();
    }
    (bytes_of(answer), bytes_of(&bare))
}

fn bytes_of<T: Serialize>(message: &T) -> usize {
    let body = cbor4ii::serde::to_vec(Vec::new(), message).expect("encoding into memory cannot fail").len();
    body + HEADER_BYTES * body.div_ceil(FRAME_BYTES)
}

/// Bytes that are needed to say which `d` of `n` it is, at the least.
fn information_bytes(n: usize, d: usize) -> f64 {
    let bits: f64 = (0..d).map(|index| ((n - index) as f64 / (index + 1) as f64).log2()).sum();
    bits / 8.0
}

fn print_table(rows: &[Row]) {
    println!(
        "\n{:>9} {:>7} {:<10} {:>9} {:>9} {:>9} {:>9} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "keys",
        "differ",
        "how",
        "sent",
        "received",
        "both",
        "at least",
        "trips",
        "hashes",
        "leaves",
        "cpu ms",
        "other",
        "objects"
    );
    for row in rows {
        println!(
            "{:>9} {:>7} {:<10} {:>9} {:>9} {:>9} {:>9.0} {:>6} {:>9} {:>9} {:>9.1} {:>9.1} {:>9}",
            row.keys,
            row.differences,
            row.kind,
            row.sent,
            row.received,
            row.sent + row.received,
            row.minimum,
            row.round_trips,
            row.hashes,
            row.leaves,
            row.cpu_asker.as_secs_f64() * 1e3,
            row.cpu_other.as_secs_f64() * 1e3,
            row.object_bytes
        );
    }
}

fn print_tsv(rows: &[Row]) {
    println!(
        "\nkeys\tdifferences\tkind\tsent_bytes\treceived_bytes\tobject_bytes\tminimum_bytes\tround_trips\thashes\tleaves\t\
         cpu_asker_us\tcpu_other_us"
    );
    for row in rows {
        println!(
            "{}\t{}\t{}\t{}\t{}\t{}\t{:.0}\t{}\t{}\t{}\t{}\t{}",
            row.keys,
            row.differences,
            row.kind,
            row.sent,
            row.received,
            row.object_bytes,
            row.minimum,
            row.round_trips,
            row.hashes,
            row.leaves,
            row.cpu_asker.as_micros(),
            row.cpu_other.as_micros()
        );
    }
}

/// Puts a CPU-second, with and without trees, in turns so that both meet the same machine.
fn write_path(writes: usize) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let rules = [("with trees", TreeRule::InStep), ("without", TreeRule::NoTree)];
    let mut sides: BTreeMap<&str, Side> =
        rules.into_iter().map(|(name, rule)| (name, Side::open(&dir.path().join(name), rule))).collect();
    let value = Value::new(&[7; 1_024]).expect("a value");
    let mut random = 1_u64;
    for first in (0..writes).step_by(BATCH * 16) {
        let numbers: Vec<usize> = (first..(first + BATCH * 16).min(writes))
            .map(|_| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                usize::try_from(random >> 40).expect("24 bits") % writes
            })
            .collect();
        for (name, _) in rules {
            let side = sides.get_mut(name).expect("it was made");
            for (round, batch) in numbers.chunks(BATCH).enumerate() {
                let works = batch.iter().enumerate().map(|(index, number)| {
                    let mut op = [0; 16];
                    op[..8].copy_from_slice(&((first + round * BATCH + index) as u64).to_be_bytes());
                    let new = NewValue { op: OpId(op), value: value.clone(), written_at: NOW, expires_at: None };
                    let context = seen_of(side, *number);
                    Work::Write { place: Place::Own, key: key(*number), context, new: Some(new) }
                });
                let works: Vec<Work> = works.collect();
                side.timed(|side| side.run(works));
            }
        }
    }
    let per_second = |name: &str| writes as f64 / sides[name].cpu.as_secs_f64();
    let [with, without] = rules.map(|(name, _)| per_second(name));
    println!(
        "write path, {writes} puts of 1 KiB, {BATCH} a transaction, over as many keys: {with:.0} puts a CPU-second with trees, \
         {without:.0} without: {:.3}",
        with / without
    );
}

fn seen_of(side: &mut Side, number: usize) -> Seen {
    match side.ask(&Query::Object(key(number))) {
        Done::Object(object) => object.clock().clone().into(),
        other => panic!("{other:?} is no object"),
    }
}
