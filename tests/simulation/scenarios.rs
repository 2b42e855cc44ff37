//! Stories, told by hand.

use quorate::{
    config::Founding,
    ident::{OpId, Value},
    membership::change::Parameters,
    node::effect::Event,
    ring::token::PartitionCount,
    store::StoreError,
    wire::client::{ClientRequest, Consistency, Failure, Put, Scope, Stored},
};

use crate::{
    checker::{self, Violation},
    cluster::{Cluster, Outcome, Setup},
    faults::{heal, isolate},
    network::Weather,
    stage::{key_of, sees, values},
};

#[test]
fn three_fresh_nodes_become_one_cluster() {
    let cluster = Cluster::settled(1, 3, 3);
    assert_eq!(cluster.founders(), 1, "those who saw each other in time agree who founds");
    assert!((0..3).all(|node| cluster.was_told(node, |event| *event == Event::Ready)));
}

#[test]
fn two_founders_that_meet_merge_and_nothing_is_lost() {
    let mut cluster = Cluster::new(2, &Setup::sound(2, 3));
    isolate(&mut cluster, 0);
    cluster.start(0);
    cluster.start(1);
    cluster.run_for(5_000);
    assert_eq!(cluster.founders(), 2);
    cluster.put(0, "left", "l", Consistency::Quorum).expect_stored();
    cluster.put(1, "right", "r", Consistency::Quorum).expect_stored();
    cluster.heal();
    assert_eq!(values(&cluster.get(0, "right", Consistency::All)), ["r"]);
    assert_eq!(values(&cluster.get(1, "left", Consistency::All)), ["l"]);
}

#[test]
fn a_quorum_goes_on_without_a_dead_node_and_all_says_it_is_not_met() {
    let mut cluster = Cluster::settled(3, 3, 3);
    cluster.crash(2, 20);
    cluster.run_for(100);
    let stored = cluster.put(0, "k", "v", Consistency::Quorum).expect_stored();
    assert!(stored.degraded && stored.acks == 2);
    let failure = cluster.put(0, "k", "w", Consistency::All).expect_failed();
    assert!(matches!(failure, Failure::QuorumNotMet { needed: 3, maybe_stored: true, .. }), "{failure:?}");
    assert_eq!(values(&cluster.get(1, "k", Consistency::Quorum)), ["v", "w"], "maybe was yes");
}

#[test]
fn read_repair_brings_a_replica_that_was_down_what_it_missed() {
    let mut cluster = Cluster::settled(4, 3, 3);
    cluster.crash(2, 20);
    cluster.run_for(100);
    cluster.put(0, "k", "v", Consistency::Quorum).expect_stored();
    cluster.heal();
    assert_eq!(cluster.stored_at(2, "k"), [""; 0]);
    assert_eq!(values(&cluster.get(2, "k", Consistency::Quorum)), ["v"], "it asks others before it answers");
    cluster.run_until(2_000, "the replica is repaired", |cluster| cluster.stored_at(2, "k") == ["v"]);
}

#[test]
fn two_blind_writers_make_siblings_until_one_who_saw_both_writes() {
    let mut cluster = Cluster::settled(5, 3, 3);
    cluster.put(0, "k", "a", Consistency::All).expect_stored();
    let second = cluster.put(1, "k", "b", Consistency::All).expect_stored();
    let found = cluster.get(2, "k", Consistency::Quorum);
    assert_eq!(values(&found), ["a", "b"]);
    let seen = Stored { context: found.context, ..second };
    cluster.put_with(2, "k", "c", Some(seen), Consistency::All).expect_stored();
    assert!((0..3).all(|node| cluster.stored_at(node, "k") == ["c"]));
}

#[test]
fn a_restart_keeps_everything() {
    let mut cluster = Cluster::settled(6, 3, 3);
    cluster.put(0, "k", "v", Consistency::All).expect_stored();
    let digest = cluster.node(0).unwrap().history_digest();
    (0..3).for_each(|node| cluster.crash(node, 20));
    cluster.run_for(100);
    cluster.heal();
    assert_eq!(cluster.node(0).unwrap().history_digest(), digest, "nobody founds or joins a second time");
    assert_eq!(values(&cluster.get(1, "k", Consistency::All)), ["v"]);
    cluster.put(0, "k", "after", Consistency::All).expect_stored();
    assert_eq!(values(&cluster.get(1, "k", Consistency::All)), ["after", "v"]);
}

