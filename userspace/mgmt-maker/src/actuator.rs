// SPDX-License-Identifier: MIT OR Apache-2.0

//! What can be set.

use mgmt_broker::power::cap::{CapError, CpuCap};
use std::collections::BTreeMap;

/// Why an actuator could not be set or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActuatorError {
    /// No target has this name, now.
    #[error("there is no {0}")]
    NoTarget(String),
    /// It failed.
    #[error("{0}")]
    Failed(String),
}

/// What an actuator takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The unit of its values.
    pub unit: &'static str,
    /// The smallest value.
    pub least: i64,
    /// The largest.
    pub most: i64,
    /// The value that harms nobody: where it goes when nobody holds it.
    pub safe: i64,
}

/// Something of the platform that can be set, for each of many targets. Calls may take seconds, not
/// more: an implementation bounds them.
pub trait Actuator: Send {
    /// What it takes.
    fn description(&self) -> Description;
    /// Sets a target, and checks that it is set by reading it back.
    fn set(&mut self, target: &str, value: i64) -> Result<(), ActuatorError>;
    /// Reads a target.
    fn get(&mut self, target: &str) -> Result<i64, ActuatorError>;
}

/// A VM as a target: `vm:ID`.
pub fn vm_target(domain: u32) -> String {
    format!("vm:{domain}")
}

/// The share of a CPU that the scheduler lets a guest have, percent; 0 is no limit.
#[derive(Debug)]
pub struct Scheduler<C> {
    cap: C,
    safe: u32,
}

impl<C: CpuCap> Scheduler<C> {
    /// With `safe` as the cap of a guest that no broker holds.
    pub fn new(cap: C, safe: u32) -> Self {
        Self { cap, safe }
    }

    fn domain(target: &str) -> Result<u32, ActuatorError> {
        let id = target.strip_prefix("vm:").and_then(|id| id.parse().ok());
        id.ok_or_else(|| ActuatorError::NoTarget(target.to_owned()))
    }

    fn error(target: &str, error: &CapError) -> ActuatorError {
        match error {
            // ESRCH, as xl says it of a domain that is gone.
            CapError::Failed { message, .. } if message.contains("No such process") => {
                ActuatorError::NoTarget(target.to_owned())
            }
            other => ActuatorError::Failed(other.to_string()),
        }
    }
}

impl<C: CpuCap> Actuator for Scheduler<C> {
    fn description(&self) -> Description {
        Description {
            unit: "% of a CPU",
            least: 0,
            // Xen keeps it in 16 bits.
            most: i64::from(u16::MAX),
            safe: i64::from(self.safe),
        }
    }

    fn set(&mut self, target: &str, value: i64) -> Result<(), ActuatorError> {
        let domain = Self::domain(target)?;
        let cap = u32::try_from(value).map_err(|e| ActuatorError::Failed(e.to_string()))?;
        let done = self.cap.set(domain, cap);
        done.map_err(|e| Self::error(target, &e))
    }

    fn get(&mut self, target: &str) -> Result<i64, ActuatorError> {
        let found = self.cap.get(Self::domain(target)?);
        found.map(i64::from).map_err(|e| Self::error(target, &e))
    }
}

/// An actuator without a platform, for tests and simulations.
#[derive(Debug, Default)]
pub struct Simulated {
    /// Each target's value; what is not here is at its safe default, 0.
    pub values: BTreeMap<String, i64>,
    /// So many of the calls to come fail.
    pub failing: u32,
    /// Targets that are gone.
    pub gone: Vec<String>,
}

impl Simulated {
    fn call(&mut self, target: &str) -> Result<(), ActuatorError> {
        if self.gone.iter().any(|gone| gone == target) {
            return Err(ActuatorError::NoTarget(target.to_owned()));
        }
        if self.failing > 0 {
            self.failing -= 1;
            return Err(ActuatorError::Failed("simulated failure".into()));
        }
        Ok(())
    }
}

impl Actuator for Simulated {
    fn description(&self) -> Description {
        Description {
            unit: "units",
            least: 0,
            most: 1000,
            safe: 0,
        }
    }

    fn set(&mut self, target: &str, value: i64) -> Result<(), ActuatorError> {
        self.call(target)?;
        self.values.insert(target.to_owned(), value);
        Ok(())
    }

    fn get(&mut self, target: &str) -> Result<i64, ActuatorError> {
        self.call(target)?;
        Ok(self.values.get(target).copied().unwrap_or(0))
    }
}
