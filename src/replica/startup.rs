//! What a node must know of itself before it serves: its epochs, its boot number, its history.
//!
//! A start after an unclean stop invalidates all epochs, so that a coordinator may send a write to other replicas
//! while its own commit is under way: if the commit is lost, the dot is never minted again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    causality::epochs::Epochs,
    ident::NodeId,
    membership::change::Change,
    replica::hints,
    ring::token::Partition,
    store::{
        ReadTxn, StoreError, Table, Walk, WriteTxn, record,
        schema::{self, FORMAT_VERSION, MetaRow},
    },
};

/// What a store told its node at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Number of this start: one higher than that of the last.
    pub boot: u64,
    /// The last stop was clean. True for a new store.
    pub clean: bool,
    /// The membership history, in no particular order.
    pub changes: Vec<Change>,
    /// The latest life seen of each peer: its boot number, and the instance that told it.
    pub peer_lives: BTreeMap<NodeId, (u64, u64)>,
    /// For whom hints are kept.
    pub hint_targets: Vec<NodeId>,
    /// Of what this store may have lost something.
    pub in_doubt: InDoubt,
}

/// Of which partitions a store may have lost what it once acknowledged, having been wiped or restored. Until it has been
/// compared with enough co-owners, its node answers for them as one that cannot know.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum InDoubt {
    /// Of none.
    #[default]
    Nothing,
    /// Of all, whichever they are.
    Everything,
    /// Of these, ascending.
    Of(Vec<Partition>),
}

/// Begins a start of `node` on this store. Commit before anything is answered.
///
/// A store of another node or another format is `Damaged`, with the reason.
pub fn begin(txn: &mut impl WriteTxn, node: &NodeId) -> Result<Recovered, StoreError> {
    claim(txn, node)?;
    let clean = load_meta::<bool>(txn, MetaRow::CleanStop)?.unwrap_or(true);
    save_meta(txn, MetaRow::CleanStop, &false)?;
    let boot = load_boot(txn)?.saturating_add(1);
    save_meta(txn, MetaRow::BootNumber, &boot)?;
    if !clean {
        invalidate_epochs(txn)?;
    }
    Ok(Recovered {
        boot,
        clean,
        changes: load_rows(txn, Table::History)?,
        peer_lives: load_peer_lives(txn)?,
        hint_targets: hints::totals(txn)?.into_iter().map(|(target, _)| target).collect(),
        in_doubt: load_meta(txn, MetaRow::InDoubt)?.unwrap_or_default(),
    })
}

/// Marks a clean stop: nothing was sent that is not committed. The last transaction of a process.
pub fn end(txn: &mut impl WriteTxn) -> Result<(), StoreError> {
    save_meta(txn, MetaRow::CleanStop, &true)
}

/// Writes a row as it is.
pub(crate) fn probe(txn: &mut impl WriteTxn) -> Result<(), StoreError> {
    save_meta(txn, MetaRow::CleanStop, &false)
}

/// Makes every epoch drawn so far invalid, whether this store remembers it or not: each key gets a fresh one at its next
/// write.
pub fn invalidate_epochs(txn: &mut impl WriteTxn) -> Result<(), StoreError> {
    let mut epochs = load_epochs(txn)?;
    epochs.invalidate_after_loss(load_boot(txn)?);
    save_epochs(txn, &epochs)
}

pub(crate) fn load_epochs(txn: &impl ReadTxn) -> Result<Epochs, StoreError> {
    Ok(load_meta(txn, MetaRow::Epochs)?.unwrap_or_default())
}

fn save_epochs(txn: &mut impl WriteTxn, epochs: &Epochs) -> Result<(), StoreError> {
    save_meta(txn, MetaRow::Epochs, epochs)
}

pub(crate) fn save_epochs_if_changed(
    txn: &mut impl WriteTxn,
    before: &Epochs,
    after: &Epochs,
) -> Result<(), StoreError> {
    if (before.next, before.floor) == (after.next, after.floor) { Ok(()) } else { save_epochs(txn, after) }
}

pub(crate) fn save_change(txn: &mut impl WriteTxn, change: &Change) -> Result<(), StoreError> {
    let row = schema::history_row(&change.author, change.sequence);
    let known: Option<Change> = load_row(txn, Table::History, row.as_bytes())?;
    let digest = change.digest();
    let row = match known.map(|known| known.digest()) {
        Some(known) if known != digest => schema::forked_history_row(&change.author, change.sequence, &digest),
        Some(_) | None => row,
    };
    save_row(txn, Table::History, row.as_bytes(), change)
}

