//! Hints: what a node keeps for members that could not be reached, apart from its own data.
//!
//! One record per target and key: a second hint for the same key merges into the first. Each target has a row of totals,
//! changed in the transaction that changes its hints, so that bounds are checked without counting. A partition of which a
//! hint was refused or given up is **marked**: its replicas will differ, and want to be compared early.
//!
//! Hints enter no tree and no scan. Who is sent them, and when, is decided in `handoff`.
//!
//! Source: DeCandia et al., "Dynamo" (SOSP 2007), section 4.6. **Departure**: the paper bounds neither their size nor
//! their age.

use std::cell::Cell;

use serde::{Deserialize, Serialize};

use crate::{
    causality::siblings::Object,
    clock::WallTime,
    digest::Digest,
    ident::{Key, NodeId},
    replica::{
        rules::HintRule,
        startup,
        values::{self, WriteRefused},
    },
    ring::token::{Partition, PartitionCount, Token},
    store::{ReadTxn, StoreError, Table, Walk, WriteTxn, schema},
    wire::client::Cursor,
};

/// For whom a hint is kept, and where on the ring its key lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HintFor {
    /// The member of the row that lacks the object.
    pub target: NodeId,
    /// The key's partition.
    pub partition: Partition,
}

/// How much a node keeps for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HintLimits {
    /// For one target, in bytes of the stored records.
    pub target_bytes: u64,
    /// For all of them together.
    pub total_bytes: u64,
}

/// What hints for one target come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HintTotals {
    /// Keys.
    pub count: u64,
    /// Bytes of the stored records.
    pub bytes: u64,
    /// The oldest is not older than this; nothing is known closer until a sweep has seen all of them.
    pub oldest: WallTime,
}

/// One hint as it is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Hint {
    /// The key.
    pub key: Key,
    /// What its target lacks.
    pub object: Object,
}

/// Hints of one page, in the order of the rows.
#[derive(Debug, Clone, PartialEq)]
pub struct HintPage {
    /// Those that are whole.
    pub hints: Vec<Hint>,
    /// Where to go on; nothing at the end.
    pub next: Option<Cursor>,
}

/// What a sweep has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swept {
    /// Hints given up.
    pub dropped: u64,
    /// Where to go on; nothing at the end.
    pub next: Option<Cursor>,
    /// The oldest that stays, of this sweep and those before it.
    pub oldest: Option<WallTime>,
}

/// Where a sweep stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SweepFrom<'a> {
    pub(crate) after: Option<&'a Cursor>,
    /// The oldest that stays, of what was seen before.
    pub(crate) oldest: Option<WallTime>,
    /// Those kept since before this are too old.
    pub(crate) before: WallTime,
}

/// Most bytes of objects in a page, beside the first hint.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// Rows that one sweep looks at.
const SWEEP_ROWS: usize = 256;

/// Counts a hint in whose record grows from `before_bytes` to `after_bytes`, or refuses it: then its partition is marked.
pub(crate) fn count_in(
    txn: &mut impl WriteTxn,
    hint: &HintFor,
    before_bytes: Option<usize>,
    after_bytes: usize,
    since: WallTime,
    limits: &HintLimits,
) -> Result<Result<(), WriteRefused>, StoreError> {
    let all = totals(txn)?;
    let mut mine =
        all.iter().find(|(target, _)| *target == hint.target).map_or_else(HintTotals::default, |(_, it)| *it);
    let (before, after) = (before_bytes.unwrap_or(0) as u64, after_bytes as u64);
    let total: u64 = all.iter().map(|(_, totals)| totals.bytes).sum();
    let checks = [(mine.bytes, limits.target_bytes), (total, limits.total_bytes)];
    if let Some((_, limit_bytes)) =
        checks.into_iter().find(|(bytes, limit)| (bytes + after).saturating_sub(before) > *limit)
        && after > before
    {
        mark(txn, hint.partition)?;
        return Ok(Err(WriteRefused::HintsFull { limit_bytes }));
    }
    mine.oldest = if mine.count == 0 { since } else { mine.oldest.min(since) };
    mine.count += u64::from(before_bytes.is_none());
    mine.bytes = (mine.bytes + after).saturating_sub(before);
    save_totals(txn, &hint.target, &mine)?;
    Ok(Ok(()))
}

