//! A token bucket: so many per second, and no more.
//!
//! Keeps one instant instead of a level (the "generic cell rate algorithm"), so it is exact and needs no refilling.
//! Holds at most one second's worth of tokens, and is full at the start. It knows no clock: the time is an argument.

use std::time::{Duration, Instant};

/// Grants at most `rate` tokens per second in the long run, and at most twice that within any one second.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    /// Time between two tokens; `None` when there is never one.
    spacing: Option<Duration>,
    /// When the bucket will be full again.
    full_at: Instant,
}

impl TokenBucket {
    /// A full bucket of `rate` tokens per second.
    pub(crate) fn new(rate: u32, now: Instant) -> Self {
        Self { spacing: Duration::from_secs(1).checked_div(rate), full_at: now }
    }

    /// Takes a token if there is one; otherwise changes nothing.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let (Some(spacing), Some(next)) = (self.spacing, self.next()) else { return false };
        if now < next {
            return false;
        }
        self.full_at = self.full_at.max(now) + spacing;
        true
    }

    /// The moment from which [`Self::take`] succeeds; may be past. `None`: never.
    pub(crate) fn next(&self) -> Option<Instant> {
        let spacing = self.spacing?;
        let slack = Duration::from_secs(1) - spacing;
        Some(self.full_at.checked_sub(slack).unwrap_or(self.full_at))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    fn taken(bucket: &mut TokenBucket, tries: usize, now: Instant) -> usize {
        (0..tries).filter(|_| bucket.take(now)).count()
    }

    #[test]
    fn a_full_bucket_grants_one_second_worth_at_once() {
        let start = Instant::now();
        assert_eq!(taken(&mut TokenBucket::new(7, start), 100, start), 7);
        assert_eq!(taken(&mut TokenBucket::new(1, start), 100, start), 1);
        assert_eq!(taken(&mut TokenBucket::new(0, start), 100, start), 0);
    }

    #[test]
    fn the_long_run_keeps_to_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10, start);
        let granted: usize = (0..10_000).map(|step| taken(&mut bucket, 3, start + Duration::from_millis(step))).sum();
        assert_eq!(granted, 10 + 99);
    }

    #[test]
    fn a_rested_bucket_holds_no_more_than_one_second_worth() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(5, start);
        taken(&mut bucket, 5, start);
        assert_eq!(taken(&mut bucket, 100, start + Duration::from_secs(3600)), 5);
    }

    #[test]
    fn next_is_the_first_moment_at_which_take_succeeds() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(3, start);
        taken(&mut bucket, 3, start);
        let next = bucket.next().unwrap();
        assert!(!bucket.take(next - Duration::from_nanos(1)));
        assert!(bucket.take(next));
    }
}
