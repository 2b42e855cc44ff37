//! The tree of a replica in step with its objects, and two replicas that become equal by it.

use std::{collections::BTreeMap, sync::Arc};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

use crate::{
    causality::{
        seen::Seen,
        siblings::{NewValue, Object},
    },
    clock::WallTime,
    digest::Digest,
    ident::{Key, Name, NodeId, OpId, Value},
    merkle::{
        CompareRule, Comparison, Salt, Source as _,
        branch::{Branch, BranchDigest, ItemKey},
        descent::{Descent, Ending, Progress, Turn},
        packed,
    },
    replica::{
        Done, Query, Rules, StoreCounts, TreeRule, Work, answer,
        batch::Committer,
        hints::HintLimits,
        tree::{self, BUCKET_COUNT, Tree},
        values::Place,
    },
    ring::{
        partition_set::PartitionSet,
        token::{Partition, PartitionCount, Token},
    },
    store::{ReadTxn as _, Store as _, Table, Walk, WriteTxn as _, memory::MemoryStore, schema},
    wire::exchange::{Answer, EXCHANGE_VERSION, Opening, Packed, Question, Root},
};

const NOW: WallTime = WallTime(1_000);
const LIMITS: HintLimits = HintLimits { target_bytes: 1 << 20, total_bytes: 1 << 20 };

struct Side {
    store: MemoryStore,
    committer: Committer,
    ops: u64,
}

fn item_key() -> ItemKey {
    ItemKey::of(&Name::new("c").unwrap())
}

fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

impl Side {
    fn new(number: u8) -> Side {
        Side::with(number, Rules::sound())
    }

    fn with(number: u8, rules: Rules) -> Side {
        let node = NodeId([number; 32]);
        let mut committer = Committer::new(node.to_actor_number(), item_key(), rules, LIMITS, u64::from(number));
        let store = MemoryStore::new();
        committer.run(&store, &[((), Work::ConfirmLife)], NOW).unwrap();
        Side { store, committer, ops: u64::from(number) << 32 }
    }

    fn run(&mut self, work: Work) -> Done {
        self.committer.run(&self.store, &[((), work)], NOW).unwrap().remove(0).1
    }

    fn ask(&self, query: &Query) -> Done {
        answer(&self.store.read().unwrap(), query, NOW, &mut StoreCounts::default()).unwrap()
    }

    fn put(&mut self, name: &str, context: Seen) -> Object {
        self.ops += 1;
        let mut op = [0; 16];
        op[..8].copy_from_slice(&self.ops.to_be_bytes());
        let value = Value::new(name.as_bytes()).unwrap();
        let new = Some(NewValue { op: OpId(op), value, written_at: NOW, expires_at: None });
        self.write(name, context, new)
    }

    fn delete(&mut self, name: &str) -> Object {
        let seen = self.object(name).clock().clone().into();
        self.write(name, seen, None)
    }

    fn write(&mut self, name: &str, context: Seen, new: Option<NewValue>) -> Object {
        match self.run(Work::Write { place: Place::Own, key: key(name), context, new }) {
            Done::Written { object, .. } => object,
            other => panic!("not written: {other:?}"),
        }
    }

    fn merge(&mut self, name: &str, object: Object) {
        self.run(Work::Merge { key: key(name), object });
    }

    fn object(&self, name: &str) -> Object {
        match self.ask(&Query::Object(key(name))) {
            Done::Object(object) => object,
            other => panic!("no object: {other:?}"),
        }
    }

    /// Changes a stored row behind the replica's back.
    fn tamper(&mut self, table: Table, row: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
        let mut txn = self.store.write().unwrap();
        let mut bytes = txn.get(table, row).unwrap().expect("the row is there").to_vec();
        change(&mut bytes);
        txn.put(table, row, &bytes).unwrap();
        txn.commit().unwrap();
    }

    fn root(&self) -> BranchDigest {
        let txn = self.store.read().unwrap();
        Tree::new(&txn, &all(16)).digest(&Branch::ROOT).unwrap()
    }

    fn contents(&self) -> BTreeMap<Vec<u8>, Object> {
        let txn = self.store.read().unwrap();
        let mut contents = BTreeMap::new();
        txn.visit(Table::Objects, &[], &mut |row, sealed| {
            let record = crate::replica::values::decode(Table::Objects, row, sealed);
            contents.insert(row.to_vec(), record.map(|record| record.object).unwrap_or_default());
            Ok(Walk::On)
        })
        .unwrap();
        contents
    }

