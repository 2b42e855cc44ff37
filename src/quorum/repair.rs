//! Read repair: which replicas are behind the merge, and why.

use crate::{causality::siblings::Object, ident::NodeId};

/// One replica that is behind.
#[derive(Debug, Clone, PartialEq)]
pub struct Repair {
    /// The replica.
    pub node: NodeId,
    /// In what way.
    pub reason: Behind,
    /// What it should merge.
    pub object: Object,
}

/// In what way a replica is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// It holds nothing.
    Missing,
    /// It holds less than the merge.
    Outdated,
}

/// Names the replicas whose answer is not the `merged` object. None when all agree.
pub fn repairs<'a>(merged: &Object, answers: impl Iterator<Item = (&'a NodeId, &'a Object)>) -> Vec<Repair> {
    answers
        .filter(|(_, object)| *object != merged)
        .map(|(node, object)| {
            let reason = if *object == Object::default() { Behind::Missing } else { Behind::Outdated };
            Repair { node: *node, reason, object: merged.clone() }
        })
        .collect()
}
