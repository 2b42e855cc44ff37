//! The node's part in the membership history: learning, authoring, persisting, becoming a member.
//!
//! A change is persisted before it is acted on: changes that arrive are checked against a copy of the history, stored,
//! and only then is the copy the history. One such batch is under way at a time; what arrives meanwhile waits, and what
//! does not fit into the waiting room is pulled again by the next comparison.

use std::collections::VecDeque;

use crate::{
    clock::Now,
    config::{Founding, NodeConfig, Way},
    digest::Digest,
    ident::NodeId,
    limits::CHANGES_PER_MESSAGE_MAX,
    membership::{
        change::{Change, ChangeKind},
        history::{History, HistoryError, Inserted},
        summary::Summary,
    },
    node::{
        Node, TicketUse,
        effect::{Effect, Event, InboundId, Stop},
        judging::{is_lie, spoils_the_rest},
        operations::Asker,
        penalties::Offence,
        reconciling::Theirs,
        standing,
        upkeep::Alarm,
    },
    replica::{Done, Work},
    store::StoreError,
    wire::client::Failure,
};

/// Most batches that wait while one is being stored.
const WAITING_BATCHES_MAX: usize = 64;

/// Most changes in the batches that wait. A change has 30 KiB at most.
const WAITING_CHANGES_MAX: usize = 4 * CHANGES_PER_MESSAGE_MAX;

/// What this node remembers for good, or is about to.
#[derive(Debug)]
pub(super) struct Records {
    history: History,
    /// The history as it will be when the batch under way is stored.
    staged: Option<(History, Batch)>,
    waiting: VecDeque<Batch>,
    to_author: VecDeque<ChangeKind>,
    /// What this node has signed and the store has not taken, though it may hold it all the same. It is said again in the very
    /// same words before anything else, or its number might come to stand for two things.
    to_say_again: Option<Change>,
    /// Some peer has held the same history since this start.
    has_agreed: bool,
    store_failure: Option<String>,
}

/// Changes on their way into the history.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) changes: Vec<Change>,
    pub(super) origin: Origin,
}

impl Origin {
    /// Who has sent the batch itself. Announcements are passed on by anybody.
    fn sender(&self) -> Option<NodeId> {
        match self {
            Origin::Here { .. } | Origin::Announced => None,
            Origin::Request { from, .. } | Origin::Response { from, .. } => Some(*from),
        }
    }
}

impl Batch {
    /// The same batch, of which nothing was new or could be taken: whoever sent it is not asked for more of it at once.
    fn without_news(self) -> Batch {
        Batch { changes: Vec::new(), ..self }
    }
}

/// Where a batch came from, and who waits for it.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// Authored here: to be announced. Whoever ordered it is answered when it is stored, or cannot be.
    Here { asker: Asker },
    /// Announced by a peer.
    Announced,
    /// In a peer's request: answer it when stored.
    Request { from: NodeId, inbound: InboundId, theirs: Theirs },
    /// In a peer's answer.
    Response { from: NodeId, theirs: Theirs },
}

impl Records {
    pub(super) fn new(config: &NodeConfig, mut changes: Vec<Change>) -> Records {
        let mut history = History::new(config.cluster.clone());
        changes.sort_by_key(|change| (change.lamport, change.author, change.sequence));
        for change in changes {
            // A stored change that no longer fits (the cluster was renamed, a row was lost) is left out; peers have it.
            let _ = history.insert(change);
        }
        Records {
            history,
            staged: None,
            waiting: VecDeque::new(),
            to_author: VecDeque::new(),
            to_say_again: None,
            has_agreed: false,
            store_failure: None,
        }
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    pub(super) fn note_store_failure(&mut self, failure: Option<String>) {
        self.store_failure = failure;
    }

    pub(super) fn store_failure(&self) -> Option<&String> {
        self.store_failure.as_ref()
    }
}

impl Node {
    /// The first thing a node does: becomes a member, if it is not one already, or waits for whom to join.
    pub(super) fn begin(&mut self, now: Now) {
        self.alarms.set(Alarm::Reconcile, now.instant + self.config.reconcile_interval);
        self.watch(now);
        self.look_at_hints(now);
        self.begin_dialling(now);
        self.on_shares_changed(now);
        match self.config.founding {
            Founding::After(window) if self.records.history.is_empty() => {
                self.alarms.set(Alarm::Found, now.instant + window);
            }
            Founding::After(_) | Founding::Never => {}
        }
        self.on_duties_changed(now);
        self.look_at_own_standing(now);
        self.become_member(now);
    }

    /// Nobody was found. Of several that look around at the same time, the one with the least id founds, and the others
    /// give it one more chance.
    pub(super) fn on_found_alarm(&mut self, now: Now, is_last_call: bool) {
        if !self.records.history.is_empty() || self.records.staged.is_some() {
            return;
        }
        let me = self.me;
        let somebody_else_will = self.identified.iter().any(|peer| *peer < me);
        match self.config.founding {
            Founding::After(window) if somebody_else_will && !is_last_call => {
                self.alarms.set(Alarm::FoundAfterAll, now.instant + window);
            }
            Founding::After(_) => {
                self.introduce();
                self.author(now, ChangeKind::Founded(self.config.parameters));
            }
            Founding::Never => {}
        }
    }

