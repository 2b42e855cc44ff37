//! This node's private opinion who answers.
//!
//! [`Liveness`] turns evidence into an opinion: a connection, its loss, answers and timeouts. The opinion is never
//! gossiped and never changes the ring; two nodes may differ, and both are right about what they can reach. It does
//! not know who is a member, and it does not list this node itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::{clock::Instant, ident::NodeId};

/// Evidence about every connected peer. As large as the number of connected peers; the shell bounds that.
///
/// # Inputs
/// The `on_*` functions. `on_connected` and `on_lost` tell of the first connection to a peer made and the last one lost.
/// # Effects
/// None; it is asked.
/// # Time
/// Only remembered, so far: nothing happens because time passes.
/// # Ends when
/// Never.
#[derive(Debug, Clone, Default)]
pub struct Liveness {
    connected: BTreeMap<NodeId, Evidence>,
}

/// What this node thinks of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Opinion {
    /// Connected, and answers.
    Up,
    /// Connected, but has not answered lately; is asked last.
    Suspect,
    /// Not connected; is stood in for.
    Down,
}

impl Liveness {
    /// Everybody is down.
    pub fn new() -> Liveness {
        Liveness::default()
    }

    /// `node` is connected: up at once. Says nothing new of one that was connected already.
    pub fn on_connected(&mut self, node: NodeId, now: Instant) {
        self.connected.entry(node).or_insert(Evidence { last_heard: now, timeouts: 0 });
    }

    /// The last connection to `node` is gone: down at once.
    pub fn on_lost(&mut self, node: NodeId, _now: Instant) {
        self.connected.remove(&node);
    }

    /// `node` answered something: no suspicion is left. Late news of a lost peer is ignored.
    pub fn on_answer(&mut self, node: NodeId, now: Instant) {
        if let Some(evidence) = self.connected.get_mut(&node) {
            *evidence = Evidence { last_heard: now, timeouts: 0 };
        }
    }

    /// `node` left something unanswered for too long. Late news of a lost peer is ignored.
    pub fn on_timeout(&mut self, node: NodeId, _now: Instant) {
        if let Some(evidence) = self.connected.get_mut(&node) {
            evidence.timeouts = evidence.timeouts.saturating_add(1);
        }
    }

    /// What this node thinks of `node`.
    pub fn opinion(&self, node: &NodeId, _now: Instant) -> Opinion {
        match self.connected.get(node) {
            None => Opinion::Down,
            Some(evidence) if evidence.timeouts >= SUSPICION_TIMEOUTS => Opinion::Suspect,
            Some(_) => Opinion::Up,
        }
    }

    /// When `node` was last heard of; none if it is not connected.
    pub fn last_heard(&self, node: &NodeId) -> Option<Instant> {
        self.connected.get(node).map(|evidence| evidence.last_heard)
    }

    /// Whether there is a connection to `node`.
    pub fn is_connected(&self, node: &NodeId) -> bool {
        self.connected.contains_key(node)
    }

    /// Everybody who is not down. The suspects are among them; this node itself is not.
    pub fn reachable(&self) -> BTreeSet<NodeId> {
        self.connected.keys().copied().collect()
    }
}

/// What is known of a connected peer.
#[derive(Debug, Clone, Copy)]
struct Evidence {
    last_heard: Instant,
    /// Since the last answer.
    timeouts: u32,
}

/// So many timeouts in a row make a suspect: one is a slow request, two a slow moment.
const SUSPICION_TIMEOUTS: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId([7; 32]);
    const NOW: Instant = Instant(1);

    /// Plays events in order: `c` connected, `l` lost, `a` answered, `t` timed out.
    #[track_caller]
    fn check(events: &str, expected: Opinion) {
        let mut liveness = Liveness::new();
        for event in events.chars() {
            match event {
                'c' => liveness.on_connected(NODE, NOW),
                'l' => liveness.on_lost(NODE, NOW),
                'a' => liveness.on_answer(NODE, NOW),
                't' => liveness.on_timeout(NODE, NOW),
                other => panic!("unknown event {other}"),
            }
        }
        assert_eq!(liveness.opinion(&NODE, NOW), expected, "after {events}");
        assert_eq!(liveness.reachable().contains(&NODE), expected != Opinion::Down, "after {events}");
    }

    #[test]
    fn a_connection_and_its_loss_count_at_once() {
        check("", Opinion::Down);
        check("c", Opinion::Up);
        check("cl", Opinion::Down);
        check("cttl", Opinion::Down);
    }

    #[test]
    fn three_timeouts_in_a_row_make_a_suspect_until_it_answers() {
        check("ctt", Opinion::Up);
        check("cttt", Opinion::Suspect);
        check("cttat", Opinion::Up);
        check("ctttta", Opinion::Up);
    }

    #[test]
    fn a_second_connection_does_not_lift_a_suspicion_but_a_new_one_does() {
        check("ctttc", Opinion::Suspect);
        check("ctttlc", Opinion::Up);
    }

    #[test]
    fn late_news_does_not_raise_the_lost() {
        check("clat", Opinion::Down);
        check("attt", Opinion::Down);
    }
}
