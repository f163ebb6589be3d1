// SPDX-License-Identifier: MIT OR Apache-2.0

//! The power broker as agents see it, with a simulated actuator.

use super::cap::{CapError, CpuCap};
use super::proto::{Content, Hello, Report};
use super::{Config, Mode, PowerBroker, StartState};
use crate::sessions::{Broker, Ended};
use mgmt_channel::{Address, AppId, Component, Kind, Message};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the actuator was told, and how it behaves; the test holds a second handle.
#[derive(Clone, Default)]
struct Platform(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    caps: BTreeMap<u32, u32>,
    sets: Vec<(u32, u32)>,
    /// So many calls to come fail.
    failing: u32,
    /// Nothing may be set now.
    withholds: bool,
}

impl State {
    fn call(&mut self) -> Result<(), CapError> {
        if self.failing > 0 {
            self.failing -= 1;
            return Err(CapError::Output("test".into()));
        }
        Ok(())
    }
}

impl CpuCap for Platform {
    fn set(&mut self, domain: u32, cap: u32) -> Result<(), CapError> {
        let mut state = self.0.lock().unwrap();
        state.call()?;
        if state.withholds {
            return Err(CapError::Withheld("test".into()));
        }
        state.caps.insert(domain, cap);
        state.sets.push((domain, cap));
        Ok(())
    }

    fn get(&mut self, domain: u32) -> Result<u32, CapError> {
        let mut state = self.0.lock().unwrap();
        state.call()?;
        Ok(state.caps.get(&domain).copied().unwrap_or(0))
    }
}

/// A record that the test can read.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const OURS: [u8; 16] = [7; 16];

fn vm(mvm_ip: [u8; 16], vm_id: u32) -> Address {
    let app = AppId::new(super::APP.as_bytes()).unwrap();
    Address::new(Component::Vm { mvm_ip, vm_id }, app)
}

fn from(agent: Address, kind: Kind, content: &Content) -> Message {
    let mut message = content.message(kind, vm(OURS, 0));
    message.header.source = agent;
    message
}

struct Test {
    broker: PowerBroker,
    platform: Platform,
    record: Lines,
}

impl Test {
    fn new(config: Config, platform: Platform) -> Self {
        let record = Lines::default();
        let own = Some(vm(OURS, 0).component);
        let actuator = Box::new(platform.clone());
        Self {
            broker: PowerBroker::new(config, own, actuator, Some(Box::new(record.clone()))),
            platform,
            record,
        }
    }

    fn establish(&mut self, agent: Address) -> bool {
        let hello = Content::Hello(Hello {
            name: "web".into(),
            ..Hello::default()
        });
        let message = from(agent, Kind::Establish, &hello);
        self.broker.established(&agent, &message).is_some()
    }

    /// A report with these values, and what the policy decided on it.
    fn report(&mut self, agent: Address, notification: bool, utilization: u32) -> String {
        // Reports that come too fast are dropped.
        std::thread::sleep(Duration::from_millis(110));
        let report = Content::Report(Report {
            notification,
            utilization,
            ..Report::default()
        });
        let message = from(agent, Kind::Data, &report);
        self.broker.heard(&agent, &message);
        let record = self.record.0.lock().unwrap();
        let text = String::from_utf8_lossy(&record).into_owned();
        let last = text.lines().last().unwrap_or_default().to_owned();
        last.rsplit(',').next().unwrap_or_default().to_owned()
    }

    /// Ticks until the actuator has been told to set `cap`.
    fn expect_cap(&mut self, domain: u32, cap: u32) {
        let end = Instant::now() + Duration::from_secs(10);
        while self.platform.0.lock().unwrap().caps.get(&domain) != Some(&cap) {
            assert!(Instant::now() < end, "domain {domain} never got {cap}");
            std::thread::sleep(Duration::from_millis(10));
            self.broker.ticked(Instant::now());
        }
        // The thread's answer comes just behind.
        std::thread::sleep(Duration::from_millis(30));
        self.broker.ticked(Instant::now());
    }
}

fn config(mode: Mode, start: StartState) -> Config {
    Config {
        mode,
        start,
        safe_cap: 100,
        ..Config::default()
    }
}

#[test]
fn a_guest_is_taken_over_raised_lowered_and_let_go() {
    let mut test = Test::new(
        config(Mode::Active, StartState::Lowest),
        Platform::default(),
    );
    let agent = vm(OURS, 3);
    assert!(test.establish(agent));
    test.expect_cap(3, 20);
    assert_eq!(test.report(agent, true, 1000), "raise");
    test.expect_cap(3, 40);
    for _ in 0..Config::default().policy.hold {
        assert_eq!(test.report(agent, false, 100), "hold");
    }
    assert_eq!(test.report(agent, false, 100), "lower");
    test.expect_cap(3, 20);
    assert_eq!(test.report(agent, false, 100), "at-bottom");
    test.broker.ended(&agent, Ended::Silent);
    test.expect_cap(3, 100);
}

