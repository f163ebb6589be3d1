// SPDX-License-Identifier: MIT OR Apache-2.0

//! The subcommands.

use crate::payload::{Ledger, Stamp, UNKNOWN};
use crate::report::Report;
use crate::{Cli, Command, Traffic};
use anyhow::{Context, Result, bail};
use mgmt_channel::{Address, AppId, Bundle, Channel, Error, Kind, Message};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Messages sent and received so far, for the watchdog's last words.
static SENT: AtomicU64 = AtomicU64::new(0);
static RECEIVED: AtomicU64 = AtomicU64::new(0);

/// Members of a JSON object: how far it had come.
pub fn progress() -> String {
    let (sent, received) = (&SENT, &RECEIVED);
    format!(
        "\"sent\":{},\"received\":{}",
        sent.load(Ordering::Relaxed),
        received.load(Ordering::Relaxed)
    )
}

/// Runs the subcommand. `Ok(true)` if all is as it must be.
pub fn run(cli: &Cli) -> Result<bool> {
    let open = |app: &str| -> Result<Channel> { Ok(Channel::open_at(&cli.device)?.bound(app)?) };
    match &cli.command {
        Command::Flood {
            traffic,
            app,
            wait,
            bundle,
        } => {
            let channel = open(app)?;
            flood(&channel, traffic, Duration::from_secs(*wait), *bundle)
        }
        Command::Sink {
            app,
            count,
            linger,
            slow,
        } => sink(
            &open(app)?,
            *count,
            Duration::from_millis(*linger),
            Duration::from_micros(*slow),
        ),
        Command::Echo { app, count } => echo(&open(app)?, *count),
        Command::Pingpong { traffic, app, wait } => {
            pingpong(&open(app)?, traffic, Duration::from_secs(*wait))
        }
        Command::Duplex {
            traffic,
            app,
            wait,
            linger,
            until,
            pause,
        } => duplex(
            &open(app)?,
            traffic,
            Duration::from_secs(*wait),
            Duration::from_millis(*linger),
            until.as_deref(),
            Duration::from_millis(*pause),
        ),
    }
}

impl Traffic {
    fn address(&self, channel: &Channel) -> Result<Address> {
        Ok(self.to.resolve(channel.info()?.component))
    }

    /// The number-th message of this run.
    fn message(&self, to: Address, stream: u32, number: u64) -> Message {
        self.message_of(to, stream, number, self.count)
    }

    /// As [`Traffic::message`], of a stream that says that it has so many.
    fn message_of(&self, to: Address, stream: u32, number: u64, total: u64) -> Message {
        let stamp = Stamp {
            stream,
            number,
            total,
        };
        let size = self.size[number as usize % self.size.len()];
        Message::data(to, stamp.payload(size))
    }
}

/// Tells the runs of a sender apart.
fn new_stream() -> u32 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |d| d.subsec_nanos()) ^ std::process::id().rotate_left(16)
}

/// Asks the receiver whether it is there until it says so. Returns how many questions were
/// accepted.
fn await_receiver(channel: &Channel, to: Address, wait: Duration) -> Result<()> {
    if wait.is_zero() {
        return Ok(());
    }
    let end = Instant::now() + wait;
    loop {
        let question = Message::new(Kind::Discover, to, Vec::new());
        match channel.request(question, Duration::from_secs(2)) {
            Ok(_) => return Ok(()),
            Err(e) if e.is_transient() && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(e) => return Err(e).context("waiting for the receiver"),
        }
    }
}

/// Answers the question of [`await_receiver`]. True if `message` was one.
fn answer_discovery(channel: &Channel, message: &Message) -> Result<bool> {
    if message.header.kind != Kind::Discover || !message.is_request() {
        return Ok(false);
    }
    match channel.send(&message.reply(Vec::new())) {
        Err(e) if !e.is_transient() => Err(e.into()),
        _ => Ok(true),
    }
}

