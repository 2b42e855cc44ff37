//! What the stories do and look at.

use quorate::{
    ident::{Key, OpId, Value},
    membership::liveness::Opinion,
    node::effect::Event,
    wire::client::{ClientRequest, ClientResponse, Consistency, Failure, Found, Get, Put, ReadFrom, Scope, Stored},
};

use crate::{
    checker,
    cluster::{Cluster, Outcome, Setup},
    faults::{heal, isolate},
};

/// The answer to a write, with what a story expects of it.
pub(crate) struct Written(ClientResponse);

impl Written {
    #[track_caller]
    pub(crate) fn expect_stored(self) -> Stored {
        match self.0 {
            ClientResponse::Stored(stored) => stored,
            other => panic!("not stored: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn expect_failed(self) -> Failure {
        match self.0 {
            ClientResponse::Failed(failure) => failure,
            other => panic!("did not fail: {other:?}"),
        }
    }
}

impl Cluster {
    /// So many nodes that have become one cluster.
    #[track_caller]
    pub(crate) fn settled(seed: u64, nodes: usize, replicas: u8) -> Cluster {
        Cluster::settled_with(seed, &Setup::sound(nodes, replicas))
    }

    /// The same, set up otherwise.
    #[track_caller]
    pub(crate) fn settled_with(seed: u64, setup: &Setup) -> Cluster {
        let mut cluster = Cluster::new(seed, setup);
        (0..setup.nodes).for_each(|index| cluster.start(index));
        cluster.run_until(20_000, "all are members", checker::is_settled);
        cluster
    }

    #[track_caller]
    pub(crate) fn run_for(&mut self, duration_ms: u64) {
        let end_ms = self.now_ms + duration_ms;
        while self.now_ms < end_ms {
            self.step();
        }
        assert_eq!(self.checker.violation(), None);
    }

    #[track_caller]
    pub(crate) fn run_until(&mut self, limit_ms: u64, what: &str, is_so: impl Fn(&Cluster) -> bool) {
        let end_ms = self.now_ms + limit_ms;
        while !is_so(self) {
            assert!(self.now_ms < end_ms, "not within {limit_ms} ms: {what}");
            self.step();
        }
        assert_eq!(self.checker.violation(), None);
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, node: usize, request: ClientRequest) -> ClientResponse {
        self.try_ask(node, request).expect("the node stays up")
    }

    /// Nothing if the node is down, or goes down meanwhile.
    pub(crate) fn try_ask(&mut self, node: usize, request: ClientRequest) -> Option<ClientResponse> {
        let number = self.submit(node, request)?;
        loop {
            while let Some(outcome) = self.outcomes.pop_front() {
                match outcome {
                    Outcome::Replied(replied, response) if replied == number => return Some(response),
                    Outcome::Unknown(unknown) if unknown == number => return None,
                    Outcome::Replied(..) | Outcome::Unknown(_) | Outcome::Woken(_) => {}
                }
            }
            self.step();
        }
    }

    pub(crate) fn put_with(
        &mut self,
        node: usize,
        key: &str,
        value: &str,
        context: Option<Stored>,
        w: Consistency,
    ) -> Written {
        let put = self.put_request(key, value, context, w);
        Written(self.ask(node, put))
    }

    pub(crate) fn put_request(
        &mut self,
        key: &str,
        value: &str,
        context: Option<Stored>,
        w: Consistency,
    ) -> ClientRequest {
        let mut op = [0; 16];
        op.copy_from_slice(&self.dice.bytes()[..16]);
        let context = context.map(|stored| stored.context);
        let value = Value::new(value.as_bytes()).expect("a value");
        ClientRequest::Put(Put {
            key: key_of(key),
            value,
            context,
            op: OpId(op),
            w,
            scope: Scope::Sloppy,
            ttl_ms: None,
            budget_ms: 5_000,
        })
    }

    pub(crate) fn put(&mut self, node: usize, key: &str, value: &str, w: Consistency) -> Written {
        self.put_with(node, key, value, None, w)
    }

    #[track_caller]
    pub(crate) fn get(&mut self, node: usize, key: &str, r: Consistency) -> Found {
        let get = Get { key: key_of(key), from: ReadFrom::Row(r), scope: Scope::Sloppy, budget_ms: 5_000 };
        match self.ask(node, ClientRequest::Get(get)) {
            ClientResponse::Found(found) => found,
            other => panic!("not found: {other:?}"),
        }
    }

    /// What the disk of a node holds under `key`, sorted.
    pub(crate) fn stored_at(&self, node: usize, key: &str) -> Vec<String> {
        let object = self.machines[node].object(&key_of(key));
        sorted(object.siblings().iter().map(|sibling| sibling.value.clone()))
    }

    pub(crate) fn restart(&mut self, node: usize) {
        self.crash(node, 20);
        self.run_for(50);
        self.start(node);
    }

    /// Both ways to the others are closed, and both sides have noticed.
    pub(crate) fn isolate(&mut self, node: usize) {
        isolate(self, node);
        self.run_for(4_000);
    }

    pub(crate) fn heal(&mut self) {
        heal(self);
        self.run_until(20_000, "all are one again", |cluster| {
            let count = cluster.machines.len();
            let is_linked =
                |one: usize| (0..count).all(|other| one == other || cluster.network.believed(one, other).is_some());
            (0..count).all(is_linked) && checker::is_settled(cluster)
        });
    }

    pub(crate) fn was_told(&self, node: usize, is_it: impl Fn(&Event) -> bool) -> bool {
        self.told.iter().any(|(told, event)| *told == node && is_it(event))
    }

    pub(crate) fn founders(&self) -> usize {
        self.told.iter().filter(|(_, event)| matches!(event, Event::Founded(_))).count()
    }
}

pub(crate) fn key_of(key: &str) -> Key {
    Key::new(key.as_bytes()).expect("a key")
}

pub(crate) fn sorted(values: impl Iterator<Item = Value>) -> Vec<String> {
    let mut values: Vec<String> =
        values.map(|value| String::from_utf8(value.as_bytes().to_vec()).expect("a text")).collect();
    values.sort();
    values
}

pub(crate) fn values(found: &Found) -> Vec<String> {
    sorted(found.siblings.iter().map(|sibling| sibling.value.clone()))
}

/// Whether `node` takes `peer` for reachable.
pub(crate) fn sees(cluster: &Cluster, node: usize, peer: usize) -> bool {
    let now = cluster.machines[node].now(cluster.now_ms);
    cluster.node(node).is_some_and(|node| node.opinion(now, &cluster.machines[peer].id) != Opinion::Down)
}
