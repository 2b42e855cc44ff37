//! Who knows and holds what, and what each may do next.
//!
//! What a machine does follows from the product's own [`Filling`] and [`View`](quorate::membership::view::View). Only
//! the store is not: a machine holds of each partition the set of writes that it has, or does not hold it at all.

use std::{collections::BTreeMap, rc::Rc};

use quorate::{
    clock::Instant,
    digest::Digest,
    handoff::filling::Filling,
    ident::{Name, NodeId},
    membership::{
        change::{ChangeKind, Parameters, Profile, Removal, Replacement, Signer, Statement},
        roster,
    },
    ring::{
        partition_set::PartitionSet,
        token::{Partition, PartitionCount},
    },
};

use crate::{
    exchanges::Exchange,
    library::{Known, Library},
    operations::Traffic,
    plan::{Plan, Rules},
};

/// A set of writes, by their numbers.
pub(crate) type Writes = u64;

/// What one machine knows and holds: all of it that a probe looks at, and may change in a copy.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) id: NodeId,
    pub(crate) known: Rc<Known>,
    /// Partition after partition, what it has of each that it holds.
    pub(crate) held: Vec<Option<Writes>>,
    pub(crate) life: Life,
}

/// What became of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Not started yet.
    Fresh,
    Up,
    /// Lost for good.
    Lost,
    /// It has left.
    Left,
}

impl Place {
    /// Takes up what it learned: what it is to hold it holds from now on, what it need not hold it has dropped.
    pub(crate) fn learn(&mut self, known: &Rc<Known>) {
        self.known = Rc::clone(known);
        for partition in known.view.partitions() {
            let held = &mut self.held[usize::from(partition.0)];
            if known.view.holds(&self.id, partition) {
                held.get_or_insert(0);
            } else {
                *held = None;
            }
        }
    }

    pub(crate) fn has(&self, partition: Partition) -> Option<Writes> {
        self.held[usize::from(partition.0)]
    }

    pub(crate) fn take(&mut self, partition: Partition, writes: Writes) {
        if let Some(held) = &mut self.held[usize::from(partition.0)] {
            *held |= writes;
        }
    }
}

pub(crate) struct World {
    pub(crate) library: Library,
    pub(crate) partitions: PartitionCount,
    pub(crate) places: Vec<Place>,
    pub(crate) fillings: Vec<Filling>,
    signers: Vec<Signer>,
    zone_count: usize,
    pub(crate) now: Instant,
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) traffic: Traffic,
    /// Of each partition, sets of founders whose data somebody has said to be in one place now.
    pub(crate) merged: BTreeMap<Partition, Vec<Vec<NodeId>>>,
    pub(crate) counts: Counts,
}

/// How often something was done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) steps: u64,
    pub(crate) writes: u64,
    pub(crate) reads: u64,
    pub(crate) probes: u64,
    pub(crate) filled: u64,
    pub(crate) retired: u64,
    pub(crate) joins: u64,
    pub(crate) leaves: u64,
    pub(crate) removals: u64,
    pub(crate) replacements: u64,
    pub(crate) histories: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Counts) {
        self.steps += other.steps;
        self.writes += other.writes;
        self.reads += other.reads;
        self.probes += other.probes;
        self.filled += other.filled;
        self.retired += other.retired;
        self.joins += other.joins;
        self.leaves += other.leaves;
        self.removals += other.removals;
        self.replacements += other.replacements;
        self.histories += other.histories;
    }
}

impl World {
    pub(crate) fn new(plan: &Plan, rules: Rules, partitions: PartitionCount) -> World {
        let mut library = Library::new(rules.placement, rules.quorum);
        let nothing = library.nothing();
        let numbers = 1..=u8::try_from(plan.machine_count).expect("a few machines");
        let signers: Vec<Signer> = numbers.map(|number| Signer::from_seed([number; 32])).collect();
        let count = usize::try_from(partitions.get()).expect("few partitions");
        let place = |signer: &Signer| Place {
            id: signer.node_id(),
            known: Rc::clone(&nothing),
            held: vec![None; count],
            life: Life::Fresh,
        };
        let places: Vec<Place> = signers.iter().map(place).collect();
        let fillings = places.iter().map(|place| Filling::new(place.id, rules.filling)).collect();
        let mut world = World {
            library,
            partitions,
            places,
            fillings,
            signers,
            zone_count: plan.zone_count,
            now: Instant(1_000),
            exchanges: Vec::new(),
            traffic: Traffic::new(rules.quorum),
            merged: BTreeMap::new(),
            counts: Counts::default(),
        };
        world.found(plan);
        world
    }

