// SPDX-License-Identifier: MIT OR Apache-2.0

//! The control interface: requests over the M-channel, to the App_ID `Mgmtd`.
//!
//! Who may: only this domain's own senders, as the bridge stamps them, and of these only root, as far
//! as the bridge's list of endpoints (debugfs) tells whose they are; else whom the permissions of
//! `/dev/mgmt` let in.

use crate::core::{Core, Pulse};
use anyhow::{Context, Result};
use mgmt_channel::{Address, Channel, Component, Error, Kind, Message, show_address};
use mgmt_control::{
    APP, Answer, Command, HEADER, MAX_POLICY, MAX_RECORDS, PART, Refusal, RefusalKind, Reply,
    Request, Status, VERSION, Who, decode, encode,
};
use mgmt_maker::{Want, since_boot_ms};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// How long a thread waits before it looks whether all shall end.
const TICK: Duration = Duration::from_millis(500);
/// How long an answer may wait for room at who asked.
const ANSWER: Duration = Duration::from_secs(1);
/// Where the bridge tells whose each endpoint is.
const ENDPOINTS: &str = "/sys/kernel/debug/mgmt/endpoints";
/// Rules that come in parts, of so many senders at a time.
const UPLOADS: usize = 4;
/// Actuations that wait for their turn.
const ACTUATIONS: usize = 64;
/// Strangers that the log names.
const STRANGERS: usize = 64;
/// Bytes of the texts of a request that end in records.
const MAX_TEXT: usize = 1024;

/// Serves until all shall end. The device may come and go.
pub fn serve(core: &Arc<Core>, pulse: &Pulse) {
    let mut told = false;
    while !core.stopping() {
        pulse.beat();
        match session(core, pulse) {
            Ok(()) => told = false,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!("control interface: {error:#}; trying again");
                }
                std::thread::sleep(TICK);
            }
        }
    }
}

/// As long as the device is there.
fn session(core: &Arc<Core>, pulse: &Pulse) -> Result<()> {
    let channel = Channel::open()?.bound(APP).context("binding")?;
    channel.set_nonblocking(true)?;
    core.policies.recover(&channel)?;
    core.policies.follow_file(false);
    tracing::info!("control interface ready");
    let channel = Arc::new(channel);
    // Asked each time, as the address of this domain may be set.
    let own = || channel.info().ok().and_then(|info| info.component);
    serve_on(core, &channel, pulse, &own)
}

