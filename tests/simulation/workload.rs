//! Clients that make trouble: blind and stale writes, hot keys, impatient retries, any coordinator, any quorum.
//!
//! Each client does one thing at a time. A write whose outcome is unknown is often retried, with the same operation
//! id, through another node. A share of the keys is **cold**: written once, and not looked at again until the end.

use std::collections::{BTreeMap, BTreeSet};

use quorate::{
    causality::{
        context::{Context, ContextKey},
        siblings::Object,
        version_vector::VersionVector,
    },
    ident::Key,
    wire::client::{
        ClientRequest, ClientResponse, Consistency, Delete, Failure, Found, Get, Put, ReadFrom, Scope, Stored,
    },
};

use crate::{
    checker::{Checker, Violation, has_deleted, primaries},
    cluster::{Cluster, Outcome, cluster_name},
    machine::Machine,
    model::{Demand, Model, WriteId, needed},
};

/// What is checked of answers as they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// No store is ever lost, and nobody joins: everything.
    Full,
    /// One store goes back in time: only what two stores held when it was acknowledged is owed.
    OneStoreLost,
    /// Members come and go before data can move: nothing is owed to clients.
    Unsettled,
    /// Members come and go: everything is owed, and strict quorums overlap.
    Changing,
    /// The same, and now and then a node is lost with its disk: only what two stores held when it was acknowledged is owed.
    ChangingAndLost,
}

impl Trust {
    /// Members come and go.
    fn is_changing(self) -> bool {
        matches!(self, Trust::Changing | Trust::ChangingAndLost)
    }
}

/// What is said when an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Nothing: there are faults.
    Endless,
    /// That it must not: a quorum of everything is up.
    None,
}

/// The clients of a run.
pub(crate) struct Workload {
    pub(crate) model: Model,
    pub(crate) operation_count: u64,
    trust: Trust,
    /// Members of a row.
    n: usize,
    clients: Vec<Client>,
    pending: BTreeMap<u64, (usize, Action)>,
    cold_count: u64,
    context_key: ContextKey,
    is_over: bool,
    pub(crate) patience: Patience,
    /// Islands have not become one yet: reads on one need not see what was written on another.
    pub(crate) is_merging: bool,
}

#[derive(Default)]
struct Client {
    /// Contexts it was given, the latest last.
    known: Vec<Known>,
    retry: Option<Action>,
}

/// A context, and what its owner has been shown.
#[derive(Clone)]
struct Known {
    key: Key,
    context: Context,
    shown: BTreeSet<WriteId>,
}

/// How many copies a write asks for, and whose.
#[derive(Debug, Clone, Copy)]
struct Asked {
    w: Consistency,
    scope: Scope,
}

#[derive(Clone)]
enum Action {
    Write { id: WriteId, request: ClientRequest, asked: Asked, shown: BTreeSet<WriteId>, attempts: u8 },
    Read { key: Key, demand: Demand, request: ClientRequest, somebody_knows: bool },
}

impl Workload {
    /// `client_count` clients of `cluster`, with rows of `n`. They begin at once.
    pub(crate) fn new(client_count: usize, n: usize, trust: Trust, cluster: &mut Cluster) -> Workload {
        for client in 0..client_count {
            let delay_ms = cluster.dice.below(50);
            cluster.wake(delay_ms, client as u64);
        }
        Workload {
            model: Model::default(),
            operation_count: 0,
            trust,
            n,
            clients: (0..client_count).map(|_| Client::default()).collect(),
            pending: BTreeMap::new(),
            cold_count: 0,
            context_key: ContextKey::of(&cluster_name(), None),
            is_over: false,
            patience: Patience::Endless,
            is_merging: false,
        }
    }

    /// What strict quorums have acknowledged of `key`: any strict quorum must have seen it.
    pub(crate) fn strict_demand(&self, key: &Key) -> Demand {
        self.model.demand(key, 1, self.n)
    }

    /// Whether an answer shows all that is demanded.
    pub(crate) fn has_seen(&self, key: &Key, found: &Found, demand: &Demand) -> bool {
        let seen = found.context.open(key, &self.context_key).expect("the context is of this key");
        demand.is_met_by(seen.clock())
    }

    /// No new operations from now on.
    pub(crate) fn end(&mut self) {
        self.is_over = true;
    }

