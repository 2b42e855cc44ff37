//! A raw libp2p peer against a running node: bytes that are no requests cost it its stream, and others nothing.

use std::{io, time::Duration};

use async_std::{future::timeout, task::block_on};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, StreamExt as _};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm,
    identity::Keypair,
    request_response::{self, Codec, Event, Message, ProtocolSupport},
    swarm::{self, SwarmEvent},
};
use quorate::{
    client::{Client, ClientConfig, Write},
    ident::{Key, Name, Value},
    wire::{self, client::Consistency},
};
use quorate_behaviours::{tcp::TcpConfig, transport};

use crate::harness::{PATIENCE, cluster, status};

/// What goes onto a stream.
#[derive(Debug, Clone)]
enum Bytes {
    /// These, then the end.
    Closed(Vec<u8>),
    /// These, and then silence. How long a node waits is tested with its protocol.
    Open(Vec<u8>),
}

/// Writes the bytes it is given, and reads all there are.
#[derive(Debug, Clone, Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Protocol = StreamProtocol;
    type Request = Bytes;
    type Response = Vec<u8>;

    async fn read_request<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, _: &mut T) -> io::Result<Bytes> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        stream: &mut T,
    ) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        Ok(bytes)
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        stream: &mut T,
        bytes: Bytes,
    ) -> io::Result<()> {
        match bytes {
            Bytes::Closed(bytes) => {
                stream.write_all(&bytes).await?;
                stream.close().await
            }
            Bytes::Open(bytes) => {
                stream.write_all(&bytes).await?;
                stream.flush().await?;
                futures::future::pending().await
            }
        }
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        _: &mut T,
        _: Vec<u8>,
    ) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

type RawSwarm = Swarm<request_response::Behaviour<RawCodec>>;

/// A swarm that speaks only this protocol, connected to `address`.
async fn raw_peer(protocol: String, address: &Multiaddr) -> (RawSwarm, PeerId) {
    let keypair = Keypair::generate_ed25519();
    let transport = transport::build(&keypair, None, TcpConfig::default()).unwrap();
    let protocol = StreamProtocol::try_from_owned(protocol).unwrap();
    // Longer than the node's own patience: it is the node that must end a stream on which nothing comes.
    let config = request_response::Config::default().with_request_timeout(PATIENCE);
    let behaviour = request_response::Behaviour::with_codec(RawCodec, [(protocol, ProtocolSupport::Outbound)], config);
    let executor = |task| {
        async_std::task::spawn(task);
    };
    let config = swarm::Config::with_executor(executor).with_idle_connection_timeout(Duration::from_secs(60));
    let mut swarm = Swarm::new(transport, behaviour, keypair.public().to_peer_id(), config);
    swarm.dial(address.clone()).unwrap();
    let connected = async {
        loop {
            if let SwarmEvent::ConnectionEstablished { peer_id, .. } = swarm.select_next_some().await {
                return peer_id;
            }
        }
    };
    let peer = timeout(PATIENCE, connected).await.expect("the node accepts the connection");
    (swarm, peer)
}

/// Sends `bytes` on a stream of its own, and waits for the end of that stream. The connection must live on.
async fn play(swarm: &mut RawSwarm, peer: PeerId, name: &str, bytes: Bytes) {
    swarm.behaviour_mut().send_request(&peer, bytes);
    let ended = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::Behaviour(Event::Message { message: Message::Response { response, .. }, .. }) => {
                    return response;
                }
                SwarmEvent::Behaviour(Event::OutboundFailure { error, .. }) => {
                    assert!(matches!(error, request_response::OutboundFailure::Io(_)), "{name}: {error}");
                    return Vec::new();
                }
                SwarmEvent::ConnectionClosed { .. } => panic!("{name}: the whole connection was closed"),
                _ => {}
            }
        }
    };
    let answer = timeout(PATIENCE, ended).await.unwrap_or_else(|_| panic!("{name}: the stream ends in time"));
    assert_eq!(answer, b"", "{name}: nothing is answered");
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

fn hostile() -> Vec<(&'static str, Bytes)> {
    let vast_array = [&[0x9b, 0, 0, 0, 1, 0, 0, 0, 0][..], b"few"].concat();
    let entry = |payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        frame(&[b"\x82\x19\x03\xe8\x81\x5a", &length[..], payload].concat())
    };
    vec![
        ("an oversized frame", Bytes::Closed(vec![0xff, 0xff, 0xff, 0xff, 1, 2, 3])),
        ("truncated CBOR", Bytes::Closed(entry(b"\xa1\x63Get\xa2"))),
        ("half a frame", Bytes::Closed(vec![0, 0, 1, 0, 0x82])),
        ("a batch of 2^32", Bytes::Closed(frame(&[b"\x82\x01", &vast_array[..]].concat()))),
        ("a request of 2^32 items", Bytes::Closed(entry(&vast_array))),
        ("nesting 100 000 deep", Bytes::Closed(frame(&vec![0x81; 100_000]))),
        ("a request nested 100 000 deep", Bytes::Closed(entry(&vec![0x81; 100_000]))),
        ("no request of ours", Bytes::Closed(entry(b"\x66Become"))),
        ("nothing at all", Bytes::Closed(Vec::new())),
    ]
}

