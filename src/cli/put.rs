//! `quorate put`: stores a value.
//!
//! For people the default is to replace what is there: read first, and write with the context that was read. What was
//! written concurrently, between the two, survives as a sibling.

use std::{
    ffi::OsString,
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    time::Duration,
};

use clap::Args;
use serde_json::{Value as Json, json};

use crate::{
    causality::context::Context,
    cli::{
        connect::Session,
        error::CliError,
        output::{Answer, Text},
        text::{
            context_text, counted, key_of, new_value, parse_consistency, parse_context, parse_ttl, peer_text,
            printable, read_before, scope_of,
        },
    },
    client::{Quorum, Write},
    ident::{Key, Value},
    limits::VALUE_LIMIT_BYTES,
    wire::client::{Consistency, Scope, Stored},
};

/// Arguments of `put`.
#[derive(Debug, Clone, Args)]
pub struct PutArgs {
    /// The key, 1 to 400 bytes. All keys with one {tag} live together.
    pub key: OsString,
    /// The value; without one, or with -, it is read from the standard input.
    #[arg(allow_negative_numbers = true)]
    pub value: Option<OsString>,
    /// Replace exactly what was read with this context.
    #[arg(long, conflicts_with_all = ["overwrite", "create"])]
    pub context: Option<String>,
    /// Read first, and replace what is there (the default).
    #[arg(long, conflicts_with = "create")]
    pub overwrite: bool,
    /// Replace nothing: the value becomes a sibling of whatever is there.
    #[arg(long)]
    pub create: bool,
    /// Durable copies to wait for: one, quorum, all, local-quorum, each-quorum, or a number.
    #[arg(long, value_parser = parse_consistency, default_value = "quorum")]
    pub w: Consistency,
    /// Count only members of the key's own row.
    #[arg(long)]
    pub strict: bool,
    /// When the value expires: 90s, 30m, 1h, 7d.
    #[arg(long, value_parser = parse_ttl)]
    pub ttl: Option<Duration>,
    /// The value is `-` itself.
    #[arg(skip)]
    is_dash: bool,
}

/// A put that was understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PutRequest {
    pub(crate) key: Key,
    pub(crate) value: Value,
    pub(crate) replaces: Replaces,
    pub(crate) w: Consistency,
    pub(crate) scope: Scope,
    pub(crate) ttl: Option<Duration>,
}

/// What a put replaces.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Replaces {
    /// What was read with this context.
    Seen(Context),
    /// What is there: read first.
    Everything,
    /// Nothing.
    Nothing,
}

impl PutArgs {
    /// The request; the value comes from the standard input where the arguments have none.
    pub(crate) fn into_request(self, value_source: ValueSource) -> Result<PutRequest, CliError> {
        let replaces = match (&self.context, self.create) {
            (Some(text), _) => Replaces::Seen(parse_context(text)?),
            (None, true) => Replaces::Nothing,
            (None, false) => Replaces::Everything,
        };
        let key = key_of(&self.key)?;
        let value = self.value.filter(|value| self.is_dash || value != "-");
        let value = match (value, value_source) {
            (Some(value), _) => new_value(value.as_bytes())?,
            (None, ValueSource::Input) => read_value(io::stdin().lock())?,
            (None, ValueSource::ArgumentsOnly) => {
                return Err(CliError::Usage { detail: "put needs a value here: `put KEY VALUE`".to_owned() });
            }
        };
        Ok(PutRequest { key, value, replaces, w: self.w, scope: scope_of(self.strict), ttl: self.ttl })
    }
}

impl PutArgs {
    /// Stores the one value that cannot be said in words.
    pub(crate) fn dash_is_a_value(&mut self) {
        (self.value, self.is_dash) = (Some("-".into()), true);
    }
}

/// Whether a missing value may be read from the standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueSource {
    /// It may.
    Input,
    /// The standard input is where commands come from.
    ArgumentsOnly,
}

/// Stores.
pub(crate) async fn run(session: &Session, request: PutRequest) -> Result<Answer, CliError> {
    let key = request.key.clone();
    let stored = put(session, request).await?;
    let verb = format!("stored {}", printable(key.as_bytes()));
    Ok(stored_answer(&stored, &verb))
}

