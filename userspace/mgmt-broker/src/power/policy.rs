// SPDX-License-Identifier: MIT OR Apache-2.0

//! The paper's *Basic policy* (§5.1.1), as a pure function of what was seen.
//!
//! Per epoch (500 ms) and VM: a violation notification (more than 1 % of the epoch's requests took
//! longer than the SLA) raises the VM's performance state by one; utilization below 80 % lowers it
//! by one.
//!
//! The paper runs the two rules in parallel threads and says nothing of how they meet. Here:
//!
//! - An epoch with a notification is never one that lowers.
//! - After a raise, lowering rests for [`Basic::hold`] epochs: what a raise does is seen later than
//!   the next epoch, as the server first works off what was waiting.
//! - If lowering was followed by a notification within [`Basic::probation`] epochs, it was a
//!   mistake: the next rest is twice as long, up to [`Basic::hold_max`] epochs, and once a lower
//!   state has proved itself, as long as at first. Without this the policy would try, and violate
//!   the SLA for, the state below the needed one every few epochs for ever.
//! - After a lowering, the next rests for [`Basic::settle`] epochs: utilization must be that of the
//!   new state.
//!
//! With all of these set to 0 it is the paper's text and nothing else.

use serde::{Deserialize, Serialize};

/// The thresholds of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Basic {
    /// Utilization below which the state is lowered, per mille of the allotted CPU.
    pub lower_below: u32,
    /// Epochs after a raise in which nothing is lowered.
    pub hold: u32,
    /// The longest such rest, epochs.
    pub hold_max: u32,
    /// Epochs in which a lowered state has to prove itself.
    pub probation: u32,
    /// Epochs after a lowering in which nothing is lowered further.
    pub settle: u32,
}

impl Default for Basic {
    fn default() -> Self {
        Self {
            lower_below: 800,
            hold: 8,
            hold_max: 24,
            probation: 8,
            settle: 3,
        }
    }
}

/// What the policy sees of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The agent notified of SLA violations.
    pub notification: bool,
    /// The VM's utilization of its allotted CPU, per mille.
    pub utilization: u32,
}

/// What the policy wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The next higher state.
    Raise,
    /// The next lower state.
    Lower,
    /// No change.
    Keep(Why),
}

/// Why nothing changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Utilization and service level are as they should be.
    Fine,
    /// There is no higher state.
    AtTop,
    /// There is no lower state.
    AtBottom,
    /// It would be lowered, but was raised a short time ago.
    Holding,
}

impl Decision {
    /// For logs and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raise => "raise",
            Self::Lower => "lower",
            Self::Keep(Why::Fine) => "keep",
            Self::Keep(Why::AtTop) => "at-top",
            Self::Keep(Why::AtBottom) => "at-bottom",
            Self::Keep(Why::Holding) => "hold",
        }
    }
}

/// A VM as the policy knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vm {
    /// Its performance state: an index, 0 is the lowest.
    pub state: usize,
    /// Epochs until lowering is allowed again.
    rest: u32,
    /// How long the next rest is.
    next_rest: u32,
    /// Epochs since the state was lowered, while that is on probation.
    lowered: Option<u32>,
}

impl Basic {
    /// A VM that starts in `state`.
    pub fn vm(&self, state: usize) -> Vm {
        Vm {
            state,
            rest: 0,
            next_rest: self.hold,
            lowered: None,
        }
    }

    /// Decides on one epoch of a VM with `states` performance states, and enters the decision.
    pub fn decide(&self, vm: &mut Vm, states: usize, seen: Observation) -> Decision {
        let top = states.saturating_sub(1);
        vm.state = vm.state.min(top);
        let resting = vm.rest > 0;
        vm.rest = vm.rest.saturating_sub(1);
        vm.lowered = vm.lowered.map(|epochs| epochs + 1);
        if vm.lowered > Some(self.probation) {
            vm.lowered = None;
            vm.next_rest = self.hold;
        }

        if seen.notification {
            if vm.lowered.take().is_some() {
                vm.next_rest = (vm.next_rest * 2).clamp(self.hold, self.hold_max.max(self.hold));
            }
            // Where it is at the top already, the rest starts all the same: it is needed.
            vm.rest = vm.next_rest;
            if vm.state == top {
                return Decision::Keep(Why::AtTop);
            }
            vm.state += 1;
            Decision::Raise
        } else if seen.utilization >= self.lower_below {
            Decision::Keep(Why::Fine)
        } else if vm.state == 0 {
            Decision::Keep(Why::AtBottom)
        } else if resting {
            Decision::Keep(Why::Holding)
        } else {
            vm.state -= 1;
            vm.lowered = Some(0);
            vm.rest = self.settle;
            Decision::Lower
        }
    }
}

