//! The asking side: from one digest over everything down to the items that differ, and to both sides holding them.
//!
//! A [`Descent`] keeps the branches it has still to look at. Each step asks about as many of them as fit, deepest first, so
//! that what it remembers stays small; what this side has and the other lacks goes along with the next step, what the other
//! has and this side lacks comes with its answers. At the end it asks once more whether the two are in step.
//!
//! The answers go down two levels at a time: the asker shows its children of a branch, the other side what is below those
//! that differ. A branch that only one side has is sent whole, in pages, without a look inside.
//!
//! It reads a committed state of its own store for each step and holds none across the network: what was written in
//! between shows as a difference that is none, and costs a merge that changes nothing. Objects that arrive are merged by
//! whoever drives it, before the answer they came with is handed in here.

use crate::{
    limits::EXCHANGE_STEPS_MAX,
    merkle::{
        Comparison, Short, Source,
        answers::{Parcel, STEP_BYTES_TARGET, STEP_ROWS_TARGET, named, page},
        branch::{Branch, FANOUT},
        packed::{self, Below, BranchQuestion, Listing, QUESTION_COUNT_MAX},
    },
    store::StoreError,
    wire::{
        client::Cursor,
        exchange::{Answer, Opening, Packed, Question, Root, Step, StepAnswer},
    },
};

/// One exchange, seen from the side that asks.
///
/// **Inputs**: [`Descent::next`], with the answer to what was asked last. **Effects**: the [`Turn`] it returns. **Time**: it
/// knows none. **Ends when** it returns [`Turn::End`]; it must not be asked again then. Bounded by the depth of the tree
/// times the branches below one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descent {
    comparison: Comparison,
    opening: Opening,
    branch: Branch,
    phase: Phase,
    pending: Vec<Pending>,
    asked: Vec<BranchQuestion>,
    fruitless: Vec<Branch>,
    progress: Progress,
    trace: Option<Vec<Visit>>,
}

/// What a [`Descent`] wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Ask this; the answer is handed in with the next call.
    Ask(Question),
    /// It is over.
    End(Ending),
}

/// How an exchange ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Both sides hold the same.
    InStep,
    /// Everything that differed was exchanged, and yet the two differ: somebody has written meanwhile, or something is
    /// wrong.
    Apart {
        /// Branches that were said to differ and below which nothing does: somebody's digest of them is wrong. At most 64.
        fruitless: Vec<Branch>,
    },
    /// There is more than one exchange may move; the next one goes on.
    Unfinished,
    /// The other side's answer is none.
    Malformed,
}

/// What an exchange has come to so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Questions asked, each with its answer a round trip.
    pub round_trips: u64,
    /// Digests and item hashes compared.
    pub hashes_compared: u64,
    /// Rows read here.
    pub rows_read: u64,
    /// Items sent.
    pub given: u64,
}

/// A branch that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit {
    /// Which.
    pub branch: Branch,
    /// What was found.
    pub found: Found,
}

/// See [`Visit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// So many of its children differ.
    Children(usize),
    /// A leaf: so many items are missing here, so many there. One that was changed counts on both sides.
    Items {
        /// Missing here.
        missing: usize,
        /// Missing there.
        extra: usize,
    },
    /// There is nothing of it here.
    OnlyThere,
    /// There is nothing of it there.
    OnlyHere,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was asked yet.
    New,
    Opened,
    Descending,
    Closing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pending {
    /// Its children differ somewhere.
    Compare(Branch),
    /// The other side has these items of it.
    Settle { branch: Branch, theirs: Vec<Short> },
    /// The other side has these items, which are missing here.
    Want { branch: Branch, ids: Vec<Short> },
    /// All of it is missing here.
    WantAll { branch: Branch, after: Option<Cursor> },
    /// The other side lacks all of it but these.
    Give { branch: Branch, after: Option<Cursor>, except: Vec<Short> },
}

/// Most branches remembered as fruitless.
const FRUITLESS_MAX: usize = 64;

