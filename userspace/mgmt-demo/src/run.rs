// SPDX-License-Identifier: MIT OR Apache-2.0

//! The whole run, from Dom0: measure, starve, coordinate, relax.
//!
//! Everything that is shown came over the M-channel: in the half without coordination the daemon's
//! power broker listens and records as in the other, it only does not act.

use crate::load::{self, Load, Part};
use crate::table::Table;
use crate::trace::{Phase, Row, header, line};
use crate::{plot, verdict};
use anyhow::{Context, Result, bail, ensure};
use mgmt_broker::power::cap::{CpuCap as _, Credit2};
use mgmt_broker::power::{self, HEADER};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// What `run` is told.
#[derive(clap::Args)]
pub struct Options {
    /// A guest whose agent calls itself NAME and whose server is at ADDRESS:PORT; once for each.
    #[arg(long = "guest", required = true, value_name = "NAME=ADDRESS:PORT", value_parser = guest)]
    guests: Vec<(String, SocketAddr)>,
    /// Where trace, picture and logs go.
    #[arg(long, default_value = ".", value_name = "DIR")]
    out: PathBuf,
    /// The daemon.
    #[arg(long, default_value = "mgmtd", value_name = "PROGRAM")]
    mgmtd: PathBuf,
    /// Length of each of the two halves, seconds.
    #[arg(long, default_value_t = 40, value_name = "SECONDS")]
    half: u64,
    /// Length of the part with less load, seconds; 0: none.
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    relaxed: u64,
    /// The load, as a part of the server's capacity at the highest state.
    #[arg(long, default_value_t = 0.45)]
    load: f64,
    /// The load of the relaxed part, as a part of the capacity.
    #[arg(long, default_value_t = 0.12)]
    relaxed_load: f64,
    /// The longest response time that is no violation, as a multiple of a request's own time.
    #[arg(long, default_value_t = 20.0)]
    sla: f64,
    /// Of the load.
    #[arg(long, default_value_t = 2009)]
    seed: u64,
    /// The performance states: caps in percent of one CPU, from the lowest.
    #[arg(long, value_delimiter = ',', default_values_t = [20, 40, 60, 80, 100], value_name = "CAPS")]
    states: Vec<u32>,
}

fn guest(text: &str) -> Result<(String, SocketAddr), String> {
    let (name, address) = text
        .split_once('=')
        .ok_or("NAME=ADDRESS:PORT is expected")?;
    let address = address.parse().map_err(|e| format!("{address}: {e}"))?;
    Ok((name.to_owned(), address))
}

/// The daemon as a child, and the record of its broker.
struct Daemon {
    child: Child,
    record: BufReader<File>,
    partial: String,
}

impl Daemon {
    fn start(options: &Options, run: u32, more: &[&str]) -> Result<Self> {
        let record = options.out.join(format!("record-{run}.csv"));
        let log = options.out.join(format!("mgmtd-{run}.log"));
        let log = File::create(&log).with_context(|| log.display().to_string())?;
        // The reader must find it, however long the daemon takes.
        let path = record.display().to_string();
        File::create(&record).with_context(|| path.clone())?;
        let config = options.out.join("mgmtd.toml");
        let settings = format!(
            "brokers = [\"power\"]\n\n[power]\nstates = {:?}\n",
            options.states
        );
        std::fs::write(&config, settings).with_context(|| config.display().to_string())?;
        let child = Command::new(&options.mgmtd)
            .arg("--config")
            .arg(&config)
            .args(["--record", &path])
            .args(more)
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", options.mgmtd.display()))?;
        Ok(Self {
            child,
            record: BufReader::new(File::open(&record).with_context(|| path.clone())?),
            partial: String::new(),
        })
    }

    /// The lines that were recorded since the last call.
    fn lines(&mut self) -> Result<Vec<String>> {
        if let Some(status) = self.child.try_wait()? {
            bail!("mgmtd ended by itself ({status}); see its log");
        }
        let mut lines = Vec::new();
        loop {
            if self.record.read_line(&mut self.partial)? == 0 || !self.partial.ends_with('\n') {
                return Ok(lines);
            }
            let line = std::mem::take(&mut self.partial);
            if line.trim_end() != HEADER {
                lines.push(line.trim_end().to_owned());
            }
        }
    }

    /// Ends it as an administrator would, so that it leaves every guest in its safe state.
    fn stop(mut self) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).context("stopping mgmtd")?;
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "mgmtd ended with {status}");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("mgmtd did not end 30 s after SIGTERM")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // If the run fails: no daemon is left behind. After `stop` there is none.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The trace in the making.
struct Recorder {
    file: File,
    rows: Vec<Row>,
    table: Table,
    start: Instant,
    expected: Duration,
}

impl Recorder {
    fn add(&mut self, phase: Phase, begin: Instant, lines: Vec<String>) -> Result<usize> {
        let before = self.rows.len();
        for record in lines {
            let line = line(phase, begin.elapsed().as_millis() as u64, &record);
            writeln!(self.file, "{line}").context("writing the trace")?;
            self.rows
                .push(Row::parse(&line).context("the broker's record")?);
        }
        Ok(before)
    }

    /// Records a phase and prints its table, until `until`.
    fn phase(&mut self, phase: Phase, daemon: &mut Daemon, length: Duration) -> Result<()> {
        let begin = Instant::now();
        let mut printed = self.rows.len();
        let mut second = 0;
        while begin.elapsed() < length {
            std::thread::sleep(Duration::from_millis(100));
            self.add(phase, begin, daemon.lines()?)?;
            let now = begin.elapsed().as_secs();
            if now > second {
                second = now;
                let whole = self.start.elapsed().as_secs_f64() / self.expected.as_secs_f64();
                let progress = (whole * 100.0).min(99.0) as u32;
                self.table
                    .line(second, phase.name(), progress, &self.rows[printed..]);
                printed = self.rows.len();
            }
        }
        Ok(())
    }

