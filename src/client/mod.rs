//! A client: a libp2p peer that is no member.
//!
//! It has a small swarm of its own, keeps a view of the cluster that it verifies like a member would, and sends each
//! request straight to a coordinator of its key. It stores nothing and authors nothing.
//!
//! ```no_run
//! use quorate::{client::{Client, ClientConfig, Write}, ident::{Key, Name, Value}, wire::client::Consistency};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(ClientConfig::lan(Name::new("quorate")?)).await?;
//! let key = Key::new(b"greeting")?;
//! client.put(&key, Value::new(b"hello")?, Write::default()).await?;
//! for sibling in client.get(&key, Consistency::Quorum).await?.siblings {
//!     println!("{}", String::from_utf8_lossy(sibling.value.as_bytes()));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Invariants: an error of a write that may have been stored says so ([`ClientError::maybe_stored`]); at most
//! [`OPERATIONS_IN_FLIGHT_MAX`] operations are under way, and one more fails at once; every operation ends by its deadline
//! (a scan: every page of it).
//!
//! What it lacks: a cache of values.

mod dialling;
mod error;
mod operation;
mod routing;
mod scan;
mod swarm;
mod task;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::channel::{mpsc, oneshot};
use libp2p::{Multiaddr, identity::Keypair, pnet::PreSharedKey};

use crate::{
    causality::context::Context,
    client::{
        operation::Operation,
        routing::{RetryBudget, Route},
        task::{Ask, Directory, Starting, Task},
    },
    ident::{Key, Name, NodeId, OpId, Value},
    limits::DEADLINE_MAX,
    membership::{change::Change, history::History, history::Inserted, view::View},
    wire::{
        administration::{Alert, ExchangeReport, HintStatus, Order, RootStatus},
        client::{
            ClientRequest, ClientResponse, Consistency, Delete, Failure, Found, Get, Inspection, Put, ReadFrom, Scope,
            Status, Stored,
        },
    },
};

pub use crate::client::error::ClientError;

/// Most operations of one client, all its handles together, that are under way at a time.
pub const OPERATIONS_IN_FLIGHT_MAX: usize = 1024;

/// How to reach a cluster, and how long to wait for it.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Name of the cluster. Peers of other clusters are left alone.
    pub cluster: Name,
    /// The key of a closed cluster, as in its `swarm.key`; nothing for an open one.
    pub swarm_key: Option<PreSharedKey>,
    /// Where to begin, with or without a final `/p2p/<peer>`. May be empty when `mdns` is on.
    pub nodes: Vec<Multiaddr>,
    /// Whether to look for nodes on the local network.
    pub mdns: bool,
    /// Time for each operation; cut to [`DEADLINE_MAX`]. For a scan: for each page.
    pub deadline: Duration,
    /// Time for [`Client::connect`].
    pub connect_within: Duration,
    /// The client's identity; nothing for a fresh one.
    pub keypair: Option<Keypair>,
}

/// What a put takes beside key and value.
#[derive(Debug, Clone, Default)]
pub struct Write {
    /// What the writer has read: exactly that is replaced. Without it the value becomes a sibling of whatever is there.
    pub context: Option<Context>,
    /// Durable copies to wait for.
    pub w: Consistency,
    /// Whose copies count.
    pub scope: Scope,
    /// When the value expires, counted from when it is stored; in whole milliseconds.
    pub ttl: Option<Duration>,
}

/// How many replicas must answer, and whose answers count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quorum {
    /// How many.
    pub count: Consistency,
    /// Whose.
    pub scope: Scope,
}

impl From<Consistency> for Quorum {
    /// So many, fallbacks included.
    fn from(count: Consistency) -> Quorum {
        Quorum { count, scope: Scope::Sloppy }
    }
}

/// A connection to a cluster. Clones share it; it ends with the last of them.
///
/// All methods may be called from any executor and from several tasks at a time. A future that is dropped stops
/// waiting; what it has sent may be carried out all the same.
#[derive(Debug, Clone)]
pub struct Client {
    asks: mpsc::Sender<Ask>,
    shared: Arc<Shared>,
    home: NodeId,
    cluster: Name,
    deadline: Duration,
}

/// What the handles and the task share.
#[derive(Debug)]
struct Shared {
    directory: RwLock<Directory>,
    retry_budget: Mutex<RetryBudget>,
    in_flight: AtomicUsize,
    /// Nodes that kept an operation waiting and have not answered since; asked last.
    suspects: Mutex<BTreeSet<NodeId>>,
    /// An operation has begun since the view was last refreshed.
    is_used: AtomicBool,
    /// A failure suggests that the view is old.
    wants_refresh: AtomicBool,
}

impl ClientConfig {
    /// For the cluster called `cluster` on the local network: found by mDNS, open, 5 s to connect and 5 s for each
    /// operation.
    pub fn lan(cluster: Name) -> ClientConfig {
        ClientConfig {
            cluster,
            swarm_key: None,
            nodes: Vec::new(),
            mdns: true,
            deadline: Duration::from_secs(5),
            connect_within: Duration::from_secs(5),
            keypair: None,
        }
    }
}

