//! What a replica does with its store, played on the store in memory.

use std::slice;

use crate::{
    causality::{dot::Dot, epochs::EpochRule, seen::Seen, siblings::NewValue, siblings::Object},
    clock::WallTime,
    ident::{Key, Name, NodeId, OpId, Value},
    limits::{SCAN_PAGE_MAX, SIBLING_COUNT_MAX, VALUE_LIMIT_BYTES},
    membership::{
        change::{ChangeKind, Parameters, Signer},
        history::History,
    },
    merkle::branch::ItemKey,
    replica::{
        Done, Query, StoreCounts, Work, answer,
        batch::Committer,
        hints::HintLimits,
        rules::{MergeRule, Rules},
        startup,
        values::{KeyPage, Place, WriteRefused},
    },
    ring::token::{PartitionCount, Token},
    store::{
        ReadTxn as _, Store as _, StoreError, Table, WriteTxn as _,
        memory::MemoryStore,
        schema::{self, MetaRow},
    },
    wire::client::Cursor,
};

const LIMITS: HintLimits = HintLimits { target_bytes: 2_000, total_bytes: 3_000 };
/// What a store tells that holds so many keys and no hints.
fn totals(key_count: u64, key_bytes: u64) -> Done {
    Done::Totals { key_count, key_bytes, hints: Vec::new(), marked: Vec::new(), counts: StoreCounts::default() }
}

fn item_key() -> ItemKey {
    ItemKey::of(&Name::new("c").unwrap())
}

const NOW: WallTime = WallTime(1_000);
const ME: NodeId = NodeId([1; 32]);
const OTHER: NodeId = NodeId([2; 32]);

/// A store with a committer of node [`ME`].
struct Replica {
    store: MemoryStore,
    committer: Committer,
    counts: StoreCounts,
}

impl Replica {
    fn of(node: NodeId) -> Replica {
        Replica::with(node, Rules::sound())
    }

    fn with(node: NodeId, rules: Rules) -> Replica {
        let committer = Committer::new(node.to_actor_number(), item_key(), rules, LIMITS, 0);
        let mut replica = Replica { store: MemoryStore::new(), committer, counts: StoreCounts::default() };
        replica.run(Work::ConfirmLife).unwrap();
        replica
    }

    fn run(&mut self, work: Work) -> Result<Done, StoreError> {
        let done = self.committer.run(&self.store, slice::from_ref(&((), work)), NOW)?;
        Ok(done.into_iter().next().expect("one piece of work, one result").1)
    }

    /// Writes `value` as the `op`-th operation of a client that has seen `context`.
    fn put(&mut self, name: &str, context: &Seen, op: u8, value: &[u8]) -> Done {
        let new = NewValue { op: OpId([op; 16]), value: Value::new(value).unwrap(), written_at: NOW, expires_at: None };
        self.run(Work::Write { place: Place::Own, key: key(name), context: context.clone(), new: Some(new) }).unwrap()
    }

    /// The same, when it must succeed. Returns what the writer has seen.
    fn stored(&mut self, name: &str, context: &Seen, op: u8, value: &[u8]) -> Seen {
        match self.put(name, context, op, value) {
            Done::Written { seen, .. } => seen,
            other => panic!("not written: {other:?}"),
        }
    }

    fn delete(&mut self, name: &str, context: &Seen) {
        self.run(Work::Write { place: Place::Own, key: key(name), context: context.clone(), new: None }).unwrap();
    }

    fn merge(&mut self, name: &str, object: Object) {
        assert_eq!(self.run(Work::Merge { key: key(name), object }), Ok(Done::Merged));
    }

    fn ask(&mut self, query: &Query) -> Done {
        answer(&self.store.read().unwrap(), query, NOW, &mut self.counts).unwrap()
    }

    fn object(&mut self, name: &str) -> Object {
        match self.ask(&Query::Object(key(name))) {
            Done::Object(object) => object,
            other => panic!("not an object: {other:?}"),
        }
    }

    fn dots(&mut self, name: &str) -> Vec<Dot> {
        self.object(name).siblings().iter().map(|sibling| sibling.dot).collect()
    }

    #[track_caller]
    fn assert_values(&mut self, name: &str, expected: &[&[u8]]) {
        let object = self.object(name);
        let mut values: Vec<&[u8]> = object.siblings().iter().map(|sibling| sibling.value.as_bytes()).collect();
        values.sort_unstable();
        assert_eq!(values, expected, "siblings of {name}");
    }

