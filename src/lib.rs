//! Quorate: a leaderless, replicated key-value store whose nodes are libp2p peers.
//!
//! A descendant of Amazon's Dynamo (DeCandia et al., "Dynamo: Amazon's highly available key-value store", SOSP 2007).
//! Nodes of one network find each other; every one of them takes every request; concurrent writes survive side by side
//! as siblings until somebody who has read them writes again.
//!
//! # The idea in five sentences
//!
//! 1. **Everything that decides is pure.** Ring, causality, quorums and membership history are values and state
//!    machines: input and time come in as arguments, effects come out as values, and a whole cluster runs in one thread
//!    under one seed.
//! 2. **Everything that touches the world is thin.** `runtime` drives swarm, storage threads and timer; it translates
//!    and forwards, and makes no protocol decision.
//! 3. **A replica is a function of a transaction.** All stored data is read and changed through [`replica`].
//! 4. **There is one way to merge.** Replication, read repair, hint delivery and exchange end in the same merge of
//!    [`replica::values`].
//! 5. **Nothing is acknowledged before it is durable.** Answers are made from a [`replica::Done`], and that exists only
//!    after the commit.
//!
//! # Levels
//!
//! A module uses only what lies below it; `tests/architecture` holds the table and the few arrows within a level.
//!
//! | Level | Modules | |
//! |---|---|---|
//! | 6 | `cli`, and the binary | what people type and read |
//! | 5 | `runtime`, `client` | the shells: sockets, disk, clock (feature `node`) |
//! | 4 | [`config`], [`node`] | the whole machine: inputs in, effects out |
//! | 3 | [`merkle`], [`replica`], [`quorum`], [`handoff`] | what differs; one transaction; who must answer, who is owed |
//! | 2 | [`wire`], [`store`] | what nodes say to each other; tables under transactions |
//! | 1 | [`ring`], [`causality`], [`membership`] | where keys live; what has been seen; who belongs |
//! | 0 | [`limits`], [`digest`], [`clock`], [`ident`] | words |
//!
//! Without the feature `node` the crate is the pure core, levels 0 to 4. The libp2p protocols are a crate of their own,
//! `quorate-behaviours`, which knows nothing of keys, rings or siblings.
//!
//! # The path of a put
//!
//! 1. [`node::Node::handle_client`] finds the key's row in the [`ring`]. A node outside the row forwards the request to
//!    the first member of it that it reaches; when none can coordinate, it does so itself.
//! 2. The coordinator opens the context and asks its store for a [`replica::Work::Write`].
//! 3. The storage thread gathers what waits into one transaction; [`replica::values`] drops the siblings that the
//!    context covers and mints a dot, under the rule of [`causality::epochs`]; one commit for the whole batch.
//! 4. [`quorum::put`] gets the object and has it merged by the rest of the row. Each member merges, commits, answers. For
//!    one that cannot be reached the next fallback keeps a hint.
//! 5. At W durable copies the client is answered; the remaining sends go on. An answer under another history does not
//!    count: the two reconcile first, and the operation is judged again.
//!
//! # The path of a get
//!
//! 1. [`quorum::get`] asks the row. A member answers with its object; one that never held the key with the default one.
//! 2. At R answers their merge goes to the client, with a context that has seen all of it.
//! 3. After that it waits a moment for the others, and [`quorum::repair`] names those that were behind: they are sent
//!    the merge, by the same request as in a put.
//!
//! # The path of a hint
//!
//! 1. A fallback is asked to keep an object for a primary: [`replica::hints`] merges it into what it keeps for that
//!    target, apart from its own data, or refuses when its bound is reached; then the next fallback is asked.
//! 2. [`membership::liveness`] finds the target up again, or time passes: [`handoff::hints`] takes a page of its hints
//!    from the store and sends them, at most as fast as the target takes them.
//! 3. What the target has durably is dropped, if it has not changed since it was sent. What grows too old is given up,
//!    and its partition is marked.
//!
//! # The path of an exchange
//!
//! 1. [`handoff::exchanges`] finds a pair due: its interval is over, the other has come back, rows have changed, or an
//!    administrator says so. One exchange begins at a time, over everything that the two share.
//! 2. [`merkle::descent`] opens with one digest over all of it, from the buckets that [`replica::tree`] keeps in step
//!    with the objects, in the same transactions. Equal: done, with one question and one answer.
//! 3. Else it goes down, everywhere at once: the children of branches that differ, two levels a turn, to lists of items.
//!    What one side lacks goes along as whole objects, which are merged like any other; then it asks once more.
//! 4. Digests that differ while nothing below them does are wrong somewhere: both sides look at their buckets, record by
//!    record, and put them right. A damaged record is dropped, and comes back by the next exchange.
//! 5. A node whose store was wiped or restored answers for nothing of a partition until it has been compared with so many
//!    of the row that they must hold whatever was acknowledged there.
//!
//! # The path of a join
//!
//! 1. The newcomer signs a change, which [`membership::history`] takes up and everybody hears of. [`membership::view`] folds
//!    it: from then on it is in some rows, and writes need a quorum of those too. Reads are still answered by the row before.
//! 2. [`handoff::filling`] says from whom each member of such a row must have everything: a majority of every row that
//!    counts. The data comes by exchanges, as ever. Who has it says so, in the history as well.
//! 3. Once all of a row have, and a majority of the rows before know it, the first of the new row retires those: nothing is
//!    asked of them any more, and what they are not to hold they hand over and drop.
//! 4. A leaver goes the same way, and stops when it holds nothing and one that stays knows that it goes. Whoever is removed is
//!    not asked for anything; the others fill from those that are left.
//!
//! # Where to find what
//!
//! - The rule that keeps a dot from ever naming two values: [`causality::epochs`]. What a client has seen:
//!   [`causality::seen`], and as a token [`causality::context`].
//! - How keys are placed, and what moves when a member joins: [`ring`].
//! - How a cluster is founded, joined and merged with another: [`membership::history`], [`membership::view`].
//! - Messages and protocol versions: [`wire`]; their golden bytes: `tests/wire_format`.
//! - What is on disk: [`store::schema`], [`store::record`]; what a start does with it: [`replica::startup`].
//! - Every bound of the system, with its reason: [`limits`].
//! - Who answers, and how soon: [`membership::liveness`]. What people are told: [`wire::administration`].
//! - The shape of the tree, and why it is one of sums: [`merkle::branch`]. What an exchange says: [`wire::exchange`].
//! - How ownership changes without a vote: [`membership::configuration`], [`quorum::row`], [`handoff::filling`]; the rules
//!   alone, played by the thousand: `tests/configurations_model`.

pub mod limits;
pub mod ident;
pub mod digest;
pub mod clock;

pub mod ring;
pub mod causality;
pub mod membership;

pub mod wire;
pub mod store;

pub mod merkle;
pub mod replica;
pub mod quorum;
pub mod handoff;

pub mod config;
pub mod node;

#[cfg(feature = "node")]
pub mod runtime;
#[cfg(feature = "node")]
pub mod client;
#[cfg(feature = "node")]
pub mod cli;

/// The code in the README is compiled with the tests of the documentation.
#[cfg(all(doctest, feature = "node"))]
#[doc = include_str!("../README.md")]
struct Readme;
