//! `quorate export`: every key and value as NDJSON, sorted by key.
//!
//! A line is `{"key","value"}`. A key with several siblings has a line for each, one after the other, and each says how
//! many there are (`"siblings"`), so that an import makes them siblings again. The export is not a moment in time: a
//! key is what it was when it was read. Times to live are not exported.

use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value as Json;

use crate::{
    cli::{
        connect::Session,
        error::{CliError, Exit},
        output::Terminal,
        text::{add_bytes, key_json, parse_consistency},
    },
    ident::Key,
    wire::client::{Consistency, Found},
};

/// Arguments of `export`.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// Replicas of each key that must answer: one, quorum, all, local-quorum, each-quorum, or a number.
    #[arg(long, value_parser = parse_consistency, default_value = "quorum")]
    pub r: Consistency,
}

/// Exports. The lines are the same in both formats.
pub(crate) async fn run(session: &Session, args: ExportArgs, terminal: Terminal) -> Result<Exit, CliError> {
    let keys = session.client.scan(b"", None).await.map_err(|error| session.explain(error))?;
    let read = async |key: Key| -> Result<(Key, Found), CliError> {
        let found = session.client.get(&key, args.r).await.map_err(|error| session.explain(error))?;
        Ok((key, found))
    };
    let mut answers = stream::iter(keys).map(read).buffered(IN_FLIGHT_MAX);
    while let Some((key, found)) = answers.try_next().await? {
        lines_of(&key, &found).iter().try_for_each(|line| terminal.json_line(line))?;
    }
    Ok(Exit::Done)
}

/// Keys read at once.
const IN_FLIGHT_MAX: usize = 64;

/// One line for each value; none for a key that was removed meanwhile.
fn lines_of(key: &Key, found: &Found) -> Vec<Json> {
    let count = found.siblings.len();
    let line = |sibling: &crate::wire::client::FoundSibling| {
        let mut object = key_json(key);
        add_bytes(&mut object, "value", sibling.value.as_bytes());
        if count > 1 {
            object.insert("siblings".to_owned(), count.into());
        }
        Json::Object(object)
    };
    found.siblings.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{causality::context::Context, clock::WallTime, ident::Value, wire::client::FoundSibling};

    fn lines(values: &[&[u8]]) -> Vec<String> {
        let sibling = |value: &&[u8]| FoundSibling { value: Value::new(value).unwrap(), written_at: WallTime(0) };
        let siblings = values.iter().map(sibling).collect();
        let found = Found { siblings, context: Context::new(vec![1]).unwrap(), degraded: false, local: None };
        lines_of(&Key::new(b"k").unwrap(), &found).iter().map(Json::to_string).collect()
    }

    #[test]
    fn a_key_with_one_value_is_one_line_in_one_form() {
        assert_eq!(lines(&["v\"ü".as_bytes()]), ["{\"key\":\"k\",\"value\":\"v\\\"ü\"}"]);
        assert_eq!(lines(&[&[0xff]]), [r#"{"key":"k","value_base64":"/w=="}"#]);
        assert!(lines(&[]).is_empty());
    }

    #[test]
    fn siblings_are_told_so_that_an_import_keeps_them() {
        let both = [r#"{"key":"k","value":"a","siblings":2}"#, r#"{"key":"k","value":"b","siblings":2}"#];
        assert_eq!(lines(&[b"a", b"b"]), both);
    }
}
