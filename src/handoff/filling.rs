//! Which partitions this node must fill, from whom, and when it may say so.
//!
//! A [`Filling`] follows the view. A partition is **wanted** while this node is in its present row and has not said, under
//! the present label, that it holds it. It is filled when it was exchanged with K members of every active configuration, each
//! of them under just that label; whenever the label or the active configurations change, that begins anew (the data that
//! has come stays, so the second time is cheap). A partition that all of its row have filled is **retired** to when K
//! members of every other active configuration are known to know that.
//!
//! K is a majority of the original configuration: every quorum it ever acknowledged anything with has a member among K.
//!
//! Source: Lynch and Shvartsman, "RAMBO" (2002), for the upgrade of configurations. It knows neither the store nor the
//! network: who was compared with, and who knows as much as this node, it is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    clock::Instant,
    digest::Digest,
    ident::NodeId,
    membership::view::View,
    ring::{partition_set::PartitionSet, token::Partition},
};

/// By what rules partitions are filled. All but [`FillingRules::sound`] exist so that tests can plant a bug and see it
/// caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillingRules {
    /// With how many a partition is exchanged.
    pub sources: SourceRule,
    /// What a change makes of that.
    pub changes: ChangeRule,
    /// When old configurations are retired.
    pub retirement: RetirementRule,
}

/// See [`FillingRules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceRule {
    /// A majority of the configuration as it was made.
    Majority,
    /// One less. Breaks P1: a write may be with just those that were not asked.
    OneLess,
    /// A majority of those that were not removed. Breaks P1 for the same reason.
    OfSurvivors,
}

/// See [`FillingRules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeRule {
    /// It begins anew.
    BeginAnew,
    /// What was compared before still counts. Breaks P1: who was asked has taken writes since.
    GoOn,
}

/// See [`FillingRules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetirementRule {
    /// Once enough members of the old configurations know of the new one.
    Checked,
    /// At once. Breaks P1: writes that know nothing of the new configuration may still complete in the old ones.
    AtOnce,
}

impl FillingRules {
    /// The rules that keep the promises.
    pub fn sound() -> FillingRules {
        FillingRules {
            sources: SourceRule::Majority,
            changes: ChangeRule::BeginAnew,
            retirement: RetirementRule::Checked,
        }
    }
}

/// Whether a node can vouch for what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It can.
    Certain,
    /// It may have lost something.
    InDoubt,
}

/// What this node must fill.
///
/// **Inputs**: the `on_*` functions. **Effects**: [`Filling::next_source`], [`Filling::filled`], [`Filling::retired`].
/// **Time**: sources that failed rest for a while; [`Filling::next_timeout`]. **Ends when** it is dropped. Bounded by the
/// number of partitions and of members.
#[derive(Debug)]
pub struct Filling {
    me: NodeId,
    rules: FillingRules,
    wanted: BTreeMap<Partition, Progress>,
    /// Partitions of this node's rows that all have filled and nobody has retired to.
    ripe: BTreeMap<Partition, Progress>,
    /// How many partitions were wanted, and are not any more, since the last time that none was.
    done: usize,
    /// What has come for them since then.
    taken: Taken,
    /// Until when those are left alone with whom it came to nothing.
    resting: BTreeMap<NodeId, Instant>,
}

/// What exchanges have brought for partitions that were wanted, since some were for the first time after none was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// When that was; nothing while none is wanted.
    pub since: Option<Instant>,
    /// Keys changed here.
    pub keys: u64,
    /// Bytes of objects received, and of what was compared, sent and received.
    pub bytes: u64,
}

/// With whom something was done about a partition.
#[derive(Debug, Clone)]
struct Progress {
    /// The partition digest under which.
    digest: Digest,
    /// Since when.
    since: Instant,
    /// Of whom K are needed: rows, and how many of each.
    rows: Vec<(Vec<NodeId>, usize)>,
    with: BTreeSet<NodeId>,
    /// Whether this node counts as one that is asked.
    counts_itself: bool,
    /// This node's place in the row.
    place: usize,
}

impl Progress {
    fn is_enough(&self, me: &NodeId) -> bool {
        self.rows.iter().all(|(row, needed)| self.count(me, row) >= *needed)
    }

    fn count(&self, me: &NodeId, row: &[NodeId]) -> usize {
        let counts = |node: &&NodeId| self.with.contains(*node) || (self.counts_itself && *node == me);
        row.iter().filter(counts).count()
    }

    /// Those with whom it would get on.
    fn missing(&self, me: &NodeId) -> BTreeSet<NodeId> {
        let short = self.rows.iter().filter(|(row, needed)| self.count(me, row) < *needed);
        let of_row = short.flat_map(|(row, _)| row.iter().copied());
        of_row.filter(|node| node != me && !self.with.contains(node)).collect()
    }
}

