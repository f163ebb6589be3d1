// SPDX-License-Identifier: GPL-2.0

//! Event channels, with late EOI.
//!
//! C header: [`include/xen/events.h`](srctree/include/xen/events.h)
//!
//! After an event, the channel stays masked until [`EventChannel::eoi`]: the work comes first, so
//! that a peer which storms is slowed down by its own work, and one whose events lead to none is
//! slowed down by the kernel (XSA-332, XSA-391).
//!
//! The interrupt only schedules a tasklet. Work on a workqueue for BHs would run in the same place,
//! but takes 800 instructions more to get there.

use super::xenbus::Device;
use crate::bindings;
use kernel::{
    container_of,
    device::Bound,
    prelude::*,
    sync::{Arc, ArcBorrow},
    types::Opaque, //
};

/// What is called when an event arrives.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Handles an event, as a softirq: it may not sleep.
    ///
    /// [`EventChannel::eoi`] must follow once for each call, when the work is done.
    fn on_event(this: ArcBorrow<'_, Self>);
}

/// A bound event channel. Dropping it closes the channel, then waits for a running handler; that may
/// sleep.
///
/// # Invariants
///
/// `irq` is bound to an event channel with `Self::interrupt` as handler and `softirq` as its cookie.
pub(crate) struct EventChannel<H: Handler> {
    irq: c_uint,
    softirq: Pin<KBox<Softirq<H>>>,
}

/// What calls the handler.
///
/// # Invariants
///
/// `tasklet` is initialised, with `Self::run` as its function.
#[pin_data]
struct Softirq<H: Handler> {
    #[pin]
    tasklet: Opaque<bindings::tasklet_struct>,
    handler: Arc<H>,
}

impl<H: Handler> Softirq<H> {
    fn new(handler: Arc<H>) -> Result<Pin<KBox<Self>>> {
        KBox::pin_init(
            pin_init!(Self {
                // INVARIANT: This initialises it.
                tasklet <- Opaque::ffi_init(|tasklet| {
                    // SAFETY: `tasklet` may be written, and stays where it is.
                    unsafe { bindings::tasklet_setup(tasklet, Some(Self::run)) };
                }),
                handler,
            }),
            GFP_KERNEL,
        )
    }

    /// # Safety
    ///
    /// `tasklet` is the field of a `Self` that lives for the duration of the call.
    unsafe extern "C" fn run(tasklet: *mut bindings::tasklet_struct) {
        // SAFETY: By the requirements of this function.
        let this = unsafe { &*container_of!(Opaque::cast_from(tasklet).cast_mut(), Self, tasklet) };
        H::on_event(this.handler.as_arc_borrow());
    }
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
            // SAFETY: `port` is ours and unbound; `interrupt` accepts `data` as its cookie, which
            // lives until `unbind_from_irqhandler` returned.
            unsafe {
                bindings::bind_evtchn_to_irqhandler_lateeoi(
                    port,
                    Some(Self::interrupt),
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
            // SAFETY: `dev` is a valid xenbus device; `interrupt` accepts `data` as its cookie, which
            // lives until `unbind_from_irqhandler` returned.
            unsafe {
                bindings::bind_interdomain_evtchn_to_irqhandler_lateeoi(
                    dev.as_raw(),
                    remote,
                    Some(Self::interrupt),
                    0,
                    name.as_char_ptr(),
                    data,
                )
            }
        })
    }

    fn bind_with(handler: Arc<H>, bind: impl FnOnce(*mut c_void) -> c_int) -> Result<Self> {
        let softirq = Softirq::new(handler)?;
        let irq = bind(cookie(&softirq));
        if irq < 0 {
            return Err(Error::from_errno(irq));
        }
        // INVARIANT: `irq` was just bound with `softirq` as its cookie.
        Ok(Self {
            irq: irq as c_uint,
            softirq,
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
    /// `data` is a `Softirq<H>` that lives for the duration of the call.
    unsafe extern "C" fn interrupt(_irq: c_int, data: *mut c_void) -> bindings::irqreturn_t {
        // SAFETY: By the requirements of this function.
        let softirq = unsafe { &*data.cast::<Softirq<H>>() };
        // SAFETY: By the invariant, the tasklet is initialised; who frees it waits for it.
        unsafe { bindings::mgmt_helper_tasklet_schedule(softirq.tasklet.get()) };
        bindings::irqreturn::IRQ_HANDLED
    }
}

/// What an interrupt is told.
fn cookie<H: Handler>(softirq: &Pin<KBox<Softirq<H>>>) -> *mut c_void {
    (&raw const **softirq).cast_mut().cast()
}

impl<H: Handler> Drop for EventChannel<H> {
    fn drop(&mut self) {
        // SAFETY: By the invariant, `irq` is bound with `softirq` as its cookie. This waits for an
        // interrupt that is handled, and closes the event channel.
        unsafe { bindings::unbind_from_irqhandler(self.irq, cookie(&self.softirq)) };
        // SAFETY: By the invariant, the tasklet is initialised. Nobody schedules it any more, and
        // this waits until it does not run.
        unsafe { bindings::tasklet_kill(self.softirq.tasklet.get()) };
    }
}
