// SPDX-License-Identifier: MIT OR Apache-2.0

//! Traffic with checked content over `/dev/mgmt`, for tests.
//!
//! Every subcommand prints one line of JSON and exits with 0 if all is as it must be, 1 if not,
//! 3 if it could not start, 124 if its time ran out.

mod commands;
mod payload;
mod report;

use clap::{Args, Parser, Subcommand};
use mgmt_channel::{Destination, Error};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Traffic with checked content over /dev/mgmt.
///
/// Payloads are numbered and checksummed. Each subcommand prints one line of JSON. Exit status:
/// 0 as it must be, 1 something lost, doubled, out of order or damaged, 2 usage, 3 could not
/// start (device, App_ID), 124 out of time.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The device.
    #[arg(long, global = true, default_value = mgmt_channel::DEVICE)]
    device: String,
    /// Give up after so many seconds in all.
    #[arg(long, global = true, default_value_t = 120)]
    timeout: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send numbered messages, as fast as the receiver takes them (blocking writes).
    Flood {
        #[command(flatten)]
        traffic: Traffic,
        /// The App_ID to send as.
        #[arg(long, default_value = "TestFlood")]
        app: String,
        /// Wait so many seconds for the receiver to answer before the first message; 0: don't.
        #[arg(long, default_value_t = 30)]
        wait: u64,
        /// Send many behind one header.
        #[arg(long)]
        bundle: bool,
    },
    /// Receive --count messages; check order, number and content. Prints "ready" once bound.
    Sink {
        /// The App_ID to serve.
        app: String,
        /// Messages to expect, of all senders together.
        #[arg(long)]
        count: u64,
        /// After the last one, wait so many milliseconds for one too many.
        #[arg(long, default_value_t = 300)]
        linger: u64,
        /// Pause so many microseconds after each message (a slow receiver).
        #[arg(long, default_value_t = 0)]
        slow: u64,
    },
    /// Send every message back to its source; requests get a reply. Prints "ready" once bound.
    Echo {
        /// The App_ID to serve.
        app: String,
        /// Stop after so many messages; 0: at the end of the time.
        #[arg(long, default_value_t = 0)]
        count: u64,
    },
    /// Send one request at a time to an echo and measure the round trips.
    Pingpong {
        #[command(flatten)]
        traffic: Traffic,
        /// The App_ID to send as.
        #[arg(long, default_value = "TestPing")]
        app: String,
        /// Wait so many seconds for the echo to answer the first time.
        #[arg(long, default_value_t = 30)]
        wait: u64,
    },
    /// Send --count messages and receive as many at the same time, from the same on the other
    /// side.
    Duplex {
        #[command(flatten)]
        traffic: Traffic,
        /// The App_ID to serve and send as.
        #[arg(long, default_value = "TestDuplex")]
        app: String,
        /// Wait so many seconds for the other side.
        #[arg(long, default_value_t = 30)]
        wait: u64,
        /// After the last one, wait so many milliseconds for one too many.
        #[arg(long, default_value_t = 300)]
        linger: u64,
        /// Send until this file is there, instead of --count messages; on both sides or none.
        #[arg(long)]
        until: Option<PathBuf>,
        /// Wait so many milliseconds after each message that is sent.
        #[arg(long, default_value_t = 0)]
        pause: u64,
    },
}

#[derive(Args)]
struct Traffic {
    /// Where to: APP@COMPONENT, with self, mvm, vm:ID, vm:IP/ID, uuid:UUID or hw:SERIAL.
    #[arg(long)]
    to: Destination,
    /// Messages.
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Bytes of payload, at least 32; several, separated by commas, are taken in turn.
    #[arg(long, default_value = "64", value_delimiter = ',')]
    size: Vec<usize>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    watchdog(Duration::from_secs(cli.timeout));
    match commands::run(&cli) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("mgmt-test: {error:#}");
            let broken = matches!(
                error.downcast_ref::<Error>(),
                Some(Error::Open { .. } | Error::NameTaken(_) | Error::Abi { .. })
            );
            ExitCode::from(if broken { 3 } else { 1 })
        }
    }
}

/// Ends the process when its time is up, wherever it waits, even in the kernel.
fn watchdog(timeout: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(timeout);
        println!(
            "{{\"ok\":false,\"error\":\"timeout\",{}}}",
            commands::progress()
        );
        std::process::exit(124);
    });
}
