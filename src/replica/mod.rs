//! A replica is a function of a transaction: [`apply`] changes stored data, [`answer`] reads it.
//!
//! Everything that changes with a key changes in one transaction. Replication, read repair and every later kind of
//! transfer end in the same [`Work::Merge`]. This module knows no time but the one it is handed, no network and no
//! quorum; it never decides who is responsible for a key.

pub mod rules;
pub mod batch;
pub mod startup;
pub mod values;
pub mod hints;
pub mod tree;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod hint_tests;
#[cfg(test)]
mod tree_stage;
#[cfg(test)]
mod tree_tests;

use std::sync::Arc;

use crate::{
    causality::{
        epochs::Life,
        seen::Seen,
        siblings::{NewValue, Object},
    },
    clock::WallTime,
    digest::Digest,
    ident::{Key, NodeId},
    membership::change::Change,
    merkle::{
        Comparison, answers,
        branch::{Branch, BranchDigest, ItemKey},
        descent::{Descent, Turn},
        packed::{self, BranchQuestion},
    },
    replica::{
        hints::{HintFor, HintLimits, HintPage, HintTotals, SweepFrom, Swept},
        rules::Rules,
        startup::InDoubt,
        tree::{BucketCheck, Buckets, Tree},
        values::{KeyPage, Place, WriteRefused},
    },
    ring::{
        partition_set::PartitionSet,
        token::{Partition, PartitionCount},
    },
    store::{ReadTxn, StoreError, Table, WriteTxn},
    wire::{
        client::Cursor,
        exchange::{Answer, Item, Packed, Root},
    },
};

/// What the storage thread is asked to change.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Coordinate a client's write: mint a dot, or delete.
    Write {
        /// Among the node's own data, or as a hint where it stands in.
        place: Place,
        /// The key.
        key: Key,
        /// What the client has seen.
        context: Seen,
        /// The new value; nothing to delete.
        new: Option<NewValue>,
    },
    /// Merge another replica's object into ours.
    Merge {
        /// The key.
        key: Key,
        /// The other's object.
        object: Object,
    },
    /// Merge what a co-owner has sent in an exchange. Never empty.
    MergeAll(Vec<Item>),
    /// Recompute what a bucket of the tree comes to; damaged records in it go.
    Mend {
        /// Its number.
        bucket: u16,
    },
    /// Drop what is here of a partition: others hold it.
    Drop {
        /// Which.
        partition: Partition,
        /// Into how many the ring is cut.
        partitions: PartitionCount,
        /// Most rows to drop at once.
        limit: usize,
    },
    /// Mark partitions: they want to be compared early.
    Mark(Vec<Partition>),
    /// They have been compared, or somebody else sees to it.
    Unmark(Vec<Partition>),
    /// Of what this store may have lost something, from now on.
    SaveInDoubt(InDoubt),
    /// Merge an object into what is kept of it for a node that cannot be reached.
    KeepHint {
        /// For whom.
        hint: HintFor,
        /// The key.
        key: Key,
        /// What that node lacks.
        object: Object,
    },
    /// What was kept has reached its target: drop it, if it is still what was sent.
    DropHint {
        /// For whom it was kept.
        target: NodeId,
        /// The key.
        key: Key,
        /// Digest of the object that was sent.
        sent: Digest,
    },
    /// Give up hints that are too old, and those that are damaged; their partitions are marked.
    SweepHints {
        /// For whom they were kept.
        target: NodeId,
        /// Those kept since before this are too old.
        before: WallTime,
        /// Where the sweep before ended.
        after: Option<Cursor>,
        /// The oldest that stays, of what was seen before.
        oldest: Option<WallTime>,
        /// Into how many partitions the ring is cut.
        partitions: PartitionCount,
    },
    /// Keep these changes of the membership history.
    SaveChanges(Vec<Change>),
    /// Remember the latest life seen of a peer.
    SavePeerLife {
        /// The peer.
        node: NodeId,
        /// Its boot number, and the instance that told it.
        life: (u64, u64),
    },
    /// Write what is there already, to see whether the store takes writes again.
    Probe,
    /// Enough members know of no later life of this node: what its store remembers of epochs is good.
    ConfirmLife,
    /// Others have seen a later start of this node than its store knows: the store was restored or cloned. Forgets all
    /// epochs, takes up the count from there, and trusts nothing of it until the life is confirmed anew.
    RaiseBoot {
        /// The highest boot number others have seen.
        seen: u64,
    },
}