/// The state of a physical CPU that several VMs share: the highest of theirs (§5.1.1). `None` if
/// there is no VM.
///
/// A scheduler cap is each VM's own and does not need it; frequency scaling does.
pub fn of_cpu(states: impl IntoIterator<Item = usize>) -> Option<usize> {
    states.into_iter().max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Decision::{Keep, Lower, Raise};
    use Why::{AtBottom, AtTop, Fine, Holding};
    use proptest::prelude::*;

    const PAPER: Basic = Basic {
        lower_below: 800,
        hold: 0,
        hold_max: 0,
        probation: 0,
        settle: 0,
    };

    fn seen(notification: bool, utilization: u32) -> Observation {
        Observation {
            notification,
            utilization,
        }
    }

    #[test]
    fn one_epoch_of_the_papers_text() {
        // state, notification, utilization: decision
        for (state, notification, utilization, decision) in [
            (0, true, 1000, Raise),
            (3, true, 1000, Raise),
            (4, true, 1000, Keep(AtTop)),
            (2, true, 100, Raise),
            (2, false, 799, Lower),
            (2, false, 800, Keep(Fine)),
            (2, false, 1000, Keep(Fine)),
            (0, false, 100, Keep(AtBottom)),
            (9, true, 1000, Keep(AtTop)),
        ] {
            let mut vm = PAPER.vm(state);
            let decided = PAPER.decide(&mut vm, 5, seen(notification, utilization));
            assert_eq!(decided, decision, "{state} {notification} {utilization}");
        }
    }

    #[test]
    fn lowering_rests_after_a_raise() {
        let policy = Basic {
            hold: 2,
            ..Basic::default()
        };
        let mut vm = policy.vm(0);
        assert_eq!(policy.decide(&mut vm, 5, seen(true, 1000)), Raise);
        for expected in [Keep(Holding), Keep(Holding), Lower, Keep(AtBottom)] {
            assert_eq!(policy.decide(&mut vm, 5, seen(false, 100)), expected);
        }
    }

    #[test]
    fn lowering_rests_after_a_lowering() {
        let policy = Basic { settle: 2, ..PAPER };
        let mut vm = policy.vm(3);
        for expected in [Lower, Keep(Holding), Keep(Holding), Lower, Keep(Holding)] {
            assert_eq!(policy.decide(&mut vm, 5, seen(false, 100)), expected);
        }
        assert_eq!(policy.decide(&mut vm, 5, seen(true, 100)), Raise);
    }

    #[test]
    fn a_mistaken_lowering_doubles_the_rest_and_a_proved_one_resets_it() {
        let policy = Basic {
            hold: 2,
            hold_max: 5,
            probation: 3,
            ..Basic::default()
        };
        let mut vm = policy.vm(1);
        for rest in [4, 5, 5] {
            while policy.decide(&mut vm, 5, seen(false, 100)) != Lower {}
            assert_eq!(policy.decide(&mut vm, 5, seen(true, 1000)), Raise);
            assert_eq!(vm.rest, rest);
        }
        while policy.decide(&mut vm, 5, seen(false, 100)) != Lower {}
        for _ in 0..=policy.probation {
            policy.decide(&mut vm, 5, seen(false, 900));
        }
        assert_eq!(policy.decide(&mut vm, 5, seen(true, 1000)), Raise);
        assert_eq!(vm.rest, 2);
    }

    #[test]
    fn a_shared_cpu_runs_at_the_highest_state() {
        assert_eq!(of_cpu([1, 3, 0]), Some(3));
        assert_eq!(of_cpu([]), None);
    }

    fn any_policy() -> impl Strategy<Value = Basic> {
        (0u32..=1000, 0u32..10, 0u32..100, 0u32..10, 0u32..5).prop_map(
            |(lower_below, hold, hold_max, probation, settle)| Basic {
                lower_below,
                hold,
                hold_max,
                probation,
                settle,
            },
        )
    }

    proptest! {
        /// Whatever is reported: one step at a time, never outside, up only with a notification and
        /// down only without.
        #[test]
        fn one_step_in_the_right_direction(
            policy in any_policy(),
            states in 1usize..8,
            start in 0usize..8,
            reports in prop::collection::vec((any::<bool>(), 0u32..=1000), 0..200),
        ) {
            let mut vm = policy.vm(start.min(states - 1));
            for (notification, utilization) in reports {
                let before = vm.state;
                let decision = policy.decide(&mut vm, states, seen(notification, utilization));
                prop_assert!(vm.state < states);
                match decision {
                    Raise => prop_assert!(notification && vm.state == before + 1),
                    Lower => prop_assert!(
                        !notification && utilization < policy.lower_below && vm.state + 1 == before
                    ),
                    Keep(_) => prop_assert_eq!(vm.state, before),
                }
            }
        }

        /// A VM that is violated in every epoch is at the top after as many epochs as there are
        /// states; one that idles reaches the bottom, whatever came before.
        #[test]
        fn it_gets_there(
            policy in any_policy(),
            states in 1usize..8,
            history in prop::collection::vec((any::<bool>(), 0u32..=1000), 0..50),
        ) {
            let mut vm = policy.vm(0);
            for (notification, utilization) in history {
                policy.decide(&mut vm, states, seen(notification, utilization));
            }
            for _ in 0..states {
                policy.decide(&mut vm, states, seen(true, 1000));
            }
            prop_assert_eq!(vm.state, states - 1);
            prop_assume!(policy.lower_below > 0);
            let rest = policy.hold_max.max(policy.hold) as usize;
            for _ in 0..rest + states * (policy.settle as usize + 1) {
                policy.decide(&mut vm, states, seen(false, 0));
            }
            prop_assert_eq!(vm.state, 0);
        }
    }
}
