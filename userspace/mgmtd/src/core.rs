// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the daemon's threads share.

use crate::apps::Apps;
use crate::metrics::Metrics;
use crate::policies::Policies;
use mgmt_maker::{Governor, since_boot_ms};
use mgmt_state::State;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What the daemon's threads share.
pub struct Core {
    pub state: Arc<State>,
    pub governor: Arc<Governor>,
    pub policies: Policies,
    pub apps: Apps,
    pub metrics: Metrics,
    /// The names of the brokers that are hosted.
    pub brokers: Vec<String>,
    /// All shall end.
    pub stop: Arc<AtomicBool>,
    /// When it was started, milliseconds since boot.
    pub started: u64,
}

impl Core {
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// A thread's signs of life.
pub struct Pulse(AtomicU64);

impl Pulse {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(since_boot_ms())))
    }

    /// It is alive.
    pub fn beat(&self) {
        self.0.store(since_boot_ms(), Ordering::Relaxed);
    }

    /// Milliseconds since it was last known to be.
    pub fn age_ms(&self) -> u64 {
        since_boot_ms().saturating_sub(self.0.load(Ordering::Relaxed))
    }
}
