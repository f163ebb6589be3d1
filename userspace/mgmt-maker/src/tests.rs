// SPDX-License-Identifier: MIT OR Apache-2.0

//! The governor with a simulated actuator and a clock of its own.

use crate::{Actuator, ActuatorError, Description, Governed, Governor, Limits, Simulated, Want};
use mgmt_broker::power::cap::{CapError, CpuCap as _};
use mgmt_control::{RefusalKind, Verdict};
use mgmt_state::State;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The platform, of which the test holds a second handle.
#[derive(Clone, Default)]
struct Platform(Arc<Mutex<Simulated>>);

impl Actuator for Platform {
    fn description(&self) -> Description {
        self.0.lock().unwrap().description()
    }
    fn set(&mut self, target: &str, value: i64) -> Result<(), ActuatorError> {
        self.0.lock().unwrap().set(target, value)
    }
    fn get(&mut self, target: &str) -> Result<i64, ActuatorError> {
        self.0.lock().unwrap().get(target)
    }
}

struct Test {
    state: Arc<State>,
    clock: Arc<AtomicU64>,
    platform: Platform,
    governor: Arc<Governor>,
}

impl Test {
    fn new() -> Self {
        let memory = redb_memory();
        let state = Arc::new(State::open_on(memory, mgmt_state::Limits::default()).unwrap());
        let clock = Arc::new(AtomicU64::new(1_000_000));
        let platform = Platform::default();
        let governor = Self::governor(&state, &clock, &platform, "boot");
        Self {
            state,
            clock,
            platform,
            governor,
        }
    }

    fn governor(
        state: &Arc<State>,
        clock: &Arc<AtomicU64>,
        platform: &Platform,
        boot: &str,
    ) -> Arc<Governor> {
        let clock = Arc::clone(clock);
        let clock = Box::new(move || clock.load(Ordering::Relaxed));
        let mut governor = Governor::new(Arc::clone(state), boot, clock).unwrap();
        let limits = Limits {
            min_interval_ms: 100,
            min_step: 5,
            reverse_ms: 1000,
        };
        governor.add("knob", limits, Box::new(platform.clone()));
        Arc::new(governor)
    }

    /// As after a crash of the daemon.
    fn again(&mut self, boot: &str) {
        self.governor = Self::governor(&self.state, &self.clock, &self.platform, boot);
    }

    fn pass(&self, ms: u64) {
        self.clock.fetch_add(ms, Ordering::Relaxed);
    }

    fn want(&self, holder: &str, value: i64) -> Result<(), String> {
        let want = Want {
            holder,
            actuator: "knob",
            target: "vm:3",
            value,
            ttl_ms: 5000,
            why: "a test",
        };
        self.governor.actuate(want).map_err(|refusal| refusal.text)
    }

    fn value(&self) -> i64 {
        self.platform.clone().get("vm:3").unwrap()
    }

    /// Action, detail and outcome of what was written down.
    fn log(&self) -> Vec<String> {
        let records = self.state.records(0, 1000, |_| true).unwrap();
        let line = |r: mgmt_control::AuditRecord| {
            format!("{} {} {} {:?}", r.who, r.action, r.detail, r.outcome)
        };
        records.into_iter().map(line).collect()
    }
}

fn redb_memory() -> impl redb::StorageBackend {
    redb::backends::InMemoryBackend::new()
}

#[test]
fn what_is_set_is_leased_and_written_down() {
    let test = Test::new();
    test.want("A", 40).unwrap();
    assert_eq!(test.value(), 40);
    assert_eq!(test.log(), ["A actuate 0 -> 40: a test Done"]);
    let lease = &test.governor.leases()[0];
    assert_eq!((lease.holder.as_str(), lease.value), ("A", Some(40)));
    assert_eq!(lease.ends_ms, 1_005_000);
    assert_eq!(test.state.leases().unwrap(), [lease.clone()]);
    assert!(test.want("B", 50).unwrap_err().starts_with("A holds it"));
    assert_eq!(test.value(), 40);
}

#[test]
fn what_is_not_renewed_goes_back() {
    let test = Test::new();
    test.want("A", 40).unwrap();
    test.pass(4000);
    assert_eq!(test.governor.renew("A").unwrap().len(), 1);
    assert!(test.governor.renew("B").unwrap().is_empty());
    test.pass(4999);
    test.governor.expire();
    assert_eq!(test.value(), 40);
    test.pass(1);
    test.governor.expire();
    assert_eq!(test.value(), 0);
    assert!(test.state.leases().unwrap().is_empty());
    assert!(test.log()[1].starts_with("A return 40 -> 0 (safe default): the lease of A ended"));
    test.want("B", 50).unwrap();
}

