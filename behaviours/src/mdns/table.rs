//! Who has been heard, at which addresses, and until when to believe it.
//!
//! The [`Table`] never holds more than its limits, forgets what is not refreshed, and hands new records up no faster
//! than its rate. A pure state machine: time is an argument, and what happened is taken out by the caller.
//!
//! It deliberately lacks eviction: while it is full, newcomers are refused rather than old acquaintances dropped, so a
//! flood can keep newcomers out until its records expire, but cannot make known peers flap.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId};

use crate::mdns::bucket::TokenBucket;

/// Shortest time for which a record is believed: one that says less would only flap.
pub(crate) const TTL_MIN: Duration = Duration::from_secs(1);
/// Longest time for which a record is believed, whatever it says: a lie should not outlive the day.
pub(crate) const TTL_MAX: Duration = Duration::from_secs(60 * 60);

/// What [`Table::sight`] did with a sighting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sighted {
    /// Unknown before; stored, and waiting to be handed up.
    New,
    /// Known before; its expiry was set anew.
    Refreshed,
    /// Unknown and refused, because the table or the share of the peer is full. Nothing changed.
    Refused,
}

/// The limits of a [`Table`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Most records in all.
    pub(crate) records_max: usize,
    /// Most records of one peer.
    pub(crate) addresses_per_peer_max: usize,
    /// Records handed up per second.
    pub(crate) discoveries_per_second: u32,
}

/// The bounded table of discovered (peer, address) records.
///
/// A record *waits* until [`Table::take_discovered`] hands it up. Only a record that has been handed up is ever
/// reported by [`Table::take_expired`], and always after it.
#[derive(Debug)]
pub(crate) struct Table {
    limits: Limits,
    peers: HashMap<PeerId, Vec<Record>>,
    record_count: usize,
    /// Records not yet handed up, by ticket, oldest first.
    waiting: BTreeMap<u64, (PeerId, Multiaddr)>,
    next_ticket: u64,
    bucket: TokenBucket,
    /// Handed up before and withdrawn since; not yet reported.
    withdrawn: Vec<(PeerId, Multiaddr)>,
    /// No record expires before this; refreshing may have made it too early. `None`: no record.
    earliest_expiry: Option<Instant>,
}

