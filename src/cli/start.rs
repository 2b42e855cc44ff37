//! `quorate start`: runs a node until it is told to stop.
//!
//! For people it says who it is, where its data is, and the line that starts the next one. For programs it prints one
//! event a line, the first when the node serves; what happens before that waits for it, but warnings go to the standard
//! error as well: a node that never comes to serve must not be silent about why.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use async_std::channel::{self, Receiver};
use clap::Args;
use futures::{FutureExt as _, pin_mut, select};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use serde_json::{Value as Json, json};

use crate::{
    cli::{
        error::{CliError, Exit},
        given,
        listing::Listing,
        notices::{stop_text, to_json, to_text},
        on_alert::OnAlert,
        output::{Format, Terminal},
        settings::{Raw, Settings},
        text::to_word,
    },
    config::{AntiEntropy, Founding, NodeConfig},
    membership::change::{Parameters, Profile},
    node::effect::{Event, Stop},
    quorum::put::Hinting,
    runtime::{self, Notice, swarm_key},
    store::lmdb::Durability,
    wire::client::Scope,
};

/// Arguments of `start`, beside those that every command takes.
#[derive(Debug, Clone, Default, Args)]
pub struct StartArgs {
    /// The node's name, for people; by default the host's.
    #[arg(long)]
    pub name: Option<String>,
    /// Where to listen; may be repeated.
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<String>,
    /// A node to join; may be repeated. Without one the node looks around, and founds a cluster when it is alone.
    #[arg(long, value_name = "MULTIADDR")]
    pub join: Vec<String>,
    /// Its rack or data centre: replicas of a key go to different ones.
    #[arg(long)]
    pub zone: Option<String>,
    /// Its share of the data, relative to others.
    #[arg(long)]
    pub weight: Option<String>,
    /// Replicas of a key, when it founds a cluster.
    #[arg(long, value_name = "N")]
    pub replicas: Option<String>,
    /// Partitions of the ring, when it founds a cluster; a power of two.
    #[arg(long, value_name = "Q")]
    pub partitions: Option<String>,
    /// When a write counts as on the disk: sync, or periodic (once a second).
    #[arg(long)]
    pub durability: Option<String>,
    /// Who may administer it, by peer id; may be repeated.
    #[arg(long, value_name = "PEER_ID")]
    pub admins: Vec<String>,
    /// Seconds to look around before it founds a cluster.
    #[arg(long, value_name = "SECONDS")]
    pub discovery_window: Option<String>,
    /// Seconds between comparisons of the membership history.
    #[arg(long, value_name = "SECONDS")]
    pub reconcile_interval: Option<String>,
    /// Seconds one peer may take to answer.
    #[arg(long, value_name = "SECONDS")]
    pub peer_timeout: Option<String>,
    /// Whether reads repair replicas that were behind: true or false.
    #[arg(long, value_name = "BOOL")]
    pub read_repair: Option<String>,
    /// Whether replicas are compared and made equal, in the background and by `repair`: true or false.
    #[arg(long, value_name = "BOOL")]
    pub anti_entropy: Option<String>,
    /// Seconds in which it is compared once with each other of its rows.
    #[arg(long, value_name = "SECONDS")]
    pub exchange_interval: Option<String>,
    /// Bytes a second that comparing may take, what is handed over included.
    #[arg(long, value_name = "N")]
    pub exchange_bytes_per_second: Option<String>,
    /// Whether others stand in for members of a row that are away: true or false.
    #[arg(long, value_name = "BOOL")]
    pub sloppy: Option<String>,
    /// Whether nodes keep hints for members that are away: true or false.
    #[arg(long, value_name = "BOOL")]
    pub hints: Option<String>,
    /// Seconds after which a hint is given up.
    #[arg(long, value_name = "SECONDS")]
    pub hint_ttl: Option<String>,
    /// Bytes of hints that it keeps for one other.
    #[arg(long, value_name = "N")]
    pub hint_bytes_per_target: Option<String>,
    /// Bytes of hints that it keeps in all.
    #[arg(long, value_name = "N")]
    pub hint_bytes: Option<String>,
    /// Seconds without a word of a member after which its administrator is told.
    #[arg(long, value_name = "SECONDS")]
    pub dead_after: Option<String>,
    /// A shell command that is run once for every alert, with the alert's JSON on its standard input.
    #[arg(long, value_name = "COMMAND")]
    pub on_alert: Option<String>,
}

