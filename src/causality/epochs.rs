//! Which actor a node mints under: the rule that keeps a dot from ever naming two values.
//!
//! A node that has not held a key without a break never mints under its old actor. While it holds the key, the stored
//! clock tells the next counter; once it has dropped the key (handed off, reaped), or its disk has gone back in time
//! (unclean stop, failed commit, restored copy), that clock may lie, and a counter minted from it would be a dot that
//! already names another value somewhere. The merge would then take one of the two for seen, and an acknowledged write
//! would be gone. So such a node draws a fresh epoch, that is, becomes another actor.
//!
//! Two things say where a node stands: [`Local`], beside each stored object, and [`Epochs`], once per store. Both are
//! the store's own and are never replicated. Both must be stored **in the transaction that stores the minted object**.
//! This module neither stores anything nor notices by itself that a disk went back: its caller tells it.
//!
//! **Why** [`Epochs::invalidate_after_loss`] leaps: a coordinator sends to its replicas before its own commit, so a
//! crash can lose not only the object but the drawing of its epoch. `floor = next` alone would draw that epoch again.
//!
//! Source: the same mistake in production, riak_kv issues 679 and 847, and Riak's "actor epochs" in answer to them.

use serde::{Deserialize, Serialize};

use crate::{
    causality::{dot::Actor, seen::Seen, siblings::Object, version_vector::VersionVector},
    clock::WallTime,
    limits::COUNTER_MAX,
};

/// What a store knows of its own holding of one key. Stored beside the object, never replicated, never hashed.
///
/// The default is that of a key which is not held, and the one to begin with whenever the key has no row here.
/// Encoded as the CBOR array `[own_epoch, since]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "(Option<u64>, WallTime)", from = "(Option<u64>, WallTime)")]
pub struct Local {
    /// The epoch this store last minted under at this key; `None` if it must draw one.
    pub own_epoch: Option<u64>,
    /// Since when the object has been here as it is. Kept by whoever stores it; epochs do not look at it.
    pub since: WallTime,
}

/// The epochs of one store. Encoded as the CBOR array `[next, floor]`; a decoded one follows [`EpochRule::Fresh`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "(u64, u64)", from = "(u64, u64)")]
pub struct Epochs {
    /// The epoch to be drawn next. Above every epoch drawn before.
    pub next: u64,
    /// Epochs below it are never minted under again.
    pub floor: u64,
    /// Whether the rule is followed.
    pub rule: EpochRule,
}

/// One life of a process: from its start to its end.
///
/// A store cannot tell by itself that it was restored from a copy, with epochs drawn since that it has forgotten. Until its
/// peers have said that they know of no later life, the epochs it remembers are not trusted, and new ones come from a share
/// that each life picks at random: above all that [`Epochs`] ever draws, 2^24 of them, out of 2^27 such shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    share: u64,
    drawn_count: u64,
    is_confirmed: bool,
}

/// Epochs in the share of one life.
const SHARE: u64 = 1 << 24;

impl Life {
    /// A life that nobody has confirmed yet. `random` picks its share.
    pub fn unconfirmed(random: u64) -> Life {
        let share_count = (COUNTER_MAX - RAISE_LIMIT) / SHARE;
        Life { share: RAISE_LIMIT + random % share_count * SHARE, drawn_count: 0, is_confirmed: false }
    }

    /// From now on the store's own epochs are trusted. Those drawn in this life so far stay valid while it lasts.
    pub fn confirm(&mut self) {
        self.is_confirmed = true;
    }

    /// The store's own epochs are not trusted any more, until the life is confirmed again.
    pub fn doubt(&mut self) {
        self.is_confirmed = false;
    }

    fn drew(&self, epoch: u64) -> bool {
        self.share <= epoch && epoch < self.share + self.drawn_count
    }

    /// The next epoch of the share. After 2^24 of them, more than a node writes new keys while it is alone, it begins anew
    /// with the last: the caller's checks against what is shown still hold.
    fn draw(&mut self) -> u64 {
        self.drawn_count = (self.drawn_count + 1).min(SHARE);
        self.share + self.drawn_count - 1
    }
}

