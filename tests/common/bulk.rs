//! A cache filled with many entries, and whoever reads and writes in it while partitions move.
//!
//! Values are slices of one block of noise, so that hundreds of megabytes are compared without being kept.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // shared by tests: none uses all of it

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nats_ring::types::{KeyHash, PartitionCount};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::http::Http;

const VALUE_BYTES_MIN: usize = 10_000;
const VALUE_BYTES_MAX: usize = 60_000;
/// Requests under way at once.
const CONCURRENCY: usize = 32;

/// What was written, by the number of its key.
pub struct Bulk {
    count: usize,
    noise: Vec<u8>,
    /// As the answer to each write named it.
    versions: Mutex<Vec<String>>,
}

/// A number that looks random and is the same in every run.
fn scrambled(number: usize) -> usize {
    let mixed = (number as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 16) as usize
}

/// Where the owner of a key is asked directly.
fn subject(key: &str, operation: &str) -> String {
    let partition = KeyHash::Xxh3.partition(key.as_bytes(), PartitionCount::DEFAULT);
    format!("cache-platform.p.{partition}.{operation}")
}

impl Bulk {
    pub fn new(count: usize) -> Arc<Self> {
        let letters = (0..2 * VALUE_BYTES_MAX).map(|at| b'!' + (scrambled(at) % 90) as u8);
        let noise = letters.map(|letter| if letter == b'"' || letter == b'\\' { b'.' } else { letter }).collect();
        Arc::new(Self { count, noise, versions: Mutex::new(vec![String::new(); count]) })
    }

    pub fn key(number: usize) -> String {
        format!("bulk-{number}")
    }

    /// A JSON string of 10 to 60 KB.
    fn value(&self, number: usize) -> Vec<u8> {
        let random = scrambled(number);
        let size = VALUE_BYTES_MIN + random % (VALUE_BYTES_MAX - VALUE_BYTES_MIN);
        let from = (random >> 20) % (self.noise.len() - size);
        [format!("\"{number} ").as_bytes(), &self.noise[from..from + size], b"\""].concat()
    }

    /// Sum of all keys and values.
    pub fn bytes(&self) -> usize {
        (0..self.count).map(|number| Self::key(number).len() + self.value(number).len()).sum()
    }

    /// Writes everything over NATS, each entry to its partition's own subject.
    pub async fn write_all(self: &Arc<Self>, client: &async_nats::Client) {
        let next = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..CONCURRENCY {
            let (bulk, next, client) = (Arc::clone(self), Arc::clone(&next), client.clone());
            workers.spawn(async move {
                while let Some(number) = bulk.take(&next) {
                    bulk.write(&client, number).await;
                }
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended.unwrap();
        }
    }

    async fn write(&self, client: &async_nats::Client, number: usize) {
        let key = Self::key(number);
        let body = [format!(r#"{{"key":"{key}","value":"#).as_bytes(), &self.value(number), b"}"].concat();
        let answer = client.request(subject(&key, "set"), body.into()).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        let version = answer["version"].as_str().unwrap_or_else(|| panic!("{key}: {answer}"));
        version.clone_into(&mut self.versions.lock().await[number]);
    }

    /// Reads every entry over NATS from its owner, and each sixteenth over HTTP from one of these nodes in turn: all pairs of
    /// node and partition. Fails where an entry is not as written.
    pub async fn read_all(self: &Arc<Self>, client: &async_nats::Client, addresses: &[String]) {
        let next = Arc::new(AtomicUsize::new(0));
        let http = Http::new();
        let mut workers = JoinSet::new();
        for _ in 0..CONCURRENCY {
            let (bulk, next, client) = (Arc::clone(self), Arc::clone(&next), client.clone());
            let (http, addresses) = (http.clone(), addresses.to_vec());
            workers.spawn(async move {
                let mut wrong = Vec::new();
                while let Some(number) = bulk.take(&next) {
                    wrong.extend(bulk.read(&client, number).await.err());
                    if number % 16 == 0 {
                        let address = &addresses[number / 16 % addresses.len()];
                        wrong.extend(bulk.read_over_http(&http, address, number).await.err());
                    }
                }
                wrong
            });
        }
        let wrong = workers.join_all().await.concat();
        let some = &wrong[..wrong.len().min(10)];
        assert!(wrong.is_empty(), "{} of {} are not as written: {some:#?}", wrong.len(), self.count);
    }

    async fn read(&self, client: &async_nats::Client, number: usize) -> Result<(), String> {
        let key = Self::key(number);
        let body = format!(r#"{{"key":"{key}"}}"#);
        let answer = client.request(subject(&key, "get"), body.into()).await.map_err(|e| format!("{key}: {e}"))?;
        self.check(number, &answer.payload).await
    }

    async fn read_over_http(&self, http: &Http, address: &str, number: usize) -> Result<(), String> {
        let answer = http.get(&format!("{address}/get?key={}", Self::key(number))).await?;
        self.check(number, &answer.body).await.map_err(|why| format!("{} from {address}: {why}", answer.status))
    }

    /// Value and version to the letter.
    async fn check(&self, number: usize, answer: &[u8]) -> Result<(), String> {
        let begin = [br#"{"found":true,"value":"#, &self.value(number)[..], br#","node":""#].concat();
        let version = format!(r#""version":"{}"}}"#, self.versions.lock().await[number]);
        if answer.starts_with(&begin) && answer.ends_with(version.as_bytes()) {
            return Ok(());
        }
        let end = String::from_utf8_lossy(&answer[answer.len().saturating_sub(120)..]).into_owned();
        Err(format!("{}: …{end}, expected {version}", Self::key(number)))
    }

    fn take(&self, next: &AtomicUsize) -> Option<usize> {
        Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < self.count)
    }
}
