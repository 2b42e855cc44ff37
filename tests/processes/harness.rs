//! Starts `quorate` processes, reads what they tell, and ends them.
//!
//! Every process belongs to a value that kills it when it is dropped, by its own id. All that a test writes lies in one
//! temporary directory, the list of running nodes included, so that tests neither see each other nor the nodes of
//! whoever runs them.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value as Json;
use tempfile::TempDir;

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Longest wait until nothing moves any more: what is filled and what is retired is said some seconds apart, several times.
const SETTLING_PATIENCE: Duration = Duration::from_secs(90);

/// Lines of one process that wait to be read.
const LINE_COUNT_MAX: usize = 100_000;

/// What keeps a node on loopback and out of mDNS.
pub(crate) const LOOPBACK: [&str; 3] = ["--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"];

/// A directory for one test, and where its processes run.
pub(crate) struct Home {
    dir: TempDir,
}

/// Where processes run: this machine, or a network namespace of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    /// Words that bring a command there.
    pub(crate) enter: Vec<String>,
}

/// A running `quorate start -o json`.
pub(crate) struct Node {
    child: Child,
    lines: Receiver<(Instant, Json)>,
    /// Its events, and what it said to people, as texts.
    seen: Vec<(Instant, Json)>,
    pub(crate) place: Place,
    pub(crate) name: String,
    pub(crate) started: Instant,
    pub(crate) data_dir: PathBuf,
    pub(crate) peer_id: String,
    pub(crate) addresses: Vec<String>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

/// A running `quorate shell`: a line in, a line out.
pub(crate) struct Shell {
    child: Child,
    lines: Receiver<(Instant, Json)>,
}

impl Home {
    pub(crate) fn new() -> Home {
        Home { dir: tempfile::Builder::new().prefix("quorate-processes-").tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `quorate` with these words, with nothing of the environment that could mean something to it.
    pub(crate) fn command(&self, place: &Place, words: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_quorate");
        let mut command = match place.enter.as_slice() {
            [] => Command::new(program),
            [first, others @ ..] => {
                let mut command = Command::new(first);
                command.args(others).arg(program);
                command
            }
        };
        command.args(words).current_dir(self.dir.path()).env("HOME", self.dir.path());
        command.env("XDG_RUNTIME_DIR", self.path("run")).env_remove("XDG_DATA_HOME");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("QUORATE_")) {
            command.env_remove(name);
        }
        command
    }

    /// Starts a node on the data directory `name`. Waits for nothing.
    pub(crate) fn spawn(&self, place: &Place, name: &str, words: &[&str]) -> Node {
        let data_dir = self.path(name);
        let mut command = self.command(place, &["start", "-o", "json", "--data-dir", data_dir.to_str().unwrap()]);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command.spawn().unwrap();
        let (sender, lines) = sync_channel(LINE_COUNT_MAX);
        read_lines(child.stdout.take().unwrap(), sender.clone(), |line| parse_line(&line));
        read_lines(child.stderr.take().unwrap(), sender, Json::String);
        Node {
            child,
            lines,
            seen: Vec::new(),
            place: place.clone(),
            name: name.to_owned(),
            started,
            data_dir,
            peer_id: String::new(),
            addresses: Vec::new(),
        }
    }

    /// Starts a node here and waits until it serves.
    pub(crate) fn start(&self, name: &str, words: &[&str]) -> Node {
        let mut node = self.spawn(&Place::default(), name, words);
        node.wait_ready();
        node
    }

    /// So many nodes on loopback that know each other, and hold what they are to hold: whichever of them is away then is
    /// one of a row, and no more.
    pub(crate) fn cluster<const N: usize>(&self, words: &[&str]) -> [Node; N] {
        let first = self.start("node-0", &[&LOOPBACK, words].concat());
        let seed = first.addresses[0].clone();
        let mut nodes = vec![first];
        for index in 1..N {
            let words = [&LOOPBACK, words, &["--join", &seed]].concat();
            nodes.push(self.start(&format!("node-{index}"), &words));
        }
        for node in &mut nodes {
            node.wait_members(N);
        }
        nodes.iter().for_each(|node| self.wait_up(node, N));
        nodes.iter().for_each(|node| self.wait_settled(node));
        nodes.try_into().unwrap_or_else(|_| unreachable!("as many were started"))
    }

    /// Runs a command here to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Outcome {
        self.run_at(&Place::default(), words)
    }

    /// Runs a command here to its end, which may take so long.
    pub(crate) fn run_within(&self, patience: Duration, words: &[&str]) -> Outcome {
        finish(self.command(&Place::default(), words), &[], patience)
    }

