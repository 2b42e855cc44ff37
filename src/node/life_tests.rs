//! Two processes with one identity, and what looks like it, played by hand.

use std::collections::BTreeMap;

use crate::{
    clock::Instant,
    digest::Digest,
    ident::Name,
    membership::{
        change::{ChangeKind, Signature},
        history::History,
        life,
        life::Life,
    },
    node::{
        Node,
        effect::{Effect, Event, InboundId, News, Stop},
        tests::{at, effects, members, node, signer},
    },
    replica::Work,
    wire::{
        administration::AlertKind,
        quorum::{Reconcile, Request, Response},
    },
};

/// The life of the node of these tests.
const MINE: Life = (5, 7);

/// Instances of a process that was started before it, and of one started after it.
const OLDER: u64 = 6;
const YOUNGER: u64 = 8;

/// The word of node 1 for a life of it.
fn word(life: Life) -> Option<Signature> {
    Some(life::word(&signer(1), &Name::new("test").unwrap(), life))
}

/// Has member `number` greet the node as one that has seen this life of it. Returns what follows, and its answer.
fn greet(node: &mut Node, number: u8, your_life: Life, your_word: Option<Signature>) -> (Vec<Effect>, Reconcile) {
    let greeting = Reconcile {
        boot: 1,
        instance: 1,
        word: None,
        your_life,
        your_word,
        is_in_doubt: false,
        history: node.history_digest(),
        summary: None,
        changes: Vec::new(),
    };
    ask(node, number, greeting)
}

fn ask(node: &mut Node, number: u8, greeting: Reconcile) -> (Vec<Effect>, Reconcile) {
    let request = Request::Reconcile(greeting);
    node.handle_request(at(1), signer(number).node_id(), InboundId(1), Instant(2001), request);
    let told = effects(node);
    let mut answers = told.iter().filter_map(|effect| match effect {
        Effect::Respond { response: Response::Reconciled(answer), .. } => Some(answer.clone()),
        _ => None,
    });
    let answer = answers.next_back().expect("it answers");
    (told, answer)
}

/// Has member 2 acknowledge the present life of the node, and tell of another with the number after it.
fn contradict(node: &mut Node, instance: u64, word: impl Fn(Life) -> Option<Signature>) -> Vec<Effect> {
    let (_, answer) = greet(node, 2, (0, 0), None);
    let mine = (answer.boot, answer.instance);
    greet(node, 2, mine, None);
    let other = (mine.0 + 1, instance);
    greet(node, 2, other, word(other)).0
}

fn has_stopped(told: &[Effect]) -> bool {
    told.contains(&Effect::Tell(Event::Stopped(Stop::Twin)))
}

fn is_called_old(told: &[Effect]) -> bool {
    told.iter().any(|effect| matches!(effect, Effect::Tell(Event::StoreIsOld { .. })))
}

fn raises(told: &[Effect]) -> Vec<u64> {
    let raised = told.iter().filter_map(|effect| match effect {
        Effect::Store { work: Work::RaiseBoot { seen }, .. } => Some(*seen),
        _ => None,
    });
    raised.collect()
}

fn confirms(told: &[Effect]) -> usize {
    told.iter().filter(|effect| matches!(effect, Effect::Store { work: Work::ConfirmLife, .. })).count()
}

fn says(told: &[Effect]) -> bool {
    told.iter().any(|effect| matches!(effect, Effect::Store { work: Work::SaveChanges(_), .. }))
}

/// Lets time pass until `end`. Returns what follows.
fn pass(node: &mut Node, end: u64) -> Vec<Effect> {
    let mut told = Vec::new();
    while let Some(due) = node.next_timeout().filter(|due| due.0 <= end) {
        node.handle_timeout(at(due.0));
        told.extend(effects(node));
    }
    told
}

#[test]
fn the_younger_of_two_stops_when_it_was_told_twice() {
    let mut node = node(1, 3, members(&[1, 2, 3], 3));
    let told = contradict(&mut node, OLDER, word);
    assert!(!has_stopped(&told) && !is_called_old(&told), "once, it may be what a dead process said");
    assert_eq!(raises(&told), [MINE.0 + 1], "whoever lives is to hear of this one");
    assert!(has_stopped(&contradict(&mut node, OLDER, word)));
}

