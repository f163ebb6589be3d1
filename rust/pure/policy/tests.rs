// SPDX-License-Identifier: GPL-2.0

//! - `text`: what a rule is, and where a line that is none is wrong.
//! - `table`: decisions and their reasons, and what they cost.
//! - `model`: any rules and messages, against the first rule that matches.

#![cfg(not(loom))]

mod model;
mod table;
mod text;

use super::*;
use crate::{
    pure::route::VmName,
    wire::{Address, Component}, //
};

/// The platform of the management VM that decides.
const OURS: [u8; 16] = [1; 16];
/// Another one.
const OTHER: [u8; 16] = [2; 16];
const MVM: VmName = VmName {
    mvm_ip: OURS,
    vm_id: 0,
};
const UUID: [u8; 16] = [0xab; 16];

type VecTable = Table<Vec<Rule>, Vec<Entry>>;

/// The rules of a text that has no mistakes.
fn rules(text: &str) -> Vec<Rule> {
    Rules::new(text.as_bytes())
        .collect::<Result<_, _>>()
        .expect("rules")
}

fn compile(rules: Vec<Rule>) -> VecTable {
    let entries = vec![Entry::default(); rules.len()];
    Table::compile(rules, entries).expect("a table")
}

fn app(name: &str) -> AppId {
    AppId::new(name.as_bytes()).expect("an App_ID")
}

fn vm(mvm_ip: [u8; 16], vm_id: u32) -> Component {
    Component::Vm { mvm_ip, vm_id }
}

fn serial(name: &str) -> Serial {
    Serial::new(name.as_bytes()).expect("a serial number")
}
