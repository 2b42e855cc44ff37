//! Whom an operation must hear from.
//!
//! While ownership changes there are several configurations at once. A write must be acknowledged by enough members of
//! each that is active *and* of the partition's present row; a read must be answered by enough of each that is active, for
//! only those are known to hold everything. One answer counts wherever its sender is listed. In steady state all of them
//! are one and the same row.
//!
//! Source: Lynch and Shvartsman, "RAMBO" (2002), for quorums of several configurations. Numbers are taken from the original
//! length of a configuration: removals lower what can be asked for, never what a majority is.

use std::collections::BTreeSet;

use crate::{
    digest::Digest,
    ident::{Name, NodeId},
    membership::{roster::Standing, view::View},
    quorum::{HearRule, QuorumRules},
    ring::token::Partition,
    wire::client::Consistency,
};

/// The nodes an operation must hear from, and under which history that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Whom it asks: those of the present row first, in its order, then those of others. Distinct, never empty. Whoever is
    /// listed here is a primary.
    pub nodes: Vec<NodeId>,
    /// All other members, in the order in which they stand in. Distinct, none of them in the row; may be empty.
    pub fallbacks: Vec<NodeId>,
    /// The coordinator's partition digest: an answer under another one does not count.
    pub partition: Digest,
    /// What must be met, all of it. Never empty.
    pub demands: Vec<Demand>,
    /// Fewer members than replicas.
    pub is_short: bool,
}

#[cfg(test)]
impl Row {
    /// A row that is the only configuration, of which `needed` must agree.
    pub(crate) fn of(nodes: Vec<NodeId>, fallbacks: Vec<NodeId>, partition: Digest, needed: usize) -> Row {
        let is_short = nodes.len() < 3;
        Row { demands: vec![Demand { nodes: nodes.clone(), needed }], nodes, fallbacks, partition, is_short }
    }
}

/// So many of these must agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// Of whom. They are among the nodes of the row.
    pub nodes: Vec<NodeId>,
    /// How many, at least 1.
    pub needed: usize,
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It reads.
    Read,
    /// It writes.
    Write,
}

impl Row {
    /// The row of `partition` as `view` has it, for an operation of a coordinator in the zone `here`; nothing before there is
    /// a member.
    pub fn new(
        partition: Partition,
        access: Access,
        consistency: Consistency,
        here: Option<&Name>,
        view: &View,
        rules: QuorumRules,
    ) -> Option<Row> {
        let ring = view.ring.as_ref()?;
        let present = ring.row(partition);
        let others = view.other_rows(partition);
        let is_active = view.configurations.active(partition).len() > others.len();
        let rule = match access {
            Access::Read => rules.reads,
            Access::Write => rules.writes,
        };
        let hears_present = match (rule, access) {
            (HearRule::PresentOnly, _) => true,
            (HearRule::Sound, Access::Write) => true,
            (HearRule::Sound, Access::Read) | (HearRule::ActiveOnly, _) => is_active,
        };
        let mut rows: Vec<&[NodeId]> = Vec::new();
        if hears_present {
            rows.push(present);
        }
        if rule != HearRule::PresentOnly {
            rows.extend(others);
        }
        rows.retain(|row| !row.is_empty());
        let mut nodes: Vec<NodeId> = Vec::new();
        for node in rows.iter().flat_map(|row| row.iter()) {
            if !nodes.contains(node) && !view.removed.contains_key(node) {
                nodes.push(*node);
            }
        }
        if nodes.is_empty() {
            return None;
        }
        let is_staying =
            |node: &NodeId| view.members.get(node).is_some_and(|member| member.standing == Standing::Staying);
        let is_other = |node: &NodeId| !nodes.contains(node) && is_staying(node);
        let fallbacks = ring.ranking(partition).into_iter().filter(is_other).collect();
        let demands = rows.iter().flat_map(|row| demands(row, consistency, here, view)).collect();
        let is_short = present.len() < usize::from(ring.replicas());
        Some(Row { nodes, fallbacks, partition: view.partition_digest(partition), demands, is_short })
    }

    /// Whether all demands would be met if just those agreed that are so.
    pub fn is_met_by(&self, agrees: impl Fn(&NodeId) -> bool) -> bool {
        self.demands.iter().all(|demand| demand.nodes.iter().filter(|node| agrees(node)).count() >= demand.needed)
    }
}

/// What `consistency` asks of one configuration.
fn demands(row: &[NodeId], consistency: Consistency, here: Option<&Name>, view: &View) -> Vec<Demand> {
    let zone_of = |node: &NodeId| match view.members.get(node) {
        Some(member) => member.profile.zone.as_ref(),
        None => view.removed.get(node).and_then(Option::as_ref),
    };
    let count = row.len();
    match consistency {
        Consistency::One => vec![demand(row, 1, view)],
        Consistency::Quorum => vec![demand(row, count / 2 + 1, view)],
        Consistency::All => vec![demand(row, count, view)],
        Consistency::Count(asked) => vec![demand(row, usize::from(asked).clamp(1, count), view)],
        Consistency::LocalQuorum => {
            let local: Vec<NodeId> = row.iter().filter(|node| zone_of(node) == here).copied().collect();
            // Where nobody of it is near, a quorum of all is asked for: more than was wanted, never less.
            let asked = if local.is_empty() { row } else { &local };
            vec![demand(asked, asked.len() / 2 + 1, view)]
        }
        Consistency::EachQuorum => {
            let zones: BTreeSet<Option<&Name>> = row.iter().map(zone_of).collect();
            let of_zone = |zone: Option<&Name>| -> Vec<NodeId> {
                row.iter().filter(|node| zone_of(node) == zone).copied().collect()
            };
            let rows = zones.into_iter().map(of_zone);
            rows.map(|row| demand(&row, row.len() / 2 + 1, view)).collect()
        }
    }
}

/// Who is removed cannot be asked; the number is lowered only where those left are too few.
fn demand(row: &[NodeId], quorum: usize, view: &View) -> Demand {
    let nodes: Vec<NodeId> = row.iter().filter(|node| !view.removed.contains_key(*node)).copied().collect();
    let needed = quorum.min(nodes.len()).max(1);
    Demand { nodes, needed }
}

#[cfg(test)]
#[path = "row_tests.rs"]
mod tests;
