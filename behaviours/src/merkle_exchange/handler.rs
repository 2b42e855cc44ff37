//! One connection: the streams of its sessions.
//!
//! **Invariant**: of our own sessions it holds those that the behaviour has opened and not seen end, of the peer's those
//! that have a [`Permit`]. Whatever ends by itself is reported once. Reports leave one by one, as the behaviour takes
//! them: nothing is read meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol};
use libp2p::{PeerId, Stream, StreamProtocol};

use crate::framing::Message;
use crate::merkle_exchange::session::{self, Session};
use crate::merkle_exchange::shared::{Permit, Shared};
use crate::merkle_exchange::turn::TurnError;
use crate::merkle_exchange::{InboundSessionId, SessionId};

/// What the behaviour wants done. Sessions that have ended ignore it.
#[derive(Debug)]
pub enum Command {
    /// Open a stream and ask.
    Open(Opening),
    /// Ask on.
    Ask {
        /// One that was opened.
        session: SessionId,
        /// Encoded.
        question: Vec<u8>,
        /// When the answer must be there.
        deadline: Instant,
    },
    /// Answer.
    Answer {
        /// One that was asked in.
        session: InboundSessionId,
        /// Encoded.
        answer: Vec<u8>,
    },
    /// End a session of ours in good order.
    Close(SessionId),
    /// End a session of the peer in good order.
    CloseInbound(InboundSessionId),
}

/// A session that waits for its stream.
#[derive(Debug)]
pub struct Opening {
    /// Its name.
    pub session: SessionId,
    /// The first question, encoded.
    pub question: Vec<u8>,
    /// When the answer must be there.
    pub deadline: Instant,
}

/// What has happened on the connection.
pub enum Report<Q, A> {
    /// A peer asked for the first time in its session.
    AskedFirst(InboundSessionId, Q),
    /// A peer asked again.
    Asked(InboundSessionId, Q),
    /// Our question was answered.
    Answered(SessionId, A),
    /// A session of ours ended.
    Ended(SessionId, TurnError),
    /// A session of the peer ended, maybe before anything was asked.
    InboundEnded(InboundSessionId, TurnError),
}

impl<Q, A> fmt::Debug for Report<Q, A> {
    /// Without the messages, which need not be printable.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AskedFirst(session, _) => f.debug_tuple("AskedFirst").field(session).finish_non_exhaustive(),
            Self::Asked(session, _) => f.debug_tuple("Asked").field(session).finish_non_exhaustive(),
            Self::Answered(session, _) => f.debug_tuple("Answered").field(session).finish_non_exhaustive(),
            Self::Ended(session, error) => f.debug_tuple("Ended").field(session).field(error).finish(),
            Self::InboundEnded(session, error) => f.debug_tuple("InboundEnded").field(session).field(error).finish(),
        }
    }
}

/// The sessions of one connection.
pub struct Handler<Q: Message, A: Message> {
    peer: PeerId,
    shared: Arc<Shared>,
    /// Sessions whose stream the connection has not been asked for.
    unrequested: VecDeque<Opening>,
    /// Sessions whose stream is on its way.
    requested: BTreeSet<SessionId>,
    /// Sessions whose stream could not be opened.
    unopened: VecDeque<(SessionId, TurnError)>,
    outbound: BTreeMap<SessionId, Session<A>>,
    inbound: BTreeMap<InboundSessionId, Inbound<Q>>,
    /// Last words on streams that belong to no session: refusals, and ends in good order.
    farewells: FuturesUnordered<BoxFuture<'static, ()>>,
}

/// A session of the peer.
struct Inbound<Q> {
    session: Session<Q>,
    permit: Permit,
    was_asked: bool,
}

impl<Q: Message, A: Message> Handler<Q, A> {
    pub(crate) fn new(peer: PeerId, shared: Arc<Shared>) -> Self {
        Self {
            peer,
            shared,
            unrequested: VecDeque::new(),
            requested: BTreeSet::new(),
            unopened: VecDeque::new(),
            outbound: BTreeMap::new(),
            inbound: BTreeMap::new(),
            farewells: FuturesUnordered::new(),
        }
    }

    fn on_outbound_stream(&mut self, opening: Opening, stream: Stream) {
        // A session that was closed meanwhile needs no stream.
        if self.requested.remove(&opening.session) {
            let time = opening.deadline.saturating_duration_since(Instant::now());
            let session = Session::ask_first(stream, opening.question, time, self.shared.clone());
            self.outbound.insert(opening.session, session);
        }
    }

    fn on_unopened(&mut self, session: SessionId, error: TurnError) {
        if self.requested.remove(&session) {
            self.unopened.push_back((session, error));
        }
    }