    /// Runs a command at `place` to its end.
    pub(crate) fn run_at(&self, place: &Place, words: &[&str]) -> Outcome {
        finish(self.command(place, words), &[], PATIENCE)
    }

    /// Runs a command here to its end, with this standard input.
    pub(crate) fn run_with_input(&self, words: &[&str], input: &[u8]) -> Outcome {
        finish(self.command(&Place::default(), words), input, PATIENCE)
    }

    /// Runs a command here to its end, with one more variable in its environment.
    pub(crate) fn run_with_variable(&self, words: &[&str], (name, value): (&str, &str)) -> Outcome {
        let mut command = self.command(&Place::default(), words);
        command.env(name, value);
        finish(command, &[], PATIENCE)
    }

    /// Runs a command against `node`, as JSON.
    pub(crate) fn ask(&self, node: &Node, words: &[&str]) -> Outcome {
        self.run_at(&node.place, &[words, &["-o", "json", "--node", &node.addresses[0]]].concat())
    }

    /// Waits until `node` counts so many members as up.
    pub(crate) fn wait_up(&self, node: &Node, count: usize) {
        let mut last = Json::Null;
        let is_so = poll(|| {
            last = self.ask(node, &["members"]).json();
            let up = |member: &&Json| member["state"] == "up";
            last.as_array().is_some_and(|members| members.iter().filter(up).count() == count)
        });
        assert!(is_so, "{} does not see {count} members up: {last:#}", node.name);
        if last.as_array().is_some_and(|members| members.len() == count) {
            self.wait_settled(node);
        }
    }

    /// Waits until every partition is held by its row and nothing else counts.
    #[track_caller]
    pub(crate) fn wait_settled(&self, node: &Node) {
        let mut last = Json::Null;
        let is_so = poll_for(SETTLING_PATIENCE, || {
            last = self.ask(node, &["status"]).json();
            last["partitions"]["unsettled"] == 0 && last["partitions"]["filling"] == 0
        });
        assert!(is_so, "{} is not settled: {:#}", node.name, last["partitions"]);
    }

    /// A shell of `node`.
    pub(crate) fn shell(&self, node: &Node) -> Shell {
        let mut command = self.command(&node.place, &["shell", "--node", &node.addresses[0]]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = sync_channel(LINE_COUNT_MAX);
        read_lines(child.stdout.take().unwrap(), sender, |line| parse_line(&line));
        Shell { child, lines }
    }
}

impl Node {
    /// Waits until it serves.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self) {
        let (_, ready) = self.wait_event("ready");
        self.peer_id = ready["peer_id"].as_str().unwrap().to_owned();
        let addresses = ready["addresses"].as_array().unwrap().iter();
        self.addresses = addresses.map(|address| address.as_str().unwrap().to_owned()).collect();
    }

    /// Waits for the first event of this name, or takes it if it has come.
    #[track_caller]
    pub(crate) fn wait_event(&mut self, name: &str) -> (Instant, Json) {
        self.wait_for(&format!("event {name}"), |seen| seen.iter().find(|(_, event)| event["event"] == name).cloned())
    }

    /// Whether it has told this by now.
    pub(crate) fn has_told(&mut self, name: &str) -> bool {
        self.seen.extend(self.lines.try_iter());
        self.seen.iter().any(|(_, event)| event["event"] == name)
    }

    /// Waits until it has said a warning with all these words to people.
    #[track_caller]
    pub(crate) fn wait_warning(&mut self, words: &[&str]) {
        let has_all = |line: &str| line.starts_with("WARNING") && words.iter().all(|word| line.contains(word));
        self.wait_for(&format!("warning with {words:?}"), |seen| {
            seen.iter().filter_map(|(_, line)| line.as_str()).any(has_all).then_some(())
        });
    }

    /// Waits until it has told of so many members. Returns when it had.
    #[track_caller]
    pub(crate) fn wait_members(&mut self, count: usize) -> Instant {
        self.wait_for(&format!("{count} members"), |seen| {
            let mut joined = seen.iter().filter(|(_, event)| event["event"] == "member_joined");
            joined.nth(count - 1).map(|(when, _)| *when)
        })
    }

