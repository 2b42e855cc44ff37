//! The membership history: the grow-only set of all changes of one cluster.
//!
//! A [`History`] holds for each author a chain without gaps, every change verified and linked to the one before. It
//! never forgets, and what it folds to does not depend on the order in which it learned. Two histories of one cluster
//! merge by inserting into each what it lacks.
//!
//! It keeps nothing on disk and trusts nobody: whoever owns it asks [`History::check`], persists, then inserts.
//!
//! Of two different changes that one author signed under one number (two processes with one identity, or a restored
//! disk) the first to arrive stays and the other is refused as [`HistoryError::Forked`]. Nodes that saw them in
//! different order keep different histories, and their digests say so. TODO(forks): settle a fork by rule; without
//! one an administrator must remove the author.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use thiserror::Error;

use crate::{
    digest::{Digest, Domain},
    ident::{ClusterId, Name, NodeId},
    limits::{COUNTER_MAX, HISTORY_COUNT_MAX, MEMBER_COUNT_MAX, POSTHUMOUS_COUNT_MAX},
    membership::change::{Change, ChangeError, ChangeKind, Parameters, Removal, Signer, Statement, Summary},
};

/// All known changes of one cluster. At most `HISTORY_COUNT_MAX` of at most `MEMBER_COUNT_MAX` authors.
#[derive(Debug, Clone)]
pub struct History {
    cluster_name: Name,
    parameters: Option<Parameters>,
    /// Never empty for an author that is listed.
    chains: BTreeMap<NodeId, Chain>,
    /// Who was taken away for ever, and the least number of its changes that somebody knew who took it away.
    removed: BTreeMap<NodeId, u64>,
    count: usize,
    lamport_max: u64,
}

/// What an insertion did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// The history has grown by this change.
    New,
    /// The history had it; nothing happened.
    Known,
}

/// Why a change does not fit. The history is as it was.
///
/// `Gap` and `NotFounded` are healed by asking the sender for what is missing, a `BadLamport` that is ahead likewise;
/// the others stay.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HistoryError {
    /// The author did not sign this.
    #[error("the signature is not the author's")]
    BadSignature,
    /// The change breaks a limit, or its own rules.
    #[error("the change is malformed: {0}")]
    Malformed(ChangeError),
    /// It belongs to another cluster.
    #[error("the change belongs to another cluster")]
    OtherCluster,
    /// A cluster of the same name was founded with other parameters; the two can never merge.
    #[error(
        "a cluster of this name was founded with {} partitions and {} replicas, ours with {} and {}",
        theirs.partitions, theirs.replicas, ours.partitions, ours.replicas
    )]
    OtherParameters {
        /// Those of this history.
        ours: Parameters,
        /// Those of the change.
        theirs: Parameters,
    },
    /// Changes of its author between the last known and this one are missing.
    #[error("the next change of this author is number {expected}, not {actual}")]
    Gap {
        /// Number of the author's next change.
        expected: u64,
        /// Number of the change refused.
        actual: u64,
    },
    /// Its author signed another change under the same number, or continues from one that is not known here.
    #[error("{author:?} signed two different histories; they part at or before change {sequence}")]
    Forked {
        /// Who signed both.
        author: NodeId,
        /// Number of the change refused.
        sequence: u64,
    },
    /// The first change of all must be a founding.
    #[error("the history has no founding yet")]
    NotFounded,
    /// Only who has joined has a say; its own first change that is not a founding must say so.
    #[error("its author has not joined")]
    NotJoined,
    /// Its author was removed, and more of it than could have been under way would follow.
    #[error("{author:?} was removed for ever when {known} changes of it were known; this is number {sequence}")]
    Removed {
        /// Who was removed.
        author: NodeId,
        /// How many changes of it whoever removed it knew.
        known: u64,
        /// Number of the change refused.
        sequence: u64,
    },
    /// It is about partitions of a ring that is cut otherwise.
    #[error("the change is about a ring of {actual} partitions, ours has {expected}")]
    OtherPartitions {
        /// Partitions of this history's ring.
        expected: u32,
        /// Those of the change.
        actual: u32,
    },
    /// The history takes no more changes, or no more authors. Said loudly: this node no longer learns.
    #[error("the history is full: {count} changes of {authors} authors")]
    Full {
        /// Changes held.
        count: usize,
        /// Authors known.
        authors: usize,
    },
    /// Its Lamport time is not above that of its author's previous change, is not what its kind must have, or is
    /// absurdly far ahead.
    #[error("lamport time {actual} is not from {low} to {high}")]
    BadLamport {
        /// The least it could be.
        low: u64,
        /// The most it could be.
        high: u64,
        /// What it is.
        actual: u64,
    },
}