impl Filling {
    /// Nothing to fill yet, at `me`.
    pub fn new(me: NodeId, rules: FillingRules) -> Filling {
        let (wanted, ripe, resting) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Filling { me, rules, wanted, ripe, done: 0, taken: Taken::default(), resting }
    }

    /// This is the view now. Of partitions in doubt this node cannot vouch for what it holds itself: it wants them compared
    /// whether they are settled or not.
    pub fn on_view(&mut self, view: &View, is_in_doubt: impl Fn(Partition) -> bool, now: Instant) {
        let (mut wanted, mut ripe) = (BTreeMap::new(), BTreeMap::new());
        for partition in view.partitions() {
            let is_doubted = is_in_doubt(partition) && view.holds(&self.me, partition);
            if is_doubted || view.wants_filling(&self.me, partition) {
                let rows = view.configurations.active(partition);
                let mut progress = self.progress_of(view, rows, partition, now);
                progress.counts_itself = !is_doubted;
                let before = self.wanted.remove(&partition);
                wanted.insert(partition, self.go_on(progress, before));
            }
            if self.is_ripe(view, partition) {
                let progress = self.progress_of(view, view.other_rows(partition), partition, now);
                let before = self.ripe.remove(&partition);
                ripe.insert(partition, keep_if_same(progress, before));
            }
        }
        self.done += self.wanted.len();
        if wanted.is_empty() {
            (self.done, self.taken) = (0, Taken::default());
        } else {
            self.taken.since.get_or_insert(now);
        }
        (self.wanted, self.ripe) = (wanted, ripe);
        self.resting.retain(|_, until| *until > now);
    }

    /// All that `peer` held of `partitions`, at `begun` or later, is here. It was under this node's label.
    pub fn on_compared(&mut self, peer: NodeId, standing: Standing, partitions: &PartitionSet, begun: Instant) {
        for (partition, progress) in &mut self.wanted {
            let is_old = begun < progress.since && self.rules.changes == ChangeRule::BeginAnew;
            // Of two that have lost something, one is as good as nobody for all but the other.
            let is_use = standing == Standing::Certain || !progress.counts_itself;
            if partitions.contains(*partition) && !is_old && is_use {
                progress.with.insert(peer);
            }
        }
    }

    /// An exchange over `partitions` has moved so much. Those that are not wanted are not told apart: it is for people.
    /// Returns whether it counts: some are wanted.
    pub fn on_moved(&mut self, partitions: &PartitionSet, keys: u64, bytes: u64) -> bool {
        let counts = self.wanted.keys().any(|partition| partitions.contains(*partition));
        if counts {
            self.taken.keys += keys;
            self.taken.bytes += bytes;
        }
        counts
    }

    /// `peer` cannot be compared with just now.
    pub fn on_failed(&mut self, peer: NodeId, now: Instant) {
        self.resting.insert(peer, now + SOURCE_REST);
    }

    /// The histories of `peer` and of this node agree.
    pub fn on_agreed(&mut self, peer: NodeId) {
        for progress in self.ripe.values_mut() {
            progress.with.insert(peer);
        }
    }

    /// Whom to compare with next, and in what: whoever brings the most forward, of those that may be asked; at most so many
    /// partitions, that they be filled one after the other.
    pub fn next_source(&self, may_ask: impl Fn(&NodeId) -> bool, now: Instant) -> Option<(NodeId, Vec<Partition>)> {
        let mut sources: BTreeMap<NodeId, Vec<Partition>> = BTreeMap::new();
        for (partition, progress) in &self.wanted {
            for node in progress.missing(&self.me) {
                let partitions = sources.entry(node).or_default();
                if partitions.len() < STEP_PARTITIONS_MAX {
                    partitions.push(*partition);
                }
            }
        }
        let is_ready = |node: &NodeId| may_ask(node) && self.is_rested(node, now);
        sources.into_iter().filter(|(node, _)| is_ready(node)).max_by_key(|(_, partitions)| partitions.len())
    }

    /// Whether `node` was not tried in vain just now.
    pub fn is_rested(&self, node: &NodeId, now: Instant) -> bool {
        self.resting.get(node).is_none_or(|until| *until <= now)
    }

