//! The documents hold: every row of docs/failures.md's tables names a test that there is, and every link between
//! the documents leads somewhere.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What shortens a path in the failure tables, and what it stands for; other files are in `tests/`.
const SHORT: [(&str, &str); 3] = [("m/", "src/ring/machine/tests/"), ("c/", "src/replica/tests/"), ("n/", "src/node/")];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The parts between backticks that look like `file.rs::name`.
fn named_tests(line: &str) -> Vec<(&str, &str)> {
    line.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.split_once("::"))
        .filter(|(f, _)| f.ends_with(".rs"))
        .collect()
}

fn full_path(file: &str) -> String {
    let short = SHORT.iter().find_map(|(short, long)| Some(format!("{long}{}", file.strip_prefix(short)?)));
    short.unwrap_or_else(|| format!("tests/{file}"))
}

/// Names of the test functions in a file that begin so.
fn tests_that_begin(source: &str, beginning: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        match function.and_then(|rest| rest.split_once('(')) {
            Some((name, _)) => {
                if is_test && name.starts_with(beginning) {
                    found.push(name.to_owned());
                }
                is_test = false;
            }
            None => is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test"),
        }
    }
    found
}

/// Why the test is not there, if it is not.
fn missing(file: &str, beginning: &str) -> Option<String> {
    let path = full_path(file);
    let Ok(source) = fs::read_to_string(root().join(&path)) else { return Some(format!("there is no file {path}")) };
    match tests_that_begin(&source, beginning).as_slice() {
        [_] => None,
        found => Some(format!("{path} has {} tests that begin with {beginning}: {found:?}", found.len())),
    }
}

#[test]
fn every_row_of_the_failure_tables_names_a_test_that_is_there() {
    let page = text("docs/failures.md");
    let wrong: Vec<String> =
        page.lines().flat_map(named_tests).filter_map(|(file, beginning)| missing(file, beginning)).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.ends_with("| test |"));
    let rows: Vec<&str> = rows.filter(|line| !line.starts_with("|---")).collect();
    assert!(rows.len() > 60, "{} rows", rows.len());
    let silent: Vec<&&str> = rows.iter().filter(|row| named_tests(row).is_empty()).collect();
    assert!(silent.is_empty(), "rows without a test: {silent:#?}");
}

/// Two pages of print are some 1,300 words.
#[test]
fn the_protocol_stays_two_pages_long() {
    let words = text("docs/protocol.md").split_whitespace().count();
    assert!(
        words <= 1_350,
        "docs/protocol.md has {words} words: what is detail belongs to docs/copies.md or docs/reference.md"
    );
}

#[test]
fn a_test_that_is_not_there_or_is_not_one_alone_is_noticed() {
    assert!(missing("nowhere.rs", "a").unwrap().contains("no file tests/nowhere.rs"));
    assert!(missing("protocol.rs", "no_such").unwrap().contains("has 0 tests"));
    assert!(missing("protocol.rs", "").unwrap().contains("has 4 tests"));
    assert!(missing("protocol.rs", "root").is_some(), "no test");
    assert_eq!(missing("protocol.rs", "a_test_that_is_not_there"), None);
    assert_eq!(named_tests("| `on_own` | `m/moves.rs::a_claim` |"), [("m/moves.rs", "a_claim")]);
}

/// As a forge makes them of a heading.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| {
        let kept = heading.to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
    };
    headings.map(anchor).collect()
}

fn documents() -> Vec<String> {
    let mut found = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned(), "CHANGELOG.md".to_owned()];
    for folder in ["docs", "docs/decisions"] {
        let names = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        let pages =
            names.map(|name| format!("{folder}/{}", name.to_string_lossy())).filter(|name| name.ends_with(".md"));
        found.extend(pages);
    }
    found
}

#[test]
fn every_link_between_the_documents_leads_somewhere() {
    let mut wrong = Vec::new();
    for page in documents() {
        let source = text(&page);
        let links = source.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links.filter(|link| !link.contains("://") && !link.contains(' ')) {
            let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
            let target: PathBuf = match path {
                "" => root().join(&page),
                path => root().join(&page).parent().unwrap().join(path),
            };
            if !target.exists() {
                wrong.push(format!("{page}: {link}: there is no such file"));
            } else if let Some(anchor) = anchor
                && !anchors(&fs::read_to_string(&target).unwrap()).contains(anchor)
            {
                wrong.push(format!("{page}: {link}: there is no such heading"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
