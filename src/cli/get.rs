//! `quorate get`: reads a key.
//!
//! One value goes to the standard output as it is. Several are shown one by one with the context that replaces them
//! all, and the exit code says that there was no one value.

use std::ffi::OsString;

use clap::Args;
use serde_json::{Map, Value as Json, json};

use crate::{
    cli::{
        connect::Session,
        error::{CliError, Exit},
        output::{Answer, Text},
        text::{
            add_bytes, clock_json, context_text, key_of, parse_consistency, printable, scope_of, time_text, to_word,
        },
    },
    client::Quorum,
    ident::Key,
    wire::client::{Consistency, Found, FoundSibling},
};

/// Arguments of `get`.
#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// The key.
    pub key: OsString,
    /// Replicas that must answer: one, quorum, all, local-quorum, each-quorum, or a number.
    #[arg(long, value_parser = parse_consistency, default_value = "quorum")]
    pub r: Consistency,
    /// Count only members of the key's own row.
    #[arg(long)]
    pub strict: bool,
    /// What the asked node itself holds: no quorum, no repair.
    #[arg(long, conflicts_with = "r")]
    pub local: bool,
}

/// A get that was understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GetRequest {
    pub(crate) key: Key,
    pub(crate) r: Quorum,
    pub(crate) local: bool,
}

impl GetArgs {
    pub(crate) fn into_request(self) -> Result<GetRequest, CliError> {
        let r = Quorum { count: self.r, scope: scope_of(self.strict) };
        Ok(GetRequest { key: key_of(&self.key)?, r, local: self.local })
    }
}

/// Reads.
pub(crate) async fn run(session: &Session, request: GetRequest) -> Result<Answer, CliError> {
    let GetRequest { key, r, local } = request;
    let result = if local { session.client.get_local(&key).await } else { session.client.get(&key, r).await };
    let found = result.map_err(|error| session.explain(error))?;
    Ok(answer(&key, &found))
}

fn answer(key: &Key, found: &Found) -> Answer {
    let (text, exit) = match found.siblings.as_slice() {
        [] => (Text::Note(format!("not found: {}", printable(key.as_bytes()))), Exit::NotFound),
        [one] => (Text::Raw(one.value.as_bytes().to_vec()), Exit::Done),
        several => (Text::Raw(several_text(key, several, found)), Exit::Siblings),
    };
    Answer::one(found_json(found), text).ending(exit)
}

fn several_text(key: &Key, siblings: &[FoundSibling], found: &Found) -> Vec<u8> {
    let (name, count) = (printable(key.as_bytes()), siblings.len());
    let mut text = format!("{name} has {count} siblings, written concurrently:\n").into_bytes();
    for (number, sibling) in (1..).zip(siblings) {
        let head = format!("--- sibling {number} of {count}, written {}\n", time_text(sibling.written_at));
        text.extend_from_slice(head.as_bytes());
        text.extend_from_slice(sibling.value.as_bytes());
        text.push(b'\n');
    }
    let (key, context) = (key_word(key), context_text(&found.context));
    let foot = format!("--- to replace them all: quorate put {key} VALUE --context {context}\n");
    text.extend_from_slice(foot.as_bytes());
    text
}

/// The key as a word of a command line; one that cannot be typed stays for the reader to fill in.
fn key_word(key: &Key) -> String {
    let name = printable(key.as_bytes());
    if name.as_bytes() == key.as_bytes() { to_word(&name) } else { "KEY".to_owned() }
}

fn found_json(found: &Found) -> Json {
    let sibling = |sibling: &FoundSibling| {
        let mut object = Map::new();
        add_bytes(&mut object, "value", sibling.value.as_bytes());
        object.insert("written_at".to_owned(), time_text(sibling.written_at).into());
        Json::Object(object)
    };
    let mut json = json!({
        "ok": true,
        "found": !found.siblings.is_empty(),
        "siblings": found.siblings.iter().map(sibling).collect::<Vec<_>>(),
        "context": context_text(&found.context),
        "degraded": found.degraded,
    });
    if let Some(local) = &found.local {
        json["replica"] = local.replica.into();
        json["filled"] = local.filled.into();
        json["clock"] = clock_json(&local.clock);
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        causality::{context::Context, version_vector::VersionVector},
        clock::WallTime,
        ident::Value,
        wire::client::LocalRecord,
    };

    fn answer_to(values: &[&[u8]], local: Option<LocalRecord>) -> Answer {
        let sibling = |value: &&[u8]| FoundSibling { value: Value::new(value).unwrap(), written_at: WallTime(0) };
        let siblings = values.iter().map(sibling).collect();
        let context = Context::new(vec![1]).unwrap();
        answer(&Key::new(b"k").unwrap(), &Found { siblings, context, degraded: false, local })
    }

    #[test]
    fn one_value_is_given_to_the_byte() {
        let answer = answer_to(&[&[0xff, b'\n']], None);
        assert_eq!((answer.text.clone(), answer.exit), (Text::Raw(vec![0xff, b'\n']), Exit::Done));
        assert_eq!(answer.into_single_json()["siblings"][0]["value_base64"], "/wo=");
    }

    #[test]
    fn several_values_are_all_shown_and_end_with_their_own_code() {
        let answer = answer_to(&[b"a", b"b"], None);
        let Text::Raw(bytes) = &answer.text else { panic!("bytes") };
        let text = str::from_utf8(bytes).unwrap();
        assert!(text.contains("\na\n") && text.contains("\nb\n") && text.contains("--context AQ"), "{text}");
        assert_eq!(answer.exit.code(), 3);
    }

    #[test]
    fn nothing_ends_with_its_own_code_and_is_no_failure() {
        let answer = answer_to(&[], None);
        assert_eq!(answer.exit.code(), 4);
        let expected = r#"{"ok":true,"found":false,"siblings":[],"context":"AQ","degraded":false}"#;
        assert_eq!(answer.into_single_json().to_string(), expected);
    }

    #[test]
    fn a_local_read_tells_the_replicas_own_record() {
        let local = LocalRecord { replica: true, filled: false, clock: VersionVector::new() };
        let json = answer_to(&[b"v"], Some(local)).into_single_json();
        assert_eq!((&json["replica"], &json["filled"], &json["clock"]), (&json!(true), &json!(false), &json!({})));
        assert_eq!(json["siblings"][0].to_string(), r#"{"value":"v","written_at":"1970-01-01T00:00:00.000Z"}"#);
    }
}
