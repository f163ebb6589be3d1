// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the daemon shall do: a TOML file, and options that override it.

use crate::metrics::Listen;
use anyhow::{Context, Result, anyhow, bail};
use clap::{Parser, ValueEnum};
use mgmt_broker::power;
use mgmt_maker::Limits;
use serde::Deserialize;
use std::net::IpAddr;
use std::path::PathBuf;

/// The daemon of a management VM (Dom-M): attaches every guest that appears to an M-channel, and
/// hosts brokers.
///
/// Guests stay attached when it stops; it may be started again at any time.
#[derive(Parser)]
#[command(version)]
pub struct Options {
    /// A TOML file with the settings; docs/operations.md has them all.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Host this broker; may be given several times.
    #[arg(long = "broker", value_enum)]
    brokers: Vec<BrokerName>,
    /// The power broker only records, and decides nothing.
    #[arg(long)]
    observe: bool,
    /// Where the daemon keeps what it must not forget.
    #[arg(long, value_name = "DIRECTORY")]
    state: Option<PathBuf>,
    /// The rules of who may talk to whom: loaded when this file changes, and at SIGHUP.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Serve metrics for Prometheus here: IP:PORT of a loopback address, or unix:PATH.
    #[arg(long, value_name = "WHERE")]
    metrics: Option<Listen>,
    /// Actuators act on nothing: to try brokers.
    #[arg(long)]
    simulate: bool,
    /// Write each report that the power broker gets to this file, as CSV.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// The performance state in which the power broker takes over a guest.
    #[arg(long, value_enum)]
    start: Option<Start>,
    /// The longest response time that is no violation, milliseconds.
    #[arg(long, value_name = "MS")]
    sla_ms: Option<u32>,
    /// The address (MVM_IP) of this management VM.
    #[arg(long, value_name = "IP")]
    mvm_ip: Option<IpAddr>,
    /// Leave attaching guests to others.
    #[arg(long)]
    no_attach: bool,
    /// Detach all guests at the end.
    #[arg(long)]
    detach_at_exit: bool,
    /// The domain id of this management VM, where xenstore does not say it.
    #[arg(long, value_name = "ID")]
    backend: Option<u32>,
    /// What to log: error, warn, info, debug or trace, or directives of tracing's EnvFilter.
    #[arg(long, default_value = "info", env = "MGMTD_LOG")]
    pub log: String,
}

/// A broker that the daemon can host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum BrokerName {
    /// Power management by service levels (paper §5.1.1)
    Power,
}

impl BrokerName {
    /// Its App_ID.
    pub fn app(&self) -> String {
        match self {
            Self::Power => power::APP.to_owned(),
        }
    }
}

/// [`power::StartState`] as an option.
#[derive(Clone, Copy, ValueEnum)]
enum Start {
    Highest,
    Lowest,
    Current,
}

/// The settings.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Attach guests.
    pub attach: bool,
    /// Detach them at the end.
    pub detach_at_exit: bool,
    /// The domain id of this management VM.
    pub backend: Option<u32>,
    /// Its address.
    pub mvm_ip: Option<IpAddr>,
    /// The directory of the state.
    pub state: PathBuf,
    /// The file of the policy, if it is from one.
    pub policy: Option<PathBuf>,
    /// Where metrics are served, if at all.
    pub metrics: Option<Listen>,
    /// Actuators act on nothing.
    pub simulate: bool,
    /// How long a broker holds an actuator without renewing, milliseconds.
    pub lease_ms: u32,
    /// Bounds of the audit log.
    pub audit: Audit,
    /// How fast actuators may be changed.
    pub limits: ActuatorLimits,
    /// What to host.
    pub brokers: Vec<BrokerName>,
    /// Where the power broker's trace goes.
    pub record: Option<PathBuf>,
    /// The power broker's settings.
    pub power: power::Config,
}

/// How much of the audit log is kept, of each class of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// MiB.
    pub mib: u32,
    /// Days.
    pub days: u32,
}

impl Default for Audit {
    fn default() -> Self {
        Self { mib: 16, days: 400 }
    }
}

impl Audit {
    /// For the state.
    pub fn limits(self) -> mgmt_state::Limits {
        mgmt_state::Limits {
            bytes: u64::from(self.mib) << 20,
            age_ms: u64::from(self.days) * 24 * 3600 * 1000,
        }
    }
}

