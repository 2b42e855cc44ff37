//! Exchanges between simulated nodes: a stream of questions and answers, in turns, that a loss or a cut ends for both.

use std::collections::BTreeMap;

use quorate::{
    ident::NodeId,
    node::effect::{ExchangeId, ExchangeNews, InboundExchange},
    wire::exchange::{Answer, Question},
};

use crate::cluster::{Cluster, Happening};

/// The streams there are.
#[derive(Debug, Default)]
pub(crate) struct Exchanges {
    streams: BTreeMap<InboundExchange, Stream>,
    count: u64,
}

/// A stream, by the name its answerer knows it by.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stream {
    asker: usize,
    asker_life: u64,
    exchange: ExchangeId,
    answerer: usize,
    answerer_life: u64,
}

/// Something that happens on a stream.
#[derive(Debug)]
pub(crate) enum ExchangeHappening {
    Asked { node: usize, inbound: InboundExchange, question: Question },
    Answered { node: usize, inbound: InboundExchange, answer: Answer },
    Broken { node: usize, life: u64, exchange: ExchangeId },
    AskerGone { node: usize, life: u64, inbound: InboundExchange },
}

impl ExchangeHappening {
    /// To whom it happens.
    pub(crate) fn node(&self) -> usize {
        match self {
            ExchangeHappening::Asked { node, .. }
            | ExchangeHappening::Answered { node, .. }
            | ExchangeHappening::Broken { node, .. }
            | ExchangeHappening::AskerGone { node, .. } => *node,
        }
    }
}

impl Cluster {
    pub(crate) fn ask_in_exchange(&mut self, index: usize, exchange: ExchangeId, to: NodeId, question: Question) {
        let life = self.machines[index].life;
        let is_this = |stream: &Stream| (stream.asker, stream.asker_life, stream.exchange) == (index, life, exchange);
        let open = self.exchanges.streams.iter().find(|(_, stream)| is_this(stream)).map(|(inbound, _)| *inbound);
        let inbound = match open {
            Some(inbound) => inbound,
            None => {
                let peer = self.reached(index, &to);
                let link = peer.and_then(|peer| Some((peer, self.network.believed(index, peer)?.0)));
                let Some((answerer, answerer_life)) = link else {
                    return self.soon(1, ExchangeHappening::Broken { node: index, life, exchange });
                };
                self.exchanges.count += 1;
                let inbound = InboundExchange(self.exchanges.count);
                let stream = Stream { asker: index, asker_life: life, exchange, answerer, answerer_life };
                self.exchanges.streams.insert(inbound, stream);
                inbound
            }
        };
        let stream = self.exchanges.streams[&inbound];
        match self.network.delays_ms(&mut self.dice).first() {
            Some(delay_ms) => {
                self.soon(*delay_ms, ExchangeHappening::Asked { node: stream.answerer, inbound, question })
            }
            None => self.break_stream(inbound),
        }
    }

    pub(crate) fn answer_exchange(&mut self, index: usize, inbound: InboundExchange, answer: Answer) {
        let Some(stream) = self.exchanges.streams.get(&inbound).copied() else { return };
        if !self.network.is_open(index, stream.asker) {
            return self.break_stream(inbound);
        }
        match self.network.delays_ms(&mut self.dice).first() {
            Some(delay_ms) => self.soon(*delay_ms, ExchangeHappening::Answered { node: stream.asker, inbound, answer }),
            None => self.break_stream(inbound),
        }
    }

    pub(crate) fn end_exchange(&mut self, index: usize, exchange: ExchangeId) {
        let life = self.machines[index].life;
        let is_this = |stream: &Stream| (stream.asker, stream.asker_life, stream.exchange) == (index, life, exchange);
        let open = self.exchanges.streams.iter().find(|(_, stream)| is_this(stream)).map(|(inbound, _)| *inbound);
        if let Some(stream) = open.and_then(|inbound| Some((inbound, self.exchanges.streams.remove(&inbound)?))) {
            let (inbound, Stream { answerer, answerer_life, .. }) = stream;
            self.soon(5, ExchangeHappening::AskerGone { node: answerer, life: answerer_life, inbound });
        }
    }

    /// The last answer is still on its way; after it the stream is of no use, and its asker ends it.
    #[expect(clippy::unused_self, reason = "an effect like any other")]
    pub(crate) fn end_inbound_exchange(&mut self, _inbound: InboundExchange) {}

    /// Whether anybody is comparing.
    pub(crate) fn has_streams(&self) -> bool {
        !self.exchanges.streams.is_empty()
    }

    /// Breaks a stream at random, as by a connection that is lost. Returns whether there was one.
    pub(crate) fn break_any_stream(&mut self) -> bool {
        let streams: Vec<InboundExchange> = self.exchanges.streams.keys().copied().collect();
        if streams.is_empty() {
            return false;
        }
        let index = self.dice.below(streams.len() as u64);
        self.break_stream(streams[usize::try_from(index).expect("less than a length")]);
        true
    }

    pub(crate) fn happen_in_exchange(&mut self, happening: ExchangeHappening) {
        match happening {
            ExchangeHappening::Asked { node, inbound, question } => {
                let Some(stream) = self.exchanges.streams.get(&inbound).copied() else { return };
                if !self.lives(node, stream.answerer_life) || !self.network.is_open(stream.asker, node) {
                    return self.break_stream(inbound);
                }
                let from = self.machines[stream.asker].id;
                let news = ExchangeNews::Asked { from, exchange: inbound, question };
                self.input(node, |node, now| node.handle_exchange(now, news));
            }
            ExchangeHappening::Answered { node, inbound, answer } => {
                let Some(stream) = self.exchanges.streams.get(&inbound).copied() else { return };
                if self.lives(node, stream.asker_life) {
                    let news = ExchangeNews::Answered { exchange: stream.exchange, answer };
                    self.input(node, |node, now| node.handle_exchange(now, news));
                } else {
                    self.break_stream(inbound);
                }
            }
            ExchangeHappening::Broken { node, life, exchange } => {
                if self.lives(node, life) {
                    let news = ExchangeNews::Failed { exchange, is_busy: false };
                    self.input(node, |node, now| node.handle_exchange(now, news));
                }
            }
            ExchangeHappening::AskerGone { node, life, inbound } => {
                if self.lives(node, life) {
                    self.input(node, |node, now| node.handle_exchange(now, ExchangeNews::AskerGone(inbound)));
                }
            }
        }
    }

    /// Breaks the streams between these: their connection is gone.
    pub(crate) fn break_streams(&mut self, is_gone: impl Fn(usize, usize) -> bool) {
        let gone = self.exchanges.streams.iter().filter(|(_, stream)| is_gone(stream.asker, stream.answerer));
        for inbound in gone.map(|(inbound, _)| *inbound).collect::<Vec<_>>() {
            self.break_stream(inbound);
        }
    }

    fn break_stream(&mut self, inbound: InboundExchange) {
        let Some(stream) = self.exchanges.streams.remove(&inbound) else { return };
        let Stream { asker, asker_life, exchange, answerer, answerer_life } = stream;
        let delay_ms = self.dice.between(1, 500);
        self.soon(delay_ms, ExchangeHappening::Broken { node: asker, life: asker_life, exchange });
        self.soon(delay_ms, ExchangeHappening::AskerGone { node: answerer, life: answerer_life, inbound });
    }

    fn soon(&mut self, delay_ms: u64, happening: ExchangeHappening) {
        self.later(delay_ms, Happening::Exchange(happening));
    }
}
