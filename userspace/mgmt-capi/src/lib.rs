// SPDX-License-Identifier: MIT OR Apache-2.0

//! `libmgmt-channel`: [`mgmt_channel::Endpoint`] for C, and for what calls C.
//!
//! `include/mgmt-channel.h` is made of this file. Whoever calls keeps its contract: pointers are
//! those that this library gave, or valid for as many bytes as is said. Nothing unwinds into C.

#![allow(non_camel_case_types, clippy::missing_safety_doc)]

use mgmt_channel::{
    Address, Destination, Endpoint, EndpointBuilder, Error, Event, Flags, Incoming, Kind, Message,
    Presence, Watch,
};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::time::Duration;

/// A wrong argument, or anything else that has no code of its own.
pub const MGMT_E_OTHER: c_int = -1;
/// Time ran out.
pub const MGMT_E_TIMED_OUT: c_int = -2;
/// The request came back; mgmt_error() has the reason.
pub const MGMT_E_UNDELIVERABLE: c_int = -3;
/// The device went while the answer was awaited: the request may have arrived.
pub const MGMT_E_LOST: c_int = -4;
/// The receiver refused the request.
pub const MGMT_E_TERMINATED: c_int = -5;
/// Messages are not received fast enough.
pub const MGMT_E_BACKLOG: c_int = -6;
/// There is no device, or it may not be opened.
pub const MGMT_E_NO_DEVICE: c_int = -7;
/// The receiver is not there.
pub const MGMT_E_NOT_THERE: c_int = -8;
/// A rule forbids it.
pub const MGMT_E_DENIED: c_int = -9;
/// Another program has bound the App_ID.
pub const MGMT_E_NAME_TAKEN: c_int = -10;

/// The device need not be there yet.
pub const MGMT_LAZY: u32 = 1;
/// What is no answer to a request is not kept.
pub const MGMT_REQUESTS_ONLY: u32 = 2;
/// Others may bind the App_ID too.
pub const MGMT_SHARED: u32 = 4;

/// To all who have bound the App_ID there.
pub const MGMT_BROADCAST: u16 = 1;
/// If it cannot be delivered, nobody is told.
pub const MGMT_NO_UNDELIVERABLE: u16 = 4;
/// The payload is that of several messages, each behind its length (4 bytes, little-endian); they are
/// received one by one.
pub const MGMT_BUNDLE: u16 = 8;

/// Somebody's message.
pub const MGMT_MESSAGE: c_int = 0;
/// A message that was sent came back.
pub const MGMT_UNDELIVERABLE: c_int = 1;
/// The device has gone; mgmt_message_id() is how many messages are not acknowledged.
pub const MGMT_LOST: c_int = 2;
/// The device is there again.
pub const MGMT_RESTORED: c_int = 3;
/// Somebody is there, is not any more, or has moved: see mgmt_message_kind().
pub const MGMT_PRESENCE: c_int = 4;
/// Who was found: the payload has an address on each line.
pub const MGMT_FOUND: c_int = 5;

/// A bound App_ID.
pub struct mgmt_endpoint(Endpoint);

/// Who comes and goes.
pub struct mgmt_watch(Watch);

/// Something that was received.
pub struct mgmt_message {
    event: c_int,
    id: u64,
    source: CString,
    message: Message,
}

/// A message to send. What is 0 is not needed, but for the receiver.
#[repr(C)]
pub struct mgmt_outgoing {
    /// APP@COMPONENT, such as "Power@mvm", "Power@vm:3", "Power@uuid:…".
    pub to: *const c_char,
    /// What is sent.
    pub payload: *const u8,
    /// Bytes of it.
    pub length: usize,
    /// How many of these are the application header.
    pub app_header_length: u32,
    /// After so many milliseconds it is not worth delivering.
    pub deadline_ms: u32,
    /// MGMT_BROADCAST, MGMT_NO_UNDELIVERABLE, MGMT_BUNDLE.
    pub flags: u16,
    /// 1 discover, 2 establish, 3 data, 4 terminate; 0 is data.
    pub kind: u8,
    /// 0 (bulk) to 255.
    pub priority: u8,
}

