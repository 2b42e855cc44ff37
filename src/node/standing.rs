//! This node's own place in the cluster, and what an administrator may have it say of others'.
//!
//! Leaving is a drain: the leaver serves until nothing that it holds is needed, hands over what it has, says that it has
//! left, and stops. It goes on after a restart, and can be taken back until the end.
//!
//! An order is answered from the completed commit of the change it takes. Where the commit fails the answer says that nobody
//! knows, for the disk may hold the change, and the node goes on trying to store that very change: so it comes to one end.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use crate::{
    clock::Now,
    ident::NodeId,
    membership::{
        change::{ChangeKind, Removal, Replacement},
        roster::Standing,
    },
    node::{
        Node,
        effect::{ClientId, Event, Stop},
        history::Origin,
        operations::Asker,
        upkeep::Alarm,
    },
    ring::{Ring, token::Partition},
    store::StoreError,
    wire::{
        administration::{Force, MembershipOrder},
        client::{ClientResponse, Failure},
    },
};

/// For how many comparisons at random a new member waits for others to be reached, before it takes them for away.
const NAMESAKE_ROUNDS: u32 = 5;

/// Most orders that wait for what is being stored before them.
const WAITING_ORDERS_MAX: usize = 16;

/// Orders whose turn has not come. Each is judged when it has, by what the ones before it have made of the cluster.
#[derive(Debug, Default)]
pub(super) struct Orders {
    waiting: VecDeque<(ClientId, MembershipOrder)>,
}