/// Until all shall end, or the channel does. `own` is this domain.
fn serve_on(
    core: &Core,
    channel: &Arc<Channel>,
    pulse: &Pulse,
    own: &dyn Fn() -> Option<Component>,
) -> Result<()> {
    // A toolstack call takes seconds at worst, and other requests must not wait for it.
    let (give, jobs) = sync_channel(ACTUATIONS);
    std::thread::scope(|scope| {
        let answers = Arc::clone(channel);
        scope.spawn(move || actuate(core, &answers, jobs));
        let mut service = Service {
            core,
            channel,
            own,
            give,
            uploads: HashMap::new(),
            strangers: BTreeSet::new(),
        };
        while !core.stopping() {
            pulse.beat();
            match channel.recv(Some(TICK)) {
                Ok(None) | Err(Error::Wire(_)) => {}
                Ok(Some(message)) => service.handle(&message),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    })
}

fn answer(channel: &Channel, question: &Message, reply: &Reply) {
    let source = question.header.source;
    let mut message = Message::with_app_header(Kind::Reply, source, &HEADER, &encode(reply));
    message.header.correlation = question.header.correlation;
    if let Err(error) = channel.send_timeout(&message, ANSWER) {
        tracing::debug!(to = %show_address(&source), %error, "cannot answer");
    }
}

/// The App_ID of a sender.
fn app(source: &Address) -> String {
    source
        .app
        .map_or(String::new(), |app| app.as_str().to_owned())
}

/// Actuations, one after the other, until who gives them is gone.
fn actuate(core: &Core, channel: &Channel, jobs: Receiver<(Message, Command)>) {
    for (question, command) in jobs {
        let holder = app(&question.header.source);
        let holder = holder.as_str();
        let done = match &command {
            Command::Actuate {
                actuator,
                target,
                value,
                ttl_ms,
                why,
            } => core.governor.actuate(Want {
                holder,
                actuator,
                target,
                value: *value,
                ttl_ms: *ttl_ms,
                why,
            }),
            Command::Release { actuator, target } => {
                core.governor
                    .release(holder, actuator, target, "given back")
            }
            _ => Err(Refusal::new(RefusalKind::Unknown, "no actuation")),
        };
        answer(channel, &question, &done.map(|()| Answer::Done));
    }
}

/// Rules of which not all parts are here.
struct Upload {
    text: Vec<u8>,
    total: u32,
}

struct Service<'a> {
    core: &'a Core,
    channel: &'a Channel,
    own: &'a dyn Fn() -> Option<Component>,
    give: SyncSender<(Message, Command)>,
    uploads: HashMap<Address, Upload>,
    strangers: BTreeSet<String>,
}

impl Service<'_> {
    fn handle(&mut self, message: &Message) {
        match message.header.kind {
            Kind::Discover if message.is_request() => {
                let _ = self
                    .channel
                    .send_timeout(&message.reply(Vec::new()), ANSWER);
            }
            Kind::Data if message.is_request() => {
                let reply = match self.permitted(message).and_then(|()| self.read(message)) {
                    Ok(Request { command, .. })
                        if matches!(command, Command::Actuate { .. } | Command::Release { .. }) =>
                    {
                        match self.give.try_send((message.clone(), command)) {
                            Ok(()) => return,
                            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(
                                Refusal::new(RefusalKind::Withheld, "too many actuations wait"),
                            ),
                        }
                    }
                    Ok(request) => self.carry_out(message, request),
                    Err(refusal) => Err(refusal),
                };
                self.core.metrics.request(reply.is_ok());
                answer(self.channel, message, &reply);
            }
            _ => {}
        }
    }

    fn permitted(&mut self, message: &Message) -> Result<(), Refusal> {
        let source = &message.header.source;
        let why = if (self.own)() != Some(source.component) {
            "only this domain's own programs may ask"
        } else if owner(&app(source)).is_some_and(|uid| uid != 0) {
            "only root may ask"
        } else {
            return Ok(());
        };
        let who = show_address(source);
        if self.strangers.len() < STRANGERS && self.strangers.insert(who.clone()) {
            tracing::warn!(who, why, "request refused");
        }
        Err(Refusal::new(RefusalKind::Forbidden, why))
    }

    fn read(&self, message: &Message) -> Result<Request, Refusal> {
        match message.app_header() {
            header if header == HEADER => {}
            [b'M', b'C', b'T', other] => {
                let text = format!("mgmtd speaks version {VERSION} of the interface, not {other}");
                return Err(Refusal::new(RefusalKind::Version, text));
            }
            _ => return Err(Refusal::new(RefusalKind::Version, "not a request")),
        }
        let request: Request = decode(message.app_data()).ok_or_else(|| {
            Refusal::new(RefusalKind::Unknown, "mgmtd does not know this request")
        })?;
        let Who { login, program, .. } = &request.who;
        let texts = [login.as_deref().unwrap_or(""), program.as_str()];
        let more = match &request.command {
            Command::PolicyLoad { origin, .. } => origin.as_str(),
            Command::Actuate { why, .. } => why.as_str(),
            _ => "",
        };
        let wrong = |text: &str| text.len() > MAX_TEXT || text.contains(char::is_control);
        if texts.into_iter().chain([more]).any(wrong) {
            return Err(Refusal::new(
                RefusalKind::Invalid,
                "a text is too long, or not printable",
            ));
        }
        Ok(request)
    }

    fn carry_out(&mut self, message: &Message, request: Request) -> Reply {
        let core = self.core;
        let who = request.who;
        let failed = |error: mgmt_state::Error| {
            let kind = match error {
                mgmt_state::Error::Limit(_) => RefusalKind::Withheld,
                _ => RefusalKind::Failed,
            };
            Refusal::new(kind, error.to_string())
        };
        Ok(match request.command {
            Command::Status => Answer::Status(Box::new(self.status().map_err(failed)?)),
            Command::PolicyLoad {
                offset,
                part,
                total,
                origin,
            } => match self.upload(message.header.source, offset, part, total)? {
                None => Answer::More,
                Some(text) => Answer::Policy(core.policies.load(&text, &who, &origin)?),
            },
            Command::PolicyHistory => Answer::Policies(core.state.policies().map_err(failed)?),
            Command::PolicyText { version, offset } => {
                let text = core.state.policy_text(version).map_err(failed)?;
                let text = text.ok_or_else(|| {
                    Refusal::new(
                        RefusalKind::Missing,
                        format!("policy {version} is not kept"),
                    )
                })?;
                let rest = text.get(offset as usize..).unwrap_or_default();
                Answer::Text(rest[..rest.len().min(PART)].to_vec())
            }
            Command::PolicyRollback { to } => Answer::Policy(core.policies.rollback(to, &who)?),
            Command::Goals { app } => {
                Answer::Goals(core.state.goals(app.as_deref()).map_err(failed)?)
            }
            Command::SetGoal { app, key, value } => {
                let done = core.apps.set_goal(&app, &key, value.as_deref(), &who);
                match done {
                    Ok(true) => Answer::Done,
                    Ok(false) => {
                        let text = format!("{app} has no goal {key}");
                        return Err(Refusal::new(RefusalKind::Missing, text));
                    }
                    Err(error) => match error.downcast::<mgmt_state::Error>() {
                        Ok(error) => return Err(failed(error)),
                        Err(error) => {
                            let text = format!("{error:#}");
                            return Err(Refusal::new(RefusalKind::Invalid, text));
                        }
                    },
                }
            }
            Command::Observe(on) => {
                let switched = core.governor.set_observe(on, &who.to_string());
                switched.map_err(failed)?;
                tracing::info!(on, %who, "observe-only");
                Answer::Done
            }
            Command::Plan => Answer::Plan(core.governor.plan()),
            Command::Leases => Answer::Leases(core.governor.leases()),
            Command::Audit {
                after,
                limit,
                class,
                text,
            } => {
                let text = text.unwrap_or_default();
                let limit = limit.min(MAX_RECORDS) as usize;
                let found = core.state.records(after, limit, |record| {
                    let texts = [&record.who, &record.action, &record.subject, &record.detail];
                    class.is_none_or(|class| class == record.class)
                        && texts.into_iter().any(|t| t.contains(&text))
                });
                Answer::Audit(found.map_err(failed)?)
            }
            Command::Renew => {
                let holder = app(&message.header.source);
                Answer::Leases(core.governor.renew(&holder).map_err(failed)?)
            }
            Command::Actuate { .. } | Command::Release { .. } => {
                return Err(Refusal::new(RefusalKind::Unknown, "an actuation"));
            }
        })
    }

    /// A part of rules that come in several; all of them with the last.
    fn upload(
        &mut self,
        from: Address,
        offset: u32,
        part: Vec<u8>,
        total: u32,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let wrong = |text: &str| Err(Refusal::new(RefusalKind::Invalid, text));
        if total as usize > MAX_POLICY || part.len() > PART {
            return wrong("the rules are too long");
        }
        if offset == 0 {
            // Who began and went away makes room for others.
            if self.uploads.len() >= UPLOADS {
                self.uploads.clear();
            }
            let text = Vec::new();
            self.uploads.insert(from, Upload { text, total });
        }
        let Some(upload) = self.uploads.get_mut(&from) else {
            return wrong("the first part of the rules is missing");
        };
        if upload.text.len() != offset as usize
            || upload.total != total
            || upload.text.len() + part.len() > total as usize
        {
            self.uploads.remove(&from);
            return wrong("the parts of the rules do not fit together");
        }
        upload.text.extend(part);
        if upload.text.len() < total as usize {
            return Ok(None);
        }
        Ok(self.uploads.remove(&from).map(|upload| upload.text))
    }

    fn status(&self) -> mgmt_state::Result<Status> {
        let core = self.core;
        let (records, record_bytes) = core.state.audit_size()?;
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            up_ms: since_boot_ms().saturating_sub(core.started),
            observe: core.governor.observe(),
            policy: core.policies.active(),
            policy_differs: core.policies.differs(),
            brokers: core.brokers.clone(),
            actuators: core.governor.actuators(),
            leases: core.governor.leases().len() as u32,
            goals: core.state.goals(None)?.len() as u32,
            records,
            record_bytes,
        })
    }
}

