//! The task of one link: asks, answers, and passes on what it hears.
//!
//! It ends when the behaviour lets go of its end of the `news` channel, and takes back what it has announced. Whatever
//! arrives costs bounded effort: packets above the rate are not decoded, answers above the rate are not sent, and
//! addresses that the behaviour does not take in time are dropped; all are counted.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use async_io::Timer;
use futures::{FutureExt, StreamExt, channel::mpsc, select_biased};
use libp2p::PeerId;

use crate::mdns::{
    bucket::TokenBucket,
    link::{Link, Shared},
    message::{self, PACKET_LIMIT_BYTES, Packet, Sighting},
    rounds::Rounds,
    table::{TTL_MAX, TTL_MIN},
};

/// Longest delay before we speak up: spread, lest all speak at once, and so that one answer serves several.
const DELAY_MAX: Duration = Duration::from_millis(20);
/// Pause after a failure of the socket; doubles up to [`RETRY_PAUSE_MAX`] while it cannot be opened.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Says that addresses of the swarm or of the link have changed. Carries nothing: the task looks for itself.
pub(crate) type News = ();

/// The state of the task of one link.
#[derive(Debug)]
pub(crate) struct Interface {
    link: Arc<Link>,
    shared: Arc<Shared>,
    news: mpsc::Receiver<News>,
    heard: mpsc::Sender<Vec<Sighting>>,
    rounds: Rounds,
    packets: TokenBucket,
    responses: TokenBucket,
    /// When to answer those who asked, or who are new; `None` when nobody waits.
    answer_at: Option<Instant>,
    /// The number of our last query, by which we know it when it comes back to us.
    query_id: Option<u16>,
}

/// What wakes the task.
enum Wake {
    News,
    Closed,
    Time,
    Packet(usize, SocketAddr),
    Failed(io::Error),
}

impl Interface {
    /// A task that hears news of the behaviour on `news` and passes what it finds to `heard`.
    pub(crate) fn new(
        link: Arc<Link>,
        shared: Arc<Shared>,
        news: mpsc::Receiver<News>,
        heard: mpsc::Sender<Vec<Sighting>>,
    ) -> Self {
        let now = Instant::now();
        let config = &shared.config;
        Self {
            rounds: Rounds::new(config.query_interval, config.records_max, now),
            packets: TokenBucket::new(config.packets_per_second, now),
            responses: TokenBucket::new(config.responses_per_second, now),
            answer_at: None,
            query_id: None,
            link,
            shared,
            news,
            heard,
        }
    }

    /// Serves the link until the behaviour lets go.
    pub(crate) async fn run(mut self) {
        let link = Arc::clone(&self.link);
        let mut pause = RETRY_PAUSE;
        let socket = loop {
            match link.open() {
                Ok(socket) => break socket,
                Err(error) => self.on_failure(&error),
            }
            if self.is_closed_within(pause).await {
                return;
            }
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        };
        tracing::debug!(link = ?link.id(), "mdns link open");
        self.begin_round(Instant::now());
        // One byte more than allowed, so that a packet that was cut off is known by its length.
        let mut buffer = vec![0; PACKET_LIMIT_BYTES + 1];
        loop {
            let deadline = self.answer_at.map_or(self.rounds.next(), |at| at.min(self.rounds.next()));
            let wake = {
                let mut received = pin!(socket.recv_from(&mut buffer).fuse());
                let mut timer = FutureExt::fuse(Timer::at(deadline));
                select_biased! {
                    news = self.news.next() => news.map_or(Wake::Closed, |()| Wake::News),
                    _ = timer => Wake::Time,
                    received = received => received.map_or_else(Wake::Failed, |(size, from)| Wake::Packet(size, from)),
                }
            };
            let now = Instant::now();
            match wake {
                Wake::News => self.on_news(now),
                Wake::Closed => break,
                Wake::Time => self.on_time(now),
                Wake::Packet(size, from) => self.on_packet(&buffer[..size], from, now),
                Wake::Failed(error) => {
                    self.on_failure(&error);
                    if self.is_closed_within(RETRY_PAUSE).await {
                        break;
                    }
                }
            }
        }
        link.close(&self.shared);
    }

    fn on_failure(&self, error: &io::Error) {
        self.shared.count(|counters| counters.interface_failures += 1);
        tracing::warn!(link = ?self.link.id(), %error, "mdns socket failed");
    }

    /// Waits, unless the behaviour lets go meanwhile. News needs no attention: it is looked for after a failure anyhow.
    async fn is_closed_within(&mut self, pause: Duration) -> bool {
        let mut timer = FutureExt::fuse(Timer::after(pause));
        loop {
            select_biased! {
                news = self.news.next() => if news.is_none() { return true },
                _ = timer => break,
            }
        }
        self.on_news(Instant::now());
        false
    }

