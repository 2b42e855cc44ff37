//! The behaviour itself: which sessions there are, on which connection, and whose turn it is.
//!
//! **Invariant**: a session is in its table from its beginning to its closing, or until its last event is queued; what
//! is not in the table has no event but those that are queued. It reads and writes nothing: handlers do.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::{ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, ToSwarm};
use libp2p::{Multiaddr, PeerId};

use crate::framing::{self, FrameError, Message};
use crate::merkle_exchange::config::Config;
use crate::merkle_exchange::event::{EndReason, Event, OpenRefused, TurnRefused};
use crate::merkle_exchange::handler::{Command, Handler, Opening, Report};
use crate::merkle_exchange::shared::Shared;
use crate::merkle_exchange::turn::TurnError;
use crate::merkle_exchange::{Counters, InboundSessionId, SessionId};

/// Sessions with questions `Q` and answers `A`; see the [module](crate::merkle_exchange).
pub struct Behaviour<Q: Message, A: Message> {
    shared: Arc<Shared>,
    /// The connections of each peer that has any, oldest first.
    connections: HashMap<PeerId, Vec<ConnectionId>>,
    outbound: BTreeMap<SessionId, Place>,
    inbound: BTreeMap<InboundSessionId, Place>,
    /// Not yet handed to their connection; at most a message and a closing for each session.
    commands: VecDeque<(PeerId, ConnectionId, Command)>,
    events: VecDeque<Event<Q, A>>,
    /// All but those that the handlers count.
    counters: Counters,
}

/// Where a session is, and how far.
#[derive(Debug)]
struct Place {
    peer: PeerId,
    connection: ConnectionId,
    turn: Turn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Ours,
    Theirs,
}

