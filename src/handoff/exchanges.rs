//! When and with whom this node compares what they share.
//!
//! An [`ExchangeSchedule`] has an entry for each other member of this node's rows. Each is compared with once in an interval;
//! sooner when it has come back, when rows have changed, or when somebody says so. One exchange begins at a time. It does not
//! matter which of two nodes asks: whoever was asked and found to be in step is as good as asked.
//!
//! It knows neither trees nor the network, and nothing of what an exchange has done but how it ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{clock::Instant, ident::NodeId};

/// When to compare with whom.
///
/// **Inputs**: the `on_*` functions. **Effects**: [`ExchangeSchedule::next_due`]. **Time**:
/// [`ExchangeSchedule::next_timeout`]. **Ends when** it is dropped. Bounded by the number of members.
#[derive(Debug)]
pub struct ExchangeSchedule {
    interval: Duration,
    pairs: BTreeMap<NodeId, Pair>,
}

/// How this node and one other stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// It can be asked.
    pub is_up: bool,
    /// When the two were last in step; not since this start, if nothing.
    pub agreed: Option<Instant>,
    /// They were compared to the end since rows have changed and since it has come.
    is_compared: bool,
    due: Instant,
    /// The pause after the next failure.
    pause: Duration,
}

/// How an exchange with another ended, as far as the schedule cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The two are in step.
    InStep,
    /// Everything that differed was exchanged, but somebody has written meanwhile.
    Apart,
    /// It came to nothing: refused, lost, or nonsense.
    Failed,
}

impl ExchangeSchedule {
    /// Nobody to compare with yet. Each pair is compared once in `interval`.
    pub fn new(interval: Duration) -> ExchangeSchedule {
        ExchangeSchedule { interval, pairs: BTreeMap::new() }
    }

    /// These are the others in this node's rows now, and rows have changed. `jitter` is from 0 to 1.
    pub fn on_rows_changed(&mut self, others: &BTreeSet<NodeId>, jitter: f64, now: Instant) {
        self.pairs.retain(|node, _| others.contains(node));
        let due = now + self.soon().mul_f64(jitter);
        for node in others {
            let new = Pair { is_up: false, agreed: None, is_compared: false, due, pause: PAUSE_MIN };
            let pair = self.pairs.entry(*node).or_insert(new);
            pair.is_compared = false;
            pair.due = pair.due.min(due);
        }
    }

    /// `node` can be asked: it may have missed something. `jitter` is from 0 to 1.
    pub fn on_up(&mut self, node: &NodeId, jitter: f64, now: Instant) {
        let due = now + self.soon().mul_f64(0.5 + jitter / 2.0);
        if let Some(pair) = self.pairs.get_mut(node)
            && !std::mem::replace(&mut pair.is_up, true)
        {
            pair.is_compared = false;
            pair.due = due;
            pair.pause = PAUSE_MIN;
        }
    }

    /// `node` cannot be asked any more.
    pub fn on_down(&mut self, node: &NodeId) {
        if let Some(pair) = self.pairs.get_mut(node) {
            pair.is_up = false;
        }
    }

    /// Compare with `node` at once.
    pub fn on_wanted(&mut self, node: &NodeId, now: Instant) {
        if let Some(pair) = self.pairs.get_mut(node) {
            pair.due = now;
            pair.pause = PAUSE_MIN;
        }
    }

    /// An exchange with `node` over everything the two share has ended; whoever asked. `jitter` is from 0 to 1.
    pub fn on_ended(&mut self, node: &NodeId, ended: Ended, jitter: f64, now: Instant) {
        let interval = self.interval;
        let Some(pair) = self.pairs.get_mut(node) else { return };
        pair.is_compared |= ended != Ended::Failed;
        match ended {
            Ended::InStep => {
                pair.agreed = Some(now);
                pair.due = now + interval.mul_f64(0.75 + jitter / 4.0);
                pair.pause = PAUSE_MIN;
            }
            Ended::Apart | Ended::Failed => {
                pair.due = now + pair.pause.min(interval).mul_f64(0.5 + jitter / 2.0);
                pair.pause = (pair.pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// Whether this node may lack much: with somebody who is up it has not been compared since rows have changed, or since that
    /// one has come. Then it takes part in one exchange at a time, or each of the others would send it the same. Those with
    /// whom it comes to nothing again and again do not count: nobody can hold a node up by being of no use to it.
    pub fn is_behind(&self) -> bool {
        self.pairs.values().any(|pair| pair.is_up && !pair.is_compared && pair.pause <= BEHIND_PAUSE_MAX)
    }

    /// Whom to compare with now: who has waited longest.
    pub fn next_due(&self, now: Instant) -> Option<NodeId> {
        let due = self.pairs.iter().filter(|(_, pair)| pair.is_up && pair.due <= now);
        due.min_by_key(|(_, pair)| pair.due).map(|(node, _)| *node)
    }

    /// When [`ExchangeSchedule::next_due`] is wanted next.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.pairs.values().filter(|pair| pair.is_up).map(|pair| pair.due).min()
    }

    /// How this node and each other of its rows stand, by id.
    pub fn pairs(&self) -> impl Iterator<Item = (&NodeId, &Pair)> {
        self.pairs.iter()
    }

    /// Not at once: hints are handed over first, and do most of the work.
    fn soon(&self) -> Duration {
        SOON.min(self.interval)
    }
}

/// Within this time a pair is compared of which something may have changed.
const SOON: Duration = Duration::from_secs(5);

/// First and longest pause after an exchange that left the two apart. Never longer than the interval.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// Somebody with whom an exchange is tried less often than this has little to offer.
const BEHIND_PAUSE_MAX: Duration = Duration::from_secs(8);

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 32]);
    const B: NodeId = NodeId([2; 32]);
    const INTERVAL: Duration = Duration::from_secs(600);

