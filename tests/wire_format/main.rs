//! Golden bytes of every message and of every stored row, as version 1 writes them.
//!
//! One file in `v1/` for each, in hexadecimal digits with a comment per field. A fixture never changes: a form that is
//! written otherwise is a new version with a folder of its own, and what is in `v1/` must still be read as it is here.
//! Until the first release there is only one version, and no older one to be read.
//!
//! A new message fails with the text of its fixture; read that text before you save it.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod annotate;
mod messages;
mod store;

use std::{collections::BTreeSet, fmt::Debug, fs, path::PathBuf};

use serde::{Serialize, de::DeserializeOwned};

use crate::annotate::annotate;

/// Something to try with bytes.
type Check<T> = Box<dyn Fn(&[u8]) -> T>;

/// One message, what it was encoded to, and what becomes of other bytes.
struct Case {
    name: &'static str,
    encoded: Vec<u8>,
    /// Bytes before and after the CBOR item: what they are, and how many.
    frame: Frame,
    /// Whether these bytes decode to the very value.
    reads_back: Check<bool>,
    /// Decodes bytes that may be anything, and encodes again what came of it.
    survive: Check<()>,
}

/// What surrounds a CBOR item.
#[derive(Clone, Copy, Default)]
struct Frame {
    head: &'static [(&'static str, usize)],
    tail: &'static [(&'static str, usize)],
}

/// A message whose bytes are one CBOR item.
fn case<T: Serialize + DeserializeOwned + PartialEq + Debug + 'static>(name: &'static str, value: T) -> Case {
    Case {
        name,
        encoded: encode(&value),
        frame: Frame::default(),
        reads_back: Box::new(move |bytes| cbor4ii::serde::from_slice::<T>(bytes).is_ok_and(|read| read == value)),
        survive: Box::new(|bytes| {
            if let Ok(read) = cbor4ii::serde::from_slice::<T>(bytes) {
                encode(&read);
            }
        }),
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    cbor4ii::serde::to_vec(Vec::new(), value).unwrap()
}

fn cases() -> Vec<Case> {
    [messages::requests(), messages::responses(), messages::client_requests(), messages::client_responses()]
        .into_iter()
        .chain([messages::exchange(), messages::parts(), store::rows()])
        .flatten()
        .collect()
}

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "wire_format", "v1"].iter().collect()
}

/// The bytes of a fixture; none if it is missing.
fn golden(name: &str) -> Vec<u8> {
    let text = fs::read_to_string(folder().join(format!("{name}.hex"))).unwrap_or_default();
    let digits: String = text.lines().map(|line| line.split('#').next().unwrap()).collect();
    let digits: Vec<char> = digits.chars().filter(|c| !c.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

#[test]
fn every_message_and_row_is_written_as_ever() {
    let mut changed = String::new();
    for case in cases() {
        if golden(case.name) != case.encoded {
            changed += &format!("--- {}.hex\n{}", case.name, annotate(&case.encoded, case.frame));
        }
    }
    assert!(changed.is_empty(), "these would be written differently:\n{changed}");
}

#[test]
fn every_fixture_is_read_as_ever() {
    for case in cases() {
        assert!((case.reads_back)(&golden(case.name)), "{}", case.name);
    }
}

#[test]
fn every_fixture_belongs_to_a_message() {
    let cases: BTreeSet<String> = cases().iter().map(|case| format!("{}.hex", case.name)).collect();
    let files: BTreeSet<String> =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(files, cases);
}

#[test]
fn no_prefix_of_a_message_panics_its_reader() {
    for case in cases() {
        for length in 0..case.encoded.len() {
            (case.survive)(&case.encoded[..length]);
            assert!(!(case.reads_back)(&case.encoded[..length]), "{} cut to {length}", case.name);
        }
    }
}

#[test]
fn no_flipped_bit_of_a_message_panics_its_reader() {
    for case in cases() {
        let mut bytes = case.encoded.clone();
        for index in 0..bytes.len() {
            for mask in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                bytes[index] ^= mask;
                (case.survive)(&bytes);
                bytes[index] ^= mask;
            }
        }
    }
}
