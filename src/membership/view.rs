//! The view: what a history says, folded.
//!
//! A pure function of the set of changes: same set, same view, whatever the order of arrival; same view, same ring.
//! The view says who belongs to the cluster and who serves what. It does not know who can be reached.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    digest::{Digest, Domain},
    ident::{Key, Name, NodeId},
    membership::{
        change::Parameters,
        configuration::{Configurations, is_same},
        history::History,
        label::Label,
        roster::{Member, Roster, Standing},
    },
    ring::{
        Ring,
        token::{Partition, PartitionCount},
    },
};

/// What a history folds to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// What the cluster was founded with; none before a founding is known.
    pub parameters: Option<Parameters>,
    /// Who belongs to the cluster, by id: those that stay and those about to leave. At most `MEMBER_COUNT_MAX`; may be
    /// empty.
    pub members: BTreeMap<NodeId, Member>,
    /// Who was taken away for ever, with the zone it was in.
    pub removed: BTreeMap<NodeId, Option<Name>>,
    /// Who has signed different changes under one number. Everything that they said counts.
    pub forked: BTreeSet<NodeId>,
    /// Who is to serve what: the rows of those that stay. None before a founding is known, without members it is empty.
    pub ring: Option<Arc<Ring>>,
    /// The changes that decide who is to serve what. Same label, same ring.
    pub label: Label,
    /// Which rows quorums must overlap in.
    pub configurations: Configurations,
    /// Partition after partition, what [`View::partition_digest`] names.
    digests: Vec<Digest>,
    placement: Digest,
    rules: PlacementRules,
}

/// By what rules a history decides who serves what. All but [`PlacementRules::sound`] exist so that tests can plant a bug
/// and see it caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacementRules {
    /// For how long a removed identity is gone.
    pub removal: RemovalRule,
    /// Whose data count when clusters meet.
    pub islands: IslandRule,
    /// What must be kept.
    pub keeping: KeepRule,
}

/// See [`PlacementRules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovalRule {
    /// For ever.
    ForEver,
    /// Until it says that it joins. Breaks P6: what it lost or missed is taken for the truth.
    UntilItJoinsAgain,
}

/// See [`PlacementRules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IslandRule {
    /// Those of all founders.
    All,
    /// Those of the first. Breaks P1: what was written on the other island is not read.
    First,
}

/// See [`PlacementRules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepRule {
    /// What the row, an active configuration or one that was filled asks for.
    WhileNeeded,
    /// What the present row asks for. Breaks P1: data is dropped before others hold it.
    RowOnly,
}

impl PlacementRules {
    /// The rules that keep the promises.
    pub fn sound() -> PlacementRules {
        PlacementRules { removal: RemovalRule::ForEver, islands: IslandRule::All, keeping: KeepRule::WhileNeeded }
    }
}

impl View {
    /// What `history` says.
    ///
    /// A founding alone makes no member; a `Joined` does; an `Updated` of a member replaces its profile, and of
    /// anybody else means nothing. Costs the building of the ring, one hash per partition and unit of weight, for each
    /// label that still matters.
    pub fn fold(history: &History) -> View {
        View::fold_by(history, PlacementRules::sound())
    }

    /// The same as [`View::fold`], by other rules.
    pub fn fold_by(history: &History, rules: PlacementRules) -> View {
        View::fold_with(None, &Configurations::default(), history, rules)
    }

    /// The same, but shares this view's rings, and saves their cost, if nothing that they heed has changed.
    pub fn refold(&self, history: &History) -> View {
        View::fold_with(self.ring.as_ref(), &self.configurations, history, self.rules)
    }

    fn fold_with(
        known: Option<&Arc<Ring>>,
        configurations: &Configurations,
        history: &History,
        rules: PlacementRules,
    ) -> View {
        let roster = Roster::fold(history, None, rules);
        let parameters = history.parameters();
        let ring = parameters.map(|parameters| share_or_build_ring(known, parameters, &roster));
        let configurations = match &ring {
            Some(ring) => Configurations::fold(history, &roster, ring, configurations, rules),
            None => Configurations::default(),
        };
        let foundings: Vec<Digest> =
            history.iter().filter(|change| change.kind.founding().is_some()).map(|change| change.digest()).collect();
        let placement = placement_digest(&foundings, &roster.label, &roster.forks);
        let forked = history.forked().copied().collect();
        let Roster { mut people, removed, label, .. } = roster;
        people.retain(|_, member| member.standing != Standing::Left);
        let mut view = View {
            parameters,
            members: people,
            removed,
            forked,
            ring,
            label,
            configurations,
            digests: Vec::new(),
            placement,
            rules,
        };
        view.digests = view.partitions().map(|partition| view.digest_of(partition)).collect();
        view
    }