impl History {
    /// The empty history of the cluster called `cluster_name`.
    pub fn new(cluster_name: Name) -> History {
        let (chains, removed) = (BTreeMap::new(), BTreeMap::new());
        History { cluster_name, parameters: None, chains, removed, count: 0, lamport_max: 0 }
    }

    /// Adds `change` if it fits. See [`HistoryError`]; after an error nothing has changed.
    ///
    /// Costs one signature check (about 50 µs), none if the change is known.
    pub fn insert(&mut self, change: Change) -> Result<Inserted, HistoryError> {
        let verdict = self.check(&change)?;
        match verdict {
            Inserted::Known => {}
            Inserted::New => self.add(change),
        }
        Ok(verdict)
    }

    /// What [`History::insert`] would answer, without inserting.
    pub fn check(&self, change: &Change) -> Result<Inserted, HistoryError> {
        let digest = change.digest();
        let chain = self.chains.get(&change.author);
        let known = chain.and_then(|chain| chain.get(change.sequence));
        if known.is_some_and(|known| known.digest() == digest) {
            return Ok(Inserted::Known);
        }

        change.verify().map_err(|error| match error {
            ChangeError::BadSignature => HistoryError::BadSignature,
            other => HistoryError::Malformed(other),
        })?;
        self.check_cluster(change)?;
        self.check_link(chain, change)?;
        self.check_lamport(chain, change)?;
        self.check_say(chain, change)?;
        let is_new_author = chain.is_none();
        if self.count >= HISTORY_COUNT_MAX || (is_new_author && self.chains.len() >= MEMBER_COUNT_MAX) {
            return Err(HistoryError::Full { count: self.count, authors: self.chains.len() });
        }
        Ok(Inserted::New)
    }

    /// The next change of `signer`, ready to be inserted and told.
    ///
    /// Only a founding makes sense in an empty history, and only there; anything else is signed and then refused.
    pub fn next_change(&self, signer: &Signer, kind: ChangeKind) -> Change {
        let parameters = match (&kind, self.parameters) {
            (ChangeKind::Founded(parameters), None) => Some(*parameters),
            (_, parameters) => parameters,
        };
        let cluster = match parameters {
            Some(parameters) => self.cluster_of(parameters),
            None => ClusterId::of(&self.cluster_name, 0, 0),
        };
        let chain = self.chains.get(&signer.node_id());
        let sequence = chain.map_or(0, Chain::next_sequence);
        let previous = chain.map(|chain| chain.head);
        Change::sign(signer, cluster, sequence, previous, self.lamport_max + 1, kind)
    }

    /// How far each author is known.
    pub fn summary(&self) -> Summary {
        self.chains.iter().map(|(author, chain)| (*author, chain.next_sequence())).collect()
    }

    /// What the owner of `summary` lacks: the first `limit` of it, in canonical order.
    ///
    /// Sorted by (Lamport time, author, sequence); each author's changes are in order and a founding comes first, so
    /// that the receiver can insert one after the other. Costs the logarithm of the number of authors per change.
    pub fn since(&self, summary: &Summary, limit: usize) -> Vec<Change> {
        InOrder::new(self, summary).take(limit).cloned().collect()
    }

