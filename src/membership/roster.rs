//! Who belongs to the cluster, as of a label: the part of the fold that decides who serves what.
//!
//! A pure function of the changes that a label covers. A removed identity is gone for ever, whatever else is said of it;
//! beyond that each author's own last word counts.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    digest::Digest,
    ident::{Name, NodeId},
    membership::{
        change::{Change, ChangeKind, Parameters, Profile},
        history::History,
        label::Label,
        view::{PlacementRules, RemovalRule},
    },
    ring::{Ring, RingMember},
};

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it last told of itself.
    pub profile: Profile,
    /// Lamport time at which it first joined.
    pub joined_lamport: u64,
    /// As whom the ring scores it: itself, or the member whose rows it took over.
    pub placement: NodeId,
    /// Whether it stays.
    pub standing: Standing,
}

/// Whether a member stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Staying,
    /// It serves until what it holds is safe elsewhere.
    Leaving,
    /// It is gone, and may join again.
    Left,
}

/// Who belongs to the cluster, and who does no more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roster {
    /// Everybody who ever joined and was not removed.
    pub(crate) people: BTreeMap<NodeId, Member>,
    /// Who was removed for ever, with the zone it was in.
    pub(crate) removed: BTreeMap<NodeId, Option<Name>>,
    /// The deciding changes among those folded.
    pub(crate) label: Label,
    /// Of authors who forked, the deciding changes by their digests, in canonical order: their label tells only how many.
    pub(crate) forks: Vec<Digest>,
    /// Who has forked.
    forked: BTreeSet<NodeId>,
    /// Founders that have joined, each with the label of its first joining.
    pub(crate) foundings: Vec<(NodeId, Label)>,
    /// Lamport time at which each last said that it would leave.
    leavings: BTreeMap<NodeId, u64>,
    /// The number of each author's last `Joined`, for the planted rule that lets the removed in again.
    last_joined: BTreeMap<NodeId, u64>,
}

impl Roster {
    /// Folds what `label` covers of `history`, or all of it.
    pub(crate) fn fold(history: &History, label: Option<&Label>, rules: PlacementRules) -> Roster {
        let mut roster = Roster { forked: history.forked().copied().collect(), ..Roster::default() };
        let mut founders = BTreeSet::new();
        let mut replacements = Vec::new();
        for change in history.iter().filter(|change| label.is_none_or(|label| label.covers(change))) {
            if change.kind.founding().is_some() {
                founders.insert(change.author);
            }
            if let ChangeKind::Replaced(replacement) = &change.kind {
                replacements.push((replacement.old.node, replacement.new));
            }
            roster.take(change, &founders);
        }
        roster.replace(&replacements);
        roster.remove(rules.removal);
        roster
    }

    /// The ring of those who stay. When nobody does, of the last that said it would go: somebody must, and that one has
    /// not gone. For whoever goes knows of one that stays and knows that it goes, so that one says so later.
    pub(crate) fn ring_members(&self) -> Vec<RingMember> {
        let staying = self.people.iter().filter(|(_, member)| member.standing == Standing::Staying);
        let staying: Vec<RingMember> = staying.map(|(id, member)| ring_member(*id, member)).collect();
        if !staying.is_empty() {
            return staying;
        }
        let last = self.people.iter().max_by_key(|(id, _)| (self.leavings.get(*id), **id));
        last.map(|(id, member)| ring_member(*id, member)).into_iter().collect()
    }

    /// See [`Roster::ring_members`].
    pub(crate) fn ring(&self, parameters: Parameters) -> Ring {
        Ring::new(self.ring_members(), parameters.partitions, parameters.replicas)
    }

    /// Takes note of a deciding change.
    fn decide(&mut self, change: &Change) {
        self.label.add(change);
        if self.forked.contains(&change.author) {
            self.forks.push(change.digest());
        }
    }

    fn take(&mut self, change: &Change, founders: &BTreeSet<NodeId>) {
        let author = change.author;
        match &change.kind {
            ChangeKind::Founded(_) | ChangeKind::Filled(_) | ChangeKind::Retired(_) => {}
            ChangeKind::Joined(profile) => {
                self.decide(change);
                if founders.contains(&author) && !self.foundings.iter().any(|(founder, _)| *founder == author) {
                    let mut label = Label::default();
                    label.add(change);
                    self.foundings.push((author, label));
                }
                self.last_joined.insert(author, change.sequence);
                let first = Member {
                    profile: profile.clone(),
                    joined_lamport: change.lamport,
                    placement: author,
                    standing: Standing::Staying,
                };
                let member = self.people.entry(author).or_insert(first);
                member.profile = profile.clone();
                member.standing = Standing::Staying;
            }
            ChangeKind::Updated(profile) => {
                if let Some(member) = self.people.get_mut(&author) {
                    let known = std::mem::replace(&mut member.profile, profile.clone());
                    if (known.zone, known.weight) != (profile.zone.clone(), profile.weight) {
                        self.decide(change);
                    }
                }
            }
            ChangeKind::Leaving => {
                self.decide(change);
                self.leavings.insert(author, change.lamport);
                self.people.entry(author).and_modify(|member| member.standing = Standing::Leaving);
            }
            // Whoever has taken its leave back has not left: what decides is its last word that decides.
            ChangeKind::Left => {
                let has_left = |member: &mut Member| {
                    if member.standing == Standing::Leaving {
                        member.standing = Standing::Left;
                    }
                };
                self.people.entry(author).and_modify(has_left);
            }
            ChangeKind::Removed(removal) => {
                self.decide(change);
                self.removed.insert(removal.node, None);
            }
            ChangeKind::Replaced(_) => self.decide(change),
        }
    }

    /// Of several replacements of one member the earliest counts, and of several by one. It takes effect once the new one
    /// has joined.
    fn replace(&mut self, replacements: &[(NodeId, NodeId)]) {
        let mut heirs: BTreeMap<NodeId, NodeId> = BTreeMap::new();
        for (old, new) in replacements {
            let is_possible = old != new && self.people.contains_key(old) && self.people.contains_key(new);
            let is_first = !heirs.contains_key(old) && !heirs.values().any(|heir| heir == new);
            if is_possible && is_first {
                heirs.insert(*old, *new);
            }
        }
        let origins: BTreeMap<NodeId, NodeId> = heirs.iter().map(|(old, new)| (*new, *old)).collect();
        for heir in origins.keys() {
            let mut placement = *heir;
            // Each step goes to another member; two that replace each other end somewhere all the same.
            for _ in 0..origins.len() {
                placement = origins.get(&placement).copied().unwrap_or(placement);
            }
            self.people.entry(*heir).and_modify(|member| member.placement = placement);
        }
        self.removed.extend(heirs.keys().map(|old| (*old, None)));
    }

    fn remove(&mut self, rule: RemovalRule) {
        if rule == RemovalRule::UntilItJoinsAgain {
            let last_joined = &self.last_joined;
            self.removed.retain(|node, _| last_joined.get(node).is_none_or(|sequence| *sequence < 2));
        }
        for (node, zone) in &mut self.removed {
            if let Some(member) = self.people.remove(node) {
                *zone = member.profile.zone;
            }
        }
    }
}

fn ring_member(id: NodeId, member: &Member) -> RingMember {
    let Member { profile, placement, .. } = member;
    RingMember { id, placement: *placement, zone: profile.zone.clone(), weight: profile.weight }
}
