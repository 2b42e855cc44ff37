//! Every row of a store, as a node leaves it: a start, a write, a deletion, its history and a peer.

use quorate::{
    causality::{epochs::Life, seen::Seen},
    clock::WallTime,
    ident::{Key, Name, NodeId},
    merkle::branch::ItemKey,
    replica::{
        Done, Query, Replica, StoreCounts, Work, answer, apply,
        hints::{HintFor, HintLimits},
        rules::Rules,
        startup::{self, InDoubt},
        tree::Buckets,
        values::Place,
    },
    ring::{
        partition_set::PartitionSet,
        token::{Partition, PartitionCount},
    },
    store::{
        ReadTxn, Store, Table, Walk, WriteTxn,
        memory::{MemoryStore, Snapshot},
        record, schema,
    },
};

use crate::{
    Case, Frame,
    messages::{history, key, new, object, value},
};

const NOW: WallTime = WallTime(1_700_000_000_000);
const OWNER: NodeId = NodeId([1; 32]);

/// Names of the rows, in the order of the tables and of their keys.
const NAMES: &[&str] = &[
    "row-meta-boot-number",
    "row-meta-clean-stop",
    "row-meta-epochs",
    "row-meta-format-version",
    "row-meta-in-doubt",
    "row-meta-owner",
    "row-object-merged",
    "row-object-written",
    "row-history-founded",
    "row-history-joined",
    "row-history-updated",
    "row-peer",
    "row-hint",
    "row-hint-totals",
    "row-mark",
    "row-tree",
];

/// Each row of the store: its record, sealed for its key.
pub(crate) fn rows() -> Vec<Case> {
    let store = filled();
    let rows = all_rows(&store);
    assert_eq!(rows.len(), NAMES.len(), "every row has a name");
    rows.into_iter()
        .zip(NAMES)
        .map(|((table, key, sealed), &name)| {
            let (snapshot, row_key, same) = (store.snapshot(), key.clone(), sealed.clone());
            let whole = snapshot.clone();
            Case {
                name,
                encoded: sealed,
                frame: frame_of(table),
                reads_back: Box::new(move |bytes| bytes == same && is_whole(&whole, table, &key, bytes)),
                survive: Box::new(move |bytes| read_with(&snapshot, table, &row_key, bytes)),
            }
        })
        .collect()
}

/// What stands before the CBOR in a row.
fn frame_of(table: Table) -> Frame {
    let head: &'static [(&'static str, usize)] = match table {
        Table::Objects => {
            &[("version of the envelope", 1), ("checksum", 8), ("hash of the item", 16), ("bytes of the object", 4)]
        }
        Table::Hints => &[("version of the envelope", 1), ("checksum", 8), ("bytes of the object", 4)],
        Table::Trees => &[("version of the envelope", 1), ("checksum", 8), ("items", 8), ("sum of their hashes", 16)],
        _ => &[("version of the envelope", 1), ("checksum", 8)],
    };
    Frame { head, tail: &[] }
}

#[test]
fn a_store_of_fixtures_is_read_as_ever() {
    let store = MemoryStore::new();
    let mut txn = store.write().unwrap();
    for ((table, key, _), name) in all_rows(&filled()).into_iter().zip(NAMES) {
        txn.put(table, &key, &crate::golden(name)).unwrap();
    }
    let recovered = startup::begin(&mut txn, &OWNER).unwrap();
    assert_eq!((recovered.boot, recovered.clean), (2, true));
    assert_eq!(recovered.changes, history().iter().cloned().collect::<Vec<_>>());
    assert_eq!(recovered.peer_lives.into_iter().collect::<Vec<_>>(), [(NodeId([2; 32]), (9, 7))]);
    let Ok(Done::Object(merged)) = answer(&txn, &Query::Object(key()), NOW, &mut StoreCounts::default()) else {
        panic!("an object is answered by an object");
    };
    assert_eq!(merged, object());
    assert_eq!(recovered.hint_targets, [NodeId([3; 32])]);
    let Ok(Done::Object(written)) = answer(&txn, &Query::Object(other()), NOW, &mut StoreCounts::default()) else {
        panic!("an object is answered by an object");
    };
    assert_eq!(written.siblings().iter().map(|sibling| &sibling.value).collect::<Vec<_>>(), [&value()]);
}

