//! What clients were promised, and probes that look whether it could be broken just now.
//!
//! A **probe** asks: if somebody who knows so much read now, and could reach just these, what would it see? It is played on
//! a copy, with everything at once, so that many can be tried after every step.

use std::rc::Rc;

use quorate::{
    ident::NodeId,
    quorum::{AnswerRule, QuorumRules, row::Access},
    ring::token::Partition,
};

use crate::{
    dice::Dice,
    library::{Known, Library},
    world::{Life, Place, World, Writes},
};

/// A write that was begun.
pub(crate) struct Write {
    pub(crate) partition: Partition,
    pub(crate) is_acknowledged: bool,
    /// The founders that its coordinator knew of in the end.
    pub(crate) founders: Vec<NodeId>,
}

/// A broken promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Violation {
    /// A strict read at a quorum lacks an acknowledged write.
    StaleRead { partition: Partition },
    /// All that can be reached cannot be read or written, though nobody is lost.
    Unavailable { partition: Partition },
    /// Nothing is under way, and still not everybody knows the same, or some partition is not held by its row alone.
    Unsettled,
    /// In the end a machine has a partition that it is not to have, or lacks one.
    Misplaced { partition: Partition, machine: usize },
    /// In the end fewer than a majority of its row have an acknowledged write.
    Lost { partition: Partition },
}

/// Whom an operation reaches, by number.
#[derive(Debug, Clone, Copy)]
struct Reach(u16);

/// What an operation that came to its quorum found.
struct Outcome {
    known: Rc<Known>,
    seen: Writes,
}

/// Plays an operation to its end on `places`; nothing if its quorum cannot be met.
fn play(
    library: &mut Library,
    rules: QuorumRules,
    places: &mut [Place],
    (known, access, partition): (&Rc<Known>, Access, Partition),
    reach: Reach,
    written: Writes,
) -> Option<Outcome> {
    let mut known = Rc::clone(known);
    let is_reached = |index: usize, place: &Place| reach.0 >> index & 1 == 1 && place.life == Life::Up;
    let row = loop {
        let row = library.row(&known, partition, access)?;
        let mut union = Rc::clone(&known);
        for (index, place) in places.iter_mut().enumerate() {
            if rules.answers == AnswerRule::SameHistory && is_reached(index, place) && row.nodes.contains(&place.id) {
                union = library.union(&union, &place.known);
            }
        }
        if union.digest == known.digest {
            break row;
        }
        known = union;
    };
    let mut seen = 0;
    let mut answered: Vec<NodeId> = Vec::new();
    for (index, place) in places.iter_mut().enumerate() {
        if !is_reached(index, place) || !row.nodes.contains(&place.id) {
            continue;
        }
        if rules.answers == AnswerRule::SameHistory {
            place.learn(&known);
        }
        place.take(partition, written);
        if let Some(writes) = place.has(partition) {
            seen |= writes;
            answered.push(place.id);
        }
    }
    row.is_met_by(|node| answered.contains(node)).then_some(Outcome { known, seen })
}

impl World {
    /// What a read that knew `known` in the end must have seen of `must`: all that was acknowledged by those who knew of
    /// one of its founders, or of one that was merged with them when the read began.
    pub(crate) fn check_read(
        &self,
        known: &Known,
        merged: &[Vec<NodeId>],
        must: Writes,
        seen: Writes,
    ) -> Result<(), Violation> {
        let knows = |founder: &NodeId| known.founders.contains(founder);
        let together = merged.iter().filter(|founders| founders.iter().any(knows)).flatten();
        let founders: Vec<&NodeId> = known.founders.iter().chain(together).collect();
        for (number, write) in self.traffic.writes.iter().enumerate() {
            let is_due = must >> number & 1 == 1 && write.founders.iter().any(|founder| founders.contains(&founder));
            if is_due && seen >> number & 1 == 0 {
                return Err(Violation::StaleRead { partition: write.partition });
            }
        }
        Ok(())
    }

    /// What each machine knows, what was known before, and what anybody knows.
    fn readers(&mut self, dice: &mut Dice, snapshots: &[Rc<Known>]) -> Vec<Rc<Known>> {
        let mut readers: Vec<Rc<Known>> = Vec::new();
        for index in self.up() {
            readers.push(Rc::clone(&self.places[index].known));
        }
        if !snapshots.is_empty() {
            readers.push(Rc::clone(&snapshots[dice.index(snapshots.len())]));
        }
        readers.sort_by_key(|known| known.digest);
        readers.dedup_by_key(|known| known.digest);
        readers
    }

