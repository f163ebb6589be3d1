// SPDX-License-Identifier: MIT OR Apache-2.0

//! The power limit: when it is exceeded, and for how long (DCMI 6.6.2 to 6.6.4).

use super::history::LONGEST;
use std::time::Duration;

/// What to do when the limit is exceeded, besides slowing the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogAction {
    /// Nothing.
    None,
    /// Power off, and log it.
    PowerOff,
    /// Log it.
    Log,
}

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What to do when it is exceeded.
    pub action: LogAction,
    /// W.
    pub watts: u16,
    /// How long it may be exceeded, ms.
    pub correction_ms: u32,
    /// The average over so many seconds counts.
    pub sampling_s: u16,
}

/// Why a limit cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitError {
    /// Less than the platform draws when idle.
    Watts,
    /// Not 100 ms to 10 min.
    Correction,
    /// Not 1 s to 1 min.
    Sampling,
    /// None is set.
    NotSet,
}

impl Limit {
    pub(super) fn sampling(&self) -> Duration {
        Duration::from_secs(self.sampling_s.into())
    }

    fn correction(&self) -> Duration {
        Duration::from_millis(self.correction_ms.into())
    }

    pub(super) fn check(&self, idle: f64) -> Result<(), LimitError> {
        if f64::from(self.watts) < idle {
            Err(LimitError::Watts)
        } else if !(100..=600_000).contains(&self.correction_ms) {
            Err(LimitError::Correction)
        } else if self.sampling_s == 0 || self.sampling() > LONGEST {
            Err(LimitError::Sampling)
        } else {
            Ok(())
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Over the limit for another correction time.
    Over { first: bool },
    /// Under it for another.
    Under,
}

#[derive(Debug, Default)]
pub(super) struct Limiter {
    pub(super) set: Option<Limit>,
    active: bool,
    /// On which side of the limit it is, and since when.
    since: Option<(bool, Duration)>,
    exceeded: bool,
}

impl Limiter {
    pub(super) fn active(&self) -> Option<&Limit> {
        self.set.as_ref().filter(|_| self.active)
    }

    pub(super) fn set(&mut self, limit: Limit) {
        self.set = Some(limit);
        self.since = None;
        self.exceeded = false;
    }

    pub(super) fn activate(&mut self, active: bool) -> Result<(), LimitError> {
        if self.set.is_none() {
            return Err(LimitError::NotSet);
        }
        self.active = active;
        self.since = None;
        self.exceeded = false;
        Ok(())
    }

    /// Whether it was exceeded; it is no more.
    pub(super) fn relax(&mut self) -> bool {
        std::mem::take(&mut self.exceeded)
    }

    /// `Some` whenever it was on one side of the limit for a correction time.
    pub(super) fn judge(&mut self, now: Duration, average: f64) -> Option<Change> {
        let limit = *self.active()?;
        let over = average > f64::from(limit.watts);
        let since = match self.since {
            Some((side, since)) if side == over => since,
            _ => now,
        };
        self.since = Some((over, since));
        if now - since < limit.correction() {
            return None;
        }
        self.since = Some((over, now));
        if over {
            let first = !self.exceeded;
            self.exceeded = true;
            Some(Change::Over { first })
        } else {
            Some(Change::Under)
        }
    }
}
