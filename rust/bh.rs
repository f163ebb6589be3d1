// SPDX-License-Identifier: GPL-2.0

//! A spinlock for what is shared with softirq context ("bottom halves", BH).
//!
//! Messages are received in a BH, which the event channel's interrupt schedules, and pushed into queues
//! that tasks use too. With such a lock held, no
//! BH runs on this CPU, so a task that holds it is not interrupted by somebody who waits for it.

use crate::bindings;
use kernel::sync::lock::{self, Backend, Lock};

/// A spinlock that keeps BHs off this CPU while it is held. Nobody sleeps with it.
pub(crate) type SpinLockBh<T> = Lock<T, SpinLockBhBackend>;

/// A held [`SpinLockBh`].
pub(crate) type Guard<'a, T> = lock::Guard<'a, T, SpinLockBhBackend>;

/// `spin_lock_bh` and its kin.
pub(crate) struct SpinLockBhBackend;

// SAFETY: The kernel's spinlock ensures mutual exclusion. `relock` is the default, which locks in
// the one way there is.
unsafe impl Backend for SpinLockBhBackend {
    type State = kernel::bindings::spinlock_t;
    type GuardState = ();

    unsafe fn init(
        ptr: *mut Self::State,
        name: *const kernel::ffi::c_char,
        key: *mut kernel::bindings::lock_class_key,
    ) {
        // SAFETY: By the requirements of this function, `ptr` may be written, and `name` and `key`
        // live for ever.
        unsafe { kernel::bindings::__spin_lock_init(ptr, name, key) }
    }

    unsafe fn lock(ptr: *mut Self::State) -> Self::GuardState {
        // SAFETY: By the requirements of this function, `ptr` is an initialised lock.
        unsafe { bindings::mgmt_helper_spin_lock_bh(ptr) }
    }

    unsafe fn try_lock(ptr: *mut Self::State) -> Option<Self::GuardState> {
        // SAFETY: By the requirements of this function, `ptr` is an initialised lock.
        unsafe { bindings::mgmt_helper_spin_trylock_bh(ptr) }.then_some(())
    }

    unsafe fn unlock(ptr: *mut Self::State, _state: &Self::GuardState) {
        // SAFETY: By the requirements of this function, the caller holds the lock.
        unsafe { bindings::mgmt_helper_spin_unlock_bh(ptr) }
    }

    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // Nothing else knows, and each guard asks.
        if cfg!(CONFIG_LOCKDEP) {
            // SAFETY: By the requirements of this function, `ptr` is an initialised lock.
            unsafe { kernel::bindings::spin_assert_is_held(ptr) }
        }
    }
}

/// Initialises a [`SpinLockBh`] with a lock class of its own.
macro_rules! new_spinlock_bh {
    ($inner:expr, $name:literal) => {
        $crate::bh::SpinLockBh::new(
            $inner,
            kernel::optional_name!($name),
            kernel::static_lock_class!(),
        )
    };
}
pub(crate) use new_spinlock_bh;