impl Client {
    /// Reaches the cluster, and returns once a node has told its history.
    ///
    /// Fails with [`ClientError::Unreachable`] or [`ClientError::OtherCluster`]: when `connect_within` is over, and
    /// without mDNS as soon as every address given has failed.
    pub async fn connect(config: ClientConfig) -> Result<Client, ClientError> {
        if config.nodes.is_empty() && !config.mdns {
            let detail = "no address was given, and mDNS is off; give the address of a node".to_owned();
            return Err(ClientError::Unreachable { detail });
        }
        let swarm = swarm::build(&config)?;
        let shared = Arc::new(Shared {
            directory: Directory::new(config.cluster.clone()),
            retry_budget: Mutex::new(RetryBudget::new()),
            in_flight: AtomicUsize::new(0),
            suspects: Mutex::default(),
            is_used: AtomicBool::new(false),
            wants_refresh: AtomicBool::new(false),
        });
        let (asks, asked) = mpsc::channel(ASK_QUEUE);
        let (reply, reached) = oneshot::channel();
        let (within, gives_up_early) = (config.connect_within, !config.mdns);
        let starting = Starting { reply, within, gives_up_early, deadline: Instant::now() + within };
        async_std::task::spawn(Task::new(&config, swarm, asked, shared.clone(), starting).run());

        let home = reached.await.unwrap_or_else(|_| {
            Err(ClientError::Unreachable { detail: "the client's task has ended before it was connected".into() })
        })?;
        let deadline = config.deadline.min(DEADLINE_MAX);
        Ok(Client { asks, shared, home, cluster: config.cluster, deadline })
    }

    /// The node that was reached first, and is asked what concerns one node.
    pub fn home(&self) -> NodeId {
        self.home
    }

    /// The cluster as last heard of. Refreshed in the background, every 2 s while the client is used; without members
    /// as long as no cluster has been founded.
    pub fn view(&self) -> Arc<View> {
        self.shared.read_directory().view.clone()
    }

    /// The nodes that a request can be sent to at once.
    pub fn connected(&self) -> Arc<BTreeSet<NodeId>> {
        self.shared.read_directory().connected.clone()
    }

    /// All changes of the membership, as the home node knows them; verified, in canonical order.
    pub async fn history(&self) -> Result<Vec<Change>, ClientError> {
        let _permit = self.begin()?;
        let mut history = History::new(self.cluster.clone());
        loop {
            let request = ClientRequest::History(history.summary());
            let changes = self
                .perform_for("history", Route::Node(self.home), request, |response| match response {
                    ClientResponse::History(changes) => Some(changes),
                    _ => None,
                })
                .await?;
            let inserted = changes.into_iter().map(|change| history.insert(change));
            // A change that does not fit is as if it had not been told.
            if inserted.filter(|inserted| *inserted == Ok(Inserted::New)).count() == 0 {
                return Ok(history.iter().cloned().collect());
            }
        }
    }

    /// Stores `value` under `key`, in place of what `write.context` has seen.
    pub async fn put(&self, key: &Key, value: Value, write: Write) -> Result<Stored, ClientError> {
        let Write { context, w, scope, ttl } = write;
        let ttl_ms = ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let op = OpId(rand::random());
        let put = Put { key: key.clone(), value, context, op, w, scope, ttl_ms, budget_ms: 0 };
        self.write(key, ClientRequest::Put(put)).await
    }

    /// Removes what `context` has seen; what it has not stays.
    pub async fn delete(&self, key: &Key, context: Context, w: impl Into<Quorum>) -> Result<Stored, ClientError> {
        let Quorum { count: w, scope } = w.into();
        self.write(key, ClientRequest::Delete(Delete { key: key.clone(), context, w, scope, budget_ms: 0 })).await
    }

    /// Reads all siblings of `key`.
    pub async fn get(&self, key: &Key, r: impl Into<Quorum>) -> Result<Found, ClientError> {
        let Quorum { count: r, scope } = r.into();
        self.read(Route::Key(key.clone()), key, ReadFrom::Row(r), scope).await
    }

    /// What the home node's own store has of `key`; no quorum, no repair.
    pub async fn get_local(&self, key: &Key) -> Result<Found, ClientError> {
        self.read(Route::Node(self.home), key, ReadFrom::Local, Scope::Strict).await
    }

    /// The keys that begin with `prefix`, sorted by their bytes, distinct, at most `limit`.
    ///
    /// With a complete `{tag}` in the prefix the members of one row are asked, else all. Memory: that of the keys, and
    /// without a tag of all of them, whatever the limit. Fails with [`Failure::Unavailable`] when of some partition
    /// fewer than a majority of the row have answered.
    pub async fn scan(&self, prefix: &[u8], limit: Option<usize>) -> Result<Vec<Key>, ClientError> {
        let _permit = self.begin()?;
        scan::scan(self, prefix, limit).await
    }