/// Whether a node follows the rule of this module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EpochRule {
    /// It does.
    #[default]
    Fresh,
    /// It reuses epoch 0 for ever. **Weakens P1**: acknowledged writes are lost. Exists so that tests can plant the bug.
    NeverFresh,
}

impl Epochs {
    /// Whom the node numbered `node` mints as, when it puts into `object` under `context`.
    ///
    /// The actor of before, if the key was held without a break and nothing in `context` shows more of that actor than
    /// `object` has; else a new one, whose epoch neither this store has drawn nor `object` or `context` show.
    ///
    /// `object` and `local` must be the stored ones (or both defaults), read in the transaction of the put.
    ///
    /// Until `life` is confirmed it draws from that life's own share, and trusts nothing drawn before it. So it does again when
    /// `object` or `context` show an epoch of this node that this store has not drawn.
    pub fn actor_for(
        &mut self,
        node: u64,
        local: &mut Local,
        object: &Object,
        context: &Seen,
        life: &mut Life,
    ) -> Actor {
        let context = &context.shown();
        if self.rule == EpochRule::NeverFresh {
            return Actor { node, epoch: 0 };
        }
        self.note_shown(node, object.clock(), life);
        self.note_shown(node, context, life);
        if let Some(epoch) = local.own_epoch {
            let actor = Actor { node, epoch };
            let held = object.clock().counter(&actor);
            let is_valid = life.drew(epoch) || (life.is_confirmed && self.floor <= epoch && epoch < RAISE_LIMIT);
            if is_valid && context.counter(&actor) <= held && held < COUNTER_MAX {
                return actor;
            }
        }
        let epoch = match life.is_confirmed {
            true => self.draw(node, object.clock(), context),
            false => life.draw(),
        };
        local.own_epoch = Some(epoch);
        Actor { node, epoch }
    }

    /// Takes note that an object with the clock `incoming` is about to be merged into `before`.
    ///
    /// If it shows more of this node's actor than the node has stored, somebody remembers what this store has
    /// forgotten: the epoch is given up. If it shows an epoch that this store has not drawn, `life` is in doubt. Must be called
    /// before every merge into a stored object.
    pub fn note_merge(
        &mut self,
        node: u64,
        local: &mut Local,
        before: &Object,
        incoming: &VersionVector,
        life: &mut Life,
    ) {
        if self.rule == EpochRule::NeverFresh {
            return;
        }
        self.note_shown(node, incoming, life);
        if let Some(epoch) = local.own_epoch {
            let actor = Actor { node, epoch };
            if incoming.counter(&actor) > before.clock().counter(&actor) {
                local.own_epoch = None;
            }
        }
    }

    /// Gives up all epochs drawn so far, after a commit that failed while the node goes on.
    ///
    /// Enough only where `self` knows of every draw, those of the failed transaction too: keep the value in memory,
    /// do not read it back from the store. Where draws may be forgotten, use
    /// [`invalidate_after_loss`](Epochs::invalidate_after_loss).
    pub fn invalidate_all(&mut self) {
        self.floor = self.next;
    }

    /// Gives up all epochs drawn so far, known or forgotten: after an unclean stop, or on a restored or cloned disk.
    ///
    /// `boot` is the boot number this start has taken, higher than any this identity ever told anybody. The result must
    /// be durable before the node mints again: call it in the transaction that takes the boot number.
    ///
    /// Leaps over [`LOST_DRAWS_MAX`] epochs, which a stop may have lost, and to the boot's share of
    /// [`DRAWS_PER_BOOT`], which leaves behind what later lives of an older copy of the disk have drawn.
    pub fn invalidate_after_loss(&mut self, boot: u64) {
        let share = boot.saturating_mul(DRAWS_PER_BOOT).min(RAISE_LIMIT);
        self.next = self.next.saturating_add(LOST_DRAWS_MAX).max(share);
        self.invalidate_all();
    }

