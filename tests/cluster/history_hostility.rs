//! A member that tells changes which nobody honest would sign, over real sockets: nothing of it is kept, and it is not heard for a
//! while.

use std::path::Path;

use async_std::{future::timeout, task::block_on};
use quorate::{
    membership::change::{Change, ChangeKind, Profile},
    runtime::handle::Handle,
    wire::{client::Consistency, quorum::Response},
};

use crate::{
    harness::{PATIENCE, TestNode, cluster, get, put, status, wait_until_seen},
    mole::{Mole, Standing},
};

/// About as many as a frame takes.
const FLOOD: usize = 40_000;

async fn counter(handle: &Handle, name: &str) -> u64 {
    let counters = status(handle).await.counters;
    counters.into_iter().find(|(known, _)| known == name).map(|(_, count)| count).expect("it is counted")
}

/// Two honest nodes, and a liar who is a member and connected with the first.
async fn town(dir: &Path) -> (Vec<TestNode>, Mole) {
    let nodes = cluster(dir, 2).await;
    let mole = Mole::meet(&nodes[0], Standing::Member).await;
    // It fills nothing, ever.
    wait_until_seen(&nodes[0].running.handle(), 3).await;
    (nodes, mole)
}

fn sound(mole: &Mole) -> Change {
    let mut profile = mole.view.members[&mole.id].profile.clone();
    profile = Profile { weight: 2, ..profile };
    mole.history.next_change(&mole.signer, ChangeKind::Updated(profile))
}

async fn check(what: &str, forge: impl FnOnce(&Mole) -> Vec<Change>, expected: u64) {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, mole) = town(dir.path()).await;
    let handle = nodes[0].running.handle();
    let mut changes = forge(&mole);
    let answer = mole.tell(changes.clone()).await;
    assert!(matches!(answer, Response::Reconciled(_)), "{what}: {answer:?}");
    assert_eq!(counter(&handle, "changes_refused").await, expected, "{what}");
    assert_eq!(counter(&handle, "history_offences").await, 1, "{what}");
    // One is enough, and is there before the penalty is over, however long many take on their way.
    changes.truncate(1);
    let answer = mole.tell(changes).await;
    assert!(matches!(answer, Response::Refused(_)), "{what}: {answer:?}");
    assert!(counter(&handle, "offenders_refused").await > 0, "{what}");

    // It changed nothing, and nobody else suffers.
    let members = status(&handle).await.members;
    let of_mole = members.iter().find(|member| member.node == mole.id).expect("it is a member still");
    assert_eq!(of_mole.profile.weight, 1, "{what}");
    put(&handle, "k", "v", Consistency::Quorum).await;
    assert_eq!(get(&nodes[1].running.handle(), "k", Consistency::Quorum).await, ["v"], "{what}");
}

#[test]
fn a_forgery_that_is_announced_goes_no_further_and_costs_its_sender_its_audience() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let (nodes, mole) = town(dir.path()).await;
        let handles = [nodes[0].running.handle(), nodes[1].running.handle()];
        mole.announce(Change { lamport: 1_000, ..sound(&mole) }).await;
        let punished = async {
            while counter(&handles[0], "history_offences").await == 0 {
                async_std::task::yield_now().await;
            }
        };
        timeout(PATIENCE, punished).await.expect("it is noticed in time");
        assert!(matches!(mole.tell(vec![sound(&mole)]).await, Response::Refused(_)));
        assert!(counter(&handles[0], "offenders_refused").await > 0);
        assert_eq!(counter(&handles[0], "history_offences").await, 1);
        put(&handles[0], "k", "v", Consistency::Quorum).await;
        assert_eq!(get(&handles[1], "k", Consistency::Quorum).await, ["v"]);
        assert_eq!(counter(&handles[1], "changes_refused").await, 0, "it was passed on");
        assert_eq!(counter(&handles[1], "history_offences").await, 0, "whoever passed it on was accused");
    });
}

#[test]
fn a_change_with_a_wrong_signature_costs_its_sender_its_audience() {
    let forge = |mole: &Mole| vec![Change { lamport: 1_000, ..sound(mole) }];
    block_on(check("a signature of something else", forge, 1));
}

#[test]
fn a_flood_of_changes_is_given_up_whole() {
    let forge = |mole: &Mole| vec![sound(mole); FLOOD];
    block_on(check("more than a message takes", forge, FLOOD as u64));
}

#[test]
fn a_history_that_does_not_chain_costs_its_sender_its_audience() {
    let forge = |mole: &Mole| {
        let change = sound(mole);
        let previous = Some(change.digest());
        vec![Change::sign(&mole.signer, change.cluster, change.sequence, previous, change.lamport, change.kind)]
    };
    block_on(check("a predecessor that there never was", forge, 1));
}
