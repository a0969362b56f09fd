//! Settings: which layer wins, what each may be, and what a refusal says. No server needed.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nats_ring::config::{Config, ConfigError, LogFormat, NatsLogin, Settings};
use nats_ring::types::KeyHash;
use tempfile::TempDir;

const ZONE_TOO_LONG: &str = "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz";

fn written(name: &str, text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, text).unwrap();
    (folder, file)
}

fn from_toml(text: &str) -> Result<Config, ConfigError> {
    let (_folder, file) = written("ring.toml", text);
    Settings::from_file(&file).and_then(Config::new)
}

/// The settings with one of them given, by its name.
fn with(field: &str, value: &str) -> Result<Config, ConfigError> {
    from_toml(&format!("{field} = {value:?}"))
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// The last line the program writes to stderr with these arguments and variables, and its exit code.
fn refused(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nats-ring"));
    let output = command.args(arguments).envs(variables.iter().copied()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), stderr.lines().last().unwrap_or_default().to_owned())
}

#[test]
fn what_is_not_given_has_the_documented_default() {
    let config = Config::new(Settings::default()).unwrap();
    assert_eq!((config.node.as_str(), config.platform.as_str()), ("node-1", "cache-platform"));
    assert_eq!((config.nats.servers, config.nats.login), (vec!["nats://localhost:4222".to_owned()], NatsLogin::None));
    assert_eq!(config.http.to_string(), "127.0.0.1:8080");
    assert_eq!((config.partitions.get(), config.weight, config.zone, config.kv_replicas), (64, 1, None, None));
    assert_eq!(config.key_hash, KeyHash::Xxh3);
    assert_eq!((config.replicas, config.consistency, config.on_loss), (None, None, None), "the ring's");
    assert_eq!((config.lease, config.wait), (Duration::from_secs(3), Duration::from_secs(30)));
    assert_eq!((config.memory_bytes, config.log_format), (1 << 30, LogFormat::Text));
    assert_eq!((config.copy_parallel, config.copy_bytes_per_second), (4, 100_000_000));
    assert_eq!((config.return_delay, config.evicted_delay), (Duration::from_secs(30), Duration::ZERO));
    assert_eq!(config.keep, None);
}

#[test]
fn the_upper_layer_wins_field_by_field() {
    let upper = Settings { node: some("upper"), ..Settings::default() };
    let lower = Settings { node: some("lower"), weight: some("7"), ..Settings::default() };
    let config = Config::new(upper.or(lower)).unwrap();
    assert_eq!((config.node.as_str(), config.weight), ("upper", 7));
}

#[test]
fn a_flag_wins_over_its_variable_that_over_the_file_and_the_file_over_the_default() {
    let (_folder, file) = written("ring.toml", "partitions = 5001");
    let file = file.to_str().unwrap();
    let variables = [("NATS_RING_PARTITIONS", "5002"), ("NATS_RING_CONFIG", file)];
    for (arguments, variables, wins) in [
        (&["--partitions", "5003"][..], &variables[..], "5003"),
        (&[][..], &variables[..], "5002"),
        (&["--config", file][..], &[][..], "5001"),
        (&["serve", "--config", file][..], &[][..], "5001"),
    ] {
        let (code, line) = refused(arguments, variables);
        assert_eq!(code, Some(2), "{line}");
        assert!(line.starts_with(&format!("nats-ring: partitions '{wins}' is not usable: ")), "{line}");
    }
}

