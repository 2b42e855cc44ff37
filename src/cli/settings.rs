//! What the operator wrote, in four layers: defaults, then the file, then `QUORATE_*` variables, then flags.
//!
//! A later layer replaces a key of an earlier one whole. All layers are read as text under the same rules, so that a
//! value means the same wherever it is written, and each value remembers where it came from. A key that does not exist
//! is refused, with the one that was probably meant.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use libp2p::Multiaddr;
use thiserror::Error;

use crate::{
    cli::settings_values::{
        parse_address, parse_age, parse_bool, parse_bytes, parse_durability, parse_name, parse_node, parse_partitions,
        parse_replicas, parse_seconds, parse_weight,
    },
    ident::{Name, NodeId},
    replica::hints::HintLimits,
    ring::token::PartitionCount,
    store::lmdb::Durability,
};

/// The settings of a node, and of whoever looks for one.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where the node keeps its data.
    pub data_dir: PathBuf,
    /// The node's name, for people.
    pub name: Name,
    /// Where it listens.
    pub listen: Vec<Multiaddr>,
    /// Whom to join; a node that was told never founds a cluster.
    pub join: Vec<Multiaddr>,
    /// Whether to look for nodes on the local network, and to be found there.
    pub mdns: bool,
    /// The cluster's name.
    pub cluster: Name,
    /// The file with the cluster's key; none for an open cluster.
    pub swarm_key: Option<PathBuf>,
    /// The node's rack or data centre.
    pub zone: Option<Name>,
    /// The node's share of the data.
    pub weight: u16,
    /// Replicas of a key, should the node found a cluster.
    pub replicas: u8,
    /// Partitions of the ring, should the node found a cluster.
    pub partitions: PartitionCount,
    /// When a commit is on the disk.
    pub durability: Durability,
    /// Who may administer the node, beside the holder of its own key.
    pub admins: Vec<NodeId>,
    /// How long a node without `join` looks around before it founds a cluster.
    pub discovery_window: Duration,
    /// How often histories are compared with a random peer.
    pub reconcile_interval: Duration,
    /// How long one peer may take to answer.
    pub peer_timeout: Duration,
    /// Whether reads repair replicas that were behind.
    pub read_repair: bool,
    /// Whether replicas are compared and made equal, in the background and on demand.
    pub anti_entropy: bool,
    /// In what time the node is compared once with each other of its rows.
    pub exchange_interval: Duration,
    /// How many bytes a second comparing may take, what is handed over included.
    pub exchange_bytes_per_second: u64,
    /// Whether copies and answers of fallbacks count where a request does not say `strict`.
    pub sloppy: bool,
    /// Whether nodes keep hints for each other.
    pub hints: bool,
    /// How old a hint may become.
    pub hint_ttl: Duration,
    /// How many bytes of hints the node keeps.
    pub hint_limits: HintLimits,
    /// After how long without a word of a member the administrator is told.
    pub dead_after: Duration,
    /// A shell command that is run for every alert.
    pub on_alert: Option<String>,
    entries: BTreeMap<&'static str, Entry>,
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere.
    Default,
    /// In the file.
    File(PathBuf),
    /// In this variable.
    Variable(String),
    /// In this flag.
    Flag(&'static str),
}

/// A value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Raw {
    /// One text.
    One(String),
    /// A list of texts.
    Many(Vec<String>),
}

/// All that settings are read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file, if one was named.
    pub file: Option<PathBuf>,
    /// The environment.
    pub variables: BTreeMap<String, String>,
    /// The flags that were given: key, flag, value.
    pub flags: Vec<(&'static str, &'static str, Raw)>,
    /// Name of this machine.
    pub host: String,
}

/// What is wrong with the settings. Nothing was done.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// A key of the file does not exist.
    #[error("{path}: there is no key `{key}`{}", suggest(*suggestion), path = path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What was probably meant.
        suggestion: Option<&'static str>,
    },
    /// A variable with our prefix does not exist.
    #[error("the environment has {name}, which means nothing: unset it{}", suggest(suggestion.as_deref()))]
    UnknownVariable {
        /// The variable.
        name: String,
        /// What was probably meant.
        suggestion: Option<String>,
    },
    /// A value breaks the rule of its key.
    #[error("{key} = {value} ({origin}): {rule}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// What was written.
        value: String,
        /// Where.
        origin: Origin,
        /// What may be written.
        rule: String,
    },
    /// The file cannot be read.
    #[error("the settings file {path} cannot be read: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not TOML: {detail}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        detail: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    raw: Raw,
    origin: Origin,
}

