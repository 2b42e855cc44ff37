//! Gossipsub and identify as one source of membership news.
//!
//! [`Behaviour<M>`] spreads announcements `M` to all peers of one topic, and tells who each peer is as soon as it is
//! connected. What `M` says is unknown here: it is a value that becomes CBOR.
//!
//! Invariant: an announcement is reported at most once per [`MEMORY`], whichever way it came, and only if it is at most
//! [`Config::message_limit_bytes`] long and decodes to an `M` without a byte left over. It is passed on when its hearer says
//! so ([`Behaviour::judge`]), and nothing else is: whoever hands on a lie has therefore told it.
//!
//! Everything a peer can fill is bounded: topics to ours, messages by the limit, queues and histories by the constants
//! in `tuning.rs`, what identify tells by [`ADDRESSES_PER_PEER_MAX`] and [`PROTOCOLS_PER_PEER_MAX`] (and by the 4 KiB that
//! libp2p allows an identify message).
//!
//! It deliberately lacks delivery. Gossip is not kept for peers that come late, and a message may be lost: whoever
//! announces a history must also let it be pulled. It also lacks judgement: an author is who signed the message, not
//! somebody entitled to it, and a peer that gossips what does not decode is counted, not punished. What gossipsub remembers of a
//! message for [`MEMORY`] (32 bytes of name) is bounded by time, not by count.

mod tuning;

use std::{
    collections::HashSet,
    marker::PhantomData,
    task::{Context, Poll},
    time::Duration,
};

use cbor4ii::{
    core::{dec::Read, utils::SliceReader},
    serde::Deserializer,
};
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    gossipsub::{
        self, IdentTopic, IdentityTransform, MaxCountSubscriptionFilter, MessageAcceptance, MessageAuthenticity,
        MessageId, PublishError, WhitelistSubscriptionFilter,
    },
    identify,
    identity::Keypair,
    swarm::{
        ConnectionDenied, ConnectionHandlerSelect, ConnectionId, FromSwarm, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tracing::{debug, trace};

use crate::membership_gossip::tuning::{ENVELOPE_BYTES, SUBSCRIPTIONS_PER_PACKET_MAX, gossip_config, name_of};

/// How long an announcement is recognised when it comes again.
pub const MEMORY: Duration = Duration::from_secs(60);
/// Addresses reported of one peer; the rest are dropped, in the peer's order.
pub const ADDRESSES_PER_PEER_MAX: usize = 32;
/// Protocols reported of one peer; the rest are dropped, in the peer's order.
pub const PROTOCOLS_PER_PEER_MAX: usize = 64;
/// Peers whose addresses identify keeps for dials by peer alone, ten addresses each; the longest unused is forgotten.
pub const IDENTIFIED_PEERS_MAX: usize = 256;

/// What every peer of a cluster must agree on, and who we say we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The family of protocols that identify tells, with its version; peers compare it.
    pub protocol_version: String,
    /// Name and version of the program that identify tells.
    pub agent_version: String,
    /// Topic of the announcements. Peers with another one hear nothing of ours.
    pub topic: String,
    /// Prefix of the gossipsub protocol's name; begins with `/`. Peers with another one exchange no gossip at all.
    pub gossip_prefix: String,
    /// Longest announcement, sent or heard, in bytes of CBOR. 60 KiB lets an announcement and its envelope fit the
    /// 64 KiB that other implementations of gossipsub accept; memory for queues and histories grows with it.
    pub message_limit_bytes: usize,
}

/// Bytes of the name of an announcement.
pub const NAME_BYTES: usize = 32;

/// Default of [`Config::message_limit_bytes`].
pub const MESSAGE_LIMIT_BYTES: usize = 60 * 1024;

/// News of the membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<M> {
    /// A peer announced `message`. Not reported to the one who announced it. Goes no further before it is judged.
    Announced {
        /// Who signed it; not necessarily connected to us, nor a member.
        from: PeerId,
        /// Who handed it on to us; authenticated.
        via: PeerId,
        /// What it is called: a hash of what it says.
        name: [u8; NAME_BYTES],
        /// What it says.
        message: M,
    },
    /// A connected peer told who it is: after each connection, when its addresses change, and every five minutes.
    Identified {
        /// The peer; authenticated, unlike what follows.
        peer: PeerId,
        /// Its [`Config::protocol_version`].
        protocol_version: String,
        /// Its [`Config::agent_version`].
        agent_version: String,
        /// Where it says that it listens. At most [`ADDRESSES_PER_PEER_MAX`], distinct, in its order; may be empty.
        listen_addresses: Vec<Multiaddr>,
        /// The protocols it speaks. At most [`PROTOCOLS_PER_PEER_MAX`], in its order.
        protocols: Vec<String>,
        /// Where it sees us.
        observed: Multiaddr,
    },
}

