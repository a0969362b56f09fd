//! Consistency levels: whether there are enough copies for a request, and waiting until they have what it wrote or read.

use super::limits::bad_request;
use crate::service::{Copies, Grant, NOT_ENOUGH_REPLICAS, ServiceError, UNKNOWN};
use crate::types::{Consistency, Version};

/// How many copies the partition has, and what its ring asks for.
pub(super) fn copies(grant: &Grant) -> Copies {
    grant.log().map_or(Copies::ONE, |log| log.copies())
}

/// Refuses, before anything is executed, what too few copies are in sync for; answers the level in force.
pub(super) fn check(grant: &Grant, asked: Option<Consistency>) -> Result<Consistency, ServiceError> {
    let copies = copies(grant);
    let level = asked.unwrap_or(copies.consistency);
    if copies.suffice_for(level) {
        return Ok(level);
    }
    let Copies { in_sync, factor, .. } = copies;
    let (partition, needed) = (grant.partition, level.copies_needed(factor));
    Err(ServiceError::new(
        NOT_ENOUGH_REPLICAS,
        format!(
            "{level} needs {needed} copies of partition {partition} in sync (the ring keeps {factor}), there are {in_sync}: \
             nothing was executed; try again once more nodes are in the ring, or ask for a lower consistency"
        ),
    ))
}

/// Waits until everything up to `version` is where `level` wants it.
pub(super) async fn settle(grant: &Grant, level: Consistency, version: Version) -> Result<(), ServiceError> {
    if level == Consistency::Eventual {
        return Ok(());
    }
    let Some(log) = grant.log() else { return Ok(()) };
    let partition = grant.partition;
    match log.committed(version).await {
        Ok(copies) if copies.suffice_for(level) => Ok(()),
        Ok(Copies { in_sync, factor, .. }) => Err(ServiceError::new(
            UNKNOWN,
            format!(
                "it was executed, but of {factor} copies of partition {partition} only {in_sync} have it: {level} is not \
                 reached; a copy was lost at that moment"
            ),
        )),
        Err(error) => Err(ServiceError::new(UNKNOWN, format!("partition {partition}: {error}"))),
    }
}

/// What the caller of a refused request is told: the refusal once the write that it was judged by is where `level` wants it, like
/// any other reading of it; before that, it may still be lost.
pub(super) async fn settle_refusal(
    grant: &Grant,
    level: Consistency,
    judged_by: Version,
    refusal: ServiceError,
) -> ServiceError {
    if settle(grant, level, judged_by).await.is_ok() {
        return refusal;
    }
    let (partition, code) = (grant.partition, refusal.code);
    let message = format!(
        "what it was judged by ({code}) is not on as many copies of partition {partition} as {level} needs: nothing was executed; \
         try again"
    );
    ServiceError::new(NOT_ENOUGH_REPLICAS, message)
}

/// The level a request names.
pub(super) fn parse(what: &str, text: &str) -> Result<Consistency, ServiceError> {
    text.parse().map_err(|error| bad_request(format!("{what}: {error}")))
}
