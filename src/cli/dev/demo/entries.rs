//! What the story keeps in the ring: some entries in each partition, written and read over HTTP.

use std::net::SocketAddr;

use futures::StreamExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::cli::dev::http::Http;
use crate::types::{KeyHash, PartitionCount};

const PER_PARTITION: usize = 5;
/// Requests under way at once.
const CONCURRENCY: usize = 16;

/// Keys, by partition.
pub(super) struct Entries {
    keys: Vec<Vec<String>>,
}

/// What a round of gets found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) right: usize,
    /// Keys that were answered as not there.
    pub(super) missing: Vec<String>,
    /// What was answered otherwise.
    pub(super) wrong: Vec<String>,
}

impl Entries {
    /// The first keys `user:N` that fall into each partition, equally many for each.
    pub(super) fn new() -> Self {
        let count = PartitionCount::DEFAULT;
        let mut keys = vec![Vec::new(); count.ids().len()];
        let mut open = keys.len();
        for key in (1..).map(|number: u32| format!("user:{number}")) {
            let of_partition = &mut keys[KeyHash::Xxh3.partition(key.as_bytes(), count).index()];
            if of_partition.len() < PER_PARTITION {
                of_partition.push(key);
                open -= usize::from(of_partition.len() == PER_PARTITION);
            }
            if open == 0 {
                break;
            }
        }
        Self { keys }
    }

    pub(super) fn all(&self) -> Vec<&str> {
        self.keys.iter().flatten().map(String::as_str).collect()
    }

    /// Those in the partitions for which `of` holds.
    pub(super) fn of_partitions(&self, of: impl Fn(usize) -> bool) -> Vec<&str> {
        let chosen = self.keys.iter().enumerate().filter(|(partition, _)| of(*partition));
        chosen.flat_map(|(_, keys)| keys).map(String::as_str).collect()
    }

    /// One key of each partition.
    pub(super) fn one_each(&self) -> Vec<&str> {
        self.keys.iter().filter_map(|keys| keys.first()).map(String::as_str).collect()
    }
}

fn value(key: &str) -> Value {
    json!({ "name": format!("the value of {key}") })
}

/// Sets these keys through the nodes in turn.
pub(super) async fn set(http: &Http, nodes: &[SocketAddr], keys: &[&str]) -> Result<(), String> {
    let requests = keys.iter().zip(nodes.iter().cycle()).map(|(key, node)| async move {
        let body = json!({ "key": key, "value": value(key) }).to_string();
        let answer = http.post(*node, "/set", body).await.map_err(|error| format!("set {key}: {error}"))?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.status == 200 { Ok(()) } else { Err(format!("set {key}: HTTP {} {text}", answer.status)) }
    });
    let outcomes: Vec<Result<(), String>> =
        futures::stream::iter(requests).buffer_unordered(CONCURRENCY).collect().await;
    outcomes.into_iter().collect()
}

/// Gets each of these keys from each of these nodes.
pub(super) async fn get(http: &Http, nodes: &[SocketAddr], keys: &[&str]) -> Found {
    let pairs = nodes.iter().flat_map(|node| keys.iter().map(move |key| (*node, *key)));
    let requests = pairs.map(|(node, key)| async move { (key, get_one(http, node, key).await) });
    let mut answers = futures::stream::iter(requests).buffer_unordered(CONCURRENCY);
    let mut found = Found::default();
    while let Some((key, answer)) = answers.next().await {
        match answer {
            Ok(Some(there)) if there == value(key) => found.right += 1,
            Ok(Some(other)) => found.wrong.push(format!("{key} is {other}")),
            Ok(None) => found.missing.push(key.to_owned()),
            Err(reason) => found.wrong.push(format!("{key}: {reason}")),
        }
    }
    found
}

/// `None` where the ring answers that there is no such entry.
pub(super) async fn get_one(http: &Http, node: SocketAddr, key: &str) -> Result<Option<Value>, String> {
    let answer = http.get(node, &format!("/get?key={}", utf8_percent_encode(key, NON_ALPHANUMERIC))).await?;
    let body: Value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
    match answer.status {
        200 => Ok(Some(body["value"].clone())),
        404 => Ok(None),
        status => Err(format!("HTTP {status} {body}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_the_same_number_of_entries() {
        let entries = Entries::new();
        assert_eq!(entries.all().len(), 64 * PER_PARTITION);
        assert_eq!(entries.one_each().len(), 64);
        let of_three = entries.of_partitions(|partition| partition == 3);
        let hashed = |key: &&str| KeyHash::Xxh3.partition(key.as_bytes(), PartitionCount::DEFAULT).index() == 3;
        assert!(of_three.len() == PER_PARTITION && of_three.iter().all(hashed), "{of_three:?}");
    }
}
