//! A peer that speaks the protocol's name and then whatever bytes it likes.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::task::{Context, Poll};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::request_response::{self, Codec, Event, Message, ProtocolSupport};
use libp2p::swarm::SwarmEvent;
use libp2p::{PeerId, StreamProtocol, Swarm};

use crate::{LONG, Net, PROTOCOL, swarm};

/// What goes onto a stream.
#[derive(Debug, Clone)]
pub(crate) enum Bytes {
    /// These, then the end.
    Closed(Vec<u8>),
    /// These, and then silence.
    Open(Vec<u8>),
}

/// Writes the bytes it is given, and reads all there are.
#[derive(Clone)]
pub(crate) struct RawCodec;

impl Codec for RawCodec {
    type Protocol = StreamProtocol;
    type Request = Bytes;
    type Response = Bytes;

    async fn read_request<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Bytes> {
        read_all(io).await
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Bytes> {
        read_all(io).await
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Bytes,
    ) -> io::Result<()> {
        write_all(io, bytes).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Bytes,
    ) -> io::Result<()> {
        write_all(io, bytes).await
    }
}

async fn read_all<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    io.read_to_end(&mut bytes).await?;
    Ok(Bytes::Closed(bytes))
}

async fn write_all<T: AsyncWrite + Unpin>(io: &mut T, bytes: Bytes) -> io::Result<()> {
    match bytes {
        Bytes::Closed(bytes) => io.write_all(&bytes).await,
        Bytes::Open(bytes) => {
            io.write_all(&bytes).await?;
            io.flush().await?;
            pending().await
        }
    }
}

/// The raw peer in a net.
pub(crate) struct Peer {
    pub(crate) swarm: Swarm<request_response::Behaviour<RawCodec>>,
    /// What it answers, in order.
    pub(crate) answers: VecDeque<Vec<u8>>,
    /// What it got back for each request: bytes, or nothing for a stream that failed.
    pub(crate) received: Vec<Vec<u8>>,
    pub(crate) disconnections: usize,
}

impl Peer {
    pub(crate) fn send(&mut self, to: &PeerId, bytes: Bytes) {
        self.swarm.behaviour_mut().send_request(to, bytes);
    }

    pub(crate) fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Poll::Ready(Some(event)) = self.swarm.poll_next_unpin(cx) else { return Poll::Pending };
        match event {
            SwarmEvent::Behaviour(Event::Message { message: Message::Request { channel, .. }, .. }) => {
                let answer = self.answers.pop_front().unwrap();
                self.swarm.behaviour_mut().send_response(channel, Bytes::Closed(answer)).unwrap();
            }
            SwarmEvent::Behaviour(Event::Message { message: Message::Response { response, .. }, .. }) => {
                let (Bytes::Closed(bytes) | Bytes::Open(bytes)) = response;
                self.received.push(bytes);
            }
            SwarmEvent::Behaviour(Event::OutboundFailure { .. }) => self.received.push(Vec::new()),
            SwarmEvent::ConnectionClosed { .. } => self.disconnections += 1,
            _ => {}
        }
        Poll::Ready(())
    }
}

/// Adds a raw peer that is connected to the swarm `hub`, which listens.
pub(crate) fn add(net: &mut Net, hub: usize) -> PeerId {
    let config = request_response::Config::default().with_request_timeout(LONG).with_max_concurrent_streams(1000);
    let protocols = [(PROTOCOL, ProtocolSupport::Full)];
    let mut raw_swarm = swarm(request_response::Behaviour::with_codec(RawCodec, protocols, config));
    let address = net.swarms[hub].listeners().next().unwrap().clone();
    raw_swarm.dial(address).unwrap();
    let id = *raw_swarm.local_peer_id();
    net.raw = Some(Peer { swarm: raw_swarm, answers: VecDeque::new(), received: Vec::new(), disconnections: 0 });
    net.until(|net| {
        let hub_id = net.id(hub);
        net.rpc(hub).is_connected(&id) && net.raw.as_ref().unwrap().swarm.is_connected(&hub_id)
    });
    id
}
