// SPDX-License-Identifier: MIT OR Apache-2.0

//! docs/tutorial.md shows the code that runs, and its policy does what it says.

#[allow(dead_code)]
#[path = "../examples/budget/policy.rs"]
mod policy;

use mgmt_broker::{Application, Ended, Orders};
use mgmt_channel::{Address, AppId, Component};
use policy::{Budget, Demand, Grant};
use std::collections::BTreeMap;

#[test]
fn the_tutorial_shows_what_runs() {
    let top = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let tutorial = std::fs::read_to_string(format!("{top}/docs/tutorial.md")).unwrap();
    let mut lines = 0;
    for name in ["policy.rs", "dom_m.rs", "agent.rs", "guest.rs", "group.rs"] {
        let file = format!("{top}/userspace/mgmt-broker/examples/budget/{name}");
        let file = std::fs::read_to_string(file).unwrap();
        let code = file.split_once("\n\n").unwrap().1.trim();
        let shown = format!("<!-- {name} -->\n```rust\n{code}\n```\n");
        assert!(
            tutorial.contains(&shown),
            "docs/tutorial.md shows another {name}"
        );
        let is_code = |line: &&str| !line.trim().is_empty() && !line.trim().starts_with("//");
        if matches!(name, "policy.rs" | "dom_m.rs" | "agent.rs") {
            lines += code.lines().filter(is_code).count();
        }
    }
    assert!(lines <= 100, "a broker in {lines} lines");
}

#[test]
fn a_budget_is_divided() {
    let agent = |vm_id| {
        let mvm_ip = [0; 16];
        Address::new(Component::Vm { mvm_ip, vm_id }, AppId::new(b"A").unwrap())
    };
    let mut budget = Budget {
        watts: 100,
        demands: BTreeMap::new(),
    };
    let mut orders = Orders::default();
    budget.reported(&agent(3), Demand { watts: 60 }, &mut orders);
    assert_eq!(orders.take(), [(agent(3), Grant { watts: 60 })]);
    budget.reported(&agent(4), Demand { watts: 140 }, &mut orders);
    let both = [
        (agent(3), Grant { watts: 30 }),
        (agent(4), Grant { watts: 70 }),
    ];
    assert_eq!(orders.take(), both);
    budget.left(&agent(4), Ended::Silent, &mut orders);
    budget.reported(&agent(3), Demand { watts: u32::MAX }, &mut orders);
    assert_eq!(orders.take(), [(agent(3), Grant { watts: 100 })]);
}
