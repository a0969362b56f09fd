//! The ring's bucket: found, or created the way the ring needs it.
//!
//! In: a connection, the ring's name. Out: the bucket, or one line that says why there is none. Several nodes may do
//! this at once; the server lets one create it and the others find it.

use std::time::Duration;

use async_nats::jetstream::context::{
    Context, CreateStreamError, CreateStreamErrorKind, GetStreamErrorKind, KeyValueErrorKind,
};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, StorageType};
use async_nats::jetstream::{ErrorCode, kv};
use tokio::time::Instant;

use super::super::StoreError;
use crate::connect::Connection;
use crate::types::RingName;

/// Copies of the bucket on a JetStream cluster, where nothing else is asked for.
const CLUSTER_REPLICAS: usize = 3;
/// How long a cluster may take to find its servers and agree.
const CLUSTER_WAIT_MAX: Duration = Duration::from_secs(15);
/// Pause between two attempts.
const RETRY_EVERY: Duration = Duration::from_millis(250);

/// The name of a ring's bucket, as `nats kv` wants it.
pub fn bucket_name(ring: &RingName) -> String {
    format!("ring-{ring}")
}

/// What may come right by waiting, and what will not.
enum Failure {
    Passing(String),
    Final(String),
}

/// Finds the bucket or creates it.
pub(super) async fn open(
    connection: &Connection,
    jetstream: &Context,
    bucket: &str,
    replicas: Option<usize>,
) -> Result<kv::Store, StoreError> {
    let opened = patiently(connection, bucket, || async {
        let info = find_or_create(jetstream, bucket, replicas).await?;
        refuse_forgetting(bucket, &info)?;
        handle(jetstream, bucket).await.map(|store| (info, store))
    });
    let (info, store) = opened.await?;
    warn_of_settings(bucket, &info);
    Ok(store)
}

/// Finds the bucket; `None` where there is none.
pub(super) async fn find_existing(
    connection: &Connection,
    jetstream: &Context,
    bucket: &str,
) -> Result<Option<kv::Store>, StoreError> {
    let found = patiently(connection, bucket, || async {
        match find(jetstream, bucket).await? {
            Some(_) => handle(jetstream, bucket).await.map(Some),
            None => Ok(None),
        }
    });
    found.await
}

/// Of a bucket that is there. A server of a cluster that lags behind may not know it yet: that passes.
async fn handle(jetstream: &Context, bucket: &str) -> Result<kv::Store, Failure> {
    jetstream.get_key_value(bucket).await.map_err(|error| {
        let reason = format!("bucket '{bucket}': {error}");
        match error.kind() {
            KeyValueErrorKind::GetBucket => Failure::Passing(reason),
            _ => Failure::Final(reason),
        }
    })
}

