//! Discovery of libp2p peers on the local network by multicast DNS, on async-io sockets.
//!
//! Speaks [libp2p's mDNS protocol][spec] over IPv4 and IPv6 on every interface of the host, so it finds and is found by
//! the other implementations of libp2p. Any swarm may use it; it knows nothing of the rest of this crate.
//!
//! ```no_run
//! use libp2p::identity::Keypair;
//! use quorate_behaviours::mdns;
//!
//! # fn main() -> Result<(), mdns::StartError> {
//! let me = Keypair::generate_ed25519().public().to_peer_id();
//! let mdns = mdns::Behaviour::new(me, mdns::Config::default())?;
//! // Put `mdns` into a swarm and dial what `Event::Discovered` brings. Before stopping:
//! // `swarm.behaviour_mut().farewell().await`.
//! # drop(mdns);
//! # Ok(())
//! # }
//! ```
//!
//! What it does:
//!
//! - It **asks** who is there: at once, then with growing pauses until everybody known has answered, then now and then.
//!   A swarm that listens nowhere asks and finds too; it just has nothing to announce.
//! - It **announces** the swarm's listen addresses, on each interface those that belong to it: with every question, to
//!   whoever asks, when an address is gained, and when somebody unknown announces himself. Two peers that start
//!   together find each other both ways, though neither was there to hear the other's first word.
//! - It **takes back** what it has announced: an address that is lost, and everything when the swarm stops
//!   ([`Behaviour::farewell`], or as well as it can when it is dropped).
//! - It **hands up** what it finds: as [`Event`]s, to the other behaviours of the swarm
//!   (`NewExternalAddrOfPeer`), and to whoever dials a peer without naming an address.
//!
//! Invariants: memory, work per second, packets sent per second and discoveries per second are bounded by [`Config`]
//! whatever anybody sends; a malformed packet is counted and dropped. A pair is reported as expired only after it was
//! reported as discovered.
//!
//! What it lacks, on purpose:
//!
//! - **It believes what it hears.** mDNS has no signatures: anybody on the link can announce peers that do not exist at
//!   addresses of the link, or say goodbye in another's name. The identity of a peer is proved only by dialling it;
//!   hence [`Event::Expired`] is *news*, no reason to disconnect or to call anybody dead.
//! - **It neither dials nor disconnects.**
//! - It ignores IPv6 link-local addresses, as an address without a zone cannot be dialled, and neighbours whose
//!   network is not ours ([`Config::accept_foreign_addresses`]).
//! - It does not suppress known answers (RFC 6762, section 7.1): each question is answered by everybody, a few times per
//!   second at most. That suits links of up to a few hundred peers.
//! - A full table refuses newcomers until something expires; nothing is evicted for them.
//!
//! [spec]: https://github.com/libp2p/specs/blob/master/discovery/mdns.md

mod behaviour;
mod bucket;
mod config;
mod interface;
mod link;
mod message;
mod rounds;
mod socket;
mod table;

pub use crate::mdns::{
    behaviour::{Behaviour, Event, StartError},
    config::{Config, Counters},
};
