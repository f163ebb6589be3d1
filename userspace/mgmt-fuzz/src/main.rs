// SPDX-License-Identifier: MIT OR Apache-2.0

//! Calls of `/dev/mgmt` as nobody should make them, for tests.
//!
//! Two phases. In the first, [`model`] knows what each call must come to, and compares. In the
//! second, [`wild`], threads share files that come and go under them, and only an errno that
//! docs/uapi.md does not know is wrong. Nothing of a seed is left to chance but time.

mod dice;
mod ioctls;
mod memory;
mod messages;
mod model;
mod sys;
mod wild;

use clap::Parser;
use std::process::ExitCode;
use std::time::Duration;

/// Calls of /dev/mgmt as nobody should make them.
///
/// Prints a line for each call that did not do what docs/uapi.md says, and one with the counts.
/// Exit status: 0 as it must be, 1 if not, 3 if it could not start.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The same number leads to the same calls.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long, in all.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Give up root's rights and be this user.
    #[arg(long)]
    uid: Option<u32>,
}

/// Differences that are shown, before the run ends.
const MOST_SHOWN: usize = 20;

/// What a run has found.
#[derive(Default)]
struct Findings {
    calls: u64,
    differences: Vec<String>,
}

impl Findings {
    /// Compares what a call came to with what it may: errnos, and 0 for success.
    fn expect(&mut self, what: &str, got: sys::Outcome, allowed: &[i32]) {
        self.calls += 1;
        let number = got.err().unwrap_or(0);
        if !allowed.contains(&number) {
            let difference = format!("{what}: {number}, not one of {allowed:?}");
            self.differ(difference);
        }
    }

    fn differ(&mut self, difference: String) {
        println!("# {difference}");
        self.differences.push(difference);
    }

    fn is_enough(&self) -> bool {
        self.differences.len() >= MOST_SHOWN
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(uid) = cli.uid {
        if let Err(errno) = sys::become_user(uid) {
            eprintln!("mgmt-fuzz: cannot be user {uid}: errno {errno}");
            return ExitCode::from(3);
        }
    }
    let half = Duration::from_millis(cli.seconds * 500);
    let mut findings = Findings::default();
    if let Err(error) = model::run(cli.seed, half, cli.uid.is_none(), &mut findings)
        .and_then(|()| wild::run(cli.seed, half, &mut findings))
        .and_then(|()| model::works(&mut findings))
    {
        eprintln!("mgmt-fuzz: {error:#}");
        return ExitCode::from(3);
    }
    let wrong = findings.differences.len();
    println!(
        "{{\"test\":\"fuzz\",\"seed\":{},\"calls\":{},\"wrong\":{wrong}}}",
        cli.seed, findings.calls
    );
    ExitCode::from(u8::from(wrong > 0))
}
