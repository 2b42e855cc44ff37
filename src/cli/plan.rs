//! What a planned change of who belongs to the cluster comes to, before anybody orders it.
//!
//! A pure function of a view, of who can be reached, and of how many keys partitions have: the ring as it is and as it
//! would be, compared. It decides nothing; whether the change is refused is for the node that is asked.

use std::collections::BTreeMap;

use crate::{
    ident::{Name, NodeId},
    membership::{roster::Standing, view::View},
    ring::{Ring, RingMember, token::Partition},
};

/// A planned change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// A member hands over what it holds, and goes.
    Leave {
        /// Who.
        node: NodeId,
    },
    /// A member is gone for good.
    Remove {
        /// Who.
        node: NodeId,
    },
    /// A member is gone for good, and another takes over its rows.
    Replace {
        /// Who is gone.
        old: NodeId,
        /// Who takes over.
        new: NodeId,
    },
}

impl Intent {
    /// Who goes.
    pub(crate) fn goer(&self) -> NodeId {
        match self {
            Intent::Leave { node } | Intent::Remove { node } => *node,
            Intent::Replace { old, .. } => *old,
        }
    }

    /// Who takes over, if that is one alone.
    pub(crate) fn heir(&self) -> Option<NodeId> {
        match self {
            Intent::Replace { new, .. } => Some(*new),
            Intent::Leave { .. } | Intent::Remove { .. } => None,
        }
    }

    /// Its name, as programs know it.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Intent::Leave { .. } => "leave",
            Intent::Remove { .. } => "remove",
            Intent::Replace { .. } => "replace",
        }
    }
}

/// What a client knows beside the view.
pub(crate) struct Known<'a> {
    /// The node that is asked.
    pub(crate) node: NodeId,
    /// Whether the asked node reaches a member, itself included.
    pub(crate) is_up: &'a dyn Fn(&NodeId) -> bool,
    /// How many keys partitions have, tombstones included, as far as that is known.
    pub(crate) key_counts: &'a BTreeMap<Partition, u64>,
    /// Keys that the asked node has in all, and about how many bytes they take.
    pub(crate) asked: (u64, u64),
    /// Bytes that an exchange moves in a second, at most, as the asked node is set up.
    pub(crate) bytes_per_second: u64,
}

/// What an [`Intent`] comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) intent: Intent,
    /// Partitions of the ring.
    pub(crate) partition_count: u64,
    /// Replicas that a key should have.
    pub(crate) replica_count: usize,
    /// Members that stay, before and after.
    pub(crate) member_counts: (usize, usize),
    /// From whom to whom which vnodes go, ascending. None from a member to itself; may be empty.
    pub(crate) moves: BTreeMap<(NodeId, NodeId), Vec<Partition>>,
    /// Of these, those that neither the one who goes nor its heir gives up.
    pub(crate) among_others: u64,
    /// Vnodes that nobody takes over: there are too few members.
    pub(crate) untaken: u64,
    /// Keys that are copied, once for each vnode.
    pub(crate) keys: Keys,
    /// About how many bytes those take, by the mean of a key at the asked node; nothing where it has none.
    pub(crate) bytes: Option<u64>,
    /// For how many seconds at least those bytes are on their way to whoever takes over most of them, if all fill as fast as
    /// the asked node may.
    pub(crate) seconds: Option<u64>,
    /// How replicas are spread over zones, before and after.
    pub(crate) zones: (Spread, Spread),
    /// So many copies that cannot be reached: in how many partitions, until they are filled. Nothing for a leaver, which
    /// serves until then.
    pub(crate) missing: BTreeMap<usize, u64>,
    /// Partitions of which fewer than a quorum can be reached until then.
    pub(crate) short_count: u64,
    /// What else should be known, or is out of the ordinary.
    pub(crate) remarks: Vec<Remark>,
}

/// How many keys a plan copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// Nobody who was asked holds any of it.
    Unknown,
    /// The asked node holds a part of it, and the rest is taken to be like that.
    About(u64),
    /// The asked node holds all of it.
    Exactly(u64),
}

/// How the replicas of a ring are spread over zones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Spread {
    /// Members of each zone; those without a zone share a nameless one.
    pub(crate) zones: BTreeMap<Option<Name>, usize>,
    /// Partitions with more than one replica in some zone.
    pub(crate) shared_count: u64,
}

