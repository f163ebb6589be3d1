// SPDX-License-Identifier: MIT OR Apache-2.0

//! Completions and manual pages, of the commands as they are.

use anyhow::{Context, Result};
use clap::Subcommand;
use clap_complete::Shell;
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum Command {
    /// Write completions to standard output.
    Completions {
        /// For which shell.
        shell: Shell,
    },
    /// Write manual pages, one for each command.
    Man {
        /// Into this directory.
        directory: PathBuf,
    },
}

pub fn run(command: &Command, mut program: clap::Command) -> Result<()> {
    match command {
        Command::Completions { shell } => {
            let name = program.get_name().to_owned();
            clap_complete::generate(*shell, &mut program, name, &mut std::io::stdout());
        }
        Command::Man { directory } => {
            std::fs::create_dir_all(directory)?;
            clap_mangen::generate_to(program, directory)
                .with_context(|| format!("writing to {}", directory.display()))?;
        }
    }
    Ok(())
}
