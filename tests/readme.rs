//! Every command of the README is run, as it is written, against real servers and the built program.
//!
//! Excepted, and said so when the test runs: commands that need Docker (there are none today); the `nats …` ones where
//! there is no `nats` command line (a failure where `NATS_RING_REQUIRE_NATS_CLI=1`); and `make test`, which runs this
//! very test: of it only what it would do is looked at.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "common/cli.rs"]
mod cli;
#[path = "common/eventually.rs"]
mod eventually;
#[path = "common/http.rs"]
mod http;
#[path = "common/sandbox.rs"]
mod sandbox;
#[path = "common/server_conf.rs"]
mod server_conf;

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use eventually::eventually;
use http::Http;
use sandbox::Sandbox;

/// What the output of a command must contain: part of the command, what is expected, in the README's order. A command
/// without an entry fails the test: whoever adds one says what it must show.
const EXPECTED: &[(&str, &[&str])] = &[
    ("localhost:8081/set", &["\"success\":true", "\"version\":", "HTTP 200"]),
    ("/get?key=user:1", &["\"found\":true", "\"Alice\"", "HTTP 200"]),
    ("/owner?key=user:1", &["\"partition\":", "\"is_local\":", "\"this_node\":\"node-1\"", "HTTP 200"]),
    ("/delete?key=user:1", &["\"deleted\":true", "HTTP 200"]),
    ("localhost:8081/stats", &["\"hits\":", "\"node-3\"", "HTTP 200"]),
    ("/health?scope=ring", &["HTTP 200"]),
    ("localhost:8083/ring", &["\"partitions\":", "\"epoch\":", "# TYPE", "HTTP 200"]),
    ("-X PUT localhost:8081/v1/keys/pages/home -H 'content-type", &["HTTP 201", "etag: "]),
    ("curl -i localhost:8082/v1/keys/pages/home", &["HTTP 200", "<h1>Hi</h1>", "text/html", "age: ", "max-age=60"]),
    ("/v1/keys/pages/home/touch", &["HTTP 204", "etag: "]),
    ("if-none-match", &["HTTP 412", "precondition_failed"]),
    ("nats req cache-platform.touch", &["\"touched\":true"]),
    ("nats req cache-platform.inspect", &["\"found\":true", "\"age\":", "\"ttl\":"]),
    ("nats req cache-platform.set", &["\"success\":true"]),
    ("nats req cache-platform.get '", &["\"found\":true", "\"Bob\""]),
    ("nats req cache-platform.owner", &["\"partition\":"]),
    ("nats req cache-platform.delete", &["\"deleted\":true"]),
    ("nats req cache-platform.incr", &["\"value\":5", "\"value\":6"]),
    ("nats req cache-platform.get-or-set", &["\"stored\":false", "\"value\":6"]),
    ("nats req cache-platform.key.set", &["\"success\":true", "\"found\":true", "\"Carol\""]),
    ("nats req cache-platform.stats", &["\"hits\":", "\"plan_version\":", "\"epoch\":"]),
    ("nats micro", &["cache-platform", "node-3-1", "cache-platform.get"]),
    ("nats kv watch", &["own.63", "plan"]),
    ("nats-ring set user:4", &["stored 'user:4' at node-", "Dave", "application/json"]),
    ("nats-ring set user:5 Eve", &["stored 'user:5' at node-", "10\n", " owns partition ", ", in sync with node-"]),
    ("nats-ring replicas 2", &["2 copies of each partition are kept", "3 copies of each"]),
    ("nats-ring status", &["healthy", "64 of 64", "node-3", "zone"]),
    ("nats-ring plan", &["partitions would move", "node-2"]),
    ("nats-ring watch", &["watching: plan"]),
    ("nats-ring drain node-3", &["node-3 has left"]),
    ("nats-ring drain a-1", &["a-1 can be stopped", "a-1 has left"]),
    ("localhost:8081/ready", &["\"ready\":true", "HTTP 200"]),
    ("--example counter", &["3300 increments acknowledged, 3300 counted"]),
];

/// How long servers and nodes may take to start: the machine may be busy with other tests.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The lines of the `sh` blocks below one heading, block by block.
fn blocks(readme: &str, heading: &str) -> Vec<Vec<String>> {
    let mut found: Vec<Vec<String>> = Vec::new();
    let (mut section, mut in_block) = ("", false);
    for line in readme.lines() {
        if in_block && line == "```" {
            in_block = false;
        } else if in_block {
            if section == heading && !line.trim().is_empty() {
                found.last_mut().unwrap().push(line.to_owned());
            }
        } else if line == "```sh" {
            in_block = true;
            if section == heading {
                found.push(Vec::new());
            }
        } else if let Some(title) = line.strip_prefix("## ") {
            section = title;
        }
    }
    found
}

