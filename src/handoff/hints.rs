//! When and to whom hints go.
//!
//! A [`HintSchedule`] knows for whom this node keeps hints, and who of them can be reached. It walks through the hints of
//! a target in **rounds**: a page is taken from the store, sent, and what was durably acknowledged is dropped; then the
//! next page. After each page it rests three times as long as the page took: several holders may deliver to one target at a
//! time, which has its clients to serve as well. The slower it gets, the longer they rest. What a round leaves behind,
//! because it was refused or has changed meanwhile, is for the next one; the machine is done with a target when a round
//! finds nothing.
//!
//! A hint whose target is no longer in the key's row goes to all of the row instead, and is dropped once a majority of it
//! has it.
//!
//! It knows neither the store nor the network, and nothing of how old hints are.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    causality::siblings::Object,
    clock::Instant,
    digest::Digest,
    ident::{Key, NodeId},
    replica::hints::{Hint, HintPage},
    wire::client::Cursor,
};

/// One hint under way. Never used twice by a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delivery(pub u64);

/// What a [`HintSchedule`] wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum HandoffEffect {
    /// Take a page of hints from the store; `on_page` follows.
    Take {
        /// For whom.
        target: NodeId,
        /// Where the page before ended.
        after: Option<Cursor>,
        /// Most hints in the page.
        limit: usize,
    },
    /// Have these nodes merge the object; `on_acknowledged` or `on_failed` follows for each.
    Send {
        /// Names the hint.
        delivery: Delivery,
        /// Never empty; this node itself may be among them.
        nodes: Vec<NodeId>,
        /// The key.
        key: Key,
        /// What to merge.
        object: Object,
    },
    /// Drop the hint from the store, if it is still what was sent.
    Drop {
        /// For whom it was kept.
        target: NodeId,
        /// The key.
        key: Key,
        /// Digest of what was sent.
        sent: Digest,
    },
}

/// Who is to get a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipients {
    /// Its target, which can be reached.
    Target,
    /// Nobody now: its target cannot be reached.
    Nobody,
    /// The key's row, in which the target is no more. Never empty.
    Row(Vec<NodeId>),
}

/// When a hint that was sent is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropRule {
    /// When it is durable where it was sent.
    Acknowledged,
    /// At once. Breaks P1: what gets lost on the way is lost. Exists so that tests can plant the bug.
    Sent,
}

/// The delivery of all hints of a node.
///
/// **Inputs**: the `on_*` functions. **Effects**: [`HandoffEffect`]. **Time**: [`HintSchedule::next_timeout`]. **Ends
/// when** it is dropped. Bounded by the number of members, and by one page for each that is being delivered to.
#[derive(Debug)]
pub struct HintSchedule {
    rule: DropRule,
    targets: BTreeMap<NodeId, Target>,
    under_way: BTreeMap<Delivery, UnderWay>,
    next_delivery: u64,
    is_paused: bool,
}

/// What is known of the hints for one node.
#[derive(Debug, Clone)]
struct Target {
    is_up: bool,
    /// A hint was kept since the page was asked for.
    is_dirty: bool,
    phase: Phase,
    /// When the next page is due; nothing while one is under way, or while there is nothing to wait for.
    due: Option<Instant>,
    /// Where the round goes on.
    after: Option<Cursor>,
    /// The round has sent or seen something.
    found: bool,
    page_size: usize,
    backoff: Duration,
    delivered: u64,
    since: Option<Instant>,
}

#[derive(Debug, Clone)]
enum Phase {
    Resting,
    Taking,
    Sending { waiting: usize, began: Instant, next: Option<Cursor>, has_failed: bool },
}

#[derive(Debug, Clone)]
struct UnderWay {
    target: NodeId,
    key: Key,
    sent: Digest,
    waiting: BTreeSet<NodeId>,
    acknowledged: usize,
    needed: usize,
}

/// How delivery to one target stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// It can be reached.
    pub is_up: bool,
    /// Hints delivered since it was last seen up.
    pub delivered: u64,
    /// For how long.
    pub lasted: Duration,
}

impl HintSchedule {
    /// Knows for whom hints were kept before this start.
    pub fn new(targets: impl IntoIterator<Item = NodeId>, rule: DropRule) -> HintSchedule {
        let targets = targets.into_iter().map(|target| (target, Target::new())).collect();
        HintSchedule { rule, targets, under_way: BTreeMap::new(), next_delivery: 0, is_paused: false }
    }

    /// A hint for `target` is stored. `is_up` is this node's opinion of it.
    pub fn on_kept(&mut self, target: NodeId, is_up: bool, now: Instant) {
        let entry = self.targets.entry(target).or_insert_with(Target::new);
        entry.is_up = is_up;
        entry.is_dirty = true;
        if is_up && entry.due.is_none() && matches!(entry.phase, Phase::Resting) {
            entry.due = Some(now + REST_MIN);
        }
    }