#[test]
fn what_was_told_of_an_older_long_ago_does_not_count() {
    let mut node = node(1, 3, members(&[1, 2, 3], 3));
    contradict(&mut node, OLDER, word);
    pass(&mut node, 40_000);
    assert!(!has_stopped(&contradict(&mut node, OLDER, word)));
}

#[test]
fn the_older_of_two_goes_on_takes_higher_numbers_and_has_people_told() {
    let mut node = node(1, 3, members(&[1, 2, 3], 3));
    let mut boot = MINE.0;
    for _ in 0..10 {
        let told = contradict(&mut node, YOUNGER, word);
        assert!(!has_stopped(&told) && !is_called_old(&told));
        assert_eq!(raises(&told), [boot + 1], "and all its epochs are given up");
        boot += 2;
    }
    let is_raised =
        |effect: &Effect| matches!(effect, Effect::Tell(Event::AlertRaised(alert)) if alert.kind == AlertKind::Twin);
    let is_cleared =
        |effect: &Effect| matches!(effect, Effect::Tell(Event::AlertCleared(alert)) if alert.kind == AlertKind::Twin);
    assert!(pass(&mut node, 2_000).iter().any(is_raised));
    assert!(pass(&mut node, 40_000).iter().any(is_cleared), "nothing was heard of the other for long");
}

#[test]
fn who_is_left_doubts_once_more_what_its_twin_may_have_taken_in() {
    let mut node = node(1, 3, members(&[1, 2, 3], 3));
    contradict(&mut node, YOUNGER, word);
    assert!(node.doubted_partition_count() > 0);
    // As if all of it had been compared meanwhile, with the twin still there.
    node.doubt = Default::default();
    pass(&mut node, 29_000);
    assert_eq!(node.doubted_partition_count(), 0);
    pass(&mut node, 31_000);
    assert!(node.doubted_partition_count() > 0);
}

#[test]
fn no_member_can_make_a_twin_up() {
    let others: [fn(Life) -> Option<Signature>; 4] = [
        |_| None,
        |life| Some(life::word(&signer(2), &Name::new("test").unwrap(), life)),
        |(boot, instance)| word((boot - 1, instance)),
        |(boot, _)| word((boot, MINE.1)),
    ];
    for word in others {
        let mut node = node(1, 3, members(&[1, 2, 3], 3));
        for _ in 0..10 {
            let told = contradict(&mut node, OLDER, word);
            assert!(!has_stopped(&told) && is_called_old(&told));
        }
    }
}

#[test]
fn a_later_life_told_by_who_never_saw_this_one_shows_an_old_store_and_no_twin() {
    let mut node = node(1, 3, members(&[1, 2, 3], 3));
    greet(&mut node, 3, MINE, None);
    for seen in [20, 30, 40] {
        let (told, _) = greet(&mut node, 2, (seen, OLDER), word((seen, OLDER)));
        assert!(is_called_old(&told) && !has_stopped(&told));
        assert_eq!(raises(&told), [seen]);
    }
}

#[test]
fn an_earlier_life_means_nothing() {
    let mut node = node(1, 3, members(&[1, 2, 3], 3));
    greet(&mut node, 2, MINE, None);
    for _ in 0..5 {
        let (told, _) = greet(&mut node, 2, (MINE.0 - 1, OLDER), word((MINE.0 - 1, OLDER)));
        assert!(!is_called_old(&told) && !has_stopped(&told) && raises(&told).is_empty());
    }
}

#[test]
fn epochs_are_trusted_once_more_than_half_of_the_others_have_seen_this_life_and_again_after_each_new_number() {
    let mut node = node(1, 3, members(&[1, 2, 3, 4, 5], 3));
    assert_eq!(confirms(&effects(&mut node)), 0);
    for number in [2, 3] {
        assert_eq!(confirms(&greet(&mut node, number, MINE, None).0), 0, "another life may be known to the other half");
    }
    assert_eq!(confirms(&greet(&mut node, 3, MINE, None).0), 0, "the same one again");
    assert_eq!(confirms(&greet(&mut node, 4, (4, 4), None).0), 0, "one that knows an earlier life only");
    assert_eq!(confirms(&greet(&mut node, 4, MINE, None).0), 1);

    let (_, answer) = greet(&mut node, 5, (9, OLDER), None);
    let mine = (answer.boot, answer.instance);
    assert_eq!(mine, (10, MINE.1));
    assert_eq!([2, 3, 4].map(|number| confirms(&greet(&mut node, number, mine, None).0)), [0, 0, 1]);
}