    /// Waits until every guest has reported with a cap of `cap` percent, and says which domain each
    /// is.
    fn meet(
        &mut self,
        daemon: &mut Daemon,
        names: &[String],
        cap: u32,
    ) -> Result<BTreeMap<String, u32>> {
        let begin = Instant::now();
        let mut met = BTreeMap::new();
        loop {
            let before = self.add(Phase::Prepare, begin, daemon.lines()?)?;
            // Until the broker has taken it over, a guest has no cap that is known.
            let known = |row: &&Row| row.cap == cap && row.decision != "starting";
            for row in self.rows[before..].iter().filter(known) {
                met.insert(row.name.clone(), row.domain);
            }
            let missing: Vec<_> = names
                .iter()
                .filter(|&name| !met.contains_key(name))
                .collect();
            if missing.is_empty() {
                return Ok(met);
            }
            if begin.elapsed() > Duration::from_secs(60) {
                bail!(
                    "no report of {missing:?} after 60 s: do their agents run, and are the channels connected (mgmtctl status)?"
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Runs it all. True if coordination helped.
pub fn run(options: &Options) -> Result<bool> {
    let names: Vec<String> = options
        .guests
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    let settings = power::Config {
        states: options.states.clone(),
        ..power::Config::default()
    };
    settings.check().map_err(anyhow::Error::msg)?;
    let (lowest, highest) = (
        settings.states[0],
        settings.states[settings.states.len() - 1],
    );
    let trace = options.out.join("trace.csv");
    let mut recorder = Recorder {
        file: File::create(&trace).with_context(|| trace.display().to_string())?,
        rows: Vec::new(),
        table: Table::new(names.clone()),
        start: Instant::now(),
        expected: Duration::from_secs(
            2 * options.half + options.relaxed + 10 + 8 * options.guests.len() as u64,
        ),
    };
    writeln!(recorder.file, "{}", header())?;

    say("the daemon attaches the guests; their agents report over /dev/mgmt");
    let mut daemon = Daemon::start(options, 1, &["--observe"])?;
    let domains = recorder.meet(&mut daemon, &names, 0)?;

    let mut actuator = Credit2::default();
    let mut parts = Vec::new();
    let mut slowest: f64 = 0.0;
    for (i, (name, address)) in options.guests.iter().enumerate() {
        let domain = domains[name];
        actuator
            .set(domain, highest)
            .context("setting the highest state")?;
        let capacity = load::capacity(*address, Duration::from_secs(5))?;
        say(&format!(
            "{name} (domain {domain}) answers {capacity:.1} requests per second in its highest \
             state, {highest} % of a CPU; the load is {:.1}",
            capacity * options.load
        ));
        slowest = slowest.max(1.0 / capacity);
        parts.push(Part {
            address: *address,
            rate: capacity * options.load,
            seed: options.seed + i as u64,
        });
    }
    let sla = Duration::from_millis((slowest * options.sla * 1000.0).ceil() as u64);
    say(&format!(
        "a response later than {} ms is a violation ({} times a request's own time)",
        sla.as_millis(),
        options.sla
    ));
    daemon.stop()?;

    say(&format!(
        "WITHOUT coordination: both guests stay in their lowest state, {} % of a CPU, whatever they \
         suffer",
        lowest
    ));
    for &domain in domains.values() {
        actuator.set(domain, lowest).context("starving a guest")?;
    }
    let sla_ms = sla.as_millis().to_string();
    let mut daemon = Daemon::start(options, 2, &["--observe", "--sla-ms", &sla_ms])?;
    recorder.meet(&mut daemon, &names, lowest)?;
    let half = Duration::from_secs(options.half);
    let load = Load::start(&parts, half);
    recorder.phase(Phase::Without, &mut daemon, half)?;
    report_load(&names, load)?;
    daemon.stop()?;

    say(
        "WITH coordination: the same load from the same lowest state, and the power broker acts on \
         what the agents report",
    );
    let mut daemon = Daemon::start(options, 3, &["--start", "lowest", "--sla-ms", &sla_ms])?;
    recorder.meet(&mut daemon, &names, lowest)?;
    let load = Load::start(&parts, half);
    recorder.phase(Phase::With, &mut daemon, half)?;
    report_load(&names, load)?;

    if options.relaxed > 0 {
        say("RELAXED: the load drops, and the broker lowers the states: power is saved");
        for part in &mut parts {
            part.rate *= options.relaxed_load / options.load;
        }
        let length = Duration::from_secs(options.relaxed);
        let load = Load::start(&parts, length);
        recorder.phase(Phase::Relaxed, &mut daemon, length)?;
        report_load(&names, load)?;
    }
    daemon.stop()?;
    for (name, &domain) in &domains {
        let cap = actuator.get(domain)?;
        ensure!(cap == 0, "{name} was left with a cap of {cap} %");
    }

    println!();
    let verdict = verdict::judge(&recorder.rows);
    print!("{verdict}");
    plot::draw(&recorder.rows, &options.out.join("trace.svg"))?;
    Ok(verdict.passed())
}

fn say(text: &str) {
    println!("\n== {text}");
}

/// Waits for a load's last answers, and prints what its clients saw.
fn report_load(names: &[String], load: Load) -> Result<()> {
    let seen = load.seen.clone();
    load.finish()?;
    for (name, seen) in names.iter().zip(seen) {
        let [sent, answered, busy, failed, dropped] = seen.counts();
        println!(
            "   {name}: clients sent {sent}, answered {answered}, turned away {busy}, no answer \
             {failed}, not sent {dropped}"
        );
    }
    Ok(())
}
