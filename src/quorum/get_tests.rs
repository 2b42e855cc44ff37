//! Reads, answer by answer.

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

fn all(_: &NodeId) -> bool {
    true
}

fn object(actor: u64) -> Object {
    let mut object = Object::default();
    let new =
        NewValue { op: OpId([7; 16]), value: Value::new(b"v").unwrap(), written_at: WallTime(1), expires_at: None };
    object.put(&Seen::default(), Actor { node: actor, epoch: 1 }, new);
    object
}

/// All three, unless fewer are enough.
const ALL: usize = 3;
const QUORUM: usize = 2;

fn row(needed: usize) -> Row {
    Row::of((0..3).map(node).collect(), vec![node(3), node(4)], OURS, needed)
}

fn plan() -> GetPlan {
    GetPlan { scope: Scope::Sloppy, nearest: Some(node(0)) }
}

fn started_with(needed: usize, plan: GetPlan, is_reachable: fn(&NodeId) -> bool) -> GetOp {
    let mut op = GetOp::new(node(0), row(needed), plan, QuorumRules::sound());
    op.start(is_reachable);
    op
}

fn started(needed: usize) -> GetOp {
    started_with(needed, plan(), all)
}

impl GetOp {
    fn hears(&mut self, i: u8, object: Object) -> Vec<GetEffect> {
        self.on_held(&node(i), Held::Object(object), OURS, all)
    }
}

fn read(i: u8, detail: Detail) -> GetEffect {
    GetEffect::Read { node: node(i), detail }
}

fn found(object: Object, degraded: bool) -> GetEffect {
    GetEffect::Reply(GetReply::Found { object, degraded })
}

#[test]
fn replicas_that_agree_are_not_repaired() {
    let mut op = started(QUORUM);
    assert_eq!(op.hears(0, object(1)), []);
    assert_eq!(op.hears(1, object(1)), [found(object(1), false)]);
    assert_eq!(op.hears(2, object(1)), []);
    assert!(op.has_ended());
}

#[test]
fn a_straggler_that_was_behind_is_repaired_after_the_answer() {
    let mut op = started(QUORUM);
    op.hears(0, object(1));
    op.hears(1, object(1));
    let effects = op.hears(2, Object::default());
    assert!(matches!(&effects[..], [GetEffect::Repair(repair)] if repair.node == node(2)));
}

#[test]
fn siblings_on_different_replicas_are_merged_and_both_repaired() {
    let mut op = started(ALL);
    op.hears(0, object(1));
    op.hears(1, object(2));
    assert_eq!(op.hears(2, object(1)).len(), 4, "an answer and three repairs");
}

#[test]
fn absence_is_only_told_when_everybody_was_heard() {
    let mut op = started(1);
    assert_eq!(op.hears(0, Object::default()), []);
    assert_eq!(op.hears(1, Object::default()), []);
    assert_eq!(op.hears(2, object(1))[0], found(object(1), false));
}

#[test]
fn absence_is_only_told_at_r() {
    let strict = GetPlan { scope: Scope::Strict, ..plan() };
    let mut op = started_with(QUORUM, strict, all);
    assert_eq!(op.hears(0, Object::default()), []);
    assert_eq!(op.on_failed(&node(1), all), []);
    let unmet = GetReply::QuorumNotMet { acks: 1, needed: 2 };
    assert_eq!(op.on_failed(&node(2), all), [GetEffect::Reply(unmet)]);
}

#[test]
fn a_fallback_is_asked_for_each_primary_that_is_lost() {
    let mut op = GetOp::new(node(0), row(QUORUM), plan(), QuorumRules::sound());
    let effects = op.start(|other| *other != node(2));
    assert_eq!(effects, [read(0, Detail::Whole), read(1, Detail::DigestOfLarge), read(3, Detail::DigestOfLarge)]);
    assert_eq!(op.on_failed(&node(1), all), [read(4, Detail::DigestOfLarge)]);
    assert_eq!(op.hears(0, object(1)), []);
    assert_eq!(op.hears(3, object(2))[0], found(merge(1, 2), true), "what it keeps is an answer");
}

