//! What exchanges move, and how fast: no more than must be, and no faster than they may.

use std::time::Duration;

use quorate::{
    ident::NodeId,
    node::counters::Counters,
    quorum::put::Hinting,
    wire::{
        administration::{Order, RepairScope},
        client::{ClientRequest, ClientResponse, Consistency},
    },
};

use crate::{
    checker,
    cluster::{Cluster, Setup},
};

const BYTES_PER_SECOND: u64 = 500;

/// Nothing but exchanges brings data from one node to another once a write is over.
fn bare(nodes: usize, replicas: u8) -> Setup {
    let exchange_interval = Some(Duration::from_secs(100_000));
    Setup { hinting: Hinting::Off, read_repair: false, exchange_interval, ..Setup::sound(nodes, replicas) }
}

/// Two nodes of which the second has missed everything, and will until somebody orders an exchange.
fn apart(seed: u64) -> Cluster {
    let setup = Setup { exchange_bytes_per_second: Some(BYTES_PER_SECOND), ..bare(2, 2) };
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

/// How many copies of keys newcomers have, once they have all that is theirs.
fn taken_over(cluster: &Cluster, founders: usize) -> u64 {
    let ring = cluster.node(0).expect("it is up").view().ring.clone().expect("there is one");
    let is_new = |node: &&NodeId| cluster.machines[founders..].iter().any(|it| it.id == **node);
    let counts = checker::all_keys(cluster)
        .into_iter()
        .map(|key| ring.row(ring.partition_of(&key)).iter().filter(is_new).count());
    counts.sum::<usize>() as u64
}

#[test]
fn what_is_sent_to_newcomers_is_sent_once_even_when_another_joins_while_it_is_on_its_way() {
    const FOUNDERS: usize = 3;
    for seed in 0..20 {
        let mut cluster = Cluster::new(1_000 + seed, &bare(5, 3));
        (0..FOUNDERS).for_each(|index| cluster.start(index));
        cluster.run_until(20_000, "three are members, and hold what they are to hold", |cluster| {
            let is_member = |index| cluster.node(index).is_some_and(|node| node.view().members.len() == FOUNDERS);
            (0..FOUNDERS).all(is_member) && checker::unsettled_partition(cluster).is_none()
        });
        for number in 0..200 {
            cluster.put(0, &format!("k{number}"), "v", Consistency::All).expect_stored();
        }
        cluster.start(3);
        cluster.run_for(100 * seed);
        cluster.start(4);
        cluster.run_until(60_000, "all are members", checker::is_settled);
        cluster.run_for(20_000);
        let count = |count: fn(&Counters) -> u64| -> u64 {
            (0..5).map(|index| count(&cluster.node(index).expect("it is up").counters())).sum()
        };
        let (given, taken) = (count(|it| it.items_given), count(|it| it.items_taken));
        let least = taken_over(&cluster, FOUNDERS);
        println!("seed {seed}: {least} copies taken over, {given} sent, {taken} taken");
        // What was on its way to the first, and is the second's now, need not be taken.
        assert!(least <= taken && taken <= given && given * 100 <= taken * 102, "seed {seed}");
    }
}
