//! This node's private opinion who answers.
//!
//! [`Liveness`] turns evidence into an opinion: a connection, its loss, heartbeats, answers and timeouts. A lost connection
//! counts at once; silence counts by how unusual it is for that peer (the φ of Hayashibara et al., "The φ accrual failure
//! detector", 2004). The opinion is never gossiped and never changes the ring; two nodes may differ, and both are right
//! about what they can reach. It does not know who is a member, and it does not list this node itself.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{clock::Instant, ident::NodeId};

/// Evidence about every connected peer. As large as the number of connected peers; the shell bounds that.
///
/// # Inputs
/// The `on_*` functions. `on_connected` and `on_lost` tell of the first connection to a peer made and the last one lost;
/// `on_heartbeat` of something that comes at regular intervals.
/// # Effects
/// None; it is asked.
/// # Time
/// Silence raises suspicion. [`Liveness::on_own_pause`] says that it was this node which did not listen.
/// # Ends when
/// Never.
#[derive(Debug, Clone, Default)]
pub struct Liveness {
    connected: BTreeMap<NodeId, Evidence>,
}

/// What this node thinks of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Opinion {
    /// Connected, and heard of as usual.
    Up,
    /// Connected, but has left requests unanswered, or is unusually silent.
    Suspect,
    /// Not connected, or silent for so long that it cannot be chance.
    Down,
}

impl Liveness {
    /// Everybody is down.
    pub fn new() -> Liveness {
        Liveness::default()
    }

    /// `node` is connected: up at once. Says nothing new of one that was connected already.
    pub fn on_connected(&mut self, node: NodeId, now: Instant) {
        self.connected.entry(node).or_insert_with(|| Evidence::new(now));
    }

    /// The last connection to `node` is gone: down at once.
    pub fn on_lost(&mut self, node: NodeId, _now: Instant) {
        self.connected.remove(&node);
    }

    /// `node` gave its regular sign of life. Late news of a lost peer is ignored.
    pub fn on_heartbeat(&mut self, node: NodeId, now: Instant) {
        if let Some(evidence) = self.connected.get_mut(&node) {
            evidence.record_interval(now);
            evidence.last_heard = now;
        }
    }

    /// `node` answered something: no suspicion is left. Late news of a lost peer is ignored.
    pub fn on_answer(&mut self, node: NodeId, now: Instant) {
        if let Some(evidence) = self.connected.get_mut(&node) {
            evidence.last_heard = now;
            evidence.timeouts = 0;
        }
    }

    /// `node` took so long to answer a read. Late news of a lost peer is ignored.
    pub fn on_response_time(&mut self, node: NodeId, took: Duration) {
        if let Some(evidence) = self.connected.get_mut(&node) {
            evidence.response_times.record(took);
        }
    }

    /// `node` left something unanswered for too long. Late news of a lost peer is ignored.
    pub fn on_timeout(&mut self, node: NodeId, _now: Instant) {
        if let Some(evidence) = self.connected.get_mut(&node) {
            evidence.timeouts = evidence.timeouts.saturating_add(1);
        }
    }

    /// This node itself stood still (a stopped process, a sleeping machine): what it did not hear meanwhile proves nothing.
    pub fn on_own_pause(&mut self, now: Instant) {
        for evidence in self.connected.values_mut() {
            // How regular a peer is stays known: whoever falls silent meanwhile, or soon after, must still be noticed.
            evidence.last_heard = now;
            evidence.last_heartbeat = None;
            evidence.timeouts = 0;
        }
    }

    /// What this node thinks of `node`.
    pub fn opinion(&self, node: &NodeId, now: Instant) -> Opinion {
        let Some(evidence) = self.connected.get(node) else { return Opinion::Down };
        if evidence.is_dead(now) {
            Opinion::Down
        } else if evidence.phi(now) >= SUSPECT_PHI || evidence.timeouts >= SUSPICION_TIMEOUTS {
            Opinion::Suspect
        } else {
            Opinion::Up
        }
    }

