// SPDX-License-Identifier: MIT OR Apache-2.0

//! Setting a VM's performance state: by the share of a CPU that the scheduler lets it have.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Why a cap could not be set or read.
#[derive(Debug, thiserror::Error)]
pub enum CapError {
    /// The tool could not be started.
    #[error("{tool}: {source}")]
    Start {
        /// Which.
        tool: String,
        /// Why.
        source: std::io::Error,
    },
    /// The tool did not end in time, and was killed.
    #[error("{0}: no end after {1:?}")]
    TimedOut(String, Duration),
    /// The tool failed.
    #[error("{tool}: {message}")]
    Failed {
        /// Which.
        tool: String,
        /// What it said.
        message: String,
    },
    /// The tool's output is not what is expected.
    #[error("{0}: cannot read its output")]
    Output(String),
    /// It was not tried: who is in between says no, and why.
    #[error("withheld: {0}")]
    Withheld(String),
    /// It was set without an error, but reads differently.
    #[error("domain {domain}: cap {wanted} was set, {found} is read")]
    NotSet {
        /// The domain.
        domain: u32,
        /// What was set, percent.
        wanted: u32,
        /// What is read, percent.
        found: u32,
    },
}

/// The actuator of soft scaling. A cap is in percent of one physical CPU; 0 is none.
pub trait CpuCap: Send {
    /// Sets a domain's cap, and checks that it is set.
    fn set(&mut self, domain: u32, cap: u32) -> Result<(), CapError>;
    /// The same, with what it is done for, for whoever keeps a record of it.
    fn set_for(&mut self, domain: u32, cap: u32, _why: &str) -> Result<(), CapError> {
        self.set(domain, cap)
    }
    /// Reads a domain's cap.
    fn get(&mut self, domain: u32) -> Result<u32, CapError>;
}

/// Xen's credit2 scheduler, over the toolstack's command, which hides what differs between
/// versions of the hypercall.
#[derive(Debug)]
pub struct Credit2 {
    xl: String,
    timeout: Duration,
}

impl Default for Credit2 {
    fn default() -> Self {
        Self {
            xl: "xl".into(),
            timeout: Duration::from_secs(10),
        }
    }
}

impl Credit2 {
    /// With this program in place of `xl`, each call of it bounded by `timeout`.
    pub fn new(xl: impl Into<String>, timeout: Duration) -> Self {
        Self {
            xl: xl.into(),
            timeout,
        }
    }

    fn call(&self, domain: u32, more: &[&str]) -> Result<String, CapError> {
        let domain = domain.to_string();
        let mut command = Command::new(&self.xl);
        command.args(["sched-credit2", "-d", &domain]).args(more);
        bounded(command, self.timeout)
    }
}

impl CpuCap for Credit2 {
    fn set(&mut self, domain: u32, cap: u32) -> Result<(), CapError> {
        self.call(domain, &["-c", &cap.to_string()])?;
        let found = self.get(domain)?;
        if found == cap {
            Ok(())
        } else {
            Err(CapError::NotSet {
                domain,
                wanted: cap,
                found,
            })
        }
    }

    fn get(&mut self, domain: u32) -> Result<u32, CapError> {
        let output = self.call(domain, &[])?;
        parse(&output, domain).ok_or_else(|| CapError::Output(self.xl.clone()))
    }
}

/// The cap in a table of name, id, weight, cap. A name may hold blanks: read from the end.
fn parse(output: &str, domain: u32) -> Option<u32> {
    output.lines().find_map(|line| {
        let mut fields = line.split_whitespace().rev();
        let (cap, _weight, id) = (fields.next()?, fields.next()?, fields.next()?);
        let cap = cap.parse().ok()?;
        (id.parse() == Ok(domain)).then_some(cap)
    })
}

/// Runs a command that says little, for no longer than `timeout`.
fn bounded(mut command: Command, timeout: Duration) -> Result<String, CapError> {
    let tool = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| CapError::Start {
            tool: tool.clone(),
            source,
        })?;
    let end = Instant::now() + timeout;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(CapError::TimedOut(tool, timeout));
            }
        }
    };
    let text = |pipe: Option<&mut dyn std::io::Read>| {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            let _ = pipe.take(1 << 16).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let output = text(child.stdout.as_mut().map(|p| p as _));
    if status.success() {
        return Ok(output);
    }
    let errors = text(child.stderr.as_mut().map(|p| p as _));
    Err(CapError::Failed {
        tool,
        message: match errors.lines().map(str::trim).collect::<Vec<_>>().join("; ") {
            silent if silent.is_empty() => status.to_string(),
            words => words,
        },
    })
}

/// An actuator without a machine, for tests and simulations.
#[derive(Debug, Default)]
pub struct Simulated {
    /// Each domain's cap, percent.
    pub caps: BTreeMap<u32, u32>,
}

impl CpuCap for Simulated {
    fn set(&mut self, domain: u32, cap: u32) -> Result<(), CapError> {
        self.caps.insert(domain, cap);
        Ok(())
    }

    fn get(&mut self, domain: u32) -> Result<u32, CapError> {
        Ok(self.caps.get(&domain).copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Mutex;

    const TABLE: &str = "\
Name                                ID Weight  Cap
my guest 7                           3    256   40
";

    #[test]
    fn the_tools_table_is_read() {
        assert_eq!(parse(TABLE, 3), Some(40));
        assert_eq!(parse(TABLE, 7), None);
        assert_eq!(parse("", 3), None);
        assert_eq!(parse("Cpupool Pool-0: nonsense\n", 3), None);
    }

    /// A stand-in for xl.
    fn xl(name: &str, script: &str) -> Credit2 {
        let path = std::env::temp_dir().join(format!("xl-{}-{name}", std::process::id()));
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Credit2::new(path.to_str().unwrap(), Duration::from_secs(5))
    }

    /// A script that is open for writing while another test forks cannot be executed.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    #[test]
    fn a_set_cap_is_read_back() {
        let _turn = ONE_AT_A_TIME.lock();
        let table = "printf 'Name ID Weight Cap\\ng 3 256 40\\n'";
        let mut good = xl("good", &format!("[ $# -eq 5 ] || {table}"));
        good.set(3, 40).unwrap();
        let error = good.set(3, 60).unwrap_err();
        assert!(
            matches!(error, CapError::NotSet { found: 40, .. }),
            "{error}"
        );
    }

    #[test]
    fn failures_are_told_apart() {
        let _turn = ONE_AT_A_TIME.lock();
        let mut broken = xl("broken", "echo first >&2; echo domain 3 is not >&2; exit 1");
        assert!(
            broken
                .get(3)
                .unwrap_err()
                .to_string()
                .ends_with("domain 3 is not")
        );
        let mut strange = xl("strange", "echo hello");
        assert!(matches!(strange.get(3), Err(CapError::Output(_))));
        let mut missing = Credit2::new("/nonexistent/xl", Duration::from_secs(5));
        assert!(matches!(missing.get(3), Err(CapError::Start { .. })));
        let mut slow = xl("slow", "exec sleep 60");
        slow.timeout = Duration::from_millis(50);
        assert!(matches!(slow.get(3), Err(CapError::TimedOut(..))));
    }
}
