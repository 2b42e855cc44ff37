//! The objects of a replica: write, merge, read, list.
//!
//! The same writing and merging serves a hint, at another [`Place`]: a node that stands in mints and merges like any
//! replica, only not among its own data.
//!
//! A record is sealed with a checksum over its row. One that does not match reads as missing: it is never served and
//! never sent, and a write or merge on top of it starts anew, under a fresh epoch because its local record is gone.

use std::cell::Cell;

use thiserror::Error;

use crate::{
    causality::{
        epochs::Local,
        seen::Seen,
        siblings::{NewValue, Object},
    },
    clock::WallTime,
    digest::Digest,
    ident::Key,
    limits::{OBJECT_LIMIT_BYTES, SCAN_PAGE_MAX, SIBLING_COUNT_MAX},
    merkle::branch::ItemHash,
    replica::{
        Done, Replica,
        hints::{self, HintFor},
        rules::{HintRule, MergeRule, TreeRule},
        startup,
        tree::{self, Buckets},
    },
    ring::token::{self, Partition, PartitionCount, Token},
    store::{
        ReadTxn, StoreError, Table, Walk, WriteTxn,
        record::{self, ENVELOPE_BYTES},
        schema::{self, RowKey},
    },
    wire::{client::Cursor, exchange::Item},
};

/// Most rows that one page of a scan looks at, so that a prefix which matches nothing costs bounded work.
const ROWS_PER_PAGE_MAX: usize = 10 * SCAN_PAGE_MAX;

/// Why a client's write was refused. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WriteRefused {
    /// The key would have too many siblings.
    #[error(
        "the key would have {count} siblings, the limit is {SIBLING_COUNT_MAX}; read it and write with the context"
    )]
    TooManySiblings {
        /// How many.
        count: usize,
    },
    /// The object would grow too large.
    #[error(
        "the key with all its siblings would take {actual_bytes} bytes, the limit is {OBJECT_LIMIT_BYTES}; read it and \
         write with the context"
    )]
    ObjectTooLarge {
        /// Its size.
        actual_bytes: usize,
    },
    /// The write would have been kept as a hint, and no more of them are kept.
    #[error("no more hints are kept here: {limit_bytes} bytes are the limit; another node may have room")]
    HintsFull {
        /// The bound that was reached.
        limit_bytes: u64,
    },
}

/// Where an object is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Among the node's own data: it is in the key's row.
    Own,
    /// Apart from it, for a member of the row that cannot be reached.
    Hint(HintFor),
}

impl Place {
    fn row_of(&self, key: &Key, rule: HintRule) -> (Table, RowKey) {
        let token = Token::of(key).0;
        match self {
            Place::Hint(hint) if rule != HintRule::AmongObjects => {
                (Table::Hints, schema::hint_row(&hint.target, token, key))
            }
            Place::Own | Place::Hint(_) => (Table::Objects, schema::object_row(token, key)),
        }
    }
}

/// Keys of one page, in the order of the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPage {
    /// Keys with at least one visible sibling.
    pub keys: Vec<Key>,
    /// Where to go on; nothing at the end.
    pub next: Option<Cursor>,
}

/// What the record of an object or of a hint holds.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) object: Object,
    pub(crate) local: Local,
}

/// What is held in a row, or the beginning of it.
struct Held {
    object: Object,
    local: Local,
    /// The stored record, damaged or not; none when there is none.
    stored: Option<Stored>,
}

/// What there was of a record before it is written anew.
#[derive(Clone, Copy)]
struct Stored {
    bytes: usize,
    is_damaged: bool,
    /// What the tree knows it by, unless it is damaged.
    hash: Option<ItemHash>,
}

/// The object and local record of `key`, if there are any that are whole.
pub fn load(txn: &impl ReadTxn, key: &Key, damaged: &mut u64) -> Result<Option<(Object, Local)>, StoreError> {
    let row = schema::object_row(Token::of(key).0, key);
    let Some(sealed) = txn.get(Table::Objects, row.as_bytes())? else { return Ok(None) };
    let record = decode(Table::Objects, row.as_bytes(), sealed);
    *damaged += u64::from(record.is_none());
    Ok(record.map(|record| (record.object, record.local)))
}