#[test]
fn a_return_that_fails_is_tried_again_and_in_the_end_given_up() {
    for (failures, left) in [(2, 0), (100, 40)] {
        let test = Test::new();
        test.want("A", 40).unwrap();
        test.platform.0.lock().unwrap().failing = failures;
        for _ in 0..20 {
            test.pass(5000);
            test.governor.expire();
        }
        test.platform.0.lock().unwrap().failing = 0;
        assert_eq!(test.value(), left);
        assert!(test.governor.leases().is_empty());
        assert!(test.log()[1].contains("simulated failure"));
        assert_eq!(test.log()[2].contains("given up"), left != 0);
        assert_eq!(test.log().len(), 3);
    }
}

#[test]
fn a_target_that_is_gone_needs_no_return() {
    let test = Test::new();
    test.want("A", 40).unwrap();
    test.platform.0.lock().unwrap().gone.push("vm:3".into());
    test.pass(5000);
    test.governor.expire();
    assert!(test.governor.leases().is_empty());
    assert!(test.log()[1].contains("there is no vm:3"));
}

#[test]
fn a_crash_forgets_no_lease_and_another_boot_does() {
    let mut test = Test::new();
    test.want("A", 40).unwrap();
    test.again("boot");
    assert_eq!(test.governor.leases()[0].value, Some(40));
    test.pass(5000);
    test.governor.expire();
    assert_eq!(test.value(), 0);
    test.want("A", 60).unwrap();
    test.again("another boot");
    assert!(test.governor.leases().is_empty());
    assert!(test.state.leases().unwrap().is_empty());
}

#[test]
fn changes_are_few_and_do_not_swing() {
    let test = Test::new();
    test.want("A", 40).unwrap();
    assert!(test.want("A", 60).unwrap_err().contains("every 100 ms"));
    test.pass(100);
    assert!(
        test.want("A", 44)
            .unwrap_err()
            .contains("smaller change than 5")
    );
    assert!(
        test.want("A", 30)
            .unwrap_err()
            .contains("the other way 100 ms ago")
    );
    test.want("A", 60).unwrap();
    test.pass(1000);
    test.want("A", 30).unwrap();
    assert_eq!(test.value(), 30);
    // What is wanted again and again is written down once.
    let before = test.log().len();
    for _ in 0..10 {
        test.want("A", 31).unwrap_err();
        test.pass(10);
    }
    assert_eq!(test.log().len(), before + 1);
    // Nothing holds back a return.
    test.governor.release("A", "knob", "vm:3", "over").unwrap();
    assert_eq!(test.value(), 0);
}

#[test]
fn observing_sets_nothing_and_plans() {
    let mut test = Test::new();
    test.want("A", 40).unwrap();
    test.governor.set_observe(true, "ann").unwrap();
    test.again("boot");
    assert!(test.governor.observe());
    assert_eq!(test.want("A", 80).unwrap_err(), "observe-only");
    let plan = test.governor.plan();
    assert!(plan.observe);
    let intent = &plan.intents[0];
    assert_eq!((intent.from, intent.to), (Some(40), 80));
    assert_eq!(
        (&intent.verdict, intent.why.as_str()),
        (&Verdict::Observed, "a test")
    );
    // Neither is what has ended returned, before the switch is off.
    test.pass(6000);
    test.governor.expire();
    assert_eq!(test.value(), 40);
    let due = &test.governor.plan().intents[0];
    assert_eq!((&due.verdict, due.to), (&Verdict::Due, 0));
    test.governor.set_observe(false, "ann").unwrap();
    test.governor.expire();
    assert_eq!(test.value(), 0);
    assert!(test.governor.plan().intents.is_empty());
}

#[test]
fn what_failed_is_told_and_written_down() {
    let test = Test::new();
    test.platform.0.lock().unwrap().failing = 1;
    assert_eq!(test.want("A", 40).unwrap_err(), "simulated failure");
    assert!(test.log()[0].contains("Failed"));
    let out_of_range = test.want("A", 2000).unwrap_err();
    assert_eq!(out_of_range, "a value from 0 to 1000 is expected");
    let missing = test.governor.get("lever", "vm:3").unwrap_err();
    assert_eq!(missing.kind, RefusalKind::Missing);
}

#[test]
fn a_broker_of_caps_needs_not_know() {
    let test = Test::new();
    let mut cap = Governed::new(Arc::clone(&test.governor), "Power", "knob", 5000);
    cap.set_for(3, 40, "lower").unwrap();
    assert_eq!((cap.get(3).unwrap(), test.value()), (40, 40));
    assert!(matches!(cap.set(3, 60), Err(CapError::Withheld(_))));
    cap.set_for(3, 0, "the session ended").unwrap();
    assert_eq!(test.value(), 0);
    assert!(test.governor.leases().is_empty());
    // What was never set is not touched.
    test.platform.clone().set("vm:3", 70).unwrap();
    cap.set_for(3, 0, "the session ended").unwrap();
    assert_eq!(test.value(), 70);
}
