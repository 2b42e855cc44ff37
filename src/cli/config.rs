//! `quorate config show`: the settings as they are in force.

use clap::{Args, Subcommand};
use serde_json::{Map, Value as Json, json};

use crate::cli::{
    output::{Answer, Text},
    settings::{Raw, Settings},
    start::StartArgs,
};

/// The commands of `config`.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigCommand {
    /// Print every setting
    Show(ShowArgs),
}

/// Arguments of `config show`.
#[derive(Debug, Clone, Args)]
pub struct ShowArgs {
    /// Also where each came from.
    #[arg(long)]
    pub origin: bool,
    /// As if `start` were given these.
    #[command(flatten)]
    pub start: StartArgs,
}

/// Shows.
pub(crate) fn show(settings: &Settings, args: &ShowArgs) -> Answer {
    let json_of = |raw: &Raw| match raw {
        Raw::One(text) => Json::from(text.as_str()),
        Raw::Many(texts) => Json::from(texts.clone()),
    };
    let mut json = Map::new();
    let mut text = Vec::new();
    for (key, raw, origin) in settings.iter() {
        if args.origin {
            json.insert(key.to_owned(), json!({ "value": json_of(raw), "origin": origin.to_string() }));
            text.push(format!("{key} = {}  # {origin}", in_toml(raw)));
        } else {
            json.insert(key.to_owned(), json_of(raw));
            text.push(format!("{key} = {}", in_toml(raw)));
        }
    }
    Answer::one(Json::Object(json), Text::Lines(text.join("\n")))
}

/// The value as the settings file may have it.
fn in_toml(raw: &Raw) -> String {
    let text_of = |text: &String| toml::Value::String(text.clone()).to_string();
    match raw {
        Raw::One(text) => text_of(text),
        Raw::Many(texts) => format!("[{}]", texts.iter().map(text_of).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cli::settings::{KEYS, Sources};

    fn answer(origin: bool) -> (Settings, Answer) {
        let flags = vec![("replicas", "--replicas", Raw::One("2".to_owned()))];
        let settings = Settings::load(&Sources { flags, host: "h".to_owned(), ..Sources::default() }).unwrap();
        let answer = show(&settings, &ShowArgs { origin, start: StartArgs::default() });
        (settings, answer)
    }

    #[test]
    fn every_key_is_shown_with_its_origin() {
        let json = answer(true).1.into_single_json();
        assert!(KEYS.iter().all(|key| json[key].get("value").is_some() && json[key].get("origin").is_some()), "{json}");
        assert_eq!(json["replicas"], json!({ "value": "2", "origin": "flag --replicas" }));
        assert_eq!(json["listen"]["origin"], "default");
    }

    #[test]
    fn what_is_shown_is_a_settings_file_that_says_the_same() {
        for origin in [true, false] {
            let (settings, answer) = answer(origin);
            let Text::Lines(text) = answer.text else { panic!("lines") };
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), text).unwrap();
            let file = Some(file.path().to_owned());
            let again = Settings::load(&Sources { file, ..Sources::default() }).unwrap();
            let values =
                |settings: &Settings| settings.iter().map(|(key, raw, _)| (key, raw.clone())).collect::<Vec<_>>();
            assert_eq!(values(&again), values(&settings));
        }
    }
}