/// Coordinates a client's write at `place`: drops what the context covers, and mints a dot for the new value if there is
/// one.
///
/// A retry whose sibling is still there changes nothing.
pub fn write(
    txn: &mut impl WriteTxn,
    place: &Place,
    key: &Key,
    context: &Seen,
    new: Option<NewValue>,
    replica: &mut Replica,
    now: WallTime,
) -> Result<Done, StoreError> {
    let (table, row) = place.row_of(key, replica.rules.hints);
    let Held { mut object, mut local, stored } = hold(txn, table, &row, now, &mut replica.damaged)?;
    let seen = match new {
        Some(new) => {
            if let Some(dot) = object.sibling_of(new.op).map(|sibling| sibling.dot) {
                let seen = object.context_after_put(context, dot);
                return Ok(Done::Written { object, seen });
            }
            let mut epochs = startup::load_epochs(txn)?;
            let before = epochs;
            epochs.rule = replica.rules.epochs;
            let actor = epochs.actor_for(replica.actor_node, &mut local, &object, context, &mut replica.life);
            let dot = object.put(context, actor, new);
            if let Err(refused) = check_limits(&object) {
                return Ok(Done::Refused(refused));
            }
            startup::save_epochs_if_changed(txn, &before, &epochs)?;
            object.context_after_put(context, dot)
        }
        None => {
            object.delete(context);
            context.clone()
        }
    };
    if object == Object::default() && stored.is_none() && *place == Place::Own {
        // What was never written leaves nothing behind when it is deleted: no merge would carry it to anybody.
        return Ok(Done::Written { object, seen });
    }
    let kept = Kept { object: &object, local, by: By::Write };
    match save(txn, (place, key), (table, &row), stored, kept, replica)? {
        Ok(()) => Ok(Done::Written { object, seen }),
        Err(refused) => Ok(Done::Refused(refused)),
    }
}

/// Merges another replica's object into what is held at `place`. Never refused for the size or number of siblings: that
/// would lose acknowledged writes. A hint can be refused, where no more of them are kept.
pub fn merge(
    txn: &mut impl WriteTxn,
    place: &Place,
    key: &Key,
    incoming: Object,
    replica: &mut Replica,
    now: WallTime,
) -> Result<Done, StoreError> {
    match merge_at(txn, place, key, incoming, replica, now)? {
        Ok(_) => Ok(Done::Merged),
        Err(refused) => Ok(Done::Refused(refused)),
    }
}

/// Merges what a co-owner has sent, item by item. Tells how many of them changed anything, and what the sender lacks of them
/// or has otherwise.
pub fn merge_all(
    txn: &mut impl WriteTxn,
    items: Vec<Item>,
    replica: &mut Replica,
    now: WallTime,
) -> Result<Done, StoreError> {
    let (mut changed, mut left) = (0, Vec::new());
    for Item { key, object } in items {
        if replica.rules.trees == TreeRule::ExchangesOverwrite {
            remove(txn, &mut replica.buckets, &key)?;
        }
        let merged = merge_at(txn, &Place::Own, &key, object.clone(), replica, now)?;
        let merged = merged.expect("only hints are refused");
        changed += u64::from(merged.changed);
        if merged.object != object {
            left.push(Item { key, object: merged.object });
        }
    }
    Ok(Done::MergedAll { changed, left })
}

/// What there is after a merge.
struct Merged {
    object: Object,
    changed: bool,
}

fn merge_at(
    txn: &mut impl WriteTxn,
    place: &Place,
    key: &Key,
    incoming: Object,
    replica: &mut Replica,
    now: WallTime,
) -> Result<Result<Merged, WriteRefused>, StoreError> {
    let (table, row) = place.row_of(key, replica.rules.hints);
    let Held { mut object, mut local, stored } = hold(txn, table, &row, now, &mut replica.damaged)?;
    let mut epochs = startup::load_epochs(txn)?;
    let before = epochs;
    epochs.rule = replica.rules.epochs;
    epochs.note_merge(replica.actor_node, &mut local, &object, incoming.clock(), &mut replica.life);
    startup::save_epochs_if_changed(txn, &before, &epochs)?;
    let mut changed = object.merge(incoming);
    if replica.rules.merges == MergeRule::LastWriteWins {
        object.keep_youngest();
    }
    // A hint is kept even of an object that was never written: its holder answers for it.
    changed |= stored.is_none() && matches!(place, Place::Hint(_));
    if changed {
        let kept = Kept { object: &object, local, by: By::Merge };
        if let Err(refused) = save(txn, (place, key), (table, &row), stored, kept, replica)? {
            return Ok(Err(refused));
        }
    }
    Ok(Ok(Merged { object, changed }))
}

