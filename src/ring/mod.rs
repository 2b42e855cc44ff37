//! The ring: which members serve which partition.
//!
//! A [`Ring`] is an immutable table, a pure function of its members: equal members, equal ring, on every platform and
//! in whatever order they are given (integers only, ties broken by id). Every partition ranks *all* members; the first
//! N are its **row**. The ranking is weighted rendezvous hashing with zones:
//!
//! - a member's score for a partition is the highest of `weight` hashes of (placement, partition, i);
//! - within each zone members are ranked by score; the list sorts by (rank within zone, score descending).
//!
//! Hence the first entries span as many zones as there are; a joining member inserts itself and nobody else enters a
//! row; a leaving member's place in a row goes to exactly one other. Members without a zone share one nameless zone:
//! were each a zone of its own, a single named zone among them would be starved.
//!
//! The ring knows neither who is reachable nor any history, and it has no version number: without a leader rings have
//! no order, only equality.
//!
//! Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998). **Departure** from
//! DeCandia et al., "Dynamo" (SOSP 2007), section 4.2: the paper walks a ring of random tokens clockwise; rendezvous
//! hashing over equal partitions is as consistent and moves less.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::{
    digest::{Digest, Domain},
    ident::{Key, Name, NodeId},
    limits::MEMBER_COUNT_MAX,
    ring::token::{Partition, PartitionCount, Token},
};

pub mod partition_set;
pub mod token;

#[cfg(test)]
mod properties;

/// A member as the ring sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RingMember {
    /// Who it is.
    pub id: NodeId,
    /// As whom it is scored: itself, or the member whose rows it took over.
    pub placement: NodeId,
    /// Its rack or data centre. Members without one share one nameless zone.
    pub zone: Option<Name>,
    /// Its share relative to others: 1 to `WEIGHT_MAX`, hashes per partition. Zero counts as one.
    pub weight: u16,
}

/// Which members serve which partition. Immutable; see the module for the rule.
///
/// Memory: two bytes per partition and member, and 32 per vnode. Building costs one hash per partition and unit of
/// weight; measured with 1024 partitions: 1.2 ms for 5 members, 0.13 s for 512, 7.6 s for 512 of the largest weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    /// Sorted by id, distinct.
    members: Vec<RingMember>,
    partitions: PartitionCount,
    replicas: u8,
    /// Partition after partition, the indices of all members in order.
    rankings: Vec<u16>,
    /// Partition after partition, the ids of its row.
    rows: Vec<NodeId>,
}

impl Ring {
    /// The ring of `members`, cut into `partitions`, with `replicas` (at least 1) entries to a row.
    ///
    /// The order of `members` is irrelevant. Of several members with one id the least (by placement, zone, weight)
    /// counts.
    ///
    /// # Panics
    /// If `replicas` is zero or there are more than `MEMBER_COUNT_MAX` members: a history holds neither.
    pub fn new(mut members: Vec<RingMember>, partitions: PartitionCount, replicas: u8) -> Ring {
        assert!(replicas >= 1, "a row without entries would keep nothing");
        members.sort();
        members.dedup_by(|later, earlier| later.id == earlier.id);
        assert!(members.len() <= MEMBER_COUNT_MAX, "a history bounds its members");

        let zones = number_zones(&members);
        let row_length = members.len().min(usize::from(replicas));
        let mut ring = Ring { members, partitions, replicas, rankings: Vec::new(), rows: Vec::new() };
        for partition in partitions.iter() {
            let ranking = rank(partition, &ring.members, &zones);
            let ids = ranking.iter().map(|&index| ring.members[usize::from(index)].id);
            ring.rows.extend(ids.take(row_length));
            ring.rankings.extend(ranking);
        }
        ring
    }

    /// The row of `partition`: the first N of its ranking, or all members if there are fewer. Distinct, best first.
    ///
    /// Empty only for a ring without members, or a partition that this ring does not have.
    pub fn row(&self, partition: Partition) -> &[NodeId] {
        slice_of(&self.rows, self.row_length(), partition)
    }

