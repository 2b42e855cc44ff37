//! Counting the answers of a row and of those who stand in.
//!
//! A [`Tally`] has one slot for each primary. A slot is met when its primary agrees or, where fallbacks count, when the
//! fallback that stands in for it does; it is met once, whoever answers. The tally knows who was asked and how each has
//! answered so far. It decides nothing else: it does not know what was asked, nor what time it is. An answer given under
//! another history does not count; its sender is asked again once both histories agree, a bounded number of times.

use std::collections::VecDeque;

use crate::{
    digest::Digest,
    ident::NodeId,
    quorum::{
        AnswerRule, QuorumRules, StandInRule, UnknownRule,
        row::{Demand, Row},
    },
    wire::client::Scope,
};

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

/// Slots by how they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Met.
    pub agreed: usize,
    /// May still be met.
    pub pending: usize,
    /// A fallback answered that it knows nothing.
    pub unknown: usize,
    /// Nobody answers.
    pub failed: usize,
}

/// The answers of one operation. `T` is what an agreeing replica says.
#[derive(Debug, Clone)]
pub struct Tally<T> {
    row: Row,
    scope: Scope,
    rules: QuorumRules,
    /// One for each primary, in the order of the row.
    slots: Vec<Slot<T>>,
    /// Fallbacks that have not been asked yet, the best first.
    spare: VecDeque<NodeId>,
}

#[derive(Debug, Clone)]
struct Slot<T> {
    primary: Asked<T>,
    stand_in: Option<Asked<T>>,
    /// Some stand-in has answered that it knows nothing.
    is_unknown: bool,
}

#[derive(Debug, Clone)]
struct Asked<T> {
    node: NodeId,
    attempts: u8,
    state: State<T>,
}

#[derive(Debug, Clone, PartialEq)]
enum State<T> {
    Asked,
    OtherHistory,
    Agreed(T),
    Failed,
}

impl<T> Asked<T> {
    fn first(node: NodeId) -> Asked<T> {
        Asked { node, attempts: 1, state: State::Asked }
    }

    fn agreed(&self) -> Option<&T> {
        match &self.state {
            State::Agreed(answer) => Some(answer),
            State::Asked | State::OtherHistory | State::Failed => None,
        }
    }

    fn has_failed(&self) -> bool {
        matches!(self.state, State::Failed)
    }

    fn is_pending(&self) -> bool {
        matches!(self.state, State::Asked | State::OtherHistory)
    }

    /// One more attempt, if there may be one.
    fn try_again(&mut self) -> bool {
        let may = self.attempts < ATTEMPTS_MAX;
        self.state = if may { State::Asked } else { State::Failed };
        self.attempts += u8::from(may);
        may
    }
}

impl<T> Slot<T> {
    fn holders(&self) -> impl Iterator<Item = &Asked<T>> {
        std::iter::once(&self.primary).chain(&self.stand_in)
    }

    fn holders_mut(&mut self) -> impl Iterator<Item = &mut Asked<T>> {
        std::iter::once(&mut self.primary).chain(&mut self.stand_in)
    }

    /// Whether its primary is lost and nobody stands in who could still answer or has.
    fn wants_stand_in(&self) -> bool {
        self.primary.has_failed() && self.stand_in.as_ref().is_none_or(Asked::has_failed)
    }
}

impl<T> Tally<T> {
    /// Counts the answers of `row`; every primary is taken as asked. Under [`Scope::Strict`] nobody but primaries counts,
    /// though others may stand in.
    pub fn new(row: Row, scope: Scope, rules: QuorumRules) -> Tally<T> {
        let slot = |node: &NodeId| Slot { primary: Asked::first(*node), stand_in: None, is_unknown: false };
        let slots = row.nodes.iter().map(slot).collect();
        let spare = row.fallbacks.iter().copied().collect();
        Tally { row, scope, rules, slots, spare }
    }

    /// The row whose answers count.
    pub fn row(&self) -> &Row {
        &self.row
    }

    /// Records that `node` agreed, under the partition digest it told.
    pub fn record(&mut self, node: &NodeId, partition: Digest, answer: T) -> Recorded
    where
        T: Clone,
    {
        let counts = partition == self.row.partition || self.rules.answers == AnswerRule::AnyHistory;
        let mut recorded = Recorded::Ignored;
        for asked in self.slots.iter_mut().flat_map(Slot::holders_mut).filter(|asked| asked.node == *node) {
            match (&asked.state, counts) {
                (State::Asked | State::OtherHistory | State::Failed, true) => {
                    asked.state = State::Agreed(answer.clone());
                    recorded = Recorded::Counted;
                }
                (State::Asked, false) => {
                    asked.state = State::OtherHistory;
                    recorded = Recorded::OtherHistory;
                }
                (State::Agreed(_), _) | (State::OtherHistory | State::Failed, false) => {}
            }
        }
        recorded
    }