#[test]
fn hostile_bytes_cost_their_stream_and_nobody_else_anything() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let nodes = cluster(dir.path(), 3).await;
        let name = Name::new("test").unwrap();
        let config = ClientConfig { nodes: nodes[0].addresses.clone(), mdns: false, ..ClientConfig::lan(name.clone()) };
        let client = Client::connect(config).await.unwrap();
        let key = Key::new(b"k").unwrap();
        for protocol in [wire::client_protocol(&name), wire::quorum_protocol(&name)] {
            let (mut swarm, peer) = raw_peer(protocol, &nodes[0].addresses[0]).await;
            for unfinished in [vec![], vec![0, 1], vec![0xff; 7], vec![0, 1, 0, 0, 0x82]] {
                swarm.behaviour_mut().send_request(&peer, Bytes::Open(unfinished));
            }
            for (case, bytes) in hostile() {
                play(&mut swarm, peer, case, bytes).await;
                let seen = client.get(&key, Consistency::Quorum).await.unwrap().context;
                let write = Write { context: Some(seen), ..Write::default() };
                client.put(&key, Value::new(case.as_bytes()).unwrap(), write).await.unwrap();
                let found = client.get(&key, Consistency::All).await.unwrap();
                assert_eq!(found.siblings[0].value.as_bytes(), case.as_bytes());
            }
        }
        assert_eq!(status(&nodes[0].running.handle()).await.members.len(), 3);
    });
}

#[test]
fn a_peer_that_keeps_sending_malformed_frames_is_shut_out_and_nobody_else() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let nodes = cluster(dir.path(), 1).await;
        let protocol = wire::client_protocol(&Name::new("test").unwrap());
        let malformed = || Bytes::Closed(frame(b"\xff"));
        let (mut swarm, peer) = raw_peer(protocol.clone(), &nodes[0].addresses[0]).await;
        for _ in 0..64 {
            play(&mut swarm, peer, "as many as are put up with", malformed()).await;
        }
        swarm.behaviour_mut().send_request(&peer, malformed());
        wait_until_closed(&mut swarm).await;
        swarm.dial(nodes[0].addresses[0].clone()).unwrap();
        wait_until_closed(&mut swarm).await;

        let (mut other, peer) = raw_peer(protocol, &nodes[0].addresses[0]).await;
        play(&mut other, peer, "from another", malformed()).await;
        assert_eq!(status(&nodes[0].running.handle()).await.members.len(), 1);
    });
}

/// Waits until a connection is closed, or refused.
async fn wait_until_closed(swarm: &mut RawSwarm) {
    let closed = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionClosed { .. } | SwarmEvent::OutgoingConnectionError { .. } => return,
                _ => {}
            }
        }
    };
    timeout(PATIENCE, closed).await.expect("the node closes the connection in time");
}

#[test]
fn a_stranger_cannot_read_or_write_as_a_member() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let nodes = cluster(dir.path(), 1).await;
        let name = Name::new("test").unwrap();
        let (mut swarm, peer) = raw_peer(wire::quorum_protocol(&name), &nodes[0].addresses[0]).await;
        let read = wire::quorum::Request::Read {
            key: Key::new(b"k").unwrap(),
            partition: quorate::digest::Digest([0; 32]),
            whole_bytes_max: 0,
        };
        let payload = cbor4ii::serde::to_vec(Vec::new(), &read).unwrap();
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let body = [b"\x82\x19\x03\xe8\x81\x5a", &length[..], &payload].concat();
        swarm.behaviour_mut().send_request(&peer, Bytes::Closed(frame(&body)));
        let answered = async {
            loop {
                if let SwarmEvent::Behaviour(Event::Message { message: Message::Response { response, .. }, .. }) =
                    swarm.select_next_some().await
                {
                    return response;
                }
            }
        };
        let answer = timeout(PATIENCE, answered).await.expect("an answer comes in time");
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("Refused") && text.contains("NotAMember"), "{text:?}");
    });
}

#[test]
fn a_peer_of_another_cluster_finds_no_common_protocol() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let nodes = cluster(dir.path(), 1).await;
        let other = Name::new("other").unwrap();
        let (mut swarm, peer) = raw_peer(wire::client_protocol(&other), &nodes[0].addresses[0]).await;
        swarm.behaviour_mut().send_request(&peer, Bytes::Closed(frame(b"\x82\x01\x80")));
        let failed = async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::Behaviour(Event::OutboundFailure { error, .. }) => return error,
                    SwarmEvent::Behaviour(other) => panic!("{other:?}"),
                    _ => {}
                }
            }
        };
        let error = timeout(PATIENCE, failed).await.expect("the refusal comes in time");
        assert!(matches!(error, request_response::OutboundFailure::UnsupportedProtocols), "{error}");
    });
}