    /// The islands of the plan, each settled.
    fn found(&mut self, plan: &Plan) {
        let mut next = 0;
        for size in &plan.islands {
            let members: Vec<usize> = (next..next + size).collect();
            next += size;
            let parameters = Parameters { partitions: self.partitions, replicas: plan.replicas };
            self.places[members[0]].life = Life::Up;
            self.say(members[0], ChangeKind::Founded(parameters));
            self.say(members[0], ChangeKind::Joined(self.profile(members[0])));
            for member in &members[1..] {
                self.join(*member, members[0]);
            }
            self.settle(&members);
        }
    }

    /// Lets those do all that they can until nothing changes any more. Returns whether it came to that.
    pub(crate) fn settle(&mut self, all: &[usize]) -> bool {
        for _ in 0..60 {
            let members: Vec<usize> = all.iter().copied().filter(|index| self.is_up(*index)).collect();
            let members = members.as_slice();
            self.now = Instant(self.now.0 + 50_000);
            let before: Vec<Digest> = members.iter().map(|member| self.places[*member].known.digest).collect();
            for one in members {
                for other in members {
                    self.meet(*one, *other);
                }
            }
            for member in members {
                for source in members {
                    if self.is_up(*source) && self.begin_exchange(*member, *source) {
                        self.answer_exchange(0);
                        self.end_exchange(0);
                    }
                }
                while self.state(*member) {}
                self.leave_for_good(*member, members);
            }
            let after: Vec<Digest> = members.iter().map(|member| self.places[*member].known.digest).collect();
            let is_same = after.iter().all(|digest| *digest == after[0]);
            if before == after && is_same {
                return true;
            }
        }
        false
    }

    pub(crate) fn is_up(&self, index: usize) -> bool {
        self.places[index].life == Life::Up
    }

