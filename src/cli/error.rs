//! Why a command failed, how it says so, and with which exit code it ends.
//!
//! Every failure has a word for programs (`error`), a sentence for people (`detail`: what happened, why, what to do
//! next) and says whether a write may have been stored all the same.

use std::io;

use serde_json::{Value as Json, json};
use thiserror::Error;

use crate::{
    cli::{settings::SettingsError, text::counted},
    client::ClientError,
    runtime::swarm_key::SwarmKeyError,
    wire::client::Failure,
};

/// How a command ended, as the exit code of the process tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked.
    Done,
    /// It failed in a way that has no code of its own.
    Failed,
    /// The command line or the settings are wrong.
    Usage,
    /// Several siblings where one value was asked.
    Siblings,
    /// The key was not found.
    NotFound,
    /// The quorum was not met, or it is unknown whether it was.
    NoQuorum,
    /// Refused: context, limit, overload.
    Refused,
    /// No node could be reached.
    Unreachable,
    /// `status`: the cluster serves, with less redundancy than it should have.
    Degraded,
    /// `status`: some keys cannot be served.
    Unavailable,
    /// The reader of our output went away.
    Closed,
}

impl Exit {
    /// The exit code of the process.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done | Exit::Closed => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Siblings => 3,
            Exit::NotFound => 4,
            Exit::NoQuorum => 5,
            Exit::Refused => 6,
            Exit::Unreachable => 7,
            Exit::Degraded => 10,
            Exit::Unavailable => 11,
        }
    }
}

/// Why a command failed.
#[derive(Debug, Error)]
pub enum CliError {
    /// The command cannot be understood. Nothing was done.
    #[error("{detail}")]
    Usage {
        /// What is wrong with it.
        detail: String,
    },
    /// The settings are wrong. Nothing was done.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The swarm key cannot be used. Nothing was done.
    #[error(transparent)]
    SwarmKey(#[from] SwarmKeyError),
    /// A key or a value is too large. Nothing was stored.
    #[error("{detail}")]
    TooLarge {
        /// Which limit, and by how much.
        detail: String,
    },
    /// The context is no context. Nothing was stored.
    #[error("{detail}; read the key again and use the context it returns")]
    InvalidContext {
        /// Why.
        detail: String,
    },
    /// There is no node to ask. Nothing was stored.
    #[error("no node can be reached: {detail}")]
    NoNode {
        /// What was tried, and what to do next.
        detail: String,
    },
    /// A node, or the way to it, failed.
    #[error("{error}{} (asked: {tried})", advice(error))]
    Client {
        /// How.
        error: ClientError,
        /// Which node was tried.
        tried: String,
    },
    /// A write without a context reads first, and the quorum of that was not met. Nothing was stored.
    #[error("the key must be read before it is written, and cannot be: {read}; {way_out}")]
    ReadFirst {
        /// Why not.
        read: Box<CliError>,
        /// How to do without.
        way_out: &'static str,
    },
    /// A file, or the standard input or output, failed.
    #[error("{subject}: {source}")]
    Io {
        /// What could not be used.
        subject: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A line of the input cannot be understood, or could not be carried out. What was under way was waited for; nothing was
    /// begun after it.
    #[error("line {line}: {reason}; stored {} in all, then began no more", counted(*stored, "line"))]
    Line {
        /// Its number, from one.
        line: u64,
        /// Why.
        reason: Box<CliError>,
        /// Lines that were stored.
        stored: u64,
    },
    /// The node could not start or go on.
    #[error("{detail}")]
    Node {
        /// Why.
        detail: String,
    },
    /// Something that should be there is not.
    #[error("{detail}")]
    Missing {
        /// What, and what to do next.
        detail: String,
    },
    /// What was waited for will not end: something else has taken its place, or its node knows nothing of it any more.
    #[error("{detail}")]
    GivenUp {
        /// What has become of it, and what to do next.
        detail: String,
    },
    /// The history that a node told is not sound.
    #[error("the history does not verify: {detail}")]
    History {
        /// Which change, and why.
        detail: String,
    },
}

impl CliError {
    /// For [`CliError::Io`].
    pub(crate) fn io(subject: impl Into<String>) -> impl FnOnce(io::Error) -> CliError {
        let subject = subject.into();
        move |source| CliError::Io { subject, source }
    }

    /// The word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            CliError::Usage { .. } => "usage",
            CliError::Settings(_) => "settings",
            CliError::SwarmKey(_) => "swarm_key",
            CliError::TooLarge { .. } => "too_large",
            CliError::InvalidContext { .. } => "invalid_context",
            CliError::NoNode { .. } => "unreachable",
            CliError::Client { error, .. } => client_word(error),
            CliError::ReadFirst { read, .. } => read.word(),
            CliError::Io { .. } => "io",
            CliError::Line { reason, .. } => match reason.word() {
                "usage" => "invalid_line",
                other => other,
            },
            CliError::Node { .. } => "node",
            CliError::Missing { .. } => "missing",
            CliError::GivenUp { .. } => "given_up",
            CliError::History { .. } => "history",
        }
    }

