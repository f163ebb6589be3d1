// SPDX-License-Identifier: GPL-2.0

//! Tracepoints: `events/mgmt` in tracefs. Where nobody listens, a branch that is not taken.

use crate::{
    bindings,
    pure::account::Owner,
    wire::{Header, Reason}, //
};
use core::fmt::{self, Write};

/// What happens to a message.
#[derive(Clone, Copy)]
pub(crate) enum Point {
    /// An endpoint's was accepted.
    Send = bindings::mgmt_trace_point_MGMT_TRACE_SEND as isize,
    /// Its receiver was found.
    Route = bindings::mgmt_trace_point_MGMT_TRACE_ROUTE as isize,
    /// An endpoint has read it.
    Deliver = bindings::mgmt_trace_point_MGMT_TRACE_DELIVER as isize,
    /// It is not delivered.
    Drop = bindings::mgmt_trace_point_MGMT_TRACE_DROP as isize,
}

/// Text of so many bytes at most, with a zero behind it.
struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    fn new(shown: impl fmt::Display) -> Self {
        let mut text = Self {
            bytes: [0; N],
            len: 0,
        };
        // What does not fit is missing.
        let _ = write!(text, "{shown}");
        text
    }

    fn as_ptr(&self) -> *const kernel::ffi::c_char {
        self.bytes.as_ptr().cast()
    }
}

impl<const N: usize> Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..N - 1).ok_or(fmt::Error)?;
        let fits = room.len().min(text.len());
        room[..fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.len += fits;
        if fits == text.len() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

/// Whether somebody wants to know.
pub(crate) fn is_traced(point: Point) -> bool {
    // SAFETY: It may be called from anywhere.
    unsafe { bindings::mgmt_helper_is_traced(point as u32) }
}

/// Traces a message, if somebody wants to know; only then it is asked for.
pub(crate) fn trace(point: Point, owner: Owner, reason: Reason, header: impl FnOnce() -> Header) {
    if is_traced(point) {
        record(point, owner, reason, &header());
    }
}

#[cold]
fn record(point: Point, owner: Owner, reason: Reason, header: &Header) {
    // The longest: 31 bytes, `@vm:`, an IPv6 address of 39 bytes, a `/`, a number of 10.
    let source = Text::<96>::new(header.source);
    let destination = Text::<96>::new(header.destination);
    let account = Text::<16>::new(owner);
    let message = bindings::mgmt_traced {
        source: source.as_ptr(),
        destination: destination.as_ptr(),
        account: account.as_ptr(),
        sequence: header.sequence,
        correlation: header.correlation,
        length: header.length,
        reason: reason as u16,
        flags: header.flags.bits(),
        kind: header.kind as u8,
        priority: header.priority,
    };
    // SAFETY: The message and its texts, which end with a zero, are valid during the call, and
    // copied by it.
    unsafe { bindings::mgmt_helper_trace(point as u32, &message) };
}
