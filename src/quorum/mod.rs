//! Quorum operations: who must answer, and what follows from the answers.
//!
//! Each operation is a small machine: inputs are answers and time, effects are values. None of them knows a store, a
//! socket or a clock. Source: DeCandia et al., "Dynamo" (SOSP 2007), section 4.5.

pub mod tally;
pub mod put;
pub mod get;
pub mod repair;

use crate::{digest::Digest, ident::NodeId, wire::client::Consistency};

/// The nodes an operation must hear from, and under which history that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The partition's row, in its order. Distinct, never empty.
    pub nodes: Vec<NodeId>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(consistency: Consistency, members: u8, expected: usize) {
        let nodes = (0..members).map(|i| NodeId([i; 32])).collect();
        let row = Row { nodes, partition: Digest([0; 32]), replicas: 3 };
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
