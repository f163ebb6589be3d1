// SPDX-License-Identifier: MIT OR Apache-2.0

//! The daemon of a management VM: attaches every guest to an M-channel, and hosts brokers.

mod brokers;
mod config;
mod guests;

use anyhow::{Context, Result};
use clap::Parser;
use config::{BrokerName, Config, Options};
use mgmt_channel::Channel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

fn main() -> ExitCode {
    let options = Options::parse();
    let filter = tracing_subscriber::EnvFilter::try_new(&options.log)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .init();
    match options.config().and_then(|config| serve(&config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs until SIGTERM or SIGINT.
fn serve(config: &Config) -> Result<()> {
    // A pipe that the signal handler writes to: every wait of this thread looks at it.
    let (signalled, notify) = UnixStream::pair().context("signal pipe")?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        // The flag first: whoever is woken by the pipe sees it.
        signal_hook::flag::register(signal, Arc::clone(&stop)).context("signal handler")?;
        let notify = notify.try_clone().context("signal pipe")?;
        signal_hook::low_level::pipe::register(signal, notify).context("signal handler")?;
    }

    if let Some(ip) = config.mvm_ip {
        Channel::open()?
            .set_mvm(ip)
            .with_context(|| format!("setting the address {ip}"))?;
        tracing::info!(%ip, "management address");
    }
    let mut guests = if config.attach {
        Some(guests::Guests::start(config.backend)?)
    } else {
        None
    };
    let mut threads = Vec::new();
    for broker in &config.brokers {
        let stop = Arc::clone(&stop);
        threads.push(match broker {
            BrokerName::Power => brokers::power(&config.power, config.record.as_deref(), stop)?,
        });
    }
    tracing::info!("ready");

    // Brokers end with an error only if the device is gone: then so does the daemon.
    while !stop.load(Ordering::Relaxed) && !threads.iter().any(|thread| thread.is_finished()) {
        let tick = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        let mut fds = vec![PollFd::new(&signalled, PollFlags::IN)];
        if let Some(guests) = &guests {
            fds.push(PollFd::new(guests, PollFlags::IN));
        }
        match poll(&mut fds, Some(&tick)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("poll"),
        }
        drop(fds);
        if let Some(guests) = &mut guests {
            guests.follow()?;
        }
    }
    stop.store(true, Ordering::Relaxed);
    tracing::info!("stopping");
    for thread in threads {
        thread
            .join()
            .unwrap_or_else(|_| Err(anyhow::anyhow!("a broker panicked")))?;
    }
    if let Some(guests) = guests.filter(|_| config.detach_at_exit) {
        guests.detach_all();
    }
    Ok(())
}