    /// `target` can be reached. `jitter` is from 0 to 1: those that hold hints for it do not all begin at once.
    pub fn on_up(&mut self, target: &NodeId, jitter: f64, now: Instant) {
        let Some(entry) = self.targets.get_mut(target) else { return };
        if std::mem::replace(&mut entry.is_up, true) {
            return;
        }
        entry.backoff = BACKOFF_MIN;
        entry.page_size = PAGE_SIZE_FIRST;
        entry.delivered = 0;
        entry.since = None;
        if matches!(entry.phase, Phase::Resting) {
            entry.due = Some(now + JITTER.mul_f64(jitter));
        }
    }

    /// `target` cannot be reached any more. What is under way to it fails on its own.
    pub fn on_down(&mut self, target: &NodeId) {
        if let Some(entry) = self.targets.get_mut(target) {
            entry.is_up = false;
            entry.due = None;
        }
    }

    /// Rows have changed: every hint may have to go elsewhere.
    pub fn on_rows_changed(&mut self, now: Instant) {
        for entry in self.targets.values_mut() {
            entry.after = None;
            if matches!(entry.phase, Phase::Resting) {
                entry.due = Some(now + REST_MIN);
            }
        }
    }

    /// An administrator wants hints delivered now: those for `target`, or all.
    pub fn on_wanted(&mut self, target: Option<&NodeId>, now: Instant) {
        for (_, entry) in self.targets.iter_mut().filter(|(node, _)| target.is_none_or(|target| target == *node)) {
            entry.backoff = BACKOFF_MIN;
            if entry.is_up && matches!(entry.phase, Phase::Resting) {
                entry.due = Some(now);
            }
        }
    }

    /// Begins nothing until [`HintSchedule::on_resumed`].
    pub fn on_paused(&mut self) {
        self.is_paused = true;
    }

    /// Goes on.
    pub fn on_resumed(&mut self, now: Instant) {
        self.is_paused = false;
        self.on_wanted(None, now);
    }

    /// For whom hints are kept, as far as is known.
    pub fn targets(&self) -> impl Iterator<Item = &NodeId> {
        self.targets.keys()
    }

    /// Whether nothing is kept for anybody, as far as is known.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Whether it was paused.
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Time has passed.
    pub fn on_time(&mut self, now: Instant) -> Vec<HandoffEffect> {
        let is_paused = self.is_paused;
        let due = self.targets.iter_mut().filter(|(_, entry)| !is_paused && entry.due.is_some_and(|due| due <= now));
        due.map(|(target, entry)| {
            entry.due = None;
            entry.is_dirty = false;
            entry.phase = Phase::Taking;
            HandoffEffect::Take { target: *target, after: entry.after.clone(), limit: entry.page_size }
        })
        .collect()
    }

    /// A page was taken. `recipients` says who is to get a key's hint.
    pub fn on_page(
        &mut self,
        target: &NodeId,
        page: HintPage,
        recipients: impl Fn(&Key) -> Recipients,
        now: Instant,
    ) -> Vec<HandoffEffect> {
        let Some(entry) = self.targets.get_mut(target) else { return Vec::new() };
        let HintPage { hints, next } = page;
        if hints.is_empty() && next.is_none() && entry.after.is_none() && !entry.is_dirty {
            self.targets.remove(target);
            return Vec::new();
        }
        let mut effects = Vec::new();
        let mut waiting = 0;
        let mut dropped = Vec::new();
        for Hint { key, object } in hints {
            let (nodes, needed) = match recipients(&key) {
                Recipients::Nobody => continue,
                Recipients::Target => (vec![*target], 1),
                Recipients::Row(row) => {
                    let needed = row.len() / 2 + 1;
                    (row, needed)
                }
            };
            self.next_delivery += 1;
            let delivery = Delivery(self.next_delivery);
            let sent = object.digest();
            if self.rule == DropRule::Sent {
                dropped.push(HandoffEffect::Drop { target: *target, key: key.clone(), sent });
            }
            let under_way = UnderWay {
                target: *target,
                key: key.clone(),
                sent,
                waiting: nodes.iter().copied().collect(),
                acknowledged: 0,
                needed,
            };
            self.under_way.insert(delivery, under_way);
            waiting += 1;
            effects.push(HandoffEffect::Send { delivery, nodes, key, object });
        }
        entry.found |= waiting > 0;
        entry.since = entry.since.or((waiting > 0).then_some(now));
        entry.phase = Phase::Sending { waiting, began: now, next, has_failed: false };
        self.settle(target, now);
        effects.extend(dropped);
        effects
    }

    /// The store could not be read.
    pub fn on_page_failed(&mut self, target: &NodeId, now: Instant) {
        if let Some(entry) = self.targets.get_mut(target) {
            entry.back_off(now);
        }
    }

