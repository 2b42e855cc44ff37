//! Who has said what no node of ours would say, and is left unserved for it.
//!
//! Each offence doubles the time for which a peer is not served, up to a bound: an honest peer that was misunderstood once loses a
//! second, a liar its audience. What it costs to hear a liar is bounded by that; nothing is concluded about what it stores.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    clock::{Instant, Now},
    ident::NodeId,
    limits::MEMBER_COUNT_MAX,
    node::Node,
};

/// How long whoever offended is not served, the first time; doubled each time.
const PENALTY_MIN: Duration = Duration::from_secs(1);
const PENALTY_MAX: Duration = Duration::from_secs(600);

/// What somebody has offended in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Offence {
    /// It asked or answered nonsense in an exchange: its exchanges are not answered.
    Exchange,
    /// It sent changes that no honest node holds: neither its histories nor its exchanges are.
    History,
}

/// Penalties that run, or have run.
#[derive(Debug, Default)]
pub(super) struct Penalties {
    /// Until when, and how long that was.
    running: BTreeMap<(NodeId, Offence), (Instant, Duration)>,
}

impl Penalties {
    /// Whether `peer` is still not served for such an offence.
    pub(super) fn is_running(&self, now: Instant, peer: &NodeId, offence: Offence) -> bool {
        self.running.get(&(*peer, offence)).is_some_and(|(until, _)| now < *until)
    }

    /// `peer` has shown that it speaks sense.
    pub(super) fn forgive(&mut self, peer: &NodeId, offence: Offence) {
        self.running.remove(&(*peer, offence));
    }

    /// The next penalty of `peer` begins. One that has behaved for as long as the longest penalty begins anew.
    fn begin(&mut self, now: Instant, peer: NodeId, offence: Offence) {
        if self.running.len() >= 2 * MEMBER_COUNT_MAX {
            self.running.clear();
        }
        let last = self.running.get(&(peer, offence)).filter(|(until, _)| now - *until < PENALTY_MAX);
        let penalty = last.map_or(PENALTY_MIN, |(_, last)| (*last * 2).min(PENALTY_MAX));
        self.running.insert((peer, offence), (now + penalty, penalty));
    }
}

impl Node {
    /// A peer has said what no node of ours would say.
    pub(super) fn note_offence(&mut self, now: Now, peer: NodeId, offence: Offence) {
        match offence {
            Offence::Exchange => self.counters.exchange_offences += 1,
            Offence::History => self.counters.history_offences += 1,
        }
        self.penalties.begin(now.instant, peer, offence);
    }

    /// Whether `peer` lies about histories, and is not listened to for the time being.
    pub(super) fn is_liar(&self, now: Now, peer: &NodeId) -> bool {
        self.penalties.is_running(now.instant, peer, Offence::History)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId([1; 32]);

    /// For how many seconds from `second` on `PEER` is not served.
    fn lasts(penalties: &Penalties, second: u64) -> u64 {
        let is_running = |after: &u64| penalties.is_running(Instant((second + after) * 1_000), &PEER, Offence::History);
        (0..10_000).find(|after| !is_running(after)).unwrap()
    }

    #[test]
    fn each_offence_costs_twice_as_much_up_to_a_bound_and_long_good_conduct_is_rewarded() {
        let mut penalties = Penalties::default();
        let mut second = 1;
        let mut lengths = Vec::new();
        for _ in 0..12 {
            penalties.begin(Instant(second * 1_000), PEER, Offence::History);
            lengths.push(lasts(&penalties, second));
            second += lengths.last().unwrap();
        }
        assert_eq!(lengths, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        penalties.begin(Instant((second + 600) * 1_000), PEER, Offence::History);
        assert_eq!(lasts(&penalties, second + 600), 1);
    }

    #[test]
    fn a_penalty_is_for_one_peer_and_one_kind_of_offence_and_many_offenders_take_bounded_room() {
        let mut penalties = Penalties::default();
        penalties.begin(Instant(0), PEER, Offence::Exchange);
        assert!(!penalties.is_running(Instant(1), &PEER, Offence::History));
        assert!(!penalties.is_running(Instant(1), &NodeId([2; 32]), Offence::Exchange));
        for number in 0..5_000_u64 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            penalties.begin(Instant(0), NodeId(id), Offence::History);
            assert!(penalties.running.len() <= 2 * MEMBER_COUNT_MAX);
        }
    }
}