thread_local! {
    static ERROR: RefCell<CString> = RefCell::new(CString::default());
}

/// Why a call failed: a code and a text.
struct Failure(c_int, String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::TimedOut => MGMT_E_TIMED_OUT,
            Error::Undeliverable(_) => MGMT_E_UNDELIVERABLE,
            Error::Lost => MGMT_E_LOST,
            Error::Terminated(_) => MGMT_E_TERMINATED,
            Error::Backlog => MGMT_E_BACKLOG,
            Error::Open { .. } | Error::Gone => MGMT_E_NO_DEVICE,
            Error::NoComponent | Error::NobodyBound | Error::NotConnected => MGMT_E_NOT_THERE,
            Error::Denied(_) => MGMT_E_DENIED,
            Error::NameTaken(_) => MGMT_E_NAME_TAKEN,
            _ => MGMT_E_OTHER,
        };
        Self(code, error.to_string())
    }
}

fn wrong(what: impl ToString) -> Failure {
    Failure(MGMT_E_OTHER, what.to_string())
}

/// Runs a call: its number, or its failure's code, whose text is kept for mgmt_error().
fn call(body: impl FnOnce() -> Result<c_int, Failure>) -> c_int {
    let done = catch_unwind(AssertUnwindSafe(body));
    let Failure(code, text) = match done {
        Ok(Ok(number)) => return number,
        Ok(Err(failure)) => failure,
        Err(_) => wrong("a mistake in libmgmt-channel"),
    };
    let text = CString::new(text.replace('\0', "?")).unwrap_or_default();
    ERROR.with_borrow_mut(|error| *error = text);
    code
}

/// Forgets what a pointer of ours points to.
///
/// # Safety
///
/// It is null, or came from [`give`] and is not used any more.
unsafe fn free<T>(pointer: *mut T) {
    if !pointer.is_null() {
        // SAFETY: `give` made it of a box, and nobody else has it: the caller's contract.
        drop(unsafe { Box::from_raw(pointer) });
    }
}

/// Hands `value` out by `*to`.
///
/// # Safety
///
/// `to` is null or valid for a write.
unsafe fn give<T>(value: T, to: *mut *mut T) -> Result<(), Failure> {
    if to.is_null() {
        return Err(wrong("a pointer is null"));
    }
    // SAFETY: it is not null, and so valid: the caller's contract.
    unsafe { to.write(Box::into_raw(Box::new(value))) };
    Ok(())
}

/// # Safety
///
/// `pointer` is null or valid for as long as the call lasts.
unsafe fn get<'a, T>(pointer: *const T) -> Result<&'a T, Failure> {
    // SAFETY: the caller's contract.
    unsafe { pointer.as_ref() }.ok_or_else(|| wrong("a pointer is null"))
}

/// # Safety
///
/// `text` is null, or ends with a zero.
unsafe fn text<'a>(text: *const c_char) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(wrong("a text is null"));
    }
    // SAFETY: it ends with a zero: the caller's contract.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(wrong)
}

/// # Safety
///
/// `bytes` is valid for `length` bytes, or `length` is 0.
unsafe fn bytes(bytes: *const u8, length: usize) -> Result<Vec<u8>, Failure> {
    if length == 0 {
        return Ok(Vec::new());
    }
    if bytes.is_null() {
        return Err(wrong("a payload is null"));
    }
    // SAFETY: it is not null, and so valid for this length: the caller's contract.
    Ok(unsafe { std::slice::from_raw_parts(bytes, length) }.to_vec())
}

fn address(endpoint: &Endpoint, text: &str) -> Result<Address, Failure> {
    let destination: Destination = text.parse().map_err(wrong)?;
    // A name that is complete needs no device.
    let own = endpoint.info().ok().and_then(|info| info.component);
    Ok(destination.resolve(own))
}

