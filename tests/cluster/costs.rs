//! What an operation costs, counted: commits and messages.

use std::time::Duration;

use async_std::task::block_on;
use futures::future::join_all;
use quorate::{
    runtime::handle::Handle,
    wire::client::{ClientResponse, Consistency},
};

use crate::harness::{TestNode, put, settings, start, status, wait_for_members};

/// What all nodes together have spent.
#[derive(Debug, Clone, Copy)]
struct Costs {
    commits: u64,
    works: u64,
    requests: u64,
    responses: u64,
}

async fn costs(handles: &[Handle]) -> Costs {
    let mut costs = Costs { commits: 0, works: 0, requests: 0, responses: 0 };
    for handle in handles {
        let status = status(handle).await;
        let counters = handle.counters().await.unwrap().quorum;
        costs.commits += status.commit_count;
        costs.works += status.write_count;
        costs.requests += counters.request_messages_sent;
        costs.responses += counters.response_messages_sent;
    }
    costs
}

/// Three nodes that compare histories once, and then only work for their clients.
async fn quiet_cluster(dir: &std::path::Path) -> Vec<TestNode> {
    let mut nodes: Vec<TestNode> = Vec::new();
    for name in ["a", "b", "c"] {
        let join = nodes.first().map(|node| node.addresses.clone()).unwrap_or_default();
        let mut settings = settings(dir, name, &join);
        settings.node.reconcile_interval = Duration::from_secs(3_600);
        nodes.push(start(settings).await);
    }
    for node in &nodes {
        wait_for_members(&node.running.handle(), 3).await;
    }
    nodes
}

/// Puts until all of them are on all three nodes, so that nothing of one put is counted with the next.
async fn put_everywhere(handle: &Handle, key: &str) {
    let stored = put(handle, key, &"v".repeat(1_024), Consistency::All).await;
    assert!(matches!(stored, ClientResponse::Stored(_)), "{stored:?}");
}

#[test]
fn an_idle_put_costs_three_commits_and_two_messages_per_remote_replica() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let nodes = quiet_cluster(dir.path()).await;
        let handles: Vec<Handle> = nodes.iter().map(|node| node.running.handle()).collect();
        put_everywhere(&handles[0], "first").await;

        let before = costs(&handles).await;
        let count = 50;
        for index in 0..count {
            put_everywhere(&handles[0], &format!("key-{index}")).await;
        }
        let after = costs(&handles).await;
        println!("{count} puts: {before:?} to {after:?}");
        assert_eq!(after.works - before.works, 3 * count);
        assert!(after.commits - before.commits <= 3 * count, "{} commits", after.commits - before.commits);
        assert!(after.requests - before.requests <= 2 * count, "{} requests", after.requests - before.requests);
        assert!(after.responses - before.responses <= 2 * count, "{} responses", after.responses - before.responses);
    });
}

#[test]
fn puts_that_come_together_share_commits_and_messages() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let nodes = quiet_cluster(dir.path()).await;
        let handles: Vec<Handle> = nodes.iter().map(|node| node.running.handle()).collect();
        put_everywhere(&handles[0], "first").await;

        let before = costs(&handles).await;
        let (clients, rounds) = (64, 20);
        let client = |client: u64| {
            let handle = handles[0].clone();
            async move {
                for round in 0..rounds {
                    put_everywhere(&handle, &format!("key-{client}-{round}")).await;
                }
            }
        };
        join_all((0..clients).map(client)).await;
        let after = costs(&handles).await;
        let puts = clients * rounds;
        println!("{puts} puts of {clients} clients: {before:?} to {after:?}");
        assert!(puts * 3 >= 8 * (after.commits - before.commits), "at least eight puts per commit");
        assert!(2 * puts >= 4 * (after.requests - before.requests), "at least four merges per message");
    });
}
