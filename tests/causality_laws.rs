//! The laws of merging, over small worlds completely and over larger ones at random.

use proptest::prelude::*;
use quorate::{
    causality::{
        context::Context,
        dot::{Actor, Dot},
        epochs::{Epochs, Local},
        seen::Seen,
        siblings::{NewValue, Object},
        version_vector::VersionVector,
    },
    clock::WallTime,
    ident::{OpId, Value},
};

type Numbers = (u64, u64, u64);
type SiblingParts = (Numbers, OpId, Value, WallTime, Option<WallTime>);

fn encode(clock: &[Numbers], siblings: &[SiblingParts]) -> Vec<u8> {
    cbor4ii::serde::to_vec(Vec::new(), &(clock, siblings)).expect("encodable")
}

fn decode(clock: &[Numbers], siblings: &[SiblingParts]) -> Option<Object> {
    cbor4ii::serde::from_slice(&encode(clock, siblings)).ok()
}

fn value(content: u8) -> Value {
    Value::new(&[content]).expect("one byte")
}

fn sibling(node: u64, counter: u64, content: u8) -> SiblingParts {
    ((node, 0, counter), OpId([0; 16]), value(content), WallTime(0), None)
}

/// Every object of `nodes` actors with counters up to `counter_max`, in which each dot is gone or has one of
/// `contents` contents. More than one content per dot is the broken invariant that a merge must still agree about.
fn world(nodes: u64, counter_max: u64, contents: u8) -> Vec<Object> {
    let mut objects = vec![(Vec::new(), Vec::new())];
    for node in 1..=nodes {
        let mut grown = objects.clone();
        for counter in 1..=counter_max {
            let mut choices: Vec<Vec<SiblingParts>> = vec![Vec::new()];
            for dot in 1..=counter {
                let with = |choice: &Vec<SiblingParts>| {
                    let present =
                        (1..=contents).map(|content| [choice.clone(), vec![sibling(node, dot, content)]].concat());
                    std::iter::once(choice.clone()).chain(present).collect::<Vec<_>>()
                };
                choices = choices.iter().flat_map(with).collect();
            }
            for ((clock, siblings), choice) in
                objects.iter().flat_map(|object| choices.iter().map(move |c| (object, c)))
            {
                let clock = [clock.clone(), vec![(node, 0, counter)]].concat();
                grown.push((clock, [siblings.clone(), choice.clone()].concat()));
            }
        }
        objects = grown;
    }
    objects.iter().map(|(clock, siblings)| decode(clock, siblings).expect("valid")).collect()
}

fn merged(left: &Object, right: &Object) -> Object {
    let mut object = left.clone();
    let changed = object.merge(right.clone());
    assert_eq!(changed, object != *left, "merge says whether it changed anything");
    object
}

#[track_caller]
fn check_pairs(objects: &[Object]) {
    for left in objects {
        assert_eq!(merged(left, left), *left);
        for right in objects {
            let both = merged(left, right);
            assert_eq!(both, merged(right, left));
            assert_eq!(merged(&both, right), both);
            assert_eq!(cbor4ii::serde::from_slice::<Object>(&both.canonical_bytes()).ok().as_ref(), Some(&both));
        }
    }
}

#[track_caller]
fn check_triples(objects: &[Object]) {
    for (left, right) in objects.iter().flat_map(|left| objects.iter().map(move |right| (left, right))) {
        let both = merged(left, right);
        for third in objects {
            assert_eq!(merged(&both, third), merged(left, &merged(right, third)));
        }
    }
}

#[test]
fn merging_ignores_order_and_repetition_in_small_worlds() {
    let sound = world(2, 2, 1);
    assert_eq!(sound.len(), 49);
    check_pairs(&sound);
    check_triples(&sound);
}

#[test]
fn merging_stays_lawful_where_a_dot_carries_two_contents() {
    check_pairs(&world(2, 2, 2));
    check_triples(&world(1, 2, 2));
    check_triples(&world(2, 1, 2));
}

#[test]
fn objects_that_break_the_invariant_are_not_decoded() {
    let (first, second) = (sibling(1, 1, 1), sibling(1, 2, 2));
    assert!(decode(&[(1, 0, 2)], &[first.clone(), second.clone()]).is_some());
    assert!(decode(&[(1, 0, 2)], &[second.clone(), first.clone()]).is_none(), "unsorted");
    assert!(decode(&[(1, 0, 2)], &[first.clone(), first.clone()]).is_none(), "one dot twice");
    assert!(decode(&[(1, 0, 1)], &[first, second]).is_none(), "not covered");
    assert!(decode(&[(1, 0, 1)], &[sibling(1, 0, 1)]).is_none(), "a counter of zero");
}

