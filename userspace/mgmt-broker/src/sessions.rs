// SPDX-License-Identifier: MIT OR Apache-2.0

//! Sessions between a broker and its agents (paper Figure 6).
//!
//! An agent *establishes* a session, and is answered if it asked for a reply. Then *data* passes
//! both ways, until one side *terminates*, a message to the agent comes back, or the agent has been
//! silent for [`SILENCE_MAX`]. Data of an agent without a session is answered by *terminate*: the
//! broker was started again, and the agent shall establish anew.

use mgmt_channel::{Address, Channel, Error, Kind, Message, Result};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Sessions that one broker keeps; more agents are not admitted.
pub const SESSIONS_MAX: usize = 4096;
/// A session ends when its agent has said nothing for so long.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long a send may wait for room at a slow agent. A policy's messages are small and rare.
const SEND_WAIT: Duration = Duration::from_millis(20);

/// An agent is known by the address that the bridge stamped.
pub type Agent = Address;

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The agent said so.
    ByAgent,
    /// A message to it came back.
    Unreachable,
    /// It said nothing for [`SILENCE_MAX`].
    Silent,
    /// This broker stops.
    Stopping,
}

/// What distinguishes one broker from another: its messages and its policy.
pub trait Broker {
    /// An agent opens a session. The answer to it; `None` refuses it.
    fn established(&mut self, agent: &Agent, message: &Message) -> Option<Vec<u8>>;

    /// A message of kind data or reply, of an agent with a session.
    fn received(&mut self, agent: &Agent, message: &Message, out: &mut Outbox<'_>);

    /// A session is over.
    fn ended(&mut self, agent: &Agent, why: Ended);

    /// Called about every [`Broker::interval`].
    fn tick(&mut self, _now: Instant, _out: &mut Outbox<'_>) {}

    /// Time between two calls of [`Broker::tick`].
    fn interval(&self) -> Duration {
        Duration::from_millis(200)
    }
}

/// The way for a broker's messages to its agents.
pub struct Outbox<'a> {
    channel: &'a Channel,
    failed: Vec<Agent>,
}

impl Outbox<'_> {
    /// Sends to an agent. If it is not there any more, its session ends.
    pub fn send(&mut self, message: &Message) {
        let to = message.header.destination;
        match self.channel.send_timeout(message, SEND_WAIT) {
            Ok(()) => {}
            // Its queue is full: it does not read. It will be told the next time.
            Err(Error::TimedOut) => tracing::debug!(agent = %show(&to), "agent does not read"),
            Err(error) => {
                tracing::debug!(agent = %show(&to), %error, "cannot send");
                self.failed.push(to);
            }
        }
    }
}

/// An address for the log.
pub(crate) fn show(address: &Address) -> String {
    mgmt_channel::show_address(address)
}

/// Serves `broker`'s agents over `channel` until `stop` says so, which is asked at every interval.
pub fn run(broker: &mut dyn Broker, channel: &Channel, stop: &dyn Fn() -> bool) -> Result<()> {
    channel.set_nonblocking(true)?;
    let mut sessions = Sessions::default();
    let interval = broker.interval();
    let mut next = Instant::now() + interval;
    while !stop() {
        let left = next.saturating_duration_since(Instant::now());
        let message = match channel.recv(Some(left)) {
            Ok(message) => message,
            // One malformed message must not end the service for all.
            Err(Error::Wire(error)) => {
                tracing::warn!(?error, "malformed message");
                None
            }
            Err(error) => return Err(error),
        };
        let mut out = Outbox {
            channel,
            failed: Vec::new(),
        };
        if let Some(message) = message {
            sessions.handle(broker, &message, &mut out);
        }
        let now = Instant::now();
        if now >= next {
            next = now + interval;
            broker.tick(now, &mut out);
            sessions.expire(broker, now);
        }
        for agent in out.failed {
            sessions.end(broker, &agent, Ended::Unreachable);
        }
    }
    for agent in std::mem::take(&mut sessions.heard).into_keys() {
        let goodbye = Message::new(Kind::Terminate, agent, Vec::new());
        let _ = channel.send_timeout(&goodbye, SEND_WAIT);
        broker.ended(&agent, Ended::Stopping);
    }
    Ok(())
}

/// Who has a session, and when each was last heard.
#[derive(Default)]
struct Sessions {
    heard: HashMap<Agent, Instant>,
}

impl Sessions {
    fn handle(&mut self, broker: &mut dyn Broker, message: &Message, out: &mut Outbox<'_>) {
        let agent = message.header.source;
        let now = Instant::now();
        let known = match self.heard.get_mut(&agent) {
            Some(heard) => {
                *heard = now;
                true
            }
            None => false,
        };
        match message.header.kind {
            Kind::Discover if message.is_request() => out.send(&message.reply(Vec::new())),
            Kind::Discover | Kind::Presence => {}
            Kind::Establish => {
                // A second one begins anew: the agent was started again.
                if !known && self.heard.len() >= SESSIONS_MAX {
                    tracing::warn!(agent = %show(&agent), "too many sessions");
                    return;
                }
                let Some(answer) = broker.established(&agent, message) else {
                    self.heard.remove(&agent);
                    let mut refusal = message.reply(Vec::new());
                    refusal.header.kind = Kind::Terminate;
                    out.send(&refusal);
                    return;
                };
                self.heard.insert(agent, now);
                if message.is_request() {
                    out.send(&message.reply(answer));
                }
            }
            Kind::Data | Kind::Reply if known => broker.received(&agent, message, out),
            Kind::Data => out.send(&Message::new(Kind::Terminate, agent, Vec::new())),
            Kind::Reply => {}
            Kind::Terminate => self.end(broker, &agent, Ended::ByAgent),
            // The addresses are swapped: the source is where it should have gone.
            Kind::Undeliverable => self.end(broker, &agent, Ended::Unreachable),
        }
    }

