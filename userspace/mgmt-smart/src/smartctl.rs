// SPDX-License-Identifier: MIT OR Apache-2.0

//! smartctl (smartmontools 7 and later), whose `--json` output is what disks are asked by.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Between two looks whether smartctl is done.
const LOOK: Duration = Duration::from_millis(20);
/// Bits of smartctl's exit status: the command line was wrong, or the disk could not be opened. The
/// others tell of the disk's health, and there is output.
const FAILED: i32 = 0b11;

/// How smartctl is called.
#[derive(Debug)]
pub struct Smartctl {
    program: PathBuf,
    limit: Duration,
}

#[derive(Deserialize)]
struct Scan {
    #[serde(default)]
    devices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    name: PathBuf,
}

impl Smartctl {
    /// This program, which may take so long.
    pub fn new(program: &Path, limit: Duration) -> Self {
        Self {
            program: program.to_owned(),
            limit,
        }
    }

    /// The disks that there are.
    pub fn scan(&self) -> Result<Vec<PathBuf>> {
        let scan: Scan = serde_json::from_value(self.call(&["--scan".as_ref()])?)
            .context("smartctl --scan answered something else")?;
        Ok(scan.devices.into_iter().map(|device| device.name).collect())
    }

    /// All that smartctl says of a disk.
    pub fn read(&self, device: &Path) -> Result<Value> {
        self.call(&["--all".as_ref(), device])
    }

    fn call(&self, arguments: &[&Path]) -> Result<Value> {
        let name = self.program.display();
        let mut child = Command::new(&self.program)
            .arg("--json=c")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot run {name}"))?;
        let mut output = child.stdout.take().context("no pipe")?;
        // It must be read while it runs, as a pipe holds less than it may say.
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            output.read_to_end(&mut text).map(|_| text)
        });
        let end = Instant::now() + self.limit;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() >= end {
                child.kill()?;
                child.wait()?;
                bail!("{name} did not end within {:?}", self.limit);
            }
            std::thread::sleep(LOOK);
        };
        let text = match reader.join() {
            Ok(text) => text?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let value: Value = serde_json::from_slice(&text)
            .with_context(|| format!("{name} ended with {status} and printed no JSON"))?;
        match status.code() {
            Some(code) if code & FAILED == 0 => Ok(value),
            _ => bail!(
                "{name}: {}",
                why(&value).unwrap_or_else(|| status.to_string())
            ),
        }
    }
}

/// What smartctl says went wrong.
fn why(value: &Value) -> Option<String> {
    let messages = value.pointer("/smartctl/messages")?.as_array()?;
    let texts: Vec<_> = messages
        .iter()
        .filter_map(|message| message.get("string")?.as_str())
        .collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static SCRIPTS: AtomicUsize = AtomicUsize::new(0);

    fn shell(script: &str, limit: Duration) -> Result<Value> {
        use std::os::unix::fs::PermissionsExt as _;
        // `sh --json=c` would be wrong: the script is a program of its own.
        let number = SCRIPTS.fetch_add(1, Ordering::Relaxed);
        let name = format!("mgmt-smart-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
        let value = Smartctl::new(&path, limit).read("/dev/none".as_ref());
        std::fs::remove_file(&path)?;
        value
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_failing_disk_is_an_answer() {
        let value = shell("echo '{\"a\": 1}'; exit 24", LONG).unwrap();
        assert_eq!(value["a"], 1);
    }

    #[test]
    fn a_disk_that_cannot_be_opened_is_an_error_with_its_reason() {
        let script = r#"echo '{"smartctl": {"messages": [{"string": "No such device"}]}}'; exit 2"#;
        let error = shell(script, LONG).unwrap_err().to_string();
        assert!(error.ends_with(": No such device"), "{error}");
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        let error = shell("echo hello world", LONG).unwrap_err().to_string();
        assert!(error.contains("printed no JSON"), "{error}");
    }

    #[test]
    fn one_that_hangs_is_killed() {
        let error = shell("exec sleep 1000", Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("did not end within"), "{error}");
    }
}
