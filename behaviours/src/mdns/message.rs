//! Packets of libp2p's mDNS discovery, from and to bytes.
//!
//! The bytes come from anybody: [`decode`] returns an error or a [`Packet`] for whatever it is given, never panics, and
//! looks at a bounded number of records. Names are compared without regard to case. What is announced is *not* checked
//! here, only well formed; whether it is plausible is for the caller, who knows where the packet came from.
//!
//! Source: <https://github.com/libp2p/specs/blob/master/discovery/mdns.md>; RFC 6762 (multicast DNS).

use std::{collections::BTreeMap, str::FromStr};

use hickory_proto::{
    ProtoError,
    op::{Message, MessageType, OpCode, Query},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{PTR, TXT},
    },
    serialize::binary::DecodeError,
};
use libp2p::{Multiaddr, PeerId, core::multiaddr::Protocol};
use rand::{RngExt, distr::Alphanumeric};
use thiserror::Error;

/// Name under which libp2p peers are found.
const SERVICE: &str = "_p2p._udp.local.";
/// Name under which the services of a link are listed (RFC 6763, section 9).
const SERVICE_LIST: &str = "_services._dns-sd._udp.local.";
/// What precedes the address in a TXT string.
const TEXT_PREFIX: &str = "dnsaddr=";

/// Longest packet that is read, in bytes (RFC 6762, section 17).
pub(crate) const PACKET_LIMIT_BYTES: usize = 9000;
/// Longest packet that we send, in bytes, so that it fits the payload of one Ethernet frame.
pub(crate) const RESPONSE_LIMIT_BYTES: usize = 1400;
/// Most addresses that we announce. At 6 to 12 a packet this is 16 packets at the very most.
pub(crate) const ANNOUNCED_ADDRESSES_MAX: usize = 64;
/// Most questions and records in a packet that is read. Compressed names make records cheap to send (12 bytes) and dear
/// to decode (128 labels), so a packet full of them is not even begun.
const RECORDS_PER_PACKET_MAX: usize = 160;
/// Most addresses that are taken from one packet: more than fit in 9000 bytes when they are honest.
const SIGHTINGS_PER_PACKET_MAX: usize = 128;
/// Most peers that one packet may speak for; implementations put one in.
const INSTANCES_PER_PACKET_MAX: usize = 16;
/// Longest string of a TXT record, in bytes (RFC 1035, section 3.3).
const TEXT_LIMIT_BYTES: usize = 255;
const _: () = assert!(SIGHTINGS_PER_PACKET_MAX + INSTANCES_PER_PACKET_MAX <= RECORDS_PER_PACKET_MAX);

/// A packet of somebody, as far as it concerns us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    /// Somebody looks for libp2p peers, or for the services of the link.
    Query {
        /// The number that the sender gave it.
        id: u16,
        /// Whether it asks for libp2p peers.
        wants_peers: bool,
        /// Whether it asks for the list of services.
        wants_services: bool,
    },
    /// Somebody says where peers are. Not empty, at most [`SIGHTINGS_PER_PACKET_MAX`] entries, not distinct.
    Response(Vec<Sighting>),
    /// DNS, but not about libp2p.
    Other,
}

/// One address at which a peer is said to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sighting {
    /// The peer.
    pub(crate) peer: PeerId,
    /// Its address; ends in `/p2p/<peer>`.
    pub(crate) address: Multiaddr,
    /// How long to believe it, in seconds as sent. 0 is a goodbye.
    pub(crate) ttl_secs: u32,
}

