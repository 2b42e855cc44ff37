//! Comparisons that take their time: what is answered and what is made of it are some moments apart.

use quorate::{
    clock::Instant,
    digest::Digest,
    handoff::filling::Standing,
    ring::{partition_set::PartitionSet, token::Partition},
};

use crate::world::{World, Writes};

/// A comparison of two machines that is under way.
pub(crate) struct Exchange {
    filler: usize,
    source: usize,
    partitions: Vec<Partition>,
    begun: Instant,
    label: Digest,
    /// What the source had when it answered.
    answer: Option<Vec<Writes>>,
}

impl World {
    /// `filler` begins to fill from `source`, if that would bring it forward.
    pub(crate) fn begin_exchange(&mut self, filler: usize, source: usize) -> bool {
        let wanted = self.places[source].id;
        let is_possible = filler != source && self.is_up(filler) && self.is_up(source);
        let found = self.fillings[filler].next_source(|node| *node == wanted, self.now);
        let Some((_, partitions)) = found.filter(|_| is_possible) else { return false };
        let label = self.places[filler].known.view.placement_digest();
        self.exchanges.push(Exchange { filler, source, partitions, begun: self.now, label, answer: None });
        true
    }

    pub(crate) fn exchange_count(&self) -> usize {
        self.exchanges.len()
    }

    /// The next thing happens to an exchange, unless it ends in nothing.
    pub(crate) fn go_on_exchanging(&mut self, number: usize) {
        match self.exchanges[number].answer {
            None => self.answer_exchange(number),
            Some(_) => self.end_exchange(number),
        }
    }

    /// The source answers with what it has, and takes what the filler has.
    pub(crate) fn answer_exchange(&mut self, number: usize) {
        let Exchange { filler, source, ref partitions, label, .. } = self.exchanges[number];
        let place = &self.places[source];
        let writes: Option<Vec<Writes>> = partitions.iter().map(|partition| place.has(*partition)).collect();
        let is_same = place.known.view.placement_digest() == label && self.is_up(source);
        match writes.filter(|_| is_same) {
            Some(writes) => {
                for partition in partitions.clone() {
                    let given = self.places[filler].has(partition).unwrap_or_default();
                    self.places[source].take(partition, given);
                }
                self.exchanges[number].answer = Some(writes);
            }
            None => {
                self.fillings[filler].on_failed(self.places[source].id, self.now);
                self.exchanges.swap_remove(number);
                if self.is_up(source) && self.is_up(filler) {
                    self.meet(filler, source);
                }
            }
        }
    }

    pub(crate) fn end_exchange(&mut self, number: usize) {
        if number >= self.exchanges.len() {
            return;
        }
        let Exchange { filler, source, partitions, begun, answer, .. } = self.exchanges.swap_remove(number);
        if !self.is_up(filler) {
            return;
        }
        for (partition, writes) in partitions.iter().zip(answer.unwrap_or_default()) {
            self.places[filler].take(*partition, writes);
        }
        let partitions = PartitionSet::new(self.partitions, partitions);
        let source = self.places[source].id;
        self.fillings[filler].on_compared(source, Standing::Certain, &partitions, begun);
    }
}
