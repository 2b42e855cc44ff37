//! What goes into a [`crate::node::Node`] and what comes out of it: closed enums, plain values.

use crate::{
    clock::Instant,
    ident::{Name, NodeId},
    membership::change::{Change, Parameters},
    replica::{Query, Work},
    wire::{
        administration::Alert,
        client::ClientResponse,
        exchange::{Answer, Question},
        quorum::{Request, Response},
    },
};

/// One piece of storage work under way. Never used twice by a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// One request to a peer under way. Never used twice by a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboundId(pub u64);

/// One request of a peer under way; the shell's name for where its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboundId(pub u64);

/// One request of a client under way; the shell's name for where its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// One exchange that this node began. Never used twice by a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeId(pub u64);

/// One exchange that a peer began; the shell's name for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboundExchange(pub u64);

/// Who a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Caller {
    /// The owner of the node, in its own process: may do anything.
    Owner,
    /// A peer.
    Peer(NodeId),
}

/// An announcement that was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Who handed it on: its author, or anybody who had heard it.
    pub via: NodeId,
    /// What the network calls it.
    pub name: [u8; 32],
}

/// What becomes of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is passed on.
    PassOn,
    /// It goes no further, and nobody is to blame.
    Keep,
    /// It is a lie, and whoever handed it on has told it: nobody honest does.
    Reject,
}

/// An address given at start, by its place among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeedIndex(pub usize);

/// What a node wants done. Effects are carried out in the order in which they are polled.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Change the store; `handle_done` follows.
    Store {
        /// Names it.
        ticket: Ticket,
        /// What to do.
        work: Work,
        /// When nobody waits for it any more: it is not begun after that.
        due: Option<Instant>,
    },
    /// Read the store; `handle_done` follows.
    Query {
        /// Names it.
        ticket: Ticket,
        /// What to read.
        query: Query,
        /// When nobody waits for it any more: it is not begun after that.
        due: Option<Instant>,
    },
    /// Ask peers the same thing; `handle_response` follows for each, unless the node loses interest before.
    Send {
        /// Whom, and under which name. Never empty, never this node itself.
        to: Vec<(NodeId, OutboundId)>,
        /// What.
        request: Request,
        /// When the node loses interest.
        due: Instant,
    },
    /// Answer a peer.
    Respond {
        /// Its request.
        inbound: InboundId,
        /// The answer.
        response: Response,
    },
    /// Answer a client.
    Reply {
        /// Its request.
        client: ClientId,
        /// The answer.
        response: ClientResponse,
    },
    /// Ask a peer the first or the next question of an exchange; one `handle_exchange` follows.
    Ask {
        /// Names it.
        exchange: ExchangeId,
        /// Whom.
        to: NodeId,
        /// What.
        question: Question,
    },
    /// Answer the last question of an exchange that a peer began.
    AnswerExchange {
        /// Names it.
        exchange: InboundExchange,
        /// What.
        answer: Answer,
    },
    /// An exchange begun here is over.
    EndExchange(ExchangeId),
    /// An exchange that a peer began is over once what was said last is sent.
    EndInboundExchange(InboundExchange),
    /// Announce a membership change to everyone.
    Publish(Change),
    /// Have an announcement passed on, or not.
    Judge {
        /// Which.
        heard: Heard,
        /// What becomes of it.
        verdict: Verdict,
    },
    /// Connect to a node that was seen or is a member.
    Dial {
        /// The node.
        node: NodeId,
        /// Where it may be; may be empty when the shell knows better.
        addresses: Vec<String>,
    },
    /// Close the connections to a node: nothing has come over them for so long that they must be dead.
    Disconnect(NodeId),
    /// Connect to an address given at start.
    DialSeed(SeedIndex),
    /// Tell people.
    Tell(Event),
}

/// What people are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The node is a member and serves. The first event; given once.
    Ready,
    /// The node found nobody and has founded the cluster.
    Founded(Parameters),
    /// A member appeared in the history.
    MemberJoined(NodeId),
    /// A peer's history cannot be merged with ours.
    HistoryRefused {
        /// The peer.
        from: NodeId,
        /// Why, in words.
        reason: String,
    },
    /// Peers have seen a later start of this node than its store knows: the store was restored or cloned.
    StoreIsOld {
        /// The boot number they have seen.
        seen: u64,
    },
    /// This node is a new member, and another member of its name cannot be reached: it may be what this one was before.
    Namesake {
        /// The other.
        node: NodeId,
        /// What both are called.
        name: Name,
    },
    /// A member is gone: it has left, or was removed.
    MemberGone(NodeId),
    /// The node serves no more. Given once; whoever drives it ends it.
    Stopped(Stop),
    /// The store refused or failed.
    StoreFailed {
        /// What it said.
        detail: String,
    },
    /// Something an administrator should know has begun. Given once while it lasts.
    AlertRaised(Alert),
    /// It is over.
    AlertCleared(Alert),
}

/// Why a node serves no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It has handed over all it held, and has left.
    Left,
    /// It was removed from the cluster for ever.
    Removed,
    /// An older process serves with its identity.
    Twin,
}

/// What comes of exchanges.
#[derive(Debug, Clone, PartialEq)]
pub enum ExchangeNews {
    /// A peer asks, the first time or again. `Effect::AnswerExchange` follows once.
    Asked {
        /// The peer.
        from: NodeId,
        /// Names the exchange.
        exchange: InboundExchange,
        /// What.
        question: Question,
    },
    /// A peer has ended its exchange, or is gone.
    AskerGone(InboundExchange),
    /// The answer to what was asked last.
    Answered {
        /// Names the exchange.
        exchange: ExchangeId,
        /// What.
        answer: Answer,
    },
    /// There will be no answer. The exchange is over.
    Failed {
        /// Names the exchange.
        exchange: ExchangeId,
        /// The peer has too many of them.
        is_busy: bool,
    },
}

/// What the network tells a node unasked.
#[expect(clippy::large_enum_variant, reason = "handed over one at a time, never kept")]
#[derive(Debug, Clone, PartialEq)]
pub enum News {
    /// A connection to a node stands; `seed` when it was reached by an address given at start.
    Connected {
        /// The node.
        node: NodeId,
        /// Which seed, if one.
        seed: Option<SeedIndex>,
    },
    /// The last connection to a node is gone.
    Lost(NodeId),
    /// A connected node gave its regular sign of life.
    Heartbeat(NodeId),
    /// A dial failed.
    DialFailed(NodeId),
    /// A peer is a node (not a client) of this cluster.
    Identified(NodeId),
    /// Peers were seen on the local network, and where. They may turn out to be anything.
    Discovered(Vec<(NodeId, Vec<String>)>),
    /// This node can now be reached at these addresses, and no others.
    Listening(Vec<String>),
    /// A membership change was announced. `Effect::Judge` follows at once.
    Announced {
        /// Names the announcement.
        heard: Heard,
        /// What.
        change: Change,
    },
}
