//! What a node is told by its operator, as values that cannot be wrong.
//!
//! There is no hidden default: a preset names every number. What the operator wrote is read in `cli/settings.rs`.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    causality::context::ContextKey,
    handoff::{filling::FillingRules, hints::DropRule},
    ident::{Name, NodeId},
    membership::{
        change::{Parameters, Profile},
        view::PlacementRules,
    },
    merkle::{CompareRule, branch::ItemKey},
    quorum::{QuorumRules, put::Hinting},
    replica::hints::HintLimits,
    wire::client::Scope,
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
    /// In which ways membership changes reach others.
    pub history_ways: HistoryWays,
    /// What this node has to say of the partitions it fills it says together, no more often than this.
    pub statement_interval: Duration,
    /// How long one peer may take to answer before it counts as failed for that operation. Shorter than a client's
    /// patience, so that a slow replica is known to be slow before the client gives up.
    pub peer_timeout: Duration,
    /// How long a read that has been answered waits for stragglers before it repairs.
    pub repair_window: Duration,
    /// Objects above this many bytes are read as a digest from all replicas but one. Below it a second round trip costs
    /// more than the bytes.
    pub digest_above_bytes: u32,
    /// Whether reads repair replicas that were behind.
    pub read_repair: bool,
    /// Whether replicas are compared, and made equal, in the background and on demand.
    pub anti_entropy: AntiEntropy,
    /// Each pair of co-owners is compared once in this time. 10 min: what no hint and no read has repaired is repaired then.
    pub exchange_interval: Duration,
    /// How much an exchange sends and receives in a second, in bytes, objects included.
    pub exchange_bytes_per_second: u64,
    /// Whose copies and answers count where a request does not say `strict`.
    pub scope: Scope,
    /// Whether nodes keep hints for each other.
    pub hinting: Hinting,
    /// How much this node keeps for others.
    pub hint_limits: HintLimits,
    /// How old a hint may become. Then it is given up, and its partition is marked. Below `gc_grace`, when there is reaping.
    pub hint_ttl: Duration,
    /// After how long without a word of a member its administrator is told.
    pub dead_after: Duration,
    /// Who may administer this node, beside its own process.
    pub admins: BTreeSet<NodeId>,
    /// By what rules it works.
    pub rules: NodeRules,
    /// First pause before a failed dial is repeated; doubles up to `redial_max`.
    pub redial_min: Duration,
    /// See `redial_min`.
    pub redial_max: Duration,
}

/// By what rules a node works. All but [`NodeRules::sound`] exist so that tests can plant a bug and see it caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRules {
    /// How answers are counted.
    pub quorum: QuorumRules,
    /// When a hint is dropped.
    pub handoff: DropRule,
    /// Which branches of trees are compared.
    pub compare: CompareRule,
    /// How a history decides who serves what.
    pub placement: PlacementRules,
    /// How partitions are filled.
    pub filling: FillingRules,
}

impl NodeRules {
    /// The rules that keep the promises.
    pub fn sound() -> NodeRules {
        NodeRules {
            quorum: QuorumRules::sound(),
            handoff: DropRule::Acknowledged,
            compare: CompareRule::All,
            placement: PlacementRules::sound(),
            filling: FillingRules::sound(),
        }
    }
}

/// In which ways membership changes reach others. All are on; that each can be switched off is for tests, which see that each
/// suffices alone. What a node must know of others before it speaks itself, or says that nothing is needed of an old row any
/// more, it asks for whichever are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryWays {
    /// New changes are announced to whoever is connected, and announcements of others are heeded. An announcement is not
    /// kept for those who come late: where histories are not compared at random they are compared on a new connection, and
    /// whenever an announcement shows that something is missing.
    pub announced: Way,
    /// Histories are compared on every new connection. Where this is the only way, they are compared again over every
    /// connection when the own history has grown.
    pub on_identified: Way,
    /// Histories are compared with a random peer, again and again.
    pub at_random: Way,
}

/// Whether one way of telling is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It is.
    On,
    /// It is not.
    Off,
}

impl HistoryWays {
    /// Every way.
    pub fn all() -> HistoryWays {
        HistoryWays { announced: Way::On, on_identified: Way::On, at_random: Way::On }
    }

    /// None at all, for tests to switch one on.
    pub fn none() -> HistoryWays {
        HistoryWays { announced: Way::Off, on_identified: Way::Off, at_random: Way::Off }
    }

    /// Whether a new connection is used to ask for what was told before.
    pub(crate) fn compares_on_connection(&self) -> bool {
        self.on_identified == Way::On || (self.announced == Way::On && self.at_random == Way::Off)
    }

    /// Whether nobody would learn of a new change but over connections that stand already.
    pub(crate) fn compares_on_growth(&self) -> bool {
        *self == HistoryWays { on_identified: Way::On, ..HistoryWays::none() }
    }
}

/// Whether replicas are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AntiEntropy {
    /// As often as the interval says, and on demand.
    On,
    /// Never, and what others ask is refused.
    Off,
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
            history_ways: HistoryWays::all(),
            statement_interval: Duration::from_secs(5),
            peer_timeout: Duration::from_secs(2),
            repair_window: Duration::from_millis(500),
            digest_above_bytes: 4 << 10,
            read_repair: true,
            anti_entropy: AntiEntropy::On,
            exchange_interval: Duration::from_secs(600),
            exchange_bytes_per_second: 32 << 20,
            scope: Scope::Sloppy,
            hinting: Hinting::On,
            // A day of a million small writes for one node; four such nodes.
            hint_limits: HintLimits { target_bytes: 1 << 30, total_bytes: 4 << 30 },
            hint_ttl: Duration::from_secs(12 * 3_600),
            dead_after: Duration::from_secs(15 * 60),
            admins: BTreeSet::new(),
            rules: NodeRules::sound(),
            redial_min: Duration::from_millis(200),
            redial_max: Duration::from_secs(5),
        }
    }

    /// What items of Merkle trees are hashed with.
    pub fn item_key(&self) -> ItemKey {
        ItemKey::of(&self.cluster)
    }

    pub(crate) fn context_key(&self) -> ContextKey {
        ContextKey::of(&self.cluster, self.cluster_secret.as_deref())
    }
}
