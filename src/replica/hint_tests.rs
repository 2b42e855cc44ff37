//! What a replica keeps for others, played on the store in memory.

use std::slice;

use crate::{
    causality::{
        dot::Actor,
        seen::Seen,
        siblings::{NewValue, Object},
    },
    clock::WallTime,
    ident::{Key, Name, NodeId, OpId, Value},
    merkle::branch::ItemKey,
    replica::{
        Done, Query, StoreCounts, Work, answer,
        batch::Committer,
        hints::{HintFor, HintLimits, HintTotals, Swept},
        rules::{HintRule, Rules},
        values::{Place, WriteRefused},
    },
    ring::token::{Partition, PartitionCount, Token},
    store::{ReadTxn as _, Store as _, Table, WriteTxn as _, memory::MemoryStore, schema},
};

const TARGET: NodeId = NodeId([9; 32]);
const OTHER: NodeId = NodeId([8; 32]);

struct Keeper {
    store: MemoryStore,
    committer: Committer,
    now: WallTime,
}

impl Keeper {
    fn new() -> Keeper {
        Keeper::with(Rules::sound(), HintLimits { target_bytes: 1_000_000, total_bytes: 1_500_000 })
    }

    fn with(rules: Rules, limits: HintLimits) -> Keeper {
        let mut committer = Committer::new(1, ItemKey::of(&Name::new("c").unwrap()), rules, limits, 0);
        let store = MemoryStore::new();
        committer.run(&store, &[((), Work::ConfirmLife)], WallTime(0)).unwrap();
        Keeper { store, committer, now: WallTime(1_000) }
    }

    fn run(&mut self, work: Work) -> Done {
        let done = self.committer.run(&self.store, slice::from_ref(&((), work)), self.now).unwrap();
        done.into_iter().next().expect("one piece of work, one result").1
    }

    fn ask(&self, query: &Query) -> Done {
        answer(&self.store.read().unwrap(), query, self.now, &mut StoreCounts::default()).unwrap()
    }

    fn keep_for(&mut self, target: NodeId, name: &str, object: Object) -> Done {
        let hint = HintFor { target, partition: partition_of(name) };
        self.run(Work::KeepHint { hint, key: key(name), object })
    }

    fn keep(&mut self, name: &str, object: Object) {
        assert_eq!(self.keep_for(TARGET, name, object), Done::Merged);
    }

    fn drop_sent(&mut self, name: &str, sent: &Object) {
        self.run(Work::DropHint { target: TARGET, key: key(name), sent: sent.digest() });
    }

    fn sweep(&mut self, before: u64) -> Swept {
        let (before, partitions) = (WallTime(before), PartitionCount::new(16).unwrap());
        let work = Work::SweepHints { target: TARGET, before, after: None, oldest: None, partitions };
        match self.run(work) {
            Done::Swept(swept) => swept,
            other => panic!("not swept: {other:?}"),
        }
    }

    fn totals(&self) -> Vec<(NodeId, HintTotals)> {
        match self.ask(&Query::HintTotals) {
            Done::HintTotals(totals) => totals,
            other => panic!("no totals: {other:?}"),
        }
    }

    fn names(&self) -> Vec<String> {
        match self.ask(&Query::Hints { target: TARGET, after: None, limit: 100 }) {
            Done::Hints(page) => {
                page.hints.iter().map(|hint| String::from_utf8_lossy(hint.key.as_bytes()).into_owned()).collect()
            }
            other => panic!("no hints: {other:?}"),
        }
    }

    fn known(&self, name: &str) -> Option<Object> {
        match self.ask(&Query::StandIn { key: key(name), targets: vec![OTHER, TARGET] }) {
            Done::Known(known) => known,
            other => panic!("not known: {other:?}"),
        }
    }

    /// Keys among its own data, and marked partitions.
    fn own_and_marked(&self) -> (u64, Vec<Partition>) {
        match self.ask(&Query::Totals) {
            Done::Totals { key_count, marked, .. } => (key_count, marked),
            other => panic!("no totals: {other:?}"),
        }
    }

    /// The bytes of all hints, counted one by one.
    fn counted_bytes(&self) -> u64 {
        let txn = self.store.read().unwrap();
        let mut bytes = 0;
        txn.visit(Table::Hints, &[], &mut |_, sealed| {
            bytes += sealed.len() as u64;
            Ok(crate::store::Walk::On)
        })
        .unwrap();
        bytes
    }

