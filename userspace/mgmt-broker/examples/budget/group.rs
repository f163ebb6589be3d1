// SPDX-License-Identifier: MIT OR Apache-2.0

//! Figure 5(c): a broker in each of several guests. The one with the lowest address decides; agents
//! find it by presence, and so do the brokers.

use crate::policy::{Budget, Demand};
use mgmt_broker::{Application, Client, Group, Led, serve};
use mgmt_channel::{Address, AppId, Component, Endpoint, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Serves as one of the brokers until it is killed.
pub fn broker(watts: u32) -> Result<()> {
    let leads = Arc::new(AtomicBool::new(false));
    let is_leader = Arc::clone(&leads);
    let endpoint = Endpoint::open("BudgetGroup")?;
    let watch = endpoint.watch(Component::Platform, AppId::new(Budget::APP.as_bytes())?)?;
    std::thread::spawn(move || {
        let mut group = Group::default();
        for presence in watch.flatten() {
            group.hear(&presence);
            // A guest learns its name with its channel, and has another after a migration.
            let own = endpoint.info().ok().and_then(|info| info.component);
            let leads = own.is_some_and(|own| group.is_led_by(own));
            if is_leader.swap(leads, Ordering::Relaxed) != leads {
                println!("{}", if leads { "leads" } else { "follows" });
            }
        }
    });
    let budget = Budget {
        watts,
        demands: BTreeMap::new(),
    };
    serve(Led::new(budget, leads), &|| false)
}

/// An agent of whoever leads.
pub fn agent(name: &str, watts: u32) -> Result<()> {
    let app = AppId::new(Budget::APP.as_bytes())?;
    let endpoint = Endpoint::open(&format!("{name}Watch"))?;
    let watch = endpoint.watch(Component::Platform, app)?;
    let mut group = Group::default();
    let mut client = Client::<Budget>::open(name, Address::new(Component::Mvm, app))?;
    loop {
        while let Some(presence) = watch.next(Some(Duration::ZERO))? {
            group.hear(&presence);
        }
        if let Some(leader) = group.leader() {
            client.follow(leader);
            if let Err(error) = client.report(&Demand { watts }) {
                println!("waiting: {error}");
            }
        }
        if let Some(grant) = client.order(Duration::from_millis(300))? {
            println!("granted {} by {}", grant.watts, client.broker());
        }
    }
}
