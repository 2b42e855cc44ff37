//! The membership history: the grow-only set of all changes of one cluster.
//!
//! A [`History`] holds for each author a chain without gaps, every change verified and linked to the one before. It
//! never forgets, and what it folds to does not depend on the order in which it learned. Two histories of one cluster
//! merge by inserting into each what it lacks.
//!
//! It keeps nothing on disk and trusts nobody: whoever owns it asks [`History::check`], persists, then inserts.
//!
//! Of two different changes that one author signed under one number (two processes with one identity, or a restored disk)
//! both are kept, with all that continues either: everybody ends with the same set of changes, whichever came first. What
//! that means is for whoever folds them; that it happened is told by [`History::forked`].
//!
//! **Why not one of them**: somebody has acted on the other already. What an author has said must not be unsaid, or a member
//! that others have counted on to hold something would suddenly not have said that it does.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use thiserror::Error;

use crate::{
    digest::{Digest, Domain},
    ident::{ClusterId, Name, NodeId},
    limits::{COUNTER_MAX, FORK_COUNT_MAX, HISTORY_COUNT_MAX, MEMBER_COUNT_MAX, POSTHUMOUS_COUNT_MAX},
    membership::{
        chain::{Chain, Link},
        change::{Change, ChangeError, ChangeKind, Parameters, Removal, Signer, Statement},
        summary::{Summary, Tip},
    },
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
/// `Gap`, `Loose` and `NotFounded` are healed by asking the sender for what is missing, a `BadLamport` that is ahead likewise;
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
    /// It continues a change of its author that is not known: not the one known under that number.
    #[error("change {sequence} of {author:?} continues one that is not known")]
    Loose {
        /// Who signed it.
        author: NodeId,
        /// Number of the change refused.
        sequence: u64,
    },
    /// Its author has signed too many different histories already. Nobody whose disk was copied does: it lies.
    #[error("{author:?} signed more than {FORK_COUNT_MAX} different histories; another parts at change {sequence}")]
    Forked {
        /// Who signed them.
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
        if chain.is_some_and(|chain| chain.find(change.sequence, &digest).is_some()) {
            return Ok(Inserted::Known);
        }

        change.verify().map_err(|error| match error {
            ChangeError::BadSignature => HistoryError::BadSignature,
            other => HistoryError::Malformed(other),
        })?;
        self.check_cluster(change)?;
        let parent = check_link(chain, change)?;
        self.check_lamport(parent, change)?;
        self.check_say(parent, change)?;
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
        let head = self.chains.get(&signer.node_id()).and_then(Chain::head);
        let sequence = head.map_or(0, |head| head.change.sequence + 1);
        let previous = head.map(|head| head.digest);
        Change::sign(signer, cluster, sequence, previous, self.lamport_max + 1, kind)
    }

    /// How far each author is known.
    pub fn summary(&self) -> Summary {
        self.chains.iter().map(|(author, chain)| (*author, chain.summary())).collect()
    }

    /// Whether the owner of `summary` knows a change that is not known here.
    pub fn lacks(&self, summary: &Summary) -> bool {
        let lacks_tip = |author: &NodeId, tip: &Tip| !self.chains.get(author).is_some_and(|chain| chain.has(tip));
        summary.iter().any(|(author, tips)| tips.iter().any(|tip| lacks_tip(author, tip)))
    }

    /// Authors who have signed different changes under one number, sorted.
    pub fn forked(&self) -> impl Iterator<Item = &NodeId> {
        self.chains.iter().filter(|(_, chain)| chain.is_forked()).map(|(author, _)| author)
    }

    /// What the owner of `summary` lacks, as far as can be known: the first `limit` of it, in canonical order.
    ///
    /// Sorted by (Lamport time, author, sequence, digest); each author's changes are in order and a founding comes first, so
    /// that the receiver can insert one after the other. Costs the logarithm of the number of authors per change.
    pub fn since(&self, summary: &Summary, limit: usize) -> Vec<Change> {
        InOrder::new(self, summary).take(limit).cloned().collect()
    }

    /// Names the set of changes: equal sets, equal digest, whatever the order of arrival.
    ///
    /// Computed from the ends of the chains when asked: one hash of 72 bytes per author, and per branch of those who forked.
    pub fn digest(&self) -> Digest {
        let mut bytes = Vec::with_capacity(1 + self.chains.len() * 72);
        // Tells this digest from that of a label, which has the same purpose.
        bytes.push(0);
        for (author, (sequence, digest)) in self.tips() {
            bytes.extend_from_slice(&author.0);
            bytes.extend_from_slice(&(sequence + 1).to_be_bytes());
            bytes.extend_from_slice(&digest.0);
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

    /// All changes, sorted by (Lamport time, author, sequence, digest).
    pub fn iter(&self) -> impl Iterator<Item = &Change> {
        InOrder::new(self, &Summary::default())
    }

    /// What the cluster was founded with; none before the first founding is known.
    pub fn parameters(&self) -> Option<Parameters> {
        self.parameters
    }

    /// How many changes of `author` are known; of one who forked, in its longest branch.
    pub fn known_of(&self, author: &NodeId) -> u64 {
        self.chains.get(author).map_or(0, Chain::height)
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
        let digest = change.digest();
        self.chains.entry(change.author).or_default().add(change, digest);
    }

    fn tips(&self) -> impl Iterator<Item = (&NodeId, &(u64, Digest))> {
        self.chains.iter().flat_map(|(author, chain)| chain.tips().iter().map(move |tip| (author, tip)))
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

    /// Founding at 1 and everything else later, so that sorting by Lamport time puts a founding first.
    fn check_lamport(&self, parent: Option<&Link>, change: &Change) -> Result<(), HistoryError> {
        let before = parent.map_or(0, |parent| parent.change.lamport);
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
    fn check_say(&self, parent: Option<&Link>, change: &Change) -> Result<(), HistoryError> {
        if let Some(&known) = self.removed.get(&change.author)
            && change.sequence >= known + POSTHUMOUS_COUNT_MAX
        {
            return Err(HistoryError::Removed { author: change.author, known, sequence: change.sequence });
        }
        match &change.kind {
            ChangeKind::Founded(_) | ChangeKind::Joined(_) | ChangeKind::Updated(_) => Ok(()),
            ChangeKind::Leaving | ChangeKind::Left | ChangeKind::Removed(_) | ChangeKind::Replaced(_) => {
                if parent.is_some_and(|parent| parent.has_joined) { Ok(()) } else { Err(HistoryError::NotJoined) }
            }
            ChangeKind::Filled(Statement { partitions, .. }) | ChangeKind::Retired(Statement { partitions, .. }) => {
                let expected = self.parameters.map_or(0, |parameters| parameters.partitions.get());
                let actual = partitions.partitions().get();
                if expected != actual {
                    return Err(HistoryError::OtherPartitions { expected, actual });
                }
                if parent.is_some_and(|parent| parent.has_joined) { Ok(()) } else { Err(HistoryError::NotJoined) }
            }
        }
    }
}

/// What `change` continues: nothing, if it is a first one.
fn check_link<'a>(chain: Option<&'a Chain>, change: &Change) -> Result<Option<&'a Link>, HistoryError> {
    let expected = chain.map_or(0, Chain::height);
    let (author, sequence) = (change.author, change.sequence);
    if sequence > expected {
        return Err(HistoryError::Gap { expected, actual: sequence });
    }
    let parent = chain.and_then(|chain| chain.parent_of(change));
    if sequence > 0 && parent.is_none() {
        return Err(HistoryError::Loose { author, sequence });
    }
    if chain.is_some_and(|chain| chain.is_fork_too_many(change)) {
        return Err(HistoryError::Forked { author, sequence });
    }
    Ok(parent)
}

/// By (Lamport time, author, sequence, digest).
type Position = (u64, NodeId, u64, Digest);

/// Merges the chains by position: along a branch Lamport times only grow.
struct InOrder<'a> {
    chains: Vec<Box<dyn Iterator<Item = &'a Link> + 'a>>,
    heads: BinaryHeap<Reverse<(Position, usize)>>,
    /// Of each chain the link that the heap names.
    links: Vec<Option<&'a Link>>,
}

impl<'a> InOrder<'a> {
    /// Everything that `known` does not list.
    fn new(history: &'a History, known: &Summary) -> InOrder<'a> {
        let chains: Vec<_> =
            history.chains.iter().map(|(author, chain)| chain.unknown_to(known.tips(author))).collect();
        let links = vec![None; chains.len()];
        let mut in_order = InOrder { chains, heads: BinaryHeap::new(), links };
        (0..in_order.chains.len()).for_each(|index| in_order.advance(index));
        in_order
    }

    fn advance(&mut self, index: usize) {
        self.links[index] = self.chains[index].next();
        self.heads.extend(self.links[index].map(|link| Reverse((position(link), index))));
    }
}

impl<'a> Iterator for InOrder<'a> {
    type Item = &'a Change;

    fn next(&mut self) -> Option<&'a Change> {
        let Reverse((_, index)) = self.heads.pop()?;
        let link = self.links[index];
        self.advance(index);
        link.map(|link| link.change.as_ref())
    }
}

fn position(link: &Link) -> Position {
    let change = &link.change;
    (change.lamport, change.author, change.sequence, link.digest)
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
