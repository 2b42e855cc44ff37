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
    let mut json = Map::new();
    let mut text = Vec::new();
    for (key, raw, origin) in settings.iter() {
        if args.origin {
            json.insert(key.to_owned(), json!({ "value": to_json(key, raw), "origin": origin.to_string() }));
            text.push(format!("{key} = {}  # {origin}", to_json(key, raw)));
        } else {
            json.insert(key.to_owned(), to_json(key, raw));
            text.push(format!("{key} = {}", to_json(key, raw)));
        }
    }
    Answer::one(Json::Object(json), Text::Lines(text.join("\n")))
}

/// The value with its type. Lists, texts, numbers and truths look the same in JSON and in the settings file.
fn to_json(key: &str, raw: &Raw) -> Json {
    match raw {
        Raw::Many(texts) => texts.clone().into(),
        Raw::One(text) if TEXT_KEYS.contains(&key) => text.as_str().into(),
        // It was parsed as what it is, so JSON most likely can; an odd spelling stays a text.
        Raw::One(text) => serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into()),
    }
}

/// Keys whose value is a text even when it looks like something else.
const TEXT_KEYS: [&str; 7] = ["data_dir", "name", "cluster", "swarm_key", "zone", "durability", "on_alert"];

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cli::settings::{KEYS, Sources};

    fn answer(origin: bool) -> (Settings, Answer) {
        let flags = vec![("replicas", "--replicas", Raw::One("2".to_owned()))];
        let settings = Settings::load(&Sources { flags, host: "7".to_owned(), ..Sources::default() }).unwrap();
        let answer = show(&settings, &ShowArgs { origin, start: StartArgs::default() });
        (settings, answer)
    }

    #[test]
    fn every_key_is_shown_with_its_origin() {
        let json = answer(true).1.into_single_json();
        assert!(KEYS.iter().all(|key| json[key].get("value").is_some() && json[key].get("origin").is_some()), "{json}");
        assert_eq!(json["replicas"], json!({ "value": 2, "origin": "flag --replicas" }));
        assert_eq!(json["listen"]["origin"], "default");
        assert_eq!((&json["name"]["value"], &json["mdns"]["value"]), (&json!("7"), &json!(true)));
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
