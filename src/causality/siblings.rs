//! One key's state: its concurrent values, and what they have seen.
//!
//! An [`Object`] is a dotted version vector set. Invariant: its clock covers the dot of every sibling; siblings are
//! strictly ascending by dot. It never picks a winner, never looks at a clock on the wall, and knows neither its key
//! nor where it is stored. Who may mint a dot is decided in `epochs.rs`.
//!
//! Encoded as the CBOR array `[clock, [sibling…]]`, a sibling as `[dot, op, value, written_at, expires_at]`.

use std::{collections::BTreeSet, mem};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    causality::{
        dot::{Actor, Dot},
        seen::Seen,
        version_vector::VersionVector,
    },
    clock::WallTime,
    digest::{Digest, Domain},
    ident::{OpId, Value},
};

/// The state of one key. The default has never been written.
///
/// Equal objects have equal [`canonical_bytes`](Object::canonical_bytes). Decoding refuses bytes that break the
/// invariant of the module; the number of siblings is bounded by the frame they came in, since a merge is never refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Object {
    clock: VersionVector,
    siblings: Vec<Sibling>,
}

/// One value that no other known write has replaced. Ordered by dot first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "SiblingParts", from = "SiblingParts")]
pub struct Sibling {
    /// The write that made it.
    pub dot: Dot,
    /// The client's name for that write, equal in all its retries.
    pub op: OpId,
    /// What was written.
    pub value: Value,
    /// When, as the coordinator's clock had it. For people; orders nothing.
    pub written_at: WallTime,
    /// From when on it is invisible; `None` is never.
    pub expires_at: Option<WallTime>,
}

/// A sibling that has not got its dot yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewValue {
    /// See [`Sibling::op`].
    pub op: OpId,
    /// See [`Sibling::value`].
    pub value: Value,
    /// See [`Sibling::written_at`].
    pub written_at: WallTime,
    /// See [`Sibling::expires_at`].
    pub expires_at: Option<WallTime>,
}

impl Object {
    /// What has been seen of this key.
    pub fn clock(&self) -> &VersionVector {
        &self.clock
    }

    /// All siblings, expired and doubled ones too, strictly ascending by dot. Empty if deleted or never written.
    pub fn siblings(&self) -> &[Sibling] {
        &self.siblings
    }

    /// Takes in what `other` has seen. Returns whether anything changed. Commutative, associative, idempotent.
    ///
    /// The clock becomes the pointwise maximum. A sibling survives if both have it, or if one has it and the clock of
    /// the other does not cover its dot. Costs the length of both.
    ///
    /// Should a dot carry two contents (some store broke the rule of `epochs.rs`), the greater by the order of
    /// [`Sibling`] is kept: one of the two is lost, but all replicas agree on which.
    pub fn merge(&mut self, other: Object) -> bool {
        let mut changed = !self.clock.covers_all(&other.clock);
        let mut merged = Vec::with_capacity(self.siblings.len().max(other.siblings.len()));
        let mut theirs = other.siblings.into_iter().peekable();
        for mine in mem::take(&mut self.siblings) {
            while let Some(sibling) = theirs.next_if(|sibling| sibling.dot < mine.dot) {
                if !self.clock.covers(&sibling.dot) {
                    merged.push(sibling);
                }
            }
            match theirs.next_if(|sibling| sibling.dot == mine.dot) {
                Some(twin) => {
                    changed |= twin > mine;
                    merged.push(mine.max(twin));
                }
                None if other.clock.covers(&mine.dot) => changed = true,
                None => merged.push(mine),
            }
        }
        // A sibling that is new here needs no `changed`: its dot raised the clock.
        merged.extend(theirs.filter(|sibling| !self.clock.covers(&sibling.dot)));
        self.siblings = merged;
        self.clock.join(&other.clock);
        changed
    }

    /// Writes `new` in place of the siblings that `context` covers; beside the others. Returns the dot it got.
    ///
    /// `actor` must come from [`crate::causality::epochs::Epochs::actor_for`], asked about this very object and
    /// context; this object must be what the coordinator has stored, and the result must be stored with the epochs.
    pub fn put(&mut self, context: &Seen, actor: Actor, new: NewValue) -> Dot {
        self.delete(context);
        let dot = Dot { actor, counter: self.clock.counter(&actor) + 1 };
        self.clock.raise(actor, dot.counter);
        let NewValue { op, value, written_at, expires_at } = new;
        let index = self.siblings.partition_point(|sibling| sibling.dot < dot);
        self.siblings.insert(index, Sibling { dot, op, value, written_at, expires_at });
        dot
    }

    /// Drops the siblings that `context` covers. Mints nothing. What the deleter had not seen survives.
    pub fn delete(&mut self, context: &Seen) {
        self.siblings.retain(|sibling| !context.covers(&sibling.dot));
        self.clock.join(context.clock());
    }