    /// How the home node sees the cluster.
    pub async fn status(&self) -> Result<Status, ClientError> {
        let _permit = self.begin()?;
        self.perform_for("status", Route::Node(self.home), ClientRequest::Status, |response| match response {
            ClientResponse::Status(status) => Some(*status),
            _ => None,
        })
        .await
    }

    /// What the home node keeps for others, by target.
    pub async fn hints(&self) -> Result<Vec<HintStatus>, ClientError> {
        let _permit = self.begin()?;
        self.perform_for("hints", Route::Node(self.home), ClientRequest::Hints, |response| match response {
            ClientResponse::Hints(hints) => Some(hints),
            _ => None,
        })
        .await
    }

    /// What the administrator of the home node should know, the oldest first.
    pub async fn alerts(&self) -> Result<Vec<Alert>, ClientError> {
        let _permit = self.begin()?;
        self.perform_for("alerts", Route::Node(self.home), ClientRequest::Alerts, |response| match response {
            ClientResponse::Alerts(alerts) => Some(alerts),
            _ => None,
        })
        .await
    }

    /// How comparing what members hold stands at the home node: the others of its rows, the last repair, the last look at
    /// everything.
    pub async fn exchanges(&self) -> Result<ExchangeReport, ClientError> {
        let _permit = self.begin()?;
        self.perform_for("exchanges", Route::Node(self.home), ClientRequest::Exchanges, |response| match response {
            ClientResponse::Exchanges(report) => Some(report),
            _ => None,
        })
        .await
    }

    /// What each partition comes to that the home node holds, ascending.
    pub async fn roots(&self) -> Result<Vec<RootStatus>, ClientError> {
        let _permit = self.begin()?;
        self.perform_for("roots", Route::Node(self.home), ClientRequest::Roots, |response| match response {
            ClientResponse::Roots(roots) => Some(roots),
            _ => None,
        })
        .await
    }

    /// Has the home node do what only an administrator may ask for: the client's keypair must be one that it knows as
    /// such.
    pub async fn administer(&self, order: Order) -> Result<(), ClientError> {
        let _permit = self.begin()?;
        let request = ClientRequest::Administer(order);
        self.perform_for("whether it is done", Route::Node(self.home), request, |response| match response {
            ClientResponse::Administered => Some(()),
            _ => None,
        })
        .await
    }

    /// Each replica's state of `key`.
    pub async fn inspect(&self, key: &Key) -> Result<Inspection, ClientError> {
        let _permit = self.begin()?;
        let request = ClientRequest::Inspect { key: key.clone(), budget_ms: 0 };
        self.perform_for("the replicas' states", Route::Key(key.clone()), request, |response| match response {
            ClientResponse::Inspection(inspection) => Some(inspection),
            _ => None,
        })
        .await
    }

    async fn write(&self, key: &Key, request: ClientRequest) -> Result<Stored, ClientError> {
        let _permit = self.begin()?;
        self.perform_for("whether it is stored", Route::Key(key.clone()), request, |response| match response {
            ClientResponse::Stored(stored) => Some(stored),
            _ => None,
        })
        .await
    }

    async fn read(&self, route: Route, key: &Key, from: ReadFrom, scope: Scope) -> Result<Found, ClientError> {
        let _permit = self.begin()?;
        let request = ClientRequest::Get(Get { key: key.clone(), from, scope, budget_ms: 0 });
        self.perform_for("what is found", route, request, |response| match response {
            ClientResponse::Found(found) => Some(found),
            _ => None,
        })
        .await
    }

    /// Performs `request` and takes the answer apart; `expected` is the wanted kind, in words.
    async fn perform_for<T>(
        &self,
        expected: &'static str,
        route: Route,
        request: ClientRequest,
        take: impl FnOnce(ClientResponse) -> Option<T>,
    ) -> Result<T, ClientError> {
        let maybe_stored = request.may_store();
        let operation = Operation::new(route, request, self.deadline, &self.asks, &self.shared);
        let (node, response) = operation.run().await?;
        take(response).ok_or(ClientError::Unexpected { node, expected, maybe_stored })
    }

    /// Takes one of the places for operations, if there is one.
    fn begin(&self) -> Result<Permit<'_>, ClientError> {
        self.shared.is_used.store(true, Ordering::Relaxed);
        let permit = Permit(&self.shared.in_flight);
        if self.shared.in_flight.fetch_add(1, Ordering::Relaxed) >= OPERATIONS_IN_FLIGHT_MAX {
            let detail = format!("{OPERATIONS_IN_FLIGHT_MAX} operations of this client are under way");
            return Err(ClientError::Failed(Failure::Overloaded { detail }));
        }
        Ok(permit)
    }
}

impl Shared {
    fn retry_budget(&self) -> MutexGuard<'_, RetryBudget> {
        // A number that is a little off harms nobody.
        self.retry_budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn suspects(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        // Every change is one insertion or removal.
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn want_refresh(&self) {
        self.wants_refresh.store(true, Ordering::Relaxed);
    }
}

/// A place among the operations under way; given back when dropped.
struct Permit<'a>(&'a AtomicUsize);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Requests that may wait for the task, beside one for each attempt under way.
const ASK_QUEUE: usize = 64;
