// SPDX-License-Identifier: GPL-2.0

//! `/sys/kernel/debug/mgmt`: what the bridge holds and counts, one line for each thing.

use crate::{
    bindings,
    mcb::{Bridge, Endpoint},
    pure::policy::{BuiltIn, Verdict},
    report, //
};
use core::str;
use kernel::{
    debugfs::{Dir, File},
    fmt,
    prelude::*,
    sync::Arc, //
};

/// The files.
#[pin_data]
pub(crate) struct Files {
    #[pin]
    accounts: File<Arc<Bridge>>,
    #[pin]
    links: File<Arc<Bridge>>,
    #[pin]
    rules: File<Arc<Bridge>>,
    #[pin]
    endpoints: File<Arc<Bridge>>,
    dir: Dir,
}

impl Files {
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        let bridge = || crate::bridge().ok_or(ENODEV);
        try_pin_init!(Self {
            dir: Dir::new(c"mgmt"),
            accounts <- dir.read_callback_file(c"accounts", bridge()?, &show_accounts),
            links <- dir.read_callback_file(c"links", bridge()?, &show_links),
            rules <- dir.read_callback_file(c"rules", bridge()?, &show_rules),
            endpoints <- dir.read_callback_file(c"endpoints", bridge()?, &show_endpoints),
        })
    }
}

fn show_accounts(bridge: &Arc<Bridge>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut next = Some((0, 0));
    while let Some(account) = next.and_then(|(kind, id)| report::account(bridge, kind, id).ok()) {
        let bindings::mgmt_account { kind, id, .. } = account;
        next = match id.checked_add(1) {
            Some(id) => Some((kind, id)),
            None => Some((kind + 1, 0)),
        };
        match kind {
            bindings::MGMT_ACCOUNT_UID => write!(f, "uid:{id}")?,
            bindings::MGMT_ACCOUNT_GUEST => write!(f, "vm:{id}")?,
            bindings::MGMT_ACCOUNT_FABRIC => write!(f, "fabric")?,
            _ => write!(f, "uplink")?,
        }
        let (used, max) = (account.used, account.max);
        for (name, used, max) in [
            ("bytes", used.bytes, max.bytes),
            ("messages", used.messages, max.messages),
            ("endpoints", used.endpoints, max.endpoints),
            ("watches", used.watches, max.watches),
            ("replies", used.replies, max.replies),
            ("pages", used.pages, max.pages),
        ] {
            write!(f, " {name}={used}/{max}")?;
        }
        writeln!(f, " refusals={}", account.refusals)?;
    }
    Ok(())
}

fn show_links(bridge: &Arc<Bridge>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut next = Some(0);
    while let Some(link) = next.and_then(|id| report::link(bridge, id).ok()) {
        next = link.id.checked_add(1);
        match link.id {
            bindings::MGMT_LINK_UPLINK => write!(f, "uplink")?,
            id => write!(f, "vm:{id}")?,
        }
        let state = if link.state == bindings::MGMT_LINK_CONNECTED {
            "connected"
        } else {
            "closed"
        };
        write!(f, " state={state} epoch={}", link.epoch)?;
        write!(
            f,
            " rx_messages={} rx_bytes={}",
            link.rx_messages, link.rx_bytes
        )?;
        write!(
            f,
            " tx_messages={} tx_bytes={}",
            link.tx_messages, link.tx_bytes
        )?;
        write!(
            f,
            " undeliverable={} stalls={}",
            link.undeliverable, link.stalls
        )?;
        let (messages, bytes) = (link.queued_messages, link.queued_bytes);
        writeln!(f, " queued_messages={messages} queued_bytes={bytes}")?;
    }
    Ok(())
}

fn show_rules(bridge: &Arc<Bridge>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let policy = bridge.policy();
    for (rule, hits) in policy.rules() {
        write!(f, "line={} hits={hits} ", rule.line)?;
        core::fmt::Display::fmt(rule, f)?;
        writeln!(f)?;
    }
    for (number, built_in) in BuiltIn::TABLE.into_iter().enumerate() {
        let hits = policy.built_in(number).unwrap_or(0);
        let verdict = if built_in.verdict() == Verdict::Deny {
            "deny"
        } else {
            "allow"
        };
        writeln!(f, "built-in hits={hits} {verdict} {}", built_in.name())?;
    }
    Ok(())
}

fn show_endpoints(bridge: &Arc<Bridge>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut next = bridge.endpoint_after(None);
    while let Some(endpoint) = next {
        let Endpoint {
            service, principal, ..
        } = &*endpoint;
        let queued = endpoint.inbox.used();
        let owner = principal.owner;
        let (messages, bytes) = (queued.messages, queued.bytes);
        f.write_str(service.app.as_str())?;
        if let Some(serial) = &service.serial {
            write!(
                f,
                "@hw:{}",
                str::from_utf8(serial.as_bytes()).unwrap_or("?")
            )?;
        }
        writeln!(
            f,
            " account={owner} queued_messages={messages} queued_bytes={bytes}"
        )?;
        next = bridge.endpoint_after(Some(&endpoint));
    }
    Ok(())
}
