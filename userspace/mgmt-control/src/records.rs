// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the daemon keeps and tells of.

use serde::{Deserialize, Serialize};
use std::fmt;

/// On whose behalf a command is given. Whoever may send it is trusted to say it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The effective user.
    pub uid: u32,
    /// Who logged in, where it is another (sudo).
    pub login: Option<String>,
    /// By what: a program, or a broker's App_ID.
    pub program: String,
}

impl Who {
    /// This process's user.
    pub fn here(program: &str) -> Self {
        let mut login = std::env::var("SUDO_USER").ok();
        login = login.or_else(|| std::env::var("LOGNAME").ok());
        Self {
            uid: rustix::process::geteuid().as_raw(),
            login: login.map(|name| name.chars().take(32).collect()),
            program: program.to_owned(),
        }
    }

    /// A program that acts by itself.
    pub fn program(program: impl Into<String>) -> Self {
        Self {
            program: program.into(),
            ..Self::here("")
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.login {
            Some(login) => write!(f, "{login} (uid {}) by {}", self.uid, self.program),
            None => write!(f, "uid {} by {}", self.uid, self.program),
        }
    }
}

/// A policy that was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// Counted from 1; never given twice.
    pub version: u64,
    /// When it was loaded first, milliseconds since 1970.
    pub time_ms: u64,
    /// Who loaded it.
    pub who: Who,
    /// Where the text is from.
    pub origin: String,
    /// How many rules.
    pub rules: u32,
    /// How many bytes.
    pub bytes: u32,
    /// It is the one that holds.
    pub active: bool,
}

/// A goal of an application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    /// The application (its App_ID).
    pub app: String,
    /// The goal.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// Who holds an actuator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The kind of actuator.
    pub actuator: String,
    /// Of what.
    pub target: String,
    /// The App_ID that holds it.
    pub holder: String,
    /// How long it lasts when it is renewed, milliseconds.
    pub ttl_ms: u32,
    /// When it ends, milliseconds of the clock since boot.
    pub ends_ms: u64,
    /// What was set and read back, in the actuator's unit; none before the first time.
    pub value: Option<i64>,
}

/// Kinds of records, each bounded for itself: what brokers do cannot push out what administrators did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    /// Somebody changed a setting.
    Administration,
    /// A broker, or the end of its lease, changed an actuator.
    Actuation,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Administration, Self::Actuation];
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done.
    Done,
    /// Not done, and why.
    Refused(String),
    /// Tried, and why it failed.
    Failed(String),
}

/// A line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Counted from 1, over both classes.
    pub number: u64,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// Of which kind.
    pub class: Class,
    /// Who did it.
    pub who: String,
    /// What: `policy.load`, `goal.set`, `actuate`, …
    pub action: String,
    /// With what.
    pub subject: String,
    /// How, and why.
    pub detail: String,
    /// How it went.
    pub outcome: Outcome,
}

/// What a broker last wanted of an actuator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The kind of actuator.
    pub actuator: String,
    /// Of what.
    pub target: String,
    /// The unit of the values.
    pub unit: String,
    /// Who wants it.
    pub holder: String,
    /// What is in force, as far as is known.
    pub from: Option<i64>,
    /// What is wanted.
    pub to: i64,
    /// Why.
    pub why: String,
    /// What became of it.
    pub verdict: Verdict,
    /// How long ago that was, milliseconds.
    pub age_ms: u64,
}

/// What became of an intent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It was set and read back.
    Done,
    /// Nothing to do: it is so already.
    Same,
    /// Only the observe-only switch keeps it from being set.
    Observed,
    /// Not set, and why; if it is wanted again later, it may be.
    Withheld(String),
    /// Setting it failed.
    Failed(String),
    /// It is due: the lease has ended, and the safe default is to be set.
    Due,
}

/// What would be actuated now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The platform is only observed.
    pub observe: bool,
    /// By actuator and target.
    pub intents: Vec<Intent>,
}

/// How the daemon is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// For how long it has run, milliseconds.
    pub up_ms: u64,
    /// The platform is only observed.
    pub observe: bool,
    /// The policy that holds, if it is known.
    pub policy: Option<PolicyInfo>,
    /// The bridge has other rules than the stored ones.
    pub policy_differs: bool,
    /// The brokers that it hosts.
    pub brokers: Vec<String>,
    /// Actuators that it has.
    pub actuators: Vec<String>,
    /// Leases that are held.
    pub leases: u32,
    /// Goals that are set.
    pub goals: u32,
    /// Records of the audit log.
    pub records: u64,
    /// Its bytes.
    pub record_bytes: u64,
}
