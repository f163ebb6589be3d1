// SPDX-License-Identifier: MIT OR Apache-2.0

//! The brokers that the daemon hosts, each with a channel and a thread of its own.

use crate::core::{Core, Pulse};
use anyhow::{Context, Result};
use mgmt_broker::power::{self, PowerBroker};
use mgmt_broker::{Agent, Broker, Ended, Outbox};
use mgmt_channel::{Channel, Message};
use mgmt_maker::Governed;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The power broker, with what the daemon adds: as long as its thread lives, its leases are renewed,
/// and goals that change are taken over.
struct Managed {
    broker: PowerBroker,
    core: Arc<Core>,
    pulse: Arc<Pulse>,
    renewed: Instant,
    /// Between two renewals.
    every: Duration,
}

impl Broker for Managed {
    fn established(&mut self, agent: &Agent, message: &Message) -> Option<Vec<u8>> {
        self.broker.established(agent, message)
    }

    fn received(&mut self, agent: &Agent, message: &Message, out: &mut Outbox<'_>) {
        self.broker.received(agent, message, out);
    }

    fn ended(&mut self, agent: &Agent, why: Ended) {
        self.broker.ended(agent, why);
    }

    fn tick(&mut self, now: Instant, out: &mut Outbox<'_>) {
        self.pulse.beat();
        if let Some(config) = self.core.apps.power_news() {
            tracing::info!(broker = power::APP, "other goals");
            self.broker.reconfigure(config);
        }
        if now.saturating_duration_since(self.renewed) >= self.every {
            self.renewed = now;
            if let Err(error) = self.core.governor.renew(power::APP) {
                tracing::error!(%error, "cannot renew leases");
            }
        }
        self.broker.tick(now, out);
    }

    fn interval(&self) -> Duration {
        self.broker.interval()
    }
}

/// Starts the power broker. What it holds returns to its safe default `lease_ms` after its thread's
/// last sign of life.
pub fn power(
    core: &Arc<Core>,
    record: Option<&Path>,
    lease_ms: u32,
    pulse: Arc<Pulse>,
) -> Result<JoinHandle<Result<()>>> {
    let channel = Channel::open()?
        .bound(power::APP)
        .context("the power broker's channel")?;
    let own = channel.info()?.component;
    let record = match record {
        None => None,
        Some(path) => {
            let file = File::create(path);
            let file = file.with_context(|| format!("creating {}", path.display()))?;
            Some(Box::new(file) as Box<dyn Write + Send>)
        }
    };
    let config = core.apps.power().context("goals of the power broker")?;
    let core = Arc::clone(core);
    Ok(std::thread::spawn(move || {
        let governor = Arc::clone(&core.governor);
        let cap = Governed::new(governor, power::APP, crate::apps::CPU_CAP, lease_ms);
        // Dropped here, at the end, it waits until the guests are in their safe state.
        let broker = PowerBroker::new(config, own, Box::new(cap), record);
        let mut managed = Managed {
            broker,
            core: Arc::clone(&core),
            pulse,
            renewed: Instant::now(),
            every: Duration::from_millis(u64::from(lease_ms) / 3),
        };
        mgmt_broker::run(&mut managed, &channel, &|| core.stopping()).context("power broker")
    }))
}
