// SPDX-License-Identifier: MIT OR Apache-2.0

//! Sending, listening, pinging.

use anyhow::{Context, Result, bail};
use mgmt_channel::{
    AppId, Channel, ComponentName, Destination, Error, Flags, Kind, Message, show_address,
};
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

/// Bound as `app`, or as a name of this process.
fn open(path: &str, app: Option<&str>) -> Result<Channel> {
    let own = format!("mgmtctl.{}", std::process::id());
    Ok(Channel::open_at(path)?.bound(app.unwrap_or(&own))?)
}

/// How a message is sent.
#[derive(clap::Args)]
pub struct Options {
    /// 0 (bulk) to 255 (most urgent).
    #[arg(long, default_value_t = 0)]
    priority: u8,
    /// Milliseconds after which it is not worth delivering; 0 for none.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    deadline: u32,
    /// To everybody who has bound the App_ID there.
    #[arg(long)]
    broadcast: bool,
}

pub fn send(
    path: &str,
    to: &Destination,
    text: &str,
    app: Option<&str>,
    wait: u64,
    options: &Options,
) -> Result<()> {
    let channel = open(path, app)?;
    let to = to.resolve(channel.info()?.component);
    let mut message = Message::data(to, text.as_bytes().to_vec());
    message.header.priority = options.priority;
    message.header.deadline_ms = options.deadline;
    if options.broadcast {
        message.header.flags = Flags::BROADCAST;
    }
    channel
        .send(&message)
        .with_context(|| format!("send to {}", show_address(&to)))?;
    // Accepted is not delivered: give a message that comes back the time to do so.
    while let Some(answer) = channel.recv(Some(Duration::from_millis(wait)))? {
        if let Some(reason) = answer.undeliverable_text() {
            bail!("send to {}: undeliverable: {reason}", show_address(&to));
        }
        print_message(&answer)?;
    }
    Ok(())
}

pub fn discover(path: &str, app: &str, component: ComponentName, wait: u64) -> Result<()> {
    let channel = open(path, None)?;
    let component = component.resolve(channel.info()?.component);
    let app = AppId::new(app.as_bytes()).map_err(Error::from)?;
    let found = channel.discover(component, app, Duration::from_millis(wait))?;
    for address in &found {
        println!("{}", show_address(address));
    }
    if found.is_empty() {
        bail!("nobody serves {}", app.as_str());
    }
    Ok(())
}

pub fn listen(path: &str, app: &str, count: Option<u64>) -> Result<()> {
    let channel = open(path, Some(app))?;
    let mut seen = 0;
    while count.is_none_or(|count| seen < count) {
        let Some(message) = channel.recv(None)? else {
            continue;
        };
        if message.header.kind == Kind::Discover && message.is_request() {
            // Whoever asked may be gone: no reason to stop.
            let _ = channel.send_timeout(&message.reply(Vec::new()), Duration::from_secs(1));
            continue;
        }
        print_message(&message)?;
        seen += 1;
    }
    Ok(())
}

/// One line: from whom, what, and the payload, if it is text as such.
fn print_message(message: &Message) -> Result<()> {
    let header = &message.header;
    let content = match std::str::from_utf8(&message.payload) {
        // What a peer sends must not drive the terminal.
        Ok(text) if !text.contains(|c: char| c.is_control() && c != '\n' && c != '\t') => {
            text.trim_end().replace('\n', "\\n")
        }
        _ => hex(&message.payload),
    };
    let mut out = std::io::stdout().lock();
    write!(
        out,
        "{} {:?} #{}",
        show_address(&header.source),
        header.kind,
        header.sequence
    )?;
    match message.undeliverable_text() {
        Some(reason) => writeln!(out, " ({reason})")?,
        None => writeln!(out, " {content}")?,
    }
    Ok(out.flush()?)
}

fn hex(bytes: &[u8]) -> String {
    let mut text = format!("[{} bytes] ", bytes.len());
    for byte in bytes.iter().take(64) {
        let _ = write!(text, "{byte:02x}");
    }
    if bytes.len() > 64 {
        text.push('…');
    }
    text
}

pub fn ping(
    path: &str,
    to: &Destination,
    count: u32,
    interval: u64,
    app: Option<&str>,
) -> Result<()> {
    let channel = open(path, app)?;
    let to = to.resolve(channel.info()?.component);
    let mut answered = 0;
    for number in 1..=count {
        let start = Instant::now();
        let question = Message::new(Kind::Discover, to, Vec::new());
        match channel.request(question, Duration::from_secs(2)) {
            Ok(answer) => {
                answered += 1;
                let from = show_address(&answer.header.source);
                println!("{from}: {number}: {:.1?}", start.elapsed());
            }
            Err(e @ (Error::Undeliverable(_) | Error::TimedOut)) => {
                println!("{}: {number}: {e}", show_address(&to));
            }
            Err(e) => return Err(e).context(format!("ping {}", show_address(&to))),
        }
        if number < count {
            std::thread::sleep(Duration::from_millis(interval));
        }
    }
    if answered < count {
        bail!("{answered} of {count} answered");
    }
    Ok(())
}
