//! About how many bytes exchanges take, as far as this node can tell, and how much of them is stored at a time.

use std::collections::VecDeque;

use crate::{
    ident::Key,
    wire::exchange::{Answer, Item, Question},
};

/// About how many bytes a message takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MessageSize {
    /// Of its objects, with their keys.
    pub(super) objects: u64,
    /// Of what is compared.
    pub(super) compared: u64,
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From here.
    Sent,
    /// To here.
    Received,
}

impl MessageSize {
    /// All of it.
    pub(super) fn total(self) -> u64 {
        self.objects + self.compared
    }
}

/// About how many bytes a question takes.
pub(super) fn size_of_question(question: &Question) -> MessageSize {
    match question {
        Question::Open(_) => MessageSize { objects: 0, compared: OPENING_BYTES },
        Question::Step(step) => {
            MessageSize { objects: size_of_items(&step.items), compared: step.questions.0.len() as u64 }
        }
    }
}

/// About how many bytes an answer takes.
pub(super) fn size_of_answer(answer: &Answer) -> MessageSize {
    match answer {
        Answer::Same | Answer::Refused(_) => MessageSize { objects: 0, compared: 0 },
        Answer::Differs(packed) => MessageSize { objects: 0, compared: packed.0.len() as u64 },
        Answer::Step(step) => {
            MessageSize { objects: size_of_items(&step.items), compared: step.branches.0.len() as u64 }
        }
    }
}

/// Bytes of an opening, nearly always the same.
const OPENING_BYTES: u64 = 128;

/// Most objects merged in one piece of work, and about how many bytes of them: the writes of clients wait for it.
const CHUNK_COUNT_MAX: usize = 256;
/// See [`CHUNK_COUNT_MAX`].
const CHUNK_BYTES_TARGET: u64 = 1 << 20;

/// Takes the next objects to be merged, of those that are to be held here; at least one if there are any.
pub(super) fn take_chunk(items: &mut VecDeque<Item>, is_held: impl Fn(&Key) -> bool) -> Vec<Item> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    while chunk.len() < CHUNK_COUNT_MAX && bytes < CHUNK_BYTES_TARGET {
        let Some(item) = items.pop_front() else { break };
        if !is_held(&item.key) {
            continue;
        }
        bytes += size_of_items(std::slice::from_ref(&item));
        chunk.push(item);
    }
    chunk
}

/// About how many bytes objects take with their keys.
pub(super) fn size_of_items(items: &[Item]) -> u64 {
    items.iter().map(|item| (item.key.as_bytes().len() + item.object.size_bytes()) as u64).sum()
}

/// Objects that go along with a question.
pub(super) fn items_of(question: &Question) -> usize {
    match question {
        Question::Open(_) => 0,
        Question::Step(step) => step.items.len(),
    }
}
