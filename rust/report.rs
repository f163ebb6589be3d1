// SPDX-License-Identifier: GPL-2.0

//! The numbers of the bridge, as userspace sees them: one source for ioctls and debugfs.

use crate::{
    bindings,
    link::{Counters, Link},
    mcb::Bridge,
    pure::{account::Owner, quota::Amount}, //
};
use kernel::prelude::*;

/// The account that is asked for, or the next. `ENOENT` if there is none.
pub(crate) fn account(bridge: &Bridge, kind: u32, id: u32) -> Result<bindings::mgmt_account> {
    let from = match kind {
        0 | bindings::MGMT_ACCOUNT_UID => Owner::Uid(id),
        bindings::MGMT_ACCOUNT_GUEST => Owner::Guest(id),
        bindings::MGMT_ACCOUNT_UPLINK if id == 0 => Owner::Uplink,
        bindings::MGMT_ACCOUNT_FABRIC if id == 0 => Owner::Fabric,
        _ => return Err(ENOENT),
    };
    let account = bridge.accounts.from(from).ok_or(ENOENT)?;
    let statement = account.statement();
    let (kind, id) = match statement.owner {
        Owner::Uid(uid) => (bindings::MGMT_ACCOUNT_UID, uid),
        Owner::Guest(id) => (bindings::MGMT_ACCOUNT_GUEST, id),
        // The bridge has no account of its own.
        Owner::Fabric => (bindings::MGMT_ACCOUNT_FABRIC, 0),
        Owner::Uplink | Owner::Bridge => (bindings::MGMT_ACCOUNT_UPLINK, 0),
    };
    let slots =
        |in_flight: Amount, [endpoints, watches, replies, pages]: [u32; 4]| bindings::mgmt_slots {
            bytes: in_flight.bytes,
            messages: in_flight.messages,
            endpoints,
            watches,
            replies,
            pages,
        };
    let limits = statement.limits;
    Ok(bindings::mgmt_account {
        kind,
        id,
        used: slots(statement.in_flight, statement.slots),
        max: slots(limits.in_flight, limits.slots),
        refusals: statement.refusals,
        reserved: [0; 4],
    })
}

/// The link that is asked for, or the next; the uplink is the last. `ENOENT` if there is none.
pub(crate) fn link(bridge: &Bridge, from: u32) -> Result<bindings::mgmt_link> {
    let guest = if from == bindings::MGMT_LINK_UPLINK {
        None
    } else {
        bridge.guest_from(from)
    };
    match guest {
        Some((id, link)) => Ok(counters(id, &link)),
        None => {
            let uplink = bridge.uplink().ok_or(ENOENT)?;
            Ok(counters(bindings::MGMT_LINK_UPLINK, &uplink))
        }
    }
}

fn counters(id: u32, link: &Link) -> bindings::mgmt_link {
    let Counters {
        rx_messages,
        rx_bytes,
        tx_messages,
        tx_bytes,
        undeliverable,
        stalls,
    } = &link.counters;
    let queued = link.inbox.used();
    bindings::mgmt_link {
        id,
        state: if link.is_connected() {
            bindings::MGMT_LINK_CONNECTED
        } else {
            bindings::MGMT_LINK_CLOSED
        },
        rx_messages: rx_messages.get(),
        rx_bytes: rx_bytes.get(),
        tx_messages: tx_messages.get(),
        tx_bytes: tx_bytes.get(),
        undeliverable: undeliverable.get(),
        stalls: stalls.get(),
        queued_messages: queued.messages,
        queued_bytes: queued.bytes,
        epoch: link.epoch(),
        reserved: [0; 5],
    }
}