impl Settings {
    /// Reads all layers.
    pub fn load(sources: &Sources) -> Result<Settings, SettingsError> {
        let mut entries = BTreeMap::new();
        add_defaults(&mut entries, sources);
        if let Some(path) = &sources.file {
            add_file(&mut entries, path)?;
        }
        add_variables(&mut entries, &sources.variables)?;
        for (key, flag, raw) in &sources.flags {
            entries.insert(*key, Entry { raw: raw.clone(), origin: Origin::Flag(flag) });
        }
        Settings::parse(entries)
    }

    /// Where `key` was written last.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.entries.get(key).map(|entry| &entry.origin)
    }

    /// Whether anybody has written `key`.
    pub fn is_given(&self, key: &str) -> bool {
        self.origin(key).is_some_and(|origin| *origin != Origin::Default)
    }

    /// Every key with its value as it was written and where; in the order of [`KEYS`].
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Raw, &Origin)> {
        KEYS.iter().filter_map(|key| self.entries.get(key).map(|entry| (*key, &entry.raw, &entry.origin)))
    }

    fn parse(mut entries: BTreeMap<&'static str, Entry>) -> Result<Settings, SettingsError> {
        let data_dir = one(&entries, "data_dir", |text| match text {
            "" => Err("it must name a directory".to_owned()),
            _ => Ok(PathBuf::from(text)),
        })?;
        find_swarm_key(&mut entries, &data_dir);
        let optional = |key| one(&entries, key, |text| Ok((!text.is_empty()).then(|| text.to_owned())));
        Ok(Settings {
            name: one(&entries, "name", parse_name)?,
            listen: many(&entries, "listen", parse_address)?,
            join: many(&entries, "join", parse_address)?,
            mdns: one(&entries, "mdns", parse_bool)?,
            cluster: one(&entries, "cluster", parse_name)?,
            swarm_key: optional("swarm_key")?.map(PathBuf::from),
            zone: one(&entries, "zone", |text| if text.is_empty() { Ok(None) } else { parse_name(text).map(Some) })?,
            weight: one(&entries, "weight", parse_weight)?,
            replicas: one(&entries, "replicas", parse_replicas)?,
            partitions: one(&entries, "partitions", parse_partitions)?,
            durability: one(&entries, "durability", parse_durability)?,
            admins: many(&entries, "admins", parse_node)?,
            discovery_window: one(&entries, "discovery_window", parse_seconds)?,
            reconcile_interval: one(&entries, "reconcile_interval", parse_seconds)?,
            peer_timeout: one(&entries, "peer_timeout", parse_seconds)?,
            read_repair: one(&entries, "read_repair", parse_bool)?,
            anti_entropy: one(&entries, "anti_entropy", parse_bool)?,
            exchange_interval: one(&entries, "exchange_interval", parse_seconds)?,
            exchange_bytes_per_second: one(&entries, "exchange_bytes_per_second", parse_bytes)?,
            sloppy: one(&entries, "sloppy", parse_bool)?,
            hints: one(&entries, "hints", parse_bool)?,
            hint_ttl: one(&entries, "hint_ttl", parse_age)?,
            hint_limits: hint_limits(&entries)?,
            dead_after: one(&entries, "dead_after", parse_age)?,
            on_alert: optional("on_alert")?,
            data_dir,
            entries,
        })
    }
}

