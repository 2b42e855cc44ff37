//! Why an operation of a client failed, and whether it may have been stored all the same.

use libp2p::Multiaddr;
use thiserror::Error;

use crate::{
    ident::{Name, NodeId},
    wire::client::Failure,
};

/// Why a client's operation did not succeed.
///
/// After an error for which [`ClientError::maybe_stored`] is true a write may live on some replicas and may yet spread.
/// Repeating it is safe: at worst the value becomes a sibling of itself, never a silent overwrite.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClientError {
    /// A node's answer, or a bound of this client ([`Failure::Overloaded`]).
    #[error(transparent)]
    Failed(#[from] Failure),
    /// No node that could serve this was reached; nothing was sent.
    #[error("no node of the cluster can be reached: {detail}")]
    Unreachable {
        /// What was tried, and what came of it.
        detail: String,
    },
    /// Every address that was given leads to another cluster; nothing was sent.
    #[error("{address} belongs to the cluster {theirs:?}, not to {ours:?}", theirs = theirs.as_str(), ours = ours.as_str())]
    OtherCluster {
        /// The first of the addresses.
        address: Multiaddr,
        /// The cluster there.
        theirs: Name,
        /// The cluster that was asked for.
        ours: Name,
    },
    /// The deadline passed before there was an answer.
    #[error("no answer before the deadline{}", if *maybe_stored { "; it may have been carried out all the same" } else { "" })]
    TimedOut {
        /// The operation is a write, and a node may have carried it out.
        maybe_stored: bool,
    },
    /// A node gave an answer of the wrong kind; a write may have been carried out.
    #[error("{node:?} answered something else than {expected}; does it run another version?")]
    Unexpected {
        /// The node.
        node: NodeId,
        /// What would have been an answer.
        expected: &'static str,
        /// The request was a write.
        maybe_stored: bool,
    },
}

impl ClientError {
    /// Whether a write that failed so may have been stored all the same.
    pub fn maybe_stored(&self) -> bool {
        match self {
            ClientError::Failed(failure) => failure.maybe_stored(),
            ClientError::Unreachable { .. } | ClientError::OtherCluster { .. } => false,
            ClientError::TimedOut { maybe_stored } | ClientError::Unexpected { maybe_stored, .. } => *maybe_stored,
        }
    }

    /// The same, after an earlier attempt of the same write whose outcome is not known.
    pub(super) fn after_unknown(self) -> ClientError {
        match self {
            ClientError::Failed(Failure::QuorumNotMet { acks, needed, .. }) => {
                ClientError::Failed(Failure::QuorumNotMet { acks, needed, maybe_stored: true })
            }
            ClientError::Failed(Failure::TimedOut { acks, needed, .. }) => {
                ClientError::Failed(Failure::TimedOut { acks, needed, maybe_stored: true })
            }
            ClientError::Failed(Failure::StoreFailed { detail, .. }) => {
                ClientError::Failed(Failure::StoreFailed { detail, maybe_stored: true })
            }
            ClientError::Unexpected { node, expected, .. } => {
                ClientError::Unexpected { node, expected, maybe_stored: true }
            }
            // These say that nothing was stored, which holds for the last attempt only.
            ClientError::Failed(
                Failure::InvalidContext { .. }
                | Failure::TooLarge { .. }
                | Failure::Overloaded { .. }
                | Failure::NotPermitted { .. }
                | Failure::Refused { .. }
                | Failure::Unavailable { .. },
            )
            | ClientError::Unreachable { .. }
            | ClientError::OtherCluster { .. }
            | ClientError::TimedOut { .. } => ClientError::TimedOut { maybe_stored: true },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_an_unknown_attempt_no_failure_claims_that_nothing_was_stored() {
        let failures = [
            Failure::QuorumNotMet { acks: 0, needed: 2, maybe_stored: false },
            Failure::TimedOut { acks: 0, needed: 2, maybe_stored: false },
            Failure::InvalidContext { detail: String::new() },
            Failure::TooLarge { detail: String::new() },
            Failure::Overloaded { detail: String::new() },
            Failure::Unavailable { detail: String::new() },
            Failure::StoreFailed { detail: String::new(), maybe_stored: false },
        ];
        for failure in failures {
            let error = ClientError::Failed(failure);
            assert!(!error.maybe_stored());
            assert!(error.after_unknown().maybe_stored());
        }
        assert!(ClientError::Unreachable { detail: String::new() }.after_unknown().maybe_stored());
    }
}