impl StartArgs {
    /// Those that were given, as settings.
    pub(crate) fn to_flags(&self) -> Vec<(&'static str, &'static str, Raw)> {
        let mut flags = given([
            ("name", "--name", &self.name),
            ("zone", "--zone", &self.zone),
            ("weight", "--weight", &self.weight),
            ("replicas", "--replicas", &self.replicas),
            ("partitions", "--partitions", &self.partitions),
            ("durability", "--durability", &self.durability),
            ("discovery_window", "--discovery-window", &self.discovery_window),
            ("reconcile_interval", "--reconcile-interval", &self.reconcile_interval),
            ("peer_timeout", "--peer-timeout", &self.peer_timeout),
            ("read_repair", "--read-repair", &self.read_repair),
            ("anti_entropy", "--anti-entropy", &self.anti_entropy),
            ("exchange_interval", "--exchange-interval", &self.exchange_interval),
            ("exchange_bytes_per_second", "--exchange-bytes-per-second", &self.exchange_bytes_per_second),
            ("sloppy", "--sloppy", &self.sloppy),
            ("hints", "--hints", &self.hints),
            ("hint_ttl", "--hint-ttl", &self.hint_ttl),
            ("hint_bytes_per_target", "--hint-bytes-per-target", &self.hint_bytes_per_target),
            ("hint_bytes", "--hint-bytes", &self.hint_bytes),
            ("dead_after", "--dead-after", &self.dead_after),
            ("on_alert", "--on-alert", &self.on_alert),
        ]);
        let lists = [
            ("listen", "--listen", &self.listen),
            ("join", "--join", &self.join),
            ("admins", "--admins", &self.admins),
        ];
        let given_lists = lists.into_iter().filter(|(_, _, list)| !list.is_empty());
        flags.extend(given_lists.map(|(key, flag, list)| (key, flag, Raw::Many(list.clone()))));
        flags
    }
}

/// Runs until a signal comes or the node cannot go on.
pub(crate) async fn run(settings: &Settings, terminal: Terminal) -> Result<Exit, CliError> {
    start_log();
    let signals = signals()?;
    let started = runtime::start(to_runtime(settings)?).await;
    let mut running = started.map_err(|error| CliError::Node { detail: error.to_string() })?;
    let mut announcer = Announcer::new(settings, running.peer_id(), terminal);
    announcer.begin();
    let outcome = loop {
        let notice = {
            let (next, signal) = (running.next_notice().fuse(), signals.recv().fuse());
            pin_mut!(next, signal);
            select! {
                notice = next => notice,
                _ = signal => break Ok(Exit::Done),
            }
        };
        let Some(notice) = notice else {
            break Err(CliError::Node { detail: "the node has ended".to_owned() });
        };
        let end = end_of(&notice);
        if let Err(error) = announcer.announce(notice) {
            break Err(error);
        }
        if let Some(end) = end {
            break end;
        }
    };
    // In every case: what it holds is closed, and others learn at once that it is gone.
    running.stop().await;
    outcome
}

/// How the process ends when a notice says that it must: a node that has left has done what it was asked to.
fn end_of(notice: &Notice) -> Option<Result<Exit, CliError>> {
    match notice {
        Notice::Event(Event::Stopped(Stop::Left)) => Some(Ok(Exit::Done)),
        Notice::Event(Event::Stopped(stop @ (Stop::Removed | Stop::Twin))) => {
            Some(Err(CliError::Node { detail: stop_text(*stop).to_owned() }))
        }
        Notice::Event(_) | Notice::Ready { .. } | Notice::Listening(_) | Notice::Warning(_) | Notice::Fatal(_) => None,
    }
}