    /// Takes note of what happened; ignores what is not a client's.
    pub(crate) fn on_outcome(&mut self, cluster: &mut Cluster, outcome: Outcome) {
        match outcome {
            Outcome::Woken(client) => {
                if let Ok(client) = usize::try_from(client)
                    && client < self.clients.len()
                    && !self.is_over
                {
                    self.act(cluster, client);
                }
            }
            Outcome::Replied(number, response) => {
                if let Some((client, action)) = self.pending.remove(&number) {
                    self.on_reply(cluster, client, action, response);
                    self.pause(cluster, client);
                }
            }
            Outcome::Unknown(number) => {
                if let Some((client, action)) = self.pending.remove(&number) {
                    self.consider_retry(cluster, client, action);
                    self.pause(cluster, client);
                }
            }
        }
    }

    fn pause(&mut self, cluster: &mut Cluster, client: usize) {
        let delay_ms = cluster.dice.between(1, 60);
        cluster.wake(delay_ms, client as u64);
    }

    fn act(&mut self, cluster: &mut Cluster, client: usize) {
        let action = match self.clients[client].retry.take() {
            Some(action) => action,
            None => self.draw(cluster, client),
        };
        let node = cluster.dice.index(cluster.machines.len());
        let request = match &action {
            Action::Write { request, .. } | Action::Read { request, .. } => request.clone(),
        };
        match cluster.submit(node, request) {
            Some(number) => {
                self.operation_count += 1;
                if let Action::Write { id, .. } = &action {
                    self.model.note_sent(*id);
                }
                self.pending.insert(number, (client, action));
            }
            None => self.pause(cluster, client),
        }
    }

    fn draw(&mut self, cluster: &mut Cluster, client: usize) -> Action {
        // Without faults disks are slow now and then all the same: whoever must be served is given the time it takes.
        let (least_ms, most_ms) = if self.patience == Patience::None { (4_000, 5_000) } else { (500, 4_000) };
        let budget_ms = u32::try_from(cluster.dice.between(least_ms, most_ms)).expect("a few seconds");
        match cluster.dice.below(100) {
            0..25 => {
                self.cold_count += 1;
                let key = Key::new(format!("cold {}", self.cold_count).as_bytes()).expect("a key");
                self.put(cluster, key, None, budget_ms)
            }
            25..60 => {
                let key = hot_key(cluster);
                let known = self.recall(cluster, client, &key);
                self.put(cluster, key, known, budget_ms)
            }
            60..72 => {
                let key = hot_key(cluster);
                match self.recall(cluster, client, &key) {
                    Some(known) => self.delete(cluster, known, budget_ms),
                    None => self.read(cluster, key, budget_ms),
                }
            }
            _ => {
                let key = hot_key(cluster);
                self.read(cluster, key, budget_ms)
            }
        }
    }

    /// The latest context this client has of `key`, an old one, or none at all.
    fn recall(&self, cluster: &mut Cluster, client: usize, key: &Key) -> Option<Known> {
        let all: Vec<&Known> = self.clients[client].known.iter().filter(|known| known.key == *key).collect();
        match cluster.dice.below(10) {
            0..3 => None,
            3..6 if !all.is_empty() => Some(all[cluster.dice.index(all.len())].clone()),
            _ => all.last().map(|known| (*known).clone()),
        }
    }

    fn put(&mut self, cluster: &mut Cluster, key: Key, known: Option<Known>, budget_ms: u32) -> Action {
        let asked @ Asked { w, scope } = asked(cluster);
        let shown = known.as_ref().map(|known| known.shown.clone()).unwrap_or_default();
        let id = self.model.begin(&key, false, shown.clone());
        let context = known.map(|known| known.context);
        let request =
            ClientRequest::Put(Put { key, value: id.value(), context, op: id.op(), w, scope, ttl_ms: None, budget_ms });
        Action::Write { id, request, asked, shown, attempts: 1 }
    }

    fn delete(&mut self, cluster: &mut Cluster, known: Known, budget_ms: u32) -> Action {
        let asked @ Asked { w, scope } = asked(cluster);
        let id = self.model.begin(&known.key, true, known.shown.clone());
        let request = ClientRequest::Delete(Delete { key: known.key, context: known.context, w, scope, budget_ms });
        Action::Write { id, request, asked, shown: known.shown, attempts: 1 }
    }