    fn schedule() -> ExchangeSchedule {
        let mut schedule = ExchangeSchedule::new(INTERVAL);
        schedule.on_rows_changed(&BTreeSet::from([A, B]), 0.0, Instant(0));
        schedule.on_up(&A, 1.0, Instant(0));
        schedule
    }

    fn due(schedule: &ExchangeSchedule) -> Option<u64> {
        schedule.next_timeout().map(|due| due.0)
    }

    #[test]
    fn a_pair_is_compared_soon_after_the_other_has_come_and_then_once_in_an_interval() {
        let mut schedule = schedule();
        assert_eq!((schedule.next_due(Instant(4_999)), schedule.next_due(Instant(5_000))), (None, Some(A)));
        schedule.on_ended(&A, Ended::InStep, 1.0, Instant(5_000));
        assert_eq!(due(&schedule), Some(605_000));
        schedule.on_up(&A, 0.0, Instant(6_000));
        assert_eq!(due(&schedule), Some(605_000), "it was up all the time");
        schedule.on_down(&A);
        assert_eq!(due(&schedule), None);
        schedule.on_up(&A, 0.0, Instant(7_000));
        assert_eq!(due(&schedule), Some(9_500));
    }

    #[test]
    fn whoever_was_found_in_step_is_left_alone_whoever_asked() {
        let mut schedule = schedule();
        schedule.on_ended(&A, Ended::InStep, 0.0, Instant(100));
        assert_eq!(due(&schedule), Some(450_100));
        assert_eq!(schedule.pairs().next().unwrap().1.agreed, Some(Instant(100)));
    }

    #[test]
    fn failures_are_repeated_ever_less_often_and_never_less_than_once_in_an_interval() {
        let mut schedule = schedule();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            schedule.on_ended(&A, Ended::Failed, 1.0, Instant(0));
            pauses.push(due(&schedule).unwrap() / 1_000);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        schedule.on_ended(&A, Ended::InStep, 1.0, Instant(0));
        schedule.on_ended(&A, Ended::Apart, 1.0, Instant(0));
        assert_eq!(due(&schedule), Some(1_000));
    }

    #[test]
    fn a_node_is_behind_until_it_was_compared_with_all_who_are_up() {
        let mut schedule = schedule();
        schedule.on_up(&B, 0.0, Instant(0));
        schedule.on_ended(&A, Ended::InStep, 0.0, Instant(1));
        assert!(schedule.is_behind());
        schedule.on_ended(&B, Ended::Failed, 0.0, Instant(1));
        assert!(schedule.is_behind());
        schedule.on_ended(&B, Ended::Apart, 0.0, Instant(1));
        assert!(!schedule.is_behind(), "what the other had then is here");
        schedule.on_down(&A);
        schedule.on_up(&A, 0.0, Instant(2));
        assert!(schedule.is_behind());
        schedule.on_down(&A);
        assert!(!schedule.is_behind(), "who is away has nothing to send");
        schedule.on_up(&A, 0.0, Instant(3));
        (0..4).for_each(|_| schedule.on_ended(&A, Ended::Failed, 0.0, Instant(4)));
        assert!(!schedule.is_behind(), "with this one it comes to nothing");
    }

    #[test]
    fn who_has_waited_longest_is_next_and_who_left_the_rows_is_forgotten() {
        let mut schedule = schedule();
        schedule.on_up(&B, 0.0, Instant(0));
        assert_eq!(schedule.next_due(Instant(10_000)), Some(B));
        schedule.on_wanted(&A, Instant(1_000));
        assert_eq!(schedule.next_due(Instant(10_000)), Some(A));
        schedule.on_rows_changed(&BTreeSet::from([B]), 0.0, Instant(0));
        assert_eq!(schedule.pairs().map(|(node, _)| *node).collect::<Vec<_>>(), [B]);
    }
}
