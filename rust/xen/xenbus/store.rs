// SPDX-License-Identifier: GPL-2.0

//! Xenstore nodes: reading what is not trusted, writing in transactions, watching.

use crate::{
    bindings,
    pure::uuid::{self, Uuid}, //
};
use core::{
    fmt,
    ptr::NonNull, //
};
use kernel::{
    error::{from_err_ptr, to_result},
    prelude::*,
    str::CString,
    sync::Arc,
    types::Opaque, //
};

const NIL: bindings::xenbus_transaction = bindings::xenbus_transaction { id: 0 };

/// A number, as a node holds it: decimal digits and nothing else.
fn parse_u32(bytes: &[u8]) -> Result<u32> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return Err(EINVAL);
    }
    let digits = core::str::from_utf8(bytes).map_err(|_| EINVAL)?;
    digits.parse().map_err(|_| ERANGE)
}

/// Reads the node `dir`/`node` into memory of our own, once, and hands its bytes to `parse`.
///
/// Whoever owns the node may have written anything, up to 4 KiB, and may write again meanwhile.
fn read_with<R>(
    transaction: bindings::xenbus_transaction,
    dir: &CStr,
    node: &CStr,
    parse: impl FnOnce(&[u8]) -> Result<R>,
) -> Result<R> {
    let mut len: c_uint = 0;
    // SAFETY: Both are C strings and `len` is a place for the answer.
    let ptr = from_err_ptr(unsafe {
        bindings::xenbus_read(transaction, dir.as_char_ptr(), node.as_char_ptr(), &mut len)
    })?;
    let ptr = NonNull::new(ptr.cast::<u8>()).ok_or(ENOENT)?;
    // SAFETY: `xenbus_read` returns a buffer of `len` bytes that is now ours.
    let result = parse(unsafe { core::slice::from_raw_parts(ptr.as_ptr(), len as usize) });
    // SAFETY: The buffer is ours, allocated by `kmalloc`, and not used any more.
    unsafe { bindings::kfree(ptr.as_ptr().cast()) };
    result
}

/// Reads an unsigned decimal number from the node `dir`/`node`, by itself.
///
/// Returns `ENOENT` if there is none, `EINVAL` if it is no number, `ERANGE` if it does not fit.
pub(crate) fn read_u32(dir: &CStr, node: &CStr) -> Result<u32> {
    read_with(NIL, dir, node, parse_u32)
}

/// Reads the stable name of a domain from the node `dir`/`node`: that is its node `vm`, which the
/// toolstack writes and the domain cannot.
pub(crate) fn read_uuid(dir: &CStr, node: &CStr) -> Result<Uuid> {
    read_with(NIL, dir, node, |path| {
        uuid::from_vm_path(path).ok_or(EINVAL)
    })
}

/// Numbers, as a node holds them: separated by one space each, as many as `out` has places.
fn parse_list(bytes: &[u8], out: &mut [u32]) -> Result {
    let mut words = bytes.split(|&b| b == b' ');
    for place in out {
        *place = parse_u32(words.next().ok_or(EINVAL)?)?;
    }
    match words.next() {
        None => Ok(()),
        Some(_) => Err(EINVAL),
    }
}

/// A number of `N` bytes, as a node holds it: `2 * N` hexadecimal digits.
fn parse_hex<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    // `from_str_radix` would take a sign.
    if bytes.len() != 2 * N || !bytes.iter().all(u8::is_ascii_hexdigit) {
        return Err(EINVAL);
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        let digits = core::str::from_utf8(pair).map_err(|_| EINVAL)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| EINVAL)?;
    }
    Ok(out)
}

/// A transaction: what is written in it appears at once or not at all, and what is read in it is
/// of one moment.
pub(crate) struct Transaction(bindings::xenbus_transaction);

impl Transaction {
    /// How often [`Transaction::run`] starts again when others change the same nodes.
    const TRIES: u32 = 16;

    /// Runs `body` in a transaction, again if another writer was faster, and commits it.
    ///
    /// `EAGAIN` if somebody was faster every time: the owner of a node can do that on purpose, so
    /// this ends.
    pub(crate) fn run(mut body: impl FnMut(&Transaction) -> Result) -> Result {
        for _ in 0..Self::TRIES {
            let mut raw = NIL;
            // SAFETY: `raw` is a place for the answer.
            to_result(unsafe { bindings::xenbus_transaction_start(&mut raw) })?;
            let transaction = Transaction(raw);
            let result = body(&transaction);
            // SAFETY: The transaction was started above, and `self.0` is not used any more.
            let ended = unsafe { bindings::xenbus_transaction_end(raw, result.is_err()) };
            result?;
            match to_result(ended) {
                Err(e) if e == EAGAIN => continue,
                other => return other,
            }
        }
        Err(EAGAIN)
    }

