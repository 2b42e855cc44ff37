//! The addresses at which a wildcard listener can be reached, as interfaces come and go.
//!
//! An address is reported up once and down once, whatever number of prefixes carry it. When the watcher breaks, every
//! address is reported down, and those that still exist come up again with the next watcher: nobody is left believing
//! in an address that went unnoticed. What the kernel announces but the watcher misses stays missed.

use std::{
    collections::{BTreeSet, VecDeque},
    future::Future,
    io,
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_io::Timer;
use if_watch::{IfEvent, IpNet, smol::IfWatcher};

use crate::tcp::address;

/// One change of the set of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Up(IpAddr),
    Down(IpAddr),
}

/// The watched addresses of one family.
pub(super) struct Interfaces {
    present: Present,
    watch: Watch,
    retry_pause: Duration,
    /// Addresses that ended with the last watcher, not yet reported. Bounded by what was present.
    ended: VecDeque<IpAddr>,
}

enum Watch {
    Running(Box<IfWatcher>),
    /// The last watcher failed; a new one is made when the timer fires.
    Broken(Timer),
}

impl Interfaces {
    /// Watches the addresses of the family of `wildcard`; errors if the system gives us no watcher.
    pub(super) fn watch(wildcard: IpAddr, retry_pause: Duration) -> io::Result<Self> {
        Ok(Self {
            present: Present { v4: wildcard.is_ipv4(), nets: BTreeSet::new() },
            watch: Watch::Running(Box::new(IfWatcher::new()?)),
            retry_pause,
            ended: VecDeque::new(),
        })
    }

    /// The next change, or the failure of a watcher; after a failure there is a pause, and then more changes.
    pub(super) fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Change>> {
        loop {
            if let Some(ip) = self.ended.pop_front() {
                return Poll::Ready(Ok(Change::Down(ip)));
            }
            match &mut self.watch {
                Watch::Running(watcher) => match ready!(watcher.poll_if_event(cx)) {
                    Ok(event) => {
                        if let Some(change) = self.present.record(event) {
                            return Poll::Ready(Ok(change));
                        }
                    }
                    Err(error) => return Poll::Ready(Err(self.give_up(error))),
                },
                Watch::Broken(retry) => {
                    ready!(Pin::new(retry).poll(cx));
                    match IfWatcher::new() {
                        Ok(watcher) => self.watch = Watch::Running(Box::new(watcher)),
                        Err(error) => return Poll::Ready(Err(self.give_up(error))),
                    }
                }
            }
        }
    }

    /// A watcher that has failed once must not be polled again.
    fn give_up(&mut self, error: io::Error) -> io::Error {
        self.ended.extend(self.present.clear());
        self.watch = Watch::Broken(Timer::after(self.retry_pause));
        error
    }
}

/// What the watcher has told us so far.
struct Present {
    v4: bool,
    /// Prefixes, because the same address may come with two of them and go with one.
    nets: BTreeSet<IpNet>,
}

impl Present {
    /// Takes note of an event. Returns a change if an address appeared or vanished that others could dial.
    fn record(&mut self, event: IfEvent) -> Option<Change> {
        let (IfEvent::Up(net) | IfEvent::Down(net)) = event;
        let ip = net.addr();
        if ip.is_ipv4() != self.v4 || !address::is_whole(ip) {
            return None;
        }
        let before = self.contains(ip);
        match event {
            IfEvent::Up(net) => self.nets.insert(net),
            IfEvent::Down(net) => self.nets.remove(&net),
        };
        match (before, self.contains(ip)) {
            (false, true) => Some(Change::Up(ip)),
            (true, false) => Some(Change::Down(ip)),
            _ => None,
        }
    }

