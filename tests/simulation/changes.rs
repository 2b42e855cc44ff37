//! Random runs in which members come and go: joins, leaves, losses, removals, replacements, islands that meet, mixed with
//! client work and faults.

use std::collections::{BTreeMap, BTreeSet};

use quorate::{
    config::{AntiEntropy, Founding, NodeRules},
    ident::NodeId,
    membership::{
        change::{Change, ChangeKind},
        roster::Standing,
    },
    node::effect::Stop,
    quorum::put::Hinting,
    wire::{
        administration::{Force, MembershipOrder, Order},
        client::{ClientRequest, ClientResponse},
    },
};

use crate::{
    checker::{self, Violation},
    cluster::{Cluster, Setup},
    faults::{self, isolate},
    network::Weather,
    run::Report,
    run_changes::Run,
    workload::Trust,
};

/// The wake-up call of changes; that of clients and faults is another.
pub(crate) const CHANGE: u64 = 1 << 33;

/// What a run is made of, beside its seed.
#[derive(Debug, Clone)]
pub(crate) struct ChangePlan {
    pub(crate) setup: Setup,
    /// How many nodes there are at first, in each of so many islands.
    pub(crate) islands: Vec<usize>,
    pub(crate) trouble: Trouble,
    pub(crate) healing: Healing,
    /// How long members come and go, in simulated ms.
    pub(crate) changing_ms: u64,
}

/// What brings data from one node to another once a write is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Healing {
    /// Hints, read repair and comparing as well as filling.
    All,
    /// Filling alone: nothing makes good later what it has missed.
    FillingAlone,
}

/// What happens beside planned changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nothing: no operation may fail.
    None,
    /// Messages get lost, nodes crash and come back, the network is cut.
    Faults,
    /// That, and now and then a node is lost for good, with its disk.
    Losses,
}

/// What became of a computer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Not started yet.
    Fresh,
    /// In use; it may be down for a while.
    InUse,
    /// It was told to leave.
    Leaving,
    /// Lost for good, and not removed yet.
    Lost,
    /// Nothing more is expected of it.
    Over,
}

/// Changes to come, until they end.
pub(crate) struct Changes {
    trouble: Trouble,
    fates: Vec<Fate>,
    pub(crate) counts: ChangeCounts,
    /// Who was removed for ever.
    banned: BTreeSet<NodeId>,
    /// Orders that were not answered yet, by the number of the request: to whom, and what.
    orders: BTreeMap<u64, (usize, MembershipOrder)>,
    is_over: bool,
}

/// How often something was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ChangeCounts {
    pub(crate) joins: u64,
    pub(crate) leaves: u64,
    pub(crate) stays: u64,
    pub(crate) removals: u64,
    pub(crate) replacements: u64,
    pub(crate) merges: u64,
    pub(crate) losses: u64,
}

impl ChangeCounts {
    pub(crate) fn add(&mut self, other: &ChangeCounts) {
        self.joins += other.joins;
        self.leaves += other.leaves;
        self.stays += other.stays;
        self.removals += other.removals;
        self.replacements += other.replacements;
        self.merges += other.merges;
        self.losses += other.losses;
    }
}

impl ChangePlan {
    /// The ordinary run of `seed`: one to four nodes at first, up to nine in the end.
    pub(crate) fn ordinary(seed: u64) -> ChangePlan {
        let setup = Setup { zones: [0, 0, 3][(seed % 3) as usize], ..Setup::sound(9, 3) };
        let trouble = [Trouble::Faults, Trouble::Losses, Trouble::None][(seed % 5 % 3) as usize];
        let islands = match seed % 8 {
            5 => vec![1, 1],
            6 => vec![2, 1],
            7 => vec![2, 2, 1],
            first => vec![1 + (first % 4) as usize],
        };
        ChangePlan { setup, islands, trouble, healing: Healing::All, changing_ms: 20_000 }
    }

    /// The ordinary run of `seed`, in which nothing but filling brings data to others.
    pub(crate) fn bare(seed: u64) -> ChangePlan {
        let plan = ChangePlan::ordinary(seed);
        let setup = Setup { hinting: Hinting::Off, read_repair: false, anti_entropy: AntiEntropy::Off, ..plan.setup };
        let trouble = if plan.trouble == Trouble::None { Trouble::Faults } else { plan.trouble };
        ChangePlan { setup, trouble, healing: Healing::FillingAlone, ..plan }
    }

