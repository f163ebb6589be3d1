// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions of what a Xen split driver needs.
//!
//! - [`xenbus`]: drivers and devices of the xenbus, states, nodes, transactions, watches;
//! - [`grant`]: pages shared with another domain, by their owner and by the one who maps them;
//! - [`pages`]: pages of our own, and copies of another domain's;
//! - [`lend`]: such pages granted for a while;
//! - [`bytes`]: what is copied in from a ring or a program;
//! - [`event`]: event channels, with late EOI;
//! - [`ring`]: such pages as the memory of a `pure::ring`.
//!
//! All unsafe code of the split drivers is here. What another domain can write is only ever copied
//! out, once, and never referred to.

pub(crate) mod bytes;
pub(crate) mod event;
pub(crate) mod grant;
pub(crate) mod lend;
pub(crate) mod pages;
pub(crate) mod ring;
pub(crate) mod xenbus;

/// Whether this kernel runs on Xen.
pub(crate) fn is_domain() -> bool {
    // SAFETY: A query without preconditions.
    unsafe { crate::bindings::mgmt_helper_xen_domain() }
}

/// Whether this is the domain that Xen started first: the management VM of its platform.
pub(crate) fn is_initial_domain() -> bool {
    // SAFETY: A query without preconditions.
    unsafe { crate::bindings::mgmt_helper_xen_initial_domain() }
}

/// A random number.
pub(crate) fn random() -> u32 {
    // SAFETY: May be called from any context.
    unsafe { crate::bindings::mgmt_helper_random() }
}
