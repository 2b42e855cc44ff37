//! A coordinated read: ask the row, answer at R with the merge, then repair who was behind.

use crate::{
    causality::siblings::Object,
    digest::Digest,
    ident::NodeId,
    quorum::{
        Row,
        repair::{Repair, repairs},
        tally::{Recorded, Tally, Verdict},
    },
    wire::client::Consistency,
};

/// What a [`GetOp`] wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum GetEffect {
    /// Ask this replica, which may be the coordinator itself.
    Read(NodeId),
    /// Its history and ours differ: reconcile, then call [`GetOp::on_reconciled`].
    Reconcile(NodeId),
    /// Tell the client. Given exactly once.
    Reply(GetReply),
    /// Send this replica the merge: it was behind.
    Repair(Repair),
}

/// What the client is told.
#[derive(Debug, Clone, PartialEq)]
pub enum GetReply {
    /// At least R replicas answered; this is the merge of what they hold.
    Found {
        /// The merge.
        object: Object,
        /// Fewer members than replicas, or a primary that did not answer.
        degraded: bool,
    },
    /// R is out of reach, and every replica has answered or failed.
    QuorumNotMet {
        /// Replicas that answered.
        acks: usize,
        /// R.
        needed: usize,
    },
    /// The time is up.
    TimedOut {
        /// Replicas that answered.
        acks: usize,
        /// R.
        needed: usize,
    },
}

/// One read at its coordinator.
///
/// **Inputs**: answers of replicas, changes of the row. **Effects**: [`GetEffect`]. **Time**: one deadline for the answer
/// and, after it, one for stragglers; kept by the caller. **Ends when** every replica has answered or failed, or the time
/// for stragglers is up; then it names the repairs. Zero of them when all agree.
#[derive(Debug)]
pub struct GetOp {
    me: NodeId,
    consistency: Consistency,
    tally: Tally<Object>,
    replied: bool,
    finished: bool,
}

impl GetOp {
    /// A read of `row`, coordinated by `me`. Call [`GetOp::start`] next.
    pub fn new(me: NodeId, row: Row, consistency: Consistency) -> GetOp {
        GetOp { me, consistency, tally: Tally::new(row), replied: false, finished: false }
    }

