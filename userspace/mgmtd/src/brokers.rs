// SPDX-License-Identifier: MIT OR Apache-2.0

//! The brokers that the daemon hosts, each with a channel and a thread of its own.

use anyhow::{Context, Result};
use mgmt_broker::power::cap::Credit2;
use mgmt_broker::power::{self, PowerBroker};
use mgmt_channel::Channel;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Starts the power broker.
pub fn power(
    config: &power::Config,
    record: Option<&Path>,
    stop: Arc<AtomicBool>,
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
    let config = config.clone();
    Ok(std::thread::spawn(move || {
        // Dropped here, at the end, it waits until the guests are in their safe state.
        let actuator = Box::new(Credit2::default());
        let mut broker = PowerBroker::new(config, own, actuator, record);
        mgmt_broker::run(&mut broker, &channel, &|| stop.load(Ordering::Relaxed))
            .context("power broker")
    }))
}
