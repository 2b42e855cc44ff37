//! What a run is made of.

use quorate::{handoff::filling::FillingRules, membership::view::PlacementRules, quorum::QuorumRules};

use crate::dice::Dice;

/// The rules that a run goes by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) placement: PlacementRules,
    pub(crate) filling: FillingRules,
    pub(crate) quorum: QuorumRules,
}

impl Rules {
    /// Those that keep the promises.
    pub(crate) fn sound() -> Rules {
        Rules { placement: PlacementRules::sound(), filling: FillingRules::sound(), quorum: QuorumRules::sound() }
    }
}

/// Who is there, and what may happen.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Members at first, of so many islands; the first of each has founded it.
    pub(crate) islands: Vec<usize>,
    /// How many machines there are, those included that may join later.
    pub(crate) machine_count: usize,
    pub(crate) replicas: u8,
    /// In how many zones; 0 without.
    pub(crate) zone_count: usize,
    /// How many may join, leave and be lost.
    pub(crate) joins: usize,
    pub(crate) leaves: usize,
    pub(crate) losses: usize,
    pub(crate) step_count: usize,
}

impl Plan {
    /// A cluster of one origin, under planned changes and losses.
    pub(crate) fn of_one(dice: &mut Dice) -> Plan {
        let replicas = [3, 3, 3, 2, 1][dice.index(5)];
        let first = 1 + dice.index(4);
        let (joins, leaves, losses) = match dice.index(5) {
            0 => (2, 0, 0),
            1 => (2, 2, 0),
            2 => (1, 0, 2),
            3 => (1, 2, 0),
            _ => (2, 1, 1),
        };
        Plan {
            islands: vec![first],
            machine_count: first + joins,
            replicas,
            zone_count: [0, 0, 2, 3][dice.index(4)],
            joins,
            leaves,
            losses,
            step_count: 300 + dice.index(300),
        }
    }

    /// Rows of five, of which two are lost.
    pub(crate) fn of_five(dice: &mut Dice) -> Plan {
        let (joins, leaves) = [(0, 0), (1, 0), (1, 1)][dice.index(3)];
        Plan {
            islands: vec![5],
            machine_count: 5 + joins,
            replicas: 5,
            zone_count: 0,
            joins,
            leaves,
            losses: 2,
            step_count: 300 + dice.index(300),
        }
    }

    /// Two members, a third that joins, and one of them lost in the middle of it.
    pub(crate) fn of_pairs(dice: &mut Dice) -> Plan {
        let joins = 1 + dice.index(2);
        Plan {
            islands: vec![2],
            machine_count: 2 + joins,
            replicas: 3,
            zone_count: 0,
            joins,
            leaves: dice.index(2),
            losses: 1,
            step_count: 300 + dice.index(300),
        }
    }

    /// One copy of everything, which moves often.
    pub(crate) fn of_single_copies(dice: &mut Dice) -> Plan {
        let first = 1 + dice.index(2);
        Plan {
            islands: vec![first],
            machine_count: first + 3,
            replicas: 1,
            zone_count: 0,
            joins: 3,
            leaves: 2,
            losses: 0,
            step_count: 300 + dice.index(300),
        }
    }

    /// Two or three clusters that meet.
    pub(crate) fn of_islands(dice: &mut Dice) -> Plan {
        let islands = [vec![1, 1], vec![2, 1], vec![3, 2], vec![1, 1, 1], vec![2, 2, 1], vec![2, 2, 2]];
        let islands = islands[dice.index(6)].clone();
        let (joins, leaves, losses) = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 1)][dice.index(5)];
        Plan {
            machine_count: islands.iter().sum::<usize>() + joins,
            islands,
            replicas: [3, 3, 2][dice.index(3)],
            zone_count: [0, 0, 2][dice.index(3)],
            joins,
            leaves,
            losses,
            step_count: 300 + dice.index(300),
        }
    }
}
