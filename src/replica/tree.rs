//! The Merkle tree of a replica: kept in step with its objects, read for comparison, checked and mended.
//!
//! Stored are the digests of **buckets**: the 1 024 parts of the tree with the same first ten bits, each one row, changed by
//! `new - old` in the transaction that changes an object. Branches above them are sums of buckets; those below come from scanning the rows of
//! one bucket, each of which begins with the hash of its item, so that nothing is hashed again. A change of ring touches
//! none of it.
//!
//! **Why** buckets of a fixed size: 1 024 rows of some 45 bytes lie on a dozen pages, which is what they cost a transaction,
//! and are summed in a fraction of a millisecond; at a million keys a bucket is scanned in one, at a hundred million in a
//! hundred. Splitting and merging them by size would save pages of small stores only, and is one more thing that can go
//! wrong.
//!
//! What a bucket comes to is believed as far as its checksum and the sessions of exchange go: where a record is met that is
//! damaged, or a digest that leads to nothing, `mend` recomputes that bucket from its objects. A damaged record is then
//! gone, and comes back from a co-owner.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use crate::{
    causality::siblings::Object,
    ident::Key,
    merkle::{
        ShowItem, Source,
        branch::{Branch, BranchDigest, FANOUT, ItemHash, ItemKey, Position},
    },
    replica::{
        StoreCounts,
        values::{self, Parts},
    },
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

/// How many bits the tokens of one bucket share.
const BUCKET_BITS: u32 = 10;

/// How many buckets there are.
pub const BUCKET_COUNT: u16 = 1 << BUCKET_BITS;

/// Branches down to this depth are made of whole buckets.
const SUM_DEPTH: u8 = 2;
const _: () = assert!(4 * SUM_DEPTH as u32 <= BUCKET_BITS && BUCKET_BITS <= 16);

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

/// What the writer knows of the rows of buckets, lest each write read one. It is told of every change, and forgets all when a
/// transaction fails.
#[derive(Debug, Clone, Default)]
pub struct Buckets(BTreeMap<u16, BranchDigest>);

/// The bucket of a token.
pub fn bucket_of(token: Token) -> u16 {
    u16::try_from(token.0 >> (64 - BUCKET_BITS)).expect("ten bits")
}

/// The buckets that `branch` covers, or the one it lies in.
pub fn buckets_of(branch: &Branch) -> RangeInclusive<u16> {
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
    buckets: &mut Buckets,
    token: Token,
    before: Option<ItemHash>,
    after: Option<ItemHash>,
) -> Result<(), StoreError> {
    let bucket = bucket_of(token);
    // The objects are changed already, so a count of them is right as it is.
    let Some(mut digest) = buckets.get(txn, bucket)? else { return recount(txn, buckets, bucket) };
    before.into_iter().for_each(|hash| digest.remove(BranchDigest::of(hash)));
    after.into_iter().for_each(|hash| digest.add(BranchDigest::of(hash)));
    buckets.put(txn, bucket, digest)
}

/// Sums up the bucket of `token` anew: it held something whose hash nobody knows any more.
pub(crate) fn note_loss(txn: &mut impl WriteTxn, buckets: &mut Buckets, token: Token) -> Result<(), StoreError> {
    recount(txn, buckets, bucket_of(token))
}

/// Looks at every record of a bucket, hashes its object, and compares. Changes nothing.
pub(crate) fn check(txn: &impl ReadTxn, bucket: u16, item_key: &ItemKey) -> Result<BucketCheck, StoreError> {
    Ok(examine(txn, bucket, item_key)?.check)
}

