//! The layers of the crate, kept by a test: which room may use which, what the pure core may not name, where NATS may
//! be named, and the house rules every file follows.
//!
//! A room is a directory or file directly below `src`. The table below is the whole truth about who may use whom.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "common/source.rs"]
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use source::{Source, blank_comments_and_literals};

/// Per room, what it may use of the crate besides itself: a room, or a path within one.
const MAY_USE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("metrics", &["types"]),
    ("config", &["types"]),
    ("replica", &["types"]),
    ("connect", &["types", "config"]),
    ("coord", &["types", "connect"]),
    ("service", &["types", "replica"]),
    ("ring", &["types", "coord", "service::Release"]),
    ("rpc", &["types", "metrics", "connect", "coord::Revision", "service"]),
    ("client", &["types", "connect", "coord", "rpc"]),
    ("node", &["types", "metrics", "config", "connect", "coord", "service", "ring", "rpc", "replica"]),
    ("cache", &["types", "service", "rpc", "replica"]),
    ("admin", &["types", "connect", "coord", "ring::plan", "rpc"]),
    ("http", &["types", "metrics", "service", "rpc", "node", "cache"]),
    (
        "cli",
        &[
            "types", "metrics", "config", "connect", "coord", "service", "ring", "rpc", "client", "node", "cache",
            "admin", "http",
        ],
    ),
    ("testing", &["types", "coord", "service", "ring", "rpc", "node"]),
];

/// What of an allowed room stays out of reach: the pure core sees records and revisions, never a store.
const EXCEPT: &[(&str, &[&str])] = &[("ring", &["coord::nats", "coord::mem", "coord::Store", "coord::*"])];

/// The pure core: what the simulations run as it is.
const PURE: &[&str] = &["ring", "replica"];

/// Words that the pure core does not contain: no runtime, clock, randomness or network.
const NOT_IN_PURE: &[&str] = &[
    "tokio",
    "async",
    "await",
    "Instant",
    "SystemTime",
    "BootClock",
    "rand",
    "async_nats",
    "thread",
    "net",
    "env",
    "fs",
];

/// Where `async_nats` may be named: the two adapters, and where the connection is made.
const NAMES_NATS: &[&str] = &["src/coord/nats", "src/rpc/nats", "src/connect"];

const MAX_LINES: usize = 500;
const AIM_LINES: usize = 400;

const DOCUMENTS: &[&str] = &[
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "docs/protocol.md",
    "docs/copies.md",
    "docs/failures.md",
    "docs/reference.md",
    "docs/guards.md",
    "docs/clients.md",
    "docs/security.md",
    "docs/operations.md",
    "docs/faults.md",
    "docs/exploration.md",
    "docs/decisions/README.md",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below `folder`, as paths from the project's root.
fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The module path of a source file: `src/a/b.rs` and `src/a/b/mod.rs` are `[a, b]`, `src/lib.rs` is `[]`.
fn module_path(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        file.with_extension("").iter().skip(1).map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") || parts == ["lib"] || parts == ["main"] {
        parts.pop();
    }
    parts
}

fn listed(table: &[(&str, &'static [&'static str])], room: &str) -> Option<&'static [&'static str]> {
    table.iter().find(|(name, _)| *name == room).map(|(_, entries)| *entries)
}

fn covers(entries: &[&str], segments: &[String]) -> bool {
    entries.iter().any(|entry| {
        let entry: Vec<&str> = entry.split("::").collect();
        segments.len() >= entry.len() && entry.iter().zip(segments).all(|(a, b)| a == b)
    })
}

/// What is wrong with one file's use of the crate, one line each.
fn layer_violations(file: &Path, text: &str) -> Vec<String> {
    let modules = module_path(file);
    let Some(room) = modules.first() else { return Vec::new() };
    let Some(allowed) = listed(MAY_USE, room) else {
        return vec![format!("{}: room '{room}' is not in the table of tests/architecture.rs", file.display())];
    };
    let refused = listed(EXCEPT, room).unwrap_or(&[]);
    let paths = Source::read(text).crate_paths(modules.len());
    let wrong = paths.iter().filter(|path| {
        let own = path.segments.first() == Some(room);
        !own && (!covers(allowed, &path.segments) || covers(refused, &path.segments))
    });
    wrong
        .map(|path| {
            format!("{}:{}: '{room}' may not use crate::{}", file.display(), path.line, path.segments.join("::"))
        })
        .collect()
}