impl Orders {
    pub(super) fn next(&mut self) -> Option<(ClientId, MembershipOrder)> {
        self.waiting.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Node {
    /// Whether it is about to leave.
    pub(super) fn is_leaving(&self) -> bool {
        self.view.members.get(&self.me).is_some_and(|member| member.standing == Standing::Leaving)
    }

    /// A node that nobody knows may be a known one that has lost its data directory. Whether the one of its name can be reached
    /// shows after a while.
    pub(super) fn expect_namesakes(&mut self, now: Now) {
        if self.records.history().known_of(&self.me) == 0 {
            self.alarms.set(Alarm::Namesakes, now.instant + self.config.reconcile_interval * NAMESAKE_ROUNDS);
        }
    }

    pub(super) fn look_for_namesakes(&mut self, now: Now) {
        let name = &self.config.profile.name;
        let others =
            self.view.members.iter().filter(|(node, member)| **node != self.me && member.profile.name == *name);
        let away = others.map(|(node, _)| *node).filter(|node| !self.is_reachable(now, node));
        let events: Vec<Event> = away.map(|node| Event::Namesake { node, name: name.clone() }).collect();
        events.into_iter().for_each(|event| self.tell(event));
    }

    /// The view has changed, or what it holds: it may be at an end.
    pub(super) fn look_at_own_standing(&mut self, now: Now) {
        if self.view.bans(&self.me) {
            return self.stop(Stop::Removed);
        }
        if self.stopping == Some(Stop::Left) || !self.is_leaving() {
            return;
        }
        let is_free = self.view.held_by(&self.me).next().is_none();
        let keeps_hints = !self.schedule.is_empty() || self.tickets.values().any(|it| it.hint_target().is_some());
        // An order to stay may be on its way into the history, or wait for its turn.
        if self.has_word_under_way() || !self.orders.is_empty() {
            return;
        }
        let is_known = self.farewell == Some(self.view.placement_digest());
        if is_known && is_free && self.handing.is_over() && !keeps_hints && self.operations.len() == 0 {
            self.stopping = Some(Stop::Left);
            self.author(now, ChangeKind::Left);
        }
    }

    /// `peer` knows all that this node does. Before it goes, somebody that stays must know that it does: so that of several
    /// that go the last one finds out.
    pub(super) fn on_farewell(&mut self, now: Now, peer: &NodeId) {
        let stays = |ring: &Arc<Ring>| ring.members().iter().any(|member| member.id == *peer);
        if self.is_leaving() && self.view.ring.as_ref().is_some_and(stays) {
            self.farewell = Some(self.view.placement_digest());
            self.look_at_own_standing(now);
        }
    }

    /// It has said that it left: somebody must know before it stops, or it would be waited for in vain.
    pub(super) fn on_left(&mut self, now: Now) {
        if self.view.members.is_empty() {
            return self.stop(Stop::Left);
        }
        let peers: Vec<NodeId> = self.identified.iter().copied().collect();
        peers.into_iter().for_each(|peer| self.reconcile_with(now, peer));
        self.alarms.set(Alarm::Stop, now.instant + self.config.reconcile_interval);
    }

    /// Somebody knows all that this node does: if it has left, it may go.
    pub(super) fn on_known_elsewhere(&mut self) {
        if self.stopping == Some(Stop::Left) && !self.view.members.contains_key(&self.me) {
            self.stop(Stop::Left);
        }
    }

    /// Others may not have heard that it has left.
    pub(super) fn on_stop_due(&mut self, now: Now) {
        if self.stopping == Some(Stop::Left) && !self.has_stopped && !self.view.members.contains_key(&self.me) {
            self.on_left(now);
        }
    }

    /// It serves no more, and says why. Given once.
    pub(super) fn stop(&mut self, stop: Stop) {
        self.stopping = Some(stop);
        if !std::mem::replace(&mut self.has_stopped, true) {
            self.tell(Event::Stopped(stop));
        }
    }

    /// An administrator wants a change. It is answered when the change is stored, or once it is known that it will not be.
    pub(super) fn on_membership_order(&mut self, now: Now, client: ClientId, order: MembershipOrder) {
        if self.orders.waiting.len() >= WAITING_ORDERS_MAX {
            self.counters.overloaded += 1;
            let detail = format!("{WAITING_ORDERS_MAX} orders wait for its store");
            return self.answer_order(client, Err(Failure::Overloaded { detail }));
        }
        self.orders.waiting.push_back((client, order));
        self.stage_next(now);
    }

    /// The turn of an order has come: nothing is on its way into the history.
    pub(super) fn carry_out(&mut self, now: Now, client: ClientId, order: MembershipOrder) {
        match self.change_for(now, order) {
            Ok(Some(_)) if self.owes_a_word() => {
                let failure = self.records.store_failure().map_or("it has failed", String::as_str);
                let detail = format!("{failure}; what it was to store before is tried again first");
                self.answer_order(client, Err(Failure::StoreFailed { detail, maybe_stored: false }));
            }
            Ok(Some(kind)) => self.say(now, Asker::Client(client), kind),
            Ok(None) => self.answer_order(client, Ok(())),
            Err(failure) => self.answer_order(client, Err(failure)),
        }
        self.look_at_own_standing(now);
    }

    /// Tells whoever ordered what this node has said here what has become of it.
    pub(super) fn answer_author(&mut self, origin: &Origin, result: Result<(), Failure>) {
        if let Origin::Here { asker: Asker::Client(client) } = origin {
            self.answer_order(*client, result);
        }
    }

    fn answer_order(&mut self, client: ClientId, result: Result<(), Failure>) {
        let response = result.map_or_else(ClientResponse::Failed, |()| ClientResponse::Administered);
        self.answer(Asker::Client(client), response);
    }

    /// What there is to say for this to be so: nothing, if it is so. Or why it must not be.
    fn change_for(&self, now: Now, order: MembershipOrder) -> Result<Option<ChangeKind>, Failure> {
        if self.lives.is_contested() {
            return refuse(
                "another process was heard of with this node's identity, or its store was restored: it changes nothing for \
                 some seconds; try again soon, or ask another",
            );
        }
        if !self.may_speak() {
            return refuse("this node has not compared histories with any other since its start; try again soon");
        }
        match order {
            MembershipOrder::Leave => {
                self.check_leave()?;
                Ok((!self.is_leaving()).then_some(ChangeKind::Leaving))
            }
            MembershipOrder::Stay => {
                if self.stopping.is_some() || !self.view.members.contains_key(&self.me) {
                    return refuse("this node has left already; start it again to have it join anew");
                }
                Ok(self.is_leaving().then(|| ChangeKind::Joined(self.config.profile.clone())))
            }
            MembershipOrder::Remove { node, force } => {
                let old = self.check_removal(now, node, force)?;
                Ok(Some(ChangeKind::Removed(old)))
            }
            MembershipOrder::Replace { old, new, force } => {
                if old == new {
                    return refuse("a member cannot replace itself");
                }
                if self.view.removed.contains_key(&new) {
                    return refuse("the one that is to take over was removed for ever; start it with a new identity");
                }
                let old = self.check_removal(now, old, force)?;
                Ok(Some(ChangeKind::Replaced(Replacement { old, new })))
            }
        }
    }

    fn check_leave(&self) -> Result<(), Failure> {
        if !self.view.members.contains_key(&self.me) {
            return refuse("this node is not a member");
        }
        let stays = |node: &NodeId| *node != self.me && self.view.members[node].standing == Standing::Staying;
        if self.view.members.keys().any(stays) {
            return Ok(());
        }
        refuse("this is the last member that stays, and nobody would hold the data; stop it instead")
    }

    fn check_removal(&self, now: Now, node: NodeId, force: Force) -> Result<Removal, Failure> {
        let removal = Removal { node, known: self.records.history().known_of(&node) };
        if node == self.me {
            return refuse("a node does not remove itself; have it leave, or ask another");
        }
        if self.view.removed.contains_key(&node) {
            return refuse("it was removed already");
        }
        // One who forked is removed also after it has left: it may come back.
        if !self.view.members.contains_key(&node) && !self.view.forked.contains(&node) {
            return refuse("it is not a member");
        }
        if force == Force::Yes {
            return Ok(removal);
        }
        if self.is_reachable(now, &node) {
            return refuse("it is alive; have it leave, which loses nothing, or force it");
        }
        let short = self.left_short(now, &node);
        if let Some(partition) = short.first() {
            let detail = format!(
                "{} partitions (partition {partition} among them) would be left with fewer live replicas than a quorum \
                 needs; bring back who is down, wait until what is being filled is filled, or force it and lose what only \
                 the dead hold",
                short.len()
            );
            return Err(Failure::Refused { detail });
        }
        Ok(removal)
    }

    /// Partitions of which too few replicas that can be reached would be left without `node`: fewer than a majority of a row
    /// as it was made, or than all those of it that were not removed.
    fn left_short(&self, now: Now, node: &NodeId) -> Vec<Partition> {
        let is_gone = |member: &NodeId| member == node || self.view.removed.contains_key(member);
        let is_live = |member: &NodeId| *member == self.me || self.is_reachable(now, member);
        let is_short = |row: &[NodeId]| {
            let left: BTreeSet<&NodeId> = row.iter().filter(|member| !is_gone(member)).collect();
            let needed = (row.len() / 2 + 1).min(left.len()).max(1);
            row.contains(node) && left.into_iter().filter(|member| is_live(member)).count() < needed
        };
        let partitions = self.view.partitions();
        partitions.filter(|it| self.view.configurations.active(*it).into_iter().any(is_short)).collect()
    }
}

/// Why an order is not carried out that the store has not taken.
pub(super) fn not_stored(error: &StoreError) -> Failure {
    match error {
        StoreError::Busy { .. } => Failure::Overloaded { detail: error.to_string() },
        StoreError::MapFull { .. }
        | StoreError::Full { .. }
        | StoreError::Failed { .. }
        | StoreError::Damaged { .. } => {
            let detail = format!("{error}; it is tried again until it is stored, or the node stops");
            Failure::StoreFailed { detail, maybe_stored: true }
        }
    }
}

fn refuse<T>(detail: &str) -> Result<T, Failure> {
    Err(Failure::Refused { detail: detail.to_owned() })
}