    /// How long `node` usually takes to answer a read: 95 of a hundred answers come sooner.
    pub fn usual_time(&self, node: &NodeId) -> Duration {
        self.connected.get(node).map_or(USUAL_TIME_UNKNOWN, |evidence| evidence.response_times.usual)
    }

    /// How far `node` is: half of its answers come sooner. Far away while nothing is known.
    pub fn distance(&self, node: &NodeId) -> Duration {
        self.connected.get(node).map_or(Duration::MAX, |evidence| evidence.response_times.median)
    }

    /// Whether there is a connection to `node`, whatever comes over it.
    pub fn is_connected(&self, node: &NodeId) -> bool {
        self.connected.contains_key(node)
    }

    /// Connected peers that are silent for so long that their connections must be dead.
    pub fn silent(&self, now: Instant) -> Vec<NodeId> {
        self.connected.iter().filter(|(_, evidence)| evidence.is_dead(now)).map(|(node, _)| *node).collect()
    }
}

/// What is known of a connected peer.
#[derive(Debug, Clone)]
struct Evidence {
    last_heard: Instant,
    last_heartbeat: Option<Instant>,
    /// Milliseconds between heartbeats, oldest first, at most [`WINDOW`]. Empty until a second heartbeat came: a peer that
    /// gives none is judged by its connection and its answers alone.
    intervals: VecDeque<u32>,
    /// Since the last answer.
    timeouts: u32,
    response_times: ResponseTimes,
}

/// How long the last answers to reads took; at most [`WINDOW`] of them.
#[derive(Debug, Clone)]
struct ResponseTimes {
    /// The oldest first.
    window: VecDeque<Duration>,
    recorded_count: usize,
    median: Duration,
    usual: Duration,
}

impl ResponseTimes {
    fn new() -> ResponseTimes {
        ResponseTimes { window: VecDeque::new(), recorded_count: 0, median: Duration::MAX, usual: USUAL_TIME_UNKNOWN }
    }

    fn record(&mut self, took: Duration) {
        self.window.push_back(took);
        if self.window.len() > WINDOW {
            self.window.pop_front();
        }
        // Percentiles move slowly: a look at every eighth answer will do.
        self.recorded_count = self.recorded_count.wrapping_add(1);
        if self.recorded_count % 8 == 1 {
            let mut sorted: Vec<Duration> = self.window.iter().copied().collect();
            sorted.sort_unstable();
            self.median = sorted[sorted.len() / 2];
            self.usual = sorted[sorted.len() * 95 / 100].max(USUAL_TIME_MIN);
        }
    }
}

impl Evidence {
    fn new(now: Instant) -> Evidence {
        Evidence {
            last_heard: now,
            last_heartbeat: None,
            intervals: VecDeque::new(),
            timeouts: 0,
            response_times: ResponseTimes::new(),
        }
    }

    fn record_interval(&mut self, now: Instant) {
        if let Some(before) = self.last_heartbeat.replace(now) {
            let interval = u32::try_from((now - before).as_millis()).unwrap_or(u32::MAX);
            self.intervals.push_back(interval);
            if self.intervals.len() > WINDOW {
                self.intervals.pop_front();
            }
        }
    }

    /// Whether its silence is proof: for its heartbeats, or for requests that it leaves unanswered while nothing else is
    /// heard of it either, as of one that was cut off before its second heartbeat.
    fn is_dead(&self, now: Instant) -> bool {
        let is_mute = self.timeouts >= SUSPICION_TIMEOUTS && now - self.last_heard >= MUTE_TIME;
        is_mute || self.phi(now) >= DOWN_PHI
    }