fn word_violations(file: &Path, text: &str) -> Vec<String> {
    let source = Source::read(text);
    let name = file.to_string_lossy().replace('\\', "/");
    let mut wrong = Vec::new();
    if module_path(file).first().is_some_and(|room| PURE.contains(&room.as_str())) {
        for word in NOT_IN_PURE {
            if let Some(line) = source.line_of(word) {
                wrong.push(format!("{name}:{line}: the pure core says '{word}'"));
            }
        }
    }
    let may_name_nats = NAMES_NATS.iter().any(|start| name.starts_with(start));
    if let (false, Some(line)) = (may_name_nats, source.line_of("async_nats")) {
        wrong.push(format!("{name}:{line}: async_nats is named outside {NAMES_NATS:?}"));
    }
    wrong
}

/// Files of the library and the program, those of `#[cfg(test)]` modules left out: tests may reach across.
fn product_files() -> Vec<(PathBuf, String)> {
    let files: Vec<_> =
        rust_files("src").into_iter().map(|f| (f.clone(), fs::read_to_string(root().join(f)).unwrap())).collect();
    let mut tests: Vec<Vec<String>> = Vec::new();
    for (file, text) in &files {
        for name in Source::read(text).test_modules {
            let mut module = module_path(file);
            module.push(name);
            tests.push(module);
        }
    }
    files.into_iter().filter(|(file, _)| !tests.iter().any(|test| module_path(file).starts_with(test))).collect()
}

fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn each_room_uses_only_what_the_table_allows() {
    let wrong: Vec<String> = product_files().iter().flat_map(|(file, text)| layer_violations(file, text)).collect();
    assert_none(&wrong);
}

#[test]
fn the_core_is_pure_and_nats_is_named_only_in_its_adapters() {
    let wrong: Vec<String> = product_files().iter().flat_map(|(file, text)| word_violations(file, text)).collect();
    assert_none(&wrong);
}

#[test]
fn a_room_only_uses_rooms_above_it_in_the_table() {
    for (at, (room, uses)) in MAY_USE.iter().enumerate() {
        for used in *uses {
            let used = used.split("::").next().unwrap();
            let above = MAY_USE[..at].iter().any(|(name, _)| *name == used);
            assert!(above, "'{room}' uses '{used}', which does not stand above it");
        }
    }
}

#[test]
fn every_file_says_what_it_is_for_and_stays_short() {
    let mut wrong = Vec::new();
    for file in ["src", "tests", "benches", "examples"].into_iter().flat_map(rust_files) {
        let text = fs::read_to_string(root().join(&file)).unwrap();
        let lines = text.lines().count();
        if !text.starts_with("//! ") {
            wrong.push(format!("{}: does not open with //!", file.display()));
        }
        if lines > MAX_LINES {
            wrong.push(format!("{}: {lines} lines, the limit is {MAX_LINES}", file.display()));
        } else if lines > AIM_LINES {
            println!("{}: {lines} lines, aim at {AIM_LINES}", file.display());
        }
    }
    assert_none(&wrong);
}

/// What takes too long for every change is a program (`make faults`), or goes as far as it is asked to (`make explore`).
#[test]
fn no_test_is_ignored() {
    let files = ["src", "tests", "benches", "examples"].into_iter().flat_map(rust_files);
    let ignores = |file: &PathBuf| {
        let text = fs::read_to_string(root().join(file)).unwrap();
        blank_comments_and_literals(&text).contains("#[ignore")
    };
    assert_none(&files.filter(ignores).map(|file| file.display().to_string()).collect::<Vec<_>>());
}