    fn end(&mut self, broker: &mut dyn Broker, agent: &Agent, why: Ended) {
        if self.heard.remove(agent).is_some() {
            broker.ended(agent, why);
        }
    }

    fn expire(&mut self, broker: &mut dyn Broker, now: Instant) {
        let silent = |heard: &Instant| now.saturating_duration_since(*heard) > SILENCE_MAX;
        let agents: Vec<_> = self
            .heard
            .iter()
            .filter(|(_, heard)| silent(heard))
            .collect();
        let agents: Vec<Agent> = agents.into_iter().map(|(agent, _)| *agent).collect();
        for agent in agents {
            self.end(broker, &agent, Ended::Silent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mgmt_channel::{AppId, Component, Flags, Header, Reason};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    struct Log(Vec<String>);

    impl Broker for Log {
        fn established(&mut self, _: &Agent, message: &Message) -> Option<Vec<u8>> {
            self.0.push("established".into());
            (message.payload != b"refuse me").then(|| b"welcome".to_vec())
        }
        fn received(&mut self, _: &Agent, message: &Message, _: &mut Outbox<'_>) {
            self.0
                .push(String::from_utf8_lossy(&message.payload).into_owned());
        }
        fn ended(&mut self, _: &Agent, why: Ended) {
            self.0.push(format!("{why:?}"));
        }
        fn interval(&self) -> Duration {
            Duration::from_millis(5)
        }
    }

    /// Runs a broker against `agent`, which plays the other end, and returns the broker's log.
    fn play(agent: impl FnOnce(&Channel)) -> Vec<String> {
        let flags = SocketFlags::CLOEXEC;
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let (ours, theirs) = (Channel::from_fd(a, 4096), Channel::from_fd(b, 4096));
        let stop = AtomicBool::new(false);
        let mut log = Log::default();
        std::thread::scope(|scope| {
            scope.spawn(|| run(&mut log, &ours, &|| stop.load(Ordering::Relaxed)).unwrap());
            agent(&theirs);
            // Everything sent is handled before the broker looks at the flag again.
            theirs.request(message(Kind::Discover, b""), SOON).unwrap();
            stop.store(true, Ordering::Relaxed);
        });
        log.0
    }

    const SOON: Duration = Duration::from_secs(5);

    fn message(kind: Kind, payload: &[u8]) -> Message {
        let us = Address::new(
            Component::Vm {
                mvm_ip: [0; 16],
                vm_id: 3,
            },
            AppId::new(b"Power").unwrap(),
        );
        let mut message = Message::new(kind, us, payload.to_vec());
        message.header.source = us;
        message
    }

    fn establish(channel: &Channel) {
        let answer = channel
            .request(message(Kind::Establish, b""), SOON)
            .unwrap();
        assert_eq!(answer.payload, b"welcome");
    }

    #[test]
    fn a_session_from_establishment_to_termination() {
        let log = play(|channel| {
            establish(channel);
            channel.send(&message(Kind::Data, b"one")).unwrap();
            channel.send(&message(Kind::Terminate, b"")).unwrap();
        });
        assert_eq!(log, ["established", "one", "ByAgent"]);
    }

    #[test]
    fn data_without_a_session_is_answered_by_terminate() {
        let log = play(|channel| {
            channel.send(&message(Kind::Data, b"one")).unwrap();
            let answer = channel.recv(Some(SOON)).unwrap().unwrap();
            assert_eq!(answer.header.kind, Kind::Terminate);
        });
        assert!(log.is_empty());
    }

    #[test]
    fn a_refused_agent_is_told() {
        let log = play(|channel| {
            let mut question = message(Kind::Establish, b"refuse me");
            question.header.flags = Flags::REQUEST;
            channel.send(&question).unwrap();
            let answer = channel.recv(Some(SOON)).unwrap().unwrap();
            assert_eq!(answer.header.kind, Kind::Terminate);
        });
        assert_eq!(log, ["established"]);
    }

    #[test]
    fn a_message_that_comes_back_ends_the_session() {
        let log = play(|channel| {
            establish(channel);
            let sent: Header = message(Kind::Data, b"").header;
            let header = sent.undeliverable(Reason::PeerGone).unwrap();
            let payload = Vec::new();
            channel.send(&Message { header, payload }).unwrap();
        });
        assert_eq!(log, ["established", "Unreachable"]);
    }

    #[test]
    fn stopping_ends_the_sessions() {
        assert_eq!(play(establish), ["established", "Stopping"]);
    }

    #[test]
    fn silence_ends_a_session() {
        let mut sessions = Sessions::default();
        let mut log = Log::default();
        let now = Instant::now();
        sessions
            .heard
            .insert(message(Kind::Data, b"").header.source, now);
        sessions.expire(&mut log, now + SILENCE_MAX);
        assert!(log.0.is_empty());
        sessions.expire(&mut log, now + SILENCE_MAX + Duration::from_millis(1));
        assert_eq!(log.0, ["Silent"]);
    }
}