fn merge(one: u64, other: u64) -> Object {
    let mut merged = object(one);
    merged.merge(object(other));
    merged
}

#[test]
fn what_one_replica_knows_is_told_where_others_were_reached_that_know_nothing() {
    let mut op = started_with(QUORUM, plan(), |other| *other != node(1) && *other != node(2));
    assert_eq!(op.hears(0, object(1)), []);
    assert_eq!(op.on_unknown(&node(3), OURS, all), [], "the other one may know more");
    assert_eq!(op.on_unknown(&node(4), OURS, all), [found(object(1), true)]);
}

#[test]
fn that_there_is_nothing_is_not_concluded_from_those_who_know_nothing() {
    let mut op = started_with(QUORUM, plan(), |other| *other != node(1) && *other != node(2));
    assert_eq!(op.hears(0, Object::default()), []);
    assert_eq!(op.on_unknown(&node(3), OURS, all), []);
    let unmet = GetReply::QuorumNotMet { acks: 1, needed: 2 };
    assert_eq!(op.on_unknown(&node(4), OURS, all), [GetEffect::Reply(unmet)]);
}

#[test]
fn where_nobody_knows_nobody_says_that_there_is_nothing() {
    let mut op = GetOp::new(node(4), row(1), plan(), QuorumRules::sound());
    let effects = op.start(|other| *other == node(3));
    assert_eq!(effects, [read(3, Detail::DigestOfLarge), read(4, Detail::Whole)]);
    assert_eq!(op.on_unknown(&node(3), OURS, all), []);
    assert_eq!(op.on_unknown(&node(4), OURS, all), [GetEffect::Reply(GetReply::Unknown { fallbacks: 2 })]);
}

#[test]
fn when_somebody_is_slow_one_more_is_asked_until_the_client_has_its_answer() {
    let mut op = started(QUORUM);
    op.hears(0, object(1));
    assert_eq!(op.on_slow(all), [read(3, Detail::DigestOfLarge)]);
    assert_eq!(op.on_unknown(&node(3), OURS, all), [], "its ignorance is no answer while the primary may have one");
    assert_eq!(op.hears(2, object(1)), [found(object(1), false)]);
    assert_eq!(op.on_slow(all), []);
}

#[test]
fn equal_digests_of_a_large_object_make_it_travel_once() {
    let mut op = started(ALL);
    let digest = Held::Digest(object(1).digest());
    assert_eq!(op.on_held(&node(1), digest.clone(), OURS, all), [], "the nearest is yet to send it");
    assert_eq!(op.hears(0, object(1)), []);
    assert_eq!(op.on_held(&node(2), digest, OURS, all), [found(object(1), false)]);
    assert!(op.has_ended(), "and nobody is repaired");
}

#[test]
fn a_replica_whose_digest_differs_is_asked_for_its_object() {
    let mut op = started(QUORUM);
    op.hears(0, object(1));
    let other = Held::Digest(object(2).digest());
    assert_eq!(op.on_held(&node(1), other.clone(), OURS, all), [read(1, Detail::Whole)]);
    assert_eq!(op.hears(1, object(2)), [found(merge(1, 2), false)]);
    assert_eq!(op.on_held(&node(2), other, OURS, all).len(), 3, "what the third lacks is known without its object");
}

#[test]
fn when_the_nearest_fails_another_sends_the_object() {
    let mut op = started(QUORUM);
    let digest = Held::Digest(object(1).digest());
    op.on_held(&node(1), digest.clone(), OURS, all);
    op.on_held(&node(2), digest, OURS, all);
    let effects = op.on_failed(&node(0), all);
    assert_eq!(effects, [read(3, Detail::DigestOfLarge), read(1, Detail::Whole)]);
    assert_eq!(op.hears(1, object(1)), [found(object(1), true)]);
}

#[test]
fn whoever_only_ever_sends_digests_is_given_up() {
    let mut op = started(ALL);
    op.hears(0, object(1));
    let lie = || Held::Digest(Digest([9; 32]));
    let asked = (0..100).take_while(|_| !op.on_held(&node(1), lie(), OURS, |_| false).is_empty()).count();
    assert!((1..10).contains(&asked), "{asked}");
}
