//! To whom a request goes, when it is tried again, and whose answers make a scan complete. Pure.
//!
//! The rule: the first connected member of the key's ranking that has not failed this operation yet. The ranking
//! begins with the row, so the request reaches a coordinator in one hop; whoever comes after the row forwards.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    ident::{Key, NodeId},
    ring::{Ring, token::Partition},
};

/// Who may take a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// A coordinator of this key; else any member.
    Key(Key),
    /// This node and nobody else.
    Node(NodeId),
}

/// Whom to ask next; nothing when nobody who may be asked is connected.
///
/// `failed` holds those that have failed this operation, the earliest first, each at most once. They are asked again
/// only when everybody connected has failed, and then in the order of the ranking, but for the last.
pub(super) fn choose(
    route: &Route,
    failed: &[NodeId],
    connected: &BTreeSet<NodeId>,
    ring: Option<&Ring>,
) -> Option<NodeId> {
    match route {
        Route::Node(node) => connected.contains(node).then_some(*node),
        Route::Key(key) => {
            let candidates = candidates(key, connected, ring);
            let fresh = candidates.iter().find(|node| !failed.contains(node));
            let other = candidates.iter().find(|&node| failed.last() != Some(node));
            fresh.or(other).or(candidates.first()).copied()
        }
    }
}

/// Everybody connected: first the members in the order in which they should serve `key`, then those that the ring does
/// not know (yet), by id.
fn candidates(key: &Key, connected: &BTreeSet<NodeId>, ring: Option<&Ring>) -> Vec<NodeId> {
    let mut ranking = ring.map_or_else(Vec::new, |ring| ring.ranking(ring.partition_of(key)));
    ranking.retain(|node| connected.contains(node));
    let members: BTreeSet<NodeId> = ranking.iter().copied().collect();
    ranking.extend(connected.difference(&members));
    ranking
}

/// A partition of which too few members have listed their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uncovered {
    pub(super) partition: Partition,
    /// Members of the row that have.
    pub(super) answered: usize,
    /// Members of the row that must.
    pub(super) needed: usize,
}

/// The first of `partitions` of whose row fewer than a majority are in `answered`. A row without members is never
/// covered.
pub(super) fn first_uncovered(
    partitions: impl Iterator<Item = Partition>,
    answered: &BTreeSet<NodeId>,
    ring: &Ring,
) -> Option<Uncovered> {
    let tally = |partition| {
        let row = ring.row(partition);
        let count = row.iter().filter(|node| answered.contains(node)).count();
        Uncovered { partition, answered: count, needed: row.len() / 2 + 1 }
    };
    partitions.map(tally).find(|tally| tally.answered < tally.needed)
}

/// How long to wait before retry number `retry` (from zero): 20 ms, doubling up to 640 ms, and from half to all of it
/// as `draw` wills, so that clients that failed together do not come back together.
pub(super) fn pause_before(retry: u32, draw: u32) -> Duration {
    let full_ms = 20 << retry.min(5);
    Duration::from_millis(full_ms / 2 + u64::from(draw) % (full_ms / 2 + 1))
}

/// Retries that a client may still make: a tenth of its successes, and a small reserve.
///
/// Without it every client would multiply its load by the retries of an operation just when the cluster is short of
/// breath.
#[derive(Debug)]
pub(super) struct RetryBudget {
    /// In tenths of a retry; at most [`RetryBudget::TENTHS_MAX`].
    tenths: u32,
}

impl RetryBudget {
    const TENTHS_MAX: u32 = 1_000;

    /// A full budget.
    pub(super) fn new() -> RetryBudget {
        RetryBudget { tenths: RetryBudget::TENTHS_MAX }
    }

    /// An operation has succeeded.
    pub(super) fn earn(&mut self) {
        self.tenths = (self.tenths + 1).min(RetryBudget::TENTHS_MAX);
    }

    /// Takes one retry out; `false` when there is none left.
    pub(super) fn spend(&mut self) -> bool {
        match self.tenths.checked_sub(10) {
            Some(rest) => {
                self.tenths = rest;
                true
            }
            None => false,
        }
    }
}

