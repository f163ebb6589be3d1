// SPDX-License-Identifier: MIT OR Apache-2.0

//! A management controller for the lab, behind QEMU's `ipmi-bmc-extern`. See `docs/bmc.md`.

mod clients;
mod link;
mod server;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use mgmt_bmc::bmc::{Bmc, Config};
use mgmt_bmc::chassis::Policy;
use mgmt_bmc::fault::Faults;
use mgmt_bmc::power::{LONGEST, Parameters, State};
use server::Server;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A management controller (BMC) for the lab: IPMI and DCMI over a power model.
///
/// It is a test instrument that stands for a server's iLO. QEMU listens at --vm (a chardev with
/// server=on,wait=off) with -device ipmi-bmc-extern; this connects to it, again and again. Lines
/// at --control steer it. docs/bmc.md has the model, the commands and the lines.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// QEMU's socket.
    #[arg(long)]
    vm: PathBuf,
    /// Where to listen for control lines.
    #[arg(long)]
    control: PathBuf,
    /// Serial number of the platform: 1 to 28 letters and digits.
    #[arg(long, default_value = "LAB0001")]
    serial: String,
    /// Of the noise, and of random faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What the platform draws when idle, W.
    #[arg(long, default_value_t = 80.0)]
    idle: f64,
    /// CPUs.
    #[arg(long, default_value_t = 2)]
    cpus: u8,
    /// Performance states, the fastest first: percent:W, the W that a busy CPU adds.
    #[arg(
        long,
        default_value = "100:45,80:24,60:12,40:6,20:3",
        value_delimiter = ','
    )]
    states: Vec<String>,
    /// Time constant of the lag, ms.
    #[arg(long, default_value_t = 2000)]
    lag: u64,
    /// Deviation of the noise, W.
    #[arg(long, default_value_t = 1.0)]
    noise: f64,
    /// Period of the usual statistics, ms; at most a minute.
    #[arg(long, default_value_t = 60_000)]
    statistics: u64,
    /// A limit that is exceeded slows the CPUs of the model.
    #[arg(long)]
    throttle: bool,
    /// What to do when the chassis is to be powered off or reset.
    #[arg(long, value_enum, default_value = "record")]
    chassis: Chassis,
    /// Write each request and its completion code to standard error.
    #[arg(long)]
    trace: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Chassis {
    /// Refuse it.
    Refuse,
    /// Write it down.
    Record,
    /// Do it to the emulated machine.
    Act,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mgmt-bmc: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let bmc = Bmc::new(config(cli)?);
    let faults = Faults::new(cli.seed);
    Server::new(bmc, faults, &cli.vm, &cli.control, cli.trace)?.run()
}

fn config(cli: &Cli) -> Result<Config> {
    let serial = &cli.serial;
    if !(1..=28).contains(&serial.len()) || !serial.bytes().all(|b| b.is_ascii_alphanumeric()) {
        bail!("--serial: not 1 to 28 letters and digits");
    }
    let states = cli.states.iter().map(|text| state(text));
    let states = states.collect::<Result<Vec<_>>>().context("--states")?;
    if !states.is_sorted_by(|a, b| a.performance > b.performance) {
        bail!("--states: not the fastest first");
    }
    if cli.cpus == 0
        || ![cli.idle, cli.noise]
            .iter()
            .all(|w| (0.0..=10_000.0).contains(w))
    {
        bail!("--cpus, --idle or --noise: out of range");
    }
    let statistics = Duration::from_millis(cli.statistics);
    if statistics.is_zero() || statistics > LONGEST {
        bail!("--statistics: not 1 ms to a minute");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(Config {
        serial: serial.clone(),
        power: Parameters {
            idle: cli.idle,
            cpus: cli.cpus.into(),
            states,
            lag: Duration::from_millis(cli.lag),
            noise: cli.noise,
            seed: cli.seed,
        },
        statistics,
        throttles: cli.throttle,
        chassis: match cli.chassis {
            Chassis::Refuse => Policy::Refuse,
            Chassis::Record => Policy::Record,
            Chassis::Act => Policy::Act,
        },
        epoch: now.as_secs() as u32,
    })
}

fn state(text: &str) -> Result<State> {
    let (performance, watts) = text.split_once(':').context("not PERCENT:WATTS")?;
    let state = State {
        performance: performance.parse()?,
        watts: watts.parse()?,
    };
    if state.performance > 100 || !(0.0..=1000.0).contains(&state.watts) {
        bail!("{text}: not 0 to 100 percent, 0 to 1000 W");
    }
    Ok(state)
}
