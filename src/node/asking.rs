//! Exchanges that this node has begun: with whom, over what, and how far each has come.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{
    clock::Instant,
    handoff::exchanges::ExchangeSchedule,
    ident::NodeId,
    merkle::descent::Descent,
    node::{effect::ExchangeId, repairing::Repairing},
    ring::partition_set::PartitionSet,
    wire::{
        administration::{LastExchange, RepairScope},
        exchange::{Answer, Item},
    },
};

/// Exchanges begun here, and what is known of the pairs.
#[derive(Debug)]
pub(super) struct Exchanging {
    pub(super) schedule: ExchangeSchedule,
    pub(super) asking: BTreeMap<ExchangeId, Asking>,
    /// Exchanges that were asked for, before those that are due.
    pub(super) errands: VecDeque<(Instant, Errand)>,
    pub(super) repairing: Repairing,
    pub(super) last: BTreeMap<NodeId, LastExchange>,
}

/// With whom to compare what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Errand {
    pub(super) peer: NodeId,
    pub(super) scope: RepairScope,
    /// The partitions that are meant, if they are not all that the two share: to be filled, or handed over.
    pub(super) listed: Option<Arc<PartitionSet>>,
    pub(super) is_traced: bool,
    /// An administrator wants it.
    pub(super) is_ordered: bool,
}

/// How an exchange of ours ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Both sides hold the same.
    InStep,
    /// Everything that differed was exchanged, and yet they do not.
    Apart,
    /// It came to nothing, and why.
    Failed(String),
}

/// One of them.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) errand: Errand,
    pub(super) shared: Arc<PartitionSet>,
    pub(super) stand: Stand,
    /// Something was asked: the other side knows of it.
    pub(super) is_open: bool,
    /// The history has changed since: it ends once what is on its way is taken in.
    pub(super) is_outdated: bool,
    /// Objects sent and received.
    pub(super) moved: usize,
    /// Bytes sent and received since it last rested.
    pub(super) restless_bytes: u64,
    pub(super) begun: Instant,
    /// When the last question was asked.
    pub(super) asked: Instant,
}

/// Where an exchange stands.
#[derive(Debug)]
pub(super) enum Stand {
    /// The store finds the next question.
    InStore,
    /// The store takes in what an answer brought, a part of it at a time; this is left.
    TakingIn(Box<Descent>, Answer, VecDeque<Item>),
    /// The peer is to answer.
    Asked(Box<Descent>),
    /// The answer is there; its turn comes later, lest too much is sent in too short a time.
    Resting(Box<Descent>, Answer),
}

impl Exchanging {
    pub(super) fn new(interval: Duration) -> Exchanging {
        Exchanging {
            schedule: ExchangeSchedule::new(interval),
            asking: BTreeMap::new(),
            errands: VecDeque::new(),
            repairing: Repairing::default(),
            last: BTreeMap::new(),
        }
    }

    /// How many exchanges are under way that were begun here.
    pub(super) fn under_way(&self) -> usize {
        self.asking.len()
    }

    /// Runs an errand, from `due` on.
    pub(super) fn want(&mut self, due: Instant, errand: Errand) {
        if !self.errands.iter().any(|(_, known)| *known == errand) {
            self.errands.push_back((due, errand));
        }
    }

    /// An errand that is to be run now.
    pub(super) fn next_errand(&mut self, now: Instant) -> Option<Errand> {
        let index = self.errands.iter().position(|(due, _)| *due <= now)?;
        self.errands.remove(index).map(|(_, errand)| errand)
    }

    /// Whom to compare with because it is due.
    pub(super) fn next_pair(&mut self, now: Instant) -> Option<Errand> {
        let peer = self.schedule.next_due(now)?;
        Some(Errand { peer, scope: RepairScope::Everything, listed: None, is_traced: false, is_ordered: false })
    }

    /// When there is something to do next.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.errands.iter().map(|(due, _)| *due).chain(self.schedule.next_timeout()).min()
    }
}
