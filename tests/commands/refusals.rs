//! Where a command cannot do what is asked: one line, and a code that tells scripts apart what happened.

use super::common::nats_server::{NatsServer, ServerOptions};
use super::ground::{finish, program};

/// Every command that needs a ring.
const COMMANDS: &[&[&str]] = &[
    &["status"],
    &["nodes"],
    &["ring"],
    &["get", "k"],
    &["set", "k", "v"],
    &["delete", "k"],
    &["owner", "k"],
    &["inspect", "k"],
    &["drain", "a"],
    &["cordon", "a"],
    &["uncordon", "a"],
    &["pause"],
    &["resume"],
    &["move", "1", "a"],
    &["unpin", "1"],
    &["plan", "--without", "a"],
    &["plan", "--with", "a:b"],
    &["safe-to-stop", "a"],
    &["watch"],
];

#[tokio::test]
async fn without_nats_every_command_ends_in_time_and_says_so() {
    let mut server = NatsServer::start();
    let url = server.url();
    server.stop();
    for command in COMMANDS {
        let run = finish(program(&[*command, &["--nats", &url, "--timeout", "300ms"]].concat()), "").await;
        run.assert_failed(3, &[&server.port().to_string(), "300ms", "nats-server -js"]);
        assert_eq!(run.out, "");
    }
}

#[tokio::test]
async fn where_there_is_no_such_ring_every_command_says_so() {
    let server = NatsServer::start();
    for command in COMMANDS {
        let url = server.url();
        let arguments = [*command, &["--nats", &url, "--platform", "elsewhere"]].concat();
        let run = finish(program(&arguments), "").await;
        run.assert_failed(12, &["'elsewhere'", "check"]);
        assert_eq!(run.out, "");
    }
}

#[tokio::test]
async fn wrong_credentials_have_the_code_they_have_for_a_node() {
    let extra = "authorization { user: ring, password: right }".to_owned();
    let server = NatsServer::start_with(ServerOptions { extra, ..ServerOptions::default() });
    let wrong = ["get", "k", "--nats", &server.url(), "--nats-user", "ring", "--nats-password", "wrong"];
    finish(program(&wrong), "").await.assert_failed(4, &["refused the credentials"]);
    let right = ["get", "k", "--nats", &server.url(), "--nats-user", "ring", "--nats-password", "right"];
    finish(program(&right), "").await.assert_failed(12, &["no node of the ring"]);
}

#[tokio::test]
async fn what_the_command_line_does_not_know_is_named() {
    for (arguments, says) in [
        (vec!["gte", "k"], "gte"),
        (vec!["plan"], "--without"),
        (vec!["plan", "--without", "a", "--with", "b"], "--with"),
        (vec!["watch", "--count", "0"], "--count"),
        (vec!["cordon", "a.b"], "a.b"),
        (vec!["get"], "<KEY>"),
        (vec!["get", "k", "--timeout", "soon"], "--timeout"),
        (vec!["get", "k", "--platform", "a.b"], "a.b"),
        (vec!["set", "k", "v", "--ttl", "soon"], "90s"),
        (vec!["--node", "a", "get", "k"], "get"),
    ] {
        finish(program(&arguments), "").await.assert_failed(2, &[says]);
    }
}

#[tokio::test]
async fn completions_know_the_commands_and_their_flags() {
    for shell in ["bash", "zsh", "fish"] {
        let run = finish(program(&["completion", shell]), "").await;
        run.assert_says(&["nats-ring", "inspect", "platform"]);
    }
}

#[tokio::test]
async fn help_whose_reader_has_gone_is_no_failure() {
    for arguments in [&["--help"][..], &["plan", "--help"], &["--version"], &["completion", "bash"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = program(arguments);
        command.stdout(writer).stderr(std::process::Stdio::piped());
        let run = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert_eq!((run.status.code(), run.stderr), (Some(0), Vec::new()), "{arguments:?}");
    }
}
