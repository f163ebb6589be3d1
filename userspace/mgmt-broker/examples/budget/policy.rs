// SPDX-License-Identifier: MIT OR Apache-2.0

//! A budget of watts is divided among those who need some: the messages and the policy.

use mgmt_broker::{Agent, Application, Ended, Orders};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An agent says what it could use.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Demand {
    pub watts: u32,
}

/// The broker says what it may use.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    pub watts: u32,
}

/// Everybody gets what it needs, or, where that is too much, the same part of it.
pub struct Budget {
    pub watts: u32,
    pub demands: BTreeMap<Agent, u32>,
}

impl Application for Budget {
    const APP: &'static str = "Budget";
    type Report = Demand;
    type Order = Grant;

    fn reported(&mut self, agent: &Agent, demand: Demand, orders: &mut Orders<Grant>) {
        self.demands.insert(*agent, demand.watts);
        let needed: u64 = self.demands.values().map(|&watts| u64::from(watts)).sum();
        let budget = u64::from(self.watts).min(needed);
        for (agent, &watts) in &self.demands {
            let watts = u64::from(watts) * budget / needed.max(1);
            orders.give(
                agent,
                Grant {
                    watts: watts as u32,
                },
            );
        }
    }

    fn left(&mut self, agent: &Agent, _: Ended, _: &mut Orders<Grant>) {
        self.demands.remove(agent);
    }
}