    /// `node` holds the hint durably.
    pub fn on_acknowledged(&mut self, delivery: Delivery, node: &NodeId, now: Instant) -> Vec<HandoffEffect> {
        let Some(under_way) = self.under_way.get_mut(&delivery) else { return Vec::new() };
        under_way.waiting.remove(node);
        under_way.acknowledged += 1;
        if under_way.acknowledged < under_way.needed {
            return self.fail_if_hopeless(delivery, now);
        }
        let Some(UnderWay { target, key, sent, .. }) = self.under_way.remove(&delivery) else { return Vec::new() };
        self.end_of_one(&target, false, now);
        match self.rule {
            DropRule::Acknowledged => vec![HandoffEffect::Drop { target, key, sent }],
            DropRule::Sent => Vec::new(),
        }
    }

    /// `node` did not take the hint, or it is not known whether it did.
    pub fn on_failed(&mut self, delivery: Delivery, node: &NodeId, now: Instant) -> Vec<HandoffEffect> {
        if let Some(under_way) = self.under_way.get_mut(&delivery) {
            under_way.waiting.remove(node);
        }
        self.fail_if_hopeless(delivery, now)
    }

    /// When `on_time` is wanted next.
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.is_paused { None } else { self.targets.values().filter_map(|entry| entry.due).min() }
    }

    /// How delivery to `target` stands; nothing when no hints for it are known.
    pub fn progress(&self, target: &NodeId, now: Instant) -> Option<Progress> {
        let entry = self.targets.get(target)?;
        let lasted = entry.since.map_or(Duration::ZERO, |since| now - since);
        Some(Progress { is_up: entry.is_up, delivered: entry.delivered, lasted })
    }

    /// How many hints are under way. At most a page for each target.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    fn fail_if_hopeless(&mut self, delivery: Delivery, now: Instant) -> Vec<HandoffEffect> {
        let is_hopeless = |it: &UnderWay| it.acknowledged + it.waiting.len() < it.needed;
        if self.under_way.get(&delivery).is_some_and(is_hopeless)
            && let Some(UnderWay { target, .. }) = self.under_way.remove(&delivery)
        {
            self.end_of_one(&target, true, now);
        }
        Vec::new()
    }

    fn end_of_one(&mut self, target: &NodeId, failed: bool, now: Instant) {
        let Some(entry) = self.targets.get_mut(target) else { return };
        entry.delivered += u64::from(!failed);
        if let Phase::Sending { waiting, has_failed, .. } = &mut entry.phase {
            *waiting = waiting.saturating_sub(1);
            *has_failed |= failed;
        }
        self.settle(target, now);
    }

    /// Ends a page when nothing of it is under way any more.
    fn settle(&mut self, target: &NodeId, now: Instant) {
        let Some(entry) = self.targets.get_mut(target) else { return };
        let Phase::Sending { waiting: 0, began, next, has_failed } = &entry.phase else { return };
        let (took, next, has_failed) = (now - *began, next.clone(), *has_failed);
        if has_failed {
            return entry.back_off(now);
        }
        entry.phase = Phase::Resting;
        entry.backoff = BACKOFF_MIN;
        entry.page_size = if took > SLOW { entry.page_size / 2 } else { entry.page_size * 2 };
        entry.page_size = entry.page_size.clamp(PAGE_SIZE_MIN, PAGE_SIZE_MAX);
        let is_end = next.is_none();
        entry.after = next;
        // At the end of a round that had nobody to send to, there is nothing to do until that changes.
        let goes_on = !is_end || (std::mem::take(&mut entry.found) && entry.is_up) || entry.is_dirty && entry.is_up;
        entry.due = goes_on.then(|| now + (REST_FACTOR * took).max(if is_end { ROUND_PAUSE } else { REST_MIN }));
    }
}

impl Target {
    fn new() -> Target {
        Target {
            is_up: false,
            is_dirty: true,
            phase: Phase::Resting,
            due: None,
            after: None,
            found: false,
            page_size: PAGE_SIZE_FIRST,
            backoff: BACKOFF_MIN,
            delivered: 0,
            since: None,
        }
    }

    /// Begins the round anew, later and with less at a time.
    fn back_off(&mut self, now: Instant) {
        self.phase = Phase::Resting;
        self.after = None;
        self.due = self.is_up.then(|| now + self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        self.page_size = (self.page_size / 2).max(PAGE_SIZE_MIN);
    }
}

/// The first page is small: whoever has just come back has enough to do.
const PAGE_SIZE_FIRST: usize = 16;
const PAGE_SIZE_MIN: usize = 1;
/// A page fits one message and one transaction of the target, and is no large part of either: whoever reads or writes there
/// waits for it.
const PAGE_SIZE_MAX: usize = 32;

/// A page that takes longer than this is halved.
const SLOW: Duration = Duration::from_millis(100);

/// How many times as long as a page took its holder rests after it.
const REST_FACTOR: u32 = 3;

/// Shortest rest between two pages.
const REST_MIN: Duration = Duration::from_millis(5);

/// Rest between two rounds.
const ROUND_PAUSE: Duration = Duration::from_millis(500);

/// Those that hold hints for one that returns begin within this time.
const JITTER: Duration = Duration::from_millis(500);

/// First and longest rest after a failure.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
#[path = "hints_tests.rs"]
mod tests;
