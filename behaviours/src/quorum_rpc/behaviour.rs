//! The behaviour itself: carries values between the swarm, the queues and libp2p's request-response.
//!
//! **Invariant**: it decides nothing about requests; [`Outbound`] and [`Inbound`] do. What it knows by itself is who is
//! connected, what time it is, and how to count.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use futures::FutureExt;
use futures_timer::Delay;
use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::request_response::{self, InboundRequestId, OutboundFailure, OutboundRequestId, ResponseChannel};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure};
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use crate::framing::{self, FrameError, Message};
use crate::quorum_rpc::body::Answers;
use crate::quorum_rpc::codec::{BatchCodec, Budget, Limits, RequestFrame, ResponseFrame, Shared};
use crate::quorum_rpc::config::{Config, Dialling};
use crate::quorum_rpc::event::Event;
use crate::quorum_rpc::inbound::Inbound;
use crate::quorum_rpc::outbound::{Ended, Outbound};
use crate::quorum_rpc::outcome::{Misbehaviour, RespondError, SendFailure, SendRefused};
use crate::quorum_rpc::{Counters, Encoded, InboundId, Lane, RequestId};

/// Batched request-response for requests `Q` and answers `A`; see the [module](crate::quorum_rpc).
pub struct Behaviour<Q: Message, A: Message> {
    config: Arc<Config>,
    shared: Arc<Shared>,
    inner: request_response::Behaviour<BatchCodec<Q, A>>,
    outbound: Outbound,
    inbound: Inbound<A>,
    connected: BTreeSet<PeerId>,
    /// Peers without a connection for whom requests were queued since the last poll.
    stranded: BTreeSet<PeerId>,
    events: VecDeque<Event<Q, A>>,
    /// Fires at the instant beside it.
    alarm: Option<(Instant, Delay)>,
    /// All but the bytes, which the streams count.
    counters: Counters,
}

impl<Q: Message, A: Message> Behaviour<Q, A> {
    /// A behaviour that nobody is connected to yet.
    pub fn new(config: Config) -> Self {
        let shared = Arc::new(Shared {
            frame_limit_bytes: config.frame_limit_bytes,
            batch_count_max: config.batch_count_max,
            frame_timeout: config.frame_timeout,
            connection_limits: Limits { streams: config.inbound_streams_max, bytes: config.inbound_bytes_max },
            total: Budget::new(Limits {
                streams: config.inbound_streams_total_max,
                bytes: config.inbound_bytes_total_max,
            }),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
        });
        // Room for streams that are only refused as well.
        let limits = request_response::Config::default()
            .with_request_timeout(config.stream_timeout())
            .with_max_concurrent_streams(2 * config.inbound_streams_max + Lane::ALL.len() * config.in_flight_max);
        let protocols = [(config.protocol.clone(), config.support.clone())];
        let inner = request_response::Behaviour::with_codec(BatchCodec::new(shared.clone()), protocols, limits);
        let config = Arc::new(config);
        Self {
            shared,
            inner,
            outbound: Outbound::new(config.clone()),
            inbound: Inbound::new(config.clone()),
            config,
            connected: BTreeSet::new(),
            stranded: BTreeSet::new(),
            events: VecDeque::new(),
            alarm: None,
            counters: Counters::default(),
        }
    }

    /// Encodes a request, for any number of sends.
    ///
    /// Fails with [`SendRefused::TooLarge`] beyond [`Config::payload_limit_bytes`], and with
    /// [`SendRefused::Unencodable`].
    pub fn encode(&self, request: &Q) -> Result<Encoded, SendRefused> {
        match framing::encode(request, self.config.payload_limit_bytes()) {
            Ok(body) => Ok(Encoded(Arc::new(body))),
            Err(FrameError::TooLarge { announced_bytes: actual_bytes, limit_bytes }) => {
                Err(SendRefused::TooLarge { actual_bytes, limit_bytes })
            }
            Err(_) => Err(SendRefused::Unencodable),
        }
    }

