//! How gossipsub is set up: its bounds, the shape of its mesh, and what an announcement is called.

use std::time::Duration;

use libp2p::gossipsub::{self, MessageId, ValidationMode};

use crate::membership_gossip::{MEMORY, NAME_BYTES, StartError};

/// Room for what gossipsub wraps around an announcement (author, number, signature, framing) beside its topic, in bytes.
pub(super) const ENVELOPE_BYTES: usize = 512;
/// Messages in one packet of a peer. Ours carry one.
const MESSAGES_PER_PACKET_MAX: usize = 16;
/// Packets that may wait for one slow connection: at most 60 KiB each, 15 MiB for a peer that reads nothing for 5 s.
const QUEUE_PER_CONNECTION: usize = 256;
/// Heartbeats (of 1 s) for which whole messages are kept for peers that ask for them, and those told about them.
const HISTORY_LENGTH: usize = 5;
const HISTORY_GOSSIP: usize = 3;
/// Most bytes of control messages in a packet that gossipsub takes, and most names in a control message of ours, of 34
/// bytes each: gossipsub's own bound on the names would let it send packets that it refuses.
const CONTROL_LIMIT_BYTES: usize = 16 * 1024;
const CONTROL_NAMES_MAX: usize = 256;
const _: () = assert!(CONTROL_NAMES_MAX * 40 <= CONTROL_LIMIT_BYTES);
/// Subscriptions in one packet of a peer. Ours carry one.
pub(super) const SUBSCRIPTIONS_PER_PACKET_MAX: usize = 8;
/// What an announcement's name is the hash of, so that it is the name of nothing else.
const NAME_CONTEXT: &str = "quorate 1 gossip message";

/// Parameters for clusters from two nodes to hundreds.
///
/// Up to seven nodes everybody is in everybody's mesh; below `mesh_n_low` gossipsub merely goes on looking.
pub(super) fn gossip_config(prefix: String, packet_limit_bytes: usize) -> Result<gossipsub::Config, StartError> {
    gossipsub::ConfigBuilder::default()
        .protocol_id_prefix(prefix.clone())
        .max_transmit_size(packet_limit_bytes.max(CONTROL_LIMIT_BYTES + ENVELOPE_BYTES))
        .max_control_message_size(CONTROL_LIMIT_BYTES)
        .max_control_messages_sent(CONTROL_NAMES_MAX)
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .message_id_fn(|message: &gossipsub::Message| MessageId::new(&name_of(&message.data)))
        .flood_publish(true)
        .mesh_n(6)
        .mesh_n_low(4)
        .mesh_n_high(12)
        .mesh_outbound_min(2)
        .heartbeat_initial_delay(Duration::from_secs(1))
        .heartbeat_interval(Duration::from_secs(1))
        .history_length(HISTORY_LENGTH)
        .history_gossip(HISTORY_GOSSIP)
        .duplicate_cache_time(MEMORY)
        .connection_handler_queue_len(QUEUE_PER_CONNECTION)
        .max_publish_messages(MESSAGES_PER_PACKET_MAX)
        .build()
        .map_err(|error| StartError::Config { prefix, error })
}

/// An announcement is its content: the same one by two routes, or from two authors, is one.
pub(super) fn name_of(data: &[u8]) -> [u8; NAME_BYTES] {
    blake3::derive_key(NAME_CONTEXT, data)
}
