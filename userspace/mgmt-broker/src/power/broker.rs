// SPDX-License-Identifier: MIT OR Apache-2.0

//! The power broker: agents' reports in, the Basic policy, performance states out.

use super::actuation::Actuation;
use super::cap::{CapError, CpuCap};
use super::policy::{Basic, Observation, Vm};
use super::proto::{Content, Report, Settings};
use super::record::{HEADER, Record};
use crate::sessions::{Agent, Broker, Ended, Outbox, show};
use mgmt_channel::{Component, Kind, Message};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

/// Reports of one agent that come faster than this are dropped: an epoch is 500 ms.
const REPORT_GAP: Duration = Duration::from_millis(100);
/// While only observing, the caps that others set are read again after so long. A cap of earlier settings
/// that could not be changed is tried again.
const REREAD: Duration = Duration::from_secs(10);
/// Why a cap is set when goals have changed.
const OTHER_SETTINGS: &str = "other settings";
/// Taking a guest over is tried again this long after it failed.
const RETRY: Duration = Duration::from_secs(2);

/// Whether the broker acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It sets what the policy decides.
    #[default]
    Active,
    /// It records what the agents report, and sets nothing.
    Observe,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Observe => "observe",
        }
    }
}

/// In which performance state the broker takes over a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartState {
    /// The highest: nobody suffers.
    #[default]
    Highest,
    /// The lowest: power is saved until somebody complains.
    Lowest,
    /// As it is: the state whose cap is the nearest.
    Current,
}

/// The settings of a power broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether it acts.
    pub mode: Mode,
    /// The performance states, from the lowest: caps in percent of one CPU. The paper's testbed has
    /// five.
    pub states: Vec<u32>,
    /// Where a VM starts.
    pub start: StartState,
    /// The cap of a VM that the broker lets go of, percent; 0 is none.
    pub safe_cap: u32,
    /// The longest response time that is no violation, milliseconds; 0 leaves it to the agents.
    pub sla_ms: u32,
    /// The policy's thresholds.
    pub policy: Basic,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Active,
            states: vec![20, 40, 60, 80, 100],
            start: StartState::Highest,
            safe_cap: 0,
            sla_ms: 0,
            policy: Basic::default(),
        }
    }
}

impl Config {
    /// What is wrong with it, in words.
    pub fn check(&self) -> Result<(), String> {
        if self.states.is_empty() || self.states.contains(&0) {
            return Err("states: at least one cap, each above 0".into());
        }
        if !self.states.is_sorted() {
            return Err("states: from the lowest cap to the highest".into());
        }
        if self.policy.lower_below > 1000 {
            return Err("policy.lower_below: per mille, 0 to 1000".into());
        }
        Ok(())
    }

    /// What agents are told of it.
    fn settings(&self) -> Settings {
        Settings {
            sla_us: self.sla_ms.saturating_mul(1000),
            threshold_permille: 0,
        }
    }

    /// The state whose cap is nearest to `cap`; none at all is the highest.
    fn nearest(&self, cap: u32) -> usize {
        if cap == 0 {
            return self.states.len() - 1;
        }
        let distance = |&i: &usize| self.states[i].abs_diff(cap);
        (0..self.states.len()).min_by_key(distance).unwrap_or(0)
    }
}

/// A guest under management.
#[derive(Debug)]
struct Guest {
    agent: Agent,
    name: String,
    /// `None` until its cap is known.
    vm: Option<Vm>,
    /// The cap in force, percent, as far as is known.
    cap: u32,
    /// A toolstack call is under way: decide when its effect is there.
    pending: bool,
    /// The cap in force, or asked for, is of earlier settings.
    outdated: bool,
    /// What was asked for last was withheld, and is not to be asked for again at once.
    withheld: bool,
    last_report: Option<Instant>,
    /// When its state was last asked for, or taking it over last tried.
    last_read: Instant,
}

/// The broker. It implements [`Broker`].
pub struct PowerBroker {
    config: Config,
    own: Option<Component>,
    actuation: Actuation,
    guests: HashMap<u32, Guest>,
    settings: Settings,
    /// The agents have not been told of the settings yet.
    tell: bool,
    record: Option<Box<dyn Write + Send>>,
    start: Instant,
}