fn flood(channel: &Channel, traffic: &Traffic, wait: Duration, bundled: bool) -> Result<bool> {
    let to = traffic.address(channel)?;
    let mut bundle = Bundle::to(to);
    await_receiver(channel, to, wait)?;
    let stream = new_stream();
    let mut report = Report::new("flood");
    let mut returned = 0;
    let mut drain = |timeout| -> Result<()> {
        while let Some(message) = channel.recv(Some(timeout))? {
            returned += u64::from(message.header.kind == Kind::Undeliverable);
        }
        Ok(())
    };
    for number in 0..traffic.count {
        let message = traffic.message(to, stream, number);
        let send = |message: &Message| {
            let sent = channel.send(message);
            sent.with_context(|| format!("sending message {number}"))
        };
        if bundled {
            if !bundle.has_room(message.payload.len()) {
                send(&bundle.take())?;
            }
            bundle.add(&message.payload);
            if number + 1 == traffic.count {
                send(&bundle.take())?;
            }
        } else {
            send(&message)?;
        }
        SENT.store(number + 1, Ordering::Relaxed);
        if number % 64 == 0 {
            drain(Duration::ZERO)?;
        }
    }
    drain(Duration::from_millis(100))?;
    report.number("sent", traffic.count);
    report.number("undeliverable", returned);
    report.finish(returned == 0, traffic.count);
    Ok(returned == 0)
}

fn sink(channel: &Channel, count: u64, linger: Duration, slow: Duration) -> Result<bool> {
    println!("ready");
    let mut ledger = Ledger::default();
    let mut report = None;
    loop {
        let complete = ledger.received >= count;
        let Some(message) = channel.recv(complete.then_some(linger))? else {
            break;
        };
        if answer_discovery(channel, &message)? {
            continue;
        }
        // The clock starts with the first message: waiting for a sender is no rate.
        report.get_or_insert_with(|| Report::new("sink"));
        ledger.enter(message.header.source.app, &message.payload);
        RECEIVED.store(ledger.received, Ordering::Relaxed);
        if !slow.is_zero() {
            std::thread::sleep(slow);
        }
    }
    let ok = ledger.is_perfect(count);
    let report = report.unwrap_or_else(|| Report::new("sink"));
    finish_ledger(report, &ledger, ok);
    Ok(ok)
}

/// Who sent a message: its domain may get another name meanwhile.
type Sender = Option<AppId>;

fn finish_ledger(mut report: Report, ledger: &Ledger<Sender>, ok: bool) {
    report
        .number("received", ledger.received)
        .number("lost", ledger.lost)
        .number("late", ledger.late)
        .number("damaged", ledger.damaged)
        .number("longest_gap_ms", ledger.gap.as_millis() as u64);
    report.finish(ok, ledger.received);
}

fn echo(channel: &Channel, count: u64) -> Result<bool> {
    println!("ready");
    let mut report = Report::new("echo");
    let (mut echoed, mut returned) = (0, 0);
    while count == 0 || echoed < count {
        let Some(message) = channel.recv(None)? else {
            break;
        };
        if answer_discovery(channel, &message)? {
            continue;
        }
        if message.header.kind == Kind::Undeliverable {
            returned += 1;
            continue;
        }
        let answer = if message.is_request() {
            message.reply(message.payload.clone())
        } else {
            Message::data(message.header.source, message.payload)
        };
        match channel.send(&answer) {
            Ok(()) => echoed += 1,
            Err(e) if e.is_transient() => returned += 1,
            Err(e) => return Err(e).context("echoing"),
        }
        RECEIVED.store(echoed, Ordering::Relaxed);
    }
    report.number("echoed", echoed);
    report.number("undeliverable", returned);
    report.finish(returned == 0, echoed);
    Ok(returned == 0)
}

fn pingpong(channel: &Channel, traffic: &Traffic, wait: Duration) -> Result<bool> {
    let to = traffic.address(channel)?;
    await_receiver(channel, to, wait)?;
    let stream = new_stream();
    let mut report = Report::new("pingpong");
    let mut times = Vec::with_capacity(traffic.count as usize);
    let mut wrong = 0;
    for number in 0..traffic.count {
        let question = traffic.message(to, stream, number);
        let expected = question.payload.clone();
        let start = Instant::now();
        let answer = channel
            .request(question, Duration::from_secs(10))
            .with_context(|| format!("round trip {number}"))?;
        times.push(start.elapsed().as_nanos() as u64);
        wrong += u64::from(answer.payload != expected);
        SENT.store(number + 1, Ordering::Relaxed);
    }
    times.sort_unstable();
    let at = |part: f64| {
        let index = (times.len() as f64 * part) as usize;
        let last = times.len().saturating_sub(1);
        times.get(index.min(last)).copied().unwrap_or(0)
    };
    report
        .number("round_trips", traffic.count)
        .number("wrong", wrong)
        .number("min_ns", at(0.0))
        .number("p50_ns", at(0.5))
        .number("p99_ns", at(0.99))
        .number("max_ns", at(1.0));
    report.finish(wrong == 0, traffic.count);
    Ok(wrong == 0)
}

