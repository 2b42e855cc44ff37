//! The rule of each kind of setting: from text to a value that cannot be wrong, or the rule in words.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};

use crate::{
    ident::{IdentError, Name, NodeId},
    limits::{NAME_LIMIT_BYTES, PARTITION_COUNT_MAX, REPLICA_COUNT_MAX, WEIGHT_MAX},
    ring::token::PartitionCount,
    runtime::identity,
    store::lmdb::Durability,
};

pub(crate) fn parse_name(text: &str) -> Result<Name, String> {
    let rule = |_: IdentError| format!("it must have 1 to {NAME_LIMIT_BYTES} bytes and no control characters");
    Name::new(text).map_err(rule)
}

pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "it must be true or false".to_owned())
}

pub(crate) fn parse_weight(text: &str) -> Result<u16, String> {
    let weight = text.parse().ok().filter(|weight| (1..=WEIGHT_MAX).contains(weight));
    weight.ok_or_else(|| format!("it must be a whole number from 1 to {WEIGHT_MAX}"))
}

pub(crate) fn parse_replicas(text: &str) -> Result<u8, String> {
    let replicas = text.parse().ok().filter(|replicas| (1..=REPLICA_COUNT_MAX).contains(replicas));
    replicas.ok_or_else(|| format!("it must be a whole number from 1 to {REPLICA_COUNT_MAX}"))
}

pub(crate) fn parse_partitions(text: &str) -> Result<PartitionCount, String> {
    let rule = || format!("it must be a power of two from 1 to {PARTITION_COUNT_MAX}");
    text.parse().ok().and_then(|count| PartitionCount::new(count).ok()).ok_or_else(rule)
}

pub(crate) fn parse_durability(text: &str) -> Result<Durability, String> {
    match text {
        "sync" => Ok(Durability::Sync),
        "periodic" => Ok(Durability::Periodic),
        _ => Err("it must be `sync` or `periodic`".to_owned()),
    }
}

pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.001..=86_400.0).contains(seconds));
    let rule = || "it must be a number of seconds from 0.001 to 86400, fractions allowed".to_owned();
    seconds.map(Duration::from_secs_f64).ok_or_else(rule)
}

/// For what may outlast a long weekend.
pub(crate) fn parse_age(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.001..=2_592_000.0).contains(seconds));
    let rule = || "it must be a number of seconds from 0.001 to 2592000 (30 days), fractions allowed".to_owned();
    seconds.map(Duration::from_secs_f64).ok_or_else(rule)
}

pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let bytes = text.parse().ok().filter(|bytes| (1..=BYTES_MAX).contains(bytes));
    bytes.ok_or_else(|| format!("it must be a whole number of bytes from 1 to {BYTES_MAX}"))
}

/// A pebibyte: more than any disk, and exact wherever numbers are floating.
const BYTES_MAX: u64 = 1 << 50;

pub(crate) fn parse_address(text: &str) -> Result<Multiaddr, String> {
    let rule = "an address is /ip4/…, /ip6/… or /dns/…, then /tcp/… (for example /ip4/192.168.1.7/tcp/4001)";
    if text.is_empty() {
        return Err(format!("it is empty; {rule}"));
    }
    text.parse().map_err(|error| format!("`{text}` will not do: {error}; {rule}"))
}

pub(crate) fn parse_node(text: &str) -> Result<NodeId, String> {
    let hint = "`quorate id` prints a peer id";
    let peer: PeerId = text.parse().map_err(|error| format!("`{text}` will not do: {error}; {hint}"))?;
    identity::node_id(&peer).ok_or_else(|| format!("`{text}` is the peer id of no Ed25519 key; {hint}"))
}
