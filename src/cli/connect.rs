//! Which node a command asks.
//!
//! The one that is named; else the one that runs on the named data directory; else the one that runs here; else one
//! that answers on the local network. Whatever was tried is remembered in words, so that a failure can say it.

use std::path::PathBuf;

use libp2p::{Multiaddr, identity::Keypair, pnet::PreSharedKey};

use crate::{
    cli::{
        error::{CliError, Exit},
        settings::Settings,
        text::to_word,
    },
    client::{Client, ClientConfig, ClientError},
    ident::Name,
    runtime::{
        registry::{self, Entry, Registry},
        swarm_key,
    },
};

/// Where to find a node, and what it takes to talk to it.
#[derive(Clone)]
pub(crate) struct Target {
    /// Where to begin; empty when the local network is asked.
    pub(crate) nodes: Vec<Multiaddr>,
    /// Whether the local network is asked.
    pub(crate) mdns: bool,
    /// The cluster.
    pub(crate) cluster: Name,
    /// Its key.
    pub(crate) swarm_key: Option<PreSharedKey>,
    /// All of this, in words.
    pub(crate) tried: String,
    /// Who runs here, and may let us administer it.
    pub(crate) registry: Registry,
    /// Our own data directory, whether or not a node was ever started on it.
    pub(crate) data_dir: PathBuf,
}

/// A client, and the words for whom it asks.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) target: Target,
}

impl Target {
    /// Chooses a node by `named` (the addresses the person gave), `settings` and what is listed in `registry`.
    pub(crate) fn choose(named: &[Multiaddr], settings: &Settings, registry: &Registry) -> Result<Target, CliError> {
        let found = match () {
            () if !named.is_empty() => Found::Named(named.to_vec()),
            () if settings.is_given("data_dir") => match registry::find_in(&settings.data_dir) {
                Some(entry) => Found::Running(entry),
                None => return Err(nothing_runs_on(settings)),
            },
            () => match running_here(settings, registry) {
                Some(entry) => Found::Running(entry),
                None if settings.mdns => Found::Network,
                None => return Err(nothing_runs_here(settings)),
            },
        };
        found.into_target(settings, registry)
    }

    /// What the client library is told.
    pub(crate) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::lan(self.cluster.clone());
        config.nodes = self.nodes.clone();
        config.mdns = self.mdns;
        config.swarm_key = self.swarm_key;
        config
    }

    /// A client of that node.
    pub(crate) async fn connect(&self) -> Result<Session, CliError> {
        self.connect_as(None).await
    }

    /// The same, as the holder of `keypair`; without one as nobody in particular.
    pub(crate) async fn connect_as(&self, keypair: Option<Keypair>) -> Result<Session, CliError> {
        match Client::connect(ClientConfig { keypair, ..self.config() }).await {
            Ok(client) => Ok(Session { client, target: self.clone() }),
            Err(error) => Err(CliError::Client { error, tried: self.tried.clone() }),
        }
    }
}

impl Session {
    /// `error`, with whom it concerns.
    pub(crate) fn explain(&self, error: ClientError) -> CliError {
        CliError::Client { error, tried: self.target.tried.clone() }
    }

    /// The same of a read that a write begins with; `way_out` says how to write without it.
    pub(crate) fn explain_read_first(&self, error: ClientError, way_out: &'static str) -> CliError {
        let read = self.explain(error);
        match read.exit() {
            Exit::NoQuorum => CliError::ReadFirst { read: Box::new(read), way_out },
            _ => read,
        }
    }
}

enum Found {
    Named(Vec<Multiaddr>),
    Running(Entry),
    Network,
}

impl Found {
    fn into_target(self, settings: &Settings, registry: &Registry) -> Result<Target, CliError> {
        let (mut key_path, mut cluster) = (settings.swarm_key.clone(), settings.cluster.clone());
        if let Found::Running(entry) = &self {
            if !settings.is_given("cluster") {
                cluster = entry.cluster.clone();
            }
            if !settings.is_given("swarm_key") {
                key_path = entry.swarm_key.clone();
            }
        }
        let swarm_key = key_path.as_deref().map(swarm_key::load).transpose()?;
        let (nodes, tried, mdns) = match self {
            Found::Named(nodes) => (nodes.clone(), list(&nodes), false),
            Found::Running(entry) => {
                let tried = format!("the node on {}", entry.data_dir.display());
                (entry.addresses, tried, false)
            }
            Found::Network => (Vec::new(), format!("mDNS, for a node of cluster `{cluster}`"), true),
        };
        let (registry, data_dir) = (registry.clone(), settings.data_dir.clone());
        Ok(Target { nodes, mdns, cluster, swarm_key, tried, registry, data_dir })
    }
}

/// The node that runs here: of the named cluster; without a name of the usual one, else of any.
fn running_here(settings: &Settings, registry: &Registry) -> Option<Entry> {
    let of_cluster = registry.find(Some(&settings.cluster)).into_iter().next();
    of_cluster.or_else(|| if settings.is_given("cluster") { None } else { registry.find(None).into_iter().next() })
}

