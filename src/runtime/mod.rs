//! The shell: a swarm, two storage threads and a clock around one [`crate::node::Node`].
//!
//! It translates and forwards; it makes no protocol decision. One task owns everything but the threads.

pub mod identity;
pub mod registry;
pub mod swarm_key;
pub mod handle;
pub(crate) mod dial_error;
mod address;
mod announcements;
mod behaviour;
mod clock;
mod event_loop;
mod exchanges;
mod offenders;
mod storage;
mod translate;

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use async_std::{channel, task};
use libp2p::{Multiaddr, PeerId, identity::Keypair, pnet::PreSharedKey};
use thiserror::Error;

use crate::{
    clock::Now,
    config::NodeConfig,
    ident::{ClusterId, Name, NodeId},
    membership::change::Change,
    node::{Node, effect::Event},
    replica::startup::{self, Recovered},
    runtime::{
        behaviour::NetworkConfig,
        clock::Clock,
        event_loop::{EventLoop, Order},
        handle::Handle,
        identity::IdentityError,
        storage::Storage,
        translate::Translator,
    },
    store::{
        Store as _, StoreError, WriteTxn as _,
        lmdb::{Durability, LmdbStore, Options},
        lmdb_file::OpenError,
    },
};

/// Orders and notices that wait between the node's task and its owner.
const CHANNEL_COUNT_MAX: usize = 1_024;

/// The map a new store begins with; it grows.
const MAP_SIZE_BYTES: u64 = 1 << 30;

/// How long a start waits for its listeners to tell their addresses.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(2);

/// How much of an instance is chance. What is left is enough for milliseconds until the year 2527.
const INSTANCE_RANDOM_BITS: u32 = 20;

/// Name of the file in the data directory with the node's identity.
pub const IDENTITY_KEY_FILE: &str = "identity.key";

/// Name of the file in the data directory with the key whose holder may administer the node.
pub const ADMIN_KEY_FILE: &str = "admin.key";

/// What to start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where identity and store are; made if missing (mode 0700).
    pub data_dir: PathBuf,
    /// Where to listen. A TCP port of 0 takes the port of the last start, if it is free.
    pub listen: Vec<Multiaddr>,
    /// Whom to join.
    pub join: Vec<Multiaddr>,
    /// Whether to look for peers on the local network, and be found there.
    pub mdns: bool,
    /// Admits only those who hold it.
    pub swarm_key: Option<PreSharedKey>,
    /// When a commit counts as durable.
    pub durability: Durability,
    /// What the node itself needs to know. Its addresses and seeds, and the holder of its own admin.key, are filled in here.
    pub node: NodeConfig,
}

/// Why a node did not start. Nothing but the data directory and the keys in it may have been made.
#[derive(Debug, Error)]
pub enum StartError {
    /// The data directory cannot be made.
    #[error("the data directory {path} cannot be made: {source}", path = path.display())]
    DataDir {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The data directory belongs to another user: what we would write, that user could not read any more. Nothing was
    /// written.
    #[error(
        "the data directory {path} belongs to the user with uid {owner_uid}, but this process runs as uid {our_uid}: run \
         it as that user, or give another data directory with --data-dir",
        path = path.display()
    )]
    NotOurs {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner_uid: u32,
        /// As whom we run (effective user).
        our_uid: u32,
    },
    /// The data directory holds the data of another cluster. Nothing of it was changed.
    #[error(
        "the data directory {path} belongs to another cluster than \"{cluster}\": start it with the --cluster of its \
         first start, or give another data directory with --data-dir",
        path = path.display()
    )]
    OtherCluster {
        /// Which.
        path: PathBuf,
        /// The cluster that was asked for.
        cluster: Name,
    },
    /// No identity, or no key for its administrator.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store was opened and failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No socket.
    #[error(
        "cannot listen on {address}: {detail}; choose another address with --listen, such as /ip4/0.0.0.0/tcp/4001"
    )]
    Listen {
        /// Where.
        address: Multiaddr,
        /// What the operating system said.
        detail: String,
    },
    /// The network, a thread or the generator of random numbers is not to be had.
    #[error("the node cannot start: {0}")]
    System(#[from] io::Error),
}

/// What a running node tells its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The node is a member and serves, at these addresses (each with `/p2p/`).
    Ready {
        /// May be empty.
        addresses: Vec<Multiaddr>,
    },
    /// The node listens at one more address.
    Listening(Multiaddr),
    /// What the node itself tells.
    Event(Event),
    /// Something is wrong that may heal.
    Warning(String),
    /// The node cannot go on and will end.
    Fatal(String),
}

/// A running node. Dropping it stops the node uncleanly; call [`Running::stop`].
#[derive(Debug)]
pub struct Running {
    peer_id: PeerId,
    handle: Handle,
    notices: channel::Receiver<Notice>,
    orders: channel::Sender<Order>,
    task: task::JoinHandle<()>,
}

impl Running {
    /// Who it is.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// A way to use the store from this process.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The next thing it tells; nothing after it has ended.
    pub async fn next_notice(&mut self) -> Option<Notice> {
        self.notices.recv().await.ok()
    }

