// SPDX-License-Identifier: GPL-2.0

//! Those who wait for room: tasks sleep, links stop and are called.

use crate::{bh::Guard, link::Link};
use kernel::{
    prelude::*,
    rbtree::{RBTree, RBTreeNode},
    sync::{Arc, CondVar, CondVarTimeoutResult},
    time::{msecs_to_jiffies, Delta, Instant, Monotonic}, //
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

/// When so many milliseconds will have passed.
pub(crate) fn deadline(milliseconds: u32) -> Instant<Monotonic> {
    Instant::now() + Delta::from_millis(milliseconds.into())
}

/// Milliseconds until then.
pub(crate) fn time_left(end: Instant<Monotonic>) -> u32 {
    let left = (end - Instant::now()).as_millis_ceil();
    u32::try_from(left.max(0)).unwrap_or(u32::MAX)
}

/// Links that stopped since there was no room for what they bring.
///
/// A message that goes makes room first of all for more of its sender; for another, when about as
/// many have gone as there are senders (`pure::quota`). So each wakes the link that it came by, and
/// one in as many as there are links here wakes all: what waking costs does not grow with them.
pub(crate) struct Stalled {
    /// By the numbers of their principals.
    links: RBTree<u64, Arc<Link>>,
    count: usize,
    /// Messages that have gone since all were woken.
    gone: usize,
}

impl Stalled {
    pub(crate) fn new() -> Self {
        Self {
            links: RBTree::new(),
            count: 0,
            gone: 0,
        }
    }

    /// Adds a link; if there is no memory for that, has it go on.
    pub(crate) fn add(&mut self, link: &Arc<Link>) {
        // However often the link's peer sends events, it stands here once.
        if self.links.get(&link.principal.id).is_some() {
            return;
        }
        match RBTreeNode::new(link.principal.id, link.clone(), GFP_ATOMIC) {
            Ok(node) => {
                self.links.insert(node);
                self.count += 1;
            }
            Err(_) => Link::try_again(link),
        }
    }

    /// A message of this principal has gone: has those go on that may have room now.
    pub(crate) fn message_gone(&mut self, principal: u64) {
        if self.count == 0 {
            return;
        }
        self.gone += 1;
        if self.gone >= self.count {
            return self.resume();
        }
        if let Some(link) = self.links.remove(&principal) {
            self.count -= 1;
            Link::try_again(&link);
        }
    }

    /// Has all of them go on.
    pub(crate) fn resume(&mut self) {
        if self.count == 0 {
            return;
        }
        for link in core::mem::take(&mut self.links).values() {
            Link::try_again(link);
        }
        (self.count, self.gone) = (0, 0);
    }
}