    /// Every bucket is the sum of its items, and every branch that of its children.
    #[track_caller]
    fn assert_in_step(&self) {
        let txn = self.store.read().unwrap();
        for bucket in 0..BUCKET_COUNT {
            let check = tree::check(&txn, bucket, &item_key()).unwrap();
            assert!(check.is_sound(), "bucket {bucket}: {check:?}");
        }
        let partitions = all(16);
        let mut tree = Tree::new(&txn, &partitions);
        let mut branches = vec![Branch::ROOT];
        while let Some(branch) = branches.pop() {
            let (digest, children) = (tree.digest(&branch).unwrap(), tree.children(&branch).unwrap());
            let mut sum = BranchDigest::default();
            children.iter().for_each(|child| sum.add(*child));
            assert_eq!(sum, digest, "{branch}");
            if branch.depth() < 6 {
                branches.extend((0..16).filter(|index| children[*index].count > 0).map(|index| branch.child(index)));
            }
        }
    }
}

fn all(count: u32) -> PartitionSet {
    let count = PartitionCount::new(count).unwrap();
    PartitionSet::new(count, count.iter())
}

/// What an exchange came to.
#[derive(Debug)]
struct Exchanged {
    ending: Ending,
    progress: Progress,
    taken: u64,
}

fn exchange(asker: &mut Side, other: &mut Side) -> Exchanged {
    exchange_of(asker, other, &Arc::new(all(16)), Branch::ROOT, CompareRule::All, &mut |_, _| {})
}

/// One exchange, turn by turn; `between` may do something to both sides after each.
fn exchange_of(
    asker: &mut Side,
    other: &mut Side,
    partitions: &Arc<PartitionSet>,
    branch: Branch,
    rule: CompareRule,
    between: &mut dyn FnMut(&mut Side, &mut Side),
) -> Exchanged {
    let comparison = Comparison { salt: Salt::new(7), rule };
    let opening = Opening {
        version: EXCHANGE_VERSION,
        capabilities: 0,
        salt: 7,
        label: Digest([0; 32]),
        partition: None,
        branch: (branch.first(), branch.depth()),
        root: Root([0; 16]),
    };
    let mut descent = Box::new(Descent::new(opening, comparison, false).unwrap());
    let (mut answer, mut taken) = (None, 0);
    loop {
        let query = Query::Descend { partitions: partitions.clone(), descent: descent.clone(), answer: answer.take() };
        let Done::Descended { descent: after, turn, .. } = asker.ask(&query) else { panic!("no turn") };
        descent = after;
        let question = match turn {
            Turn::End(ending) => return Exchanged { ending, progress: descent.progress(), taken },
            Turn::Ask(question) => question,
        };
        assert!(descent.progress().round_trips < 1_000, "it does not end");
        let mut reply = reply(other, partitions, comparison, branch, question);
        if let Answer::Step(step) = &mut reply
            && !step.items.is_empty()
        {
            match asker.run(Work::MergeAll(std::mem::take(&mut step.items))) {
                Done::MergedAll { changed, .. } => taken += changed,
                other => panic!("not merged: {other:?}"),
            }
        }
        answer = Some(reply);
        between(asker, other);
    }
}

fn reply(
    side: &mut Side,
    partitions: &Arc<PartitionSet>,
    comparison: Comparison,
    branch: Branch,
    question: Question,
) -> Answer {
    let partitions = partitions.clone();
    let (query, left) = match question {
        Question::Open(Opening { root, .. }) => {
            (Query::AnswerOpening { partitions, comparison, branch, root }, Vec::new())
        }
        Question::Step(step) => {
            let left = if step.items.is_empty() {
                Vec::new()
            } else {
                match side.run(Work::MergeAll(step.items)) {
                    Done::MergedAll { left, .. } => left,
                    other => panic!("not merged: {other:?}"),
                }
            };
            let questions = packed::read_questions(&step.questions.0).unwrap();
            (Query::AnswerStep { partitions, comparison, questions }, left)
        }
    };
    match side.ask(&query) {
        Done::Answered { answer: Answer::Step(mut step), .. } => {
            step.items.extend(left);
            Answer::Step(step)
        }
        Done::Answered { answer, .. } => answer,
        other => panic!("no answer: {other:?}"),
    }
}

