// SPDX-License-Identifier: MIT OR Apache-2.0

//! The broker of docs/tutorial.md in the deployments of the paper's Figure 5, with one policy.
//!
//! ```text
//! budget-broker dom-m WATTS                  5(a), and the side of the hardware in 5(b)
//! budget-broker guest APP@COMPONENT          5(b), in a guest; where the other broker is
//! budget-broker group WATTS                  5(c), in each of the guests
//! budget-broker agent NAME APP@COMPONENT WATTS
//! budget-broker follower NAME WATTS          an agent of whoever leads
//! ```

mod agent;
mod dom_m;
mod group;
mod guest;
mod policy;

use mgmt_channel::{Address, Destination};
use std::process::ExitCode;

const USAGE: &str = "usage: budget-broker dom-m WATTS | guest APP@COMPONENT | group WATTS | \
                     agent NAME APP@COMPONENT WATTS | follower NAME WATTS";

fn address(text: &str) -> Result<Address, Box<dyn std::error::Error>> {
    Ok(text.parse::<Destination>()?.resolve(None))
}

fn run(arguments: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    match arguments {
        ["dom-m", watts] => dom_m::run(watts.parse()?),
        ["guest", hardware] => guest::run(address(hardware)?)?,
        ["group", watts] => group::broker(watts.parse()?)?,
        ["agent", name, broker, watts] => agent::run(name, address(broker)?, watts.parse()?)?,
        ["follower", name, watts] => group::agent(name, watts.parse()?)?,
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("budget-broker: {error}");
            ExitCode::FAILURE
        }
    }
}