/// The same, and puts right what is wrong: damaged records go, hashes and the digest of the bucket are made anew.
pub(crate) fn mend(
    txn: &mut impl WriteTxn,
    buckets: &mut Buckets,
    bucket: u16,
    item_key: &ItemKey,
) -> Result<BucketCheck, StoreError> {
    let Examined { check, digest, damaged, misnamed } = examine(txn, bucket, item_key)?;
    for row in damaged {
        txn.delete(Table::Objects, &row)?;
    }
    for (row, sealed) in misnamed {
        txn.put(Table::Objects, &row, &sealed)?;
    }
    if !check.is_sound() {
        buckets.put(txn, bucket, digest)?;
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
    /// Rows whose record begins with a wrong hash, and their right records.
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
        let canonical = record.object.canonical_bytes();
        let digest_of_object = Object::digest_of(&canonical);
        let hash = item_key.hash(&key, &digest_of_object);
        digest.add(BranchDigest::of(hash));
        if stored_hash(sealed) != Some(hash) {
            check.misnamed += 1;
            let parts =
                Parts { hash: Some(hash), digest: &digest_of_object, canonical: &canonical, local: record.local };
            misnamed.push((row.to_vec(), values::encode(Table::Objects, row, &parts)));
        }
    })?;
    let row = schema::bucket_row(bucket);
    let stored = txn.get(Table::Trees, row.as_bytes())?.map(|sealed| open_bucket(row.as_bytes(), sealed));
    check.is_sum_wrong = stored.unwrap_or(Some(BranchDigest::default())) != Some(digest);
    Ok(Examined { check, digest, damaged, misnamed })
}

/// What is shown the records of a bucket: row, key, record.
type ShowRecord<'a> = dyn FnMut(&[u8], &[u8], &[u8]) + 'a;

/// What is shown the items of a range of tokens: row, token, key, hash.
type ShowHash<'a> = dyn FnMut(&[u8], Token, &[u8], ItemHash) -> Walk + 'a;

