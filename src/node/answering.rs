//! The side of an exchange that is asked.
//!
//! Only members are answered, only under one and the same history, only of what the two share, and only few at a time.
//! Whoever asks nonsense is left waiting ever longer.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    slice,
    sync::Arc,
};

use crate::{
    clock::{Instant, Now},
    config::AntiEntropy,
    digest::Digest,
    handoff::exchanges::Ended,
    ident::{Key, NodeId},
    limits::{EXCHANGE_STEPS_MAX, FRAME_LIMIT_BYTES},
    merkle::{Comparison, Salt, answers::STEP_BYTES_TARGET, branch::Branch, packed},
    node::{
        Node, TicketUse,
        effect::{Effect, InboundExchange},
        exchange_sizes::{MessageSize, Way, size_of_answer, size_of_items, size_of_question, take_chunk},
        exchanging::STALL,
        penalties::Offence,
    },
    replica::{Done, Query, Work},
    ring::{partition_set::PartitionSet, token::Token},
    store::StoreError,
    wire::exchange::{Answer, EXCHANGE_VERSION, ExchangeRefusal, Item, Opening, Question, Step},
};

/// Exchanges of others at a time.
const ANSWERING_MAX: usize = 4;

/// Most bytes of objects in an answer. A frame takes a quarter more, for what else is in it.
const ANSWER_BYTES_MAX: usize = 12 << 20;
const _: () = assert!(ANSWER_BYTES_MAX + STEP_BYTES_TARGET <= FRAME_LIMIT_BYTES);

/// Exchanges that others have begun.
#[derive(Debug, Default)]
pub(super) struct Answering {
    exchanges: BTreeMap<InboundExchange, Asked>,
}

#[derive(Debug)]
struct Asked {
    from: NodeId,
    shared: Arc<PartitionSet>,
    comparison: Comparison,
    /// The history under which it was opened.
    label: Digest,
    /// It is about all that the two share.
    is_whole: bool,
    /// What the store is asked once the objects that came with the questions are durable.
    query: Option<Query>,
    /// Of those, what is still to be merged.
    given: VecDeque<Item>,
    /// Objects the asker lacks, though it has just sent its own.
    left: Vec<Item>,
    /// How often it has asked.
    steps: u32,
    begun: Instant,
    /// When it last asked, or was answered.
    touched: Instant,
}

impl Node {
    pub(super) fn on_exchange_question(
        &mut self,
        now: Now,
        from: NodeId,
        exchange: InboundExchange,
        question: Question,
    ) {
        let size = size_of_question(&question);
        let result = match question {
            Question::Open(opening) => self.open_for(now, from, exchange, &opening),
            Question::Step(step) => self.step_for(now, exchange, step),
        };
        self.note_answered(exchange, size, Way::Received);
        if let Err(refusal) = result {
            self.refuse_exchange(now, exchange, from, refusal);
        }
    }

    /// Its asker has ended it, or is gone.
    pub(super) fn on_asker_gone(&mut self, now: Now, exchange: InboundExchange) {
        self.answering.exchanges.remove(&exchange);
        self.begin_due_exchange(now);
    }

    /// How many are being answered and have said something lately.
    pub(super) fn lively_askers(&self, now: Now) -> usize {
        let is_lively = |asked: &&Asked| now.instant - asked.touched < STALL;
        self.answering.exchanges.values().filter(is_lively).count()
    }

    /// Whether no more exchanges of others are taken. A node that may lack much is compared with one other at a time, whoever
    /// asks.
    fn is_full(&self, now: Now) -> bool {
        if self.exchanging.schedule.is_behind() && (self.is_asking(now) || self.lively_askers(now) > 0) {
            return true;
        }
        self.answering.exchanges.len() >= ANSWERING_MAX
    }