/// Stores; reads first where that was asked.
pub(crate) async fn put(session: &Session, request: PutRequest) -> Result<Stored, CliError> {
    let client = &session.client;
    let context = match request.replaces {
        Replaces::Seen(context) => Some(context),
        Replaces::Nothing => None,
        Replaces::Everything => {
            let found = client.get(&request.key, Quorum { count: read_before(request.w), scope: request.scope }).await;
            let found = found.map_err(|error| session.explain_read_first(error, WITHOUT_READING))?;
            (!found.siblings.is_empty()).then_some(found.context)
        }
    };
    let write = Write { context, w: request.w, scope: request.scope, ttl: request.ttl };
    client.put(&request.key, request.value, write).await.map_err(|error| session.explain(error))
}

/// What to do when the key cannot be read first.
const WITHOUT_READING: &str = "--create stores without reading, beside what is there";

/// What a write that succeeded answers.
pub(crate) fn stored_answer(stored: &Stored, verb: &str) -> Answer {
    let nodes = counted(stored.acks.into(), "node");
    let mut note = format!("{verb}: durable on {nodes}, {} of its row", stored.primaries);
    if !stored.hinted.is_empty() {
        note.push_str(&format!("; kept for {} that cannot be reached", stored.hinted.len()));
    }
    if stored.degraded {
        note.push_str("; degraded: fewer replicas than there should be, see `quorate status`");
    }
    Answer::one(stored_json(stored), Text::Note(note))
}

fn stored_json(stored: &Stored) -> Json {
    json!({
        "ok": true,
        "context": context_text(&stored.context),
        "acks": stored.acks,
        "primaries": stored.primaries,
        "hinted": stored.hinted.iter().map(peer_text).collect::<Vec<_>>(),
        "degraded": stored.degraded,
    })
}

fn read_value(input: impl io::Read) -> Result<Value, CliError> {
    let mut bytes = Vec::new();
    // One byte more than a value may have, so that a longer one is seen, and no more of it is read.
    let limit = VALUE_LIMIT_BYTES as u64 + 1;
    input.take(limit).read_to_end(&mut bytes).map_err(CliError::io("standard input"))?;
    if bytes.len() > VALUE_LIMIT_BYTES {
        return Err(CliError::TooLarge { detail: format!("the value has more than {VALUE_LIMIT_BYTES} bytes") });
    }
    new_value(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(key: &str, value: Option<&str>) -> PutArgs {
        PutArgs {
            key: key.into(),
            value: value.map(Into::into),
            context: None,
            overwrite: false,
            create: false,
            w: Consistency::Quorum,
            strict: false,
            ttl: None,
            is_dash: false,
        }
    }

    #[test]
    fn a_put_replaces_what_is_there_unless_told_otherwise() {
        let plain = args("k", Some("v"));
        let replaces = |args: PutArgs| args.into_request(ValueSource::ArgumentsOnly).unwrap().replaces;
        assert_eq!(replaces(plain.clone()), Replaces::Everything);
        assert_eq!(replaces(PutArgs { create: true, ..plain.clone() }), Replaces::Nothing);
        let context = Context::new(vec![0xfb]).unwrap();
        assert_eq!(replaces(PutArgs { context: Some("-w".to_owned()), ..plain }), Replaces::Seen(context));
    }

    #[test]
    fn a_key_or_a_value_that_is_too_large_is_refused_before_anybody_is_asked() {
        let refused = |args: PutArgs| args.into_request(ValueSource::ArgumentsOnly).unwrap_err().exit().code();
        assert_eq!(refused(args(&"k".repeat(401), Some("v"))), 6);
        assert_eq!(refused(args("", Some("v"))), 2);
        assert_eq!(refused(args("k", None)), 2);
        assert_eq!(refused(args("k", Some("-"))), 2);
        assert!(read_value(&vec![0; VALUE_LIMIT_BYTES][..]).is_ok());
        assert_eq!(read_value(io::repeat(0)).unwrap_err().exit().code(), 6);
    }

    #[test]
    fn a_write_answers_the_fields_that_scripts_rely_on() {
        let context = Context::new(vec![1]).unwrap();
        let stored = Stored { acks: 2, primaries: 2, hinted: Vec::new(), context, degraded: true };
        let expected = r#"{"ok":true,"context":"AQ","acks":2,"primaries":2,"hinted":[],"degraded":true}"#;
        assert_eq!(stored_json(&stored).to_string(), expected);
        assert!(matches!(stored_answer(&stored, "stored k").text, Text::Note(note) if note.contains("degraded")));
    }
}
