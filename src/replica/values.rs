//! The objects of a replica: write, merge, read, list.
//!
//! A record is sealed with a checksum over its row. One that does not match reads as missing: it is never served and
//! never sent, and a write or merge on top of it starts anew, under a fresh epoch because its local record is gone.

use std::cell::Cell;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    causality::{
        epochs::Local,
        seen::Seen,
        siblings::{NewValue, Object},
    },
    clock::WallTime,
    ident::Key,
    limits::{OBJECT_LIMIT_BYTES, SCAN_PAGE_MAX, SIBLING_COUNT_MAX},
    replica::{Done, MergeRule, Replica, startup},
    ring::token::{self, Token},
    store::{
        ReadTxn, StoreError, Table, Walk, WriteTxn, record,
        schema::{self, RowKey},
    },
    wire::client::Cursor,
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
}

/// Keys of one page, in the order of the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPage {
    /// Keys with at least one visible sibling.
    pub keys: Vec<Key>,
    /// Where to go on; nothing at the end.
    pub next: Option<Cursor>,
}

/// The body of an object's record.
#[derive(Serialize, Deserialize)]
struct Record {
    object: Object,
    local: Local,
}

/// The object and local record of `key`, if there are any that are whole.
pub fn load(txn: &impl ReadTxn, key: &Key, damaged: &mut u64) -> Result<Option<(Object, Local)>, StoreError> {
    let row = row_of(key);
    let Some(sealed) = txn.get(Table::Objects, row.as_bytes())? else { return Ok(None) };
    let record = decode(row.as_bytes(), sealed);
    *damaged += u64::from(record.is_none());
    Ok(record.map(|record| (record.object, record.local)))
}

/// What is held under `key`, or the beginning of it.
fn load_or_new(txn: &impl ReadTxn, key: &Key, now: WallTime, damaged: &mut u64) -> Result<(Object, Local), StoreError> {
    let found = load(txn, key, damaged)?;
    Ok(found.unwrap_or_else(|| (Object::default(), Local { own_epoch: None, since: now })))
}

/// Coordinates a client's write: drops what the context covers, and mints a dot for the new value if there is one.
///
/// A retry whose sibling is still there changes nothing.
pub fn write(
    txn: &mut impl WriteTxn,
    key: &Key,
    context: &Seen,
    new: Option<NewValue>,
    replica: &mut Replica,
    now: WallTime,
) -> Result<Done, StoreError> {
    let (mut object, mut local) = load_or_new(txn, key, now, &mut replica.damaged)?;
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
    save(txn, key, &object, local)?;
    Ok(Done::Written { object, seen })
}

/// Merges another replica's object into ours. Never refused for size or number: that would lose acknowledged writes.
pub fn merge(
    txn: &mut impl WriteTxn,
    key: &Key,
    incoming: Object,
    replica: &mut Replica,
    now: WallTime,
) -> Result<(), StoreError> {
    let (mut object, mut local) = load_or_new(txn, key, now, &mut replica.damaged)?;
    let mut epochs = startup::load_epochs(txn)?;
    let before = epochs;
    epochs.rule = replica.rules.epochs;
    epochs.note_merge(replica.actor_node, &mut local, &object, incoming.clock());
    startup::save_epochs_if_changed(txn, &before, &epochs)?;
    let changed = match replica.rules.merges {
        MergeRule::KeepSiblings => object.merge(incoming),
        MergeRule::LastWriteWins => {
            let changed = object.merge(incoming);
            object.keep_youngest();
            changed
        }
    };
    if changed { save(txn, key, &object, local) } else { Ok(()) }
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
            match (Key::new(key), decode(row, sealed)) {
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

fn row_of(key: &Key) -> RowKey {
    schema::object_row(Token::of(key).0, key)
}

fn decode(row: &[u8], sealed: &[u8]) -> Option<Record> {
    let body = record::open(Table::Objects, row, sealed).ok()?;
    cbor4ii::serde::from_slice(body).ok()
}

fn save(txn: &mut impl WriteTxn, key: &Key, object: &Object, local: Local) -> Result<(), StoreError> {
    /// [`Record`] without owning its object.
    #[derive(Serialize)]
    struct RecordRef<'a> {
        object: &'a Object,
        local: Local,
    }
    let row = row_of(key);
    let body =
        cbor4ii::serde::to_vec(Vec::new(), &RecordRef { object, local }).expect("encoding into memory cannot fail");
    txn.put(Table::Objects, row.as_bytes(), &record::seal(Table::Objects, row.as_bytes(), &body))
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
