//! What a ring is created with and operators may change while it runs: written to `config` by the node that creates the
//! ring, and never by another one.
//!
//! In: the node's settings. Out: a first `config`, or one line in the log where the ring keeps to something else.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::parts::{CreatedWith, NodeParts};
use super::shown::Shown;
use crate::coord::{CasError, Key, Record, Revision, RingConfig};
use crate::types::CopyRules;

/// Writes the first `config`, where anything was given. Before `meta`: a ring that is there has what it was created with.
///
/// # Errors
/// Where it is not known to be there.
pub(super) async fn write(parts: &NodeParts, timeout: Duration) -> Result<(), CasError> {
    if parts.created_with == CreatedWith::default() {
        return Ok(());
    }
    let CreatedWith { replicas, consistency, on_loss } = parts.created_with;
    let mut config = RingConfig::default();
    config.replicas = replicas;
    config.consistency = consistency.unwrap_or_default();
    config.on_loss = on_loss.unwrap_or_default();
    let value = Record::Config(Ok(config)).encode();
    match parts.store.cas(&Key::Config.text(), Revision::NONE, value, timeout).await {
        // Somebody else was first: theirs holds.
        Ok(_) | Err(CasError::Conflict) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Says where the ring keeps to something else than this node was started with, once that is known.
pub(super) async fn compare(parts: Arc<NodeParts>, mut shown: watch::Receiver<Shown>) {
    let Ok(known) = shown.wait_for(|shown| shown.report().table_seen).await.map(|shown| shown.report().rules) else {
        return;
    };
    for Difference { what, ring, node } in differences(&parts.created_with, &known) {
        tracing::warn!(
            "{what} is the ring's: it keeps to {ring}, this node was started with {node}, which is passed over; \
             `nats-ring {what} {node}` changes it for the whole ring"
        );
    }
}

/// One setting in which a node and its ring differ.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    /// The command that changes it.
    what: &'static str,
    ring: String,
    node: String,
}

fn differences(given: &CreatedWith, known: &CopyRules) -> Vec<Difference> {
    fn one<T: PartialEq + ToString>(what: &'static str, given: Option<T>, known: &T) -> Option<Difference> {
        let given = given.filter(|given| given != known)?;
        Some(Difference { what, ring: known.to_string(), node: given.to_string() })
    }
    [
        one("replicas", given.replicas, &known.replicas),
        one("consistency", given.consistency, &known.consistency),
        one("on-loss", given.on_loss, &known.on_loss),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::{Consistency, Factor, OnLoss};

    #[test]
    fn only_what_was_given_and_differs_is_told() {
        let known = CopyRules { consistency: Consistency::Quorum, ..CopyRules::default() };
        assert_eq!(differences(&CreatedWith::default(), &known), []);
        let given = CreatedWith {
            replicas: Some(Factor::new(2).unwrap()),
            consistency: Some(Consistency::Quorum),
            on_loss: Some(OnLoss::Wait),
        };
        let told: Vec<_> = differences(&given, &known).into_iter().map(|one| (one.what, one.ring, one.node)).collect();
        let text = |text: &str| text.to_owned();
        assert_eq!(told, [("replicas", text("3"), text("2")), ("on-loss", text("accept"), text("wait"))]);
    }
}
