//! Quorum operations: who must answer, and what follows from the answers.
//!
//! Each operation is a small machine: inputs are answers and time, effects are values. None of them knows a store, a
//! socket or a clock. Quorums are **sloppy**: the first N members of the preference list that can be reached serve a
//! request, and a fallback stands in for each primary that cannot.
//!
//! Source: DeCandia et al., "Dynamo" (SOSP 2007), sections 4.5 and 4.6.

pub mod tally;
pub mod put;
pub mod get;
pub mod repair;

use crate::{digest::Digest, ident::NodeId, wire::client::Consistency};

/// The nodes an operation must hear from, and under which history that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The partition's row, in its order: the primaries. Distinct, never empty.
    pub nodes: Vec<NodeId>,
    /// All other members, in the order in which they stand in. Distinct, none of them in the row; may be empty.
    pub fallbacks: Vec<NodeId>,
    /// The coordinator's partition digest: an answer under another one does not count.
    pub partition: Digest,
    /// Replicas the cluster was founded for; more than `nodes` when there are too few members.
    pub replicas: u8,
}

impl Row {
    /// How many of the row must answer for `consistency`: 1 to the length of the row.
    ///
    /// A number above the length is clamped: the answer is then `degraded`.
    pub fn needed(&self, consistency: Consistency) -> usize {
        let count = self.nodes.len();
        match consistency {
            Consistency::One => 1,
            Consistency::Quorum => count / 2 + 1,
            Consistency::All => count,
            Consistency::Count(asked) => usize::from(asked).clamp(1, count),
        }
    }

    /// Fewer members than replicas.
    pub fn is_short(&self) -> bool {
        self.nodes.len() < usize::from(self.replicas)
    }
}

/// By what rules answers are counted. All but [`QuorumRules::sound`] exist so that tests can plant a bug and see it
/// caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuorumRules {
    /// How often a node stands in.
    pub stand_ins: StandInRule,
    /// What it means that a fallback does not know a key.
    pub unknown: UnknownRule,
}

/// See [`QuorumRules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandInRule {
    /// Once in an operation.
    Once,
    /// For any number of primaries. Breaks P1: fewer stores hold a write than are counted.
    Repeatedly,
}

/// See [`QuorumRules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownRule {
    /// It knows nothing.
    KnowsNothing,
    /// It knows that there is nothing. Breaks P7: a key that exists is not found.
    KnowsAbsence,
}

impl QuorumRules {
    /// The rules that keep the promises.
    pub fn sound() -> QuorumRules {
        QuorumRules { stand_ins: StandInRule::Once, unknown: UnknownRule::KnowsNothing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(consistency: Consistency, members: u8, expected: usize) {
        let nodes = (0..members).map(|i| NodeId([i; 32])).collect();
        let row = Row { nodes, fallbacks: Vec::new(), partition: Digest([0; 32]), replicas: 3 };
        assert_eq!(row.needed(consistency), expected);
    }

    #[test]
    fn a_quorum_is_a_majority_of_the_row_there_is() {
        check(Consistency::Quorum, 1, 1);
        check(Consistency::Quorum, 2, 2);
        check(Consistency::Quorum, 3, 2);
        check(Consistency::Quorum, 5, 3);
    }

    #[test]
    fn numbers_are_clamped_to_the_row() {
        check(Consistency::Count(0), 3, 1);
        check(Consistency::Count(3), 2, 2);
        check(Consistency::All, 2, 2);
        check(Consistency::One, 3, 1);
    }
}