    /// What came with a question is durable, or not.
    pub(super) fn on_given_in(&mut self, now: Now, exchange: InboundExchange, result: Result<Done, StoreError>) {
        let Some(asked) = self.answering.exchanges.get_mut(&exchange) else { return };
        let from = asked.from;
        match result {
            Ok(Done::MergedAll { changed, left }) => {
                self.counters.items_taken += changed;
                self.filling.on_moved(&asked.shared, changed, 0);
                asked.left.extend(left);
                let chunk = take_chunk(&mut asked.given, |key| self.view.holds_key(&self.me, key));
                if !chunk.is_empty() {
                    self.store(TicketUse::GivenIn(exchange), Work::MergeAll(chunk));
                } else if let Some(query) = asked.query.take() {
                    self.query(TicketUse::AnswerExchange(exchange), query);
                }
            }
            Ok(_) | Err(_) => self.refuse_exchange(now, exchange, from, ExchangeRefusal::StoreFailed),
        }
    }

    /// The store has told what to answer, or not.
    pub(super) fn on_answer_found(&mut self, now: Now, exchange: InboundExchange, result: Result<Done, StoreError>) {
        let Some(asked) = self.answering.exchanges.get_mut(&exchange) else { return };
        asked.touched = now.instant;
        let (from, is_whole, begun) = (asked.from, asked.is_whole, asked.begun);
        let shared = Arc::clone(&asked.shared);
        let Ok(Done::Answered { mut answer, damaged }) = result else {
            return self.refuse_exchange(now, exchange, from, ExchangeRefusal::StoreFailed);
        };
        if let Answer::Step(step) = &mut answer {
            let left = std::mem::take(&mut asked.left);
            let known: BTreeSet<Key> = step.items.iter().map(|item| item.key.clone()).collect();
            let is_new = |item: &Item| !known.contains(&item.key);
            let left: Vec<Item> = left.into_iter().filter(is_new).collect();
            let mut bytes = size_of_items(&step.items);
            for item in left {
                bytes += size_of_items(slice::from_ref(&item));
                // What does not fit into the message still differs, and is found again.
                if bytes <= ANSWER_BYTES_MAX as u64 {
                    step.items.push(item);
                }
            }
            self.counters.items_given += step.items.len() as u64;
        }
        if answer == Answer::Same {
            self.counters.exchanges_in_step += 1;
            if is_whole {
                self.penalties.forgive(&from, Offence::Exchange);
                self.end_of_exchange(now, from, &shared, begun, Ended::InStep);
            }
        }
        self.look_into(damaged);
        self.answer_exchange(exchange, answer);
    }

    fn open_for(
        &mut self,
        now: Now,
        from: NodeId,
        exchange: InboundExchange,
        opening: &Opening,
    ) -> Result<(), ExchangeRefusal> {
        if self.config.anti_entropy == AntiEntropy::Off && opening.partitions.is_none() {
            return Err(ExchangeRefusal::SwitchedOff);
        }
        if opening.version != EXCHANGE_VERSION {
            return Err(ExchangeRefusal::UnknownVersion(EXCHANGE_VERSION));
        }
        if !self.view.members.contains_key(&from) {
            return Err(ExchangeRefusal::NotAnOwner);
        }
        let label = self.view.placement_digest();
        if opening.label != label {
            self.on_other_history(now, from);
            return Err(ExchangeRefusal::OtherHistory);
        }
        let shared = match &opening.partitions {
            None => self.shared_with(&from, None),
            Some(partitions) => self.held_of(partitions),
        };
        let Some(shared) = shared else {
            return Err(ExchangeRefusal::NotAnOwner);
        };
        let Some(branch) = Branch::new(opening.branch.0, opening.branch.1) else {
            return Err(ExchangeRefusal::Malformed);
        };
        let known = self.answering.exchanges.get(&exchange);
        let steps = known.map_or(0, |asked| asked.steps) + 1;
        let begun = known.map_or(now.instant, |asked| asked.begun);
        let is_known = steps > 1;
        let is_offender = self.penalties.is_running(now.instant, &from, Offence::Exchange) || self.is_liar(now, &from);
        let is_whole = opening.partitions.is_none() && branch == Branch::ROOT;
        if is_whole && !is_known && self.is_handing_over_to(now, &from) {
            return Err(ExchangeRefusal::HintsFirst);
        }
        if is_offender || (!is_known && self.is_full(now)) {
            return Err(ExchangeRefusal::Busy);
        }
        if steps > EXCHANGE_STEPS_MAX {
            return Err(ExchangeRefusal::Malformed);
        }
        let comparison = Comparison { salt: Salt::new(opening.salt), rule: self.config.rules.compare };
        let (partitions, root) = (Arc::clone(&shared), opening.root);
        let asked = Asked {
            from,
            shared,
            comparison,
            label,
            is_whole,
            query: None,
            given: VecDeque::new(),
            left: Vec::new(),
            steps,
            begun,
            touched: now.instant,
        };
        self.answering.exchanges.insert(exchange, asked);
        let query = Query::AnswerOpening { partitions, comparison, branch, root };
        self.query(TicketUse::AnswerExchange(exchange), query);
        Ok(())
    }

