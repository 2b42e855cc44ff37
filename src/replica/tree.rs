//! The Merkle tree of a replica: kept in step with its objects, read for comparison, checked and mended.
//!
//! Stored are the digests of **buckets**: the 4 096 branches of three digits, each one row, changed by `new - old` in the
//! transaction that changes an object. Branches above them are sums of buckets; those below come from scanning the rows of
//! one bucket, each of which begins with the hash of its item, so that nothing is hashed again. A change of ring touches
//! none of it.
//!
//! **Why** buckets of a fixed size: 4 096 rows of some 45 bytes are few enough to be summed in a fraction of a millisecond,
//! and at ten million keys a bucket is still scanned in one; splitting and merging them by size would save pages of small
//! stores only, and is one more thing that can go wrong.
//!
//! What a bucket comes to is believed as far as its checksum and the sessions of exchange go: where a record is met that is
//! damaged, or a digest that leads to nothing, [`mend`] recomputes that bucket from its objects. A damaged record is then
//! gone, and comes back from a co-owner.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use crate::{
    causality::siblings::Object,
    ident::Key,
    merkle::{
        ShowItem, Source,
        branch::{Branch, BranchDigest, FANOUT, ItemHash, ItemKey, Position},
    },
    replica::{StoreCounts, values},
    ring::{
        partition_set::PartitionSet,
        token::{Partition, Token},
    },
    store::{
        ReadTxn, StoreError, Table, Walk, WriteTxn,
        record::{self, ENVELOPE_BYTES},
        schema,
    },
    wire::client::Cursor,
};

/// How many digits the positions of one bucket share.
const BUCKET_DEPTH: u8 = 3;

/// How many buckets there are.
pub const BUCKET_COUNT: u16 = 1 << (4 * BUCKET_DEPTH as u16);

/// Bytes of the item's hash, with which the body of an object's record begins.
pub(crate) const ITEM_HASH_BYTES: usize = 16;

/// What was found in one bucket, and put right if that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BucketCheck {
    /// Records looked at.
    pub records: u64,
    /// Of them, those that do not match their checksum.
    pub damaged: u64,
    /// Of them, those whose hash is not that of their object.
    pub misnamed: u64,
    /// The digest of the bucket was not the sum of its items.
    pub is_sum_wrong: bool,
}

impl BucketCheck {
    /// Whether all is as it should be.
    pub fn is_sound(&self) -> bool {
        (self.damaged, self.misnamed, self.is_sum_wrong) == (0, 0, false)
    }
}

/// The bucket of a token.
pub fn bucket_of(token: Token) -> u16 {
    u16::try_from(token.0 >> (64 - 4 * u32::from(BUCKET_DEPTH))).expect("twelve bits")
}

/// The buckets that `branch` covers, or the one it lies in.
pub fn buckets_of(branch: &Branch) -> std::ops::RangeInclusive<u16> {
    let tokens = branch.tokens();
    bucket_of(Token(*tokens.start()))..=bucket_of(Token(*tokens.end()))
}

/// The hash with which the record of an object begins; nothing when it is too short for one, or when it was kept out of the
/// tree: then there are zeros.
pub(crate) fn stored_hash(sealed: &[u8]) -> Option<ItemHash> {
    let body = sealed.get(ENVELOPE_BYTES..)?;
    let hash = ItemHash(u128::from_be_bytes(*body.first_chunk::<ITEM_HASH_BYTES>()?));
    (hash != ItemHash(0)).then_some(hash)
}

/// An item in the bucket of `token` was `before`, and is `after`.
pub(crate) fn note_change(
    txn: &mut impl WriteTxn,
    token: Token,
    before: Option<ItemHash>,
    after: Option<ItemHash>,
) -> Result<(), StoreError> {
    let bucket = bucket_of(token);
    let row = schema::bucket_row(bucket);
    let stored = txn.get(Table::Trees, row.as_bytes())?.map(|sealed| open_bucket(row.as_bytes(), sealed));
    let mut digest = match stored {
        None => BranchDigest::default(),
        Some(Some(digest)) => digest,
        // The objects are changed already.
        Some(None) => return recount(txn, bucket),
    };
    before.into_iter().for_each(|hash| digest.remove(BranchDigest::of(hash)));
    after.into_iter().for_each(|hash| digest.add(BranchDigest::of(hash)));
    save_bucket(txn, bucket, digest)
}

