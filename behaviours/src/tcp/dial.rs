//! From a target to a connected stream, within one time limit.
//!
//! A name is resolved by the system (`getaddrinfo`, hence `/etc/hosts` too) on a blocking thread; its addresses are
//! then tried in turn. It keeps no cache and remembers no failures: whom to dial again, and when, is the caller's
//! business.

use std::{
    collections::BTreeSet,
    future::Future,
    io, net,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_io::{Async, Timer};
use async_std::net::ToSocketAddrs;
use futures::future::{Either, select};
use tracing::debug;

use crate::tcp::{
    TcpConfig, TcpStream,
    address::{self, Name, Target},
    error::{DialError, FailedAttempt},
};

/// Most addresses of one name that a dial tries, in the resolver's order.
///
/// Each gets an equal share of the time that is left, so that one silent address cannot use it all. Eight: enough for
/// every machine that honestly has several addresses, and 600 ms each of the default time limit.
pub const ADDRESSES_PER_NAME: usize = 8;

/// What all dials of a transport share.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    connect_timeout: Duration,
    nodelay: bool,
    resolutions_at_once: usize,
    /// Resolutions that hold a thread, including those whose dial has given up.
    resolving: Arc<AtomicUsize>,
}

impl Dialer {
    pub(super) fn new(config: &TcpConfig) -> Self {
        Self {
            connect_timeout: config.connect_timeout,
            nodelay: config.nodelay,
            resolutions_at_once: config.resolutions_at_once,
            resolving: Arc::default(),
        }
    }

    /// Connects to the target. The time limit begins with the first poll.
    pub(super) async fn dial(self, target: Target) -> io::Result<TcpStream> {
        match target {
            Target::Socket(address) => self.connect(address, self.connect_timeout).await,
            Target::Name(name) => self.dial_name(&name).await,
        }
    }

    async fn dial_name(&self, name: &Name) -> io::Result<TcpStream> {
        let started = Instant::now();
        let limit = self.connect_timeout;
        let resolved = within(limit, self.resolve(name))
            .await
            .unwrap_or_else(|| Err(DialError::ResolutionTimedOut { name: name.to_string(), limit }.into()))?;
        let addresses = worth_trying(name, resolved);
        debug!(%name, count = addresses.len(), "resolved");
        self.connect_in_turn(name, &addresses, limit.saturating_sub(started.elapsed())).await
    }

    /// All addresses of the host, of either family.
    ///
    /// The resolver cannot be interrupted. It therefore runs in a task of its own, which gives its place back when the
    /// thread is really free, not when the dial has lost interest.
    async fn resolve(&self, name: &Name) -> io::Result<Vec<SocketAddr>> {
        let Some(place) = Place::take(&self.resolving, self.resolutions_at_once) else {
            let limit = self.resolutions_at_once;
            return Err(DialError::TooManyResolutions { name: name.to_string(), limit }.into());
        };
        let (host, port) = (name.host.clone(), name.port);
        let resolution = async_std::task::spawn(async move {
            let resolved = (host.as_str(), port).to_socket_addrs().await;
            drop(place);
            resolved.map(Iterator::collect)
        });
        resolution.await.map_err(|error| DialError::ResolutionFailed { name: name.to_string(), error }.into())
    }

    async fn connect_in_turn(&self, name: &Name, addresses: &[SocketAddr], limit: Duration) -> io::Result<TcpStream> {
        if addresses.is_empty() {
            return Err(DialError::NoAddress { name: name.to_string() }.into());
        }
        let started = Instant::now();
        let mut attempts = Vec::with_capacity(addresses.len());
        let mut untried = addresses;
        while let Some((&address, rest)) = untried.split_first() {
            let share = share_of(limit.saturating_sub(started.elapsed()), untried.len());
            match self.connect(address, share).await {
                Ok(stream) => return Ok(stream),
                Err(error) => attempts.push(FailedAttempt { address, error }),
            }
            untried = rest;
        }
        Err(DialError::AllFailed { name: name.to_string(), attempts }.into())
    }

