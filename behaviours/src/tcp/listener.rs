//! One listening socket as an endless stream of transport events.
//!
//! Each turn yields at most one event: a change of address before a connection, because a connection should arrive at
//! an address that has been announced. Trouble pauses accepting, and never ends the stream. Dropping it closes the
//! socket.

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_io::{Async, Timer};
use futures::{
    Stream,
    future::{self, Ready},
};
use libp2p::core::transport::{ListenerId, TransportEvent};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::{debug, warn};

use crate::tcp::{
    TcpConfig, TcpStream,
    address::to_multiaddr,
    interfaces::{Change, Interfaces},
};

/// What a listener tells the swarm.
pub(super) type Event = TransportEvent<Ready<io::Result<TcpStream>>, io::Error>;

/// A listening socket and the addresses that lead to it.
pub(super) struct Listener {
    id: ListenerId,
    socket: Async<TcpListener>,
    port: u16,
    nodelay: bool,
    accept_pause: Duration,
    reach: Reach,
    accepting: Accepting,
}

/// How others reach the socket.
enum Reach {
    /// At one address, not announced yet.
    New(SocketAddr),
    /// At one address, announced.
    Announced,
    /// At every address of its family that this machine has.
    Everywhere(Interfaces),
}

enum Accepting {
    /// The queue of connections was empty when we last looked.
    Waiting,
    /// The queue may hold connections.
    Ready,
    /// Accepting failed; the reason is likely to persist for a while.
    Paused(Timer),
}

impl Listener {
    /// Binds and listens. An error leaves no socket behind.
    pub(super) fn bind(id: ListenerId, addr: SocketAddr, config: &TcpConfig) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // A restarted program must not wait for its old connections to be forgotten. On Windows the option means
        // something else: that others may take the port.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(i32::from(config.listen_backlog))?;
        let socket = Async::new(TcpListener::from(socket))?;
        let local = socket.get_ref().local_addr()?;

        let reach = if local.ip().is_unspecified() {
            Reach::Everywhere(Interfaces::watch(local.ip(), config.accept_pause)?)
        } else {
            Reach::New(local)
        };
        Ok(Self {
            id,
            socket,
            port: local.port(),
            nodelay: config.nodelay,
            accept_pause: config.accept_pause,
            reach,
            accepting: Accepting::Waiting,
        })
    }

    pub(super) fn id(&self) -> ListenerId {
        self.id
    }

    fn poll_addresses(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let listener_id = self.id;
        match &mut self.reach {
            Reach::New(local) => {
                let listen_addr = to_multiaddr(local.ip(), local.port());
                self.reach = Reach::Announced;
                Poll::Ready(TransportEvent::NewAddress { listener_id, listen_addr })
            }
            Reach::Announced => Poll::Pending,
            Reach::Everywhere(interfaces) => Poll::Ready(match ready!(interfaces.poll_change(cx)) {
                Ok(Change::Up(ip)) => {
                    TransportEvent::NewAddress { listener_id, listen_addr: to_multiaddr(ip, self.port) }
                }
                Ok(Change::Down(ip)) => {
                    TransportEvent::AddressExpired { listener_id, listen_addr: to_multiaddr(ip, self.port) }
                }
                Err(error) => {
                    warn!(listener = %listener_id, %error, "interfaces are not watched for the moment");
                    TransportEvent::ListenerError { listener_id, error }
                }
            }),
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        // Ends soon: from each state there is a way to the next only, and waiting anew is pending until the reactor
        // has looked at the socket again.
        loop {
            match &mut self.accepting {
                Accepting::Paused(pause) => {
                    ready!(Pin::new(pause).poll(cx));
                    self.accepting = Accepting::Ready;
                }
                Accepting::Waiting => match ready!(self.socket.poll_readable(cx)) {
                    Ok(()) => self.accepting = Accepting::Ready,
                    Err(error) => return Poll::Ready(self.pause(error)),
                },
                Accepting::Ready => match self.accept() {
                    Ok(event) => return Poll::Ready(event),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.accepting = Accepting::Waiting,
                    Err(error) => return Poll::Ready(self.pause(error)),
                },
            }
        }
    }

    fn accept(&self) -> io::Result<Event> {
        let (socket, remote) = self.socket.get_ref().accept()?;
        let local = socket.local_addr()?;
        // From here on a failure is that of the connection, and none of the listener's business.
        let stream = socket.set_nodelay(self.nodelay).and_then(|()| Async::new(socket)).map(TcpStream::new);
        debug!(listener = %self.id, %local, %remote, "accepted");
        Ok(TransportEvent::Incoming {
            listener_id: self.id,
            upgrade: future::ready(stream),
            local_addr: to_multiaddr(local.ip(), local.port()),
            send_back_addr: to_multiaddr(remote.ip(), remote.port()),
        })
    }

    /// Every error pauses, also one that concerns a single connection (`ECONNABORTED`): it is rare, the pause is
    /// short, and no list of harmless errors holds on every system.
    fn pause(&mut self, error: io::Error) -> Event {
        warn!(listener = %self.id, %error, pause = ?self.accept_pause, "accepting failed");
        self.accepting = Accepting::Paused(Timer::after(self.accept_pause));
        TransportEvent::ListenerError { listener_id: self.id, error }
    }
}

impl Stream for Listener {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        if let Poll::Ready(event) = self.poll_addresses(cx) {
            return Poll::Ready(Some(event));
        }
        self.poll_accept(cx).map(Some)
    }
}