    /// The same with other rules.
    pub(crate) fn with_rules(seed: u64, rules: NodeRules) -> ChangePlan {
        let plan = ChangePlan::bare(seed);
        ChangePlan { setup: Setup { node_rules: rules, ..plan.setup }, ..plan }
    }

    pub(crate) fn trust(&self) -> Trust {
        match self.trouble {
            Trouble::None | Trouble::Faults => Trust::Changing,
            Trouble::Losses => Trust::ChangingAndLost,
        }
    }
}

/// Plays `plan` under `seed`. Ends at the first violation.
pub(crate) fn run(seed: u64, plan: &ChangePlan) -> (Report, ChangeCounts) {
    let mut cluster = Cluster::new(seed, &plan.setup);
    let mut run = Run::new(&mut cluster, plan);
    let result = run.whole(plan);
    let (operations, counts) = (run.operation_count(), run.counts());
    let report = Report { violation: result.err(), operations, steps: cluster.step_count, trace: cluster.trace() };
    (report, counts)
}

impl Changes {
    pub(crate) fn new(trouble: Trouble, started: usize, cluster: &mut Cluster) -> Changes {
        cluster.wake(100, CHANGE);
        let fate = |index| if index < started { Fate::InUse } else { Fate::Fresh };
        let fates = (0..cluster.machines.len()).map(fate).collect();
        let (counts, banned, orders) = (ChangeCounts::default(), BTreeSet::new(), BTreeMap::new());
        Changes { trouble, fates, counts, banned, orders, is_over: false }
    }

    /// One more thing changes.
    pub(crate) fn strike(&mut self, cluster: &mut Cluster) {
        if self.is_over {
            return;
        }
        self.note_ends(cluster);
        let one = cluster.dice.index(cluster.machines.len());
        match cluster.dice.below(20) {
            0..5 => self.join(cluster),
            5..8 => self.leave(cluster, one),
            8 => self.stay(cluster),
            9..11 if self.trouble == Trouble::Losses => self.lose(cluster, one),
            11..15 if self.trouble == Trouble::Losses => self.bury(cluster),
            15..20 if self.trouble != Trouble::None => self.make_trouble(cluster, one),
            _ => {}
        }
        let delay_ms = cluster.dice.between(100, 2_500);
        cluster.wake(delay_ms, CHANGE);
    }

    /// No more changes; who is lost is removed, who is off comes back.
    pub(crate) fn end(&mut self, cluster: &mut Cluster) {
        self.is_over = true;
        cluster.network.mend_all();
        for (index, fate) in self.fates.iter().enumerate() {
            if matches!(fate, Fate::InUse | Fate::Leaving) && cluster.machines[index].ended.is_none() {
                faults::repair_disk(&cluster.machines[index]);
                cluster.start(index);
            }
        }
    }

    /// Goes on with what is still to be done once nothing new begins.
    pub(crate) fn finish(&mut self, cluster: &mut Cluster) {
        self.note_ends(cluster);
        self.bury(cluster);
    }

    /// How many members there must be in the end.
    pub(crate) fn expected(&self, cluster: &Cluster) -> usize {
        let is_member = |(index, fate): (usize, &Fate)| {
            matches!(fate, Fate::InUse | Fate::Leaving) && cluster.machines[index].ended.is_none()
        };
        self.fates.iter().enumerate().filter(|it| is_member(*it)).count()
    }

    fn note_ends(&mut self, cluster: &Cluster) {
        for (fate, machine) in self.fates.iter_mut().zip(&cluster.machines) {
            if let Some(stop) = machine.ended {
                self.counts.leaves += u64::from(stop == Stop::Left && *fate != Fate::Over);
                *fate = Fate::Over;
            }
        }
    }

    fn join(&mut self, cluster: &mut Cluster) {
        let Some(index) = self.fates.iter().position(|fate| *fate == Fate::Fresh) else { return };
        // An island of its own would be another run: what is read on it before it meets the others need not be theirs.
        cluster.machines[index].config.founding = Founding::Never;
        self.counts.joins += 1;
        self.fates[index] = Fate::InUse;
        cluster.start(index);
    }