    /// Tries reads, and writes with a read after them, at many that know little and reach few.
    pub(crate) fn probe(
        &mut self,
        dice: &mut Dice,
        rules: QuorumRules,
        snapshots: &[Rc<Known>],
    ) -> Result<(), Violation> {
        let readers = self.readers(dice, snapshots);
        if readers.is_empty() {
            return Ok(());
        }
        for partition in self.partitions.iter() {
            let must = self.traffic.acknowledged(partition);
            if must != 0 {
                for reader in &readers {
                    for _ in 0..6 {
                        let reach = Reach(dice.mask());
                        self.probe_read(rules, (reader, partition, must), reach)?;
                    }
                }
            }
            for _ in 0..6 {
                let (writer, reader) = (&readers[dice.index(readers.len())], &readers[dice.index(readers.len())]);
                let reaches = (Reach(dice.mask()), Reach(dice.mask()));
                self.probe_write(rules, (writer, reader), partition, reaches)?;
            }
        }
        self.probe_availability(rules)
    }

    fn probe_read(
        &mut self,
        rules: QuorumRules,
        (reader, partition, must): (&Rc<Known>, Partition, Writes),
        reach: Reach,
    ) -> Result<(), Violation> {
        self.counts.probes += 1;
        let mut places = self.places.clone();
        let asked = (reader, Access::Read, partition);
        match play(&mut self.library, rules, &mut places, asked, reach, 0) {
            Some(outcome) => {
                let merged = self.merged.get(&partition).map_or(&[][..], Vec::as_slice);
                self.check_read(&outcome.known, merged, must, outcome.seen)
            }
            None => Ok(()),
        }
    }

    /// A write that comes to its quorum must be seen by a read after it, whoever writes and reads.
    fn probe_write(
        &mut self,
        rules: QuorumRules,
        (writer, reader): (&Rc<Known>, &Rc<Known>),
        partition: Partition,
        (reach, then): (Reach, Reach),
    ) -> Result<(), Violation> {
        const WRITE: Writes = 1 << 63;
        self.counts.probes += 1;
        let mut places = self.places.clone();
        let asked = (writer, Access::Write, partition);
        let Some(written) = play(&mut self.library, rules, &mut places, asked, reach, WRITE) else { return Ok(()) };
        let asked = (reader, Access::Read, partition);
        let Some(read) = play(&mut self.library, rules, &mut places, asked, then, 0) else { return Ok(()) };
        let merged = self.merged.get(&partition).map_or(&[][..], Vec::as_slice);
        let knows = |founder: &NodeId| read.known.founders.contains(founder);
        let mut together = merged.iter().filter(|founders| founders.iter().any(knows)).flatten();
        let is_due =
            written.known.founders.iter().any(|founder| knows(founder) || together.any(|other| other == founder));
        if is_due && read.seen & WRITE == 0 {
            return Err(Violation::StaleRead { partition });
        }
        Ok(())
    }

    /// Whoever knows what is known and reaches all can read and write, as long as nobody is lost.
    fn probe_availability(&mut self, rules: QuorumRules) -> Result<(), Violation> {
        if self.find(Life::Lost).is_some() {
            return Ok(());
        }
        let mut reader = self.library.nothing();
        for index in self.up() {
            reader = self.library.union(&reader, &self.places[index].known);
        }
        for partition in self.partitions.iter() {
            for access in [Access::Read, Access::Write] {
                let mut places = self.places.clone();
                let asked = (&reader, access, partition);
                let outcome = play(&mut self.library, rules, &mut places, asked, Reach(u16::MAX), 0);
                outcome.ok_or(Violation::Unavailable { partition })?;
            }
        }
        Ok(())
    }

    /// What must be so once everything has come to rest.
    pub(crate) fn check_end(&self) -> Result<(), Violation> {
        for machine in self.up() {
            let place = &self.places[machine];
            let view = &place.known.view;
            if view.unsettled().next().is_some() {
                return Err(Violation::Unsettled);
            }
            for partition in view.partitions() {
                let (is_listed, held) = (view.row(partition).contains(&place.id), place.has(partition));
                if is_listed != held.is_some() {
                    return Err(Violation::Misplaced { partition, machine });
                }
            }
        }
        let Some(first) = self.up().first().copied() else { return Ok(()) };
        let view = &self.places[first].known.view;
        view.partitions().try_for_each(|partition| self.check_kept(partition, view.row(partition)))
    }

    /// No acknowledged write is with fewer than a majority of `row`: every quorum has it.
    fn check_kept(&self, partition: Partition, row: &[NodeId]) -> Result<(), Violation> {
        let acknowledged = self.traffic.acknowledged(partition);
        for number in (0..self.traffic.writes.len()).filter(|number| acknowledged >> number & 1 == 1) {
            let has = |place: &&Place| {
                row.contains(&place.id) && place.has(partition).is_some_and(|held| held >> number & 1 == 1)
            };
            if self.places.iter().filter(has).count() < row.len() / 2 + 1 {
                return Err(Violation::Lost { partition });
            }
        }
        Ok(())
    }
}
