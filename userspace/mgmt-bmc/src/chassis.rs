// SPDX-License-Identifier: MIT OR Apache-2.0

//! The chassis: its power, and what was asked of it (section 28).

use crate::bmc::Effect;
use crate::message::{Code, Outcome, Request};

/// What is done when the chassis is to be powered off or reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// It is refused.
    Refuse,
    /// It is written down, and nothing happens.
    #[default]
    Record,
    /// The machine is powered off, or reset.
    Act,
}

/// Chassis Control's values.
pub const POWER_DOWN: u8 = 0;
const POWER_UP: u8 = 1;
const POWER_CYCLE: u8 = 2;
const HARD_RESET: u8 = 3;
const SOFT_SHUTDOWN: u8 = 5;

/// The chassis.
#[derive(Debug, Default)]
pub struct Chassis {
    policy: Policy,
    /// What was asked last, of Chassis Control's values.
    pub asked: Option<u8>,
}

impl Chassis {
    /// One that does as `policy` says.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            asked: None,
        }
    }

    /// Answers a request, where it is for the chassis.
    pub fn handle(&mut self, request: &Request<'_>, effects: &mut Vec<Effect>) -> Outcome {
        match request.command {
            0x01 => Ok(status()),
            0x02 => {
                let [control] = request.exactly()?;
                self.control(control & 0x0f, effects)
            }
            _ => Err(Code::INVALID_COMMAND),
        }
    }

    /// Chassis Control (28.3).
    pub fn control(&mut self, control: u8, effects: &mut Vec<Effect>) -> Outcome {
        if !matches!(control, POWER_DOWN..=HARD_RESET | SOFT_SHUTDOWN) {
            return Err(Code::INVALID_FIELD);
        }
        self.asked = Some(control);
        match (self.policy, control) {
            (Policy::Record, _) | (_, POWER_UP) => {}
            (Policy::Refuse, _) => return Err(Code::NOT_IN_STATE),
            (Policy::Act, POWER_CYCLE | HARD_RESET) => effects.push(Effect::ResetMachine),
            (Policy::Act, _) => effects.push(Effect::PowerOff),
        }
        Ok(Vec::new())
    }
}

/// Get Chassis Status (28.2): on, no faults; as long as it can answer, the machine runs.
fn status() -> Vec<u8> {
    const ON: u8 = 0x01;
    const RESTORES: u8 = 0x20;
    const BY_COMMAND: u8 = 0x10;
    vec![ON | RESTORES, BY_COMMAND, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_decides() {
        for (policy, control, outcome, effect) in [
            (Policy::Record, POWER_DOWN, Ok(vec![]), None),
            (Policy::Refuse, POWER_DOWN, Err(Code::NOT_IN_STATE), None),
            (Policy::Refuse, POWER_UP, Ok(vec![]), None),
            (Policy::Act, POWER_DOWN, Ok(vec![]), Some(Effect::PowerOff)),
            (
                Policy::Act,
                SOFT_SHUTDOWN,
                Ok(vec![]),
                Some(Effect::PowerOff),
            ),
            (
                Policy::Act,
                HARD_RESET,
                Ok(vec![]),
                Some(Effect::ResetMachine),
            ),
            (Policy::Act, 4, Err(Code::INVALID_FIELD), None),
        ] {
            let mut chassis = Chassis::new(policy);
            let mut effects = Vec::new();
            assert_eq!(chassis.control(control, &mut effects), outcome);
            assert_eq!(effects.first(), effect.as_ref());
            assert_eq!(chassis.asked, (control != 4).then_some(control));
        }
    }
}