    /// The first effects. `is_reachable` is this node's opinion; who is not, counts as failed at once. The coordinator is
    /// always reachable to itself.
    pub fn start(&mut self, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<GetEffect> {
        let all = self.tally.row().nodes.clone();
        self.ask(all, is_reachable)
    }

    /// The coordinator's partition digest.
    pub fn partition(&self) -> Digest {
        self.tally.row().partition
    }

    /// `node` holds `object`; `partition` is its partition digest.
    pub fn on_object(&mut self, node: &NodeId, object: Object, partition: Digest) -> Vec<GetEffect> {
        match self.tally.record(node, partition, object) {
            Recorded::OtherHistory => vec![GetEffect::Reconcile(*node)],
            Recorded::Counted | Recorded::Ignored => self.judge(),
        }
    }

    /// `node` does not answer, or refuses.
    pub fn on_failed(&mut self, node: &NodeId) -> Vec<GetEffect> {
        self.tally.fail(node);
        self.judge()
    }

    /// The histories of `node` and of the coordinator agree now.
    pub fn on_reconciled(&mut self, node: &NodeId) -> Vec<GetEffect> {
        if self.tally.retry(node) { vec![GetEffect::Read(*node)] } else { self.judge() }
    }

    /// The coordinator's history says something else of the partition now.
    pub fn on_row(&mut self, row: Row, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<GetEffect> {
        let again = self.tally.change_row(row, &self.me);
        self.ask(again, is_reachable)
    }

    /// The time is up: that for the answer, or that for stragglers. The machine has ended.
    pub fn on_deadline(&mut self) -> Vec<GetEffect> {
        let acks = self.tally.agreed_count();
        let mut effects = self.reply(GetReply::TimedOut { acks, needed: self.needed() });
        effects.extend(self.finish());
        effects
    }

    /// Whether nothing more can come of it.
    pub fn has_ended(&self) -> bool {
        self.finished
    }

    /// What each replica of the row holds, in the row's order; nothing for those that have not answered.
    pub fn answers(&self) -> Vec<(NodeId, Option<Object>)> {
        let agreed: std::collections::BTreeMap<_, _> = self.tally.agreed().collect();
        self.tally.row().nodes.iter().map(|node| (*node, agreed.get(node).map(|object| (*object).clone()))).collect()
    }

    fn needed(&self) -> usize {
        self.tally.row().needed(self.consistency)
    }

    fn ask(&mut self, nodes: Vec<NodeId>, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<GetEffect> {
        let me = self.me;
        let (reachable, lost): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|node| *node == me || is_reachable(node));
        lost.iter().for_each(|node| self.tally.fail(node));
        let mut effects: Vec<_> = reachable.into_iter().map(GetEffect::Read).collect();
        effects.extend(self.judge());
        effects
    }

    fn judge(&mut self) -> Vec<GetEffect> {
        let (acks, needed) = (self.tally.agreed_count(), self.needed());
        let is_settled = self.tally.is_settled();
        let mut effects = match self.tally.verdict(needed) {
            Verdict::Pending => Vec::new(),
            Verdict::Impossible if is_settled => self.reply(GetReply::QuorumNotMet { acks, needed }),
            Verdict::Impossible => Vec::new(),
            Verdict::Reached => self.reply_found(is_settled),
        };
        if self.replied && is_settled {
            effects.extend(self.finish());
        }
        effects
    }

    /// Answers with the merge. That there is nothing is only said when everybody has been heard or has failed: a replica
    /// that joined late does not know what it has not been told yet.
    fn reply_found(&mut self, is_settled: bool) -> Vec<GetEffect> {
        let object = self.merged();
        if !is_settled && object == Object::default() {
            return Vec::new();
        }
        let degraded = self.tally.row().is_short() || self.tally.any_failed();
        self.reply(GetReply::Found { object, degraded })
    }

    fn merged(&self) -> Object {
        let mut merged = Object::default();
        for (_, object) in self.tally.agreed() {
            merged.merge(object.clone());
        }
        merged
    }

    fn reply(&mut self, reply: GetReply) -> Vec<GetEffect> {
        if std::mem::replace(&mut self.replied, true) { Vec::new() } else { vec![GetEffect::Reply(reply)] }
    }

    fn finish(&mut self) -> Vec<GetEffect> {
        if std::mem::replace(&mut self.finished, true) {
            return Vec::new();
        }
        repairs(&self.merged(), self.tally.agreed()).into_iter().map(GetEffect::Repair).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        causality::{dot::Actor, seen::Seen, siblings::NewValue},
        clock::WallTime,
        ident::{OpId, Value},
    };

    const OURS: Digest = Digest([1; 32]);

    fn node(i: u8) -> NodeId {
        NodeId([i; 32])
    }

    fn object(actor: u64) -> Object {
        let mut object = Object::default();
        let new =
            NewValue { op: OpId([7; 16]), value: Value::new(b"v").unwrap(), written_at: WallTime(1), expires_at: None };
        object.put(&Seen::default(), Actor { node: actor, epoch: 1 }, new);
        object
    }

    fn started(consistency: Consistency) -> GetOp {
        let row = Row { nodes: (0..3).map(node).collect(), partition: OURS, replicas: 3 };
        let mut op = GetOp::new(node(0), row, consistency);
        assert_eq!(op.start(|_| true).len(), 3);
        op
    }

    #[test]
    fn replicas_that_agree_are_not_repaired() {
        let mut op = started(Consistency::Quorum);
        assert_eq!(op.on_object(&node(0), object(1), OURS), vec![]);
        let found = GetReply::Found { object: object(1), degraded: false };
        assert_eq!(op.on_object(&node(1), object(1), OURS), vec![GetEffect::Reply(found)]);
        assert_eq!(op.on_object(&node(2), object(1), OURS), vec![]);
        assert!(op.has_ended());
    }

    #[test]
    fn a_straggler_that_was_behind_is_repaired_after_the_answer() {
        let mut op = started(Consistency::Quorum);
        op.on_object(&node(0), object(1), OURS);
        op.on_object(&node(1), object(1), OURS);
        let effects = op.on_object(&node(2), Object::default(), OURS);
        assert!(matches!(&effects[..], [GetEffect::Repair(repair)] if repair.node == node(2)));
    }

    #[test]
    fn siblings_on_different_replicas_are_merged_and_both_repaired() {
        let mut op = started(Consistency::All);
        op.on_object(&node(0), object(1), OURS);
        op.on_object(&node(1), object(2), OURS);
        let effects = op.on_object(&node(2), object(1), OURS);
        assert_eq!(effects.len(), 4, "an answer and three repairs");
    }

    #[test]
    fn absence_is_only_told_when_everybody_was_heard() {
        let mut op = started(Consistency::One);
        assert_eq!(op.on_object(&node(0), Object::default(), OURS), vec![]);
        assert_eq!(op.on_object(&node(1), Object::default(), OURS), vec![]);
        let effects = op.on_object(&node(2), object(1), OURS);
        assert!(matches!(&effects[0], GetEffect::Reply(GetReply::Found { object: found, .. }) if *found == object(1)));
    }

    #[test]
    fn absence_is_only_told_at_r() {
        let mut op = started(Consistency::Quorum);
        assert_eq!(op.on_object(&node(0), Object::default(), OURS), vec![]);
        op.on_failed(&node(1));
        assert_eq!(op.on_failed(&node(2)), vec![GetEffect::Reply(GetReply::QuorumNotMet { acks: 1, needed: 2 })]);
    }
}
