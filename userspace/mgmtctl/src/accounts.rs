// SPDX-License-Identifier: MIT OR Apache-2.0

//! What this domain's bridge holds on whose account.

use crate::table;
use anyhow::Result;
use mgmt_channel::{Account, Channel, Owner, Slots};

const HEAD: [&str; 8] = [
    "ACCOUNT",
    "BYTES",
    "MESSAGES",
    "ENDPOINTS",
    "WATCHES",
    "REPLIES",
    "PAGES",
    "REFUSALS",
];

pub fn show(path: &str) -> Result<()> {
    let accounts = Channel::open_at(path)?.accounts()?;
    let mut lines = vec![HEAD.map(str::to_owned).to_vec()];
    lines.extend(accounts.iter().map(line));
    table::print(&lines);
    Ok(())
}

fn name(owner: Owner) -> String {
    match owner {
        Owner::User(uid) => format!("uid:{uid}"),
        Owner::Guest(id) => format!("vm:{id}"),
        Owner::Uplink => "uplink".into(),
        Owner::Fabric => "fabric".into(),
    }
}

/// What is on its way to an account's owner, in words.
pub fn describe(account: &Account) -> String {
    let (used, max) = (&account.used, &account.max);
    format!(
        "on its way to {}: {} of {} bytes, {} of {} messages; {} refusals",
        name(account.owner),
        used.bytes,
        max.bytes,
        used.messages,
        max.messages,
        account.refusals
    )
}

fn line(account: &Account) -> Vec<String> {
    let mut line = vec![name(account.owner)];
    let cells = |slots: &Slots| {
        [
            slots.bytes,
            slots.messages,
            slots.endpoints,
            slots.watches,
            slots.replies,
            slots.pages,
        ]
    };
    let pairs = cells(&account.used).into_iter().zip(cells(&account.max));
    line.extend(pairs.map(|(used, max)| format!("{used}/{max}")));
    line.push(account.refusals.to_string());
    line
}
