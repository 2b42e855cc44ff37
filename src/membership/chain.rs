//! What is known of one author: a chain of changes without gaps, or several that part somewhere.
//!
//! An author that is what it says it is signs one change under each number. Two processes with one identity, or a disk that
//! was put back, may sign two: then the chain **forks**, and all its branches are kept. So what is known of an author only
//! grows, and is the same whatever the order of arrival. It does not judge what changes say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    digest::Digest,
    limits::FORK_COUNT_MAX,
    membership::{
        change::{Change, ChangeKind},
        summary::{Mark, Tip},
    },
};

/// A change, and what is remembered with it.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) change: Arc<Change>,
    pub(crate) digest: Digest,
    /// It says that its author has joined, or one before it does.
    pub(crate) has_joined: bool,
}

impl Link {
    fn key(&self) -> (u64, Digest) {
        (self.change.sequence, self.digest)
    }
}

/// One author's changes. Of each but the first the one that it continues is here too.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chain {
    /// Under each number the first that arrived.
    first: Vec<Link>,
    /// What else arrived, by number.
    others: BTreeMap<u64, Vec<Link>>,
    /// Number and digest of those that nothing continues.
    tips: BTreeSet<(u64, Digest)>,
}

impl Chain {
    /// Numbers from zero to below this are known, each at least once.
    pub(crate) fn height(&self) -> u64 {
        self.first.len() as u64
    }

    /// Number and digest of those that nothing continues, ascending. More than one when the author has forked.
    pub(crate) fn tips(&self) -> &BTreeSet<(u64, Digest)> {
        &self.tips
    }

    pub(crate) fn is_forked(&self) -> bool {
        self.tips.len() > 1
    }

    pub(crate) fn find(&self, sequence: u64, digest: &Digest) -> Option<&Link> {
        self.at(sequence).find(|link| link.digest == *digest)
    }

    /// What `change` continues; none for a first change, or when it is not known.
    pub(crate) fn parent_of(&self, change: &Change) -> Option<&Link> {
        self.find(change.sequence.checked_sub(1)?, change.previous.as_ref()?)
    }

    /// Whether `change`, which is not known, would be one branch too many.
    pub(crate) fn is_fork_too_many(&self, change: &Change) -> bool {
        let parent = self.parent_of(change).map(Link::key);
        let is_continuation = parent.is_some_and(|parent| self.tips.contains(&parent));
        !is_continuation && self.tips.len() >= FORK_COUNT_MAX
    }

    /// The change that its author should continue: of the longest branches the one whose digest is least.
    pub(crate) fn head(&self) -> Option<&Link> {
        let longest = self.tips.iter().map(|(sequence, _)| *sequence).max()?;
        let (_, digest) = self.tips.range((longest, Digest([0; 32]))..).next()?;
        self.find(longest, digest)
    }

    /// Adds a change whose parent is known, and that is not.
    pub(crate) fn add(&mut self, change: Change, digest: Digest) {
        let parent = self.parent_of(&change).map(|parent| (parent.key(), parent.has_joined));
        if let Some((key, _)) = parent {
            self.tips.remove(&key);
        }
        let sequence = change.sequence;
        let has_joined =
            parent.is_some_and(|(_, has_joined)| has_joined) || matches!(change.kind, ChangeKind::Joined(_));
        self.tips.insert((sequence, digest));
        let link = Link { change: Arc::new(change), digest, has_joined };
        if sequence == self.height() {
            self.first.push(link)
        } else {
            self.others.entry(sequence).or_default().push(link)
        }
    }

    /// What a [`crate::membership::summary::Summary`] says of it.
    pub(crate) fn summary(&self) -> Vec<Tip> {
        let tip = |(sequence, digest): &(u64, Digest)| {
            let branch = self.branch(*sequence, digest);
            Tip::new(*sequence, |number| Mark::of(branch(number)))
        };
        self.tips.iter().map(tip).collect()
    }

    /// Whether it has the change that `tip` ends with.
    pub(crate) fn has(&self, tip: &Tip) -> bool {
        tip.changes().next().is_some_and(|(sequence, mark)| self.find_mark(sequence, mark).is_some())
    }

    /// What somebody lacks who has told these tips of the author, as far as it can be known: in canonical order, each after
    /// what it continues.
    ///
    /// Who knows an author further, and not by a branch that is known here, is taken to know all of it: it will say itself
    /// what is missing here, and is then known better. Of a branch that is not known here it is taken to share what it names.
    pub(crate) fn unknown_to<'a>(&'a self, tips: &[Tip]) -> Box<dyn Iterator<Item = &'a Link> + 'a> {
        if tips.iter().any(|tip| tip.next() > self.height()) {
            return Box::new(std::iter::empty());
        }
        let shared = |tip: &Tip| tip.changes().find_map(|(sequence, mark)| self.find_mark(sequence, mark));
        let shared: Vec<&Link> = tips.iter().filter_map(shared).collect();
        if !self.is_forked() {
            let from = shared.iter().map(|link| link.change.sequence + 1).max().unwrap_or(0);
            return Box::new(self.first.iter().skip(usize::try_from(from).unwrap_or(usize::MAX)));
        }
        let mut known: BTreeSet<(u64, Digest)> = BTreeSet::new();
        for link in shared {
            let mut next = Some(link);
            while let Some(link) = next.filter(|link| known.insert(link.key())) {
                next = self.parent_of(&link.change);
            }
        }
        let all = self.first.iter().chain(self.others.values().flatten());
        let mut unknown: Vec<&Link> = all.filter(|link| !known.contains(&link.key())).collect();
        unknown.sort_by_key(|link| (link.change.lamport, link.key()));
        Box::new(unknown.into_iter())
    }

    /// Of each number of the branch that ends there, the digest.
    fn branch<'a>(&'a self, sequence: u64, digest: &'a Digest) -> Box<dyn Fn(u64) -> &'a Digest + 'a> {
        if !self.is_forked() {
            return Box::new(|number| &self.first[index(number)].digest);
        }
        let mut digests = vec![digest; index(sequence) + 1];
        let mut next = self.find(sequence, digest);
        while let Some(link) = next {
            digests[index(link.change.sequence)] = &link.digest;
            next = self.parent_of(&link.change);
        }
        Box::new(move |number| digests[index(number)])
    }

    fn find_mark(&self, sequence: u64, mark: Mark) -> Option<&Link> {
        self.at(sequence).find(|link| Mark::of(&link.digest) == mark)
    }

    fn at(&self, sequence: u64) -> impl Iterator<Item = &Link> {
        let first = usize::try_from(sequence).ok().and_then(|index| self.first.get(index));
        first.into_iter().chain(self.others.get(&sequence).into_iter().flatten())
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("it numbers a change in memory")
}