/// What the store is asked to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// The object of a key.
    Object(Key),
    /// A page of keys.
    Keys {
        /// They begin with these bytes.
        prefix: Vec<u8>,
        /// Where the page before ended.
        after: Option<Cursor>,
        /// Most keys in the page.
        limit: usize,
    },
    /// The object of a key of which this node may keep hints, as far as it knows it.
    StandIn {
        /// The key.
        key: Key,
        /// For whom hints of it may be kept: the key's row. At most 16.
        targets: Vec<NodeId>,
    },
    /// A page of the hints for one target.
    Hints {
        /// For whom.
        target: NodeId,
        /// Where the page before ended.
        after: Option<Cursor>,
        /// Most hints in the page.
        limit: usize,
    },
    /// What hints come to, target by target.
    HintTotals,
    /// How much there is, and what was done.
    Totals,
    /// What some partitions come to.
    Roots(PartitionSet),
    /// Whether a co-owner is in step, and if not what is here.
    AnswerOpening {
        /// What the two share.
        partitions: Arc<PartitionSet>,
        /// How to compare.
        comparison: Comparison,
        /// Where they begin.
        branch: Branch,
        /// What the co-owner has there.
        root: Root,
    },
    /// The questions of one step of a co-owner.
    AnswerStep {
        /// What the two share.
        partitions: Arc<PartitionSet>,
        /// How to compare.
        comparison: Comparison,
        /// The questions.
        questions: Vec<BranchQuestion>,
    },
    /// The next question to a co-owner.
    Descend {
        /// What the two share.
        partitions: Arc<PartitionSet>,
        /// Where the exchange stands.
        descent: Box<Descent>,
        /// The answer to what was asked last.
        answer: Option<Answer>,
    },
    /// Whether a bucket of the tree, and every record in it, is as it should be.
    Check {
        /// Its number.
        bucket: u16,
        /// What items are hashed with.
        item_key: ItemKey,
    },
}

impl Query {
    /// Whether it may look at many rows: others do not wait for it.
    pub fn is_long(&self) -> bool {
        match self {
            Query::Roots(_)
            | Query::AnswerOpening { .. }
            | Query::AnswerStep { .. }
            | Query::Descend { .. }
            | Query::Check { .. } => true,
            Query::Object(_)
            | Query::Keys { .. }
            | Query::StandIn { .. }
            | Query::Hints { .. }
            | Query::HintTotals
            | Query::Totals => false,
        }
    }
}

/// What was done on a store since its node started. Only ever rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreCounts {
    /// Transactions committed.
    pub commits: u64,
    /// Pieces of work they carried.
    pub works: u64,
    /// Records found that did not match their checksum; each time one is met.
    pub damaged: u64,
    /// Leaves of trees that comparisons have looked at, each time one was.
    pub leaves_read: u64,
}

