// SPDX-License-Identifier: MIT OR Apache-2.0

//! The last readings, and their statistics.

use super::STEP;
use std::collections::VecDeque;
use std::time::Duration;

/// No statistics reach further back.
pub const LONGEST: Duration = Duration::from_secs(60);

/// Of the readings in a period, W.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    /// The last.
    pub current: f64,
    /// The least.
    pub minimum: f64,
    /// The greatest.
    pub maximum: f64,
    /// The mean.
    pub average: f64,
}

#[derive(Debug, Default)]
pub(super) struct History(VecDeque<f64>);

impl History {
    pub(super) fn push(&mut self, reading: f64) {
        if self.0.len() == steps(LONGEST) {
            self.0.pop_front();
        }
        self.0.push_back(reading);
    }

    pub(super) fn statistics(&self, period: Duration) -> Statistics {
        let readings = || self.0.iter().rev().take(steps(period)).copied();
        let Some(current) = readings().next() else {
            return Statistics::default();
        };
        Statistics {
            current,
            minimum: readings().fold(current, f64::min),
            maximum: readings().fold(current, f64::max),
            average: readings().sum::<f64>() / readings().count() as f64,
        }
    }
}

/// At least one.
fn steps(period: Duration) -> usize {
    (period.as_millis() / STEP.as_millis()).max(1) as usize
}
