//! A coordinated write: store here, replicate, answer at W.
//!
//! The coordinator writes first: only a replica may mint a dot, and the others must store the same one. A delete is a
//! write that mints none. For each primary that cannot be reached, known before or found out on the way, the next
//! fallback keeps a **hint**; where none is left, the coordinator keeps one itself, which counts for nothing.

use std::collections::BTreeSet;

use crate::{
    causality::siblings::Object,
    digest::Digest,
    ident::NodeId,
    quorum::{
        QuorumRules,
        row::Row,
        tally::{Recorded, Tally, Verdict},
    },
    wire::client::Scope,
};

/// What a [`PutOp`] wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum PutEffect {
    /// Have this replica merge the object. It may be the coordinator itself, when it came into the row on the way.
    Merge(NodeId),
    /// Have a node keep the object for a primary.
    Keep {
        /// Who keeps it; may be the coordinator itself.
        node: NodeId,
        /// For whom.
        target: NodeId,
    },
    /// Its history and ours differ: reconcile, then call [`PutOp::on_reconciled`].
    Reconcile(NodeId),
    /// Tell the client. Given exactly once.
    Reply(PutReply),
}

/// What the client is told.
#[derive(Debug, Clone, PartialEq)]
pub enum PutReply {
    /// At least W replicas hold it durably.
    Stored {
        /// Nodes that hold it.
        acks: usize,
        /// How many of them are primaries.
        primaries: usize,
        /// Primaries for whom somebody else keeps it.
        hinted: Vec<NodeId>,
        /// Fewer members than replicas, or a primary that did not store it.
        degraded: bool,
    },
    /// W is out of reach, and every replica has answered or failed.
    QuorumNotMet {
        /// Slots that are met, of the row that lacks most.
        acks: usize,
        /// What is asked of that row.
        needed: usize,
    },
    /// The time is up.
    TimedOut {
        /// Slots that are met, of the row that lacks most.
        acks: usize,
        /// What is asked of that row.
        needed: usize,
    },
}

/// Whether nodes keep hints for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hinting {
    /// They do.
    On,
    /// Nobody stands in for anybody when something is written.
    Off,
}

/// What a write is, beside its row.
#[derive(Debug, Clone)]
pub struct PutPlan {
    /// Whose copies count.
    pub scope: Scope,
    /// Whether hints are kept.
    pub hinting: Hinting,
    /// What every replica is to merge.
    pub object: Object,
    /// The coordinator is a fallback, and keeps its own copy as a hint for this primary.
    pub stands_in_for: Option<NodeId>,
}

/// One write at its coordinator, from the moment its own store has it.
///
/// **Inputs**: answers of replicas, changes of the row. **Effects**: [`PutEffect`]. **Time**: one deadline, kept by the
/// caller. **Ends when** every replica has answered or failed; replies at W, or when the time is up, and lingers until
/// then, so that the remaining copies are made.
///
/// Wherever `is_reachable` is asked for, it is this node's opinion; it may be wrong.
#[derive(Debug)]
pub struct PutOp {
    me: NodeId,
    plan: PutPlan,
    tally: Tally<()>,
    /// Primaries for whom the coordinator itself has been asked to keep a hint, and those for whom it does.
    asked_here: BTreeSet<NodeId>,
    kept_here: BTreeSet<NodeId>,
    replied: bool,
}

impl PutOp {
    /// A write whose object the coordinator's own store, `me`, holds durably.
    ///
    /// Call [`PutOp::start`] next.
    pub fn new(me: NodeId, row: Row, plan: PutPlan, rules: QuorumRules) -> PutOp {
        let partition = row.partition;
        let mut tally = Tally::new(row, plan.scope, rules);
        match &plan.stands_in_for {
            Some(target) => tally.agreed_for(me, target, ()),
            None => drop(tally.record(&me, partition, ())),
        }
        PutOp { me, plan, tally, asked_here: BTreeSet::new(), kept_here: BTreeSet::new(), replied: false }
    }

    /// What every replica is to merge.
    pub fn object(&self) -> &Object {
        &self.plan.object
    }

    /// The coordinator's partition digest.
    pub fn partition(&self) -> Digest {
        self.tally.row().partition
    }

