//! One simulated computer: its disk, its clocks, and the node's process while one runs.
//!
//! Works wait in a queue and are committed together, by the very committer of the storage thread. What is not committed
//! is gone when the process crashes. The one way to cheat is [`Acknowledge::BeforeCommit`], a bug for tests to plant.

use std::sync::Arc;

use quorate::{
    causality::siblings::Object,
    clock::{Instant, Now, WallTime},
    config::NodeConfig,
    ident::{Key, NodeId},
    limits::BATCH_COUNT_MAX,
    membership::{change::Signer, history::History},
    node::{
        Node,
        effect::{Stop, Ticket},
    },
    replica::{
        Done, Query, StoreCounts, Work, answer, apply, batch::Committer, hints::Hint, rules::Rules, startup,
        tree::BUCKET_COUNT, values,
    },
    ring::Ring,
    store::{ReadTxn, Store, StoreError, Table, Walk, WriteTxn, memory::MemoryStore, schema},
};

/// When the storage answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acknowledge {
    /// As it must.
    AfterCommit,
    /// A planted bug: a crash loses what was promised.
    BeforeCommit,
}

/// What the storage answers to one piece of work.
pub(crate) type Results = Vec<(Ticket, Result<Done, StoreError>)>;

/// A piece of work that waits, and when nobody waits for it any more.
pub(crate) type Queued = (Ticket, Work, Option<Instant>);

/// One computer and the node on it.
pub(crate) struct Machine {
    pub(crate) id: NodeId,
    pub(crate) config: NodeConfig,
    /// Where its seeds lead: indices of nodes.
    pub(crate) seeds: Vec<usize>,
    pub(crate) store: MemoryStore,
    pub(crate) process: Option<Process>,
    /// Counts the processes that were started on it.
    pub(crate) life: u64,
    /// Its wall clock, less the true time.
    pub(crate) wall_skew_ms: u64,
    /// Until when it stands still, process, disk and all.
    pub(crate) paused_until_ms: u64,
    /// Its node has said that it serves no more, and why: it is not started again.
    pub(crate) ended: Option<Stop>,
    /// It is gone for good, disk and all.
    pub(crate) is_lost: bool,
    /// The ring it was last seen with.
    pub(crate) ring: Option<Arc<Ring>>,
    signer: Signer,
    rules: Rules,
    acknowledge: Acknowledge,
}

/// A running node, and its storage thread.
pub(crate) struct Process {
    pub(crate) node: Node,
    pub(crate) queue: Vec<Queued>,
    pub(crate) is_committing: bool,
    committer: Committer,
}

impl Machine {
    /// A computer with an empty disk, switched off.
    pub(crate) fn new(signer_seed: [u8; 32], config: NodeConfig, rules: Rules, acknowledge: Acknowledge) -> Machine {
        Machine::with_identity(Signer::from_seed(signer_seed), config, rules, acknowledge)
    }

    fn with_identity(signer: Signer, config: NodeConfig, rules: Rules, acknowledge: Acknowledge) -> Machine {
        Machine {
            id: signer.node_id(),
            config,
            seeds: Vec::new(),
            store: MemoryStore::new(),
            process: None,
            life: 0,
            wall_skew_ms: 0,
            paused_until_ms: 0,
            ended: None,
            is_lost: false,
            ring: None,
            signer,
            rules,
            acknowledge,
        }
    }

    /// A computer with a copy of this one's disk, switched off.
    pub(crate) fn copied(&self) -> Machine {
        let Machine { config, signer, rules, acknowledge, wall_skew_ms, .. } = self;
        let store = MemoryStore::new();
        store.restore(&self.store.snapshot());
        Machine {
            store,
            wall_skew_ms: *wall_skew_ms,
            ..Machine::with_identity(signer.clone(), config.clone(), *rules, *acknowledge)
        }
    }

    /// It is gone for good: nothing is left of its disk.
    pub(crate) fn lose_disk(&mut self) {
        self.is_lost = true;
        self.store = MemoryStore::new();
    }

    /// Its identity, as a copy of its disk has it.
    pub(crate) fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Both clocks, `true_ms` after the simulation began.
    pub(crate) fn now(&self, true_ms: u64) -> Now {
        Now { instant: Instant(true_ms), wall: WallTime(BEGINNING_MS + true_ms + self.wall_skew_ms) }
    }

    /// The membership history on its disk.
    pub(crate) fn history(&self) -> History {
        let mut txn = self.store.write().expect("the disk is sound");
        let mut changes = startup::begin(&mut txn, &self.id).expect("the disk is its own").changes;
        changes.sort_by_key(|change| (change.lamport, change.author, change.sequence));
        let mut history = History::new(self.config.cluster.clone());
        for change in changes {
            history.insert(change).expect("what is stored fits");
        }
        history
    }

