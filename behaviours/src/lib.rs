//! libp2p protocols of Quorate, ignorant of keys, rings and siblings.

pub mod mdns;
pub mod membership_gossip;
pub mod private_addresses;
pub mod tcp;
pub mod transport;
