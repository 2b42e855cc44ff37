//! Histories that are known to somebody, each folded once.

use std::{collections::HashMap, rc::Rc};

use quorate::{
    digest::Digest,
    ident::{Name, NodeId},
    membership::{
        change::{Change, ChangeKind, Signer},
        history::History,
        view::{PlacementRules, View},
    },
    quorum::{
        QuorumRules,
        row::{Access, Row},
    },
    ring::token::Partition,
    wire::client::Consistency,
};

/// A history, and what it folds to.
pub(crate) struct Known {
    pub(crate) history: History,
    pub(crate) view: View,
    pub(crate) digest: Digest,
    /// Who founded what has become part of it.
    pub(crate) founders: Vec<NodeId>,
}

/// Everything that anybody knows in one run. Equal histories are one and the same value.
pub(crate) struct Library {
    placement: PlacementRules,
    quorum: QuorumRules,
    by_digest: HashMap<Digest, Rc<Known>>,
    unions: HashMap<(Digest, Digest), Rc<Known>>,
    rows: HashMap<(Digest, Partition, bool), Option<Row>>,
}

impl Library {
    pub(crate) fn new(placement: PlacementRules, quorum: QuorumRules) -> Library {
        let (by_digest, unions, rows) = (HashMap::new(), HashMap::new(), HashMap::new());
        Library { placement, quorum, by_digest, unions, rows }
    }

    /// What is known before anything is.
    pub(crate) fn nothing(&mut self) -> Rc<Known> {
        let history = History::new(Name::new("quorate").expect("a name"));
        let view = View::fold_by(&history, self.placement);
        self.keep(history, &view)
    }

    /// What is known to whoever knows both.
    pub(crate) fn union(&mut self, one: &Rc<Known>, other: &Rc<Known>) -> Rc<Known> {
        if one.digest == other.digest {
            return Rc::clone(one);
        }
        if let Some(known) = self.unions.get(&(one.digest, other.digest)) {
            return Rc::clone(known);
        }
        let mut history = one.history.clone();
        for change in other.history.since(&one.history.summary(), usize::MAX) {
            // What is refused of a removed member is refused by everybody.
            let _ = history.insert(change);
        }
        let known = self.keep(history, &one.view);
        self.unions.insert((one.digest, other.digest), Rc::clone(&known));
        known
    }

    /// What is known to whoever knows this and says one thing more.
    pub(crate) fn said(&mut self, known: &Rc<Known>, signer: &Signer, kind: ChangeKind) -> Rc<Known> {
        let mut history = known.history.clone();
        let change: Change = history.next_change(signer, kind);
        history.insert(change).expect("whoever says it may");
        self.keep(history, &known.view)
    }

    /// Whom an operation on `partition` must hear from at a quorum.
    pub(crate) fn row(&mut self, known: &Known, partition: Partition, access: Access) -> Option<Row> {
        let rules = self.quorum;
        let row = || Row::new(partition, access, Consistency::Quorum, None, &known.view, rules);
        self.rows.entry((known.digest, partition, access == Access::Write)).or_insert_with(row).clone()
    }

    /// How many different histories there were.
    pub(crate) fn len(&self) -> usize {
        self.by_digest.len()
    }

    fn keep(&mut self, history: History, before: &View) -> Rc<Known> {
        let digest = history.digest();
        let known = self.by_digest.entry(digest).or_insert_with(|| {
            let view = before.refold(&history);
            let is_founding = |change: &&Change| change.kind.founding().is_some();
            let founders = history.iter().filter(is_founding).map(|change| change.author).collect();
            Rc::new(Known { history, view, digest, founders })
        });
        Rc::clone(known)
    }
}
