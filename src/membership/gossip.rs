//! Whom a node compares histories with next.
//!
//! A pure choice from numbers drawn at random, so that the node and whoever reckons how fast news spreads choose alike.
//! It does not know who anybody is.
//!
//! Source: Demers et al., "Epidemic algorithms for replicated database maintenance" (1987): comparing with one random peer,
//! both ways, reaches everybody in a number of rounds that grows with the logarithm of their number.

/// Of so many comparisons one goes to somebody who cannot be reached as far as is known, so that two parts of a cluster
/// that take each other for down find each other again.
const SILENT_ONE_IN: u64 = 10;

/// What was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drawn {
    /// This one of those that can be reached.
    Live(usize),
    /// This one of those that cannot: to be dialled.
    Silent(usize),
}

/// Draws one of `live` peers that can be reached, or, once in ten times, one of `silent` others. Nothing if there is nobody
/// to draw.
pub fn draw(live: usize, silent: usize, dice: [u64; 2]) -> Option<Drawn> {
    let [side, number] = dice;
    if silent > 0 && side.is_multiple_of(SILENT_ONE_IN) {
        return Some(Drawn::Silent(index(number, silent)));
    }
    (live > 0).then(|| Drawn::Live(index(number, live)))
}

fn index(number: u64, count: usize) -> usize {
    usize::try_from(number % count as u64).expect("less than a length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(live: usize, silent: usize, is_it: impl Fn(Drawn) -> bool) -> usize {
        let all = (0..100).flat_map(|side| (0..12).map(move |number| [side, number]));
        all.filter(|dice| draw(live, silent, *dice).is_some_and(&is_it)).count()
    }

    #[test]
    fn nine_of_ten_are_live_and_all_are_drawn_alike() {
        assert_eq!(count(3, 4, |drawn| matches!(drawn, Drawn::Live(_))), 90 * 12);
        assert_eq!(count(3, 4, |drawn| drawn == Drawn::Live(2)), 90 * 4);
        assert_eq!(count(3, 4, |drawn| drawn == Drawn::Silent(3)), 10 * 3);
    }

    #[test]
    fn without_silent_ones_every_draw_is_live_and_nobody_is_drawn_of_none() {
        assert_eq!(count(3, 0, |drawn| matches!(drawn, Drawn::Live(_))), 100 * 12);
        assert_eq!(count(0, 4, |_| true), 10 * 12);
        assert_eq!(count(0, 0, |_| true), 0);
    }
}