    /// All that are up.
    pub(crate) fn up(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|index| self.is_up(*index)).collect()
    }

    /// The first that has this life.
    pub(crate) fn find(&self, life: Life) -> Option<usize> {
        self.places.iter().position(|place| place.life == life)
    }

    /// The first that is lost and was not removed, as far as anybody knows that is up; or that has left, of which nobody
    /// knows any more.
    pub(crate) fn find_unburied(&self) -> Option<usize> {
        let up = || self.places.iter().filter(|place| place.life == Life::Up).map(|place| &place.known.view);
        self.places.iter().position(|place| match place.life {
            Life::Lost => !up().any(|view| view.removed.contains_key(&place.id)),
            Life::Left => up().all(|view| view.members.contains_key(&place.id)),
            Life::Fresh | Life::Up => false,
        })
    }

    /// `index` is lost for good.
    pub(crate) fn lose(&mut self, index: usize) {
        self.places[index].life = Life::Lost;
        self.drop_operations_of(index);
    }

    /// `index` learns what `known` has.
    pub(crate) fn learn(&mut self, index: usize, known: &Rc<Known>) {
        let union = self.library.union(&self.places[index].known, known);
        self.take_up(index, &union);
    }

    /// Both learn what either knows. They know the same then, and know that.
    pub(crate) fn meet(&mut self, one: usize, other: usize) {
        let known = Rc::clone(&self.places[other].known);
        self.learn(one, &known);
        let known = Rc::clone(&self.places[one].known);
        self.learn(other, &known);
        if one != other {
            self.fillings[one].on_agreed(self.places[other].id);
            self.fillings[other].on_agreed(self.places[one].id);
        }
    }

    fn take_up(&mut self, index: usize, known: &Rc<Known>) {
        if known.digest == self.places[index].known.digest {
            return;
        }
        self.places[index].learn(known);
        self.fillings[index].on_view(&known.view, |_| false, self.now);
        self.on_coordinator_learned(index);
    }

    fn say(&mut self, index: usize, kind: ChangeKind) {
        let known = self.library.said(&self.places[index].known, &self.signers[index], kind);
        self.take_up(index, &known);
    }

    fn profile(&self, index: usize) -> Profile {
        let zone = (self.zone_count > 0).then(|| Name::new(&format!("z{}", index % self.zone_count)).expect("a name"));
        Profile { name: Name::new("ann").expect("a name"), zone, weight: 1, addresses: Vec::new() }
    }

    /// `index` joins those that `by` belongs to.
    pub(crate) fn join(&mut self, index: usize, by: usize) {
        self.places[index].life = Life::Up;
        self.meet(index, by);
        self.say(index, ChangeKind::Joined(self.profile(index)));
        self.counts.joins += 1;
    }

    /// `index` begins to leave, unless nobody would stay.
    pub(crate) fn leave(&mut self, index: usize) -> bool {
        let stays = |member: &roster::Member| member.standing == roster::Standing::Staying;
        let (id, members) = (self.places[index].id, &self.places[index].known.view.members);
        let others_stay = members.iter().any(|(node, member)| *node != id && stays(member));
        let may = others_stay && members.get(&id).is_some_and(stays);
        if may {
            self.say(index, ChangeKind::Leaving);
            self.counts.leaves += 1;
        }
        may
    }

    /// Somebody that was to leave, that holds nothing any more, and of whom one that stays knows it, says so and is gone.
    pub(crate) fn leave_for_good(&mut self, index: usize, others: &[usize]) -> bool {
        let stays = |world: &World, other: usize| {
            let ring = world.places[index].known.view.ring.as_ref();
            ring.is_some_and(|ring| ring.members().iter().any(|member| member.id == world.places[other].id))
        };
        let witness = others.iter().copied().find(|other| *other != index && self.is_up(*other) && stays(self, *other));
        let Some(witness) = witness.filter(|_| self.is_drained(index)) else { return false };
        self.meet(index, witness);
        if !self.is_drained(index) || !stays(self, witness) {
            return false;
        }
        self.say(index, ChangeKind::Left);
        self.meet(witness, index);
        self.places[index].life = Life::Left;
        self.drop_operations_of(index);
        true
    }

    fn is_drained(&self, index: usize) -> bool {
        let place = &self.places[index];
        let is_leaving = |member: &roster::Member| member.standing == roster::Standing::Leaving;
        place.known.view.members.get(&place.id).is_some_and(is_leaving) && place.held.iter().all(Option::is_none)
    }

    /// `by` removes `index`, or has `heir` take its place.
    pub(crate) fn remove(&mut self, by: usize, index: usize, heir: Option<usize>) {
        let node = self.places[index].id;
        let old = Removal { node, known: self.places[by].known.history.known_of(&node) };
        match heir {
            None => {
                self.say(by, ChangeKind::Removed(old));
                self.counts.removals += 1;
            }
            Some(heir) => {
                self.say(by, ChangeKind::Replaced(Replacement { old, new: self.places[heir].id }));
                self.join(heir, by);
                self.counts.replacements += 1;
            }
        }
    }

    /// Says one thing that may be said of partitions.
    pub(crate) fn state(&mut self, index: usize) -> bool {
        let filling = &self.fillings[index];
        let label = self.places[index].known.view.label.clone();
        let statement = |partitions: &[Partition]| {
            let partitions = PartitionSet::new(self.partitions, partitions.iter().copied());
            Statement { label: label.clone(), partitions }
        };
        let retired: Vec<Partition> = filling.retired(self.now).collect();
        let filled: Vec<Partition> = filling.filled().collect();
        if !retired.is_empty() {
            let founders = self.places[index].known.founders.clone();
            for partition in &retired {
                self.merged.entry(*partition).or_default().push(founders.clone());
            }
            self.say(index, ChangeKind::Retired(statement(&retired)));
            self.counts.retired += 1;
        } else if !filled.is_empty() {
            self.say(index, ChangeKind::Filled(statement(&filled)));
            self.counts.filled += 1;
        } else {
            return false;
        }
        true
    }

    /// Whether `index` could be lost without more than is promised: fewer than a quorum of every row that counts, or may
    /// come to count, for anybody.
    pub(crate) fn may_be_lost(&self, index: usize) -> bool {
        let id = self.places[index].id;
        let is_lost = |node: &NodeId| {
            *node == id || self.places.iter().any(|place| place.id == *node && place.life == Life::Lost)
        };
        let stays_whole = |row: &[NodeId]| {
            let lost = row.iter().filter(|node| is_lost(node)).count();
            !row.contains(&id) || lost < row.len() / 2 + 1
        };
        let views = self.places.iter().filter(|place| place.life != Life::Fresh).map(|place| &place.known.view);
        views.into_iter().all(|view| {
            let is_whole = |partition| {
                let others = view.configurations.active(partition);
                stays_whole(view.row(partition)) && others.into_iter().all(stays_whole)
            };
            view.partitions().all(is_whole)
        })
    }

    /// Nothing is under way any more.
    pub(crate) fn hush(&mut self) {
        self.exchanges.clear();
        self.traffic.hush();
    }
}