    fn leave(&mut self, cluster: &mut Cluster, index: usize) {
        let staying = self.fates.iter().filter(|fate| **fate == Fate::InUse).count();
        if self.fates[index] == Fate::InUse && staying > 1 && is_member(cluster, index) {
            self.fates[index] = Fate::Leaving;
            self.order(cluster, index, MembershipOrder::Leave);
        }
    }

    fn stay(&mut self, cluster: &mut Cluster) {
        let Some(index) = self.fates.iter().position(|fate| *fate == Fate::Leaving) else { return };
        if cluster.is_up(index) && cluster.machines[index].ended.is_none() {
            self.fates[index] = Fate::InUse;
            self.counts.stays += 1;
            self.order(cluster, index, MembershipOrder::Stay);
        }
    }

    /// A node is gone for good. A second one only when what was on the first is made good: of two copies one must be left.
    fn lose(&mut self, cluster: &mut Cluster, index: usize) {
        let is_whole = checker::unsettled_partition(cluster).is_none() && checker::hints_left(cluster).is_none();
        let others = self.fates.iter().filter(|fate| **fate == Fate::InUse).count();
        let may_be = self.counts.losses == 0 || is_whole && checker::histories_differ(cluster).is_none();
        let is_alone = holds_something_alone(cluster, index);
        if self.fates[index] != Fate::InUse || self.fates.contains(&Fate::Lost) || others < 3 || !may_be || is_alone {
            return;
        }
        self.fates[index] = Fate::Lost;
        self.counts.losses += 1;
        cluster.crash(index, 20);
        if cluster.dice.permille(600) {
            cluster.machines[index].lose_disk();
        }
    }

    /// Somebody removes who is lost, or has a fresh one take its place.
    fn bury(&mut self, cluster: &mut Cluster) {
        let Some(lost) = self.fates.iter().position(|fate| *fate == Fate::Lost) else { return };
        let node = cluster.machines[lost].id;
        let knows = |index: &usize| cluster.node(*index).is_some_and(|it| it.view().removed.contains_key(&node));
        if (0..cluster.machines.len()).any(|index| knows(&index)) {
            self.fates[lost] = Fate::Over;
            self.banned.insert(node);
            if !cluster.machines[lost].is_lost {
                // It was only away, and comes back with all that it held.
                let delay_ms = cluster.dice.between(5, 3_000);
                cluster.start_later(lost, delay_ms);
            }
            return;
        }
        let up: Vec<usize> = (0..cluster.machines.len()).filter(|index| is_member(cluster, *index)).collect();
        if up.is_empty() {
            return;
        }
        let by = up[cluster.dice.index(up.len())];
        let force = if cluster.dice.permille(300) { Force::Yes } else { Force::No };
        let heir = self.fates.iter().position(|fate| *fate == Fate::Fresh);
        match heir.filter(|_| cluster.dice.permille(400) && !self.is_over) {
            Some(heir) => {
                let new = cluster.machines[heir].id;
                self.order(cluster, by, MembershipOrder::Replace { old: node, new, force });
                self.counts.replacements += 1;
                cluster.machines[heir].config.founding = Founding::Never;
                self.fates[heir] = Fate::InUse;
                cluster.start_later(heir, 500);
            }
            None => {
                self.order(cluster, by, MembershipOrder::Remove { node, force });
                self.counts.removals += 1;
            }
        }
    }

    fn order(&mut self, cluster: &mut Cluster, index: usize, order: MembershipOrder) {
        let number = cluster.submit(index, ClientRequest::Administer(Order::Membership(order)));
        self.orders.extend(number.map(|number| (number, (index, order))));
    }

    /// A request was answered; if it was an order that is said to be carried out, it must be on the disk.
    pub(crate) fn on_reply(&mut self, cluster: &mut Cluster, number: u64, response: &ClientResponse) {
        let Some((node, order)) = self.orders.remove(&number) else { return };
        if matches!(response, ClientResponse::Administered)
            && let Some(violation) = lost_order(cluster, node, order)
        {
            cluster.checker.report(violation);
        }
    }

