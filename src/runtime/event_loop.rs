//! The one loop: a completion, a timeout, an order or a network event goes into the node; its effects come out.
//!
//! What has begun comes before what is asked to begin. Orders and the network take turns at random: however much peers
//! send, time passes for the node and its owner can stop it.

use std::collections::{HashMap, VecDeque};

use async_io::Timer;
use async_std::channel::{Receiver, Sender};
use futures::{FutureExt, channel::oneshot, select, select_biased};

use crate::{
    clock::Instant,
    ident::NodeId,
    node::{
        Node, SendFailure,
        effect::{Caller, ClientId, Effect, Event, ExchangeNews, News, Ticket},
    },
    replica::Done,
    runtime::{
        Notice, announcements,
        clock::Clock,
        handle::NetworkCounters,
        identity::peer_id,
        storage::{Completions, Storage},
        translate::{NetworkInput, Translator},
    },
    store::StoreError,
    wire::{
        administration::Alert,
        client::{ClientRequest, ClientResponse},
    },
};

/// What the owner of a node wants.
#[derive(Debug)]
pub(crate) enum Order {
    /// Carry out a request of this process.
    Request { request: ClientRequest, reply: oneshot::Sender<ClientResponse> },
    /// Tell what the protocols between members have cost so far.
    Count { reply: oneshot::Sender<NetworkCounters> },
    /// End.
    Stop,
}

/// What the loop takes next.
#[expect(clippy::large_enum_variant, reason = "handed over one at a time, never kept")]
enum Input {
    Completions(Completions),
    Network(NetworkInput),
    Timeout,
    Order(Order),
    End,
}

/// Owns everything of a running node.
pub(crate) struct EventLoop {
    node: Node,
    translator: Translator,
    completions: Receiver<Completions>,
    storage: Storage,
    clock: Clock,
    orders: Receiver<Order>,
    notices: Sender<Notice>,
    /// Requests of this process that wait for their answer.
    local: HashMap<ClientId, oneshot::Sender<ClientResponse>>,
    timer: Option<(Instant, Timer)>,
    /// Failures that happened while effects were carried out: inputs like any other, one after the other.
    echoes: VecDeque<NetworkInput>,
    refused: VecDeque<(Ticket, Result<Done, StoreError>)>,
}

impl EventLoop {
    pub(crate) fn new(
        node: Node,
        translator: Translator,
        storage: Storage,
        clock: Clock,
        orders: Receiver<Order>,
        notices: Sender<Notice>,
    ) -> EventLoop {
        EventLoop {
            node,
            translator,
            completions: storage.completions(),
            storage,
            clock,
            orders,
            notices,
            local: HashMap::new(),
            timer: None,
            echoes: VecDeque::new(),
            refused: VecDeque::new(),
        }
    }

    pub(crate) async fn run(mut self) {
        loop {
            self.carry_out_effects();
            match self.next_input().await {
                Input::Completions(completed) => self.on_completions(completed),
                Input::Network(input) => self.on_network(input),
                Input::Timeout => self.node.handle_timeout(self.clock.now()),
                Input::Order(Order::Request { request, reply }) => self.on_local_request(request, reply),
                // Whoever asked may have stopped waiting.
                Input::Order(Order::Count { reply }) => drop(reply.send(self.translator.counters())),
                Input::Order(Order::Stop) | Input::End => break,
            }
        }
        self.translator.say_goodbye().await;
        let storage = self.storage;
        // Joining threads blocks; other tasks of this process go on meanwhile.
        async_std::task::spawn_blocking(move || storage.stop()).await;
    }

    /// Waits for the next input, whichever comes first; of several that are there, see the [module](self).
    async fn next_input(&mut self) -> Input {
        self.arm_timer();
        let timer = &mut self.timer;
        let mut timeout = std::pin::pin!(FutureExt::fuse(async {
            match timer {
                Some((_, timer)) => drop(timer.await),
                None => futures::future::pending().await,
            }
        }));
        let mut asked = std::pin::pin!(FutureExt::fuse(async {
            select! {
                order = FutureExt::fuse(self.orders.recv()) => order.map_or(Input::End, Input::Order),
                input = FutureExt::fuse(self.translator.next()) => Input::Network(input),
            }
        }));
        select_biased! {
            completed = FutureExt::fuse(self.completions.recv()) => completed.map_or(Input::End, Input::Completions),
            () = timeout => {
                self.timer = None;
                Input::Timeout
            }
            input = asked => input,
        }
    }

    fn on_completions(&mut self, completed: Completions) {
        for (ticket, result) in completed {
            self.node.handle_done(self.clock.now(), ticket, result);
            self.carry_out_effects();
        }
    }

    fn on_network(&mut self, input: NetworkInput) {
        let now = self.clock.now();
        match input {
            NetworkInput::News(news) => self.node.handle_news(now, news),
            NetworkInput::Request { from, inbound, deadline, request } => {
                let due = self.clock.instant_of(deadline);
                self.node.handle_request(now, from, inbound, due, request);
            }
            NetworkInput::Response { outbound, result } => self.node.handle_response(now, outbound, result),
            NetworkInput::ClientRequest { client, from, request } => {
                self.node.handle_client(now, client, Caller::Peer(from), request);
            }
            NetworkInput::Exchange(news) => self.node.handle_exchange(now, news),
            NetworkInput::Notice(notice) => self.notify(notice),
            NetworkInput::Nothing => {}
        }
    }