/// What happens at one of three replicas.
#[derive(Debug, Clone)]
enum Step {
    Put { at: usize, context_of: usize },
    Delete { at: usize, context_of: usize },
    Merge { into: usize, from: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..3_usize, 0..3_usize, 0..6_u8).prop_map(|(at, other, kind)| match kind {
        0..=2 => Step::Put { at, context_of: other },
        3 => Step::Delete { at, context_of: other },
        _ => Step::Merge { into: at, from: other },
    });
    prop::collection::vec(step, 0..40)
}

fn play(steps: &[Step]) -> [Object; 3] {
    let mut replicas: [Object; 3] = Default::default();
    for step in steps {
        match *step {
            Step::Put { at, context_of } => {
                let context = replicas[context_of].clock().clone().into();
                // As `actor_for` has it: no context shows more of an actor than its own replica has.
                let actor = Actor { node: at as u64, epoch: 0 };
                replicas[at].put(&context, actor, new_value());
            }
            Step::Delete { at, context_of } => {
                let context = replicas[context_of].clock().clone().into();
                replicas[at].delete(&context);
            }
            Step::Merge { into, from } => {
                let from = replicas[from].clone();
                replicas[into].merge(from);
            }
        }
    }
    replicas
}

fn new_value() -> NewValue {
    NewValue { op: OpId([0; 16]), value: value(0), written_at: WallTime(0), expires_at: None }
}

proptest! {
    #[test]
    fn merging_ignores_order_and_repetition(steps in steps()) {
        let [a, b, c] = play(&steps);
        let all = merged(&merged(&a, &b), &c);
        prop_assert_eq!(&all, &merged(&a, &merged(&b, &c)));
        prop_assert_eq!(&all, &merged(&merged(&c, &a), &merged(&b, &a)));
        prop_assert_eq!(all.canonical_bytes(), merged(&all, &b).canonical_bytes());
    }

    /// Each writer reads right after it wrote, and writes next whenever its turn comes, by then on stale knowledge.
    #[test]
    fn writers_on_stale_contexts_leave_at_most_one_sibling_each(
        turns in prop::collection::vec((0..5_usize, 0..3_usize, any::<bool>()), 1..120),
    ) {
        let mut replicas: [Object; 3] = Default::default();
        let mut contexts: [Seen; 5] = Default::default();
        for (writer, at, spreads) in turns {
            let actor = Actor { node: at as u64, epoch: 0 };
            let dot: Dot = replicas[at].put(&contexts[writer], actor, new_value());
            prop_assert!(replicas[at].siblings().iter().any(|sibling| sibling.dot == dot));
            contexts[writer] = replicas[at].clock().clone().into();
            if spreads {
                let object = replicas[at].clone();
                replicas[(at + 1) % 3].merge(object);
            }
            prop_assert!(replicas.iter().all(|object| object.siblings().len() <= contexts.len()));
        }
        let all = merged(&merged(&replicas[0], &replicas[1]), &replicas[2]);
        prop_assert!(all.siblings().len() <= contexts.len());
    }

    /// Nobody ever reads: each goes on from what its own last put returned.
    #[test]
    fn writers_who_never_read_leave_at_most_one_sibling_each(turns in prop::collection::vec(0..5_usize, 1..120)) {
        let mut object = Object::default();
        let mut contexts: [Seen; 5] = Default::default();
        for writer in turns {
            let dot = object.put(&contexts[writer], Actor { node: 1, epoch: 0 }, new_value());
            contexts[writer] = object.context_after_put(&contexts[writer], dot);
            prop_assert!(object.siblings().len() <= contexts.len());
        }
    }

    #[test]
    fn bytes_from_anywhere_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        decode_all(&bytes);
    }

    #[test]
    fn damaged_objects_decode_or_are_refused(steps in steps(), index in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = play(&steps)[0].canonical_bytes();
        let index = index.index(bytes.len());
        bytes[index] = byte;
        decode_all(&bytes);
        decode_all(&bytes[..index]);
    }
}

/// Decodes `bytes` as everything. What is accepted as an object must keep the invariant.
fn decode_all(bytes: &[u8]) {
    let _ = cbor4ii::serde::from_slice::<Dot>(bytes);
    let _ = cbor4ii::serde::from_slice::<VersionVector>(bytes);
    let _ = cbor4ii::serde::from_slice::<Context>(bytes);
    let _ = cbor4ii::serde::from_slice::<Local>(bytes);
    let _ = cbor4ii::serde::from_slice::<Epochs>(bytes);
    if let Ok(object) = cbor4ii::serde::from_slice::<Object>(bytes) {
        assert!(object.siblings().is_sorted_by(|earlier, later| earlier.dot < later.dot));
        assert!(object.siblings().iter().all(|sibling| object.clock().covers(&sibling.dot)));
    }
}
