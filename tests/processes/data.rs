//! Real data through real processes: in through one node, out through another, and read back when one is killed.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
};

use serde_json::{Value as Json, json};

use crate::harness::{Home, LOOPBACK, Node, Shell, poll, text};

/// Every installed package of a Debian machine as a line of NDJSON, as the README has it.
const PACKAGES: &str = r#"
dpkg --status | python3 -c '
import json, sys
for stanza in sys.stdin.read().strip().split("\n\n"):
    name = stanza.split("\n")[0].removeprefix("Package: ")
    print(json.dumps({"key": name, "value": stanza}, ensure_ascii=False, separators=(",", ":")))
' | LC_ALL=C sort > packages.ndjson
"#;

/// Makes `packages.ndjson`; or says why there is none.
fn packages(home: &Home) -> Result<Vec<u8>, &'static str> {
    let words = ["sh", "-c", "command -v dpkg && command -v python3"];
    let has_tools = Command::new(words[0]).args(&words[1..]).output().is_ok_and(|output| output.status.success());
    if !has_tools {
        return Err("SKIPPED: this is no Debian machine with python3");
    }
    let made = Command::new("sh").args(["-c", PACKAGES]).current_dir(home.path("")).status().unwrap();
    assert!(made.success());
    let bytes = fs::read(home.path("packages.ndjson")).unwrap();
    if bytes.is_empty() { Err("SKIPPED: no package is installed here") } else { Ok(bytes) }
}

fn by_key(ndjson: &[u8]) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let json: Json = serde_json::from_str(line).unwrap();
        (json["key"].as_str().unwrap().to_owned(), json["value"].as_str().unwrap().to_owned())
    };
    str::from_utf8(ndjson).unwrap().lines().map(line).collect()
}

/// Reads every key, many at a time. Returns those that do not have exactly the expected value, with the answer.
fn differing(shell: &mut Shell, expected: &BTreeMap<String, String>, how: (&str, Json)) -> Vec<(String, Json)> {
    let order = |(id, key): (usize, &String)| json!({"op": "get", "key": key, how.0: how.1, "id": id});
    let orders: Vec<Json> = expected.keys().enumerate().map(order).collect();
    let mut answers: BTreeMap<u64, Json> =
        shell.ask_all(&orders).into_iter().map(|answer| (answer["id"].as_u64().unwrap(), answer)).collect();
    let is_right = |answer: &Json, value: &String| {
        answer["siblings"].as_array().is_some_and(|found| found.len() == 1 && found[0]["value"] == value.as_str())
    };
    let answered = expected.iter().zip(0..).map(|((key, value), id)| (key, value, answers.remove(&id).unwrap()));
    answered
        .filter(|(_, value, answer)| !is_right(answer, value))
        .map(|(key, _, answer)| (key.clone(), answer))
        .collect()
}

#[track_caller]
fn assert_all_read(home: &Home, node: &Node, expected: &BTreeMap<String, String>) {
    let wrong = differing(&mut home.shell(node), expected, ("r", "quorum".into()));
    assert!(wrong.is_empty(), "{} of {} through {}: {:#?}", wrong.len(), expected.len(), node.name, wrong.first());
}

#[test]
fn a_package_database_goes_in_through_one_node_and_out_through_another_and_outlives_a_killed_one() {
    let home = Home::new();
    let input = match packages(&home) {
        Ok(input) => input,
        Err(reason) => return eprintln!("{reason}"),
    };
    let mut expected = by_key(&input);
    eprintln!("{} packages, {} bytes", expected.len(), input.len());

    let [mut first, second, third] = home.cluster(&[]);
    let imported = home.ask(&first, &["import", text(&home.path("packages.ndjson"))]).expect(0, &[]);
    assert_eq!(imported.json()["stored"], expected.len());
    let exported = home.ask(&second, &["export"]).expect(0, &[]);
    eprintln!("imported in {:.1?}, exported in {:.1?}", imported.took, exported.took);
    assert!(exported.stdout == input, "the export differs from the sorted input");

    first.kill();
    assert_all_read(&home, &second, &expected);
    assert_all_read(&home, &third, &expected);

    // What is written while it is away it learns from the reads that follow.
    let changed: Vec<String> = expected.keys().take(50).cloned().collect();
    let mut shell = home.shell(&third);
    for key in changed {
        let answer = shell.ask(json!({"op": "put", "key": key, "value": "changed"}));
        assert_eq!(answer["ok"], true, "{answer:#}");
        expected.insert(key, "changed".to_owned());
    }
    let first = home.start("node-0", &LOOPBACK);
    home.wait_up(&first, 3);
    assert_all_read(&home, &second, &expected);
    assert_all_read(&home, &first, &expected);
    let mut shell = home.shell(&first);
    let mut lacking = Vec::new();
    let is_whole = poll(|| {
        lacking = differing(&mut shell, &expected, ("local", true.into()));
        lacking.is_empty()
    });
    assert!(is_whole, "reads have not repaired {}: {:#?}", lacking.len(), lacking.first());
}

#[test]
fn a_value_is_given_to_the_byte_but_a_terminal_gets_a_line() {
    let home = Home::new();
    let node = home.start("node-0", &[&LOOPBACK[..], &["--partitions", "16"]].concat());
    home.ask(&node, &["put", "k", "v"]).expect(0, &[]);
    let get = ["get", "k", "--node", &node.addresses[0]];
    assert_eq!(home.run(&get).expect(0, &[]).stdout, b"v");

    // `script` runs a command on a terminal of its own.
    let line = format!("{} {}", env!("CARGO_BIN_EXE_quorate"), get.join(" "));
    match Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output() {
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout), "v\r\n"),
        Err(error) => eprintln!("SKIPPED: script: {error}"),
    }
}

#[test]
fn bytes_that_are_no_text_go_in_and_out_unchanged() {
    let home = Home::new();
    let node = home.start("node-0", &[&LOOPBACK[..], &["--partitions", "16"]].concat());
    let bytes: Vec<u8> = (0..=255).chain([b'\n']).collect();
    let address = node.addresses[0].as_str();
    home.run_with_input(&["put", "k", "-", "--node", address], &bytes).expect(0, &["stored k"]);
    assert_eq!(home.run(&["get", "k", "--node", address]).stdout, bytes);

    let largest = vec![b'x'; 1 << 20];
    home.run_with_input(&["put", "large", "--node", address], &largest).expect(0, &[]);
    assert_eq!(home.run(&["get", "large", "--node", address]).stdout, largest);

    let exported = home.run(&["export", "--node", address]).expect(0, &["value_base64"]);
    let other = home.start("other", &[&LOOPBACK[..], &["--partitions", "16"]].concat());
    home.run_with_input(&["import", "-", "--node", &other.addresses[0]], &exported.stdout)
        .expect(0, &["stored 2 lines"]);
    assert_eq!(home.run(&["export", "--node", &other.addresses[0]]).stdout, exported.stdout);
}