    /// What the writer who has just put `dot` under `context` may be told it has seen; ask right after the put.
    ///
    /// Not simply [`clock`](Object::clock): that covers siblings which the writer was never shown, and its next put
    /// would silently replace them. It is the clock only where the new value stands alone, else `context` with the new
    /// dot.
    pub fn context_after_put(&self, context: &Seen, dot: Dot) -> Seen {
        let mut seen = context.clone();
        if self.siblings.iter().all(|sibling| sibling.dot == dot) {
            seen.join(&self.clock);
        } else {
            seen.add(dot);
        }
        seen
    }

    /// Keeps only the sibling written last by the clocks of coordinators. **Breaks P1**: exists so that tests can plant
    /// the bug.
    pub fn keep_youngest(&mut self) {
        let youngest =
            self.siblings.iter().max_by_key(|sibling| (sibling.written_at, sibling.dot)).map(|kept| kept.dot);
        self.siblings.retain(|sibling| Some(sibling.dot) == youngest);
    }

    /// Whether it has been written and all of it deleted.
    pub fn is_tombstone(&self) -> bool {
        self.siblings.is_empty() && !self.clock.is_empty()
    }

    /// What a reader is shown at `now`, ascending by dot.
    ///
    /// Expired siblings are hidden; of those with one operation id (a retry through another coordinator) the one with
    /// the smallest dot is shown.
    pub fn visible(&self, now: WallTime) -> Vec<&Sibling> {
        let mut shown = BTreeSet::new();
        let is_alive = |sibling: &&Sibling| sibling.expires_at.is_none_or(|expires_at| now < expires_at);
        self.siblings.iter().filter(is_alive).filter(|sibling| shown.insert(sibling.op)).collect()
    }

    /// The sibling with the smallest dot that the operation `op` made, expired or not.
    ///
    /// A coordinator that finds one answers a retry with it and mints nothing.
    pub fn sibling_of(&self, op: OpId) -> Option<&Sibling> {
        self.siblings.iter().find(|sibling| sibling.op == op)
    }

    /// The CBOR encoding: equal objects have equal bytes, wherever and in whatever order they were merged.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        cbor4ii::serde::to_vec(Vec::with_capacity(self.size_bytes()), self).expect("encoding into memory cannot fail")
    }

    /// The digest of [`canonical_bytes`](Object::canonical_bytes).
    pub fn digest(&self) -> Digest {
        Object::digest_of(&self.canonical_bytes())
    }

    /// The digest of the object that has these canonical bytes.
    pub fn digest_of(canonical: &[u8]) -> Digest {
        Digest::of(Domain::Object, &[canonical])
    }

    /// The length of [`canonical_bytes`](Object::canonical_bytes), in bytes, without encoding them.
    pub fn size_bytes(&self) -> usize {
        let clock_bytes = count_bytes(self.clock.len()) + self.clock.iter().map(dot_bytes).sum::<usize>();
        let siblings_bytes: usize = self.siblings.iter().map(sibling_bytes).sum();
        ARRAY_BYTES + clock_bytes + count_bytes(self.siblings.len()) + siblings_bytes
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.clock, &self.siblings).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object, D::Error> {
        let (clock, siblings) = <(VersionVector, Vec<Sibling>)>::deserialize(deserializer)?;
        if !siblings.is_sorted_by(|earlier, later| earlier.dot < later.dot) {
            return Err(de::Error::custom("the siblings of an object are not strictly ascending"));
        }
        if !siblings.iter().all(|sibling| clock.covers(&sibling.dot)) {
            return Err(de::Error::custom("the clock of an object does not cover one of its siblings"));
        }
        Ok(Object { clock, siblings })
    }
}

/// The fields of a sibling, in the order in which they are encoded.
type SiblingParts = (Dot, OpId, Value, WallTime, Option<WallTime>);

impl From<SiblingParts> for Sibling {
    fn from((dot, op, value, written_at, expires_at): SiblingParts) -> Sibling {
        Sibling { dot, op, value, written_at, expires_at }
    }
}

impl From<Sibling> for SiblingParts {
    fn from(sibling: Sibling) -> SiblingParts {
        (sibling.dot, sibling.op, sibling.value, sibling.written_at, sibling.expires_at)
    }
}

/// The head of an array of fewer than 24.
const ARRAY_BYTES: usize = 1;

/// An operation id is 16 bytes and their length.
const OP_BYTES: usize = 1 + 16;

/// How many bytes a number takes in CBOR, or the head of so many.
fn number_bytes(number: u64) -> usize {
    match number {
        0..24 => 1,
        24..0x100 => 2,
        0x100..0x1_0000 => 3,
        0x1_0000..0x1_0000_0000 => 5,
        0x1_0000_0000.. => 9,
    }
}

fn count_bytes(count: usize) -> usize {
    number_bytes(count as u64)
}

fn dot_bytes(dot: Dot) -> usize {
    ARRAY_BYTES + number_bytes(dot.actor.node) + number_bytes(dot.actor.epoch) + number_bytes(dot.counter)
}

