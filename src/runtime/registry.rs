//! Which nodes run on this machine, for those who want to talk to one.
//!
//! A running node keeps one small JSON file, in its data directory and once more in a directory of its user, and
//! removes both when it stops. A file whose process is gone is ignored and removed. Files appear whole or not at all.
//! A number that the system has given to another process since counts as alive: whoever asks must expect that nobody
//! answers.
//!
//! The user's directory is made for that user alone; one that belongs to somebody else, or that others may write, is
//! not used, because its files would say whom to talk to.

use std::{
    env, fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use libp2p::{Multiaddr, PeerId};
use rustix::process::{Pid, geteuid, test_kill_process};
use serde_json::{Value as Json, json};

use crate::ident::Name;

/// A node that runs here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who it is.
    pub peer_id: PeerId,
    /// Its cluster.
    pub cluster: Name,
    /// Its process.
    pub pid: u32,
    /// Where its data is.
    pub data_dir: PathBuf,
    /// The file with its cluster's key; none when the cluster is open.
    pub swarm_key: Option<PathBuf>,
    /// Where it listens, each with `/p2p/…`. May be empty.
    pub addresses: Vec<Multiaddr>,
}

/// The directory in which the nodes of one user are listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    dir: PathBuf,
}

impl Registry {
    /// That of the user under whom this process runs: below `$XDG_RUNTIME_DIR`, else `/tmp/quorate-<uid>`.
    pub fn of_user() -> Registry {
        let base = match env::var_os("XDG_RUNTIME_DIR") {
            Some(dir) if !dir.is_empty() => PathBuf::from(dir),
            _ => PathBuf::from(format!("/tmp/quorate-{}", geteuid().as_raw())),
        };
        Registry::at(base.join("quorate"))
    }

    /// The one in `dir`.
    pub fn at(dir: PathBuf) -> Registry {
        Registry { dir }
    }

    /// Lists `entry`, here and in its data directory, in place of what was said of it before.
    ///
    /// After an error one of the two files may be there; [`Registry::unregister`] removes it.
    pub fn register(&self, entry: &Entry) -> io::Result<()> {
        let text = format!("{}\n", entry.to_json());
        write_whole(&entry.data_dir.join(NODE_FILE), &text)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        if !is_private(&self.dir) {
            let detail = format!("{} belongs to another user, or others may write into it", self.dir.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, detail));
        }
        write_whole(&self.path_of(&entry.peer_id), &text)
    }

    /// Lists `entry` no more. Files that another process has written since stay.
    pub fn unregister(&self, entry: &Entry) {
        for path in [entry.data_dir.join(NODE_FILE), self.path_of(&entry.peer_id)] {
            if read(&path).is_some_and(|found| found.pid == entry.pid) {
                // Nothing depends on it: a stale file is ignored.
                let _ = fs::remove_file(path);
            }
        }
    }

    /// The nodes that run here, sorted by cluster and id; only those of `cluster`, if given.
    pub fn find(&self, cluster: Option<&Name>) -> Vec<Entry> {
        if !is_private(&self.dir) {
            return Vec::new();
        }
        let Ok(files) = fs::read_dir(&self.dir) else { return Vec::new() };
        let paths = files.filter_map(Result::ok).map(|file| file.path()).filter(|path| is_entry_name(path));
        let mut entries: Vec<Entry> = paths.take(FILE_COUNT_MAX).filter_map(|path| read_live(&path)).collect();
        entries.retain(|entry| cluster.is_none_or(|cluster| entry.cluster == *cluster));
        entries.sort_by(|a, b| (&a.cluster, &a.peer_id).cmp(&(&b.cluster, &b.peer_id)));
        entries
    }

    fn path_of(&self, peer: &PeerId) -> PathBuf {
        self.dir.join(format!("{peer}.json"))
    }
}

/// The node that runs on `data_dir`, if one does.
pub fn find_in(data_dir: &Path) -> Option<Entry> {
    read_live(&data_dir.join(NODE_FILE))
}

impl Entry {
    fn to_json(&self) -> Json {
        let addresses: Vec<String> = self.addresses.iter().map(Multiaddr::to_string).collect();
        json!({
            "peer_id": self.peer_id.to_string(),
            "cluster": self.cluster.as_str(),
            "pid": self.pid,
            "data_dir": self.data_dir.to_string_lossy(),
            "swarm_key": self.swarm_key.as_ref().map(|path| path.to_string_lossy()),
            "addresses": addresses,
        })
    }