    /// This node's own addresses have changed: as a member it tells so.
    pub(super) fn on_listening(&mut self, now: Now, addresses: Vec<String>) {
        self.config.profile.addresses = addresses;
        self.become_member(now);
    }

    /// The batch under way is stored, or not.
    pub(super) fn on_changes_saved(&mut self, now: Now, result: Result<Done, StoreError>) {
        let Some((history, batch)) = self.records.staged.take() else { return };
        match result {
            Ok(_) => {
                let before = std::mem::replace(&mut self.records.history, history).summary();
                // First of all: what follows may have the next order answered.
                self.answer_author(&batch.origin, Ok(()));
                self.on_history_grown(now, &before, &batch);
                self.settle(now, batch);
            }
            Err(error) => {
                // What peers said they say again; what this node has to say, nobody else does.
                if let Origin::Here { asker } = batch.origin {
                    let is_still_wanted = asker == Asker::Nobody || !matches!(error, StoreError::Busy { .. });
                    let said = batch.changes.iter().find(|change| change.kind.is_order());
                    self.records.to_say_again = said.filter(|_| is_still_wanted).cloned();
                    self.alarms.set(Alarm::SayAgain, now.instant + self.config.reconcile_interval);
                }
                self.answer_author(&batch.origin, Err(standing::not_stored(&error)));
                self.settle(now, batch.without_news());
            }
        }
        self.stage_next(now);
    }

    /// What this node had to say of itself could not be stored: it is tried again, if it is still to be said.
    pub(super) fn on_say_again(&mut self, now: Now) {
        if self.records.history.is_empty() {
            return self.on_found_alarm(now, true);
        }
        if self.records.staged.is_some() && self.owes_a_word() {
            return self.alarms.set(Alarm::SayAgain, now.instant + self.config.reconcile_interval);
        }
        if let Some(change) = self.records.to_say_again.take() {
            self.stage(now, Batch { changes: vec![change], origin: Origin::Here { asker: Asker::Nobody } });
        }
        self.become_member(now);
        self.look_at_own_standing(now);
    }

    pub(super) fn author(&mut self, now: Now, kind: ChangeKind) {
        self.records.to_author.push_back(kind);
        self.stage_next(now);
    }

    /// Signs the next change of this node and has it stored. Nothing must be on its way into the history.
    pub(super) fn say(&mut self, now: Now, asker: Asker, kind: ChangeKind) {
        let change = self.records.history.next_change(&self.signer, kind);
        self.stage(now, Batch { changes: vec![change], origin: Origin::Here { asker } });
    }

    /// Authors what a member must have said: that it joined, and what is new about it since.
    pub(super) fn become_member(&mut self, now: Now) {
        if self.records.history.is_empty() || self.has_word_under_way() {
            return;
        }
        if self.stopping.is_some() || self.view.bans(&self.me) {
            return;
        }
        let profile = self.config.profile.clone();
        match self.view.members.get(&self.me) {
            None if !self.may_speak() => {}
            // What is new of it waits for others. It serves all the same: it may be the only one that is up.
            Some(_) if !self.may_speak() => self.note_ready(),
            None => {
                self.introduce();
                self.expect_namesakes(now);
                self.author(now, ChangeKind::Joined(profile));
            }
            Some(member) if member.profile != profile => self.author(now, ChangeKind::Updated(profile)),
            Some(_) => self.note_ready(),
        }
    }

    /// Whether something that this node says of itself is not in the history yet.
    pub(super) fn has_word_under_way(&self) -> bool {
        let is_being_said =
            matches!(&self.records.staged, Some((_, batch)) if matches!(batch.origin, Origin::Here { .. }));
        is_being_said || !self.records.to_author.is_empty() || self.owes_a_word()
    }

    /// Whether something that it has signed must be said again before anything else.
    pub(super) fn owes_a_word(&self) -> bool {
        self.records.to_say_again.is_some()
    }

    /// Whether this node knows all that it has ever said itself: what was said by a life that it has forgotten must not be said
    /// again in other words under the same number. A life of which another was heard lately waits until it is known which is to
    /// speak.
    pub(super) fn may_speak(&self) -> bool {
        !self.lives.is_contested() && (self.records.has_agreed || self.view.members.keys().all(|node| *node == self.me))
    }

    fn note_ready(&mut self) {
        if !std::mem::replace(&mut self.ready, true) {
            self.tell(Event::Ready);
        }
    }