/// Sums up the bucket of `token` anew: it held something whose hash nobody knows any more.
pub(crate) fn note_loss(txn: &mut impl WriteTxn, token: Token) -> Result<(), StoreError> {
    recount(txn, bucket_of(token))
}

/// Looks at every record of a bucket, hashes its object, and compares. Changes nothing.
pub(crate) fn check(txn: &impl ReadTxn, bucket: u16, item_key: &ItemKey) -> Result<BucketCheck, StoreError> {
    Ok(examine(txn, bucket, item_key)?.check)
}

/// The same, and puts right what is wrong: damaged records go, hashes and the digest of the bucket are made anew.
pub(crate) fn mend(txn: &mut impl WriteTxn, bucket: u16, item_key: &ItemKey) -> Result<BucketCheck, StoreError> {
    let Examined { check, digest, damaged, misnamed } = examine(txn, bucket, item_key)?;
    for row in damaged {
        txn.delete(Table::Objects, &row)?;
    }
    for (row, body) in misnamed {
        txn.put(Table::Objects, &row, &record::seal(Table::Objects, &row, &body))?;
    }
    if !check.is_sound() {
        save_bucket(txn, bucket, digest)?;
    }
    Ok(check)
}

/// What the partitions of `partitions` come to.
pub(crate) fn roots(
    txn: &impl ReadTxn,
    partitions: &PartitionSet,
) -> Result<Vec<(Partition, BranchDigest)>, StoreError> {
    let mut roots: BTreeMap<Partition, BranchDigest> =
        partitions.iter().map(|partition| (partition, BranchDigest::default())).collect();
    let mut tree = Tree::new(txn, partitions);
    tree.sum(&Branch::ROOT, &mut |token, digest| {
        roots.entry(token.partition(partitions.partitions())).or_default().add(digest);
    })?;
    Ok(roots.into_iter().collect())
}

struct Examined {
    check: BucketCheck,
    digest: BranchDigest,
    /// Rows that are to go.
    damaged: Vec<Vec<u8>>,
    /// Rows whose body begins with a wrong hash, and their right bodies.
    misnamed: Vec<(Vec<u8>, Vec<u8>)>,
}

fn examine(txn: &impl ReadTxn, bucket: u16, item_key: &ItemKey) -> Result<Examined, StoreError> {
    let (mut check, mut digest) = (BucketCheck::default(), BranchDigest::default());
    let (mut damaged, mut misnamed) = (Vec::new(), Vec::new());
    visit_bucket(txn, bucket, &mut |row, key, sealed| {
        check.records += 1;
        let record = values::decode(Table::Objects, row, sealed);
        let (Ok(key), Some(record)) = (Key::new(key), record) else {
            check.damaged += 1;
            damaged.push(row.to_vec());
            return;
        };
        let hash = item_key.hash(&key, &record.object);
        digest.add(BranchDigest::of(hash));
        if stored_hash(sealed) != Some(hash) {
            check.misnamed += 1;
            misnamed.push((row.to_vec(), values::encode(Table::Objects, hash, &record.object, record.local)));
        }
    })?;
    let row = schema::bucket_row(bucket);
    let stored = txn.get(Table::Trees, row.as_bytes())?.map(|sealed| open_bucket(row.as_bytes(), sealed));
    check.is_sum_wrong = stored.unwrap_or(Some(BranchDigest::default())) != Some(digest);
    Ok(Examined { check, digest, damaged, misnamed })
}

