//! Whether keys can be served, partition by partition, by those whom one member reaches.
//!
//! While ownership changes a partition has several configurations, and it takes a quorum of each: a new row that is up is of
//! no use while too few of the old one are, who alone hold everything. Fallbacks stand in as they do in an operation.

use crate::{
    ident::NodeId,
    membership::view::View,
    quorum::{
        QuorumRules,
        row::{Access, Row},
    },
    ring::token::Partition,
    wire::client::{Consistency, Reach, Status},
};

/// How well something is served: a partition, or the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    /// Every row that counts is complete and up.
    Healthy,
    /// Every key can be served, some with fewer replicas than it should have.
    Degraded,
    /// Of some row that counts nobody is up, or too few members are up for a quorum.
    Unavailable,
}

/// What a member's opinion of the others comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Judgment {
    /// The cluster is as healthy as its worst partition.
    pub(crate) health: Health,
    /// Partitions that are served with fewer replicas than they should have.
    pub(crate) degraded_count: u32,
    /// Partitions that cannot be served.
    pub(crate) unavailable_count: u32,
}

impl Health {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Health::Healthy => "healthy",
            Health::Degraded => "degraded",
            Health::Unavailable => "unavailable",
        }
    }
}

impl Judgment {
    /// Judges by who is up in the eyes of the member that was asked. `suspect` is not up.
    pub(crate) fn new(status: &Status, view: &View) -> Judgment {
        let is_up =
            |node: &NodeId| status.members.iter().any(|member| member.node == *node && member.state == Reach::Up);
        let partitions = view.ring.as_ref().filter(|_| status.parameters.is_some()).map(|ring| ring.partitions());
        let store = if status.store_failure.is_some() { Health::Degraded } else { Health::Healthy };
        let nothing = if partitions.is_none() { Health::Unavailable } else { store };
        let mut judgment = Judgment { health: nothing, degraded_count: 0, unavailable_count: 0 };
        for partition in partitions.into_iter().flat_map(|it| it.iter()) {
            let health = health_of(partition, view, &is_up);
            judgment.health = judgment.health.max(health);
            judgment.degraded_count += u32::from(health == Health::Degraded);
            judgment.unavailable_count += u32::from(health == Health::Unavailable);
        }
        judgment
    }
}

fn health_of(partition: Partition, view: &View, is_up: &dyn Fn(&NodeId) -> bool) -> Health {
    // A write hears from all whom a read does, and from the present row.
    let row = Row::new(partition, Access::Write, Consistency::Quorum, None, view, QuorumRules::sound());
    let Some(row) = row else { return Health::Unavailable };
    let mut active = view.configurations.active(partition);
    if active.is_empty() {
        active.push(view.row(partition));
    }
    // Nobody can stand in for all who hold something.
    let is_held = active.into_iter().all(|row| row.iter().any(is_up));
    let mut spare = row.fallbacks.iter().filter(|node| is_up(node));
    let served: Vec<&NodeId> = row.nodes.iter().filter(|node| is_up(node) || spare.next().is_some()).collect();
    if !is_held || !row.is_met_by(|node| served.contains(&node)) {
        Health::Unavailable
    } else if row.is_short || !row.nodes.iter().all(is_up) {
        Health::Degraded
    } else {
        Health::Healthy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::samples::{growing_view, node, settled_view, status};
    use Reach::{Down, Suspect, Up};

    #[track_caller]
    fn check(view: &View, states: &[Reach], expected: Health) {
        assert_eq!(Judgment::new(&status(states), view).health, expected);
    }

    #[test]
    fn the_cluster_is_as_healthy_as_its_worst_row() {
        check(&settled_view(3), &[Up, Up, Up], Health::Healthy);
        check(&settled_view(3), &[Up, Up, Suspect], Health::Degraded);
        check(&settled_view(3), &[Up, Up, Down], Health::Degraded);
        check(&settled_view(3), &[Up, Down, Down], Health::Unavailable);
        check(&settled_view(5), &[Up, Up, Up, Up, Up], Health::Healthy);
        // Of five members three are in each row: whoever is up stands in for two that are away, but not for a whole row.
        check(&settled_view(5), &[Up, Up, Up, Down, Down], Health::Degraded);
        check(&settled_view(5), &[Up, Up, Down, Down, Down], Health::Unavailable);
    }

    #[test]
    fn too_few_members_are_degraded_and_no_cluster_is_unavailable() {
        check(&settled_view(1), &[Up], Health::Degraded);
        check(&settled_view(2), &[Up, Up], Health::Degraded);
        let mut none = settled_view(1);
        none.ring = None;
        check(&none, &[Up], Health::Unavailable);
    }

    #[test]
    fn a_quorum_of_each_configuration_must_be_up_while_a_member_joins() {
        let view = growing_view();
        let partitions: Vec<Partition> = view.partitions().collect();
        assert!(partitions.iter().any(|it| !view.other_rows(*it).is_empty()), "nobody has filled anything yet");
        check(&view, &[Up, Up, Up, Up], Health::Healthy);
        // The old members hold everything. One that joins adds nothing before it is filled.
        check(&view, &[Up, Up, Up, Down], Health::Degraded);
        check(&view, &[Up, Up, Down, Up], Health::Degraded);
        check(&view, &[Up, Down, Down, Up], Health::Unavailable);
        check(&view, &[Down, Down, Down, Up], Health::Unavailable);
    }

    #[test]
    fn partitions_are_counted_by_how_they_are_served() {
        let view = growing_view();
        let newcomer = node(3);
        let (concerned, others) = view.partitions().partition::<Vec<_>, _>(|it| view.row(*it).contains(&newcomer));
        let counts = |states: &[Reach]| {
            let judgment = Judgment::new(&status(states), &view);
            (judgment.degraded_count as usize, judgment.unavailable_count as usize)
        };
        assert!(!concerned.is_empty() && !others.is_empty());
        assert_eq!(counts(&[Up, Up, Up, Up]), (0, 0));
        assert_eq!(counts(&[Up, Up, Up, Down]), (concerned.len(), 0));
        // Where it is in no row it stands in for one of the old members; where it is to become a replica it does not.
        assert_eq!(counts(&[Up, Down, Down, Up]), (others.len(), concerned.len()));
    }
}