/// What became of [`Work`] or a [`Query`]. Exists only after the commit.
#[derive(Debug, Clone, PartialEq)]
pub enum Done {
    /// A [`Work::Write`] is stored.
    Written {
        /// The object after it.
        object: Object,
        /// What its writer may be told it has seen.
        seen: Seen,
    },
    /// A [`Work::Write`] or [`Work::KeepHint`] that would break a limit; of that key nothing changed.
    Refused(WriteRefused),
    /// A [`Work::Merge`] or [`Work::KeepHint`], whether or not it changed anything.
    Merged,
    /// A [`Work::MergeAll`].
    MergedAll {
        /// How many of them changed anything.
        changed: u64,
        /// What their sender lacks, or has otherwise.
        left: Vec<Item>,
    },
    /// A [`Work::Drop`].
    Dropped {
        /// Rows that are gone.
        rows: u64,
        /// Nothing of it is left.
        is_over: bool,
    },
    /// A [`Work::Mend`] or [`Query::Check`].
    Checked(BucketCheck),
    /// Changes or boot numbers are kept, or a hint is dropped or was not what it was.
    Saved,
    /// A [`Work::SweepHints`].
    Swept(Swept),
    /// Answer to [`Query::StandIn`]: nothing when the node does not know the key.
    Known(Option<Object>),
    /// Answer to [`Query::Hints`].
    Hints(HintPage),
    /// Answer to [`Query::HintTotals`], by target.
    HintTotals(Vec<(NodeId, HintTotals)>),
    /// Answer to [`Query::Object`]: the default object when there is none.
    Object(Object),
    /// Answer to [`Query::Keys`].
    Keys(KeyPage),
    /// Answer to [`Query::Totals`].
    Totals {
        /// Keys held, tombstones included.
        key_count: u64,
        /// About how many bytes they take in the store.
        key_bytes: u64,
        /// What hints come to, by target.
        hints: Vec<(NodeId, HintTotals)>,
        /// Partitions that are marked to be compared early, ascending.
        marked: Vec<Partition>,
        /// What was done.
        counts: StoreCounts,
    },
    /// Answer to [`Query::Roots`], ascending.
    Roots(Vec<(Partition, BranchDigest)>),
    /// Answer to [`Query::AnswerOpening`] and [`Query::AnswerStep`].
    Answered {
        /// What to tell.
        answer: Answer,
        /// Buckets in which something was met that is damaged.
        damaged: Vec<u16>,
    },
    /// Answer to [`Query::Descend`].
    Descended {
        /// Where the exchange stands now.
        descent: Box<Descent>,
        /// What follows.
        turn: Turn,
        /// Buckets in which something was met that is damaged.
        damaged: Vec<u16>,
    },
}

/// What a node's process brings to each transaction.
#[derive(Debug, Clone)]
pub struct Replica {
    /// The number of the node in its actors.
    pub actor_node: u64,
    /// What items of the tree are hashed with.
    pub item_key: ItemKey,
    /// By what it works.
    pub rules: Rules,
    /// Its present life.
    pub life: Life,
    /// How much it keeps for others.
    pub limits: HintLimits,
    /// What it knows of the tree's rows.
    pub buckets: Buckets,
    /// Records met so far that did not match their checksum, each time one was met. They count as missing: what was written
    /// or merged on top of one began anew.
    pub damaged: u64,
}

