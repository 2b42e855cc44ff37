//! Stories of how membership changes reach everybody, and what that costs.

use quorate::wire::quorum::{Reconcile, Request, Response};

use crate::{
    checker,
    cluster::{Cluster, Setup},
};

/// What comparing histories has cost each node, sent and received.
#[derive(Debug, Default)]
pub(crate) struct Toll {
    /// Bytes by index of the node: of messages as they are encoded, without what a connection adds.
    pub(crate) bytes: Vec<u64>,
}

impl Toll {
    /// Counts a message between two nodes, if it compares histories.
    pub(crate) fn count_request(&mut self, from: usize, to: usize, request: &Request) {
        if let Request::Reconcile(reconcile) = request {
            self.count(from, to, reconcile);
        }
    }

    /// See [`Toll::count_request`].
    pub(crate) fn count_response(&mut self, from: usize, to: usize, response: &Response) {
        if let Response::Reconciled(reconcile) = response {
            self.count(from, to, reconcile);
        }
    }

    fn count(&mut self, from: usize, to: usize, reconcile: &Reconcile) {
        let encoded = cbor4ii::serde::to_vec(Vec::new(), reconcile).expect("it can be encoded");
        for node in [from, to] {
            self.bytes.resize(self.bytes.len().max(node + 1), 0);
            self.bytes[node] += encoded.len() as u64;
        }
    }
}

/// Most bytes that comparing histories costs a node in a second while nothing changes, over `duration_ms`.
fn steady_bytes_per_second(cluster: &mut Cluster, duration_ms: u64) -> u64 {
    cluster.toll = Some(Toll::default());
    cluster.run_for(duration_ms);
    let toll = cluster.toll.take().expect("it was counted");
    toll.bytes.iter().max().copied().unwrap_or(0) * 1_000 / duration_ms
}

/// Twenty members that hold what they are to hold.
fn twenty(seed: u64, setup: &Setup) -> Cluster {
    let mut cluster = Cluster::new(seed, setup);
    (0..setup.nodes).for_each(|index| cluster.start(index));
    cluster.run_until(300_000, "all are members", checker::is_settled);
    cluster
}

#[test]
fn comparing_histories_costs_each_of_twenty_members_less_than_a_kibibyte_a_second() {
    let mut cluster = twenty(70, &Setup::sound(20, 3));
    let bytes = steady_bytes_per_second(&mut cluster, 30_000);
    println!("20 members that have nothing to tell: at most {bytes} B/s of comparisons at one of them, both ways");
    assert!(0 < bytes && bytes < 1_024, "{bytes} B/s");
}