    /// Starts the node on what its disk holds. On failure it stays off.
    pub(crate) fn start(&mut self, true_ms: u64, seed: [u8; 32]) -> Result<(), StoreError> {
        let mut txn = self.store.write()?;
        let recovered = startup::begin(&mut txn, &self.id)?;
        txn.commit()?;
        self.life += 1;
        let now = self.now(true_ms);
        let random = u64::from_be_bytes(seed[..8].try_into().expect("eight bytes"));
        let instance = true_ms << 20 | random >> 44;
        let node = Node::new(self.config.clone(), self.signer.clone(), recovered, instance, seed, now);
        let committer = Committer::new(
            self.id.to_actor_number(),
            self.config.item_key(),
            self.rules,
            self.config.hint_limits,
            random,
        );
        self.process = Some(Process { node, queue: Vec::new(), is_committing: false, committer });
        Ok(())
    }

    /// Stops the node with a word to its disk. Works that wait are done first, and nobody hears of them.
    pub(crate) fn stop_cleanly(&mut self, true_ms: u64) {
        while self.process.as_ref().is_some_and(|process| !process.queue.is_empty()) {
            self.commit(true_ms);
        }
        if let Some(process) = self.process.take() {
            // A failure leaves the stop an unclean one, which is safe.
            let _ = process.committer.end(&self.store);
        }
    }

    /// Hands work to the storage. Under the planted bug the answer comes at once.
    pub(crate) fn enqueue(&mut self, true_ms: u64, (ticket, work, due): Queued) -> Option<Results> {
        let wall = self.now(true_ms).wall;
        let process = self.process.as_mut()?;
        process.queue.push((ticket, work, due));
        if self.acknowledge == Acknowledge::AfterCommit {
            return None;
        }
        let mut txn = self.store.write().ok()?;
        let mut last = None;
        let mut replica = process.committer.replica().clone();
        for (_, work, _) in &process.queue {
            last = Some(apply(&mut txn, work.clone(), &mut replica, wall));
        }
        last.map(|result| vec![(ticket, result)])
    }

