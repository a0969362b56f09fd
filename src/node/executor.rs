//! Carries out the machine's actions: none of them waits here; what takes time becomes a task whose outcome goes back
//! as an input.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::copies::{Copies, Heritage, Led, LedLog, SwitchHead, Unwanted};
use super::entrance::Entrance;
use super::hooks::{Hooks, caught};
use super::offers::{Handed, Pending};
use super::own_lease;
use super::parts::{NodeParts, RingShape};
use super::readers::Readers;
use super::supervise::Supervisor;
use super::transfer::{self, Sent, seal_verdict};
use crate::coord::{CasError, Key, Position, Record, Revision};
use crate::ring::{Action, Input, Offer, OpId, Origin};
use crate::rpc::envelope::OfferHead;
use crate::rpc::subject::Intent;
use crate::rpc::{Message, RouteTable, subject};
use crate::service::{Gate, Grant, NotCommitted, Release, Validity};
use crate::types::guard::{self, Guard};
use crate::types::{Epoch, FencingToken, NodeId, PartitionId};

/// How long a target may take to answer an offer. (Its claim shows in the watch, answered or not.)
const OFFER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long requests that run may take when the incarnation ends.
const SERVER_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A stream of state to the target of a move.
pub(super) struct Outgoing {
    stop: CancellationToken,
    sent: Arc<Mutex<Option<Sent>>>,
}

/// Hands and tools of one incarnation.
pub(super) struct Executor {
    pub(super) parts: Arc<NodeParts>,
    pub(super) shape: RingShape,
    /// What this incarnation has seen of the store.
    pub(super) position: Position,
    pub(super) me: NodeId,
    pub(super) hooks: Arc<Hooks>,
    pub(super) readers: Arc<Readers>,
    pub(super) entrance: Arc<Entrance>,
    pub(super) gate: Arc<Gate>,
    pub(super) supervisor: Supervisor,
    pub(super) table: RouteTable,
    pub(super) routes: Vec<(PartitionId, Option<(NodeId, Epoch)>)>,
    pub(super) grants: HashMap<PartitionId, (Grant, Arc<Validity>)>,
    /// State that came with an accepted offer, for the epoch it is claimed at.
    pub(super) handed: HashMap<PartitionId, (Epoch, Handed)>,
    pub(super) transfers: HashMap<PartitionId, Outgoing>,
    pub(super) copies: Arc<Copies>,
    /// Copies that belong here no more, whose owner is asked.
    pub(super) leaving: HashMap<PartitionId, CancellationToken>,
    /// Whether discovery is to be told of other partitions at the end of this turn.
    pub(super) partitions_changed: bool,
}

impl Executor {
    pub(super) fn carry_out(&mut self, action: Action) {
        match action {
            Action::Cas { op, key, expected, record, heartbeat, subscribe, timeout } => {
                self.cas(Write { op, key, expected, record, timeout }, heartbeat, subscribe);
            }
            Action::OpenGate(until) => self.gate.open_until(until),
            Action::CloseGate => self.gate.close(),
            Action::Route { partition, owner } => self.routes.push((partition, owner)),
            Action::Park { partition, epoch } => {
                self.publish_routes();
                self.entrance.server.park_partition(partition, epoch);
            }
            Action::Serve { partition, epoch } => self.serve(partition, epoch),
            Action::Forward { partition } => {
                self.publish_routes();
                self.entrance.server.forward_partition(partition);
            }
            Action::Revoke { partition } => {
                if let Some((_, validity)) = self.grants.get(&partition) {
                    validity.revoke();
                }
            }
            Action::Unsubscribe { partition } => self.readers.close_partition(&self.parts.ring, partition),
            Action::OnOwn { op, grants, origin } => self.own(op, &grants, origin),
            Action::OnRelease { op, grants, why } => self.release(op, &grants, why),
            Action::Transfer { partition, epoch, to, in_sync: false } => self.transfer(partition, epoch, &to),
            Action::Transfer { partition, epoch, in_sync: true, .. } => self.settle(partition, epoch),
            Action::Replicate { op, partition, epoch, copies } => self.copies.replicate(op, partition, epoch, copies),
            Action::Recover { partition, epoch, survivors } => self.recover(partition, epoch, survivors),
            Action::Copy { partition, epoch, wanted } => self.keep_copy(partition, epoch, wanted),
            Action::SendOffer { to, offer } => self.send_offer(&to, offer),
            Action::AnswerOffer { op, result } => self.answer_offer(op, result),
            Action::LetGo { peers } => self.let_go(peers),
            Action::Discard { partition } => self.discard(partition, Epoch::ZERO),
            Action::WatchLeases(_) | Action::Emit(_) | Action::Finish(_) => {}
        }
    }