/// Both sides say hello until each has heard the other. Returns how many of this side's hellos
/// were accepted: the undeliverable ones among them are expected.
fn meet(channel: &Channel, to: Address, wait: Duration) -> Result<u64> {
    let end = Instant::now() + wait;
    let mut hellos = 0;
    let mut hello = || -> Result<()> {
        match channel.send(&Message::new(Kind::Establish, to, Vec::new())) {
            Ok(()) => hellos += 1,
            Err(e) if e.is_transient() => {}
            Err(e) => return Err(e).context("greeting the other side"),
        }
        Ok(())
    };
    'meeting: loop {
        hello()?;
        let pause = Instant::now() + Duration::from_millis(100);
        while let Some(left) = pause.checked_duration_since(Instant::now()) {
            match channel.recv(Some(left))? {
                Some(message) if message.header.kind == Kind::Establish => break 'meeting,
                _ => {}
            }
        }
        if Instant::now() > end {
            bail!(Error::TimedOut);
        }
    }
    // The other side is bound by now, so this one arrives, and lets it start.
    hello()?;
    Ok(hellos)
}

fn duplex(
    channel: &Channel,
    traffic: &Traffic,
    wait: Duration,
    linger: Duration,
    until: Option<&Path>,
    pause: Duration,
) -> Result<bool> {
    let to = traffic.address(channel)?;
    println!("ready");
    let hellos = meet(channel, to, wait)?;
    let stream = new_stream();
    let report = Report::new("duplex");
    let sending = AtomicU8::new(GOING_ON);
    let (ledger, returned) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(channel, hellos, linger, &sending));
        let sent = (0..).try_for_each(|number| {
            let is_last = match until {
                Some(file) => number % 64 == 63 && file.exists(),
                None => number + 1 >= traffic.count,
            };
            let total = if is_last { number + 1 } else { UNKNOWN };
            if let Err(e) = channel.send(&traffic.message_of(to, stream, number, total)) {
                let e = anyhow::Error::new(e).context(format!("sending message {number}"));
                return ControlFlow::Break(Err(e));
            }
            SENT.store(number + 1, Ordering::Relaxed);
            if is_last {
                return ControlFlow::Break(Ok(()));
            }
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            ControlFlow::Continue(())
        });
        let sent = sent.break_value().unwrap_or(Ok(()));
        let state = if sent.is_ok() { ALL_SENT } else { FAILED };
        sending.store(state, Ordering::Release);
        let received = receiver.join().expect("the receiver does not panic");
        sent.and(received)
    })?;
    let ok = ledger.total.is_some_and(|total| ledger.is_perfect(total)) && returned == 0;
    let mut report = report;
    report.number("sent", SENT.load(Ordering::Relaxed));
    report.number("undeliverable", returned);
    finish_ledger(report, &ledger, ok);
    Ok(ok)
}

/// What the sending half tells the receiving one.
const GOING_ON: u8 = 0;
const ALL_SENT: u8 = 1;
const FAILED: u8 = 2;

/// Receives until all messages came, and this side has sent its own or failed to.
fn receive(
    channel: &Channel,
    hellos: u64,
    linger: Duration,
    sending: &AtomicU8,
) -> Result<(Ledger<Sender>, u64)> {
    let mut ledger = Ledger::default();
    let mut returned = 0;
    loop {
        let complete = ledger.total.is_some_and(|total| ledger.received >= total);
        let timeout = if complete {
            linger
        } else {
            Duration::from_secs(1)
        };
        let state = sending.load(Ordering::Acquire);
        match channel.recv(Some(timeout))? {
            _ if state == FAILED => return Ok((ledger, returned)),
            None if complete && state == ALL_SENT => return Ok((ledger, returned)),
            None => {}
            Some(message) => match message.header.kind {
                Kind::Establish => {}
                Kind::Undeliverable if message.header.sequence <= hellos => {}
                Kind::Undeliverable => returned += 1,
                _ => {
                    ledger.enter(message.header.source.app, &message.payload);
                    RECEIVED.store(ledger.received, Ordering::Relaxed);
                }
            },
        }
    }
}