#[test]
fn the_documents_exist_and_say_something() {
    for name in DOCUMENTS {
        let text = fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(text.trim().len() > 100, "{name} is empty");
    }
}

#[test]
fn a_planted_use_of_a_lower_room_is_caught_in_every_spelling() {
    let file = Path::new("src/coord/records.rs");
    for planted in [
        "use crate::rpc::Bus;",
        "use crate::{types::Epoch, rpc::{Bus, Caller}};",
        "fn f() { let x = crate::rpc::mem::new(); }",
        "use super::super::rpc::Bus;",
        "/* \" */ use\n    crate::\n    rpc as r;",
    ] {
        let wrong = layer_violations(file, planted);
        assert!(
            !wrong.is_empty() && wrong.iter().all(|w| w.contains("'coord' may not use crate::rpc")),
            "{planted}: {wrong:?}"
        );
    }
    let part = layer_violations(Path::new("src/rpc/router.rs"), "use crate::coord::{Claim, Revision};");
    assert_eq!(part, ["src/rpc/router.rs:1: 'rpc' may not use crate::coord::Claim"]);
    let store = layer_violations(Path::new("src/ring/machine.rs"), "use crate::coord::{Revision, Store};");
    assert_eq!(store, ["src/ring/machine.rs:1: 'ring' may not use crate::coord::Store"]);
    let unknown = layer_violations(Path::new("src/shortcut.rs"), "");
    assert!(unknown[0].contains("room 'shortcut' is not in the table"), "{unknown:?}");
}

#[test]
fn a_planted_impure_word_or_stray_nats_is_caught() {
    for pure in ["src/ring/machine.rs", "src/replica/leader.rs"].map(Path::new) {
        for planted in ["async fn f() {}", "let t = std::time::Instant::now();", "use rand::Rng;", "tokio::spawn(x)"] {
            assert_eq!(word_violations(pure, planted).len(), 1, "{planted}");
        }
    }
    assert_eq!(word_violations(Path::new("src/node/mod.rs"), "use async_nats::Client;").len(), 1);
    assert_eq!(word_violations(Path::new("src/coord/nats/watch.rs"), "use async_nats::Client;").len(), 0);
}

#[test]
fn what_is_only_said_in_comments_literals_and_tests_is_not_taken_for_code() {
    let ring = Path::new("src/ring/machine.rs");
    let innocent = r###"
        //! tokio, crate::rpc::Bus
        /* async /* nested rand */ Instant */
        use crate::{types::{Epoch, PartitionId as P}, coord::Revision};
        const A: &str = "crate::rpc \" tokio";
        const B: &str = r#"async "quoted" await"#;
        const C: [char; 3] = ['"', '\'', 'x'];
        fn f<'a>(x: &'a str) -> &'a str { x }
        fn operand_rand_like(async_ness: u8) {}
        #[cfg(test)]
        #[allow(clippy::unwrap_used)]
        mod tests { use crate::rpc::mem; fn f() { { tokio::spawn(()); } } }
        #[cfg(test)]
        mod elsewhere;
    "###;
    assert_eq!(layer_violations(ring, innocent), Vec::<String>::new());
    assert_eq!(word_violations(ring, innocent), Vec::<String>::new());
    assert_eq!(Source::read(innocent).test_modules, ["elsewhere"]);
    assert_eq!(blank_comments_and_literals("a \"b\n\" c").lines().count(), 2);
}

/// Rules of the protocol are switched off by the crate's own tests alone: no other feature turns the switches on, and no
/// normal dependency does.
#[test]
fn no_build_that_people_run_can_switch_a_guard_off() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let mut section = "";
    let mut named = Vec::new();
    for line in manifest.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if line.starts_with('[') {
            section = line;
        } else if line.contains("guard-switches") {
            named.push((section, line));
        }
    }
    let own = r#"nats-ring = { path = ".", features = ["testing", "guard-switches"] }"#;
    assert_eq!(named, [("[features]", "guard-switches = []"), ("[dev-dependencies]", own)]);
}
