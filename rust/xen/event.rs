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
    /// Notes an event, in hard interrupt context.
    ///
    /// [`EventChannel::eoi`] must follow once for each call, when the work is done.
    fn on_event(this: ArcBorrow<'_, Self>);

    /// Does the work, in the channel's own thread, which may sleep, and runs ahead of all ordinary
    /// tasks: how long is for this to limit.
    ///
    /// Whoever drops the channel waits for it: it must not drop the channel, nor wait for anything
    /// that is held while that is done.
    fn work(this: ArcBorrow<'_, Self>);
}

/// A bound event channel. Dropping it waits for a running handler, then closes the channel.
///
/// # Invariants
///
/// - `irq` is bound to an event channel with `Self::handle` and `Self::thread` as its handlers, and
///   `data` as their cookie.
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
        // SAFETY: `port` is ours and unbound.
        let irq = unsafe { bindings::bind_evtchn_to_irq_lateeoi(port) };
        if irq < 0 {
            // SAFETY: `port` was allocated above and nothing is bound to it.
            unsafe { bindings::xenbus_free_evtchn(dev.as_raw(), port) };
        }
        Ok((Self::serve(irq, name, handler)?, port))
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
        // SAFETY: `dev` is a valid xenbus device.
        let irq = unsafe { bindings::bind_interdomain_evtchn_to_irq_lateeoi(dev.as_raw(), remote) };
        Self::serve(irq, name, handler)
    }

    /// Takes what bound an event channel: its irq, which nobody handles, or a negative errno.
    fn serve(irq: c_int, name: &'static CStr, handler: Arc<H>) -> Result<Self> {
        if irq < 0 {
            return Err(Error::from_errno(irq));
        }
        let irq = irq as c_uint;
        let data = handler.into_foreign();
        // SAFETY: Both functions accept `data` as their cookie, which lives until
        // `unbind_from_irqhandler` returned.
        let result = kernel::error::to_result(unsafe {
            bindings::request_threaded_irq(
                irq,
                Some(Self::handle),
                Some(Self::thread),
                0,
                name.as_char_ptr(),
                data,
            )
        });
        // INVARIANT: `irq` is bound to an event channel. Without memory for a thread it has no
        // handlers: the kernel then warns when it is unbound, and nothing else offers to unbind it.
        let channel = Self {
            irq,
            data,
            _handler: core::marker::PhantomData,
        };
        result.map(|()| channel)
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
        bindings::irqreturn::IRQ_WAKE_THREAD
    }

    /// # Safety
    ///
    /// As for [`Self::handle`].
    unsafe extern "C" fn thread(_irq: c_int, data: *mut c_void) -> bindings::irqreturn_t {
        // SAFETY: By the requirements of this function.
        H::work(unsafe { Arc::<H>::borrow(data) });
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
