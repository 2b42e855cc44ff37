//! Time as the core sees it: numbers handed in by whoever drives it.
//!
//! [`Instant`] is monotonic and only good for deadlines; [`WallTime`] is what people read and what
//! expiry compares. Neither can be made here from an operating-system clock; `runtime/clock.rs`
//! does that, and the simulator invents its own.

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Add, Sub},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// Milliseconds since the process (or the simulation) started. Never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

/// Milliseconds since 1970-01-01 UTC as the node's operating system believes. May jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(pub u64);

/// The present, as both clocks tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// For deadlines.
    pub instant: Instant,
    /// For people and for expiry.
    pub wall: WallTime,
}

fn to_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(to_millis(duration)))
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// Zero when `earlier` is in fact later.
    fn sub(self, earlier: Instant) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for WallTime {
    type Output = WallTime;

    fn add(self, duration: Duration) -> WallTime {
        WallTime(self.0.saturating_add(to_millis(duration)))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// Which `T` falls due when. At most one deadline per `T`.
///
/// Setting, clearing and taking cost the logarithm of the number of deadlines.
#[derive(Debug, Clone)]
pub struct Deadlines<T> {
    by_time: BTreeMap<(Instant, T), ()>,
    by_item: BTreeMap<T, Instant>,
}

impl<T: Ord + Clone> Deadlines<T> {
    /// No deadline at all.
    pub fn new() -> Deadlines<T> {
        Deadlines { by_time: BTreeMap::new(), by_item: BTreeMap::new() }
    }

    /// Sets the deadline of `item`, in place of the one it had.
    pub fn set(&mut self, item: T, due: Instant) {
        self.clear(&item);
        self.by_item.insert(item.clone(), due);
        self.by_time.insert((due, item), ());
    }

    /// Forgets the deadline of `item`. Returns whether it had one.
    pub fn clear(&mut self, item: &T) -> bool {
        match self.by_item.remove(item) {
            Some(due) => self.by_time.remove(&(due, item.clone())).is_some(),
            None => false,
        }
    }

    /// Takes the item that fell due first, if any is due at `now`.
    pub fn take_due(&mut self, now: Instant) -> Option<T> {
        if self.next()? > now {
            return None;
        }
        let ((_, item), ()) = self.by_time.pop_first()?;
        self.by_item.remove(&item);
        Some(item)
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.by_time.first_key_value().map(|((due, _), ())| *due)
    }
}

impl<T: Ord + Clone> Default for Deadlines<T> {
    fn default() -> Deadlines<T> {
        Deadlines::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_fall_due_in_order_and_only_once() {
        let mut deadlines = Deadlines::new();
        deadlines.set("b", Instant(20));
        deadlines.set("a", Instant(10));
        deadlines.set("b", Instant(5));
        assert_eq!(deadlines.next(), Some(Instant(5)));
        assert_eq!(deadlines.take_due(Instant(4)), None);
        assert_eq!(deadlines.take_due(Instant(10)), Some("b"));
        assert_eq!(deadlines.take_due(Instant(10)), Some("a"));
        assert_eq!(deadlines.take_due(Instant(99)), None);
    }

    #[test]
    fn time_never_runs_below_zero() {
        assert_eq!(Instant(5) - Instant(9), Duration::ZERO);
    }
}
