//! Stories of members that leave, all of them at once among others.

use quorate::{
    config::Founding,
    membership::roster::Standing,
    node::effect::Stop,
    wire::{
        administration::{Force, MembershipOrder, Order},
        client::{ClientRequest, Consistency},
    },
};

use crate::{
    checker,
    cluster::{Cluster, Setup},
    stage::values,
};

/// Gives `node` an order, and does not wait for the answer.
fn order(cluster: &mut Cluster, node: usize, order: MembershipOrder) {
    cluster.submit(node, ClientRequest::Administer(Order::Membership(order))).expect("the node is up");
}

/// Tells these to leave at the same moment.
fn send_away(cluster: &mut Cluster, nodes: &[usize]) {
    nodes.iter().for_each(|node| order(cluster, *node, MembershipOrder::Leave));
}

/// Waits until just these serve, and each partition is held by its row alone.
#[track_caller]
fn settle(cluster: &mut Cluster, members: &[usize]) {
    let members = members.to_vec();
    cluster.run_until(120_000, "what has changed has come to its end", move |cluster| {
        let knows_all = |node: &usize| {
            let view = cluster.node(*node).map(|node| node.view());
            view.is_some_and(|view| view.members.len() == members.len() && view.unsettled().count() == 0)
        };
        members.iter().all(knows_all) && checker::unsettled_partition(cluster).is_none()
    });
    cluster.run_for(3_000);
}

fn has_left(cluster: &Cluster, node: usize) -> bool {
    cluster.machines[node].ended == Some(Stop::Left)
}

#[test]
fn of_all_that_are_told_to_leave_at_once_one_stays_with_everything() {
    for (seed, count) in [(90, 2), (91, 3), (92, 3), (93, 4)] {
        let mut cluster = Cluster::settled(seed, count, 3);
        for number in 0..20 {
            cluster.put(0, &format!("k{number}"), "v", Consistency::Quorum).expect_stored();
        }
        let all: Vec<usize> = (0..count).collect();
        send_away(&mut cluster, &all);
        let others_have_left =
            |cluster: &Cluster| (0..count).filter(|node| has_left(cluster, *node)).count() == count - 1;
        cluster.run_until(300_000, "all but one have left", others_have_left);
        cluster.run_for(20_000);
        let last = (0..count).find(|node| !has_left(&cluster, *node)).expect("one stays");
        let view = cluster.node(last).expect("it is up").view();
        let standings: Vec<Standing> = view.members.values().map(|member| member.standing).collect();
        assert_eq!(standings, [Standing::Leaving], "seed {seed}");
        for number in 0..20 {
            assert_eq!(values(&cluster.get(last, &format!("k{number}"), Consistency::Quorum)), ["v"], "seed {seed}");
        }
    }
}

#[test]
fn the_last_that_would_go_goes_once_somebody_comes() {
    let mut cluster = Cluster::new(94, &Setup::sound(3, 3));
    (0..2).for_each(|node| cluster.start(node));
    cluster.run_until(30_000, "two are members", |cluster| {
        let is_whole = |node: usize| cluster.node(node).is_some_and(|it| it.view().unsettled().count() == 0);
        let knows_both = |node: usize| cluster.node(node).is_some_and(|it| it.view().members.len() == 2);
        (0..2).all(|node| is_whole(node) && knows_both(node))
    });
    cluster.put(0, "k", "v", Consistency::Quorum).expect_stored();
    send_away(&mut cluster, &[0, 1]);
    cluster.run_until(120_000, "one of two has left", |cluster| has_left(cluster, 0) || has_left(cluster, 1));
    cluster.start(2);
    cluster.run_until(120_000, "the other has left", |cluster| has_left(cluster, 0) && has_left(cluster, 1));
    assert_eq!(values(&cluster.get(2, "k", Consistency::Quorum)), ["v"]);
}

#[test]
fn no_stored_hash_is_computed_again_whoever_comes_or_goes() {
    let mut cluster = Cluster::new(95, &Setup::sound(6, 3));
    (0..3).for_each(|node| cluster.start(node));
    settle(&mut cluster, &[0, 1, 2]);
    for number in 0..100 {
        cluster.put(0, &format!("k{number}"), "v", Consistency::All).expect_stored();
    }
    (3..5).for_each(|node| cluster.start(node));
    settle(&mut cluster, &[0, 1, 2, 3, 4]);
    send_away(&mut cluster, &[0]);
    settle(&mut cluster, &[1, 2, 3, 4]);
    let [removed, replaced, heir] = [1, 2, 5].map(|node| cluster.machines[node].id);
    cluster.crash(1, 20);
    cluster.run_for(10_000);
    order(&mut cluster, 2, MembershipOrder::Remove { node: removed, force: Force::No });
    settle(&mut cluster, &[2, 3, 4]);
    cluster.crash(2, 20);
    cluster.run_for(10_000);
    order(&mut cluster, 3, MembershipOrder::Replace { old: replaced, new: heir, force: Force::No });
    cluster.machines[5].config.founding = Founding::Never;
    cluster.start(5);
    settle(&mut cluster, &[3, 4, 5]);
    let mut taken = 0;
    for node in 3..6 {
        let counters = cluster.node(node).expect("it is up").counters();
        assert_eq!((counters.items_rehashed, counters.buckets_mended), (0, 0), "node {node}");
        taken += counters.items_taken;
    }
    assert!(taken >= 300, "{taken} keys moved");
    for number in 0..100 {
        assert_eq!(values(&cluster.get(5, &format!("k{number}"), Consistency::Quorum)), ["v"]);
    }
}