    /// The first effects. Who cannot be reached counts as lost at once.
    pub fn start(&mut self, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<PutEffect> {
        let others = self.tally.row().nodes.iter().copied().filter(|node| *node != self.me).collect();
        self.ask(others, is_reachable)
    }

    /// `node` holds the object durably, as its own or as a hint; `partition` is its partition digest.
    pub fn on_merged(&mut self, node: &NodeId, partition: Digest) -> Vec<PutEffect> {
        match self.tally.record(node, partition, ()) {
            Recorded::OtherHistory => vec![PutEffect::Reconcile(*node)],
            Recorded::Counted | Recorded::Ignored => self.judge(),
        }
    }

    /// The coordinator itself keeps a hint for `target`, because nobody else could be found.
    pub fn on_kept_here(&mut self, target: NodeId) {
        self.kept_here.insert(target);
    }

    /// `node` is not to hold the partition, as its history has it; `partition` is its partition digest.
    pub fn on_not_held(
        &mut self,
        node: &NodeId,
        partition: Digest,
        is_reachable: impl Fn(&NodeId) -> bool,
    ) -> Vec<PutEffect> {
        if partition == self.tally.row().partition {
            return self.on_failed(node, is_reachable);
        }
        self.on_other_history(node)
    }

    /// `node` does not know the coordinator as a member, or is under another history for sure.
    pub fn on_other_history(&mut self, node: &NodeId) -> Vec<PutEffect> {
        match self.tally.record_other(node) {
            Recorded::OtherHistory => vec![PutEffect::Reconcile(*node)],
            Recorded::Counted | Recorded::Ignored => Vec::new(),
        }
    }

    /// `node` does not answer, or refuses.
    pub fn on_failed(&mut self, node: &NodeId, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<PutEffect> {
        self.tally.fail(node);
        let mut effects = self.stand_in(is_reachable);
        effects.extend(self.judge());
        effects
    }

    /// Primaries leave the client waiting: fallbacks are asked beside them. Strict quorums gain nothing by it.
    pub fn on_slow(&mut self, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<PutEffect> {
        if self.replied || self.plan.scope == Scope::Strict || self.plan.hinting == Hinting::Off {
            return Vec::new();
        }
        let me = self.me;
        let next = || self.tally.second(|node| *node != me && is_reachable(node));
        std::iter::from_fn(next).map(|(node, target)| PutEffect::Keep { node, target }).collect()
    }

    /// Whether the client has its answer.
    pub fn has_replied(&self) -> bool {
        self.replied
    }

    /// The histories of `node` and of the coordinator agree now.
    pub fn on_reconciled(&mut self, node: &NodeId, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<PutEffect> {
        if self.tally.retry(node) {
            return vec![match self.tally.target_of(node) {
                Some(target) => PutEffect::Keep { node: *node, target },
                None => PutEffect::Merge(*node),
            }];
        }
        let mut effects = self.stand_in(is_reachable);
        effects.extend(self.judge());
        effects
    }

    /// The coordinator's history says something else of the partition now.
    pub fn on_row(&mut self, row: Row, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<PutEffect> {
        let again = self.tally.change_row(row, &self.me);
        let me = self.me;
        let mut effects = self.ask(again, |node| *node == me || is_reachable(node));
        // What it keeps as a hint stays one; among its own data it must be as well.
        effects.sort_by_key(|effect| *effect != PutEffect::Merge(me));
        effects
    }

    /// The client's time is up. The machine goes on until every replica has answered or failed, or is dropped.
    pub fn on_deadline(&mut self) -> Vec<PutEffect> {
        let (acks, needed) = self.tally.shortfall();
        self.reply(PutReply::TimedOut { acks, needed })
    }

    /// Whether nothing more can come of it.
    pub fn has_ended(&self) -> bool {
        self.replied && self.tally.is_settled()
    }

    fn ask(&mut self, nodes: Vec<NodeId>, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<PutEffect> {
        let (reachable, lost): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|node| is_reachable(node));
        lost.iter().for_each(|node| self.tally.fail(node));
        let mut effects: Vec<_> = reachable.into_iter().map(PutEffect::Merge).collect();
        effects.extend(self.stand_in(is_reachable));
        effects.extend(self.judge());
        effects
    }

    fn stand_in(&mut self, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<PutEffect> {
        if self.plan.hinting == Hinting::Off {
            return Vec::new();
        }
        let me = self.me;
        let found = self.tally.stand_in(|node| *node != me && is_reachable(node));
        let mut effects: Vec<_> = found.into_iter().map(|(node, target)| PutEffect::Keep { node, target }).collect();
        for target in self.tally.abandoned() {
            if target != me && self.asked_here.insert(target) {
                effects.push(PutEffect::Keep { node: me, target });
            }
        }
        effects
    }

    fn judge(&mut self) -> Vec<PutEffect> {
        match self.tally.verdict() {
            // The client is told how many did store it, so whoever may yet answer is waited for.
            Verdict::Impossible if !self.tally.is_settled() => Vec::new(),
            Verdict::Pending => Vec::new(),
            Verdict::Reached => {
                let stored = self.stored();
                self.reply(stored)
            }
            Verdict::Impossible => {
                let (acks, needed) = self.tally.shortfall();
                self.reply(PutReply::QuorumNotMet { acks, needed })
            }
        }
    }

    fn stored(&self) -> PutReply {
        let holders: BTreeSet<&NodeId> = self.tally.agreed().map(|(node, ())| node).collect();
        let primaries: BTreeSet<&NodeId> = self.tally.agreed_primaries().map(|(node, ())| node).collect();
        let kept_here = self.kept_here.iter().filter(|target| !primaries.contains(target)).copied();
        PutReply::Stored {
            acks: holders.len(),
            primaries: primaries.len(),
            hinted: self.tally.stood_in_for().chain(kept_here).collect(),
            degraded: self.tally.row().is_short || self.tally.any_failed(),
        }
    }

    fn reply(&mut self, reply: PutReply) -> Vec<PutEffect> {
        if std::mem::replace(&mut self.replied, true) { Vec::new() } else { vec![PutEffect::Reply(reply)] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Digest = Digest([1; 32]);
    const THEIRS: Digest = Digest([2; 32]);

    fn node(i: u8) -> NodeId {
        NodeId([i; 32])
    }

    /// All three, unless fewer are enough.
    const ALL: usize = 3;
    const QUORUM: usize = 2;

    fn row(nodes: &[u8], fallbacks: &[u8], partition: Digest, needed: usize) -> Row {
        let ids = |numbers: &[u8]| numbers.iter().copied().map(node).collect();
        Row::of(ids(nodes), ids(fallbacks), partition, needed)
    }

    fn plan() -> PutPlan {
        PutPlan { scope: Scope::Sloppy, hinting: Hinting::On, object: Object::default(), stands_in_for: None }
    }

    fn op_with(needed: usize, plan: PutPlan, fallbacks: &[u8]) -> PutOp {
        PutOp::new(node(0), row(&[0, 1, 2], fallbacks, OURS, needed), plan, QuorumRules::sound())
    }

    fn op(needed: usize) -> PutOp {
        op_with(needed, plan(), &[3, 4])
    }

    fn stored(acks: usize, primaries: usize, hinted: &[u8], degraded: bool) -> PutEffect {
        let hinted = hinted.iter().copied().map(node).collect();
        PutEffect::Reply(PutReply::Stored { acks, primaries, hinted, degraded })
    }

    fn keep(i: u8, target: u8) -> PutEffect {
        PutEffect::Keep { node: node(i), target: node(target) }
    }

    fn merge(i: u8) -> PutEffect {
        PutEffect::Merge(node(i))
    }

    #[test]
    fn it_replies_at_w_and_ends_when_all_have_answered() {
        let mut op = op(QUORUM);
        assert_eq!(op.start(|_| true), [merge(1), merge(2)]);
        assert_eq!(op.on_merged(&node(2), OURS), [stored(2, 2, &[], false)]);
        assert!(!op.has_ended());
        assert_eq!(op.on_merged(&node(1), OURS), []);
        assert!(op.has_ended());
    }

    #[test]
    fn w_one_is_met_by_the_coordinator_alone() {
        assert!(op(1).start(|_| true).contains(&stored(1, 1, &[], false)));
    }

    #[test]
    fn a_fallback_keeps_a_hint_for_a_primary_known_to_be_down() {
        let mut op = op(ALL);
        assert_eq!(op.start(|other| *other != node(1)), [merge(2), keep(3, 1)]);
        op.on_merged(&node(2), OURS);
        assert_eq!(op.on_merged(&node(3), OURS), [stored(3, 2, &[1], true)]);
        assert!(op.has_ended());
    }

    #[test]
    fn a_primary_found_dead_on_the_way_is_stood_in_for_and_so_is_a_fallback() {
        let mut op = op(ALL);
        op.start(|_| true);
        op.on_merged(&node(1), OURS);
        assert_eq!(op.on_failed(&node(2), |_| true), [keep(3, 2)]);
        assert_eq!(op.on_failed(&node(3), |_| true), [keep(4, 2)]);
        assert_eq!(op.on_merged(&node(4), OURS), [stored(3, 2, &[2], true)]);
    }

    #[test]
    fn primaries_that_are_slow_are_stood_in_for_before_their_time_is_over() {
        let mut op = op(QUORUM);
        op.start(|_| true);
        assert_eq!(op.on_slow(|other| *other != node(3)), [keep(4, 1)], "nobody else can be reached");
        assert_eq!(op.on_slow(|_| true), []);
        assert_eq!(op.on_merged(&node(4), OURS), [stored(2, 1, &[1], false)]);
        assert_eq!(op.on_slow(|_| true), [], "the client has its answer");

        let mut strict = op_with(QUORUM, PutPlan { scope: Scope::Strict, ..plan() }, &[3]);
        strict.start(|_| true);
        assert_eq!(strict.on_slow(|_| true), []);
    }

    #[test]
    fn where_no_fallback_is_left_the_coordinator_keeps_a_hint_that_counts_for_nothing() {
        let mut op = op_with(ALL, plan(), &[]);
        assert_eq!(op.start(|other| *other != node(2)), [merge(1), keep(0, 2)]);
        op.on_kept_here(node(2));
        let unmet = PutReply::QuorumNotMet { acks: 2, needed: 3 };
        assert_eq!(op.on_merged(&node(1), OURS), [PutEffect::Reply(unmet)]);
        assert_eq!(op.on_failed(&node(1), |_| true), [], "one reply only");

        let mut op = op_with(QUORUM, plan(), &[]);
        op.start(|other| *other != node(2));
        op.on_kept_here(node(2));
        assert_eq!(op.on_merged(&node(1), OURS), [stored(2, 2, &[2], true)]);
    }

    #[test]
    fn a_strict_write_counts_its_row_only_and_leaves_hints_all_the_same() {
        let mut op = op_with(ALL, PutPlan { scope: Scope::Strict, ..plan() }, &[3]);
        assert_eq!(op.start(|other| *other != node(2)), [merge(1), keep(3, 2)]);
        assert_eq!(op.on_merged(&node(3), OURS), [], "who has not answered yet is waited for");
        let unmet = PutReply::QuorumNotMet { acks: 2, needed: 3 };
        assert_eq!(op.on_merged(&node(1), OURS), [PutEffect::Reply(unmet)]);
    }

    #[test]
    fn without_hints_nobody_stands_in() {
        let mut op = op_with(ALL, PutPlan { hinting: Hinting::Off, ..plan() }, &[3]);
        assert_eq!(op.start(|other| *other != node(2)), [merge(1)]);
    }

    #[test]
    fn a_fallback_coordinates_when_no_primary_can_and_counts_once() {
        let plan = PutPlan { stands_in_for: Some(node(0)), ..plan() };
        let mut op = PutOp::new(node(4), row(&[0, 1, 2], &[3, 4], OURS, QUORUM), plan, QuorumRules::sound());
        let is_fallback = |other: &NodeId| *other == node(3);
        assert_eq!(op.start(is_fallback), [keep(3, 1), keep(4, 2)], "its own second hint counts for nothing");
        assert_eq!(op.on_merged(&node(3), OURS), [stored(2, 0, &[0, 1], true)]);
    }

    #[test]
    fn a_replica_with_another_history_is_asked_again_after_reconciling() {
        let mut op = op(ALL);
        op.start(|other| *other != node(1));
        assert_eq!(op.on_merged(&node(2), THEIRS), [PutEffect::Reconcile(node(2))]);
        assert_eq!(op.on_merged(&node(3), THEIRS), [PutEffect::Reconcile(node(3))]);
        assert_eq!(op.on_reconciled(&node(2), |_| true), [merge(2)]);
        assert_eq!(op.on_reconciled(&node(3), |_| true), [keep(3, 1)]);
        op.on_merged(&node(2), OURS);
        assert_eq!(op.on_merged(&node(3), OURS), [stored(3, 2, &[1], true)]);
    }

    #[test]
    fn answers_under_the_old_row_do_not_count_under_the_new_one() {
        let mut op = op(QUORUM);
        op.start(|_| true);
        assert_eq!(op.on_row(row(&[0, 3, 4], &[1, 2], THEIRS, QUORUM), |_| true), [merge(3), merge(4)]);
        assert_eq!(op.on_merged(&node(1), OURS), []);
        assert_eq!(op.on_merged(&node(3), THEIRS), [stored(2, 2, &[], false)]);
    }

    #[test]
    fn a_coordinator_that_comes_into_the_row_stores_the_object_among_its_own_data() {
        let plan = PutPlan { stands_in_for: Some(node(2)), ..plan() };
        let mut op = PutOp::new(node(9), row(&[0, 1, 2], &[9], OURS, QUORUM), plan, QuorumRules::sound());
        assert_eq!(op.start(|_| true).len(), 3, "it does not believe them lost, or it would not be so polite");
        let effects = op.on_row(row(&[0, 1, 9], &[2], THEIRS, QUORUM), |_| true);
        assert_eq!(effects, [merge(9), merge(0), merge(1)]);
        op.on_merged(&node(9), THEIRS);
        assert_eq!(op.on_merged(&node(0), THEIRS), [stored(2, 2, &[], false)]);
    }

    #[test]
    fn when_time_is_up_not_knowing_is_said() {
        let mut op = op(ALL);
        op.start(|_| true);
        op.on_merged(&node(1), OURS);
        assert_eq!(op.on_deadline(), [PutEffect::Reply(PutReply::TimedOut { acks: 2, needed: 3 })]);
    }
}
