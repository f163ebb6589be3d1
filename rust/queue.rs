// SPDX-License-Identifier: GPL-2.0

//! Workqueues of our own: draining them is how the module knows that none of its code runs.

use crate::bindings;
use core::{
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    prelude::*,
    workqueue::Queue, //
};

/// A workqueue, destroyed when dropped. It must not be dropped from its own work.
///
/// # Invariants
///
/// The pointer is a workqueue that this object owns.
pub(crate) struct OwnedQueue(NonNull<bindings::workqueue_struct>);

// SAFETY: Workqueues may be used and destroyed from any thread.
unsafe impl Send for OwnedQueue {}
// SAFETY: As above.
unsafe impl Sync for OwnedQueue {}

impl OwnedQueue {
    /// Makes a workqueue whose items run in threads, on any CPU, several at a time.
    pub(crate) fn new(name: &'static CStr) -> Result<Self> {
        Self::alloc(name, false)
    }

    /// Makes a workqueue whose items run as softirqs, on the CPU that queued them: they may not
    /// sleep.
    pub(crate) fn new_bh(name: &'static CStr) -> Result<Self> {
        Self::alloc(name, true)
    }

    fn alloc(name: &'static CStr, bh: bool) -> Result<Self> {
        // SAFETY: `name` is a C string, which the call copies.
        let raw = unsafe { bindings::mgmt_helper_alloc_workqueue(name.as_char_ptr(), bh) };
        // INVARIANT: It was just made.
        Ok(Self(NonNull::new(raw).ok_or(ENOMEM)?))
    }

    /// Waits until no work is queued or runs, work queued by such work included.
    pub(crate) fn drain(&self) {
        // SAFETY: By the invariant, the workqueue is valid.
        unsafe { bindings::drain_workqueue(self.0.as_ptr()) };
    }
}

impl Deref for OwnedQueue {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        // SAFETY: By the invariant, the workqueue is valid while `self` is.
        unsafe { Queue::from_raw(self.0.as_ptr()) }
    }
}

impl Drop for OwnedQueue {
    fn drop(&mut self) {
        // SAFETY: By the invariant, the workqueue is ours.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}
