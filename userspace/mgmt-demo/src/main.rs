// SPDX-License-Identifier: MIT OR Apache-2.0

//! The demonstration: two guests run a web server under load, first without coordination, then with
//! the power broker.

mod load;
mod plot;
mod run;
mod server;
mod table;
mod trace;
mod verdict;
mod work;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// The demonstration of coordinated power management; docs/demo.md tells what it shows.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// In a guest: a web server that does real work, and the agent that watches it.
    Serve(server::Options),
    /// Send requests to a server, or measure its capacity.
    Load(load::Options),
    /// In Dom0: the whole run. Exits with 0 only if coordination helped.
    Run(run::Options),
    /// Draw a trace that `run` has written.
    Plot {
        /// The trace.
        trace: PathBuf,
        /// The picture to write.
        svg: PathBuf,
    },
    /// Judge a trace that `run` has written; exit status as that of `run`.
    Judge {
        /// The trace.
        trace: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(options) => server::serve(&options).map(|()| true),
        Command::Load(options) => load::load(&options).map(|()| true),
        Command::Run(options) => run::run(&options),
        Command::Plot { trace, svg } => trace::read(&trace)
            .and_then(|rows| plot::draw(&rows, &svg))
            .map(|()| true),
        Command::Judge { trace } => trace::read(&trace).map(|rows| {
            let verdict = verdict::judge(&rows);
            print!("{verdict}");
            verdict.passed()
        }),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mgmt-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
