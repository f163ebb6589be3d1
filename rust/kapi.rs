// SPDX-License-Identifier: GPL-2.0

//! The functions that other modules call. `include/mgmt.h` says what each does and what its caller
//! owes; `exports.c` exports them.
//!
//! A `struct mgmt_endpoint` is a [`Client`], a `struct mgmt_message` a [`Message`]; who has a pointer
//! to one owns a reference.
//!
//! # Safety
//!
//! The callers of these functions do what the header says; that is what the requirements of an
//! exported function are here.

// Said once, above.
#![allow(clippy::missing_safety_doc)]

use crate::{
    bindings::{self, mgmt_address, mgmt_endpoint, mgmt_header, mgmt_message, mgmt_ops},
    client::Client,
    mcb::Receive,
    message::Message,
    port::{decode_written, Full},
    pure::directory::Service,
    wire::{Address, AppId, Serial, ADDRESS_LEN, HEADER_LEN}, //
};
use core::slice;
use kernel::{
    alloc::Flags,
    ffi::{c_char, c_int, c_uint, c_void},
    list::ListArc,
    prelude::*,
    sync::{Arc, ArcBorrow}, //
};

/// Fails to compile if a function is not as `include/mgmt.h` declares it.
macro_rules! as_declared {
    ($($function:ident),* $(,)?) => {
        $(const _: () = {
            let _ = if true { bindings::$function } else { $function };
        };)*
    };
}

as_declared! {
    mgmt_open, mgmt_open_hardware, mgmt_close, mgmt_send, mgmt_send_wait, mgmt_request, mgmt_reply,
    mgmt_watch, mgmt_receive, mgmt_message_header, mgmt_message_read, mgmt_message_put,
}

/// A callback of another module.
struct Callback {
    function: unsafe extern "C" fn(*mut mgmt_endpoint, *mut mgmt_message, *mut c_void),
    data: *mut c_void,
    endpoint: *mut mgmt_endpoint,
}

// SAFETY: The other module lets its callback be called from any context, with this data.
unsafe impl Send for Callback {}
// SAFETY: As above.
unsafe impl Sync for Callback {}

impl Receive for Callback {
    fn receive(&self, message: ListArc<Message>) {
        // SAFETY: The endpoint is open while its callback is called, and the callback may be called.
        unsafe { (self.function)(self.endpoint, into_raw(message), self.data) };
    }
}

/// Gives a message away.
fn into_raw(message: ListArc<Message>) -> *mut mgmt_message {
    Arc::into_raw(message.into_arc()).cast_mut().cast()
}

/// # Safety
///
/// `endpoint` is open during `'a`.
unsafe fn client<'a>(endpoint: *mut mgmt_endpoint) -> ArcBorrow<'a, Client> {
    // SAFETY: An open endpoint is what `Arc::into_raw` returned, and `mgmt_close` has not taken.
    unsafe { ArcBorrow::from_raw(endpoint.cast()) }
}

/// # Safety
///
/// `message` is owned by the caller, who keeps it during `'a`.
unsafe fn message<'a>(message: *const mgmt_message) -> ArcBorrow<'a, Message> {
    // SAFETY: A message that was given away is what `Arc::into_raw` returned.
    unsafe { ArcBorrow::from_raw(message.cast()) }
}

/// # Safety
///
/// `bytes` points at `length` bytes that do not change during `'a`, unless `length` is 0.
unsafe fn payload<'a>(bytes: *const c_void, length: usize) -> &'a [u8] {
    if length == 0 {
        return &[];
    }
    // SAFETY: By the requirements of this function.
    unsafe { slice::from_raw_parts(bytes.cast(), length) }
}

/// How to allocate where the caller would with these `GFP_` flags.
fn gfp(flags: bindings::gfp_t) -> Flags {
    // SAFETY: It may be called from anywhere.
    if unsafe { bindings::mgmt_helper_may_sleep(flags) } {
        GFP_KERNEL
    } else {
        GFP_ATOMIC
    }
}

fn errno(result: Result) -> c_int {
    match result {
        Ok(()) => 0,
        Err(e) => e.to_errno(),
    }
}