    fn page(&mut self, prefix: &str, after: Option<Cursor>, limit: usize) -> KeyPage {
        match self.ask(&Query::Keys { prefix: prefix.as_bytes().to_vec(), after, limit }) {
            Done::Keys(page) => page,
            other => panic!("not keys: {other:?}"),
        }
    }

    /// All pages of so many keys; how many pages there were.
    fn pages(&mut self, prefix: &str, limit: usize) -> (Vec<String>, usize) {
        let (mut names, mut count, mut after) = (Vec::new(), 0, None);
        loop {
            let page = self.page(prefix, after, limit);
            assert!(page.keys.len() <= limit);
            names.extend(page.keys.iter().map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned()));
            count += 1;
            match page.next {
                Some(next) => after = Some(next),
                None => return (names, count),
            }
        }
    }

    /// Flips one bit of the record of `name`.
    fn damage(&self, name: &str) {
        let row = schema::object_row(Token::of(&key(name)).0, &key(name));
        self.overwrite(Table::Objects, row.as_bytes(), |record| *record.last_mut().unwrap() ^= 1);
    }

    fn overwrite(&self, table: Table, row: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
        let mut txn = self.store.write().unwrap();
        let mut record = crate::store::ReadTxn::get(&txn, table, row).unwrap().unwrap().to_vec();
        change(&mut record);
        txn.put(table, row, &record).unwrap();
        txn.commit().unwrap();
    }

    fn start(&self, node: &NodeId) -> Result<startup::Recovered, StoreError> {
        let mut txn = self.store.write().unwrap();
        let recovered = startup::begin(&mut txn, node)?;
        txn.commit().map(|()| recovered)
    }

    fn stop(&self) {
        self.committer.end(&self.store).unwrap();
    }
}

fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

fn nothing() -> Seen {
    Seen::default()
}

fn broken() -> StoreError {
    StoreError::Failed { detail: "planted".to_owned() }
}

#[test]
fn a_write_replaces_what_its_context_has_seen_and_stands_beside_the_rest() {
    let mut replica = Replica::of(ME);
    let first = replica.stored("k", &nothing(), 1, b"a");
    replica.stored("k", &nothing(), 2, b"b");
    replica.assert_values("k", &[b"a", b"b"]);
    replica.stored("k", &first, 3, b"c");
    replica.assert_values("k", &[b"b", b"c"]);
    let all = Seen::from(replica.object("k").clock().clone());
    replica.stored("k", &all, 4, b"d");
    replica.assert_values("k", &[b"d"]);
}

#[test]
fn a_deletion_leaves_a_tombstone_and_spares_what_it_had_not_seen() {
    let mut replica = Replica::of(ME);
    let first = replica.stored("k", &nothing(), 1, b"a");
    replica.stored("k", &nothing(), 2, b"b");
    replica.delete("k", &first);
    replica.assert_values("k", &[b"b"]);
    let all = Seen::from(replica.object("k").clock().clone());
    replica.delete("k", &all);
    replica.assert_values("k", &[]);
    assert_eq!(replica.object("k").clock().len(), 1, "the clock stays");
    assert_eq!(replica.page("", None, 10).keys, []);
}

#[test]
fn a_retry_with_the_same_operation_id_is_stored_once() {
    let mut replica = Replica::of(ME);
    let first = replica.stored("k", &nothing(), 1, b"a");
    let before = replica.store.snapshot();
    let again = replica.stored("k", &nothing(), 1, b"a");
    assert_eq!(again, first);
    assert_eq!(replica.dots("k").len(), 1);
    replica.store.restore(&before);
    replica.assert_values("k", &[b"a"]);
}

#[test]
fn a_merge_keeps_the_siblings_of_both_and_is_idempotent() {
    let (mut here, mut there) = (Replica::of(ME), Replica::of(OTHER));
    here.stored("k", &nothing(), 1, b"here");
    there.stored("k", &nothing(), 2, b"there");
    let theirs = there.object("k");
    here.merge("k", theirs.clone());
    here.assert_values("k", &[b"here", b"there"]);
    let once = here.object("k");
    here.merge("k", theirs);
    assert_eq!(here.object("k"), once);
    there.merge("k", once.clone());
    assert_eq!(there.object("k"), once);
}

