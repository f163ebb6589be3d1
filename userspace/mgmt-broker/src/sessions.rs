// SPDX-License-Identifier: MIT OR Apache-2.0

//! Sessions between a broker and its agents (paper Figure 6).
//!
//! An agent *establishes* a session, and is answered if it asked for a reply. Then *data* passes
//! both ways, until one side *terminates*, a message to the agent comes back, or the agent has been
//! silent for [`SILENCE_MAX`]. Data of an agent without a session is answered by *terminate*: the
//! broker was started again, and the agent shall establish anew.

use mgmt_channel::{Address, Channel, Error, Kind, Message, Result};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Sessions that one broker keeps; more agents are not admitted.
pub const SESSIONS_MAX: usize = 4096;
/// A session ends when its agent has said nothing for so long.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Messages of one agent that wait for the policy; a session with more ends.
pub const WAITING_MAX: u32 = 64;
/// Messages of all agents that wait for the policy; while there are more, nothing is read.
const WAITING_ALL_MAX: usize = 1024;
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
    /// It said more than the policy takes in: [`WAITING_MAX`] messages wait.
    Flooding,
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

    /// What an agent that is refused is told.
    fn refusal(&self) -> Vec<u8> {
        Vec::new()
    }

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
///
/// The broker has a thread of its own: while it is slow, agents are still discovered, heard (so that
/// none seems silent) and refused.
pub fn run(
    broker: &mut (dyn Broker + Send),
    channel: &Channel,
    stop: &dyn Fn() -> bool,
) -> Result<()> {
    channel.set_nonblocking(true)?;
    let interval = broker.interval();
    let sessions = Mutex::new(Sessions::default());
    let (events, waiting) = sync_channel(WAITING_ALL_MAX);
    std::thread::scope(|scope| {
        let policy = Policy {
            broker,
            channel,
            sessions: &sessions,
        };
        let thread = scope.spawn(move || policy.run(&waiting));
        let reader = Reader {
            channel,
            sessions: &sessions,
            events,
        };
        let read = reader.run(interval, stop);
        drop(reader);
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
        read
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// What the policy hears of, in order.
enum Event {
    Message(Message),
    Ended(Agent, Ended),
}

/// The thread that reads: discovery, liveness, and what no policy is needed for.
struct Reader<'a> {
    channel: &'a Channel,
    sessions: &'a Mutex<Sessions>,
    events: SyncSender<Event>,
}

/// The policy's thread has ended.
struct PolicyGone;

/// Whether the policy will hear of it.
type Told = std::result::Result<(), PolicyGone>;

impl Reader<'_> {
    fn run(&self, interval: Duration, stop: &dyn Fn() -> bool) -> Result<()> {
        let mut next = Instant::now() + interval;
        while !stop() {
            let left = next.saturating_duration_since(Instant::now());
            let message = match self.channel.recv(Some(left)) {
                Ok(message) => message,
                // One malformed message must not end the service for all.
                Err(Error::Wire(error)) => {
                    tracing::warn!(?error, "malformed message");
                    None
                }
                Err(error) => return Err(error),
            };
            let done = message.map_or(Ok(()), |message| self.handle(message, stop));
            let now = Instant::now();
            let expired = if now >= next {
                next = now + interval;
                lock(self.sessions).expire(now)
            } else {
                Vec::new()
            };
            let tell = |agent| self.tell(Event::Ended(agent, Ended::Silent), stop);
            if done
                .and_then(|()| expired.into_iter().try_for_each(tell))
                .is_err()
            {
                break;
            }
        }
        Ok(())
    }

    fn handle(&self, message: Message, stop: &dyn Fn() -> bool) -> Told {
        let agent = message.header.source;
        let answer = |kind| {
            let mut answer = message.reply(Vec::new());
            answer.header.kind = kind;
            self.send(&answer);
        };
        match message.header.kind {
            Kind::Discover if message.is_request() => answer(Kind::Reply),
            Kind::Discover | Kind::Presence => {}
            kind => match lock(self.sessions).heard(agent, kind, Instant::now()) {
                Heard::Tell => return self.tell(Event::Message(message), stop),
                Heard::Unknown if kind == Kind::Data => answer(Kind::Terminate),
                Heard::Unknown => {}
                Heard::TooMany => {
                    tracing::warn!(agent = %show(&agent), "too many sessions");
                    answer(Kind::Terminate);
                }
                Heard::Floods => {
                    answer(Kind::Terminate);
                    return self.tell(Event::Ended(agent, Ended::Flooding), stop);
                }
            },
        }
        Ok(())
    }

    fn send(&self, message: &Message) {
        if let Err(error) = self.channel.send_timeout(message, SEND_WAIT) {
            tracing::debug!(agent = %show(&message.header.destination), %error, "cannot send");
        }
    }

    fn tell(&self, mut event: Event, stop: &dyn Fn() -> bool) -> Told {
        loop {
            event = match self.events.try_send(event) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(PolicyGone),
                // The others' messages wait in the kernel meanwhile, which shares the room fairly.
                Err(TrySendError::Full(_)) if stop() => return Ok(()),
                Err(TrySendError::Full(event)) => event,
            };
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The policy's thread.
struct Policy<'a> {
    broker: &'a mut (dyn Broker + Send),
    channel: &'a Channel,
    sessions: &'a Mutex<Sessions>,
}

impl Policy<'_> {
    fn run(mut self, events: &Receiver<Event>) {
        let interval = self.broker.interval();
        let mut next = Instant::now() + interval;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            let event = match events.recv_timeout(left) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let mut out = Outbox {
                channel: self.channel,
                failed: Vec::new(),
            };
            match event {
                Some(Event::Message(message)) => self.handle(&message, &mut out),
                Some(Event::Ended(agent, why)) => self.broker.ended(&agent, why),
                None => {}
            }
            let now = Instant::now();
            if now >= next {
                next = now + interval;
                self.broker.tick(now, &mut out);
            }
            for agent in out.failed {
                self.end(&agent, Ended::Unreachable);
            }
        }
        for agent in lock(self.sessions).admitted() {
            let goodbye = Message::new(Kind::Terminate, agent, Vec::new());
            let _ = self.channel.send_timeout(&goodbye, SEND_WAIT);
            self.broker.ended(&agent, Ended::Stopping);
        }
    }

    fn handle(&mut self, message: &Message, out: &mut Outbox<'_>) {
        let agent = message.header.source;
        let is_admitted = lock(self.sessions).taken(&agent);
        match message.header.kind {
            // A second one begins anew: the agent was started again.
            Kind::Establish => match self.broker.established(&agent, message) {
                Some(answer) => {
                    lock(self.sessions).admit(&agent);
                    if message.is_request() {
                        out.send(&message.reply(answer));
                    }
                }
                None => {
                    lock(self.sessions).remove(&agent);
                    let mut refusal = message.reply(self.broker.refusal());
                    refusal.header.kind = Kind::Terminate;
                    out.send(&refusal);
                }
            },
            Kind::Data | Kind::Reply if is_admitted => self.broker.received(&agent, message, out),
            Kind::Data => out.send(&Message::new(Kind::Terminate, agent, Vec::new())),
            Kind::Terminate => self.end(&agent, Ended::ByAgent),
            // The addresses are swapped: the source is where it should have gone.
            Kind::Undeliverable => self.end(&agent, Ended::Unreachable),
            Kind::Reply | Kind::Discover | Kind::Presence => {}
        }
    }

    fn end(&mut self, agent: &Agent, why: Ended) {
        let ended = lock(self.sessions).remove(agent);
        if ended {
            self.broker.ended(agent, why);
        }
    }
}

