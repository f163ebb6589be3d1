// SPDX-License-Identifier: GPL-2.0

//! How much the links may do ahead of all ordinary tasks.
//!
//! What comes by a link is handed over in an interrupt thread, which goes before ordinary tasks:
//! so a message has no delay, and its receiver does not run before the thread is done. But a peer
//! decides how much comes. After some haste, all links together wait as many times as long as it
//! took; what comes meanwhile is a worker's, which is an ordinary task.

use kernel::{
    sync::atomic::{ordering::Relaxed, Atomic},
    time::{Instant, Monotonic}, //
};

/// So many times as long as the haste took is the wait: a fifth of one CPU at most is spent so.
const CALM: i64 = 4;

/// Whether there is time for haste.
pub(crate) struct Haste {
    epoch: Instant<Monotonic>,
    /// Nanoseconds from `epoch` on that have no time for it. Links may race for it: each of them
    /// does one round then.
    calm_until: Atomic<i64>,
}

impl Haste {
    pub(crate) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            calm_until: Atomic::new(0),
        }
    }

    /// Does `work` if there is time for haste. Returns whether it was done.
    pub(crate) fn try_do(&self, work: impl FnOnce() -> bool) -> bool {
        let begin = self.epoch.elapsed().as_nanos();
        if begin < self.calm_until.load(Relaxed) || !work() {
            return false;
        }
        let end = self.epoch.elapsed().as_nanos();
        self.calm_until.store(end + (end - begin) * CALM, Relaxed);
        true
    }
}
