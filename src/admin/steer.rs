//! Changing `config`: by compare-and-set on what was read, again where somebody else was faster.

use super::answers::{Change, ConfigView};
use super::overview::idle_pin;
use super::state::State;
use super::{Admin, AdminError};
use crate::coord::{CasError, Key, Record, RingConfig};
use crate::types::{Consistency, Factor, NodeName, OnLoss, PartitionId};

/// How often a change is tried.
const TRIES: u32 = 8;

/// One wish of operators.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wish<'a> {
    Cordon(&'a NodeName),
    Uncordon(&'a NodeName),
    Pause,
    Resume,
    Pin(PartitionId, &'a NodeName),
    Unpin(PartitionId),
    Replicas(Factor),
    Consistency(Consistency),
    OnLoss(OnLoss),
}

impl Wish<'_> {
    /// Refuses names and numbers the ring does not have. Those that are in `config` by now can be taken out of it.
    fn check(&self, state: &State, config: &RingConfig) -> Result<(), AdminError> {
        let node = match self {
            Self::Cordon(node) | Self::Pin(_, node) => Some(*node),
            Self::Uncordon(node) if !config.cordoned.contains(*node) => Some(*node),
            _ => None,
        };
        let known = state.known_nodes();
        if let Some(node) = node.filter(|node| !known.contains(node)) {
            return Err(AdminError::UnknownNode { node: node.clone(), known });
        }
        let partition = match self {
            Self::Pin(partition, _) => Some(*partition),
            Self::Unpin(partition) if !config.pins.contains_key(partition) => Some(*partition),
            _ => None,
        };
        let partitions = state.partitions();
        match partition.filter(|partition| !partitions.contains(*partition)) {
            Some(partition) => Err(AdminError::UnknownPartition { partition, partitions }),
            None => Ok(()),
        }
    }

    fn apply(&self, config: &mut RingConfig) {
        match *self {
            Self::Cordon(node) => _ = config.cordoned.insert(node.clone()),
            Self::Uncordon(node) => _ = config.cordoned.remove(node),
            Self::Pause => config.paused = true,
            Self::Resume => config.paused = false,
            Self::Pin(partition, node) => _ = config.pins.insert(partition, node.clone()),
            Self::Unpin(partition) => _ = config.pins.remove(&partition),
            Self::Replicas(replicas) if config.factor() == replicas => {}
            Self::Replicas(replicas) => config.replicas = Some(replicas),
            Self::Consistency(consistency) => config.consistency = consistency,
            Self::OnLoss(on_loss) => config.on_loss = on_loss,
        }
    }

    /// What an operator should know of its effect.
    fn notes(&self, state: &State, config: &RingConfig) -> Vec<String> {
        let mut notes = Vec::new();
        if let Self::Pin(partition, node) = *self {
            notes.extend(idle_pin(state, partition, node));
        }
        if config.paused && matches!(self, Self::Uncordon(_) | Self::Unpin(_)) {
            notes.push("rebalancing is paused: nothing moves for this before it is resumed".to_owned());
        }
        if matches!(self, Self::Replicas(_) | Self::Consistency(_)) {
            notes.extend(want_of_nodes(state, config));
        }
        let members = state.live_members();
        let mut taking = members.iter().filter(|member| !member.draining);
        if matches!(self, Self::Cordon(_)) && taking.all(|member| config.cordoned.contains(&member.id.node)) {
            notes.push("every live node is cordoned: what nobody owns goes to them all the same".to_owned());
        }
        notes
    }
}

impl Admin {
    /// Carries a wish out.
    pub(super) async fn wish(&self, wish: Wish<'_>) -> Result<Change, AdminError> {
        let mut tried = false;
        for _ in 0..TRIES {
            let state = self.read().await?;
            let current = editable(&state)?;
            wish.check(&state, &current)?;
            let mut wanted = current.clone();
            wish.apply(&mut wanted);
            // Where it is so already after a write without an answer, that write has landed.
            let mut changed = tried;
            if wanted != current {
                let value = Record::Config(Ok(wanted.clone())).encode();
                match self.store.cas(&Key::Config.text(), state.config_revision, value, self.timeout).await {
                    Ok(_) => changed = true,
                    Err(CasError::Conflict) => continue,
                    Err(CasError::Unknown(_)) => {
                        tried = true;
                        continue;
                    }
                    Err(error @ (CasError::Refused(_) | CasError::NotSent(_))) => {
                        return Err(AdminError::Store(error.to_string()));
                    }
                }
            }
            let config = ConfigView::from(&wanted);
            return Ok(Change { changed, config, notes: wish.notes(&state, &wanted) });
        }
        Err(AdminError::Contended { key: Key::Config.text(), tries: TRIES })
    }
}

/// What there are too few nodes for, if anything.
fn want_of_nodes(state: &State, config: &RingConfig) -> Vec<String> {
    let members = state.live_members();
    let older = members.iter().find(|member| !member.replicates).map(|member| &member.id.node);
    if let Some(older) = older {
        return vec![format!("no copies are kept while '{older}' runs a release or a service that keeps none")];
    }
    let (nodes, factor) = (members.iter().filter(|member| !member.draining).count(), config.factor().get());
    let mut notes = Vec::new();
    if nodes < factor {
        notes.push(format!("never more copies than nodes: {nodes} of {factor} are kept until more nodes join"));
    }
    let needed = config.consistency.copies_needed(factor);
    if nodes < needed {
        let level = config.consistency;
        notes.push(format!(
            "{level} needs {needed} copies, there are {nodes} nodes: requests that name no other consistency are refused until more \
             join"
        ));
    }
    notes
}

/// What a change begins with: fields of other releases included.
fn editable(state: &State) -> Result<RingConfig, AdminError> {
    match &state.config {
        Some(Ok(config)) => Ok(config.clone()),
        Some(Err(reason)) => Err(AdminError::Unreadable {
            key: Key::Config.text(),
            reason: format!("{reason}; mend it, or delete the key: then what the plan was made with holds"),
        }),
        None => Ok(state.config_in_force()),
    }
}
