//! The packets of mDNS: what is written is read back, and what nobody would write harms nobody.

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::*;

fn addresses(count: u16) -> Vec<Multiaddr> {
    (0..count).map(|port| format!("/ip4/10.0.0.1/tcp/{}", 1000 + port).parse().unwrap()).collect()
}

fn sightings(packets: &[Vec<u8>]) -> Vec<Sighting> {
    packets
        .iter()
        .flat_map(|packet| match decode(packet).unwrap() {
            Packet::Response(sightings) => sightings,
            other => panic!("{other:?} is no response"),
        })
        .collect()
}

/// The packet of the documentation of RFC 1035, by hand: one question for `_P2P._udp.local`.
fn handmade_query(message_type: u8) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, message_type, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    packet.extend_from_slice(b"\x04_P2P\x04_udp\x05local\x00\x00\x0c\x00\x01");
    packet
}

#[test]
fn a_query_is_read_as_it_was_written() {
    let packet = Encoder::new().unwrap().query(77).unwrap();
    assert_eq!(decode(&packet).unwrap(), Packet::Query { id: 77, wants_peers: true, wants_services: false });
}

#[test]
fn names_are_compared_without_regard_to_case() {
    let expected = Packet::Query { id: 0x1234, wants_peers: true, wants_services: false };
    assert_eq!(decode(&handmade_query(0)).unwrap(), expected);
}

#[test]
fn a_response_that_only_repeats_the_question_is_no_query() {
    assert_eq!(decode(&handmade_query(0x80)).unwrap(), Packet::Other);
}

#[test]
fn the_question_for_all_services_is_understood_and_answered() {
    let encoder = Encoder::new().unwrap();
    let mut message = Message::new(5, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_str(SERVICE_LIST).unwrap(), RecordType::PTR));
    let expected = Packet::Query { id: 5, wants_peers: false, wants_services: true };
    assert_eq!(decode(&message.to_vec().unwrap()).unwrap(), expected);
    let answer = Message::from_vec(&encoder.service_list(60).unwrap()).unwrap();
    assert_eq!(answer.answers[0].data, RData::PTR(PTR(Name::from_str(SERVICE).unwrap())));
}

#[test]
fn a_response_is_read_as_it_was_written() {
    let peer = PeerId::random();
    let packets = Encoder::new().unwrap().response(peer, &addresses(2), 360).unwrap();
    let expected: Vec<Sighting> = addresses(2)
        .into_iter()
        .map(|address| Sighting { peer, address: address.with_p2p(peer).unwrap(), ttl_secs: 360 })
        .collect();
    assert_eq!(packets.len(), 1);
    assert_eq!(sightings(&packets), expected);
}

#[test]
fn the_announced_name_is_random_and_of_32_to_63_characters() {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let encoder = Encoder::new().unwrap();
        let label = encoder.instance.iter().next().unwrap().to_vec();
        assert!((32..=63).contains(&label.len()));
        assert!(seen.insert(label));
    }
}

#[test]
fn many_addresses_are_split_into_packets_of_bounded_size() {
    let peer = PeerId::random();
    let packets = Encoder::new().unwrap().response(peer, &addresses(200), 1).unwrap();
    assert!(packets.iter().all(|packet| packet.len() <= RESPONSE_LIMIT_BYTES));
    assert!((2..=16).contains(&packets.len()), "{} packets", packets.len());
    assert_eq!(sightings(&packets).len(), ANNOUNCED_ADDRESSES_MAX);
}

#[test]
fn the_size_that_is_counted_is_never_too_small() {
    let peer = PeerId::random();
    let encoder = Encoder::new().unwrap();
    for count in 1..=5 {
        let packets = encoder.response(peer, &addresses(count), 1).unwrap();
        let counted: usize =
            addresses(count).iter().map(|a| encoder.text_record_bytes(&to_text(a, peer).unwrap())).sum();
        assert!(packets[0].len() <= encoder.empty_response_bytes() + counted);
    }
}

#[test]
fn an_address_too_long_for_a_text_is_left_out() {
    let peer = PeerId::random();
    let long: Multiaddr = format!("/dns4/{}/tcp/1", "a".repeat(200)).parse().unwrap();
    let short = addresses(1).remove(0);
    let packets = Encoder::new().unwrap().response(peer, &[long.clone(), short], 1).unwrap();
    assert_eq!(sightings(&packets).len(), 1);
    assert!(Encoder::new().unwrap().response(peer, &[long], 1).unwrap().is_empty());
}

#[test]
fn an_address_of_another_peer_is_not_announced_as_ours() {
    let other = addresses(1).remove(0).with_p2p(PeerId::random()).unwrap();
    assert!(Encoder::new().unwrap().response(PeerId::random(), &[other], 1).unwrap().is_empty());
}

