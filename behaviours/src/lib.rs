//! libp2p protocols of Quorate, ignorant of keys, rings and siblings.
pub mod framing;
