// SPDX-License-Identifier: MIT OR Apache-2.0

//! The requests of an epoch.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Response times kept of one epoch; of more, only the counts are right.
const MAX: usize = 1 << 16;

/// Where a server enters its requests, and the agent takes them from.
#[derive(Debug, Default)]
pub struct Samples {
    epoch: Mutex<Epoch>,
    queued: AtomicU32,
}

#[derive(Debug, Default)]
struct Epoch {
    times_us: Vec<u32>,
    more: u32,
    rejected: u32,
}

/// What the requests of an epoch come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Answered or turned away.
    pub requests: u32,
    /// Slower than the SLA, or turned away.
    pub violations: u32,
    /// Turned away.
    pub rejected: u32,
    /// Median, microseconds.
    pub p50_us: u32,
    /// 95th percentile, microseconds.
    pub p95_us: u32,
    /// Maximum, microseconds.
    pub max_us: u32,
}

impl Samples {
    /// A request was answered, this long after it arrived.
    pub fn answered(&self, after: Duration) {
        let mut epoch = self.epoch.lock().unwrap_or_else(|e| e.into_inner());
        if epoch.times_us.len() < MAX {
            let us = u32::try_from(after.as_micros()).unwrap_or(u32::MAX);
            epoch.times_us.push(us);
        } else {
            epoch.more = epoch.more.saturating_add(1);
        }
    }

    /// A request was turned away.
    pub fn rejected(&self) {
        let mut epoch = self.epoch.lock().unwrap_or_else(|e| e.into_inner());
        epoch.rejected = epoch.rejected.saturating_add(1);
    }

    /// Says how many requests are waiting now.
    pub fn set_queued(&self, queued: u32) {
        self.queued.store(queued, Ordering::Relaxed);
    }

    /// How many requests are waiting now.
    pub fn queued(&self) -> u32 {
        self.queued.load(Ordering::Relaxed)
    }

    /// Ends the epoch: what came in it, held to `sla_us`.
    pub fn take(&self, sla_us: u32) -> Summary {
        let epoch = {
            let mut epoch = self.epoch.lock().unwrap_or_else(|e| e.into_inner());
            std::mem::take(&mut *epoch)
        };
        let mut times = epoch.times_us;
        times.sort_unstable();
        // The nearest rank: the smallest time that this part of the requests did not exceed.
        let rank = |part: usize| {
            let index = (times.len() * part).div_ceil(100).saturating_sub(1);
            times.get(index).copied().unwrap_or(0)
        };
        let slow = times.len() - times.partition_point(|&t| t <= sla_us);
        Summary {
            requests: times.len() as u32 + epoch.more + epoch.rejected,
            violations: slow as u32 + epoch.rejected,
            rejected: epoch.rejected,
            p50_us: rank(50),
            p95_us: rank(95),
            max_us: rank(100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_summed_up_and_the_next_begins_empty() {
        let samples = Samples::default();
        for us in 1..=100 {
            samples.answered(Duration::from_micros(us));
        }
        samples.rejected();
        let summary = samples.take(90);
        let expected = Summary {
            requests: 101,
            violations: 11,
            rejected: 1,
            p50_us: 50,
            p95_us: 95,
            max_us: 100,
        };
        assert_eq!(summary, expected);
        assert_eq!(samples.take(90), Summary::default());
    }
}