/// # Safety
///
/// That of [`mgmt_send`].
unsafe fn outgoing(endpoint: &Endpoint, out: *const mgmt_outgoing) -> Result<Message, Failure> {
    // SAFETY: the caller's contract.
    let (out, to, payload) = unsafe {
        let out = get(out)?;
        (out, text(out.to)?, bytes(out.payload, out.length)?)
    };
    let kind = match out.kind {
        0 => Kind::Data,
        code => Kind::try_from(code).map_err(|_| wrong("no such kind of message"))?,
    };
    if out.app_header_length as usize > payload.len() {
        return Err(wrong("the application header is longer than the payload"));
    }
    let mut message = Message::new(kind, address(endpoint, to)?, payload);
    message.header.app_header_length = out.app_header_length;
    message.header.deadline_ms = out.deadline_ms;
    message.header.flags = Flags::from_bits(out.flags).map_err(|_| wrong("unknown flag"))?;
    message.header.priority = out.priority;
    Ok(message)
}

fn received(message: Message) -> mgmt_message {
    mgmt_message {
        event: MGMT_MESSAGE,
        id: message.header.correlation,
        source: CString::new(message.header.source.to_string()).unwrap_or_default(),
        message,
    }
}

/// Something that is no message, about `who`.
fn event(event: c_int, id: u64, who: Address, payload: Vec<u8>) -> mgmt_message {
    let mut message = Message::data(who, payload);
    message.header.source = who;
    mgmt_message {
        event,
        id,
        ..received(message)
    }
}

fn incoming(incoming: Incoming) -> mgmt_message {
    let nobody = Address::UNSPECIFIED;
    match incoming {
        Incoming::Message(message) => received(message),
        Incoming::Undeliverable(back) => {
            let mut it = event(MGMT_UNDELIVERABLE, back.id, back.destination, Vec::new());
            it.message.header.reason = back.reason;
            it
        }
        Incoming::Lost(lost) => {
            let count = lost.unacknowledged.len() as u64 + lost.more;
            event(MGMT_LOST, count, nobody, Vec::new())
        }
        Incoming::Restored => event(MGMT_RESTORED, 0, nobody, Vec::new()),
    }
}

fn timeout(ms: i64) -> Option<Duration> {
    u64::try_from(ms).ok().map(Duration::from_millis)
}

/// What the last call of this thread that failed says. Valid until the next one fails.
#[unsafe(no_mangle)]
pub extern "C" fn mgmt_error() -> *const c_char {
    ERROR.with_borrow(|error| error.as_ptr())
}

/// Binds an App_ID in this domain; flags are MGMT_LAZY, MGMT_REQUESTS_ONLY, MGMT_SHARED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_open(
    app: *const c_char,
    flags: u32,
    endpoint: *mut *mut mgmt_endpoint,
) -> c_int {
    call(|| {
        // SAFETY: the caller's contract.
        let mut builder = EndpointBuilder::new(unsafe { text(app) }?)?;
        if flags & !(MGMT_LAZY | MGMT_REQUESTS_ONLY | MGMT_SHARED) != 0 {
            return Err(wrong("unknown flag"));
        }
        if flags & MGMT_LAZY != 0 {
            builder = builder.lazy();
        }
        if flags & MGMT_REQUESTS_ONLY != 0 {
            builder = builder.requests_only();
        }
        if flags & MGMT_SHARED != 0 {
            builder = builder.shared();
        }
        // SAFETY: the caller's contract.
        unsafe { give(mgmt_endpoint(builder.open()?), endpoint) }?;
        Ok(0)
    })
}

/// Frees the App_ID. No other call may be under way.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_close(endpoint: *mut mgmt_endpoint) {
    // SAFETY: the caller's contract.
    unsafe { free(endpoint) }
}

