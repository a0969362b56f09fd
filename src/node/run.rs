//! A node's life: agree with the ring, run an incarnation, and start over as a new one where that is safe.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::copies::{Kept, KeptCell, files};
use super::entrance::QueryBoard;
use super::events::EventSender;
use super::leave::Leave;
use super::meta::{self, MetaError};
use super::parts::{NodeParts, RingShape};
use super::session::{Command, Session};
use super::shown::Shown;
use crate::coord::{Position, StoreIdentity};
use crate::ring::{Former, Identity, Outcome, Timing};
use crate::rpc::Router;
use crate::service::Gate;
use crate::types::NodeId;

/// Pauses between looks at a store that cannot be used.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// Why a node ended other than by leaving.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The ring's `meta` does not fit.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// Another process holds the name.
    #[error(
        "the name '{}' is held by a live node (start {}): choose another name with --node, or stop that process first",
        holder.node, holder.incarnation.start
    )]
    NameLive {
        /// Which incarnation.
        holder: NodeId,
    },
    /// The drain did not finish; what was still owned is taken over by others.
    #[error("the drain did not finish in time; partitions still held are taken over by the others, their data is lost")]
    DrainIncomplete,
    /// A hook met its limit.
    #[error("a hook of the service met its limit; the lease was given up")]
    HookHung,
    /// A background task kept failing.
    #[error("{0}; the lease was given up")]
    GaveUp(String),
}

/// What the node's task works with.
pub(super) struct Life {
    pub(super) parts: Arc<NodeParts>,
    pub(super) router: Arc<Router>,
    pub(super) events: EventSender,
    pub(super) shown: watch::Sender<Shown>,
    pub(super) gates: watch::Sender<Arc<Gate>>,
    pub(super) commands: watch::Receiver<Command>,
    pub(super) queries: QueryBoard,
    pub(super) leave: Leave,
    /// What of the node's copies outlives its incarnations.
    pub(super) kept: KeptCell,
}

impl Life {
    /// Runs incarnations until the node is meant to end.
    pub(super) async fn run(self, mut shape: RingShape, mut identity: StoreIdentity) -> Result<(), NodeError> {
        let loaded = files::load(&self.parts, &shape).await;
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = loaded;
        let mut former = None;
        loop {
            let outcome = self.incarnation(&shape, &identity, former).run().await;
            former = self.shown.borrow().driven.as_ref().and_then(|driven| driven.machine().former());
            match outcome {
                Outcome::Left => {
                    files::save(&self.parts, &shape, Kept::take_all(&self.kept)).await;
                    return Ok(());
                }
                Outcome::DrainIncomplete => return Err(NodeError::DrainIncomplete),
                Outcome::NameLive { holder } => return Err(NodeError::NameLive { holder }),
                Outcome::HookHung => return Err(NodeError::HookHung),
                Outcome::GaveUp(reason) => return Err(NodeError::GaveUp(reason)),
                Outcome::Evicted => {}
                Outcome::StoreReset(reason) => {
                    tracing::warn!(reason, "the store is not what it was: the ring resumes under a new generation");
                    // The others act by what the store has forgotten until they hear of it: that does not wait for the
                    // service, which may take its time to let go of what it holds.
                    let dropped = Kept::drop_all(&self.kept, &*self.parts.service);
                    let (said, ()) = tokio::join!(self.agree_again(&shape), dropped);
                    said?;
                    // By then it may be yet another store, which nobody watched meanwhile.
                    match self.agree_again(&shape).await? {
                        Some(agreed) => (shape, identity) = agreed,
                        None => return Ok(()),
                    }
                }
            }
            if self.is_to_leave() {
                return Ok(());
            }
        }
    }

    fn is_to_leave(&self) -> bool {
        *self.commands.borrow() == Command::Drain || self.leave.asked.is_cancelled()
    }

    /// Agrees on the next generation, for as long as it takes the store to be there again: no reason to end. `None`
    /// where the node is to leave meanwhile: it owns nothing.
    async fn agree_again(&self, before: &RingShape) -> Result<Option<(RingShape, StoreIdentity)>, MetaError> {
        let mut pause = FIRST_PAUSE;
        while !self.is_to_leave() {
            let agreed = match self.parts.store.ensure().await {
                Ok(()) => meta::agree(&self.parts, Some(before)).await,
                Err(error) => Err(MetaError::Store(error.to_string())),
            };
            match agreed {
                Err(MetaError::Store(reason) | MetaError::Refused(reason)) => {
                    tracing::warn!(reason, "the ring's bucket cannot be used yet");
                }
                agreed => return agreed.map(Some),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
        Ok(None)
    }

    /// With how long the others are to reckon with this node.
    fn timing(&self) -> Timing {
        let returning = &self.parts.returning;
        let keeps_copies = self.parts.service.replicates();
        let only_if = |holds: bool, delay: Duration| if holds { delay } else { Duration::ZERO };
        Timing {
            returns_after_leaving: only_if(keeps_copies && returning.keep.is_some(), returning.delay),
            returns_after_eviction: only_if(keeps_copies, returning.evicted_delay),
            ..self.parts.timing.clone()
        }
    }

    fn incarnation(&self, shape: &RingShape, identity: &StoreIdentity, former: Option<Former>) -> Session {
        let parts = &self.parts;
        Session {
            parts: Arc::clone(parts),
            shape: shape.clone(),
            identity: identity.clone(),
            position: Position::default(),
            who: Identity {
                node: parts.node.clone(),
                incarnation_id: parts.chance.uuid(),
                generation: shape.generation,
                partitions: shape.partitions,
                zone: parts.zone.clone(),
                weight: parts.weight,
                http: parts.http.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                replicates: parts.service.replicates(),
                former,
            },
            timing: self.timing(),
            router: Arc::clone(&self.router),
            events: self.events.clone(),
            shown: self.shown.clone(),
            gates: self.gates.clone(),
            commands: self.commands.clone(),
            queries: self.queries.clone(),
            leave: self.leave.clone(),
            kept: Arc::clone(&self.kept),
        }
    }
}