#[test]
fn texts_of_names_that_no_answer_points_to_are_ignored() {
    let encoder = Encoder::new().unwrap();
    let packet = encoder.response(PeerId::random(), &addresses(1), 1).unwrap().remove(0);
    let mut message = Message::from_vec(&packet).unwrap();
    message.additionals[0].name = Name::from_str("somebody.else.local.").unwrap();
    assert_eq!(decode(&message.to_vec().unwrap()).unwrap(), Packet::Other);
}

#[test]
fn addresses_among_the_answers_are_read_too() {
    let encoder = Encoder::new().unwrap();
    let packet = encoder.response(PeerId::random(), &addresses(1), 1).unwrap().remove(0);
    let mut message = Message::from_vec(&packet).unwrap();
    message.answers.append(&mut message.additionals);
    assert_eq!(sightings(&[message.to_vec().unwrap()]).len(), 1);
}

#[test]
fn one_packet_yields_a_bounded_number_of_sightings() {
    let (encoder, peer) = (Encoder::new().unwrap(), PeerId::random());
    let mut message = encoder.empty_response(1);
    for address in addresses(1000) {
        let data = RData::TXT(TXT::new(vec![to_text(&address, peer).unwrap(); 2]));
        message.add_additional(Record::from_rdata(encoder.instance.clone(), 1, data));
    }
    // The encoder may give up on so long a message; what counts is that one of this many records is cut off.
    let Packet::Response(found) = to_response(&message) else { panic!("no response") };
    assert_eq!(found.len(), SIGHTINGS_PER_PACKET_MAX);
}

/// Random bytes, and honest packets with random damage, must never panic the decoder.
#[test]
fn no_bytes_whatever_make_the_decoder_panic() {
    let mut rng = StdRng::seed_from_u64(6762);
    let encoder = Encoder::new().unwrap();
    let mut honest = encoder.response(PeerId::random(), &addresses(12), 60).unwrap();
    honest.push(encoder.query(1).unwrap());
    honest.push(encoder.service_list(1).unwrap());
    let (mut refused, mut read) = (0, 0);
    for round in 0..30_000 {
        let mut packet: Vec<u8> = if round % 3 == 0 {
            let length = rng.random_range(0..600);
            (0..length).map(|_| rng.random()).collect()
        } else {
            honest.choose(&mut rng).unwrap().clone()
        };
        for _ in 0..rng.random_range(0..8) {
            mutate(&mut packet, &mut rng);
        }
        match decode(&packet) {
            Ok(_) => read += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 1000 && read > 1000, "{refused} refused, {read} read: the damage is one-sided");
}

fn mutate(packet: &mut Vec<u8>, rng: &mut StdRng) {
    if packet.is_empty() {
        return;
    }
    let at = rng.random_range(0..packet.len());
    match rng.random_range(0..5) {
        0 => packet[at] = rng.random(),
        1 => packet[at] ^= 1 << rng.random_range(0..8),
        2 => packet.truncate(at),
        3 => packet.insert(at, 0xc0),
        _ => {
            let tail = packet[at..].to_vec();
            packet.extend_from_slice(&tail);
        }
    }
}

/// A packet of `count` records, each of which takes 13 bytes and names 120 labels.
fn dear_packet(count: u16) -> Vec<u8> {
    let mut packet = vec![0, 0, 0x84, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    packet[10..12].copy_from_slice(&count.to_be_bytes());
    packet.extend_from_slice(&b"\x01a".repeat(120));
    packet.extend_from_slice(b"\0\0\x10\0\x01\0\0\0\x01\0\x01\0");
    for _ in 1..count {
        packet.extend_from_slice(b"\xc0\x0c\0\x10\0\x01\0\0\0\x01\0\x01\0");
    }
    packet
}

#[test]
fn a_packet_that_would_be_dear_to_decode_is_refused_unread() {
    assert_eq!(decode(&dear_packet(160)).unwrap(), Packet::Other);
    assert!(matches!(decode(&dear_packet(161)), Err(MalformedPacket::TooManyRecords { claimed: 161 })));
    let whole_header = [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    assert!(matches!(decode(&whole_header), Err(MalformedPacket::TooManyRecords { claimed: 262_140 })));
}

#[test]
fn a_packet_longer_than_mdns_allows_is_refused() {
    let mut packet = Encoder::new().unwrap().query(1).unwrap();
    packet.resize(PACKET_LIMIT_BYTES, 0);
    assert!(decode(&packet).is_ok());
    packet.push(0);
    assert!(matches!(decode(&packet), Err(MalformedPacket::TooLong)));
}

#[test]
fn what_is_shorter_than_a_header_is_refused() {
    for length in 0..HEADER_BYTES {
        assert!(matches!(decode(&vec![0; length]), Err(MalformedPacket::NotDns(_))), "{length} bytes");
    }
}