    /// With which code the process ends.
    pub fn exit(&self) -> Exit {
        match self {
            CliError::Usage { .. } | CliError::Settings(_) | CliError::SwarmKey(_) => Exit::Usage,
            CliError::TooLarge { .. } | CliError::InvalidContext { .. } => Exit::Refused,
            CliError::NoNode { .. } => Exit::Unreachable,
            CliError::Client { error, .. } => client_exit(error),
            CliError::ReadFirst { read, .. } => read.exit(),
            CliError::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => Exit::Closed,
            CliError::Io { .. }
            | CliError::Node { .. }
            | CliError::Missing { .. }
            | CliError::GivenUp { .. }
            | CliError::History { .. } => Exit::Failed,
            // A line that makes no sense is no misuse of the command.
            CliError::Line { reason, .. } => match reason.exit() {
                Exit::Usage => Exit::Failed,
                other => other,
            },
        }
    }

    /// Whether a write that failed so may have been stored all the same.
    pub fn maybe_stored(&self) -> bool {
        match self {
            CliError::Client { error, .. } => error.maybe_stored(),
            CliError::Line { reason, .. } => reason.maybe_stored(),
            _ => false,
        }
    }

    /// The failure as JSON.
    pub fn to_json(&self) -> Json {
        let mut json = json!({
            "ok": false,
            "error": self.word(),
            "maybe_stored": self.maybe_stored(),
            "detail": self.to_string(),
        });
        if let CliError::Line { line, stored, .. } = self {
            json["line"] = (*line).into();
            json["stored"] = (*stored).into();
        }
        json
    }
}

fn client_word(error: &ClientError) -> &'static str {
    match error {
        ClientError::Failed(failure) => match failure {
            Failure::QuorumNotMet { .. } => "quorum_not_met",
            Failure::TimedOut { .. } => "timeout",
            Failure::InvalidContext { .. } => "invalid_context",
            Failure::TooLarge { .. } => "too_large",
            Failure::Overloaded { .. } => "overloaded",
            Failure::Unavailable { .. } => "unavailable",
            Failure::NotPermitted { .. } => "not_permitted",
            Failure::Refused { .. } => "refused",
            Failure::StoreFailed { .. } => "store_failed",
        },
        ClientError::Unreachable { .. } => "unreachable",
        ClientError::OtherCluster { .. } => "other_cluster",
        ClientError::TimedOut { .. } => "timeout",
        ClientError::Unexpected { .. } => "unexpected",
    }
}

fn client_exit(error: &ClientError) -> Exit {
    match error {
        ClientError::Failed(failure) => match failure {
            Failure::QuorumNotMet { .. } | Failure::TimedOut { .. } => Exit::NoQuorum,
            Failure::InvalidContext { .. }
            | Failure::TooLarge { .. }
            | Failure::NotPermitted { .. }
            | Failure::Refused { .. }
            | Failure::Overloaded { .. } => Exit::Refused,
            Failure::StoreFailed { maybe_stored: true, .. } => Exit::NoQuorum,
            Failure::StoreFailed { maybe_stored: false, .. } | Failure::Unavailable { .. } => Exit::Failed,
        },
        ClientError::Unreachable { .. } | ClientError::OtherCluster { .. } => Exit::Unreachable,
        ClientError::TimedOut { .. } | ClientError::Unexpected { maybe_stored: true, .. } => Exit::NoQuorum,
        ClientError::Unexpected { maybe_stored: false, .. } => Exit::Failed,
    }
}

