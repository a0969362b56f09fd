//! `meta`: creating it, agreeing with it, and starting a new generation after the store was found to be another one.

use std::time::Duration;

use super::created;
use super::parts::{NodeParts, RingShape};
use crate::coord::{CasError, Key, Meta, ReadMetaError, Record, Revision, StoreIdentity, read_meta};
use crate::types::Generation;
use crate::types::guard::{self, Guard};

const TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// Why a node cannot be part of the ring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// The ring was created with another value.
    #[error("this ring was created with {what} = {ring}, this node is set to {what} = {node}: {hint}")]
    Disagrees {
        /// `partitions` or `key hash`.
        what: &'static str,
        /// The ring's value.
        ring: String,
        /// This node's.
        node: String,
        /// What to do.
        hint: &'static str,
    },
    /// `meta` cannot be read by this release.
    #[error("{0}")]
    Unreadable(String),
    /// The store does not answer: worth another try.
    #[error("the ring's bucket cannot be used: {0}")]
    Store(String),
    /// The store refuses for good.
    #[error("the ring's bucket cannot be used: {0}")]
    Refused(String),
}

impl From<ReadMetaError> for MetaError {
    fn from(error: ReadMetaError) -> Self {
        match error {
            ReadMetaError::Unreadable(reason) => Self::Unreadable(reason),
            ReadMetaError::Store(reason) => Self::Store(reason),
        }
    }
}

/// Reads `meta`, or creates it; agrees with it, or says what differs. With `after`, the shape this node knew before the
/// store was found rolled back or another one, the answered generation is a later one.
pub(super) async fn agree(
    parts: &NodeParts,
    after: Option<&RingShape>,
) -> Result<(RingShape, StoreIdentity), MetaError> {
    loop {
        let store = &*parts.store;
        let found = read_meta(store).await?;
        let wanted = match &found {
            Some((_, meta)) => {
                let shape = check(parts, meta)?;
                let identity = store.identity().await.map_err(|error| MetaError::Store(error.to_string()))?;
                match after {
                    Some(before)
                        if shape.generation <= before.generation
                            && shape.nonce == before.nonce
                            && guard::holds(Guard::NextGeneration) =>
                    {
                        Meta { generation: before.generation.next(), ..meta.clone() }
                    }
                    _ => return Ok((shape, identity)),
                }
            }
            None => {
                match created::write(parts, TIMEOUT).await {
                    Ok(()) => {}
                    Err(CasError::Refused(reason)) => return Err(MetaError::Refused(reason)),
                    Err(error) => {
                        tracing::warn!(%error, "config not written yet");
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                }
                first(parts, after)
            }
        };
        let expected = found.map_or(Revision::NONE, |(revision, _)| revision);
        let written = store.cas(&Key::Meta.text(), expected, Record::Meta(wanted).encode(), TIMEOUT).await;
        match written {
            // Read back in any case: somebody else may have been first.
            Ok(_) | Err(CasError::Conflict) => {}
            Err(CasError::Refused(reason)) => return Err(MetaError::Refused(reason)),
            Err(error) => {
                tracing::warn!(%error, "meta not written yet");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn first(parts: &NodeParts, after: Option<&RingShape>) -> Meta {
    Meta {
        nonce: after.map_or_else(|| parts.chance.uuid(), |shape| shape.nonce),
        generation: after.map_or(Generation::new(1), |shape| shape.generation.next()),
        partitions: parts.partitions,
        key_hash: parts.key_hash,
    }
}

fn check(parts: &NodeParts, meta: &Meta) -> Result<RingShape, MetaError> {
    if meta.partitions != parts.partitions {
        return Err(MetaError::Disagrees {
            what: "partitions",
            ring: meta.partitions.get().to_string(),
            node: parts.partitions.get().to_string(),
            hint: "start it with the ring's value; the number of partitions is fixed when a ring is created",
        });
    }
    if meta.key_hash != parts.key_hash {
        return Err(MetaError::Disagrees {
            what: "key hash",
            ring: meta.key_hash.to_string(),
            node: parts.key_hash.to_string(),
            hint: "start it with the ring's value; the key hash is fixed when a ring is created",
        });
    }
    let Meta { nonce, generation, partitions, key_hash } = meta.clone();
    Ok(RingShape { nonce, generation, partitions, key_hash })
}