/// See [`Plan::remarks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remark {
    /// The one who goes is no member, as far as is known.
    NoMember,
    /// It is about to leave already, so that its vnodes have their heirs.
    LeavesAlready,
    /// It can be reached.
    IsAlive,
    /// It is the very node that is asked.
    IsAsked,
    /// Nobody would be left.
    IsLast,
    /// The heir has not joined: it counts as of the zone and the weight of the one it replaces.
    HeirUnknown,
    /// The heir is a member, and gives up what it has now: so many vnodes.
    HeirMoves(u64),
    /// The heir was removed for ever.
    HeirRemoved,
    /// The heir is the one whose rows it is to take over.
    HeirIsGoer,
}

impl Plan {
    /// What `intent` comes to; nothing before the cluster is founded.
    pub(crate) fn new(intent: Intent, view: &View, known: &Known<'_>) -> Option<Plan> {
        let before = view.ring.as_deref()?;
        let after = Ring::new(members_after(intent, before.members()), before.partitions(), before.replicas());
        let mut plan = Plan {
            intent,
            partition_count: before.partitions().get().into(),
            replica_count: before.replicas().into(),
            member_counts: (before.members().len(), after.members().len()),
            moves: BTreeMap::new(),
            among_others: 0,
            untaken: 0,
            keys: Keys::Unknown,
            bytes: None,
            seconds: None,
            zones: (Spread::of(before), Spread::of(&after)),
            missing: BTreeMap::new(),
            short_count: 0,
            remarks: remarks(intent, view, known),
        };
        let mut copied = Vec::new();
        for partition in before.partitions().iter() {
            let taken_count = plan.compare(partition, before.row(partition), after.row(partition));
            copied.extend(std::iter::repeat_n(partition, taken_count));
            if !matches!(intent, Intent::Leave { .. }) {
                plan.add_missing(partition, view, known);
            }
        }
        plan.keys = count_keys(&copied, known.key_counts);
        plan.bytes = plan.keys.bytes(known.asked);
        plan.seconds = plan.bytes.map(|bytes| plan.seconds_for(bytes, known.bytes_per_second));
        Some(plan)
    }

    /// How many vnodes move.
    pub(crate) fn vnode_count(&self) -> u64 {
        self.moves.values().map(|partitions| partitions.len() as u64).sum()
    }

    /// How long `bytes` take if each of those who take over has its share of them, at this rate. Rounded up.
    fn seconds_for(&self, bytes: u64, bytes_per_second: u64) -> u64 {
        let mut taken: BTreeMap<NodeId, u64> = BTreeMap::new();
        for ((_, to), partitions) in &self.moves {
            *taken.entry(*to).or_default() += partitions.len() as u64;
        }
        let most = u128::from(taken.into_values().max().unwrap_or(0));
        let share = u128::from(bytes) * most / u128::from(self.vnode_count().max(1));
        u64::try_from(share.div_ceil(u128::from(bytes_per_second.max(1)))).unwrap_or(u64::MAX)
    }

    /// Adds what becomes of one row. Returns how many vnodes of it somebody takes over.
    fn compare(&mut self, partition: Partition, before: &[NodeId], after: &[NodeId]) -> usize {
        let given: Vec<&NodeId> = before.iter().filter(|node| !after.contains(node)).collect();
        let taken: Vec<&NodeId> = after.iter().filter(|node| !before.contains(node)).collect();
        let (goer, heir) = (self.intent.goer(), self.intent.heir());
        for (from, to) in given.iter().zip(&taken) {
            self.moves.entry((**from, **to)).or_default().push(partition);
            self.among_others += u64::from(**from != goer && Some(**from) != heir);
        }
        self.untaken += given.len().saturating_sub(taken.len()) as u64;
        taken.len()
    }

    /// Adds what can be reached of `partition` once the one who goes is not counted any more, by the rule by which nodes
    /// refuse a removal.
    fn add_missing(&mut self, partition: Partition, view: &View, known: &Known<'_>) {
        let goer = self.intent.goer();
        let is_gone = |node: &NodeId| *node == goer || view.removed.contains_key(node);
        let (mut worst, mut is_short) = (0, false);
        for row in view.configurations.active(partition).into_iter().filter(|row| row.contains(&goer)) {
            let left = row.iter().filter(|node| !is_gone(node)).count();
            let live = row.iter().filter(|node| !is_gone(node) && (known.is_up)(node)).count();
            worst = worst.max(row.len() - live);
            is_short |= live < (row.len() / 2 + 1).min(left).max(1);
        }
        if worst > 0 {
            *self.missing.entry(worst).or_default() += 1;
        }
        self.short_count += u64::from(is_short);
    }
}