fn nothing() -> Seen {
    Seen::default()
}

/// Two sides that hold the same so many keys, some of one tag, some deleted.
fn twins(count: usize) -> (Side, Side) {
    let (mut left, mut right) = (Side::new(1), Side::new(2));
    for number in 0..count {
        let name = name_of(number);
        left.put(&name, nothing());
        if number % 9 == 0 {
            left.delete(&name);
        }
        right.merge(&name, left.object(&name));
    }
    (left, right)
}

fn name_of(number: usize) -> String {
    if number.is_multiple_of(3) { format!("{{tag}}/{number}") } else { format!("key-{number}") }
}

#[test]
fn equal_data_have_equal_roots_whatever_the_order_and_the_rest_has_not() {
    let (left, right) = twins(400);
    left.assert_in_step();
    right.assert_in_step();
    assert_eq!((left.root(), left.root().count), (right.root(), 400));
    let mut backwards = Side::new(3);
    for number in (0..400).rev() {
        backwards.merge(&name_of(number), left.object(&name_of(number)));
    }
    assert_eq!(backwards.root(), left.root());
    backwards.put("key-1", nothing());
    assert_ne!(backwards.root(), left.root());
    backwards.assert_in_step();
}

#[test]
fn two_in_step_find_out_by_one_question_and_one_answer() {
    let (mut left, mut right) = twins(50);
    let done = exchange(&mut left, &mut right);
    assert_eq!((done.ending, done.progress.round_trips, done.taken), (Ending::InStep, 1, 0));
}

#[test]
fn whatever_differs_one_exchange_makes_both_equal() {
    for seed in 0..40 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut left, mut right) = twins(if seed % 4 == 0 { 40 } else { 300 });
        for _ in 0..1 + rng.next_u64() % 60 {
            let number = usize::try_from(rng.next_u64() % 600).unwrap();
            let name = name_of(number);
            let side = if rng.next_u64().is_multiple_of(2) { &mut left } else { &mut right };
            match rng.next_u64() % 4 {
                0 => drop(side.put(&name, side.object(&name).clock().clone().into())),
                1 => drop(side.put(&name, nothing())),
                2 => drop(side.delete(&name)),
                _ => {
                    left.put(&name, nothing());
                    right.put(&name, nothing());
                }
            }
        }
        let mut wanted = left.contents();
        for (row, object) in right.contents() {
            wanted.entry(row).or_default().merge(object);
        }
        let done = exchange(&mut left, &mut right);
        assert_eq!(done.ending, Ending::InStep, "seed {seed}");
        assert_eq!((left.contents(), right.contents()), (wanted.clone(), wanted), "seed {seed}");
        left.assert_in_step();
        right.assert_in_step();
    }
}

#[test]
fn a_side_that_has_nothing_gets_everything_and_reads_no_leaf_for_it() {
    let (mut left, mut right) = (twins(700).0, Side::new(2));
    let done = exchange(&mut right, &mut left);
    assert_eq!((done.ending, done.taken, done.progress.hashes_compared), (Ending::InStep, 700, 2 + 16));
    assert_eq!(left.contents(), right.contents());
    let mut third = Side::new(3);
    let done = exchange(&mut left, &mut third);
    assert_eq!((done.ending, done.progress.given), (Ending::InStep, 700));
    assert_eq!(left.contents(), third.contents());
}

#[test]
fn only_what_the_two_share_is_compared_and_sent() {
    let (mut left, mut right) = (twins(300).0, Side::new(2));
    let count = PartitionCount::new(64).unwrap();
    let shared = Arc::new(PartitionSet::new(count, (0..64).step_by(3).map(Partition)));
    let done = exchange_of(&mut left, &mut right, &shared, Branch::ROOT, CompareRule::All, &mut |_, _| {});
    assert_eq!(done.ending, Ending::InStep);
    let is_shared = |row: &Vec<u8>| {
        let token = u64::from_be_bytes(*row.first_chunk().unwrap());
        shared.contains_token(Token(token))
    };
    let wanted: BTreeMap<_, _> = left.contents().into_iter().filter(|(row, _)| is_shared(row)).collect();
    assert!(!wanted.is_empty() && wanted.len() < 300);
    assert_eq!(right.contents(), wanted);
}

