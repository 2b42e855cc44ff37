//! libp2p protocols of Quorate, ignorant of keys, rings and siblings.

pub mod framing;
pub mod mdns;
pub mod membership_gossip;
pub mod merkle_exchange;
pub mod private_addresses;
pub mod quorum_rpc;
pub mod tcp;
pub mod transport;
