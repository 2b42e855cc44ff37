//! Which session of the exchange protocol carries which exchange of the node.

use std::collections::HashMap;

use libp2p::PeerId;
use quorate_behaviours::merkle_exchange::{self, EndReason, InboundSessionId, Misbehaviour, SessionId, TurnRefused};

use crate::{
    ident::NodeId,
    node::effect::{ExchangeId, ExchangeNews, InboundExchange},
    runtime::identity::{node_id, peer_id},
    wire::exchange::{Answer, Question},
};

/// The behaviour that carries exchanges.
pub(crate) type ExchangeBehaviour = merkle_exchange::Behaviour<Question, Answer>;

/// What comes of an event of the exchange protocol.
pub(crate) enum ExchangeEvent {
    News(ExchangeNews),
    Misbehaved(PeerId, Misbehaviour),
    Nothing,
}

/// The exchanges under way, by either name.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    sessions: HashMap<ExchangeId, SessionId>,
    exchanges: HashMap<SessionId, ExchangeId>,
    inbound_sessions: HashMap<InboundExchange, InboundSessionId>,
    inbound_exchanges: HashMap<InboundSessionId, InboundExchange>,
    next_number: u64,
}

impl Exchanges {
    /// Asks the first or the next question. Returns whether an answer, or the news of a failure, will follow.
    pub(crate) fn ask(
        &mut self,
        behaviour: &mut ExchangeBehaviour,
        exchange: ExchangeId,
        to: &NodeId,
        question: &Question,
    ) -> bool {
        if let Some(session) = self.sessions.get(&exchange) {
            return behaviour.ask(*session, question).inspect_err(log_refused).is_ok();
        }
        let Some(peer) = peer_id(to) else { return false };
        match behaviour.open(peer, question) {
            Ok(session) => {
                self.sessions.insert(exchange, session);
                self.exchanges.insert(session, exchange);
                true
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "an exchange was not begun");
                false
            }
        }
    }

    /// Answers the last question. Returns whether the exchange may go on, as far as this side is concerned: one whose answer
    /// cannot be sent is ended, for its asker would wait in vain.
    pub(crate) fn answer(
        &mut self,
        behaviour: &mut ExchangeBehaviour,
        exchange: InboundExchange,
        answer: &Answer,
    ) -> bool {
        let Some(session) = self.inbound_sessions.get(&exchange) else { return true };
        match behaviour.answer(*session, answer).inspect_err(log_refused) {
            // That the asker is gone is told by itself.
            Ok(()) | Err(TurnRefused::Unknown) => true,
            Err(_) => {
                self.end_inbound(behaviour, exchange);
                false
            }
        }
    }

    pub(crate) fn end(&mut self, behaviour: &mut ExchangeBehaviour, exchange: ExchangeId) {
        if let Some(session) = self.sessions.remove(&exchange) {
            self.exchanges.remove(&session);
            behaviour.close(session);
        }
    }

    pub(crate) fn end_inbound(&mut self, behaviour: &mut ExchangeBehaviour, exchange: InboundExchange) {
        if let Some(session) = self.inbound_sessions.remove(&exchange) {
            self.inbound_exchanges.remove(&session);
            behaviour.close_inbound(session);
        }
    }

    pub(crate) fn translate(&mut self, event: merkle_exchange::Event<Question, Answer>) -> ExchangeEvent {
        match event {
            merkle_exchange::Event::Asked { peer, session, question } => {
                let Some(from) = node_id(&peer) else { return ExchangeEvent::Nothing };
                let exchange = self.name_of(session);
                ExchangeEvent::News(ExchangeNews::Asked { from, exchange, question })
            }
            merkle_exchange::Event::Answered { session, answer, .. } => match self.exchanges.get(&session) {
                Some(exchange) => ExchangeEvent::News(ExchangeNews::Answered { exchange: *exchange, answer }),
                None => ExchangeEvent::Nothing,
            },
            merkle_exchange::Event::Ended { session, reason, .. } => match self.exchanges.remove(&session) {
                Some(exchange) => {
                    self.sessions.remove(&exchange);
                    let is_busy = reason == EndReason::Busy;
                    ExchangeEvent::News(ExchangeNews::Failed { exchange, is_busy })
                }
                None => ExchangeEvent::Nothing,
            },
            merkle_exchange::Event::InboundEnded { session, .. } => match self.inbound_exchanges.remove(&session) {
                Some(exchange) => {
                    self.inbound_sessions.remove(&exchange);
                    ExchangeEvent::News(ExchangeNews::AskerGone(exchange))
                }
                None => ExchangeEvent::Nothing,
            },
            merkle_exchange::Event::Misbehaved { peer, error } => ExchangeEvent::Misbehaved(peer, error),
        }
    }

    fn name_of(&mut self, session: InboundSessionId) -> InboundExchange {
        if let Some(exchange) = self.inbound_exchanges.get(&session) {
            return *exchange;
        }
        self.next_number += 1;
        let exchange = InboundExchange(self.next_number);
        self.inbound_exchanges.insert(session, exchange);
        self.inbound_sessions.insert(exchange, session);
        exchange
    }
}

fn log_refused(error: &TurnRefused) {
    tracing::debug!(%error, "a turn of an exchange was not taken");
}