/// What to do next; begins with a separator, or is empty where the failure says it itself.
fn advice(error: &ClientError) -> &'static str {
    match error {
        ClientError::Failed(failure) => match failure {
            Failure::QuorumNotMet { .. } => {
                "; see `quorate status` for who is away; fewer are asked with `get --r one` or `put --w one`"
            }
            Failure::TimedOut { .. } => "; see `quorate status`; repeating it is safe",
            Failure::Overloaded { .. } => "; try again in a moment",
            Failure::Unavailable { .. } => "; try again in a moment, or ask another node with --node",
            Failure::StoreFailed { .. } => "; see the log of that node",
            Failure::NotPermitted { .. } => "; run this as the user of the node, with its --data-dir",
            Failure::InvalidContext { .. } | Failure::TooLarge { .. } | Failure::Refused { .. } => "",
        },
        ClientError::Unreachable { .. } => {
            "; start one with `quorate start`, or name one with --node /ip4/…/tcp/…/p2p/…"
        }
        ClientError::OtherCluster { .. } => "; name the cluster with --cluster, or another node with --node",
        ClientError::TimedOut { maybe_stored: true } => {
            "; it is unknown whether it was stored: look (read the key, or see `quorate members`), or repeat it"
        }
        ClientError::TimedOut { maybe_stored: false } => "; see `quorate status`; repeating it is safe",
        ClientError::Unexpected { .. } => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(failure: Failure) -> CliError {
        CliError::Client { error: ClientError::Failed(failure), tried: "the node".to_owned() }
    }

    fn client(error: ClientError) -> CliError {
        CliError::Client { error, tried: "the node".to_owned() }
    }

    #[track_caller]
    fn check(error: &CliError, word: &str, code: u8, maybe_stored: bool) {
        assert_eq!((error.word(), error.exit().code(), error.maybe_stored()), (word, code, maybe_stored));
    }

    #[test]
    fn every_failure_has_its_word_and_its_exit_code() {
        let detail = String::new;
        check(&failed(Failure::QuorumNotMet { acks: 1, needed: 2, maybe_stored: true }), "quorum_not_met", 5, true);
        check(&failed(Failure::TimedOut { acks: 1, needed: 2, maybe_stored: false }), "timeout", 5, false);
        check(&failed(Failure::InvalidContext { detail: detail() }), "invalid_context", 6, false);
        check(&failed(Failure::TooLarge { detail: detail() }), "too_large", 6, false);
        check(&failed(Failure::Overloaded { detail: detail() }), "overloaded", 6, false);
        check(&failed(Failure::Unavailable { detail: detail() }), "unavailable", 1, false);
        check(&failed(Failure::StoreFailed { detail: detail(), maybe_stored: true }), "store_failed", 5, true);
        check(&failed(Failure::StoreFailed { detail: detail(), maybe_stored: false }), "store_failed", 1, false);
        check(&client(ClientError::Unreachable { detail: detail() }), "unreachable", 7, false);
        check(&client(ClientError::TimedOut { maybe_stored: true }), "timeout", 5, true);
        check(&CliError::NoNode { detail: detail() }, "unreachable", 7, false);
        check(&CliError::Usage { detail: detail() }, "usage", 2, false);
        check(&CliError::TooLarge { detail: detail() }, "too_large", 6, false);
    }

    #[test]
    fn a_write_that_cannot_read_first_says_so_and_how_to_do_without() {
        let read = failed(Failure::QuorumNotMet { acks: 1, needed: 2, maybe_stored: false });
        let error = CliError::ReadFirst { read: Box::new(read), way_out: "--create stores without reading" };
        check(&error, "quorum_not_met", 5, false);
        let text = error.to_string();
        assert!(text.starts_with("the key must be read before") && text.ends_with("without reading"), "{text}");
    }

    #[test]
    fn a_failed_line_keeps_the_word_and_tells_its_number() {
        let reason = Box::new(failed(Failure::QuorumNotMet { acks: 1, needed: 2, maybe_stored: true }));
        let error = CliError::Line { line: 7, reason, stored: 5 };
        check(&error, "quorum_not_met", 5, true);
        let json = error.to_json();
        assert_eq!((json["line"].as_u64(), json["stored"].as_u64()), (Some(7), Some(5)));
        let reason = Box::new(CliError::Usage { detail: "no object".to_owned() });
        check(&CliError::Line { line: 1, reason, stored: 0 }, "invalid_line", 1, false);
    }

    #[test]
    fn a_failure_is_one_object_with_the_fields_that_scripts_rely_on() {
        let json = failed(Failure::QuorumNotMet { acks: 1, needed: 2, maybe_stored: true }).to_json();
        let fields: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, ["ok", "error", "maybe_stored", "detail"]);
        assert_eq!(json["ok"], false);
        let detail = json["detail"].as_str().unwrap();
        assert!(detail.contains("1 of 2 replicas") && detail.contains("quorate status") && detail.contains("the node"));
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let gone = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(CliError::io("standard output")(gone).exit().code(), 0);
    }
}