    fn make_trouble(&mut self, cluster: &mut Cluster, index: usize) {
        let other = cluster.dice.index(cluster.machines.len());
        match cluster.dice.below(8) {
            0 | 1 if matches!(self.fates[index], Fate::InUse | Fate::Leaving) => {
                cluster.crash(index, 20);
                let delay_ms = cluster.dice.between(5, 3_000);
                cluster.start_later(index, delay_ms);
            }
            2 if index != other => cluster.cut(index, other),
            3 => isolate(cluster, index),
            4 => cluster.fail_next_commit(index),
            5 => cluster.machines[index].paused_until_ms = cluster.now_ms + cluster.dice.between(50, 3_000),
            _ => cluster.network.mend_all(),
        }
    }
}

/// Whether a node has told an administrator that `order` is carried out though its disk knows nothing of that.
pub(crate) fn lost_order(cluster: &Cluster, node: usize, order: MembershipOrder) -> Option<Violation> {
    let id = cluster.machines[node].id;
    let history = cluster.machines[node].history();
    // Of its own coming and going the last word counts.
    let is_going = |change: &Change| match change.kind {
        ChangeKind::Leaving | ChangeKind::Left => Some(true),
        ChangeKind::Joined(_) => Some(false),
        _ => None,
    };
    let own = history.iter().filter(|change| change.author == id).filter_map(is_going).last();
    let is_gone = |node| history.iter().any(|change| change.kind.removal().is_some_and(|it| it.node == node));
    let is_stored = match order {
        MembershipOrder::Leave => own == Some(true),
        MembershipOrder::Stay => own != Some(true),
        MembershipOrder::Remove { node, .. } | MembershipOrder::Replace { old: node, .. } => is_gone(node),
    };
    (!is_stored).then_some(Violation::OrderLost { node })
}

fn is_member(cluster: &Cluster, index: usize) -> bool {
    let id: NodeId = cluster.machines[index].id;
    let stays = |standing| standing == Standing::Staying;
    cluster.node(index).is_some_and(|node| node.view().members.get(&id).is_some_and(|it| stays(it.standing)))
}

/// Whether some node believes that a row counts in which nobody is but this one: as many as a quorum would be lost.
fn holds_something_alone(cluster: &Cluster, index: usize) -> bool {
    let id = cluster.machines[index].id;
    let views = cluster.machines.iter().filter_map(|machine| Some(machine.process.as_ref()?.node.view()));
    views.into_iter().any(|view| {
        let is_alone = |row: &[NodeId]| row == [id];
        let is_alone_in = |it| is_alone(view.row(it)) || view.configurations.active(it).into_iter().any(is_alone);
        view.partitions().any(is_alone_in)
    })
}

/// How foul the weather is.
pub(crate) fn weather_of(trouble: Trouble) -> Weather {
    match trouble {
        Trouble::None => Weather::FAIR,
        Trouble::Faults | Trouble::Losses => Weather::FOUL,
    }
}

/// Something is left that should not be once nothing new begins.
pub(crate) fn unfinished(cluster: &Cluster, changes: &Changes) -> Option<Violation> {
    for (node, machine) in cluster.machines.iter().enumerate() {
        let Some(process) = &machine.process else {
            let is_to_come = changes.banned.contains(&machine.id) && !machine.is_lost && machine.ended.is_none();
            if is_to_come {
                return Some(Violation::RemovedAndBack { node });
            }
            continue;
        };
        // Whoever was removed hears of it, and serves nobody.
        let is_back = process.node.view().members.keys().any(|member| changes.banned.contains(member));
        if is_back || changes.banned.contains(&machine.id) {
            return Some(Violation::RemovedAndBack { node });
        }
    }
    let unfinished = checker::histories_differ(cluster).or_else(|| checker::unsettled_partition(cluster));
    unfinished.or_else(|| checker::parted(cluster)).or_else(|| {
        let expected = changes.expected(cluster);
        cluster.machines.iter().enumerate().find_map(|(node, machine)| {
            let members = &machine.process.as_ref()?.node.view().members;
            let is_leaving = members.values().any(|member| member.standing == Standing::Leaving);
            let members = members.len();
            (members != expected || is_leaving).then_some(Violation::HistoriesDiffer { node, members })
        })
    })
}