/// Most branches remembered for people.
const TRACE_MAX: usize = 10_000;

/// Bytes that a question about full children takes, at most.
const COMPARE_BYTES: usize = 1 + 9 + 2 + 4 * FANOUT;

/// The answer to what was asked last is no answer to it.
struct NoAnswer;

/// What is to be said next.
#[derive(Default)]
struct Draft {
    questions: Vec<BranchQuestion>,
    bytes: usize,
    parcel: Parcel,
}

impl Draft {
    fn ask(&mut self, question: BranchQuestion) {
        self.bytes += match &question {
            BranchQuestion::Compare { .. } => COMPARE_BYTES,
            BranchQuestion::Want { ids, .. } => 12 + 4 * ids.len(),
            BranchQuestion::WantAll { after, .. } => 12 + after.as_ref().map_or(0, |after| after.0.len()),
        };
        self.questions.push(question);
    }

    fn is_full(&self) -> bool {
        self.bytes + self.parcel.bytes >= STEP_BYTES_TARGET || self.questions.len() >= QUESTION_COUNT_MAX
    }

    fn is_empty(&self) -> bool {
        self.questions.is_empty() && self.parcel.items.is_empty()
    }
}

impl Descent {
    /// One that begins as `opening` says, whose root is filled in later; none if its branch is none.
    pub fn new(opening: Opening, comparison: Comparison, is_traced: bool) -> Option<Descent> {
        Some(Descent {
            comparison,
            branch: Branch::new(opening.branch.0, opening.branch.1)?,
            opening,
            phase: Phase::New,
            pending: Vec::new(),
            asked: Vec::new(),
            fruitless: Vec::new(),
            progress: Progress::default(),
            trace: is_traced.then(Vec::new),
        })
    }