    /// Sends a request to `peer`, at once or when messages in flight have been answered.
    ///
    /// `deadline` is cut to [`Config::request_timeout`] from now; a request still queued then is never sent. Fails with
    /// [`SendRefused::Overloaded`] when the peer's queue is full, and with [`SendRefused::TooLarge`] for a request that
    /// a behaviour with higher limits has encoded. Without a connection the request is accepted, and unless
    /// [`Config::dialling`] says otherwise fails at the next poll.
    pub fn send(
        &mut self,
        peer: PeerId,
        lane: Lane,
        request: Encoded,
        deadline: Instant,
    ) -> Result<RequestId, SendRefused> {
        let (actual_bytes, limit_bytes) = (request.len_bytes(), self.config.payload_limit_bytes());
        if actual_bytes > limit_bytes {
            return Err(SendRefused::TooLarge { actual_bytes, limit_bytes });
        }
        let deadline = deadline.min(Instant::now() + self.config.request_timeout);
        let accepted = self.outbound.enqueue(request.0, deadline, peer, lane);
        match accepted {
            Ok(_) if !self.connected.contains(&peer) => {
                self.stranded.insert(peer);
            }
            Ok(_) => {}
            Err(_) => self.counters.sends_refused += 1,
        }
        accepted
    }

    /// Answers a request of a peer. The answers of a batch travel together, when the last is given or time is over.
    ///
    /// Whatever this returns, the request is dealt with: on [`RespondError::TooLarge`] and
    /// [`RespondError::Unencodable`] the asker is told that its answer cannot travel, on [`RespondError::Gone`] nobody
    /// waits any more.
    pub fn respond(&mut self, inbound: InboundId, answer: A) -> Result<(), RespondError> {
        let encoded = framing::encode(&answer, self.config.payload_limit_bytes()).map_err(|error| match error {
            FrameError::TooLarge { announced_bytes: actual_bytes, limit_bytes } => {
                RespondError::TooLarge { actual_bytes, limit_bytes }
            }
            _ => RespondError::Unencodable,
        });
        self.inbound.respond(inbound, encoded)
    }