impl<Q: Message, A: Message> Behaviour<Q, A> {
    /// A behaviour that nobody is connected to yet.
    pub fn new(config: Config) -> Self {
        Self {
            shared: Arc::new(Shared::new(config)),
            connections: HashMap::new(),
            outbound: BTreeMap::new(),
            inbound: BTreeMap::new(),
            commands: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Opens a session with a connected peer and asks the first question.
    pub fn open(&mut self, peer: PeerId, question: &Q) -> Result<SessionId, OpenRefused> {
        let connection = self.connections.get(&peer).and_then(|connections| connections.first());
        let connection = *connection.ok_or(OpenRefused::NotConnected)?;
        let open_count = self.outbound.len();
        if open_count >= self.shared.config.outbound_sessions_max {
            return Err(OpenRefused::TooMany { open_count });
        }
        let limit_bytes = self.shared.config.message_limit_bytes;
        let question = framing::encode(question, limit_bytes).map_err(|error| match error {
            FrameError::TooLarge { announced_bytes: actual_bytes, limit_bytes } => {
                OpenRefused::TooLarge { actual_bytes, limit_bytes }
            }
            _ => OpenRefused::Unencodable,
        })?;
        self.counters.sessions_opened += 1;
        self.counters.questions_sent += 1;
        let session = SessionId(self.counters.sessions_opened);
        self.outbound.insert(session, Place { peer, connection, turn: Turn::Theirs });
        let opening = Opening { session, question, deadline: self.answer_deadline() };
        self.commands.push_back((peer, connection, Command::Open(opening)));
        Ok(session)
    }

    /// Asks the next question of a session whose last answer has arrived.
    pub fn ask(&mut self, session: SessionId, question: &Q) -> Result<(), TurnRefused> {
        let deadline = self.answer_deadline();
        let place = self.outbound.get_mut(&session).ok_or(TurnRefused::Unknown)?;
        let question = place.take_turn(question, self.shared.config.message_limit_bytes)?;
        self.counters.questions_sent += 1;
        self.commands.push_back((place.peer, place.connection, Command::Ask { session, question, deadline }));
        Ok(())
    }

    /// Answers the last question of a session of a peer.
    pub fn answer(&mut self, session: InboundSessionId, answer: &A) -> Result<(), TurnRefused> {
        let place = self.inbound.get_mut(&session).ok_or(TurnRefused::Unknown)?;
        let answer = place.take_turn(answer, self.shared.config.message_limit_bytes)?;
        self.counters.answers_sent += 1;
        self.commands.push_back((place.peer, place.connection, Command::Answer { session, answer }));
        Ok(())
    }

    /// Ends a session in good order. No event of it follows. Does nothing if it has ended.
    ///
    /// A question handed over is still sent, unless its answer is awaited already.
    pub fn close(&mut self, session: SessionId) {
        // Its end may wait to be told already.
        self.events.retain(|event| event.outbound() != Some(session));
        let Some(place) = self.outbound.remove(&session) else { return };
        self.commands.push_back((place.peer, place.connection, Command::Close(session)));
    }

    /// Ends a session of a peer in good order. No event of it follows. Does nothing if it has ended.
    ///
    /// An answer handed over is still sent.
    pub fn close_inbound(&mut self, session: InboundSessionId) {
        self.events.retain(|event| event.inbound() != Some(session));
        let Some(place) = self.inbound.remove(&session) else { return };
        self.commands.push_back((place.peer, place.connection, Command::CloseInbound(session)));
    }

    /// Whether a session with `peer` could be opened without dialling.
    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.connections.contains_key(peer)
    }

    /// What has happened since the start.
    pub fn counters(&self) -> Counters {
        Counters {
            sessions_accepted: self.shared.accepted.load(Ordering::Relaxed),
            sessions_refused: self.shared.refused.load(Ordering::Relaxed),
            bytes_sent: self.shared.bytes.sent.load(Ordering::Relaxed),
            bytes_received: self.shared.bytes.received.load(Ordering::Relaxed),
            ..self.counters
        }
    }

    fn answer_deadline(&self) -> Instant {
        Instant::now() + self.shared.config.answer_timeout
    }

    fn on_question(&mut self, session: InboundSessionId, peer: PeerId, question: Q) {
        self.counters.questions_received += 1;
        self.events.push_back(Event::Asked { peer, session, question });
    }

    fn on_end(&mut self, session: SessionId, reason: EndReason) {
        if let Some(Place { peer, .. }) = self.outbound.remove(&session) {
            self.events.push_back(Event::Ended { peer, session, reason });
        }
    }

    fn on_inbound_end(&mut self, session: InboundSessionId, reason: EndReason) {
        if let Some(Place { peer, .. }) = self.inbound.remove(&session) {
            self.events.push_back(Event::InboundEnded { peer, session, reason });
        }
    }

    fn note_misbehaviour(&mut self, peer: PeerId, error: TurnError) {
        if let TurnError::Misbehaved(error) = error {
            self.counters.malformed += 1;
            tracing::debug!(%peer, %error, "peer misbehaved");
            self.events.push_back(Event::Misbehaved { peer, error });
        }
    }

    fn on_closed(&mut self, connection: ConnectionId, peer: PeerId) {
        if let Some(connections) = self.connections.get_mut(&peer) {
            connections.retain(|other| *other != connection);
            if connections.is_empty() {
                self.connections.remove(&peer);
            }
        }
        self.commands.retain(|(_, other, _)| *other != connection);
        for session in lost(&self.outbound, connection) {
            self.on_end(session, EndReason::ConnectionLost);
        }
        for session in lost(&self.inbound, connection) {
            self.on_inbound_end(session, EndReason::ConnectionLost);
        }
    }
}

impl Place {
    /// Encodes `message` and passes the turn to the peer; changes nothing if it may not be said.
    fn take_turn<M: Message>(&mut self, message: &M, limit_bytes: usize) -> Result<Vec<u8>, TurnRefused> {
        if self.turn == Turn::Theirs {
            return Err(TurnRefused::NotYourTurn);
        }
        let encoded = framing::encode(message, limit_bytes).map_err(|error| match error {
            FrameError::TooLarge { announced_bytes: actual_bytes, limit_bytes } => {
                TurnRefused::TooLarge { actual_bytes, limit_bytes }
            }
            _ => TurnRefused::Unencodable,
        })?;
        self.turn = Turn::Theirs;
        Ok(encoded)
    }
}

fn lost<Id: Copy>(sessions: &BTreeMap<Id, Place>, connection: ConnectionId) -> Vec<Id> {
    sessions.iter().filter(|(_, place)| place.connection == connection).map(|(id, _)| *id).collect()
}

impl<Q: Message, A: Message> NetworkBehaviour for Behaviour<Q, A> {
    type ConnectionHandler = Handler<Q, A>;
    type ToSwarm = Event<Q, A>;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler<Q, A>, ConnectionDenied> {
        Ok(Handler::new(peer, self.shared.clone()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler<Q, A>, ConnectionDenied> {
        Ok(Handler::new(peer, self.shared.clone()))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, .. }) => {
                self.connections.entry(peer_id).or_default().push(connection_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                self.on_closed(connection_id, peer_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, report: Report<Q, A>) {
        match report {
            Report::AskedFirst(session, question) => {
                self.inbound.insert(session, Place { peer, connection, turn: Turn::Ours });
                self.on_question(session, peer, question);
            }
            Report::Asked(session, question) => {
                // Not known: we have closed it meanwhile.
                let Some(place) = self.inbound.get_mut(&session) else { return };
                place.turn = Turn::Ours;
                self.on_question(session, peer, question);
            }
            Report::Answered(session, answer) => {
                let Some(place) = self.outbound.get_mut(&session) else { return };
                place.turn = Turn::Ours;
                self.counters.answers_received += 1;
                self.events.push_back(Event::Answered { peer, session, answer });
            }
            Report::Ended(session, error) => {
                self.on_end(session, error.reason());
                self.note_misbehaviour(peer, error);
            }
            Report::InboundEnded(session, error) => {
                self.on_inbound_end(session, error.reason());
                self.note_misbehaviour(peer, error);
            }
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Event<Q, A>, Command>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(ToSwarm::GenerateEvent(event));
        }
        if let Some((peer_id, connection, event)) = self.commands.pop_front() {
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event });
        }
        Poll::Pending
    }
}
