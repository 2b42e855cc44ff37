//! A coordinated read: ask the row, answer at R with the merge, then repair who was behind.
//!
//! A fallback that stands in answers what it knows, or that it knows nothing, which is never taken for absence. A large
//! object travels once: the nearest replica sends it, the others a digest, and only one that differs is asked for it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    causality::siblings::Object,
    digest::Digest,
    ident::NodeId,
    quorum::{
        QuorumRules,
        repair::{Repair, repairs},
        row::{Demand, Row},
        tally::{Recorded, Standing, Tally, Verdict},
    },
    wire::client::Scope,
};

/// What a [`GetOp`] wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum GetEffect {
    /// Ask this node, which may be the coordinator itself.
    Read {
        /// Whom.
        node: NodeId,
        /// How much of the object it should send.
        detail: Detail,
    },
    /// Its history and ours differ: reconcile, then call [`GetOp::on_reconciled`].
    Reconcile(NodeId),
    /// Tell the client. Given exactly once.
    Reply(GetReply),
    /// Send this replica the merge: it was behind.
    Repair(Repair),
}

/// How much of an object a replica sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// All of it.
    Whole,
    /// All of it if it is small, else its digest.
    DigestOfLarge,
}

/// What a replica holds, as far as it has told.
#[derive(Debug, Clone, PartialEq)]
pub enum Held {
    /// The object.
    Object(Object),
    /// Its digest: it is large.
    Digest(Digest),
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
    /// Only fallbacks answered, and none of them knows the key: nobody knows whether it exists.
    Unknown {
        /// How many.
        fallbacks: usize,
    },
    /// The time is up.
    TimedOut {
        /// Replicas that answered.
        acks: usize,
        /// R.
        needed: usize,
    },
}

/// What a read is, beside its row.
#[derive(Debug, Clone, Copy)]
pub struct GetPlan {
    /// Whose answers count.
    pub scope: Scope,
    /// Who sends a large object; everybody when there is nobody.
    pub nearest: Option<NodeId>,
}

/// One read at its coordinator.
///
/// **Inputs**: answers of replicas, changes of the row. **Effects**: [`GetEffect`]. **Time**: a moment after which another
/// node is asked beside the slowest, one deadline for the answer and, after it, one for stragglers; kept by the caller.
/// **Ends when** every replica has answered or failed, or the time for stragglers is up; then it names the repairs. Zero
/// of them when all agree.
///
/// Wherever `is_reachable` is asked for, it is this node's opinion; it may be wrong. The coordinator is always reachable
/// to itself.
#[derive(Debug)]
pub struct GetOp {
    me: NodeId,
    plan: GetPlan,
    tally: Tally<Held>,
    /// Who has been asked for the whole object.
    asked_whole: BTreeSet<NodeId>,
    replied: bool,
    finished: bool,
}

impl GetOp {
    /// A read of `row`, coordinated by `me`. Call [`GetOp::start`] next.
    pub fn new(me: NodeId, row: Row, plan: GetPlan, rules: QuorumRules) -> GetOp {
        let tally = Tally::new(row, plan.scope, rules);
        GetOp { me, plan, tally, asked_whole: BTreeSet::new(), replied: false, finished: false }
    }