#[test]
fn other_settings_hold_at_once() {
    let mut test = Test::new(
        config(Mode::Active, StartState::Lowest),
        Platform::default(),
    );
    let agent = vm(OURS, 3);
    assert!(test.establish(agent));
    test.expect_cap(3, 20);
    // Taken in: nothing is under way any more.
    assert_eq!(test.report(agent, false, 900), "keep");
    test.broker.reconfigure(Config {
        states: vec![33, 66],
        ..config(Mode::Active, StartState::Lowest)
    });
    test.expect_cap(3, 33);
    assert_eq!(test.report(agent, true, 1000), "raise");
    test.expect_cap(3, 66);
}

#[test]
fn other_settings_hold_for_who_was_being_taken_over() {
    let mut test = Test::new(
        config(Mode::Active, StartState::Lowest),
        Platform::default(),
    );
    let agent = vm(OURS, 3);
    assert!(test.establish(agent));
    test.broker.reconfigure(Config {
        states: vec![33, 66],
        ..config(Mode::Active, StartState::Lowest)
    });
    test.expect_cap(3, 33);
    assert_eq!(test.platform.0.lock().unwrap().sets, [(3, 20), (3, 33)]);
}

#[test]
fn other_settings_that_are_withheld_are_tried_again() {
    let mut test = Test::new(
        config(Mode::Active, StartState::Lowest),
        Platform::default(),
    );
    assert!(test.establish(vm(OURS, 3)));
    test.expect_cap(3, 20);
    test.platform.0.lock().unwrap().withholds = true;
    test.broker.reconfigure(Config {
        states: vec![33, 66],
        ..config(Mode::Active, StartState::Lowest)
    });
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(10));
        test.broker.ticked(Instant::now());
    }
    test.platform.0.lock().unwrap().withholds = false;
    test.broker.ticked(Instant::now() + Duration::from_secs(11));
    test.expect_cap(3, 33);
    assert_eq!(test.platform.0.lock().unwrap().sets, [(3, 20), (3, 33)]);
}

#[test]
fn only_guests_of_this_platform_are_managed() {
    let mut test = Test::new(
        config(Mode::Active, StartState::Lowest),
        Platform::default(),
    );
    for stranger in [vm([8; 16], 3), vm(OURS, 0)] {
        assert!(!test.establish(stranger), "{stranger:?}");
    }
    // A second agent of a guest, under another App_ID, would fight with the first.
    assert!(test.establish(vm(OURS, 3)));
    let second = Address::new(vm(OURS, 3).component, AppId::new(b"Other").unwrap());
    assert!(!test.establish(second));
    test.expect_cap(3, 20);
    assert_eq!(test.platform.0.lock().unwrap().sets, [(3, 20)]);
}

#[test]
fn observing_sets_nothing() {
    let platform = Platform::default();
    platform.0.lock().unwrap().caps.insert(3, 40);
    let mut test = Test::new(config(Mode::Observe, StartState::Lowest), platform);
    let agent = vm(OURS, 3);
    assert!(test.establish(agent));
    for _ in 0..3 {
        assert_eq!(test.report(agent, true, 1000), "observe");
    }
    test.broker.ended(&agent, Ended::ByAgent);
    test.broker.ticked(Instant::now());
    let record = String::from_utf8(test.record.0.lock().unwrap().clone()).unwrap();
    assert!(
        record.lines().last().unwrap().contains(",observe,1,40,"),
        "{record}"
    );
    assert!(test.platform.0.lock().unwrap().sets.is_empty());
}

#[test]
fn a_failing_actuator_is_tried_again_and_never_believed() {
    let platform = Platform::default();
    platform.0.lock().unwrap().failing = 1;
    let mut test = Test::new(config(Mode::Active, StartState::Lowest), platform);
    let agent = vm(OURS, 3);
    assert!(test.establish(agent));
    assert!(matches!(
        test.report(agent, true, 1000).as_str(),
        "starting" | "pending"
    ));
    test.expect_cap(3, 20);
    // Setting fails: the state that is read back is the old one, and the next report raises again.
    test.platform.0.lock().unwrap().failing = 1;
    assert_eq!(test.report(agent, true, 1000), "raise");
    std::thread::sleep(Duration::from_millis(50));
    let mut decision = test.report(agent, true, 1000);
    if decision == "pending" {
        decision = test.report(agent, true, 1000);
    }
    assert_eq!(decision, "raise");
    test.expect_cap(3, 40);
}

#[test]
fn a_flood_of_reports_is_one_report() {
    let mut test = Test::new(
        config(Mode::Active, StartState::Lowest),
        Platform::default(),
    );
    let agent = vm(OURS, 3);
    assert!(test.establish(agent));
    test.expect_cap(3, 20);
    test.report(agent, false, 900);
    let message = from(agent, Kind::Data, &Content::Report(Report::default()));
    for _ in 0..50 {
        test.broker.heard(&agent, &message);
    }
    let record = String::from_utf8(test.record.0.lock().unwrap().clone()).unwrap();
    // A header and one report; a stalled machine may let one or two more through.
    assert!(record.lines().count() <= 4, "{record}");
}