    fn on_news(&mut self, now: Instant) {
        if self.link.withdraw_outdated(&self.shared) {
            self.begin_round(now);
        }
    }

    /// Begins an opening round, a moment later: a link that comes up does so for everybody on it at once.
    fn begin_round(&mut self, now: Instant) {
        self.rounds.restart(now + delay());
    }

    fn on_time(&mut self, now: Instant) {
        if self.rounds.is_due(rand::random(), now) {
            let id = rand::random();
            self.query_id = Some(id);
            self.link.query(id, &self.shared);
            self.announce(now);
        } else if self.answer_at.is_some_and(|at| at <= now) {
            self.announce(now);
        }
    }

    /// Announces, as soon as the rate allows; this answers everybody who waits.
    ///
    /// Late is better than never: who asked and is not answered asks again, and all others answer him again.
    fn announce(&mut self, now: Instant) {
        self.answer_at = None;
        if !self.link.has_addresses(&self.shared) {
            return;
        }
        if self.responses.take(now) {
            self.link.announce(&self.shared);
        } else {
            self.answer_at = self.responses.next();
            self.shared.count(|counters| counters.responses_delayed += 1);
        }
    }

    fn on_packet(&mut self, packet: &[u8], from: SocketAddr, now: Instant) {
        self.shared.count(|counters| counters.packets_received += 1);
        if !self.shared.config.accept_foreign_addresses && !self.link.is_neighbour(from.ip()) {
            return self.shared.count(|counters| counters.packets_foreign += 1);
        }
        if !self.packets.take(now) {
            return self.shared.count(|counters| counters.packets_shed += 1);
        }
        match message::decode(packet) {
            Ok(Packet::Query { id, wants_peers, wants_services }) => {
                let own = self.query_id == Some(id) && self.link.is_ours(from.ip());
                if !own {
                    self.on_query(wants_peers, wants_services, now);
                }
            }
            Ok(Packet::Response(sightings)) => self.on_response(sightings, now),
            Ok(Packet::Other) => {}
            Err(error) => {
                self.shared.count(|counters| counters.packets_malformed += 1);
                tracing::trace!(link = ?self.link.id(), %from, %error, "mdns packet not understood");
            }
        }
    }

    fn on_query(&mut self, wants_peers: bool, wants_services: bool, now: Instant) {
        self.shared.count(|counters| counters.queries_received += 1);
        if wants_peers {
            self.answer_soon(now);
        }
        if wants_services {
            if self.responses.take(now) {
                self.link.list_services(&self.shared);
            } else {
                self.shared.count(|counters| counters.responses_shed += 1);
            }
        }
    }

    fn on_response(&mut self, mut sightings: Vec<Sighting>, now: Instant) {
        sightings.retain(|sighting| sighting.peer != self.shared.me);
        if sightings.is_empty() {
            return;
        }
        let before = sightings.len();
        if !self.shared.config.accept_foreign_addresses {
            sightings.retain(|sighting| self.link.leads_here(&sighting.address));
        }
        let foreign = before - sightings.len();
        self.shared.count(|counters| {
            counters.responses_received += 1;
            counters.addresses_foreign += foreign as u64;
        });
        if !sightings.is_empty() {
            self.pass_on(sightings, now);
        }
    }

    /// Hands sightings to the behaviour. Only what it takes counts as heard, so that what is lost is asked for again.
    fn pass_on(&mut self, sightings: Vec<Sighting>, now: Instant) {
        let peers: Vec<(PeerId, u32)> = sightings.iter().map(|sighting| (sighting.peer, sighting.ttl_secs)).collect();
        if self.heard.try_send(sightings).is_err() {
            return self.shared.count(|counters| counters.addresses_shed += peers.len() as u64);
        }
        for (peer, ttl_secs) in peers {
            if ttl_secs == 0 {
                self.rounds.on_goodbye(&peer);
                continue;
            }
            let ttl = Duration::from_secs(u64::from(ttl_secs)).clamp(TTL_MIN, TTL_MAX);
            // Who announces himself for the first time has probably just come, and does not know us either.
            if self.rounds.on_heard(peer, ttl, now) {
                self.answer_soon(now);
            }
        }
    }

    fn answer_soon(&mut self, now: Instant) {
        let at = now + delay();
        self.answer_at = Some(self.answer_at.map_or(at, |earlier| earlier.min(at)));
    }
}

fn delay() -> Duration {
    DELAY_MAX.mul_f64(rand::random())
}
