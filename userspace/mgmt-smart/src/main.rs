// SPDX-License-Identifier: MIT OR Apache-2.0

//! The M-channel of disks. `docs/smart.md` describes the messages.

mod health;
mod serve;
mod smartctl;

use anyhow::{Context, Result, bail};
use clap::Parser;
use smartctl::Smartctl;
use std::convert::Infallible;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Serves what smartctl reads of the platform's disks over M-channels.
///
/// Each disk is a component of its own, hw:SERIAL, whose App_ID SMART answers what its health is,
/// and tells all who have bound SMART.Events when that changes. Runs in the platform's management
/// VM, as root.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// The disks; without any, those that smartctl --scan finds.
    #[arg(value_name = "DEVICE")]
    devices: Vec<PathBuf>,
    /// Look whether something has changed every so many seconds.
    #[arg(long, default_value_t = 60, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Answer by what was read in the last so many milliseconds, instead of asking the disk again.
    #[arg(long, default_value_t = 5000, value_name = "MS")]
    fresh: u64,
    /// The program that reads disks.
    #[arg(long, default_value = "smartctl", value_name = "PATH")]
    smartctl: PathBuf,
    /// How long it may take, in seconds.
    #[arg(long, default_value_t = 30, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("mgmt-smart: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<Infallible> {
    let limit = Duration::from_secs(options.limit);
    let smartctl = Arc::new(Smartctl::new(&options.smartctl, limit));
    let devices = if options.devices.is_empty() {
        smartctl.scan()?
    } else {
        options.devices.clone()
    };
    if devices.is_empty() {
        bail!("there is no disk that smartctl knows: name one");
    }
    let every = Duration::from_secs(options.every);
    let fresh = Duration::from_millis(options.fresh);
    let (end, ends) = mpsc::channel();
    for device in devices {
        let disk = serve::Disk::open(&smartctl, device, fresh)?;
        println!("{} is {}", disk.path().display(), disk.component());
        let end = end.clone();
        std::thread::spawn(move || end.send(disk.serve(every)));
    }
    // Half of the disks would look like all: where one ends, all do.
    drop(end);
    ends.recv().context("a thread ended without a word")?
}
