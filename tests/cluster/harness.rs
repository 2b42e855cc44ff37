//! Starts and stops nodes, and waits for what they tell.

use std::{path::Path, time::Duration};

use async_std::future::timeout;
use libp2p::Multiaddr;
use quorate::{
    config::{Founding, NodeConfig},
    ident::{Key, Name, OpId, Value},
    membership::change::{Parameters, Profile},
    ring::token::PartitionCount,
    runtime::{self, Notice, Running, Settings, handle::Handle},
    store::lmdb::Durability,
    wire::client::{ClientRequest, ClientResponse, Consistency, Get, Put, ReadFrom, Scope, Status},
};

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// A node and where to find it.
pub(crate) struct TestNode {
    pub(crate) running: Running,
    pub(crate) addresses: Vec<Multiaddr>,
}

/// Settings of a node on loopback, without mDNS.
pub(crate) fn settings(dir: &Path, name: &str, join: &[Multiaddr]) -> Settings {
    let profile = Profile { name: Name::new(name).unwrap(), zone: None, weight: 1, addresses: Vec::new() };
    let parameters = Parameters { partitions: PartitionCount::new(64).unwrap(), replicas: 3 };
    let mut node = NodeConfig::lan(Name::new("test").unwrap(), profile, parameters);
    node.founding = if join.is_empty() { Founding::After(Duration::from_millis(50)) } else { Founding::Never };
    Settings {
        data_dir: dir.join(name),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        join: join.to_vec(),
        mdns: false,
        swarm_key: None,
        durability: Durability::Sync,
        node,
    }
}

/// Starts a node and waits until it serves.
pub(crate) async fn start(settings: Settings) -> TestNode {
    let mut running = runtime::start(settings).await.expect("the node starts");
    let ready = async {
        loop {
            if let Notice::Ready { addresses } = running.next_notice().await.expect("the node goes on") {
                return addresses;
            }
        }
    };
    let addresses = timeout(PATIENCE, ready).await.expect("the node becomes a member in time");
    TestNode { running, addresses }
}

/// Starts a cluster of so many nodes and waits until all know all.
pub(crate) async fn cluster(dir: &Path, count: usize) -> Vec<TestNode> {
    let mut nodes = vec![start(settings(dir, "node-0", &[])).await];
    for index in 1..count {
        let join = nodes[0].addresses.clone();
        nodes.push(start(settings(dir, &format!("node-{index}"), &join)).await);
    }
    for node in &nodes {
        wait_for_members(&node.running.handle(), count).await;
    }
    nodes
}

/// Waits until the node sees so many members, all of them up, and what they are to hold is where it belongs.
pub(crate) async fn wait_for_members(handle: &Handle, count: usize) {
    wait_until_seen(handle, count).await;
    let settled = async {
        while status(handle).await.unsettled_partitions > 0 {
            async_std::task::yield_now().await;
        }
    };
    if timeout(PATIENCE, settled).await.is_err() {
        panic!("not settled in time: {:#?}", status(handle).await);
    }
}

/// Waits until the node sees so many members, all of them up. They may hold nothing yet.
pub(crate) async fn wait_until_seen(handle: &Handle, count: usize) {
    let seen = async {
        loop {
            let status = status(handle).await;
            let up = status.members.iter().filter(|member| member.state == quorate::wire::client::Reach::Up).count();
            if status.members.len() == count && up == count {
                return;
            }
            async_std::task::yield_now().await;
        }
    };
    if timeout(PATIENCE, seen).await.is_err() {
        panic!("not all members are known and up in time: {:#?}", status(handle).await.members);
    }
}

pub(crate) async fn status(handle: &Handle) -> Status {
    match handle.request(ClientRequest::Status).await.expect("the node runs") {
        ClientResponse::Status(status) => *status,
        other => panic!("not a status: {other:?}"),
    }
}

pub(crate) async fn put(handle: &Handle, key: &str, value: &str, w: Consistency) -> ClientResponse {
    let put = Put {
        key: Key::new(key.as_bytes()).unwrap(),
        value: Value::new(value.as_bytes()).unwrap(),
        context: None,
        op: OpId(rand::random()),
        w,
        scope: Scope::Sloppy,
        ttl_ms: None,
        budget_ms: 5_000,
    };
    handle.request(ClientRequest::Put(put)).await.expect("the node runs")
}

pub(crate) async fn get(handle: &Handle, key: &str, r: Consistency) -> Vec<String> {
    let get =
        Get { key: Key::new(key.as_bytes()).unwrap(), from: ReadFrom::Row(r), scope: Scope::Sloppy, budget_ms: 5_000 };
    match handle.request(ClientRequest::Get(get)).await.expect("the node runs") {
        ClientResponse::Found(found) => found
            .siblings
            .iter()
            .map(|sibling| String::from_utf8_lossy(sibling.value.as_bytes()).into_owned())
            .collect(),
        other => panic!("not found: {other:?}"),
    }
}
