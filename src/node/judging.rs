//! What it says of a peer that it sent a change which does not fit.
//!
//! Most of what is refused is honest: the sender knows less than this node, or more. Only what nobody honest would send is
//! an offence.
//!
//! An announcement goes from peer to peer. Each passes on only what it has found to be signed as it says, so whoever hands on
//! a forgery has made it. For all else there may be a reason: what does not fit here may fit where it came from.

use crate::{
    clock::Now,
    config::Way,
    membership::{change::Change, history::HistoryError},
    node::{
        Node,
        effect::{Effect, Heard, Verdict},
        history::{Batch, Origin},
        penalties::Offence,
    },
};

impl Node {
    /// A membership change was announced.
    pub(super) fn on_announced(&mut self, now: Now, heard: Heard, change: Change) {
        let verdict = self.judge_announced(now, &heard, &change);
        self.effects.push_back(Effect::Judge { heard, verdict: verdict.unwrap_or(Verdict::Keep) });
        match verdict {
            Some(Verdict::PassOn | Verdict::Keep) => {
                self.stage(now, Batch { changes: vec![change], origin: Origin::Announced });
            }
            Some(Verdict::Reject) => {
                self.counters.changes_refused += 1;
                self.note_offence(now, heard.via, Offence::History);
            }
            None => {}
        }
    }

    /// Nothing where it is not even looked at.
    fn judge_announced(&mut self, now: Now, heard: &Heard, change: &Change) -> Option<Verdict> {
        if self.config.history_ways.announced == Way::Off {
            return None;
        }
        if self.is_liar(now, &heard.via) {
            self.counters.offenders_refused += 1;
            return None;
        }
        Some(self.records.history().check(change).map_or_else(|error| verdict_on(&error), |_| Verdict::PassOn))
    }
}

/// What becomes of an announced change that is refused so. What may fit once more is known is passed on.
fn verdict_on(error: &HistoryError) -> Verdict {
    match error {
        HistoryError::BadSignature | HistoryError::Malformed(_) => Verdict::Reject,
        HistoryError::Gap { .. }
        | HistoryError::Loose { .. }
        | HistoryError::NotFounded
        | HistoryError::BadLamport { .. } => Verdict::PassOn,
        // Two clusters of one name may have met, and whoever hands it on may know no more than that it is signed.
        HistoryError::OtherCluster
        | HistoryError::OtherParameters { .. }
        | HistoryError::OtherPartitions { .. }
        | HistoryError::NotJoined
        | HistoryError::Forked { .. }
        | HistoryError::Removed { .. }
        | HistoryError::Full { .. } => Verdict::Keep,
    }
}

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
