//! Who has sent what is no request, and how often.
//!
//! An honest peer never does; one that keeps doing so is named once, so that its connections can be refused. Only frames
//! that arrived whole count: a stream that ends early can be the end of an honest peer's patience. Identities cost
//! nothing, so the table is bounded: beyond the bound it forgets those that were not named yet.

use std::collections::HashMap;

use libp2p::PeerId;
use quorate_behaviours::{framing::FrameError, merkle_exchange, quorum_rpc};

/// Malformed frames that are put up with. Each costs its sender a stream.
pub(crate) const MALFORMED_COUNT_MAX: u32 = 64;

/// Most peers that are remembered.
const OFFENDERS_MAX: usize = 4_096;

/// Malformed frames of each peer since the node started.
#[derive(Debug, Default)]
pub(crate) struct Offenders {
    counts: HashMap<PeerId, u32>,
}

/// What to do about an offence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Nothing.
    None,
    /// Tell people: it is the first of this peer.
    Warn,
    /// Refuse its connections from now on. Given once for each peer.
    Block,
}

/// What a peer has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offence {
    /// Something whole that no honest peer sends.
    Certain,
    /// Something that can have an innocent cause.
    Doubtful,
}

impl Offence {
    /// What a misbehaviour in the protocols of requests is.
    pub(crate) fn of_request(error: &quorum_rpc::Misbehaviour) -> Offence {
        match error {
            quorum_rpc::Misbehaviour::Request(error) => Offence::of_frame(error),
            _ => Offence::Doubtful,
        }
    }

    /// What a misbehaviour in an exchange is.
    pub(crate) fn of_exchange(error: &merkle_exchange::Misbehaviour) -> Offence {
        match error {
            merkle_exchange::Misbehaviour::Message(error) => Offence::of_frame(error),
            _ => Offence::Doubtful,
        }
    }

    fn of_frame(error: &FrameError) -> Offence {
        match error {
            FrameError::Malformed { .. } | FrameError::TooLarge { .. } => Offence::Certain,
            _ => Offence::Doubtful,
        }
    }
}

impl Offenders {
    /// Takes note of what `peer` has sent.
    pub(crate) fn note(&mut self, peer: PeerId, offence: Offence) -> Measure {
        if offence == Offence::Doubtful {
            return Measure::None;
        }
        if self.counts.len() >= OFFENDERS_MAX && !self.counts.contains_key(&peer) {
            self.counts.retain(|_, count| *count > MALFORMED_COUNT_MAX);
            if self.counts.len() >= OFFENDERS_MAX {
                return Measure::None;
            }
        }
        let count = self.counts.entry(peer).or_insert(0);
        *count = count.saturating_add(1);
        match *count {
            1 => Measure::Warn,
            count if count == MALFORMED_COUNT_MAX + 1 => Measure::Block,
            _ => Measure::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_named_once_it_has_sent_more_than_is_put_up_with() {
        let (peer, mut offenders) = (PeerId::random(), Offenders::default());
        let measures: Vec<Measure> = (0..200).map(|_| offenders.note(peer, Offence::Certain)).collect();
        assert_eq!(measures[0], Measure::Warn);
        assert_eq!(measures[64], Measure::Block);
        assert_eq!(measures.iter().filter(|measure| **measure == Measure::None).count(), 198);
    }

    #[test]
    fn answers_and_frames_that_did_not_arrive_whole_do_not_count() {
        let (peer, mut offenders) = (PeerId::random(), Offenders::default());
        let ended = quorum_rpc::Misbehaviour::Request(FrameError::Ended);
        for error in [ended, quorum_rpc::Misbehaviour::NoProgress] {
            for _ in 0..200 {
                assert_eq!(offenders.note(peer, Offence::of_request(&error)), Measure::None);
            }
        }
    }

    #[test]
    fn any_number_of_identities_takes_bounded_room_and_frees_nobody_who_was_named() {
        let (named, mut offenders) = (PeerId::random(), Offenders::default());
        for _ in 0..=MALFORMED_COUNT_MAX {
            offenders.note(named, Offence::Certain);
        }
        for _ in 0..2 * OFFENDERS_MAX {
            offenders.note(PeerId::random(), Offence::Certain);
            assert!(offenders.counts.len() <= OFFENDERS_MAX);
        }
        assert_eq!(offenders.counts[&named], MALFORMED_COUNT_MAX + 1);
    }
}