/// What becomes of an announcement that was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is passed on.
    PassOn,
    /// It goes no further, and nobody is to blame.
    Keep,
    /// It is a lie, and so is the word of whoever handed it on.
    Reject,
}

/// What happened since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Announcements handed to at least one peer.
    pub announced: u64,
    /// Announcements that nobody was there to hear, or that were on their way already.
    pub unheard: u64,
    /// Announcements reported.
    pub heard: u64,
    /// Announcements that were judged to be lies; not passed on.
    pub rejected: u64,
    /// Messages that were too long or no announcement; not reported and not passed on.
    pub malformed: u64,
    /// Peers, counted anew each time, whose queue was so full that messages to them were dropped.
    pub slow_peers: u64,
    /// Failures to identify a peer.
    pub unidentified: u64,
}

/// Why a [`Behaviour`] could not be made. Nothing was left behind; the same [`Config`] fails again.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// Gossipsub refuses the parameters, [`Config::gossip_prefix`] above all.
    #[error("gossip cannot be configured with the prefix {prefix}: {error}")]
    Config {
        /// [`Config::gossip_prefix`].
        prefix: String,
        /// Gossipsub's answer.
        error: gossipsub::ConfigBuilderError,
    },
    /// Gossipsub refuses the combination of signatures and validation.
    #[error("gossip cannot start: {reason}")]
    Start {
        /// Gossipsub's answer.
        reason: &'static str,
    },
    /// The topic cannot be subscribed.
    #[error("topic {topic} cannot be subscribed: {error}")]
    Subscribe {
        /// [`Config::topic`].
        topic: String,
        /// Gossipsub's answer.
        error: gossipsub::SubscriptionError,
    },
}

/// Why an announcement was not made. No peer was told.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AnnounceError {
    /// It is too long; the same one fails again.
    #[error("announcement of {actual_bytes} bytes exceeds the limit of {limit_bytes}")]
    TooLarge {
        /// Its length.
        actual_bytes: usize,
        /// [`Config::message_limit_bytes`].
        limit_bytes: usize,
    },
    /// It does not become CBOR; the same one fails again.
    #[error("announcement cannot be encoded: {reason}")]
    Encode {
        /// The codec's answer.
        reason: String,
    },
    /// Every peer's queue is full. Within [`MEMORY`] the same one counts as announced and is not sent again.
    #[error("announcement was dropped: the queues of all {peers} peers are full")]
    QueuesFull {
        /// How many peers were tried.
        peers: usize,
    },
    /// Gossipsub could not sign or form the message.
    #[error("announcement cannot be published: {0}")]
    Publish(#[source] PublishError),
}

/// Gossipsub and identify under one roof. See the [module](crate::membership_gossip).
pub struct Behaviour<M> {
    inner: Inner,
    topic: IdentTopic,
    message_limit_bytes: usize,
    counters: Counters,
    announcements: PhantomData<fn(M) -> M>,
}

