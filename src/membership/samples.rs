//! Changes and histories for tests.

use crate::{
    ident::{ClusterId, Name, NodeId},
    membership::{
        change::{Change, ChangeKind, Parameters, Profile, Removal, Signer, Statement},
        history::{History, Inserted},
        view::View,
    },
    ring::{
        partition_set::PartitionSet,
        token::{Partition, PartitionCount},
    },
};

pub(crate) fn signer(number: u8) -> Signer {
    Signer::from_seed([number; 32])
}

pub(crate) fn joined(weight: u16) -> ChangeKind {
    let name = Name::new("ann").unwrap();
    ChangeKind::Joined(Profile { name, zone: None, weight, addresses: Vec::new() })
}

/// What an author says, one after the other, whether it makes sense or not.
pub(crate) fn chain<const N: usize>(author: u8, kinds: [ChangeKind; N]) -> Vec<Change> {
    let cluster = ClusterId::of(&Name::new("quorate").unwrap(), 8, 3);
    let mut changes: Vec<Change> = Vec::new();
    for (sequence, kind) in (0..).zip(kinds) {
        let previous = changes.last().map(Change::digest);
        changes.push(Change::sign(&signer(author), cluster, sequence, previous, 2 + sequence, kind));
    }
    changes
}

/// A cluster whose members all know everything at once. Members are numbered from 1.
pub(crate) struct Cluster {
    pub(crate) history: History,
}

impl Cluster {
    /// So many members, who hold everything.
    pub(crate) fn settled(count: u8) -> Cluster {
        let mut cluster = Cluster { history: History::new(Name::new("quorate").unwrap()) };
        cluster.found(1);
        (2..=count).for_each(|number| cluster.join(number));
        (1..=count).for_each(|number| cluster.fill(number));
        cluster.retire(1);
        cluster
    }

    pub(crate) fn partitions(&self) -> PartitionCount {
        PartitionCount::new(8).unwrap()
    }

    pub(crate) fn view(&self) -> View {
        View::fold(&self.history)
    }

    pub(crate) fn id(&self, number: u8) -> NodeId {
        signer(number).node_id()
    }

    pub(crate) fn number_of(&self, node: &NodeId) -> u8 {
        (1..=32).find(|number| self.id(*number) == *node).unwrap()
    }

    pub(crate) fn removal(&self, number: u8) -> Removal {
        let node = self.id(number);
        Removal { node, known: self.history.known_of(&node) }
    }

    #[track_caller]
    pub(crate) fn say(&mut self, number: u8, kind: impl FnOnce(&Cluster) -> ChangeKind) -> Change {
        let change = self.history.next_change(&signer(number), kind(self));
        assert_eq!(self.history.insert(change.clone()), Ok(Inserted::New));
        change
    }

    pub(crate) fn found(&mut self, number: u8) {
        let parameters = Parameters { partitions: self.partitions(), replicas: 3 };
        if self.history.is_empty() {
            self.say(number, |_| ChangeKind::Founded(parameters));
        } else {
            // It founded alone, and has come later.
            let mut alone = History::new(Name::new("quorate").unwrap());
            let founding = alone.next_change(&signer(number), ChangeKind::Founded(parameters));
            alone.insert(founding.clone()).unwrap();
            self.history.insert(founding).unwrap();
        }
        self.join(number);
    }

    pub(crate) fn join(&mut self, number: u8) {
        self.say(number, |_| joined(1));
    }

    /// It says of everything it is to hold that it does.
    pub(crate) fn fill(&mut self, number: u8) {
        let (view, id) = (self.view(), self.id(number));
        let wanted = view.partitions().filter(|partition| view.wants_filling(&id, *partition));
        let partitions = PartitionSet::new(self.partitions(), wanted);
        self.say(number, |_| ChangeKind::Filled(Statement { label: view.label, partitions }));
    }

    /// It says of everything that is established that nothing else is needed.
    pub(crate) fn retire(&mut self, number: u8) {
        let view = self.view();
        let is_established = |partition: &Partition| view.configurations.is_established(&view.label, *partition);
        let partitions = PartitionSet::new(self.partitions(), view.partitions().filter(is_established));
        self.say(number, |_| ChangeKind::Retired(Statement { label: view.label.clone(), partitions }));
    }
}
