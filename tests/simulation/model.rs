//! The reference: what clients were promised.
//!
//! Per write it keeps what its writer had been *shown* (values, never clocks), and whether it was acknowledged. A
//! value that was acknowledged must be present for ever, or have been replaced by a write or delete that took effect
//! and whose writer had been shown it. It also keeps, per key and W, the clock of all that was acknowledged, against
//! which reads of an overlapping quorum are held; and per key what acknowledged writes and deletes have replaced.

use std::collections::{BTreeMap, BTreeSet};

use quorate::{
    causality::{siblings::Object, version_vector::VersionVector},
    ident::{Key, OpId, Value},
    wire::client::Consistency,
};

use crate::checker::{Checker, Violation};

/// A put or delete of the run, however often it is retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WriteId(pub(crate) u32);

/// Everything clients have done.
#[derive(Default)]
pub(crate) struct Model {
    writes: Vec<Write>,
    by_key: BTreeMap<Key, Vec<WriteId>>,
    acknowledged: BTreeMap<(Key, usize), VersionVector>,
    replaced: BTreeMap<Key, VersionVector>,
}

struct Write {
    is_delete: bool,
    is_acknowledged: bool,
    /// A delete that some node may have carried out. Of a put the stores tell.
    may_be_done: bool,
    shown: BTreeSet<WriteId>,
}

/// What a read that begins now must not miss.
#[derive(Debug, Clone)]
pub(crate) struct Demand {
    clock: VersionVector,
}

impl WriteId {
    /// The client's name for it.
    pub(crate) fn op(self) -> OpId {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&self.0.to_be_bytes());
        OpId(bytes)
    }

    /// A value that no other write has.
    pub(crate) fn value(self) -> Value {
        Value::new(&self.0.to_be_bytes()).expect("four bytes are a value")
    }

    /// The write that wrote `value`.
    pub(crate) fn of_value(value: &Value) -> Option<WriteId> {
        value.as_bytes().try_into().ok().map(u32::from_be_bytes).map(WriteId)
    }
}

impl Model {
    /// A client is about to put, or delete, knowing the writes `shown`.
    pub(crate) fn begin(&mut self, key: &Key, is_delete: bool, shown: BTreeSet<WriteId>) -> WriteId {
        let id = WriteId(u32::try_from(self.writes.len()).expect("a run is short"));
        self.writes.push(Write { is_delete, is_acknowledged: false, may_be_done: false, shown });
        self.by_key.entry(key.clone()).or_default().push(id);
        id
    }

    /// A node has been asked for it.
    pub(crate) fn note_sent(&mut self, id: WriteId) {
        self.write_mut(id).may_be_done = true;
    }

    /// A client was told that so many primaries hold the write, whose clock is at least `clock` and which replaced all
    /// that its `context` covers.
    pub(crate) fn note_acknowledged(
        &mut self,
        id: WriteId,
        key: &Key,
        primaries: usize,
        clock: &VersionVector,
        context: &VersionVector,
    ) {
        self.write_mut(id).is_acknowledged = true;
        self.replaced.entry(key.clone()).or_default().join(context);
        self.acknowledged.entry((key.clone(), primaries)).or_default().join(clock);
    }

    /// What a read of `r` out of `n` primaries that begins now must have seen.
    pub(crate) fn demand(&self, key: &Key, r: usize, n: usize) -> Demand {
        self.demand_from(key, (n + 1).saturating_sub(r), n)
    }

    /// What was told to be held by at least so many primaries, of `n`.
    fn demand_from(&self, key: &Key, least: usize, n: usize) -> Demand {
        let mut clock = VersionVector::new();
        for w in least..=n {
            if let Some(acknowledged) = self.acknowledged.get(&(key.clone(), w)) {
                clock.join(acknowledged);
            }
        }
        Demand { clock }
    }

    /// Holds `object`, on which all replicas of `key` agree, against everything that was acknowledged.
    pub(crate) fn judge(&self, key: &Key, object: &Object, n: usize, checker: &Checker) -> Result<(), Violation> {
        let writes: &[WriteId] = self.by_key.get(key).map_or(&[], Vec::as_slice);
        for id in writes {
            let write = self.write(*id);
            let is_owed = write.is_acknowledged && !write.is_delete;
            if is_owed && object.sibling_of(id.op()).is_none() && !self.is_replaced(*id, writes, checker) {
                return Err(Violation::Lost { write: *id, key: key.clone() });
            }
        }
        if !self.demand_from(key, 0, n).is_met_by(object.clock()) {
            return Err(Violation::Forgotten { key: key.clone() });
        }
        let is_replaced = |dot| self.replaced.get(key).is_some_and(|replaced| replaced.covers(dot));
        match object.siblings().iter().find(|sibling| is_replaced(&sibling.dot)) {
            Some(sibling) => Err(Violation::Returned { key: key.clone(), dot: sibling.dot }),
            None => Ok(()),
        }
    }

    /// All keys that were ever written to.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.by_key.keys()
    }

    fn is_replaced(&self, id: WriteId, writes: &[WriteId], checker: &Checker) -> bool {
        writes.iter().any(|other| {
            let write = self.write(*other);
            let took_effect = if write.is_delete { write.may_be_done } else { checker.dots_of(other.op()).len() > 0 };
            *other != id && took_effect && write.shown.contains(&id)
        })
    }

    fn write(&self, id: WriteId) -> &Write {
        &self.writes[id.0 as usize]
    }

    fn write_mut(&mut self, id: WriteId) -> &mut Write {
        &mut self.writes[id.0 as usize]
    }
}

impl Demand {
    /// Whether a read that brought `clock` has seen all it had to.
    pub(crate) fn is_met_by(&self, clock: &VersionVector) -> bool {
        clock.covers_all(&self.clock)
    }
}

/// How many of a row of `n` must answer.
pub(crate) fn needed(consistency: Consistency, n: usize) -> usize {
    match consistency {
        Consistency::One => 1,
        Consistency::Quorum | Consistency::LocalQuorum | Consistency::EachQuorum => n / 2 + 1,
        Consistency::All => n,
        Consistency::Count(asked) => usize::from(asked).clamp(1, n),
    }
}