    fn on_inbound_stream(&mut self, stream: Stream) {
        match self.shared.admit(self.peer) {
            Some((id, permit)) => {
                let session = Session::accept(stream, self.shared.clone());
                self.inbound.insert(id, Inbound { session, permit, was_asked: false });
            }
            None => {
                let time = self.shared.config.answer_timeout;
                self.bid_farewell(Box::pin(session::refusal(stream, time, self.shared.clone())));
            }
        }
    }

    /// Beyond the bound the stream is dropped instead, which the peer notices too.
    fn bid_farewell(&mut self, farewell: BoxFuture<'static, ()>) {
        if self.farewells.len() < FAREWELL_COUNT_MAX {
            self.farewells.push(farewell);
        }
    }

    fn close(&mut self, id: SessionId) {
        self.requested.remove(&id);
        self.unrequested.retain(|opening| opening.session != id);
        self.unopened.retain(|(session, _)| *session != id);
        if let Some(farewell) = self.outbound.remove(&id).and_then(Session::into_farewell) {
            self.bid_farewell(farewell);
        }
    }

    fn close_inbound(&mut self, id: InboundSessionId) {
        let Some(Inbound { session, permit, .. }) = self.inbound.remove(&id) else { return };
        if let Some(farewell) = session.into_farewell() {
            self.bid_farewell(Box::pin(async move {
                farewell.await;
                drop(permit);
            }));
        }
    }

    fn poll_report(&mut self, cx: &mut Context<'_>) -> Poll<Report<Q, A>> {
        if let Some((session, error)) = self.unopened.pop_front() {
            return Poll::Ready(Report::Ended(session, error));
        }
        for (&id, session) in &mut self.outbound {
            match session.poll(cx) {
                Poll::Ready(Ok(answer)) => return Poll::Ready(Report::Answered(id, answer)),
                Poll::Ready(Err(error)) => {
                    self.outbound.remove(&id);
                    return Poll::Ready(Report::Ended(id, error));
                }
                Poll::Pending => {}
            }
        }
        for (&id, inbound) in &mut self.inbound {
            match inbound.session.poll(cx) {
                Poll::Ready(Ok(question)) if inbound.was_asked => return Poll::Ready(Report::Asked(id, question)),
                Poll::Ready(Ok(question)) => {
                    inbound.was_asked = true;
                    return Poll::Ready(Report::AskedFirst(id, question));
                }
                Poll::Ready(Err(error)) => {
                    self.inbound.remove(&id);
                    return Poll::Ready(Report::InboundEnded(id, error));
                }
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }
}

impl<Q: Message, A: Message> ConnectionHandler for Handler<Q, A> {
    type FromBehaviour = Command;
    type ToBehaviour = Report<Q, A>;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Opening;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.shared.config.protocol.clone()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        let is_idle = self.unrequested.is_empty()
            && self.requested.is_empty()
            && self.outbound.is_empty()
            && self.inbound.is_empty();
        !is_idle
    }

    fn on_behaviour_event(&mut self, command: Command) {
        match command {
            Command::Open(opening) => self.unrequested.push_back(opening),
            Command::Ask { session: id, question, deadline } => {
                if let Some(session) = self.outbound.remove(&id) {
                    let time = deadline.saturating_duration_since(Instant::now());
                    self.outbound.insert(id, session.say(question, time));
                }
            }
            Command::Answer { session: id, answer } => {
                if let Some(inbound) = self.inbound.remove(&id) {
                    let session = inbound.session.say(answer, self.shared.config.question_timeout);
                    self.inbound.insert(id, Inbound { session, ..inbound });
                }
            }
            Command::Close(session) => self.close(session),
            Command::CloseInbound(session) => self.close_inbound(session),
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol, (), Opening>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, info: () }) => {
                self.on_inbound_stream(stream);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info: opening }) => {
                self.on_outbound_stream(opening, stream);
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: opening, error }) => {
                let error = match error {
                    StreamUpgradeError::Timeout => TurnError::TimedOut,
                    StreamUpgradeError::NegotiationFailed => TurnError::Unsupported,
                    StreamUpgradeError::Io(_) => TurnError::Io,
                    StreamUpgradeError::Apply(never) => match never {},
                };
                self.on_unopened(opening.session, error);
            }
            _ => {}
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Opening, Report<Q, A>>> {
        if let Poll::Ready(report) = self.poll_report(cx) {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report));
        }
        while let Poll::Ready(Some(())) = self.farewells.poll_next_unpin(cx) {}
        let Some(opening) = self.unrequested.pop_front() else { return Poll::Pending };
        self.requested.insert(opening.session);
        let time = opening.deadline.saturating_duration_since(Instant::now());
        let upgrade = ReadyUpgrade::new(self.shared.config.protocol.clone());
        let protocol = SubstreamProtocol::new(upgrade, opening).with_timeout(time);
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }
}

/// Most farewells of one connection at a time. A well-behaved peer needs hardly more than one; all keep their stream,
/// and at most a message of ours.
const FAREWELL_COUNT_MAX: usize = 8;
