//! A libp2p [`Transport`] over TCP sockets of async-io, for programs that run on async-std or smol.
//!
//! It listens, watches the interfaces of a wildcard listener, resolves names, dials with a deadline, and hands out
//! plain byte streams; encryption and multiplexing are libp2p's upgrades on top. Any executor will do: the sockets and
//! timers live in async-io's own reactor.
//!
//! ```
//! use libp2p::{Transport, core::upgrade::Version, identity::Keypair, noise, yamux};
//! use quorate_behaviours::tcp::{TcpConfig, TcpTransport};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = Keypair::generate_ed25519();
//! let transport = TcpTransport::new(TcpConfig::default())
//!     .upgrade(Version::V1Lazy)
//!     .authenticate(noise::Config::new(&key)?)
//!     .multiplex(yamux::Config::default())
//!     .boxed();
//! // Swarm::new(transport, behaviour, key.public().to_peer_id(),
//! //     swarm::Config::with_executor(|task| { async_std::task::spawn(task); }))
//! # drop(transport);
//! # Ok(())
//! # }
//! ```
//!
//! # Addresses
//!
//! | Address, each with or without a final `/p2p/<peer>` | listen | dial |
//! |---|---|---|
//! | `/ip4/<address>/tcp/<port>`, `/ip6/<address>/tcp/<port>` | yes | yes |
//! | the same with the wildcard `0.0.0.0` or `::` | yes, on all interfaces | no |
//! | the same with port 0 | yes, the system chooses | no |
//! | `/dns/<name>/tcp/<port>`, `/dns4/…`, `/dns6/…` | no | yes, see [`ADDRESSES_PER_NAME`] |
//! | `/ip6/fe80::…` (link-local) and `/ip6/::ffff:…` (IPv4 in disguise) | no | no |
//! | anything else, `/dnsaddr` included | no | no |
//!
//! "No" is [`TransportError::MultiaddrNotSupported`] with the address unchanged, so that
//! [`or_transport`](Transport::or_transport) can offer it to the next transport.
//!
//! # Invariants
//!
//! - A listener that cannot accept (no file descriptors left, aborted connection) reports the error and waits for
//!   [`TcpConfig::accept_pause`]; it never spins and never ends by itself.
//! - Listeners take turns, one event each, so that a busy one cannot starve another.
//! - A dial does nothing before it is polled, and ends within [`TcpConfig::connect_timeout`].
//! - IPv6 sockets carry IPv6 only: to serve both families, listen on both wildcards.
//! - An address of a wildcard listener is announced once, however many interfaces or prefixes carry it.
//!
//! # Why
//!
//! - *Link-local IPv6 addresses are neither announced nor dialled.* They mean nothing without the number of an
//!   interface, which differs between the two ends and has no place in `/ip6/…`.
//! - *A closed listener yields [`ListenerClosed`](TransportEvent::ListenerClosed) alone*, as every libp2p transport
//!   does: all its addresses end with it. A swarm derives the expiry of each address, and lists them in its own event;
//!   `AddressExpired` for each beforehand would leave that list empty.
//! - *Closing a stream closes its sending half* (see [`TcpStream`]); a bare `async_io::Async` would not.
//!
//! # What it lacks
//!
//! Port reuse: [`PortUse::Reuse`](libp2p::core::transport::PortUse::Reuse) is dialled like `New`, so hole punching over
//! TCP does not work. Keep-alive: use ping above it. `/dnsaddr` and zones. On a point-to-point link the address
//! announced is the one that `if-watch` reports, which may be that of the far end.

mod address;
mod dial;
mod error;
mod interfaces;
mod listener;
mod stream;

use std::{
    collections::VecDeque,
    fmt, io, mem,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Ready},
    stream::SelectAll,
};
use libp2p::{
    Multiaddr, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
};
use tracing::debug;

pub use self::{
    dial::ADDRESSES_PER_NAME,
    error::{DialError, FailedAttempt},
    stream::TcpStream,
};

use self::{
    dial::Dialer,
    listener::{Event, Listener},
};