    /// An epoch of this node that this store has not drawn was drawn by another life. That may go on drawing next to it: going
    /// on above it is not enough.
    fn note_shown(&mut self, node: u64, clock: &VersionVector, life: &mut Life) {
        if clock.epochs_of(node).any(|epoch| self.next <= epoch && epoch < RAISE_LIMIT) {
            life.doubt();
        }
        self.raise_above(node, clock);
    }

    /// A fresh epoch, which neither of the clocks shows.
    fn draw(&mut self, node: u64, object: &VersionVector, context: &VersionVector) -> u64 {
        // Only for epochs that were too high to raise above; each clock holds each of them once, so this ends.
        while shows(object, node, self.next) || shows(context, node, self.next) {
            self.next += 1;
        }
        let epoch = self.next;
        self.next += 1;
        epoch
    }

    /// Leaves behind the epochs of this node that `clock` shows, except absurd ones.
    fn raise_above(&mut self, node: u64, clock: &VersionVector) {
        let highest = clock.epochs_of(node).filter(|epoch| *epoch < RAISE_LIMIT).max();
        self.next = self.next.max(highest.map_or(0, |epoch| epoch + 1));
    }
}

/// Most epochs that the transactions lost in one unclean stop may have drawn. One is drawn per key first written (or
/// first written after the last stop) here, so this is more than a machine stores between two synchronisations.
pub const LOST_DRAWS_MAX: u64 = 1 << 24;

/// The epochs one boot may draw, on the average of all boots so far, such that a restored disk knows a number above
/// them. Larger: more new keys per boot. Smaller: more boots, now eight million.
pub const DRAWS_PER_BOOT: u64 = 1 << 28;

/// Epochs from here on are not raised above when a peer shows them, only avoided: a liar could otherwise leave a node
/// without any epoch that peers accept. An honest node comes here after 2^51 draws.
const RAISE_LIMIT: u64 = COUNTER_MAX / 2;
const _: () = assert!(LOST_DRAWS_MAX < DRAWS_PER_BOOT && DRAWS_PER_BOOT << 20 < RAISE_LIMIT);

fn shows(clock: &VersionVector, node: u64, epoch: u64) -> bool {
    clock.counter(&Actor { node, epoch }) > 0
}

impl From<Local> for (Option<u64>, WallTime) {
    fn from(local: Local) -> (Option<u64>, WallTime) {
        (local.own_epoch, local.since)
    }
}

impl From<(Option<u64>, WallTime)> for Local {
    fn from((own_epoch, since): (Option<u64>, WallTime)) -> Local {
        Local { own_epoch, since }
    }
}

impl From<Epochs> for (u64, u64) {
    fn from(epochs: Epochs) -> (u64, u64) {
        (epochs.next, epochs.floor)
    }
}

impl From<(u64, u64)> for Epochs {
    fn from((next, floor): (u64, u64)) -> Epochs {
        Epochs { next, floor, rule: EpochRule::Fresh }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        causality::siblings::NewValue,
        ident::{OpId, Value},
    };

    const NODE: u64 = 7;

    fn clock(epoch: u64, counter: u64) -> VersionVector {
        let mut clock = VersionVector::new();
        clock.raise(Actor { node: NODE, epoch }, counter);
        clock
    }

    /// One store that holds one key.
    #[derive(Clone, Default)]
    struct Held {
        epochs: Epochs,
        local: Local,
        object: Object,
        life: ConfirmedLife,
    }

    #[derive(Clone)]
    struct ConfirmedLife(Life);

    impl Default for ConfirmedLife {
        fn default() -> ConfirmedLife {
            let mut life = Life::unconfirmed(0);
            life.confirm();
            ConfirmedLife(life)
        }
    }

    impl Held {
        fn put(&mut self, context: &VersionVector) -> (u64, u64) {
            let context = &Seen::from(context.clone());
            let actor = self.epochs.actor_for(NODE, &mut self.local, &self.object, context, &mut self.life.0);
            let value = Value::new(b"v").unwrap();
            let new = NewValue { op: OpId([0; 16]), value, written_at: WallTime(0), expires_at: None };
            let dot = self.object.put(context, actor, new);
            (dot.actor.epoch, dot.counter)
        }

