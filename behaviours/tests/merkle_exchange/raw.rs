//! A peer without a swarm, that opens and accepts streams by hand and says on them what it likes.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex},
};

use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{
    PeerId, Transport,
    core::{
        Endpoint,
        muxing::{StreamMuxerBox, StreamMuxerExt, SubstreamBox},
        transport::{DialOpts, PortUse},
    },
    identity::Keypair,
};
use quorate_behaviours::{tcp::TcpConfig, transport};

use crate::{Net, PROTOCOL_NAME};

/// One connection, shared between the scripts that open its streams and the net that drives it.
pub(crate) type Muxer = Arc<Mutex<StreamMuxerBox>>;

/// The raw peer and its one connection.
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    muxer: Muxer,
}

impl Peer {
    /// Connects to the swarm `hub` of `net`.
    pub(crate) fn connect(net: &mut Net, hub: usize) -> Self {
        let key = Keypair::generate_ed25519();
        let mut transport = transport::build(&key, None, TcpConfig::default()).unwrap();
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
        let (_, muxer) = net.run(transport.dial(net.address(hub), options).unwrap()).unwrap();
        let peer = Self { id: key.public().to_peer_id(), muxer: Arc::new(Mutex::new(muxer)) };
        net.raw = Some(peer.muxer.clone());
        net.until(|net| net.exchange(hub).is_connected(&peer.id));
        peer
    }

    /// Closes the connection once everything said is sent.
    pub(crate) async fn close(&self) {
        poll_fn(|cx| self.muxer.lock().unwrap().poll_close_unpin(cx)).await.unwrap();
    }

    /// Opens a stream and agrees on the protocol.
    pub(crate) async fn open(&self) -> SubstreamBox {
        let mut stream = poll_fn(|cx| self.muxer.lock().unwrap().poll_outbound_unpin(cx)).await.unwrap();
        for line in NEGOTIATION {
            stream.write_all(&lined(line)).await.unwrap();
            stream.flush().await.unwrap();
            hear_line(&mut stream, line).await;
        }
        stream
    }

    /// Opens a stream and says `bytes` on it.
    pub(crate) async fn say(&self, bytes: &[u8]) -> SubstreamBox {
        let mut stream = self.open().await;
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        stream
    }

    /// Accepts a stream and agrees on the protocol.
    pub(crate) async fn accept(&self) -> SubstreamBox {
        let mut stream = poll_fn(|cx| self.muxer.lock().unwrap().poll_inbound_unpin(cx)).await.unwrap();
        for line in NEGOTIATION {
            hear_line(&mut stream, line).await;
            stream.write_all(&lined(line)).await.unwrap();
            stream.flush().await.unwrap();
        }
        stream
    }
}

/// What both sides say to agree on the protocol.
const NEGOTIATION: [&str; 2] = ["/multistream/1.0.0", PROTOCOL_NAME];

/// A line of the negotiation as it travels: its length, and a line feed at its end.
fn lined(line: &str) -> Vec<u8> {
    let length = u8::try_from(line.len() + 1).unwrap();
    [&[length], line.as_bytes(), b"\n"].concat()
}

async fn hear_line(stream: &mut SubstreamBox, line: &str) {
    let mut heard = vec![0; lined(line).len()];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, lined(line));
}

/// A frame with an honest header, the last of its message.
pub(crate) fn last_frame(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

/// A frame with an honest header that says that more follow.
pub(crate) fn frame(body: &[u8]) -> Vec<u8> {
    let mut frame = last_frame(body);
    frame[0] |= 0x80;
    frame
}

/// Reads until the stream ends, in whatever way.
pub(crate) async fn hear_all(stream: &mut SubstreamBox) -> Vec<u8> {
    let mut heard = Vec::new();
    // A stream that is reset has ended too; what came before is there.
    drop(stream.read_to_end(&mut heard).await);
    heard
}

/// Reads this many bytes.
pub(crate) async fn hear(stream: &mut SubstreamBox, count: usize) -> Vec<u8> {
    let mut heard = vec![0; count];
    stream.read_exact(&mut heard).await.unwrap();
    heard
}