#[derive(Debug)]
struct Record {
    address: Multiaddr,
    expires: Instant,
    /// Set while the record waits to be handed up.
    ticket: Option<u64>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            peers: HashMap::new(),
            record_count: 0,
            waiting: BTreeMap::new(),
            next_ticket: 0,
            bucket: TokenBucket::new(limits.discoveries_per_second, now),
            withdrawn: Vec::new(),
            earliest_expiry: None,
        }
    }

    /// Notes that `peer` said it can be reached at `address` for the time of `ttl`, clamped to
    /// [`TTL_MIN`] – [`TTL_MAX`].
    pub(crate) fn sight(&mut self, peer: PeerId, address: Multiaddr, ttl: Duration, now: Instant) -> Sighted {
        let expires = now + ttl.clamp(TTL_MIN, TTL_MAX);
        let records = self.peers.get_mut(&peer);
        let share = records.as_ref().map_or(0, |records| records.len());
        if let Some(record) = records.and_then(|records| records.iter_mut().find(|r| r.address == address)) {
            record.expires = expires;
            self.earliest_expiry = self.earliest_expiry.min(Some(expires));
            return Sighted::Refreshed;
        }
        if self.record_count >= self.limits.records_max || share >= self.limits.addresses_per_peer_max {
            return Sighted::Refused;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting.insert(ticket, (peer, address.clone()));
        self.peers.entry(peer).or_default().push(Record { address, expires, ticket: Some(ticket) });
        self.record_count += 1;
        self.earliest_expiry = Some(self.earliest_expiry.map_or(expires, |earliest| earliest.min(expires)));
        Sighted::New
    }

    /// Forgets a record at once, because its owner said goodbye. Unknown ones are ignored.
    pub(crate) fn withdraw(&mut self, peer: PeerId, address: &Multiaddr) {
        let Some(records) = self.peers.get_mut(&peer) else { return };
        let Some(index) = records.iter().position(|record| record.address == *address) else { return };
        let record = records.swap_remove(index);
        if records.is_empty() {
            self.peers.remove(&peer);
        }
        self.record_count -= 1;
        match record.ticket {
            Some(ticket) => drop(self.waiting.remove(&ticket)),
            None => self.withdrawn.push((peer, record.address)),
        }
    }

    /// Records to hand up now, oldest first, as many as the rate allows. May be empty.
    pub(crate) fn take_discovered(&mut self, now: Instant) -> Vec<(PeerId, Multiaddr)> {
        let mut discovered = Vec::new();
        while !self.waiting.is_empty() && self.bucket.take(now) {
            let Some((ticket, (peer, address))) = self.waiting.pop_first() else { break };
            let records = self.peers.get_mut(&peer).into_iter().flatten();
            for record in records.filter(|record| record.ticket == Some(ticket)) {
                record.ticket = None;
            }
            discovered.push((peer, address));
        }
        discovered
    }

    /// Records that were handed up and are gone since the last call: withdrawn, or past their time. May be empty.
    pub(crate) fn take_expired(&mut self, now: Instant) -> Vec<(PeerId, Multiaddr)> {
        let mut expired = std::mem::take(&mut self.withdrawn);
        if self.earliest_expiry.is_none_or(|earliest| now < earliest) {
            return expired;
        }
        for (peer, records) in &mut self.peers {
            for record in records.extract_if(.., |record| record.expires <= now) {
                self.record_count -= 1;
                match record.ticket {
                    Some(ticket) => drop(self.waiting.remove(&ticket)),
                    None => expired.push((*peer, record.address)),
                }
            }
        }
        self.peers.retain(|_, records| !records.is_empty());
        self.earliest_expiry = self.peers.values().flatten().map(|record| record.expires).min();
        expired
    }

    /// When one of the `take_*` functions may next have something to give; may be past. `None`: not before the next
    /// sighting.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let discovery = if self.waiting.is_empty() { None } else { self.bucket.next() };
        [discovery, self.earliest_expiry].into_iter().flatten().min()
    }

    /// Every address at which `peer` is believed to be now, waiting ones included. Distinct, in no order, at most the
    /// share of a peer.
    pub(crate) fn addresses(&self, peer: &PeerId) -> impl Iterator<Item = &Multiaddr> {
        self.peers.get(peer).into_iter().flatten().map(|record| &record.address)
    }

    /// Every record that has been handed up and is still believed. In no order.
    pub(crate) fn discovered(&self) -> impl Iterator<Item = (&PeerId, &Multiaddr)> {
        self.peers
            .iter()
            .flat_map(|(peer, records)| records.iter().map(move |record| (peer, record)))
            .filter(|(_, record)| record.ticket.is_none())
            .map(|(peer, record)| (peer, &record.address))
    }

    /// Records held, waiting ones included.
    pub(crate) fn record_count(&self) -> usize {
        self.record_count
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn table(records_max: usize, addresses_per_peer_max: usize, discoveries_per_second: u32) -> (Table, Instant) {
        let start = Instant::now();
        (Table::new(Limits { records_max, addresses_per_peer_max, discoveries_per_second }, start), start)
    }

    fn address(port: u16) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()
    }

    #[test]
    fn a_new_record_is_handed_up_once() {
        let (mut table, now) = table(10, 10, 10);
        let peer = PeerId::random();
        assert_eq!(table.sight(peer, address(1), MINUTE, now), Sighted::New);
        assert_eq!(table.sight(peer, address(1), MINUTE, now), Sighted::Refreshed);
        assert_eq!(table.take_discovered(now), vec![(peer, address(1))]);
        assert_eq!(table.sight(peer, address(1), MINUTE, now), Sighted::Refreshed);
        assert!(table.take_discovered(now).is_empty());
        assert_eq!(table.addresses(&peer).collect::<Vec<_>>(), [&address(1)]);
    }

    #[test]
    fn a_record_expires_when_its_time_is_over_and_not_before() {
        let (mut table, now) = table(10, 10, 10);
        let peer = PeerId::random();
        table.sight(peer, address(1), MINUTE, now);
        table.take_discovered(now);
        assert_eq!(table.next_deadline(), Some(now + MINUTE));
        assert!(table.take_expired(now + MINUTE - Duration::from_millis(1)).is_empty());
        assert_eq!(table.take_expired(now + MINUTE), vec![(peer, address(1))]);
        assert_eq!(table.record_count(), 0);
        assert_eq!(table.next_deadline(), None);
    }

    #[test]
    fn a_refreshed_record_lives_on() {
        let (mut table, now) = table(10, 10, 10);
        let peer = PeerId::random();
        table.sight(peer, address(1), MINUTE, now);
        table.take_discovered(now);
        table.sight(peer, address(1), MINUTE, now + MINUTE / 2);
        assert!(table.take_expired(now + MINUTE).is_empty());
        assert_eq!(table.next_deadline(), Some(now + MINUTE + MINUTE / 2));
    }

    #[test]
    fn a_shortened_record_expires_at_its_new_time() {
        let (mut table, now) = table(10, 10, 10);
        let peer = PeerId::random();
        table.sight(peer, address(1), 10 * MINUTE, now);
        table.take_discovered(now);
        table.sight(peer, address(1), MINUTE, now);
        assert_eq!(table.take_expired(now + MINUTE), vec![(peer, address(1))]);
    }

    #[test]
    fn times_to_live_are_clamped() {
        let (mut table, now) = table(10, 10, 10);
        let (brief, eternal) = (PeerId::random(), PeerId::random());
        table.sight(brief, address(1), Duration::from_millis(1), now);
        table.sight(eternal, address(2), Duration::from_secs(u64::from(u32::MAX)), now);
        table.take_discovered(now);
        assert!(table.take_expired(now + Duration::from_millis(999)).is_empty());
        assert_eq!(table.take_expired(now + TTL_MIN), vec![(brief, address(1))]);
        assert_eq!(table.take_expired(now + TTL_MAX), vec![(eternal, address(2))]);
    }

    #[test]
    fn a_goodbye_expires_a_record_at_once() {
        let (mut table, now) = table(10, 10, 10);
        let peer = PeerId::random();
        table.sight(peer, address(1), MINUTE, now);
        table.sight(peer, address(2), MINUTE, now);
        table.take_discovered(now);
        table.withdraw(peer, &address(1));
        table.withdraw(peer, &address(3));
        table.withdraw(PeerId::random(), &address(1));
        assert_eq!(table.take_expired(now), vec![(peer, address(1))]);
        assert_eq!(table.addresses(&peer).collect::<Vec<_>>(), [&address(2)]);
    }

    #[test]
    fn what_was_never_handed_up_vanishes_in_silence() {
        let (mut table, now) = table(10, 10, 0);
        let (withdrawn, outlived) = (PeerId::random(), PeerId::random());
        table.sight(withdrawn, address(1), MINUTE, now);
        table.sight(outlived, address(2), MINUTE, now);
        table.withdraw(withdrawn, &address(1));
        assert!(table.take_discovered(now).is_empty());
        assert!(table.take_expired(now + MINUTE).is_empty());
        assert_eq!((table.record_count(), table.waiting.len()), (0, 0));
    }

    #[test]
    fn a_full_table_refuses_newcomers_and_refreshes_acquaintances() {
        let (mut table, now) = table(2, 10, 10);
        let peer = PeerId::random();
        table.sight(peer, address(1), MINUTE, now);
        table.sight(PeerId::random(), address(2), MINUTE, now);
        assert_eq!(table.sight(PeerId::random(), address(3), MINUTE, now), Sighted::Refused);
        assert_eq!(table.sight(peer, address(1), MINUTE, now), Sighted::Refreshed);
        assert_eq!(table.record_count(), 2);
    }

    #[test]
    fn one_peer_cannot_take_more_than_its_share() {
        let (mut table, now) = table(100, 3, 100);
        let peer = PeerId::random();
        for port in 0..50 {
            table.sight(peer, address(port), MINUTE, now);
        }
        assert_eq!(table.addresses(&peer).count(), 3);
        assert_eq!(table.sight(PeerId::random(), address(1), MINUTE, now), Sighted::New);
    }

    #[test]
    fn a_flood_is_handed_up_no_faster_than_the_rate_and_oldest_first() {
        let (mut table, now) = table(100, 1, 10);
        let peers: Vec<PeerId> = (0..1000).map(|_| PeerId::random()).collect();
        for peer in &peers {
            table.sight(*peer, address(1), MINUTE, now);
        }
        let mut handed_up: Vec<PeerId> = table.take_discovered(now).into_iter().map(|(peer, _)| peer).collect();
        assert_eq!(handed_up.len(), 10);
        assert!(table.take_discovered(now).is_empty());
        let next = table.next_deadline().unwrap();
        assert!(now < next && next <= now + Duration::from_millis(100));
        for step in 1..=2000 {
            let later = now + Duration::from_millis(10 * step);
            handed_up.extend(table.take_discovered(later).into_iter().map(|(peer, _)| peer));
        }
        assert_eq!(handed_up, peers[..100]);
    }

    #[test]
    fn repeated_arrival_and_departure_leaves_nothing_behind() {
        let (mut table, now) = table(4, 4, 1);
        for round in 0..1000 {
            let peer = PeerId::random();
            table.sight(peer, address(round), MINUTE, now);
            table.withdraw(peer, &address(round));
        }
        assert_eq!((table.record_count(), table.peers.len(), table.waiting.len()), (0, 0, 0));
    }
}