/// What the runtime is told.
fn to_runtime(settings: &Settings) -> Result<runtime::Settings, CliError> {
    let swarm_key = settings.swarm_key.as_deref().map(swarm_key::load).transpose()?;
    let profile = Profile {
        name: settings.name.clone(),
        zone: settings.zone.clone(),
        weight: settings.weight,
        // The runtime knows where it listens once it does.
        addresses: Vec::new(),
    };
    let parameters = Parameters { partitions: settings.partitions, replicas: settings.replicas };
    let founding = match settings.join.is_empty() {
        true => Founding::After(settings.discovery_window),
        false => Founding::Never,
    };
    let node = NodeConfig {
        cluster_secret: swarm_key.map(swarm_key::secret_of),
        founding,
        seed_count: settings.join.len(),
        reconcile_interval: settings.reconcile_interval,
        peer_timeout: settings.peer_timeout,
        read_repair: settings.read_repair,
        anti_entropy: if settings.anti_entropy { AntiEntropy::On } else { AntiEntropy::Off },
        exchange_interval: settings.exchange_interval,
        exchange_bytes_per_second: settings.exchange_bytes_per_second,
        scope: if settings.sloppy { Scope::Sloppy } else { Scope::Strict },
        hinting: if settings.hints { Hinting::On } else { Hinting::Off },
        hint_limits: settings.hint_limits,
        hint_ttl: settings.hint_ttl,
        dead_after: settings.dead_after,
        admins: settings.admins.iter().copied().collect(),
        ..NodeConfig::lan(settings.cluster.clone(), profile, parameters)
    };
    Ok(runtime::Settings {
        data_dir: settings.data_dir.clone(),
        listen: settings.listen.clone(),
        join: settings.join.clone(),
        mdns: settings.mdns,
        swarm_key,
        durability: settings.durability,
        node,
    })
}

/// Comes with the first SIGINT or SIGTERM; a second one ends the process at once.
fn signals() -> Result<Receiver<()>, CliError> {
    let (sender, receiver) = channel::bounded(1);
    let asked = AtomicBool::new(false);
    let handler = move || {
        if asked.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        // The channel has room for the only one that is ever sent.
        let _ = sender.try_send(());
    };
    match ctrlc::set_handler(handler) {
        Ok(()) => Ok(receiver),
        Err(error) => Err(CliError::Node { detail: format!("signals cannot be handled: {error}") }),
    }
}

/// The log goes to the standard error; `QUORATE_LOG` says how much of it.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("QUORATE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    // Fails only when there is a log already, which is then used.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

/// Tells what happens.
struct Announcer {
    terminal: Terminal,
    peer: PeerId,
    name: String,
    cluster: String,
    data_dir: PathBuf,
    is_open: bool,
    durability: Durability,
    listing: Listing,
    on_alert: OnAlert,
    ready: bool,
    /// JSON events that came before the node was ready. At most [`WAITING_MAX`].
    waiting: Vec<Json>,
}

/// Events kept before the node is ready; of more the oldest are kept.
const WAITING_MAX: usize = 1_000;

impl Announcer {
    fn new(settings: &Settings, peer: PeerId, terminal: Terminal) -> Announcer {
        Announcer {
            terminal,
            peer,
            name: settings.name.to_string(),
            cluster: settings.cluster.to_string(),
            data_dir: std::path::absolute(&settings.data_dir).unwrap_or_else(|_| settings.data_dir.clone()),
            is_open: settings.swarm_key.is_none(),
            durability: settings.durability,
            listing: Listing::new(settings, peer),
            on_alert: OnAlert::new(settings.on_alert.as_deref()),
            ready: false,
            waiting: Vec::new(),
        }
    }

    /// Says who starts. To the standard error: the answer is that it serves.
    fn begin(&self) {
        if self.terminal.format == Format::Table {
            self.terminal.note(&self.introduction());
        }
    }

    fn introduction(&self) -> String {
        let mut lines = vec![
            format!("node      {} of cluster {}", self.name, self.cluster),
            format!("peer id   {}", self.peer),
            format!("data      {}", self.data_dir.display()),
        ];
        lines.push(match self.durability {
            Durability::Sync => "durable   every write is on the disk before it is acknowledged".to_owned(),
            Durability::Periodic => {
                "durable   PERIODIC: a loss of power may lose the last second of acknowledged writes".to_owned()
            }
        });
        if self.is_open {
            lines.push(
                "WARNING   open cluster: there is no swarm.key, so everybody on this network can join, read and write; \
                 only local and private addresses are used. `quorate keygen` makes a key"
                    .to_owned(),
            );
        }
        lines.join("\n")
    }