#[test]
fn under_the_planted_rule_a_merge_loses_the_older_of_two_concurrent_writes() {
    let rules = Rules { merges: MergeRule::LastWriteWins, ..Rules::sound() };
    let (mut here, mut there) = (Replica::with(ME, rules), Replica::of(OTHER));
    here.stored("k", &nothing(), 1, b"here");
    there.stored("k", &nothing(), 2, b"there");
    here.merge("k", there.object("k"));
    assert_eq!(here.dots("k").len(), 1);
}

#[test]
fn too_many_siblings_are_refused_in_writes_and_never_in_merges() {
    let (mut here, mut there) = (Replica::of(ME), Replica::of(OTHER));
    let most = u8::try_from(SIBLING_COUNT_MAX).unwrap();
    for op in 0..most {
        here.stored("k", &nothing(), op, b"v");
    }
    let full = here.object("k");
    let refused = here.put("k", &nothing(), most, b"v");
    let count = SIBLING_COUNT_MAX + 1;
    assert_eq!(refused, Done::Refused(WriteRefused::TooManySiblings { count }));
    assert_eq!(here.object("k"), full, "a refusal changes nothing");
    there.stored("k", &nothing(), 200, b"theirs");
    here.merge("k", there.object("k"));
    assert_eq!(here.dots("k").len(), count);
    let all = Seen::from(here.object("k").clock().clone());
    here.stored("k", &all, 201, b"resolved");
    here.assert_values("k", &[b"resolved"]);
}

#[test]
fn an_object_that_would_grow_too_large_is_refused_in_writes() {
    let mut replica = Replica::of(ME);
    let large = vec![0; VALUE_LIMIT_BYTES];
    let mut op = 0;
    let refused = loop {
        op += 1;
        match replica.put("k", &nothing(), op, &large) {
            Done::Written { .. } => assert!(usize::from(op) < SIBLING_COUNT_MAX, "never refused for its size"),
            other => break other,
        }
    };
    assert!(matches!(refused, Done::Refused(WriteRefused::ObjectTooLarge { .. })), "{refused:?}");
    assert_eq!(replica.dots("k").len(), usize::from(op) - 1);
}

#[test]
fn a_damaged_record_reads_as_missing_and_is_counted() {
    let mut replica = Replica::of(ME);
    replica.stored("k", &nothing(), 1, b"a");
    replica.stored("whole", &nothing(), 2, b"b");
    replica.damage("k");
    assert_eq!(replica.object("k"), Object::default());
    assert_eq!(replica.counts.damaged, 1);
    assert_eq!(replica.page("", None, 10).keys, [key("whole")]);
    assert_eq!(replica.counts.damaged, 2);
}

#[test]
fn a_write_over_a_damaged_record_never_mints_an_old_dot_again() {
    let mut replica = Replica::of(ME);
    replica.stored("k", &nothing(), 1, b"a");
    let lost = replica.object("k");
    replica.damage("k");
    replica.stored("k", &nothing(), 2, b"b");
    assert!(!lost.clock().covers(&replica.dots("k")[0]));
    replica.merge("k", lost);
    replica.assert_values("k", &[b"a", b"b"]);
}

#[test]
fn keys_of_a_tag_are_listed_in_order_and_no_others() {
    let mut replica = Replica::of(ME);
    for (op, name) in ["{42}b", "{42}a", "{42}c", "{43}a", "{42", "plain", "x{42}a"].into_iter().enumerate() {
        replica.stored(name, &nothing(), u8::try_from(op).unwrap(), b"v");
    }
    let expected = ["{42}a", "{42}b", "{42}c"].map(str::to_owned).to_vec();
    assert_eq!(replica.pages("{42}", 10), (expected.clone(), 1));
    assert_eq!(replica.pages("{42}", 2), (expected.clone(), 2));
    assert_eq!(replica.pages("{42}", 1), (expected, 3));
    assert_eq!(replica.pages("{42}b", 10), (vec!["{42}b".to_owned()], 1));
    assert_eq!(replica.pages("{44}", 10), (Vec::new(), 1));
}

#[test]
fn keys_without_a_tag_are_found_in_all_rows_and_each_once() {
    let mut replica = Replica::of(ME);
    let names: Vec<String> = (0..25).map(|number| format!("user-{number:02}")).collect();
    for (op, name) in names.iter().enumerate() {
        replica.stored(name, &nothing(), u8::try_from(op).unwrap(), b"v");
    }
    replica.stored("other", &nothing(), 99, b"v");
    for limit in [1, 7, 25, 26, SCAN_PAGE_MAX] {
        let (mut found, _) = replica.pages("user-", limit);
        found.sort();
        assert_eq!(found, names, "pages of {limit}");
    }
    assert_eq!(replica.pages("", 100).0.len(), 26);
    assert_eq!(replica.pages("nobody", 100), (Vec::new(), 1));
}

