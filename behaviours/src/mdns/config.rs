//! What a user may choose, and what he may read back.
//!
//! Every value of [`Config`] is valid; what would be senseless is clamped where it is used, and the field says so.
//! [`Counters`] only ever grow.

use std::time::Duration;

/// How the behaviour asks, answers and defends itself.
///
/// [`Config::default`] suits a local network of up to a few hundred peers. Every limit is there because anybody on the
/// link may send anything: mDNS has no authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Longest pause between two rounds of questions once everybody known has answered. Default 5 min; clamped to
    /// 1 s – 1 day.
    ///
    /// Should be shorter than the `ttl` of the others, else their records expire and come back.
    pub query_interval: Duration,
    /// How long others may believe our records without hearing from us. Default 6 min; clamped to 1 s – 1 h, and sent
    /// in whole seconds.
    pub ttl: Duration,
    /// Whether to speak on loopback interfaces too. Default `false`: nobody but this host would hear it.
    pub loopback: bool,
    /// Whether to believe packets from, and addresses in, networks that the receiving interface is no part of.
    ///
    /// Default `false`: otherwise one forged packet makes every peer of the link dial any address in the world. Needed
    /// on point-to-point interfaces, whose own network holds only one address.
    pub accept_foreign_addresses: bool,
    /// Most (peer, address) pairs remembered at a time. Default 1024. New ones are refused while the table is full.
    pub records_max: usize,
    /// Most addresses remembered of one peer. Default 16.
    pub addresses_per_peer_max: usize,
    /// New (peer, address) pairs handed up per second, in the long run; at most twice as many in any one second.
    ///
    /// Default 50. Whoever dials what is discovered dials no faster than this. Those above the rate wait in the
    /// table and are handed up later. 0 hands up nothing.
    pub discoveries_per_second: u32,
    /// Packets decoded per second and interface, in the long run; at most twice as many in any one second. Default 500.
    /// The rest is read and dropped. 0 makes the behaviour deaf.
    pub packets_per_second: u32,
    /// Answers and announcements sent per second and interface, in the long run; at most twice as many in any one
    /// second. Default 4. Each is at most 16 packets of 1400 bytes; those above the rate are sent later, as one.
    ///
    /// Everybody on the link hears each of them, so this times the number of peers should stay below their
    /// `packets_per_second`. 0 makes the behaviour mute, but for its queries.
    pub responses_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            query_interval: Duration::from_secs(5 * 60),
            ttl: Duration::from_secs(6 * 60),
            loopback: false,
            accept_foreign_addresses: false,
            records_max: 1024,
            addresses_per_peer_max: 16,
            discoveries_per_second: 50,
            packets_per_second: 500,
            responses_per_second: 4,
        }
    }
}

/// What has happened since the behaviour was made, over all interfaces. Counts, never decreasing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Packets read from the sockets, our own included, whatever became of them.
    pub packets_received: u64,
    /// Packets dropped because they came faster than [`Config::packets_per_second`].
    pub packets_shed: u64,
    /// Packets dropped because their sender is not in the network of the interface.
    pub packets_foreign: u64,
    /// Packets dropped because they are no DNS message, longer than 9000 bytes, or of more than 160
    /// records.
    pub packets_malformed: u64,
    /// Queries of others for libp2p peers or for the list of services.
    pub queries_received: u64,
    /// Responses of others that name at least one libp2p peer.
    pub responses_received: u64,
    /// Addresses dropped because they are not in the network of the interface, or cannot be dialled from it.
    pub addresses_foreign: u64,
    /// Addresses dropped because the behaviour was not polled often enough to take them.
    pub addresses_shed: u64,
    /// Addresses refused because the table, or the share of their peer, was full.
    pub addresses_refused: u64,
    /// (Peer, address) pairs handed up as discovered.
    pub discovered: u64,
    /// (Peer, address) pairs handed up as expired.
    pub expired: u64,
    /// Queries sent.
    pub queries_sent: u64,
    /// Packets of answers, announcements and goodbyes sent.
    pub responses_sent: u64,
    /// Answers and announcements put off because of [`Config::responses_per_second`], and later sent as one.
    pub responses_delayed: u64,
    /// Answers about the services of the link that were not sent because of [`Config::responses_per_second`].
    pub responses_shed: u64,
    /// Packets that the operating system refused to send.
    pub send_failures: u64,
    /// Times that a socket, or the watch over the interfaces, failed and was tried again later.
    pub interface_failures: u64,
}