#[test]
fn toml_yaml_and_json_say_the_same_with_numbers_as_numbers_or_texts() {
    let files = [
        ("ring.toml", "node = \"n-2\"\nkv-replicas = 3\nweight = \"4\"\nmemory = \"512MB\"\n"),
        ("ring.yaml", "node: n-2\nkv-replicas: 3\nweight: 4\nmemory: 512MB\n"),
        ("ring.json", r#"{"node": "n-2", "kv-replicas": 3, "weight": 4, "memory": 512000000}"#),
    ];
    for (name, text) in files {
        let (_folder, file) = written(name, text);
        let config = Settings::from_file(&file).and_then(Config::new).unwrap();
        assert_eq!((config.node.as_str(), config.kv_replicas, config.weight), ("n-2", Some(3), 4), "{name}");
        assert_eq!(config.memory_bytes, 512_000_000, "{name}");
    }
}

#[test]
fn a_key_that_is_no_setting_is_named_with_its_file_in_one_line() {
    for (name, text) in [("r.toml", "wieght = 2\n"), ("r.yml", "wieght: 2\n"), ("r.json", r#"{"wieght": 2}"#)] {
        let (_folder, file) = written(name, text);
        let error = Settings::from_file(&file).err().unwrap().to_string();
        assert!(error.contains("wieght") && error.contains(name) && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_place_and_without_what_is_in_it() {
    for (name, text) in [
        ("r.toml", "node = \"a\"\nnats-password = \"s3cret\n"),
        ("r.yaml", "node: a\nnats-password: \"s3cret\n"),
        ("r.json", "{\"node\": \"a\",\n\"nats-password\": \"s3cret\" 1}"),
    ] {
        let (_folder, file) = written(name, text);
        let error = Settings::from_file(&file).err().unwrap().to_string();
        assert!(error.contains("line 2") && !error.contains("s3cret"), "{error}");
    }
}

#[test]
fn a_file_that_is_absent_broken_or_of_another_kind_is_refused() {
    let (_folder, broken) = written("ring.toml", "node = \n");
    let (_other_folder, other) = written("ring.ini", "node = a\n");
    for (file, why) in [(PathBuf::from("absent.toml"), "check the path"), (broken, "ring.toml"), (other, ".yaml")] {
        let error = Settings::from_file(&file).err().unwrap();
        assert!(matches!(error, ConfigError::File { .. }));
        let error = error.to_string();
        assert!(error.contains(why) && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn values_outside_their_limits_are_refused_by_field_value_and_limit() {
    for (field, given, limit) in [
        ("node", "a.b", "a-z A-Z 0-9 - _"),
        ("node", "", "1 to 64"),
        ("platform", "two words", "a-z A-Z 0-9 - _"),
        ("platform", ">", "a-z A-Z 0-9 - _"),
        ("partitions", "0", "1 to 4096"),
        ("partitions", "4097", "1 to 4096"),
        ("partitions", "-1", "1 to 4096"),
        ("partitions", "70000", "1 to 4096"),
        ("partitions", "many", "1 to 4096"),
        ("key-hash", "fnv1a", "xxh3 or nats"),
        ("lease", "999ms", "1s to 60s"),
        ("lease", "61s", "1s to 60s"),
        ("lease", "3", "such as 3s"),
        ("weight", "0", "1 to 1000"),
        ("weight", "1001", "1 to 1000"),
        ("memory", "15MiB", "16MiB"),
        ("memory", "lots", "16MiB"),
        ("memory", "-1", "16MiB"),
        ("kv-replicas", "0", "1, 3 or 5"),
        ("kv-replicas", "2", "1, 3 or 5"),
        ("kv-replicas", "7", "1, 3 or 5"),
        ("replicas", "0", "1 to 7"),
        ("replicas", "8", "1 to 7"),
        ("replicas", "-1", "1 to 7"),
        ("replicas", "three", "1 to 7"),
        ("consistency", "Quorum", "eventual, quorum or strong"),
        ("consistency", "", "eventual, quorum or strong"),
        ("on-loss", "ignore", "accept or wait"),
        ("copy-parallel", "0", "1 to 64"),
        ("copy-parallel", "65", "1 to 64"),
        ("copy-parallel", "-1", "1 to 64"),
        ("copy-rate", "99KB", "at least 100KB"),
        ("copy-rate", "-1", "at least 100KB"),
        ("copy-rate", "fast", "such as 100MB"),
        ("return-delay", "61m", "0s (off) to 1h"),
        ("return-delay", "30", "such as 30s"),
        ("evicted-delay", "61m", "0s (off) to 1h"),
        ("keep", "", "a folder"),
        ("zone", "", "1 to 64 printable"),
        ("zone", "z\u{fc}rich", "1 to 64 printable"),
        ("zone", ZONE_TOO_LONG, "1 to 64 printable"),
        ("wait", "25h", "24h"),
        ("wait", "soon", "24h"),
        ("http", "8080", ":PORT"),
        ("http", ":65536", ":PORT"),
        ("http", "nowhere:80", ":PORT"),
        ("log-format", "xml", "text or json"),
    ] {
        let error = with(field, given).unwrap_err();
        let named = matches!(&error, ConfigError::Invalid { field: f, given: g, .. } if *f == field && g == given)
            || given.contains('\u{fc}');
        let line = error.to_string();
        assert!(named && line.contains(field) && line.contains(limit), "{field} {given}: {line}");
    }
}

#[test]
fn values_at_their_limits_are_taken() {
    for (field, given) in [
        ("partitions", "1"),
        ("partitions", "4096"),
        ("key-hash", "nats"),
        ("lease", "1s"),
        ("lease", "1m"),
        ("weight", "1000"),
        ("memory", "16MiB"),
        ("kv-replicas", "5"),
        ("replicas", "1"),
        ("replicas", "7"),
        ("consistency", "strong"),
        ("on-loss", "wait"),
        ("copy-parallel", "1"),
        ("copy-parallel", "64"),
        ("copy-rate", "100KB"),
        ("return-delay", "0s"),
        ("return-delay", "1h"),
        ("evicted-delay", "30s"),
        ("keep", "/var/lib/nats-ring"),
        ("zone", "eu west/1a"),
        ("wait", "0s"),
        ("log-format", "json"),
    ] {
        with(field, given).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn durations_and_sizes_have_units() {
    for (text, millis) in [("3s", 3000), ("1500ms", 1500), ("1s 250ms", 1250), ("1m", 60_000)] {
        assert_eq!(with("lease", text).unwrap().lease, Duration::from_millis(millis), "{text}");
    }
    let sizes = [("1GiB", 1 << 30), ("512MB", 512_000_000), ("1.5GiB", 3 << 29), ("20000000", 20_000_000)];
    for (text, bytes) in sizes {
        assert_eq!(with("memory", text).unwrap().memory_bytes, bytes, "{text}");
    }
}

#[test]
fn a_port_alone_is_loopback_and_an_address_is_taken_as_it_is() {
    for (text, address) in [
        (":8081", "127.0.0.1:8081"),
        (":0", "127.0.0.1:0"),
        ("localhost:8081", "127.0.0.1:8081"),
        ("0.0.0.0:8080", "0.0.0.0:8080"),
        ("[::1]:8080", "[::1]:8080"),
    ] {
        assert_eq!(with("http", text).unwrap().http.to_string(), address);
    }
}

#[test]
fn servers_are_separated_by_commas_and_never_shown_where_they_are_refused() {
    assert_eq!(with("nats", "nats://a:1, b:2,").unwrap().nats.servers, ["nats://a:1", "b:2"]);
    let error = with("nats", " , ").unwrap_err().to_string();
    assert!(error.contains("no server is named"), "{error}");
}

#[test]
fn each_way_to_log_in_is_taken_alone_and_two_or_a_half_are_refused() {
    let user = NatsLogin::UserPassword { user: "u".to_owned(), password: "p".to_owned() };
    for (text, login) in [
        ("nats-user = \"u\"\nnats-password = \"p\"", user),
        ("nats-token = \"t\"", NatsLogin::Token("t".to_owned())),
        ("nats-creds = \"a.creds\"", NatsLogin::CredsFile("a.creds".into())),
        ("nats-nkey = \"a.nk\"", NatsLogin::NkeySeedFile("a.nk".into())),
    ] {
        assert_eq!(from_toml(text).unwrap().nats.login, login);
    }
    for text in ["nats-user = \"u\"", "nats-password = \"p\"", "nats-token = \"t\"\nnats-creds = \"a.creds\""] {
        assert!(matches!(from_toml(text), Err(ConfigError::Credentials(_))), "{text}");
    }
}

#[test]
fn a_login_replaces_another_one_of_a_lower_layer_and_a_password_joins_its_user() {
    let token = Settings { nats_token: some("t"), ..Settings::default() };
    let password = Settings { nats_password: some("p"), ..Settings::default() };
    let user = Settings { nats_user: some("u"), ..Settings::default() };
    let both = NatsLogin::UserPassword { user: "u".to_owned(), password: "p".to_owned() };
    let login = |upper: &Settings, lower: &Settings| Config::new(upper.clone().or(lower.clone())).unwrap().nats.login;
    assert_eq!(login(&password, &user), both);
    assert_eq!(login(&token, &user), NatsLogin::Token("t".to_owned()));
    assert_eq!(login(&password.clone().or(user), &token), both);
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let config = from_toml("nats = \"nats://u:hidden@a\"\nnats-token = \"secret\"").unwrap();
    let shown = format!("{config:?}");
    assert!(shown.contains("token") && !shown.contains("secret") && !shown.contains("hidden"), "{shown}");
}

#[test]
fn a_flag_that_does_not_exist_is_named_in_one_line_with_what_to_do() {
    let (code, line) = refused(&["--nod", "x"], &[]);
    assert_eq!(code, Some(2));
    assert!(line.starts_with("nats-ring: ") && line.contains("--nod") && line.contains("--help"), "{line}");
    let (code, line) = refused(&["fly"], &[]);
    assert_eq!(code, Some(2));
    assert!(line.contains("fly") && line.contains("--help"), "{line}");
}

#[test]
fn help_lists_every_flag_with_its_variable_and_every_exit_code() {
    let output = Command::new(env!("CARGO_BIN_EXE_nats-ring")).arg("--help").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    let readme = include_str!("../README.md");
    let documented: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("| `--")).collect();
    assert!(documented.len() >= 12);
    for line in documented {
        let mut cells = line.split('`');
        let (flag, variable) = (cells.next().unwrap(), cells.nth(1).unwrap());
        assert!(help.contains(&format!("--{flag} ")) && help.contains(variable), "--{flag} is not in --help:\n{help}");
    }
    let (_, codes) = readme.split_once("| exit code |").unwrap();
    for line in codes.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let code = line.split('|').nth(1).unwrap().trim();
        assert!(help.lines().any(|l| l.trim_start().starts_with(&format!("{code} "))), "exit code {code}:\n{help}");
    }
}