    /// Whether a request to `peer` could leave without dialling.
    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.connected.contains(peer)
    }

    /// Requests of peers that wait for an answer.
    pub fn waiting_count(&self) -> usize {
        self.inbound.waiting_total()
    }

    /// What has happened since the start.
    pub fn counters(&self) -> Counters {
        Counters {
            bytes_sent: self.shared.sent_bytes.load(Ordering::Relaxed),
            bytes_received: self.shared.received_bytes.load(Ordering::Relaxed),
            ..self.counters
        }
    }

    fn on_inner_event(&mut self, event: InnerEvent<Q, A>) {
        use request_response::Message::{Request, Response};
        match event {
            request_response::Event::Message { peer, message: Request { request_id, request, channel }, .. } => {
                self.on_request(request_id, request, peer, channel);
            }
            request_response::Event::Message { peer, message: Response { request_id, response }, .. } => {
                self.on_response(request_id, response, peer);
            }
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                self.end_batch(request_id, &to_failure(error));
            }
            request_response::Event::InboundFailure { request_id, error, peer, .. } => {
                tracing::debug!(%peer, %error, "batch of a peer ended without a response");
                self.inbound.forget(request_id);
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    fn on_request(
        &mut self,
        id: InboundRequestId,
        frame: RequestFrame<Q>,
        peer: PeerId,
        channel: ResponseChannel<ResponseFrame<A>>,
    ) {
        match frame {
            RequestFrame::Incoming { time, requests } => {
                self.counters.request_messages_received += 1;
                self.counters.entries_received += requests.len() as u64;
                let count = requests.len();
                let now = Instant::now();
                let deadline = now + time.min(self.config.request_timeout);
                let accepted = self.inbound.accept(id, count, time, now, peer, channel);
                self.counters.entries_refused += (count - accepted) as u64;
                self.events.extend(requests.into_iter().take(accepted).enumerate().map(|(index, request)| {
                    Event::Request { peer, inbound: InboundId { batch: id, index }, deadline, request }
                }));
            }
            RequestFrame::Refused => {
                self.counters.entries_refused += 1;
                self.respond_batch(channel, Answers::RefusedAll);
            }
            // Dropping the channel ends the stream.
            RequestFrame::Bad(error) => self.report(peer, Misbehaviour::Request(error)),
            RequestFrame::Outgoing { .. } => {}
        }
    }

    fn on_response(&mut self, id: OutboundRequestId, frame: ResponseFrame<A>, peer: PeerId) {
        let each = match frame {
            ResponseFrame::Incoming(Answers::Each(each)) => each,
            ResponseFrame::Incoming(Answers::RefusedAll) => {
                self.counters.response_messages_received += 1;
                return self.end_batch(id, &SendFailure::Overloaded);
            }
            ResponseFrame::Bad(FrameError::Ended) => return self.end_batch(id, &SendFailure::StreamEnded),
            ResponseFrame::Bad(error) => {
                self.end_batch(id, &SendFailure::Malformed(error.clone()));
                return self.report(peer, Misbehaviour::Response(error));
            }
            ResponseFrame::Outgoing(_) => return,
        };
        self.counters.response_messages_received += 1;
        let Some(distributed) = self.outbound.answered(id, each) else { return };
        self.counters.entries_deferred += distributed.deferred_count as u64;
        self.end_all(distributed.ended);
        if let Some(error) = distributed.misbehaviour {
            self.report(peer, error);
        }
        if !self.connected.contains(&peer) {
            self.stranded.insert(peer);
        }
    }

    fn end_batch(&mut self, id: OutboundRequestId, failure: &SendFailure) {
        let ended = self.outbound.failed(id, failure);
        self.end_all(ended);
    }

    fn end_all(&mut self, ended: Vec<Ended<A>>) {
        self.events.extend(ended.into_iter().map(|Ended { peer, request, outcome }| match outcome {
            Ok(response) => Event::Response { peer, request, response },
            Err(error) => Event::Failed { peer, request, error },
        }));
    }

    fn report(&mut self, peer: PeerId, error: Misbehaviour) {
        self.counters.malformed += 1;
        tracing::debug!(%peer, %error, "peer misbehaved");
        self.events.push_back(Event::Misbehaved { peer, error });
    }

    /// Moves everything that can move; returns whether anything did.
    fn drive(&mut self, now: Instant) -> bool {
        if self.outbound.earliest().is_some_and(|earliest| earliest <= now) {
            let ended = self.outbound.expire(now);
            self.end_all(ended);
        }
        if self.inbound.earliest().is_some_and(|earliest| earliest <= now) {
            self.inbound.expire(now);
        }
        let mut has_moved = false;
        while let Some(complete) = self.inbound.next_complete() {
            self.respond_batch(complete.channel, Answers::Each(complete.answers));
            has_moved = true;
        }
        while let Some(batch) = self.outbound.next_batch(now, |peer| self.connected.contains(peer)) {
            let entries = batch.payloads();
            self.counters.request_messages_sent += 1;
            self.counters.entries_sent += entries.len() as u64;
            let frame = RequestFrame::Outgoing { time: batch.deadline().saturating_duration_since(now), entries };
            let id = self.inner.send_request(&batch.peer(), frame);
            self.outbound.sent(id, batch);
            has_moved = true;
        }
        has_moved || !self.events.is_empty()
    }

    fn respond_batch(&mut self, channel: ResponseChannel<ResponseFrame<A>>, answers: Answers<Vec<u8>>) {
        // A closed channel means that the stream is gone; its failure is reported by itself.
        if self.inner.send_response(channel, ResponseFrame::Outgoing(answers)).is_ok() {
            self.counters.response_messages_sent += 1;
        }
    }

    /// Deals with the requests to peers without a connection; returns whom to dial.
    fn next_dial(&mut self) -> Option<PeerId> {
        while let Some(peer) = self.stranded.pop_first() {
            if self.connected.contains(&peer) || !self.outbound.has_queued(&peer) {
                continue;
            }
            match self.config.dialling {
                Dialling::WhenNeeded => return Some(peer),
                Dialling::Never => {
                    let ended = self.outbound.fail_queued(peer, &SendFailure::NotConnected);
                    self.end_all(ended);
                }
            }
        }
        None
    }

    /// Arms the alarm for the next deadline; returns whether one has passed.
    fn poll_alarm(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let Some(next) = self.outbound.earliest().into_iter().chain(self.inbound.earliest()).min() else {
            return false;
        };
        // An alarm that is too early costs one wake-up; arming anew for every request costs more.
        let mut alarm = match self.alarm.take().filter(|(at, _)| *at <= next) {
            Some(alarm) => alarm,
            None => (next, Delay::new(next.saturating_duration_since(now))),
        };
        let has_fired = alarm.1.poll_unpin(cx).is_ready();
        self.alarm = (!has_fired).then_some(alarm);
        has_fired
    }
}

impl<Q: Message, A: Message> NetworkBehaviour for Behaviour<Q, A> {
    type ConnectionHandler = THandler<request_response::Behaviour<BatchCodec<Q, A>>>;
    type ToSwarm = Event<Q, A>;

    fn handle_established_inbound_connection(
        &mut self,
        connection_id: ConnectionId,
        peer: PeerId,
        local_addr: &Multiaddr,
        remote_addr: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(connection_id, peer, local_addr, remote_addr)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection_id: ConnectionId,
        maybe_peer: Option<PeerId>,
        addresses: &[Multiaddr],
        effective_role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(connection_id, maybe_peer, addresses, effective_role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection_id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role_override: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(connection_id, peer, addr, role_override, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, .. }) => {
                self.connected.insert(*peer_id);
                self.outbound.wake(*peer_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, remaining_established: 0, .. }) => {
                self.connected.remove(peer_id);
                self.stranded.insert(*peer_id);
            }
            FromSwarm::DialFailure(DialFailure { peer_id: Some(peer), error, .. })
                if !matches!(error, DialError::DialPeerConditionFalse(_)) && !self.connected.contains(peer) =>
            {
                let ended = self.outbound.fail_queued(*peer, &SendFailure::DialFailed);
                self.end_all(ended);
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection_id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner.on_connection_handler_event(peer, connection_id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(ToSwarm::GenerateEvent(event));
            }
            match self.inner.poll(cx) {
                Poll::Ready(ToSwarm::GenerateEvent(event)) => {
                    self.on_inner_event(event);
                    continue;
                }
                Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event }) => {
                    return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event });
                }
                // The only other thing it could do is dial, and it is never asked to send where there is no connection.
                Poll::Ready(_) => continue,
                Poll::Pending => {}
            }
            let now = Instant::now();
            if self.drive(now) {
                continue;
            }
            if let Some(peer) = self.next_dial() {
                return Poll::Ready(ToSwarm::Dial { opts: DialOpts::peer_id(peer).build() });
            }
            if self.events.is_empty() && !self.poll_alarm(now, cx) {
                return Poll::Pending;
            }
        }
    }
}

type InnerEvent<Q, A> = request_response::Event<RequestFrame<Q>, ResponseFrame<A>>;

fn to_failure(error: OutboundFailure) -> SendFailure {
    match error {
        OutboundFailure::DialFailure => SendFailure::DialFailed,
        OutboundFailure::Timeout => SendFailure::TimedOut,
        OutboundFailure::ConnectionClosed => SendFailure::ConnectionClosed,
        OutboundFailure::UnsupportedProtocols => SendFailure::UnsupportedProtocols,
        OutboundFailure::Io(error) => SendFailure::StreamFailed { kind: error.kind() },
    }
}
