//! Configurations: which rows a partition's quorums must overlap in while ownership changes.
//!
//! A **configuration** is the row that follows from a label, fixed for ever. It is *established* when every member of that
//! row has said under that label that it holds the partition completely; it is *passed* when somebody has said under a
//! larger label that nothing is needed of it any more. The founders' configurations are established from the start. Those
//! that are established and not passed are **active**: quorums are asked for in each of them. In steady state that is one,
//! and it is the partition's row.
//!
//! All of it is a pure function of the history. It does not know who can be reached, nor what anybody really holds.
//!
//! Source: Lynch and Shvartsman, "RAMBO" (2002), for several configurations that are active at once and an old one that is
//! retired when a new one holds everything. **Departure**: no consensus decides which configuration comes next; every set of
//! planned changes is one.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    digest::Digest,
    ident::NodeId,
    limits::CANDIDATE_COUNT_MAX,
    membership::{
        change::{ChangeKind, Parameters, Statement},
        history::History,
        label::Label,
        roster::Roster,
        view::{IslandRule, PlacementRules},
    },
    ring::{Ring, RingMember, partition_set::PartitionSet, token::Partition},
};

/// The configurations of all partitions that are not passed yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Configurations {
    candidates: Vec<Candidate>,
    /// Partition after partition, the candidates that are active in it.
    active: Vec<Vec<u16>>,
    /// Partitions in which nothing needs to be filled.
    settled: Vec<bool>,
}

/// A label under which somebody holds something, or founded the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    label: Label,
    digest: Digest,
    ring: Arc<Ring>,
    is_founding: bool,
    filled: BTreeMap<NodeId, PartitionSet>,
    retired: PartitionSet,
    passed: PartitionSet,
}

impl Candidate {
    fn has_filled(&self, node: &NodeId, partition: Partition) -> bool {
        self.filled.get(node).is_some_and(|set| set.contains(partition))
    }

    /// Whether it matters for `partition` at all: somebody has said something of it, or founded the cluster.
    fn is_about(&self, partition: Partition) -> bool {
        let is_said = self.is_founding || self.retired.contains(partition);
        (is_said || self.filled.values().any(|set| set.contains(partition))) && !self.passed.contains(partition)
    }

    fn is_established(&self, partition: Partition) -> bool {
        // Whoever retired others in its favour saw it established.
        let is_certain = self.is_founding || self.retired.contains(partition);
        let row = self.ring.row(partition);
        is_certain || (!row.is_empty() && row.iter().all(|node| self.has_filled(node, partition)))
    }
}

impl Configurations {
    /// What `history` says, whose current row is that of `ring`. Rings that `known` has are not built again.
    pub(crate) fn fold(
        history: &History,
        roster: &Roster,
        ring: &Ring,
        known: &Configurations,
        rules: PlacementRules,
    ) -> Configurations {
        let Some(parameters) = history.parameters() else { return Configurations::default() };
        let mut drafts = Drafts { history, parameters, found: BTreeMap::new() };
        drafts.add_foundings(roster, rules.islands);
        drafts.add_statements();
        drafts.pass();
        let count = usize::try_from(parameters.partitions.get()).expect("at most 65 536 partitions");
        // What a label covers of an author who forked grows without a change of the label.
        let is_forked = history.forked().next().is_some();
        let stale = Configurations::default();
        let candidates = drafts.into_candidates(count, if is_forked { &stale } else { known }, rules);
        let (active, settled) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut configurations = Configurations { candidates, active, settled };
        for partition in parameters.partitions.iter() {
            configurations.add_partition(partition, ring);
        }
        configurations
    }

    /// The rows that quorums must overlap in, each once whatever their order. Each distinct; a row may have members that
    /// were removed since.
    pub fn active(&self, partition: Partition) -> Vec<&[NodeId]> {
        let mut rows: Vec<&[NodeId]> = Vec::new();
        for candidate in self.active_candidates(partition) {
            let row = candidate.ring.row(partition);
            if !rows.iter().any(|known| is_same(known, row)) {
                rows.push(row);
            }
        }
        rows
    }

