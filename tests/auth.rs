//! The program and servers that ask who is there: every way to log in, encryption, contexts of the `nats` command line.
//!
//! What is accepted is shown by a node that becomes ready; what is refused by the exit code and the last line. Secrets
//! are looked for in everything that was logged.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/cli.rs"]
mod nats_programs;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::identity::{Authority, Identity, Operator};
use common::nats_server::{NatsServer, ServerOptions};
use common::node::NodeProcess;
use nkeys::KeyPair;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(30);
const SECRET: &str = "s3cr3t-w0rd";

fn server(extra: &str) -> NatsServer {
    NatsServer::start_with(ServerOptions { extra: extra.to_owned(), ..ServerOptions::default() })
}

fn host(server: &NatsServer) -> String {
    format!("127.0.0.1:{}", server.port())
}

/// The program with these arguments; contexts are those of `home`.
fn program(home: &Path, arguments: &[&str]) -> NodeProcess {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nats-ring"));
    command.args(["--http", ":0"]).args(arguments);
    // As much as anybody would ask for.
    command
        .env("XDG_CONFIG_HOME", home)
        .env("HOME", home)
        .env("RUST_LOG", "debug,async_nats=trace,async_nats::connector=trace")
        .env("NATS_RING_WAIT", "5s");
    NodeProcess::spawn_command("node-1", command)
}

async fn accepted(home: &Path, arguments: &[&str]) {
    let node = program(home, arguments);
    node.wait_ready(LIMIT).await;
    no_secret(&node);
}

/// Asserts that the program ends with this code, and that its last line holds all of `says`; gives the line.
async fn refused(home: &Path, arguments: &[&str], code: i32, says: &[&str]) -> String {
    let node = program(home, arguments);
    let found = node.wait_exit(LIMIT).await.unwrap();
    let line = node.wait_log("nats-ring: ", LIMIT).await;
    assert_eq!(found, code, "{arguments:?}: {}", node.log());
    for text in says {
        assert!(line.contains(text), "{arguments:?}: '{text}' is not in: {line}");
    }
    no_secret(&node);
    line
}

fn no_secret(node: &NodeProcess) {
    assert!(!node.log().contains(SECRET), "a secret was logged: {}", node.log());
}

fn nowhere() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn written(folder: &TempDir, name: &str, content: &str) -> PathBuf {
    let file = folder.path().join(name);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, content).unwrap();
    file
}

#[tokio::test]
async fn user_and_password_work_as_flags_and_in_the_url_and_a_wrong_password_ends_with_code_4() {
    let home = nowhere();
    let server = server(&format!("authorization {{ user: ring, password: {SECRET:?} }}"));
    let (plain, in_url) = (server.url(), format!("nats://ring:{SECRET}@{}", host(&server)));
    accepted(home.path(), &["--nats", &plain, "--nats-user", "ring", "--nats-password", SECRET]).await;
    accepted(home.path(), &["--nats", &in_url]).await;
    let wrong = format!("{SECRET}-not");
    let arguments = ["--nats", &plain, "--nats-user", "ring", "--nats-password", &wrong];
    refused(home.path(), &arguments, 4, &["refused the credentials (user and password)"]).await;
    let wrong = format!("nats://ring:{SECRET}-not@{}", host(&server));
    refused(home.path(), &["--nats", &wrong], 4, &["refused the credentials", &host(&server)]).await;
    refused(home.path(), &["--nats", &plain], 4, &["refused the credentials (none)"]).await;
}

#[tokio::test]
async fn a_token_works_as_a_flag_and_in_the_url_and_a_wrong_one_ends_with_code_4() {
    let home = nowhere();
    let server = server(&format!("authorization {{ token: {SECRET:?} }}"));
    accepted(home.path(), &["--nats", &server.url(), "--nats-token", SECRET]).await;
    accepted(home.path(), &["--nats", &format!("nats://{SECRET}@{}", host(&server))]).await;
    let wrong = format!("{SECRET}-not");
    refused(home.path(), &["--nats", &server.url(), "--nats-token", &wrong], 4, &["credentials (token)"]).await;
}

