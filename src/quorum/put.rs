//! A coordinated write: store here, replicate, answer at W.
//!
//! The coordinator writes first: only a replica may mint a dot, and the others must store the same one. A delete is a
//! write that mints none.

use crate::{
    causality::siblings::Object,
    digest::Digest,
    ident::NodeId,
    quorum::{
        Row,
        tally::{Recorded, Tally, Verdict},
    },
    wire::client::Consistency,
};

/// What a [`PutOp`] wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum PutEffect {
    /// Send the object to this replica.
    Merge(NodeId),
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
        /// Replicas that hold it; all of them primaries.
        acks: usize,
        /// Fewer members than replicas, or a primary that did not store it.
        degraded: bool,
    },
    /// W is out of reach, and every replica has answered or failed.
    QuorumNotMet {
        /// Replicas that hold it.
        acks: usize,
        /// W.
        needed: usize,
    },
    /// The time is up.
    TimedOut {
        /// Replicas that hold it.
        acks: usize,
        /// W.
        needed: usize,
    },
}

/// One write at its coordinator, from the moment its own store has it.
///
/// **Inputs**: answers of replicas, changes of the row. **Effects**: [`PutEffect`]. **Time**: one deadline, kept by the
/// caller. **Ends when** every replica has answered or failed; replies at W, or when the time is up, and lingers until
/// then, so that the remaining copies are made.
#[derive(Debug)]
pub struct PutOp {
    me: NodeId,
    consistency: Consistency,
    object: Object,
    tally: Tally<()>,
    replied: bool,
}

impl PutOp {
    /// A write whose `object` the coordinator's own store, `me`, holds durably.
    ///
    /// Call [`PutOp::start`] next.
    pub fn new(me: NodeId, row: Row, consistency: Consistency, object: Object) -> PutOp {
        let mut tally = Tally::new(row);
        let partition = tally.row().partition;
        tally.record(&me, partition, ());
        PutOp { me, consistency, object, tally, replied: false }
    }

    /// What every replica is to merge.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// The coordinator's partition digest.
    pub fn partition(&self) -> Digest {
        self.tally.row().partition
    }