fn sibling_bytes(sibling: &Sibling) -> usize {
    let value_bytes = sibling.value.as_bytes().len();
    // Never is a null.
    let expires_bytes = sibling.expires_at.map_or(1, |at| number_bytes(at.0));
    ARRAY_BYTES
        + dot_bytes(sibling.dot)
        + OP_BYTES
        + count_bytes(value_bytes)
        + value_bytes
        + number_bytes(sibling.written_at.0)
        + expires_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Actor = Actor { node: 1, epoch: 0 };
    const B: Actor = Actor { node: 2, epoch: 0 };

    /// A value whose operation id is its only byte.
    fn new(id: u8) -> NewValue {
        let value = Value::new(&[id]).unwrap();
        NewValue { op: OpId([id; 16]), value, written_at: WallTime(0), expires_at: None }
    }

    fn values(object: &Object) -> Vec<u8> {
        object.siblings().iter().map(|sibling| sibling.value.as_bytes()[0]).collect()
    }

    fn nothing() -> Seen {
        Seen::default()
    }

    #[test]
    fn writers_that_have_not_seen_each_other_leave_siblings_until_one_reads_both() {
        let mut object = Object::default();
        object.put(&nothing(), A, new(1));
        object.put(&nothing(), A, new(2));
        assert_eq!(values(&object), [1, 2]);
        let seen = object.clock().clone().into();
        assert_eq!(object.put(&seen, B, new(3)), Dot { actor: B, counter: 1 });
        assert_eq!(values(&object), [3]);
    }

    #[test]
    fn writes_at_two_replicas_meet_as_siblings_and_are_replaced_together() {
        let (mut left, mut right) = (Object::default(), Object::default());
        left.put(&nothing(), A, new(1));
        right.put(&nothing(), B, new(2));
        let old = left.clone();
        assert!(left.merge(right.clone()));
        assert!(!left.merge(right), "a second merge brings nothing");
        assert_eq!(values(&left), [1, 2]);
        let seen = left.clock().clone().into();
        left.put(&seen, A, new(3));
        assert!(!left.merge(old), "what was replaced does not come back");
        assert_eq!(values(&left), [3]);
    }

    #[test]
    fn a_delete_removes_only_what_was_seen() {
        let mut object = Object::default();
        object.put(&nothing(), A, new(1));
        let seen = object.clock().clone().into();
        object.put(&nothing(), B, new(2));
        object.delete(&seen);
        assert_eq!(values(&object), [2]);
        assert!(!object.is_tombstone() && !Object::default().is_tombstone());
        object.delete(&object.clock().clone().into());
        assert!(object.is_tombstone());
    }

    #[test]
    fn a_writer_is_told_it_has_seen_only_what_it_has() {
        let mut object = Object::default();
        let first = object.put(&nothing(), A, new(1));
        assert_eq!(object.context_after_put(&nothing(), first), object.clock().clone().into());
        let second = object.put(&nothing(), A, new(2));
        let seen = object.context_after_put(&nothing(), second);
        assert!(seen.covers(&second) && !seen.covers(&first), "(A, 2) is named without (A, 1)");
        let third = object.put(&seen, A, new(3));
        assert_eq!(values(&object), [1, 3]);
        let seen = object.context_after_put(&seen, third);
        object.put(&seen, B, new(4));
        assert_eq!(values(&object), [1, 4]);
    }

    #[test]
    fn readers_are_shown_neither_the_expired_nor_one_operation_twice() {
        let mut object = Object::default();
        object.put(&nothing(), B, new(1));
        object.put(&nothing(), A, new(1));
        object.put(&nothing(), A, NewValue { expires_at: Some(WallTime(10)), ..new(2) });
        let shown = |now| object.visible(WallTime(now)).iter().map(|sibling| sibling.dot).collect::<Vec<_>>();
        assert_eq!(shown(9), [Dot { actor: A, counter: 1 }, Dot { actor: A, counter: 2 }]);
        assert_eq!(shown(10), [Dot { actor: A, counter: 1 }]);
        assert_eq!(object.sibling_of(OpId([1; 16])).map(|sibling| sibling.dot.actor), Some(A));
        assert_eq!(object.sibling_of(OpId([9; 16])), None);
    }

    #[test]
    fn an_object_survives_encoding_and_its_size_is_known_without_it() {
        const EDGES: [u64; 8] = [23, 24, 0xff, 0x100, 0xffff, 0x1_0000, 0xffff_ffff, 0x1_0000_0000];
        let mut object = Object::default();
        for number in 0..40 {
            let written_at = WallTime(EDGES[usize::try_from(number).unwrap() % EDGES.len()]);
            let actor = Actor { node: u64::MAX / (number + 1), epoch: number << 45 };
            let expires_at = (number % 2 == 0).then_some(WallTime(u64::MAX));
            let value = Value::new(&vec![1; 1_000 * usize::try_from(number % 3).unwrap()]).unwrap();
            object.put(&nothing(), actor, NewValue { expires_at, value, written_at, ..new(1) });
        }
        let bytes = object.canonical_bytes();
        let decoded: Object = cbor4ii::serde::from_slice(&bytes).unwrap();
        assert_eq!(decoded, object);
        assert_eq!((decoded.canonical_bytes(), decoded.digest()), (bytes.clone(), object.digest()));
        assert_eq!((object.size_bytes(), Object::default().size_bytes()), (bytes.len(), 3));
    }
}
