// SPDX-License-Identifier: GPL-2.0

//! Deadlines: messages that expire in a queue go back to their senders, and parked links end.
//!
//! A receiver is looked at only while it holds a message with a deadline, or is a link that has one
//! itself, so that others cost nothing.

use super::{Bridge, Endpoint, Target};
use crate::{inbox::Inbox, link::Link, wire::Reason};
use kernel::{
    list::{List, ListArc},
    sync::{atomic::ordering::Relaxed, Arc},
    time::msecs_to_jiffies,
    workqueue::{impl_has_delayed_work, WorkItem}, //
};

/// A sender hears of a deadline that passed within this time, in milliseconds.
const PERIOD: u32 = 100;

/// Receivers that hold a message with a deadline, or did when they were last looked at.
#[derive(Default)]
pub(super) struct Expiring {
    endpoints: List<Endpoint>,
    links: List<Link>,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Bridge { self.expiry }
}

impl WorkItem for Bridge {
    type Pointer = Arc<Bridge>;

    fn run(this: Arc<Bridge>) {
        this.delay_ended();
        Self::expire(&this);
    }
}

impl Target {
    /// Has the bridge look for expired messages here, from soon on.
    ///
    /// Who holds such a message says so afterwards: until then it may not be seen.
    pub(crate) fn expire_later(&self) {
        // One that is in the list already, or about to be looked at, is not put there again.
        match self {
            Self::Endpoint(endpoint) => {
                if let Ok(new) = ListArc::try_from_arc(endpoint.clone()) {
                    endpoint.bridge.expiring.lock().endpoints.push_back(new);
                    Bridge::expire_soon(&endpoint.bridge);
                }
            }
            Self::Link(link) => {
                if let Ok(new) = ListArc::try_from_arc(link.clone()) {
                    link.bridge.expiring.lock().links.push_back(new);
                    Bridge::expire_soon(&link.bridge);
                }
            }
            Self::Fabric(fabric) => fabric.expire_later(),
        }
    }
}

impl Bridge {
    /// Has the bridge look for what has expired.
    pub(super) fn expire_soon(this: &Arc<Self>) {
        if this.closing.load(Relaxed) {
            return;
        }
        this.delay_begins();
        let delay = msecs_to_jiffies(PERIOD);
        if this.chores.enqueue_delayed(this.clone(), delay).is_err() {
            // It is under way already.
            this.delay_ended();
        }
    }

    /// Returns expired messages to their senders, and ends expired requests.
    fn expire(this: &Arc<Self>) {
        if this.expire_requests() {
            Self::expire_soon(this);
        }
        let Expiring {
            mut endpoints,
            mut links,
        } = core::mem::take(&mut *this.expiring.lock());
        while let Some(endpoint) = endpoints.pop_front() {
            // From here on it may be put into the list again.
            let endpoint = endpoint.into_arc();
            if this.expire_in(&endpoint.inbox) {
                Target::Endpoint(endpoint).expire_later();
            }
        }
        if let Some(fabric) = this.fabric() {
            let queued = this.expire_in(&fabric.inbox);
            if fabric.tend() || queued {
                fabric.expire_later();
            }
        }
        while let Some(link) = links.pop_front() {
            let link = link.into_arc();
            let queued = this.expire_in(&link.inbox);
            if link.tend() || queued {
                Target::Link(link).expire_later();
            }
        }
    }

    /// Whether other messages in there have a deadline still.
    fn expire_in(&self, inbox: &Inbox) -> bool {
        let (mut expired, more) = inbox.take_expired();
        while let Some(message) = expired.pop_front() {
            self.bounce(&message, Reason::Deadline);
        }
        more
    }
}