    fn overwrite(&self, table: Table, row: &[u8]) {
        let mut txn = self.store.write().unwrap();
        let mut record = txn.get(table, row).unwrap().unwrap().to_vec();
        *record.last_mut().unwrap() ^= 1;
        txn.put(table, row, &record).unwrap();
        txn.commit().unwrap();
    }
}

fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

fn partition_of(name: &str) -> Partition {
    Token::of(&key(name)).partition(PartitionCount::new(16).unwrap())
}

fn new(op: u8, size: usize) -> NewValue {
    NewValue {
        op: OpId([op; 16]),
        value: Value::new(&vec![op; size]).unwrap(),
        written_at: WallTime(1),
        expires_at: None,
    }
}

/// An object that `actor` has written once.
fn object(actor: u64, size: usize) -> Object {
    let mut object = Object::default();
    object.put(&Seen::default(), Actor { node: actor, epoch: 1 }, new(u8::try_from(actor).unwrap(), size));
    object
}

#[test]
fn a_second_hint_for_a_key_merges_into_the_first_and_neither_is_the_nodes_own() {
    let mut keeper = Keeper::new();
    keeper.keep("k", object(2, 10));
    keeper.keep("k", object(3, 10));
    assert_eq!(keeper.names(), ["k"]);
    assert_eq!(keeper.known("k").unwrap().siblings().len(), 2);
    assert_eq!(keeper.known("other"), None, "of what it keeps nothing for it knows nothing");
    assert_eq!(keeper.own_and_marked(), (0, vec![]));
    let [(target, totals)] = keeper.totals()[..] else { panic!("one target") };
    assert_eq!((target, totals.count, totals.bytes), (TARGET, 1, keeper.counted_bytes()));
}

#[test]
fn hints_for_several_members_are_kept_apart_and_known_together() {
    let mut keeper = Keeper::new();
    keeper.keep("k", object(2, 10));
    keeper.keep_for(OTHER, "k", object(3, 10));
    assert_eq!(keeper.totals().len(), 2);
    assert_eq!(keeper.known("k").unwrap().siblings().len(), 2);
}

#[test]
fn a_hint_is_dropped_only_as_it_was_sent() {
    let mut keeper = Keeper::new();
    keeper.keep("k", object(2, 10));
    let sent = keeper.known("k").unwrap();
    keeper.keep("k", object(3, 10));
    keeper.drop_sent("k", &sent);
    assert_eq!(keeper.names(), ["k"], "what came meanwhile is not lost");
    let sent = keeper.known("k").unwrap();
    keeper.drop_sent("k", &sent);
    assert_eq!((keeper.names().len(), keeper.totals()), (0, vec![]));
    keeper.drop_sent("k", &sent);
    assert_eq!(keeper.totals(), vec![], "a second word of it changes nothing");
}

#[test]
fn the_planted_rules_do_what_they_say() {
    let limits = HintLimits { target_bytes: 1_000_000, total_bytes: 1_500_000 };
    let mut careless = Keeper::with(Rules { hints: HintRule::DroppedThoughChanged, ..Rules::sound() }, limits);
    careless.keep("k", object(2, 10));
    careless.drop_sent("k", &Object::default());
    assert_eq!(careless.names().len(), 0);
    let mut confused = Keeper::with(Rules { hints: HintRule::AmongObjects, ..Rules::sound() }, limits);
    confused.keep("k", object(2, 10));
    assert_eq!((confused.names().len(), confused.own_and_marked().0), (0, 1));
}

#[test]
fn whoever_stands_in_mints_under_an_actor_of_its_own_for_each_hint() {
    let mut keeper = Keeper::new();
    let mut actors = Vec::new();
    for round in 0..2 {
        for op in 1..=2 {
            let place = Place::Hint(HintFor { target: TARGET, partition: partition_of("k") });
            let work = Work::Write { place, key: key("k"), context: Seen::default(), new: Some(new(op, 4)) };
            let Done::Written { object, .. } = keeper.run(work) else { panic!("it is written") };
            assert_eq!(object.siblings().len(), usize::from(op), "round {round}");
            actors.push(object.siblings()[0].dot.actor);
        }
        let sent = keeper.known("k").unwrap();
        keeper.drop_sent("k", &sent);
    }
    assert_eq!(actors[0], actors[1]);
    assert_ne!(actors[0], actors[2], "what was handed over is remembered by others only");
}

