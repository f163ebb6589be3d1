// SPDX-License-Identifier: MIT OR Apache-2.0

//! Keeps every guest attached: watches xenstore for domains that come and go.

use anyhow::{Context, Result};
use mgmt_xenstore::device::{self, Attached, Device};
use mgmt_xenstore::{Error, Xenstore};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// The guests, as far as this daemon has met them.
pub struct Guests {
    store: Xenstore,
    backend: u32,
    /// Domains that were looked at: each is attached once, so that an administrator may detach it.
    met: BTreeSet<u32>,
}

impl Guests {
    /// Starts to watch. The first look, at the guests that are there already, is at the first call
    /// of [`Guests::follow`]: a new watch fires at once.
    pub fn start(backend: Option<u32>) -> Result<Self> {
        let mut store = Xenstore::connect()?;
        let backend = match backend {
            Some(id) => id,
            None => device::own_domain(&mut store)?.unwrap_or(0),
        };
        for special in ["@introduceDomain", "@releaseDomain"] {
            let watched = store.watch(special, special);
            watched.with_context(|| format!("watching {special}"))?;
        }
        Ok(Self {
            store,
            backend,
            met: BTreeSet::new(),
        })
    }

    /// Follows what has happened since the last call. Does not wait.
    pub fn follow(&mut self) -> Result<()> {
        let mut changed = false;
        while self.store.event(Duration::ZERO)?.is_some() {
            changed = true;
        }
        // However many events there were, one look does.
        if changed { self.look() } else { Ok(()) }
    }

    fn look(&mut self) -> Result<()> {
        let domains: BTreeSet<u32> = device::domains(&mut self.store)?.into_iter().collect();
        for gone in device::sweep(&mut self.store, self.backend)? {
            tracing::info!(domain = gone.guest, "gone, detached");
        }
        self.met.retain(|domain| domains.contains(domain));
        for &guest in &domains {
            if guest == self.backend || self.met.contains(&guest) {
                continue;
            }
            let device = Device {
                guest,
                backend: self.backend,
            };
            match device::attach(&mut self.store, device) {
                Ok(Attached::New) => tracing::info!(domain = guest, "attached"),
                Ok(Attached::ReplacedLeftover) => {
                    tracing::info!(domain = guest, "attached in place of a leftover");
                }
                Err(Error::AlreadyAttached(_)) => {
                    tracing::info!(domain = guest, "is attached already");
                }
                // Its directory is made before it is introduced, and stays after its release:
                // the next event brings it back here.
                Err(Error::NoDomain(_)) => continue,
                // One guest's trouble is not the others'.
                Err(e @ (Error::Refused { .. } | Error::Conflict)) => {
                    tracing::error!(domain = guest, error = %e, "cannot attach");
                }
                Err(e) => return Err(e).context(format!("attaching domain {guest}")),
            }
            self.met.insert(guest);
        }
        Ok(())
    }

    /// Detaches every guest.
    pub fn detach_all(mut self) {
        let devices = device::attached(&mut self.store, self.backend).unwrap_or_default();
        for device in devices {
            let done = device::detach(&mut self.store, device, device::CLOSE_TIMEOUT);
            match done {
                Ok(done) => tracing::info!(domain = device.guest, ?done, "detached"),
                Err(error) => tracing::error!(domain = device.guest, %error, "cannot detach"),
            }
        }
    }
}

impl AsFd for Guests {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.store.as_fd()
    }
}
