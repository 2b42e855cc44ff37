//! A whole cluster on this machine: three node processes, real sockets, real LMDB, real data; one node is killed.
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

/// Starts the nodes, fills them, kills one, and reads everything back.
async fn show() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let data = real_data()?;
    let bytes: usize = data.values().map(Vec::len).sum();
    println!("data       {} keys, {bytes} bytes", data.len());

    let mut nodes = vec![Node::start(dir.path(), "ada", &[])?];
    let join = nodes[0].address.clone();
    nodes.push(Node::start(dir.path(), "bob", std::slice::from_ref(&join))?);
    nodes.push(Node::start(dir.path(), "eve", std::slice::from_ref(&join))?);
    let addresses: Vec<Multiaddr> = nodes.iter().map(|node| node.address.parse()).collect::<Result<_, _>>()?;
    let client = connect(addresses.clone()).await?;
    wait_for_members(&client, nodes.len()).await?;
    println!("cluster    3 nodes, processes {}, each with its own LMDB store", pids(&nodes));

    let begun = Instant::now();
    let stored = stream::iter(&data)
        .map(|(key, value)| put(&client, key, value))
        .buffer_unordered(IN_FLIGHT)
        .collect::<Vec<_>>()
        .await;
    let copies = stored.into_iter().collect::<Result<Vec<u8>, Failure>>()?;
    let fewest = copies.iter().min().copied().unwrap_or(0);
    println!("stored     all of them, each durably on at least {fewest} nodes, in {:.2?}", begun.elapsed());

    let mut victim = nodes.remove(1);
    victim.process.kill()?;
    victim.process.wait()?;
    println!("killed     {} (process {}), as by kill -9", victim.name, victim.process.id());

    let mut survivors = addresses;
    survivors.remove(1);
    let reader = connect(survivors).await?;
    let begun = Instant::now();
    let read = stream::iter(&data)
        .map(|(key, value)| matches(&reader, key, value))
        .buffer_unordered(IN_FLIGHT)
        .collect::<Vec<_>>()
        .await;
    let same = read.into_iter().collect::<Result<Vec<bool>, Failure>>()?.into_iter().filter(|same| *same).count();
    println!("read back  {same} of {} keys by quorum, byte for byte, in {:.2?}", data.len(), begun.elapsed());

    if same == data.len() {
        println!("result     nothing is missing");
        Ok(())
    } else {
        Err(format!("{} keys are missing or differ", data.len() - same).into())
    }
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
    Ok(client.put(key, Value::new(value)?, Write::default()).await?.acks)
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
