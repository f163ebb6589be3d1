// SPDX-License-Identifier: GPL-2.0

//! Event channels, with late EOI.
//!
//! C header: [`include/xen/events.h`](srctree/include/xen/events.h)
//!
//! After an event, the channel stays masked until [`EventChannel::eoi`]: the work comes first, so
//! that a peer which storms is slowed down by its own work, and one whose events lead to none is
//! slowed down by the kernel (XSA-332, XSA-391).

use super::xenbus::Device;
use crate::bindings;
use kernel::{
    device::Bound,
    prelude::*,
    sync::{Arc, ArcBorrow},
    types::ForeignOwnable, //
};

/// What is called when an event arrives.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Handles an event, in hard interrupt context: it may only note the event and wake somebody.
    ///
    /// [`EventChannel::eoi`] must follow once for each call, when the work is done.
    fn on_event(this: ArcBorrow<'_, Self>);
}

/// A bound event channel. Dropping it waits for a running handler, then closes the channel.
///
/// # Invariants
///
/// - `irq` is bound to an event channel with `Self::handle` as handler and `data` as its cookie.
/// - `data` came from `Arc::<H>::into_foreign` and is owned by this object.
pub(crate) struct EventChannel<H: Handler> {
    irq: c_uint,
    data: *mut c_void,
    _handler: core::marker::PhantomData<Arc<H>>,
}

// SAFETY: All operations on an irq may be done from any thread, and `H` is `Send` and `Sync`.
unsafe impl<H: Handler> Send for EventChannel<H> {}
// SAFETY: As above: `notify` and `eoi` are thread-safe in C.
unsafe impl<H: Handler> Sync for EventChannel<H> {}

/// A number that names an event channel within a domain.
pub(crate) type Port = u32;

impl<H: Handler> EventChannel<H> {
    /// Allocates a channel that the other end of `dev` may bind to, and binds our end.
    ///
    /// Returns it with the port to tell the other end. May sleep.
    pub(crate) fn alloc(
        dev: &Device<Bound>,
        name: &'static CStr,
        handler: Arc<H>,
    ) -> Result<(Self, Port)> {
        let mut port: bindings::evtchn_port_t = 0;
        // SAFETY: `dev` is a valid xenbus device and `port` a place for the answer.
        kernel::error::to_result(unsafe {
            bindings::xenbus_alloc_evtchn(dev.as_raw(), &mut port)
        })?;
        let channel = Self::bind_with(handler, |data| {
            // SAFETY: `port` is ours and unbound; `handle` accepts `data` as its cookie, which
            // lives until `unbind_from_irqhandler` returned.
            unsafe {
                bindings::bind_evtchn_to_irqhandler_lateeoi(
                    port,
                    Some(Self::handle),
                    0,
                    name.as_char_ptr(),
                    data,
                )
            }
        });
        if channel.is_err() {
            // SAFETY: `port` was allocated above and nothing is bound to it.
            unsafe { bindings::xenbus_free_evtchn(dev.as_raw(), port) };
        }
        Ok((channel?, port))
    }

    /// Binds to the port that the other end of `dev` has allocated for us. May sleep.
    ///
    /// The hypervisor checks that the port exists and was allocated for this domain.
    pub(crate) fn bind_interdomain(
        dev: &Device<Bound>,
        remote: Port,
        name: &'static CStr,
        handler: Arc<H>,
    ) -> Result<Self> {
        Self::bind_with(handler, |data| {
            // SAFETY: `dev` is a valid xenbus device; `handle` accepts `data` as its cookie, which
            // lives until `unbind_from_irqhandler` returned.
            unsafe {
                bindings::bind_interdomain_evtchn_to_irqhandler_lateeoi(
                    dev.as_raw(),
                    remote,
                    Some(Self::handle),
                    0,
                    name.as_char_ptr(),
                    data,
                )
            }
        })
    }

    fn bind_with(handler: Arc<H>, bind: impl FnOnce(*mut c_void) -> c_int) -> Result<Self> {
        let data = handler.into_foreign();
        let irq = bind(data);
        if irq < 0 {
            // SAFETY: `data` came from `into_foreign` above, and no handler was installed.
            drop(unsafe { Arc::<H>::from_foreign(data) });
            return Err(Error::from_errno(irq));
        }
        // INVARIANT: `irq` was just bound with `data` as its cookie.
        Ok(Self {
            irq: irq as c_uint,
            data,
            _handler: core::marker::PhantomData,
        })
    }

    /// Sends an event to the other end.
    pub(crate) fn notify(&self) {
        // SAFETY: By the invariant, `irq` is bound.
        unsafe { bindings::notify_remote_via_irq(self.irq as c_int) };
    }

    /// Lets the next event in. `useful` says whether the last one led to any work.
    pub(crate) fn eoi(&self, useful: bool) {
        let flags = if useful {
            0
        } else {
            bindings::XEN_EOI_FLAG_SPURIOUS
        };
        // SAFETY: By the invariant, `irq` is bound for late EOI.
        unsafe { bindings::xen_irq_lateeoi(self.irq, flags) };
    }

    /// # Safety
    ///
    /// `data` came from `Arc::<H>::into_foreign` and lives for the duration of the call.
    unsafe extern "C" fn handle(_irq: c_int, data: *mut c_void) -> bindings::irqreturn_t {
        // SAFETY: By the requirements of this function.
        H::on_event(unsafe { Arc::<H>::borrow(data) });
        bindings::irqreturn::IRQ_HANDLED
    }
}

impl<H: Handler> Drop for EventChannel<H> {
    fn drop(&mut self) {
        // SAFETY: By the invariant, `irq` is bound with `data` as its cookie. This waits for a
        // handler that runs, and closes the event channel.
        unsafe { bindings::unbind_from_irqhandler(self.irq, self.data) };
        // SAFETY: By the invariant, `data` is ours, and no handler can use it any more.
        drop(unsafe { Arc::<H>::from_foreign(self.data) });
    }
}