/// Sends; *id (if not null) is what mgmt_message_id() says if it comes back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_send(
    endpoint: *const mgmt_endpoint,
    message: *const mgmt_outgoing,
    id: *mut u64,
) -> c_int {
    call(|| {
        // SAFETY: the caller's contract.
        let (endpoint, id) = unsafe { (&get(endpoint)?.0, id.as_mut()) };
        // SAFETY: the caller's contract.
        let sent = endpoint.send_message(unsafe { outgoing(endpoint, message) }?)?;
        if let Some(id) = id {
            *id = sent;
        }
        Ok(0)
    })
}

/// Sends a request and waits for its answer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_request(
    endpoint: *const mgmt_endpoint,
    message: *const mgmt_outgoing,
    timeout_ms: u32,
    answer: *mut *mut mgmt_message,
) -> c_int {
    call(|| {
        // SAFETY: the caller's contract.
        let endpoint = unsafe { &get(endpoint)?.0 };
        // SAFETY: the caller's contract.
        let message = unsafe { outgoing(endpoint, message) }?;
        let got = endpoint.request_message(message, Duration::from_millis(timeout_ms.into()))?;
        // SAFETY: the caller's contract.
        unsafe { give(received(got), answer) }?;
        Ok(0)
    })
}

/// Answers a request.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_reply(
    endpoint: *const mgmt_endpoint,
    request: *const mgmt_message,
    payload: *const u8,
    length: usize,
) -> c_int {
    call(|| {
        // SAFETY: the caller's contract.
        let (endpoint, request, payload) =
            unsafe { (get(endpoint)?, get(request)?, bytes(payload, length)?) };
        endpoint.0.reply(&request.message, payload)?;
        Ok(0)
    })
}

/// Receives, waiting up to timeout_ms (without end if it is negative). 1 if something came, else 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_recv(
    endpoint: *const mgmt_endpoint,
    timeout_ms: i64,
    message: *mut *mut mgmt_message,
) -> c_int {
    call(|| {
        // SAFETY: the caller's contract.
        let got = unsafe { get(endpoint) }?.0.recv(timeout(timeout_ms))?;
        let Some(got) = got else { return Ok(0) };
        // SAFETY: the caller's contract.
        unsafe { give(incoming(got), message) }?;
        Ok(1)
    })
}

/// Who serves APP@COMPONENT (also APP@platform, APP@everywhere): asks, and collects answers for so long.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_discover(
    endpoint: *const mgmt_endpoint,
    whom: *const c_char,
    wait_ms: u32,
    found: *mut *mut mgmt_message,
) -> c_int {
    call(|| {
        // SAFETY: the caller's contract.
        let (endpoint, whom) = unsafe { (&get(endpoint)?.0, text(whom)?) };
        let whom = address(endpoint, whom)?;
        let app = whom.app.ok_or_else(|| wrong("no App_ID"))?;
        let wait = Duration::from_millis(wait_ms.into());
        let list = endpoint.discover(whom.component, app, wait)?;
        let lines: Vec<String> = list.iter().map(|address| format!("{address}\n")).collect();
        // SAFETY: the caller's contract.
        unsafe {
            give(
                event(MGMT_FOUND, 0, whom, lines.concat().into_bytes()),
                found,
            )
        }?;
        Ok(0)
    })
}

/// Watches who serves APP@COMPONENT, or APP@platform.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_watch_open(
    endpoint: *const mgmt_endpoint,
    whom: *const c_char,
    watch: *mut *mut mgmt_watch,
) -> c_int {
    call(|| {
        // SAFETY: the caller's contract.
        let (endpoint, whom) = unsafe { (&get(endpoint)?.0, text(whom)?) };
        let whom = address(endpoint, whom)?;
        let app = whom.app.ok_or_else(|| wrong("no App_ID"))?;
        // SAFETY: the caller's contract.
        unsafe { give(mgmt_watch(endpoint.watch(whom.component, app)?), watch) }?;
        Ok(0)
    })
}

