//! The tree of a replica in step with its objects, and two replicas that become equal by it.

use std::{collections::BTreeMap, sync::Arc};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

use crate::{
    digest::Digest,
    merkle::{
        CompareRule, Comparison, Salt,
        branch::{Branch, BranchDigest, Position},
        descent::{Descent, Ending, Turn},
        packed,
    },
    replica::{
        Done, Query, Work,
        rules::{Rules, TreeRule},
        tree,
        tree_stage::{Side, all, exchange, exchange_of, item_key, key, name_of, nothing, twins},
    },
    ring::{
        partition_set::PartitionSet,
        token::{Partition, PartitionCount, Token},
    },
    store::{Table, schema},
    wire::{
        client::Cursor,
        exchange::{Answer, EXCHANGE_VERSION, Opening, Packed, Question, Root, StepAnswer},
    },
};

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
    let branch = Branch::around(Position::of(Token::of(&key("key-1")), b"key-1"), 16);
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

/// An exchange of `side` with one that only answers what a test says.
struct Questioned<'a> {
    side: &'a Side,
    descent: Box<Descent>,
}

impl Questioned<'_> {
    fn by(side: &Side) -> Questioned<'_> {
        let comparison = Comparison { salt: Salt::new(7), rule: CompareRule::All };
        let opening = Opening {
            version: EXCHANGE_VERSION,
            capabilities: 0,
            salt: 7,
            label: Digest([0; 32]),
            partitions: None,
            branch: (0, 0),
            root: Root([0; 16]),
        };
        Questioned { side, descent: Box::new(Descent::new(opening, comparison, false).unwrap()) }
    }

    fn next(&mut self, answer: Option<Answer>) -> Turn {
        let query = Query::Descend { partitions: Arc::new(all(16)), descent: self.descent.clone(), answer };
        match self.side.ask(&query) {
            Done::Descended { descent, turn, .. } => {
                self.descent = descent;
                turn
            }
            other => panic!("no turn: {other:?}"),
        }
    }

    /// Opens, and is told that every child of the root differs.
    fn opened(side: &Side) -> Questioned<'_> {
        let mut questioned = Questioned::by(side);
        assert!(matches!(questioned.next(None), Turn::Ask(Question::Open(_))));
        let all_differ = packed::Below::Children(std::array::from_fn(|_| Some(crate::merkle::Short([1; 4]))));
        let differs = Answer::Differs(Packed(packed::write_below(&all_differ)));
        assert!(matches!(questioned.next(Some(differs)), Turn::Ask(Question::Step(_))));
        questioned
    }
}

fn step(answered: u32, branches: &[u8], next: Option<&[u8]>) -> Answer {
    Answer::Step(StepAnswer {
        answered,
        branches: Packed(branches.to_vec()),
        items: Vec::new(),
        next: next.map(|next| Cursor(next.to_vec())),
    })
}

#[test]
fn an_answer_that_is_none_ends_the_exchange() {
    let (left, _) = twins(100);
    for bad in [
        Answer::Same,
        Answer::Differs(Packed(Vec::new())),
        step(0, &[], None),
        step(99, &[], None),
        step(1, &[0xff], None),
        step(0, &[], Some(&[0; 9])),
    ] {
        let mut questioned = Questioned::opened(&left);
        assert_eq!(questioned.next(Some(bad.clone())), Turn::End(Ending::Malformed), "{bad:?}");
    }
}

#[test]
fn whoever_sends_a_branch_in_pages_must_get_on_and_stay_in_it() {
    let empty = Side::new(1);
    // The deepest that is pending is asked first: the last child of the root.
    let row = |token: u64| schema::object_row(token, &key("k")).as_bytes().to_vec();
    let last = 0xf << 60;
    for (pages, is_good) in [
        (vec![row(last), row(last + 1), row(last + 2)], true),
        (vec![row(last), row(last)], false),
        (vec![row(last + 5), row(last + 4)], false),
        (vec![row(last - 1)], false),
        (vec![vec![0xff; 7]], false),
    ] {
        let mut questioned = Questioned::opened(&empty);
        let turns: Vec<Turn> = pages.iter().map(|page| questioned.next(Some(step(0, &[], Some(page))))).collect();
        let is_over = turns.last() == Some(&Turn::End(Ending::Malformed));
        assert_eq!(!is_over, is_good, "{pages:?}: {turns:?}");
    }
}
