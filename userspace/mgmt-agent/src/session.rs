// SPDX-License-Identifier: MIT OR Apache-2.0

//! The agent's side of a session with the power broker (paper Figure 6).
//!
//! The channel, the module, the daemon and the broker may come and go at any time: without a
//! session the agent goes on measuring, and tries to establish one in every epoch.

use crate::{Samples, Utilization};
use mgmt_broker::power::{
    self,
    proto::{Content, Hello, Report, Settings},
};
use mgmt_channel::{Address, AppId, Channel, Component, Error, Flags, Kind, Message, Result};
use std::time::{Duration, Instant};

/// The paper's epoch.
pub const EPOCH: Duration = Duration::from_millis(500);
/// Epochs to wait for the broker's answer before asking again.
const PATIENCE: u32 = 6;
/// How long a report may wait for room; it is worthless when the next one is due.
const SEND_WAIT: Duration = Duration::from_millis(100);

/// What an agent is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// How it introduces itself; up to 31 bytes.
    pub name: String,
    /// The App_ID to bind here, usually [`power::APP`].
    pub app: AppId,
    /// The broker.
    pub broker: Address,
    /// Response times above this are violations, microseconds, until the broker says otherwise.
    pub sla_us: u32,
    /// Violations above this share of an epoch's requests are notified, per mille: the paper's 1 %.
    pub threshold_permille: u32,
    /// Processor time of one request on the unrestricted CPU, microseconds; 0 if unknown.
    pub service_us: u32,
}

impl Config {
    /// An agent of the broker in the management VM.
    pub fn new(name: impl Into<String>, sla_us: u32) -> Result<Self> {
        let app = AppId::new(power::APP.as_bytes())?;
        Ok(Self {
            name: name.into(),
            app,
            broker: Address::new(Component::Mvm, app),
            sla_us,
            threshold_permille: 10,
            service_us: 0,
        })
    }
}

/// Where the session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down,
    /// Asked, so many epochs ago.
    Asked(u32),
    Up,
}

struct Agent<'a> {
    config: Config,
    open: &'a dyn Fn() -> Result<Channel>,
    channel: Option<Channel>,
    state: State,
}

/// Runs an agent until `stop` says so, which is asked at every epoch.
///
/// `open` makes the channel, bound; it is called again whenever there is none.
pub fn run(
    config: Config,
    samples: &Samples,
    open: &dyn Fn() -> Result<Channel>,
    stop: &dyn Fn() -> bool,
) {
    let mut agent = Agent {
        config,
        open,
        channel: None,
        state: State::Down,
    };
    let mut utilization = Utilization::start();
    let mut begin = Instant::now();
    let mut epoch = 0;
    while !stop() {
        let end = begin + EPOCH;
        agent.listen(end);
        let now = Instant::now();
        let sla_us = agent.config.sla_us;
        let summary = samples.take(sla_us);
        epoch += 1;
        let report = Report {
            epoch,
            epoch_ms: (now - begin).as_millis() as u32,
            requests: summary.requests,
            violations: summary.violations,
            rejected: summary.rejected,
            utilization: utilization
                .as_mut()
                .and_then(Utilization::since_last)
                .unwrap_or(0),
            p50_us: summary.p50_us,
            p95_us: summary.p95_us,
            max_us: summary.max_us,
            sla_us,
            queued: samples.queued(),
            notification: u64::from(summary.violations) * 1000
                > u64::from(summary.requests) * u64::from(agent.config.threshold_permille),
        };
        agent.end_of_epoch(report);
        // On schedule, unless the VM was kept from running for longer than an epoch.
        begin = if now < end + EPOCH { end } else { now };
    }
    agent.send(Message::new(
        Kind::Terminate,
        agent.config.broker,
        Vec::new(),
    ));
}

