//! Discovery as the `nats` CLI and every other client sees it, on a real server.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/cli.rs"]
mod cli;
mod common;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::nats_server::NatsServer;
use nats_ring::rpc::Bus;
use nats_ring::rpc::micro::{EndpointInfo, MicroService, ServiceInfo};
use nats_ring::rpc::nats::NatsBus;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn the_nats_cli_lists_two_instances_and_shows_their_figures() {
    let Some(cli) = cli::nats_cli("discovery as the nats CLI sees it") else { return };
    let server = NatsServer::start();
    let shutdown = CancellationToken::new();
    let mut running = Vec::new();
    for id in ["one", "two"] {
        let endpoint = EndpointInfo {
            name: "get".to_owned(),
            subject: "ring.get".to_owned(),
            queue_group: "ring".to_owned(),
            metadata: BTreeMap::new(),
        };
        let service = MicroService::new(ServiceInfo {
            name: "test-ring".to_owned(),
            id: id.to_owned(),
            version: "1.2.3".to_owned(),
            description: "a ring".to_owned(),
            metadata: BTreeMap::new(),
            endpoints: vec![endpoint],
        });
        service.record("get", Duration::from_millis(1), Some("refused"));
        let bus: Arc<dyn Bus> = Arc::new(NatsBus::new(server.connect().await));
        running.push((Arc::clone(&bus), tokio::spawn(Arc::clone(&service).run(bus, shutdown.clone()))));
    }
    // Answered by both: both have subscribed.
    let run = |arguments: &[&str]| {
        let output = Command::new(&cli).args(["--server", &server.url()]).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {text}");
        text
    };
    let both = async {
        loop {
            let listed = run(&["micro", "ls"]);
            if listed.contains("one") && listed.contains("two") {
                return listed;
            }
        }
    };
    let listed = tokio::time::timeout(Duration::from_secs(20), both).await.expect("not both listed");
    assert!(listed.contains("test-ring") && listed.contains("1.2.3"), "{listed}");
    let info = run(&["micro", "info", "test-ring", "one"]);
    assert!(info.contains("a ring") && info.contains("ring.get"), "{info}");
    let stats = run(&["micro", "stats", "test-ring"]);
    assert!(stats.contains("one") && stats.contains("get"), "{stats}");
    shutdown.cancel();
    for (_, running) in running {
        assert_eq!(running.await.unwrap(), Ok(()));
    }
}
