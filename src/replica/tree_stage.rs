//! Replicas that can be compared, for tests: what they do, and an exchange of two of them turn by turn.

use std::{collections::BTreeMap, sync::Arc};

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
        Done, Query, StoreCounts, Work, answer,
        batch::Committer,
        hints::HintLimits,
        rules::Rules,
        tree::{self, BUCKET_COUNT, Tree},
        values::Place,
    },
    ring::{partition_set::PartitionSet, token::PartitionCount},
    store::{ReadTxn as _, Store as _, Table, Walk, WriteTxn as _, memory::MemoryStore},
    wire::exchange::{Answer, EXCHANGE_VERSION, Opening, Question, Root},
};

const NOW: WallTime = WallTime(1_000);
const LIMITS: HintLimits = HintLimits { target_bytes: 1 << 20, total_bytes: 1 << 20 };

pub(crate) struct Side {
    pub(crate) store: MemoryStore,
    committer: Committer,
    ops: u64,
}

pub(crate) fn item_key() -> ItemKey {
    ItemKey::of(&Name::new("c").unwrap())
}

pub(crate) fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).unwrap()
}

impl Side {
    pub(crate) fn new(number: u8) -> Side {
        Side::with(number, Rules::sound())
    }

    pub(crate) fn with(number: u8, rules: Rules) -> Side {
        let node = NodeId([number; 32]);
        let mut committer = Committer::new(node.to_actor_number(), item_key(), rules, LIMITS, u64::from(number));
        let store = MemoryStore::new();
        committer.run(&store, &[((), Work::ConfirmLife)], NOW).unwrap();
        Side { store, committer, ops: u64::from(number) << 32 }
    }

    pub(crate) fn run(&mut self, work: Work) -> Done {
        self.committer.run(&self.store, &[((), work)], NOW).unwrap().remove(0).1
    }

    pub(crate) fn ask(&self, query: &Query) -> Done {
        answer(&self.store.read().unwrap(), query, NOW, &mut StoreCounts::default()).unwrap()
    }

    pub(crate) fn put(&mut self, name: &str, context: Seen) -> Object {
        self.ops += 1;
        let mut op = [0; 16];
        op[..8].copy_from_slice(&self.ops.to_be_bytes());
        let value = Value::new(name.as_bytes()).unwrap();
        let new = Some(NewValue { op: OpId(op), value, written_at: NOW, expires_at: None });
        self.write(name, context, new)
    }

    pub(crate) fn delete(&mut self, name: &str) -> Object {
        let seen = self.object(name).clock().clone().into();
        self.write(name, seen, None)
    }

    fn write(&mut self, name: &str, context: Seen, new: Option<NewValue>) -> Object {
        match self.run(Work::Write { place: Place::Own, key: key(name), context, new }) {
            Done::Written { object, .. } => object,
            other => panic!("not written: {other:?}"),
        }
    }

    pub(crate) fn merge(&mut self, name: &str, object: Object) {
        self.run(Work::Merge { key: key(name), object });
    }

    pub(crate) fn object(&self, name: &str) -> Object {
        match self.ask(&Query::Object(key(name))) {
            Done::Object(object) => object,
            other => panic!("no object: {other:?}"),
        }
    }

    /// Changes a stored row behind the replica's back.
    pub(crate) fn tamper(&mut self, table: Table, row: &[u8], change: impl FnOnce(&mut Vec<u8>)) {
        let mut txn = self.store.write().unwrap();
        let mut bytes = txn.get(table, row).unwrap().expect("the row is there").to_vec();
        change(&mut bytes);
        txn.put(table, row, &bytes).unwrap();
        txn.commit().unwrap();
    }

    pub(crate) fn root(&self) -> BranchDigest {
        let txn = self.store.read().unwrap();
        Tree::new(&txn, &all(16)).digest(&Branch::ROOT).unwrap()
    }

    pub(crate) fn contents(&self) -> BTreeMap<Vec<u8>, Object> {
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
    pub(crate) fn assert_in_step(&self) {
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

pub(crate) fn all(count: u32) -> PartitionSet {
    let count = PartitionCount::new(count).unwrap();
    PartitionSet::new(count, count.iter())
}

/// What an exchange came to.
#[derive(Debug)]
pub(crate) struct Exchanged {
    pub(crate) ending: Ending,
    pub(crate) progress: Progress,
    pub(crate) taken: u64,
}

pub(crate) fn exchange(asker: &mut Side, other: &mut Side) -> Exchanged {
    exchange_of(asker, other, &Arc::new(all(16)), Branch::ROOT, CompareRule::All, &mut |_, _| {})
}

/// One exchange, turn by turn; `between` may do something to both sides after each.
pub(crate) fn exchange_of(
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
        partitions: None,
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

pub(crate) fn nothing() -> Seen {
    Seen::default()
}

/// Two sides that hold the same so many keys, some of one tag, some deleted.
pub(crate) fn twins(count: usize) -> (Side, Side) {
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

pub(crate) fn name_of(number: usize) -> String {
    if number.is_multiple_of(3) { format!("{{tag}}/{number}") } else { format!("key-{number}") }
}