/// Takes the row of `key` away, and its item out of the tree.
fn remove(txn: &mut impl WriteTxn, buckets: &mut Buckets, key: &Key) -> Result<(), StoreError> {
    let token = Token::of(key);
    let row = schema::object_row(token.0, key);
    let hash = txn.get(Table::Objects, row.as_bytes())?.and_then(tree::stored_hash);
    if txn.delete(Table::Objects, row.as_bytes())? {
        tree::note_change(txn, buckets, token, hash, None)?;
    }
    Ok(())
}

/// Takes away rows of a partition, its items out of the tree with them, and what this node knows of their epochs: should it
/// ever hold them again, it mints under a new one.
pub fn drop_some(
    txn: &mut impl WriteTxn,
    buckets: &mut Buckets,
    partition: Partition,
    partitions: PartitionCount,
    limit: usize,
) -> Result<Done, StoreError> {
    let mut rows: Vec<(Token, Vec<u8>, Option<ItemHash>)> = Vec::new();
    let mut is_over = true;
    let start = schema::object_range_start(partition.first_token(partitions).0);
    txn.visit(Table::Objects, &start, &mut |row, sealed| {
        let Some((token, _)) = schema::parse_object_row(row) else { return Ok(Walk::On) };
        if Token(token).partition(partitions) != partition {
            return Ok(Walk::Stop);
        }
        if rows.len() == limit {
            is_over = false;
            return Ok(Walk::Stop);
        }
        rows.push((Token(token), row.to_vec(), tree::stored_hash(sealed)));
        Ok(Walk::On)
    })?;
    for (token, row, hash) in &rows {
        txn.delete(Table::Objects, row)?;
        tree::note_change(txn, buckets, *token, *hash, None)?;
    }
    Ok(Done::Dropped { rows: rows.len() as u64, is_over })
}

/// One page of the keys that begin with `prefix` and have a visible sibling.
///
/// A prefix with a complete `{tag}` touches only the rows of that tag, in the order of the keys; without one all rows
/// are looked at, in the order of their tokens. Looks at no more than 10 000 rows a page.
pub fn list_keys(
    txn: &impl ReadTxn,
    prefix: &[u8],
    after: Option<&Cursor>,
    limit: usize,
    now: WallTime,
    damaged: &mut u64,
) -> Result<KeyPage, StoreError> {
    let tag = token::complete_tag(prefix).map(Token::of_routing_part);
    let start = match (after, tag) {
        (Some(cursor), _) => cursor.0.clone(),
        (None, Some(token)) => [&schema::object_range_start(token.0), prefix].concat(),
        (None, None) => Vec::new(),
    };
    let mut keys = Vec::new();
    let mut next = None;
    let mut seen = 0;
    let broken = Cell::new(0);
    txn.visit(Table::Objects, &start, &mut |row, sealed| {
        let Some((token, key)) = schema::parse_object_row(row) else {
            broken.set(broken.get() + 1);
            return Ok(Walk::On);
        };
        if tag.is_some_and(|tag| tag.0 != token || !key.starts_with(prefix)) {
            return Ok(Walk::Stop);
        }
        if keys.len() == limit.min(SCAN_PAGE_MAX) || seen == ROWS_PER_PAGE_MAX {
            next = Some(Cursor(row.to_vec()));
            return Ok(Walk::Stop);
        }
        seen += 1;
        if key.starts_with(prefix) {
            match (Key::new(key), decode(Table::Objects, row, sealed)) {
                (Ok(key), Some(record)) if !record.object.visible(now).is_empty() => keys.push(key),
                (Ok(_), Some(_)) => {}
                (Err(_), _) | (_, None) => broken.set(broken.get() + 1),
            }
        }
        Ok(Walk::On)
    })?;
    *damaged += broken.get();
    Ok(KeyPage { keys, next })
}

/// The parts of a record, as they are stored.
pub(crate) struct Parts<'a> {
    /// What the tree knows the item by; nothing when it is kept out of it.
    pub(crate) hash: Option<ItemHash>,
    /// Digest of the object.
    pub(crate) digest: &'a Digest,
    /// Its canonical bytes.
    pub(crate) canonical: &'a [u8],
    pub(crate) local: Local,
}

/// The record in a row of objects or hints, if it is whole.
pub(crate) fn decode(table: Table, row: &[u8], sealed: &[u8]) -> Option<Record> {
    let (head, canonical, local) = split(table, sealed)?;
    record::open_over(table, row, sealed, &[head, &Object::digest_of(canonical).0, local]).ok()?;
    let object = cbor4ii::serde::from_slice(canonical).ok()?;
    let local = cbor4ii::serde::from_slice(local).ok()?;
    Some(Record { object, local })
}

