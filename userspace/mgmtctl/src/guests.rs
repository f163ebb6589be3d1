// SPDX-License-Identifier: MIT OR Apache-2.0

//! Attaching and detaching guests.

use anyhow::{Context, Result, anyhow};
use mgmt_xenstore::device::{self, Attached, Detached, Device};
use mgmt_xenstore::{Error, Xenstore};
use std::time::Duration;

/// The domain that a user means: its number, or the name that the toolstack gave it.
fn find(store: &mut Xenstore, domain: &str) -> Result<u32> {
    if let Ok(id) = domain.parse() {
        return Ok(id);
    }
    for id in device::domains(store)? {
        let name = store.read_if_any(&format!("/local/domain/{id}/name"))?;
        if name.as_deref() == Some(domain) {
            return Ok(id);
        }
    }
    Err(anyhow!("there is no domain named {domain:?}"))
}

/// The management VM: the one named, or this domain.
pub fn backend(store: &mut Xenstore, backend: Option<u32>) -> Result<u32> {
    match backend {
        Some(id) => Ok(id),
        // xenstored does not tell Dom0 its number in every version.
        None => Ok(device::own_domain(store)?.unwrap_or(0)),
    }
}

pub fn attach(domains: &[String], if_needed: bool, management: Option<u32>) -> Result<()> {
    let store = &mut Xenstore::connect()?;
    let backend = backend(store, management)?;
    for domain in domains {
        let guest = find(store, domain)?;
        match device::attach(store, Device { guest, backend }) {
            Ok(Attached::New) => {}
            Ok(Attached::ReplacedLeftover) => {
                eprintln!("mgmtctl: domain {guest}: removed a leftover first");
            }
            Err(Error::AlreadyAttached(_)) if if_needed => {}
            Err(e) => return Err(e).context(format!("attach {domain}")),
        }
    }
    Ok(())
}

pub fn detach(
    domains: &[String],
    if_needed: bool,
    timeout: u64,
    management: Option<u32>,
) -> Result<()> {
    let store = &mut Xenstore::connect()?;
    let backend = backend(store, management)?;
    for domain in domains {
        let guest = find(store, domain)?;
        let timeout = Duration::from_secs(timeout);
        match device::detach(store, Device { guest, backend }, timeout) {
            Ok(Detached::Closed) => {}
            Ok(Detached::Forced) => eprintln!(
                "mgmtctl: domain {guest}: not closed after {} s, removed all the same",
                timeout.as_secs()
            ),
            Err(Error::NotAttached(_) | Error::NoDomain(_)) if if_needed => {}
            Err(e) => return Err(e).context(format!("detach {domain}")),
        }
    }
    Ok(())
}
