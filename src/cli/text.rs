//! How bytes, contexts, times and quantities look as text and in JSON.
//!
//! Bytes that are UTF-8 stand as they are, others in base64 under a name that says so. A context is base64url without
//! padding. Pure functions; nothing here prints.

use std::{
    ffi::{OsStr, OsString},
    fmt::Display,
    os::unix::ffi::OsStrExt as _,
    str::FromStr,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose};
use libp2p::PeerId;
use serde_json::{Map, Value as Json};

use crate::{
    causality::{context::Context, version_vector::VersionVector},
    cli::error::CliError,
    clock::WallTime,
    ident::{IdentError, Key, NodeId, Value},
    limits::REPLICA_COUNT_MAX,
    runtime::identity,
    wire::client::{Consistency, Scope},
};

/// `{"<name>": …}` for UTF-8, else `{"<name>_base64": …}`, added to `object`.
pub(crate) fn add_bytes(object: &mut Map<String, Json>, name: &str, bytes: &[u8]) {
    match str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), general_purpose::STANDARD.encode(bytes).into()),
    };
}

/// Takes the bytes that [`add_bytes`] put under `name` out of `object`; nothing when neither form is there.
pub(crate) fn take_bytes(object: &mut Map<String, Json>, name: &str) -> Result<Option<Vec<u8>>, String> {
    let coded_name = format!("{name}_base64");
    match (object.remove(name), object.remove(&coded_name)) {
        (None, None) => Ok(None),
        (Some(Json::String(text)), None) => Ok(Some(text.into_bytes())),
        (None, Some(Json::String(coded))) => match general_purpose::STANDARD.decode(&coded) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => Err(format!("`{coded_name}` is not base64: {error}")),
        },
        (Some(_), Some(_)) => Err(format!("`{name}` and `{coded_name}` exclude each other")),
        (Some(_), None) => Err(format!("`{name}` must be a string")),
        (None, Some(_)) => Err(format!("`{coded_name}` must be a string")),
    }
}

/// The object that names `key` alone.
pub(crate) fn key_json(key: &Key) -> Map<String, Json> {
    let mut object = Map::new();
    add_bytes(&mut object, "key", key.as_bytes());
    object
}

/// Bytes for people: text as it is when it is printable, else with escapes.
pub(crate) fn printable(bytes: &[u8]) -> String {
    match str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        Ok(_) | Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// `1 key`, `2 keys`: `noun` is the singular, and its plural ends in s.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// `text` as one word of a command line, quoted where a shell would see more in it.
pub(crate) fn to_word(text: &str) -> String {
    shlex::try_quote(text).map_or_else(|_| text.to_owned(), |word| word.into_owned())
}

/// A key as it was typed.
pub(crate) fn key_of(typed: &OsStr) -> Result<Key, CliError> {
    new_key(typed.as_bytes())
}

/// `bytes` as a key.
pub(crate) fn new_key(bytes: &[u8]) -> Result<Key, CliError> {
    Key::new(bytes).map_err(refuse)
}

/// `bytes` as a value.
pub(crate) fn new_value(bytes: &[u8]) -> Result<Value, CliError> {
    Value::new(bytes).map_err(refuse)
}

fn refuse(error: IdentError) -> CliError {
    match error {
        IdentError::KeyTooLong { .. } | IdentError::ValueTooLong { .. } => {
            CliError::TooLarge { detail: error.to_string() }
        }
        IdentError::KeyEmpty | IdentError::NameInvalid => CliError::Usage { detail: error.to_string() },
    }
}

/// A context as clients hold it.
pub(crate) fn context_text(context: &Context) -> String {
    general_purpose::URL_SAFE_NO_PAD.encode(context.as_bytes())
}

/// A context as a client gives it back.
pub(crate) fn parse_context(text: &str) -> Result<Context, CliError> {
    let refused = |reason: String| CliError::InvalidContext { detail: reason };
    let bytes = general_purpose::URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| refused("the context is not base64url without padding".to_owned()))?;
    Context::new(bytes).map_err(|error| refused(error.to_string()))
}

/// Whose answers count, with `--strict` or without.
pub(crate) fn scope_of(strict: bool) -> Scope {
    if strict { Scope::Strict } else { Scope::Sloppy }
}

/// `one`, `quorum`, `all`, `local-quorum`, `each-quorum` or a number of replicas.
pub(crate) fn parse_consistency(text: &str) -> Result<Consistency, String> {
    match text {
        "one" => Ok(Consistency::One),
        "quorum" => Ok(Consistency::Quorum),
        "all" => Ok(Consistency::All),
        "local-quorum" => Ok(Consistency::LocalQuorum),
        "each-quorum" => Ok(Consistency::EachQuorum),
        _ => match text.parse() {
            Ok(count) if (1..=REPLICA_COUNT_MAX).contains(&count) => Ok(Consistency::Count(count)),
            Ok(_) | Err(_) => {
                let words = "`one`, `quorum`, `all`, `local-quorum`, `each-quorum`";
                Err(format!("it must be {words} or a number from 1 to {REPLICA_COUNT_MAX}"))
            }
        },
    }
}