/// Drops the hint of `key` for `target` if its object is the one whose digest was `sent`.
pub(crate) fn drop_as_sent(
    txn: &mut impl WriteTxn,
    target: &NodeId,
    key: &Key,
    sent: &Digest,
    rule: HintRule,
) -> Result<(), StoreError> {
    let row = schema::hint_row(target, Token::of(key).0, key);
    let Some(sealed) = txn.get(Table::Hints, row.as_bytes())? else { return Ok(()) };
    let bytes = sealed.len();
    let is_as_sent = values::decode(Table::Hints, row.as_bytes(), sealed).is_some_and(|it| it.object.digest() == *sent);
    if is_as_sent || rule == HintRule::DroppedThoughChanged {
        drop_row(txn, target, row.as_bytes(), bytes)?;
    }
    Ok(())
}

/// Looks at the next rows of `target`, drops those kept since before `before` and those that are damaged, and marks their
/// partitions.
pub(crate) fn sweep(
    txn: &mut impl WriteTxn,
    target: &NodeId,
    from: SweepFrom<'_>,
    partitions: PartitionCount,
    damaged: &mut u64,
) -> Result<Swept, StoreError> {
    let (mut given_up, mut next, mut seen) = (Vec::new(), None, 0);
    let SweepFrom { after, mut oldest, before } = from;
    visit(txn, target, after, &mut |row, token, _, sealed| {
        if seen == SWEEP_ROWS {
            next = Some(Cursor(row.to_vec()));
            return Walk::Stop;
        }
        seen += 1;
        let record = values::decode(Table::Hints, row, sealed);
        *damaged += u64::from(record.is_none());
        match record {
            Some(record) if record.local.since >= before => {
                oldest = Some(oldest.map_or(record.local.since, |oldest| oldest.min(record.local.since)));
            }
            Some(_) | None => given_up.push((row.to_vec(), sealed.len(), Token(token).partition(partitions))),
        }
        Walk::On
    })?;
    for (row, bytes, partition) in &given_up {
        drop_row(txn, target, row, *bytes)?;
        mark(txn, *partition)?;
    }
    // Whoever has seen all of them knows how old they are; what was kept meanwhile is younger.
    if next.is_none()
        && let Some(oldest) = oldest
    {
        let totals = HintTotals { oldest, ..load_totals(txn, target)? };
        save_totals(txn, target, &totals)?;
    }
    Ok(Swept { dropped: given_up.len() as u64, next, oldest })
}

/// What this node knows of a key that is not its own: the merge of all hints of it, and of what it held of it itself.
pub(crate) fn known(
    txn: &impl ReadTxn,
    key: &Key,
    targets: &[NodeId],
    damaged: &mut u64,
) -> Result<Option<Object>, StoreError> {
    let mut known = values::load(txn, key, damaged)?.map(|(object, _)| object);
    let token = Token::of(key).0;
    for target in targets {
        let row = schema::hint_row(target, token, key);
        let Some(sealed) = txn.get(Table::Hints, row.as_bytes())? else { continue };
        match values::decode(Table::Hints, row.as_bytes(), sealed) {
            Some(record) => drop(known.get_or_insert_default().merge(record.object)),
            None => *damaged += 1,
        }
    }
    Ok(known)
}

/// The next hints for `target`; at most `limit`, and about a megabyte.
pub(crate) fn page(
    txn: &impl ReadTxn,
    target: &NodeId,
    after: Option<&Cursor>,
    limit: usize,
    damaged: &mut u64,
) -> Result<HintPage, StoreError> {
    let (mut hints, mut next, mut bytes) = (Vec::new(), None, 0);
    let broken = Cell::new(0);
    visit(txn, target, after, &mut |row, _, key, sealed| {
        if hints.len() == limit || bytes > PAGE_BYTES_MAX {
            next = Some(Cursor(row.to_vec()));
            return Walk::Stop;
        }
        match (Key::new(key), values::decode(Table::Hints, row, sealed)) {
            (Ok(key), Some(record)) => {
                bytes += sealed.len();
                hints.push(Hint { key, object: record.object });
            }
            // The next sweep gives it up.
            (Err(_), _) | (_, None) => broken.set(broken.get() + 1),
        }
        Walk::On
    })?;
    *damaged += broken.get();
    Ok(HintPage { hints, next })
}