    /// Says goodbye, commits what is queued and ends.
    pub async fn stop(self) {
        // A loop that has ended already has stopped.
        let _ = self.orders.send(Order::Stop).await;
        self.notices.close();
        self.task.await;
    }
}

/// Starts a node. Returns once it listens; [`Notice::Ready`] follows when it has become a member.
pub async fn start(settings: Settings) -> Result<Running, StartError> {
    let keypair = make_identity(&settings.data_dir)?;
    let store = LmdbStore::open(
        &settings.data_dir.join("store"),
        Options { durability: settings.durability, map_size_bytes: MAP_SIZE_BYTES },
    )?;
    let signer = identity::signer_of(&keypair);
    let recovered = recover(&store, &signer.node_id(), &settings)?;
    let administrator = identity::signer_of(&identity::load_or_create(&settings.data_dir.join(ADMIN_KEY_FILE))?);
    let actor_node = signer.node_id().to_actor_number();
    let storage =
        Storage::start(store, settings.durability, actor_node, settings.node.item_key(), settings.node.hint_limits)?;

    let mut translator = Translator::new(&keypair, &network_config(&settings), settings.join.clone())?;
    let taken = translator.listen(&settings.listen, &last_ports(&recovered, &keypair)).await?;

    let clock = Clock::new();
    let mut config = settings.node;
    config.profile.addresses = translator.profile_addresses();
    config.seed_count = settings.join.len();
    config.admins.insert(administrator.node_id());
    let now = clock.now();
    let node = Node::new(config, signer, recovered, instance_at(now), rand::random(), now);

    let (orders, order_queue) = channel::bounded(CHANNEL_COUNT_MAX);
    let (notify, notices) = channel::bounded(CHANNEL_COUNT_MAX);
    for address in taken {
        let warning = format!(
            "{address}, where the other members look for this node, is taken by another process: it listens elsewhere, and \
             is found once it has reached one of them itself. Give it a port of its own with --listen"
        );
        // There is room for it: nobody has told anything yet.
        let _ = notify.try_send(Notice::Warning(warning));
    }
    let peer_id = keypair.public().to_peer_id();
    let event_loop = EventLoop::new(node, translator, storage, clock, order_queue, notify);
    let task = task::spawn(event_loop.run());
    Ok(Running { peer_id, handle: Handle::new(orders.clone()), notices, orders, task })
}

/// Names this process: by when it was started, so that of two with one identity the younger has the higher number, and by
/// chance, should they start in the same millisecond.
fn instance_at(now: Now) -> u64 {
    now.wall.0 << INSTANCE_RANDOM_BITS | u64::from(rand::random::<u32>() >> (u32::BITS - INSTANCE_RANDOM_BITS))
}

fn network_config(settings: &Settings) -> NetworkConfig {
    NetworkConfig { cluster: settings.node.cluster.clone(), swarm_key: settings.swarm_key, mdns: settings.mdns }
}

/// The identity on a data directory; both are made where they are not there yet.
pub fn make_identity(data_dir: &Path) -> Result<Keypair, StartError> {
    make_data_dir(data_dir)?;
    check_owner(data_dir)?;
    Ok(identity::load_or_create(&data_dir.join(IDENTITY_KEY_FILE))?)
}

fn make_data_dir(path: &Path) -> Result<(), StartError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| StartError::DataDir { path: path.to_owned(), source })
}

fn check_owner(path: &Path) -> Result<(), StartError> {
    let failed = |source| StartError::DataDir { path: path.to_owned(), source };
    let owner_uid = fs::metadata(path).map_err(failed)?.uid();
    let our_uid = rustix::process::geteuid().as_raw();
    if owner_uid == our_uid { Ok(()) } else { Err(StartError::NotOurs { path: path.to_owned(), owner_uid, our_uid }) }
}

fn recover(store: &LmdbStore, node: &NodeId, settings: &Settings) -> Result<Recovered, StartError> {
    let mut txn = store.write()?;
    let recovered = startup::begin(&mut txn, node)?;
    if !is_of_cluster(&recovered.changes, &settings.node.cluster) {
        // The transaction is dropped: the store does not even know of this start.
        return Err(StartError::OtherCluster {
            path: settings.data_dir.clone(),
            cluster: settings.node.cluster.clone(),
        });
    }
    txn.commit()?;
    store.sync()?;
    Ok(recovered)
}

/// Whether a history can be one of the cluster called `name`. An empty one can be anybody's.
fn is_of_cluster(changes: &[Change], name: &Name) -> bool {
    let mut founders = changes.iter().filter_map(|change| Some((change.cluster, change.kind.founding()?)));
    founders.all(|(cluster, founded)| ClusterId::of(name, founded.partitions.get(), founded.replicas) == cluster)
}

/// The TCP ports this node told of itself last: its peers look for it there.
fn last_ports(recovered: &Recovered, keypair: &Keypair) -> Vec<u16> {
    let me = identity::node_id(&keypair.public().to_peer_id());
    let mine = recovered.changes.iter().filter(|change| Some(change.author) == me);
    let last = mine.filter_map(|change| change.kind.profile()).next_back();
    let addresses = last.map(|profile| profile.addresses.clone()).unwrap_or_default();
    addresses.iter().filter_map(|text| address::tcp_port(&text.parse().ok()?)).collect()
}