    async fn connect(&self, address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
        debug!(%address, ?limit, "connecting");
        let socket = within(limit, Async::<net::TcpStream>::connect(address))
            .await
            .unwrap_or_else(|| Err(DialError::TimedOut { address, limit }.into()))?;
        refuse_own_echo(socket.get_ref(), address)?;
        socket.get_ref().set_nodelay(self.nodelay)?;
        Ok(TcpStream::new(socket))
    }
}

/// A connection to an unused local port can meet itself, because the system chooses our end's port from the same
/// range (simultaneous open, RFC 9293, section 3.5). It would hold the port against the rightful listener.
fn refuse_own_echo(socket: &net::TcpStream, address: SocketAddr) -> io::Result<()> {
    if socket.local_addr()? == socket.peer_addr()? {
        return Err(DialError::ConnectedToItself { address }.into());
    }
    Ok(())
}

/// The addresses to try: distinct, of the wanted family, in the resolver's order, at most [`ADDRESSES_PER_NAME`].
fn worth_trying(name: &Name, resolved: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut seen = BTreeSet::new();
    resolved
        .into_iter()
        .filter(|addr| name.family.includes(addr.ip()) && address::is_diallable(*addr))
        .filter(|addr| seen.insert(*addr))
        .take(ADDRESSES_PER_NAME)
        .collect()
}

/// What one of `shares` equal shares of `time` is; at least one share.
fn share_of(time: Duration, shares: usize) -> Duration {
    time / u32::try_from(shares).unwrap_or(u32::MAX).max(1)
}

/// The outcome of `work`, or `None` if it takes longer than `limit`.
async fn within<F: Future>(limit: Duration, work: F) -> Option<F::Output> {
    match select(pin!(work), Timer::after(limit)).await {
        Either::Left((outcome, _)) => Some(outcome),
        Either::Right(_) => None,
    }
}

/// One of a limited number of places; dropping it gives it back.
#[derive(Debug)]
struct Place {
    taken: Arc<AtomicUsize>,
}

