//! A whole cluster on this machine: three node processes, real sockets, real LMDB, real data; one node is killed, misses
//! what is written meanwhile, and is handed it when it comes back.
//!
//! `cargo run --release --example three_nodes`. The data are the descriptions of this machine's Debian packages, or,
//! where there are none, the source files of this project. Everything lives in a temporary directory.

#![expect(clippy::print_stdout, reason = "an example talks to people")]

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use async_std::task;
use futures::{StreamExt as _, stream};
use libp2p::Multiaddr;
use quorate::{
    client::{Client, ClientConfig, Write},
    config::{Founding, NodeConfig},
    ident::{Key, Name, Value},
    membership::change::{Parameters, Profile},
    ring::token::PartitionCount,
    runtime::{self, Notice, Settings},
    store::lmdb::Durability,
    wire::client::{Consistency, Reach},
};

type Failure = Box<dyn std::error::Error>;

/// Operations under way at a time.
const IN_FLIGHT: usize = 64;

/// Longest wait for the cluster to come up.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => task::block_on(show()),
        [word, dir, name, join @ ..] if word == "node" => task::block_on(run_node(Path::new(dir), name, join)),
        _ => Err("usage: three_nodes".into()),
    }
}

/// Starts the nodes, fills them, kills one, reads everything back, and brings the one back to what it missed.
async fn show() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let data = real_data()?;
    let bytes: usize = data.values().map(Vec::len).sum();
    println!("data       {} keys, {bytes} bytes", data.len());

    let mut nodes = vec![Node::start(dir.path(), "ada", &[])?];
    let join = nodes[0].address.clone();
    nodes.push(Node::start(dir.path(), "eve", std::slice::from_ref(&join))?);
    nodes.push(Node::start(dir.path(), "bob", std::slice::from_ref(&join))?);
    let addresses: Vec<Multiaddr> = nodes.iter().map(|node| node.address.parse()).collect::<Result<_, _>>()?;
    let client = connect(addresses.clone()).await?;
    wait_for_members(&client, nodes.len()).await?;
    println!("cluster    3 nodes, processes {}, each with its own LMDB store", pids(&nodes));

    let begun = Instant::now();
    let fewest = store(&client, &data).await?;
    println!("stored     all of them, each durably on at least {fewest} nodes, in {:.2?}", begun.elapsed());

    let mut victim = nodes.pop().ok_or("three were started")?;
    victim.process.kill()?;
    victim.process.wait()?;
    println!("killed     {} (process {}), as by kill -9", victim.name, victim.process.id());

    let survivors = connect(addresses[..2].to_vec()).await?;
    let begun = Instant::now();
    let same = count_same(&survivors, &data).await?;
    println!("read back  {same} of {} keys by quorum, byte for byte, in {:.2?}", data.len(), begun.elapsed());

    let changed: BTreeMap<Key, Vec<u8>> =
        data.into_iter().map(|(key, value)| (key, [&value[..], b" (2)"].concat())).collect();
    store(&survivors, &changed).await?;
    println!(
        "changed    all of them, while it is away; the others keep {} hints for it",
        hints(&addresses[..2]).await?
    );

    let begun = Instant::now();
    let back = Node::start(dir.path(), "bob", std::slice::from_ref(&join))?;
    while hints(&addresses[..2]).await? > 0 {
        if begun.elapsed() > PATIENCE {
            return Err("the hints are not delivered".into());
        }
    }
    println!("returned   bob; it was handed all hints in {:.2?}", begun.elapsed());
    let at_home = connect(vec![back.address.parse()?]).await?;
    let mut held = 0;
    for (key, value) in &changed {
        let found = at_home.get_local(key).await?;
        held += usize::from(matches!(found.siblings.as_slice(), [only] if only.value.as_bytes() == value));
    }
    println!("holds      {held} of {} changed values itself, though nobody has read them there", changed.len());

    if same == changed.len() && held == changed.len() {
        println!("result     nothing is missing");
        Ok(())
    } else {
        Err("keys are missing or differ".into())
    }
}

/// Stores every value in place of what is there. Returns on how few nodes a value is durable at least.
async fn store(client: &Client, data: &BTreeMap<Key, Vec<u8>>) -> Result<u8, Failure> {
    let stored = stream::iter(data).map(|(key, value)| put(client, key, value)).buffer_unordered(IN_FLIGHT);
    let copies = stored.collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<u8>, Failure>>()?;
    Ok(copies.into_iter().min().unwrap_or(0))
}