    /// Checks a batch against a copy of the history and stores what is new in it.
    pub(super) fn stage(&mut self, now: Now, batch: Batch) {
        if self.records.staged.is_some() {
            let waiting: usize = self.records.waiting.iter().map(|batch| batch.changes.len()).sum();
            let is_room = waiting + batch.changes.len() <= WAITING_CHANGES_MAX;
            if is_room && self.records.waiting.len() < WAITING_BATCHES_MAX {
                self.records.waiting.push_back(batch);
            } else {
                self.counters.overloaded += 1;
                self.settle(now, batch.without_news());
            }
            return;
        }
        let mut staged: Option<History> = None;
        let mut fresh = Vec::new();
        let mut refused = 0;
        let mut answer = Ok(());
        for change in batch.changes.iter().take(CHANGES_PER_MESSAGE_MAX) {
            let current = staged.as_ref().unwrap_or(&self.records.history);
            match current.check(change) {
                Ok(Inserted::Known) => {}
                Ok(Inserted::New) => {
                    let next = staged.get_or_insert_with(|| self.records.history.clone());
                    next.insert(change.clone()).expect("it was checked against this very history");
                    fresh.push(change.clone());
                }
                Err(error) => {
                    self.on_change_refused(now, &batch.origin, change, &error);
                    if let (true, Some(from)) = (is_lie(&error, refused), batch.origin.sender()) {
                        self.note_offence(now, from, Offence::History);
                    }
                    refused += 1;
                    let is_last = spoils_the_rest(&error);
                    answer = Err(Failure::Refused { detail: error.to_string() });
                    if is_last {
                        break;
                    }
                }
            }
        }
        match staged {
            Some(history) => {
                self.records.staged = Some((history, Batch { changes: fresh.clone(), origin: batch.origin }));
                self.store(TicketUse::Changes, Work::SaveChanges(fresh));
            }
            None => {
                self.answer_author(&batch.origin, answer);
                self.settle(now, batch.without_news());
            }
        }
    }

    pub(super) fn stage_next(&mut self, now: Now) {
        while self.records.staged.is_none() {
            let may_say = !self.owes_a_word();
            if let Some(kind) = self.records.to_author.pop_front_if(|_| may_say) {
                self.say(now, Asker::Nobody, kind);
            } else if let Some((client, order)) = self.orders.next() {
                self.carry_out(now, client, order);
            } else if let Some(batch) = self.records.waiting.pop_front() {
                self.stage(now, batch);
            } else if may_say && let Some(kind) = self.next_statement(now) {
                self.author(now, kind);
            } else {
                return;
            }
        }
    }

    fn on_change_refused(&mut self, now: Now, origin: &Origin, change: &Change, error: &HistoryError) {
        self.counters.changes_refused += 1;
        match (error, origin) {
            (HistoryError::Gap { .. } | HistoryError::Loose { .. } | HistoryError::NotFounded, Origin::Announced) => {
                self.reconcile_about(now, change.author);
            }
            (HistoryError::OtherParameters { .. } | HistoryError::Forked { .. } | HistoryError::Full { .. }, _) => {
                self.tell(Event::HistoryRefused { from: change.author, reason: error.to_string() });
            }
            _ => {}
        }
    }

    fn on_history_grown(&mut self, now: Now, before: &Summary, batch: &Batch) {
        let view = self.view.refold(&self.records.history);
        let view_before = std::mem::replace(&mut self.view, view);
        // First of all: whatever is said of partitions from here on is said under the new label.
        self.note_duties(now);
        let joined: Vec<NodeId> =
            self.view.members.keys().filter(|node| !view_before.members.contains_key(node)).copied().collect();
        for node in joined {
            self.tell(Event::MemberJoined(node));
            self.dial_member(now, node);
        }
        let gone = view_before.members.keys().filter(|node| !self.view.members.contains_key(node));
        let gone: Vec<NodeId> = gone.copied().collect();
        gone.iter().for_each(|node| self.tell(Event::MemberGone(*node)));
        if matches!(batch.origin, Origin::Here { .. }) {
            for change in self.records.history.since(before, CHANGES_PER_MESSAGE_MAX) {
                if let ChangeKind::Founded(parameters) = &change.kind {
                    self.tell(Event::Founded(*parameters));
                }
                if self.config.history_ways.announced == Way::On {
                    self.effects.push_back(Effect::Publish(change));
                }
            }
        }
        self.reconcile_after_growth(now);
        self.become_member(now);
        // The label of one who forked does not tell all that decides.
        let is_fork_moved =
            !self.view.forked.is_empty() && self.view.placement_digest() != view_before.placement_digest();
        if self.view.label != view_before.label || is_fork_moved {
            self.co_owners = self.view.co_owners(&self.me);
            self.on_rows_changed(now);
        } else if !gone.is_empty() || !self.view.serves_as(&view_before) {
            self.readdress_hints(now);
        }
        self.on_view_changed(now);
        self.on_duties_changed(now);
        if self.stopping == Some(Stop::Left) && !self.view.members.contains_key(&self.me) {
            self.on_left(now);
        }
        self.look_at_own_standing(now);
    }

    /// Takes note that `peer` has told that it has the history `theirs`.
    pub(super) fn note_agreement(&mut self, now: Now, peer: NodeId, theirs: Digest) {
        if theirs == self.records.history.digest() {
            self.records.has_agreed = true;
            self.on_histories_agree(now, &peer);
            self.on_witness(now, peer);
            self.on_known_elsewhere();
            self.on_farewell(now, &peer);
            self.become_member(now);
        }
    }
}
