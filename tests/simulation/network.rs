//! The network: who can reach whom, who is connected, and what becomes of a message.
//!
//! It decides; the messages themselves wait in the cluster's queue of happenings. A cut is one-way: a connection needs
//! both ways to be made, and outlives a cut until each side notices on its own. Messages of a connection are delayed
//! independently of each other, so that they overtake each other.

use std::collections::{BTreeMap, BTreeSet};

use crate::dice::Dice;

/// How bad the network is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// Delay of most messages, at most, in ms.
    pub(crate) delay_max_ms: u64,
    /// Messages of a thousand that are slow: up to a hundred times the delay.
    pub(crate) slow_permille: u64,
    /// Messages of a thousand that are lost.
    pub(crate) loss_permille: u64,
    /// Messages of a thousand that come twice.
    pub(crate) double_permille: u64,
}

impl Weather {
    pub(crate) const FAIR: Weather =
        Weather { delay_max_ms: 5, slow_permille: 0, loss_permille: 0, double_permille: 0 };
    pub(crate) const STORM: Weather =
        Weather { delay_max_ms: 20, slow_permille: 100, loss_permille: 400, double_permille: 50 };
    pub(crate) const FOUL: Weather =
        Weather { delay_max_ms: 10, slow_permille: 30, loss_permille: 15, double_permille: 30 };
}

/// What two nodes have of each other.
#[derive(Debug, Clone, Copy, Default)]
struct Link {
    /// Counts the connections made between the two.
    generation: u64,
    /// Whether the lower and the higher of the two believe in it.
    believed: [bool; 2],
    /// The lives of the two it was made between.
    lives: [u64; 2],
}

/// Links and cuts between nodes, by their index.
pub(crate) struct Network {
    pub(crate) weather: Weather,
    cuts: BTreeSet<(usize, usize)>,
    links: BTreeMap<(usize, usize), Link>,
}

impl Network {
    pub(crate) fn new(weather: Weather) -> Network {
        Network { weather, cuts: BTreeSet::new(), links: BTreeMap::new() }
    }

    /// Delays of the copies that arrive, in ms: none when lost, two when doubled.
    pub(crate) fn delays_ms(&self, dice: &mut Dice) -> Vec<u64> {
        let Weather { delay_max_ms, slow_permille, loss_permille, double_permille } = self.weather;
        if dice.permille(loss_permille) {
            return Vec::new();
        }
        let copies = if dice.permille(double_permille) { 2 } else { 1 };
        (0..copies)
            .map(|_| {
                let slowness = if dice.permille(slow_permille) { 100 } else { 1 };
                dice.between(1, delay_max_ms * slowness)
            })
            .collect()
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
    }

    pub(crate) fn mend(&mut self, from: usize, to: usize) {
        self.cuts.remove(&(from, to));
    }

    pub(crate) fn mend_all(&mut self) {
        self.cuts.clear();
    }

    /// Whether messages get through in this direction.
    pub(crate) fn is_open(&self, from: usize, to: usize) -> bool {
        !self.cuts.contains(&(from, to))
    }

    /// A connection stands now. Returns its generation.
    pub(crate) fn connect(&mut self, (one, one_life): (usize, u64), (other, other_life): (usize, u64)) -> u64 {
        let link = self.links.entry(pair(one, other)).or_default();
        link.generation += 1;
        link.believed = [true; 2];
        link.lives = if one < other { [one_life, other_life] } else { [other_life, one_life] };
        link.generation
    }

    /// The life of `peer` that `node` believes to be connected with, and the generation of that connection.
    pub(crate) fn believed(&self, node: usize, peer: usize) -> Option<(u64, u64)> {
        let link = self.links.get(&pair(node, peer))?;
        link.believed[side(node, peer)].then(|| (link.lives[side(peer, node)], link.generation))
    }

    /// `node` no longer believes in connection `generation`. Returns whether it did.
    pub(crate) fn lose(&mut self, node: usize, peer: usize, generation: u64) -> bool {
        let Some(link) = self.links.get_mut(&pair(node, peer)) else { return false };
        link.generation == generation && std::mem::replace(&mut link.believed[side(node, peer)], false)
    }
}

fn pair(one: usize, other: usize) -> (usize, usize) {
    (one.min(other), one.max(other))
}

fn side(node: usize, peer: usize) -> usize {
    usize::from(node > peer)
}
