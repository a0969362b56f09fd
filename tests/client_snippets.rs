//! The programs of `docs/clients.md`, taken from the page as they stand and run against a real server and two nodes, with the
//! mapping of `nats/mapping.conf` and without it: each prints what the page says.
//!
//! `scripts/client_deps.sh` brings their NATS clients. A language that is not there is skipped, and said so loudly; where
//! `NATS_RING_REQUIRE_CLIENTS=1` is set (the checks of every change set it), that is a failure.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "common/cli.rs"]
mod cli;
mod common;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::eventually::eventually;
use common::http::Http;
use common::nats_server::{NatsServer, ServerOptions};
use common::node::NodeProcess;

const READY: Duration = Duration::from_secs(30);
/// A Go program is compiled first, and the machine may be busy with other tests.
const PROGRAM_LIMIT: Duration = Duration::from_secs(240);

struct Language {
    /// How its blocks begin on the page; and its folder below `target/clients`.
    fence: &'static str,
    folder: &'static str,
    file: &'static str,
    run: &'static [&'static str],
}

const LANGUAGES: [Language; 3] = [
    Language { fence: "```python", folder: "python", file: "program.py", run: &["python3", "program.py"] },
    Language { fence: "```go", folder: "go", file: "main.go", run: &["go", "run", "."] },
    Language { fence: "```js", folder: "javascript", file: "program.mjs", run: &["node", "program.mjs"] },
];

fn page() -> String {
    std::fs::read_to_string(cli::root().join("docs/clients.md")).unwrap()
}

/// The blocks that begin with `fence`, below `heading`.
fn blocks(page: &str, heading: &str, fence: &str) -> Vec<String> {
    let (_, section) = page.split_once(heading).unwrap_or_else(|| panic!("no heading {heading:?}"));
    let begin = format!("{fence}\n");
    let starts = section.match_indices(&begin).map(|(at, found)| at + found.len());
    starts.map(|at| section[at..].split_once("```").unwrap().0.to_owned()).collect()
}

/// Where the clients of a language are, or `None` after saying that it is skipped.
fn clients(language: &Language) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let folder = target.join("clients").join(language.folder);
    if folder.join(".client").is_file() {
        return Some(folder);
    }
    let required = std::env::var("NATS_RING_REQUIRE_CLIENTS").is_ok_and(|v| v == "1");
    let folder = folder.display();
    assert!(!required, "NATS_RING_REQUIRE_CLIENTS=1, and no client in {folder}: run scripts/client_deps.sh");
    eprintln!("\n**** SKIPPED: the {} program: no client in {folder} (scripts/client_deps.sh) ****\n", language.folder);
    None
}

/// What the program prints. It stands in a folder below its client's, where each language finds it.
async fn output(language: &Language, clients: &Path, program: &str, url: &str) -> String {
    let folder = tempfile::Builder::new().prefix("run-").tempdir_in(clients).unwrap();
    std::fs::write(folder.path().join(language.file), program).unwrap();
    let mut command = Command::new(language.run[0]);
    command.args(&language.run[1..]).current_dir(folder.path()).env("NATS_URL", url);
    command.env("PYTHONPATH", clients).env("PYTHONDONTWRITEBYTECODE", "1").env("GOTOOLCHAIN", "local");
    let [out, err] = ["out", "err"].map(|name| folder.path().join(name));
    command.stdin(Stdio::null()).stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
    let mut running = Running(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
    let mut ended = None;
    eventually(PROGRAM_LIMIT, language.folder, || {
        ended = running.0.try_wait().unwrap();
        std::future::ready(ended.ok_or("still running"))
    })
    .await;
    let [out, err] = [out, err].map(|file| std::fs::read_to_string(file).unwrap());
    assert!(ended.unwrap().success(), "{}: {ended:?}\n{out}\n{err}", language.folder);
    out
}

/// Killed where the test ends before it does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn each_prints_what_the_page_says(conf: &str) {
    let server = NatsServer::start_with(ServerOptions { extra: conf.to_owned(), ..ServerOptions::default() });
    let nodes = ["node-1", "node-2"].map(|name| NodeProcess::spawn(name, &server.url(), &["--key-hash", "nats"]));
    for node in &nodes {
        node.wait_ready(READY).await;
    }
    let (http, url) = (Http::new(), nodes[0].url("/health?scope=ring").await);
    eventually(READY, "all partitions are served", || async {
        let answer = http.get(&url).await?;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    let page = page();
    let expected = blocks(&page, "## Programs", "```text").remove(0);
    assert_eq!(expected.lines().count(), 5);
    for language in &LANGUAGES {
        let programs = blocks(&page, "## Programs", language.fence);
        assert_eq!(programs.len(), 1, "{} programs in {}", programs.len(), language.folder);
        if let Some(clients) = clients(language) {
            assert_eq!(output(language, &clients, &programs[0], &server.url()).await, expected, "{}", language.folder);
        }
    }
}

#[tokio::test]
async fn the_programs_print_what_the_page_says_where_the_server_maps_keys_to_owners() {
    each_prints_what_the_page_says(include_str!("../nats/mapping.conf")).await;
}

#[tokio::test]
async fn the_programs_print_the_same_without_a_mapping() {
    each_prints_what_the_page_says("").await;
}

#[test]
fn every_program_of_the_page_is_run() {
    let known = ["```text", "```"].into_iter().chain(LANGUAGES.map(|language| language.fence));
    let known: Vec<_> = known.collect();
    for line in page().lines().filter(|line| line.starts_with("```")) {
        assert!(known.contains(&line), "{line} blocks are not run");
    }
}
