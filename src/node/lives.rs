//! Which start of a node is the latest, and whether two processes with this node's identity are alive.
//!
//! Every start takes a higher boot number. A node tells it in every greeting together with its instance, and is told the
//! latest **life** that the peer has seen of it. A peer that sees the very life that greets it **acknowledges** it. Of two
//! lives with one boot number a peer acknowledges the first.
//!
//! **A store that is old.** Told of a later life than its own, a node knows that its store was restored or cloned: it takes
//! a higher boot number, trusts no epoch of before, and doubts all that it holds.
//!
//! **Twins.** A peer that had acknowledged this life and then tells of a later one has heard another process meanwhile. The
//! word of that process proves it: a peer cannot make it up. Both take higher numbers in turn, until the younger has been
//! told twice (once could be what a process said that has died since): it stops, and the older never does. Both doubt what
//! they hold, because peers may have counted on the one for what the other took in; who is left does so once more when its
//! twin has not been heard of for long. Until then neither adds to the history: they would say different things under one
//! number.
//!
//! **Dots.** More than half of the other members must acknowledge a life before it trusts the epochs of its store. Of two
//! processes that begin with the same epochs only one can be acknowledged by so many before it hears of the other; see
//! [`crate::causality::epochs::Life`].

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    clock::{Instant, Now},
    ident::NodeId,
    membership::{
        change::{Change, Signature},
        life::{self, Life},
    },
    node::{
        Node, TicketUse,
        effect::{Event, Stop},
        upkeep::Alarm,
    },
    replica::Work,
    wire::quorum::Reconcile,
};

/// How many starts a restored store can lie behind. More is a lie: it would use up the boot numbers.
const BOOTS_BEHIND_MAX: u64 = 1 << 20;

/// How often the younger of twins must be told of the older.
const TOLD_MIN: u32 = 2;

/// For how long a peer whose lives are at odds is sent its own word with the life that it is told.
const DISPUTE: Duration = Duration::from_secs(60);

/// For how many comparisons at random a life keeps silent after it was told of another one, and for how many after a twin.
const SILENT_ROUNDS: u32 = 5;
const SILENT_ROUNDS_AFTER_TWIN: u32 = 30;

/// The present life of this node, and the latest seen of each peer.
#[derive(Debug)]
pub(super) struct Lives {
    own: Life,
    peers: BTreeMap<NodeId, PeerLife>,
    /// Members that have seen this very life, and no later one.
    acknowledged: BTreeSet<NodeId>,
    /// No other life of this node can have drawn the epochs of its store.
    is_confirmed: bool,
    /// Of this node nothing was known before this life.
    is_first: bool,
    /// How often lately it was proved that an older process lives.
    told_of_older: u32,
    /// It was proved that another process lives, and that was not long ago.
    has_twin: bool,
    /// Another life was told of, and that was not long ago.
    is_contested: bool,
}

/// What is known of the latest life of a peer.
#[derive(Debug, Clone, Copy, Default)]
struct PeerLife {
    life: Life,
    /// The peer's own word for it, if it was heard since this node's start.
    word: Option<Signature>,
    /// When the peer last told of another life than before.
    disputed: Option<Instant>,
}

impl Lives {
    pub(super) fn new(own: Life, peers: BTreeMap<NodeId, Life>) -> Lives {
        let known = |(node, life)| (node, PeerLife { life, ..PeerLife::default() });
        Lives {
            own,
            peers: peers.into_iter().map(known).collect(),
            acknowledged: BTreeSet::new(),
            is_confirmed: false,
            is_first: false,
            told_of_older: 0,
            has_twin: false,
            is_contested: false,
        }
    }

    /// Whether another life of this node was heard of lately.
    pub(super) fn is_contested(&self) -> bool {
        self.is_contested
    }

    /// Whether it was proved lately that another process with this node's identity lives.
    pub(super) fn has_twin(&self) -> bool {
        self.has_twin
    }

    /// This life goes by another number: nobody has seen it under that.
    fn renumber(&mut self, boot: u64) {
        self.own.0 = boot;
        self.acknowledged.clear();
        self.is_confirmed = false;
        self.is_first = false;
    }

    /// Whether `told` is a life of this node after this one, or one that was seen before it under the same number.
    fn is_later(&self, told: Life) -> bool {
        let (boot, instance) = self.own;
        let is_later = told.0 > boot || (told.0 == boot && told.1 != instance);
        is_later && told.0 <= boot + BOOTS_BEHIND_MAX
    }
}

impl PeerLife {
    /// Takes note of what the peer tells of itself. Returns whether it is a later life than the one known.
    fn note(&mut self, now: Instant, told: Life, word: Option<Signature>) -> bool {
        // Of two lives with one boot number the first is kept, so that the second is told of it.
        let is_later = told.0 > self.life.0;
        if told != self.life {
            self.disputed = Some(now);
        }
        if is_later {
            (self.life, self.word) = (told, word);
        } else if told == self.life && word.is_some() {
            self.word = word;
        }
        is_later
    }

    fn is_disputed(&self, now: Instant) -> bool {
        self.disputed.is_some_and(|since| now - since < DISPUTE)
    }
}

