// SPDX-License-Identifier: MIT OR Apache-2.0

//! An agent: tells what it could use, and prints what it may.

use crate::policy::{Budget, Demand};
use mgmt_broker::Client;
use mgmt_channel::{Address, Result};
use std::time::Duration;

/// Runs until it is killed.
pub fn run(name: &str, broker: Address, watts: u32) -> Result<()> {
    let mut client = Client::<Budget>::open(name, broker)?;
    loop {
        // The broker need not be there yet, and may go and come.
        if let Err(error) = client.report(&Demand { watts }) {
            println!("waiting: {error}");
            std::thread::sleep(Duration::from_millis(300));
        }
        if let Some(grant) = client.order(Duration::from_millis(300))? {
            println!("granted {}", grant.watts);
        }
    }
}