impl Keys {
    /// How many there are, whether exactly or about.
    pub(crate) fn count(self) -> Option<u64> {
        match self {
            Keys::Unknown => None,
            Keys::About(count) | Keys::Exactly(count) => Some(count),
        }
    }

    /// About how many bytes they take where so many keys take so many.
    fn bytes(self, (keys, bytes): (u64, u64)) -> Option<u64> {
        let bytes = u128::from(bytes) * u128::from(self.count()?);
        u64::try_from(bytes.checked_div(u128::from(keys))?).ok()
    }
}

impl Spread {
    fn of(ring: &Ring) -> Spread {
        let mut zones = BTreeMap::new();
        let mut zone_of = BTreeMap::new();
        for member in ring.members() {
            *zones.entry(member.zone.clone()).or_default() += 1;
            zone_of.insert(member.id, &member.zone);
        }
        let is_shared = |row: &[NodeId]| {
            let mut zones: Vec<_> = row.iter().map(|node| zone_of.get(node)).collect();
            zones.sort_unstable();
            zones.windows(2).any(|pair| pair[0] == pair[1])
        };
        let shared = ring.partitions().iter().filter(|partition| is_shared(ring.row(*partition)));
        Spread { shared_count: shared.count() as u64, zones }
    }

    /// Whether anybody has said in which zone it is.
    pub(crate) fn is_in_use(&self) -> bool {
        self.zones.keys().any(Option::is_some)
    }

    /// Zones with fewer members than their share of so many replicas. Of a single zone it says nothing that the number of
    /// members does not.
    pub(crate) fn small(&self, replica_count: usize) -> impl Iterator<Item = (&Option<Name>, usize)> {
        let share = replica_count / self.zones.len().max(1);
        self.zones
            .iter()
            .map(|(zone, count)| (zone, *count))
            .filter(move |(_, count)| self.zones.len() > 1 && *count < share)
    }
}

/// Who stays. The heir is scored as the one whose rows it takes over.
fn members_after(intent: Intent, members: &[RingMember]) -> Vec<RingMember> {
    let goer = intent.goer();
    let mut after: Vec<RingMember> = members.iter().filter(|member| member.id != goer).cloned().collect();
    let (Some(heir), Some(old)) = (intent.heir(), members.iter().find(|member| member.id == goer)) else {
        return after;
    };
    match after.iter_mut().find(|member| member.id == heir) {
        Some(member) => member.placement = old.placement,
        None => after.push(RingMember { id: heir, ..old.clone() }),
    }
    after
}

fn remarks(intent: Intent, view: &View, known: &Known<'_>) -> Vec<Remark> {
    let goer = intent.goer();
    if intent.heir() == Some(goer) {
        return vec![Remark::HeirIsGoer];
    }
    let mut remarks = Vec::new();
    let standing = view.members.get(&goer).map(|member| member.standing);
    match standing {
        None | Some(Standing::Left) => remarks.push(Remark::NoMember),
        Some(Standing::Leaving) => remarks.push(Remark::LeavesAlready),
        Some(Standing::Staying) => {}
    }
    let stays = |(node, standing): (&NodeId, Standing)| *node != goer && standing == Standing::Staying;
    if !view.members.iter().any(|(node, member)| stays((node, member.standing))) && intent.heir().is_none() {
        remarks.push(Remark::IsLast);
    }
    if !matches!(intent, Intent::Leave { .. }) && standing.is_some() && (known.is_up)(&goer) {
        remarks.push(if goer == known.node { Remark::IsAsked } else { Remark::IsAlive });
    }
    if let Some(heir) = intent.heir() {
        let held = view.ring.as_ref().map_or(0, |ring| ring.held_by(&heir).count() as u64);
        remarks.extend(match (view.removed.contains_key(&heir), view.members.contains_key(&heir)) {
            (true, _) => Some(Remark::HeirRemoved),
            (false, true) => Some(Remark::HeirMoves(held)),
            (false, false) => Some(Remark::HeirUnknown),
        });
    }
    remarks
}

/// `copied` has each partition as often as somebody takes it over.
fn count_keys(copied: &[Partition], key_counts: &BTreeMap<Partition, u64>) -> Keys {
    let counted: Vec<u64> = copied.iter().filter_map(|partition| key_counts.get(partition)).copied().collect();
    let sum: u64 = counted.iter().sum();
    match counted.len() {
        all if all == copied.len() => Keys::Exactly(sum),
        0 => Keys::Unknown,
        some => {
            let about = u128::from(sum) * copied.len() as u128 / some as u128;
            Keys::About(u64::try_from(about).unwrap_or(u64::MAX))
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
