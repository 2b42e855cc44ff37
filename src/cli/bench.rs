//! `quorate bench`: throughput and latency of puts and gets, as clients see them.
//!
//! Each client is a task that asks one thing at a time. Keys are `bench/<number>`. Each client writes keys of its own
//! and remembers their contexts, so that no siblings pile up, which would measure something else. A key that an earlier
//! run has left is read once before it is written; that takes from the time, but counts neither as a put nor as a get.
//! Reads go to all keys, those never written included.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use clap::Args;
use futures::future::join_all;
use libp2p::{Multiaddr, multiaddr::Protocol};

use crate::{
    causality::context::Context,
    cli::{
        bench_report::{Commits, Report, Tally},
        connect::{Session, Target},
        error::CliError,
        output::{Answer, Terminal},
        text::{new_key, new_value, parse_consistency, parse_count, read_before},
    },
    client::{Client, Write},
    ident::{Key, Value},
    limits::VALUE_LIMIT_BYTES,
    runtime::identity,
    wire::client::{Consistency, Status},
};

/// Arguments of `bench`.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Clients that ask at once.
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = |text: &str| parse_count::<u32>(text, 1, 4_096))]
    pub clients: u32,
    /// How long to measure.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = |text: &str| parse_count::<u64>(text, 1, 86_400))]
    pub seconds: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 1_024, value_name = "BYTES", value_parser = |text: &str| parse_count::<u32>(text, 0, VALUE_LIMIT_BYTES as u32))]
    pub value_size: u32,
    /// Shares of puts and gets in percent.
    #[arg(long, value_name = "PUTS:GETS", default_value = "50:50", value_parser = parse_mix)]
    pub mix: Mix,
    /// How many different keys.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = |text: &str| parse_count::<u32>(text, 1, 100_000_000))]
    pub keys: u32,
    /// Peers that the clients share; by default one for each client, at most 4.
    #[arg(long, value_name = "COUNT", value_parser = |text: &str| parse_count::<u32>(text, 1, 64))]
    pub connections: Option<u32>,
    /// Durable copies that a put waits for: one, quorum, all, local-quorum, each-quorum, or a number.
    #[arg(long, value_parser = parse_consistency, default_value = "quorum")]
    pub w: Consistency,
    /// Replicas that must answer a get: one, quorum, all, local-quorum, each-quorum, or a number.
    #[arg(long, value_parser = parse_consistency, default_value = "quorum")]
    pub r: Consistency,
}

/// Shares in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// Of puts; the rest are gets.
    pub puts: u8,
}

/// Measures.
pub(crate) async fn run(target: &Target, args: BenchArgs, terminal: Terminal) -> Result<Answer, CliError> {
    let connection_count = args.connections.unwrap_or_else(|| args.clients.min(4));
    let sessions = join_all((0..connection_count).map(|_| target.connect())).await;
    let sessions = sessions.into_iter().collect::<Result<Vec<Session>, CliError>>()?;
    let first = sessions.first().expect("there is at least one connection");
    let value = new_value(&vec![b'x'; args.value_size as usize])?;

    terminal.note(&format!("{} clients over {connection_count} connections, {} s …", args.clients, args.seconds));
    let left = first.client.scan(PREFIX.as_bytes(), None).await.map_err(|error| first.explain(error))?;
    let left: BTreeSet<u32> = left.iter().filter_map(number_of).collect();
    let before = statuses(target, first).await?;
    let begin = Instant::now();
    let end = begin + Duration::from_secs(args.seconds);
    let workers = (0..args.clients).zip(sessions.iter().cycle()).map(|(number, session)| {
        let worker = Worker::new(number, &args, session.client.clone(), value.clone(), &left);
        async_std::task::spawn(worker.run(end))
    });
    // Collected first: each must have started before the first is waited for.
    let workers: Vec<_> = workers.collect();
    let mut tally = Tally::new();
    for part in join_all(workers).await {
        tally.add(&part);
    }
    let elapsed = begin.elapsed();
    let after = statuses(target, first).await?;
    let commits = Commits::between(&before, &after);
    Ok(Report { args: &args, connection_count, elapsed, tally: &tally, commits }.to_answer())
}

/// What all members say of themselves; those that do not answer are left out.
async fn statuses(target: &Target, session: &Session) -> Result<Vec<Status>, CliError> {
    let home = session.client.status().await.map_err(|error| session.explain(error))?;
    let others = home.members.iter().filter(|member| member.node != home.node).map(async |member| {
        let mut config = target.config();
        let peer = identity::peer_id(&member.node)?;
        let addresses = member.profile.addresses.iter().filter_map(|text| text.parse::<Multiaddr>().ok());
        config.nodes = addresses
            .map(|address| match address.iter().last() {
                Some(Protocol::P2p(_)) => address,
                _ => address.with(Protocol::P2p(peer)),
            })
            .collect();
        config.mdns = false;
        let status = Client::connect(config).await.ok()?.status().await.ok()?;
        (status.node == member.node).then_some(status)
    });
    let mut statuses: Vec<Status> = join_all(others).await.into_iter().flatten().collect();
    statuses.push(home);
    Ok(statuses)
}

