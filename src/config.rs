//! What a node is told by its operator, as values that cannot be wrong.
//!
//! There is no hidden default: a preset names every number. What the operator wrote is read in `cli/settings.rs`.

use std::time::Duration;

use crate::{
    causality::context::ContextKey,
    ident::Name,
    membership::change::{Parameters, Profile},
};

/// Everything a [`crate::node::Node`] needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// The cluster's name.
    pub cluster: Name,
    /// The secret of the cluster's `swarm.key`, if it has one.
    pub cluster_secret: Option<Vec<u8>>,
    /// What this node says of itself.
    pub profile: Profile,
    /// What to found a cluster with, should nobody be found.
    pub parameters: Parameters,
    /// Whether this node may found a cluster.
    pub founding: Founding,
    /// Number of addresses given at start.
    pub seed_count: usize,
    /// How often histories are compared with a random peer. 1 s: a change reaches everyone in a few of these.
    pub reconcile_interval: Duration,
    /// How long one peer may take to answer before it counts as failed for that operation. Shorter than a client's
    /// patience, so that a slow replica is known to be slow before the client gives up.
    pub peer_timeout: Duration,
    /// How long a read that has been answered waits for stragglers before it repairs.
    pub repair_window: Duration,
    /// Whether reads repair replicas that were behind.
    pub read_repair: bool,
    /// First pause before a failed dial is repeated; doubles up to `redial_max`.
    pub redial_min: Duration,
    /// See `redial_min`.
    pub redial_max: Duration,
}

/// Whether and when a node that finds nobody founds a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Founding {
    /// After looking around for so long.
    After(Duration),
    /// Never: it was told whom to join, and keeps trying.
    Never,
}

impl NodeConfig {
    /// For machines of one network.
    pub fn lan(cluster: Name, profile: Profile, parameters: Parameters) -> NodeConfig {
        NodeConfig {
            cluster,
            cluster_secret: None,
            profile,
            parameters,
            founding: Founding::After(Duration::from_millis(1_000)),
            seed_count: 0,
            reconcile_interval: Duration::from_secs(1),
            peer_timeout: Duration::from_secs(2),
            repair_window: Duration::from_millis(500),
            read_repair: true,
            redial_min: Duration::from_millis(200),
            redial_max: Duration::from_secs(5),
        }
    }

    pub(crate) fn context_key(&self) -> ContextKey {
        ContextKey::of(&self.cluster, self.cluster_secret.as_deref())
    }
}
