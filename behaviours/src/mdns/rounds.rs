//! When to ask and announce on one link, and who has answered.
//!
//! Asking goes in **rounds**. A round repeats the question with doubling pauses until everybody known on the link has
//! been heard since the round began; then the link is quiet, for 10 s at first and twice as long after each round, up to
//! the query interval: who was unheard in the bustle of a common start is found soon after. The first round of a link, and the
//! one after our addresses have changed, repeats at least [`OPENING_REPEATS`] times, since those who start
//! together with us may not have opened their ears yet; and while nobody at all is known, the round goes on.
//!
//! A pure state machine: time is an argument, and so is chance. It deliberately knows no addresses, only peers.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::PeerId;

/// Pause after the first question of a round.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Questions of an opening round before it may end: they span about 1.5 s.
const OPENING_REPEATS: u32 = 5;
/// Quiet time after the first round.
const FIRST_QUIET: Duration = Duration::from_secs(10);
/// Shortest query interval: below it, asking would be most of what a link carries.
const QUERY_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Longest query interval, so that the time of the next question can always be computed.
const QUERY_INTERVAL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The timetable of one link.
#[derive(Debug)]
pub(crate) struct Rounds {
    query_interval: Duration,
    peers_max: usize,
    peers: HashMap<PeerId, Presence>,
    round: Round,
    /// Quiet time after the round.
    quiet: Duration,
}

/// When a peer was heard on this link, and until when to believe that it is there.
#[derive(Debug)]
struct Presence {
    heard: Instant,
    expires: Instant,
}

#[derive(Debug)]
struct Round {
    began: Instant,
    /// Questions still to be asked before the round may end.
    owed: u32,
    pause: Duration,
    next: Instant,
    quiet: bool,
}

impl Rounds {
    /// A timetable whose first round begins at `now`; it remembers at most `peers_max` peers.
    pub(crate) fn new(query_interval: Duration, peers_max: usize, now: Instant) -> Self {
        let query_interval = query_interval.clamp(QUERY_INTERVAL_MIN, QUERY_INTERVAL_MAX);
        let round = Round::new(OPENING_REPEATS, now);
        Self { query_interval, peers_max, peers: HashMap::new(), round, quiet: FIRST_QUIET.min(query_interval) }
    }

    /// Begins an opening round at `now`, because we have something new to say.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.round = Round::new(OPENING_REPEATS, now);
        self.quiet = FIRST_QUIET.min(self.query_interval);
    }

    /// When [`Self::is_due`] should be asked next.
    pub(crate) fn next(&self) -> Instant {
        self.round.next
    }

    /// Whether to ask and announce now. If so, the next time is set, spread by `chance` (in `0.0..1.0`).
    pub(crate) fn is_due(&mut self, chance: f64, now: Instant) -> bool {
        if now < self.round.next {
            return false;
        }
        self.peers.retain(|_, presence| now < presence.expires);
        if self.round.quiet {
            self.round = Round::new(1, now);
        } else if self.is_over() {
            self.round.quiet = true;
            self.round.next = now + spread(self.quiet, chance);
            self.quiet = (self.quiet * 2).min(self.query_interval);
            return false;
        }
        let round = &mut self.round;
        round.owed = round.owed.saturating_sub(1);
        round.next = now + spread(round.pause, chance);
        round.pause = (round.pause * 2).min(self.query_interval);
        true
    }

    /// Notes that `peer` was heard and may be believed for `ttl`. Returns whether it was unknown here.
    ///
    /// While `peers_max` others are known, an unknown peer is not noted and `false` is returned.
    pub(crate) fn on_heard(&mut self, peer: PeerId, ttl: Duration, now: Instant) -> bool {
        let presence = Presence { heard: now, expires: now + ttl };
        if let Some(known) = self.peers.get_mut(&peer) {
            *known = presence;
            return false;
        }
        if self.peers.len() >= self.peers_max {
            return false;
        }
        self.peers.insert(peer, presence);
        true
    }

    /// Notes that `peer` said goodbye: nobody waits for its answer any more.
    pub(crate) fn on_goodbye(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }

    fn is_over(&self) -> bool {
        self.round.owed == 0
            && !self.peers.is_empty()
            && self.peers.values().all(|presence| self.round.began <= presence.heard)
    }
}

impl Round {
    fn new(owed: u32, now: Instant) -> Self {
        Self { began: now, owed, pause: FIRST_PAUSE, next: now, quiet: false }
    }
}