/// Who has a session, or asks for one.
#[derive(Default)]
struct Sessions {
    agents: HashMap<Agent, Session>,
}

struct Session {
    heard: Instant,
    is_admitted: bool,
    /// Messages that the policy has not looked at.
    waiting: u32,
}

/// What is done with a message.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// The policy shall know.
    Tell,
    /// Who sent it has no session.
    Unknown,
    /// There is no room for its session.
    TooMany,
    /// Its session has ended.
    Floods,
}

impl Sessions {
    fn heard(&mut self, agent: Agent, kind: Kind, now: Instant) -> Heard {
        let count = self.agents.len();
        let Some(session) = self.agents.get_mut(&agent) else {
            if kind != Kind::Establish {
                return Heard::Unknown;
            }
            if count >= SESSIONS_MAX {
                return Heard::TooMany;
            }
            let session = Session {
                heard: now,
                is_admitted: false,
                waiting: 1,
            };
            self.agents.insert(agent, session);
            return Heard::Tell;
        };
        session.heard = now;
        session.waiting += 1;
        if session.waiting <= WAITING_MAX {
            return Heard::Tell;
        }
        if self.remove(&agent) {
            Heard::Floods
        } else {
            Heard::Unknown
        }
    }

    /// The policy looks at a message; whether it has admitted the agent.
    fn taken(&mut self, agent: &Agent) -> bool {
        self.agents.get_mut(agent).is_some_and(|session| {
            session.waiting = session.waiting.saturating_sub(1);
            session.is_admitted
        })
    }