    /// Records that `node` answered under another history, whatever it said.
    pub fn record_other(&mut self, node: &NodeId) -> Recorded {
        let mut recorded = Recorded::Ignored;
        for asked in self.slots.iter_mut().flat_map(Slot::holders_mut).filter(|asked| asked.node == *node) {
            if matches!(asked.state, State::Asked) {
                asked.state = State::OtherHistory;
                recorded = Recorded::OtherHistory;
            }
        }
        recorded
    }

    /// Records that `node`, which stands in, knows nothing of the key; `nothing` is what a primary would say that never
    /// held it. A primary that says so has failed.
    pub fn record_unknown(&mut self, node: &NodeId, partition: Digest, nothing: T) -> Recorded
    where
        T: Clone,
    {
        if self.rules.unknown == UnknownRule::KnowsAbsence || partition != self.row.partition {
            return self.record(node, partition, nothing);
        }
        for slot in &mut self.slots {
            slot.is_unknown |= slot.stand_in.as_ref().is_some_and(|asked| asked.node == *node);
        }
        self.fail(node);
        Recorded::Counted
    }

    /// Records that `node` cannot or does not answer. A node that has agreed stays so.
    pub fn fail(&mut self, node: &NodeId) {
        for asked in self.slots.iter_mut().flat_map(Slot::holders_mut).filter(|asked| asked.node == *node) {
            if !matches!(asked.state, State::Agreed(_)) {
                asked.state = State::Failed;
            }
        }
    }

    /// Finds somebody who can be reached for each primary that is lost and that nobody stands in for. Returns who is to be
    /// asked, and for which primary. A node stands in at most once; one that cannot be reached is passed over for good.
    pub fn stand_in(&mut self, is_reachable: impl Fn(&NodeId) -> bool) -> Vec<(NodeId, NodeId)> {
        let wanting: Vec<usize> = (0..self.slots.len()).filter(|index| self.slots[*index].wants_stand_in()).collect();
        wanting.into_iter().filter_map(|index| self.assign(index, &is_reachable)).collect()
    }

    /// Finds somebody to ask beside the first primary that has not answered, if nobody stands in for it yet.
    pub fn second(&mut self, is_reachable: impl Fn(&NodeId) -> bool) -> Option<(NodeId, NodeId)> {
        let is_slow = |slot: &Slot<T>| slot.primary.is_pending() && slot.stand_in.is_none();
        let index = self.slots.iter().position(is_slow)?;
        self.assign(index, &is_reachable)
    }