    /// Names the active configurations: the digests of their labels, sorted.
    pub fn active_labels(&self, partition: Partition) -> impl Iterator<Item = &Digest> {
        self.active_candidates(partition).map(|candidate| &candidate.digest)
    }

    /// Whether nobody needs to fill `partition`: every row that may still count is the present one.
    pub fn is_settled(&self, partition: Partition) -> bool {
        self.settled.get(usize::from(partition.0)).copied().unwrap_or(true)
    }

    /// Whether `node` has said under `label` that it holds `partition`.
    pub fn has_filled(&self, label: &Label, node: &NodeId, partition: Partition) -> bool {
        self.candidate(label).is_some_and(|candidate| candidate.has_filled(node, partition))
    }

    /// Whether all who hold `partition` under `label` have said so.
    pub fn is_established(&self, label: &Label, partition: Partition) -> bool {
        self.candidate(label).is_some_and(|candidate| candidate.is_established(partition))
    }

    /// Whether somebody has said under `label` that nothing is needed any more of who held `partition` before.
    pub fn is_retired(&self, label: &Label, partition: Partition) -> bool {
        self.candidate(label).is_some_and(|candidate| candidate.retired.contains(partition))
    }

    /// Whether anybody holds `partition`, or has said that it does, under another label than this.
    pub fn has_others(&self, label: &Label, partition: Partition) -> bool {
        self.candidates.iter().any(|candidate| candidate.label != *label && candidate.is_about(partition))
    }

    /// Whether `node` must keep `partition` for a configuration: an active one, or one that it has filled and that may yet
    /// become so.
    pub fn binds(&self, node: &NodeId, partition: Partition) -> bool {
        let is_listed = |candidate: &Candidate| candidate.ring.row(partition).contains(node);
        self.active_candidates(partition).any(is_listed)
            || self
                .candidates
                .iter()
                .any(|candidate| candidate.has_filled(node, partition) && !candidate.passed.contains(partition))
    }

    /// Labels that somebody may still hold something under. One in steady state.
    pub fn label_count(&self) -> usize {
        self.candidates.len()
    }

    fn active_candidates(&self, partition: Partition) -> impl Iterator<Item = &Candidate> {
        let indices = self.active.get(usize::from(partition.0)).map_or(&[][..], Vec::as_slice);
        indices.iter().map(|index| &self.candidates[usize::from(*index)])
    }

    fn candidate(&self, label: &Label) -> Option<&Candidate> {
        self.candidates.iter().find(|candidate| candidate.label == *label)
    }

    fn add_partition(&mut self, partition: Partition, ring: &Ring) {
        let row = ring.row(partition);
        let (mut active, mut is_settled, mut is_served) = (Vec::new(), true, false);
        for (index, candidate) in (0..).zip(&self.candidates).filter(|(_, candidate)| candidate.is_about(partition)) {
            let is_present = is_same(candidate.ring.row(partition), row);
            is_settled &= is_present;
            if candidate.is_established(partition) {
                is_served |= is_present;
                active.push(index);
            }
        }
        self.active.push(active);
        self.settled.push(is_settled && is_served);
    }
}

/// Candidates as they are found, before it is known which of them matter.
struct Drafts<'a> {
    history: &'a History,
    parameters: Parameters,
    found: BTreeMap<Label, Draft>,
}

struct Draft {
    founder: Option<NodeId>,
    filled: BTreeMap<NodeId, PartitionSet>,
    retired: PartitionSet,
    passed: PartitionSet,
}

