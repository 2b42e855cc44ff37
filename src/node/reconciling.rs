//! Comparing histories with peers, until both know all that either knew.
//!
//! Most comparisons find nothing: the first message carries no more than the digest of the history, and so does the answer
//! when the two are equal. Otherwise the answer says how far each author is known, and what the other lacks is sent, both
//! ways. With each peer one comparison is under way at a time.

use std::collections::{BTreeMap, BTreeSet};

use rand_chacha::rand_core::Rng as _;

use crate::{
    clock::Now,
    config::HistoryWays,
    digest::Digest,
    ident::NodeId,
    limits::{CHANGES_PER_MESSAGE_MAX, MEMBER_COUNT_MAX},
    membership::{
        change::Change,
        gossip::{self, Drawn},
        summary::Summary,
    },
    node::{
        Node, Purpose, SendFailure,
        effect::{Effect, InboundId, SeedIndex},
        history::{Batch, Origin},
        penalties::Offence,
    },
    wire::quorum::{Reconcile, Refusal, Request, Response},
};

/// Comparisons of histories that this node has begun.
#[derive(Debug, Default)]
pub(super) struct Reconciling {
    under_way: BTreeMap<NodeId, Told>,
    /// The history that each peer said it had when it was last sent what it lacked.
    pushed: BTreeMap<NodeId, Digest>,
    /// With whom to compare once more when the comparison under way is over.
    again: BTreeSet<NodeId>,
}

/// What a peer was told of this node's history in the comparison under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Its name.
    Digest,
    /// How far it knows each author.
    Summary,
}

/// What a peer has told of its history.
#[derive(Debug, Clone)]
pub(super) struct Theirs {
    /// Its name.
    pub(super) history: Digest,
    /// How far it knows each author. Left out where only the digests were to be compared.
    pub(super) summary: Option<Summary>,
}

impl Reconciling {
    /// Whether `peer`, whose history is `theirs`, has not yet been sent what it lacks.
    fn note_pushed(&mut self, peer: NodeId, theirs: Digest) -> bool {
        if self.pushed.get(&peer) == Some(&theirs) {
            return false;
        }
        if self.pushed.len() >= 2 * MEMBER_COUNT_MAX {
            self.pushed.clear();
        }
        self.pushed.insert(peer, theirs);
        true
    }
}

impl Node {
    /// Compares histories with `peer`, unless that is under way.
    pub(super) fn reconcile_with(&mut self, now: Now, peer: NodeId) {
        if !self.reconciling.under_way.contains_key(&peer) && !self.is_liar(now, &peer) {
            self.send_reconcile(now, peer, Told::Digest, Vec::new());
        }
    }

    /// Tells everybody who is connected that this node's history has grown, if nothing else does.
    pub(super) fn reconcile_after_growth(&mut self, now: Now) {
        if self.config.history_ways.compares_on_growth() {
            self.reconcile_with_all(now);
        }
    }

    /// Compares histories with everybody who is connected; where that is under way, once more after it.
    pub(super) fn reconcile_with_all(&mut self, now: Now) {
        for peer in self.identified.clone() {
            if self.reconciling.under_way.contains_key(&peer) {
                self.reconciling.again.insert(peer);
            } else {
                self.reconcile_with(now, peer);
            }
        }
    }

    /// Compares once more with `peer`, if that was put off and nothing is under way.
    fn reconcile_again(&mut self, now: Now, peer: NodeId) {
        let is_over = !self.reconciling.under_way.contains_key(&peer);
        if is_over && self.reconciling.again.remove(&peer) && self.identified.contains(&peer) {
            self.reconcile_with(now, peer);
        }
    }

    /// Compares histories with those whose agreement something waits for, where no comparison at random comes to them: a node
    /// says nothing before it has found a peer with the same history, and retires nothing before enough of them.
    pub(super) fn reconcile_where_needed(&mut self, now: Now) {
        let needed = match (self.config.history_ways == HistoryWays::none(), self.may_speak()) {
            (true, _) => BTreeSet::new(),
            (false, false) => self.identified.clone(),
            (false, true) => self.filling.witnesses().intersection(&self.identified).copied().collect(),
        };
        needed.into_iter().for_each(|peer| self.reconcile_with(now, peer));
    }

    /// Compares histories with somebody drawn at random: nine times of ten with a peer that is connected; else somebody
    /// is dialled who is not, a member or an address given at start.
    pub(super) fn reconcile_at_random(&mut self, now: Now) {
        let live: Vec<NodeId> = self.identified.iter().copied().collect();
        let is_silent = |node: &&NodeId| **node != self.me && !self.identified.contains(node);
        let silent: Vec<NodeId> = self.view.members.keys().filter(is_silent).copied().collect();
        let seeds: Vec<SeedIndex> = self.silent_seeds().collect();
        let dice = [self.rng.next_u64(), self.rng.next_u64()];
        match gossip::draw(live.len(), silent.len() + seeds.len(), dice) {
            Some(Drawn::Live(index)) => self.reconcile_with(now, live[index]),
            // Once it is connected and has said who it is, histories are compared.
            Some(Drawn::Silent(index)) if index < silent.len() => self.dial_once(silent[index]),
            Some(Drawn::Silent(index)) => self.effects.push_back(Effect::DialSeed(seeds[index - silent.len()])),
            None => {}
        }
    }