    /// Routes seen in this turn, all at once, and whatever waited for them.
    pub(super) fn publish_routes(&mut self) {
        if self.routes.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut self.routes);
        let partitions: Vec<PartitionId> = changes.iter().map(|(partition, _)| *partition).collect();
        self.table.update(changes);
        self.entrance.server.routes_changed(&partitions);
    }

    /// The turn of the loop ends: what is told once for all of its actions.
    pub(super) fn end_turn(&mut self) {
        self.publish_routes();
        if std::mem::take(&mut self.partitions_changed) {
            self.tell_partitions();
        }
    }

    fn later(&self, input: impl Future<Output = Input> + Send + 'static) {
        let inputs = self.entrance.inputs.clone();
        self.supervisor.once(async move {
            let _ = inputs.send(input.await).await;
        });
    }

    fn tell(&self, input: Input) {
        self.later(std::future::ready(input));
    }

    fn cas(&self, write: Write, heartbeat: bool, subscribe: Option<PartitionId>) {
        let parts = Arc::clone(&self.parts);
        let (readers, position) = (Arc::clone(&self.readers), self.position.clone());
        let own_lease = matches!(&write.key, Key::Lease(node) if *node == self.me.node);
        let inputs = self.entrance.inputs.clone();
        self.later(async move {
            let store = if heartbeat { &parts.heartbeat_store } else { &parts.store };
            if let Some(partition) = subscribe.filter(|_| guard::holds(Guard::SubscribeFirst))
                && let Err(error) = readers.open_partition(&parts.ring, partition).await
            {
                // Nothing was written; tried again as any write without an outcome.
                return Input::Cas { op: write.op, result: Err(CasError::Unknown(error.to_string())) };
            }
            let result = store.cas(&write.key.text(), write.expected, write.record.encode(), write.timeout).await;
            _ = result.as_ref().map(|revision| position.saw(*revision));
            if own_lease && result == Err(CasError::Conflict) {
                own_lease::look_up(&**store, &write.key, write.timeout, &position, &inputs).await;
            }
            if let Some(partition) = subscribe.filter(|_| !guard::holds(Guard::SubscribeFirst)) {
                let _ = readers.open_partition(&parts.ring, partition).await;
            }
            Input::Cas { op: write.op, result }
        });
    }

    fn new_grant(&mut self, partition: PartitionId, epoch: Epoch) -> Grant {
        let token = FencingToken {
            ring: self.shape.nonce,
            generation: self.shape.generation,
            epoch,
            incarnation: self.me.incarnation,
        };
        let validity = Validity::new(Arc::clone(&self.gate));
        let grant = Grant::new(partition, token, Arc::clone(&validity));
        self.grants.insert(partition, (grant.clone(), validity));
        grant
    }

    fn serve(&mut self, partition: PartitionId, epoch: Epoch) {
        self.publish_routes();
        self.handed.remove(&partition);
        match self.grants.get(&partition) {
            Some((grant, _)) if grant.epoch() == epoch => {
                self.entrance.server.serve_partition(grant.clone());
                self.partitions_changed = true;
            }
            _ => tracing::error!(%partition, %epoch, "no grant of this epoch: not served"),
        }
    }

    /// What `nats micro stats` shows beside the figures of each endpoint.
    fn tell_partitions(&self) {
        let mut partitions: Vec<PartitionId> = self.grants.keys().copied().collect();
        partitions.sort_unstable();
        for operation in self.hooks.service().operations() {
            self.entrance.micro.set_data(operation, serde_json::json!({ "partitions": partitions }));
        }
    }

    fn own(&mut self, op: OpId, owned: &[(PartitionId, Epoch)], origin: Origin) {
        for (partition, _) in owned {
            if let Some(outgoing) = self.transfers.remove(partition) {
                outgoing.stop.cancel();
            }
        }
        let grants: Result<Vec<Grant>, String> =
            owned.iter().map(|(partition, epoch)| self.begin_grant(*partition, *epoch, origin)).collect();
        let partitions: Vec<PartitionId> = owned.iter().map(|(partition, _)| *partition).collect();
        let handed = if origin == Origin::Switch { self.handed_for(owned) } else { Ok(Vec::new()) };
        let hooks = Arc::clone(&self.hooks);
        let clock = Arc::clone(&self.parts.clock);
        let work = async move { hooks.own(grants?, handed?, &*clock).await };
        let call = self.hooks.enqueue(&partitions, work);
        self.later(async move { Input::Hook { op, result: call.await } });
    }

    /// The grant that the service is given, with a log where copies are kept.
    fn begin_grant(&mut self, partition: PartitionId, epoch: Epoch, origin: Origin) -> Result<Grant, String> {
        if !self.parts.service.replicates() {
            return Ok(self.new_grant(partition, epoch));
        }
        // Taken over, it was brought together under this epoch already.
        let led = match self.copies.led(partition, epoch) {
            Some(led) => led,
            None => self.lead(partition, epoch, origin)?,
        };
        let Some((grant, _)) = self.grants.get_mut(&partition) else { return Err("its grant is over".to_owned()) };
        *grant = grant.clone().with_log(Arc::new(LedLog(led)));
        Ok(grant.clone())
    }

    fn lead(&mut self, partition: PartitionId, epoch: Epoch, origin: Origin) -> Result<Arc<Led>, String> {
        let handed = self.handed.get(&partition).is_some_and(|(at, _)| *at == epoch);
        let heritage = match origin {
            Origin::Switch if handed => Heritage::Handed,
            Origin::Switch | Origin::Abandoned => Heritage::Copy,
            Origin::Initial | Origin::Takeover => Heritage::None,
        };
        let grant = self.new_grant(partition, epoch);
        self.copies.lead(&grant, heritage)
    }

    /// Gathers what the surviving copies of a partition have.
    fn recover(&mut self, partition: PartitionId, epoch: Epoch, survivors: Vec<NodeId>) {
        let grant = self.new_grant(partition, epoch);
        let copies = Arc::clone(&self.copies);
        self.later(async move {
            let result = caught(copies.recover(&grant, survivors)).await.and_then(|result| result);
            Input::Recovered { partition, epoch, result }
        });
    }

    /// Every member has what there is: the target of a switch among them.
    fn settle(&mut self, partition: PartitionId, epoch: Epoch) {
        let stop = CancellationToken::new();
        self.transfers.insert(partition, Outgoing { stop: stop.clone(), sent: Arc::default() });
        let led = self.copies.led(partition, epoch);
        self.later(async move {
            let result = match led {
                Some(led) => stop.run_until_cancelled(led.settled()).await.unwrap_or(Err(NotCommitted)),
                None => Err(NotCommitted),
            };
            let result = result.map_err(|_| "its copies could not be brought up to date".to_owned());
            Input::Transferred { partition, epoch, result: result.map(|_| 0) }
        });
    }

    /// The partition is another node's. What was owned here, or copied, stays as a copy or goes.
    fn keep_copy(&mut self, partition: PartitionId, epoch: Epoch, wanted: bool) {
        // What was ordered before counts no more.
        if let Some(leaving) = self.leaving.remove(&partition) {
            leaving.cancel();
        }
        if self.grants.get(&partition).is_some_and(|(grant, _)| grant.epoch() < epoch) {
            self.end_grant(partition);
        }
        if wanted || self.copies.holds_on() {
            return self.copies.follow(partition, epoch);
        }
        match self.copies.drop_unwanted(partition, epoch) {
            Unwanted::Keep => {}
            Unwanted::Drop => self.end_grant(partition),
            Unwanted::Ask { .. } => self.ask_to_leave(partition, epoch),
        }
    }

    fn ask_to_leave(&mut self, partition: PartitionId, epoch: Epoch) {
        // The claim that says so may be one of this turn's.
        self.publish_routes();
        let (table, copies, stop) = (self.table.clone(), Arc::clone(&self.copies), CancellationToken::new());
        self.leaving.insert(partition, stop.clone());
        self.supervisor.once(async move {
            let owner = || table.route(partition).filter(|route| route.epoch == epoch).map(|route| route.owner);
            stop.run_until_cancelled(copies.leave(partition, epoch, owner)).await;
        });
    }

    /// Ends the right to act for a partition, and what was under way for it.
    fn end_grant(&mut self, partition: PartitionId) {
        self.handed.remove(&partition);
        if let Some(outgoing) = self.transfers.remove(&partition) {
            outgoing.stop.cancel();
        }
        if let Some((_, validity)) = self.grants.remove(&partition) {
            validity.revoke();
            self.partitions_changed = true;
        }
    }

    /// What came with the offers of these. A partition taken over by a switch is never started without it.
    fn handed_for(&self, owned: &[(PartitionId, Epoch)]) -> Result<Vec<(PartitionId, Handed)>, String> {
        let find = |(partition, epoch): &(PartitionId, Epoch)| match self.handed.get(partition) {
            Some((handed_at, handed)) if handed_at == epoch => Ok((*partition, handed.clone())),
            // Without chunks: the copy that is here is the state.
            _ if self.parts.service.replicates() => {
                Ok((*partition, Handed { chunks: Vec::new(), made: self.parts.clock.now() }))
            }
            _ => Err(format!("the state of partition {partition} for epoch {epoch} is not here")),
        };
        let handed: Result<Vec<_>, String> = owned.iter().map(find).collect();
        // No chunks: a service without state.
        handed.map(|all| all.into_iter().filter(|(_, handed)| !handed.chunks.is_empty()).collect())
    }

    fn release(&mut self, op: OpId, released: &[(PartitionId, Epoch)], why: Release) {
        let partitions: Vec<PartitionId> = released.iter().map(|(partition, _)| *partition).collect();
        let grants = partitions.iter().filter_map(|p| self.grants.get(p)).map(|(grant, _)| grant.clone()).collect();
        let hooks = Arc::clone(&self.hooks);
        let work = async move { hooks.release(grants, why).await };
        let call = self.hooks.enqueue(&partitions, work);
        self.later(async move { Input::Hook { op, result: call.await } });
    }

    fn transfer(&mut self, partition: PartitionId, epoch: Epoch, to: &NodeId) {
        let Some((grant, _)) = self.grants.get(&partition).cloned() else { return };
        let stop = CancellationToken::new();
        let sent = Arc::new(Mutex::new(None));
        self.transfers.insert(partition, Outgoing { stop: stop.clone(), sent: Arc::clone(&sent) });
        let (bus, service) = (Arc::clone(&self.parts.bus), Arc::clone(self.hooks.service()));
        let subject = subject::node(&self.parts.ring, to);
        let stream = self.parts.chance.number();
        let clock = Arc::clone(&self.parts.clock);
        let work = async move { transfer::send(&*bus, &*service, &grant, &*clock, (&subject, stream)).await };
        let call = self.hooks.enqueue(&[partition], stop.run_until_cancelled_owned(work));
        self.later(async move {
            let result = call.await.unwrap_or_else(|| Err("given up".to_owned())).map(|outcome| {
                *sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(outcome);
                outcome.bytes
            });
            Input::Transferred { partition, epoch, result }
        });
    }

    fn send_offer(&self, to: &NodeId, offer: Offer) {
        if !offer.replicas.is_empty() {
            return self.send_switch(to, offer);
        }
        let sent = self.transfers.get(&offer.partition).map(|outgoing| Arc::clone(&outgoing.sent));
        let sent = sent.and_then(|sent| *sent.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        let Offer { partition, epoch, revision, from, .. } = offer;
        let Some(Sent { stream, chunks, made, .. }) = sent else {
            let reason = "what was sent is not known any more".to_owned();
            return self.tell(Input::OfferRefused { partition, epoch, reason });
        };
        let age = self.parts.clock.now().since(made);
        let age_ms = u32::try_from(age.as_millis()).unwrap_or(u32::MAX);
        let head = OfferHead { partition, epoch, revision, from, stream, chunks, age_ms };
        let (bus, inputs) = (Arc::clone(&self.parts.bus), self.entrance.inputs.clone());
        let subject = subject::node(&self.parts.ring, to);
        self.supervisor.once(async move {
            if let Err(reason) = transfer::offer(&*bus, &subject, Intent::Offer, &head, OFFER_TIMEOUT).await {
                let _ = inputs.send(Input::OfferRefused { partition, epoch, reason }).await;
            }
        });
    }

    fn send_switch(&self, to: &NodeId, offer: Offer) {
        let Offer { partition, epoch, revision, from, replicas } = offer;
        let Some(tail) = self.copies.led(partition, epoch).and_then(|led| led.tail()) else {
            let reason = "it is not led here any more".to_owned();
            return self.tell(Input::OfferRefused { partition, epoch, reason });
        };
        let head = SwitchHead { partition, epoch, revision, from, tail, replicas };
        let (bus, inputs) = (Arc::clone(&self.parts.bus), self.entrance.inputs.clone());
        let subject = subject::node(&self.parts.ring, to);
        self.supervisor.once(async move {
            if let Err(reason) = transfer::offer(&*bus, &subject, Intent::Switch, &head, OFFER_TIMEOUT).await {
                let _ = inputs.send(Input::OfferRefused { partition, epoch, reason }).await;
            }
        });
    }

    fn answer_offer(&mut self, op: OpId, result: Result<(), String>) {
        let Some(Pending { reply: subject, partition, epoch, handed }) = self.entrance.offers.take(op) else { return };
        if result.is_ok()
            && let Some(handed) = handed
        {
            self.handed.insert(partition, (epoch.next(), handed));
        }
        let bus = Arc::clone(&self.parts.bus);
        self.supervisor.once(async move {
            let message = Message { subject, payload: seal_verdict(&result), ..Message::default() };
            // Unanswered, the offer is settled by the claim or by its deadline.
            let _ = bus.publish(message).await;
        });
    }

    /// What is held of the partition goes, whose owner is known up to this epoch.
    fn discard(&mut self, partition: PartitionId, known: Epoch) {
        self.end_grant(partition);
        if !guard::holds(Guard::DiscardAfterLoss) {
            return;
        }
        if self.parts.service.replicates() {
            return self.copies.drop_copy(partition, known);
        }
        let service = Arc::clone(self.hooks.service());
        let work = async move { service.discard(partition).await };
        self.supervisor.once(self.hooks.enqueue(&[partition], work));
    }

    fn let_go(&self, peers: Vec<NodeId>) {
        let (readers, parts) = (Arc::clone(&self.readers), Arc::clone(&self.parts));
        let epochs = self.table.epochs();
        self.later(async move {
            readers.let_go().await;
            let peers = peers.iter().filter(|_| guard::holds(Guard::Farewell));
            let farewells =
                peers.map(|peer| transfer::farewell(&*parts.bus, subject::node(&parts.ring, peer), &epochs));
            futures::future::join_all(farewells).await;
            Input::LetGone
        });
    }

    /// Ends: what is still held back is refused, what runs may finish, nobody listens any more.
    pub(super) async fn close(mut self) {
        self.publish_routes();
        self.gate.close();
        self.readers.stop().await;
        self.entrance.server.close(SERVER_CLOSE_TIMEOUT).await;
        // What was answered last is with the server before the connection goes.
        let _ = self.parts.bus.flush().await;
    }
}

/// A compare-and-set to be sent.
struct Write {
    op: OpId,
    key: Key,
    expected: Revision,
    record: Record,
    timeout: Duration,
}