impl PowerBroker {
    /// A broker in the domain `own`, which acts by `actuator` and writes each report to `record`.
    pub fn new(
        config: Config,
        own: Option<Component>,
        actuator: Box<dyn CpuCap>,
        record: Option<Box<dyn Write + Send>>,
    ) -> Self {
        let mut broker = Self {
            settings: config.settings(),
            tell: false,
            config,
            own,
            actuation: Actuation::start(actuator),
            guests: HashMap::new(),
            record,
            start: Instant::now(),
        };
        broker.write(HEADER);
        broker
    }

    /// Goes on with other settings, for the guests that it manages too.
    pub fn reconfigure(&mut self, config: Config) {
        for (&domain, guest) in &mut self.guests {
            // A toolstack call that is under way is taken in first.
            guest.outdated |= guest.pending;
            let Some(vm) = &mut guest.vm else { continue };
            *vm = config.policy.vm(config.nearest(guest.cap));
            let cap = config.states[vm.state];
            if config.mode == Mode::Active && cap != guest.cap && !guest.pending {
                guest.pending = true;
                guest.outdated = true;
                self.actuation.set(domain, cap, OTHER_SETTINGS);
            }
        }
        self.tell = self.settings != config.settings();
        self.settings = config.settings();
        self.config = config;
    }

    fn write(&mut self, line: &str) {
        if let Some(record) = &mut self.record {
            if let Err(error) = writeln!(record, "{line}").and_then(|()| record.flush()) {
                // Managing goes on without a trace.
                tracing::error!(%error, "cannot write the record; it ends here");
                self.record = None;
            }
        }
    }

    /// The domain of an agent that this broker may manage: a guest of its own platform. The bridge
    /// stamped the address, so it is true.
    fn domain(&self, agent: &Agent) -> Option<u32> {
        let Component::Vm { mvm_ip, vm_id } = agent.component else {
            return None;
        };
        match self.own {
            Some(Component::Vm {
                mvm_ip: ip,
                vm_id: own,
            }) => (ip == mvm_ip && own != vm_id).then_some(vm_id),
            _ => Some(vm_id),
        }
    }

    fn report(&mut self, domain: u32, report: Report) {
        let Some(guest) = self.guests.get_mut(&domain) else {
            return;
        };
        let now = Instant::now();
        if guest
            .last_report
            .is_some_and(|last| now - last < REPORT_GAP)
        {
            return;
        }
        guest.last_report = Some(now);
        let seen = Observation {
            notification: report.notification,
            utilization: report.utilization,
        };
        let states = &self.config.states;
        let state = guest.vm.map_or(0, |vm| vm.state);
        let cap = guest.cap;
        let decision = match (&mut guest.vm, self.config.mode) {
            (_, Mode::Observe) => "observe",
            (None, _) => "starting",
            (Some(_), _) if guest.pending => "pending",
            (Some(vm), Mode::Active) => {
                let decision = self.config.policy.decide(vm, states.len(), seen);
                if vm.state != state {
                    guest.pending = true;
                    let why = format!(
                        "{}: {} of {} requests violated the SLA, utilization {}.{} %",
                        decision.name(),
                        report.violations,
                        report.requests,
                        report.utilization / 10,
                        report.utilization % 10
                    );
                    self.actuation.set(domain, states[vm.state], why);
                    tracing::info!(
                        domain,
                        decision = decision.name(),
                        from = cap,
                        to = states[vm.state],
                        violations = report.violations,
                        requests = report.requests,
                        utilization = report.utilization,
                        "performance state"
                    );
                }
                decision.name()
            }
        };
        let record = Record {
            time_ms: self.start.elapsed().as_millis() as u64,
            domain,
            name: guest.name.clone(),
            mode: self.config.mode.name(),
            state,
            cap,
            report,
            decision,
        };
        self.write(&record.to_string());
    }

    /// Brings a guest to where it starts, or finds out where it is.
    fn take_over(&self, domain: u32) {
        let states = &self.config.states;
        match (self.config.mode, self.config.start) {
            (Mode::Observe, _) | (_, StartState::Current) => self.actuation.read(domain),
            (_, StartState::Lowest) => self.actuation.set(domain, states[0], "start: lowest"),
            (_, StartState::Highest) => {
                let highest = states[states.len() - 1];
                self.actuation.set(domain, highest, "start: highest");
            }
        }
    }

