//! `quorate import`: stores the lines of a file.
//!
//! A line is `{"key","value"}`, either as text or as `…_base64`. A line replaces what the store holds under its key: the
//! key is read first, and written with the context that was read, or created when it is not there. Of several lines
//! with one key the last stays, unless they say `"siblings"`, as an export does where a key has several values: those
//! lines together replace what is there, and become siblings again.
//!
//! Many keys are under way at once, one key never twice. After the first line that fails nothing more is started; what
//! is under way is waited for and counted.

use std::{collections::BTreeSet, fs, io, path::PathBuf};

use async_std::channel::Receiver;
use clap::Args;
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use indicatif::ProgressBar;
use serde_json::{Value as Json, json};

use crate::{
    cli::{
        connect::Session,
        error::CliError,
        lines,
        output::{self, Answer, Text},
        put::{self, PutRequest, Replaces},
        text::{counted, json_error_text, new_key, new_value, parse_consistency, take_bytes},
    },
    ident::{Key, Value},
    wire::client::{Consistency, Scope},
};

/// Arguments of `import`.
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// The file; - is the standard input.
    pub file: PathBuf,
    /// Durable copies of each line to wait for: one, quorum, all, local-quorum, each-quorum, or a number.
    #[arg(long, value_parser = parse_consistency, default_value = "quorum")]
    pub w: Consistency,
}

/// Imports.
pub(crate) async fn run(session: &Session, args: ImportArgs) -> Result<Answer, CliError> {
    let (receiver, size_bytes) = open(&args.file)?;
    let bar = progress_bar(size_bytes);
    let result = Import::new(session, args.w, bar.clone()).run(&receiver).await;
    bar.finish_and_clear();
    let stored = result?;
    Ok(Answer::one(json!({ "ok": true, "stored": stored }), Text::Note(format!("stored {}", counted(stored, "line")))))
}

/// Keys under way at once.
const IN_FLIGHT_MAX: usize = 64;

/// One line that was understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    key: Key,
    value: Value,
    /// Values that the key had when it was exported; 1 when the line does not say.
    siblings: u64,
}

/// What became of the lines of one key: how many were stored, and the failure that ended it.
struct Outcome {
    key: Key,
    stored: u64,
    failure: Option<(u64, CliError)>,
}

struct Import<'a> {
    session: &'a Session,
    w: Consistency,
    bar: ProgressBar,
    in_flight: FuturesUnordered<BoxFuture<'a, Outcome>>,
    keys: BTreeSet<Key>,
    stored: u64,
    /// The failed line with the lowest number.
    failure: Option<(u64, CliError)>,
}