        fn merge(&mut self, other: Object) {
            self.epochs.note_merge(NODE, &mut self.local, &self.object, other.clock(), &mut self.life.0);
            self.object.merge(other);
        }
    }

    fn written(times: usize) -> Held {
        let mut held = Held::default();
        for _ in 0..times {
            held.put(&VersionVector::new());
        }
        held
    }

    #[test]
    fn a_key_held_without_a_break_keeps_its_epoch() {
        let mut held = written(2);
        held.merge(held.object.clone());
        let seen = held.object.clock().clone();
        assert_eq!(held.put(&seen), (0, 3));
    }

    #[test]
    fn an_unconfirmed_life_trusts_no_epoch_from_before_and_keeps_its_own() {
        let mut held = written(2);
        held.life.0 = Life::unconfirmed(7);
        let (first, _) = held.put(&VersionVector::new());
        assert!(first >= RAISE_LIMIT);
        assert_eq!(held.put(&VersionVector::new()), (first, 2));
        held.life.0.confirm();
        assert_eq!(held.put(&VersionVector::new()), (first, 3), "the key was held without a break");

        held.life.0 = Life::unconfirmed(8);
        let (second, counter) = held.put(&VersionVector::new());
        assert!(second != first && counter == 1);
        held.life = ConfirmedLife::default();
        let (third, counter) = held.put(&VersionVector::new());
        assert!(third < RAISE_LIMIT && counter == 1, "what another life drew from its share is not trusted");
    }

    #[test]
    fn two_lives_that_remember_the_same_draw_different_epochs() {
        let mut restored = written(1);
        let mut lost = restored.clone();
        (restored.life.0, lost.life.0) = (Life::unconfirmed(1), Life::unconfirmed(2));
        assert_ne!(restored.put(&VersionVector::new()), lost.put(&VersionVector::new()));
        let shares: std::collections::BTreeSet<u64> =
            (0..1_000).map(|random| Life::unconfirmed(random).share).collect();
        assert_eq!(shares.len(), 1_000);
    }

    #[test]
    fn a_key_that_was_dropped_and_came_back_gets_a_fresh_epoch() {
        let mut held = written(2);
        let copy = held.object.clone();
        held = Held { epochs: held.epochs, ..Held::default() };
        held.merge(copy);
        assert_eq!(held.put(&VersionVector::new()), (1, 1));
    }

    #[test]
    fn what_others_remember_of_a_forgotten_write_gives_the_epoch_up() {
        let mut ahead = written(1);
        let mut behind = ahead.clone();
        ahead.put(&VersionVector::new());
        let mut by_context = behind.clone();
        assert_eq!(by_context.put(ahead.object.clock()), (1, 1));
        behind.merge(ahead.object);
        assert_eq!(behind.local.own_epoch, None);
        assert_eq!(behind.put(&VersionVector::new()), (1, 1));
    }

    #[test]
    fn a_life_that_is_shown_an_epoch_of_another_draws_from_its_own_share() {
        let shown_by_object = {
            let mut held = Held::default();
            held.merge(deleted(&clock(40, 3)));
            held
        };
        let [mut by_context, mut by_object] = [Held::default(), shown_by_object];
        let first = RAISE_LIMIT;
        assert_eq!((by_context.put(&clock(40, 3)), by_object.put(&VersionVector::new())), ((first, 1), (first, 1)));
        let mut other_key = Held { epochs: by_object.epochs, life: by_object.life, ..Held::default() };
        assert_eq!(other_key.put(&VersionVector::new()), (first + 1, 1), "whatever the key");
        // With a number of its own it leaves the other's epochs behind.
        other_key.epochs.invalidate_after_loss(1);
        other_key.life.0.confirm();
        let mut third_key = Held { epochs: other_key.epochs, life: other_key.life, ..Held::default() };
        assert_eq!(third_key.put(&clock(40, 3)), (DRAWS_PER_BOOT, 1));
    }