/// The next that comes or goes, as mgmt_recv(): its source is who, its kind 3 up, 4 down, 5 moved.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_watch_next(
    watch: *const mgmt_watch,
    timeout_ms: i64,
    message: *mut *mut mgmt_message,
) -> c_int {
    call(|| {
        // SAFETY: the caller's contract.
        let next = unsafe { get(watch) }?.0.next(timeout(timeout_ms))?;
        let Some(Presence { who, event: what }) = next else {
            return Ok(0);
        };
        let told = event(MGMT_PRESENCE, 0, who, Event::encode(what).to_vec());
        // SAFETY: the caller's contract.
        unsafe { give(told, message) }?;
        Ok(1)
    })
}

/// Ends a watch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_watch_close(watch: *mut mgmt_watch) {
    // SAFETY: the caller's contract.
    unsafe { free(watch) }
}

/// Gives the device back, so that the module can be removed. 1 if that is done within timeout_ms,
/// else 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_suspend(endpoint: *const mgmt_endpoint, timeout_ms: u32) -> c_int {
    call(|| {
        // SAFETY: the caller's contract.
        let endpoint = unsafe { get(endpoint) }?;
        let is_done = endpoint.0.suspend(Duration::from_millis(timeout_ms.into()));
        Ok(c_int::from(is_done))
    })
}

/// Takes the device again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_resume(endpoint: *const mgmt_endpoint) -> c_int {
    call(|| {
        // SAFETY: the caller's contract.
        unsafe { get(endpoint) }?.0.resume()?;
        Ok(0)
    })
}

/// What it is: MGMT_MESSAGE, MGMT_UNDELIVERABLE, …
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_message_event(message: *const mgmt_message) -> c_int {
    // SAFETY: the caller's contract.
    call(|| Ok(unsafe { get(message) }?.event))
}

/// The kind of a message (2 establish, 3 data, 4 terminate, 6 reply), or what a watch tells.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_message_kind(message: *const mgmt_message) -> c_int {
    call(|| {
        // SAFETY: the caller's contract.
        let it = unsafe { get(message) }?;
        Ok(match it.event {
            MGMT_PRESENCE => it.message.payload.first().copied().unwrap_or(0).into(),
            _ => it.message.header.kind as c_int,
        })
    })
}

/// Whether its sender awaits a reply.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_message_is_request(message: *const mgmt_message) -> c_int {
    // SAFETY: the caller's contract.
    call(|| Ok(unsafe { get(message) }?.message.is_request().into()))
}

/// Why a message came back: a reason of docs/wire-format.md.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_message_reason(message: *const mgmt_message) -> c_int {
    // SAFETY: the caller's contract.
    call(|| Ok(unsafe { get(message) }?.message.header.reason as c_int))
}

/// Its number; of a message that came back, what sending it gave.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_message_id(message: *const mgmt_message) -> u64 {
    // SAFETY: the caller's contract.
    unsafe { get(message) }.map_or(0, |message| message.id)
}

/// Who sent it, or whom it is about: APP@COMPONENT. Valid as long as the message.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_message_source(message: *const mgmt_message) -> *const c_char {
    // SAFETY: the caller's contract.
    unsafe { get(message) }.map_or(ptr::null(), |message| message.source.as_ptr())
}

/// Its payload, of *length bytes. Valid as long as the message.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_message_payload(
    message: *const mgmt_message,
    length: *mut usize,
) -> *const u8 {
    // SAFETY: the caller's contract.
    let (Ok(message), Some(length)) = (unsafe { (get(message), length.as_mut()) }) else {
        return ptr::null();
    };
    *length = message.message.payload.len();
    message.message.payload.as_ptr()
}

/// Frees a message.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mgmt_message_free(message: *mut mgmt_message) {
    // SAFETY: the caller's contract.
    unsafe { free(message) }
}
