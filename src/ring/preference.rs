//! Preference lists: whom to ask for a partition, in which order, and in which role.
//!
//! A list is made for one operation from the ring and from what this node believes of others. It keeps the order of
//! the ring whatever is believed, so that two nodes of different opinions still agree on who the primaries are and in
//! which order fallbacks stand in. It knows nothing of quorums.

use std::collections::BTreeSet;

use crate::{
    ident::NodeId,
    ring::{Ring, token::Partition},
};

/// All members in the order in which they should serve one partition. Entries are distinct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreferenceList {
    /// Primaries first, then fallbacks, both in the order of the ring.
    pub entries: Vec<Entry>,
    reachable: BTreeSet<NodeId>,
}

/// A member in its role for one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Who.
    pub node: NodeId,
    /// In which role.
    pub role: Role,
}

/// What a member is to a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// One of the row, reachable or not.
    Primary,
    /// Not of the row; stands in for a primary that cannot be reached, and keeps hints for it.
    Fallback,
}

/// All members, in the order in which they should serve `partition`.
///
/// Members are ranked by rendezvous score within their zone; the list sorts by that rank, then by score, so its first
/// entries span as many zones as there are. The first N are the row: they are primaries whether reachable or not.
///
/// - `reachable` is this node's opinion and may be wrong; the list is still valid, only slower. It moves nobody in the
///   list; [`PreferenceList::first_reachable`] heeds it. It should hold this node itself.
/// - Length: the number of members. Never empty on a non-empty ring that has the partition. Entries are distinct.
/// - A joining member inserts itself and shifts the rest: nobody else enters the row.
///
/// Source: DeCandia et al., "Dynamo" (SOSP 2007), sections 4.3 and 6.2 (strategy 3); Thaler and Ravishankar, "Using
/// name-based mappings to increase hit rates" (1998) for rendezvous hashing.
/// **Departure**: the paper walks the ring clockwise; rendezvous keeps its properties and moves less.
///
/// ```
/// use std::collections::BTreeSet;
///
/// use quorate::ident::NodeId;
/// use quorate::ring::{Ring, RingMember, preference::{Role, preference_list}, token::{Partition, PartitionCount}};
///
/// let member = |n| RingMember { id: NodeId([n; 32]), placement: NodeId([n; 32]), zone: None, weight: 1 };
/// let ring = Ring::new((1..=4).map(member).collect(), PartitionCount::new(8)?, 3);
/// let down = ring.row(Partition(0))[1];
/// let reachable: BTreeSet<NodeId> = ring.members().iter().map(|member| member.id).filter(|&id| id != down).collect();
///
/// let list = preference_list(Partition(0), &reachable, &ring);
/// assert_eq!(list.entries.len(), 4);
/// assert_eq!(list.row()[1].node, down);
/// let roles: Vec<Role> = list.first_reachable(3).iter().map(|entry| entry.role).collect();
/// assert_eq!(roles, [Role::Primary, Role::Primary, Role::Fallback]);
/// # Ok::<(), quorate::ring::token::PartitionCountError>(())
/// ```
pub fn preference_list(partition: Partition, reachable: &BTreeSet<NodeId>, ring: &Ring) -> PreferenceList {
    let row_length = ring.row(partition).len();
    let role_of = |index| if index < row_length { Role::Primary } else { Role::Fallback };
    let ranking = ring.ranking(partition).into_iter().enumerate();
    let entries: Vec<Entry> = ranking.map(|(index, node)| Entry { node, role: role_of(index) }).collect();
    let reachable = entries.iter().map(|entry| entry.node).filter(|node| reachable.contains(node)).collect();
    PreferenceList { entries, reachable }
}

impl PreferenceList {
    /// The primaries, reachable or not, in order: min(N, members) entries.
    pub fn row(&self) -> &[Entry] {
        let length = self.entries.iter().take_while(|entry| entry.role == Role::Primary).count();
        &self.entries[..length]
    }

    /// The first `n` entries believed reachable, in order; fewer if there are not so many.
    pub fn first_reachable(&self, n: usize) -> Vec<Entry> {
        self.entries.iter().filter(|entry| self.reachable.contains(&entry.node)).take(n).copied().collect()
    }

    /// Whether `node` was believed reachable when the list was made.
    pub fn is_reachable(&self, node: &NodeId) -> bool {
        self.reachable.contains(node)
    }
}
