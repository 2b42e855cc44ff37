//! Exchanges that take the time which the administrator allows them, whichever side has what the other lacks.

use std::time::Duration;

use quorate::{
    quorum::put::Hinting,
    wire::{
        administration::{Order, RepairScope},
        client::{ClientRequest, ClientResponse, Consistency},
    },
};

use crate::cluster::{Cluster, Setup};

const BYTES_PER_SECOND: u64 = 500;

/// Two nodes of which the second has missed everything; nothing but exchanges that somebody orders brings it.
fn apart(seed: u64) -> Cluster {
    let setup = Setup {
        hinting: Hinting::Off,
        read_repair: false,
        exchange_interval: Some(Duration::from_secs(100_000)),
        exchange_bytes_per_second: Some(BYTES_PER_SECOND),
        ..Setup::sound(2, 2)
    };
    let mut cluster = Cluster::settled_with(seed, &setup);
    cluster.run_for(60_000);
    cluster.isolate(1);
    for number in 0..100 {
        cluster.put(0, &format!("k{number}"), "v", Consistency::One).expect_stored();
    }
    cluster.heal();
    cluster
}

/// Bytes that a node has sent and received in exchanges.
fn exchanged(cluster: &Cluster) -> u64 {
    cluster.node(0).expect("it is up").counters().exchange_bytes
}

/// `asker` is told to compare. Returns how many bytes that took, and how many milliseconds.
fn repair(cluster: &mut Cluster, asker: usize) -> (u64, u64) {
    let (bytes_before, begun_ms) = (exchanged(cluster), cluster.now_ms);
    let order = Order::Repair { scope: RepairScope::Everything, is_traced: false };
    assert_eq!(cluster.ask(asker, ClientRequest::Administer(order)), ClientResponse::Administered);
    let is_over = |cluster: &mut Cluster| match cluster.ask(asker, ClientRequest::Exchanges) {
        ClientResponse::Exchanges(report) => report.repair.is_some_and(|repair| repair.is_over),
        other => panic!("no report: {other:?}"),
    };
    while !is_over(cluster) {
        cluster.run_for(100);
    }
    (exchanged(cluster) - bytes_before, cluster.now_ms - begun_ms)
}

#[test]
fn what_is_fetched_and_what_is_brought_takes_the_time_that_is_allowed() {
    for (seed, asker) in [(90, 1), (91, 0)] {
        let mut cluster = apart(seed);
        let (bytes, took_ms) = repair(&mut cluster, asker);
        assert_eq!(cluster.stored_at(1, "k99"), ["v"]);
        let least_ms = bytes * 1_000 / BYTES_PER_SECOND;
        // All but the last question, to which the answer is that there is nothing left.
        let slack_ms = 200 * 1_000 / BYTES_PER_SECOND;
        println!("node {asker} asked: {bytes} bytes in {took_ms} ms");
        assert!(bytes > 5_000 && took_ms + slack_ms >= least_ms, "{bytes} bytes in {took_ms} ms");
        assert!(took_ms < 2 * least_ms, "{bytes} bytes in {took_ms} ms");
    }
}
