//! Stories of members that leave, all of them at once among others.

use quorate::{
    membership::roster::Standing,
    node::effect::Stop,
    wire::{
        administration::{MembershipOrder, Order},
        client::{ClientRequest, Consistency},
    },
};

use crate::{
    cluster::{Cluster, Setup},
    stage::values,
};

/// Tells these to leave at the same moment.
fn send_away(cluster: &mut Cluster, nodes: &[usize]) {
    for node in nodes {
        let order = ClientRequest::Administer(Order::Membership(MembershipOrder::Leave));
        cluster.submit(*node, order).expect("the node is up");
    }
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
