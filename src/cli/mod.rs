//! The command line: words in, answers out.
//!
//! Each command has a file, computes an answer and prints nothing; [`output`] prints. Every command reaches a node as an
//! ordinary client, through `connect.rs`: there is no second door. The surface (words, JSON, exit codes) is a promise to
//! scripts.

use std::{collections::BTreeMap, env, ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use libp2p::Multiaddr;

pub mod output;
pub mod error;
pub mod settings;
mod settings_values;
mod text;
mod connect;
mod administrator;
mod listing;

pub mod put;
pub mod get;
pub mod delete;
pub mod scan;
mod status;
mod filling;
mod members;
pub mod ring;
mod ring_table;
mod ring_picture;
mod ring_row;
pub mod inspect;
pub mod history;
mod health;
pub mod hints;
pub mod repair;
pub mod verify;
mod watch;
pub mod membership;
mod plan;
mod plan_text;
mod alerts;
mod metrics;

pub mod import;
pub mod export;
mod lines;
mod shell;
mod shell_line;
pub mod bench;
mod bench_report;

pub mod start;
mod notices;
mod on_alert;
pub mod config;
pub mod id;
mod keygen;
pub mod completions;

#[cfg(test)]
mod samples;

use crate::{
    cli::{
        connect::{Session, Target},
        error::{CliError, Exit},
        membership::Audience,
        output::{Answer, Format, Terminal},
        put::ValueSource,
        settings::{Raw, Settings, Sources},
    },
    runtime::registry::Registry,
};

/// A leaderless, replicated key-value store.
#[derive(Debug, Parser)]
#[command(name = "quorate", version)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
struct Common {
    /// table for people, json for programs.
    #[arg(short, long, global = true, value_name = "FORMAT", value_enum, default_value_t, hide_possible_values = true)]
    output: Format,
    /// The node to ask, for example /ip4/192.168.1.7/tcp/4001; several where the first may be away.
    #[arg(
        long,
        global = true,
        value_name = "MULTIADDR",
        env = "QUORATE_NODE",
        value_delimiter = ',',
        value_parser = settings_values::parse_address
    )]
    node: Vec<Multiaddr>,
    /// The settings file, TOML; its keys are those of `quorate config show`.
    #[arg(long, global = true, value_name = "FILE", env = "QUORATE_CONFIG")]
    config: Option<PathBuf>,
    /// Where a node keeps its data; other commands than start ask the node that runs on it.
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
    /// The cluster's name.
    #[arg(long, global = true, value_name = "NAME")]
    cluster: Option<String>,
    /// The file with the cluster's key; see keygen.
    #[arg(long, global = true, value_name = "FILE")]
    swarm_key: Option<String>,
    /// Neither look for nodes on the local network nor be found there.
    #[arg(long, global = true)]
    no_mdns: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    Start(start::StartArgs),
    #[command(flatten)]
    Client(ClientCommand),
    /// Store the lines of a file: NDJSON {"key","value"}
    Import(import::ImportArgs),
    /// Write every key and value as NDJSON, sorted by key
    Export(export::ExportArgs),
    /// A prompt; when not on a terminal: one command a line in, one JSON a line out
    Shell,
    /// Measure throughput and latency
    Bench(bench::BenchArgs),
    /// The settings, and where each came from
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// The identity of the node on the data directory
    Id(id::IdArgs),
    /// Make a key for a closed cluster: quorate keygen > swarm.key
    Keygen,
    /// The completions for a shell
    Completions(completions::CompletionsArgs),
}

/// The commands that a node answers in one piece; the shell knows the same.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ClientCommand {
    /// Store a value
    Put(put::PutArgs),
    /// Read a key
    Get(get::GetArgs),
    /// Remove what a key holds
    Delete(delete::DeleteArgs),
    /// List keys that begin with a prefix
    Scan(scan::ScanArgs),
    /// Whether the cluster serves
    Status,
    /// Who belongs to the cluster
    Members,
    /// Who serves which partition
    Ring(ring::RingArgs),
    /// What each replica holds of a key
    Inspect(inspect::InspectArgs),
    /// All membership changes
    History(history::HistoryArgs),
    /// What a node keeps for members that are away; deliver, pause, resume or drop it
    Hints(hints::HintsArgs),
    /// Have a node hand over what it holds, and leave the cluster; or stay after all
    Leave(membership::LeaveArgs),
    /// Remove a member for ever that is gone for good
    Remove(membership::RemoveArgs),
    /// Have a new node take over exactly the rows of a member that is gone for good
    Replace(membership::ReplaceArgs),
    /// Make replicas equal now: compare a node's with all others of its rows
    Repair(repair::RepairArgs),
    /// Look at every record of a node, and mend what is damaged
    Verify(verify::VerifyArgs),
    /// What the administrator of a node should know
    Alerts,
    /// Counters and gauges of a node, for Prometheus' textfile collector
    Metrics,
}