    /// How unlikely the present silence is, were the peer alive: φ = −log10 of the probability that a heartbeat comes this
    /// late or later, if the intervals are normally distributed. 0 for a peer without heartbeats.
    fn phi(&self, now: Instant) -> f64 {
        if self.intervals.is_empty() {
            return 0.0;
        }
        let count = f64::from(u32::try_from(self.intervals.len()).expect("a window is short"));
        let mean = self.intervals.iter().copied().map(f64::from).sum::<f64>() / count;
        let variance = self.intervals.iter().map(|interval| (f64::from(*interval) - mean).powi(2)).sum::<f64>() / count;
        let deviation = variance.sqrt().max(DEVIATION_MIN.as_secs_f64() * 1_000.0);
        let silence = (now - self.last_heard).as_secs_f64() * 1_000.0;
        let y = (silence - mean) / deviation;
        // The logistic approximation of the normal distribution, which is off by less than 0.00014.
        let odds = (-y * (1.5976 + 0.070566 * y * y)).exp();
        if silence > mean { -(odds / (1.0 + odds)).log10() } else { -(1.0 - 1.0 / (1.0 + odds)).log10() }
    }
}

/// So many timeouts in a row make a suspect: one is a slow request, two a slow moment.
const SUSPICION_TIMEOUTS: u32 = 3;

/// So long a silence, and requests unanswered in it, make a peer dead of which no heartbeats are known.
const MUTE_TIME: Duration = Duration::from_secs(5);

/// From here on silence is suspicious: one heartbeat in a thousand comes so late.
const SUSPECT_PHI: f64 = 3.0;

/// From here on silence is proof: one heartbeat in a hundred million comes so late.
const DOWN_PHI: f64 = 8.0;

/// What is usual for a peer of which nothing is known yet.
const USUAL_TIME_UNKNOWN: Duration = Duration::from_millis(100);

/// Nobody is slow who answers sooner: asking another would take as long.
const USUAL_TIME_MIN: Duration = Duration::from_millis(10);

/// Intervals and response times that are remembered of a peer.
const WINDOW: usize = 64;