    fn on_local_request(&mut self, request: ClientRequest, reply: oneshot::Sender<ClientResponse>) {
        let client = self.translator.next_client_id();
        self.local.insert(client, reply);
        self.node.handle_client(self.clock.now(), client, Caller::Owner, request);
    }

    fn carry_out_effects(&mut self) {
        loop {
            while let Some(effect) = self.node.poll_effect() {
                self.carry_out(effect);
            }
            if let Some(input) = self.echoes.pop_front() {
                self.on_network(input);
            } else if let Some((ticket, result)) = self.refused.pop_front() {
                self.node.handle_done(self.clock.now(), ticket, result);
            } else {
                return;
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Store { ticket, work, due } => {
                let due = due.map(|due| self.clock.os_instant(due));
                if let Err(error) = self.storage.store(ticket, work, due) {
                    self.refused.push_back((ticket, Err(error)));
                }
            }
            Effect::Query { ticket, query, due } => {
                let due = due.map(|due| self.clock.os_instant(due));
                if let Err(error) = self.storage.query(ticket, query, due) {
                    self.refused.push_back((ticket, Err(error)));
                }
            }
            Effect::Send { to, request, due } => {
                let due = self.clock.os_instant(due);
                for outbound in self.translator.send(&to, &request, due) {
                    let result = Err(SendFailure::NotSent);
                    self.echoes.push_back(NetworkInput::Response { outbound, result });
                }
            }
            Effect::Respond { inbound, response } => self.translator.respond(inbound, response),
            Effect::Reply { client, response } => match self.local.remove(&client) {
                // Whoever asked may have stopped waiting.
                Some(reply) => drop(reply.send(response)),
                None => self.translator.reply(client, response),
            },
            Effect::Ask { exchange, to, question } => {
                let (exchanges, behaviour) = self.translator.exchanges();
                if !exchanges.ask(behaviour, exchange, &to, &question) {
                    let news = ExchangeNews::Failed { exchange, is_busy: false };
                    self.echoes.push_back(NetworkInput::Exchange(news));
                }
            }
            Effect::AnswerExchange { exchange, answer } => {
                let (exchanges, behaviour) = self.translator.exchanges();
                if !exchanges.answer(behaviour, exchange, &answer) {
                    self.echoes.push_back(NetworkInput::Exchange(ExchangeNews::AskerGone(exchange)));
                }
            }
            Effect::EndExchange(exchange) => {
                let (exchanges, behaviour) = self.translator.exchanges();
                exchanges.end(behaviour, exchange);
            }
            Effect::EndInboundExchange(exchange) => {
                let (exchanges, behaviour) = self.translator.exchanges();
                exchanges.end_inbound(behaviour, exchange);
            }
            Effect::Publish(change) => announcements::publish(self.translator.gossip(), &change),
            Effect::Judge { heard, verdict } => announcements::judge(self.translator.gossip(), &heard, verdict),
            Effect::Dial { node, addresses } => {
                if !self.translator.dial(&node, &addresses) {
                    self.echoes.push_back(NetworkInput::News(News::DialFailed(node)));
                }
            }
            Effect::Disconnect(node) => self.translator.disconnect(&node),
            Effect::DialSeed(seed) => {
                if let Some(notice) = self.translator.dial_seed(seed) {
                    self.notify(notice);
                }
            }
            Effect::Tell(Event::Ready) => {
                let addresses = self.translator.addresses();
                self.notify(Notice::Ready { addresses });
            }
            Effect::Tell(event) => {
                log(&event);
                self.notify(Notice::Event(event));
            }
        }
    }

    /// Tells the owner. An owner that does not listen misses it; nothing waits for it.
    fn notify(&mut self, notice: Notice) {
        if self.notices.try_send(notice).is_err() {
            tracing::debug!("a notice was not taken");
        }
    }

    fn arm_timer(&mut self) {
        let wanted = self.node.next_timeout();
        if self.timer.as_ref().map(|(due, _)| *due) != wanted {
            self.timer = wanted.map(|due| (due, Timer::at(self.clock.os_instant(due))));
        }
    }
}

/// For those who read logs. What is the matter is an error, because somebody must do something about it.
fn log(event: &Event) {
    let peer = |node: Option<&NodeId>| node.and_then(peer_id).map(tracing::field::display);
    match event {
        Event::AlertRaised(Alert { kind, since, detail }) => {
            tracing::error!(alert = kind.name(), peer = peer(kind.node()), since_ms = since.0, %detail, "alert");
        }
        Event::AlertCleared(Alert { kind, since, .. }) => {
            tracing::info!(alert = kind.name(), peer = peer(kind.node()), since_ms = since.0, "alert is over");
        }
        Event::Ready
        | Event::Founded(_)
        | Event::MemberJoined(_)
        | Event::MemberGone(_)
        | Event::Stopped(_)
        | Event::HistoryRefused { .. }
        | Event::StoreIsOld { .. }
        | Event::Namesake { .. }
        | Event::StoreFailed { .. } => {}
    }
}
