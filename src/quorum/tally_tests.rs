//! Slots and who meets them, answer by answer.

use super::*;

const OURS: Digest = Digest([1; 32]);
const THEIRS: Digest = Digest([2; 32]);

fn node(i: usize) -> NodeId {
    NodeId([u8::try_from(i).unwrap(); 32])
}

fn row(nodes: &[usize], partition: Digest) -> Row {
    let fallbacks = (7..9).map(node).collect();
    Row::of(nodes.iter().map(|i| node(*i)).collect(), fallbacks, partition, 2)
}

impl Tally<()> {
    /// The verdict if so many were needed.
    fn verdict_of(&mut self, needed: usize) -> Verdict {
        self.row.demands[0].needed = needed;
        self.verdict()
    }

    fn stands(&self) -> Standing {
        self.standing(&self.row.demands[0])
    }
}

fn tally(count: usize, scope: Scope) -> Tally<()> {
    let all: Vec<usize> = (0..count).collect();
    Tally::new(row(&all, OURS), scope, QuorumRules::sound())
}

/// Plays answers in order, one character per primary: `+` agreed, `-` failed, `?` under another history, `.` none.
fn play(answers: &str, scope: Scope) -> Tally<()> {
    let mut tally = tally(answers.len(), scope);
    for (i, answer) in answers.chars().enumerate() {
        match answer {
            '+' => assert_eq!(tally.record(&node(i), OURS, ()), Recorded::Counted),
            '?' => assert_eq!(tally.record(&node(i), THEIRS, ()), Recorded::OtherHistory),
            '-' => tally.fail(&node(i)),
            _ => {}
        }
    }
    tally
}

#[track_caller]
fn check(needed: usize, answers: &str, expected: Verdict) {
    assert_eq!(play(answers, Scope::Sloppy).verdict_of(needed), expected, "{needed} of {answers}");
}

#[test]
fn quorum_of_two_in_three() {
    check(2, "+-.", Verdict::Pending);
    check(2, "+-+", Verdict::Reached);
    check(2, "--.", Verdict::Impossible);
}

#[test]
fn an_answer_under_another_history_neither_counts_nor_fails() {
    check(2, "+?-", Verdict::Pending);
    check(2, "+?+", Verdict::Reached);
}

#[test]
fn every_order_of_answers_ends_in_the_same_verdict() {
    for answers in ["++-", "+-+", "-++"] {
        check(2, answers, Verdict::Reached);
        check(3, answers, Verdict::Impossible);
    }
}

#[test]
fn a_node_counts_once() {
    let mut tally = play("+..", Scope::Sloppy);
    assert_eq!(tally.record(&node(0), OURS, ()), Recorded::Ignored);
    tally.fail(&node(0));
    assert_eq!(tally.stands().agreed, 1);
    assert_eq!(tally.record(&node(9), OURS, ()), Recorded::Ignored);
}

#[test]
fn a_fallback_meets_the_slot_of_the_primary_it_stands_in_for() {
    let mut tally = play("+--", Scope::Sloppy);
    assert_eq!(tally.stand_in(|_| true), vec![(node(7), node(1)), (node(8), node(2))]);
    assert_eq!(tally.verdict_of(2), Verdict::Pending);
    tally.record(&node(8), OURS, ());
    assert_eq!(tally.verdict_of(2), Verdict::Reached);
    assert_eq!(tally.stood_in_for().collect::<Vec<_>>(), [node(2)]);
    tally.fail(&node(7));
    assert_eq!(tally.stand_in(|_| true), vec![], "nobody is left, and nobody stands in twice");
    assert_eq!(tally.abandoned().collect::<Vec<_>>(), [node(1)]);
    assert!(tally.is_settled());
}

#[test]
fn a_slot_is_met_once_though_its_primary_answers_after_all() {
    let mut tally = play("+-.", Scope::Sloppy);
    tally.stand_in(|_| true);
    tally.record(&node(7), OURS, ());
    tally.record(&node(1), OURS, ());
    assert_eq!(tally.stands(), Standing { agreed: 2, pending: 1, unknown: 0, failed: 0 });
    assert_eq!(tally.stood_in_for().count(), 0, "what the primary holds needs no hint");
}

#[test]
fn whoever_cannot_be_reached_does_not_stand_in() {
    let mut tally = play("+-.", Scope::Sloppy);
    assert_eq!(tally.stand_in(|other| *other != node(7)), vec![(node(8), node(1))]);
}

#[test]
fn in_a_strict_quorum_nobody_stands_in() {
    let mut tally = play("+-.", Scope::Strict);
    assert_eq!(tally.stand_in(|_| true), vec![(node(7), node(1))], "a hint is kept all the same");
    tally.record(&node(7), OURS, ());
    assert_eq!(tally.stands(), Standing { agreed: 1, pending: 1, unknown: 0, failed: 1 });
}

#[test]
fn a_fallback_that_knows_nothing_does_not_agree() {
    let mut tally = play("+-.", Scope::Sloppy);
    tally.stand_in(|_| true);
    assert_eq!(tally.record_unknown(&node(7), OURS, ()), Recorded::Counted);
    assert_eq!(tally.stands(), Standing { agreed: 1, pending: 1, unknown: 1, failed: 0 });
    assert_eq!(tally.stand_in(|_| true), vec![(node(8), node(1))], "the next one may know");
}

#[test]
fn a_second_is_asked_beside_a_primary_that_is_slow_and_its_ignorance_ends_nothing() {
    let mut tally = play("+..", Scope::Sloppy);
    assert_eq!(tally.second(|_| true), Some((node(7), node(1))));
    tally.record_unknown(&node(7), OURS, ());
    assert_eq!(tally.stands().pending, 2);
    assert_eq!(tally.second(|_| true), Some((node(8), node(2))));
    tally.record(&node(8), OURS, ());
    assert_eq!(tally.verdict_of(2), Verdict::Reached);
}

#[test]
fn a_node_is_asked_again_after_reconciliation_but_not_for_ever() {
    let mut tally = play("?..", Scope::Sloppy);
    let mut asked = 1;
    while tally.retry(&node(0)) {
        asked += 1;
        assert_eq!(tally.record(&node(0), THEIRS, ()), Recorded::OtherHistory);
    }
    assert_eq!(asked, ATTEMPTS_MAX);
    assert!(tally.any_failed());
}

#[test]
fn a_new_row_starts_anew_but_for_the_coordinator() {
    let mut tally = play("++.", Scope::Sloppy);
    assert_eq!(tally.change_row(row(&[0, 1, 3], THEIRS), &node(0)), vec![node(1), node(3)]);
    assert_eq!(tally.stands().agreed, 1);
    assert_eq!(tally.record(&node(1), OURS, ()), Recorded::OtherHistory);
    assert_eq!(tally.record(&node(3), THEIRS, ()), Recorded::Counted);
    assert_eq!(tally.verdict_of(2), Verdict::Reached);
}