#[test]
fn beyond_a_bound_hints_are_refused_and_their_partition_is_marked() {
    let mut keeper = Keeper::with(Rules::sound(), HintLimits { target_bytes: 2_000, total_bytes: 3_000 });
    keeper.keep("a", object(2, 1_500));
    let full = |limit_bytes| Done::Refused(WriteRefused::HintsFull { limit_bytes });
    assert_eq!(keeper.keep_for(TARGET, "b", object(2, 1_500)), full(2_000), "one target must not fill it");
    assert_eq!(keeper.own_and_marked().1, [partition_of("b")]);
    assert_eq!(keeper.keep_for(OTHER, "c", object(2, 1_500)), full(3_000), "nor all of them together");
    let mut expected = vec![partition_of("b"), partition_of("c")];
    expected.sort();
    assert_eq!(keeper.own_and_marked().1, expected);
    assert_eq!(keeper.names(), ["a"]);
    keeper.keep("a", object(2, 1_500));
    let sent = keeper.known("a").unwrap();
    keeper.drop_sent("a", &sent);
    keeper.keep("b", object(2, 1_500));
    assert_eq!(keeper.names(), ["b"], "there is room again");
}

#[test]
fn a_sweep_gives_up_what_is_too_old_and_learns_the_age_of_the_rest() {
    let mut keeper = Keeper::new();
    for (name, now) in [("old", 1_000), ("young", 5_000)] {
        keeper.now = WallTime(now);
        keeper.keep(name, object(2, 10));
    }
    assert_eq!(keeper.totals()[0].1.oldest, WallTime(1_000));
    assert_eq!(keeper.sweep(1_000).dropped, 0);
    assert_eq!(keeper.sweep(1_001).dropped, 1);
    assert_eq!(keeper.names(), ["young"]);
    assert_eq!(keeper.own_and_marked().1, [partition_of("old")]);
    assert_eq!(keeper.totals()[0].1.oldest, WallTime(5_000));
    assert_eq!(keeper.totals()[0].1.bytes, keeper.counted_bytes());
}

#[test]
fn a_sweep_of_many_goes_page_by_page() {
    let mut keeper = Keeper::new();
    for number in 0..600 {
        keeper.keep(&format!("k{number}"), object(2, 10));
    }
    let (mut after, mut oldest, mut pages, mut dropped) = (None, None, 0, 0);
    loop {
        let partitions = PartitionCount::new(16).unwrap();
        let work = Work::SweepHints { target: TARGET, before: WallTime(2_000), after, oldest, partitions };
        let Done::Swept(swept) = keeper.run(work) else { panic!("it is swept") };
        (pages, dropped, oldest) = (pages + 1, dropped + swept.dropped, swept.oldest);
        match swept.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!((pages, dropped, keeper.totals()), (3, 600, vec![]));
}

#[test]
fn a_damaged_hint_is_neither_known_nor_sent_and_the_next_sweep_gives_it_up() {
    let mut keeper = Keeper::new();
    keeper.keep("k", object(2, 10));
    let row = schema::hint_row(&TARGET, Token::of(&key("k")).0, &key("k"));
    keeper.overwrite(Table::Hints, row.as_bytes());
    assert_eq!((keeper.known("k"), keeper.names().len()), (None, 0));
    assert_eq!(keeper.sweep(0).dropped, 1);
    assert_eq!((keeper.totals(), keeper.own_and_marked().1), (vec![], vec![partition_of("k")]));
}

#[test]
fn damaged_totals_are_counted_anew() {
    let mut keeper = Keeper::new();
    keeper.keep("a", object(2, 10));
    let before = keeper.totals();
    keeper.overwrite(Table::HintTotals, schema::hint_totals_row(&TARGET).as_bytes());
    assert_eq!(keeper.totals(), before);
    keeper.keep("b", object(2, 10));
    assert_eq!(keeper.totals()[0].1.count, 2);
    assert_eq!(keeper.totals()[0].1.bytes, keeper.counted_bytes());
}