    fn announce(&mut self, notice: Notice) -> Result<(), CliError> {
        if let Notice::Event(Event::AlertRaised(alert)) = &notice {
            self.on_alert.tell(alert);
        }
        match notice {
            Notice::Fatal(detail) => Err(CliError::Node { detail }),
            Notice::Ready { addresses } => self.announce_ready(&addresses),
            Notice::Event(Event::Ready) => Ok(()),
            other => match self.terminal.format {
                Format::Table => {
                    self.terminal.note(&to_text(&other));
                    Ok(())
                }
                Format::Json if self.ready => self.terminal.json_line(&to_json(&other)),
                Format::Json => {
                    if matches!(other, Notice::Warning(_)) {
                        self.terminal.note(&to_text(&other));
                    }
                    if self.waiting.len() < WAITING_MAX {
                        self.waiting.push(to_json(&other));
                    }
                    Ok(())
                }
            },
        }
    }

    fn announce_ready(&mut self, addresses: &[Multiaddr]) -> Result<(), CliError> {
        let addresses: Vec<Multiaddr> = addresses.iter().map(|address| with_peer(address, self.peer)).collect();
        self.ready = true;
        if let Err(detail) = self.listing.list(&addresses) {
            self.terminal.note(&format!("WARNING   {detail}"));
        }
        match self.terminal.format {
            Format::Table => self.terminal.line(&self.ready_text(&addresses)),
            Format::Json => {
                self.terminal.json_line(&self.ready_json(&addresses))?;
                std::mem::take(&mut self.waiting).iter().try_for_each(|event| self.terminal.json_line(event))
            }
        }
    }

    fn ready_json(&self, addresses: &[Multiaddr]) -> Json {
        json!({
            "event": "ready",
            "peer_id": self.peer.to_string(),
            "name": self.name,
            "cluster": self.cluster,
            "data_dir": self.data_dir.to_string_lossy(),
            "addresses": addresses.iter().map(Multiaddr::to_string).collect::<Vec<_>>(),
        })
    }

    fn ready_text(&self, addresses: &[Multiaddr]) -> String {
        let mut lines: Vec<String> = addresses.iter().map(|address| format!("address   {address}")).collect();
        lines.push("it serves".to_owned());
        if let Some(address) = best_address(addresses) {
            let cluster = if self.cluster == "quorate" {
                String::new()
            } else {
                format!(" --cluster {}", to_word(&self.cluster))
            };
            let key = if self.is_open { "" } else { " --swarm-key swarm.key" };
            lines.push(format!("on the next machine:\n  quorate start --join {address}{cluster}{key}"));
        }
        lines.join("\n")
    }
}

/// The address at which another machine most likely finds us.
fn best_address(addresses: &[Multiaddr]) -> Option<&Multiaddr> {
    let rank = |address: &&Multiaddr| match address.iter().next() {
        Some(Protocol::Ip4(ip)) if ip.is_loopback() => 4,
        Some(Protocol::Ip4(ip)) if ip.is_link_local() => 3,
        Some(Protocol::Ip4(_)) => 0,
        Some(Protocol::Ip6(ip)) if ip.is_loopback() => 5,
        // Without its interface such an address leads nowhere.
        Some(Protocol::Ip6(ip)) if ip.is_unicast_link_local() => 6,
        Some(Protocol::Ip6(_)) => 1,
        _ => 2,
    };
    addresses.iter().min_by_key(rank)
}

fn with_peer(address: &Multiaddr, peer: PeerId) -> Multiaddr {
    match address.iter().last() {
        Some(Protocol::P2p(_)) => address.clone(),
        _ => address.clone().with(Protocol::P2p(peer)),
    }
}

#[cfg(test)]
#[path = "start_tests.rs"]
mod tests;