    /// Commits what waits, as much as one transaction takes. Returns the keys it touched and the answers.
    pub(crate) fn commit(&mut self, true_ms: u64) -> (Vec<Key>, Results) {
        let wall = self.now(true_ms).wall;
        let Some(process) = &mut self.process else { return (Vec::new(), Vec::new()) };
        let rest = process.queue.split_off(process.queue.len().min(BATCH_COUNT_MAX));
        let batch = std::mem::replace(&mut process.queue, rest);
        let (late, batch): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|(_, _, due)| due.is_some_and(|due| due.0 <= true_ms));
        let busy = |(ticket, _, _)| (ticket, Err(StoreError::Busy { detail: "it came too late".to_owned() }));
        let late: Results = late.into_iter().map(busy).collect();
        let batch: Vec<(Ticket, Work)> = batch.into_iter().map(|(ticket, work, _)| (ticket, work)).collect();
        let touched = batch.iter().flat_map(|(_, work)| keys_of(work)).collect();
        let results: Results = match process.committer.run(&self.store, &batch, wall) {
            Ok(done) => done.into_iter().map(|(ticket, done)| (ticket, Ok(done))).collect(),
            Err(error) => batch.into_iter().map(|(ticket, _)| (ticket, Err(error.clone()))).collect(),
        };
        match self.acknowledge {
            Acknowledge::AfterCommit => (touched, late.into_iter().chain(results).collect()),
            Acknowledge::BeforeCommit => (touched, Vec::new()),
        }
    }

    /// Keys that waiting works will touch.
    pub(crate) fn waiting_keys(&self) -> Vec<Key> {
        let works = self.process.iter().flat_map(|process| &process.queue);
        works.flat_map(|(_, work, _)| keys_of(work)).collect()
    }

    /// Answers from what is committed.
    pub(crate) fn query(&self, true_ms: u64, query: &Query) -> Result<Done, StoreError> {
        let mut counts = StoreCounts::default();
        answer(&self.store.read()?, query, self.now(true_ms).wall, &mut counts)
    }

    /// What is committed under `key`.
    pub(crate) fn object(&self, key: &Key) -> Object {
        let txn = self.store.read().expect("memory can be read");
        let found = values::load(&txn, key, &mut 0).expect("memory can be read");
        found.map(|(object, _)| object).unwrap_or_default()
    }

    /// What is committed as hints, and for whom.
    pub(crate) fn hints(&self) -> Vec<(NodeId, Hint)> {
        let txn = self.store.read().expect("memory can be read");
        let ask = |query| answer(&txn, &query, WallTime(0), &mut StoreCounts::default()).expect("memory can be read");
        let Done::HintTotals(totals) = ask(Query::HintTotals) else { panic!("totals are answered by totals") };
        let hints_for = |(target, _)| match ask(Query::Hints { target, after: None, limit: usize::MAX }) {
            Done::Hints(page) => page.hints.into_iter().map(move |hint| (target, hint)),
            other => panic!("{other:?} are no hints"),
        };
        totals.into_iter().flat_map(hints_for).collect()
    }

    /// Bytes of all its hints, as it counts them.
    pub(crate) fn hint_bytes(&self) -> u64 {
        match self.query(0, &Query::Totals) {
            Ok(Done::Totals { hints, .. }) => hints.iter().map(|(_, totals)| totals.bytes).sum(),
            other => panic!("{other:?} are no totals"),
        }
    }

    /// The first bucket of its tree that is not what its objects come to.
    pub(crate) fn unsound_bucket(&self) -> Option<u16> {
        let is_sound = |bucket: &u16| {
            let query = Query::Check { bucket: *bucket, item_key: self.config.item_key() };
            matches!(self.query(0, &query), Ok(Done::Checked(check)) if check.is_sound())
        };
        (0..BUCKET_COUNT).find(|bucket| !is_sound(bucket))
    }

    /// Partitions it has marked to be compared early.
    pub(crate) fn marked_count(&self) -> usize {
        match self.query(0, &Query::Totals) {
            Ok(Done::Totals { marked, .. }) => marked.len(),
            other => panic!("{other:?} are no totals"),
        }
    }

    /// Hints that the next commit may drop, as they are now.
    pub(crate) fn dropping(&self) -> Vec<(NodeId, Hint)> {
        let queue = self.process.iter().flat_map(|process| &process.queue).take(BATCH_COUNT_MAX);
        let dropped: Vec<(&NodeId, &Key)> = queue
            .filter_map(|(_, work, _)| match work {
                Work::DropHint { target, key, .. } => Some((target, key)),
                _ => None,
            })
            .collect();
        if dropped.is_empty() {
            return Vec::new();
        }
        let is_dropped = |(target, hint): &(NodeId, Hint)| dropped.contains(&(target, &hint.key));
        self.hints().into_iter().filter(is_dropped).collect()
    }

    /// Everything that is committed under `key`: the node's own data, and what it keeps for others.
    pub(crate) fn objects(&self, key: &Key) -> Vec<Object> {
        let txn = self.store.read().expect("memory can be read");
        let mut targets = Vec::new();
        txn.visit(Table::HintTotals, &[], &mut |row, _| {
            targets.extend(schema::parse_peer_row(row));
            Ok(Walk::On)
        })
        .expect("memory can be read");
        let of_one = |target| {
            let query = Query::StandIn { key: key.clone(), targets: vec![target] };
            match answer(&txn, &query, WallTime(0), &mut StoreCounts::default()) {
                Ok(Done::Known(known)) => known,
                other => panic!("{other:?} is no answer"),
            }
        };
        std::iter::once(self.object(key)).chain(targets.into_iter().filter_map(of_one)).collect()
    }

    /// All keys with a record.
    pub(crate) fn keys(&self) -> Vec<Key> {
        let txn = self.store.read().expect("memory can be read");
        let mut keys = Vec::new();
        txn.visit(Table::Objects, &[], &mut |row, _| {
            keys.extend(schema::parse_object_row(row).and_then(|(_, key)| Key::new(key).ok()));
            Ok(Walk::On)
        })
        .expect("memory can be read");
        keys
    }
}

fn keys_of(work: &Work) -> Vec<Key> {
    match work {
        Work::Write { key, .. } | Work::Merge { key, .. } | Work::KeepHint { key, .. } => vec![key.clone()],
        Work::MergeAll(items) => items.iter().map(|item| item.key.clone()).collect(),
        Work::DropHint { .. }
        | Work::Drop { .. }
        | Work::SweepHints { .. }
        | Work::SaveChanges(_)
        | Work::SavePeerLife { .. }
        | Work::RaiseBoot { .. }
        | Work::Probe
        | Work::Mend { .. }
        | Work::Mark(_)
        | Work::Unmark(_)
        | Work::SaveInDoubt(_)
        | Work::ConfirmLife => Vec::new(),
    }
}

/// The true wall time when a simulation begins.
const BEGINNING_MS: u64 = 1_700_000_000_000;