/// How many replicas a write that reads first asks, when it waits for `w`: a quorum; where only one zone is waited for,
/// one of that zone, so that the loss of another does not keep the write.
pub(crate) fn read_before(w: Consistency) -> Consistency {
    match w {
        Consistency::LocalQuorum => Consistency::LocalQuorum,
        Consistency::One | Consistency::Quorum | Consistency::All | Consistency::Count(_) | Consistency::EachQuorum => {
            Consistency::Quorum
        }
    }
}

/// A whole number from `min` to `max`.
pub(crate) fn parse_count<T>(text: &str, min: T, max: T) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let count = text.parse().ok().filter(|count| (&min..=&max).contains(&count));
    count.ok_or_else(|| format!("it must be a whole number from {min} to {max}"))
}

/// What is wrong with a line that should be JSON, and where in it.
pub(crate) fn json_error_text(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let cause = text.rsplit_once(" at line ").map_or(text.as_str(), |(cause, _)| cause);
    match error.column() {
        0 => cause.to_owned(),
        column => format!("{cause} at column {column}"),
    }
}

/// A whole number and its unit: `90s`, `30m`, `1h`, `7d`.
pub(crate) fn parse_ttl(text: &str) -> Result<Duration, String> {
    let rule = || "it must be a whole number above zero and a unit: `90s`, `30m`, `1h` or `7d`".to_owned();
    let unit_at = text.len().checked_sub(1).filter(|&at| text.is_char_boundary(at)).ok_or_else(rule)?;
    let (number, unit) = text.split_at(unit_at);
    let unit_seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(rule()),
    };
    let number: u64 = number.parse().map_err(|_| rule())?;
    let seconds = number.checked_mul(unit_seconds).filter(|&seconds| (1..=TTL_SECONDS_MAX).contains(&seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| format!("{}, at most 36500d", rule()))
}

/// Longest time to live: a hundred years, so that no sum of times overflows.
const TTL_SECONDS_MAX: u64 = 36_500 * 86_400;