    /// The **preference list** of `partition`: all members in the order in which they should serve it. Begins with the
    /// row, whose members are the primaries; the others are the fallbacks. Nobody's being away changes it.
    ///
    /// Empty only for a ring without members, or a partition that this ring does not have.
    pub fn ranking(&self, partition: Partition) -> Vec<NodeId> {
        let indices = slice_of(&self.rankings, self.members.len(), partition);
        indices.iter().map(|&index| self.members[usize::from(index)].id).collect()
    }

    /// All members that are not in the row of `partition`, in the order in which they stand in for those who are.
    pub fn fallbacks(&self, partition: Partition) -> impl Iterator<Item = NodeId> + '_ {
        let indices = slice_of(&self.rankings, self.members.len(), partition);
        indices.iter().skip(self.row_length()).map(|&index| self.members[usize::from(index)].id)
    }

    /// The token set of `node`: the partitions whose row it heads, in ascending order. Empty for a stranger.
    pub fn tokens_of(&self, node: &NodeId) -> Vec<Partition> {
        self.partitions.iter().filter(|&partition| self.row(partition).first() == Some(node)).collect()
    }

    /// The partitions in whose row `node` is, in ascending order: its vnodes. None for a stranger.
    pub fn held_by(&self, node: &NodeId) -> impl Iterator<Item = Partition> {
        let node = *node;
        self.partitions.iter().filter(move |&partition| self.row(partition).contains(&node))
    }

    /// The partition of `key`.
    pub fn partition_of(&self, key: &Key) -> Partition {
        Token::of(key).partition(self.partitions)
    }

    /// Into how many partitions it is cut.
    pub fn partitions(&self) -> PartitionCount {
        self.partitions
    }

    /// How many entries a row has when there are enough members: N, at least 1.
    pub fn replicas(&self) -> u8 {
        self.replicas
    }

    /// Its members, sorted by id, distinct. At most `MEMBER_COUNT_MAX`.
    pub fn members(&self) -> &[RingMember] {
        &self.members
    }

    fn row_length(&self) -> usize {
        self.members.len().min(usize::from(self.replicas))
    }
}

/// The entries of `partition` in a table of `length` entries for each; empty beyond the table.
fn slice_of<T>(table: &[T], length: usize, partition: Partition) -> &[T] {
    let start = usize::from(partition.0) * length;
    table.get(start..start + length).unwrap_or(&[])
}

/// For each member the number of its zone; nothing but equality of the numbers matters.
fn number_zones(members: &[RingMember]) -> Vec<usize> {
    let mut numbers = BTreeMap::new();
    let number_of = |member| {
        let next = numbers.len();
        *numbers.entry(member).or_insert(next)
    };
    members.iter().map(|member| member.zone.as_ref()).map(number_of).collect()
}

/// Indices of all members, in the order in which they should serve `partition`.
fn rank(partition: Partition, members: &[RingMember], zones: &[usize]) -> Vec<u16> {
    // Members are sorted by id, so an index breaks ties as the id would.
    let mut by_zone: Vec<(usize, Reverse<u64>, u16)> = (0..)
        .zip(members)
        .zip(zones)
        .map(|((index, member), &zone)| (zone, Reverse(score(partition, member)), index))
        .collect();
    by_zone.sort_unstable();

    let mut rank = 0;
    let mut previous = None;
    let mut by_rank: Vec<(usize, Reverse<u64>, u16)> = by_zone
        .into_iter()
        .map(|(zone, score, index)| {
            rank = if previous.replace(zone) == Some(zone) { rank + 1 } else { 0 };
            (rank, score, index)
        })
        .collect();
    by_rank.sort_unstable();
    by_rank.into_iter().map(|(_, _, index)| index).collect()
}

/// Rendezvous score of `member` for `partition`.
fn score(partition: Partition, member: &RingMember) -> u64 {
    // The highest of k uniform draws exceeds the highest of m others with chance k / (k + m), hence the shares are
    // proportional to the weights without any logarithm, and the same on every platform.
    let draw = |draw: u16| {
        let parts: [&[u8]; 3] = [&member.placement.0, &partition.0.to_be_bytes(), &draw.to_be_bytes()];
        Digest::of(Domain::Score, &parts).to_u64()
    };
    (1..member.weight).map(draw).fold(draw(0), u64::max)
}