/// Tries until it succeeds, fails for good, or the connection's patience is over.
async fn patiently<T, F>(connection: &Connection, bucket: &str, attempt: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, Failure>>,
{
    let deadline = Instant::now() + connection.wait().min(CLUSTER_WAIT_MAX);
    loop {
        match attempt().await {
            Ok(found) => return Ok(found),
            Err(Failure::Final(reason)) => return Err(StoreError(reason)),
            Err(Failure::Passing(reason)) if Instant::now() >= deadline => return Err(StoreError(reason)),
            Err(Failure::Passing(reason)) => tracing::debug!(bucket, reason, "bucket not there yet"),
        }
        tokio::time::sleep_until(deadline.min(Instant::now() + RETRY_EVERY)).await;
    }
}

async fn find_or_create(jetstream: &Context, bucket: &str, asked: Option<usize>) -> Result<Info, Failure> {
    if let Some(info) = find(jetstream, bucket).await? {
        return Ok(info);
    }
    let replicas = asked.unwrap_or(CLUSTER_REPLICAS);
    let created = match jetstream.create_stream(config(bucket, replicas)).await {
        // The server itself knows best that it is no cluster: what it says of itself may come too early.
        Err(error) if asked.is_none() && not_clustered(&error) => jetstream.create_stream(config(bucket, 1)).await,
        created => created,
    };
    let error = match created {
        Ok(stream) => return Ok(stream.cached_info().clone()),
        Err(error) => error,
    };
    let CreateStreamErrorKind::JetStream(answer) = error.kind() else {
        return Err(Failure::Passing(format!("bucket '{bucket}' was not created: {error}")));
    };
    match answer.error_code() {
        // Somebody else was first, with other settings: theirs hold.
        ErrorCode::STREAM_NAME_EXIST => {
            find(jetstream, bucket).await?.ok_or_else(|| Failure::Passing(format!("bucket '{bucket}': {answer}")))
        }
        ErrorCode::CLUSTER_NO_PEERS | ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED => Err(Failure::Passing(format!(
            "bucket '{bucket}' needs {replicas} copies and the JetStream cluster has fewer servers ready: start \
             {replicas} of them, or ask for fewer copies with --kv-replicas ({answer})"
        ))),
        ErrorCode::CLUSTER_NOT_AVAILABLE => Err(Failure::Passing(format!("bucket '{bucket}': {answer}"))),
        _ => Err(Failure::Final(format!("bucket '{bucket}' was not created: {answer}"))),
    }
}

fn not_clustered(error: &CreateStreamError) -> bool {
    matches!(error.kind(), CreateStreamErrorKind::JetStream(answer)
        if answer.error_code() == ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED)
}

async fn find(jetstream: &Context, bucket: &str) -> Result<Option<Info>, Failure> {
    match jetstream.get_stream(stream_name(bucket)).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(answer) if answer.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            _ => Err(Failure::Passing(format!("bucket '{bucket}': {error}"))),
        },
    }
}

/// The stream that holds the bucket.
pub(super) fn stream_name(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// A stream laid out as a KV bucket, written out here because the client's own bucket creation hides the server's
/// error codes.
fn config(bucket: &str, replicas: usize) -> Config {
    Config {
        name: stream_name(bucket),
        description: Some("nats-ring: membership, plan and claims".to_owned()),
        subjects: vec![format!("$KV.{bucket}.>")],
        max_messages_per_subject: 1,
        max_bytes: -1,
        max_message_size: -1,
        storage: StorageType::File,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        num_replicas: replicas,
        discard: DiscardPolicy::New,
        ..Config::default()
    }
}

/// A bucket that forgets by itself is refused: a claim is written once for as long as its owner stays, and nobody can tell one
/// that the server removed from one that never was. Whoever came next would own beside that owner.
fn refuse_forgetting(bucket: &str, info: &Info) -> Result<(), Failure> {
    let config = &info.config;
    let limited = config.max_bytes > 0 || config.max_messages > 0;
    let setting = match config.discard {
        _ if !config.max_age.is_zero() => format!("max_age = {}s", config.max_age.as_secs_f64()),
        DiscardPolicy::Old if limited => "a limit on its size, beyond which it discards what is oldest".to_owned(),
        _ => return Ok(()),
    };
    let stream = stream_name(bucket);
    Err(Failure::Final(format!(
        "bucket '{bucket}' has {setting}: the server would remove claims of owners that live, and there would be two; \
         run: nats stream edit {stream} --max-age=0 --max-bytes=-1 --max-msgs=-1"
    )))
}

/// A bucket made by other hands is used as it is; what weakens the ring is said.
fn warn_of_settings(bucket: &str, info: &Info) {
    if info.config.max_messages_per_subject != 1 {
        let history = info.config.max_messages_per_subject;
        tracing::warn!(bucket, history, "the bucket keeps history: it should be 1, more only costs space and time");
    }
    if info.config.storage != StorageType::File {
        tracing::warn!(bucket, "the bucket is kept in memory: a server restart loses it and restarts the ring");
    }
}