/// `pause`, shortened by up to a fifth, lest all peers of a link speak in step.
///
/// Shortened and never lengthened, so that a query interval stays below the time to live that it is to refresh.
fn spread(pause: Duration, chance: f64) -> Duration {
    pause.mul_f64(1.0 - 0.2 * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(300);
    const TTL: Duration = Duration::from_secs(360);

    /// The moments, in ms after `start`, at which the timetable asks before `until`.
    fn questions(rounds: &mut Rounds, start: Instant, until: Duration) -> Vec<u128> {
        let mut asked = Vec::new();
        while rounds.next() < start + until {
            let now = rounds.next();
            if rounds.is_due(0.0, now) {
                asked.push((now - start).as_millis());
            }
        }
        asked
    }

    #[test]
    fn a_lonely_peer_asks_ever_more_rarely_up_to_the_query_interval() {
        let start = Instant::now();
        let mut rounds = Rounds::new(INTERVAL, 10, start);
        let asked = questions(&mut rounds, start, 10 * INTERVAL);
        assert_eq!(asked[..6], [0, 50, 150, 350, 750, 1550]);
        let pauses: Vec<u128> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(pauses.last(), Some(&INTERVAL.as_millis()));
    }

    #[test]
    fn a_round_ends_when_everybody_known_was_heard() {
        let start = Instant::now();
        let mut rounds = Rounds::new(INTERVAL, 10, start);
        assert!(rounds.on_heard(PeerId::random(), TTL, start));
        assert_eq!(questions(&mut rounds, start, FIRST_QUIET), [0, 50, 150, 350, 750]);
    }

    #[test]
    fn quiet_times_grow_up_to_the_query_interval() {
        let start = Instant::now();
        let (mut rounds, peer) = (Rounds::new(INTERVAL, 10, start), PeerId::random());
        let mut quiet_times = Vec::new();
        let mut asked_last = start;
        while quiet_times.len() < 8 {
            let now = rounds.next();
            if rounds.is_due(0.0, now) {
                rounds.on_heard(peer, TTL, now);
                quiet_times.extend(Some((now - asked_last).as_secs()).filter(|secs| *secs > 1));
                asked_last = now;
            }
        }
        assert_eq!(quiet_times, [10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn a_round_goes_on_while_somebody_is_silent() {
        let start = Instant::now();
        let (mut rounds, silent) = (Rounds::new(INTERVAL, 10, start), PeerId::random());
        rounds.on_heard(silent, 2 * TTL, start);
        questions(&mut rounds, start, Duration::from_secs(2));
        let later = rounds.next();
        rounds.on_heard(PeerId::random(), TTL, later);
        let asked = questions(&mut rounds, later, Duration::from_millis(1000));
        assert_eq!(asked, [0, 50, 150, 350, 750]);
        rounds.on_heard(silent, TTL, rounds.next());
        assert!(questions(&mut rounds, later, Duration::from_secs(15)).is_empty());
    }

    #[test]
    fn nobody_waits_for_a_peer_whose_time_is_over() {
        let start = Instant::now();
        let (mut rounds, there) = (Rounds::new(INTERVAL, 10, start), PeerId::random());
        rounds.on_heard(PeerId::random(), Duration::from_secs(13), start);
        rounds.on_heard(there, 2 * TTL, start);
        questions(&mut rounds, start, Duration::from_secs(2));
        let later = rounds.next();
        assert!(rounds.is_due(0.0, later));
        rounds.on_heard(there, TTL, later);
        assert_eq!(questions(&mut rounds, later, Duration::from_secs(15)), [50, 150, 350, 750]);
    }

    #[test]
    fn nobody_waits_for_a_peer_that_said_goodbye() {
        let start = Instant::now();
        let (mut rounds, gone, there) = (Rounds::new(INTERVAL, 10, start), PeerId::random(), PeerId::random());
        rounds.on_heard(gone, TTL, start);
        rounds.on_heard(there, 2 * TTL, start);
        questions(&mut rounds, start, Duration::from_secs(2));
        let later = rounds.next();
        assert!(rounds.is_due(0.0, later));
        rounds.on_heard(there, TTL, later);
        rounds.on_goodbye(&gone);
        assert!(questions(&mut rounds, later, Duration::from_secs(15)).is_empty());
    }

    #[test]
    fn a_restart_asks_at_once_and_repeats() {
        let start = Instant::now();
        let mut rounds = Rounds::new(INTERVAL, 10, start);
        rounds.on_heard(PeerId::random(), TTL, start);
        questions(&mut rounds, start, Duration::from_secs(2));
        let later = start + Duration::from_secs(10);
        rounds.restart(later);
        assert_eq!(questions(&mut rounds, later, Duration::from_secs(1)), [0, 50, 150, 350, 750]);
    }

    #[test]
    fn a_known_peer_is_new_only_once_and_the_memory_is_bounded() {
        let start = Instant::now();
        let (mut rounds, first) = (Rounds::new(INTERVAL, 2, start), PeerId::random());
        assert!(rounds.on_heard(first, TTL, start));
        assert!(!rounds.on_heard(first, TTL, start));
        assert!(rounds.on_heard(PeerId::random(), TTL, start));
        assert!(!rounds.on_heard(PeerId::random(), TTL, start));
        assert_eq!(rounds.peers.len(), 2);
    }

    #[test]
    fn a_query_interval_without_sense_is_clamped() {
        let start = Instant::now();
        for (chosen, expected) in [(Duration::ZERO, QUERY_INTERVAL_MIN), (Duration::MAX, QUERY_INTERVAL_MAX)] {
            let mut rounds = Rounds::new(chosen, 10, start);
            let asked = questions(&mut rounds, start, 5 * QUERY_INTERVAL_MAX);
            assert_eq!(asked[asked.len() - 1] - asked[asked.len() - 2], expected.as_millis());
        }
    }

    #[test]
    fn chance_shortens_pauses_and_never_lengthens_them() {
        for chance in [0.0, 0.3, 0.999, 7.0] {
            let pause = spread(INTERVAL, chance);
            assert!(INTERVAL.mul_f64(0.79) < pause && pause <= INTERVAL);
        }
    }
}