    fn from_json(json: &Json) -> Option<Entry> {
        let text = |key: &str| json.get(key)?.as_str();
        let addresses = json.get("addresses")?.as_array()?.iter();
        Some(Entry {
            peer_id: text("peer_id")?.parse().ok()?,
            cluster: Name::new(text("cluster")?).ok()?,
            pid: u32::try_from(json.get("pid")?.as_u64()?).ok()?,
            data_dir: text("data_dir")?.into(),
            swarm_key: text("swarm_key").map(PathBuf::from),
            addresses: addresses.filter_map(|address| address.as_str()?.parse().ok()).collect(),
        })
    }
}

/// Name of the file in the data directory.
const NODE_FILE: &str = "node.json";

/// Most files looked at. More nodes than that on one machine are not listed.
const FILE_COUNT_MAX: usize = 1_000;

/// Longest file that is read, in bytes.
const FILE_LIMIT_BYTES: u64 = 64 << 10;

fn read_live(path: &Path) -> Option<Entry> {
    let entry = read(path)?;
    if is_alive(entry.pid) {
        return Some(entry);
    }
    // Nothing depends on it: the next reader would ignore the file as well.
    let _ = fs::remove_file(path);
    None
}

fn read(path: &Path) -> Option<Entry> {
    let length_bytes = fs::metadata(path).ok()?.len();
    if length_bytes > FILE_LIMIT_BYTES {
        return None;
    }
    Entry::from_json(&serde_json::from_slice(&fs::read(path).ok()?).ok()?)
}

fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // Only "no such process" is proof; a process of another user is one that may not be asked.
    pid.is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

fn is_entry_name(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

fn is_private(dir: &Path) -> bool {
    let Ok(metadata) = fs::symlink_metadata(dir) else { return false };
    metadata.is_dir() && metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o022 == 0
}

/// Writes a file whole or not at all: another name first, then the right one.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension(format!("{}.draft", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(dir: &Path, cluster: &str, pid: u32) -> Entry {
        let peer_id = PeerId::random();
        let address = format!("/ip4/127.0.0.1/tcp/4001/p2p/{peer_id}");
        let cluster = Name::new(cluster).unwrap();
        let swarm_key = Some(dir.join("swarm.key"));
        Entry { peer_id, cluster, pid, data_dir: dir.to_owned(), swarm_key, addresses: vec![address.parse().unwrap()] }
    }

    fn registry(dir: &Path) -> Registry {
        Registry::at(dir.join("run").join("quorate"))
    }

    #[test]
    fn a_running_node_is_found_until_it_stops() {
        let dir = tempfile::tempdir().unwrap();
        let node = entry(dir.path(), "quorate", std::process::id());
        let registry = registry(dir.path());
        registry.register(&node).unwrap();
        assert_eq!(registry.find(None), std::slice::from_ref(&node));
        assert_eq!(find_in(dir.path()), Some(node.clone()));
        assert_eq!(registry.find(Some(&Name::new("other").unwrap())), []);

        registry.unregister(&node);
        assert_eq!(registry.find(None), []);
        assert_eq!(find_in(dir.path()), None);
    }

    #[test]
    fn the_entry_of_a_dead_process_is_ignored_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let node = entry(dir.path(), "quorate", child.id());
        registry(dir.path()).register(&node).unwrap();
        assert_eq!(registry(dir.path()).find(None), []);
        assert_eq!(find_in(dir.path()), None);
        assert!(!dir.path().join(NODE_FILE).exists());
    }

    #[test]
    fn several_nodes_come_in_one_order_and_strange_files_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = ["b", "a", "b"].map(|cluster| entry(dir.path(), cluster, std::process::id()));
        for node in &nodes {
            registry(dir.path()).register(node).unwrap();
        }
        fs::write(registry(dir.path()).dir.join("strange.json"), "{\"pid\": -1}").unwrap();
        let found = registry(dir.path()).find(None);
        assert_eq!(found.len(), 3);
        assert!(found.is_sorted_by_key(|entry| (entry.cluster.clone(), entry.peer_id)));
    }

    #[test]
    fn a_directory_that_others_may_write_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let node = entry(dir.path(), "quorate", std::process::id());
        let registry = registry(dir.path());
        registry.register(&node).unwrap();
        fs::set_permissions(&registry.dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert_eq!(registry.find(None), []);
        assert!(registry.register(&node).is_err());
    }
}