    /// All partitions of the ring; none before a founding is known.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        let count = self.parameters.map(|parameters| parameters.partitions);
        count.into_iter().flat_map(PartitionCount::iter)
    }

    /// The present row of `partition`; empty before there is one.
    pub fn row(&self, partition: Partition) -> &[NodeId] {
        self.ring.as_ref().map_or(&[], |ring| ring.row(partition))
    }

    /// The rows that quorums of `partition` must overlap in beside the present one.
    pub fn other_rows(&self, partition: Partition) -> Vec<&[NodeId]> {
        let row = self.row(partition);
        self.configurations.active(partition).into_iter().filter(|active| !is_same(active, row)).collect()
    }

    /// Everybody who is to serve `partition` or still has to: the present row first, then members of active configurations
    /// that were not removed. Distinct.
    pub fn listed(&self, partition: Partition) -> Vec<NodeId> {
        let mut listed = self.row(partition).to_vec();
        for node in self.other_rows(partition).into_iter().flatten() {
            if !listed.contains(node) && !self.removed.contains_key(node) {
                listed.push(*node);
            }
        }
        listed
    }

    /// Whether `node` is to hold `partition`: the present row lists it, an active configuration does, or one that it has
    /// filled and that may yet become active.
    pub fn holds(&self, node: &NodeId, partition: Partition) -> bool {
        let is_bound = || self.rules.keeping == KeepRule::WhileNeeded && self.configurations.binds(node, partition);
        self.row(partition).contains(node) || is_bound()
    }

    /// Whether `node` is to hold `key`.
    pub fn holds_key(&self, node: &NodeId, key: &Key) -> bool {
        self.ring.as_ref().is_some_and(|ring| self.holds(node, ring.partition_of(key)))
    }

    /// What `node` is to hold, in ascending order.
    pub fn held_by(&self, node: &NodeId) -> impl Iterator<Item = Partition> {
        self.partitions().filter(move |partition| self.holds(node, *partition))
    }

    /// Whether `node` is to hold `partition` from now on and has not said yet that it does.
    pub fn wants_filling(&self, node: &NodeId, partition: Partition) -> bool {
        self.row(partition).contains(node)
            && !self.configurations.is_settled(partition)
            && !self.configurations.has_filled(&self.label, node, partition)
    }

    /// Whether `node` was removed, and is gone for ever.
    pub fn bans(&self, node: &NodeId) -> bool {
        self.rules.removal == RemovalRule::ForEver && self.removed.contains_key(node)
    }

    /// Partitions in which more than the present row counts still, in ascending order.
    pub fn unsettled(&self) -> impl Iterator<Item = Partition> {
        let is_settled = |it: Partition| self.configurations.is_settled(it) && self.other_rows(it).is_empty();
        self.partitions().filter(move |partition| !is_settled(*partition))
    }

    /// Whether both say the same of every partition.
    pub fn serves_as(&self, other: &View) -> bool {
        self.digests == other.digests
    }

    /// Everybody who is in a present row together with `node`.
    pub fn co_owners(&self, node: &NodeId) -> BTreeSet<NodeId> {
        let Some(ring) = &self.ring else { return BTreeSet::new() };
        let rows = ring.held_by(node).flat_map(|partition| ring.row(partition).iter().copied());
        rows.filter(|other| other != node).collect()
    }

    /// Names everything that the history says of who is to serve what: its foundings, the label and forks.
    pub fn placement_digest(&self) -> Digest {
        self.placement
    }

    /// Names everything that the history says of `partition`: its foundings, the label and the active configurations.
    ///
    /// Quorums count only answers given under one and the same digest.
    pub fn partition_digest(&self, partition: Partition) -> Digest {
        self.digests.get(usize::from(partition.0)).copied().unwrap_or(self.placement)
    }

    fn digest_of(&self, partition: Partition) -> Digest {
        let mut labels: Vec<&Digest> = self.configurations.active_labels(partition).collect();
        labels.sort_unstable();
        let labels: Vec<u8> = labels.into_iter().flat_map(|label| label.0).collect();
        Digest::of(Domain::Partition, &[&partition.0.to_be_bytes(), &self.placement.0, &labels])
    }
}

fn share_or_build_ring(known: Option<&Arc<Ring>>, parameters: Parameters, roster: &Roster) -> Arc<Ring> {
    let Parameters { partitions, replicas } = parameters;
    let members = roster.ring_members();
    match known {
        Some(ring) if ring.members() == members && ring.partitions() == partitions && ring.replicas() == replicas => {
            Arc::clone(ring)
        }
        Some(_) | None => Arc::new(roster.ring(parameters)),
    }
}

/// A label counts changes; of an author who forked they may be others elsewhere. So those are named too, and who does not know
/// all of them yet is not counted with who does.
fn placement_digest(foundings: &[Digest], label: &Label, forks: &[Digest]) -> Digest {
    let bytes = |digests: &[Digest]| digests.iter().flat_map(|digest| digest.0).collect::<Vec<u8>>();
    Digest::of(Domain::Partition, &[&label.digest().0, &bytes(foundings), &bytes(forks)])
}
