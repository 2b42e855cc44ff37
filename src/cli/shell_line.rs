//! What a line of the shell says: words as on the command line, or one JSON object.
//!
//! Both become the same command, so that both mean the same. An object names the command in `op` and its arguments by
//! their long names; keys and values may also come as `…_base64`. Its `id` is given back with the answer, as it is.

use clap::Parser as _;
use serde_json::{Map, Value as Json};

use crate::cli::{
    ClientCommand,
    error::CliError,
    shell::Words,
    text::{json_error_text, os_string, take_bytes},
};

/// A line that was read: what to do, or why it cannot be understood.
pub(crate) struct Order {
    pub(crate) id: Option<Json>,
    pub(crate) command: Result<ClientCommand, CliError>,
}

/// Understands a line.
pub(crate) fn parse(line: &[u8]) -> Order {
    let trimmed = line.trim_ascii();
    if trimmed.starts_with(b"{") {
        return match serde_json::from_slice::<Map<String, Json>>(trimmed) {
            Ok(mut object) => {
                let id = object.remove("id").filter(|id| !id.is_null());
                Order { id, command: from_object(object) }
            }
            Err(error) => {
                Order { id: None, command: Err(usage(format!("not a JSON object: {}", json_error_text(&error)))) }
            }
        };
    }
    Order { id: None, command: from_words(trimmed) }
}

/// `json` with the `id` of the line it answers. A list becomes an object first, so that it can have one.
pub(crate) fn with_id(json: Json, id: Option<Json>) -> Json {
    let Some(id) = id else { return json };
    let mut object = match json {
        Json::Object(object) => object,
        other => Map::from_iter([("ok".to_owned(), true.into()), ("lines".to_owned(), other)]),
    };
    object.insert("id".to_owned(), id);
    Json::Object(object)
}

fn from_words(line: &[u8]) -> Result<ClientCommand, CliError> {
    let text = str::from_utf8(line).map_err(|_| usage("the line is not UTF-8".to_owned()))?;
    let words = shlex::split(text).ok_or_else(|| usage("a quotation mark is not closed".to_owned()))?;
    from_arguments(words.into_iter().map(|word| os_string(word.into_bytes())).collect())
}

/// By way of the command line's own parser: an object is understood as the words it stands for.
fn from_object(mut object: Map<String, Json>) -> Result<ClientCommand, CliError> {
    let op = match object.remove("op") {
        Some(Json::String(op)) => op,
        Some(_) | None => return Err(usage("a JSON line needs an `op`, such as \"get\"".to_owned())),
    };
    // A repair and a ring are of everything unless it is told of what: their key is an option.
    let key_option = if op == "repair" || op == "ring" { take_bytes(&mut object, "key").map_err(usage)? } else { None };
    let mut places = Vec::new();
    let names: &[&str] = match op.as_str() {
        "remove" => &["node"],
        "replace" => &["old", "new"],
        _ => &["key", "prefix", "value", "action"],
    };
    for name in names {
        places.extend(take_bytes(&mut object, name).map_err(usage)?);
    }
    // The word `-` would stand for the standard input; here it is a value like any other, but cannot be said in words.
    if op == "put" && places.get(1).is_some_and(|value| value == b"-") {
        return put_of_dash(object, places);
    }
    let mut words = arguments(op, object, places)?;
    if let Some(key) = key_option {
        words.insert(1, os_string([b"--key=".as_slice(), &key].concat()));
    }
    from_arguments(words)
}

/// Options first, then `--`, then what stands in places: so that no key or value looks like an option.
fn arguments(op: String, object: Map<String, Json>, places: Vec<Vec<u8>>) -> Result<Vec<std::ffi::OsString>, CliError> {
    let mut words = vec![os_string(op.into_bytes())];
    for (name, value) in object {
        let option = format!("--{}", name.replace('_', "-"));
        match value {
            Json::Bool(true) => words.push(option.into()),
            Json::Bool(false) | Json::Null => {}
            Json::Number(number) => words.push(format!("{option}={number}").into()),
            Json::String(text) => words.push(format!("{option}={text}").into()),
            Json::Array(_) | Json::Object(_) => {
                return Err(usage(format!("`{name}` must be a string, a number, true or false")));
            }
        }
    }
    words.push("--".into());
    words.extend(places.into_iter().map(os_string));
    Ok(words)
}

fn put_of_dash(object: Map<String, Json>, places: Vec<Vec<u8>>) -> Result<ClientCommand, CliError> {
    let stand_in = places.into_iter().take(1).chain([b"value".to_vec()]).collect();
    let mut command = from_arguments(arguments("put".to_owned(), object, stand_in)?)?;
    if let ClientCommand::Put(args) = &mut command {
        args.dash_is_a_value();
    }
    Ok(command)
}

fn from_arguments(words: Vec<std::ffi::OsString>) -> Result<ClientCommand, CliError> {
    match Words::try_parse_from(words) {
        Ok(words) => Ok(words.command),
        Err(error) => Err(usage(error.render().to_string().trim_end().to_owned())),
    }
}

