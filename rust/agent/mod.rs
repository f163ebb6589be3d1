// SPDX-License-Identifier: GPL-2.0

//! The kernel API of `mgmt.ko` for modules in Rust: safe types over `include/mgmt.h`.
//!
//! A module takes this file in by its path, and depends on `mgmt.ko` by the symbols it uses:
//!
//! ```ignore
//! #[path = "…/rust/agent/mod.rs"]
//! mod agent;
//!
//! struct Hello;
//!
//! impl agent::Receive for Hello {
//!     fn receive(&self, port: &agent::Port, message: agent::Message) {
//!         let _ = port.reply(&message, b"hello", GFP_ATOMIC);
//!     }
//! }
//!
//! let endpoint = agent::Endpoint::called(agent::Name::Domain, c"Hello", agent::Bind::Alone, Hello)?;
//! ```
//!
//! `docs/kernel-api.md` says what the calls do. What may not sleep in the header may not here.

// Nobody needs all of it.
#![allow(dead_code)]

mod raw;
#[allow(unreachable_pub, unused_imports)]
#[path = "../../userspace/mgmt-wire/src/wire/mod.rs"]
pub(crate) mod wire;

use core::{
    ops::Deref,
    pin::Pin,
    ptr::{null, null_mut, NonNull}, //
};
use kernel::{
    alloc::Flags,
    error::{from_err_ptr, to_result},
    ffi::{c_uint, c_void},
    prelude::*,
    types::Opaque, //
};
use wire::{Address, Header, HEADER_LEN};

/// Whose App_ID is bound.
#[derive(Clone, Copy)]
pub(crate) enum Name<'a> {
    /// This domain's.
    Domain,
    /// That of the hardware component with this serial number; in a platform's management VM only.
    Hardware(&'a CStr),
}

/// Whether others may bind the same App_ID.
#[derive(Clone, Copy)]
pub(crate) enum Bind {
    Alone,
    Shared,
}

/// Takes messages as they come.
pub(crate) trait Receive: Send + Sync {
    /// Called as a softirq, one call at a time: it may send by `port`, and may not sleep.
    fn receive(&self, port: &Port, message: Message);
}

/// What may be done with an open endpoint, from everywhere and at the same time.
#[repr(transparent)]
pub(crate) struct Port(Opaque<raw::Endpoint>);

/// An endpoint, closed when dropped.
///
/// # Invariants
///
/// `raw` is open; while it is, its callback may be called with `receiver`.
pub(crate) struct Endpoint<R> {
    raw: NonNull<raw::Endpoint>,
    receiver: Option<Pin<KBox<R>>>,
}

// SAFETY: Calls on an endpoint may come from any task, and overlap.
unsafe impl<R: Receive> Send for Endpoint<R> {}
// SAFETY: As above.
unsafe impl<R: Receive> Sync for Endpoint<R> {}

/// An endpoint that is read: it has no callback.
pub(crate) type Reader = Endpoint<Never>;

/// Receives nothing: there is no value of this type.
pub(crate) enum Never {}

impl Receive for Never {
    fn receive(&self, _port: &Port, _message: Message) {}
}

impl<R: Receive> Endpoint<R> {
    const OPS: raw::Ops = raw::Ops {
        receive: Self::call,
    };

    /// Opens an endpoint whose messages go to `receiver`, perhaps before this returns. May sleep.
    pub(crate) fn called(name: Name<'_>, app: &CStr, bind: Bind, receiver: R) -> Result<Self> {
        let receiver = KBox::pin(receiver, GFP_KERNEL)?;
        let data: *const R = &*receiver;
        // SAFETY: `Self::OPS` takes such data, which lives until the endpoint is closed.
        let raw = unsafe { open(name, app, bind, &Self::OPS, data.cast_mut().cast()) }?;
        // INVARIANT: It was just opened, with this receiver.
        Ok(Self {
            raw,
            receiver: Some(receiver),
        })
    }

    /// # Safety
    ///
    /// `endpoint` is open, with an `R` as its data; `message` is given away.
    unsafe extern "C" fn call(
        endpoint: *mut raw::Endpoint,
        message: *mut raw::Message,
        data: *mut c_void,
    ) {
        // SAFETY: By the requirements of this function.
        let (receiver, port) = unsafe { (&*data.cast::<R>(), Port::of(endpoint)) };
        if let Some(message) = NonNull::new(message) {
            // INVARIANT: It is ours now.
            receiver.receive(port, Message(message));
        }
    }
}

impl Reader {
    /// Opens an endpoint whose messages wait for [`Reader::receive`]. May sleep.
    pub(crate) fn open(name: Name<'_>, app: &CStr, bind: Bind) -> Result<Self> {
        // SAFETY: Without a callback, nothing is asked of the data.
        let raw = unsafe { open(name, app, bind, null(), null_mut()) }?;
        // INVARIANT: It was just opened.
        Ok(Self {
            raw,
            receiver: None,
        })
    }

    /// The next message. Waits at most so many milliseconds, or, without a number, for ever.
    ///
    /// `EAGAIN` if none came in time, `ERESTARTSYS` if a signal came first.
    pub(crate) fn receive(&self, milliseconds: Option<u32>) -> Result<Message> {
        let timeout = milliseconds.map_or(raw::FOREVER, |ms| ms.min(raw::FOREVER - 1));
        // SAFETY: By the invariant, the endpoint is open.
        Message::new(unsafe { raw::mgmt_receive(self.raw.as_ptr(), timeout) })
    }
}