    /// `node` stands in for `target` and has agreed already.
    pub fn agreed_for(&mut self, node: NodeId, target: &NodeId, answer: T) {
        self.spare.retain(|spare| *spare != node);
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.primary.node == *target) {
            slot.stand_in = Some(Asked { node, attempts: 1, state: State::Agreed(answer) });
        }
    }

    fn assign(&mut self, index: usize, is_reachable: &impl Fn(&NodeId) -> bool) -> Option<(NodeId, NodeId)> {
        while let Some(node) = self.spare.front().copied() {
            let is_first = self.slots[index].stand_in.is_none();
            let stays = self.rules.stand_ins == StandInRule::Repeatedly && is_first && is_reachable(&node);
            if !stays {
                self.spare.pop_front();
            }
            if is_reachable(&node) {
                let slot = &mut self.slots[index];
                slot.stand_in = Some(Asked::first(node));
                return Some((node, slot.primary.node));
            }
        }
        None
    }

    /// The histories of `node` and the coordinator agree now. Returns whether to ask it again.
    pub fn retry(&mut self, node: &NodeId) -> bool {
        let mut holders = self.slots.iter_mut().flat_map(Slot::holders_mut);
        let waiting = holders.find(|asked| asked.node == *node && matches!(asked.state, State::OtherHistory));
        waiting.is_some_and(Asked::try_again)
    }

    /// What `node` has agreed to is not enough. Returns whether to ask it again.
    pub fn ask_again(&mut self, node: &NodeId) -> bool {
        let mut holders = self.slots.iter_mut().flat_map(Slot::holders_mut);
        holders.find(|asked| asked.node == *node && asked.agreed().is_some()).is_some_and(Asked::try_again)
    }

    /// The primary that `node` stands in for.
    pub fn target_of(&self, node: &NodeId) -> Option<NodeId> {
        let stands_in = |slot: &&Slot<T>| slot.stand_in.as_ref().is_some_and(|asked| asked.node == *node);
        self.slots.iter().find(stands_in).map(|slot| slot.primary.node)
    }

    /// The coordinator's history says something else of the partition now: the operation is judged anew under `row`.
    /// Returns the primaries to ask, again or for the first time. Nobody's answer under the old row is kept, but that of
    /// `me` as a primary: the coordinator is always under its own history.
    pub fn change_row(&mut self, row: Row, me: &NodeId) -> Vec<NodeId> {
        let before = std::mem::take(&mut self.slots);
        let mut mine = None;
        let mut attempts: Vec<(NodeId, u8)> = Vec::new();
        for slot in before {
            attempts.extend(slot.holders().map(|asked| (asked.node, asked.attempts)));
            if slot.primary.node == *me && slot.primary.agreed().is_some() {
                mine = Some(slot.primary);
            }
        }
        for node in &row.nodes {
            let primary = match mine.take_if(|mine| mine.node == *node) {
                Some(mine) => mine,
                None => {
                    let before = attempts.iter().find(|(asked, _)| asked == node).map_or(0, |(_, attempts)| *attempts);
                    let mut asked = Asked { node: *node, attempts: before, state: State::Asked };
                    asked.try_again();
                    asked
                }
            };
            self.slots.push(Slot { primary, stand_in: None, is_unknown: false });
        }
        self.spare = row.fallbacks.iter().copied().collect();
        self.row = row;
        let asked = self.slots.iter().filter(|slot| matches!(slot.primary.state, State::Asked));
        asked.map(|slot| slot.primary.node).collect()
    }

    /// Who has agreed, and with what: primaries and those who stand in, in the order of the slots.
    pub fn agreed(&self) -> impl Iterator<Item = (&NodeId, &T)> {
        self.slots.iter().flat_map(Slot::holders).filter_map(|asked| Some((&asked.node, asked.agreed()?)))
    }

    /// The same, to be changed.
    pub fn agreed_mut(&mut self) -> impl Iterator<Item = (NodeId, &mut T)> {
        self.slots.iter_mut().flat_map(Slot::holders_mut).filter_map(|asked| match &mut asked.state {
            State::Agreed(answer) => Some((asked.node, answer)),
            State::Asked | State::OtherHistory | State::Failed => None,
        })
    }

    /// The primaries that have agreed, and with what, in the order of the row.
    pub fn agreed_primaries(&self) -> impl Iterator<Item = (&NodeId, &T)> {
        self.slots.iter().filter_map(|slot| Some((&slot.primary.node, slot.primary.agreed()?)))
    }

    /// Primaries that have not agreed, for whom a node that stands in has.
    pub fn stood_in_for(&self) -> impl Iterator<Item = NodeId> {
        let is_kept = |slot: &&Slot<T>| {
            slot.primary.agreed().is_none() && slot.stand_in.as_ref().is_some_and(|asked| asked.agreed().is_some())
        };
        self.slots.iter().filter(is_kept).map(|slot| slot.primary.node)
    }

    /// Primaries that are lost, and for whom nobody who could be found stands in.
    pub fn abandoned(&self) -> impl Iterator<Item = NodeId> {
        self.slots.iter().filter(|slot| slot.wants_stand_in()).map(|slot| slot.primary.node)
    }

    /// Whether any primary has failed so far.
    pub fn any_failed(&self) -> bool {
        self.slots.iter().any(|slot| slot.primary.has_failed())
    }

    /// Whether `node` has been asked and may still answer.
    pub fn is_pending(&self, node: &NodeId) -> bool {
        self.slots.iter().flat_map(Slot::holders).any(|asked| asked.node == *node && asked.is_pending())
    }

    /// Whether of every slot somebody has agreed, or everybody asked has failed.
    pub fn is_settled(&self) -> bool {
        self.slots.iter().all(|slot| {
            let mut holders = slot.holders();
            slot.primary.agreed().is_some() || holders.all(|asked| !asked.is_pending())
        })
    }

    /// How the slots stand of which something is demanded.
    pub fn standing(&self, demand: &Demand) -> Standing {
        let mut standing = Standing::default();
        for slot in self.slots.iter().filter(|slot| demand.nodes.contains(&slot.primary.node)) {
            let stand_in = slot.stand_in.as_ref().filter(|_| self.scope == Scope::Sloppy);
            let has_agreed = |asked: &Asked<T>| asked.agreed().is_some();
            if has_agreed(&slot.primary) || stand_in.is_some_and(has_agreed) {
                standing.agreed += 1;
            } else if slot.primary.is_pending() || stand_in.is_some_and(Asked::is_pending) {
                standing.pending += 1;
            } else if slot.is_unknown {
                standing.unknown += 1;
            } else {
                standing.failed += 1;
            }
        }
        standing
    }

    /// How each demand stands.
    pub fn standings(&self) -> impl Iterator<Item = (Standing, &Demand)> {
        self.row.demands.iter().map(|demand| (self.standing(demand), demand))
    }

    /// How many have agreed of those that are furthest from what is needed of them, and how many that is.
    pub fn shortfall(&self) -> (usize, usize) {
        let short = |(standing, demand): &(Standing, &Demand)| demand.needed.saturating_sub(standing.agreed);
        let worst = self.standings().max_by_key(short);
        worst.map_or((0, 1), |(standing, demand)| (standing.agreed, demand.needed))
    }

    /// Where the operation stands.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::Reached;
        for (Standing { agreed, pending, .. }, demand) in self.standings() {
            if agreed + pending < demand.needed {
                return Verdict::Impossible;
            }
            if agreed < demand.needed {
                verdict = Verdict::Pending;
            }
        }
        verdict
    }
}

#[cfg(test)]
#[path = "tally_tests.rs"]
mod tests;
