// SPDX-License-Identifier: MIT OR Apache-2.0

//! The policy of who may talk to whom: loaded into the bridge and kept in the state, as one.

use anyhow::{Context, Result};
use mgmt_channel::{Channel, Error};
use mgmt_control::{PolicyInfo, Refusal, RefusalKind, Who};
use mgmt_state::{Entry, State};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// The policy. Threads may share it.
pub struct Policies {
    state: Arc<State>,
    /// The file that it is loaded from, if any.
    file: Option<PathBuf>,
    /// One change at a time.
    changing: Mutex<()>,
}

/// Rules in a text without mistakes: one on each line that is not empty or a comment.
fn rules(text: &[u8]) -> u32 {
    let lines = text.split(|&byte| byte == b'\n');
    let rule = |line: &&[u8]| {
        let first = line.iter().find(|byte| !b" \t\r".contains(byte));
        first.is_some_and(|&byte| byte != b'#')
    };
    lines.filter(rule).count() as u32
}

fn hash(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish().max(1)
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(RefusalKind::Failed, error.to_string())
}

impl Policies {
    pub fn new(state: Arc<State>, file: Option<PathBuf>) -> Self {
        Self {
            state,
            file,
            changing: Mutex::default(),
        }
    }

    /// Finishes what a crash left, and loads what the bridge has lost. For each new bridge, and at
    /// the start.
    pub fn recover(&self, channel: &Channel) -> Result<()> {
        let _turn = self.changing.lock();
        let held = channel
            .read_policy()
            .context("reading the rules that hold")?;
        if let Some(begun) = self.state.unfinished()? {
            let subject = format!("version {}", begun.version);
            let entry = |action| Entry::done("mgmtd", action, &subject, "after a crash");
            if held == begun.text {
                self.state.finish_policy(None, entry("policy.finished"))?;
            } else {
                self.state.abandon_policy(entry("policy.abandoned"))?;
            }
        }
        let Some(version) = self.state.active()? else {
            return Ok(());
        };
        let stored = self.state.policy_text(version)?.unwrap_or_default();
        if held.is_empty() && !stored.is_empty() {
            channel
                .load_policy(&stored)
                .context("loading the stored policy")?;
            let subject = format!("version {version}");
            let entry = Entry::done(
                "mgmtd",
                "policy.restore",
                &subject,
                "the bridge had no rules",
            );
            self.state.audit(entry)?;
            tracing::info!(version, "loaded the stored policy: the bridge had none");
        } else if held != stored {
            tracing::warn!(
                version,
                "the bridge has other rules than the stored policy; they stay"
            );
        }
        Ok(())
    }

    /// Whether the bridge has the active policy.
    pub fn differs(&self) -> bool {
        let _turn = self.changing.lock();
        let active = self.state.active().ok().flatten();
        let Some(version) = active else { return false };
        let held = Channel::open()
            .and_then(|channel| channel.read_policy())
            .ok();
        held.is_some_and(|held| Some(held) != self.state.policy_text(version).ok().flatten())
    }

    /// The active policy.
    pub fn active(&self) -> Option<PolicyInfo> {
        let policies = self.state.policies().ok()?;
        policies.into_iter().find(|policy| policy.active)
    }

    /// Loads rules: into the bridge and the state, or neither.
    pub fn load(&self, text: &[u8], who: &Who, origin: &str) -> Result<PolicyInfo, Refusal> {
        let _turn = self.changing.lock();
        let begun = self.state.begin_policy(text, who, origin, rules(text));
        let version = begun.map_err(failed)?;
        self.finish(version, text, None, who, "policy.load", origin)
    }

