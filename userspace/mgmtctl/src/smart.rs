// SPDX-License-Identifier: MIT OR Apache-2.0

//! The platform's disks, through the M-channels that mgmt-smart serves.

use crate::table;
use anyhow::{Context, Result, bail};
use mgmt_channel::{
    Address, AppId, Channel, Component, ComponentName, Error, Message, show_address,
};
use serde_json::Value;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Options {
    /// One disk, as hw:SERIAL; by default all that are found on this platform.
    #[arg(long, value_name = "COMPONENT")]
    at: Option<ComponentName>,
    /// Wait so many milliseconds for an answer.
    #[arg(long, default_value_t = 35_000, value_name = "MS")]
    wait: u64,
    /// Print all that smartctl says, as JSON, instead of a line for each disk.
    #[arg(long)]
    all: bool,
}

pub fn run(path: &str, options: &Options) -> Result<()> {
    let own = format!("mgmtctl.{}", std::process::id());
    let channel = Channel::open_at(path)?.bound(&own)?;
    let app = AppId::new(b"SMART").map_err(Error::from)?;
    let disks = match options.at {
        Some(at) => vec![Address::new(at.resolve(channel.info()?.component), app)],
        None => channel.discover(Component::Platform, app, Duration::from_millis(500))?,
    };
    if disks.is_empty() {
        bail!("no disk answers here (does mgmt-smart run?): say which by --at");
    }
    let wait = Duration::from_millis(options.wait);
    let mut lines = Vec::new();
    for disk in disks {
        let question = if options.all { "all" } else { "health" };
        let message = Message::data(disk, question.into());
        let reply = channel
            .request(message, wait)
            .with_context(|| show_address(&disk))?;
        let answer: Value = serde_json::from_slice(&reply.payload)
            .with_context(|| format!("{} answered nonsense", show_address(&disk)))?;
        if let Some(error) = answer.get("error") {
            bail!("{}: {}", show_address(&disk), shown(error));
        }
        if options.all {
            println!("{answer:#}");
        } else {
            lines.push(line(disk, &answer));
        }
    }
    table::print(&lines);
    Ok(())
}

/// A disk's health, in the columns of the table: what it does not tell is left out.
fn line(disk: Address, health: &Value) -> Vec<String> {
    let of = |name: &str, unit: &str| match health.get(name) {
        None => String::new(),
        Some(value) => format!("{}{unit}", shown(value)),
    };
    let verdict = match health.get("passed").and_then(Value::as_bool) {
        Some(true) => "passed",
        Some(false) => "FAILING",
        None => "unknown",
    };
    vec![
        disk.component.to_string(),
        verdict.to_owned(),
        of("temperature_c", " °C"),
        of("percentage_used", " % used"),
        of("power_on_hours", " h"),
        of("media_errors", " media errors"),
        of("reallocated_sectors", " sectors replaced"),
        of("model", ""),
    ]
}

/// A value as text, without what would steer a terminal.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars().filter(|c| !c.is_control()).collect()
}
