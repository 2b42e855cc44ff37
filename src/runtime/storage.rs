//! The storage threads: one writes, one reads, one looks at many rows.
//!
//! The writer drains its queue into one transaction, commits, and only then reports: waiting work shares a commit. The
//! readers answer from the last committed state and never wait for the writer: one what takes a moment, the other what may
//! take long, so that nobody who reads a key waits for a comparison of trees. All report in batches; none decides anything.

use std::{
    io,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use async_std::channel::{self, Receiver as AsyncReceiver, Sender as AsyncSender};
use futures::executor::block_on;

use crate::{
    limits::BATCH_COUNT_MAX,
    merkle::branch::ItemKey,
    node::effect::Ticket,
    replica::{Done, Query, StoreCounts, Work, answer, batch::Committer, hints::HintLimits, rules::Rules},
    runtime::clock::wall_time,
    store::{
        Store as _, StoreError,
        lmdb::{Durability, LmdbStore},
    },
};

/// Most work that waits for any of the threads. The node bounds what it has under way well below this.
const QUEUE_COUNT_MAX: usize = 1 << 15;

/// How often a store without synchronous commits is synchronised.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// How long a writer under load waits for more work to share its commit: about the time of a commit, so that it costs
/// a put little and halves the commits. A writer whose last batch was a single piece of work does not wait at all.
const GATHER_TIME: Duration = Duration::from_millis(2);

/// What became of work and queries, in the order in which they were carried out.
pub(crate) type Completions = Vec<(Ticket, Result<Done, StoreError>)>;

/// What waits for a thread.
#[derive(Debug)]
struct Item<T> {
    ticket: Ticket,
    what: T,
    /// When nobody waits for it any more.
    due: Option<Instant>,
}

/// The storage threads. Dropping it ends them after what is queued.
#[derive(Debug)]
pub(crate) struct Storage {
    works: Option<SyncSender<Item<Work>>>,
    queries: Option<SyncSender<Item<Query>>>,
    long_queries: Option<SyncSender<Item<Query>>>,
    completions: AsyncReceiver<Completions>,
    threads: Vec<JoinHandle<()>>,
}

impl Storage {
    /// Starts the threads on `store`.
    pub(crate) fn start(
        store: LmdbStore,
        durability: Durability,
        actor_node: u64,
        item_key: ItemKey,
        limits: HintLimits,
    ) -> io::Result<Storage> {
        let (works, work_queue) = sync_channel(QUEUE_COUNT_MAX);
        let (queries, query_queue) = sync_channel(QUEUE_COUNT_MAX);
        let (long_queries, long_query_queue) = sync_channel(QUEUE_COUNT_MAX);
        let (report, completions) = channel::bounded(64);
        let store = Arc::new(store);
        let counts = Arc::new(Mutex::new(StoreCounts::default()));
        let writer = Writer {
            store: Arc::clone(&store),
            committer: Committer::new(actor_node, item_key, Rules::sound(), limits, rand::random()),
            durability,
            queue: work_queue,
            report: report.clone(),
            counts: Arc::clone(&counts),
            is_busy: false,
            is_dirty: false,
            synchronised_at: Instant::now(),
        };
        let reader = |queue, report| Reader { store: Arc::clone(&store), queue, report, counts: Arc::clone(&counts) };
        let (reader, surveyor) = (reader(query_queue, report.clone()), reader(long_query_queue, report));
        let threads = vec![
            thread::Builder::new().name("quorate-write".to_owned()).spawn(move || writer.run())?,
            thread::Builder::new().name("quorate-read".to_owned()).spawn(move || reader.run())?,
            thread::Builder::new().name("quorate-survey".to_owned()).spawn(move || surveyor.run())?,
        ];
        let (works, queries, long_queries) = (Some(works), Some(queries), Some(long_queries));
        Ok(Storage { works, queries, long_queries, completions, threads })
    }

    /// Queues work. Refused when the queue is full.
    pub(crate) fn store(&self, ticket: Ticket, work: Work, due: Option<Instant>) -> Result<(), StoreError> {
        enqueue(self.works.as_ref(), Item { ticket, what: work, due })
    }

    /// Queues a query. Refused when the queue is full.
    pub(crate) fn query(&self, ticket: Ticket, query: Query, due: Option<Instant>) -> Result<(), StoreError> {
        let queue = if query.is_long() { &self.long_queries } else { &self.queries };
        enqueue(queue.as_ref(), Item { ticket, what: query, due })
    }

    /// Where results arrive.
    pub(crate) fn completions(&self) -> AsyncReceiver<Completions> {
        self.completions.clone()
    }

    /// Carries out what is queued, marks the stop as clean and ends the threads. Waits.
    pub(crate) fn stop(mut self) {
        self.works = None;
        self.queries = None;
        self.long_queries = None;
        // Nobody listens any more: a closed channel frees a thread that waits to report.
        self.completions.close();
        for thread in self.threads.drain(..) {
            // A thread that panicked has reported already, by its panic message.
            let _ = thread.join();
        }
    }
}

struct Writer {
    store: Arc<LmdbStore>,
    committer: Committer,
    durability: Durability,
    queue: Receiver<Item<Work>>,
    report: AsyncSender<Completions>,
    counts: Arc<Mutex<StoreCounts>>,
    /// The last batch held more than one piece of work.
    is_busy: bool,
    /// Something was committed since the last synchronisation.
    is_dirty: bool,
    synchronised_at: Instant,
}

impl Writer {
    fn run(mut self) {
        loop {
            match self.queue.recv_timeout(SYNC_INTERVAL) {
                Ok(first) => {
                    if self.is_busy {
                        thread::park_timeout(GATHER_TIME);
                    }
                    let batch = drain(first, &self.queue);
                    self.is_busy = batch.len() > 1;
                    let (batch, mut completions) = take_wanted(batch);
                    if !batch.is_empty() {
                        completions.extend(self.carry_out(&batch));
                    }
                    // The loop that would listen is gone only when the node stops.
                    let _ = block_on(self.report.send(completions));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.is_dirty && self.synchronised_at.elapsed() >= SYNC_INTERVAL {
                self.synchronise();
            }
        }
        self.end();
    }

    fn carry_out(&mut self, batch: &[(Ticket, Work)]) -> Completions {
        let damaged_before = self.committer.replica().damaged;
        let mut result = self.committer.run(&*self.store, batch, wall_time());
        while let Err(StoreError::MapFull { .. }) = &result {
            result = match self.store.grow() {
                Ok(_) => self.committer.run(&*self.store, batch, wall_time()),
                Err(error) => Err(error),
            };
        }
        note_damage(self.committer.replica().damaged - damaged_before, &self.counts);
        match result {
            Ok(done) => {
                self.is_dirty = true;
                let mut counts = self.counts.lock().expect("no thread panics while it counts");
                counts.commits += 1;
                counts.works += batch.len() as u64;
                done.into_iter().map(|(ticket, done)| (ticket, Ok(done))).collect()
            }
            Err(error) => batch.iter().map(|(ticket, _)| (*ticket, Err(error.clone()))).collect(),
        }
    }

    fn synchronise(&mut self) {
        self.is_dirty = false;
        self.synchronised_at = Instant::now();
        if self.durability == Durability::Periodic
            && let Err(error) = self.store.sync()
        {
            tracing::error!(%error, "the store could not be synchronised");
        }
    }

    /// The queue is closed and empty: nothing was sent that is not committed.
    fn end(&mut self) {
        if let Err(error) = self.committer.end(&*self.store) {
            tracing::warn!(%error, "the stop could not be marked as clean; the next start takes fresh epochs");
        }
        self.synchronise();
    }
}

struct Reader {
    store: Arc<LmdbStore>,
    queue: Receiver<Item<Query>>,
    report: AsyncSender<Completions>,
    counts: Arc<Mutex<StoreCounts>>,
}

impl Reader {
    fn run(self) {
        while let Ok(first) = self.queue.recv() {
            let (batch, mut completions) = take_wanted(drain(first, &self.queue));
            completions.extend(self.carry_out(&batch));
            let _ = block_on(self.report.send(completions));
        }
    }

    fn carry_out(&self, batch: &[(Ticket, Query)]) -> Completions {
        let txn = match self.store.read() {
            Ok(txn) => txn,
            Err(error) => return batch.iter().map(|(ticket, _)| (*ticket, Err(error.clone()))).collect(),
        };
        let before = *self.counts.lock().expect("no thread panics while it counts");
        let mut counts = before;
        let now = wall_time();
        let completions =
            batch.iter().map(|(ticket, query)| (*ticket, answer(&txn, query, now, &mut counts))).collect();
        note_damage(counts.damaged - before.damaged, &self.counts);
        if counts.leaves_read > before.leaves_read {
            let mut all = self.counts.lock().expect("no thread panics while it counts");
            all.leaves_read += counts.leaves_read - before.leaves_read;
        }
        completions
    }
}

fn note_damage(damaged: u64, counts: &Mutex<StoreCounts>) {
    if damaged > 0 {
        tracing::error!(damaged, "stored records do not match their checksums; they read as missing");
        counts.lock().expect("no thread panics while it counts").damaged += damaged;
    }
}

/// What waits already, up to one batch.
fn drain<T>(first: T, queue: &Receiver<T>) -> Vec<T> {
    let mut batch = vec![first];
    while batch.len() < BATCH_COUNT_MAX {
        match queue.try_recv() {
            Ok(next) => batch.push(next),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
        }
    }
    batch
}

/// Those that somebody still waits for, and the answers to the others: they are not begun.
fn take_wanted<T>(batch: Vec<Item<T>>) -> (Vec<(Ticket, T)>, Completions) {
    let now = Instant::now();
    let (late, wanted): (Vec<_>, Vec<_>) = batch.into_iter().partition(|item| item.due.is_some_and(|due| due <= now));
    let too_late = || StoreError::Busy { detail: "the time for it was over before its turn came".to_owned() };
    let completions = late.into_iter().map(|item| (item.ticket, Err(too_late()))).collect();
    (wanted.into_iter().map(|item| (item.ticket, item.what)).collect(), completions)
}

fn enqueue<T>(queue: Option<&SyncSender<T>>, item: T) -> Result<(), StoreError> {
    let queue = queue.expect("the queue is open until stop, which takes the storage");
    queue.try_send(item).map_err(|error| match error {
        TrySendError::Full(_) => {
            StoreError::Busy { detail: format!("{QUEUE_COUNT_MAX} pieces of work are waiting for it") }
        }
        TrySendError::Disconnected(_) => StoreError::Failed { detail: "its thread has ended".to_owned() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_waits_for_any_more_is_not_begun() {
        let now = Instant::now();
        let item = |ticket, due| Item { ticket: Ticket(ticket), what: Work::Probe, due };
        let later = now + Duration::from_secs(60);
        let (wanted, answered) = take_wanted(vec![item(1, Some(now)), item(2, Some(later)), item(3, None)]);
        assert_eq!(wanted.iter().map(|(ticket, _)| ticket.0).collect::<Vec<_>>(), [2, 3]);
        assert!(matches!(&answered[..], [(Ticket(1), Err(StoreError::Busy { .. }))]), "{answered:?}");
    }
}
