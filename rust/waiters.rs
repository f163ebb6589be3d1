// SPDX-License-Identifier: GPL-2.0

//! Those who wait for room: tasks sleep, links stop and are called.

use crate::{bh::Guard, link::Link};
use kernel::{
    prelude::*,
    sync::{Arc, CondVar, CondVarTimeoutResult},
    time::msecs_to_jiffies, //
};

/// Sleeps until it is notified, or so many milliseconds have passed. The guarded data may have
/// changed in any way then.
///
/// `EINTR` (as `ERESTARTSYS`) if a signal came first.
pub(crate) fn sleep<T: ?Sized>(
    on: &CondVar,
    guard: &mut Guard<'_, T>,
    milliseconds: Option<u32>,
) -> Result {
    let signal = match milliseconds.map(msecs_to_jiffies) {
        None => on.wait_interruptible(guard),
        Some(jiffies) => matches!(
            on.wait_interruptible_timeout(guard, jiffies),
            CondVarTimeoutResult::Signal { .. }
        ),
    };
    if signal {
        return Err(ERESTARTSYS);
    }
    Ok(())
}

/// Links that stopped.
pub(crate) struct Stalled(KVec<Arc<Link>>);

impl Stalled {
    pub(crate) const fn new() -> Self {
        Self(KVec::new())
    }

    /// Adds a link; if there is no memory for that, has it go on.
    pub(crate) fn add(&mut self, link: &Arc<Link>) {
        // However often the link's peer sends events, it stands here once.
        let known = self.0.iter().any(|other| Arc::ptr_eq(other, link));
        if !known && self.0.push(link.clone(), GFP_ATOMIC).is_err() {
            Link::schedule(link);
        }
    }

    /// Has all of them go on.
    pub(crate) fn resume(&mut self) {
        for link in core::mem::take(&mut self.0) {
            Link::schedule(&link);
        }
    }
}