/// Shows the rows of a bucket: row, key, record.
fn visit_bucket(txn: &impl ReadTxn, bucket: u16, show: &mut dyn FnMut(&[u8], &[u8], &[u8])) -> Result<(), StoreError> {
    let start = schema::object_range_start(first_token(bucket).0);
    txn.visit(Table::Objects, &start, &mut |row, sealed| {
        match schema::parse_object_row(row) {
            Some((token, _)) if bucket_of(Token(token)) != bucket => return Ok(Walk::Stop),
            Some((_, key)) => show(row, key, sealed),
            // Too short to have a bucket, and nobody's; it is left alone.
            None => {}
        }
        Ok(Walk::On)
    })
}

fn recount(txn: &mut impl WriteTxn, bucket: u16) -> Result<(), StoreError> {
    let digest = count(txn, bucket)?;
    save_bucket(txn, bucket, digest)
}

/// What the items of a bucket come to by the hashes they are stored with.
fn count(txn: &impl ReadTxn, bucket: u16) -> Result<BranchDigest, StoreError> {
    let mut digest = BranchDigest::default();
    visit_bucket(txn, bucket, &mut |_, _, sealed| {
        stored_hash(sealed).into_iter().for_each(|hash| digest.add(BranchDigest::of(hash)));
    })?;
    Ok(digest)
}

fn open_bucket(row: &[u8], sealed: &[u8]) -> Option<BranchDigest> {
    let body = record::open(Table::Trees, row, sealed).ok()?;
    body.try_into().ok().map(BranchDigest::from_bytes)
}

/// A bucket without items has no row.
fn save_bucket(txn: &mut impl WriteTxn, bucket: u16, digest: BranchDigest) -> Result<(), StoreError> {
    let row = schema::bucket_row(bucket);
    if digest.is_empty() {
        return txn.delete(Table::Trees, row.as_bytes()).map(drop);
    }
    txn.put(Table::Trees, row.as_bytes(), &record::seal(Table::Trees, row.as_bytes(), &digest.to_bytes()))
}

fn first_token(bucket: u16) -> Token {
    Token(u64::from(bucket) << (64 - 4 * u32::from(BUCKET_DEPTH)))
}

/// Whether all, some or none of the partitions that a bucket lies in are meant.
enum Meant {
    All,
    Some,
    None,
}

/// One committed state, and of it some partitions.
pub(crate) struct Tree<'a, T> {
    txn: &'a T,
    partitions: &'a PartitionSet,
    rows_read: u64,
    /// Buckets in which something was met that is damaged.
    damaged: BTreeSet<u16>,
}

impl<'a, T: ReadTxn> Tree<'a, T> {
    pub(crate) fn new(txn: &'a T, partitions: &'a PartitionSet) -> Tree<'a, T> {
        Tree { txn, partitions, rows_read: 0, damaged: BTreeSet::new() }
    }

    /// Buckets in which something was met that is damaged, each counted.
    pub(crate) fn take_damaged(&mut self, counts: &mut StoreCounts) -> Vec<u16> {
        counts.damaged += self.damaged.len() as u64;
        std::mem::take(&mut self.damaged).into_iter().collect()
    }

    /// Shows what the parts of `branch` come to, each with a token it lies at: buckets where that is fine enough, else
    /// items.
    fn sum(&mut self, branch: &Branch, show: &mut dyn FnMut(Token, BranchDigest)) -> Result<(), StoreError> {
        let buckets = buckets_of(branch);
        let mut broken = Vec::new();
        let rows = Cell::new(0);
        let partitions = self.partitions;
        self.txn.visit(Table::Trees, schema::bucket_row(*buckets.start()).as_bytes(), &mut |row, sealed| {
            let Some(bucket) = schema::parse_bucket_row(row) else { return Ok(Walk::On) };
            if bucket > *buckets.end() {
                return Ok(Walk::Stop);
            }
            rows.set(rows.get() + 1);
            match (meant(partitions, bucket), open_bucket(row, sealed)) {
                (Meant::None, _) => {}
                (Meant::All, Some(digest)) => show(first_token(bucket), digest),
                (Meant::All, None) => broken.push((bucket, true)),
                (Meant::Some, _) => broken.push((bucket, false)),
            }
            Ok(Walk::On)
        })?;
        self.rows_read += rows.get();
        for (bucket, is_damaged) in broken {
            if is_damaged {
                self.damaged.insert(bucket);
            }
            let range = Branch::around(Position(first_token(bucket).0), BUCKET_DEPTH);
            self.walk(&range, None, &mut |row, _, hash| {
                let token = row.first_chunk::<8>().map_or(0, |token| u64::from_be_bytes(*token));
                show(Token(token), BranchDigest::of(hash));
                Walk::On
            })?;
        }
        Ok(())
    }

    fn walk(&mut self, branch: &Branch, from: Option<&Cursor>, show: &mut ShowItem<'_>) -> Result<(), StoreError> {
        let tokens = branch.tokens();
        let first = schema::object_range_start(*tokens.start());
        let start = from.map_or(&first[..], |cursor| cursor.0.as_slice().max(&first));
        let (rows, partitions) = (Cell::new(0), self.partitions);
        self.txn.visit(Table::Objects, start, &mut |row, sealed| {
            rows.set(rows.get() + 1);
            let Some((token, key)) = schema::parse_object_row(row) else { return Ok(Walk::On) };
            if !tokens.contains(&token) {
                return Ok(Walk::Stop);
            }
            let token = Token(token);
            if !partitions.contains_token(token) || !branch.contains(Position::of(token, key)) {
                return Ok(Walk::On);
            }
            Ok(stored_hash(sealed).map_or(Walk::On, |hash| show(row, key, hash)))
        })?;
        self.rows_read += rows.get();
        Ok(())
    }
}

