//! Stories of how membership changes reach everybody, and what that costs.

use quorate::{
    config::{HistoryWays, Way},
    node::effect::News,
    wire::{
        client::Consistency,
        quorum::{Reconcile, Request, Response},
    },
};

use crate::{
    checker,
    cluster::{Cluster, Setup},
    stage::values,
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

/// Has `node` tell the others something of itself.
fn speak(cluster: &mut Cluster, node: usize) {
    let addresses = vec![format!("/ip4/10.0.0.{node}/tcp/{}", cluster.now_ms % 60_000)];
    cluster.input(node, |node, now| node.handle_news(now, News::Listening(addresses)));
}

/// Five nodes of which the last comes late become one cluster that serves, and a change reaches all of it, by these ways only.
/// Returns the bytes of comparisons that the change took.
#[track_caller]
fn check_ways(seed: u64, history_ways: HistoryWays) -> u64 {
    let mut cluster = Cluster::new(seed, &Setup { history_ways, ..Setup::sound(5, 3) });
    (0..4).for_each(|node| cluster.start(node));
    cluster.run_for(15_000);
    cluster.start(4);
    cluster.run_until(60_000, "all are members", checker::is_settled);
    cluster.put(4, "k", "v", Consistency::All).expect_stored();
    assert_eq!(values(&cluster.get(0, "k", Consistency::All)), ["v"]);

    cluster.run_for(3_000);
    cluster.toll = Some(Toll::default());
    let before = cluster.node(1).unwrap().history_digest();
    speak(&mut cluster, 1);
    cluster.run_until(20_000, "all know the change", |cluster| {
        checker::difference(cluster).is_none() && cluster.node(0).unwrap().history_digest() != before
    });
    cluster.toll.take().unwrap().bytes.iter().sum()
}

#[test]
fn announcements_alone_make_one_history() {
    let ways = HistoryWays { announced: Way::On, ..HistoryWays::none() };
    assert_eq!((71..75).map(|seed| check_ways(seed, ways)).sum::<u64>(), 0, "nothing was compared for the change");
}

#[test]
fn comparing_on_connections_alone_makes_one_history() {
    let ways = HistoryWays { on_identified: Way::On, ..HistoryWays::none() };
    assert!((71..75).all(|seed| check_ways(seed, ways) > 0));
}

#[test]
fn comparing_at_random_alone_makes_one_history() {
    let ways = HistoryWays { at_random: Way::On, ..HistoryWays::none() };
    assert!((71..75).all(|seed| check_ways(seed, ways) > 0));
}

#[test]
fn without_any_way_nobody_learns_of_anybody() {
    let mut cluster = Cluster::new(71, &Setup { history_ways: HistoryWays::none(), ..Setup::sound(3, 3) });
    (0..3).for_each(|node| cluster.start(node));
    cluster.run_for(20_000);
    assert!((0..3).all(|node| cluster.node(node).unwrap().view().members.len() <= 1));
}