/// Runs the command in `arguments` (the first is the program's name). Returns the exit code of the process.
pub fn run(arguments: Vec<OsString>) -> u8 {
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &arguments).code(),
    };
    let terminal = Terminal { format: cli.common.output };
    let result = async_std::task::block_on(cli.run(terminal));
    result.unwrap_or_else(|error| terminal.fail(&error)).code()
}

impl Cli {
    async fn run(self, terminal: Terminal) -> Result<Exit, CliError> {
        match self.command {
            Command::Keygen => return terminal.show(keygen::run()),
            Command::Completions(args) => return terminal.show(completions::run(args)),
            _ => {}
        }
        let mut flags = self.common.to_flags();
        if let Command::Start(args)
        | Command::Config(config::ConfigCommand::Show(config::ShowArgs { start: args, .. })) = &self.command
        {
            flags.extend(args.to_flags());
        }
        let settings = Settings::load(&sources(self.common.config.clone(), flags))?;
        let choose = || Target::choose(&self.common.node, &settings, &Registry::of_user());
        let connect = async || choose()?.connect().await;
        match self.command {
            Command::Start(_) => start::run(&settings, terminal).await,
            Command::Config(config::ConfigCommand::Show(args)) => terminal.show(config::show(&settings, &args)),
            Command::Id(args) => terminal.show(id::run(&settings, args)?),
            Command::Client(command) => {
                let session = connect().await?;
                terminal.show(command.run(&session, ValueSource::Input, terminal).await?)
            }
            Command::Import(args) => terminal.show(import::run(&connect().await?, args).await?),
            Command::Export(args) => export::run(&connect().await?, args, terminal).await,
            Command::Shell => shell::run(&connect().await?, &settings, terminal).await,
            Command::Bench(args) => {
                let target = choose()?;
                terminal.show(bench::run(&target, args, terminal).await?)
            }
            Command::Keygen | Command::Completions(_) => Ok(Exit::Done),
        }
    }
}

impl ClientCommand {
    /// Asks, and gives the answer. What must be seen or said yes to before goes to `terminal`.
    pub(crate) async fn run(
        self,
        session: &Session,
        value_source: ValueSource,
        terminal: Terminal,
    ) -> Result<Answer, CliError> {
        let audience = Audience::of(value_source, terminal);
        match self {
            ClientCommand::Put(args) => put::run(session, args.into_request(value_source)?).await,
            ClientCommand::Get(args) => get::run(session, args.into_request()?).await,
            ClientCommand::Delete(args) => delete::run(session, args.into_request()?).await,
            ClientCommand::Scan(args) => scan::run(session, args).await,
            ClientCommand::Status => status::run(session).await,
            ClientCommand::Members => members::run(session).await,
            ClientCommand::Ring(args) => ring::run(session, &args).await,
            ClientCommand::Inspect(args) => inspect::run(session, args).await,
            ClientCommand::History(args) => history::run(session, args).await,
            ClientCommand::Hints(args) => hints::run(session, args.into_request()?).await,
            ClientCommand::Leave(args) => membership::run(session, args.into_request(), audience, terminal).await,
            ClientCommand::Remove(args) => membership::run(session, args.into_request(), audience, terminal).await,
            ClientCommand::Replace(args) => membership::run(session, args.into_request(), audience, terminal).await,
            ClientCommand::Repair(args) => repair::run(session, args.into_request()?).await,
            ClientCommand::Verify(args) => verify::run(session, args).await,
            ClientCommand::Alerts => alerts::run(session).await,
            ClientCommand::Metrics => metrics::run(session).await,
        }
    }
}

impl Common {
    fn to_flags(&self) -> Vec<(&'static str, &'static str, Raw)> {
        let texts = [
            ("data_dir", "--data-dir", &self.data_dir),
            ("cluster", "--cluster", &self.cluster),
            ("swarm_key", "--swarm-key", &self.swarm_key),
        ];
        let mut flags = given(texts);
        if self.no_mdns {
            flags.push(("mdns", "--no-mdns", Raw::One("false".to_owned())));
        }
        flags
    }
}

/// The flags that were given.
pub(crate) fn given<const N: usize>(
    texts: [(&'static str, &'static str, &Option<String>); N],
) -> Vec<(&'static str, &'static str, Raw)> {
    let flag = |(key, flag, text): (_, _, &Option<String>)| Some((key, flag, Raw::One(text.clone()?)));
    texts.into_iter().filter_map(flag).collect()
}

