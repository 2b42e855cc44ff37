//! `quorate delete`: removes what was read.
//!
//! Without a context it reads first, and removes exactly what it read: what was written concurrently survives.

use std::ffi::OsString;

use clap::Args;

use crate::{
    causality::context::Context,
    cli::{
        connect::Session,
        error::{CliError, Exit},
        output::{Answer, Text},
        put::stored_answer,
        text::{context_text, key_of, parse_consistency, parse_context, printable, read_before, scope_of},
    },
    client::Quorum,
    ident::Key,
    wire::client::Consistency,
};

/// Arguments of `delete`.
#[derive(Debug, Clone, Args)]
pub struct DeleteArgs {
    /// The key.
    pub key: OsString,
    /// Remove exactly what was read with this context; without it the key is read first.
    #[arg(long)]
    pub context: Option<String>,
    /// Durable copies to wait for: one, quorum, all, local-quorum, each-quorum, or a number.
    #[arg(long, value_parser = parse_consistency, default_value = "quorum")]
    pub w: Consistency,
    /// Count only members of the key's own row.
    #[arg(long)]
    pub strict: bool,
}

/// A delete that was understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DeleteRequest {
    pub(crate) key: Key,
    pub(crate) context: Option<Context>,
    pub(crate) w: Quorum,
}

impl DeleteArgs {
    pub(crate) fn into_request(self) -> Result<DeleteRequest, CliError> {
        let context = self.context.as_deref().map(parse_context).transpose()?;
        let w = Quorum { count: self.w, scope: scope_of(self.strict) };
        Ok(DeleteRequest { key: key_of(&self.key)?, context, w })
    }
}

/// Removes.
pub(crate) async fn run(session: &Session, request: DeleteRequest) -> Result<Answer, CliError> {
    let DeleteRequest { key, context, w } = request;
    let name = printable(key.as_bytes());
    let context = match context {
        Some(context) => context,
        None => {
            let found = session.client.get(&key, Quorum { count: read_before(w.count), ..w }).await;
            let found = found.map_err(|error| session.explain_read_first(error, WITHOUT_READING))?;
            if found.siblings.is_empty() {
                return Ok(nothing_there(&name, &found.context, found.degraded));
            }
            found.context
        }
    };
    let stored = session.client.delete(&key, context, w).await.map_err(|error| session.explain(error))?;
    Ok(stored_answer(&stored, &format!("removed {name}")))
}

/// What to do when the key cannot be read first.
const WITHOUT_READING: &str = "--context removes without reading what an earlier read has seen";

/// The key is as its owner wants it, yet nobody has stored anything: not found, in the form of a write.
fn nothing_there(name: &str, context: &Context, degraded: bool) -> Answer {
    let json = serde_json::json!({
        "ok": true, "found": false, "context": context_text(context),
        "acks": 0, "primaries": 0, "hinted": [], "degraded": degraded,
    });
    Answer::one(json, Text::Note(format!("not found: {name}"))).ending(Exit::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleting_nothing_is_not_found_and_has_the_fields_of_a_write() {
        let answer = nothing_there("k", &Context::new(vec![1]).unwrap(), false);
        assert_eq!(answer.exit.code(), 4);
        let json = answer.into_single_json();
        for field in ["ok", "context", "acks", "primaries", "hinted", "degraded"] {
            assert!(json.get(field).is_some(), "{field}");
        }
    }
}