fn pointer<T>(result: Result<*mut T>) -> *mut T {
    result.unwrap_or_else(|e| e.to_ptr())
}

/// # Safety
///
/// `app` is a C string; `ops` is null or valid, and its callback may be called with `data` until the
/// endpoint is closed.
unsafe fn open(
    serial: Option<Serial>,
    app: *const c_char,
    flags: c_uint,
    ops: *const mgmt_ops,
    data: *mut c_void,
) -> Result<*mut mgmt_endpoint> {
    // SAFETY: By the requirements of this function.
    let app = unsafe { CStr::from_char_ptr(app) };
    let app = AppId::new(app.to_bytes()).map_err(|_| EINVAL)?;
    if flags & !bindings::MGMT_BIND_SHARED != 0 {
        return Err(EINVAL);
    }
    // SAFETY: By the requirements of this function.
    let function = match unsafe { ops.as_ref() } {
        Some(ops) => Some(ops.receive.ok_or(EINVAL)?),
        None => None,
    };
    let bridge = crate::bridge().ok_or(ENODEV)?;
    let shared = flags & bindings::MGMT_BIND_SHARED != 0;
    let client = Client::open(bridge, Service { serial, app }, shared, function.is_some())?;
    let endpoint: *mut mgmt_endpoint = Arc::as_ptr(&client).cast_mut().cast();
    if let Some(function) = function {
        let callback = Callback {
            function,
            data,
            endpoint,
        };
        client.call(KBox::new(callback, GFP_KERNEL)?);
    }
    Ok(Arc::into_raw(client).cast_mut().cast())
}

#[no_mangle]
pub(crate) unsafe extern "C" fn mgmt_open(
    app: *const c_char,
    flags: c_uint,
    ops: *const mgmt_ops,
    data: *mut c_void,
) -> *mut mgmt_endpoint {
    // SAFETY: By the requirements of this function.
    pointer(unsafe { open(None, app, flags, ops, data) })
}

#[no_mangle]
pub(crate) unsafe extern "C" fn mgmt_open_hardware(
    serial: *const c_char,
    app: *const c_char,
    flags: c_uint,
    ops: *const mgmt_ops,
    data: *mut c_void,
) -> *mut mgmt_endpoint {
    // SAFETY: By the requirements of this function.
    let serial = Serial::new(unsafe { CStr::from_char_ptr(serial) }.to_bytes());
    let Ok(serial) = serial else {
        return EINVAL.to_ptr();
    };
    // SAFETY: By the requirements of this function.
    pointer(unsafe { open(Some(serial), app, flags, ops, data) })
}

#[no_mangle]
pub(crate) unsafe extern "C" fn mgmt_close(endpoint: *mut mgmt_endpoint) {
    if is_error_or_null(endpoint) {
        return;
    }
    // SAFETY: The caller gives its reference back.
    let client: Arc<Client> = unsafe { Arc::from_raw(endpoint.cast()) };
    client.close();
}

#[no_mangle]
pub(crate) unsafe extern "C" fn mgmt_send(
    endpoint: *mut mgmt_endpoint,
    header: *const mgmt_header,
    bytes: *const c_void,
    flags: bindings::gfp_t,
) -> c_int {
    // SAFETY: By the requirements of this function.
    errno(unsafe { send(endpoint, header, bytes, gfp(flags), Full::Fails) })
}

#[no_mangle]
pub(crate) unsafe extern "C" fn mgmt_send_wait(
    endpoint: *mut mgmt_endpoint,
    header: *const mgmt_header,
    bytes: *const c_void,
) -> c_int {
    // SAFETY: By the requirements of this function.
    errno(unsafe { send(endpoint, header, bytes, GFP_KERNEL, Full::Waits) })
}

/// # Safety
///
/// As [`mgmt_send`].
unsafe fn send(
    endpoint: *mut mgmt_endpoint,
    header: *const mgmt_header,
    bytes: *const c_void,
    gfp: Flags,
    full: Full,
) -> Result {
    // SAFETY: By the requirements of this function; any bytes are valid.
    let header = decode_written(unsafe { &*header.cast::<[u8; HEADER_LEN]>() })?;
    // SAFETY: The caller's payload has this length.
    let bytes = unsafe { payload(bytes, header.length as usize) };
    // SAFETY: By the requirements of this function.
    unsafe { client(endpoint) }.send(&header, bytes, gfp, full)
}

