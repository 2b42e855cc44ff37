//! Each kind of violation, planted once: a check that finds nothing proves nothing.

use crate::{
    LINE_COUNT_MAX, Source, assert_none, find_bad_arrows, find_banned_names, find_cycles, find_headless, find_long,
    find_markers,
};

#[test]
fn planted_arrows_are_found() {
    let upwards = [planted("src/ring/a.rs", "use crate::{digest::Digest, node::{Node, effect::Effect}};")];
    assert_eq!(find_bad_arrows(&upwards).len(), 2);
    let inline = [planted("src/store/a.rs", "fn f() -> crate::wire::Cursor { x }")];
    assert_eq!(find_bad_arrows(&inline).len(), 1);
    let aside = [planted("src/client/a.rs", "use crate::runtime::{handle::Handle, identity};")];
    assert_eq!(find_bad_arrows(&aside).len(), 1);
    let by_own_name = [planted("src/node/a.rs", "use quorate::cli;")];
    assert_eq!(find_bad_arrows(&by_own_name).len(), 1);
    let harmless = "// crate::node\n/* crate::cli /* */ crate::cli */ const A: &str = \"crate::cli \\\" crate::cli\";\n\
                    fn f<'a>(c: char) { c == '\"' } const B: &str = r#\"crate::\"cli\"#;\n\
                    #[cfg(test)]\nuse crate::{cli};\n#[cfg(test)]\nmod tests { use crate::cli; fn f() {} }\n";
    assert_none(&find_bad_arrows(&[planted("src/ring/a.rs", harmless)]));
    assert_none(&find_bad_arrows(&[planted("src/ring/properties.rs", "use crate::cli;")]));
}

#[test]
fn planted_cycles_are_found() {
    let cycle = [
        planted("src/ring/a.rs", "use crate::causality;"),
        planted("src/causality/a.rs", "use crate::membership;"),
        planted("src/membership/a.rs", "use crate::ring;"),
    ];
    assert_eq!(find_cycles(&cycle).len(), 1, "{:?}", find_cycles(&cycle));
    assert_none(&find_cycles(&cycle[..2]));
}

#[test]
fn planted_names_are_found() {
    for line in [
        "use libp2p::PeerId;",
        "use std::{collections::{BTreeMap, HashMap}};",
        "fn f() { std::time::Instant::now(); }",
        "use std::time::{Duration, SystemTime};",
        "use std::time::*;",
        "use std::time;",
        "use std::{fs, io};",
        "use std::thread::spawn as go;",
        "fn f() { async_std::task::block_on(g()) }",
        "#[derive(Debug, Serialize)] struct S;",
        "fn f() { rand::random() }",
        "use super::Node;",
        "fn f() { todo!() }",
        "use ::heed::Env;",
    ] {
        assert_eq!(find_banned_names(&[planted("src/quorum/a.rs", line)]).len(), 1, "{line}");
    }
    let welcome = "use std::time::Duration; use crate::clock::Instant; fn f() { let rand = 1; a.futures() }";
    assert_none(&find_banned_names(&[planted("src/quorum/a.rs", welcome)]));
    assert_none(&find_banned_names(&[planted("src/runtime/a.rs", "use libp2p::PeerId; use std::thread;")]));
    let sleeping = "fn f() { std::thread::sleep(x) } use async_std::task; fn g() { task::sleep(x) }";
    assert_eq!(find_banned_names(&[planted("tests/cluster/a.rs", sleeping)]).len(), 2);
    let in_unit_test = "#[cfg(test)]\nmod tests { fn f() { std::thread::sleep(x) } }";
    assert_eq!(find_banned_names(&[planted("src/quorum/a.rs", in_unit_test)]).len(), 1);
}

#[test]
fn planted_markers_are_found() {
    let marker = concat!("// FIX", "ME: later");
    assert_eq!(find_markers(&[planted("src/a.rs", marker)]).len(), 1);
    assert_eq!(find_markers(&[planted("tests/a.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() {}")]).len(), 1);
    assert_none(&find_markers(&[planted("src/a.rs", "// TODO: asserted as it is")]));
}

#[test]
fn planted_heads_and_lengths_are_found() {
    let headless = Source { path: "src/a.rs".to_owned(), text: "use std::fmt;\n//! late\n".to_owned() };
    assert_eq!(find_headless(&[headless]).len(), 1);
    assert_eq!(find_long(&[planted("src/a.rs", &"//\n".repeat(LINE_COUNT_MAX))]).len(), 1);
    assert_none(&find_long(&[planted("src/a.rs", &"//\n".repeat(LINE_COUNT_MAX - 1))]));
}

/// A file with a proper head.
fn planted(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: format!("//! Planted.\n{text}") }
}

#[test]
fn paths_are_written_out() {
    let code = crate::lexer::strip("use a::{self, b::{C, d as e}, *};\nx::y!(z)").code;
    let found: Vec<_> = crate::lexer::paths(&code).into_iter().map(|named| (named.line, named.path)).collect();
    let expected = [(1, "use a"), (1, "use a::b::C"), (1, "use a::b::d"), (1, "use a::*"), (2, "x::y!"), (2, "z")]
        .map(|(line, path)| (line, path.to_owned()));
    assert_eq!(found, expected);
}
