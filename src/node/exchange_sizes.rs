//! About how many bytes exchanges take, as far as this node can tell.

use crate::wire::exchange::{Answer, Item, Question};

/// About how many bytes a question takes.
pub(super) fn size_of_question(question: &Question) -> u64 {
    match question {
        Question::Open(_) => OPENING_BYTES,
        Question::Step(step) => step.questions.0.len() as u64 + size_of_items(&step.items),
    }
}

/// About how many bytes an answer takes.
pub(super) fn size_of_answer(answer: &Answer) -> u64 {
    match answer {
        Answer::Same | Answer::Refused(_) => 0,
        Answer::Differs(packed) => packed.0.len() as u64,
        Answer::Step(step) => step.branches.0.len() as u64 + size_of_items(&step.items),
    }
}

/// Bytes of an opening, nearly always the same.
const OPENING_BYTES: u64 = 128;

fn size_of_items(items: &[Item]) -> u64 {
    items.iter().map(|item| (item.key.as_bytes().len() + item.object.size_bytes()) as u64).sum()
}

/// Objects that go along with a question.
pub(super) fn items_of(question: &Question) -> usize {
    match question {
        Question::Open(_) => 0,
        Question::Step(step) => step.items.len(),
    }
}