#[no_mangle]
pub(crate) unsafe extern "C" fn mgmt_request(
    endpoint: *mut mgmt_endpoint,
    header: *const mgmt_header,
    bytes: *const c_void,
) -> *mut mgmt_message {
    let request = || {
        // SAFETY: By the requirements of this function; any bytes are valid.
        let header = decode_written(unsafe { &*header.cast::<[u8; HEADER_LEN]>() })?;
        // SAFETY: The caller's payload has this length.
        let bytes = unsafe { payload(bytes, header.length as usize) };
        // SAFETY: By the requirements of this function.
        unsafe { client(endpoint) }.request(&header, bytes)
    };
    pointer(request().map(into_raw))
}

#[no_mangle]
pub(crate) unsafe extern "C" fn mgmt_reply(
    endpoint: *mut mgmt_endpoint,
    request: *const mgmt_message,
    bytes: *const c_void,
    length: usize,
    flags: bindings::gfp_t,
) -> c_int {
    // SAFETY: By the requirements of this function.
    let (request, bytes) = unsafe { (message(request), payload(bytes, length)) };
    // SAFETY: By the requirements of this function.
    errno(unsafe { client(endpoint) }.reply(&request, bytes, gfp(flags)))
}

#[no_mangle]
pub(crate) unsafe extern "C" fn mgmt_watch(
    endpoint: *mut mgmt_endpoint,
    address: *const mgmt_address,
    on: bool,
) -> c_int {
    // SAFETY: By the requirements of this function; any bytes are valid.
    let address = Address::decode(unsafe { &*address.cast::<[u8; ADDRESS_LEN]>() });
    let Ok(address) = address else {
        return EINVAL.to_errno();
    };
    // SAFETY: By the requirements of this function.
    errno(unsafe { client(endpoint) }.watch(address, on))
}

#[no_mangle]
pub(crate) unsafe extern "C" fn mgmt_receive(
    endpoint: *mut mgmt_endpoint,
    timeout_ms: c_uint,
) -> *mut mgmt_message {
    let timeout = (timeout_ms != bindings::MGMT_FOREVER).then_some(timeout_ms);
    // SAFETY: By the requirements of this function.
    let received = unsafe { client(endpoint) }.receive(timeout);
    pointer(received.map(into_raw))
}

#[no_mangle]
pub(crate) unsafe extern "C" fn mgmt_message_header(
    raw: *const mgmt_message,
    header: *mut mgmt_header,
) {
    // SAFETY: By the requirements of this function.
    let encoded = unsafe { message(raw) }.header().encode();
    // SAFETY: By the requirements of this function; the structure has as many bytes.
    unsafe { header.cast::<[u8; HEADER_LEN]>().write(encoded) };
}

#[no_mangle]
pub(crate) unsafe extern "C" fn mgmt_message_read(
    raw: *const mgmt_message,
    offset: usize,
    to: *mut c_void,
    length: usize,
) -> usize {
    // SAFETY: By the requirements of this function.
    let message = unsafe { message(raw) };
    let payload = message.payload();
    let rest = payload.get(offset..).unwrap_or(&[]);
    let count = rest.len().min(length);
    // SAFETY: The caller has room for `length` bytes, which are no part of a message.
    unsafe {
        to.cast::<u8>()
            .copy_from_nonoverlapping(rest.as_ptr(), count)
    };
    count
}

#[no_mangle]
pub(crate) unsafe extern "C" fn mgmt_message_put(raw: *mut mgmt_message) {
    if !is_error_or_null(raw) {
        // SAFETY: The caller gives its reference back.
        drop(unsafe { Arc::<Message>::from_raw(raw.cast()) });
    }
}

fn is_error_or_null<T>(pointer: *const T) -> bool {
    // As `IS_ERR_OR_NULL`.
    pointer.addr().wrapping_sub(1) >= usize::MAX - bindings::MAX_ERRNO as usize
}