#[test]
fn an_expired_key_is_not_listed() {
    let mut replica = Replica::of(ME);
    let value = Value::new(b"v").unwrap();
    let new = NewValue { op: OpId([1; 16]), value, written_at: NOW, expires_at: Some(NOW) };
    replica.run(Work::Write { place: Place::Own, key: key("k"), context: nothing(), new: Some(new) }).unwrap();
    assert_eq!(replica.page("", None, 10).keys, []);
    let key_bytes = replica.store.read().unwrap().size_bytes(Table::Objects).unwrap();
    assert!(key_bytes > 0);
    assert_eq!(replica.ask(&Query::Totals), totals(1, key_bytes));
}

#[test]
fn a_clean_stop_lets_a_node_go_on_under_its_actor_and_an_unclean_one_does_not() {
    let mut replica = Replica::of(ME);
    let started = replica.start(&ME).unwrap();
    assert_eq!((started.boot, started.clean), (1, true));
    replica.stored("k", &nothing(), 1, b"a");
    let first = replica.dots("k")[0].actor;
    replica.stop();
    assert!(replica.start(&ME).unwrap().clean);
    replica.stored("k", &nothing(), 2, b"b");
    assert_eq!(replica.dots("k")[1].actor, first);

    let unclean = replica.start(&ME).unwrap();
    assert_eq!((unclean.boot, unclean.clean), (3, false));
    replica.stored("k", &nothing(), 3, b"c");
    assert_ne!(replica.dots("k")[2].actor, first);
}

#[test]
fn a_store_that_others_know_to_be_old_mints_under_a_fresh_epoch_and_counts_on() {
    let mut replica = Replica::of(ME);
    replica.start(&ME).unwrap();
    replica.stored("k", &nothing(), 1, b"a");
    assert_eq!(replica.run(Work::RaiseBoot { seen: 7 }), Ok(Done::Saved));
    replica.stored("k", &nothing(), 2, b"b");
    assert_ne!(replica.dots("k")[0].actor, replica.dots("k")[1].actor);
    replica.run(Work::ConfirmLife).unwrap();
    replica.stored("new", &nothing(), 3, b"c");
    let mut epoch = |name: &str| replica.dots(name).last().unwrap().actor.epoch;
    assert!(epoch("new") < epoch("k"), "it counts on once its new number is confirmed, and not before");
    assert_eq!(replica.start(&ME).unwrap().boot, 9);
}

#[test]
fn the_store_of_another_node_or_format_is_refused() {
    let replica = Replica::of(ME);
    replica.start(&ME).unwrap();
    assert!(matches!(replica.start(&OTHER), Err(StoreError::Damaged { .. })));
    assert_eq!(replica.start(&ME).unwrap().boot, 2, "the refusal has changed nothing");
    let row = MetaRow::FormatVersion.key();
    let later = cbor4ii::serde::to_vec(Vec::new(), &(schema::FORMAT_VERSION + 1)).unwrap();
    let sealed = crate::store::record::seal(Table::Meta, row, &later);
    replica.overwrite(Table::Meta, row, |record| *record = sealed);
    assert!(matches!(replica.start(&ME), Err(StoreError::Damaged { .. })));
}

#[test]
fn history_and_boot_numbers_of_peers_come_back_at_the_next_start() {
    let mut replica = Replica::of(ME);
    let mut history = History::new(Name::new("test").unwrap());
    let parameters = Parameters { partitions: PartitionCount::new(8).unwrap(), replicas: 3 };
    let change = history.next_change(&Signer::from_seed([1; 32]), ChangeKind::Founded(parameters));
    history.insert(change.clone()).unwrap();
    replica.run(Work::SaveChanges(vec![change.clone()])).unwrap();
    replica.run(Work::SavePeerLife { node: OTHER, life: (4, 7) }).unwrap();
    let recovered = replica.start(&ME).unwrap();
    assert_eq!(recovered.changes, [change]);
    assert_eq!(recovered.peer_lives.get(&OTHER), Some(&(4, 7)));
}

