// SPDX-License-Identifier: MIT OR Apache-2.0

//! Looking on: endpoints, a view that refreshes, and what becomes of each message.

use crate::{daemon, table};
use anyhow::{Context, Result, bail};
use mgmt_channel::{AppId, Channel, Link};
use mgmt_control::{Answer, Command};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ENDPOINTS: &str = "/sys/kernel/debug/mgmt/endpoints";
const TRACING: &str = "/sys/kernel/tracing";

/// True once the user has had enough.
fn interrupted() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&flag)).context("signal handler")?;
    }
    Ok(flag)
}

/// Who has bound what in this domain.
pub fn endpoints() -> Result<()> {
    let text = std::fs::read_to_string(ENDPOINTS);
    let text = text.with_context(|| {
        format!("{ENDPOINTS}: mount -t debugfs none /sys/kernel/debug, and be root")
    })?;
    let head = ["APP", "ACCOUNT", "QUEUED", "QUEUED-BYTES"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let mut cells = vec![words.next().unwrap_or_default().to_owned()];
        cells.extend(words.map(|word| {
            word.split_once('=')
                .map_or(word, |(_, value)| value)
                .to_owned()
        }));
        lines.push(cells);
    }
    table::print(&lines);
    Ok(())
}

/// The links, without xenstore's side.
pub fn links(device: &str) -> Result<()> {
    let links = Channel::open_at(device)?.links()?;
    print!("{}", table::text(&link_lines(&links, None)));
    Ok(())
}

/// The links; with what there was a time ago, the rates since.
fn link_lines(
    links: &[Link],
    before: Option<(&BTreeMap<Option<u32>, Link>, f64)>,
) -> Vec<Vec<String>> {
    let unit = if before.is_some() { "/S" } else { "" };
    let heads = ["RX", "RX-BYTES", "TX", "TX-BYTES", "RETURNED", "STALLS"];
    let mut head = vec!["LINK".to_owned(), "STATE".into(), "EPOCH".into()];
    head.extend(heads.map(|name| format!("{name}{unit}")));
    head.extend(["QUEUED".to_owned(), "QUEUED-BYTES".into()]);
    let counters = |link: &Link| {
        [
            link.rx_messages,
            link.rx_bytes,
            link.tx_messages,
            link.tx_bytes,
            link.undeliverable,
            link.stalls,
        ]
    };
    let mut lines = vec![head];
    for link in links {
        let state = link.state.to_string();
        let name = link.guest.map_or("uplink".into(), |id| format!("vm:{id}"));
        let mut line = vec![name, state, link.epoch.to_string()];
        match before {
            None => line.extend(counters(link).map(|n| n.to_string())),
            Some((before, seconds)) => {
                let old = before.get(&link.guest).map_or(counters(link), counters);
                let pairs = counters(link).into_iter().zip(old);
                let rate = |(new, old): (u64, u64)| new.saturating_sub(old) as f64 / seconds;
                line.extend(pairs.map(|pair| format!("{:.0}", rate(pair))));
            }
        }
        line.extend([
            link.queued_messages.to_string(),
            link.queued_bytes.to_string(),
        ]);
        lines.push(line);
    }
    lines
}

/// How the view is refreshed.
#[derive(clap::Args)]
pub struct WatchOptions {
    /// Milliseconds between two views.
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    interval: u64,
    /// Stop after so many views.
    #[arg(long)]
    count: Option<u64>,
}

/// The alternate screen of the terminal, left when dropped.
struct Screen(bool);

impl Screen {
    fn enter() -> Self {
        let terminal = std::io::stdout().is_terminal();
        if terminal {
            print!("\x1b[?1049h\x1b[?25l");
        }
        Self(terminal)
    }