pub(crate) fn save_peer_life(txn: &mut impl WriteTxn, node: &NodeId, life: (u64, u64)) -> Result<(), StoreError> {
    save_row(txn, Table::Peers, schema::peer_row(node).as_bytes(), &(*node, life))
}

pub(crate) fn raise_boot(txn: &mut impl WriteTxn, seen: u64) -> Result<(), StoreError> {
    let boot = load_boot(txn)?.max(seen.saturating_add(1));
    save_meta(txn, MetaRow::BootNumber, &boot)?;
    save_in_doubt(txn, &InDoubt::Everything)?;
    invalidate_epochs(txn)
}

pub(crate) fn save_in_doubt(txn: &mut impl WriteTxn, in_doubt: &InDoubt) -> Result<(), StoreError> {
    save_meta(txn, MetaRow::InDoubt, in_doubt)
}

/// Checks that the store is in our format and of this node, and makes a new store so.
fn claim(txn: &mut impl WriteTxn, node: &NodeId) -> Result<(), StoreError> {
    match load_meta::<u32>(txn, MetaRow::FormatVersion)? {
        None => {
            save_meta(txn, MetaRow::FormatVersion, &FORMAT_VERSION)?;
            save_meta(txn, MetaRow::Owner, node)
        }
        Some(FORMAT_VERSION) => match load_meta::<NodeId>(txn, MetaRow::Owner)? {
            Some(owner) if owner == *node => Ok(()),
            owner => Err(StoreError::Damaged {
                detail: format!(
                    "it belongs to {owner:?}, but identity.key is that of {node:?}; put the right key back"
                ),
            }),
        },
        Some(other) => Err(StoreError::Damaged {
            detail: format!("it has format {other}, this program knows format {FORMAT_VERSION}"),
        }),
    }
}

fn load_boot(txn: &impl ReadTxn) -> Result<u64, StoreError> {
    Ok(load_meta(txn, MetaRow::BootNumber)?.unwrap_or(0))
}

fn load_meta<T: DeserializeOwned>(txn: &impl ReadTxn, row: MetaRow) -> Result<Option<T>, StoreError> {
    let key = row.key();
    txn.get(Table::Meta, key)?.map(|sealed| decode(Table::Meta, key, sealed)).transpose()
}

fn save_meta<T: Serialize>(txn: &mut impl WriteTxn, row: MetaRow, body: &T) -> Result<(), StoreError> {
    save_row(txn, Table::Meta, row.key(), body)
}

pub(crate) fn save_row<T: Serialize>(
    txn: &mut impl WriteTxn,
    table: Table,
    key: &[u8],
    body: &T,
) -> Result<(), StoreError> {
    let body = cbor4ii::serde::to_vec(Vec::new(), body).expect("encoding into memory cannot fail");
    txn.put(table, key, &record::seal(table, key, &body))
}

fn load_row<T: DeserializeOwned>(txn: &impl ReadTxn, table: Table, key: &[u8]) -> Result<Option<T>, StoreError> {
    txn.get(table, key)?.map(|sealed| decode(table, key, sealed)).transpose()
}

fn load_rows<T: DeserializeOwned>(txn: &impl ReadTxn, table: Table) -> Result<Vec<T>, StoreError> {
    let mut rows = Vec::new();
    txn.visit(table, &[], &mut |key, sealed| {
        rows.push(decode(table, key, sealed)?);
        Ok(Walk::On)
    })?;
    Ok(rows)
}

fn load_peer_lives(txn: &impl ReadTxn) -> Result<BTreeMap<NodeId, (u64, u64)>, StoreError> {
    Ok(load_rows::<(NodeId, (u64, u64))>(txn, Table::Peers)?.into_iter().collect())
}

pub(crate) fn decode<T: DeserializeOwned>(table: Table, key: &[u8], sealed: &[u8]) -> Result<T, StoreError> {
    let damaged = |reason: String| StoreError::Damaged { detail: format!("row {}: {reason}", key.escape_ascii()) };
    let body = record::open(table, key, sealed).map_err(|damage| damaged(damage.to_string()))?;
    cbor4ii::serde::from_slice(body).map_err(|error| damaged(error.to_string()))
}