    /// Forgets everything. Returns the addresses that were present, distinct and sorted.
    fn clear(&mut self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.nets).iter().map(IpNet::addr).collect()
    }

    fn contains(&self, ip: IpAddr) -> bool {
        self.nets.iter().any(|net| net.addr() == ip)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::future::poll_fn;

    use async_std::task::block_on;
    use futures::future::{Either, select};

    use super::*;

    /// Plays events such as `+10.0.0.1/8` and `-10.0.0.1/8`, and compares the changes in the same notation.
    #[track_caller]
    fn check(wildcard: &str, events: &[&str], expected: &[&str]) -> Present {
        let wildcard: IpAddr = wildcard.parse().unwrap();
        let mut present = Present { v4: wildcard.is_ipv4(), nets: BTreeSet::new() };
        let changes = events.iter().filter_map(|event| {
            let net = event[1..].parse().unwrap();
            present.record(if event.starts_with('+') { IfEvent::Up(net) } else { IfEvent::Down(net) })
        });
        let changes: Vec<_> = changes
            .map(|change| match change {
                Change::Up(ip) => format!("+{ip}"),
                Change::Down(ip) => format!("-{ip}"),
            })
            .collect();
        assert_eq!(changes, expected);
        present
    }

    #[test]
    fn an_address_comes_and_goes() {
        check("0.0.0.0", &["+10.0.0.1/8", "-10.0.0.1/8"], &["+10.0.0.1", "-10.0.0.1"]);
        check("::", &["+2001:db8::1/64", "-2001:db8::1/64"], &["+2001:db8::1", "-2001:db8::1"]);
    }

    #[test]
    fn an_address_with_two_prefixes_lives_until_the_second_is_gone() {
        check("0.0.0.0", &["+10.0.0.1/8", "+10.0.0.1/32", "-10.0.0.1/8"], &["+10.0.0.1"]);
        check("0.0.0.0", &["+10.0.0.1/8", "+10.0.0.1/32", "-10.0.0.1/8", "-10.0.0.1/32"], &["+10.0.0.1", "-10.0.0.1"]);
    }

    #[test]
    fn an_event_that_repeats_or_was_never_begun_changes_nothing() {
        check("0.0.0.0", &["+10.0.0.1/8", "+10.0.0.1/8", "-10.0.0.2/8"], &["+10.0.0.1"]);
    }

    #[test]
    fn the_other_family_is_ignored() {
        check("0.0.0.0", &["+2001:db8::1/64"], &[]);
        check("::", &["+10.0.0.1/8"], &[]);
    }

    #[test]
    fn link_local_ipv6_is_not_announced_but_link_local_ipv4_is() {
        check("::", &["+fe80::1/64"], &[]);
        check("0.0.0.0", &["+169.254.0.1/16"], &["+169.254.0.1"]);
    }

    #[test]
    fn what_ends_with_a_watcher_can_come_up_again_with_the_next() {
        let mut present = check("0.0.0.0", &["+10.0.0.1/8", "+10.0.0.1/32"], &["+10.0.0.1"]);
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(present.clear(), BTreeSet::from([ip]));
        assert_eq!(present.record(IfEvent::Up("10.0.0.1/8".parse().unwrap())), Some(Change::Up(ip)));
    }

    /// The next change; the test waits for it at most 20 s.
    fn next_change(interfaces: &mut Interfaces) -> io::Result<Change> {
        let timer = Timer::after(Duration::from_secs(20));
        match block_on(select(poll_fn(|cx| interfaces.poll_change(cx)), timer)) {
            Either::Left((change, _)) => change,
            Either::Right(_) => panic!("no address changed"),
        }
    }

    #[test]
    fn after_a_broken_watcher_all_addresses_end_and_come_up_again() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let pause = Duration::from_millis(10);
        let mut interfaces = Interfaces::watch(IpAddr::from([0, 0, 0, 0]), pause).unwrap();
        while next_change(&mut interfaces).unwrap() != Change::Up(loopback) {}

        interfaces.give_up(io::ErrorKind::BrokenPipe.into());
        let ended = interfaces.ended.clone();
        assert!(ended.contains(&loopback));
        for ip in ended {
            assert_eq!(next_change(&mut interfaces).unwrap(), Change::Down(ip));
        }
        while next_change(&mut interfaces).unwrap() != Change::Up(loopback) {}
    }
}