/// What hints come to, by target. As long as there are targets.
pub(crate) fn totals(txn: &impl ReadTxn) -> Result<Vec<(NodeId, HintTotals)>, StoreError> {
    let mut totals = Vec::new();
    txn.visit(Table::HintTotals, &[], &mut |row, sealed| {
        if let Some(target) = schema::parse_peer_row(row) {
            totals.push((target, startup::decode::<HintTotals>(Table::HintTotals, row, sealed).ok()));
        }
        Ok(Walk::On)
    })?;
    let whole = |(target, totals): (NodeId, Option<HintTotals>)| {
        Ok((target, totals.map_or_else(|| recount(txn, &target), Ok)?))
    };
    totals.into_iter().map(whole).collect()
}

/// The marked partitions, ascending.
pub(crate) fn marked(txn: &impl ReadTxn) -> Result<Vec<Partition>, StoreError> {
    let mut marked = Vec::new();
    txn.visit(Table::Marks, &[], &mut |row, _| {
        marked.extend(schema::parse_mark_row(row));
        Ok(Walk::On)
    })?;
    Ok(marked)
}

/// Marks `partition`, if it is not yet.
pub(crate) fn mark(txn: &mut impl WriteTxn, partition: Partition) -> Result<(), StoreError> {
    let row = schema::mark_row(partition);
    match txn.get(Table::Marks, row.as_bytes())? {
        Some(_) => Ok(()),
        None => startup::save_row(txn, Table::Marks, row.as_bytes(), &()),
    }
}

/// Takes the mark of `partition` away.
pub(crate) fn unmark(txn: &mut impl WriteTxn, partition: Partition) -> Result<(), StoreError> {
    txn.delete(Table::Marks, schema::mark_row(partition).as_bytes()).map(drop)
}

fn drop_row(txn: &mut impl WriteTxn, target: &NodeId, row: &[u8], bytes: usize) -> Result<(), StoreError> {
    txn.delete(Table::Hints, row)?;
    let mut totals = load_totals(txn, target)?;
    totals.count = totals.count.saturating_sub(1);
    totals.bytes = totals.bytes.saturating_sub(bytes as u64);
    save_totals(txn, target, &totals)
}

fn load_totals(txn: &impl ReadTxn, target: &NodeId) -> Result<HintTotals, StoreError> {
    let row = schema::hint_totals_row(target);
    match txn.get(Table::HintTotals, row.as_bytes())? {
        None => Ok(HintTotals::default()),
        // Damaged totals must not stop what they count.
        Some(sealed) => startup::decode(Table::HintTotals, row.as_bytes(), sealed).or_else(|_| recount(txn, target)),
    }
}

fn recount(txn: &impl ReadTxn, target: &NodeId) -> Result<HintTotals, StoreError> {
    let mut totals = HintTotals { count: 0, bytes: 0, oldest: WallTime(u64::MAX) };
    visit(txn, target, None, &mut |row, _, _, sealed| {
        totals.count += 1;
        totals.bytes += sealed.len() as u64;
        let since = values::decode(Table::Hints, row, sealed).map_or(WallTime(0), |record| record.local.since);
        totals.oldest = totals.oldest.min(since);
        Walk::On
    })?;
    Ok(totals)
}

/// A target without hints has no row.
fn save_totals(txn: &mut impl WriteTxn, target: &NodeId, totals: &HintTotals) -> Result<(), StoreError> {
    let row = schema::hint_totals_row(target);
    if totals.count == 0 {
        return txn.delete(Table::HintTotals, row.as_bytes()).map(drop);
    }
    startup::save_row(txn, Table::HintTotals, row.as_bytes(), totals)
}

/// What is shown the rows of hints: row, token, client key, sealed record.
type Show<'a> = dyn FnMut(&[u8], u64, &[u8], &[u8]) -> Walk + 'a;

/// Shows the rows of `target` from where a page before ended.
fn visit(txn: &impl ReadTxn, target: &NodeId, after: Option<&Cursor>, show: &mut Show<'_>) -> Result<(), StoreError> {
    let start = after.map_or_else(|| target.0.to_vec(), |cursor| cursor.0.clone());
    txn.visit(Table::Hints, &start, &mut |row, sealed| match schema::parse_hint_row(row) {
        Some((found, token, key)) if found == *target => Ok(show(row, token, key, sealed)),
        Some(_) | None => Ok(Walk::Stop),
    })
}