/// Which partitions of a bucket are meant.
fn meant(partitions: &PartitionSet, bucket: u16) -> Meant {
    let last = Token(first_token(bucket).0 | u64::MAX >> (4 * u32::from(BUCKET_DEPTH)));
    let count = partitions.partitions();
    let within = first_token(bucket).partition(count).0..=last.partition(count).0;
    let (all, some) = within
        .map(|number| partitions.contains(Partition(number)))
        .fold((true, false), |(all, some), is_meant| (all && is_meant, some || is_meant));
    match (all, some) {
        (true, _) => Meant::All,
        (false, true) => Meant::Some,
        (false, false) => Meant::None,
    }
}

impl<T: ReadTxn> Source for Tree<'_, T> {
    fn digest(&mut self, branch: &Branch) -> Result<BranchDigest, StoreError> {
        let mut all = BranchDigest::default();
        if branch.depth() <= BUCKET_DEPTH {
            self.sum(branch, &mut |_, digest| all.add(digest))?;
        } else {
            self.walk(branch, None, &mut |_, _, hash| {
                all.add(BranchDigest::of(hash));
                Walk::On
            })?;
        }
        Ok(all)
    }

    fn children(&mut self, branch: &Branch) -> Result<[BranchDigest; FANOUT], StoreError> {
        let mut children = [BranchDigest::default(); FANOUT];
        let mut add = |position, digest| {
            if let Some(index) = branch.child_with(position) {
                children[index].add(digest);
            }
        };
        if branch.depth() < BUCKET_DEPTH {
            self.sum(branch, &mut |token, digest| add(Position(token.0), digest))?;
        } else {
            self.walk(branch, None, &mut |row, key, hash| {
                let token = row.first_chunk::<8>().map_or(0, |token| u64::from_be_bytes(*token));
                add(Position::of(Token(token), key), BranchDigest::of(hash));
                Walk::On
            })?;
        }
        Ok(children)
    }

    fn items(&mut self, branch: &Branch, from: Option<&Cursor>, show: &mut ShowItem<'_>) -> Result<(), StoreError> {
        self.walk(branch, from, show)
    }

    fn object(&mut self, key: &Key) -> Result<Option<Object>, StoreError> {
        let mut damaged = 0;
        let found = values::load(self.txn, key, &mut damaged)?;
        if damaged > 0 {
            self.damaged.insert(bucket_of(Token::of(key)));
        }
        Ok(found.map(|(object, _)| object))
    }

    fn rows_read(&self) -> u64 {
        self.rows_read
    }
}
