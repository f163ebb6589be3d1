// SPDX-License-Identifier: MIT OR Apache-2.0

//! Figure 5(a): the broker in Dom-M, agents in the guests.

use crate::policy::Budget;
use mgmt_broker::Host;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Serves until it is killed. The budget is for all guests together.
pub fn run(watts: u32) {
    let mut host = Host::new(Arc::new(AtomicBool::new(false)));
    host.add(move || Budget {
        watts,
        demands: BTreeMap::new(),
    });
    host.join();
}