#[tokio::test]
async fn an_nkey_seed_works_and_another_users_or_a_broken_one_is_refused() {
    let home = nowhere();
    let (known, stranger) = (KeyPair::new_user(), KeyPair::new_user());
    let server = server(&format!("authorization {{ users: [ {{ nkey: {} }} ] }}", known.public_key()));
    let seed = known.seed().unwrap();
    let file = written(&home, "ring.nk", &format!("# the ring's\n{seed}\n"));
    let node = program(home.path(), &["--nats", &server.url(), "--nats-nkey", "~/ring.nk"]);
    node.wait_ready(LIMIT).await;
    assert!(!node.log().contains(&seed));
    let other = written(&home, "other.nk", &stranger.seed().unwrap());
    refused(home.path(), &["--nats", &server.url(), "--nats-nkey", text(&other)], 4, &["credentials (nkey seed)"])
        .await;
    let broken_seed = seed.replace('A', "B");
    let broken = written(&home, "broken.nk", &broken_seed);
    for (file, says) in [(broken, "holds no nkey seed"), (home.path().join("absent.nk"), "cannot be read")] {
        let line = refused(home.path(), &["--nats", &server.url(), "--nats-nkey", text(&file)], 2, &[says]).await;
        assert!(line.contains(text(&file)) && !line.contains(&broken_seed[..20]), "{line}");
    }
    assert!(file.is_file());
}

