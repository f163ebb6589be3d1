// SPDX-License-Identifier: MIT OR Apache-2.0

//! The power agent of a guest, for a server that tells its response times over a socket.

use anyhow::{Context, Result};
use clap::Parser;
use mgmt_agent::{Config, Samples};
use mgmt_channel::Channel;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The power agent of a guest.
///
/// A server tells it of each request by one datagram to its socket: the response time in
/// microseconds as decimal text, or "rejected". Every 500 ms the agent sends the power broker in
/// the management VM how many requests there were, how many violated the SLA, and how busy the VM
/// was. It goes on while the channel or the broker is away.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// The socket to make.
    #[arg(long, default_value = "/run/mgmt-agent.sock", value_name = "PATH")]
    samples: PathBuf,
    /// What the agent calls itself.
    #[arg(long, default_value = "agent")]
    name: String,
    /// The longest response time that is no violation, until the broker says otherwise.
    #[arg(long, default_value_t = 100, value_name = "MS")]
    sla_ms: u32,
}

fn main() -> ExitCode {
    match serve(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mgmt-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: &Options) -> Result<()> {
    // A socket that an earlier agent left behind.
    if options.samples.exists() {
        std::fs::remove_file(&options.samples)
            .with_context(|| format!("removing {}", options.samples.display()))?;
    }
    let socket = UnixDatagram::bind(&options.samples)
        .with_context(|| format!("making {}", options.samples.display()))?;
    let config = Config::new(&options.name, options.sla_ms.saturating_mul(1000))?;
    let app = config.app;
    let samples = Arc::new(Samples::default());
    let theirs = Arc::clone(&samples);
    std::thread::spawn(move || {
        let open = || Channel::open()?.bound(app.as_str());
        mgmt_agent::run(config, &theirs, &open, &|| false);
    });
    let mut datagram = [0; 32];
    loop {
        let n = socket.recv(&mut datagram).context("reading the socket")?;
        match std::str::from_utf8(&datagram[..n]).map(str::trim) {
            Ok("rejected") => samples.rejected(),
            Ok(text) => match text.parse() {
                Ok(us) => samples.answered(Duration::from_micros(us)),
                Err(_) => eprintln!("mgmt-agent: not a response time: {text:?}"),
            },
            Err(_) => {}
        }
    }
}