    /// `partitions`, if this node holds all of them.
    fn held_of(&self, partitions: &PartitionSet) -> Option<Arc<PartitionSet>> {
        let is_held = |partition| self.view.holds(&self.me, partition);
        let is_ours = self.view.parameters.is_some_and(|it| it.partitions == partitions.partitions());
        (is_ours && !partitions.is_empty() && partitions.iter().all(is_held)).then(|| Arc::new(partitions.clone()))
    }

    fn step_for(&mut self, now: Now, exchange: InboundExchange, step: Step) -> Result<(), ExchangeRefusal> {
        let label = self.view.placement_digest();
        let asked = self.answering.exchanges.get_mut(&exchange).ok_or(ExchangeRefusal::Malformed)?;
        if asked.label != label {
            return Err(ExchangeRefusal::OtherHistory);
        }
        asked.steps += 1;
        asked.touched = now.instant;
        if asked.steps > EXCHANGE_STEPS_MAX {
            return Err(ExchangeRefusal::Malformed);
        }
        let is_meant = |item: &Item| is_of(&asked.shared, &item.key);
        if !step.items.iter().all(is_meant) {
            return Err(ExchangeRefusal::Malformed);
        }
        let questions = packed::read_questions(&step.questions.0).map_err(|_| ExchangeRefusal::Malformed)?;
        let query =
            Query::AnswerStep { partitions: Arc::clone(&asked.shared), comparison: asked.comparison, questions };
        asked.given = VecDeque::from(step.items);
        // What this node is to hold no more is left out: it may have dropped it already.
        let chunk = take_chunk(&mut asked.given, |key| self.view.holds_key(&self.me, key));
        if chunk.is_empty() {
            self.query(TicketUse::AnswerExchange(exchange), query);
        } else {
            asked.query = Some(query);
            self.store(TicketUse::GivenIn(exchange), Work::MergeAll(chunk));
        }
        Ok(())
    }

    fn refuse_exchange(&mut self, now: Now, exchange: InboundExchange, from: NodeId, refusal: ExchangeRefusal) {
        self.counters.exchanges_refused += 1;
        if refusal == ExchangeRefusal::Malformed {
            self.note_offence(now, from, Offence::Exchange);
        }
        self.answering.exchanges.remove(&exchange);
        self.answer_exchange(exchange, Answer::Refused(refusal));
        self.effects.push_back(Effect::EndInboundExchange(exchange));
        // It may be what this node waited for.
        self.arm_exchanges(now);
    }

    fn answer_exchange(&mut self, exchange: InboundExchange, answer: Answer) {
        self.note_answered(exchange, size_of_answer(&answer), Way::Sent);
        self.effects.push_back(Effect::AnswerExchange { exchange, answer });
    }

    /// A message of an exchange that somebody else began. One that is refused is about nothing.
    fn note_answered(&mut self, exchange: InboundExchange, size: MessageSize, way: Way) {
        match self.answering.exchanges.get(&exchange).map(|asked| Arc::clone(&asked.shared)) {
            Some(shared) => self.note_exchanged(&shared, size, way),
            None => self.counters.exchange_bytes += size.total(),
        }
    }
}

/// Whether `key` lies in one of `partitions`.
pub(super) fn is_of(partitions: &PartitionSet, key: &Key) -> bool {
    partitions.contains_token(Token::of(key))
}
