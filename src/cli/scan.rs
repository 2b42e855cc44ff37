//! `quorate scan`: keys that begin with a prefix, in order.

use std::{ffi::OsString, os::unix::ffi::OsStrExt as _};

use clap::Args;
use serde_json::Value as Json;

use crate::{
    cli::{
        connect::Session,
        error::CliError,
        output::{Answer, Text},
        text::{key_json, printable},
    },
    ident::Key,
};

/// Arguments of `scan`.
#[derive(Debug, Clone, Args)]
pub struct ScanArgs {
    /// What the keys begin with; with a whole {tag} only the nodes of that tag are asked. May be empty.
    #[arg(default_value = "")]
    pub prefix: OsString,
    /// Most keys to list.
    #[arg(long, value_name = "COUNT", value_parser = parse_limit)]
    pub limit: Option<usize>,
}

/// Lists.
pub(crate) async fn run(session: &Session, args: ScanArgs) -> Result<Answer, CliError> {
    let keys = session.client.scan(args.prefix.as_bytes(), args.limit).await.map_err(|error| session.explain(error))?;
    Ok(answer(&keys))
}

fn answer(keys: &[Key]) -> Answer {
    let text = keys.iter().map(|key| printable(key.as_bytes())).collect::<Vec<_>>().join("\n");
    Answer::many(keys.iter().map(|key| Json::Object(key_json(key))).collect(), Text::Lines(text))
}

fn parse_limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|&limit| limit > 0);
    limit.ok_or_else(|| "it must be a whole number, at least 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_an_object_on_its_own_line() {
        let keys = [b"a".as_slice(), &[0xff]].map(|key| Key::new(key).unwrap());
        let answer = answer(&keys);
        assert_eq!(answer.text, Text::Lines("a\n\\xff".to_owned()));
        assert_eq!(answer.into_single_json().to_string(), r#"{"ok":true,"lines":[{"key":"a"},{"key_base64":"/w=="}]}"#);
    }
}
