// SPDX-License-Identifier: MIT OR Apache-2.0

//! The daemon of a management VM: attaches every guest to an M-channel, keeps the policy, hosts
//! brokers, and is the policy maker.

mod apps;
mod brokers;
mod config;
mod control;
mod core;
mod guests;
mod metrics;
mod policies;
mod watch;

use anyhow::{Context, Result, bail};
use clap::Parser;
use config::{BrokerName, Config, Options};
use core::{Core, Pulse};
use mgmt_broker::power::cap;
use mgmt_channel::Channel;
use mgmt_maker::{Governor, Scheduler, since_boot_ms};
use mgmt_state::State;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Between two looks for leases that have ended.
const EXPIRY: Duration = Duration::from_millis(500);
/// Between two looks for records that are too old.
const PRUNE: Duration = Duration::from_secs(3600);
/// A thread without a sign of life for so long hangs, milliseconds. Toolstack calls take up to 20 s.
const HANGS: u64 = 40_000;

fn main() -> ExitCode {
    let options = Options::parse();
    log(&options.log);
    match options.config().and_then(|config| serve(&config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// To the journal with levels and fields where systemd has connected it, else to standard error.
fn log(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    match journal {
        Some(journal) => registry.with(journal.with_field_prefix(None)).init(),
        None => {
            let lines = tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_target(false)
                .with_ansi(false);
            registry.with(lines).init();
        }
    }
}

/// Says something to systemd, where that is there.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, state) {
        tracing::debug!(%error, "sd_notify");
    }
}

/// Makes what the threads share.
fn core(config: &Config, stop: &Arc<AtomicBool>) -> Result<Arc<Core>> {
    let state = State::open(&config.state, config.audit.limits());
    let state = state.with_context(|| format!("state in {}", config.state.display()))?;
    let state = Arc::new(state);
    let boot = mgmt_maker::boot_id().context("boot id")?;
    let mut governor = Governor::new(Arc::clone(&state), &boot, Box::new(since_boot_ms))?;
    let safe = config.power.safe_cap;
    let limits = config.limits.cpu_cap;
    if config.simulate {
        let simulated = Scheduler::new(cap::Simulated::default(), safe);
        governor.add(apps::CPU_CAP, limits, Box::new(simulated));
    } else {
        let credit2 = Scheduler::new(cap::Credit2::default(), safe);
        governor.add(apps::CPU_CAP, limits, Box::new(credit2));
    }
    let governor = Arc::new(governor);
    let power = config.power.clone();
    let apps = apps::Apps::new(Arc::clone(&state), Arc::clone(&governor), power);
    apps.power().context("goals of the power broker")?;
    Ok(Arc::new(Core {
        policies: policies::Policies::new(Arc::clone(&state), config.policy.clone()),
        apps,
        governor,
        state,
        metrics: metrics::Metrics::default(),
        brokers: config.brokers.iter().map(BrokerName::app).collect(),
        stop: Arc::clone(stop),
        started: since_boot_ms(),
    }))
}

/// Runs until SIGTERM or SIGINT.
fn serve(config: &Config) -> Result<()> {
    // A pipe that the signal handler writes to: every wait of this thread looks at it.
    let (signalled, notify) = UnixStream::pair().context("signal pipe")?;
    signalled.set_nonblocking(true)?;
    let stop = Arc::new(AtomicBool::new(false));
    let reload = Arc::new(AtomicBool::new(false));
    for (signal, flag) in [
        (signal_hook::consts::SIGTERM, &stop),
        (signal_hook::consts::SIGINT, &stop),
        (signal_hook::consts::SIGHUP, &reload),
    ] {
        // The flag first: whoever is woken by the pipe sees it.
        signal_hook::flag::register(signal, Arc::clone(flag)).context("signal handler")?;
        let notify = notify.try_clone().context("signal pipe")?;
        signal_hook::low_level::pipe::register(signal, notify).context("signal handler")?;
    }

    let core = core(config, &stop)?;
    if let Some(ip) = config.mvm_ip {
        Channel::open()?
            .set_mvm(ip)
            .with_context(|| format!("setting the address {ip}"))?;
        tracing::info!(%ip, "management address");
    }
    let watch = config
        .policy
        .as_deref()
        .map(watch::Watch::new)
        .transpose()?;
    let mut guests = if config.attach {
        Some(guests::Guests::start(config.backend)?)
    } else {
        None
    };
    let mut pulses = Vec::new();
    let mut pulse = || {
        pulses.push(Pulse::new());
        Arc::clone(&pulses[pulses.len() - 1])
    };
    let mut helpers = Vec::new();
    {
        let (core, pulse) = (Arc::clone(&core), pulse());
        helpers.push(std::thread::spawn(move || control::serve(&core, &pulse)));
    }
    {
        let (core, pulse) = (Arc::clone(&core), pulse());
        helpers.push(std::thread::spawn(move || {
            while !core.stopping() {
                pulse.beat();
                core.governor.expire();
                std::thread::sleep(EXPIRY);
            }
        }));
    }
    let mut threads = Vec::new();
    if let Some(listen) = &config.metrics {
        threads.push(metrics::serve(&core, listen)?);
    }
    for broker in &config.brokers {
        threads.push(match broker {
            BrokerName::Power => {
                let record = config.record.as_deref();
                brokers::power(&core, record, config.lease_ms, pulse())?
            }
        });
    }
    tracing::info!("ready");
    tell(&[NotifyState::Ready]);

    let mut pruned = Instant::now();
    // Brokers end with an error only if the device is gone: then so does the daemon.
    while !stop.load(Ordering::Relaxed) && !threads.iter().any(|thread| thread.is_finished()) {
        // Without it, systemd starts the daemon anew.
        if pulses.iter().all(|pulse| pulse.age_ms() < HANGS) {
            tell(&[NotifyState::Watchdog]);
        }
        if core.state.is_failed() {
            bail!("the state cannot be written any more: it must be opened anew");
        }
        if pruned.elapsed() > PRUNE {
            pruned = Instant::now();
            core.state.prune()?;
        }
        let tick = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        let mut fds = vec![PollFd::new(&signalled, PollFlags::IN)];
        fds.extend(
            guests
                .as_ref()
                .map(|guests| PollFd::new(guests, PollFlags::IN)),
        );
        fds.extend(
            watch
                .as_ref()
                .map(|watch| PollFd::new(watch, PollFlags::IN)),
        );
        match poll(&mut fds, Some(&tick)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("poll"),
        }
        drop(fds);
        // What it says is in the flags.
        while rustix::io::read(&signalled, &mut [0; 64]).is_ok_and(|bytes| bytes > 0) {}
        if reload.swap(false, Ordering::Relaxed) {
            core.policies.follow_file(true);
        }
        if watch
            .as_ref()
            .is_some_and(|watch| watch.changed().unwrap_or(false))
        {
            core.policies.follow_file(false);
        }
        if let Some(guests) = &mut guests {
            guests.follow()?;
        }
    }
    stop.store(true, Ordering::Relaxed);
    tracing::info!("stopping");
    tell(&[NotifyState::Stopping]);
    for thread in threads {
        thread
            .join()
            .unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))?;
    }
    for helper in helpers {
        helper
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))?;
    }
    if let Some(guests) = guests.filter(|_| config.detach_at_exit) {
        guests.detach_all();
    }
    Ok(())
}
