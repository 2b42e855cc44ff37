//! The face towards the swarm: watches the interfaces, keeps the table, and runs one task for each link.
//!
//! Decides nothing about packets; what it is told it puts into the [`Table`], and what the table gives out it reports.
//! Everything it holds is bounded: links by the interfaces of the host, the queues by the table and its rate.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    fmt,
    future::Future,
    io,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use async_io::Timer;
use async_std::task::{self, JoinHandle};
use futures::{FutureExt, StreamExt, channel::mpsc, future::join_all};
use if_watch::{IfEvent, IpNet, smol::IfWatcher};
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, ListenAddresses, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};
use thiserror::Error;

use crate::mdns::{
    config::{Config, Counters},
    interface::{Interface, News},
    link::{Link, Shared},
    message::{Encoder, Sighting},
    socket::LinkId,
    table::{Limits, Sighted, Table},
};

/// Packets' worth of sightings that may wait for the behaviour, in addition to one per link.
const HEARD_QUEUE: usize = 64;
/// Packets' worth of sightings taken in one poll, so that a flood does not starve the rest of the swarm.
const HEARD_PER_POLL: usize = 64;
/// Pause before the interfaces are watched again after the watch has failed.
const REWATCH_PAUSE: Duration = Duration::from_secs(5);

/// What the behaviour has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Peers were found at addresses where they were not known to be.
    ///
    /// Not empty, distinct, in the order in which they were heard; every address ends in `/p2p/<peer>`. Bounded by
    /// [`Config::discoveries_per_second`].
    Discovered(Vec<(PeerId, Multiaddr)>),
    /// Discovered addresses were taken back, or not confirmed in time.
    ///
    /// Not empty, distinct, in no order. Only news: the peer may be connected and well, and whoever forges a packet
    /// can cause it.
    Expired(Vec<(PeerId, Multiaddr)>),
}

