//! As whom orders are given: as the holder of the asked node's `admin.key`, where it can be read.
//!
//! That is the key in the data directory of the node, when it runs here, else the one in our own data directory, whose
//! peer id its operator may have listed in `admins`. Without either the order goes out as anybody's, and the node says
//! what it takes.

use libp2p::{Multiaddr, PeerId, identity::Keypair, multiaddr::Protocol};

use crate::{
    cli::{
        connect::{Session, Target},
        error::CliError,
    },
    ident::NodeId,
    runtime::{ADMIN_KEY_FILE, identity},
    wire::administration::Order,
};

impl Session {
    /// Has the asked node do what only an administrator may ask for.
    ///
    /// Over a connection of its own: a node takes few of one peer, and an administrator's shells and scripts would use
    /// them up if they held them all the time.
    pub(crate) async fn administer(&self, order: Order) -> Result<(), CliError> {
        let node = self.client.home();
        let Some(keypair) = self.target.admin_key(&node) else {
            return self.client.administer(order).await.map_err(|error| self.explain(error));
        };
        let member = self.client.view().members.get(&node).map(|member| member.profile.addresses.clone());
        let session = self.target.at(&node, &member.unwrap_or_default()).connect_as(Some(keypair)).await?;
        if session.client.home() != node {
            let detail = "another node answered this time; name the one you mean with --node".to_owned();
            return Err(CliError::NoNode { detail });
        }
        session.client.administer(order).await.map_err(|error| session.explain(error))
    }
}

impl Target {
    fn admin_key(&self, node: &NodeId) -> Option<Keypair> {
        let here = self.registry.find(None).into_iter().find(|entry| identity::node_id(&entry.peer_id) == Some(*node));
        let dirs = here.map(|entry| entry.data_dir).into_iter().chain([self.data_dir.clone()]);
        // A key that cannot be read is another user's.
        dirs.filter_map(|dir| identity::load(&dir.join(ADMIN_KEY_FILE)).ok().flatten()).next()
    }

    /// The same, without the addresses that are known to be other nodes'. Where the network was asked, it is `told` that
    /// count: those which the node tells of itself, because the network may answer otherwise this time.
    fn at(&self, node: &NodeId, told: &[String]) -> Target {
        let is_of_other = |peer: PeerId| identity::node_id(&peer) != Some(*node);
        let mut nodes = self.nodes.clone();
        nodes.retain(|address| !peer_of(address).is_some_and(is_of_other));
        if nodes.is_empty() {
            nodes = told.iter().filter_map(|text| text.parse().ok()).collect();
        }
        Target { mdns: self.mdns && nodes.is_empty(), nodes, ..self.clone() }
    }
}

fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        cli::samples,
        ident::Name,
        runtime::registry::{Entry, Registry},
    };

    fn target(dir: &Path) -> Target {
        Target {
            nodes: Vec::new(),
            mdns: false,
            cluster: Name::new("quorate").unwrap(),
            swarm_key: None,
            tried: String::new(),
            registry: Registry::at(dir.join("run")),
            data_dir: dir.join("mine"),
        }
    }

    fn make_key(dir: &Path) -> PeerId {
        std::fs::create_dir_all(dir).unwrap();
        identity::load_or_create(&dir.join(ADMIN_KEY_FILE)).unwrap().public().to_peer_id()
    }

    #[test]
    fn the_key_of_the_node_that_runs_here_comes_first_then_our_own_then_none() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(dir.path());
        let key = |number| target.admin_key(&samples::node(number)).map(|key| key.public().to_peer_id());
        assert_eq!(key(0), None);
        let mine = make_key(&dir.path().join("mine"));
        assert_eq!(key(0), Some(mine));

        let data_dir = dir.path().join("node");
        let its = make_key(&data_dir);
        let entry = Entry {
            peer_id: identity::peer_id(&samples::node(0)).unwrap(),
            cluster: Name::new("other").unwrap(),
            pid: std::process::id(),
            data_dir,
            swarm_key: None,
            addresses: Vec::new(),
        };
        target.registry.register(&entry).unwrap();
        assert_eq!((key(0), key(1)), (Some(its), Some(mine)));
    }

    #[test]
    fn a_key_that_is_none_is_as_if_it_were_not_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("mine")).unwrap();
        std::fs::write(dir.path().join("mine").join(ADMIN_KEY_FILE), "no key").unwrap();
        assert!(target(dir.path()).admin_key(&samples::node(0)).is_none());
    }

    #[test]
    fn an_order_goes_to_no_address_of_another_node() {
        let dir = tempfile::tempdir().unwrap();
        let at = |number| format!("/ip4/127.0.0.1/tcp/{number}").parse::<Multiaddr>().unwrap();
        let of = |number| at(u16::from(number)).with(Protocol::P2p(identity::peer_id(&samples::node(number)).unwrap()));
        let target = Target { nodes: vec![of(1), of(2), at(3)], ..target(dir.path()) };
        assert_eq!(target.at(&samples::node(2), &[at(4).to_string()]).nodes, [of(2), at(3)]);
        let found = Target { nodes: Vec::new(), mdns: true, ..target };
        let again = found.at(&samples::node(2), &[at(4).to_string()]);
        assert_eq!((again.nodes, again.mdns), (vec![at(4)], false));
        assert!(found.at(&samples::node(2), &[]).mdns);
    }
}