    fn admit(&mut self, agent: &Agent) {
        let session = self.agents.entry(*agent).or_insert(Session {
            heard: Instant::now(),
            is_admitted: false,
            waiting: 0,
        });
        session.is_admitted = true;
    }

    /// Ends a session. Whether it was one.
    fn remove(&mut self, agent: &Agent) -> bool {
        self.agents
            .remove(agent)
            .is_some_and(|session| session.is_admitted)
    }

    fn admitted(&self) -> Vec<Agent> {
        let admitted = self
            .agents
            .iter()
            .filter(|(_, session)| session.is_admitted);
        admitted.map(|(agent, _)| *agent).collect()
    }

    /// Ends what is silent. The sessions that were.
    fn expire(&mut self, now: Instant) -> Vec<Agent> {
        let mut expired = Vec::new();
        self.agents.retain(|agent, session| {
            let is_silent = now.saturating_duration_since(session.heard) > SILENCE_MAX;
            if is_silent && session.is_admitted {
                expired.push(*agent);
            }
            !is_silent
        });
        expired
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
        let now = Instant::now();
        let agent = message(Kind::Data, b"").header.source;
        assert_eq!(sessions.heard(agent, Kind::Establish, now), Heard::Tell);
        sessions.admit(&agent);
        assert!(sessions.expire(now + SILENCE_MAX).is_empty());
        let late = now + SILENCE_MAX + Duration::from_millis(1);
        assert_eq!(sessions.expire(late), [agent]);
        assert_eq!(sessions.heard(agent, Kind::Data, late), Heard::Unknown);
    }

    #[test]
    fn a_flood_ends_its_session_and_no_other() {
        let mut sessions = Sessions::default();
        let now = Instant::now();
        let agent = message(Kind::Data, b"").header.source;
        let other = Address {
            app: AppId::new(b"Other").ok(),
            ..agent
        };
        for agent in [agent, other] {
            sessions.heard(agent, Kind::Establish, now);
            sessions.taken(&agent);
            sessions.admit(&agent);
        }
        for _ in 0..WAITING_MAX {
            assert_eq!(sessions.heard(agent, Kind::Data, now), Heard::Tell);
        }
        assert_eq!(sessions.heard(agent, Kind::Data, now), Heard::Floods);
        assert_eq!(sessions.admitted(), [other]);
    }

    /// A policy that hangs: agents still find the broker, and the flooding one is sent away.
    #[test]
    fn a_slow_policy_stops_nobody_else() {
        struct Slow(std::sync::mpsc::Receiver<()>);
        impl Broker for Slow {
            fn established(&mut self, _: &Agent, _: &Message) -> Option<Vec<u8>> {
                Some(b"welcome".to_vec())
            }
            fn received(&mut self, _: &Agent, _: &Message, _: &mut Outbox<'_>) {
                let _ = self.0.recv();
            }
            fn ended(&mut self, _: &Agent, _: Ended) {}
        }
        let flags = SocketFlags::CLOEXEC;
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let (ours, theirs) = (Channel::from_fd(a, 4096), Channel::from_fd(b, 4096));
        let (wake, woken) = std::sync::mpsc::channel();
        let (stop, mut slow) = (AtomicBool::new(false), Slow(woken));
        std::thread::scope(|scope| {
            scope.spawn(|| run(&mut slow, &ours, &|| stop.load(Ordering::Relaxed)).unwrap());
            establish(&theirs);
            for _ in 0..WAITING_MAX + 2 {
                theirs.send(&message(Kind::Data, b"slow")).unwrap();
            }
            theirs.request(message(Kind::Discover, b""), SOON).unwrap();
            let gone = theirs.recv(Some(SOON)).unwrap().unwrap();
            assert_eq!(gone.header.kind, Kind::Terminate);
            stop.store(true, Ordering::Relaxed);
            drop(wake);
        });
    }
}
