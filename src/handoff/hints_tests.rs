//! Rounds of delivery, step by step.

use super::*;

const TARGET: NodeId = NodeId([9; 32]);

fn node(i: u8) -> NodeId {
    NodeId([i; 32])
}

fn hint(name: &str) -> Hint {
    Hint { key: Key::new(name.as_bytes()).unwrap(), object: Object::default() }
}

fn page(names: &[&str], next: Option<u8>) -> HintPage {
    HintPage { hints: names.iter().map(|name| hint(name)).collect(), next: next.map(|byte| Cursor(vec![byte])) }
}

fn to_target(_: &Key) -> Recipients {
    Recipients::Target
}

/// A schedule that is taking its first page, `now` being 1 000.
fn taking() -> HintSchedule {
    let mut schedule = HintSchedule::new([TARGET], DropRule::Acknowledged);
    schedule.on_up(&TARGET, 0.0, Instant(1_000));
    let effects = schedule.on_time(Instant(1_000));
    assert_eq!(effects, [HandoffEffect::Take { target: TARGET, after: None, limit: 16 }]);
    schedule
}

fn deliveries(effects: &[HandoffEffect]) -> Vec<Delivery> {
    let sent = effects.iter().filter_map(|effect| match effect {
        HandoffEffect::Send { delivery, .. } => Some(*delivery),
        HandoffEffect::Take { .. } | HandoffEffect::Drop { .. } => None,
    });
    sent.collect()
}

#[test]
fn a_hint_is_dropped_after_its_acknowledgement_and_the_next_page_follows_a_longer_rest() {
    let mut schedule = taking();
    let effects = schedule.on_page(&TARGET, page(&["a", "b"], Some(7)), to_target, Instant(1_000));
    let sent = deliveries(&effects);
    assert_eq!((effects.len(), sent.len()), (2, 2), "nothing is dropped yet");
    let effects = schedule.on_acknowledged(sent[0], &TARGET, Instant(1_020));
    assert!(matches!(&effects[..], [HandoffEffect::Drop { target: TARGET, .. }]));
    schedule.on_acknowledged(sent[1], &TARGET, Instant(1_040));
    assert_eq!(schedule.next_timeout(), Some(Instant(1_160)));
    let after = Some(Cursor(vec![7]));
    assert_eq!(schedule.on_time(Instant(1_160)), [HandoffEffect::Take { target: TARGET, after, limit: 32 }]);
}

#[test]
fn it_is_done_with_a_target_when_a_round_finds_nothing() {
    let mut schedule = taking();
    let sent = deliveries(&schedule.on_page(&TARGET, page(&["a"], None), to_target, Instant(1_000)));
    schedule.on_acknowledged(sent[0], &TARGET, Instant(1_001));
    let due = schedule.next_timeout().expect("what has changed meanwhile is left");
    assert_eq!(schedule.on_time(due).len(), 1);
    assert_eq!(schedule.on_page(&TARGET, page(&[], None), to_target, due), []);
    assert_eq!((schedule.next_timeout(), schedule.progress(&TARGET, due)), (None, None));
}

#[test]
fn a_hint_kept_while_the_page_was_taken_is_not_forgotten() {
    let mut schedule = taking();
    schedule.on_kept(TARGET, true, Instant(1_001));
    schedule.on_page(&TARGET, page(&[], None), to_target, Instant(1_002));
    assert!(schedule.next_timeout().is_some());
}

#[test]
fn what_is_refused_stays_and_the_rest_grows_while_the_page_shrinks() {
    let mut schedule = taking();
    let (mut now, mut rests, mut limits) = (Instant(1_000), Vec::new(), Vec::new());
    for _ in 0..4 {
        let sent = deliveries(&schedule.on_page(&TARGET, page(&["a"], Some(1)), to_target, now));
        assert_eq!(schedule.on_failed(sent[0], &TARGET, now), [], "it is not dropped");
        let due = schedule.next_timeout().unwrap();
        rests.push((due - now).as_millis());
        now = due;
        match &schedule.on_time(now)[..] {
            [HandoffEffect::Take { after: None, limit, .. }] => limits.push(*limit),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((rests, limits), (vec![250, 500, 1_000, 2_000], vec![8, 4, 2, 1]));
}

#[test]
fn a_target_that_slows_down_gets_less_at_a_time() {
    let mut schedule = taking();
    let sent = deliveries(&schedule.on_page(&TARGET, page(&["a"], Some(1)), to_target, Instant(1_000)));
    schedule.on_acknowledged(sent[0], &TARGET, Instant(1_400));
    assert_eq!(schedule.next_timeout(), Some(Instant(2_600)));
    assert!(matches!(schedule.on_time(Instant(2_600))[..], [HandoffEffect::Take { limit: 8, .. }]));
}

#[test]
fn nothing_is_taken_for_a_target_that_is_down() {
    let mut schedule = HintSchedule::new([], DropRule::Acknowledged);
    schedule.on_kept(TARGET, false, Instant(1));
    assert_eq!(schedule.next_timeout(), None);
    schedule.on_up(&TARGET, 1.0, Instant(100));
    assert_eq!(schedule.next_timeout(), Some(Instant(600)));
    schedule.on_down(&TARGET);
    assert_eq!(schedule.next_timeout(), None);
}

#[test]
fn a_hint_whose_target_left_the_row_goes_to_the_row_and_stays_until_a_majority_has_it() {
    let mut schedule = HintSchedule::new([TARGET], DropRule::Acknowledged);
    schedule.on_rows_changed(Instant(0));
    schedule.on_time(Instant(5));
    let row = |_: &Key| Recipients::Row((1..=3).map(node).collect());
    let sent = deliveries(&schedule.on_page(&TARGET, page(&["a"], None), row, Instant(5)));
    assert_eq!(schedule.on_acknowledged(sent[0], &node(1), Instant(6)), []);
    assert_eq!(schedule.on_failed(sent[0], &node(2), Instant(6)), []);
    assert_eq!(schedule.on_acknowledged(sent[0], &node(3), Instant(6)).len(), 1);
    assert_eq!(schedule.under_way(), 0);
}

#[test]
fn paused_means_that_nothing_begins() {
    let mut schedule = HintSchedule::new([TARGET], DropRule::Acknowledged);
    schedule.on_up(&TARGET, 0.0, Instant(0));
    schedule.on_paused();
    assert_eq!((schedule.on_time(Instant(10_000)), schedule.next_timeout()), (vec![], None));
    schedule.on_resumed(Instant(10_000));
    assert_eq!(schedule.on_time(Instant(10_000)).len(), 1);
}

#[test]
fn progress_is_counted_since_the_target_came_up() {
    let mut schedule = taking();
    let sent = deliveries(&schedule.on_page(&TARGET, page(&["a"], Some(1)), to_target, Instant(1_000)));
    schedule.on_acknowledged(sent[0], &TARGET, Instant(1_500));
    let progress = schedule.progress(&TARGET, Instant(2_000)).unwrap();
    assert_eq!(progress, Progress { is_up: true, delivered: 1, lasted: Duration::from_secs(1) });
}