/// Carries out `work`. After an error the transaction must be dropped.
pub fn apply(txn: &mut impl WriteTxn, work: Work, replica: &mut Replica, now: WallTime) -> Result<Done, StoreError> {
    match work {
        Work::Write { place, key, context, new } => values::write(txn, &place, &key, &context, new, replica, now),
        Work::Merge { key, object } => values::merge(txn, &Place::Own, &key, object, replica, now),
        Work::MergeAll(items) => values::merge_all(txn, items, replica, now),
        Work::Mend { bucket } => {
            let check = tree::mend(txn, &mut replica.buckets, bucket, &replica.item_key)?;
            replica.damaged += check.damaged;
            Ok(Done::Checked(check))
        }
        Work::Drop { partition, partitions, limit } => {
            values::drop_some(txn, &mut replica.buckets, partition, partitions, limit)
        }
        Work::Mark(partitions) => {
            partitions.into_iter().try_for_each(|partition| hints::mark(txn, partition))?;
            Ok(Done::Saved)
        }
        Work::Unmark(partitions) => {
            partitions.into_iter().try_for_each(|partition| hints::unmark(txn, partition))?;
            Ok(Done::Saved)
        }
        Work::SaveInDoubt(in_doubt) => {
            startup::save_in_doubt(txn, &in_doubt)?;
            Ok(Done::Saved)
        }
        Work::KeepHint { hint, key, object } => values::merge(txn, &Place::Hint(hint), &key, object, replica, now),
        Work::DropHint { target, key, sent } => {
            hints::drop_as_sent(txn, &target, &key, &sent, replica.rules.hints)?;
            Ok(Done::Saved)
        }
        Work::SweepHints { target, before, after, oldest, partitions } => {
            let from = SweepFrom { after: after.as_ref(), oldest, before };
            hints::sweep(txn, &target, from, partitions, &mut replica.damaged).map(Done::Swept)
        }
        Work::SaveChanges(changes) => {
            for change in &changes {
                startup::save_change(txn, change)?;
            }
            Ok(Done::Saved)
        }
        Work::SavePeerLife { node, life } => {
            startup::save_peer_life(txn, &node, life)?;
            Ok(Done::Saved)
        }
        Work::Probe => {
            startup::probe(txn)?;
            Ok(Done::Saved)
        }
        Work::ConfirmLife => {
            replica.life.confirm();
            Ok(Done::Saved)
        }
        Work::RaiseBoot { seen } => {
            replica.life.doubt();
            startup::raise_boot(txn, seen)?;
            Ok(Done::Saved)
        }
    }
}

/// Answers `query`. A record that does not match its checksum reads as missing, and is counted in `counts`.
pub fn answer(txn: &impl ReadTxn, query: &Query, now: WallTime, counts: &mut StoreCounts) -> Result<Done, StoreError> {
    match query {
        Query::Object(key) => {
            let found = values::load(txn, key, &mut counts.damaged)?;
            Ok(Done::Object(found.map(|(object, _)| object).unwrap_or_default()))
        }
        Query::Keys { prefix, after, limit } => {
            values::list_keys(txn, prefix, after.as_ref(), *limit, now, &mut counts.damaged).map(Done::Keys)
        }
        Query::StandIn { key, targets } => hints::known(txn, key, targets, &mut counts.damaged).map(Done::Known),
        Query::Hints { target, after, limit } => {
            hints::page(txn, target, after.as_ref(), *limit, &mut counts.damaged).map(Done::Hints)
        }
        Query::HintTotals => hints::totals(txn).map(Done::HintTotals),
        Query::Totals => Ok(Done::Totals {
            key_count: txn.count(Table::Objects)?,
            key_bytes: txn.size_bytes(Table::Objects)?,
            hints: hints::totals(txn)?,
            marked: hints::marked(txn)?,
            counts: *counts,
        }),
        Query::Roots(partitions) => tree::roots(txn, partitions).map(Done::Roots),
        Query::AnswerOpening { partitions, comparison, branch, root } => {
            let mut tree = Tree::new(txn, partitions);
            let below = answers::answer_opening(&mut tree, comparison, branch, root)?;
            let answer = match below {
                None => Answer::Same,
                Some(below) => Answer::Differs(Packed(packed::write_below(&below))),
            };
            Ok(Done::Answered { answer, damaged: tree.end(counts) })
        }
        Query::AnswerStep { partitions, comparison, questions } => {
            let mut tree = Tree::new(txn, partitions);
            let answer = Answer::Step(answers::answer_step(&mut tree, comparison, questions)?);
            Ok(Done::Answered { answer, damaged: tree.end(counts) })
        }
        Query::Descend { partitions, descent, answer } => {
            let (mut tree, mut descent) = (Tree::new(txn, partitions), descent.clone());
            let turn = descent.next(&mut tree, answer.clone())?;
            Ok(Done::Descended { descent, turn, damaged: tree.end(counts) })
        }
        Query::Check { bucket, item_key } => tree::check(txn, *bucket, item_key).map(Done::Checked),
    }
}
