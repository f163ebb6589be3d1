// SPDX-License-Identifier: MIT OR Apache-2.0

//! The half of the policy maker (paper §4.3) that stands between brokers and actuators.
//!
//! A broker says what it wants and why; the [`Governor`] decides whether that may be done now (the
//! observe-only switch, leases, rate limit and hysteresis), has it done and read back, and writes
//! down what came of it. What nobody renews goes back to its safe default.

mod actuator;
mod governor;
#[cfg(test)]
mod tests;

pub use actuator::{Actuator, ActuatorError, Description, Scheduler, Simulated, vm_target};
pub use governor::{Counters, Governed, Governor, Limits, Want, boot_id, since_boot_ms};