/// How many keys hold just this value.
async fn count_same(client: &Client, data: &BTreeMap<Key, Vec<u8>>) -> Result<usize, Failure> {
    let read = stream::iter(data).map(|(key, value)| matches(client, key, value)).buffer_unordered(IN_FLIGHT);
    let read = read.collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<bool>, Failure>>()?;
    Ok(read.into_iter().filter(|same| *same).count())
}

/// How many hints these nodes keep.
async fn hints(addresses: &[Multiaddr]) -> Result<u64, Failure> {
    let mut count = 0;
    for address in addresses {
        let kept = connect(vec![address.clone()]).await?.hints().await?;
        count += kept.iter().map(|target| target.count).sum::<u64>();
    }
    Ok(count)
}

/// One node in a process of its own; killed when dropped.
struct Node {
    name: String,
    process: Child,
    address: String,
}

impl Node {
    fn start(dir: &Path, name: &str, join: &[String]) -> Result<Node, Failure> {
        let mut process = Command::new(env::current_exe()?)
            .arg("node")
            .arg(dir.join(name))
            .arg(name)
            .args(join)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let address = line.trim().to_owned();
        let node = Node { name: name.to_owned(), process, address };
        if node.address.is_empty() { Err(format!("node {name} did not start").into()) } else { Ok(node) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a child process does: serve until its parent is gone.
async fn run_node(dir: &Path, name: &str, join: &[String]) -> Result<(), Failure> {
    let profile = Profile { name: Name::new(name)?, zone: None, weight: 1, addresses: Vec::new() };
    let parameters = Parameters { partitions: PartitionCount::new(1024)?, replicas: 3 };
    let mut node = NodeConfig::lan(Name::new("example")?, profile, parameters);
    node.founding = if join.is_empty() { Founding::After(Duration::ZERO) } else { Founding::Never };
    let mut running = runtime::start(Settings {
        data_dir: PathBuf::from(dir),
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse()?],
        join: join.iter().map(|address| address.parse()).collect::<Result<_, _>>()?,
        mdns: false,
        swarm_key: None,
        durability: Durability::Sync,
        node,
    })
    .await?;
    task::spawn_blocking(|| {
        // The end of this pipe is the end of the parent.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    while let Some(notice) = running.next_notice().await {
        if let Notice::Ready { addresses } = notice {
            println!("{}", addresses.first().ok_or("no address")?);
            std::io::stdout().flush()?;
        }
    }
    Ok(())
}

async fn connect(nodes: Vec<Multiaddr>) -> Result<Client, Failure> {
    let config = ClientConfig { nodes, mdns: false, ..ClientConfig::lan(Name::new("example")?) };
    Ok(Client::connect(config).await?)
}

async fn wait_for_members(client: &Client, count: usize) -> Result<(), Failure> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let status = client.status().await?;
        if status.members.iter().filter(|member| member.state == Reach::Up).count() == count {
            return Ok(());
        }
    }
    Err("the nodes did not find each other".into())
}

async fn put(client: &Client, key: &Key, value: &[u8]) -> Result<u8, Failure> {
    let seen = client.get(key, Consistency::Quorum).await?;
    let context = (!seen.siblings.is_empty()).then_some(seen.context);
    Ok(client.put(key, Value::new(value)?, Write { context, ..Write::default() }).await?.acks)
}

async fn matches(client: &Client, key: &Key, value: &[u8]) -> Result<bool, Failure> {
    let found = client.get(key, Consistency::Quorum).await?;
    Ok(matches!(found.siblings.as_slice(), [only] if only.value.as_bytes() == value))
}

fn pids(nodes: &[Node]) -> String {
    let pids: Vec<String> = nodes.iter().map(|node| node.process.id().to_string()).collect();
    pids.join(", ")
}

/// Package descriptions by package name, or source files by path.
fn real_data() -> Result<BTreeMap<Key, Vec<u8>>, Failure> {
    let mut data = BTreeMap::new();
    if let Ok(status) = fs::read_to_string("/var/lib/dpkg/status") {
        for stanza in status.split("\n\n") {
            if let Some(name) = stanza.lines().find_map(|line| line.strip_prefix("Package: ")) {
                data.insert(Key::new(name.as_bytes())?, stanza.as_bytes().to_vec());
            }
        }
    }
    if data.is_empty() {
        add_files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut data)?;
    }
    Ok(data)
}

fn add_files(dir: &Path, data: &mut BTreeMap<Key, Vec<u8>>) -> Result<(), Failure> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            add_files(&path, data)?;
        } else {
            data.insert(Key::new(path.to_string_lossy().as_bytes())?, fs::read(&path)?);
        }
    }
    Ok(())
}