    /// Partitions of which this node may say that it holds them. Of those in doubt it may, once they are no more.
    pub fn filled(&self) -> impl Iterator<Item = Partition> + '_ {
        let is_filled =
            |(_, progress): &(&Partition, &Progress)| progress.counts_itself && progress.is_enough(&self.me);
        self.wanted.iter().filter(is_filled).map(|(partition, _)| *partition)
    }

    /// Whether `partition`, of which this node was in doubt, has been compared with so many that it holds what they must
    /// have held.
    pub fn is_resolved(&self, partition: Partition) -> bool {
        let Some(progress) = self.wanted.get(&partition) else { return false };
        // With all others there are, where they are fewer.
        let is_heard = |(row, needed): &(Vec<NodeId>, usize)| {
            let others = row.iter().filter(|node| **node != self.me).count();
            progress.count(&self.me, row) >= (*needed).min(others)
        };
        progress.rows.iter().all(is_heard)
    }

    /// Partitions whose old configurations this node may retire. The first of a row does it, the others when it does not.
    pub fn retired(&self, now: Instant) -> impl Iterator<Item = Partition> + '_ {
        self.ripe.iter().filter(move |(_, progress)| self.may_retire(progress, now)).map(|(partition, _)| *partition)
    }

    /// Whom it would help to reconcile with: they do not yet know, as far as this node can tell, what others have filled.
    pub fn witnesses(&self) -> BTreeSet<NodeId> {
        self.ripe.values().flat_map(|progress| progress.missing(&self.me)).collect()
    }

    /// How many partitions are wanted, and how many of those that were wanted at once are not any more.
    pub fn progress(&self) -> (usize, usize) {
        (self.wanted.len(), self.done)
    }

    /// What has come for those that were wanted at once.
    pub fn taken(&self) -> Taken {
        self.taken
    }

    /// Whether `partition` is wanted.
    pub fn wants(&self, partition: Partition) -> bool {
        self.wanted.contains_key(&partition)
    }

    /// When there is something to do that there is not now.
    pub fn next_timeout(&self, now: Instant) -> Option<Instant> {
        let rests = self.resting.values().copied();
        let turns = self.ripe.values().filter(|progress| progress.is_enough(&self.me)).map(turn);
        rests.chain(turns).filter(|due| *due > now).min()
    }

    fn may_retire(&self, progress: &Progress, now: Instant) -> bool {
        let is_known = self.rules.retirement == RetirementRule::AtOnce || progress.is_enough(&self.me);
        is_known && turn(progress) <= now
    }

    /// Whether all who are to hold `partition` have said so, and others held it before.
    fn is_ripe(&self, view: &View, partition: Partition) -> bool {
        let (label, configurations) = (&view.label, &view.configurations);
        view.row(partition).contains(&self.me)
            && configurations.is_established(label, partition)
            && !configurations.is_retired(label, partition)
            && configurations.has_others(label, partition)
    }

    fn progress_of(&self, view: &View, rows: Vec<&[NodeId]>, partition: Partition, now: Instant) -> Progress {
        let needed = |row: &[NodeId]| {
            let survivors: Vec<NodeId> = row.iter().filter(|node| !view.removed.contains_key(*node)).copied().collect();
            let majority = match self.rules.sources {
                SourceRule::Majority => row.len() / 2 + 1,
                SourceRule::OneLess => row.len() / 2,
                SourceRule::OfSurvivors => survivors.len() / 2 + 1,
            };
            let needed = majority.min(survivors.len());
            (survivors, needed)
        };
        Progress {
            digest: view.partition_digest(partition),
            since: now,
            rows: rows.into_iter().map(needed).collect(),
            with: BTreeSet::new(),
            counts_itself: true,
            place: view.row(partition).iter().position(|node| *node == self.me).unwrap_or(0),
        }
    }

    fn go_on(&self, progress: Progress, before: Option<Progress>) -> Progress {
        match (self.rules.changes, before) {
            (ChangeRule::GoOn, Some(before)) => Progress { with: before.with, since: before.since, ..progress },
            (_, before) => keep_if_same(progress, before),
        }
    }
}

/// What was done before counts only under the same label and the same active configurations.
fn keep_if_same(progress: Progress, before: Option<Progress>) -> Progress {
    match before {
        Some(before) if before.digest == progress.digest => {
            Progress { with: before.with, since: before.since, ..progress }
        }
        Some(_) | None => progress,
    }
}

/// From when on a member of a row retires what came before it.
fn turn(progress: &Progress) -> Instant {
    let place = u32::try_from(progress.place).unwrap_or(u32::MAX);
    progress.since + RETIRE_PATIENCE.saturating_mul(place)
}

/// Partitions of one exchange. The members of a row fill them one lot after the other, so that what is done is done.
const STEP_PARTITIONS_MAX: usize = 64;

/// How long a source is left alone with which it came to nothing.
const SOURCE_REST: Duration = Duration::from_secs(1);

/// How much later than the one before it a member of a row retires what came before.
const RETIRE_PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
#[path = "filling_tests.rs"]
mod tests;
