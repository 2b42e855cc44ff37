//! Tests of the settings; a file of their own, because a test needs all layers.

use super::*;

fn sources(file: Option<&Path>, variables: &[(&str, &str)], flags: &[(&'static str, &'static str, &str)]) -> Sources {
    let flags = flags.iter().map(|&(key, flag, value)| (key, flag, Raw::One(value.to_owned()))).collect();
    let home = ("HOME", "/home/ann");
    let variables = variables.iter().chain([&home]).map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    Sources { file: file.map(Path::to_owned), variables, flags, host: "host".to_owned() }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    file
}

fn load_file(text: &str) -> Result<Settings, SettingsError> {
    let file = file(text);
    Settings::load(&sources(Some(file.path()), &[], &[]))
}

fn load_flag(key: &'static str, value: &str) -> Result<Settings, SettingsError> {
    Settings::load(&sources(None, &[], &[(key, "--flag", value)]))
}

#[test]
fn each_layer_replaces_the_one_before_and_says_where_a_value_came_from() {
    let file = file("name = 'file'\nzone = 'file'\nweight = 2\n");
    let variables = [("QUORATE_NAME", "variable"), ("QUORATE_ZONE", "variable")];
    let settings = Settings::load(&sources(Some(file.path()), &variables, &[("name", "--name", "flag")])).unwrap();

    assert_eq!(settings.name.as_str(), "flag");
    assert_eq!(settings.origin("name"), Some(&Origin::Flag("--name")));
    assert_eq!(settings.zone.as_ref().unwrap().as_str(), "variable");
    assert_eq!(settings.origin("zone"), Some(&Origin::Variable("QUORATE_ZONE".to_owned())));
    assert_eq!(settings.weight, 2);
    assert_eq!(settings.origin("weight"), Some(&Origin::File(file.path().to_owned())));
    assert_eq!(settings.replicas, 3);
    assert_eq!(settings.origin("replicas"), Some(&Origin::Default));
    assert!(settings.is_given("weight") && !settings.is_given("replicas"));
}

#[test]
fn without_a_word_everything_has_a_value() {
    let settings = Settings::load(&sources(None, &[], &[])).unwrap();
    assert_eq!(settings.iter().map(|(key, ..)| key).collect::<Vec<_>>(), KEYS);
    assert_eq!(settings.data_dir, Path::new("/home/ann/.local/share/quorate"));
    assert_eq!((settings.name.as_str(), settings.cluster.as_str()), ("host", "quorate"));
    assert_eq!(settings.listen.len(), 2);
    assert_eq!((settings.mdns, settings.swarm_key), (true, None));
    let settings = Settings::load(&sources(None, &[("XDG_DATA_HOME", "/data")], &[])).unwrap();
    assert_eq!(settings.data_dir, Path::new("/data/quorate"));
}

#[test]
fn a_key_that_does_not_exist_is_refused_with_the_one_that_was_meant() {
    let check = |text: &str, expected| match load_file(text) {
        Err(SettingsError::UnknownKey { suggestion, .. }) => assert_eq!(suggestion, expected, "{text}"),
        other => panic!("{other:?}"),
    };
    check("replica = 3", Some("replicas"));
    check("data-dir = 'x'", Some("data_dir"));
    check("peer_timeuot = 3", Some("peer_timeout"));
    check("anti-entropy = true", Some("anti_entropy"));
    check("exchange_intervall = 3", Some("exchange_interval"));
    check("colour = 'blue'", None);
    let message = load_file("replica = 3").unwrap_err().to_string();
    assert!(message.contains("`replica`") && message.contains("did you mean `replicas`"), "{message}");
}

#[test]
fn a_variable_that_does_not_exist_is_refused_with_the_one_that_was_meant() {
    let error = Settings::load(&sources(None, &[("QUORATE_CLUSTR", "x")], &[])).unwrap_err();
    assert!(error.to_string().contains("did you mean `QUORATE_CLUSTER`"), "{error}");
    let strange = [("QUORATE_NODE", "/ip4/127.0.0.1/tcp/1"), ("QUORATE_LOG", "debug"), ("OTHER", "x")];
    assert!(Settings::load(&sources(None, &strange, &[])).is_ok());
}

