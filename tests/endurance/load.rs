//! Clients that put and get without end, and remember everything.
//!
//! Each writer has keys of its own and puts under the context of its own last put, so that a key has exactly one sibling,
//! whatever dies: unless the outcome of a put is not known, or the node that was asked first died while it was asked and
//! another carried the put out a second time. Such keys are not written again, and may have two.

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
    causality::context::Context,
    client::{Client, ClientError, Write},
    ident::{Key, Value},
    wire::client::{Consistency, Found},
};

use crate::town::key;

/// How much each of the clients does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Keys of its own.
    pub(crate) keys: usize,
    /// From the beginning of one operation to that of the next; longer when the one takes longer.
    pub(crate) pause: Duration,
}

/// Load that goes on.
pub(crate) struct Load {
    is_over: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Diary>>,
}

/// All that has happened, once the load is over.
pub(crate) struct Diary {
    pub(crate) records: Vec<Record>,
    pub(crate) keys: BTreeMap<Key, Written>,
}

/// One operation.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) is_put: bool,
    pub(crate) key: Key,
    pub(crate) began: Instant,
    pub(crate) took: Duration,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Done,
    /// A get that has not seen the last acknowledged put: a sloppy quorum may do that.
    Stale,
    /// A put that may have been stored.
    Unknown(ClientError),
    Failed(ClientError),
}

/// What a writer has made of a key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Written {
    /// The last value that was acknowledged.
    pub(crate) acknowledged: Option<String>,
    /// A later one of which nothing is known.
    pub(crate) unknown: Option<String>,
    context: Option<Context>,
}

impl Load {
    /// One writer for each client. Each first writes all of its keys once.
    pub(crate) fn begin(clients: &[Client], pace: Pace) -> Load {
        let is_over = Arc::new(AtomicBool::new(false));
        let writers = clients.iter().enumerate();
        let writers = writers.map(|(number, client)| spawn(write(number, client.clone(), pace, is_over.clone())));
        Load { writers: writers.collect(), is_over }
    }

    /// Ends it.
    pub(crate) fn end(self) -> Diary {
        self.is_over.store(true, Ordering::Relaxed);
        let mut all = Diary { records: Vec::new(), keys: BTreeMap::new() };
        for writer in self.writers {
            let diary = block_on(writer);
            all.records.extend(diary.records);
            all.keys.extend(diary.keys);
        }
        all.records.sort_by_key(|record| record.began);
        all
    }
}

impl Diary {
    /// What began from one moment to another.
    pub(crate) fn between(&self, from: Instant, to: Instant) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| from <= record.began && record.began < to)
    }

    /// What did not succeed.
    pub(crate) fn failures(&self) -> Vec<&Record> {
        let is_failure = |record: &&Record| !matches!(record.outcome, Outcome::Done | Outcome::Stale);
        self.records.iter().filter(is_failure).collect()
    }

    /// Keys of which more than one sibling may have been made: a put of them was under way when somebody died.
    pub(crate) fn doubtful(&self, deaths: &[Instant]) -> BTreeSet<Key> {
        let puts = self.records.iter().filter(|record| record.is_put);
        puts.filter(|put| deaths.iter().any(|death| put.was_under_way(*death))).map(|put| put.key.clone()).collect()
    }

    /// In words: how many there were, how fast, and how they ended.
    pub(crate) fn summary(&self) -> String {
        let count = |is_so: &dyn Fn(&Outcome) -> bool| self.records.iter().filter(|it| is_so(&it.outcome)).count();
        format!(
            "{} operations on {} keys, {}; {} stale reads, {} unknown, {} failed",
            self.records.len(),
            self.keys.len(),
            Percentiles::of(self.records.iter().map(|record| record.took)),
            count(&|outcome| *outcome == Outcome::Stale),
            count(&|outcome| matches!(outcome, Outcome::Unknown(_))),
            count(&|outcome| matches!(outcome, Outcome::Failed(_))),
        )
    }
}

impl Record {
    pub(crate) fn was_under_way(&self, at: Instant) -> bool {
        self.began <= at && at <= self.began + self.took
    }
}

/// How long things took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Percentiles {
    pub(crate) count: usize,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

impl Percentiles {
    pub(crate) fn of(times: impl Iterator<Item = Duration>) -> Percentiles {
        let mut times: Vec<Duration> = times.collect();
        times.sort_unstable();
        let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
        Percentiles { count: times.len(), p50: at(50), p99: at(99), max: times.last().copied().unwrap_or_default() }
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "of {}: p50 {:.1?}, p99 {:.1?}, max {:.1?}", self.count, self.p50, self.p99, self.max)
    }
}

/// The values of what was found, sorted.
pub(crate) fn values(found: &Found) -> Vec<String> {
    let texts = found.siblings.iter().map(|it| String::from_utf8_lossy(it.value.as_bytes()).into_owned());
    let mut values: Vec<String> = texts.collect();
    values.sort();
    values
}

async fn write(number: usize, client: Client, pace: Pace, is_over: Arc<AtomicBool>) -> Diary {
    let names: Vec<Key> = (0..pace.keys).map(|index| key(&format!("writer-{number}-{index}"))).collect();
    let mut diary = Diary { records: Vec::new(), keys: BTreeMap::new() };
    let mut next = Instant::now();
    let mut turn = 0;
    while turn < pace.keys || !is_over.load(Ordering::Relaxed) {
        Timer::at(next).await;
        next = (next + pace.pause).max(Instant::now());
        // Once round, and then a put and a get in turn, of different keys.
        let is_put = turn < pace.keys || turn % 2 == 0;
        let key = names[if is_put { turn } else { turn * 7 } % names.len()].clone();
        turn += 1;
        let written = diary.keys.entry(key.clone()).or_default();
        let began = Instant::now();
        let is_put = is_put && written.unknown.is_none();
        let outcome = if is_put {
            put(&client, &key, format!("{number} at turn {turn}"), written).await
        } else {
            get(&client, &key, written).await
        };
        diary.records.push(Record { is_put, key, began, took: began.elapsed(), outcome });
    }
    diary
}

async fn put(client: &Client, key: &Key, text: String, written: &mut Written) -> Outcome {
    let write = Write { context: written.context.clone(), ..Write::default() };
    match client.put(key, Value::new(text.as_bytes()).unwrap(), write).await {
        Ok(stored) => {
            written.acknowledged = Some(text);
            written.context = Some(stored.context);
            Outcome::Done
        }
        Err(error) if error.maybe_stored() => {
            written.unknown = Some(text);
            Outcome::Unknown(error)
        }
        Err(error) => Outcome::Failed(error),
    }
}

async fn get(client: &Client, key: &Key, written: &Written) -> Outcome {
    match client.get(key, Consistency::Quorum).await {
        Ok(found) => match &written.acknowledged {
            Some(value) if !values(&found).contains(value) => Outcome::Stale,
            Some(_) | None => Outcome::Done,
        },
        Err(error) => Outcome::Failed(error),
    }
}