/// [`Limits`] of each actuator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ActuatorLimits {
    /// Of `cpu-cap`.
    pub cpu_cap: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            attach: true,
            detach_at_exit: false,
            backend: None,
            mvm_ip: None,
            state: "/var/lib/mgmtd".into(),
            policy: None,
            metrics: None,
            simulate: false,
            lease_ms: 15_000,
            audit: Audit::default(),
            limits: ActuatorLimits::default(),
            brokers: Vec::new(),
            record: None,
            power: power::Config::default(),
        }
    }
}

impl Options {
    /// The file's settings with the options over them.
    pub fn config(&self) -> Result<Config> {
        let mut config = match &self.config {
            None => Config::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("reading {}", path.display()))?;
                toml::from_str(&text).with_context(|| path.display().to_string())?
            }
        };
        if !self.brokers.is_empty() {
            config.brokers.clone_from(&self.brokers);
        }
        if self.observe {
            config.power.mode = power::Mode::Observe;
        }
        if let Some(start) = self.start {
            config.power.start = match start {
                Start::Highest => power::StartState::Highest,
                Start::Lowest => power::StartState::Lowest,
                Start::Current => power::StartState::Current,
            };
        }
        if let Some(ms) = self.sla_ms {
            config.power.sla_ms = ms;
        }
        if let Some(state) = &self.state {
            config.state.clone_from(state);
        }
        config.policy = self.policy.clone().or(config.policy);
        config.metrics = self.metrics.clone().or(config.metrics);
        config.simulate |= self.simulate;
        if config.lease_ms < 3000 {
            bail!("lease_ms: at least 3000");
        }
        config.record = self.record.clone().or(config.record);
        config.mvm_ip = self.mvm_ip.or(config.mvm_ip);
        config.backend = self.backend.or(config.backend);
        config.attach &= !self.no_attach;
        config.detach_at_exit |= self.detach_at_exit;
        let power = config.power.check();
        power.map_err(|wrong| anyhow!("settings of the power broker: {wrong}"))?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(file: &str, options: &[&str]) -> Result<Config> {
        let name = format!("mgmtd-test-{}-{}", std::process::id(), file.len());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, file)?;
        let path = path.to_str().expect("a path of text").to_owned();
        let args = ["mgmtd", "--config", &path];
        let args = args.into_iter().chain(options.iter().copied());
        Options::try_parse_from(args)?.config()
    }

    #[test]
    fn a_file_is_read_and_options_override_it() {
        let file = "brokers = ['power']\nmvm_ip = '192.0.2.1'\n\
                    [power]\nstates = [10, 50]\nsla_ms = 40\n[power.policy]\nlower_below = 700\n";
        let read = config(file, &[]).unwrap();
        assert_eq!(read.brokers, [BrokerName::Power]);
        assert_eq!(read.power.states, [10, 50]);
        assert_eq!(read.power.policy.lower_below, 700);
        assert_eq!(read.power.policy.hold, power::Config::default().policy.hold);
        assert!(read.attach);
        assert_eq!(read.limits.cpu_cap, Limits::default());
        let options = [
            "--observe",
            "--sla-ms",
            "90",
            "--no-attach",
            "--start",
            "lowest",
        ];
        let over = config(file, &options).unwrap();
        assert_eq!(over.power.mode, power::Mode::Observe);
        assert_eq!(over.power.start, power::StartState::Lowest);
        assert_eq!((over.power.sla_ms, over.attach), (90, false));
    }

    #[test]
    fn wrong_settings_are_refused_with_what_is_wrong() {
        for (file, part) in [
            ("colour = 1", "colour"),
            ("lease_ms = 10", "lease_ms"),
            ("metrics = '0.0.0.0:1'", "loopback"),
            ("[limits.cpu-cap]\ncolour = 1", "colour"),
            ("[power]\nstates = []", "states"),
            ("[power]\nstates = [50, 20]", "lowest"),
            ("[power.policy]\nlower_below = 2000", "lower_below"),
        ] {
            let error = format!("{:#}", config(file, &[]).unwrap_err());
            assert!(error.contains(part), "{file}: {error}");
        }
    }
}