fn other() -> Key {
    Key::new(b"car{42}").unwrap()
}

fn filled() -> MemoryStore {
    let store = MemoryStore::new();
    let mut txn = store.write().unwrap();
    startup::begin(&mut txn, &OWNER).unwrap();
    let hint = HintFor { target: NodeId([3; 32]), partition: Partition(700) };
    let works = [
        Work::Merge { key: key(), object: object() },
        Work::Write { place: Place::Own, key: other(), context: Seen::default(), new: Some(new(1)) },
        Work::SaveInDoubt(InDoubt::Of(vec![Partition(3), Partition(700)])),
        Work::SaveChanges(history().iter().cloned().collect()),
        Work::SavePeerLife { node: NodeId([2; 32]), life: (9, 7) },
        Work::KeepHint { hint, key: key(), object: object() },
        // No room for a second one: its partition is marked.
        Work::KeepHint { hint, key: other(), object: object() },
    ];
    let mut life = Life::unconfirmed(0);
    life.confirm();
    let actor_node = OWNER.to_actor_number();
    let item_key = ItemKey::of(&Name::new("fixtures").unwrap());
    let limits = HintLimits { target_bytes: 200, total_bytes: 200 };
    let mut replica =
        Replica { actor_node, item_key, rules: Rules::sound(), life, limits, buckets: Buckets::default(), damaged: 0 };
    for work in works {
        apply(&mut txn, work, &mut replica, NOW).unwrap();
    }
    startup::end(&mut txn).unwrap();
    txn.commit().unwrap();
    store
}

fn all_rows(store: &MemoryStore) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let txn = store.read().unwrap();
    let mut rows = Vec::new();
    for table in Table::ALL {
        txn.visit(table, &[], &mut |key, sealed| {
            rows.push((table, key.to_vec(), sealed.to_vec()));
            Ok(Walk::On)
        })
        .unwrap();
    }
    rows
}

/// Whether a row with these bytes matches its checksum.
fn is_whole(snapshot: &Snapshot, table: Table, row_key: &[u8], bytes: &[u8]) -> bool {
    let query = match table {
        Table::Objects => Query::Object(Key::new(schema::parse_object_row(row_key).unwrap().1).unwrap()),
        Table::Hints => Query::Hints { target: schema::parse_hint_row(row_key).unwrap().0, after: None, limit: 10 },
        _ => return record::open(table, row_key, bytes).is_ok(),
    };
    let store = MemoryStore::new();
    store.restore(snapshot);
    let mut txn = store.write().unwrap();
    txn.put(table, row_key, bytes).unwrap();
    let mut counts = StoreCounts::default();
    answer(&txn, &query, NOW, &mut counts).unwrap();
    counts.damaged == 0
}

/// Starts a node on a store with one row of anything, and asks for the keys of the fixtures.
fn read_with(snapshot: &Snapshot, table: Table, row_key: &[u8], bytes: &[u8]) {
    let store = MemoryStore::new();
    store.restore(snapshot);
    let mut txn = store.write().unwrap();
    txn.put(table, row_key, bytes).unwrap();
    // Any answer will do; a panic will not.
    let _ = startup::begin(&mut txn, &OWNER);
    for key in [key(), other()] {
        let known = Query::StandIn { key: key.clone(), targets: vec![NodeId([3; 32])] };
        for query in [Query::Object(key), known, Query::Totals] {
            let _ = answer(&txn, &query, NOW, &mut StoreCounts::default());
        }
    }
    let all = Query::Hints { target: NodeId([3; 32]), after: None, limit: 10 };
    let _ = answer(&txn, &all, NOW, &mut StoreCounts::default());
    let sixteen = PartitionCount::new(16).unwrap();
    let roots = Query::Roots(PartitionSet::new(sixteen, sixteen.iter()));
    let _ = answer(&txn, &roots, NOW, &mut StoreCounts::default());
}