/// Why a [`Behaviour`] could not be made. Nothing was left behind; trying again is safe.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The system does not tell which interfaces there are.
    #[error("cannot watch the network interfaces: {0}")]
    Watch(#[source] io::Error),
    /// The names of the protocol were refused by the DNS codec.
    #[error("cannot form the names of the service: {0}")]
    Names(#[source] hickory_proto::ProtoError),
}

/// libp2p's mDNS discovery as a [`NetworkBehaviour`]. See the [module](crate::mdns) for what it does and lacks.
///
/// Its sockets are served by tasks of async-std's executor, whichever executor polls the swarm.
pub struct Behaviour {
    shared: Arc<Shared>,
    table: Table,
    listen_addresses: ListenAddresses,
    links: HashMap<LinkId, RunningLink>,
    watch: Watch,
    heard: mpsc::Receiver<Vec<Sighting>>,
    heard_sender: mpsc::Sender<Vec<Sighting>>,
    events: VecDeque<ToSwarm<Event, Infallible>>,
    timer: Option<Timer>,
}

/// A link and its task, which ends when this is dropped.
struct RunningLink {
    link: Arc<Link>,
    news: mpsc::Sender<News>,
    task: JoinHandle<()>,
}

/// The watch over the interfaces of the host.
enum Watch {
    Running(Box<IfWatcher>),
    /// Failed; to be tried again.
    Failed(Timer),
    /// After the farewell.
    Over,
}

impl Behaviour {
    /// A behaviour that announces `me`. It opens no socket before it is polled.
    ///
    /// # Errors
    ///
    /// When the interfaces of the host cannot be watched.
    pub fn new(me: PeerId, config: Config) -> Result<Self, StartError> {
        let watcher = IfWatcher::new().map_err(StartError::Watch)?;
        let encoder = Encoder::new().map_err(StartError::Names)?;
        let limits = Limits {
            records_max: config.records_max,
            addresses_per_peer_max: config.addresses_per_peer_max,
            discoveries_per_second: config.discoveries_per_second,
        };
        let (heard_sender, heard) = mpsc::channel(HEARD_QUEUE);
        Ok(Self {
            shared: Arc::new(Shared::new(me, config, encoder)),
            table: Table::new(limits, Instant::now()),
            listen_addresses: ListenAddresses::default(),
            links: HashMap::new(),
            watch: Watch::Running(Box::new(watcher)),
            heard,
            heard_sender,
            events: VecDeque::new(),
            timer: None,
        })
    }

    /// Takes back everything that was announced and closes the sockets, for good.
    ///
    /// The goodbyes are handed to the operating system before this returns. The future is ready when the tasks of the
    /// sockets have ended; it may be dropped, it only waits. Afterwards the behaviour stays silent and deaf; what it has
    /// found expires by and by. Calling it again does nothing.
    pub fn farewell(&mut self) -> impl Future<Output = ()> + Send + use<> {
        self.watch = Watch::Over;
        let tasks: Vec<_> = self.links.drain().map(|(_, running)| running.stop(&self.shared)).collect();
        join_all(tasks).map(drop)
    }

    /// Every pair that was discovered and has not expired. Distinct, in no order, at most [`Config::records_max`].
    pub fn discovered(&self) -> impl Iterator<Item = (&PeerId, &Multiaddr)> {
        self.table.discovered()
    }

    /// Pairs held, those not yet handed up included. At most [`Config::records_max`].
    pub fn record_count(&self) -> usize {
        self.table.record_count()
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.shared.counters()
    }

    fn poll_watch(&mut self, cx: &mut Context<'_>) {
        loop {
            match &mut self.watch {
                Watch::Running(watcher) => match watcher.poll_if_event(cx) {
                    Poll::Ready(Ok(IfEvent::Up(net))) => self.on_up(net),
                    Poll::Ready(Ok(IfEvent::Down(net))) => self.on_down(&net),
                    Poll::Ready(Err(error)) => self.on_watch_failure(&error),
                    Poll::Pending => return,
                },
                Watch::Failed(timer) => {
                    if timer.poll_unpin(cx).is_pending() {
                        return;
                    }
                    match IfWatcher::new() {
                        Ok(watcher) => self.watch = Watch::Running(Box::new(watcher)),
                        Err(error) => self.on_watch_failure(&error),
                    }
                }
                Watch::Over => return,
            }
        }
    }

    fn on_watch_failure(&mut self, error: &io::Error) {
        self.shared.count(|counters| counters.interface_failures += 1);
        tracing::warn!(%error, "mdns cannot watch the network interfaces");
        self.watch = Watch::Failed(Timer::after(REWATCH_PAUSE));
    }

    fn on_up(&mut self, net: IpNet) {
        if !is_usable(net.addr(), &self.shared.config) {
            return;
        }
        let id = LinkId::of(&net);
        if let Some(running) = self.links.get_mut(&id) {
            running.link.add_net(net);
            running.tell();
            return;
        }
        let link = Arc::new(Link::new(id, net));
        let (news, receiver) = mpsc::channel(1);
        let interface = Interface::new(link.clone(), self.shared.clone(), receiver, self.heard_sender.clone());
        let task = task::spawn(interface.run());
        self.links.insert(id, RunningLink { link, news, task });
    }

    fn on_down(&mut self, net: &IpNet) {
        // Not by `LinkId::of`: the system no longer knows the index of an address that is gone.
        let Some(id) = self.links.iter().find(|(_, running)| running.link.has_net(net)).map(|(id, _)| *id) else {
            return;
        };
        let Some(running) = self.links.get_mut(&id) else { return };
        if !running.link.remove_net(net) {
            running.tell();
        } else if let Some(running) = self.links.remove(&id) {
            drop(running.stop(&self.shared));
        }
    }

    /// Puts what the links have heard into the table. Returns whether there may be more.
    fn poll_heard(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        for _ in 0..HEARD_PER_POLL {
            let Poll::Ready(Some(sightings)) = self.heard.poll_next_unpin(cx) else { return false };
            for Sighting { peer, address, ttl_secs } in sightings {
                if ttl_secs == 0 {
                    self.table.withdraw(peer, &address);
                    continue;
                }
                let ttl = Duration::from_secs(u64::from(ttl_secs));
                match self.table.sight(peer, address, ttl, now) {
                    Sighted::New | Sighted::Refreshed => {}
                    Sighted::Refused => self.shared.count(|counters| counters.addresses_refused += 1),
                }
            }
        }
        true
    }

    fn report(&mut self, now: Instant) {
        let expired = self.table.take_expired(now);
        if !expired.is_empty() {
            self.shared.count(|counters| counters.expired += expired.len() as u64);
            self.events.push_back(ToSwarm::GenerateEvent(Event::Expired(expired)));
        }
        let discovered = self.table.take_discovered(now);
        if !discovered.is_empty() {
            self.shared.count(|counters| counters.discovered += discovered.len() as u64);
            self.events.push_back(ToSwarm::GenerateEvent(Event::Discovered(discovered.clone())));
            let news =
                discovered.into_iter().map(|(peer_id, address)| ToSwarm::NewExternalAddrOfPeer { peer_id, address });
            self.events.extend(news);
        }
    }

    /// Sets the alarm for the next change of the table. Returns whether it rang already.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        self.timer = self.table.next_deadline().map(Timer::at);
        self.timer.as_mut().is_some_and(|timer| timer.poll_unpin(cx).is_ready())
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        Ok(peer.map(|peer| self.table.addresses(&peer).cloned().collect()).unwrap_or_default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if !self.listen_addresses.on_swarm_event(&event) {
            return;
        }
        self.shared.listen_on(self.listen_addresses.iter().cloned().collect());
        for running in self.links.values_mut() {
            running.tell();
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            self.poll_watch(cx);
            let now = Instant::now();
            let more = self.poll_heard(cx, now);
            self.report(now);
            if !self.events.is_empty() {
                continue;
            }
            if more {
                cx.waker().wake_by_ref();
            } else if self.poll_timer(cx) {
                continue;
            }
            return Poll::Pending;
        }
    }
}

impl Drop for Behaviour {
    fn drop(&mut self) {
        drop(self.farewell());
    }
}

impl fmt::Debug for Behaviour {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Behaviour")
            .field("me", &self.shared.me)
            .field("record_count", &self.record_count())
            .field("links", &self.links.keys().collect::<Vec<_>>())
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

impl RunningLink {
    /// Tells the task that addresses have changed. A full channel holds this news already.
    fn tell(&mut self) {
        let _already_told = self.news.try_send(());
    }

    /// Takes back what was announced, and ends the task.
    fn stop(self, shared: &Shared) -> JoinHandle<()> {
        self.link.close(shared);
        self.task
    }
}

fn is_usable(address: IpAddr, config: &Config) -> bool {
    !address.is_unspecified() && (config.loopback || !address.is_loopback())
}