#[tokio::test]
async fn a_creds_file_works_in_operator_mode_and_a_strangers_or_unreadable_one_is_refused() {
    let home = nowhere();
    let operator = Operator::new();
    let server = server(&operator.server_lines);
    let (own, strange) = (home.path().join("own.creds"), home.path().join("strange.creds"));
    operator.creds(&own);
    Operator::new().creds(&strange);
    accepted(home.path(), &["--nats", &server.url(), "--nats-creds", text(&own)]).await;
    refused(home.path(), &["--nats", &server.url(), "--nats-creds", text(&strange)], 4, &["credentials (creds file)"])
        .await;
    let broken = written(&home, "broken.creds", &format!("{SECRET}\n"));
    for file in [broken, home.path().join("absent.creds"), home.path().to_owned()] {
        let arguments = ["--nats", &server.url(), "--nats-creds", text(&file)];
        refused(home.path(), &arguments, 2, &["credentials file", text(&file), "cannot be used"]).await;
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_named_and_no_other() {
    let home = nowhere();
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let server = server(&authority.server_tls(""));
    let tls = format!("tls://{}", host(&server));
    accepted(home.path(), &["--nats", &server.url(), "--nats-ca", text(&authority.file)]).await;
    accepted(home.path(), &["--nats", &tls, "--nats-ca", text(&authority.file)]).await;
    let wrong = ["--nats", &server.url(), "--nats-ca", text(&other.file)];
    refused(home.path(), &wrong, 3, &["TLS with", "certificate", "--nats-ca"]).await;
    refused(home.path(), &["--nats", &tls], 3, &["TLS with", "certificate"]).await;
    let elsewhere = format!("tls://localhost:{}", server.port());
    let arguments = ["--nats", &elsewhere, "--nats-ca", text(&authority.file)];
    refused(home.path(), &arguments, 3, &["TLS with", "localhost"]).await;
}

#[tokio::test]
async fn a_server_that_does_not_encrypt_is_not_spoken_to_where_encryption_is_asked_for() {
    let home = nowhere();
    let authority = Authority::new("ours");
    let server = server("");
    let arguments = ["--nats", &server.url(), "--nats-ca", text(&authority.file), "--wait", "1s"];
    refused(home.path(), &arguments, 3, &["TLS with"]).await;
    refused(home.path(), &["--nats", &format!("tls://{}", host(&server))], 3, &["TLS with"]).await;
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_the_server_asks_for_one() {
    let home = nowhere();
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let server = server(&authority.server_tls("verify: true"));
    let (own, strange) = (authority.issue("node-1"), other.issue("node-1"));
    let (url, ca) = (server.url(), text(&authority.file));
    let shows = |identity: &Identity| {
        let Identity { certificate, key } = identity;
        ["--nats", &url, "--nats-ca", ca, "--nats-cert", text(certificate), "--nats-key", text(key)].map(str::to_owned)
    };
    accepted(home.path(), &shows(&own).each_ref().map(String::as_str)).await;
    refused(home.path(), &["--nats", &url, "--nats-ca", ca], 3, &["TLS with", "ertificate"]).await;
    refused(home.path(), &shows(&strange).each_ref().map(String::as_str), 3, &["TLS with"]).await;
}

#[tokio::test]
async fn the_handshake_comes_first_where_the_server_wants_it_so() {
    let home = nowhere();
    let authority = Authority::new("ours");
    let server = server(&authority.server_tls("handshake_first: true"));
    let ca = &authority.file;
    accepted(home.path(), &["--nats", &server.url(), "--nats-ca", text(ca), "--nats-tls-first"]).await;
    let arguments = ["--nats", &server.url(), "--nats-ca", text(ca), "--wait", "1s"];
    refused(home.path(), &arguments, 3, &[&host(&server), "--nats-tls-first"]).await;
}

#[tokio::test]
async fn files_for_tls_that_cannot_be_used_are_named() {
    let home = nowhere();
    let authority = Authority::new("ours");
    let own = authority.issue("node-1");
    let empty = written(&home, "empty.pem", "nothing\n");
    let absent = home.path().join("absent.pem");
    let (certificate, key) = (text(&own.certificate), text(&own.key));
    for (arguments, says) in [
        (vec!["--nats-ca", text(&absent)], text(&absent)),
        (vec!["--nats-ca", text(&empty)], "holds no certificate"),
        (vec!["--nats-cert", certificate, "--nats-key", text(&absent)], text(&absent)),
        (vec!["--nats-cert", certificate, "--nats-key", certificate], "holds no private key"),
        (vec!["--nats-cert", key, "--nats-key", key], "holds no certificate"),
        (vec!["--nats-cert", certificate], "give both nats-cert and nats-key"),
        (vec!["--nats-inbox-prefix", "_INBOX.>"], "no wildcards"),
    ] {
        refused(home.path(), &arguments, 2, &[says]).await;
    }
}

/// Writes a context with the `nats` command line, `None` where there is none.
fn add_context(home: &Path, what: &str, arguments: &[&str]) -> Option<()> {
    let nats = nats_programs::nats_cli(what)?;
    let mut command = Command::new(nats);
    command.args(["context", "add"]).args(arguments).env("XDG_CONFIG_HOME", home).env("HOME", home);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

#[tokio::test]
async fn a_context_of_the_nats_command_line_says_server_login_and_tls() {
    let what = "contexts written by the nats command line";
    let home = nowhere();
    let authority = Authority::new("ours");
    let lines = format!("authorization {{ user: ring, password: {SECRET:?} }}\n");
    let server = server(&(lines + &authority.server_tls("handshake_first: true")));
    std::fs::copy(&authority.file, home.path().join("ca.pem")).unwrap();
    let (url, file) = (server.url(), home.path().join("ca.pem"));
    let ca = text(&file);
    let all = ["--server", &url, "--user", "ring", "--password", SECRET, "--tlsca", ca, "--tlsfirst"];
    let Some(()) = add_context(home.path(), what, &[&["prod", "--inbox-prefix", "_INBOX.ring"], &all[..]].concat())
    else {
        return;
    };
    accepted(home.path(), &["--context", "prod"]).await;
    // As a person might have edited it.
    let file = home.path().join("nats/context/prod.json");
    let edited = std::fs::read_to_string(&file).unwrap().replace(ca, "~/ca.pem");
    std::fs::write(&file, edited).unwrap();
    accepted(home.path(), &["--context", "prod"]).await;
    // A flag wins over the context, and a login as a whole.
    let arguments = ["--context", "prod", "--nats-token", "wrong"];
    refused(home.path(), &arguments, 4, &["refused the credentials (token)"]).await;
    let arguments = ["--context", "prod", "--nats", "nats://127.0.0.1:9", "--wait", "0s"];
    refused(home.path(), &arguments, 3, &["127.0.0.1:9"]).await;
}

#[tokio::test]
async fn the_selected_context_is_not_used_unless_it_is_named() {
    let home = nowhere();
    let server = server("");
    let arguments = ["other", "--server", "nats://127.0.0.1:9", "--select"];
    if add_context(home.path(), "the selected context", &arguments).is_none() {
        return;
    }
    accepted(home.path(), &["--nats", &server.url()]).await;
    refused(home.path(), &["--context", "other", "--wait", "0s"], 3, &["127.0.0.1:9"]).await;
}

#[tokio::test]
async fn contexts_that_cannot_be_followed_are_refused_by_the_field() {
    let home = nowhere();
    let context = |name: &str, content: &str| drop(written(&home, &format!("nats/context/{name}.json"), content));
    for (name, content, says) in [
        ("socks", r#"{"socks_proxy": "socks5://a"}"#, "socks_proxy is not supported"),
        ("nsc", r#"{"nsc": "nsc://o/a/u"}"#, "nsc generate creds"),
        ("op", r#"{"creds": "op://vault/item"}"#, "--nats-creds"),
        ("domain", r#"{"jetstream_domain": "hub"}"#, "jetstream_domain is not supported"),
        ("broken", &format!(r#"{{"password": "{SECRET}", "url": }}"#), "no JSON (line 1"),
        ("number", &format!(r#"{{"password": "{SECRET}", "url": 7}}"#), "another type"),
        ("half", r#"{"cert": "a.pem"}"#, "give both nats-cert and nats-key"),
    ] {
        context(name, content);
        refused(home.path(), &["--context", name], 2, &[says]).await;
    }
    refused(home.path(), &["--context", "absent"], 2, &["'absent'", "absent.json", "nats context ls"]).await;
    refused(home.path(), &["--context", "../socks"], 2, &["give the name of a context"]).await;
}