    fn read(&mut self, cluster: &mut Cluster, key: Key, budget_ms: u32) -> Action {
        let Asked { w: r, scope } = asked(cluster);
        // Of a sloppy quorum it is only known that it overlaps with others when nobody is away.
        let r_primaries = match scope {
            Scope::Strict if self.is_merging => 0,
            // Any two quorums overlap, whatever the rows: those are told to be held by all.
            Scope::Strict if self.trust.is_changing() => usize::from(is_majority(r)),
            Scope::Strict => needed(r, self.n),
            Scope::Sloppy => 0,
        };
        let demand = self.model.demand(&key, r_primaries, self.n);
        let somebody_knows = somebody_knows(cluster, &key);
        let request = ClientRequest::Get(Get { key: key.clone(), from: ReadFrom::Row(r), scope, budget_ms });
        Action::Read { key, demand, request, somebody_knows }
    }

    fn on_reply(&mut self, cluster: &mut Cluster, client: usize, action: Action, response: ClientResponse) {
        match (&action, response) {
            (Action::Write { id, request, asked, shown, .. }, ClientResponse::Stored(stored)) => {
                let key = request.key().expect("a write has a key").clone();
                let seen = stored.context.open(&key, &self.context_key).expect("the context is of this key");
                let clock = seen.clock().clone();
                self.on_acknowledged(cluster, *id, request, *asked, &stored, clock);
                let mut shown = shown.clone();
                shown.insert(*id);
                self.remember(client, Known { key, context: stored.context, shown });
            }
            (Action::Read { key, demand, somebody_knows: knew, .. }, ClientResponse::Found(found)) => {
                let seen = found.context.open(key, &self.context_key).expect("the context is of this key");
                let is_checked = self.trust == Trust::Full || self.trust.is_changing();
                if is_checked && !demand.is_met_by(seen.clock()) {
                    cluster.checker.report(Violation::StaleRead { key: key.clone() });
                }
                let is_absent = found.siblings.is_empty() && seen.clock().is_empty();
                if self.trust == Trust::Full && is_absent && !*knew && !somebody_knows(cluster, key) {
                    cluster.checker.report(Violation::AbsentToTheIgnorant { key: key.clone() });
                }
                let shown = found.siblings.iter().filter_map(|sibling| WriteId::of_value(&sibling.value)).collect();
                self.remember(client, Known { key: key.clone(), context: found.context, shown });
            }
            (_, ClientResponse::Failed(Failure::TooLarge { .. } | Failure::InvalidContext { .. })) => {}
            (_, ClientResponse::Failed(failure)) => {
                self.note_failure(cluster, &action, &failure);
                self.consider_retry(cluster, client, action);
            }
            (_, other) => panic!("{other:?} answers something else"),
        }
    }

    /// Holds the stores against the promise, and keeps it.
    fn on_acknowledged(
        &mut self,
        cluster: &mut Cluster,
        id: WriteId,
        request: &ClientRequest,
        asked: Asked,
        stored: &Stored,
        mut clock: VersionVector,
    ) {
        let needed = needed(asked.w, self.n);
        let of_primaries = |key: &Key, holds: &dyn Fn(&Object) -> bool| {
            primaries(cluster, key).iter().filter(|machine| holds(&machine.object(key))).count()
        };
        let (key, context, stores, primaries) = match request {
            ClientRequest::Put(put) => {
                let stores = cluster.checker.stores_of_put(&cluster.machines, &put.key, id.op());
                let holds = |object: &Object| cluster.checker.holds_put(object, id.op());
                (&put.key, put.context.as_ref(), stores, of_primaries(&put.key, &holds))
            }
            ClientRequest::Delete(delete) => {
                let stores = Checker::stores_of_delete(&cluster.machines, &delete.key, &clock);
                let holds = |object: &Object| has_deleted(object, &clock);
                (&delete.key, Some(&delete.context), stores, of_primaries(&delete.key, &holds))
            }
            other => panic!("{other:?} is no write"),
        };
        let is_owed = match self.trust {
            Trust::Full | Trust::Changing => true,
            // The client was told a clock too, which may be of more than this write.
            Trust::OneStoreLost | Trust::ChangingAndLost => {
                stores.min(Checker::stores_of_clock(&cluster.machines, key, &clock)) >= 2
            }
            Trust::Unsettled => false,
        };
        let told = match self.trust {
            Trust::Full | Trust::OneStoreLost | Trust::Unsettled => usize::from(stored.primaries),
            Trust::Changing | Trust::ChangingAndLost if asked.scope == Scope::Strict && is_majority(asked.w) => self.n,
            Trust::Changing | Trust::ChangingAndLost => 0,
        };
        if self.trust == Trust::Full && stores < needed {
            cluster.checker.report(Violation::NotDurable { write: id, stores, needed });
        }
        if self.trust == Trust::Full && (primaries < told || (asked.scope == Scope::Strict && told < needed)) {
            cluster.checker.report(Violation::NotAtPrimaries { write: id, primaries, told });
        }
        if is_owed {
            let context = context.map(|context| context.open(key, &self.context_key).expect("a node took it"));
            let mut dots = cluster.checker.dots_of(id.op());
            if let (Some(dot), None) = (dots.next(), dots.next()) {
                clock.raise(dot.actor, dot.counter);
            }
            self.model.note_acknowledged(id, key, told, &clock, context.unwrap_or_default().clock());
        }
    }