#[test]
fn a_value_that_breaks_its_rule_is_refused_by_key_value_and_rule() {
    let message = load_flag("replicas", "0").unwrap_err().to_string();
    assert_eq!(message, "replicas = 0 (flag --flag): it must be a whole number from 1 to 16");
    for (key, value) in [
        ("replicas", "17"),
        ("weight", "65"),
        ("weight", "-1"),
        ("partitions", "1000"),
        ("partitions", "x"),
        ("durability", "never"),
        ("peer_timeout", "0"),
        ("peer_timeout", "NaN"),
        ("mdns", "yes"),
        ("listen", "localhost"),
        ("admins", "ann"),
        ("admins", "QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN"),
        ("anti_entropy", "off"),
        ("exchange_interval", "0"),
        ("exchange_interval", "1h"),
        ("exchange_bytes_per_second", "0"),
        ("exchange_bytes_per_second", "1.5"),
        ("sloppy", "1"),
        ("hints", "on"),
        ("hint_ttl", "2592001"),
        ("hint_bytes_per_target", "0"),
        ("hint_bytes", "1.5"),
        ("dead_after", "never"),
        ("cluster", ""),
        ("data_dir", ""),
    ] {
        let error = load_flag(key, value).unwrap_err();
        assert!(matches!(&error, SettingsError::Invalid { key: named, .. } if *named == key), "{error}");
    }
}

#[test]
fn times_take_fractions_and_lists_take_commas() {
    assert_eq!(load_flag("discovery_window", "0.25").unwrap().discovery_window, Duration::from_millis(250));
    assert_eq!(load_flag("exchange_interval", "0.5").unwrap().exchange_interval, Duration::from_millis(500));
    let listed = load_flag("join", "/ip4/127.0.0.1/tcp/1, /ip4/127.0.0.1/tcp/2").unwrap();
    assert_eq!(listed.join.len(), 2);
    let settings = load_file("listen = ['/ip4/127.0.0.1/tcp/0']\nread_repair = false\npeer_timeout = 1.5").unwrap();
    assert_eq!((settings.listen.len(), settings.read_repair), (1, false));
    assert_eq!(settings.peer_timeout, Duration::from_millis(1_500));
    assert!(matches!(load_file("name = ['a', 'b']"), Err(SettingsError::Invalid { key: "name", .. })));
    assert!(matches!(load_file("name = { a = 1 }"), Err(SettingsError::Invalid { key: "name", .. })));
    assert!(matches!(load_file("name ="), Err(SettingsError::Malformed { .. })));
}

#[test]
fn the_key_in_the_data_directory_is_used_unless_another_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = ("data_dir", "--data-dir", dir.path().to_str().unwrap());
    assert_eq!(Settings::load(&sources(None, &[], &[data_dir])).unwrap().swarm_key, None);
    let path = dir.path().join("swarm.key");
    fs::write(&path, "").unwrap();
    assert_eq!(Settings::load(&sources(None, &[], &[data_dir])).unwrap().swarm_key, Some(path));
    let named = ("swarm_key", "--swarm-key", "other");
    let settings = Settings::load(&sources(None, &[], &[data_dir, named])).unwrap();
    assert_eq!(settings.swarm_key, Some("other".into()));
}

#[test]
fn what_one_target_may_take_is_no_more_than_all_of_them_together() {
    let limits = [("hint_bytes_per_target", "--a", "1000"), ("hint_bytes", "--b", "1000")];
    let settings = Settings::load(&sources(None, &[], &limits)).unwrap();
    assert_eq!(settings.hint_limits, HintLimits { target_bytes: 1_000, total_bytes: 1_000 });
    let limits = [("hint_bytes_per_target", "--a", "1001"), ("hint_bytes", "--b", "1000")];
    let message = Settings::load(&sources(None, &[], &limits)).unwrap_err().to_string();
    let rule = "it must not exceed hint_bytes, which is 1000 (flag --b)";
    assert_eq!(message, format!("hint_bytes_per_target = 1001 (flag --a): {rule}"));
    let message = load_flag("hint_bytes", "5").unwrap_err().to_string();
    assert!(message.starts_with("hint_bytes_per_target = 1073741824 (default)"), "{message}");
}

#[test]
fn a_command_for_alerts_is_one_text_whatever_is_in_it() {
    assert_eq!(load_flag("on_alert", "").unwrap().on_alert, None);
    let command = "mail -s 'alert, again' ann@example.org";
    let variables = [("QUORATE_ON_ALERT", command)];
    let settings = Settings::load(&sources(None, &variables, &[])).unwrap();
    assert_eq!(settings.on_alert.as_deref(), Some(command));
}