    /// What it has come to so far.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// The branches that were looked at since this was asked last, if they are to be told.
    pub fn take_trace(&mut self) -> Vec<Visit> {
        self.trace.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Goes on with the answer to what was asked last; with nothing at the beginning.
    pub fn next(&mut self, source: &mut impl Source, answer: Option<Answer>) -> Result<Turn, StoreError> {
        let rows_before = source.rows_read();
        let turn = self.take_turn(source, answer);
        self.progress.rows_read += source.rows_read() - rows_before;
        turn
    }

    fn take_turn(&mut self, source: &mut impl Source, answer: Option<Answer>) -> Result<Turn, StoreError> {
        match (self.phase, answer) {
            (Phase::New, None) => return self.open(source, Phase::Opened),
            (Phase::Opened | Phase::Closing, Some(Answer::Same)) => return Ok(Turn::End(Ending::InStep)),
            (Phase::Opened, Some(Answer::Differs(packed))) => {
                let Ok(below) = packed::read_below(&packed.0) else { return Ok(Turn::End(Ending::Malformed)) };
                self.phase = Phase::Descending;
                self.note_below(source, self.branch, below)?;
            }
            (Phase::Closing, Some(Answer::Differs(_))) => {
                return Ok(Turn::End(Ending::Apart { fruitless: std::mem::take(&mut self.fruitless) }));
            }
            (Phase::Descending, Some(Answer::Step(answer))) => {
                if let Err(NoAnswer) = self.note_answer(source, answer)? {
                    return Ok(Turn::End(Ending::Malformed));
                }
            }
            (Phase::New | Phase::Opened | Phase::Descending | Phase::Closing, _) => {
                return Ok(Turn::End(Ending::Malformed));
            }
        }
        // The other side counts as well, and its patience ends a little later.
        if self.progress.round_trips + 2 > u64::from(EXCHANGE_STEPS_MAX) {
            return Ok(Turn::End(Ending::Unfinished));
        }
        let draft = self.draft(source)?;
        if draft.is_empty() {
            return self.open(source, Phase::Closing);
        }
        self.progress.round_trips += 1;
        self.progress.given += draft.parcel.items.len() as u64;
        let questions = Packed(packed::write_questions(&draft.questions));
        self.asked = draft.questions;
        Ok(Turn::Ask(Question::Step(Step { questions, items: draft.parcel.items })))
    }

    fn open(&mut self, source: &mut impl Source, phase: Phase) -> Result<Turn, StoreError> {
        self.phase = phase;
        self.progress.round_trips += 1;
        self.progress.hashes_compared += 1;
        let root = Root(self.comparison.salt.root(&source.digest(&self.branch)?));
        Ok(Turn::Ask(Question::Open(Opening { root, ..self.opening.clone() })))
    }

    /// Takes up as much of what is pending as fits into one step.
    fn draft(&mut self, source: &mut impl Source) -> Result<Draft, StoreError> {
        let rows_before = source.rows_read();
        let mut draft = Draft::default();
        while !draft.is_full() && source.rows_read() - rows_before < STEP_ROWS_TARGET {
            let Some(pending) = self.pending.pop() else { break };
            match pending {
                Pending::Compare(branch) => {
                    let children = self.comparison.listing(&source.children(&branch)?);
                    draft.ask(BranchQuestion::Compare { branch, children });
                }
                Pending::Settle { branch, theirs } => self.settle(source, branch, theirs)?,
                Pending::Want { branch, ids } => draft.ask(BranchQuestion::Want { branch, ids }),
                Pending::WantAll { branch, after } => draft.ask(BranchQuestion::WantAll { branch, after }),
                Pending::Give { branch, after, except } => {
                    let from = (&branch, after.as_ref());
                    let next = page(source, &self.comparison, from, &except, &mut draft.parcel)?;
                    if next.is_some() {
                        self.pending.push(Pending::Give { branch, after: next, except });
                    }
                }
            }
        }
        Ok(draft)
    }

    /// Both sides' items of a branch are known: each gets what it lacks.
    fn settle(&mut self, source: &mut impl Source, branch: Branch, theirs: Vec<Short>) -> Result<(), StoreError> {
        let mine = named(source, &self.comparison, &branch)?;
        let ids: Vec<Short> = theirs.iter().filter(|id| !mine.contains_key(id)).copied().collect();
        let extra = mine.keys().filter(|id| !theirs.contains(id)).count();
        self.progress.hashes_compared += theirs.len() as u64;
        self.visit(branch, Found::Items { missing: ids.len(), extra });
        if ids.is_empty() && extra == 0 {
            self.note_fruitless(branch);
        }
        if extra > 0 {
            self.pending.push(Pending::Give { branch, after: None, except: theirs });
        }
        if !ids.is_empty() {
            self.pending.push(Pending::Want { branch, ids });
        }
        Ok(())
    }

    /// The other side has told what is below a branch of its own that differs from ours.
    fn note_below(&mut self, source: &mut impl Source, branch: Branch, below: Below) -> Result<(), StoreError> {
        match below {
            Below::Ids(theirs) => self.pending.push(Pending::Settle { branch, theirs }),
            Below::Children(theirs) => {
                let mine = source.children(&branch)?;
                let differing = self.comparison.differing(&mine, &theirs);
                self.progress.hashes_compared += FANOUT as u64;
                self.visit(branch, Found::Children(differing.len()));
                if differing.is_empty() {
                    self.note_fruitless(branch);
                }
                for index in differing {
                    let child = branch.child(index);
                    match (mine[index].is_empty(), theirs[index]) {
                        (true, _) => self.take_all(child),
                        (false, None) => self.give_all(child),
                        (false, Some(_)) => self.pending.push(Pending::Compare(child)),
                    }
                }
            }
        }
        Ok(())
    }

    fn take_all(&mut self, branch: Branch) {
        self.visit(branch, Found::OnlyThere);
        self.pending.push(Pending::WantAll { branch, after: None });
    }

    fn give_all(&mut self, branch: Branch) {
        self.visit(branch, Found::OnlyHere);
        self.pending.push(Pending::Give { branch, after: None, except: Vec::new() });
    }

    fn note_answer(
        &mut self,
        source: &mut impl Source,
        answer: StepAnswer,
    ) -> Result<Result<(), NoAnswer>, StoreError> {
        let StepAnswer { answered, branches, items: _, next } = answer;
        let mut asked = std::mem::take(&mut self.asked);
        let answered = usize::try_from(answered).unwrap_or(usize::MAX);
        if answered > asked.len() || (answered == 0 && next.is_none() && !asked.is_empty()) {
            return Ok(Err(NoAnswer));
        }
        let left = asked.split_off(answered);
        let is_compare = |question: &&BranchQuestion| matches!(question, BranchQuestion::Compare { .. });
        let Ok(compared) = packed::read_answers(&branches.0, asked.iter().filter(is_compare).count()) else {
            return Ok(Err(NoAnswer));
        };
        if let Err(NoAnswer) = self.ask_again(left, next) {
            return Ok(Err(NoAnswer));
        }
        let branches = asked.iter().filter_map(|question| match question {
            BranchQuestion::Compare { branch, children } => Some((branch, children)),
            BranchQuestion::Want { .. } | BranchQuestion::WantAll { .. } => None,
        });
        for ((branch, mine), compared) in branches.zip(compared) {
            self.note_compared(source, branch, mine, compared)?;
        }
        Ok(Ok(()))
    }

    /// What was not answered is asked again.
    fn ask_again(&mut self, left: Vec<BranchQuestion>, next: Option<Cursor>) -> Result<(), NoAnswer> {
        let (mut next, mut again) = (next, Vec::new());
        for question in left {
            let begun = next.take();
            again.push(match (question, begun) {
                (BranchQuestion::Compare { branch, .. }, None) => Pending::Compare(branch),
                (BranchQuestion::Want { branch, ids }, None) => Pending::Want { branch, ids },
                (BranchQuestion::WantAll { branch, after }, None) => Pending::WantAll { branch, after },
                // Who goes on must get further, or it would never end.
                (BranchQuestion::WantAll { branch, after }, Some(next))
                    if is_beyond(&next, after.as_ref(), &branch) =>
                {
                    Pending::WantAll { branch, after: Some(next) }
                }
                (_, Some(_)) => return Err(NoAnswer),
            });
        }
        // What was begun is gone on with first.
        self.pending.extend(again.into_iter().rev());
        if next.is_some() { Err(NoAnswer) } else { Ok(()) }
    }

    fn note_compared(
        &mut self,
        source: &mut impl Source,
        branch: &Branch,
        mine: &Listing,
        compared: packed::Compared,
    ) -> Result<(), StoreError> {
        self.progress.hashes_compared += FANOUT as u64;
        self.visit(*branch, Found::Children(compared.len()));
        if compared.is_empty() {
            self.note_fruitless(*branch);
        }
        for (index, below) in compared {
            let index = usize::from(index);
            let child = branch.child(index);
            if mine[index].is_none() && matches!(below, Below::Children(_)) {
                self.take_all(child);
            } else {
                self.note_below(source, child, below)?;
            }
        }
        Ok(())
    }

    fn note_fruitless(&mut self, branch: Branch) {
        if self.fruitless.len() < FRUITLESS_MAX {
            self.fruitless.push(branch);
        }
    }

    fn visit(&mut self, branch: Branch, found: Found) {
        if let Some(trace) = &mut self.trace
            && trace.len() < TRACE_MAX
        {
            trace.push(Visit { branch, found });
        }
    }
}

/// Whether `next` lies behind `after`, and among the rows that `branch` can have.
fn is_beyond(next: &Cursor, after: Option<&Cursor>, branch: &Branch) -> bool {
    let token = next.0.first_chunk::<8>().map(|token| u64::from_be_bytes(*token));
    after.is_none_or(|after| after.0 < next.0) && token.is_some_and(|token| branch.tokens().contains(&token))
}