    /// The first effects. Who cannot be reached counts as lost at once.
    pub fn start(&mut self, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<GetEffect> {
        let all = self.tally.row().nodes.clone();
        self.ask(all, is_reachable)
    }

    /// The coordinator's partition digest.
    pub fn partition(&self) -> Digest {
        self.tally.row().partition
    }

    /// `node` holds this; `partition` is its partition digest.
    pub fn on_held(
        &mut self,
        node: &NodeId,
        held: Held,
        partition: Digest,
        is_reachable: impl Fn(&NodeId) -> bool,
    ) -> Vec<GetEffect> {
        match self.tally.record(node, partition, held) {
            Recorded::OtherHistory => vec![GetEffect::Reconcile(*node)],
            Recorded::Counted | Recorded::Ignored => self.go_on(is_reachable),
        }
    }

    /// `node` is no replica of the key, and knows nothing of it.
    pub fn on_unknown(
        &mut self,
        node: &NodeId,
        partition: Digest,
        is_reachable: impl Fn(&NodeId) -> bool,
    ) -> Vec<GetEffect> {
        match self.tally.record_unknown(node, partition, Held::Object(Object::default())) {
            Recorded::OtherHistory => vec![GetEffect::Reconcile(*node)],
            Recorded::Counted | Recorded::Ignored => self.go_on(is_reachable),
        }
    }

    /// `node` does not know the coordinator as a member.
    pub fn on_other_history(&mut self, node: &NodeId) -> Vec<GetEffect> {
        match self.tally.record_other(node) {
            Recorded::OtherHistory => vec![GetEffect::Reconcile(*node)],
            Recorded::Counted | Recorded::Ignored => Vec::new(),
        }
    }

    /// `node` does not answer, or refuses.
    pub fn on_failed(&mut self, node: &NodeId, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<GetEffect> {
        self.tally.fail(node);
        self.go_on(is_reachable)
    }

    /// The histories of `node` and of the coordinator agree now.
    pub fn on_reconciled(&mut self, node: &NodeId, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<GetEffect> {
        if self.tally.retry(node) { vec![self.read(*node)] } else { self.go_on(is_reachable) }
    }

    /// Somebody takes longer than usual: one more is asked, unless the client has its answer.
    pub fn on_slow(&mut self, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<GetEffect> {
        if self.replied || self.plan.scope == Scope::Strict {
            return Vec::new();
        }
        let me = self.me;
        let second = self.tally.second(|node| *node == me || is_reachable(node));
        second.into_iter().map(|(node, _)| self.read(node)).collect()
    }

    /// The coordinator's history says something else of the partition now.
    pub fn on_row(&mut self, row: Row, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<GetEffect> {
        let again = self.tally.change_row(row, &self.me);
        self.ask(again, is_reachable)
    }

    /// The time is up: that for the answer, or that for stragglers. The machine has ended.
    pub fn on_deadline(&mut self) -> Vec<GetEffect> {
        let (acks, needed) = self.tally.shortfall();
        let mut effects = self.reply(GetReply::TimedOut { acks, needed });
        effects.extend(self.finish());
        effects
    }

    /// Whether the client has been answered.
    pub fn has_replied(&self) -> bool {
        self.replied
    }

    /// Whether nothing more can come of it.
    pub fn has_ended(&self) -> bool {
        self.finished
    }

    /// What each replica of the row holds, in the row's order; nothing for those that have not answered.
    pub fn answers(&self) -> Vec<(NodeId, Option<Object>)> {
        let agreed: BTreeMap<_, _> = self.tally.agreed_primaries().collect();
        let object_of = |node: &NodeId| match agreed.get(node) {
            Some(Held::Object(object)) => Some(object.clone()),
            Some(Held::Digest(_)) | None => None,
        };
        self.tally.row().nodes.iter().map(|node| (*node, object_of(node))).collect()
    }

    fn ask(&mut self, nodes: Vec<NodeId>, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<GetEffect> {
        let me = self.me;
        let (reachable, lost): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|node| *node == me || is_reachable(node));
        lost.iter().for_each(|node| self.tally.fail(node));
        let mut effects: Vec<_> = reachable.into_iter().map(|node| self.read(node)).collect();
        effects.extend(self.go_on(is_reachable));
        effects
    }

    fn read(&mut self, node: NodeId) -> GetEffect {
        let is_nearest = self.plan.nearest.is_none_or(|nearest| nearest == node);
        let detail = if is_nearest || node == self.me { Detail::Whole } else { Detail::DigestOfLarge };
        if detail == Detail::Whole {
            self.asked_whole.insert(node);
        }
        GetEffect::Read { node, detail }
    }

    /// Has others stand in for the lost, compares digests, and judges.
    fn go_on(&mut self, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<GetEffect> {
        let me = self.me;
        let mut effects = Vec::new();
        if !self.replied && self.plan.scope == Scope::Sloppy {
            let found = self.tally.stand_in(|node| *node == me || is_reachable(node));
            effects.extend(found.into_iter().map(|(node, _)| self.read(node)));
        }
        effects.extend(self.resolve_digests());
        effects.extend(self.judge());
        effects
    }

    /// Puts the object in place of a digest that is its own, and asks for the object where none is.
    fn resolve_digests(&mut self) -> Vec<GetEffect> {
        let is_digest = |held: &Held| matches!(held, Held::Digest(_));
        if !self.tally.agreed().any(|(_, held)| is_digest(held)) {
            return Vec::new();
        }
        let whole: BTreeMap<Digest, Object> = self
            .tally
            .agreed()
            .filter_map(|(_, held)| match held {
                Held::Object(object) => Some((object.digest(), object.clone())),
                Held::Digest(_) => None,
            })
            .collect();
        let is_one_coming = self.asked_whole.iter().any(|node| self.tally.is_pending(node));
        let mut differing = Vec::new();
        for (node, held) in self.tally.agreed_mut() {
            if let Held::Digest(digest) = held {
                match whole.get(digest) {
                    Some(object) => *held = Held::Object(object.clone()),
                    None => differing.push(node),
                }
            }
        }
        if whole.is_empty() {
            // Somebody's object may turn out to be everybody's.
            differing.truncate(usize::from(!is_one_coming));
        }
        differing.retain(|node| self.tally.ask_again(node));
        self.asked_whole.extend(&differing);
        differing.into_iter().map(|node| GetEffect::Read { node, detail: Detail::Whole }).collect()
    }

    fn judge(&mut self) -> Vec<GetEffect> {
        let is_settled = self.tally.is_settled();
        let mut effects = match self.verdict() {
            Verdict::Pending => Vec::new(),
            Verdict::Reached => self.reply_found(is_settled),
            Verdict::Impossible => self.reply_with_less(is_settled),
        };
        if self.replied && is_settled {
            effects.extend(self.finish());
        }
        effects
    }

    /// A digest whose object has not come is no answer yet.
    fn verdict(&self) -> Verdict {
        let has_digest = self.tally.agreed().any(|(_, held)| matches!(held, Held::Digest(_)));
        if has_digest { Verdict::Pending } else { self.tally.verdict() }
    }

    /// Answers with the merge. That there is nothing is only said when everybody has been heard or has failed: with a low R
    /// the one that answers first may be the one that was missed.
    fn reply_found(&mut self, is_settled: bool) -> Vec<GetEffect> {
        let object = self.merged();
        if !is_settled && object == Object::default() {
            return Vec::new();
        }
        self.reply_object(object)
    }

    /// Fewer than R know the key. What they know is given where fallbacks that know nothing make up the number: R nodes
    /// were reached. That there is nothing is never concluded so.
    fn reply_with_less(&mut self, is_settled: bool) -> Vec<GetEffect> {
        let object = self.merged();
        let is_reached = |(standing, demand): (Standing, &Demand)| standing.agreed + standing.unknown >= demand.needed;
        let is_reached = self.tally.standings().all(is_reached);
        let unknown = self.tally.standings().map(|(standing, _)| standing.unknown).max().unwrap_or(0);
        let (agreed, needed) = self.tally.shortfall();
        if is_reached && !object.siblings().is_empty() {
            return self.reply_object(object);
        }
        if !is_settled {
            return Vec::new();
        }
        if agreed == 0 && unknown > 0 {
            self.reply(GetReply::Unknown { fallbacks: unknown })
        } else {
            self.reply(GetReply::QuorumNotMet { acks: agreed, needed })
        }
    }

    fn reply_object(&mut self, object: Object) -> Vec<GetEffect> {
        let degraded = self.tally.row().is_short || self.tally.any_failed();
        self.reply(GetReply::Found { object, degraded })
    }

    fn merged(&self) -> Object {
        let mut merged = Object::default();
        for (_, held) in self.tally.agreed() {
            if let Held::Object(object) = held {
                merged.merge(object.clone());
            }
        }
        merged
    }

    fn reply(&mut self, reply: GetReply) -> Vec<GetEffect> {
        if std::mem::replace(&mut self.replied, true) { Vec::new() } else { vec![GetEffect::Reply(reply)] }
    }

    /// Only primaries are repaired: what fallbacks keep is on its way to them.
    fn finish(&mut self) -> Vec<GetEffect> {
        if std::mem::replace(&mut self.finished, true) {
            return Vec::new();
        }
        let objects = self.tally.agreed_primaries().filter_map(|(node, held)| match held {
            Held::Object(object) => Some((node, object)),
            Held::Digest(_) => None,
        });
        repairs(&self.merged(), objects).into_iter().map(GetEffect::Repair).collect()
    }
}

#[cfg(test)]
#[path = "get_tests.rs"]
mod tests;