impl Agent<'_> {
    /// Handles messages until `end`.
    fn listen(&mut self, end: Instant) {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Some(channel) = &self.channel else {
                std::thread::sleep(left);
                return;
            };
            match channel.recv(Some(left)) {
                Ok(None) => return,
                Ok(Some(message)) => self.handle(&message),
                Err(Error::Wire(_)) => {}
                Err(error) => self.lost(&error),
            }
        }
    }

    fn handle(&mut self, message: &Message) {
        match message.header.kind {
            Kind::Discover if message.is_request() => self.send(message.reply(Vec::new())),
            Kind::Reply if matches!(self.state, State::Asked(_)) => {
                self.state = State::Up;
                self.settings(&message.payload);
            }
            Kind::Data => self.settings(&message.payload),
            // The broker has gone, or does not know us: establish anew at the end of the epoch.
            Kind::Terminate | Kind::Undeliverable => self.state = State::Down,
            _ => {}
        }
    }

    fn settings(&mut self, payload: &[u8]) {
        let Ok(Content::Settings(Settings {
            sla_us,
            threshold_permille,
        })) = Content::read(payload)
        else {
            return;
        };
        if sla_us != 0 {
            self.config.sla_us = sla_us;
        }
        if threshold_permille != 0 {
            self.config.threshold_permille = threshold_permille;
        }
    }

    fn end_of_epoch(&mut self, report: Report) {
        if self.channel.is_none() {
            match (self.open)() {
                Ok(channel) if channel.set_nonblocking(true).is_ok() => {
                    self.channel = Some(channel)
                }
                _ => return,
            }
        }
        match self.state {
            State::Up => {
                self.send(Content::Report(report).message(Kind::Data, self.config.broker));
            }
            State::Asked(epochs) if epochs < PATIENCE => self.state = State::Asked(epochs + 1),
            State::Asked(_) | State::Down => {
                let hello = Content::Hello(Hello {
                    name: self.config.name.clone(),
                    service_us: self.config.service_us,
                    sla_us: self.config.sla_us,
                });
                let mut message = hello.message(Kind::Establish, self.config.broker);
                message.header.flags = Flags::REQUEST;
                message.header.correlation = report.epoch;
                message.header.deadline_ms = EPOCH.as_millis() as u32 * PATIENCE;
                self.state = State::Asked(0);
                self.send(message);
            }
        }
    }

    fn send(&mut self, message: Message) {
        let Some(channel) = &self.channel else {
            return;
        };
        match channel.send_timeout(&message, SEND_WAIT) {
            // The broker does not read for the moment: the next report says more than this one.
            Ok(()) | Err(Error::TimedOut) => {}
            Err(error) => self.lost(&error),
        }
    }

    /// Sending or receiving failed. The channel may come back by itself, or must be opened again.
    fn lost(&mut self, error: &Error) {
        self.state = State::Down;
        if !error.is_transient() {
            self.channel = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::cell::RefCell;
    use std::sync::atomic::{AtomicBool, Ordering};

    const SOON: Option<Duration> = Some(Duration::from_secs(10));

    fn pair() -> (Channel, Channel) {
        let flags = SocketFlags::CLOEXEC;
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (Channel::from_fd(a, 4096), Channel::from_fd(b, 4096))
    }

    /// Plays the broker for an agent whose first channel breaks.
    #[test]
    fn an_agent_reports_and_comes_back() {
        let (first, broker) = pair();
        let (second, broker_again) = pair();
        let channels = std::sync::Mutex::new(vec![second, first]);
        let open = || {
            let channel = channels.lock().unwrap().pop();
            channel.ok_or(Error::NotConnected)
        };
        let stop = AtomicBool::new(false);
        let samples = Samples::default();
        let config = Config::new("test", 1000).unwrap();
        let us = config.broker;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                run(config, &samples, &open, &|| stop.load(Ordering::Relaxed));
            });
            let expect_hello = |broker: &Channel, sla_us| {
                let hello = broker.recv(SOON).unwrap().unwrap();
                assert_eq!(hello.header.kind, Kind::Establish);
                let Ok(Content::Hello(said)) = Content::read(&hello.payload) else {
                    panic!("not a hello: {hello:?}");
                };
                assert_eq!((said.name.as_str(), said.sla_us), ("test", sla_us));
                hello
            };
            let expect_report = |broker: &Channel| {
                let message = broker.recv(SOON).unwrap().unwrap();
                match Content::read(&message.payload) {
                    Ok(Content::Report(report)) => report,
                    other => panic!("not a report: {other:?}"),
                }
            };
            let hello = expect_hello(&broker, 1000);
            // The broker sets the SLA; the next request violates it.
            let settings = Settings {
                sla_us: 5000,
                threshold_permille: 0,
            };
            let mut answer = hello.reply(Content::Settings(settings).payload());
            answer.header.destination = us;
            broker.send(&answer).unwrap();
            samples.answered(Duration::from_millis(6));
            let reports = RefCell::new(Vec::new());
            while reports.borrow().len() < 2 {
                reports.borrow_mut().push(expect_report(&broker));
            }
            let reports = reports.into_inner();
            assert_eq!(reports[0].sla_us, 5000);
            assert!(reports.iter().any(|r| r.notification && r.violations == 1));
            assert!(reports.iter().any(|r| !r.notification && r.requests == 0));

            // It does not know us any more: the agent establishes anew.
            broker
                .send(&Message::new(Kind::Terminate, us, Vec::new()))
                .unwrap();
            expect_hello(&broker, 5000);

            // The device goes away, and comes back.
            drop(broker);
            expect_hello(&broker_again, 5000);
            stop.store(true, Ordering::Relaxed);
            let last = broker_again.recv(SOON).unwrap().unwrap();
            assert_eq!(last.header.kind, Kind::Terminate);
        });
    }
}
