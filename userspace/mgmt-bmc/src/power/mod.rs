// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the platform draws: the model, what was measured of it, and the limit on it.

mod history;
mod limit;
mod model;

pub use history::{LONGEST, Statistics};
pub use limit::{Limit, LimitError, LogAction};
pub use model::{CpuError, Model, Parameters, State};

use history::History;
use limit::{Change, Limiter};
use std::time::Duration;

/// The model goes on in steps of this length, whenever it is asked.
pub const STEP: Duration = Duration::from_millis(100);

/// Something about the limit that the event log may want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// Over the limit for longer than the correction time.
    Exceeded,
    /// Under it again for as long.
    Kept,
}

/// The model, its measurements and its limit, in time.
#[derive(Debug)]
pub struct Power {
    /// The model.
    pub model: Model,
    history: History,
    limiter: Limiter,
    throttles: bool,
    time: Duration,
}

impl Power {
    /// A platform that idles from `now` on. Where `throttles`, a limit that is exceeded slows the
    /// CPUs; else it only tells.
    pub fn new(parameters: Parameters, throttles: bool, now: Duration) -> Self {
        let mut model = Model::new(parameters);
        let mut history = History::default();
        history.push(model.step());
        Self {
            model,
            history,
            limiter: Limiter::default(),
            throttles,
            time: now,
        }
    }

    /// Goes on to `now`; what there was to tell on the way.
    pub fn advance(&mut self, now: Duration) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        while self.time + STEP <= now {
            self.time += STEP;
            self.history.push(self.model.step());
            alarms.extend(self.judge());
        }
        alarms
    }

    fn judge(&mut self) -> Option<Alarm> {
        let limit = *self.limiter.active()?;
        let average = self.history.statistics(limit.sampling()).average;
        match self.limiter.judge(self.time, average)? {
            Change::Over { first } => {
                if self.throttles {
                    self.model.throttle_more();
                }
                first.then_some(Alarm::Exceeded)
            }
            Change::Under => {
                // A step less must fit, or it would soon be one more again.
                if self.model.throttle() > 0 {
                    self.model.throttle_less(f64::from(limit.watts));
                    None
                } else {
                    self.limiter.relax().then_some(Alarm::Kept)
                }
            }
        }
    }

    /// The last reading, W.
    pub fn reading(&self) -> f64 {
        self.history.statistics(STEP).current
    }

    /// What was measured in the last `period`, or since the start.
    pub fn statistics(&self, period: Duration) -> Statistics {
        self.history.statistics(period)
    }

    /// The limit, if one is set.
    pub fn limit(&self) -> Option<&Limit> {
        self.limiter.set.as_ref()
    }

    /// Whether the limit holds.
    pub fn limit_active(&self) -> bool {
        self.limiter.active().is_some()
    }

    /// Sets a limit; whether one holds stays as it is.
    pub fn set_limit(&mut self, limit: Limit) -> Result<(), LimitError> {
        limit.check(self.model.parameters().idle)?;
        self.limiter.set(limit);
        Ok(())
    }

    /// Lets the limit hold, or no more; fails where none is set.
    pub fn activate_limit(&mut self, active: bool) -> Result<(), LimitError> {
        self.limiter.activate(active)?;
        if !active {
            self.model.throttle_none();
        }
        Ok(())
    }

    /// What the controller forgets when it is reset: measurements and limit. The platform goes on.
    pub fn forget(&mut self) {
        self.limiter = Limiter::default();
        self.model.throttle_none();
        self.history = History::default();
        self.history.push(self.model.step());
    }
}

#[cfg(test)]
mod tests;