/// Most attempts of one operation after the first.
pub(super) const RETRY_COUNT_MAX: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{RingMember, token::PartitionCount};

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn nodes(numbers: &[u8]) -> BTreeSet<NodeId> {
        numbers.iter().copied().map(node).collect()
    }

    fn ring_of(count: u8) -> Ring {
        let member = |number| RingMember { id: node(number), placement: node(number), zone: None, weight: 1 };
        Ring::new((0..count).map(member).collect(), PartitionCount::new(16).unwrap(), 3)
    }

    fn key() -> Key {
        Key::new(b"cart").unwrap()
    }

    #[test]
    fn a_request_goes_to_the_first_connected_of_the_row() {
        let ring = ring_of(5);
        let ranking = ring.ranking(ring.partition_of(&key()));
        let mut connected: BTreeSet<NodeId> = ranking.iter().copied().collect();
        for expected in &ranking {
            assert_eq!(choose(&Route::Key(key()), &[], &connected, Some(&ring)), Some(*expected));
            connected.remove(expected);
        }
        assert_eq!(choose(&Route::Key(key()), &[], &connected, Some(&ring)), None);
    }

    #[test]
    fn who_has_failed_is_asked_again_only_when_all_have() {
        let ring = ring_of(3);
        let ranking = ring.ranking(ring.partition_of(&key()));
        let connected = ranking.iter().copied().collect();
        let choose = |failed: &[NodeId]| choose(&Route::Key(key()), failed, &connected, Some(&ring));
        assert_eq!(choose(&ranking[..1]), Some(ranking[1]));
        assert_eq!(choose(&ranking[..2]), Some(ranking[2]));
        assert_eq!(choose(&ranking), Some(ranking[0]));
        assert_eq!(choose(&[ranking[1], ranking[2], ranking[0]]), Some(ranking[1]));
    }

    #[test]
    fn the_only_node_is_asked_again_though_it_has_failed() {
        let ring = ring_of(1);
        assert_eq!(choose(&Route::Key(key()), &[node(0)], &nodes(&[0]), Some(&ring)), Some(node(0)));
    }

    #[test]
    fn without_a_ring_anybody_connected_is_asked() {
        assert_eq!(choose(&Route::Key(key()), &[], &nodes(&[9]), None), Some(node(9)));
        assert_eq!(choose(&Route::Key(key()), &[], &nodes(&[9]), Some(&ring_of(3))), Some(node(9)));
    }

    #[test]
    fn a_request_to_one_node_goes_nowhere_else() {
        let ring = ring_of(3);
        assert_eq!(choose(&Route::Node(node(1)), &[], &nodes(&[0, 2]), Some(&ring)), None);
        assert_eq!(choose(&Route::Node(node(1)), &[node(1)], &nodes(&[0, 1]), Some(&ring)), Some(node(1)));
    }

    #[test]
    fn a_scan_is_complete_when_a_majority_of_every_row_has_answered() {
        let ring = ring_of(3);
        let check = |answered: &[u8]| first_uncovered(ring.partitions().iter(), &nodes(answered), &ring);
        assert_eq!(check(&[1]), Some(Uncovered { partition: Partition(0), answered: 1, needed: 2 }));
        assert_eq!(check(&[0, 2]), None);

        let of_five = ring_of(5);
        let missing = first_uncovered(of_five.partitions().iter(), &nodes(&[0, 1, 2]), &of_five);
        assert!(missing.is_some_and(|missing| missing.answered < 2));
        assert_eq!(first_uncovered(of_five.partitions().iter(), &nodes(&[0, 1, 2, 3]), &of_five), None);
    }

    #[test]
    fn a_scan_of_a_ring_without_members_is_never_complete() {
        let ring = ring_of(0);
        let expected = Uncovered { partition: Partition(0), answered: 0, needed: 1 };
        assert_eq!(first_uncovered(ring.partitions().iter(), &BTreeSet::new(), &ring), Some(expected));
    }

    #[test]
    fn retries_come_later_and_later_and_apart() {
        let millis = |retry, draw| pause_before(retry, draw).as_millis();
        assert_eq!([millis(0, 0), millis(0, 10), millis(1, 0), millis(3, 80)], [10, 20, 20, 160]);
        assert_eq!(millis(99, u32::MAX), millis(5, u32::MAX));
        assert!((0..1_000).all(|draw| (320..=640).contains(&millis(9, draw))));
    }

    #[test]
    fn a_client_that_only_fails_soon_retries_no_more() {
        let mut budget = RetryBudget::new();
        assert_eq!((0..1_000).filter(|_| budget.spend()).count(), 100);
        (0..9).for_each(|_| budget.earn());
        assert!(!budget.spend());
        budget.earn();
        assert!(budget.spend());
    }
}
