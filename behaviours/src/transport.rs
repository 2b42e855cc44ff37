//! The transport of a peer: TCP, optionally under a pre-shared key, then noise, then yamux.
//!
//! Under a pre-shared key (libp2p's private networks, kubo's `swarm.key`) a peer without it cannot complete a
//! connection: its bytes decrypt to noise, and nothing that it sends reaches a protocol.

use std::{io, time::Duration};

use futures::{TryFutureExt, future::Either};
use libp2p::{
    PeerId, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::Boxed,
        upgrade::Version,
    },
    identity::Keypair,
    noise,
    pnet::{PnetConfig, PreSharedKey},
    yamux,
};

use crate::tcp::{TcpConfig, TcpTransport};

/// How long the upgrades of one connection may take together. A peer that connects and says nothing is dropped then.
pub const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

/// Streams one peer may have open on one connection. yamux closes the connection at its limit, so protocols bound
/// themselves well below it.
pub const STREAM_COUNT_MAX: usize = 512;

/// The transport of the peer that `keypair` identifies.
///
/// Fails only when the noise keys cannot be derived from `keypair`.
pub fn build(
    keypair: &Keypair,
    swarm_key: Option<PreSharedKey>,
    config: TcpConfig,
) -> io::Result<Boxed<(PeerId, StreamMuxerBox)>> {
    let noise = noise::Config::new(keypair).map_err(io::Error::other)?;
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(STREAM_COUNT_MAX);
    let transport = TcpTransport::new(config)
        .and_then(move |socket, _| match swarm_key {
            Some(key) => Either::Left(PnetConfig::new(key).handshake(socket).map_ok(Either::Left).map_err(io::Error::other)),
            None => Either::Right(futures::future::ok(Either::Right(socket))),
        })
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux)
        .timeout(UPGRADE_TIMEOUT);
    Ok(transport.boxed())
}