impl Drafts<'_> {
    /// Each founder held everything alone, until others joined it.
    fn add_foundings(&mut self, roster: &Roster, rule: IslandRule) {
        for (founder, label) in &roster.foundings {
            if (rule == IslandRule::All || self.found.is_empty())
                && let Some(draft) = self.draft(label)
            {
                draft.founder = Some(*founder);
            }
        }
    }

    fn add_statements(&mut self) {
        for change in self.history.iter() {
            match &change.kind {
                ChangeKind::Filled(Statement { label, partitions }) => {
                    if let Some(draft) = self.draft(label) {
                        let empty = PartitionSet::empty(partitions.partitions());
                        draft.filled.entry(change.author).or_insert(empty).add_all(partitions);
                    }
                }
                ChangeKind::Retired(Statement { label, partitions }) => {
                    if let Some(draft) = self.draft(label) {
                        draft.retired.add_all(partitions);
                    }
                }
                ChangeKind::Founded(_)
                | ChangeKind::Joined(_)
                | ChangeKind::Updated(_)
                | ChangeKind::Leaving
                | ChangeKind::Left
                | ChangeKind::Removed(_)
                | ChangeKind::Replaced(_) => {}
            }
        }
    }

    /// The draft of `label`; none while this history does not know all of the label.
    fn draft(&mut self, label: &Label) -> Option<&mut Draft> {
        let is_known = label.is_known_by(|author| self.history.known_of(author));
        if label.is_empty() || !is_known {
            return None;
        }
        let empty = PartitionSet::empty(self.parameters.partitions);
        let new = || Draft { founder: None, filled: BTreeMap::new(), retired: empty.clone(), passed: empty };
        Some(self.found.entry(label.clone()).or_insert_with(new))
    }

    /// Marks of each the partitions in which a larger one was retired to.
    fn pass(&mut self) {
        let is_retired = |(_, draft): &(&Label, &Draft)| !draft.retired.is_empty();
        let retired = self.found.iter().filter(is_retired).map(|(label, draft)| (label.clone(), draft.retired.clone()));
        let retired: Vec<(Label, PartitionSet)> = retired.collect();
        for (label, draft) in &mut self.found {
            let larger = retired.iter().filter(|(other, _)| label.is_strictly_within(other));
            larger.for_each(|(_, partitions)| draft.passed.add_all(partitions));
        }
    }

    /// Those that still matter in one of `count` partitions, with their rows. Of too many, those that others were retired
    /// to, and founders, come first.
    fn into_candidates(self, count: usize, known: &Configurations, rules: PlacementRules) -> Vec<Candidate> {
        let Drafts { history, parameters, found } = self;
        let mut mattering: Vec<(Label, Draft)> =
            found.into_iter().filter(|(_, draft)| draft.passed.len() < count).collect();
        mattering.sort_by_key(|(_, draft)| draft.founder.is_none() && draft.retired.is_empty());
        mattering.truncate(CANDIDATE_COUNT_MAX);
        let candidate = |(label, draft): (Label, Draft)| {
            let Draft { founder, filled, retired, passed } = draft;
            let ring = match (founder, known.candidate(&label)) {
                (_, Some(candidate)) if candidate.is_founding == founder.is_some() => Arc::clone(&candidate.ring),
                (Some(founder), _) => Arc::new(ring_of_one(founder, parameters)),
                (None, _) => Arc::new(Roster::fold(history, Some(&label), rules).ring(parameters)),
            };
            let (digest, is_founding) = (label.digest(), founder.is_some());
            Candidate { label, digest, ring, is_founding, filled, retired, passed }
        };
        mattering.into_iter().map(candidate).collect()
    }
}

fn ring_of_one(node: NodeId, Parameters { partitions, replicas }: Parameters) -> Ring {
    Ring::new(vec![RingMember { id: node, placement: node, zone: None, weight: 1 }], partitions, replicas)
}

/// Whether two rows have the same members.
pub(crate) fn is_same(a: &[NodeId], b: &[NodeId]) -> bool {
    a.len() == b.len() && a.iter().all(|node| b.contains(node))
}
