//! Operators of the simulated world: they pause, cordon and pin at any time, and some write what nobody can read.

use rand::RngExt;

use super::checker::Checked;
use super::faults::Fault;
use super::store::Writing;
use super::{Due, World};
use crate::coord::{Key, OnLoss, Record, Revision, RingConfig};
use crate::ring::io::OpId;
use crate::types::{Factor, NodeName};

impl World {
    pub(super) fn schedule_wishes(&mut self) {
        if self.chance(60) {
            return;
        }
        for _ in 0..self.rng.random_range(1..=4) {
            let at = self.rng.random_range(0..self.odds.trouble_for);
            self.due_at(at, Due::Fault(Fault::Wish));
        }
    }

    /// Operators write anything that can be written.
    pub(super) fn wish(&mut self) -> Checked {
        if self.chance(10) {
            return self.write_config(Err("malformed".to_owned()));
        }
        let mut config = RingConfig::default();
        config.paused = self.chance(40);
        let names: Vec<NodeName> = self.processes.iter().map(|process| process.name.clone()).collect();
        config.cordoned = names.iter().filter(|_| self.chance(25)).cloned().collect();
        for partition in self.partitions.ids() {
            if self.chance(20) {
                let node = self.rng.random_range(0..names.len());
                config.pins.insert(partition, names[node].clone());
            }
        }
        if self.replicates {
            config.replicas = Factor::new(self.rng.random_range(1..=4)).ok();
            config.on_loss = if self.chance(30) { OnLoss::Wait } else { OnLoss::Accept };
        }
        self.write_config(Ok(config))
    }

    /// In half of the worlds operators take everything back as all heals.
    pub(super) fn wish_no_more(&mut self) -> Checked {
        let wished = self.kv.records.contains_key(&Key::Config);
        if wished && self.chance(50) {
            return self.write_config(Ok(RingConfig::default()));
        }
        // What waits for a loss to be accepted would wait for ever.
        match self.wished() {
            Some(mut config) if config.on_loss == OnLoss::Wait => {
                config.on_loss = OnLoss::Accept;
                self.write_config(Ok(config))
            }
            None if self.replicates => self.write_config(Ok(RingConfig::default())),
            _ => Ok(()),
        }
    }

    fn write_config(&mut self, config: Result<RingConfig, String>) -> Checked {
        self.note(|| format!("operators: {config:?}"));
        let (key, record, expected) = (Key::Config, Record::Config(config), Revision::NONE);
        self.write(&Writing { process: 0, session: 0, op: OpId(0), key, expected, record, answer_by: None }).map(drop)
    }

    /// What operators want now; `None` where that cannot be read.
    pub(super) fn wished(&self) -> Option<RingConfig> {
        match self.kv.records.get(&Key::Config) {
            Some((_, Record::Config(config))) => config.clone().ok(),
            _ => Some(RingConfig::default()),
        }
    }

    /// A partition that is not where the plan wants it.
    pub(super) fn unplanned(&self) -> Option<String> {
        let Some((_, Record::Plan(plan))) = self.kv.records.get(&Key::Plan) else { return None };
        let elsewhere = self.partitions.ids().find(|partition| {
            let owner = self.kv.claim(*partition).and_then(|claim| claim.holder()).map(|id| &id.node);
            plan.rows[partition.index()].first() != owner
        });
        elsewhere.map(|partition| format!("partition {partition} is not where the plan wants it: {:?}", plan.rows))
    }

    /// A pin to a live node that is not met.
    pub(super) fn unmet_pin(&self) -> Option<String> {
        let pins = self.wished()?.pins;
        let unmet = pins.iter().find(|(partition, node)| {
            let pinned = self.processes.iter().find(|p| p.machine.is_some() && p.name == **node);
            pinned.is_some_and(|process| process.executes(**partition, self.now).is_none())
        });
        unmet.map(|(partition, node)| format!("partition {partition} is pinned to {node} and not there"))
    }
}
