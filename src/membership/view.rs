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
    ident::NodeId,
    membership::{
        change::{Change, ChangeKind, Parameters, Profile},
        history::History,
    },
    ring::{Ring, RingMember, token::Partition},
};

/// What a history folds to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// What the cluster was founded with; none before a founding is known.
    pub parameters: Option<Parameters>,
    /// Who has joined, by id. At most `MEMBER_COUNT_MAX`; may be empty.
    pub members: BTreeMap<NodeId, Member>,
    /// Who serves what; none before a founding is known, without members it is empty.
    pub ring: Option<Arc<Ring>>,
    /// Names the set of changes that decide who serves what: so far, those that joined and those that gave a member
    /// another zone or weight. Same label, same ring.
    pub label: Digest,
    /// Names the set of foundings.
    foundings: Digest,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it last told of itself.
    pub profile: Profile,
    /// Lamport time at which it first joined.
    pub joined_lamport: u64,
    /// As whom the ring scores it.
    pub placement: NodeId,
}

impl View {
    /// What `history` says.
    ///
    /// A founding alone makes no member; a `Joined` does; an `Updated` of a member replaces its profile, and of
    /// anybody else means nothing. Costs the building of the ring: one hash per partition and unit of weight.
    pub fn fold(history: &History) -> View {
        View::fold_with(None, history)
    }

    /// The same as [`View::fold`], but shares this view's ring, and saves its cost, if nothing that the ring heeds has
    /// changed.
    pub fn refold(&self, history: &History) -> View {
        View::fold_with(self.ring.as_ref(), history)
    }

    fn fold_with(known: Option<&Arc<Ring>>, history: &History) -> View {
        let mut members = BTreeMap::new();
        let mut deciding = Vec::new();
        let mut founded = Vec::new();
        for change in history.iter() {
            match &change.kind {
                ChangeKind::Founded(_) => founded.push(change.digest()),
                ChangeKind::Joined(profile) => {
                    deciding.push(change.digest());
                    let first = Member::joined(change, profile);
                    members.entry(change.author).or_insert(first).profile = profile.clone();
                }
                ChangeKind::Updated(profile) => {
                    if let Some(member) = members.get_mut(&change.author) {
                        let known = std::mem::replace(&mut member.profile, profile.clone());
                        if (known.zone, known.weight) != (profile.zone.clone(), profile.weight) {
                            deciding.push(change.digest());
                        }
                    }
                }
            }
        }
        let parameters = history.parameters();
        let ring = parameters.map(|parameters| share_or_build_ring(known, parameters, &members));
        View { parameters, members, ring, label: digest_of_set(1, &deciding), foundings: digest_of_set(2, &founded) }
    }

    /// Everybody who is in a row together with `node`.
    pub fn co_owners(&self, node: &NodeId) -> BTreeSet<NodeId> {
        let Some(ring) = &self.ring else { return BTreeSet::new() };
        let rows = ring.held_by(node).flat_map(|partition| ring.row(partition).iter().copied());
        rows.filter(|other| other != node).collect()
    }

    /// Names everything that the history says of who serves what: its foundings and the label.
    pub fn placement_digest(&self) -> Digest {
        Digest::of(Domain::Partition, &[&self.foundings.0, &self.label.0])
    }

    /// Names everything that the history says of `partition`: its foundings and the label.
    ///
    /// Quorums count only answers given under one and the same digest.
    pub fn partition_digest(&self, partition: Partition) -> Digest {
        let number = partition.0.to_be_bytes();
        Digest::of(Domain::Partition, &[&number, &self.foundings.0, &self.label.0])
    }
}

impl Member {
    fn joined(change: &Change, profile: &Profile) -> Member {
        Member { profile: profile.clone(), joined_lamport: change.lamport, placement: change.author }
    }
}

fn share_or_build_ring(
    known: Option<&Arc<Ring>>,
    parameters: Parameters,
    members: &BTreeMap<NodeId, Member>,
) -> Arc<Ring> {
    let ring_member = |(&id, member): (&NodeId, &Member)| RingMember {
        id,
        placement: member.placement,
        zone: member.profile.zone.clone(),
        weight: member.profile.weight,
    };
    let Parameters { partitions, replicas } = parameters;
    let members: Vec<RingMember> = members.iter().map(ring_member).collect();
    match known {
        Some(ring) if ring.members() == members && ring.partitions() == partitions && ring.replicas() == replicas => {
            Arc::clone(ring)
        }
        Some(_) | None => Arc::new(Ring::new(members, partitions, replicas)),
    }
}

/// Names a set of changes, given in canonical order; `tag` tells sets of different purpose apart.
fn digest_of_set(tag: u8, changes: &[Digest]) -> Digest {
    let bytes: Vec<u8> = changes.iter().flat_map(|change| change.0).collect();
    Digest::of(Domain::History, &[&[tag], &bytes])
}