    /// Takes in what the actuator has done.
    fn acted(&mut self) {
        while let Some(done) = self.actuation.done() {
            let domain = done.domain;
            let Some(guest) = self.guests.get_mut(&domain) else {
                continue;
            };
            guest.pending = false;
            match done.result {
                Ok(cap) => {
                    guest.cap = cap;
                    let state = self.config.nearest(cap);
                    let vm = guest.vm.get_or_insert_with(|| self.config.policy.vm(state));
                    vm.state = state;
                    let near = self.config.states[state];
                    guest.outdated &= self.config.mode == Mode::Active && near != cap;
                    let withheld = std::mem::take(&mut guest.withheld);
                    if guest.outdated && !withheld {
                        guest.pending = true;
                        self.actuation.set(domain, near, OTHER_SETTINGS);
                    }
                }
                // It is as it was: decide from there.
                Err(CapError::Withheld(why)) => {
                    tracing::debug!(domain, why, "performance state withheld");
                    guest.pending = true;
                    guest.withheld = true;
                    guest.last_read = Instant::now();
                    self.actuation.read(domain);
                }
                // What is in force now is not known: ask, before anything is decided. A guest that
                // has not been taken over yet is tried again at a tick.
                Err(error) => {
                    tracing::error!(domain, %error, "cannot set or read the performance state");
                    if guest.vm.is_some() {
                        guest.pending = true;
                        self.actuation.read(domain);
                    }
                }
            }
        }
    }

    /// A message of an agent; answers nothing.
    pub(super) fn heard(&mut self, agent: &Agent, message: &Message) {
        self.acted();
        match (self.domain(agent), Content::read(&message.payload)) {
            (Some(domain), Ok(Content::Report(report))) => self.report(domain, report),
            (_, Ok(_)) => {}
            (_, Err(error)) => {
                tracing::debug!(agent = %show(agent), %error, "not understood");
            }
        }
    }

    /// Takes in what was done, and does again what has to be.
    pub(super) fn ticked(&mut self, now: Instant) {
        self.acted();
        let observing = self.config.mode == Mode::Observe;
        let mut due = Vec::new();
        for (&domain, guest) in &mut self.guests {
            let age = now.saturating_duration_since(guest.last_read);
            let wait = if guest.vm.is_none() { RETRY } else { REREAD };
            let outdated = guest.vm.filter(|_| guest.outdated && !observing);
            let is_due = observing || guest.vm.is_none() || outdated.is_some();
            if is_due && !guest.pending && age > wait {
                guest.last_read = now;
                guest.pending = true;
                due.push((domain, outdated));
            }
        }
        for (domain, outdated) in due {
            match outdated {
                Some(vm) => {
                    let cap = self.config.states[vm.state];
                    self.actuation.set(domain, cap, OTHER_SETTINGS);
                }
                None => self.take_over(domain),
            }
        }
    }
}

impl Broker for PowerBroker {
    fn established(&mut self, agent: &Agent, message: &Message) -> Option<Vec<u8>> {
        let Some(domain) = self.domain(agent) else {
            tracing::warn!(agent = %show(agent), "refused: not a guest of this platform");
            return None;
        };
        let Ok(Content::Hello(hello)) = Content::read(&message.payload) else {
            tracing::warn!(agent = %show(agent), "refused: not a hello of this version");
            return None;
        };
        if let Some(other) = self.guests.get(&domain) {
            if other.agent != *agent {
                tracing::warn!(agent = %show(agent), "refused: the domain has another agent");
                return None;
            }
        }
        tracing::info!(
            agent = %show(agent), name = hello.name, service_us = hello.service_us, "established"
        );
        let now = Instant::now();
        self.guests.insert(
            domain,
            Guest {
                agent: *agent,
                name: hello.name,
                vm: None,
                cap: 0,
                pending: true,
                outdated: false,
                withheld: false,
                last_report: None,
                last_read: now,
            },
        );
        self.take_over(domain);
        Some(Content::Settings(self.settings).payload())
    }

    fn received(&mut self, agent: &Agent, message: &Message, _: &mut Outbox<'_>) {
        self.heard(agent, message);
    }

    fn ended(&mut self, agent: &Agent, why: Ended) {
        let Some(domain) = self.domain(agent) else {
            return;
        };
        tracing::info!(agent = %show(agent), ?why, "session ended");
        // What nobody watches over any more goes back to where it harms nobody.
        if self.guests.remove(&domain).is_some() && self.config.mode == Mode::Active {
            let why = format!("the session ended: {why:?}");
            self.actuation.set(domain, self.config.safe_cap, why);
        }
    }

    fn tick(&mut self, now: Instant, out: &mut Outbox<'_>) {
        self.ticked(now);
        if std::mem::take(&mut self.tell) {
            for guest in self.guests.values() {
                let settings = Content::Settings(self.settings);
                out.send(&settings.message(Kind::Data, guest.agent));
            }
        }
    }
}
