//! Random schedules: what happens next, until nothing more does.

use std::rc::Rc;

use quorate::{
    clock::Instant,
    quorum::row::Access,
    ring::token::{Partition, PartitionCount},
};

use crate::{
    checks::Violation,
    dice::Dice,
    library::Known,
    operations::Coordinator,
    plan::{Plan, Rules},
    world::{Counts, Life, World},
};

/// Most messages that are under way at once.
const MESSAGE_COUNT_MAX: usize = 40;

/// Most operations that are under way at once.
const OPERATION_COUNT_MAX: usize = 3;

/// Most exchanges that are under way at once.
const EXCHANGE_COUNT_MAX: usize = 4;

/// What somebody knew once.
const SNAPSHOT_COUNT_MAX: usize = 12;

struct Run {
    dice: Dice,
    world: World,
    rules: Rules,
    /// What may still happen of it.
    left: Plan,
    snapshots: Vec<Rc<Known>>,
    /// Who answers nobody for the time being.
    is_paused: Vec<bool>,
}

/// Plays the run of `seed`. Ends at the first violation.
pub(crate) fn run(seed: u64, plan: impl Fn(&mut Dice) -> Plan, rules: Rules) -> (Result<(), Violation>, Counts) {
    let mut dice = Dice::new(seed);
    let plan = plan(&mut dice);
    let partitions = PartitionCount::new([1, 2, 4][dice.index(3)]).expect("powers of two");
    let world = World::new(&plan, rules, partitions);
    let is_paused = vec![false; plan.machine_count];
    let mut run = Run { dice, world, rules, left: plan, snapshots: Vec::new(), is_paused };
    let result = run.whole();
    run.world.counts.histories = run.world.library.len() as u64;
    (result, run.world.counts)
}

impl Run {
    fn whole(&mut self) -> Result<(), Violation> {
        for _ in 0..self.left.step_count {
            self.step()?;
        }
        self.end()
    }

    /// One more thing happens, and if somebody may see the world otherwise for it, it is looked whether that does harm.
    fn step(&mut self) -> Result<(), Violation> {
        self.world.counts.steps += 1;
        let long = if self.dice.percent(3) { 15_000 } else { 0 };
        self.world.now = Instant(self.world.now.0 + long + 20 + self.dice.index(300) as u64);
        let has_changed = match self.dice.index(100) {
            0..34 => self.deliver()?,
            34..44 => self.begin_operation(),
            44..62 => self.exchange(),
            62..68 => self.gossip(),
            68..80 => self.say(),
            80..86 => self.change(),
            86..89 => self.lose_message(),
            89..93 => self.pause(),
            _ => self.remember(),
        };
        if has_changed {
            self.world.probe(&mut self.dice, self.rules.quorum, &self.snapshots)?;
        }
        Ok(())
    }

    fn awake(&self) -> Vec<usize> {
        self.world.up().into_iter().filter(|index| !self.is_paused[*index]).collect()
    }

    fn one_awake(&mut self) -> Option<usize> {
        let awake = self.awake();
        self.dice.pick(&awake)
    }

    /// A few messages arrive. Whoever is paused is asked in vain for the time being.
    fn deliver(&mut self) -> Result<bool, Violation> {
        for _ in 0..=self.dice.index(4) {
            let count = self.world.traffic.message_count();
            if count == 0 {
                break;
            }
            let index = self.dice.index(count);
            if self.world.receiver(index).is_none_or(|to| !self.is_paused[to]) {
                self.world.deliver(index)?;
            }
        }
        Ok(false)
    }

    fn begin_operation(&mut self) -> bool {
        if self.world.traffic.operation_count() >= OPERATION_COUNT_MAX {
            // Its client's time is up.
            self.world.traffic.give_up_oldest();
        }
        let access = if self.dice.percent(50) { Access::Write } else { Access::Read };
        let partition = self.dice.index(usize::try_from(self.world.partitions.get()).expect("few"));
        let partition = Partition(u16::try_from(partition).expect("few"));
        let stranger = self.dice.pick(&(0..self.snapshots.len()).collect::<Vec<_>>());
        let coordinator = match stranger.filter(|_| self.dice.percent(50)) {
            Some(snapshot) => Coordinator::Stranger(Rc::clone(&self.snapshots[snapshot])),
            None => match self.one_awake() {
                Some(index) => Coordinator::Machine(index),
                None => return false,
            },
        };
        self.world.begin(access, coordinator, partition);
        false
    }

