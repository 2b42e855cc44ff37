//! The vocabulary of the wire: what members say to each other, and clients to members.
//!
//! Bodies are CBOR. A protocol's name carries its major version, and the cluster's name, so that peers of another
//! cluster find no common protocol beyond `identify`. Within a major version fields may be added with a default;
//! a change in meaning is a new major. Golden bytes of every message are kept in `tests/wire_format`.

mod bytes;

pub mod client;
pub mod keyed;
pub mod administration;
pub mod quorum;
pub mod exchange;

use crate::ident::Name;

/// Name of the protocol between members of the cluster called `cluster`.
pub fn quorum_protocol(cluster: &Name) -> String {
    format!("/quorate/quorum/1/{}", escape(cluster))
}

/// Name of the protocol between clients and members of the cluster called `cluster`.
pub fn client_protocol(cluster: &Name) -> String {
    format!("/quorate/client/1/{}", escape(cluster))
}

/// Name of the protocol by which members of the cluster called `cluster` compare what they hold.
pub fn exchange_protocol(cluster: &Name) -> String {
    format!("/quorate/merkle/1/{}", escape(cluster))
}

/// The gossipsub topic on which the cluster called `cluster` announces membership changes.
pub fn history_topic(cluster: &Name) -> String {
    format!("quorate/history/1/{}", escape(cluster))
}

/// Prefix of the gossipsub protocol in the cluster called `cluster`.
pub fn gossip_prefix(cluster: &Name) -> String {
    format!("/quorate/gossip/1/{}", escape(cluster))
}

/// What `identify` tells as the protocol version: the software's protocol and the cluster.
pub fn identify_version(cluster: &Name) -> String {
    format!("{IDENTIFY_PREFIX}{cluster}")
}

/// The cluster that a peer tells by its `identify` protocol version, if it is one of ours.
pub fn identified_cluster(protocol_version: &str) -> Option<Name> {
    Name::new(protocol_version.strip_prefix(IDENTIFY_PREFIX)?).ok()
}

const IDENTIFY_PREFIX: &str = "quorate/1/";

/// A name as one segment of a protocol name: a slash in it must not make two.
fn escape(cluster: &Name) -> String {
    cluster.as_str().replace('%', "%25").replace('/', "%2f")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_with_similar_names_share_no_protocol() {
        let plain = Name::new("a%2fb").unwrap();
        let slashed = Name::new("a/b").unwrap();
        assert_ne!(quorum_protocol(&plain), quorum_protocol(&slashed));
        assert_eq!(identified_cluster(&identify_version(&slashed)), Some(slashed));
        assert_eq!(identified_cluster("ipfs/0.1.0"), None);
    }
}