    /// Names the set of changes: equal sets, equal digest, whatever the order of arrival.
    ///
    /// Computed from the last links of the chains when asked: one hash of 72 bytes per author.
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::with_capacity(1 + self.chains.len() * 72);
        // Tells this digest from that of a label, which has the same purpose.
        bytes.push(0);
        for (author, chain) in &self.chains {
            bytes.extend_from_slice(&author.0);
            bytes.extend_from_slice(&chain.next_sequence().to_be_bytes());
            bytes.extend_from_slice(&chain.head.0);
        }
        Digest::of(Domain::History, &[&bytes])
    }

    /// Number of changes; at most `HISTORY_COUNT_MAX`.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it holds no change at all.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All changes, sorted by (Lamport time, author, sequence).
    pub fn iter(&self) -> impl Iterator<Item = &Change> {
        InOrder::new(self, &Summary::default())
    }

    /// What the cluster was founded with; none before the first founding is known.
    pub fn parameters(&self) -> Option<Parameters> {
        self.parameters
    }

    /// How many changes of `author` are known.
    pub fn known_of(&self, author: &NodeId) -> u64 {
        self.chains.get(author).map_or(0, Chain::next_sequence)
    }

    /// Name of the cluster.
    pub fn cluster_name(&self) -> &Name {
        &self.cluster_name
    }

    /// Identity of the cluster; none before the first founding is known.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.parameters.map(|parameters| self.cluster_of(parameters))
    }

    fn add(&mut self, change: Change) {
        if let ChangeKind::Founded(parameters) = &change.kind {
            self.parameters = Some(*parameters);
        }
        if let Some(Removal { node, known }) = change.kind.removal() {
            let least = self.removed.entry(node).or_insert(known);
            *least = known.min(*least);
        }
        self.count += 1;
        self.lamport_max = self.lamport_max.max(change.lamport);
        let head = change.digest();
        let chain = self.chains.entry(change.author).or_insert(Chain { changes: Vec::new(), head, has_joined: false });
        chain.has_joined |= matches!(change.kind, ChangeKind::Joined(_));
        chain.changes.push(Arc::new(change));
        chain.head = head;
    }

    fn cluster_of(&self, parameters: Parameters) -> ClusterId {
        ClusterId::of(&self.cluster_name, parameters.partitions.get(), parameters.replicas)
    }

    fn check_cluster(&self, change: &Change) -> Result<(), HistoryError> {
        let founding = change.kind.founding();
        // A founding that does not hash to its own cluster is of another name, or a lie.
        if founding.is_some_and(|theirs| self.cluster_of(theirs) != change.cluster) {
            return Err(HistoryError::OtherCluster);
        }
        match (self.parameters, founding) {
            (Some(ours), Some(theirs)) if ours != theirs => Err(HistoryError::OtherParameters { ours, theirs }),
            (Some(ours), _) if self.cluster_of(ours) != change.cluster => Err(HistoryError::OtherCluster),
            (None, None) => Err(HistoryError::NotFounded),
            (Some(_), _) | (None, Some(_)) => Ok(()),
        }
    }

    fn check_link(&self, chain: Option<&Chain>, change: &Change) -> Result<(), HistoryError> {
        let expected = chain.map_or(0, Chain::next_sequence);
        let forked = HistoryError::Forked { author: change.author, sequence: change.sequence };
        if change.sequence < expected {
            return Err(forked);
        }
        if change.sequence > expected {
            return Err(HistoryError::Gap { expected, actual: change.sequence });
        }
        if change.previous == chain.map(|chain| chain.head) { Ok(()) } else { Err(forked) }
    }

    /// Founding at 1 and everything else later, so that sorting by Lamport time puts a founding first.
    fn check_lamport(&self, chain: Option<&Chain>, change: &Change) -> Result<(), HistoryError> {
        let before = chain.map_or(0, Chain::lamport);
        let (low, high) = match change.kind.founding() {
            Some(_) => (before + 1, 1),
            None => ((before + 1).max(2), self.lamport_max + LAMPORT_STEP_MAX),
        };
        let actual = change.lamport;
        if low <= actual && actual <= high { Ok(()) } else { Err(HistoryError::BadLamport { low, high, actual }) }
    }
}