    fn exchange(&mut self) -> bool {
        let count = self.world.exchange_count();
        if count > 0 && (count >= EXCHANGE_COUNT_MAX || self.dice.percent(55)) {
            let number = self.dice.index(count);
            self.world.go_on_exchanging(number);
        } else {
            let awake = self.awake();
            if let (Some(filler), Some(source)) = (self.dice.pick(&awake), self.dice.pick(&awake)) {
                self.world.begin_exchange(filler, source);
            }
        }
        false
    }

    fn gossip(&mut self) -> bool {
        let awake = self.awake();
        let (Some(one), Some(other)) = (self.dice.pick(&awake), self.dice.pick(&awake)) else { return false };
        let founders = &self.world.places[one].known.founders;
        let are_strangers = !self.world.places[other].known.founders.iter().any(|founder| founders.contains(founder));
        // Islands are apart for a while.
        if are_strangers && self.dice.percent(70) {
            return false;
        }
        if self.dice.percent(50) {
            self.world.meet(one, other);
        } else {
            let known = Rc::clone(&self.world.places[other].known);
            self.world.learn(one, &known);
        }
        true
    }

    fn say(&mut self) -> bool {
        let awake = self.awake();
        let Some(index) = self.dice.pick(&awake) else { return false };
        self.world.state(index) || self.world.leave_for_good(index, &awake)
    }

    fn change(&mut self) -> bool {
        match self.dice.index(5) {
            0 | 1 => self.join(),
            2 => self.leave(),
            3 => self.lose(),
            _ => self.bury(),
        }
    }

    fn join(&mut self) -> bool {
        let (Some(fresh), Some(by)) = (self.world.find(Life::Fresh), self.one_awake()) else { return false };
        if self.left.joins == 0 {
            return false;
        }
        self.left.joins -= 1;
        self.world.join(fresh, by);
        true
    }

    fn leave(&mut self) -> bool {
        let Some(index) = self.one_awake().filter(|_| self.left.leaves > 0) else { return false };
        let is_leaving = self.world.leave(index);
        self.left.leaves -= usize::from(is_leaving);
        is_leaving
    }

    fn lose(&mut self) -> bool {
        let Some(index) = self.one_awake().filter(|_| self.left.losses > 0) else { return false };
        let may = self.world.may_be_lost(index);
        if may {
            self.left.losses -= 1;
            self.world.lose(index);
        }
        may
    }

    /// Somebody removes who is lost, or has a fresh one take its place.
    fn bury(&mut self) -> bool {
        let (Some(lost), Some(by)) = (self.world.find_unburied(), self.one_awake()) else { return false };
        if !self.world.places[by].known.view.members.contains_key(&self.world.places[lost].id) {
            return false;
        }
        let heir = self.world.find(Life::Fresh).filter(|_| self.left.joins > 0 && self.dice.percent(50));
        self.left.joins -= usize::from(heir.is_some());
        self.world.remove(by, lost, heir);
        true
    }

    fn lose_message(&mut self) -> bool {
        let count = self.world.traffic.message_count();
        if count > 0 {
            self.world.traffic.lose(self.dice.index(count));
        }
        while self.world.traffic.message_count() > MESSAGE_COUNT_MAX {
            self.world.traffic.lose(0);
        }
        false
    }

    fn pause(&mut self) -> bool {
        if self.dice.percent(40) {
            self.is_paused.fill(false);
        } else {
            let index = self.dice.index(self.is_paused.len());
            self.is_paused[index] = !self.is_paused[index];
        }
        false
    }

    /// Somebody will go on from what is known now, long after others know more.
    fn remember(&mut self) -> bool {
        let Some(index) = self.one_awake() else { return false };
        let known = Rc::clone(&self.world.places[index].known);
        if self.snapshots.iter().all(|snapshot| snapshot.digest != known.digest) {
            if self.snapshots.len() >= SNAPSHOT_COUNT_MAX {
                self.snapshots.remove(0);
            }
            self.snapshots.push(known);
        }
        false
    }

    /// Nothing new begins; all that was begun comes to its end.
    fn end(&mut self) -> Result<(), Violation> {
        self.world.hush();
        self.world.settle(&self.world.up());
        while let Some(lost) = self.world.find_unburied() {
            let by = self.world.up()[0];
            self.world.remove(by, lost, None);
            self.world.settle(&self.world.up());
        }
        if !self.world.settle(&self.world.up()) {
            return Err(Violation::Unsettled);
        }
        self.world.probe(&mut self.dice, self.rules.quorum, &[])?;
        self.world.check_end()
    }
}