/// The record of these parts: the hash of the item, if the table is in the tree; the length of the object's bytes; they; and
/// the local record. The checksum covers the digest of the object in place of its bytes, for that is there already.
pub(crate) fn encode(table: Table, row: &[u8], parts: &Parts<'_>) -> Vec<u8> {
    let Parts { hash, digest, canonical, local } = parts;
    let local = cbor4ii::serde::to_vec(Vec::new(), local).expect("encoding into memory cannot fail");
    let mut head = hash.unwrap_or(ItemHash(0)).0.to_be_bytes()[..hash_bytes(table)].to_vec();
    head.extend(u32::try_from(canonical.len()).expect("a frame bounds an object").to_be_bytes());
    record::seal_over(table, row, &[&head, &digest.0, &local], &[&head, canonical, &local])
}

/// Head, object and local record of a stored record, nothing of it believed yet.
fn split(table: Table, sealed: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let body = sealed.get(ENVELOPE_BYTES..)?;
    let (head, rest) = body.split_at_checked(hash_bytes(table) + 4)?;
    let length = u32::from_be_bytes(*head.last_chunk()?);
    let (canonical, local) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((head, canonical, local))
}

/// How many bytes of a body are the hash of its item.
fn hash_bytes(table: Table) -> usize {
    if table == Table::Objects { tree::ITEM_HASH_BYTES } else { 0 }
}

fn hold(txn: &impl ReadTxn, table: Table, row: &RowKey, now: WallTime, damaged: &mut u64) -> Result<Held, StoreError> {
    let new = Local { own_epoch: None, since: now };
    let Some(sealed) = txn.get(table, row.as_bytes())? else {
        return Ok(Held { object: Object::default(), local: new, stored: None });
    };
    let record = decode(table, row.as_bytes(), sealed);
    *damaged += u64::from(record.is_none());
    let stored = Stored { bytes: sealed.len(), is_damaged: record.is_none(), hash: tree::stored_hash(sealed) };
    let Record { object, local } = record.unwrap_or_else(|| Record { object: Object::default(), local: new });
    Ok(Held { object, local, stored: Some(stored) })
}

/// What is to be kept of a key.
struct Kept<'a> {
    object: &'a Object,
    local: Local,
    by: By,
}

/// How an object came about.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Write,
    Merge,
}

fn save(
    txn: &mut impl WriteTxn,
    (place, key): (&Place, &Key),
    (table, row): (Table, &RowKey),
    stored: Option<Stored>,
    Kept { object, local, by }: Kept<'_>,
    replica: &mut Replica,
) -> Result<Result<(), WriteRefused>, StoreError> {
    let rule = replica.rules.trees;
    let is_left_out = rule == TreeRule::NoTree || rule == TreeRule::WithoutTombstones && object.is_tombstone();
    let is_item = table == Table::Objects && !is_left_out;
    let canonical = object.canonical_bytes();
    let digest = Object::digest_of(&canonical);
    let hash = is_item.then(|| replica.item_key.hash(key, &digest));
    let sealed = encode(table, row.as_bytes(), &Parts { hash, digest: &digest, canonical: &canonical, local });
    match place {
        Place::Hint(hint) if table == Table::Hints => {
            let before = stored.map(|stored| stored.bytes);
            if let Err(refused) = hints::count_in(txn, hint, before, sealed.len(), local.since, &replica.limits)? {
                return Ok(Err(refused));
            }
        }
        Place::Hint(_) | Place::Own => {}
    }
    txn.put(table, row.as_bytes(), &sealed)?;
    if table != Table::Objects || rule == TreeRule::MergesForgotten && by == By::Merge {
        return Ok(Ok(()));
    }
    let token = Token::of(key);
    match stored {
        Some(Stored { is_damaged: true, .. }) => tree::note_loss(txn, &mut replica.buckets, token)?,
        Some(Stored { hash: before, .. }) => tree::note_change(txn, &mut replica.buckets, token, before, hash)?,
        None => tree::note_change(txn, &mut replica.buckets, token, None, hash)?,
    }
    Ok(Ok(()))
}

fn check_limits(object: &Object) -> Result<(), WriteRefused> {
    let count = object.siblings().len();
    if count > SIBLING_COUNT_MAX {
        return Err(WriteRefused::TooManySiblings { count });
    }
    let actual_bytes = object.size_bytes();
    if actual_bytes > OBJECT_LIMIT_BYTES {
        return Err(WriteRefused::ObjectTooLarge { actual_bytes });
    }
    Ok(())
}