impl History {
    /// Whether the author may say this.
    fn check_say(&self, chain: Option<&Chain>, change: &Change) -> Result<(), HistoryError> {
        if let Some(&known) = self.removed.get(&change.author)
            && change.sequence >= known + POSTHUMOUS_COUNT_MAX
        {
            return Err(HistoryError::Removed { author: change.author, known, sequence: change.sequence });
        }
        match &change.kind {
            ChangeKind::Founded(_) | ChangeKind::Joined(_) | ChangeKind::Updated(_) => Ok(()),
            ChangeKind::Leaving | ChangeKind::Left | ChangeKind::Removed(_) | ChangeKind::Replaced(_) => {
                if chain.is_some_and(|chain| chain.has_joined) { Ok(()) } else { Err(HistoryError::NotJoined) }
            }
            ChangeKind::Filled(Statement { partitions, .. }) | ChangeKind::Retired(Statement { partitions, .. }) => {
                let expected = self.parameters.map_or(0, |parameters| parameters.partitions.get());
                let actual = partitions.partitions().get();
                if expected != actual {
                    return Err(HistoryError::OtherPartitions { expected, actual });
                }
                if chain.is_some_and(|chain| chain.has_joined) { Ok(()) } else { Err(HistoryError::NotJoined) }
            }
        }
    }
}

/// One author's changes, without gaps, from sequence zero. Never empty.
#[derive(Debug, Clone)]
struct Chain {
    changes: Vec<Arc<Change>>,
    /// Digest of the last.
    head: Digest,
    has_joined: bool,
}

impl Chain {
    fn get(&self, sequence: u64) -> Option<&Change> {
        self.changes.get(usize::try_from(sequence).ok()?).map(Arc::as_ref)
    }

    fn next_sequence(&self) -> u64 {
        self.changes.len() as u64
    }

    fn lamport(&self) -> u64 {
        self.changes.last().map_or(0, |change| change.lamport)
    }
}

/// Merges the chains by (Lamport time, author, sequence): within a chain Lamport times only grow.
struct InOrder<'a> {
    history: &'a History,
    heads: BinaryHeap<Reverse<(u64, NodeId, u64)>>,
}

impl<'a> InOrder<'a> {
    /// Everything that `known` does not list.
    fn new(history: &'a History, known: &Summary) -> InOrder<'a> {
        let firsts = history.chains.iter().filter_map(|(author, chain)| chain.get(known.next(author)));
        InOrder { history, heads: firsts.map(position).map(Reverse).collect() }
    }
}

impl<'a> Iterator for InOrder<'a> {
    type Item = &'a Change;

    fn next(&mut self) -> Option<&'a Change> {
        let Reverse((_, author, sequence)) = self.heads.pop()?;
        let chain = self.history.chains.get(&author)?;
        self.heads.extend(chain.get(sequence + 1).map(position).map(Reverse));
        chain.get(sequence)
    }
}

fn position(change: &Change) -> (u64, NodeId, u64) {
    (change.lamport, change.author, change.sequence)
}

/// How far above the highest known Lamport time a change may be. Generous to those who were cut off for long; yet
/// nobody can drive the time to its end, for lack of room for so many changes.
const LAMPORT_STEP_MAX: u64 = 1 << 32;
const _: () = assert!((HISTORY_COUNT_MAX as u64 + 1) * LAMPORT_STEP_MAX < COUNTER_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::token::PartitionCount;

    #[test]
    fn a_full_history_takes_nothing_more_but_still_knows_what_it_has() {
        let signer = Signer::from_seed([1; 32]);
        let mut history = History::new(Name::new("quorate").unwrap());
        let parameters = Parameters { partitions: PartitionCount::new(8).unwrap(), replicas: 3 };
        let founding = history.next_change(&signer, ChangeKind::Founded(parameters));
        history.insert(founding.clone()).unwrap();

        history.count = HISTORY_COUNT_MAX;
        let other = Signer::from_seed([2; 32]);
        let full = HistoryError::Full { count: HISTORY_COUNT_MAX, authors: 1 };
        let second = History::new(history.cluster_name.clone()).next_change(&other, ChangeKind::Founded(parameters));
        assert_eq!(history.insert(second), Err(full));
        assert_eq!(history.insert(founding), Ok(Inserted::Known));
    }
}