#[test]
fn a_write_that_was_never_committed_is_gone_and_was_never_acknowledged() {
    let mut cluster = Cluster::settled(7, 3, 3);
    let put = Put {
        key: key_of("k"),
        value: Value::new(b"v").unwrap(),
        context: None,
        op: OpId([1; 16]),
        w: Consistency::One,
        scope: Scope::Sloppy,
        ttl_ms: None,
        budget_ms: 1_000,
    };
    let number = cluster.submit(0, ClientRequest::Put(put)).unwrap();
    cluster.crash(0, 20);
    assert!(matches!(cluster.outcomes.pop_front(), Some(Outcome::Unknown(unknown)) if unknown == number));
    cluster.run_for(500);
    cluster.heal();
    assert_eq!(values(&cluster.get(0, "k", Consistency::All)), [""; 0]);
}

#[test]
fn a_failed_commit_is_said_and_the_next_write_goes_well() {
    let mut cluster = Cluster::settled(8, 1, 3);
    cluster.machines[0].store.fail_next_commit(StoreError::Failed { detail: "broken".to_owned() });
    let failure = cluster.put(0, "k", "v", Consistency::One).expect_failed();
    assert!(matches!(failure, Failure::StoreFailed { maybe_stored: true, .. }), "{failure:?}");
    assert!(cluster.was_told(0, |event| matches!(event, Event::StoreFailed { .. })));
    cluster.put(0, "k", "w", Consistency::One).expect_stored();
    assert_eq!(cluster.stored_at(0, "k"), ["w"]);
}

#[test]
fn a_founding_that_could_not_be_stored_is_tried_again() {
    let mut cluster = Cluster::new(9, &Setup::sound(1, 3));
    cluster.start(0);
    cluster.run_for(500);
    cluster.machines[0].store.fail_next_commit(StoreError::Failed { detail: "broken".to_owned() });
    cluster.run_until(5_000, "it has founded", checker::is_settled);
    assert!(cluster.was_told(0, |event| matches!(event, Event::StoreFailed { .. })));
    assert_eq!(cluster.founders(), 1, "a founding is told of once it is stored");
}

#[test]
fn a_node_that_hears_but_is_not_heard_costs_the_others_nothing() {
    let mut cluster = Cluster::settled(10, 3, 3);
    cluster.cut(2, 0);
    cluster.cut(2, 1);
    // Nobody has noticed yet: the third is asked, and does not answer.
    cluster.put(0, "k", "v", Consistency::Quorum).expect_stored();
    assert_eq!(values(&cluster.get(1, "k", Consistency::Quorum)), ["v"]);
    let failure = cluster.put(2, "k", "w", Consistency::Quorum).expect_failed();
    assert!(failure.maybe_stored(), "its words did not arrive, but it cannot know: {failure:?}");
    cluster.heal();
    assert_eq!(values(&cluster.get(0, "k", Consistency::All)), ["v", "w"]);
}

#[test]
fn a_cut_that_nobody_reports_is_noticed_by_its_silence() {
    let mut cluster = Cluster::settled(21, 3, 3);
    cluster.run_for(3_000);
    cluster.cut_silently(0, 2);
    cluster.run_until(6_000, "0 gives 2 up", |cluster| !sees(cluster, 0, 2) && !sees(cluster, 2, 0));
    assert!(sees(&cluster, 1, 2) && sees(&cluster, 1, 0), "what others see is their own affair");
    cluster.heal();
    cluster.run_until(10_000, "they find each other again", |cluster| sees(cluster, 0, 2) && sees(cluster, 2, 0));
}

#[test]
fn a_computer_that_stood_still_blames_nobody() {
    let mut cluster = Cluster::settled(22, 3, 3);
    cluster.run_for(3_000);
    // One by one, so that nobody else has given it up meanwhile and closed the connection.
    cluster.machines[2].paused_until_ms = cluster.now_ms + 2_000;
    cluster.run_for(2_010);
    assert!(sees(&cluster, 2, 0) && sees(&cluster, 2, 1) && sees(&cluster, 0, 2));

    cluster.machines[2].paused_until_ms = cluster.now_ms + 60_000;
    cluster.run_for(10_000);
    assert!(!sees(&cluster, 0, 2) && sees(&cluster, 0, 1), "whoever is silent is given up");
    cluster.run_for(52_000);
    cluster
        .run_until(10_000, "it is back", |cluster| sees(cluster, 0, 2) && sees(cluster, 2, 0) && sees(cluster, 2, 1));
}

#[test]
fn the_minority_of_a_cut_cannot_reach_a_quorum_and_says_so() {
    let mut cluster = Cluster::settled(11, 3, 3);
    cluster.isolate(2);
    let failure = cluster.put(2, "k", "w", Consistency::Quorum).expect_failed();
    assert_eq!(failure, Failure::QuorumNotMet { acks: 1, needed: 2, maybe_stored: true });
    cluster.put(0, "k", "v", Consistency::Quorum).expect_stored();
    cluster.heal();
    assert_eq!(values(&cluster.get(0, "k", Consistency::All)), ["v", "w"]);
    cluster.run_until(2_000, "repair levels the replicas", |cluster| checker::differing_replicas(cluster).is_none());
}

