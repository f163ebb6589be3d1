// SPDX-License-Identifier: MIT OR Apache-2.0

//! What `mgmtd` is asked: goals, the plan, actuators, the audit log.

use crate::table;
use anyhow::{Context, Result, anyhow, bail};
use clap::{Subcommand, ValueEnum};
use mgmt_channel::Channel;
use mgmt_control::{
    Answer, AuditRecord, Class, Client, Command, Intent, Outcome, PolicyInfo, Status, Verdict, Who,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// On or off.
#[derive(Clone, Copy, ValueEnum)]
pub enum Switch {
    /// Nothing is set, whatever brokers want.
    On,
    /// Brokers set what they want.
    Off,
}

#[derive(Subcommand)]
pub enum GoalCommand {
    /// Print the goals, each as APP KEY = VALUE.
    List {
        /// Only of this application (its App_ID).
        app: Option<String>,
    },
    /// Set a goal. An application that mgmtd hosts follows at once, or the goal is refused.
    Set {
        /// The application.
        app: String,
        /// The goal: for the power broker a setting, such as sla_ms or policy.hold.
        key: String,
        /// Its value, as in a TOML file; what is none there is a text.
        value: String,
    },
    /// Remove a goal: what the daemon's file says holds again.
    Unset {
        /// The application.
        app: String,
        /// The goal.
        key: String,
    },
}

#[derive(Subcommand)]
pub enum ActuatorCommand {
    /// Print who holds which actuator.
    List,
    /// Set an actuator, as a broker would: leased, within its limits, and written down.
    Set {
        /// Which, such as cpu-cap.
        actuator: String,
        /// Of what, such as vm:3.
        target: String,
        /// To what.
        value: i64,
        /// The App_ID that holds it from then on.
        #[arg(long = "as", value_name = "APP", default_value = "mgmtctl")]
        app: String,
        /// It goes back to its safe default after so many seconds without renewal.
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        ttl: u32,
        /// The cause, for the audit log.
        #[arg(long, default_value = "by hand")]
        why: String,
    },
    /// Renew everything that an App_ID holds.
    Renew {
        /// The App_ID.
        #[arg(long = "as", value_name = "APP", default_value = "mgmtctl")]
        app: String,
    },
    /// Give an actuator back: it goes to its safe default.
    Release {
        /// Which.
        actuator: String,
        /// Of what.
        target: String,
        /// The App_ID that holds it.
        #[arg(long = "as", value_name = "APP", default_value = "mgmtctl")]
        app: String,
    },
}

/// Which records are printed.
#[derive(clap::Args)]
pub struct AuditOptions {
    /// The latest so many.
    #[arg(long, short = 'n', default_value_t = 50)]
    lines: u32,
    /// Only those after this number.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    after: u64,
    /// Only what administrators did, or only what brokers did.
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// Only those with this text in them.
    text: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Only {
    Administration,
    Actuation,
}

/// A channel to the daemon, bound as `app` or as a name of this process.
pub fn connect(device: &str, app: Option<&str>) -> Result<Client> {
    let own = format!("mgmtctl.{}", std::process::id());
    let channel = Channel::open_at(device)?.bound(app.unwrap_or(&own))?;
    channel.set_nonblocking(true)?;
    Ok(Client::new(channel, Who::here("mgmtctl")))
}

fn unexpected() -> anyhow::Error {
    anyhow!("mgmtd answered something else")
}

/// The daemon's status; `None` if it does not run.
pub fn status(device: &str) -> Result<Option<Status>> {
    match connect(device, None)?.ask(Command::Status) {
        Ok(Answer::Status(status)) => Ok(Some(*status)),
        Ok(_) => Err(unexpected()),
        Err(mgmt_control::ClientError::NotRunning) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A few lines on the daemon.
pub fn describe(status: &Status) -> String {
    let up = Duration::from_secs(status.up_ms / 1000);
    let up = humantime::format_duration(up);
    let mut text = format!(
        "daemon      mgmtd {}, process {}, up {up}\n",
        status.version, status.pid
    );
    let or = |list: &[String]| {
        if list.is_empty() {
            "none".into()
        } else {
            list.join(", ")
        }
    };
    text += &format!("brokers     {}\n", or(&status.brokers));
    let observe = if status.observe {
        " (observe-only: nothing is set)"
    } else {
        ""
    };
    text += &format!(
        "actuators   {}{observe}, {} leased\n",
        or(&status.actuators),
        status.leases
    );
    let differs = if status.policy_differs {
        "; the bridge has other rules"
    } else {
        ""
    };
    text += &match &status.policy {
        Some(policy) => format!("policy      {}{differs}\n", describe_policy(policy)),
        None => "policy      none was loaded by mgmtd\n".into(),
    };
    text += &format!(
        "records     {} ({} KiB), {} goals\n",
        status.records,
        status.record_bytes / 1024,
        status.goals
    );
    text
}

pub fn describe_policy(policy: &PolicyInfo) -> String {
    let PolicyInfo {
        version,
        rules,
        origin,
        who,
        ..
    } = policy;
    let time = when(policy.time_ms);
    format!("version {version}: {rules} rules of {origin}, {time} {who}")
}

/// A time, as ISO 8601 has it.
pub fn when(ms: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(ms));
    humantime::format_rfc3339_seconds(time.unwrap_or(SystemTime::UNIX_EPOCH)).to_string()
}

pub fn goal(device: &str, command: &GoalCommand) -> Result<()> {
    let client = connect(device, None)?;
    let change = |app: &String, key: &String, value: Option<String>| Command::SetGoal {
        app: app.clone(),
        key: key.clone(),
        value,
    };
    let command = match command {
        GoalCommand::List { app } => {
            let Answer::Goals(goals) = client.ask(Command::Goals { app: app.clone() })? else {
                return Err(unexpected());
            };
            for goal in goals {
                println!("{} {} = {}", goal.app, goal.key, goal.value);
            }
            return Ok(());
        }
        GoalCommand::Set { app, key, value } => change(app, key, Some(value.clone())),
        GoalCommand::Unset { app, key } => change(app, key, None),
    };
    client.ask(command)?;
    Ok(())
}

pub fn observe(device: &str, to: Option<Switch>) -> Result<()> {
    let client = connect(device, None)?;
    match to {
        Some(to) => {
            client.ask(Command::Observe(matches!(to, Switch::On)))?;
        }
        None => match client.ask(Command::Status)? {
            Answer::Status(status) => println!("{}", if status.observe { "on" } else { "off" }),
            _ => return Err(unexpected()),
        },
    }
    Ok(())
}

pub fn plan(device: &str) -> Result<()> {
    let Answer::Plan(plan) = connect(device, None)?.ask(Command::Plan)? else {
        return Err(unexpected());
    };
    if plan.observe {
        println!("observe-only: nothing is set");
    }
    if plan.intents.is_empty() {
        println!("no broker wants anything");
    }
    for intent in &plan.intents {
        println!("{}", describe_intent(intent));
    }
    Ok(())
}

/// An intent in a line.
pub fn describe_intent(intent: &Intent) -> String {
    let Intent {
        actuator,
        target,
        unit,
        holder,
        from,
        to,
        why,
        verdict,
        age_ms,
    } = intent;
    let from = from.map_or("?".into(), |from| from.to_string());
    let what = match verdict {
        Verdict::Done => "set".to_owned(),
        Verdict::Same => "is so".into(),
        Verdict::Observed => "would be set".into(),
        Verdict::Withheld(why) => format!("withheld ({why})"),
        Verdict::Failed(why) => format!("failed ({why})"),
        Verdict::Due => "is due".into(),
    };
    let age = age_ms / 1000;
    format!("{actuator} {target}: {from} -> {to} {unit}: {what}, {age} s ago, by {holder}: {why}")
}

pub fn actuator(device: &str, command: &ActuatorCommand) -> Result<()> {
    let (app, command) = match command {
        ActuatorCommand::List => (None, Command::Leases),
        ActuatorCommand::Set {
            actuator,
            target,
            value,
            app,
            ttl,
            why,
        } => {
            let command = Command::Actuate {
                actuator: actuator.clone(),
                target: target.clone(),
                value: *value,
                ttl_ms: ttl.saturating_mul(1000),
                why: why.clone(),
            };
            (Some(app), command)
        }
        ActuatorCommand::Renew { app } => (Some(app), Command::Renew),
        ActuatorCommand::Release {
            actuator,
            target,
            app,
        } => {
            let (actuator, target) = (actuator.clone(), target.clone());
            (Some(app), Command::Release { actuator, target })
        }
    };
    match connect(device, app.map(String::as_str))?.ask(command)? {
        Answer::Done => {}
        Answer::Leases(leases) => {
            let head = ["ACTUATOR", "TARGET", "VALUE", "HOLDER", "TTL-S"];
            let mut lines = vec![head.map(str::to_owned).to_vec()];
            lines.extend(leases.into_iter().map(|lease| {
                let value = lease.value.map_or("-".into(), |value| value.to_string());
                let ttl = (lease.ttl_ms / 1000).to_string();
                vec![lease.actuator, lease.target, value, lease.holder, ttl]
            }));
            table::print(&lines);
        }
        _ => return Err(unexpected()),
    }
    Ok(())
}

pub fn audit(device: &str, options: &AuditOptions) -> Result<()> {
    let class = options.only.map(|only| match only {
        Only::Administration => Class::Administration,
        Only::Actuation => Class::Actuation,
    });
    let command = Command::Audit {
        after: options.after,
        limit: options.lines,
        class,
        text: options.text.clone(),
    };
    let Answer::Audit(records) = connect(device, None)?.ask(command)? else {
        return Err(unexpected());
    };
    for record in &records {
        println!("{}", describe_record(record));
    }
    Ok(())
}

fn describe_record(record: &AuditRecord) -> String {
    let outcome = match &record.outcome {
        Outcome::Done => String::new(),
        Outcome::Refused(why) => format!(" [refused: {why}]"),
        Outcome::Failed(why) => format!(" [failed: {why}]"),
    };
    let AuditRecord {
        number,
        who,
        action,
        subject,
        detail,
        ..
    } = record;
    let time = when(record.time_ms);
    let line = format!("{number} {time} {who}: {action} {subject}: {detail}{outcome}");
    // What others wrote must not drive the terminal.
    line.replace(char::is_control, "\u{fffd}")
}

pub fn history(device: &str) -> Result<()> {
    let Answer::Policies(policies) = connect(device, None)?.ask(Command::PolicyHistory)? else {
        return Err(unexpected());
    };
    for policy in &policies {
        let mark = if policy.active { '*' } else { ' ' };
        println!("{mark} {}", describe_policy(policy));
    }
    if policies.is_empty() {
        bail!("no policy was loaded by mgmtd");
    }
    Ok(())
}

pub fn rollback(device: &str, to: Option<u64>) -> Result<()> {
    match connect(device, None)?.ask(Command::PolicyRollback { to })? {
        Answer::Policy(policy) => println!("{}", describe_policy(&policy)),
        _ => return Err(unexpected()),
    }
    Ok(())
}

pub fn policy_text(device: &str, version: u64) -> Result<Vec<u8>> {
    let text = connect(device, None)?.policy_text(version);
    text.with_context(|| format!("policy {version}"))
}