impl Node {
    /// A greeting with all that a comparison may tell.
    pub(super) fn reconcile_message(&self, now: Now, peer: NodeId, changes: Vec<Change>) -> Reconcile {
        let theirs = self.lives.peers.get(&peer).copied().unwrap_or_default();
        let is_known = self.lives.acknowledged.contains(&peer);
        let (boot, instance) = self.lives.own;
        Reconcile {
            boot,
            instance,
            word: (!is_known).then(|| life::word(&self.signer, &self.config.cluster, self.lives.own)),
            your_life: theirs.life,
            your_word: theirs.word.filter(|_| theirs.is_disputed(now.instant)),
            is_in_doubt: self.doubt.is_any(),
            history: self.records.history().digest(),
            summary: Some(self.records.history().summary()),
            changes,
        }
    }

    /// Takes note of the lives that a member tells of. Those of strangers mean nothing.
    pub(super) fn on_greeting(&mut self, now: Now, from: NodeId, greeting: &Reconcile) {
        if !self.view.members.contains_key(&from) {
            return;
        }
        if greeting.is_in_doubt {
            self.doubters.insert(from);
        } else {
            self.doubters.remove(&from);
        }
        let life = (greeting.boot, greeting.instance);
        if self.lives.peers.entry(from).or_default().note(now.instant, life, greeting.word) {
            self.store(TicketUse::PeerLife(from), Work::SavePeerLife { node: from, life });
        }
        if greeting.your_life == self.lives.own {
            self.lives.acknowledged.insert(from);
            self.confirm_life();
        } else if self.lives.is_later(greeting.your_life) {
            self.on_later_life(now, from, greeting);
        }
    }

    /// Nothing was known of this node when it first spoke: no other life of it can have drawn any epoch.
    pub(super) fn introduce(&mut self) {
        let is_unknown = self.records.history().known_of(&self.me) == 0;
        if self.lives.own.0 == 1 && is_unknown && !self.lives.is_contested {
            self.lives.is_first = true;
            self.confirm_life();
        }
    }

    /// The store has not taken up a boot number of this node: the next greeting that tells of it counts as the first.
    pub(super) fn on_boot_not_raised(&mut self, before: u64) {
        self.lives.renumber(before);
    }

    /// The store has not kept the life of a peer: the next greeting tells it again.
    pub(super) fn on_peer_life_not_saved(&mut self, peer: &NodeId) {
        self.lives.peers.remove(peer);
    }

    /// Nothing has been heard of another life of this node for long. What a twin took in until it stopped is to be fetched.
    pub(super) fn on_alone(&mut self, now: Now) {
        self.lives.is_contested = false;
        self.lives.told_of_older = 0;
        if std::mem::replace(&mut self.lives.has_twin, false) {
            self.on_store_old(now);
        }
        self.become_member(now);
        self.stage_next(now);
    }

    /// `from` has seen a later life of this node than this one.
    fn on_later_life(&mut self, now: Now, from: NodeId, greeting: &Reconcile) {
        let seen = greeting.your_life.0;
        let twin = self.twin_of(from, greeting);
        self.lives.has_twin |= twin.is_some();
        self.lives.told_of_older += u32::from(twin == Some(Age::Older));
        if self.lives.told_of_older >= TOLD_MIN {
            return self.stop(Stop::Twin);
        }
        if !self.lives.has_twin {
            self.tell(Event::StoreIsOld { seen });
        }
        let before = self.lives.own.0;
        self.lives.renumber(seen + 1);
        self.store(TicketUse::Boot { before }, Work::RaiseBoot { seen });
        self.lives.is_contested = true;
        let rounds = if self.lives.has_twin { SILENT_ROUNDS_AFTER_TWIN } else { SILENT_ROUNDS };
        self.alarms.set(Alarm::Alone, now.instant + self.config.reconcile_interval * rounds);
        self.on_store_old(now);
        // The other is to be told soon.
        self.reconcile_with_all(now);
    }

    /// Whether the later life that `from` has seen is that of another process which has been alive during this one, and
    /// which of the two is the older.
    fn twin_of(&self, from: NodeId, greeting: &Reconcile) -> Option<Age> {
        let (told, mine) = (greeting.your_life, self.lives.own);
        let is_proved =
            |word: &Signature| told.1 != mine.1 && life::is_word_of(&self.me, &self.config.cluster, told, word);
        let is_alive = self.lives.acknowledged.contains(&from) && greeting.your_word.as_ref().is_some_and(is_proved);
        is_alive.then_some(if told.1 < mine.1 { Age::Older } else { Age::Younger })
    }

    /// What this node's store remembers of epochs is good once so many others have acknowledged this life that no other with
    /// the same memory can be acknowledged by as many. See the [module](self).
    fn confirm_life(&mut self) {
        let others = self.view.members.keys().filter(|node| **node != self.me);
        let (acknowledged, unaware): (Vec<&NodeId>, Vec<&NodeId>) =
            others.partition(|node| self.lives.acknowledged.contains(node));
        let is_acknowledged = acknowledged.len() > unaware.len();
        if !self.lives.is_confirmed && (self.lives.is_first || is_acknowledged) {
            self.lives.is_confirmed = true;
            self.store(TicketUse::Unwatched, Work::ConfirmLife);
        }
    }
}

/// Which of two processes was started first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    Older,
    Younger,
}
