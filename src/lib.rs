//! Quorate: a leaderless, replicated key-value store whose nodes are libp2p peers.
