// SPDX-License-Identifier: MIT OR Apache-2.0

//! Figure 5(b): a broker in a guest, for the agents in it, and one at the hardware. The guest's
//! broker is an agent of the other: it divides what it is granted there.

use crate::policy::{Budget, Demand, Grant};
use mgmt_broker::{Agent, Application, Client, Ended, Orders, serve};
use mgmt_channel::{Address, Result};
use std::collections::BTreeMap;
use std::time::Duration;

struct InGuest {
    budget: Budget,
    hardware: Client<Budget>,
}

impl Application for InGuest {
    const APP: &'static str = Budget::APP;
    type Report = Demand;
    type Order = Grant;

    fn reported(&mut self, agent: &Agent, demand: Demand, orders: &mut Orders<Grant>) {
        self.budget.reported(agent, demand, orders);
    }

    fn left(&mut self, agent: &Agent, why: Ended, orders: &mut Orders<Grant>) {
        self.budget.left(agent, why, orders);
    }

    fn tick(&mut self, _: &mut Orders<Grant>) {
        let watts = self.budget.demands.values().sum();
        // Without the other broker what was granted last holds.
        if let Err(error) = self.hardware.report(&Demand { watts }) {
            println!("the broker at the hardware: {error}");
        }
        while let Ok(Some(grant)) = self.hardware.order(Duration::ZERO) {
            self.budget.watts = grant.watts;
        }
    }
}

/// Serves this guest until it is killed; `hardware` is the other broker.
pub fn run(hardware: Address) -> Result<()> {
    let application = InGuest {
        budget: Budget {
            watts: 0,
            demands: BTreeMap::new(),
        },
        hardware: Client::open("BudgetUp", hardware)?,
    };
    serve(application, &|| false)
}