    /// Loads a former policy again.
    pub fn rollback(&self, to: Option<u64>, who: &Who) -> Result<PolicyInfo, Refusal> {
        let _turn = self.changing.lock();
        let active = self.state.active().map_err(failed)?;
        let policies = self.state.policies().map_err(failed)?;
        let mut versions = policies.iter().map(|policy| policy.version);
        let version = match to {
            Some(to) => versions.find(|&version| version == to),
            None => versions.rfind(|&version| Some(version) < active),
        };
        let Some(version) = version else {
            let text = match to {
                Some(to) => format!("policy {to} is not kept"),
                None => "there is no policy before this one".into(),
            };
            return Err(Refusal::new(RefusalKind::Missing, text));
        };
        let text = self.state.policy_text(version).map_err(failed)?;
        let text = text.ok_or_else(|| failed("its rules are missing"))?;
        self.state.begin_rollback(version).map_err(failed)?;
        let from = active.map_or("none".into(), |active| format!("version {active}"));
        let detail = format!("from {from}");
        self.finish(version, &text, None, who, "policy.rollback", &detail)
    }

    /// Loads what was begun, and finishes it or abandons it.
    fn finish(
        &self,
        version: u64,
        text: &[u8],
        file: Option<u64>,
        who: &Who,
        action: &str,
        detail: &str,
    ) -> Result<PolicyInfo, Refusal> {
        let subject = format!("version {version}");
        let who = who.to_string();
        let entry = Entry::done(&who, action, &subject, detail);
        let bridge = Channel::open().and_then(|channel| {
            let held = channel.read_policy()?;
            channel.load_policy(text)?;
            Ok((channel, held))
        });
        let (channel, held) = match bridge {
            Ok(loaded) => loaded,
            Err(error) => {
                let kind = match error {
                    Error::Rule { line, column } => RefusalKind::Rule { line, column },
                    _ => RefusalKind::Failed,
                };
                let outcome = mgmt_control::Outcome::Refused(error.to_string());
                let abandoned = self.state.abandon_policy(Entry { outcome, ..entry });
                abandoned.map_err(failed)?;
                return Err(Refusal::new(kind, error.to_string()));
            }
        };
        if let Err(error) = self.state.finish_policy(file, entry) {
            // What cannot be kept must not hold.
            if let Err(error) = channel.load_policy(&held) {
                tracing::error!(%error, "cannot load the former rules again");
            }
            return Err(failed(error));
        }
        tracing::info!(version, action, who, detail, "policy");
        self.active().ok_or_else(|| failed("the policy is missing"))
    }

    /// Loads the file, if it is another one than was loaded last, or `anyway`. A mistake in it changes
    /// nothing, and is told.
    pub fn follow_file(&self, anyway: bool) {
        let Some(path) = &self.file else { return };
        if let Err(error) = self.load_file(path, anyway) {
            tracing::error!(
                "{}: {error:#}; the rules that held still hold",
                path.display()
            );
        }
    }

    fn load_file(&self, path: &Path, anyway: bool) -> Result<()> {
        let text = std::fs::read(path)?;
        let hash = hash(&text);
        let _turn = self.changing.lock();
        if !anyway && self.state.policy_file()? == Some(hash) {
            return Ok(());
        }
        let who = Who::program("mgmtd");
        let origin = path.display().to_string();
        let version = self
            .state
            .begin_policy(&text, &who, &origin, rules(&text))?;
        let done = self.finish(version, &text, Some(hash), &who, "policy.load", &origin);
        done.map_err(|refusal| anyhow::anyhow!(explain(path, &refusal)))?;
        Ok(())
    }
}

/// What is wrong with a file, in the words of `mgmtctl policy check` where that is there: the reader
/// of rules is the kernel module's, under another licence than the daemon.
fn explain(path: &Path, refusal: &Refusal) -> String {
    if !matches!(refusal.kind, RefusalKind::Rule { .. }) {
        return refusal.text.clone();
    }
    let checked = Command::new("mgmtctl")
        .args(["policy", "check", "--"])
        .arg(path)
        .stdin(Stdio::null())
        .output();
    let said = checked.map(|output| String::from_utf8_lossy(&output.stderr).trim().to_owned());
    match said {
        // Many mistakes fill no log.
        Ok(said) if !said.is_empty() => said.lines().take(12).collect::<Vec<_>>().join("\n"),
        _ => refusal.text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_counted() {
        assert_eq!(rules(b""), 0);
        assert_eq!(
            rules(b"# x\n\n \t# y\nallow * -> *\r\n  deny * -> mvm # z\n\r\n"),
            2
        );
    }
}
