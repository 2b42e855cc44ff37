//! The asked side: what there is below a branch, and the items that are wanted of it.
//!
//! It remembers nothing from one question to the next: each step is answered from one committed state, with its own
//! bounds on bytes and rows. What does not fit is left for the asker to ask again.

use std::collections::BTreeMap;

use crate::{
    ident::Key,
    merkle::{
        Comparison, LEAF_COUNT_MAX, LEAF_DEPTH, Short, Source,
        branch::{Branch, BranchDigest},
        packed::{self, Below, BranchQuestion, Compared, IDS_COUNT_MAX},
    },
    store::{StoreError, Walk},
    wire::{
        client::Cursor,
        exchange::{Item, Packed, Root, StepAnswer},
    },
};

/// About how many bytes a step or its answer may have, beside one object.
pub const STEP_BYTES_TARGET: usize = 4 << 20;

/// About how many rows one step may look at, on either side, beside those of one branch.
pub const STEP_ROWS_TARGET: u64 = 1 << 22;

/// Items of a branch with their short names; a name that two share stands for both.
pub(crate) type Named = BTreeMap<Short, Vec<Key>>;

/// Items read for the other side, until there are enough bytes of them.
#[derive(Debug, Default)]
pub(crate) struct Parcel {
    pub(crate) items: Vec<Item>,
    pub(crate) bytes: usize,
}

impl Parcel {
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= STEP_BYTES_TARGET
    }

    /// Adds the item of `key`, read anew. One that is gone or damaged is left out: there is nothing to send.
    pub(crate) fn add(&mut self, source: &mut impl Source, key: Key) -> Result<(), StoreError> {
        if let Some(object) = source.object(&key)? {
            self.bytes += key.as_bytes().len() + object.size_bytes();
            self.items.push(Item { key, object });
        }
        Ok(())
    }
}

/// Whether two sides that begin at `branch` are in step; if not, what is here.
pub fn answer_opening(
    source: &mut impl Source,
    comparison: &Comparison,
    branch: &Branch,
    theirs: &Root,
) -> Result<Option<Below>, StoreError> {
    let digest = source.digest(branch)?;
    if comparison.salt.root(&digest) == theirs.0 {
        return Ok(None);
    }
    below(source, comparison, branch, &digest).map(Some)
}

/// Answers the questions of one step: all of them, or as many from the first on as fit.
pub fn answer_step(
    source: &mut impl Source,
    comparison: &Comparison,
    questions: &[BranchQuestion],
) -> Result<StepAnswer, StoreError> {
    let rows_before = source.rows_read();
    let mut compared: Vec<Compared> = Vec::new();
    let mut compared_bytes = 0;
    let mut parcel = Parcel::default();
    let (mut answered, mut next) = (0, None);
    for question in questions {
        let rows = source.rows_read() - rows_before;
        if compared_bytes + parcel.bytes >= STEP_BYTES_TARGET || rows >= STEP_ROWS_TARGET {
            break;
        }
        match question {
            BranchQuestion::Compare { branch, children } => {
                let mine = source.children(branch)?;
                let mut differing = Vec::new();
                for index in comparison.differing(&mine, children) {
                    let below = below(source, comparison, &branch.child(index), &mine[index])?;
                    compared_bytes += size_of(&below);
                    differing.push((u8::try_from(index).expect("a digit"), below));
                }
                compared_bytes += 2;
                compared.push(differing);
            }
            BranchQuestion::Want { branch, ids } => {
                let mine = named(source, comparison, branch)?;
                for key in ids.iter().filter_map(|id| mine.get(id)).flatten() {
                    parcel.add(source, key.clone())?;
                }
            }
            BranchQuestion::WantAll { branch, after } => {
                next = page(source, comparison, (branch, after.as_ref()), &[], &mut parcel)?;
                if next.is_some() {
                    break;
                }
            }
        }
        answered += 1;
    }
    let branches = Packed(packed::write_answers(&compared));
    Ok(StepAnswer { answered, branches, items: parcel.items, next })
}

/// What is below `branch`, which comes to `digest`.
pub(crate) fn below(
    source: &mut impl Source,
    comparison: &Comparison,
    branch: &Branch,
    digest: &BranchDigest,
) -> Result<Below, StoreError> {
    if digest.count > LEAF_COUNT_MAX && branch.depth() < LEAF_DEPTH {
        return Ok(Below::Children(comparison.listing(&source.children(branch)?)));
    }
    let mut ids = Vec::new();
    source.items(branch, None, &mut |_, _, hash| {
        ids.push(comparison.salt.item(hash));
        if ids.len() < IDS_COUNT_MAX { Walk::On } else { Walk::Stop }
    })?;
    Ok(Below::Ids(ids))
}

/// All items of `branch`.
pub(crate) fn named(source: &mut impl Source, comparison: &Comparison, branch: &Branch) -> Result<Named, StoreError> {
    let mut named = Named::new();
    source.items(branch, None, &mut |_, key, hash| {
        if let Ok(key) = Key::new(key) {
            named.entry(comparison.salt.item(hash)).or_default().push(key);
        }
        Walk::On
    })?;
    Ok(named)
}

/// Fills `parcel` with items of a branch from a row on, leaving out those called as in `except`. Returns where to go on.
pub(crate) fn page(
    source: &mut impl Source,
    comparison: &Comparison,
    (branch, after): (&Branch, Option<&Cursor>),
    except: &[Short],
    parcel: &mut Parcel,
) -> Result<Option<Cursor>, StoreError> {
    let mut after = after.cloned();
    loop {
        // Rows are looked at a few at a time: what they hold can only be read once the walk is over.
        let (mut keys, mut next) = (Vec::new(), None);
        source.items(branch, after.as_ref(), &mut |row, key, hash| {
            if keys.len() == PAGE_KEYS_MAX {
                next = Some(Cursor(row.to_vec()));
                return Walk::Stop;
            }
            if let Ok(key) = Key::new(key)
                && !except.contains(&comparison.salt.item(hash))
            {
                keys.push((Cursor(row.to_vec()), key));
            }
            Walk::On
        })?;
        for (row, key) in keys {
            if parcel.is_full() {
                return Ok(Some(row));
            }
            parcel.add(source, key)?;
        }
        if next.is_none() {
            return Ok(None);
        }
        after = next;
    }
}

/// Keys that one walk of [`page`] gathers.
const PAGE_KEYS_MAX: usize = 256;

fn size_of(below: &Below) -> usize {
    match below {
        Below::Ids(ids) => 1 + 4 * ids.len(),
        Below::Children(listing) => 3 + 4 * listing.iter().flatten().count(),
    }
}
