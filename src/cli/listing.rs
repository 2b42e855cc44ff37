//! A running node in the list of those that run here, so that commands find it without being told.
//!
//! It stays listed until this value is dropped; if the process is killed, readers of the list see that it is gone. A
//! node that cannot be listed serves all the same.

use std::path::Path;

use libp2p::{Multiaddr, PeerId};

use crate::{
    cli::settings::Settings,
    runtime::registry::{Entry, Registry},
};

/// One node in the list.
pub(crate) struct Listing {
    registry: Registry,
    entry: Entry,
}

impl Listing {
    /// Nothing is listed before the addresses are known.
    pub(crate) fn new(settings: &Settings, peer_id: PeerId) -> Listing {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let data_dir = absolute(&settings.data_dir);
        let swarm_key = settings.swarm_key.as_deref().map(absolute);
        let (cluster, pid) = (settings.cluster.clone(), std::process::id());
        Listing {
            registry: Registry::of_user(),
            entry: Entry { peer_id, cluster, pid, data_dir, swarm_key, addresses: Vec::new() },
        }
    }

    /// Lists it, with these addresses. Returns what to tell people if that cannot be done.
    pub(crate) fn list(&mut self, addresses: &[Multiaddr]) -> Result<(), String> {
        self.entry.addresses = addresses.to_vec();
        let hint = "commands on this machine must name this node with --node or --data-dir";
        self.registry.register(&self.entry).map_err(|error| format!("this node cannot be listed here: {error}; {hint}"))
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.registry.unregister(&self.entry);
    }
}
