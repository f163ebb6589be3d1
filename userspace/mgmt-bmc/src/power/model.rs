// SPDX-License-Identifier: MIT OR Apache-2.0

//! The power model: idle, and what each CPU adds by its performance state and its utilization.
//!
//! In steps of [`STEP`](super::STEP), with *s* the state of a CPU and *u* its utilization from 0 to 1:
//!
//! ```text
//! target  = idle + Σ over CPUs of dynamic(s) · u
//! level  += (target − level) · (1 − e^(−STEP / lag))
//! reading = level + normal(0, noise), not below 0
//! ```

use super::STEP;
use crate::random::Random;
use std::time::Duration;

/// A performance state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct State {
    /// Speed, percent of the fastest.
    pub performance: u8,
    /// What a busy CPU adds, W.
    pub watts: f64,
}

/// What the model is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// W with nothing to do.
    pub idle: f64,
    /// CPUs.
    pub cpus: usize,
    /// Performance states, the fastest first; at least one.
    pub states: Vec<State>,
    /// Time constant of the lag.
    pub lag: Duration,
    /// Deviation of the noise, W.
    pub noise: f64,
    /// Of the noise.
    pub seed: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        // About the cube of the speed, as the voltage goes with it.
        let states = [(100, 45.0), (80, 24.0), (60, 12.0), (40, 6.0), (20, 3.0)];
        Self {
            idle: 80.0,
            cpus: 2,
            states: states
                .map(|(performance, watts)| State { performance, watts })
                .into(),
            lag: Duration::from_secs(2),
            noise: 1.0,
            seed: 1,
        }
    }
}

impl Parameters {
    /// What it draws with all CPUs busy in the fastest state, W.
    pub fn maximum(&self) -> f64 {
        self.idle + self.states[0].watts * self.cpus as f64
    }
}

/// There is no such CPU, or it cannot do that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuError;

#[derive(Clone, Debug)]
struct Cpu {
    state: usize,
    utilization: f64,
}

/// The model and where it is.
#[derive(Clone, Debug)]
pub struct Model {
    parameters: Parameters,
    cpus: Vec<Cpu>,
    /// So many states slower than asked for.
    throttle: usize,
    level: f64,
    gain: f64,
    random: Random,
}

impl Model {
    /// All CPUs idle, in the fastest state.
    pub fn new(parameters: Parameters) -> Self {
        let cpu = Cpu {
            state: 0,
            utilization: 0.0,
        };
        let lag = parameters.lag.as_secs_f64().max(1e-9);
        Self {
            cpus: vec![cpu; parameters.cpus],
            throttle: 0,
            level: parameters.idle,
            gain: 1.0 - (-STEP.as_secs_f64() / lag).exp(),
            random: Random::new(parameters.seed),
            parameters,
        }
    }

    /// What it is made of.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Sets the performance of a CPU: the slowest state that is as fast, percent.
    pub fn set_performance(&mut self, cpu: usize, performance: u8) -> Result<(), CpuError> {
        let states = &self.parameters.states;
        let state = states.iter().rposition(|s| s.performance >= performance);
        self.cpus.get_mut(cpu).ok_or(CpuError)?.state = state.ok_or(CpuError)?;
        Ok(())
    }

    /// Sets the utilization of a CPU, percent of its time.
    pub fn set_utilization(&mut self, cpu: usize, percent: f64) -> Result<(), CpuError> {
        if !(0.0..=100.0).contains(&percent) {
            return Err(CpuError);
        }
        self.cpus.get_mut(cpu).ok_or(CpuError)?.utilization = percent / 100.0;
        Ok(())
    }

    /// What it draws once it has settled, W.
    pub fn target(&self) -> f64 {
        self.target_at(self.throttle)
    }

    fn target_at(&self, throttle: usize) -> f64 {
        let states = &self.parameters.states;
        let dynamic = |cpu: &Cpu| {
            let state = (cpu.state + throttle).min(states.len() - 1);
            states[state].watts * cpu.utilization
        };
        self.parameters.idle + self.cpus.iter().map(dynamic).sum::<f64>()
    }

    /// What it draws, without noise, W.
    pub fn level(&self) -> f64 {
        self.level
    }

    /// Goes on by a step; the reading, W.
    pub(super) fn step(&mut self) -> f64 {
        self.level += (self.target() - self.level) * self.gain;
        (self.level + self.parameters.noise * self.random.normal()).max(0.0)
    }

    /// By how many states the CPUs are slowed.
    pub fn throttle(&self) -> usize {
        self.throttle
    }

    pub(super) fn throttle_more(&mut self) {
        self.throttle = (self.throttle + 1).min(self.parameters.states.len() - 1);
    }

    /// A state less, if what is drawn then is within `watts`.
    pub(super) fn throttle_less(&mut self, watts: f64) {
        let less = self.throttle.saturating_sub(1);
        if self.target_at(less) <= watts {
            self.throttle = less;
        }
    }

    pub(super) fn throttle_none(&mut self) {
        self.throttle = 0;
    }
}