fn readme() -> String {
    std::fs::read_to_string(cli::root().join("README.md")).unwrap()
}

/// The number after `marker`, as in `--http :8081`.
fn port_after(line: &str, marker: &str) -> Option<u16> {
    let (_, rest) = line.split_once(marker)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The word after `marker`.
fn word_after(line: &str, marker: &str) -> String {
    line.split_once(marker).unwrap().1.split(' ').next().unwrap().to_owned()
}

fn node(line: &str) -> String {
    word_after(line, "--node ")
}

async fn run_section(heading: &str) {
    let mut sandbox = Sandbox::new(&format!("README, {heading}"));
    let mut nodes = Vec::new();
    for block in blocks(&readme(), heading) {
        for line in &block {
            let word = line.split(' ').next().unwrap();
            match word {
                "docker" => eprintln!("**** SKIPPED: needs Docker: {line} ****"),
                "nats" if !sandbox.has_cli => eprintln!("**** SKIPPED: no nats command line: {line} ****"),
                "nats" if line.starts_with("nats kv watch") => watch(&mut sandbox, line).await,
                "nats-server" => start_server(&mut sandbox, line).await,
                "cargo" if line.contains("--example") => check(line, &sandbox.run(line), &sandbox),
                "cargo" => {
                    sandbox.start(line);
                    nodes.push((node(line), port_after(&sandbox.ports().rewrite(line), "--http :").unwrap()));
                }
                "nats-ring" if line.contains("nats-ring drain ") => {
                    check(line, &sandbox.run(line), &sandbox);
                    let name = word_after(line, "nats-ring drain ");
                    nodes.retain(|(node, _)| *node != name);
                    has_ended(&mut sandbox, &name).await;
                }
                _ => check(line, &sandbox.run(line), &sandbox),
            }
        }
        wait_until_served(&mut sandbox, &nodes).await;
    }
    sandbox.assert_all_running();
}

fn expected(line: &str) -> &'static [&'static str] {
    let entry = EXPECTED.iter().find(|(part, _)| line.contains(part));
    entry.unwrap_or_else(|| panic!("tests/readme.rs does not say what this must show: {line}")).1
}

fn check(line: &str, output: &str, sandbox: &Sandbox) {
    for text in expected(line) {
        assert!(output.contains(text), "`{line}` does not show {text}:\n{output}\n{}", sandbox.logs());
    }
    if expected(line).contains(&"HTTP 412") {
        return; // a refusal that the README announces
    }
    for wrong in ["HTTP 4", "HTTP 5", "HTTP 000", "\"error\":{", "Nats-Service-Error"] {
        assert!(!output.contains(wrong), "`{line}` shows {wrong}:\n{output}\n{}", sandbox.logs());
    }
}

async fn watch(sandbox: &mut Sandbox, line: &str) {
    sandbox.start(line);
    eventually(START_LIMIT, line, || async {
        let log = sandbox.last_log();
        if expected(line).iter().all(|text| log.contains(text)) { Ok(()) } else { Err(log) }
    })
    .await;
}