#[test]
fn both_of_two_changes_under_one_number_come_back_at_the_next_start() {
    let mut replica = Replica::of(ME);
    let mut history = History::new(Name::new("test").unwrap());
    let parameters = Parameters { partitions: PartitionCount::new(8).unwrap(), replicas: 3 };
    let signer = Signer::from_seed([1; 32]);
    history.insert(history.next_change(&signer, ChangeKind::Founded(parameters))).unwrap();
    let forks = [ChangeKind::Leaving, ChangeKind::Left].map(|kind| history.next_change(&signer, kind));
    // Each is told of more than once.
    for round in 0..2 {
        replica.run(Work::SaveChanges(forks.to_vec())).unwrap();
        replica.run(Work::SaveChanges(vec![forks[round].clone()])).unwrap();
    }
    assert_eq!(replica.start(&ME).unwrap().changes, forks);
}

#[test]
fn a_commit_that_fails_fails_all_of_its_batch() {
    let mut replica = Replica::of(ME);
    replica.stored("a", &nothing(), 1, b"before");
    let write = |name: &str, op| {
        let value = Value::new(b"after").unwrap();
        let new = NewValue { op: OpId([op; 16]), value, written_at: NOW, expires_at: None };
        Work::Write { place: Place::Own, key: key(name), context: nothing(), new: Some(new) }
    };
    let batch = [(1, write("a", 2)), (2, write("b", 3))];
    replica.store.fail_next_commit(broken());
    assert_eq!(replica.committer.run(&replica.store, &batch, NOW), Err(broken()));
    replica.assert_values("a", &[b"before"]);
    replica.assert_values("b", &[]);
    let done = replica.committer.run(&replica.store, &batch, NOW).unwrap();
    assert_eq!(done.iter().map(|(ticket, _)| *ticket).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn after_a_commit_that_failed_no_dot_of_it_is_minted_again() {
    let mut replica = Replica::of(ME);
    replica.stored("k", &nothing(), 1, b"a");
    let before = replica.dots("k")[0];
    replica.store.fail_next_commit(broken());
    let new = NewValue { op: OpId([2; 16]), value: Value::new(b"b").unwrap(), written_at: NOW, expires_at: None };
    let lost = Work::Write { place: Place::Own, key: key("k"), context: nothing(), new: Some(new) };
    assert_eq!(replica.run(lost), Err(broken()));
    replica.stored("k", &nothing(), 3, b"c");
    let after = replica.dots("k")[1];
    assert_ne!(after, Dot { counter: before.counter + 1, ..before }, "that one may be on other replicas");
    assert_ne!(after.actor, before.actor);
    replica.stored("k", &nothing(), 4, b"d");
    assert_eq!(replica.dots("k")[2].actor, after.actor, "once is enough");
}

#[test]
fn a_stop_right_after_a_commit_that_failed_is_clean_and_yet_gives_the_epochs_up() {
    let mut replica = Replica::of(ME);
    replica.start(&ME).unwrap();
    replica.stored("k", &nothing(), 1, b"a");
    replica.store.fail_next_commit(broken());
    let new = NewValue { op: OpId([2; 16]), value: Value::new(b"b").unwrap(), written_at: NOW, expires_at: None };
    let lost = Work::Write { place: Place::Own, key: key("k"), context: nothing(), new: Some(new) };
    assert_eq!(replica.run(lost), Err(broken()));
    replica.stop();
    assert!(replica.start(&ME).unwrap().clean);
    replica.committer = Committer::new(ME.to_actor_number(), item_key(), Rules::sound(), LIMITS, 1);
    replica.run(Work::ConfirmLife).unwrap();
    replica.stored("k", &nothing(), 3, b"c");
    assert_ne!(replica.dots("k")[0].actor, replica.dots("k")[1].actor);
}

#[test]
fn damage_that_a_write_or_a_merge_meets_is_counted() {
    let mut replica = Replica::of(ME);
    replica.stored("k", &nothing(), 1, b"a");
    assert_eq!(replica.committer.replica().damaged, 0);
    replica.damage("k");
    replica.stored("k", &nothing(), 2, b"b");
    assert_eq!(replica.committer.replica().damaged, 1);
    replica.damage("k");
    replica.merge("k", Object::default());
    assert_eq!(replica.committer.replica().damaged, 2);
}

#[test]
fn under_the_planted_rule_a_lost_dot_is_minted_again() {
    let rules = Rules { epochs: EpochRule::NeverFresh, ..Rules::sound() };
    let mut replica = Replica::with(ME, rules);
    replica.stored("k", &nothing(), 1, b"a");
    let lost = replica.dots("k")[0];
    replica.damage("k");
    replica.stored("k", &nothing(), 2, b"b");
    assert_eq!(replica.dots("k"), [lost]);
}