#[test]
fn a_store_that_was_wiped_trusts_no_epoch_though_it_counts_its_first_start() {
    let mut config = node(1, 3, Vec::new()).config.clone();
    config.seed_count = 0;
    let fresh = |changes| crate::replica::startup::Recovered {
        boot: 1,
        clean: true,
        changes,
        peer_lives: BTreeMap::new(),
        hint_targets: Vec::new(),
        in_doubt: Default::default(),
    };
    let mut wiped = Node::new(config.clone(), signer(1), fresh(members(&[1, 2, 3], 3)), 7, [1; 32], at(0));
    assert_eq!(confirms(&effects(&mut wiped)), 0, "others know this node from before");
    let left = {
        let mut history = History::new(Name::new("test").unwrap());
        members(&[1, 2, 3, 4], 3).into_iter().for_each(|change| assert!(history.insert(change).is_ok()));
        for kind in [ChangeKind::Leaving, ChangeKind::Left] {
            history.insert(history.next_change(&signer(4), kind)).unwrap();
        }
        history.iter().cloned().collect()
    };
    let mut returned = Node::new(config.clone(), signer(4), fresh(left), 7, [4; 32], at(0));
    let (told, _) = greet(&mut returned, 1, (0, 0), None);
    assert!(says(&told) && confirms(&told) == 0, "it joins anew, and others know it as well");
    let mut founder = Node::new(config, signer(1), fresh(Vec::new()), 7, [1; 32], at(0));
    founder.handle_timeout(at(100));
    assert_eq!(confirms(&effects(&mut founder)), 1, "nobody does");
}

#[test]
fn words_are_passed_on_while_two_lives_of_a_peer_are_heard() {
    let mut node = node(2, 3, members(&[1, 2, 3], 3));
    let mut hear = |life: Life, word: Option<Signature>| {
        let greeting = Reconcile {
            boot: life.0,
            instance: life.1,
            word,
            your_life: MINE,
            your_word: None,
            is_in_doubt: false,
            history: Digest([0; 32]),
            summary: None,
            changes: Vec::new(),
        };
        let answer = ask(&mut node, 1, greeting).1;
        assert_eq!(answer.word, None, "it is known to have seen this life");
        (answer.your_life, answer.your_word)
    };
    assert_eq!(hear((6, OLDER), word((6, OLDER))), ((6, OLDER), word((6, OLDER))));
    assert_eq!(hear((6, YOUNGER), word((6, YOUNGER))), ((6, OLDER), word((6, OLDER))), "the first of a number stays");
    assert_eq!(hear((7, YOUNGER), word((7, YOUNGER))), ((7, YOUNGER), word((7, YOUNGER))));
    assert_eq!(hear((6, OLDER), None), ((7, YOUNGER), word((7, YOUNGER))));
}

#[test]
fn a_word_is_sent_until_it_is_there_and_is_good() {
    let mut node = node(1, 3, members(&[1, 2, 3], 3));
    let (_, answer) = greet(&mut node, 2, (4, 4), None);
    assert_eq!(answer.word, word(MINE));
    assert_eq!(greet(&mut node, 2, MINE, None).1.word, None);
    assert_eq!(greet(&mut node, 3, (4, 4), None).1.word, word(MINE));
}

#[test]
fn a_life_of_which_another_was_heard_says_nothing_new_for_a_while() {
    let mut node = node(1, 3, members(&[1, 2, 3], 3));
    greet(&mut node, 2, MINE, None);
    contradict(&mut node, YOUNGER, word);
    node.handle_news(at(2), News::Listening(vec!["/ip4/10.0.0.1/tcp/1".to_owned()]));
    assert!(!says(&effects(&mut node)));
    assert!(!says(&pass(&mut node, 29_000)));
    assert!(says(&pass(&mut node, 31_000)), "nobody else has");
}