#[test]
fn a_ring_cut_finer_than_the_buckets_is_compared_just_as_well() {
    let (mut left, mut right) = (twins(300).0, Side::new(2));
    let count = PartitionCount::new(1 << 16).unwrap();
    let shared = Arc::new(PartitionSet::new(count, count.iter().filter(|partition| partition.0 % 3 != 0)));
    let done = exchange_of(&mut left, &mut right, &shared, Branch::ROOT, CompareRule::All, &mut |_, _| {});
    assert_eq!(done.ending, Ending::InStep);
    assert!((150..250).contains(&right.contents().len()), "{}", right.contents().len());
}

#[test]
fn one_key_can_be_compared_by_itself() {
    let (mut left, mut right) = twins(200);
    left.put("key-1", nothing());
    left.put("key-2", nothing());
    let branch = Branch::around(crate::merkle::branch::Position::of(Token::of(&key("key-1")), b"key-1"), 16);
    let done = exchange_of(&mut right, &mut left, &Arc::new(all(16)), branch, CompareRule::All, &mut |_, _| {});
    assert_eq!((done.ending, done.taken), (Ending::InStep, 1));
    assert_eq!(left.object("key-1"), right.object("key-1"));
    assert_ne!(left.object("key-2"), right.object("key-2"));
}

#[test]
fn writes_in_between_cost_nothing_but_another_exchange() {
    let (mut left, mut right) = twins(300);
    (0..40).for_each(|number| drop(left.put(&name_of(number * 7), nothing())));
    let mut written = 0;
    let mut write = |left: &mut Side, right: &mut Side| {
        written += 1;
        left.put(&format!("late-{written}"), nothing());
        right.put(&name_of(written), nothing());
        left.delete(&name_of(100 + written));
    };
    let shared = Arc::new(all(16));
    exchange_of(&mut left, &mut right, &shared, Branch::ROOT, CompareRule::All, &mut write);
    assert_eq!(exchange(&mut right, &mut left).ending, Ending::InStep);
    assert_eq!(left.contents(), right.contents());
}

#[test]
fn a_flipped_record_and_a_falsified_row_of_the_tree_are_found_mended_and_do_not_travel() {
    let (mut left, mut right) = twins(200);
    let before = left.contents();
    let row = schema::object_row(Token::of(&key("key-1")).0, &key("key-1"));
    left.tamper(Table::Objects, row.as_bytes(), |bytes| *bytes.last_mut().unwrap() ^= 1);
    let bucket = tree::bucket_of(Token::of(&key("key-1")));
    assert_eq!(exchange(&mut left, &mut right).ending, Ending::InStep, "its hash is as it was");
    match left.ask(&Query::Check { bucket, item_key: item_key() }) {
        Done::Checked(check) => assert_eq!((check.damaged, check.is_sound()), (1, false)),
        other => panic!("not checked: {other:?}"),
    }
    left.run(Work::Mend { bucket });
    left.assert_in_step();
    assert_eq!(exchange(&mut right, &mut left).ending, Ending::InStep);
    assert_eq!((left.contents(), right.contents()), (before.clone(), before.clone()));

    // A wrong digest with a right checksum: it leads to nothing, and that is told.
    let other = tree::bucket_of(Token::of(&key("key-2")));
    let tree_row = schema::bucket_row(other);
    left.tamper(Table::Trees, tree_row.as_bytes(), |bytes| {
        let mut wrong = BranchDigest { count: 1, sum: 99 }.to_bytes();
        wrong[7] = bytes[16].wrapping_add(1);
        *bytes = crate::store::record::seal(Table::Trees, tree_row.as_bytes(), &wrong);
    });
    let Ending::Apart { fruitless } = exchange(&mut left, &mut right).ending else { panic!("they seem equal") };
    assert!(fruitless.iter().any(|branch| tree::buckets_of(branch).contains(&other)), "{fruitless:?}");
    left.run(Work::Mend { bucket: other });
    assert_eq!(exchange(&mut left, &mut right).ending, Ending::InStep);
    assert_eq!((left.contents(), right.contents()), (before.clone(), before));
}

