//! Counting the answers of a row.
//!
//! A [`Tally`] knows who was asked, and how each has answered so far. It decides nothing else: it does not know what was
//! asked, nor what time it is. An answer given under another history does not count; its sender is asked again once both
//! histories agree, a bounded number of times.

use std::collections::BTreeMap;

use crate::{digest::Digest, ident::NodeId, quorum::Row};

/// How often one node is asked by one operation. A row changes rarely; whoever needs more than this is lying or lost.
const ATTEMPTS_MAX: u8 = 8;

/// Where an operation stands with respect to its quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Neither outcome is certain yet.
    Pending,
    /// Enough replicas agreed.
    Reached,
    /// So many replicas failed that agreement is out of reach.
    Impossible,
}

/// What an answer was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It counts.
    Counted,
    /// It was given under another history: reconcile with its sender, then ask again.
    OtherHistory,
    /// Its sender was not asked, or has answered before.
    Ignored,
}

/// The answers of one operation. `T` is what an agreeing replica says.
#[derive(Debug, Clone)]
pub struct Tally<T> {
    row: Row,
    slots: BTreeMap<NodeId, Slot<T>>,
}

#[derive(Debug, Clone)]
struct Slot<T> {
    attempts: u8,
    state: State<T>,
}

#[derive(Debug, Clone)]
enum State<T> {
    Asked,
    OtherHistory,
    Agreed(T),
    Failed,
}

impl<T> Tally<T> {
    /// Counts the answers of `row`; every node of it is taken as asked.
    pub fn new(row: Row) -> Tally<T> {
        let slots = row.nodes.iter().map(|node| (*node, Slot { attempts: 1, state: State::Asked })).collect();
        Tally { row, slots }
    }

    /// The row whose answers count.
    pub fn row(&self) -> &Row {
        &self.row
    }

    /// Records that `node` agreed, under the partition digest it told.
    pub fn record(&mut self, node: &NodeId, partition: Digest, answer: T) -> Recorded {
        let counts = partition == self.row.partition;
        let Some(slot) = self.slots.get_mut(node) else { return Recorded::Ignored };
        match (&slot.state, counts) {
            (State::Asked | State::OtherHistory | State::Failed, true) => {
                slot.state = State::Agreed(answer);
                Recorded::Counted
            }
            (State::Asked, false) => {
                slot.state = State::OtherHistory;
                Recorded::OtherHistory
            }
            (State::Agreed(_), _) | (State::OtherHistory | State::Failed, false) => Recorded::Ignored,
        }
    }

    /// Records that `node` cannot or does not answer. A node that has agreed stays so.
    pub fn fail(&mut self, node: &NodeId) {
        if let Some(slot) = self.slots.get_mut(node)
            && !matches!(slot.state, State::Agreed(_))
        {
            slot.state = State::Failed;
        }
    }

    /// The histories of `node` and the coordinator agree now. Returns whether to ask it again.
    pub fn retry(&mut self, node: &NodeId) -> bool {
        let Some(slot) = self.slots.get_mut(node) else { return false };
        if !matches!(slot.state, State::OtherHistory) {
            return false;
        }
        if slot.attempts == ATTEMPTS_MAX {
            slot.state = State::Failed;
            return false;
        }
        slot.attempts += 1;
        slot.state = State::Asked;
        true
    }

    /// The coordinator's history says something else of the partition now: the operation is judged anew under `row`.
    /// Returns whom to ask, again or for the first time. Nobody's answer under the old row is kept, but that of `me`,
    /// who is the coordinator and therefore always under its own history.
    pub fn change_row(&mut self, row: Row, me: &NodeId) -> Vec<NodeId> {
        let mut before = std::mem::take(&mut self.slots);
        for node in &row.nodes {
            let kept = before.remove(node);
            let attempts = kept.as_ref().map_or(1, |slot| slot.attempts.saturating_add(1));
            let state = match kept {
                Some(Slot { state: State::Agreed(answer), .. }) if node == me => State::Agreed(answer),
                _ if attempts > ATTEMPTS_MAX => State::Failed,
                _ => State::Asked,
            };
            self.slots.insert(*node, Slot { attempts, state });
        }
        self.row = row;
        self.slots.iter().filter(|(_, slot)| matches!(slot.state, State::Asked)).map(|(node, _)| *node).collect()
    }

    /// Who has agreed, and with what; by id.
    pub fn agreed(&self) -> impl Iterator<Item = (&NodeId, &T)> {
        self.slots.iter().filter_map(|(node, slot)| match &slot.state {
            State::Agreed(answer) => Some((node, answer)),
            State::Asked | State::OtherHistory | State::Failed => None,
        })
    }

    /// How many have agreed.
    pub fn agreed_count(&self) -> usize {
        self.agreed().count()
    }

    /// Whether any node has failed so far.
    pub fn any_failed(&self) -> bool {
        self.slots.values().any(|slot| matches!(slot.state, State::Failed))
    }

    /// Whether every node has agreed or failed.
    pub fn is_settled(&self) -> bool {
        self.slots.values().all(|slot| matches!(slot.state, State::Agreed(_) | State::Failed))
    }

    /// Where the operation stands when `needed` must agree.
    pub fn verdict(&self, needed: usize) -> Verdict {
        let failed = self.slots.values().filter(|slot| matches!(slot.state, State::Failed)).count();
        if self.agreed_count() >= needed {
            Verdict::Reached
        } else if self.slots.len() - failed < needed {
            Verdict::Impossible
        } else {
            Verdict::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Digest = Digest([1; 32]);
    const THEIRS: Digest = Digest([2; 32]);

    fn node(i: usize) -> NodeId {
        NodeId([u8::try_from(i).unwrap(); 32])
    }

    fn row(nodes: &[usize], partition: Digest) -> Row {
        Row { nodes: nodes.iter().map(|i| node(*i)).collect(), partition, replicas: 3 }
    }

    /// Plays answers in order, one character per node: `+` agreed, `-` failed, `?` under another history, `.` none.
    fn play(answers: &str) -> Tally<()> {
        let all: Vec<usize> = (0..answers.len()).collect();
        let mut tally = Tally::new(row(&all, OURS));
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
        assert_eq!(play(answers).verdict(needed), expected, "{needed} of {answers}");
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
        let mut tally = play("+..");
        assert_eq!(tally.record(&node(0), OURS, ()), Recorded::Ignored);
        tally.fail(&node(0));
        assert_eq!(tally.agreed_count(), 1);
        assert_eq!(tally.record(&node(7), OURS, ()), Recorded::Ignored);
    }

    #[test]
    fn a_node_is_asked_again_after_reconciliation_but_not_for_ever() {
        let mut tally = play("?..");
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
        let mut tally = play("++.");
        assert_eq!(tally.change_row(row(&[0, 1, 3], THEIRS), &node(0)), vec![node(1), node(3)]);
        assert_eq!(tally.agreed_count(), 1);
        assert_eq!(tally.record(&node(1), OURS, ()), Recorded::OtherHistory);
        assert_eq!(tally.record(&node(3), THEIRS, ()), Recorded::Counted);
        assert_eq!(tally.verdict(2), Verdict::Reached);
    }
}