    fn show(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if self.0 {
            // Each line's rest, and what is below, are cleared rather than the screen: no flicker.
            write!(out, "\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))?;
        } else {
            writeln!(out, "{text}")?;
        }
        Ok(out.flush()?)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.0 {
            print!("\x1b[?25h\x1b[?1049l");
            let _ = std::io::stdout().flush();
        }
    }
}

/// Shows links, brokers and what they want, again and again.
pub fn watch(device: &str, options: &WatchOptions) -> Result<()> {
    let stop = interrupted()?;
    let interval = Duration::from_millis(options.interval.max(100));
    let channel = Channel::open_at(device)?;
    let mut before: BTreeMap<Option<u32>, Link> = BTreeMap::new();
    let mut at = Instant::now();
    let screen = Screen::enter();
    let mut views = 0;
    while options.count.is_none_or(|count| views < count) && !stop.load(Ordering::Relaxed) {
        let links = channel.links()?;
        let seconds = at.elapsed().as_secs_f64().max(0.001);
        at = Instant::now();
        let mut text = format!(
            "{}  every {:.1} s, Ctrl-C ends\n\n",
            now(),
            interval.as_secs_f64()
        );
        let rates = (!before.is_empty()).then_some((&before, seconds));
        text += &table::text(&link_lines(&links, rates));
        text.push('\n');
        text += &daemon_view(device).unwrap_or_else(|error| format!("daemon      {error:#}\n"));
        screen.show(&text)?;
        before = links.into_iter().map(|link| (link.guest, link)).collect();
        views += 1;
        let end = Instant::now() + interval;
        while Instant::now() < end && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

fn now() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    daemon::when(now.map_or(0, |now| now.as_millis() as u64))
}

fn daemon_view(device: &str) -> Result<String> {
    let client = daemon::connect(device, None)?;
    let mut text = String::new();
    if let Answer::Status(status) = client.ask(Command::Status)? {
        text += &daemon::describe(&status);
    }
    if let Answer::Plan(plan) = client.ask(Command::Plan)? {
        text.push('\n');
        for intent in plan.intents.iter().take(20) {
            writeln!(text, "{}", daemon::describe_intent(intent))?;
        }
    }
    Ok(text)
}

/// Which messages are traced.
#[derive(clap::Args)]
pub struct TraceOptions {
    /// Only messages from or to this App_ID.
    #[arg(long)]
    app: Option<String>,
    /// Only messages with this correlation: a request, and its reply.
    #[arg(long)]
    correlation: Option<u64>,
    /// Only messages that are not delivered.
    #[arg(long)]
    drops: bool,
    /// Stop after so many lines.
    #[arg(long)]
    count: Option<u64>,
    /// Stop after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
}

/// A buffer of the kernel's tracing for this process alone; removed when dropped.
struct Instance(PathBuf);

impl Instance {
    fn new() -> Result<Self> {
        let name = format!("instances/mgmtctl.{}", std::process::id());
        let path = Path::new(TRACING).join(name);
        std::fs::create_dir(&path).with_context(|| {
            format!(
                "{}: mount -t tracefs none {TRACING}, and be root",
                path.display()
            )
        })?;
        Ok(Self(path))
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.0.join(file);
        std::fs::write(&path, text).with_context(|| format!("{}: {text}", path.display()))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.write("events/enable", "0");
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Prints what becomes of each message, as the bridge of this domain sees it.
pub fn trace(options: &TraceOptions) -> Result<()> {
    let stop = interrupted()?;
    if !Path::new(TRACING).join("events/mgmt").is_dir() {
        bail!("{TRACING}/events/mgmt is not there: is mgmt.ko loaded, and tracefs mounted?");
    }
    let mut filter = Vec::new();
    if let Some(app) = &options.app {
        // Nothing of the filter's own language passes for a name.
        let app = AppId::new(app.as_bytes()).map_err(mgmt_channel::Error::from)?;
        let app = app.as_str();
        filter.push(format!(
            "(source ~ \"{app}@*\" || destination ~ \"{app}@*\")"
        ));
    }
    filter.extend(options.correlation.map(|id| format!("correlation == {id}")));
    let instance = Instance::new()?;
    let what = if options.drops {
        "events/mgmt/mgmt_drop"
    } else {
        "events/mgmt"
    };
    if !filter.is_empty() {
        instance.write(&format!("{what}/filter"), &filter.join(" && "))?;
    }
    instance.write(&format!("{what}/enable"), "1")?;
    let pipe = instance.0.join("trace_pipe");
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let pipe = rustix::fs::open(&pipe, flags, Mode::empty()).context("trace_pipe")?;
    eprintln!("mgmtctl: tracing; Ctrl-C ends");
    let end = options
        .seconds
        .map(|s| Instant::now() + Duration::from_secs(s));
    let mut rest = String::new();
    let mut shown = 0;
    while !stop.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
        let mut buffer = [0; 16384];
        match rustix::io::read(&pipe, &mut buffer) {
            Ok(length) => rest += &String::from_utf8_lossy(&buffer[..length]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {
                let tick = Timespec {
                    tv_sec: 0,
                    tv_nsec: 200_000_000,
                };
                let _ = poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&tick));
            }
            Err(errno) => return Err(errno).context("trace_pipe"),
        }
        while let Some((line, more)) = rest.split_once('\n') {
            if let Some(event) = event(line) {
                println!("{event}");
                shown += 1;
            }
            rest = more.to_owned();
            if options.count.is_some_and(|count| shown >= count) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The time and the event of a line of the trace; without task, CPU and flags.
fn event(line: &str) -> Option<String> {
    let (before, event) = line.split_once(": mgmt_")?;
    let time = before.rsplit(' ').next()?;
    Some(format!("{time} {event}").replace(char::is_control, "\u{fffd}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_trace_is_read() {
        let line = "  mgmt-test-211  [000] d.s..   34.512345: mgmt_send: source=A@vm:0 kind=data";
        assert_eq!(
            event(line).unwrap(),
            "34.512345 send: source=A@vm:0 kind=data"
        );
        assert_eq!(event("CPU:0 [LOST 5 EVENTS]"), None);
    }
}
