//! What the behaviour shares with the handlers of all connections: the room for sessions of peers, and some counts.
//!
//! **Invariant**: there are never more permits than `inbound_sessions_max`, nor more of one peer than
//! `inbound_sessions_per_peer_max`; a stream holds its permit for as long as it can hold a message.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libp2p::PeerId;

use crate::merkle_exchange::InboundSessionId;
use crate::merkle_exchange::config::Config;

/// Parameters, room and counts.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) bytes: Bytes,
    /// Permits given out, for each peer that holds any.
    permits: Mutex<HashMap<PeerId, usize>>,
}

/// Bytes of whole frames on all streams.
#[derive(Debug, Default)]
pub(crate) struct Bytes {
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Self {
        let (accepted, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { config, accepted, refused, bytes: Bytes::default(), permits: Mutex::new(HashMap::new()) }
    }

    /// Names a new session of `peer` and gives it its permit, if there is room.
    pub(crate) fn admit(self: &Arc<Self>, peer: PeerId) -> Option<(InboundSessionId, Permit)> {
        let mut permits = self.permits();
        let total: usize = permits.values().sum();
        let held = permits.get(&peer).copied().unwrap_or(0);
        if total >= self.config.inbound_sessions_max || held >= self.config.inbound_sessions_per_peer_max {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        permits.insert(peer, held + 1);
        let id = InboundSessionId(self.accepted.fetch_add(1, Ordering::Relaxed) + 1);
        Some((id, Permit { shared: self.clone(), peer }))
    }

    fn permits(&self) -> MutexGuard<'_, HashMap<PeerId, usize>> {
        // No code can panic while it holds the lock.
        self.permits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The room one session of a peer takes; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    shared: Arc<Shared>,
    peer: PeerId,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut permits = self.shared.permits();
        match permits.get_mut(&self.peer) {
            Some(held) if *held > 1 => *held -= 1,
            _ => drop(permits.remove(&self.peer)),
        }
    }
}
