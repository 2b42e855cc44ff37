//! The house rules that a program can check: levels and arrows, bans of names, leftover markers, heads and lengths.
//!
//! Reads the sources as text. The lexer knows comments, strings and `use` trees, and nothing of types: it is there to
//! make a new arrow a visible line in a review, not to stop somebody who means to get round it. Modules under
//! `#[cfg(test)]`, and files called `tests.rs`, `properties.rs` or `*_tests.rs`, are tests: they may name anything, but
//! leave no markers and never sleep.

mod lexer;
mod planted;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use crate::lexer::{Named, paths, split_tests, strip};

/// The modules of `src/`, lowest first: level, name, and what it may use of its own level. Lower levels are free.
const LEVELS: &[(u8, &str, &[&str])] = &[
    (0, "limits", &[]),
    (0, "digest", &[]),
    (0, "clock", &[]),
    (0, "ident", &["digest", "limits"]),
    (1, "ring", &[]),
    (1, "causality", &[]),
    (1, "membership", &["ring", "causality"]),
    (2, "wire", &[]),
    (2, "store", &[]),
    (3, "merkle", &[]),
    (3, "replica", &["merkle"]),
    (3, "quorum", &[]),
    (3, "handoff", &["replica"]),
    (4, "config", &[]),
    (4, "node", &["config"]),
    (5, "runtime", &[]),
    (5, "client", &["runtime::identity", "runtime::dial_error"]),
    (6, "cli", &[]),
    (7, "main", &[]),
];

/// Where a name may stand.
struct Ban {
    /// Paths as they are written in full, or single words.
    names: &'static [&'static str],
    /// Beginnings of the paths of files that it does not hold for.
    except: &'static [&'static str],
    /// Why nowhere else.
    reason: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        names: &["libp2p"],
        except: &["src/runtime/", "src/client/", "src/cli/", "src/main.rs", "behaviours/"],
        reason: "the core is free of libp2p",
    },
    Ban {
        names: &["quorate_behaviours"],
        except: &["src/runtime/", "src/client/"],
        reason: "only the shells speak to the network",
    },
    Ban { names: &["heed"], except: &["src/store/lmdb.rs"], reason: "one module knows LMDB" },
    Ban {
        names: &["async_std"],
        except: &[
            "src/runtime/",
            "src/client/",
            "src/cli/",
            "src/main.rs",
            "behaviours/src/tcp/",
            "behaviours/src/mdns/",
        ],
        reason: "async-std is no longer developed; replacing it must stay a small change",
    },
    Ban {
        names: &["async_io"],
        except: &[
            "src/runtime/",
            "src/client/",
            "src/cli/",
            "src/main.rs",
            "behaviours/src/tcp/",
            "behaviours/src/mdns/",
        ],
        reason: "sockets are the business of our transports and shells",
    },
    Ban {
        names: &["futures"],
        except: &["src/runtime/", "src/client/", "src/cli/", "src/main.rs", "behaviours/"],
        reason: "the core never awaits",
    },
    Ban {
        names: &["std::time::Instant", "std::time::SystemTime", "std::thread", "std::net", "std::env"],
        except: &["src/runtime/", "src/client/", "src/cli/", "src/main.rs", "behaviours/"],
        reason: "the core reads no clock and touches no world",
    },
    Ban {
        names: &["std::fs"],
        except: &[
            "src/runtime/",
            "src/client/",
            "src/cli/",
            "src/main.rs",
            "src/store/lmdb",
            "behaviours/src/mdns/socket.rs",
        ],
        reason: "files are the business of the shells and of the store on disk",
    },
    Ban {
        names: &["HashMap", "HashSet", "hash_map", "hash_set", "RandomState"],
        except: &["src/runtime/", "behaviours/"],
        reason: "order must not vary between runs; take a BTreeMap or BTreeSet",
    },
    Ban {
        names: &["rand"],
        except: &["src/runtime/", "src/client/", "src/cli/", "behaviours/"],
        reason: "the core holds one seeded generator, so that a seed replays a run",
    },
    Ban {
        names: &["toml", "clap", "clap_complete", "comfy_table", "indicatif", "rustyline", "shlex"],
        except: &["src/cli/", "src/main.rs"],
        reason: "what people type and read is the business of the command line",
    },
    Ban {
        names: &["serde_json"],
        except: &["src/cli/", "src/main.rs", "src/runtime/registry.rs"],
        reason: "JSON is for people and their scripts; nodes speak CBOR",
    },
    Ban {
        names: &["Serialize", "Deserialize"],
        except: &[
            "src/wire/",
            "src/causality/",
            "src/membership/change.rs",
            "src/membership/label.rs",
            "src/membership/summary.rs",
            "src/ring/partition_set.rs",
            "src/ident.rs",
            "src/digest.rs",
            "src/clock.rs",
            "src/ring/token.rs",
            "src/replica/startup.rs",
            "src/replica/values.rs",
            "src/replica/hints.rs",
            "src/cli/",
            "behaviours/",
        ],
        reason: "a serializable type is a promise",
    },
    Ban { names: &["super"], except: &[], reason: "write `crate::…`: a path says where a thing lives" },
    Ban {
        names: &["dbg!", "todo!", "unimplemented!"],
        except: &[],
        reason: "a leftover; finish it or say in the documentation what is lacking",
    },
];