/// Why bytes are no packet for us.
#[derive(Debug, Error)]
pub(crate) enum MalformedPacket {
    /// Longer than mDNS allows; the rest was not even read.
    #[error("packet exceeds the limit of {PACKET_LIMIT_BYTES} bytes")]
    TooLong,
    /// Not decoded, because that would cost too much.
    #[error("packet claims {claimed} records, more than the limit of {RECORDS_PER_PACKET_MAX}")]
    TooManyRecords {
        /// Sum of the four counts of the header.
        claimed: usize,
    },
    /// Not a DNS message.
    #[error(transparent)]
    NotDns(#[from] DecodeError),
}

/// Reads one packet.
///
/// # Errors
///
/// When the bytes are no DNS message, or one larger than any honest one.
pub(crate) fn decode(bytes: &[u8]) -> Result<Packet, MalformedPacket> {
    if bytes.len() > PACKET_LIMIT_BYTES {
        return Err(MalformedPacket::TooLong);
    }
    let claimed = claimed_records(bytes);
    if claimed > RECORDS_PER_PACKET_MAX {
        return Err(MalformedPacket::TooManyRecords { claimed });
    }
    let message = Message::from_vec(bytes)?;
    Ok(match message.metadata.message_type {
        MessageType::Query => to_query(&message),
        MessageType::Response => to_response(&message),
    })
}

/// Writes packets; holds the names, so that they are parsed once.
#[derive(Debug, Clone)]
pub(crate) struct Encoder {
    service: Name,
    service_list: Name,
    instance: Name,
}

impl Encoder {
    /// An encoder that announces under a fresh random name of 32 to 63 characters.
    ///
    /// # Errors
    ///
    /// Never in practice: the names are valid by construction.
    pub(crate) fn new() -> Result<Self, ProtoError> {
        let label_length = rand::random_range(32..=63);
        let label: String = rand::rng().sample_iter(Alphanumeric).take(label_length).map(char::from).collect();
        Ok(Self {
            service: Name::from_str(SERVICE)?,
            service_list: Name::from_str(SERVICE_LIST)?,
            instance: Name::from_str(&format!("{label}.{SERVICE}"))?,
        })
    }

    /// The question for libp2p peers, under the number `id`.
    ///
    /// # Errors
    ///
    /// Never in practice: the packet is short and its names are valid.
    pub(crate) fn query(&self, id: u16) -> Result<Vec<u8>, ProtoError> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(self.service.clone(), RecordType::PTR));
        message.to_vec()
    }

    /// The announcement of `addresses`, believed for `ttl_secs` (0: a goodbye), in packets of at most
    /// [`RESPONSE_LIMIT_BYTES`]. Empty if no address can be announced.
    ///
    /// Addresses too long for a TXT string, and all after the first [`ANNOUNCED_ADDRESSES_MAX`], are left out.
    /// An address ends in `/p2p/<peer>` or does not say whose it is; then `peer` is added.
    ///
    /// # Errors
    ///
    /// Never in practice: the size is computed beforehand.
    pub(crate) fn response(
        &self,
        peer: PeerId,
        addresses: &[Multiaddr],
        ttl_secs: u32,
    ) -> Result<Vec<Vec<u8>>, ProtoError> {
        let texts = addresses.iter().filter_map(|address| to_text(address, peer)).take(ANNOUNCED_ADDRESSES_MAX);
        let mut packets = Vec::new();
        let mut message = self.empty_response(ttl_secs);
        let mut size_bytes = self.empty_response_bytes();
        for text in texts {
            let record_bytes = self.text_record_bytes(&text);
            if size_bytes + record_bytes > RESPONSE_LIMIT_BYTES {
                packets.push(message.to_vec()?);
                message = self.empty_response(ttl_secs);
                size_bytes = self.empty_response_bytes();
            }
            size_bytes += record_bytes;
            let data = RData::TXT(TXT::new(vec![text]));
            message.add_additional(Record::from_rdata(self.instance.clone(), ttl_secs, data));
        }
        if !message.additionals.is_empty() {
            packets.push(message.to_vec()?);
        }
        Ok(packets)
    }

    /// The answer to who asks for the services of the link: libp2p is one.
    ///
    /// # Errors
    ///
    /// Never in practice: the packet is short and its names are valid.
    pub(crate) fn service_list(&self, ttl_secs: u32) -> Result<Vec<u8>, ProtoError> {
        let mut message = to_authoritative_response();
        let data = RData::PTR(PTR(self.service.clone()));
        message.add_answer(Record::from_rdata(self.service_list.clone(), ttl_secs, data));
        message.to_vec()
    }

    fn empty_response(&self, ttl_secs: u32) -> Message {
        let mut message = to_authoritative_response();
        let data = RData::PTR(PTR(self.instance.clone()));
        message.add_answer(Record::from_rdata(self.service.clone(), ttl_secs, data));
        message
    }

    /// Bytes of a response without addresses: header, and one PTR record. An upper bound, as the encoder may compress
    /// names.
    fn empty_response_bytes(&self) -> usize {
        HEADER_BYTES + name_bytes(&self.service) + RECORD_BYTES + name_bytes(&self.instance)
    }

    /// Bytes of one TXT record. An upper bound, as the encoder may compress names.
    fn text_record_bytes(&self, text: &str) -> usize {
        name_bytes(&self.instance) + RECORD_BYTES + 1 + text.len()
    }
}

