//! A service that writes to a store of its own, and lets that store refuse a writer that lost its partition.
//!
//! `cargo run --example fenced_writer -- --node writer-1 --sink 127.0.0.1:9000 [--nats URL] [--ring NAME] [--lease 3s]`
//!
//! `nats req fenced-writer.write '{"key":"a","value":1}'` reaches the owner of key `a`. It connects to the sink, says
//! `{"ask":…}` and waits for the line `go`, which stands for whatever may take long before a write; then it sends
//! `{"partition":…,"token":{…},"value":…}`, and the sink answers `{"accepted":true}` or `{"accepted":false}`. No check on
//! this side can know that the process was not frozen after it: so the token goes along, and the sink keeps the highest
//! one per partition and refuses what `FencingToken::admits` does not admit.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use clap::Parser;
use nats_ring::connect::ConnectOptions;
use nats_ring::node::NodeBuilder;
use nats_ring::ring::Timing;
use nats_ring::service::{BoxError, Grant, Release, Request, Service, ServiceError};
use nats_ring::types::{NodeName, RingName};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// How long the sink may take altogether.
const SINK_TIMEOUT: Duration = Duration::from_secs(8);

#[derive(Parser)]
struct Arguments {
    /// This node's name
    #[arg(long)]
    node: NodeName,
    /// Address of the sink
    #[arg(long)]
    sink: String,
    #[arg(long, default_value = "nats://localhost:4222")]
    nats: String,
    #[arg(long, default_value = "fenced-writer")]
    ring: RingName,
    #[arg(long, default_value = "3s")]
    lease: humantime::Duration,
}

struct FencedWriter {
    sink: String,
}

fn failed(error: impl std::fmt::Display) -> ServiceError {
    ServiceError::new("sink_failed", format!("the sink: {error}"))
}

impl FencedWriter {
    /// One write, under the token of the grant it was begun with; answers whether the sink took it.
    async fn write(&self, grant: &Grant, value: &Value) -> Result<bool, ServiceError> {
        let mut sink = BufReader::new(TcpStream::connect(&self.sink).await.map_err(failed)?);
        if !grant.is_current() {
            return Err(ServiceError::new("not_owner", "the partition is not owned here any more"));
        }
        say(&mut sink, &json!({ "ask": value })).await?;
        let go = hear(&mut sink).await?;
        if go != "go" {
            return Err(failed(format!("said '{go}'")));
        }
        say(&mut sink, &json!({ "partition": grant.partition, "token": grant.token, "value": value })).await?;
        let verdict: Value = serde_json::from_str(&hear(&mut sink).await?).map_err(failed)?;
        Ok(verdict["accepted"] == true)
    }
}

async fn say(sink: &mut BufReader<TcpStream>, line: &Value) -> Result<(), ServiceError> {
    sink.write_all(format!("{line}\n").as_bytes()).await.map_err(failed)
}

async fn hear(sink: &mut BufReader<TcpStream>) -> Result<String, ServiceError> {
    let mut line = String::new();
    sink.read_line(&mut line).await.map_err(failed)?;
    Ok(line.trim_end().to_owned())
}

#[async_trait]
impl Service for FencedWriter {
    async fn on_own(&self, _: &[Grant]) -> Result<(), BoxError> {
        Ok(())
    }

    async fn on_release(&self, _: &[Grant], _: Release) -> Result<(), BoxError> {
        Ok(())
    }

    async fn handle(&self, grant: &Grant, request: Request) -> Result<Bytes, ServiceError> {
        let body: Value = serde_json::from_slice(&request.payload)
            .map_err(|error| ServiceError::new("bad_request", format!("write: expected JSON: {error}")))?;
        let written = tokio::time::timeout(SINK_TIMEOUT, self.write(grant, &body["value"])).await;
        match written.map_err(|_| failed(format!("no answer within {SINK_TIMEOUT:?}")))?? {
            true => Ok(json!({ "written": true, "epoch": grant.epoch() }).to_string().into()),
            false => Err(ServiceError::new("fenced", format!("the sink refused token {}", grant.token))),
        }
    }

    fn operations(&self) -> Vec<&'static str> {
        vec!["write"]
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Arguments { node, sink, nats, ring, lease } = Arguments::parse();
    let builder = NodeBuilder::new(ConnectOptions::new([nats]), ring, node).timing(Timing::for_lease(lease.into()));
    let running = builder.start(Arc::new(FencedWriter { sink })).await?;
    tokio::select! {
        ended = running.wait() => ended?,
        _ = tokio::signal::ctrl_c() => running.shutdown().await?,
    }
    Ok(())
}