/// # Safety
///
/// `data` is what the callback of `ops` takes until the endpoint is closed, unless `ops` is null.
unsafe fn open(
    name: Name<'_>,
    app: &CStr,
    bind: Bind,
    ops: *const raw::Ops,
    data: *mut c_void,
) -> Result<NonNull<raw::Endpoint>> {
    let flags = match bind {
        Bind::Alone => 0,
        Bind::Shared => raw::BIND_SHARED,
    };
    let app = app.as_char_ptr();
    let raw = match name {
        // SAFETY: By the requirements of this function; the names are C strings.
        Name::Domain => unsafe { raw::mgmt_open(app, flags, ops, data) },
        Name::Hardware(serial) => {
            // SAFETY: As above.
            unsafe { raw::mgmt_open_hardware(serial.as_char_ptr(), app, flags, ops, data) }
        }
    };
    NonNull::new(from_err_ptr(raw)?).ok_or(EINVAL)
}

impl<R> Deref for Endpoint<R> {
    type Target = Port;

    fn deref(&self) -> &Port {
        // SAFETY: By the invariant, the endpoint is open while `self` lives.
        unsafe { Port::of(self.raw.as_ptr()) }
    }
}

impl<R> Drop for Endpoint<R> {
    fn drop(&mut self) {
        // SAFETY: By the invariant, it is open; nobody has a reference to its port any more.
        unsafe { raw::mgmt_close(self.raw.as_ptr()) };
        // The receiver is dropped after this, when nobody calls it any more.
    }
}

impl Port {
    /// # Safety
    ///
    /// The endpoint is open during `'a`.
    unsafe fn of<'a>(raw: *mut raw::Endpoint) -> &'a Self {
        // SAFETY: `Port` is transparent, and by the requirements of this function.
        unsafe { &*raw.cast() }
    }

    /// Sends a message with the length of `payload`. Never waits for the receiver: `EAGAIN` when it
    /// has no room. Does not sleep if `gfp` does not allow it.
    pub(crate) fn send(&self, header: &Header, payload: &[u8], gfp: Flags) -> Result {
        let header = encode(header, payload)?;
        let payload = payload.as_ptr().cast();
        // SAFETY: The endpoint is open, and the payload as long as the header says.
        to_result(unsafe { raw::mgmt_send(self.0.get(), &header, payload, gfp_bits(gfp)) })
    }

    /// As [`Port::send`], but waits for room. Sleeps.
    pub(crate) fn send_wait(&self, header: &Header, payload: &[u8]) -> Result {
        let header = encode(header, payload)?;
        // SAFETY: The endpoint is open, and the payload as long as the header says.
        to_result(unsafe { raw::mgmt_send_wait(self.0.get(), &header, payload.as_ptr().cast()) })
    }

    /// Sends a request and waits for its reply, until the deadline in the header. Sleeps.
    pub(crate) fn request(&self, header: &Header, payload: &[u8]) -> Result<Message> {
        let header = encode(header, payload)?;
        // SAFETY: The endpoint is open, and the payload as long as the header says.
        Message::new(unsafe { raw::mgmt_request(self.0.get(), &header, payload.as_ptr().cast()) })
    }

    /// Answers a request. Never waits, as [`Port::send`].
    pub(crate) fn reply(&self, request: &Message, payload: &[u8], gfp: Flags) -> Result {
        // SAFETY: The endpoint is open, the message ours, and the payload has this length.
        to_result(unsafe {
            raw::mgmt_reply(
                self.0.get(),
                request.0.as_ptr(),
                payload.as_ptr().cast(),
                payload.len(),
                gfp_bits(gfp),
            )
        })
    }

    /// Starts or ends a watch on who binds and frees an App_ID.
    pub(crate) fn watch(&self, whom: &Address, on: bool) -> Result {
        // SAFETY: The endpoint is open.
        to_result(unsafe { raw::mgmt_watch(self.0.get(), &whom.encode(), on) })
    }
}

fn encode(header: &Header, payload: &[u8]) -> Result<raw::Header> {
    let length = u32::try_from(payload.len())?;
    Ok(Header { length, ..*header }.encode())
}

/// The bits of flags, which the `kernel` crate keeps for itself.
fn gfp_bits(flags: Flags) -> c_uint {
    if flags.contains(GFP_KERNEL) {
        kernel::bindings::GFP_KERNEL
    } else {
        kernel::bindings::GFP_ATOMIC
    }
}

/// A message that was received.
///
/// # Invariants
///
/// It is ours until it is put.
pub(crate) struct Message(NonNull<raw::Message>);

// SAFETY: Messages do not change, and may be read and put anywhere.
unsafe impl Send for Message {}
// SAFETY: As above.
unsafe impl Sync for Message {}

impl Message {
    fn new(raw: *mut raw::Message) -> Result<Self> {
        // INVARIANT: Who returned it gave it away.
        Ok(Self(NonNull::new(from_err_ptr(raw)?).ok_or(EINVAL)?))
    }

    /// Its header; the deadline is what is left of it.
    pub(crate) fn header(&self) -> Result<Header> {
        let mut header = [0; HEADER_LEN];
        // SAFETY: By the invariant.
        unsafe { raw::mgmt_message_header(self.0.as_ptr(), &mut header) };
        Header::decode(&header).map_err(|_| EINVAL)
    }

    /// Copies the payload from `offset` on, as much as there is and `to` has room for; returns how
    /// many bytes that were.
    pub(crate) fn read(&self, offset: usize, to: &mut [u8]) -> usize {
        let (at, length) = (to.as_mut_ptr().cast(), to.len());
        // SAFETY: By the invariant; `to` has this length.
        unsafe { raw::mgmt_message_read(self.0.as_ptr(), offset, at, length) }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: By the invariant.
        unsafe { raw::mgmt_message_put(self.0.as_ptr()) };
    }
}