fn usage(detail: String) -> CliError {
    CliError::Usage { detail }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::{
        cli::put::{PutRequest, Replaces, ValueSource},
        ident::Key,
        wire::{administration::RepairScope, client::Consistency},
    };

    #[track_caller]
    fn put(line: &str) -> PutRequest {
        match parse(line.as_bytes()).command.unwrap() {
            ClientCommand::Put(args) => args.into_request(ValueSource::ArgumentsOnly).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_and_objects_mean_the_same() {
        let words = put("put k 'a b' --w 2 --ttl 1h --create");
        assert_eq!((words.w, words.ttl), (Consistency::Count(2), Some(Duration::from_secs(3_600))));
        assert_eq!((words.replaces.clone(), words.value.as_bytes()), (Replaces::Nothing, b"a b".as_slice()));
        assert_eq!(put(r#"{"op":"put","key":"k","value":"a b","w":2,"ttl":"1h","create":true,"id":7}"#), words);
        assert_eq!(
            put(r#"{"op":"put","key_base64":"aw==","value_base64":"YSBi","w":2,"ttl":"1h","create":true}"#),
            words
        );
        let context = put(r#"{"op":"put","key":"k","value":"v","context":"-w"}"#).replaces;
        assert!(matches!(context, Replaces::Seen(context) if context.as_bytes() == [0xfb]));
    }

    #[test]
    fn keys_and_values_of_an_object_never_look_like_options() {
        let request = put(r#"{"op":"put","key":"--w","value":"--create"}"#);
        assert_eq!((request.key.as_bytes(), request.value.as_bytes()), (b"--w".as_slice(), b"--create".as_slice()));
        assert_eq!(put(r#"{"op":"put","key":"k","value":"-"}"#).value.as_bytes(), b"-");
        assert_eq!(put(r#"{"op":"put","key":"k","value":""}"#).value.as_bytes(), b"");
        assert_eq!(put(r#"{"op":"put","key":"k","value_base64":"/wA="}"#).value.as_bytes(), [0xff, 0]);
    }

    #[test]
    fn every_command_of_a_client_can_be_said_as_an_object() {
        for line in [
            r#"{"op":"get","key":"k","r":"all"}"#,
            r#"{"op":"get","key":"k","r":"local-quorum"}"#,
            r#"{"op":"delete","key":"k","w":"each-quorum"}"#,
            r#"{"op":"get","key":"k","local":true}"#,
            r#"{"op":"delete","key":"k","context":"AQ"}"#,
            r#"{"op":"scan","prefix":"k","limit":3}"#,
            r#"{"op":"scan"}"#,
            r#"{"op":"status"}"#,
            r#"{"op":"members"}"#,
            r#"{"op":"ring"}"#,
            r#"{"op":"ring","roots":true}"#,
            r#"{"op":"ring","key":"--roots"}"#,
            r#"{"op":"inspect","key":"k"}"#,
            r#"{"op":"history"}"#,
            r#"{"op":"hints"}"#,
            r#"{"op":"hints","action":"pause"}"#,
            r#"{"op":"leave","wait":true,"yes":true}"#,
            r#"{"op":"leave","cancel":true}"#,
            r#"{"op":"remove","node":"--yes","dry_run":true}"#,
            r#"{"op":"replace","old":"ann","new":"12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo","yes":true}"#,
            r#"{"op":"repair"}"#,
            r#"{"op":"repair","partition":3,"wait":true,"trace":false}"#,
            r#"{"op":"verify","wait":true}"#,
            r#"{"op":"alerts"}"#,
            r#"{"op":"metrics"}"#,
        ] {
            assert!(parse(line.as_bytes()).command.is_ok(), "{line}");
        }
    }

    #[test]
    fn the_key_of_a_repair_may_be_any_bytes() {
        let scope = |line: &str| match parse(line.as_bytes()).command.unwrap() {
            ClientCommand::Repair(args) => args.into_request().unwrap().scope,
            other => panic!("{other:?}"),
        };
        let of = |key: &[u8]| RepairScope::Key(Key::new(key).unwrap());
        assert_eq!(scope(r#"{"op":"repair","key":"--wait"}"#), of(b"--wait"));
        assert_eq!(scope(r#"{"op":"repair","key_base64":"/w==","wait":true}"#), of(&[0xff]));
        assert_eq!(scope("repair --key k"), of(b"k"));
        assert!(parse(br#"{"op":"repair","key":"k","partition":3}"#).command.is_err());
    }

    #[test]
    fn a_line_that_means_nothing_is_an_answer_with_its_id() {
        for line in [
            r#"{"id":7}"#,
            r#"{"op":"fetch","id":7}"#,
            r#"{"op":"scan","node":"k","id":7}"#,
            r#"{"op":"remove","key":"k","id":7}"#,
            r#"{"op":"get","id":7}"#,
            r#"{"op":"get","key":"k","x":[],"id":7}"#,
        ] {
            let order = parse(line.as_bytes());
            assert_eq!(order.id, Some(json!(7)), "{line}");
            assert!(order.command.is_err(), "{line}");
        }
        assert!(parse(b"{").command.is_err());
        assert!(parse(b"get 'k").command.is_err());
        assert!(parse(&[b'g', 0xff]).command.is_err());
        assert!(parse(b"start").command.is_err());
    }

    #[test]
    fn an_id_is_given_back_as_it_came() {
        assert_eq!(with_id(json!({"ok": true}), Some(json!("a"))).to_string(), r#"{"ok":true,"id":"a"}"#);
        assert_eq!(with_id(json!([1]), Some(json!(7))).to_string(), r#"{"ok":true,"lines":[1],"id":7}"#);
        assert_eq!(with_id(json!([1]), None).to_string(), "[1]");
    }
}