impl<'a> Import<'a> {
    fn new(session: &'a Session, w: Consistency, bar: ProgressBar) -> Import<'a> {
        let in_flight = FuturesUnordered::new();
        Import { session, w, bar, in_flight, keys: BTreeSet::new(), stored: 0, failure: None }
    }

    /// Imports all lines. Returns how many were stored.
    async fn run(mut self, receiver: &Receiver<io::Result<Vec<u8>>>) -> Result<u64, CliError> {
        let mut group: Vec<(u64, Line)> = Vec::new();
        let mut number = 0;
        while self.failure.is_none() {
            let Ok(read) = receiver.recv().await else { break };
            number += 1;
            match understand(read) {
                Ok(None) => {}
                Ok(Some((line, length_bytes))) => {
                    self.bar.inc(length_bytes);
                    if !belongs(&group, &line) {
                        self.start(std::mem::take(&mut group)).await;
                    }
                    group.push((number, line));
                    if is_whole(&group) {
                        self.start(std::mem::take(&mut group)).await;
                    }
                }
                Err(error) => self.note_failure(number, error),
            }
        }
        // A failure above came after these lines, or is a write that was started before them.
        if self.failure.as_ref().is_none_or(|(failed, _)| group.last().is_some_and(|(number, _)| number < failed)) {
            self.start(group).await;
        }
        while let Some(outcome) = self.in_flight.next().await {
            self.end(outcome);
        }
        match self.failure {
            None => Ok(self.stored),
            Some((line, reason)) => Err(CliError::Line { line, reason: Box::new(reason), stored: self.stored }),
        }
    }

    /// Starts the lines of one key once there is room, and the key is not under way.
    async fn start(&mut self, group: Vec<(u64, Line)>) {
        let Some((_, first)) = group.first() else { return };
        let key = first.key.clone();
        while self.in_flight.len() >= IN_FLIGHT_MAX || self.keys.contains(&key) {
            let Some(outcome) = self.in_flight.next().await else { break };
            self.end(outcome);
        }
        if self.failure.is_none() || group.iter().all(|(number, _)| self.is_before_failure(*number)) {
            self.keys.insert(key.clone());
            self.in_flight.push(Box::pin(store(self.session, self.w, key, group)));
        }
    }

    fn end(&mut self, outcome: Outcome) {
        self.keys.remove(&outcome.key);
        self.stored += outcome.stored;
        if let Some((number, error)) = outcome.failure {
            self.note_failure(number, error);
        }
    }

    fn note_failure(&mut self, number: u64, error: CliError) {
        if self.is_before_failure(number) {
            self.failure = Some((number, error));
        }
    }

    fn is_before_failure(&self, number: u64) -> bool {
        self.failure.as_ref().is_none_or(|(failed, _)| number < *failed)
    }
}

/// Stores the lines of one key: the first replaces what is there, the others join it.
async fn store(session: &Session, w: Consistency, key: Key, group: Vec<(u64, Line)>) -> Outcome {
    let mut stored = 0;
    for (number, line) in group {
        let replaces = if stored == 0 { Replaces::Everything } else { Replaces::Nothing };
        let request = PutRequest { key: line.key, value: line.value, replaces, w, scope: Scope::Sloppy, ttl: None };
        if let Err(error) = put::put(session, request).await {
            return Outcome { key, stored, failure: Some((number, error)) };
        }
        stored += 1;
    }
    Outcome { key, stored, failure: None }
}

/// Whether `line` is one more sibling of the key that `group` is about.
fn belongs(group: &[(u64, Line)], line: &Line) -> bool {
    group.first().is_some_and(|(_, first)| {
        first.key == line.key && first.siblings == line.siblings && (group.len() as u64) < first.siblings
    })
}

/// Whether no further line can belong to `group`: it need not wait for the next one.
fn is_whole(group: &[(u64, Line)]) -> bool {
    group.first().is_some_and(|(_, first)| group.len() as u64 >= first.siblings)
}

/// The line and its length with the break; nothing for a blank one.
fn understand(read: io::Result<Vec<u8>>) -> Result<Option<(Line, u64)>, CliError> {
    let bytes = read.map_err(CliError::io("the input"))?;
    if lines::is_blank(&bytes) {
        return Ok(None);
    }
    Ok(Some((parse(&bytes)?, bytes.len() as u64 + 1)))
}

fn parse(bytes: &[u8]) -> Result<Line, CliError> {
    let usage = |detail: String| CliError::Usage { detail };
    let json: Json =
        serde_json::from_slice(bytes).map_err(|error| usage(format!("not JSON: {}", json_error_text(&error))))?;
    let Json::Object(mut object) = json else {
        return Err(usage("not an object {\"key\",\"value\"}".to_owned()));
    };
    let mut take = |name: &str| {
        let bytes = take_bytes(&mut object, name).map_err(usage)?;
        bytes.ok_or_else(|| usage(format!("neither `{name}` nor `{name}_base64`")))
    };
    let (key, value) = (new_key(&take("key")?)?, new_value(&take("value")?)?);
    let siblings = match object.remove("siblings") {
        None => 1,
        Some(count) => count
            .as_u64()
            .filter(|&count| count > 0)
            .ok_or_else(|| usage("`siblings` must be the number of lines with this key, at least 1".to_owned()))?,
    };
    match object.keys().next() {
        None => Ok(Line { key, value, siblings }),
        Some(strange) => Err(usage(format!("`{strange}` means nothing here"))),
    }
}

type Opened = (Receiver<io::Result<Vec<u8>>>, Option<u64>);

fn open(path: &PathBuf) -> Result<Opened, CliError> {
    if path.as_os_str() == "-" {
        return Ok((lines::read(io::BufReader::new(io::stdin())), None));
    }
    let failed = |source| CliError::Io { subject: path.display().to_string(), source };
    let file = fs::File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    let size_bytes = metadata.len();
    Ok((lines::read(io::BufReader::new(file)), Some(size_bytes)))
}

/// How much of the input was read; without its size, only how much.
fn progress_bar(size_bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match size_bytes {
        Some(size_bytes) => {
            (ProgressBar::new(size_bytes), "{bar:40} {bytes}/{total_bytes} {bytes_per_sec}, {time_left}")
        }
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {bytes_per_sec}"),
    };
    output::progress(bar, template)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_line_has_a_key_and_a_value_in_either_form() {
        assert_eq!(line(r#"{"key":"a","value":"b"}"#), line(r#"{"value_base64":"Yg==","key_base64":"YQ=="}"#));
        assert_eq!(line(r#"{"key":"a","value":""}"#).value.as_bytes(), b"");
    }

    #[test]
    fn a_bad_line_is_refused_with_its_reason() {
        for (text, reason) in [
            ("x", "not JSON"),
            ("[]", "not an object"),
            (r#"{"key":"a"}"#, "neither `value`"),
            (r#"{"key":"","value":"b"}"#, "empty"),
            (r#"{"key":"a","value":7}"#, "must be a string"),
            (r#"{"key":"a","value":"b","ttl":"1h"}"#, "`ttl` means nothing"),
            (r#"{"key":"a","value":"b","siblings":0}"#, "at least 1"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_line_waits_for_the_next_only_when_that_may_be_its_sibling() {
        let single = line(r#"{"key":"a","value":"b"}"#);
        let pair = line(r#"{"key":"a","value":"b","siblings":2}"#);
        assert!(is_whole(&[(1, single)]));
        assert!(!is_whole(&[(1, pair.clone())]));
        assert!(is_whole(&[(1, pair.clone()), (2, pair)]));
    }

    #[test]
    fn only_lines_that_say_so_become_siblings() {
        let single = line(r#"{"key":"a","value":"b"}"#);
        let pair = line(r#"{"key":"a","value":"b","siblings":2}"#);
        assert!(!belongs(&[], &single));
        assert!(!belongs(&[(1, single.clone())], &single));
        assert!(belongs(&[(1, pair.clone())], &pair));
        assert!(!belongs(&[(1, pair.clone()), (2, pair.clone())], &pair));
        assert!(!belongs(&[(1, pair.clone())], &line(r#"{"key":"b","value":"b","siblings":2}"#)));
        assert!(!belongs(&[(1, single)], &pair));
    }
}