/// The knobs of a [`TcpTransport`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpConfig {
    /// Longest time from the first poll of a dial to its connection, name resolution included. Default 5 s: four times
    /// the kernel's first repetition of a lost opening packet (1 s), and short enough for a caller to try another
    /// address. Larger: dead addresses hold up their callers longer. Zero: hardly any dial succeeds.
    pub connect_timeout: Duration,
    /// Whether to send small segments at once (`TCP_NODELAY`). Default true: requests are small and someone waits for
    /// each; the multiplexer above already gathers what belongs together.
    pub nodelay: bool,
    /// Connections the system completes and keeps for us until they are accepted, per listener. Default 1024; Linux
    /// caps it at `net.core.somaxconn`. Larger: longer bursts survive, at some kernel memory each.
    pub listen_backlog: u16,
    /// Pause of a listener after it failed to accept or to watch its interfaces. Default 100 ms: at most ten errors a
    /// second in the log, while freed file descriptors are noticed soon. Larger: slower recovery; zero: it would spin.
    pub accept_pause: Duration,
    /// Names resolved at the same time; a dial beyond fails with [`DialError::TooManyResolutions`]. Default 16: each
    /// holds a thread until the system's resolver gives up, which can outlast the dial, and names come from peers.
    pub resolutions_at_once: usize,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            nodelay: true,
            listen_backlog: 1024,
            accept_pause: Duration::from_millis(100),
            resolutions_at_once: 16,
        }
    }
}

/// TCP as a libp2p [`Transport`]; see the [module](self) for the addresses it takes.
///
/// Errors are [`io::Error`]s. Those of a dial that are not the system's own carry a [`DialError`] inside.
pub struct TcpTransport {
    config: TcpConfig,
    dialer: Dialer,
    listeners: SelectAll<Listener>,
    /// Farewells of removed listeners, not yet handed up: at most one per call of `remove_listener`.
    farewells: VecDeque<Event>,
    /// Of the task that last polled in vain; woken when a call gives it something to do.
    waker: Option<Waker>,
}

impl TcpTransport {
    /// A transport without listeners.
    #[must_use]
    pub fn new(config: TcpConfig) -> Self {
        let dialer = Dialer::new(&config);
        Self { config, dialer, listeners: SelectAll::new(), farewells: VecDeque::new(), waker: None }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Default for TcpTransport {
    fn default() -> Self {
        Self::new(TcpConfig::default())
    }
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpTransport")
            .field("config", &self.config)
            .field("listeners", &self.listeners.len())
            .finish_non_exhaustive()
    }
}

impl Transport for TcpTransport {
    type Output = TcpStream;
    type Error = io::Error;
    type ListenerUpgrade = Ready<io::Result<TcpStream>>;
    type Dial = BoxFuture<'static, io::Result<TcpStream>>;

    /// Binds and listens at once; the addresses follow as events.
    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        let Some(socket_addr) = address::to_listen(&addr) else {
            return Err(TransportError::MultiaddrNotSupported(addr));
        };
        let listener = Listener::bind(id, socket_addr, &self.config).map_err(TransportError::Other)?;
        debug!(listener = %id, address = %addr, "listening");
        self.listeners.push(listener);
        self.wake();
        Ok(())
    }

    /// Closes the socket before it returns: the port is free, and connections not yet accepted are reset.
    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let (removed, kept): (Vec<_>, Vec<_>) =
            mem::take(&mut self.listeners).into_iter().partition(|listener| listener.id() == id);
        self.listeners.extend(kept);
        if removed.is_empty() {
            return false;
        }
        self.farewells.push_back(TransportEvent::ListenerClosed { listener_id: id, reason: Ok(()) });
        self.wake();
        true
    }

    fn dial(&mut self, addr: Multiaddr, _: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let Some(target) = address::to_dial(&addr) else {
            return Err(TransportError::MultiaddrNotSupported(addr));
        };
        let dialer = self.dialer.clone();
        Ok(async move { dialer.dial(target).await }.boxed())
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(farewell) = self.farewells.pop_front() {
            return Poll::Ready(farewell);
        }
        match self.listeners.poll_next_unpin(cx) {
            Poll::Ready(Some(event)) => Poll::Ready(event),
            // No listeners, or none with news.
            Poll::Ready(None) | Poll::Pending => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