impl Raw {
    /// One text, a list joined by commas.
    pub fn to_text(&self) -> String {
        match self {
            Raw::One(text) => text.clone(),
            Raw::Many(texts) => texts.join(","),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Variable(name) => write!(f, "environment {name}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// Every key there is, in the order in which they are shown.
pub const KEYS: [&str; 27] = [
    "data_dir",
    "name",
    "listen",
    "join",
    "mdns",
    "cluster",
    "swarm_key",
    "zone",
    "weight",
    "replicas",
    "partitions",
    "durability",
    "admins",
    "discovery_window",
    "reconcile_interval",
    "peer_timeout",
    "read_repair",
    "anti_entropy",
    "exchange_interval",
    "exchange_bytes_per_second",
    "sloppy",
    "hints",
    "hint_ttl",
    "hint_bytes_per_target",
    "hint_bytes",
    "dead_after",
    "on_alert",
];

/// Keys whose value is a list.
const LIST_KEYS: [&str; 3] = ["listen", "join", "admins"];

/// What every variable of ours begins with.
const PREFIX: &str = "QUORATE_";

/// Variables that are no settings: the node to ask, the file, the filter of the log.
const OTHER_VARIABLES: [&str; 3] = ["QUORATE_NODE", "QUORATE_CONFIG", "QUORATE_LOG"];

fn add_defaults(entries: &mut BTreeMap<&'static str, Entry>, sources: &Sources) {
    let mut host: String = sources.host.chars().filter(|char| !char.is_control()).collect();
    host.truncate(host.floor_char_boundary(crate::limits::NAME_LIMIT_BYTES));
    let name = if host.is_empty() { "node".to_owned() } else { host };
    let data_dir = default_data_dir(&sources.variables);
    let texts = [
        ("data_dir", data_dir.to_string_lossy().into_owned()),
        ("name", name),
        ("mdns", "true".to_owned()),
        ("cluster", "quorate".to_owned()),
        ("swarm_key", String::new()),
        ("zone", String::new()),
        ("weight", "1".to_owned()),
        ("replicas", "3".to_owned()),
        ("partitions", "1024".to_owned()),
        ("durability", "sync".to_owned()),
        ("discovery_window", "1".to_owned()),
        ("reconcile_interval", "1".to_owned()),
        ("peer_timeout", "2".to_owned()),
        ("read_repair", "true".to_owned()),
        ("anti_entropy", "true".to_owned()),
        ("exchange_interval", "600".to_owned()),
        ("exchange_bytes_per_second", "33554432".to_owned()),
        ("sloppy", "true".to_owned()),
        ("hints", "true".to_owned()),
        ("hint_ttl", "43200".to_owned()),
        ("hint_bytes_per_target", "1073741824".to_owned()),
        ("hint_bytes", "4294967296".to_owned()),
        ("dead_after", "900".to_owned()),
        ("on_alert", String::new()),
    ];
    let lists = [
        ("listen", vec!["/ip4/0.0.0.0/tcp/0".to_owned(), "/ip6/::/tcp/0".to_owned()]),
        ("join", Vec::new()),
        ("admins", Vec::new()),
    ];
    let texts = texts.map(|(key, text)| (key, Raw::One(text)));
    let lists = lists.map(|(key, list)| (key, Raw::Many(list)));
    for (key, raw) in texts.into_iter().chain(lists) {
        entries.insert(key, Entry { raw, origin: Origin::Default });
    }
}

fn default_data_dir(variables: &BTreeMap<String, String>) -> PathBuf {
    let variable = |name| variables.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // A service may run without a home; this is where services keep their data.
    let fallback = || PathBuf::from("/var/lib");
    let base = variable("XDG_DATA_HOME").or_else(|| Some(variable("HOME")?.join(".local/share")));
    base.unwrap_or_else(fallback).join("quorate")
}

/// Without a word about it, the key is the one in the data directory, if there is one.
fn find_swarm_key(entries: &mut BTreeMap<&'static str, Entry>, data_dir: &Path) {
    let path = data_dir.join("swarm.key");
    if let Some(entry) = entries.get_mut("swarm_key")
        && entry.origin == Origin::Default
        && path.exists()
    {
        entry.raw = Raw::One(path.to_string_lossy().into_owned());
    }
}

fn add_file(entries: &mut BTreeMap<&'static str, Entry>, path: &Path) -> Result<(), SettingsError> {
    let text =
        fs::read_to_string(path).map_err(|source| SettingsError::Unreadable { path: path.to_owned(), source })?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| SettingsError::Malformed {
        path: path.to_owned(),
        detail: error.to_string().trim_end().to_owned(),
    })?;
    for (written, value) in table {
        let Some(key) = KEYS.into_iter().find(|key| *key == written) else {
            let suggestion = closest(&written, KEYS);
            return Err(SettingsError::UnknownKey { path: path.to_owned(), key: written, suggestion });
        };
        let origin = Origin::File(path.to_owned());
        let Some(raw) = raw_of(&value) else {
            let rule = "it must be a text, a number, true or false, or a list of those".to_owned();
            return Err(SettingsError::Invalid { key, value: value.to_string(), origin, rule });
        };
        entries.insert(key, Entry { raw, origin });
    }
    Ok(())
}

fn raw_of(value: &toml::Value) -> Option<Raw> {
    let text_of = |value: &toml::Value| match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(_) | toml::Value::Float(_) | toml::Value::Boolean(_) => Some(value.to_string()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => None,
    };
    match value {
        toml::Value::Array(list) => list.iter().map(text_of).collect::<Option<_>>().map(Raw::Many),
        other => text_of(other).map(Raw::One),
    }
}

fn add_variables(
    entries: &mut BTreeMap<&'static str, Entry>,
    variables: &BTreeMap<String, String>,
) -> Result<(), SettingsError> {
    for (name, value) in variables {
        if !name.starts_with(PREFIX) || OTHER_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        let Some(key) = KEYS.into_iter().find(|key| *name == variable_of(key)) else {
            let known: Vec<String> =
                KEYS.into_iter().map(variable_of).chain(OTHER_VARIABLES.map(str::to_owned)).collect();
            let suggestion = closest(name, known.iter().map(String::as_str)).map(str::to_owned);
            return Err(SettingsError::UnknownVariable { name: name.clone(), suggestion });
        };
        entries.insert(key, Entry { raw: Raw::One(value.clone()), origin: Origin::Variable(name.clone()) });
    }
    Ok(())
}

fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase())
}

fn one<T>(
    entries: &BTreeMap<&'static str, Entry>,
    key: &'static str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, SettingsError> {
    let entry = entries.get(key).expect("every key has a default");
    let result = match &entry.raw {
        Raw::One(text) => parse(text),
        Raw::Many(_) => Err("it takes one value, not a list".to_owned()),
    };
    result.map_err(|rule| invalid(key, entry, rule))
}

/// A list; where there are no lists, its elements stand between commas.
fn many<T>(
    entries: &BTreeMap<&'static str, Entry>,
    key: &'static str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, SettingsError> {
    debug_assert!(LIST_KEYS.contains(&key), "a list");
    let entry = entries.get(key).expect("every key has a default");
    let result: Result<Vec<T>, String> = match &entry.raw {
        Raw::One(text) => text.split(',').map(str::trim).filter(|element| !element.is_empty()).map(parse).collect(),
        Raw::Many(list) => list.iter().map(|element| parse(element)).collect(),
    };
    result.map_err(|rule| invalid(key, entry, rule))
}

/// What is kept for one target is part of all.
fn hint_limits(entries: &BTreeMap<&'static str, Entry>) -> Result<HintLimits, SettingsError> {
    let target_bytes = one(entries, "hint_bytes_per_target", parse_bytes)?;
    let total_bytes = one(entries, "hint_bytes", parse_bytes)?;
    if target_bytes <= total_bytes {
        return Ok(HintLimits { target_bytes, total_bytes });
    }
    let entry = |key| entries.get(key).expect("every key has a default");
    let rule = format!("it must not exceed hint_bytes, which is {total_bytes} ({})", entry("hint_bytes").origin);
    Err(invalid("hint_bytes_per_target", entry("hint_bytes_per_target"), rule))
}

fn invalid(key: &'static str, entry: &Entry, rule: String) -> SettingsError {
    SettingsError::Invalid { key, value: entry.raw.to_text(), origin: entry.origin.clone(), rule }
}

/// The one of `known` that is a slip of the pen away from `written`.
fn closest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.replace('-', "_");
    let near = known.into_iter().map(|known| (strsim::damerau_levenshtein(&written, known), known));
    near.filter(|(distance, known)| *distance <= known.len().div_ceil(3)).min().map(|(_, known)| known)
}

fn suggest(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |known| format!("; did you mean `{known}`?"))
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