/// Milliseconds as seconds for programs, without the dust of a sum: `1.236`.
pub(crate) fn seconds_of(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

/// `12.5 µs`, `3.4 ms`, `1.20 s`.
pub(crate) fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        _ if seconds < 1e-3 => format!("{:.1} µs", seconds * 1e6),
        _ if seconds < 1.0 => format!("{:.2} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}

/// `3 s`, `1 min 1 s`, `5 h 10 min`, `2 d 3 h`: the two largest units.
pub(crate) fn age_text(age: Duration) -> String {
    let seconds = age.as_secs();
    let units = [("d", seconds / 86_400), ("h", seconds / 3_600 % 24), ("min", seconds / 60 % 60), ("s", seconds % 60)];
    let first = units.iter().position(|(_, count)| *count > 0).unwrap_or(units.len() - 1);
    let shown = units[first..].iter().take(2).enumerate().filter(|(index, (_, count))| *index == 0 || *count > 0);
    shown.map(|(_, (unit, count))| format!("{count} {unit}")).collect::<Vec<_>>().join(" ")
}

/// `2026-11-23T02:44:17.123Z`.
pub(crate) fn time_text(time: WallTime) -> String {
    let (seconds, millis) = (time.0 / 1_000, time.0 % 1_000);
    let (year, month, day) = date_of(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month and day, so many days after 1970-01-01 in the Gregorian calendar.
fn date_of(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01: with the leap day last, the months before it have one pattern of lengths, 153 days in
    // every five of them.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// How libp2p, and therefore everybody, names `node`.
pub(crate) fn peer_text(node: &NodeId) -> String {
    // A member has signed with its key, so the key is one.
    identity::peer_id(node).as_ref().map_or_else(|| format!("{node:?}"), PeerId::to_string)
}

/// A clock as an object: `{"<node number, hexadecimal>.<epoch>": counter}`.
pub(crate) fn clock_json(clock: &VersionVector) -> Json {
    let entry = |dot: crate::causality::dot::Dot| {
        (format!("{:016x}.{}", dot.actor.node, dot.actor.epoch), Json::from(dot.counter))
    };
    Json::Object(clock.iter().map(entry).collect())
}

/// All of `bytes` as an argument, whatever they are.
pub(crate) fn os_string(bytes: Vec<u8>) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causality::dot::Actor;

    #[test]
    fn bytes_survive_the_way_through_json() {
        for bytes in [b"text".as_slice(), b"", "ümläut \u{1f600}\n\0".as_bytes(), &[0xff, 0, 0x80]] {
            let mut object = Map::new();
            add_bytes(&mut object, "value", bytes);
            assert_eq!(object.contains_key("value"), str::from_utf8(bytes).is_ok());
            assert_eq!(take_bytes(&mut object, "value").unwrap().as_deref(), Some(bytes));
            assert!(object.is_empty());
        }
    }

    #[test]
    fn bytes_in_two_forms_or_in_none_are_told_apart() {
        let take = |text: &str| take_bytes(&mut serde_json::from_str(text).unwrap(), "key");
        assert_eq!(take("{}"), Ok(None));
        assert!(take(r#"{"key":"a","key_base64":"YQ=="}"#).is_err());
        assert!(take(r#"{"key":7}"#).is_err());
        assert!(take(r#"{"key_base64":"%"}"#).unwrap_err().contains("not base64"));
    }

    #[test]
    fn a_context_keeps_its_bytes_as_text() {
        let context = Context::new(vec![0xfb, 0xff, 0, 1]).unwrap();
        assert_eq!(context_text(&context), "-_8AAQ");
        assert_eq!(parse_context("-_8AAQ").unwrap(), context);
        for text in ["+/8AAQ", "-_8AAQ==", "é"] {
            assert!(matches!(parse_context(text), Err(CliError::InvalidContext { .. })), "{text}");
        }
    }

    #[test]
    fn a_time_to_live_has_a_number_and_a_unit() {
        for (text, seconds) in [("90s", 90), ("30m", 1_800), ("1h", 3_600), ("7d", 604_800)] {
            assert_eq!(parse_ttl(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "1", "h", "0s", "-1h", "1.5h", "1 h", "1w", "1µ", "99999999999999999999d", "36501d"] {
            assert!(parse_ttl(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_consistency_is_a_word_or_a_number_of_replicas() {
        assert_eq!(parse_consistency("quorum"), Ok(Consistency::Quorum));
        assert_eq!(parse_consistency("2"), Ok(Consistency::Count(2)));
        assert_eq!(parse_consistency("local-quorum"), Ok(Consistency::LocalQuorum));
        assert_eq!(parse_consistency("each-quorum"), Ok(Consistency::EachQuorum));
        for text in ["0", "17", "300", "two", "", "local", "local_quorum", "each-quorums"] {
            assert!(parse_consistency(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_write_that_waits_for_one_zone_reads_first_in_that_zone() {
        assert_eq!(read_before(Consistency::LocalQuorum), Consistency::LocalQuorum);
        for w in [Consistency::One, Consistency::All, Consistency::EachQuorum, Consistency::Count(3)] {
            assert_eq!(read_before(w), Consistency::Quorum);
        }
    }

    #[test]
    fn a_count_outside_its_range_is_refused_with_the_range() {
        assert_eq!(parse_count("4", 1_u32, 4), Ok(4));
        for text in ["0", "5", "-1", "x", ""] {
            assert_eq!(parse_count(text, 1_u32, 4), Err("it must be a whole number from 1 to 4".to_owned()), "{text}");
        }
    }

    #[test]
    fn a_fault_in_a_line_of_json_is_told_by_its_column_alone() {
        let said = |line: &str| json_error_text(&serde_json::from_str::<Json>(line).unwrap_err());
        assert_eq!(said("{\"a\":}"), "expected value at column 6");
        assert!(!said("nonsense").contains("line"), "{}", said("nonsense"));
    }

    #[test]
    fn a_word_of_a_command_line_is_quoted_where_it_must_be() {
        assert_eq!((to_word("plain").as_str(), to_word("two words").as_str()), ("plain", "'two words'"));
    }

    #[test]
    fn times_are_written_as_people_write_them() {
        assert_eq!(time_text(WallTime(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(time_text(WallTime(951_782_400_000)), "2000-02-29T00:00:00.000Z");
        assert_eq!(time_text(WallTime(1_709_251_199_999)), "2024-02-29T23:59:59.999Z");
        assert_eq!(time_text(WallTime(4_107_542_400_000)), "2100-03-01T00:00:00.000Z");
        assert_eq!(duration_text(Duration::from_micros(12)), "12.0 µs");
        assert_eq!(duration_text(Duration::from_micros(3_456)), "3.46 ms");
    }

    #[test]
    fn an_age_is_told_by_its_two_largest_units() {
        let check = |seconds, expected: &str| assert_eq!(age_text(Duration::from_secs(seconds)), expected);
        check(0, "0 s");
        check(60, "1 min");
        check(61, "1 min 1 s");
        check(3_605, "1 h");
        check(86_399, "23 h 59 min");
        check(9 * 86_400 + 7_200, "9 d 2 h");
    }

    #[test]
    fn a_clock_names_each_actor_once() {
        let mut clock = VersionVector::new();
        clock.raise(Actor { node: 1, epoch: 2 }, 3);
        assert_eq!(clock_json(&clock).to_string(), r#"{"0000000000000001.2":3}"#);
    }
}
