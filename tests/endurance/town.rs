//! The nodes of a story: clients of them, their opinions of each other, and what they keep.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use async_io::Timer;
use async_std::task::block_on;
use libp2p::PeerId;
use quorate::{
    causality::{
        dot::Actor,
        seen::Seen,
        siblings::{NewValue, Object},
    },
    client::{Client, ClientConfig},
    clock::WallTime,
    ident::{Key, Name, NodeId, OpId, Value},
    ring::token::{PartitionCount, Token},
    runtime::identity,
};
use serde_json::Value as Json;

use crate::harness::{Home, LOOPBACK, Node};

/// A client that begins with these nodes and finds the others by itself.
pub(crate) fn client(nodes: &[&Node]) -> Client {
    let mut config = ClientConfig::lan(Name::new("quorate").unwrap());
    config.mdns = false;
    config.nodes = nodes.iter().map(|node| node.addresses[0].parse().unwrap()).collect();
    block_on(Client::connect(config)).unwrap()
}

/// A client whose home is this node.
pub(crate) fn resident(node: &Node) -> Client {
    let client = client(&[node]);
    assert_eq!(client.home(), id_of(node));
    client
}

pub(crate) fn id_of(node: &Node) -> NodeId {
    identity::node_id(&node.peer_id.parse::<PeerId>().unwrap()).unwrap()
}

pub(crate) fn key(text: &str) -> Key {
    Key::new(text.as_bytes()).unwrap()
}

/// How many bytes a key takes with its object, when it has one value.
pub(crate) fn object_bytes(key: &Key, value: &str) -> u64 {
    let mut object = Object::default();
    let (value, op) = (Value::new(value.as_bytes()).unwrap(), OpId([0xff; 16]));
    let new = NewValue { op, value, written_at: WallTime(1_700_000_000_000), expires_at: None };
    object.put(&Seen::default(), Actor { node: u64::MAX, epoch: 1_000 }, new);
    (key.as_bytes().len() + object.size_bytes()) as u64
}

/// Starts a node again on its data, and waits until it serves.
pub(crate) fn restart(home: &Home, node: &mut Node) {
    *node = home.start(&node.name.clone(), &LOOPBACK);
}

/// Tries until it is so, and fails with `what` when it takes too long. What it tries takes its own time.
#[track_caller]
pub(crate) fn wait(what: &str, within: Duration, mut is_so: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < within, "not within {within:?}: {what}");
    }
    begun.elapsed()
}

/// Lets a story go on for so long: a span of time is what it tells of.
pub(crate) fn let_pass(time: Duration) {
    block_on(Timer::after(time));
}

/// How `node` sees the cluster, as the command line tells it.
pub(crate) fn status(home: &Home, node: &Node) -> Json {
    home.ask(node, &["status"]).json()
}

/// The state of each member in the eyes of one, by name.
pub(crate) fn opinions(status: &Json) -> BTreeMap<String, String> {
    let members = status["members"].as_array().unwrap().iter();
    let text = |member: &Json, field: &str| member[field].as_str().unwrap().to_owned();
    members.map(|member| (text(member, "name"), text(member, "state"))).collect()
}

/// Waits until nobody keeps a hint for anybody. Returns how long that took.
#[track_caller]
pub(crate) fn wait_drained(home: &Home, nodes: &[&Node], within: Duration) -> Duration {
    wait("no hints are left", within, || nodes.iter().all(|node| status(home, node)["hints"]["count"] == 0))
}

/// The row of each partition, by peer id.
pub(crate) struct Rows(Vec<Vec<String>>);

impl Rows {
    /// As `node` tells them.
    pub(crate) fn of(home: &Home, node: &Node) -> Rows {
        let lines = home.ask(node, &["ring"]).expect(0, &[]).lines();
        let texts = |row: &Json| row.as_array().unwrap().iter().map(|peer| peer.as_str().unwrap().to_owned()).collect();
        Rows(lines.iter().map(|line| texts(&line["row"])).collect())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The partition of a key.
    pub(crate) fn partition_of(&self, key: &Key) -> usize {
        let partitions = PartitionCount::new(self.0.len().try_into().unwrap()).unwrap();
        usize::from(Token::of(key).partition(partitions).0)
    }

    /// The row of a partition.
    pub(crate) fn row_at(&self, partition: usize) -> &[String] {
        &self.0[partition]
    }

    /// The row of a key.
    pub(crate) fn row(&self, key: &Key) -> &[String] {
        self.row_at(self.partition_of(key))
    }

    /// All who are in some row.
    pub(crate) fn members(&self) -> BTreeSet<String> {
        self.0.iter().flatten().cloned().collect()
    }
}