impl<M: Serialize + DeserializeOwned + Send + 'static> Behaviour<M> {
    /// A behaviour that signs as `keypair` and is subscribed to the topic of `config`.
    ///
    /// # Errors
    ///
    /// When gossipsub refuses the configuration.
    pub fn new(keypair: &Keypair, config: Config) -> Result<Self, StartError> {
        let Config { protocol_version, agent_version, topic, gossip_prefix, message_limit_bytes } = config;
        let topic = IdentTopic::new(topic);
        let filter = MaxCountSubscriptionFilter {
            filter: WhitelistSubscriptionFilter(HashSet::from([topic.hash()])),
            max_subscribed_topics: 1,
            max_subscriptions_per_request: SUBSCRIPTIONS_PER_PACKET_MAX,
        };
        let packet_limit_bytes = message_limit_bytes.saturating_add(ENVELOPE_BYTES + topic.hash().as_str().len());
        let mut gossip = Gossip::new_with_subscription_filter(
            MessageAuthenticity::Signed(keypair.clone()),
            gossip_config(gossip_prefix, packet_limit_bytes)?,
            filter,
        )
        .map_err(|reason| StartError::Start { reason })?;
        gossip.subscribe(&topic).map_err(|error| StartError::Subscribe { topic: topic.to_string(), error })?;
        let identify = identify::Config::new(protocol_version, keypair.public())
            .with_agent_version(agent_version)
            .with_push_listen_addr_updates(true)
            .with_hide_listen_addrs(false)
            .with_cache_size(IDENTIFIED_PEERS_MAX);
        Ok(Self {
            inner: Inner { gossip, identify: identify::Behaviour::new(identify) },
            topic,
            message_limit_bytes,
            counters: Counters::default(),
            announcements: PhantomData,
        })
    }

    /// Tells `message` to all peers that are subscribed, who tell it on.
    ///
    /// That nobody is there to hear it, and that the same message went round within [`MEMORY`], are no failures:
    /// announcements are news of something that is also pulled.
    ///
    /// # Errors
    ///
    /// When the announcement is too long, cannot be encoded, or every peer's queue is full.
    pub fn announce(&mut self, message: &M) -> Result<(), AnnounceError> {
        let data = cbor4ii::serde::to_vec(Vec::new(), message)
            .map_err(|error| AnnounceError::Encode { reason: error.to_string() })?;
        let (actual_bytes, limit_bytes) = (data.len(), self.message_limit_bytes);
        if actual_bytes > limit_bytes {
            return Err(AnnounceError::TooLarge { actual_bytes, limit_bytes });
        }
        match self.inner.gossip.publish(self.topic.hash(), data) {
            Ok(id) => {
                self.counters.announced += 1;
                trace!(%id, bytes = actual_bytes, "announced");
                Ok(())
            }
            Err(PublishError::NoPeersSubscribedToTopic | PublishError::Duplicate) => {
                self.counters.unheard += 1;
                Ok(())
            }
            Err(PublishError::MessageTooLarge) => Err(AnnounceError::TooLarge { actual_bytes, limit_bytes }),
            Err(PublishError::AllQueuesFull(peers)) => Err(AnnounceError::QueuesFull { peers }),
            Err(error) => Err(AnnounceError::Publish(error)),
        }
    }

    /// Says what becomes of the announcement called `name` that `via` has handed on.
    ///
    /// Within a few seconds, and once: gossipsub forgets whole messages, and one that is not judged goes no further.
    pub fn judge(&mut self, name: &[u8; NAME_BYTES], via: &PeerId, verdict: Verdict) {
        let acceptance = match verdict {
            Verdict::PassOn => MessageAcceptance::Accept,
            Verdict::Keep => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        };
        self.counters.rejected += u64::from(verdict == Verdict::Reject);
        self.inner.gossip.report_message_validation_result(&MessageId::new(name), via, acceptance);
    }
}

impl<M> Behaviour<M> {
    /// Sends every announcement to `peer` directly, whatever the shape of the mesh; for members.
    ///
    /// Should be mutual: a peer that is trusted takes no part in our mesh, and hears from those who do not trust it
    /// by the slower way of history gossip. A trusted peer that is not connected is dialled now and every five minutes
    /// at the addresses that the swarm's behaviours know. The caller bounds how many are trusted.
    pub fn trust(&mut self, peer: &PeerId) {
        self.inner.gossip.add_explicit_peer(peer);
    }

    /// Undoes [`trust`](Self::trust). The connection and what is on its way stay.
    pub fn distrust(&mut self, peer: &PeerId) {
        self.inner.gossip.remove_explicit_peer(peer);
    }

    /// Connected peers that are subscribed to our topic, in no order.
    pub fn subscribers(&self) -> impl Iterator<Item = &PeerId> {
        let topic = self.topic.hash();
        self.inner
            .gossip
            .all_peers()
            .filter(move |(_, topics)| topics.iter().any(|subscribed| **subscribed == topic))
            .map(|(peer, _)| peer)
    }

