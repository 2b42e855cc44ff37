//! A small cluster to test the answers with.

use libp2p::identity::Keypair;

use crate::{
    digest::Digest,
    ident::{Name, NodeId},
    membership::{
        change::{ChangeKind, Parameters, Profile, Signer, Statement},
        history::History,
        view::View,
    },
    ring::{Ring, RingMember, partition_set::PartitionSet, token::PartitionCount},
    runtime::identity,
    wire::{
        administration::{ExchangeReport, RepairScope, RepairStatus},
        client::{MemberStatus, Reach, Status},
    },
};

/// The node with this number; always the same, and a sound public key.
pub(crate) fn node(number: u8) -> NodeId {
    let keypair = Keypair::ed25519_from_bytes([number + 1; 32]).unwrap();
    identity::node_id(&keypair.public().to_peer_id()).unwrap()
}

/// The ring of so many nodes: 16 partitions, 3 replicas.
pub(crate) fn ring(count: usize) -> Ring {
    let member = |number| RingMember { id: node(number), placement: node(number), zone: None, weight: 1 };
    let members = (0..u8::try_from(count).unwrap()).map(member).collect();
    Ring::new(members, PartitionCount::new(16).unwrap(), 3)
}

/// A view without members that has the ring of so many nodes.
pub(crate) fn view(count: usize) -> View {
    let mut view = View::fold(&History::new(Name::new("quorate").unwrap()));
    view.ring = Some(ring(count).into());
    view
}

/// The view of a cluster of so many members that hold all they are to hold.
pub(crate) fn settled_view(count: usize) -> View {
    View::fold(&settled(count))
}

/// The same of three, and a fourth that has joined and has filled nothing.
pub(crate) fn growing_view() -> View {
    let mut history = settled(3);
    say(3, joined(3), &mut history);
    View::fold(&history)
}

fn settled(count: usize) -> History {
    let mut history = History::new(Name::new("quorate").unwrap());
    let partitions = PartitionCount::new(16).unwrap();
    say(0, ChangeKind::Founded(Parameters { partitions, replicas: 3 }), &mut history);
    let numbers = 0..u8::try_from(count).unwrap();
    numbers.clone().for_each(|number| say(number, joined(number), &mut history));
    let label = View::fold(&history).label;
    let statement = Statement { label, partitions: PartitionSet::new(partitions, partitions.iter()) };
    numbers.for_each(|number| say(number, ChangeKind::Filled(statement.clone()), &mut history));
    say(0, ChangeKind::Retired(statement), &mut history);
    history
}

fn say(number: u8, kind: ChangeKind, history: &mut History) {
    let change = history.next_change(&Signer::from_seed([number + 1; 32]), kind);
    history.insert(change).unwrap();
}

fn joined(number: u8) -> ChangeKind {
    let name = Name::new(&format!("node-{number}")).unwrap();
    ChangeKind::Joined(Profile { name, zone: None, weight: 1, addresses: Vec::new() })
}

/// What node 0 says of a cluster whose members are in these states.
pub(crate) fn status(states: &[Reach]) -> Status {
    let member = |(number, &state): (u8, &Reach)| MemberStatus {
        node: node(number),
        profile: Profile {
            name: Name::new(&format!("node-{number}")).unwrap(),
            zone: None,
            weight: 1,
            addresses: vec![format!("/ip4/127.0.0.1/tcp/{}", 4001 + u16::from(number))],
        },
        state,
        is_leaving: false,
    };
    Status {
        node: node(0),
        cluster: Name::new("quorate").unwrap(),
        parameters: Some(Parameters { partitions: PartitionCount::new(16).unwrap(), replicas: 3 }),
        members: (0..).zip(states).map(member).collect(),
        change_count: 4,
        history: Digest([7; 32]),
        held_partitions: 16,
        owned_partitions: 5,
        key_count: 100,
        key_bytes: 409_600,
        commit_count: 10,
        write_count: 40,
        damaged_count: 0,
        store_failure: None,
        hint_count: 0,
        hint_bytes: 0,
        marked_partitions: 0,
        filling_partitions: 0,
        filled_partitions: 0,
        filling_ms: 0,
        filling_keys: 0,
        filling_bytes: 0,
        exchange_bytes_per_second: 1_000,
        leftover_partitions: 0,
        unsettled_partitions: 0,
        pairs: Vec::new(),
        alert_count: 0,
        counters: Vec::new(),
    }
}

/// A repair of everything with two others that is over.
pub(crate) fn repair(number: u64) -> RepairStatus {
    RepairStatus {
        number,
        scope: RepairScope::Everything,
        peers_total: 2,
        peers_done: 2,
        partitions_total: 16,
        partitions_done: 16,
        taken: 5,
        given: 3,
        bytes: 4_096,
        lasted_ms: 1_500,
        is_over: true,
        failed: Vec::new(),
        trace: Vec::new(),
    }
}

/// What a node tells of exchanges that was never asked for any.
pub(crate) fn report() -> ExchangeReport {
    ExchangeReport { pairs: Vec::new(), under_way: 0, repair: None, check: None }
}