/// Names that stand nowhere, not even in tests.
const BANNED_IN_TESTS: &[Ban] = &[
    Ban { names: &["dbg!", "todo!", "unimplemented!"], except: &[], reason: "a leftover" },
    Ban {
        names: &["sleep"],
        // Looks at a plain condition again and again, at most 10 s; and spaces puts over a span of time.
        except: &["tests/client_unit/stage.rs", "tests/client_unit/operations.rs"],
        reason: "time in place of a condition: wait for the event, with a deadline",
    },
];

/// Banned names that count wherever they stand in a path; others count as crates, at its beginning.
const WORDS: &[&str] =
    &["HashMap", "HashSet", "hash_map", "hash_set", "RandomState", "Serialize", "Deserialize", "sleep"];

/// Lines that a file may have.
const LINE_COUNT_MAX: usize = 500;

/// A file of source text.
struct Source {
    /// From the root of the repository, with slashes.
    path: String,
    text: String,
}

#[test]
fn modules_use_only_what_lies_below_them() {
    assert_none(&find_bad_arrows(&sources()));
}

#[test]
fn modules_form_no_cycle() {
    assert_none(&find_cycles(&sources()));
}

#[test]
fn names_stand_only_where_they_may() {
    assert_none(&find_banned_names(&sources()));
}

#[test]
fn nothing_is_left_over() {
    assert_none(&find_markers(&sources()));
}

#[test]
fn every_file_says_what_it_is() {
    assert_none(&find_headless(&sources()));
}

#[test]
fn files_are_short() {
    assert_none(&find_long(&sources()));
}

#[test]
fn every_module_has_a_level() {
    let levels: BTreeSet<&str> = LEVELS.iter().map(|(_, name, _)| *name).collect();
    let unknown: Vec<String> = sources()
        .iter()
        .filter_map(|source| unit_of(&source.path))
        .filter(|unit| !levels.contains(unit.as_str()))
        .collect();
    assert!(unknown.is_empty(), "give these a place in LEVELS: {unknown:?}");
}

#[track_caller]
fn assert_none(found: &[String]) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

fn find_bad_arrows(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for (source, from, named, to) in arrows(sources) {
        let (Some(from_row), Some(to_row)) = (level_row(&from), level_row(&to)) else { continue };
        let allowed = from_row.2.iter().any(|aside| is_within(&inner_path(&named.path), aside));
        if from != to && to_row.0 >= from_row.0 && !allowed {
            let reason = format!("level {} `{from}` may not use level {} `{to}`", from_row.0, to_row.0);
            found.push(format!("{}:{}: `{}`: {reason}", source.path, named.line, named.path));
        }
    }
    found
}

fn find_cycles(sources: &[Source]) -> Vec<String> {
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (_, from, _, to) in arrows(sources) {
        if from != to {
            used.entry(from).or_default().insert(to);
        }
    }
    // Take away what uses nothing that is left, until nothing more goes: the rest is cycles.
    loop {
        let left: BTreeSet<String> = used.keys().cloned().collect();
        let before = used.len();
        used.retain(|_, targets| {
            targets.retain(|target| left.contains(target));
            !targets.is_empty()
        });
        if used.len() == before {
            break;
        }
    }
    if used.is_empty() { Vec::new() } else { vec![format!("modules use each other in a circle: {used:?}")] }
}

fn find_banned_names(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let code = strip(&source.text).code;
        if is_test_file(&source.path) {
            BANNED_IN_TESTS.iter().for_each(|ban| find_ban(source, &paths(&code), ban, &mut found));
            continue;
        }
        let (product, tests) = split_tests(&code);
        BANNED_IN_TESTS.iter().for_each(|ban| find_ban(source, &paths(&tests), ban, &mut found));
        for ban in BANS {
            find_ban(source, &paths(&product), ban, &mut found);
        }
        if source.path.starts_with("behaviours/") {
            let ours = Ban { names: &["quorate"], except: &[], reason: "behaviours know nothing of the store" };
            find_ban(source, &paths(&product), &ours, &mut found);
        }
    }
    found
}