/// A node that was drained ends by itself.
async fn has_ended(sandbox: &mut Sandbox, node: &str) {
    let line = format!("--node {node} ");
    let ended = async {
        while !sandbox.has_ended_well(&line) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(START_LIMIT, ended).await;
    assert!(in_time.is_ok(), "{node} was drained and goes on:\n{}", sandbox.logs());
}

async fn start_server(sandbox: &mut Sandbox, line: &str) {
    sandbox.start(line);
    let documented = port_after(line, "cluster-").map_or(4222, |number| 4221 + number);
    let port = sandbox.ports().get(documented);
    eventually(START_LIMIT, line, || async {
        TcpStream::connect(("127.0.0.1", port)).map_err(|e| format!("{e}\n{}", sandbox.logs()))
    })
    .await;
}

/// Waits until all nodes are ready, say that every partition is served, and have their shares: nothing moves any more.
async fn wait_until_served(sandbox: &mut Sandbox, nodes: &[(String, u16)]) {
    let http = Http::with_limit(Duration::from_secs(2));
    eventually(START_LIMIT, "all nodes serve their shares", || async {
        let mut shares = Vec::new();
        for (node, port) in nodes {
            let get = async |path: &str| match http.get(&format!("http://127.0.0.1:{port}{path}")).await {
                Ok(answer) if answer.status == 200 => Ok(answer.json()),
                other => Err(format!("{node}{path}: {other:?}\n{}", sandbox.logs())),
            };
            get("/ready").await?;
            let health = get("/health?scope=ring").await?;
            if health["under_replicated"] != 0 {
                return Err(format!("{node}: {health}"));
            }
            shares.push(get("/stats").await?["ring"]["owned"].as_u64().unwrap());
        }
        let (least, most) = (shares.iter().min().copied(), shares.iter().max().copied());
        let apart = most.unwrap_or(0) - least.unwrap_or(0);
        if apart <= 1 { Ok(()) } else { Err(format!("{shares:?}")) }
    })
    .await;
    sandbox.assert_all_running();
}

#[tokio::test]
async fn the_commands_by_hand_do_what_the_readme_says() {
    run_section("By hand").await;
}

#[tokio::test]
async fn the_commands_for_real_form_a_ring_on_three_servers() {
    run_section("For real").await;
}

#[tokio::test]
async fn the_example_of_embedding_counts_every_increment() {
    run_section("Embedding").await;
}

#[tokio::test]
async fn make_run_starts_three_nodes_prints_what_to_try_and_ends_all_on_ctrl_c() {
    let mut sandbox = Sandbox::new("README, make run");
    assert!(blocks(&readme(), "Two commands").concat().iter().any(|line| line.starts_with("make run")));
    // Where make run and nats/install.sh leave the programs.
    let path = "export PATH=\"$PWD/target/release:$PWD/nats/.bin:$PATH\"";
    assert_eq!(blocks(&readme(), "Try it").concat(), [path]);
    let nats = sandbox.ports().get(4222);
    let mut make = Command::new("make");
    sandbox.environment(&mut make);
    make.arg("run").current_dir(cli::root());
    make.env("BINARY", env!("CARGO_BIN_EXE_nats-ring")).env("CARGO", sandbox.path().join("bin/cargo"));
    make.env("DEV_FLAGS", format!("--nats-port {nats} --http-from 0")).env("RUN_DIR", sandbox.path().join("run"));
    // Elsewhere than for the user: what it finds on PATH here is gone when the test ends.
    make.arg(format!("INSTALL=nats/install.sh --into '{}'", sandbox.path().join("fetched").display()));
    sandbox.start_command("make run", make);
    eventually(START_LIMIT, "make run says what to try", || async {
        let log = sandbox.last_log();
        if log.contains("Ctrl-C ends all") { Ok(()) } else { Err(log) }
    })
    .await;
    let log = sandbox.last_log();
    let tried = log.lines().map(str::trim).filter(|line| line.starts_with("curl "));
    let outputs: Vec<String> = tried.map(|line| sandbox.run(line)).collect();
    assert_eq!(outputs.len(), 4, "{log}");
    let http: Vec<u16> = log.lines().filter_map(|line| port_after(line, "ready on http://127.0.0.1:")).collect();
    assert_eq!(http.len(), 3, "{log}");
    assert!(outputs[1].contains("\"Alice\"") && outputs.iter().all(|o| o.contains("HTTP 200")), "{outputs:?}");

    sandbox.interrupt_last();
    let mut ended = false;
    for _ in 0..1500 {
        ended = sandbox.last_has_ended();
        if ended {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ended, "make run goes on after Ctrl-C:\n{}", sandbox.logs());
    assert!(sandbox.last_log().contains("all ended"), "{}", sandbox.logs());
    for port in http.into_iter().chain([nats]) {
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "port {port} is still served:\n{}", sandbox.logs());
    }
}

#[test]
fn make_test_fetches_the_servers_and_runs_all_tests() {
    assert!(blocks(&readme(), "Two commands").concat().iter().any(|line| line.starts_with("make test")));
    eprintln!("make test runs this test: of it only what it would do is looked at");
    let plan = Command::new("make").args(["-n", "test", "CARGO=cargo"]).current_dir(cli::root()).output().unwrap();
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    for step in ["nats/install.sh", "scripts/client_deps.sh", "cargo test --locked"] {
        assert!(plan.contains(step), "make test does not run {step}:\n{plan}");
    }
}

#[test]
fn no_command_of_the_readme_is_left_out() {
    let readme = readme();
    let headings: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let with_commands: Vec<&str> = headings.into_iter().filter(|h| !blocks(&readme, h).is_empty()).collect();
    assert_eq!(
        with_commands,
        ["Two commands", "Try it", "By hand", "For real", "Embedding"],
        "a section whose commands no test here runs"
    );
    for other in ["```bash", "```shell", "```console", "    $ "] {
        assert!(!readme.contains(other), "commands stand in ```sh blocks, so that they are run; found {other:?}");
    }
}