    #[track_caller]
    fn wait_for<T>(&mut self, what: &str, check: impl Fn(&[(Instant, Json)]) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = check(&self.seen) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(error) => {
                    let ended = if error == RecvTimeoutError::Timeout { "waited too long" } else { "it ended" };
                    panic!("{}: no {what}: {ended}; it said {:#?}", self.name, self.seen);
                }
            }
        }
    }

    /// Ends it as a loss of power would end its process.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        let (is_sent, said) = system(&["kill", "-s", name, &self.child.id().to_string()]);
        assert!(is_sent, "{said}");
    }

    /// Waits until it ends by itself. Returns its exit code, and what it has told.
    #[track_caller]
    pub(crate) fn wait_end(mut self) -> (i32, Vec<Json>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("{} goes on; it said {:#?}", self.name, self.seen),
            }
        }
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        (code, self.seen.drain(..).map(|(_, line)| line).collect())
    }

    /// Ends it as Ctrl-C would. Returns its exit code.
    pub(crate) fn stop(mut self) -> i32 {
        self.signal("INT");
        // Its output ends with it.
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

impl Outcome {
    /// Its output as one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> Json {
        match serde_json::from_slice(&self.stdout) {
            Ok(json) => json,
            Err(error) => panic!("no JSON ({error}): {self}"),
        }
    }

    /// Its output as one JSON value a line.
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<Json> {
        let text = str::from_utf8(&self.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// It ended with this code, and said these words, in either output.
    #[track_caller]
    pub(crate) fn expect(self, code: i32, words: &[&str]) -> Outcome {
        let text = self.to_string();
        assert_eq!(self.code, code, "{text}");
        for word in words {
            assert!(text.contains(word), "it lacks {word:?}: {text}");
        }
        assert!(!text.contains("panicked"), "{text}");
        self
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let stdout = String::from_utf8_lossy(&self.stdout);
        let shown: String = stdout.chars().take(2_000).collect();
        write!(f, "exit code {}\nstdout: {shown}\nstderr: {}", self.code, self.stderr)
    }
}

impl Shell {
    /// Sends lines, all at once, and returns as many answers in the order in which they came.
    #[track_caller]
    pub(crate) fn ask_all(&mut self, orders: &[Json]) -> Vec<Json> {
        let text: String = orders.iter().map(|order| format!("{order}\n")).collect();
        let mut input = self.child.stdin.take().unwrap();
        let answers = thread::scope(|scope| {
            scope.spawn(|| input.write_all(text.as_bytes()).and_then(|()| input.flush()).unwrap());
            orders.iter().map(|_| self.lines.recv_timeout(PATIENCE).expect("an answer in time").1).collect()
        });
        self.child.stdin = Some(input);
        answers
    }

    #[track_caller]
    pub(crate) fn ask(&mut self, order: Json) -> Json {
        self.ask_all(&[order]).remove(0)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Tries until it is so; at most for [`PATIENCE`]. What it tries takes its own time, so that this does not spin.
pub(crate) fn poll(is_so: impl FnMut() -> bool) -> bool {
    poll_for(PATIENCE, is_so)
}

fn poll_for(patience: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if is_so() {
            return true;
        }
    }
    false
}

/// Runs a program of the machine. Returns whether it succeeded, and what it said.
pub(crate) fn system(words: &[impl AsRef<OsStr>]) -> (bool, String) {
    let (program, arguments) = words.split_first().unwrap();
    match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Ok(output) => (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => (false, error.to_string()),
    }
}

/// `path` as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn finish(mut command: Command, input: &[u8], patience: Duration) -> Outcome {
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout, mut stderr) =
        (child.stdin.take().unwrap(), child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (sender, receiver) = sync_channel(1);
    thread::scope(|scope| {
        // A command that refuses does not read its input.
        scope.spawn(move || drop(stdin.write_all(input)));
        let errors = scope.spawn(move || {
            let mut bytes = Vec::new();
            stderr.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        });
        scope.spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).unwrap();
            sender.send(bytes).unwrap();
        });
        let stdout = receiver.recv_timeout(patience);
        if stdout.is_err() {
            end(&mut child);
        }
        let code = child.wait().unwrap().code().unwrap_or(-1);
        let stderr = errors.join().unwrap();
        assert!(stdout.is_ok(), "{command:?} did not end in time; it said: {stderr}");
        Outcome { code, stdout: stdout.unwrap(), stderr, took: begun.elapsed() }
    })
}

/// Kills a process of ours, if it still runs.
fn end(child: &mut Child) {
    // One that has ended already needs no killing.
    let _ = child.kill();
    let _ = child.wait();
}

/// Reads the lines of one output beside everything else, until it ends.
fn read_lines(
    output: impl std::io::Read + Send + 'static,
    sender: SyncSender<(Instant, Json)>,
    understand: impl Fn(String) -> Json + Send + 'static,
) {
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send((Instant::now(), understand(line))).is_err() {
                return;
            }
        }
    });
}

#[track_caller]
fn parse_line(line: &str) -> Json {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"))
}