/// Shows the records of a bucket.
fn visit_bucket(txn: &impl ReadTxn, bucket: u16, show: &mut ShowRecord<'_>) -> Result<(), StoreError> {
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

fn recount(txn: &mut impl WriteTxn, buckets: &mut Buckets, bucket: u16) -> Result<(), StoreError> {
    let digest = count(txn, bucket)?;
    buckets.put(txn, bucket, digest)
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

impl Buckets {
    /// What `bucket` comes to; nothing when its row is damaged.
    fn get(&mut self, txn: &impl ReadTxn, bucket: u16) -> Result<Option<BranchDigest>, StoreError> {
        if let Some(digest) = self.0.get(&bucket) {
            return Ok(Some(*digest));
        }
        let row = schema::bucket_row(bucket);
        let stored = txn.get(Table::Trees, row.as_bytes())?.map(|sealed| open_bucket(row.as_bytes(), sealed));
        Ok(stored.unwrap_or(Some(BranchDigest::default())))
    }

    /// A bucket without items has no row.
    fn put(&mut self, txn: &mut impl WriteTxn, bucket: u16, digest: BranchDigest) -> Result<(), StoreError> {
        let row = schema::bucket_row(bucket);
        self.0.insert(bucket, digest);
        if digest.is_empty() {
            return txn.delete(Table::Trees, row.as_bytes()).map(drop);
        }
        txn.put(Table::Trees, row.as_bytes(), &record::seal(Table::Trees, row.as_bytes(), &digest.to_bytes()))
    }
}

fn first_token(bucket: u16) -> Token {
    Token(u64::from(bucket) << (64 - BUCKET_BITS))
}

fn tokens_of(bucket: u16) -> RangeInclusive<u64> {
    let first = first_token(bucket).0;
    first..=first | u64::MAX >> BUCKET_BITS
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
    /// Rows of either table.
    rows_read: u64,
    /// Of them, those of items.
    leaves_read: u64,
    /// The items among which the last scattered branch lay.
    deep: Option<Deep>,
    /// Buckets in which something was met that is damaged.
    damaged: BTreeSet<u16>,
}

/// Items of all positions that share the bits of their tokens with one, by position. As many as the keys of the tags that
/// meet there: whoever gives one tag a million keys pays for it here.
struct Deep {
    tokens: RangeInclusive<u64>,
    items: Vec<(Position, Vec<u8>, ItemHash)>,
}

impl<'a, T: ReadTxn> Tree<'a, T> {
    pub(crate) fn new(txn: &'a T, partitions: &'a PartitionSet) -> Tree<'a, T> {
        Tree { txn, partitions, rows_read: 0, leaves_read: 0, deep: None, damaged: BTreeSet::new() }
    }

    /// Counts what was looked at. Returns the buckets in which something was met that is damaged.
    pub(crate) fn end(self, counts: &mut StoreCounts) -> Vec<u16> {
        counts.leaves_read += self.leaves_read;
        counts.damaged += self.damaged.len() as u64;
        self.damaged.into_iter().collect()
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
            self.scan(tokens_of(bucket), None, &mut |_, token, _, hash| {
                show(token, BranchDigest::of(hash));
                Walk::On
            })?;
        }
        Ok(())
    }

    /// Shows the items of `branch` in the order of their rows.
    fn walk(&mut self, branch: &Branch, from: Option<&Cursor>, show: &mut ShowItem<'_>) -> Result<(), StoreError> {
        if branch.is_within_token_range() {
            return self.walk_deep(branch, from, show);
        }
        self.scan(branch.tokens(), from, &mut |row, _, key, hash| show(row, key, hash))
    }

    /// Shows the items of a branch that is finer than the order of rows: its rows lie scattered among others. Those others
    /// are remembered, since the branches beside it are looked at next.
    fn walk_deep(&mut self, branch: &Branch, from: Option<&Cursor>, show: &mut ShowItem<'_>) -> Result<(), StoreError> {
        let tokens = branch.tokens();
        if self.deep.as_ref().is_none_or(|deep| deep.tokens != tokens) {
            let mut items = Vec::new();
            self.scan(tokens.clone(), None, &mut |row, token, key, hash| {
                items.push((Position::of(token, key), row.to_vec(), hash));
                Walk::On
            })?;
            items.sort_unstable_by_key(|(position, ..)| *position);
            self.deep = Some(Deep { tokens, items });
        }
        let Some(deep) = &self.deep else { return Ok(()) };
        let first = deep.items.partition_point(|(position, ..)| position.0 < branch.first());
        let mut found: Vec<(&[u8], ItemHash)> = deep.items[first..]
            .iter()
            .take_while(|(position, ..)| branch.contains(*position))
            .map(|(_, row, hash)| (row.as_slice(), *hash))
            .collect();
        self.rows_read += found.len() as u64;
        found.sort_unstable_by_key(|(row, _)| *row);
        let begin = found.partition_point(|(row, _)| from.is_some_and(|from| *row < from.0.as_slice()));
        for (row, hash) in &found[begin..] {
            let Some((_, key)) = schema::parse_object_row(row) else { continue };
            if show(row, key, *hash) == Walk::Stop {
                break;
            }
        }
        Ok(())
    }

    /// Shows the items with these tokens that are meant.
    fn scan(
        &mut self,
        tokens: RangeInclusive<u64>,
        from: Option<&Cursor>,
        show: &mut ShowHash<'_>,
    ) -> Result<(), StoreError> {
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
            if !partitions.contains_token(token) {
                return Ok(Walk::On);
            }
            Ok(stored_hash(sealed).map_or(Walk::On, |hash| show(row, token, key, hash)))
        })?;
        self.rows_read += rows.get();
        self.leaves_read += rows.get();
        Ok(())
    }
}

/// Which partitions of a bucket are meant.
fn meant(partitions: &PartitionSet, bucket: u16) -> Meant {
    let (count, tokens) = (partitions.partitions(), tokens_of(bucket));
    let within = Token(*tokens.start()).partition(count).0..=Token(*tokens.end()).partition(count).0;
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
        if branch.depth() <= SUM_DEPTH {
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
        if branch.depth() < SUM_DEPTH {
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