fn parse_mix(text: &str) -> Result<Mix, String> {
    let rule = || "it must be two percentages that make 100, puts first, such as 50:50".to_owned();
    let (puts, gets) = text.split_once(':').ok_or_else(rule)?;
    let (puts, gets): (u8, u8) = (puts.parse().map_err(|_| rule())?, gets.parse().map_err(|_| rule())?);
    if puts.checked_add(gets) == Some(100) { Ok(Mix { puts }) } else { Err(rule()) }
}

/// One client.
struct Worker {
    number: u32,
    clients: u32,
    keys: u32,
    mix: Mix,
    w: Consistency,
    r: Consistency,
    client: Client,
    value: Value,
    /// What this client has seen of its own keys, by their number.
    contexts: BTreeMap<u32, Context>,
    /// Its own keys of which it does not know what they hold. Of all others it knows: what it wrote, or nothing.
    unknown: BTreeSet<u32>,
    random: Random,
    tally: Tally,
}

impl Worker {
    fn new(number: u32, args: &BenchArgs, client: Client, value: Value, left: &BTreeSet<u32>) -> Worker {
        Worker {
            number,
            clients: args.clients,
            // Each client needs a key of its own.
            keys: args.keys.max(args.clients),
            mix: args.mix,
            w: args.w,
            r: args.r,
            client,
            value,
            contexts: BTreeMap::new(),
            unknown: left.iter().copied().filter(|key| key % args.clients == number).collect(),
            random: Random(u64::from(number)),
            tally: Tally::new(),
        }
    }

    async fn run(mut self, end: Instant) -> Tally {
        while Instant::now() < end {
            if self.random.below(100) < u32::from(self.mix.puts) {
                self.put().await;
            } else {
                self.get().await;
            }
        }
        self.tally
    }

    async fn put(&mut self) {
        let own_count = (self.keys - self.number).div_ceil(self.clients);
        let number = self.number + self.random.below(own_count) * self.clients;
        let key = key(number);
        if self.unknown.contains(&number) {
            match self.client.get(&key, read_before(self.w)).await {
                Ok(found) => self.contexts.insert(number, found.context),
                Err(error) => return self.tally.puts.fail(&error),
            };
            self.unknown.remove(&number);
        }
        let context = self.contexts.get(&number).cloned();
        let begin = Instant::now();
        let write = Write { context, w: self.w, ..Write::default() };
        match self.client.put(&key, self.value.clone(), write).await {
            Ok(stored) => {
                self.tally.puts.record(begin.elapsed());
                self.contexts.insert(number, stored.context);
            }
            Err(error) => {
                // What became of it is not known: read before the next.
                self.unknown.insert(number);
                self.tally.puts.fail(&error);
            }
        }
    }

    async fn get(&mut self) {
        let key = key(self.random.below(self.keys));
        let begin = Instant::now();
        match self.client.get(&key, self.r).await {
            Ok(_) => self.tally.gets.record(begin.elapsed()),
            Err(error) => self.tally.gets.fail(&error),
        }
    }
}

/// What all our keys begin with.
const PREFIX: &str = "bench/";

fn key(number: u32) -> Key {
    new_key(format!("{PREFIX}{number}").as_bytes()).expect("a short text is a key")
}

/// The number in a key that [`key`] made.
fn number_of(key: &Key) -> Option<u32> {
    str::from_utf8(key.as_bytes()).ok()?.strip_prefix(PREFIX)?.parse().ok()
}

/// SplitMix64 (Steele, Lea and Flood, 2014): good enough to choose keys, and the same in each run.
struct Random(u64);

impl Random {
    /// A number below `limit`, which is at least 1.
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let scaled = u64::from(limit) * ((mixed ^ (mixed >> 31)) >> 32);
        u32::try_from(scaled >> 32).expect("the upper half of a product is below either factor")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_two_percentages() {
        assert_eq!(parse_mix("95:5"), Ok(Mix { puts: 95 }));
        for text in ["50", "60:50", "a:b", "-1:101", "255:101", ":"] {
            assert!(parse_mix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_of_an_earlier_run_is_known_by_its_number() {
        assert_eq!(number_of(&key(7)), Some(7));
        assert_eq!(number_of(&new_key(b"bench/x").unwrap()), None);
    }

    #[test]
    fn random_numbers_stay_below_their_limit_and_reach_all_of_it() {
        let mut random = Random(7);
        let mut seen = [0; 10];
        for _ in 0..1_000 {
            seen[random.below(10) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| (60..=140).contains(&count)), "{seen:?}");
        assert!((0..100).all(|_| random.below(1) == 0));
    }
}