    #[test]
    fn two_lives_that_show_each_other_their_epochs_draw_no_epoch_twice() {
        let mut lower = Held { epochs: Epochs { next: 3, ..Epochs::default() }, ..Held::default() };
        let mut higher = Held { epochs: Epochs { next: 4, ..Epochs::default() }, ..Held::default() };
        lower.life.0 = Life::unconfirmed(1);
        lower.life.0.confirm();
        higher.put(&VersionVector::new());
        lower.merge(higher.object.clone());
        let mut drawn = std::collections::BTreeSet::new();
        for held in [&mut lower, &mut higher] {
            (held.local, held.object) = (Local::default(), Object::default());
            assert!(drawn.insert(held.put(&VersionVector::new()).0));
        }
    }

    fn deleted(clock: &VersionVector) -> Object {
        let mut object = Object::default();
        object.delete(&clock.clone().into());
        object
    }

    #[test]
    fn invalidated_epochs_are_never_minted_under_again() {
        let mut held = written(1);
        held.epochs.invalidate_all();
        assert_eq!(held.put(&VersionVector::new()), (1, 1));
        assert_eq!(held.put(&VersionVector::new()), (1, 2));
    }

    #[test]
    fn a_crash_that_lost_a_draw_does_not_draw_it_again() {
        let stored = Held::default();
        let mut crashed = stored.clone();
        let (lost_epoch, _) = crashed.put(&VersionVector::new());
        let mut restarted = stored;
        restarted.epochs.invalidate_after_loss(1);
        assert!(restarted.put(&VersionVector::new()).0 > lost_epoch);
    }

    #[test]
    fn a_crash_in_a_long_boot_does_not_draw_the_lost_epochs_again() {
        let stored = Epochs { next: 3 * DRAWS_PER_BOOT, ..Epochs::default() };
        let mut restarted = stored;
        restarted.invalidate_after_loss(2);
        assert_eq!(restarted.next, stored.next + LOST_DRAWS_MAX);
        assert_eq!(restarted.floor, restarted.next);
    }

    #[test]
    fn two_lives_of_one_old_disk_draw_different_epochs() {
        let [first, second] = [5, 6].map(|boot| {
            let mut restored = written(1);
            restored.epochs.invalidate_after_loss(boot);
            restored.epochs
        });
        assert!(first.next + LOST_DRAWS_MAX < second.next);
    }

    #[test]
    fn a_liar_cannot_use_a_node_s_epochs_up() {
        let mut held = Held::default();
        let mut lies = clock(COUNTER_MAX, COUNTER_MAX);
        lies.raise(Actor { node: NODE, epoch: RAISE_LIMIT }, 1);
        lies.raise(Actor { node: NODE, epoch: RAISE_LIMIT - 1 }, 1);
        held.merge(deleted(&lies));
        held.life.0.confirm();
        assert_eq!(held.put(&VersionVector::new()), (RAISE_LIMIT + 1, 1));
        held.epochs.invalidate_after_loss(u64::MAX);
        let (epoch, _) = held.put(&VersionVector::new());
        assert!(RAISE_LIMIT + 1 < epoch && epoch < COUNTER_MAX);
    }

    #[test]
    fn locals_and_epochs_survive_encoding_as_arrays() {
        let local = Local { own_epoch: Some(3), since: WallTime(9) };
        let bytes = cbor4ii::serde::to_vec(Vec::new(), &local).unwrap();
        assert_eq!(bytes, [0x82, 3, 9]);
        assert_eq!(cbor4ii::serde::from_slice::<Local>(&bytes).unwrap(), local);
        let epochs = Epochs { next: 5, floor: 2, rule: EpochRule::NeverFresh };
        let bytes = cbor4ii::serde::to_vec(Vec::new(), &epochs).unwrap();
        assert_eq!(bytes, [0x82, 5, 2]);
        assert_eq!(cbor4ii::serde::from_slice::<Epochs>(&bytes).unwrap().rule, EpochRule::Fresh);
    }
}