fn sources(file: Option<PathBuf>, flags: Vec<(&'static str, &'static str, Raw)>) -> Sources {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let variables: BTreeMap<String, String> = env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Sources { file, variables, flags, host }
}

/// Says what is wrong with the command line; or gives the help that was asked for.
fn refuse(error: &clap::Error, arguments: &[OsString]) -> Exit {
    if !error.use_stderr() {
        // Help and version. That nobody reads them is no failure.
        let _ = error.print();
        return Exit::Done;
    }
    let wants_json = arguments.windows(2).any(|pair| (pair[0] == "-o" || pair[0] == "--output") && pair[1] == "json")
        || arguments
            .iter()
            .any(|argument| argument == "-ojson" || argument == "--output=json" || argument == "-o=json");
    if wants_json {
        let detail = error.render().to_string().trim_end().to_owned();
        return Terminal { format: Format::Json }.fail(&CliError::Usage { detail });
    }
    // The exit code tells it as well.
    let _ = error.print();
    Exit::Usage
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(shlex::split(line).unwrap())
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_documented_form_is_understood() {
        for line in [
            "quorate start --data-dir d --name n --listen /ip4/127.0.0.1/tcp/0 --listen /ip6/::1/tcp/0 --join \
             /ip4/127.0.0.1/tcp/1 --no-mdns --cluster c --swarm-key f --zone z --weight 2 --replicas 3 --partitions 64 \
             --config f -o json",
            "quorate start --sloppy false --hints true --hint-ttl 60 --hint-bytes-per-target 1000 --hint-bytes 2000 \
             --dead-after 5 --on-alert 'cat >> f'",
            "quorate start --anti-entropy false --exchange-interval 0.5 --exchange-bytes-per-second 1000",
            "quorate put k v --w 2 --strict --ttl 1h",
            "quorate put k - --context abc",
            "quorate put k --overwrite",
            "quorate put k -5 --create",
            "quorate get k --r all --strict",
            "quorate get k --r local-quorum",
            "quorate put k v --w each-quorum",
            "quorate import f --w local-quorum",
            "quorate export --r each-quorum",
            "quorate bench --w each-quorum --r local-quorum",
            "quorate get k --local -o json --node /ip4/127.0.0.1/tcp/1",
            "quorate delete k --context abc --w one",
            "quorate scan p --limit 7",
            "quorate import -",
            "quorate export",
            "quorate shell",
            "quorate bench --clients 16 --seconds 10 --value-size 1024 --mix 50:50 --keys 10000 --connections 2",
            "quorate status",
            "quorate members",
            "quorate ring",
            "quorate ring --roots -o json",
            "quorate ring --key k -o json",
            "quorate history --verify",
            "quorate hints",
            "quorate hints status -o json",
            "quorate hints deliver --target 12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo",
            "quorate hints pause",
            "quorate hints resume",
            "quorate hints drop --target 12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo --yes",
            "quorate hints drop --target 12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo --dry-run",
            "quorate leave --wait --yes -o json",
            "quorate leave --dry-run",
            "quorate leave --cancel",
            "quorate remove ann --dry-run",
            "quorate remove 12D3KooWQYhTNQ --yes --force",
            "quorate replace ann 12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo --yes --force",
            "quorate replace ann 12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo --dry-run",
            "quorate repair",
            "quorate repair --partition 3 --wait -o json",
            "quorate repair --key k --trace",
            "quorate verify --wait",
            "quorate alerts",
            "quorate metrics -o json",
            "quorate config show --origin --replicas 2",
            "quorate inspect k",
            "quorate id",
            "quorate id --create --data-dir d",
            "quorate keygen",
            "quorate completions bash",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn contradictions_and_strange_words_are_refused() {
        for line in [
            "quorate put k v --create --overwrite",
            "quorate put k v --create --context x",
            "quorate get k --r 0",
            "quorate get k --r local",
            "quorate get k --local --r one",
            "quorate put k v --ttl 1",
            "quorate bench --mix 60:50",
            "quorate fetch k",
            "quorate hints away",
            "quorate leave ann",
            "quorate leave --cancel --wait",
            "quorate leave --dry-run --yes",
            "quorate remove",
            "quorate remove ann --dry-run --yes",
            "quorate replace ann",
            "quorate replace ann bob",
            "quorate ring --roots --key k",
            "quorate repair --partition 3 --key k",
            "quorate repair --partition -1",
            "quorate verify k",
            "quorate hints drop --target ann",
            "quorate",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_misused_command_line_ends_with_its_own_code() {
        let arguments = |line: &str| shlex::split(line).unwrap().into_iter().map(OsString::from).collect();
        assert_eq!(run(arguments("quorate fetch -o json")), 2);
        assert_eq!(run(arguments("quorate get k --data-dir /nowhere/at/all -o json")), 7);
    }
}