#[test]
fn a_fresh_node_that_was_told_whom_to_join_never_founds() {
    let mut cluster = Cluster::new(12, &Setup::sound(2, 3));
    cluster.machines[1].seeds = vec![0];
    cluster.machines[1].config.seed_count = 1;
    cluster.machines[1].config.founding = Founding::Never;
    cluster.start(1);
    cluster.run_for(120_000);
    assert_eq!(cluster.founders(), 0);
    let failure = cluster.put(1, "k", "v", Consistency::One).expect_failed();
    assert!(matches!(failure, Failure::Unavailable { .. }), "{failure:?}");

    cluster.start(0);
    cluster.run_until(20_000, "it has joined", checker::is_settled);
    assert_eq!(cluster.founders(), 1);
    assert!(!cluster.was_told(1, |event| matches!(event, Event::Founded(_))));
}

#[test]
fn founders_with_other_parameters_refuse_each_other_and_say_so() {
    let mut cluster = Cluster::new(13, &Setup::sound(2, 3));
    cluster.machines[1].config.parameters = Parameters { partitions: PartitionCount::new(32).unwrap(), replicas: 3 };
    isolate(&mut cluster, 0);
    cluster.start(0);
    cluster.start(1);
    cluster.run_for(5_000);
    heal(&mut cluster);
    cluster.run_for(10_000);
    for node in 0..2 {
        assert!(cluster.was_told(node, |event| matches!(event, Event::HistoryRefused { .. })), "node {node}");
        assert_eq!(cluster.node(node).unwrap().view().members.len(), 1);
        assert!(matches!(checker::difference(&cluster), Some(Violation::HistoriesDiffer { .. })));
    }
}

#[test]
fn a_disk_from_before_the_last_start_is_noticed_by_peers() {
    let mut cluster = Cluster::settled(14, 3, 3);
    let old = cluster.machines[0].store.snapshot();
    cluster.restart(0);
    cluster.heal();
    cluster.run_for(3_000);
    cluster.restart(0);
    cluster.heal();
    cluster.run_for(3_000);

    cluster.crash(0, 20);
    cluster.machines[0].store.restore(&old);
    cluster.run_for(100);
    cluster.heal();
    cluster.run_for(3_000);
    assert!(cluster.was_told(0, |event| matches!(event, Event::StoreIsOld { .. })));
}

#[test]
fn a_request_passes_from_any_node_to_the_row_of_its_key() {
    let mut cluster = Cluster::settled(15, 5, 2);
    for node in 0..5 {
        let stored = cluster.put(node, &format!("k{node}"), "v", Consistency::All).expect_stored();
        assert_eq!(stored.acks, 2);
        let holders = (0..5).filter(|holder| cluster.stored_at(*holder, &format!("k{node}")) == ["v"]).count();
        assert_eq!(holders, 2);
    }
}

#[test]
fn nodes_that_start_a_minute_late_still_join() {
    let mut cluster = Cluster::new(16, &Setup::sound(3, 3));
    cluster.start(0);
    cluster.run_for(60_000);
    cluster.start(1);
    cluster.start(2);
    cluster.run_until(20_000, "all are members", checker::is_settled);
    assert_eq!(cluster.founders(), 1);
}

#[test]
fn histories_whose_first_comparison_was_lost_are_compared_again() {
    let mut cluster = Cluster::new(17, &Setup::sound(3, 3));
    cluster.network.weather.loss_permille = 1_000;
    (0..3).for_each(|node| cluster.start(node));
    cluster.run_for(10_000);
    assert_eq!(cluster.founders(), 3, "connected, they heard nothing of each other");
    cluster.network.weather = Weather::FAIR;
    cluster.run_until(10_000, "all are members", checker::is_settled);
}

#[test]
fn a_disk_from_before_the_last_start_mints_no_old_dots_even_before_a_peer_is_heard() {
    let mut cluster = Cluster::settled(18, 3, 3);
    let old = cluster.machines[0].store.snapshot();
    cluster.restart(0);
    cluster.heal();
    cluster.put(0, "k", "a", Consistency::All).expect_stored();

    cluster.crash(0, 20);
    cluster.machines[0].store.restore(&old);
    isolate(&mut cluster, 0);
    cluster.start(0);
    cluster.put(0, "k", "b", Consistency::One).expect_stored();
    cluster.heal();
    let is_noticed = |cluster: &Cluster| cluster.was_told(0, |event| matches!(event, Event::StoreIsOld { .. }));
    cluster.run_until(20_000, "the disk is known to be old", is_noticed);
    cluster.run_until(20_000, "the old disk can be trusted again", |cluster| cluster.doubted_partitions() == 0);
    assert_eq!(values(&cluster.get(1, "k", Consistency::All)), ["a", "b"]);
}