/// Intervals are never taken as steadier than this: a busy machine is late by as much without being ill. With heartbeats
/// every second a peer is suspect after 2.6 s of silence and down after 3.8 s.
const DEVIATION_MIN: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId([7; 32]);
    const NOW: Instant = Instant(1);

    /// Plays events in order: `c` connected, `l` lost, `a` answered, `t` timed out.
    #[track_caller]
    fn check(events: &str, expected: Opinion) {
        let mut liveness = Liveness::new();
        for event in events.chars() {
            match event {
                'c' => liveness.on_connected(NODE, NOW),
                'l' => liveness.on_lost(NODE, NOW),
                'a' => liveness.on_answer(NODE, NOW),
                't' => liveness.on_timeout(NODE, NOW),
                other => panic!("unknown event {other}"),
            }
        }
        assert_eq!(liveness.opinion(&NODE, NOW), expected, "after {events}");
    }

    #[test]
    fn a_connection_and_its_loss_count_at_once() {
        check("", Opinion::Down);
        check("c", Opinion::Up);
        check("cl", Opinion::Down);
        check("cttl", Opinion::Down);
    }

    #[test]
    fn three_timeouts_in_a_row_make_a_suspect_until_it_answers() {
        check("ctt", Opinion::Up);
        check("cttt", Opinion::Suspect);
        check("cttat", Opinion::Up);
        check("ctttta", Opinion::Up);
    }

    #[test]
    fn a_second_connection_does_not_lift_a_suspicion_but_a_new_one_does() {
        check("ctttc", Opinion::Suspect);
        check("ctttlc", Opinion::Up);
    }

    #[test]
    fn late_news_does_not_raise_the_lost() {
        check("clat", Opinion::Down);
        check("attt", Opinion::Down);
    }

    /// A peer with a heartbeat every second for so long.
    fn beating(seconds: u64) -> Liveness {
        let mut liveness = Liveness::new();
        liveness.on_connected(NODE, Instant(0));
        for second in 1..=seconds {
            liveness.on_heartbeat(NODE, Instant(1_000 * second));
        }
        liveness
    }

    #[track_caller]
    fn check_silence(liveness: &Liveness, from: u64, expected: [(u64, Opinion); 3]) {
        for (silence, opinion) in expected {
            assert_eq!(liveness.opinion(&NODE, Instant(from + silence)), opinion, "after {silence} ms of silence");
        }
    }

    #[test]
    fn silence_is_suspicious_first_and_proof_later() {
        let expected = [(2_000, Opinion::Up), (3_000, Opinion::Suspect), (4_000, Opinion::Down)];
        check_silence(&beating(10), 10_000, expected);
        check_silence(&beating(200), 200_000, expected);
        assert_eq!(beating(10).silent(Instant(14_000)), [NODE]);
        assert_eq!(beating(10).silent(Instant(13_000)), []);
    }

    #[test]
    fn a_peer_whose_heartbeats_are_irregular_is_given_more_time() {
        let mut liveness = Liveness::new();
        liveness.on_connected(NODE, Instant(0));
        for round in 1..=20 {
            liveness.on_heartbeat(NODE, Instant(4_000 * round));
            liveness.on_heartbeat(NODE, Instant(4_000 * round + 500));
        }
        let expected = [(6_000, Opinion::Up), (8_000, Opinion::Suspect), (14_000, Opinion::Down)];
        check_silence(&liveness, 80_500, expected);
    }

    #[test]
    fn an_answer_is_a_sign_of_life_too() {
        let mut liveness = beating(10);
        liveness.on_answer(NODE, Instant(13_500));
        assert_eq!(liveness.opinion(&NODE, Instant(14_500)), Opinion::Up);
    }

    #[test]
    fn a_peer_without_heartbeats_is_judged_by_its_connection_alone() {
        let mut liveness = Liveness::new();
        liveness.on_connected(NODE, Instant(0));
        liveness.on_heartbeat(NODE, Instant(10));
        assert_eq!(liveness.opinion(&NODE, Instant(1_000_000)), Opinion::Up);
    }

    #[test]
    fn what_is_usual_is_known_of_each_peer_by_its_last_answers() {
        let mut liveness = Liveness::new();
        liveness.on_connected(NODE, NOW);
        assert_eq!(liveness.usual_time(&NODE), USUAL_TIME_UNKNOWN);
        (1..=97).for_each(|ms| liveness.on_response_time(NODE, Duration::from_millis(ms)));
        assert_eq!(liveness.usual_time(&NODE), Duration::from_millis(94), "of 34 to 97 ms");
        assert_eq!(liveness.distance(&NODE), Duration::from_millis(66));
        (0..80).for_each(|_| liveness.on_response_time(NODE, Duration::from_millis(1)));
        assert_eq!(liveness.usual_time(&NODE), USUAL_TIME_MIN);
        assert_eq!(liveness.distance(&NodeId([8; 32])), Duration::MAX);
    }

    #[test]
    fn whoever_stood_still_itself_blames_nobody() {
        let mut liveness = beating(10);
        assert_eq!(liveness.opinion(&NODE, Instant(70_000)), Opinion::Down);
        liveness.on_own_pause(Instant(70_000));
        assert_eq!(liveness.opinion(&NODE, Instant(70_000)), Opinion::Up);
        assert_eq!(liveness.silent(Instant(71_500)), []);
        assert_eq!(liveness.silent(Instant(75_000)), [NODE], "but whoever stays silent is noticed as ever");
        liveness.on_heartbeat(NODE, Instant(72_000));
        assert_eq!(liveness.opinion(&NODE, Instant(73_500)), Opinion::Up, "the pause is no interval");
    }

    #[test]
    fn a_peer_that_is_cut_off_before_its_second_heartbeat_is_noticed_by_what_it_leaves_unanswered() {
        let mut liveness = Liveness::new();
        liveness.on_connected(NODE, Instant(0));
        (1..=3).for_each(|second| liveness.on_timeout(NODE, Instant(1_000 * second)));
        assert_eq!(liveness.opinion(&NODE, Instant(4_000)), Opinion::Suspect);
        assert_eq!(liveness.opinion(&NODE, Instant(5_000)), Opinion::Down);
        assert_eq!(liveness.silent(Instant(5_000)), [NODE]);
        liveness.on_heartbeat(NODE, Instant(5_500));
        assert_eq!(liveness.opinion(&NODE, Instant(6_000)), Opinion::Suspect, "slow, but alive");
    }
}