    /// Without faults nothing that a majority can do may fail.
    fn note_failure(&mut self, cluster: &mut Cluster, action: &Action, failure: &Failure) {
        let is_unmet = matches!(failure, Failure::QuorumNotMet { .. } | Failure::TimedOut { .. });
        let (Action::Write { request, .. } | Action::Read { request, .. }) = action;
        let asked = match request {
            ClientRequest::Put(put) => put.w,
            ClientRequest::Delete(delete) => delete.w,
            ClientRequest::Get(Get { from: ReadFrom::Row(r), .. }) => *r,
            _ => Consistency::All,
        };
        let is_owed = matches!(asked, Consistency::One | Consistency::Quorum);
        if self.patience == Patience::None && is_unmet && is_owed {
            let key = request.key().expect("every request of a client has a key").clone();
            cluster.checker.report(Violation::Unavailable { key });
        }
    }

    fn consider_retry(&mut self, cluster: &mut Cluster, client: usize, action: Action) {
        if let Action::Write { attempts, .. } = &action
            && *attempts < ATTEMPTS_MAX
            && cluster.dice.permille(700)
        {
            let mut action = action;
            if let Action::Write { attempts, .. } = &mut action {
                *attempts += 1;
            }
            self.clients[client].retry = Some(action);
        }
    }

    fn remember(&mut self, client: usize, known: Known) {
        let contexts = &mut self.clients[client].known;
        if contexts.len() == CONTEXT_COUNT_MAX {
            contexts.remove(0);
        }
        contexts.push(known);
    }
}

fn hot_key(cluster: &mut Cluster) -> Key {
    Key::new(format!("hot {}", cluster.dice.below(HOT_KEY_COUNT)).as_bytes()).expect("a key")
}

fn asked(cluster: &mut Cluster) -> Asked {
    let scope = if cluster.dice.permille(400) { Scope::Strict } else { Scope::Sloppy };
    Asked { w: consistency(cluster), scope }
}

/// Whether anybody is up who is in the row of `key`, or keeps a hint of it.
fn somebody_knows(cluster: &Cluster, key: &Key) -> bool {
    let is_up = |machine: &Machine| machine.process.is_some();
    let keeps = |machine: &Machine| machine.hints().iter().any(|(_, hint)| hint.key == *key);
    primaries(cluster, key).into_iter().any(is_up)
        || cluster.machines.iter().any(|machine| is_up(machine) && keeps(machine))
}

fn consistency(cluster: &mut Cluster) -> Consistency {
    match cluster.dice.below(10) {
        0..2 => Consistency::One,
        2..7 => Consistency::Quorum,
        7..9 => Consistency::All,
        _ => Consistency::Count(2),
    }
}

/// Whether it is a majority of whatever row at least.
fn is_majority(consistency: Consistency) -> bool {
    matches!(consistency, Consistency::Quorum | Consistency::All)
}

const HOT_KEY_COUNT: u64 = 6;
const ATTEMPTS_MAX: u8 = 4;
const CONTEXT_COUNT_MAX: usize = 16;
