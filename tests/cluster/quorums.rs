//! Quorum reads and writes between real nodes.

use async_std::task::block_on;
use quorate::wire::client::{ClientResponse, Consistency, Failure};

use crate::harness::{cluster, get, put, settings, start, status, wait_for_members};

#[test]
fn what_one_node_stored_every_other_reads_and_one_may_be_gone() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let mut nodes = cluster(dir.path(), 3).await;
        for index in 0..50 {
            let stored =
                put(&nodes[index % 3].running.handle(), &format!("key-{index}"), "v", Consistency::Quorum).await;
            assert!(matches!(stored, ClientResponse::Stored(_)), "{stored:?}");
        }
        nodes.remove(1).running.stop().await;
        for node in &nodes {
            for index in 0..50 {
                assert_eq!(get(&node.running.handle(), &format!("key-{index}"), Consistency::Quorum).await, ["v"]);
            }
        }
        let unmet = put(&nodes[0].running.handle(), "all", "v", Consistency::All).await;
        assert_eq!(unmet, ClientResponse::Failed(Failure::QuorumNotMet { acks: 2, needed: 3, maybe_stored: true }));

        let back = start(settings(dir.path(), "node-1", &[])).await;
        wait_for_members(&back.running.handle(), 3).await;
        assert_eq!(get(&back.running.handle(), "key-7", Consistency::All).await, ["v"]);
        assert!(status(&back.running.handle()).await.key_count >= 50);
    });
}
