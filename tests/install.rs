//! `nats/`: the installer brings a server that runs, the configurations are valid, and the three cluster
//! configurations form one JetStream.
#![allow(clippy::unwrap_used)]

#[path = "common/cli.rs"]
mod cli;
#[path = "common/eventually.rs"]
mod eventually;
#[path = "common/server_conf.rs"]
mod server_conf;

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::Duration;

use async_nats::jetstream;
use eventually::eventually;
use server_conf::{ConfFolder, Server};

const CONFS: [&str; 4] = ["single.conf", "cluster-1.conf", "cluster-2.conf", "cluster-3.conf"];

fn install(arguments: &[&str]) -> Output {
    Command::new(cli::root().join("nats/install.sh")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_installer_takes_a_new_enough_server_from_path_and_a_second_run_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().to_str().unwrap();
    let server = cli::nats_server();
    let path = format!("{}:/usr/bin:/bin", server.parent().unwrap().display());
    let run = || {
        let script = cli::root().join("nats/install.sh");
        Command::new(script).args(["--no-cli", "--into", into]).env("PATH", &path).output().unwrap()
    };
    let first = run();
    assert!(first.status.success(), "{}", text(&first.stderr));
    assert!(text(&first.stdout).contains("the one on PATH"), "{}", text(&first.stdout));
    let second = run();
    assert!(text(&second.stdout).contains("already there"), "{}", text(&second.stdout));
    let version = Command::new(folder.path().join("nats-server")).arg("--version").output().unwrap();
    assert!(text(&version.stdout).starts_with("nats-server: v2."), "{}", text(&version.stdout));
}

#[test]
fn the_installer_refuses_what_it_does_not_know_and_explains_itself() {
    for wrong in [&["--frobnicate"][..], &["--server", "2.11"], &["--server", "newest"]] {
        let refused = install(wrong);
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}");
        assert!(text(&refused.stderr).contains("--help"), "{wrong:?}: {}", text(&refused.stderr));
    }
    let help = install(&["--help"]);
    assert!(help.status.success());
    for option in ["--server", "--into", "--no-cli", "--old-servers", "NATS_RING_REQUIRE_NATS_CLI"] {
        assert!(text(&help.stdout).contains(option), "--help does not name {option}");
    }
}

#[test]
fn the_installer_says_in_one_message_that_nothing_works_and_fails() {
    let folder = tempfile::tempdir().unwrap();
    let tools = folder.path().join("tools");
    std::fs::create_dir(&tools).unwrap();
    // The ordinary programs it uses, and none that could bring a server.
    for tool in "bash env dirname mktemp mkdir rm chmod sed tail head find cp mv ln cat".split(' ') {
        let found = ["/usr/bin", "/bin"].map(|d| std::path::Path::new(d).join(tool)).into_iter().find(|p| p.exists());
        std::os::unix::fs::symlink(found.unwrap(), tools.join(tool)).unwrap();
    }
    let script = cli::root().join("nats/install.sh");
    let failed = Command::new(script).arg("--into").arg(folder.path().join("bin")).env("PATH", tools).output().unwrap();
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed.stdout));
    assert!(text(&failed.stderr).contains("no nats-server: none on PATH"), "{}", text(&failed.stderr));
}

#[test]
fn every_configuration_is_valid_and_drops_frozen_clients_quickly() {
    for name in CONFS {
        let path = cli::root().join("nats").join(name);
        let checked = Command::new(cli::nats_server()).arg("-t").arg("-c").arg(&path).output().unwrap();
        assert!(checked.status.success(), "{name}: {}", text(&checked.stderr));
        let conf = std::fs::read_to_string(&path).unwrap();
        for line in ["ping_interval: \"2s\"", "ping_max: 2", "sync_interval: always", "127.0.0.1:"] {
            assert!(conf.contains(line), "{name} does not set {line}");
        }
        assert!(conf.contains("store_dir: \"./nats/.data/"), "{name} stores outside the folder that git ignores");
    }
}

#[test]
fn every_configuration_takes_the_mapping_by_the_line_that_is_there_for_it() {
    let folder = ConfFolder::new();
    for name in CONFS {
        let path = folder.path().join("nats").join(name);
        let (conf, line) = (std::fs::read_to_string(&path).unwrap(), "\n# include \"./mapping.conf\"");
        assert!(conf.contains(line), "{name} does not name the mapping");
        std::fs::write(&path, conf.replace(line, &line.replace("# ", ""))).unwrap();
        let checked = Command::new(cli::nats_server()).arg("-t").arg("-c").arg(&path).output().unwrap();
        assert!(checked.status.success(), "{name}: {}", text(&checked.stderr));
    }
}

#[tokio::test]
async fn the_single_server_answers_jetstream() {
    let folder = ConfFolder::new();
    let server = Server::start(&folder, "single.conf");
    let client = server.connect(Duration::from_secs(10)).await;
    let bucket = kv(&client, 1, Duration::from_secs(10)).await;
    let revision = bucket.create("key", "value".into()).await.unwrap();
    assert_eq!(bucket.update("key", "other".into(), revision).await.unwrap(), revision + 1);
    assert!(server.folder_of_store_exists("single"), "the store is not where the configuration says");
}

#[tokio::test]
async fn the_three_servers_form_a_cluster_that_keeps_three_copies_and_outlives_one_server() {
    let folder = ConfFolder::new();
    let mut servers: Vec<Server> = CONFS[1..].iter().map(|name| Server::start(&folder, name)).collect();
    let client = servers[0].connect(Duration::from_secs(10)).await;
    let bucket = kv(&client, 3, Duration::from_secs(40)).await;
    let first = bucket.create("key", "value".into()).await.unwrap();
    let stream = bucket.stream.get_info().await.unwrap();
    let cluster = stream.cluster.unwrap();
    let mut holders: BTreeSet<String> = cluster.replicas.iter().map(|replica| replica.name.clone()).collect();
    holders.extend(cluster.leader);
    assert_eq!(holders, ["ring-1", "ring-2", "ring-3"].map(String::from).into());

    servers.pop();
    let again = eventually(Duration::from_secs(30), "a write with one server lost", || async {
        bucket.update("key", "other".into(), first).await.map_err(|e| e.to_string())
    });
    assert!(again.await > first);
}

/// A bucket with so many copies; waits until JetStream grants it.
async fn kv(client: &async_nats::Client, copies: usize, limit: Duration) -> jetstream::kv::Store {
    let context = jetstream::new(client.clone());
    eventually(limit, "JetStream grants the bucket", || async {
        let config = jetstream::kv::Config { bucket: "proof".into(), num_replicas: copies, ..Default::default() };
        context.create_key_value(config).await.map_err(|e| e.to_string())
    })
    .await
}