    /// What happened since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}

impl<M: DeserializeOwned> Behaviour<M> {
    fn on_gossip(&mut self, event: gossipsub::Event) -> Option<Event<M>> {
        match event {
            gossipsub::Event::Message { propagation_source, message_id, message } => {
                self.on_message(propagation_source, &message_id, message)
            }
            gossipsub::Event::SlowPeer { peer_id, failed_messages } => {
                self.counters.slow_peers += 1;
                debug!(peer = %peer_id, ?failed_messages, "peer is too slow for gossip");
                None
            }
            gossipsub::Event::GossipsubNotSupported { peer_id } => {
                debug!(peer = %peer_id, "peer does not speak our gossip");
                None
            }
            gossipsub::Event::Subscribed { .. } | gossipsub::Event::Unsubscribed { .. } => None,
        }
    }

    fn on_message(&mut self, via: PeerId, id: &MessageId, message: gossipsub::Message) -> Option<Event<M>> {
        let announcement = if message.data.len() <= self.message_limit_bytes { decode(&message.data) } else { None };
        // Strict validation lets no message without an author through.
        match message.source.zip(announcement) {
            Some((from, announcement)) => {
                self.counters.heard += 1;
                Some(Event::Announced { from, via, name: name_of(&message.data), message: announcement })
            }
            None => {
                self.inner.gossip.report_message_validation_result(id, &via, MessageAcceptance::Reject);
                self.counters.malformed += 1;
                debug!(peer = %via, author = ?message.source, bytes = message.data.len(), "malformed announcement");
                None
            }
        }
    }

    fn on_identify(&mut self, event: identify::Event) -> Option<Event<M>> {
        match event {
            identify::Event::Received { peer_id, info, .. } => Some(identified(peer_id, info)),
            identify::Event::Error { peer_id, error, .. } => {
                self.counters.unidentified += 1;
                debug!(peer = %peer_id, %error, "peer was not identified");
                None
            }
            identify::Event::Sent { .. } | identify::Event::Pushed { .. } => None,
        }
    }
}

impl<M: Serialize + DeserializeOwned + Send + 'static> NetworkBehaviour for Behaviour<M> {
    type ConnectionHandler = ConnectionHandlerSelect<THandler<Gossip>, THandler<identify::Behaviour>>;
    type ToSwarm = Event<M>;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, remote, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Event<M>, THandlerInEvent<Self>>> {
        // Ends: the swarm feeds no event in while it polls, so the inner queues only shrink.
        while let Poll::Ready(action) = self.inner.poll(context) {
            let event = match action {
                ToSwarm::GenerateEvent(InnerEvent::Gossip(event)) => self.on_gossip(event),
                ToSwarm::GenerateEvent(InnerEvent::Identify(event)) => self.on_identify(event),
                action => return Poll::Ready(action.map_out(|_| unreachable!("events were taken above"))),
            };
            if let Some(event) = event {
                return Poll::Ready(ToSwarm::GenerateEvent(event));
            }
        }
        Poll::Pending
    }
}

type Gossip = gossipsub::Behaviour<IdentityTransform, MaxCountSubscriptionFilter<WhitelistSubscriptionFilter>>;

#[derive(NetworkBehaviour)]
struct Inner {
    gossip: Gossip,
    identify: identify::Behaviour,
}

/// The announcement that `data` is, if all of it is one.
fn decode<M: DeserializeOwned>(data: &[u8]) -> Option<M> {
    let mut decoder = Deserializer::new(SliceReader::new(data));
    let announcement = M::deserialize(&mut decoder).ok()?;
    // Trailing bytes would give one announcement many names.
    let mut rest = decoder.into_inner();
    rest.fill(1).ok()?.as_ref().is_empty().then_some(announcement)
}

fn identified<M>(peer: PeerId, info: identify::Info) -> Event<M> {
    let mut seen = HashSet::new();
    let listen_addresses = info
        .listen_addrs
        .into_iter()
        .filter(|address| seen.insert(address.clone()))
        .take(ADDRESSES_PER_PEER_MAX)
        .collect();
    Event::Identified {
        peer,
        protocol_version: info.protocol_version,
        agent_version: info.agent_version,
        listen_addresses,
        protocols: info.protocols.iter().take(PROTOCOLS_PER_PEER_MAX).map(ToString::to_string).collect(),
        observed: info.observed_addr,
    }
}