impl Place {
    fn take(taken: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < limit).then_some(count + 1))
            .is_ok()
            .then(|| Self { taken: Arc::clone(taken) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::net::TcpListener;

    use async_std::task::block_on;
    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::tcp::address::Family;

    fn dialer(connect_timeout: Duration) -> Dialer {
        Dialer::new(&TcpConfig { connect_timeout, ..TcpConfig::default() })
    }

    fn name(host: &str, family: Family) -> Name {
        Name { host: host.to_owned(), port: 80, family }
    }

    /// A socket on loopback that is bound to a port and does nothing with it yet.
    fn bound_socket() -> (Socket, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let addr = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, addr)
    }

    /// A listener whose queue is full: the system drops further attempts to connect without a word.
    fn silent_listener() -> ((Socket, net::TcpStream), SocketAddr) {
        let (socket, addr) = bound_socket();
        socket.listen(0).unwrap();
        let first = net::TcpStream::connect(addr).unwrap();
        ((socket, first), addr)
    }

    fn dial_error(result: io::Result<TcpStream>) -> (io::ErrorKind, DialError) {
        let error = result.expect_err("no connection was expected");
        (error.kind(), *error.into_inner().unwrap().downcast().unwrap())
    }

    #[test]
    fn addresses_are_tried_in_turn_until_one_answers() {
        let (_refusing, refusing) = bound_socket();
        let answering = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [refusing, answering.local_addr().unwrap()];
        let limit = Duration::from_secs(5);
        let stream = block_on(dialer(limit).connect_in_turn(&name("a.example", Family::Any), &addresses, limit));
        assert_eq!(stream.unwrap().get_ref().peer_addr().unwrap(), addresses[1]);
    }

    #[test]
    fn a_silent_address_leaves_time_for_the_next() {
        let (_silent, silent) = silent_listener();
        let answering = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = [silent, answering.local_addr().unwrap()];
        let limit = Duration::from_millis(600);
        let stream = block_on(dialer(limit).connect_in_turn(&name("a.example", Family::Any), &addresses, limit));
        assert_eq!(stream.unwrap().get_ref().peer_addr().unwrap(), addresses[1]);
    }

    #[test]
    fn when_all_addresses_fail_the_error_lists_each() {
        let (_refusing, refusing) = bound_socket();
        let (_silent, silent) = silent_listener();
        let limit = Duration::from_millis(200);
        let result =
            block_on(dialer(limit).connect_in_turn(&name("a.example", Family::V4), &[refusing, silent], limit));
        let (kind, error) = dial_error(result);
        assert_eq!(kind, io::ErrorKind::TimedOut);
        let text = error.to_string();
        assert!(text.starts_with(&format!("no connection to /dns4/a.example/tcp/80; tried {refusing} (")), "{text}");
        assert!(text.contains(&format!("), {silent} (no connection to {silent} within")), "{text}");
    }

    #[test]
    fn resolved_addresses_are_filtered_deduplicated_and_bounded() {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let resolved = parse(&["[2001:db8::1]:80", "0.0.0.0:80", "192.0.2.1:80", "192.0.2.1:80", "[fe80::1]:80"]);
        let check = |family, expected: &[&str]| {
            assert_eq!(worth_trying(&name("a.example", family), resolved.clone()), parse(expected));
        };
        check(Family::Any, &["[2001:db8::1]:80", "192.0.2.1:80"]);
        check(Family::V4, &["192.0.2.1:80"]);
        check(Family::V6, &["[2001:db8::1]:80"]);

        let many: Vec<_> = (1..=100).map(|last| SocketAddr::from(([192, 0, 2, last], 80))).collect();
        assert_eq!(worth_trying(&name("a.example", Family::Any), many.clone()), many[..ADDRESSES_PER_NAME]);
    }

    #[test]
    fn a_name_without_addresses_of_the_family_is_an_error() {
        let target = Target::Name(name("127.0.0.1", Family::V6));
        let (kind, error) = dial_error(block_on(dialer(Duration::from_secs(5)).dial(target)));
        assert_eq!(kind, io::ErrorKind::NotFound);
        assert_eq!(error.to_string(), "name /dns6/127.0.0.1/tcp/80 has no address that can be dialled");
    }

    #[test]
    fn a_name_the_resolver_refuses_is_an_error_and_frees_its_place() {
        let dialer = dialer(Duration::from_secs(5));
        let target = Target::Name(name("nul\0nul", Family::Any));
        let (_, error) = dial_error(block_on(dialer.clone().dial(target)));
        assert!(matches!(error, DialError::ResolutionFailed { .. }), "{error}");
        assert_eq!(dialer.resolving.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn names_beyond_the_limit_of_resolutions_are_refused() {
        let dialer = Dialer::new(&TcpConfig { resolutions_at_once: 1, ..TcpConfig::default() });
        let place = Place::take(&dialer.resolving, 1).unwrap();
        let target = Target::Name(name("127.0.0.1", Family::V6));
        let (kind, error) = dial_error(block_on(dialer.clone().dial(target.clone())));
        assert_eq!(kind, io::ErrorKind::WouldBlock);
        assert!(matches!(error, DialError::TooManyResolutions { limit: 1, .. }), "{error}");

        drop(place);
        let (_, error) = dial_error(block_on(dialer.dial(target)));
        assert!(matches!(error, DialError::NoAddress { .. }), "{error}");
    }

    #[test]
    fn a_socket_connected_to_itself_is_no_connection() {
        let (socket, addr) = bound_socket();
        socket.connect(&addr.into()).unwrap();
        let error = refuse_own_echo(&socket.into(), addr).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        refuse_own_echo(&net::TcpStream::connect(addr).unwrap(), addr).unwrap();
    }
}