/// The user whose endpoint has bound `app`, where debugfs tells.
fn owner(app: &str) -> Option<u32> {
    uid(&std::fs::read_to_string(ENDPOINTS).ok()?, app)
}

fn uid(endpoints: &str, app: &str) -> Option<u32> {
    endpoints.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let account = words.find_map(|word| word.strip_prefix("account=uid:"))?;
        (name == app).then(|| account.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apps::{Apps, CPU_CAP};
    use mgmt_broker::power;
    use mgmt_control::{Client, ClientError, Verdict};
    use mgmt_maker::{Governor, Limits, Scheduler};
    use mgmt_state::State;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A daemon without a module, and a client of it, joined by a packet socket in place of the
    /// bridge. No source is stamped there: all have none.
    fn with_daemon(own: Option<Component>, client: impl FnOnce(&Core, &Client, &Channel)) {
        let name = format!(
            "mgmtd-control-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        );
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        let state = Arc::new(State::open(&path, mgmt_state::Limits::default()).unwrap());
        let clock = Box::new(since_boot_ms);
        let mut governor = Governor::new(Arc::clone(&state), "boot", clock).unwrap();
        let caps = Scheduler::new(power::cap::Simulated::default(), 0);
        governor.add(CPU_CAP, Limits::default(), Box::new(caps));
        let governor = Arc::new(governor);
        let config = power::Config::default();
        let stop = Arc::new(AtomicBool::new(false));
        let core = Core {
            policies: crate::policies::Policies::new(Arc::clone(&state), None),
            apps: Apps::new(Arc::clone(&state), Arc::clone(&governor), config),
            governor,
            state,
            metrics: crate::metrics::Metrics::default(),
            brokers: Vec::new(),
            stop: Arc::clone(&stop),
            started: since_boot_ms(),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let ours = Arc::new(Channel::from_fd(a, 1 << 20));
        let raw = Channel::from_fd(b.try_clone().unwrap(), 1 << 20);
        let theirs = Client::new(Channel::from_fd(b, 1 << 20), Who::program("test"));
        std::thread::scope(|scope| {
            let pulse = Pulse::new();
            let core = &core;
            scope.spawn(move || serve_on(core, &ours, &pulse, &|| own).unwrap());
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                client(core, &theirs, &raw);
            }));
            stop.store(true, Ordering::Relaxed);
            if let Err(panic) = done {
                std::panic::resume_unwind(panic);
            }
        });
        let _ = std::fs::remove_dir_all(&path);
    }

    const HERE: Option<Component> = Some(Component::Unspecified);

    fn set(app: &str, key: &str, value: Option<&str>) -> Command {
        Command::SetGoal {
            app: app.into(),
            key: key.into(),
            value: value.map(str::to_owned),
        }
    }

    fn kind(reply: Result<Answer, ClientError>) -> RefusalKind {
        match reply {
            Err(ClientError::Refused(refusal)) => refusal.kind,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn goals_are_set_checked_and_written_down() {
        with_daemon(HERE, |core, client, _| {
            client.ask(set("Power", "sla_ms", Some("40"))).unwrap();
            assert_eq!(core.apps.power_news().unwrap().sla_ms, 40);
            client.ask(set("Other", "any", Some("thing"))).unwrap();
            let invalid = client.ask(set("Power", "colour", Some("red")));
            assert_eq!(kind(invalid), RefusalKind::Invalid);
            let missing = client.ask(set("Power", "start", None));
            assert_eq!(kind(missing), RefusalKind::Missing);
            let app = Some("Power".to_owned());
            let Answer::Goals(goals) = client.ask(Command::Goals { app }).unwrap() else {
                panic!();
            };
            assert_eq!((goals.len(), goals[0].value.as_str()), (1, "40"));
            let audit = Command::Audit {
                after: 0,
                limit: 10,
                class: None,
                text: Some("sla_ms".into()),
            };
            let Answer::Audit(records) = client.ask(audit).unwrap() else {
                panic!();
            };
            assert_eq!(records.len(), 1);
            assert_eq!(records[0].detail, "(none) -> 40");
            assert!(records[0].who.ends_with("by test"));
        });
    }

    #[test]
    fn actuators_are_set_and_only_observed() {
        with_daemon(HERE, |core, client, _| {
            let want = |value| Command::Actuate {
                actuator: CPU_CAP.into(),
                target: "vm:3".into(),
                value,
                ttl_ms: 5000,
                why: "a test".into(),
            };
            // Without a bridge nobody has a name, and who has none holds nothing.
            assert_eq!(kind(client.ask(want(40))), RefusalKind::Invalid);
            client.ask(Command::Observe(true)).unwrap();
            let intent = core.governor.actuate(Want {
                holder: "Test",
                actuator: CPU_CAP,
                target: "vm:3",
                value: 40,
                ttl_ms: 5000,
                why: "a test",
            });
            assert_eq!(intent.unwrap_err().kind, RefusalKind::Withheld);
            let Answer::Plan(plan) = client.ask(Command::Plan).unwrap() else {
                panic!();
            };
            assert!(plan.observe);
            assert_eq!(plan.intents[0].verdict, Verdict::Observed);
            let Answer::Status(status) = client.ask(Command::Status).unwrap() else {
                panic!();
            };
            assert!(status.observe && status.policy.is_none());
            assert_eq!(status.actuators, [CPU_CAP]);
        });
    }

    #[test]
    fn rules_come_in_parts_that_fit() {
        with_daemon(HERE, |_, client, _| {
            let part = |offset, length: usize, total| Command::PolicyLoad {
                offset,
                part: vec![b'#'; length],
                total,
                origin: "test".into(),
            };
            assert_eq!(client.ask(part(0, 10, 20)).unwrap(), Answer::More);
            assert_eq!(kind(client.ask(part(5, 10, 20))), RefusalKind::Invalid);
            assert_eq!(kind(client.ask(part(10, 10, 20))), RefusalKind::Invalid);
            assert_eq!(client.ask(part(0, 10, 20)).unwrap(), Answer::More);
            // All is there, and there is no bridge to load it into.
            assert_eq!(kind(client.ask(part(10, 10, 20))), RefusalKind::Failed);
            let Answer::Policies(none) = client.ask(Command::PolicyHistory).unwrap() else {
                panic!();
            };
            assert!(none.is_empty());
            let back = client.ask(Command::PolicyRollback { to: None });
            assert_eq!(kind(back), RefusalKind::Missing);
        });
    }

    #[test]
    fn strangers_and_other_versions_are_refused() {
        with_daemon(Some(Component::Mvm), |_, client, _| {
            assert_eq!(kind(client.ask(Command::Plan)), RefusalKind::Forbidden);
        });
        with_daemon(HERE, |_, _, raw| {
            let good = encode(&Request {
                who: Who::program("test"),
                command: Command::Plan,
            });
            let long = [&good[..], &[0]].concat();
            for (header, data, expected) in [
                (&b"MCT\x02"[..], &good[..], RefusalKind::Version),
                (b"", &good, RefusalKind::Version),
                (&HEADER, &good[1..], RefusalKind::Unknown),
                (&HEADER, &long, RefusalKind::Unknown),
            ] {
                let to = Address::new(
                    Component::SelfDomain,
                    mgmt_channel::AppId::new(APP.as_bytes()).unwrap(),
                );
                let question = Message::with_app_header(Kind::Data, to, header, data);
                let answer = raw.request(question, Duration::from_secs(10)).unwrap();
                let reply: Reply = decode(answer.app_data()).unwrap();
                assert_eq!(reply.unwrap_err().kind, expected);
            }
        });
    }

    #[test]
    fn the_owner_of_an_endpoint_is_found() {
        let endpoints = "Power account=uid:0 queued_messages=0\n\
                         mgmtctl.12 account=uid:1000 queued_messages=0\n";
        assert_eq!(uid(endpoints, "Power"), Some(0));
        assert_eq!(uid(endpoints, "mgmtctl.12"), Some(1000));
        assert_eq!(uid(endpoints, "mgmtctl.1"), None);
    }
}