    /// Asks for what an announcement by `author` shows to be missing: the author if it is connected, or else anybody.
    pub(super) fn reconcile_about(&mut self, now: Now, author: NodeId) {
        let live: Vec<NodeId> = self.identified.iter().copied().collect();
        match gossip::draw(live.len(), 0, [0, self.rng.next_u64()]) {
            _ if self.identified.contains(&author) => self.reconcile_with(now, author),
            Some(Drawn::Live(index)) => self.reconcile_with(now, live[index]),
            Some(Drawn::Silent(_)) | None => {}
        }
    }

    /// A peer compares histories.
    pub(super) fn on_reconcile_request(&mut self, now: Now, from: NodeId, inbound: InboundId, reconcile: Reconcile) {
        if self.is_liar(now, &from) {
            // Not even its signatures are looked at: each costs more than the message.
            self.counters.offenders_refused += 1;
            return self.refuse(inbound, Refusal::Overloaded);
        }
        self.on_greeting(now, from, &reconcile);
        let Reconcile { changes, history, summary, .. } = reconcile;
        let theirs = Theirs { history, summary };
        let changes = self.check_count(now, from, changes);
        self.stage(now, Batch { changes, origin: Origin::Request { from, inbound, theirs } });
    }

    /// A peer has answered a comparison of histories, or not.
    pub(super) fn on_reconcile_response(&mut self, now: Now, from: NodeId, result: Result<Response, SendFailure>) {
        match result {
            Ok(Response::Reconciled(reconcile)) => {
                self.on_greeting(now, from, &reconcile);
                let Reconcile { changes, history, summary, .. } = reconcile;
                let theirs = Theirs { history, summary };
                let changes = self.check_count(now, from, changes);
                self.stage(now, Batch { changes, origin: Origin::Response { from, theirs } });
            }
            Ok(_) | Err(_) => {
                self.reconciling.under_way.remove(&from);
                self.reconciling.pushed.remove(&from);
                if self.config.history_ways.compares_on_growth() && matches!(result, Err(SendFailure::Unknown)) {
                    self.reconciling.again.insert(from);
                }
                self.reconcile_again(now, from);
            }
        }
    }

    /// Gives a message up that has more changes than any node sends.
    fn check_count(&mut self, now: Now, from: NodeId, changes: Vec<Change>) -> Vec<Change> {
        if changes.len() <= CHANGES_PER_MESSAGE_MAX {
            return changes;
        }
        self.counters.changes_refused += changes.len() as u64;
        self.note_offence(now, from, Offence::History);
        Vec::new()
    }

    /// What a peer with `summary` lacks, as much as one message takes.
    pub(super) fn changes_since(&self, summary: &Summary) -> Vec<Change> {
        self.records.history().since(summary, CHANGES_PER_MESSAGE_MAX)
    }

    /// Whoever waits for a batch is served. Its changes are those that the history has just taken in.
    pub(super) fn settle(&mut self, now: Now, batch: Batch) {
        match batch.origin {
            Origin::Here { .. } | Origin::Announced => {}
            Origin::Request { from, inbound, theirs } => {
                let lacking = theirs.summary.as_ref().map(|summary| self.changes_since(summary)).unwrap_or_default();
                let answer = self.reconcile_message(now, from, lacking);
                // Whoever knows that both have the same needs to know no more.
                let is_same = theirs.history == answer.history;
                let summary = answer.summary.filter(|_| !is_same);
                self.respond(inbound, Response::Reconciled(Reconcile { summary, ..answer }));
                self.note_agreement(now, from, theirs.history);
            }
            Origin::Response { from, theirs: Theirs { history, summary } } => {
                let told = self.reconciling.under_way.remove(&from);
                let is_same = history == self.records.history().digest();
                match summary {
                    Some(summary) if !is_same => {
                        let learned = !batch.changes.is_empty() || told == Some(Told::Digest);
                        self.go_on_reconciling(now, from, history, &summary, learned);
                    }
                    Some(_) | None => self.note_agreement(now, from, history),
                }
                self.reconcile_again(now, from);
            }
        }
    }

    /// Sends a peer what it lacks, once: when it answers that it still lacks the same, it does not want it. Asks it for more if
    /// it has more, and there is reason to believe that it can be taken in.
    fn go_on_reconciling(&mut self, now: Now, peer: NodeId, history: Digest, theirs: &Summary, learned: bool) {
        let mut lacking = self.changes_since(theirs);
        if !lacking.is_empty() && !self.reconciling.note_pushed(peer, history) {
            lacking.clear();
        }
        let is_more = self.records.history().lacks(theirs);
        if !lacking.is_empty() || (is_more && learned) {
            self.send_reconcile(now, peer, Told::Summary, lacking);
        }
    }

    fn send_reconcile(&mut self, now: Now, peer: NodeId, told: Told, changes: Vec<Change>) {
        self.reconciling.under_way.insert(peer, told);
        let message = self.reconcile_message(now, peer, changes);
        let message = match told {
            Told::Summary => message,
            Told::Digest => Reconcile { summary: None, ..message },
        };
        let due = now.instant + self.config.peer_timeout;
        self.send(now.instant, &[peer], Purpose::Reconcile, Request::Reconcile(message), due);
    }
}