fn find_ban(source: &Source, named: &[Named], ban: &Ban, found: &mut Vec<String>) {
    if ban.except.iter().any(|place| source.path.starts_with(place)) {
        return;
    }
    for Named { line, path } in named {
        if let Some(name) = ban.names.iter().find(|name| names(path, name)) {
            found.push(format!("{}:{line}: `{path}` names `{name}`: {}", source.path, ban.reason));
        }
    }
}

/// Whether `path` names `banned`: a path of several names, or an import of the module around it, through which it could
/// be named later; a crate, where a path begins; or a word, wherever it stands.
fn names(path: &str, banned: &str) -> bool {
    let import = path.strip_prefix("use ");
    let path = import.unwrap_or(path);
    if let Some((parent, _)) = banned.rsplit_once("::") {
        let is_import_of_parent = parent != "std"
            && import.is_some_and(|import| import == parent || import.strip_prefix(parent) == Some("::*"));
        return is_within(path, banned) || is_import_of_parent;
    }
    let is_crate = path.split("::").next() == Some(banned) && path.contains("::");
    let is_word = WORDS.contains(&banned) || banned.ends_with('!');
    is_crate || is_word && path.split("::").any(|name| name == banned)
}

fn find_markers(sources: &[Source]) -> Vec<String> {
    let marker = concat!("FIX", "ME");
    let mut found = Vec::new();
    for source in sources {
        let stripped = strip(&source.text);
        for (index, line) in stripped.comments.lines().enumerate().filter(|(_, line)| line.contains(marker)) {
            found.push(format!("{}:{}: a leftover marker: {}", source.path, index + 1, line.trim()));
        }
        for (index, _) in stripped.code.lines().enumerate().filter(|(_, line)| line.contains("#[ignore")) {
            found.push(format!("{}:{}: an ignored test: assert what is, or remove it", source.path, index + 1));
        }
    }
    found
}

fn find_headless(sources: &[Source]) -> Vec<String> {
    let headless = sources.iter().filter(|source| !source.text.starts_with("//!"));
    headless.map(|source| format!("{}: begin with `//!` and what the file is", source.path)).collect()
}

fn find_long(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let count = source.text.lines().count();
        if count > LINE_COUNT_MAX {
            found.push(format!("{}: {count} lines, more than {LINE_COUNT_MAX}; split it", source.path));
        }
    }
    found
}

/// Every use of one of our modules in the product: file, its module, the path, the module used.
fn arrows(sources: &[Source]) -> Vec<(&Source, String, Named, String)> {
    let mut arrows = Vec::new();
    for source in sources {
        let Some(from) = unit_of(&source.path).filter(|_| !is_test_file(&source.path)) else { continue };
        for named in paths(&split_tests(&strip(&source.text).code).0) {
            let to = inner_path(&named.path).split("::").next().unwrap_or_default().to_owned();
            if !to.is_empty() {
                arrows.push((source, from.clone(), named, to));
            }
        }
    }
    arrows
}

/// What follows `crate::`; empty for a path that leads elsewhere.
fn inner_path(path: &str) -> String {
    let path = path.trim_start_matches("use ");
    let inner = path.strip_prefix("crate::").or_else(|| path.strip_prefix("quorate::"));
    inner.unwrap_or_default().to_owned()
}

fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn level_row(unit: &str) -> Option<&'static (u8, &'static str, &'static [&'static str])> {
    LEVELS.iter().find(|(_, name, _)| *name == unit)
}

/// The module of `src/` to which a file belongs: its folder, or the file itself. The crate's root has none.
fn unit_of(path: &str) -> Option<String> {
    let inside = path.strip_prefix("src/")?;
    let unit = inside.split('/').next()?.trim_end_matches(".rs");
    (unit != "lib").then(|| unit.to_owned())
}

fn is_test_file(path: &str) -> bool {
    let stem = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    let in_src = path.starts_with("src/") || path.starts_with("behaviours/src/");
    !in_src || ["tests", "properties"].contains(&stem) || stem.ends_with("_tests")
}

/// All sources of the workspace, by path.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = Vec::new();
    for folder in ["src", "behaviours/src", "behaviours/tests", "tests", "examples"] {
        collect(root, &root.join(folder), &mut sources);
    }
    assert!(sources.len() > 50, "the sources are somewhere else");
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    // A folder that is not there has no sources.
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            collect(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("the source can be read");
            let inside = path.strip_prefix(root).expect("it was found under the root");
            sources.push(Source { path: inside.to_string_lossy().replace('\\', "/"), text });
        }
    }
}