fn list(addresses: &[Multiaddr]) -> String {
    match addresses {
        [] => "no address".to_owned(),
        addresses => addresses.iter().map(Multiaddr::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn nothing_runs_on(settings: &Settings) -> CliError {
    let dir = settings.data_dir.display();
    let detail = format!(
        "no node runs on {dir} (data_dir, {}); start it with `quorate start --data-dir {}`, or name another with --node",
        settings.origin("data_dir").map_or_else(String::new, ToString::to_string),
        to_word(&dir.to_string()),
    );
    CliError::NoNode { detail }
}

fn nothing_runs_here(settings: &Settings) -> CliError {
    let of_cluster =
        if settings.is_given("cluster") { format!(" of cluster `{}`", settings.cluster) } else { String::new() };
    let way_out = "and mdns is off; start one with `quorate start`, or name one with --node";
    CliError::NoNode { detail: format!("no node{of_cluster} runs here, {way_out}") }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use libp2p::PeerId;

    use super::*;
    use crate::cli::settings::{Raw, Sources};

    fn settings(flags: &[(&'static str, &str)]) -> Settings {
        let flag = |&(key, value): &(&'static str, &str)| (key, "--flag", Raw::One(value.to_owned()));
        Settings::load(&Sources { flags: flags.iter().map(flag).collect(), ..Sources::default() }).unwrap()
    }

    fn choose(dir: &Path, flags: &[(&'static str, &str)]) -> Result<Target, CliError> {
        Target::choose(&[], &settings(flags), &registry(dir))
    }

    fn registry(dir: &Path) -> Registry {
        Registry::at(dir.join("run"))
    }

    /// Lists a node of `cluster` as running on `dir`.
    fn run_here(dir: &Path, cluster: &str) -> Entry {
        run_with_key(dir, cluster, None)
    }

    fn run_with_key(dir: &Path, cluster: &str, swarm_key: Option<PathBuf>) -> Entry {
        let entry = Entry {
            peer_id: PeerId::random(),
            cluster: Name::new(cluster).unwrap(),
            pid: std::process::id(),
            data_dir: dir.to_owned(),
            swarm_key,
            addresses: vec![format!("/ip4/127.0.0.1/tcp/{}", cluster.len()).parse().unwrap()],
        };
        registry(dir).register(&entry).unwrap();
        entry
    }

    #[test]
    fn the_named_node_comes_first_and_the_local_network_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        run_here(dir.path(), "quorate");
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/4001".parse().unwrap();
        let named = std::slice::from_ref(&address);
        let target = Target::choose(named, &settings(&[("data_dir", "/nowhere")]), &registry(dir.path())).unwrap();
        assert_eq!((target.nodes, target.mdns), (vec![address], false));
        assert!(target.tried.contains("/ip4/127.0.0.1/tcp/4001"));
    }

    #[test]
    fn a_data_directory_on_which_nothing_runs_is_said_by_name() {
        let dir = tempfile::tempdir().unwrap();
        run_here(dir.path(), "quorate");
        let error = choose(dir.path(), &[("data_dir", "/nowhere")]).err().unwrap();
        assert_eq!(error.exit().code(), 7);
        assert!(error.to_string().contains("/nowhere"), "{error}");
    }

    #[test]
    fn the_node_of_a_data_directory_brings_its_cluster_and_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = ("data_dir", dir.path().to_str().unwrap());
        let key_path = dir.path().join("elsewhere.key");
        let entry = run_with_key(dir.path(), "prod", Some(key_path.clone()));
        let key = swarm_key::generate();
        std::fs::write(key_path, key.to_key_file()).unwrap();

        let target = choose(dir.path(), &[data_dir]).unwrap();
        assert_eq!((target.cluster.as_str(), target.nodes), ("prod", entry.addresses));
        assert_eq!(target.swarm_key, Some(key));
        assert_eq!(choose(dir.path(), &[data_dir, ("cluster", "test")]).unwrap().cluster.as_str(), "test");
    }

    #[test]
    fn of_the_nodes_that_run_here_the_named_cluster_is_taken_then_the_usual_then_any() {
        let dir = tempfile::tempdir().unwrap();
        let taken = |flags: &[_]| choose(dir.path(), flags).unwrap();
        assert!(taken(&[]).mdns);
        run_here(dir.path(), "prod");
        assert_eq!(taken(&[]).cluster.as_str(), "prod");
        run_here(dir.path(), "quorate");
        assert_eq!((taken(&[]).cluster.as_str(), taken(&[]).mdns), ("quorate", false));
        assert_eq!(taken(&[("cluster", "prod")]).nodes, ["/ip4/127.0.0.1/tcp/4".parse().unwrap()]);
        assert!(taken(&[("cluster", "other")]).mdns);
        let error = choose(dir.path(), &[("cluster", "other"), ("mdns", "false")]).err().unwrap();
        assert_eq!(error.exit().code(), 7);
        assert!(error.to_string().contains("no node of cluster `other` runs here"), "{error}");
    }
}