#[test]
fn a_write_on_top_of_a_damaged_record_or_bucket_leaves_the_tree_in_step() {
    let (mut left, _) = twins(60);
    let row = schema::object_row(Token::of(&key("key-1")).0, &key("key-1"));
    left.tamper(Table::Objects, row.as_bytes(), |bytes| bytes[10] ^= 1);
    left.put("key-1", nothing());
    left.assert_in_step();
    let tree_row = schema::bucket_row(tree::bucket_of(Token::of(&key("key-1"))));
    left.tamper(Table::Trees, tree_row.as_bytes(), |bytes| bytes[12] ^= 1);
    left.put("key-1", nothing());
    left.assert_in_step();
}

#[test]
fn planted_bugs_of_the_tree_and_the_comparison_show() {
    let broken = |trees| Side::with(2, Rules { trees, ..Rules::sound() });
    let run = |mut other: Side, prepare: &dyn Fn(&mut Side, &mut Side)| {
        let mut left = Side::new(1);
        prepare(&mut left, &mut other);
        let ending = exchange(&mut left, &mut other).ending;
        (ending, left.contents() == other.contents())
    };
    let tombstone = |left: &mut Side, right: &mut Side| {
        right.merge("k", left.put("k", nothing()));
        right.delete("k");
    };
    assert_eq!(run(Side::new(2), &tombstone), (Ending::InStep, true));
    assert_ne!(run(broken(TreeRule::WithoutTombstones), &tombstone), (Ending::InStep, true));
    let merged = |left: &mut Side, right: &mut Side| right.merge("k", left.put("k", nothing()));
    assert_eq!(run(Side::new(2), &merged), (Ending::InStep, true));
    assert_ne!(run(broken(TreeRule::MergesForgotten), &merged), (Ending::InStep, true));
    let concurrent = |left: &mut Side, right: &mut Side| {
        left.put("k", nothing());
        right.put("k", nothing());
    };
    let mut left = Side::new(1);
    let mut right = broken(TreeRule::ExchangesOverwrite);
    concurrent(&mut left, &mut right);
    exchange(&mut left, &mut right);
    assert_eq!(right.object("k").siblings().len(), 1, "a write is gone");

    let (mut left, mut right) = twins(300);
    (0..300).for_each(|number| drop(left.put(&name_of(number), nothing())));
    exchange_of(&mut left, &mut right, &Arc::new(all(16)), Branch::ROOT, CompareRule::AllButOne, &mut |_, _| {});
    assert_ne!(left.contents(), right.contents());
}

#[test]
fn an_answer_that_is_none_ends_the_exchange() {
    let (left, _) = twins(100);
    let comparison = Comparison { salt: Salt::new(7), rule: CompareRule::All };
    let opening = Opening {
        version: EXCHANGE_VERSION,
        capabilities: 0,
        salt: 7,
        label: Digest([0; 32]),
        partition: None,
        branch: (0, 0),
        root: Root([0; 16]),
    };
    let next = |descent: &mut Box<Descent>, answer| {
        let query = Query::Descend { partitions: Arc::new(all(16)), descent: descent.clone(), answer };
        match left.ask(&query) {
            Done::Descended { descent: after, turn, .. } => {
                *descent = after;
                turn
            }
            other => panic!("no turn: {other:?}"),
        }
    };
    let step = |answered, branches: &[u8], next: Option<&[u8]>| {
        Answer::Step(crate::wire::exchange::StepAnswer {
            answered,
            branches: Packed(branches.to_vec()),
            items: Vec::new(),
            next: next.map(|next| crate::wire::client::Cursor(next.to_vec())),
        })
    };
    for bad in [
        Answer::Same,
        Answer::Differs(Packed(Vec::new())),
        step(0, &[], None),
        step(99, &[], None),
        step(1, &[0xff], None),
        step(0, &[], Some(&[0; 9])),
    ] {
        let mut descent = Box::new(Descent::new(opening.clone(), comparison, false).unwrap());
        assert!(matches!(next(&mut descent, None), Turn::Ask(Question::Open(_))));
        let all_differ = packed::Below::Children(std::array::from_fn(|_| Some(crate::merkle::Short([1; 4]))));
        let differs = Answer::Differs(Packed(packed::write_below(&all_differ)));
        assert!(matches!(next(&mut descent, Some(differs)), Turn::Ask(Question::Step(_))));
        assert_eq!(next(&mut descent, Some(bad.clone())), Turn::End(Ending::Malformed), "{bad:?}");
    }
}