/// Bytes of the header of a DNS message.
const HEADER_BYTES: usize = 12;
/// Bytes of type, class, time to live and length of one record.
const RECORD_BYTES: usize = 10;
/// Bytes of the longest name that we announce: a label of 63 characters before `_p2p._udp.local`.
const INSTANCE_NAME_BYTES_MAX: usize = 64 + SERVICE.len() + 1;
// Even the longest text fits into a packet of its own.
const _: () = assert!(
    HEADER_BYTES + SERVICE.len() + 1 + 2 * (INSTANCE_NAME_BYTES_MAX + RECORD_BYTES) + 1 + TEXT_LIMIT_BYTES
        <= RESPONSE_LIMIT_BYTES
);

/// Bytes of a name without compression: the root label comes in addition to what `len` counts, at the most.
fn name_bytes(name: &Name) -> usize {
    name.len() + 1
}

fn to_authoritative_response() -> Message {
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.metadata.authoritative = true;
    message
}

fn to_text(address: &Multiaddr, peer: PeerId) -> Option<String> {
    let address = address.clone().with_p2p(peer).ok()?;
    let text = format!("{TEXT_PREFIX}{address}");
    (text.len() <= TEXT_LIMIT_BYTES).then_some(text)
}

/// The sum of the four counts in the header; 0 if there is no header.
fn claimed_records(bytes: &[u8]) -> usize {
    let counts = bytes.get(4..HEADER_BYTES).unwrap_or_default();
    counts.chunks_exact(2).map(|count| usize::from(u16::from_be_bytes([count[0], count[1]]))).sum()
}

fn to_query(message: &Message) -> Packet {
    let asks_for = |name: &str| {
        message.queries.iter().any(|query| {
            matches!(query.query_type(), RecordType::PTR | RecordType::ANY) && is_named(query.name(), name)
        })
    };
    let (wants_peers, wants_services) = (asks_for(SERVICE), asks_for(SERVICE_LIST));
    if wants_peers || wants_services {
        Packet::Query { id: message.metadata.id, wants_peers, wants_services }
    } else {
        Packet::Other
    }
}

/// Reads the addresses of the peers that the answers point to.
///
/// The addresses are additional records by the specification, but responders that announce unasked put them among
/// the answers (RFC 6762, section 8.3), so both are read.
fn to_response(message: &Message) -> Packet {
    let mut instances = BTreeMap::new();
    for record in message.answers.iter().filter(|record| is_named(&record.name, SERVICE)) {
        if let RData::PTR(instance) = &record.data
            && instances.len() < INSTANCES_PER_PACKET_MAX
        {
            instances.insert(&instance.0, record.ttl);
        }
    }
    if instances.is_empty() {
        return Packet::Other;
    }
    let mut sightings = Vec::new();
    for record in message.additionals.iter().chain(&message.answers) {
        let RData::TXT(texts) = &record.data else { continue };
        let Some(instance_ttl_secs) = instances.get(&record.name) else { continue };
        let ttl_secs = record.ttl.min(*instance_ttl_secs);
        let addresses = texts.txt_data.iter().filter_map(|text| from_text(text));
        let room = SIGHTINGS_PER_PACKET_MAX - sightings.len();
        sightings.extend(addresses.take(room).map(|(peer, address)| Sighting { peer, address, ttl_secs }));
    }
    if sightings.is_empty() { Packet::Other } else { Packet::Response(sightings) }
}

fn from_text(text: &[u8]) -> Option<(PeerId, Multiaddr)> {
    let address = std::str::from_utf8(text).ok()?.strip_prefix(TEXT_PREFIX)?;
    let address: Multiaddr = address.parse().ok()?;
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some((peer, address)),
        _ => None,
    }
}

fn is_named(name: &Name, expected: &str) -> bool {
    let mut labels = name.iter();
    expected
        .trim_end_matches('.')
        .split('.')
        .all(|label| labels.next().is_some_and(|found| found.eq_ignore_ascii_case(label.as_bytes())))
        && labels.next().is_none()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests;