    /// Runs `body`, which only reads, in a transaction.
    pub(crate) fn snapshot<R>(body: impl FnOnce(&Transaction) -> Result<R>) -> Result<R> {
        let mut raw = NIL;
        // SAFETY: `raw` is a place for the answer.
        to_result(unsafe { bindings::xenbus_transaction_start(&mut raw) })?;
        let result = body(&Transaction(raw));
        // SAFETY: The transaction was started above, and is not used any more. Nothing was written,
        // so that there is nothing to commit.
        unsafe { bindings::xenbus_transaction_end(raw, true) };
        result
    }

    /// Reads an unsigned decimal number from the node `dir`/`node`, as [`read_u32`] does.
    pub(crate) fn read_u32(&self, dir: &CStr, node: &CStr) -> Result<u32> {
        read_with(self.0, dir, node, parse_u32)
    }

    /// Reads exactly `N` bytes, written as hexadecimal digits, from the node `dir`/`node`.
    pub(crate) fn read_hex<const N: usize>(&self, dir: &CStr, node: &CStr) -> Result<[u8; N]> {
        read_with(self.0, dir, node, parse_hex)
    }

    /// Reads exactly `out.len()` decimal numbers, separated by spaces, from the node `dir`/`node`.
    pub(crate) fn read_list(&self, dir: &CStr, node: &CStr, out: &mut [u32]) -> Result {
        read_with(self.0, dir, node, |bytes| parse_list(bytes, out))
    }

    /// Writes the node `dir`/`node`.
    pub(crate) fn write(&self, dir: &CStr, node: &CStr, value: fmt::Arguments<'_>) -> Result {
        write_in(self.0, dir, node, value)
    }
}

/// Writes the node `dir`/`node`, by itself.
pub(crate) fn write(dir: &CStr, node: &CStr, value: fmt::Arguments<'_>) -> Result {
    write_in(NIL, dir, node, value)
}

fn write_in(
    transaction: bindings::xenbus_transaction,
    dir: &CStr,
    node: &CStr,
    value: fmt::Arguments<'_>,
) -> Result {
    let value = CString::try_from_fmt(value)?;
    // SAFETY: All are C strings.
    to_result(unsafe {
        bindings::xenbus_write(
            transaction,
            dir.as_char_ptr(),
            node.as_char_ptr(),
            value.as_char_ptr(),
        )
    })
}

/// What is called when a watched node changes.
pub(crate) trait WatchHandler: Send + Sync + 'static {
    /// The node was written, or the watch was just set. Runs in the xenwatch thread.
    fn on_change(&self);
}

/// A watch on one node. Dropping it waits for a running handler.
///
/// At most one change is pending at a time, however often the node is written (XSA-349).
///
/// # Invariants
///
/// `inner` is registered; its node is `path`.
pub(crate) struct Watch<H: WatchHandler> {
    inner: Pin<KBox<Inner<H>>>,
}

#[repr(C)]
struct Inner<H> {
    watch: Opaque<bindings::xenbus_watch>,
    path: CString,
    handler: Arc<H>,
}

// SAFETY: Watches may be unregistered from any thread.
unsafe impl<H: WatchHandler> Send for Watch<H> {}
// SAFETY: There are no methods.
unsafe impl<H: WatchHandler> Sync for Watch<H> {}

impl<H: WatchHandler> Watch<H> {
    /// Watches the node `path` and calls `handler` when it changes, the first time at once.
    pub(crate) fn new(path: CString, handler: Arc<H>) -> Result<Self> {
        let inner = KBox::pin(
            Inner {
                watch: Opaque::new(bindings::xenbus_watch {
                    will_handle: Some(Self::will_handle),
                    callback: Some(Self::callback),
                    node: path.as_char_ptr(),
                    ..pin_init::zeroed()
                }),
                path,
                handler,
            },
            GFP_KERNEL,
        )?;
        // SAFETY: The watch is initialised, pinned in its box, and registered once; `path` has its
        // bytes on the heap and lives as long.
        to_result(unsafe { bindings::register_xenbus_watch(inner.watch.get()) })?;
        // INVARIANT: It was just registered.
        Ok(Self { inner })
    }

    /// Called with a lock held, before a change is queued.
    ///
    /// # Safety
    ///
    /// `watch` is registered.
    unsafe extern "C" fn will_handle(
        watch: *mut bindings::xenbus_watch,
        _path: *const c_char,
        _token: *const c_char,
    ) -> bool {
        // SAFETY: `watch` is registered, and its owner holds the lock that guards the field.
        unsafe { (*watch).nr_pending == 0 }
    }

    /// # Safety
    ///
    /// `watch` is the registered one of an `Inner<H>`.
    unsafe extern "C" fn callback(
        watch: *mut bindings::xenbus_watch,
        _path: *const c_char,
        _token: *const c_char,
    ) {
        // SAFETY: `watch` is the first field of a pinned `Inner<H>`, which `drop` keeps until no
        // callback runs.
        let inner = unsafe { &*watch.cast::<Inner<H>>() };
        inner.handler.on_change();
    }
}

impl<H: WatchHandler> Drop for Watch<H> {
    fn drop(&mut self) {
        // SAFETY: By the invariant, the watch is registered. This waits for a running callback,
        // unless we are in one.
        unsafe { bindings::unregister_xenbus_watch(self.inner.watch.get()) };
    }
}