    /// The first effects. `is_reachable` is this node's opinion; who is not, counts as failed at once.
    pub fn start(&mut self, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<PutEffect> {
        let others = self.tally.row().nodes.iter().copied().filter(|node| *node != self.me).collect();
        self.ask(others, is_reachable)
    }

    /// `node` holds the object durably; `partition` is its partition digest.
    pub fn on_merged(&mut self, node: &NodeId, partition: Digest) -> Vec<PutEffect> {
        match self.tally.record(node, partition, ()) {
            Recorded::OtherHistory => vec![PutEffect::Reconcile(*node)],
            Recorded::Counted | Recorded::Ignored => self.judge(),
        }
    }

    /// `node` does not answer, or refuses.
    pub fn on_failed(&mut self, node: &NodeId) -> Vec<PutEffect> {
        self.tally.fail(node);
        self.judge()
    }

    /// The histories of `node` and of the coordinator agree now.
    pub fn on_reconciled(&mut self, node: &NodeId) -> Vec<PutEffect> {
        if self.tally.retry(node) { vec![PutEffect::Merge(*node)] } else { self.judge() }
    }

    /// The coordinator's history says something else of the partition now.
    pub fn on_row(&mut self, row: Row, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<PutEffect> {
        let partition = row.partition;
        let mut again = self.tally.change_row(row, &self.me);
        // The coordinator may have come into the row; it has stored the object already.
        again.retain(|node| *node != self.me);
        self.tally.record(&self.me, partition, ());
        self.ask(again, is_reachable)
    }

    /// The client's time is up. The machine goes on until every replica has answered or failed, or is dropped.
    pub fn on_deadline(&mut self) -> Vec<PutEffect> {
        let acks = self.tally.agreed_count();
        self.reply(PutReply::TimedOut { acks, needed: self.needed() })
    }

    /// Whether nothing more can come of it.
    pub fn has_ended(&self) -> bool {
        self.replied && self.tally.is_settled()
    }

    fn needed(&self) -> usize {
        self.tally.row().needed(self.consistency)
    }

    fn ask(&mut self, nodes: Vec<NodeId>, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<PutEffect> {
        let (reachable, lost): (Vec<_>, Vec<_>) = nodes.into_iter().partition(is_reachable);
        lost.iter().for_each(|node| self.tally.fail(node));
        let mut effects: Vec<_> = reachable.into_iter().map(PutEffect::Merge).collect();
        effects.extend(self.judge());
        effects
    }

    fn judge(&mut self) -> Vec<PutEffect> {
        let (acks, needed) = (self.tally.agreed_count(), self.needed());
        match self.tally.verdict(needed) {
            // The client is told how many did store it, so whoever may yet answer is waited for.
            Verdict::Impossible if !self.tally.is_settled() => Vec::new(),
            Verdict::Pending => Vec::new(),
            Verdict::Reached => {
                let degraded = self.tally.row().is_short() || self.tally.any_failed();
                self.reply(PutReply::Stored { acks, degraded })
            }
            Verdict::Impossible => self.reply(PutReply::QuorumNotMet { acks, needed }),
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

    fn node(i: u8) -> NodeId {
        NodeId([i; 32])
    }

    fn row(nodes: &[u8], partition: Digest) -> Row {
        Row { nodes: nodes.iter().copied().map(node).collect(), partition, replicas: 3 }
    }

    fn op(consistency: Consistency) -> PutOp {
        PutOp::new(node(0), row(&[0, 1, 2], OURS), consistency, Object::default())
    }

    fn stored(acks: usize, degraded: bool) -> Vec<PutEffect> {
        vec![PutEffect::Reply(PutReply::Stored { acks, degraded })]
    }

    #[test]
    fn it_replies_at_w_and_ends_when_all_have_answered() {
        let mut op = op(Consistency::Quorum);
        assert_eq!(op.start(|_| true), vec![PutEffect::Merge(node(1)), PutEffect::Merge(node(2))]);
        assert_eq!(op.on_merged(&node(2), OURS), stored(2, false));
        assert!(!op.has_ended());
        assert_eq!(op.on_merged(&node(1), OURS), vec![]);
        assert!(op.has_ended());
    }

    #[test]
    fn w_one_is_met_by_the_coordinator_alone() {
        let mut op = op(Consistency::One);
        assert!(op.start(|_| true).contains(&stored(1, false)[0]));
    }

    #[test]
    fn a_lost_replica_makes_all_impossible_and_those_that_stored_it_are_counted() {
        let mut op = op(Consistency::All);
        assert_eq!(op.start(|other| *other != node(2)), vec![PutEffect::Merge(node(1))]);
        let unmet = PutReply::QuorumNotMet { acks: 2, needed: 3 };
        assert_eq!(op.on_merged(&node(1), OURS), vec![PutEffect::Reply(unmet)]);
        assert_eq!(op.on_failed(&node(1)), vec![], "one reply only");
    }

    #[test]
    fn a_replica_with_another_history_is_asked_again_after_reconciling() {
        let mut op = op(Consistency::All);
        op.start(|_| true);
        op.on_merged(&node(1), OURS);
        assert_eq!(op.on_merged(&node(2), Digest([9; 32])), vec![PutEffect::Reconcile(node(2))]);
        assert_eq!(op.on_reconciled(&node(2)), vec![PutEffect::Merge(node(2))]);
        assert_eq!(op.on_merged(&node(2), OURS), stored(3, false));
    }

    #[test]
    fn answers_under_the_old_row_do_not_count_under_the_new_one() {
        let mut op = op(Consistency::Quorum);
        op.start(|_| true);
        let theirs = Digest([2; 32]);
        assert_eq!(
            op.on_row(row(&[0, 3, 4], theirs), |_| true),
            vec![PutEffect::Merge(node(3)), PutEffect::Merge(node(4))]
        );
        assert_eq!(op.on_merged(&node(1), OURS), vec![]);
        assert_eq!(op.on_merged(&node(3), theirs), stored(2, false));
    }

    #[test]
    fn a_coordinator_that_comes_into_the_row_does_not_ask_itself() {
        let mut op = PutOp::new(node(9), row(&[0, 1, 2], OURS), Consistency::One, Object::default());
        assert_eq!(op.start(|_| true).len(), 3, "outside the row its own copy does not count");
        let theirs = Digest([2; 32]);
        let effects = op.on_row(row(&[0, 1, 9], theirs), |_| true);
        assert_eq!(effects[..2], [PutEffect::Merge(node(0)), PutEffect::Merge(node(1))]);
        assert_eq!(effects[2..], stored(1, false));
    }

    #[test]
    fn when_time_is_up_not_knowing_is_said() {
        let mut op = op(Consistency::All);
        op.start(|_| true);
        op.on_merged(&node(1), OURS);
        assert_eq!(op.on_deadline(), vec![PutEffect::Reply(PutReply::TimedOut { acks: 2, needed: 3 })]);
    }
}
