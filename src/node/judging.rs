//! What it says of a peer that it sent a change which does not fit.
//!
//! Most of what is refused is honest: the sender knows less than this node, or more. Only what nobody honest would send is
//! an offence.

use crate::membership::history::HistoryError;

/// Whether a message with such a change is not worth reading on: no honest history of this cluster holds it, and every
/// check of a signature costs time.
pub(super) fn spoils_the_rest(error: &HistoryError) -> bool {
    match error {
        HistoryError::BadSignature
        | HistoryError::Malformed(_)
        | HistoryError::OtherCluster
        | HistoryError::OtherPartitions { .. }
        | HistoryError::NotJoined
        | HistoryError::OtherParameters { .. } => true,
        HistoryError::Gap { .. }
        | HistoryError::Loose { .. }
        | HistoryError::Forked { .. }
        | HistoryError::Removed { .. }
        | HistoryError::NotFounded
        | HistoryError::Full { .. }
        | HistoryError::BadLamport { .. } => false,
    }
}

/// Whether nobody honest sends a change that is refused so, in a message of which `refused_before` were refused already. Where some
/// were, a gap is no wonder.
pub(super) fn is_lie(error: &HistoryError, refused_before: usize) -> bool {
    match error {
        HistoryError::BadSignature
        | HistoryError::Malformed(_)
        | HistoryError::OtherCluster
        | HistoryError::OtherPartitions { .. }
        | HistoryError::NotJoined => true,
        HistoryError::Gap { .. } | HistoryError::Loose { .. } | HistoryError::BadLamport { .. } => refused_before == 0,
        // Two clusters of one name that meet; a removal, a founding or a fork that the sender does not know of; our own bounds.
        HistoryError::OtherParameters { .. }
        | HistoryError::NotFounded
        | HistoryError::Forked { .. }
        | HistoryError::Removed { .. }
        | HistoryError::Full { .. } => false,
    }
}
