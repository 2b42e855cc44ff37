//! Stories of identities that were copied, and of changes that nobody honest would sign.

use quorate::{
    membership::change::{Change, ChangeKind, Profile},
    node::effect::{Event, News},
    wire::{
        administration::{AlertKind, Force, MembershipOrder, Order},
        client::{ClientRequest, Consistency},
    },
};

use crate::{cluster::Cluster, faults::isolate, forgeries::announce, stage::values};

/// What a copy of the disk of `node` says next, of another weight.
fn said_by_copy(cluster: &Cluster, node: usize, weight: u16) -> Change {
    let machine = &cluster.machines[node];
    let profile = Profile { weight, ..machine.config.profile.clone() };
    machine.history().next_change(machine.signer(), ChangeKind::Updated(profile))
}

fn is_alerted(cluster: &Cluster, node: usize, about: usize) -> bool {
    let kind = AlertKind::Forked(cluster.machines[about].id);
    cluster.was_told(node, |event| matches!(event, Event::AlertRaised(alert) if alert.kind == kind))
}

/// Node 2 has told nodes 1 and 3 something, and a copy of its disk something else to node 0.
#[track_caller]
fn forked(seed: u64) -> Cluster {
    let mut cluster = Cluster::settled(seed, 4, 3);
    cluster.put(0, "k", "v", Consistency::All).expect_stored();
    let of_copy = said_by_copy(&cluster, 2, 3);
    isolate(&mut cluster, 0);
    cluster.run_for(4_000);
    let addresses = vec!["/ip4/10.0.0.2/tcp/1".to_owned()];
    cluster.input(2, |node, now| node.handle_news(now, News::Listening(addresses)));
    announce(&mut cluster, 2, 0, of_copy);
    cluster.run_for(2_000);
    let digest = |node: usize| cluster.node(node).expect("it is up").history_digest();
    assert!(digest(1) == digest(2) && digest(0) != digest(1), "they know different branches, and nobody both");
    assert!((0..4).all(|node| !is_alerted(&cluster, node, 2)));
    cluster
}

#[test]
fn a_copied_identity_that_forks_ends_in_one_history_and_people_are_told() {
    for seed in 80..84 {
        let mut cluster = forked(seed);
        cluster.heal();
        let forked = cluster.machines[2].id;
        for node in 0..4 {
            let view = cluster.node(node).unwrap().view();
            assert!(view.forked.contains(&forked));
            assert_eq!(view, cluster.node(0).unwrap().view(), "equal sets, equal views");
        }
        cluster.run_until(2_000, "all are told", |cluster| (0..4).all(|node| is_alerted(cluster, node, 2)));
        assert_eq!(values(&cluster.get(1, "k", Consistency::All)), ["v"]);
        cluster.put(0, "k2", "w", Consistency::All).expect_stored();

        // The alert and both branches outlive a restart.
        let digest = cluster.node(1).unwrap().history_digest();
        assert_eq!(cluster.machines[1].history().digest(), digest);
        cluster.told.clear();
        cluster.restart(1);
        cluster.run_until(5_000, "it is told again", |cluster| is_alerted(cluster, 1, 2));
        cluster.heal();
    }
}

#[test]
fn the_alert_of_a_fork_ends_when_its_author_is_removed() {
    let mut cluster = forked(85);
    cluster.heal();
    cluster.run_until(2_000, "all are told", |cluster| (0..4).all(|node| is_alerted(cluster, node, 2)));
    let node = cluster.machines[2].id;
    cluster.crash(2, 20);
    let order = Order::Membership(MembershipOrder::Remove { node, force: Force::Yes });
    cluster.ask(0, ClientRequest::Administer(order));
    cluster.run_until(10_000, "the alert is over", |cluster| {
        let is_over =
            |event: &Event| matches!(event, Event::AlertCleared(alert) if alert.kind == AlertKind::Forked(node));
        [0, 1, 3].into_iter().all(|other| cluster.was_told(other, is_over))
    });
    assert!(!cluster.node(0).unwrap().view().members.contains_key(&node));
}
