// SPDX-License-Identifier: GPL-2.0

//! `include/mgmt.h`, for Rust.

use super::wire::{ADDRESS_LEN, HEADER_LEN};
use kernel::ffi::{c_char, c_int, c_uint, c_void};

/// Opaque: only `mgmt.ko` looks inside.
#[repr(C)]
pub(super) struct Endpoint {
    _opaque: [u8; 0],
}

/// Opaque: only `mgmt.ko` looks inside.
#[repr(C)]
pub(super) struct Message {
    _opaque: [u8; 0],
}

/// `struct mgmt_ops`.
#[repr(C)]
pub(super) struct Ops {
    pub(super) receive: unsafe extern "C" fn(*mut Endpoint, *mut Message, *mut c_void),
}

/// `struct mgmt_header`.
pub(super) type Header = [u8; HEADER_LEN];
/// `struct mgmt_address`.
pub(super) type Address = [u8; ADDRESS_LEN];

/// `MGMT_BIND_SHARED`.
pub(super) const BIND_SHARED: c_uint = 1;
/// `MGMT_FOREVER`.
pub(super) const FOREVER: c_uint = c_uint::MAX;

extern "C" {
    pub(super) fn mgmt_open(
        app: *const c_char,
        flags: c_uint,
        ops: *const Ops,
        data: *mut c_void,
    ) -> *mut Endpoint;
    pub(super) fn mgmt_open_hardware(
        serial: *const c_char,
        app: *const c_char,
        flags: c_uint,
        ops: *const Ops,
        data: *mut c_void,
    ) -> *mut Endpoint;
    pub(super) fn mgmt_close(endpoint: *mut Endpoint);
    pub(super) fn mgmt_send(
        endpoint: *mut Endpoint,
        header: *const Header,
        payload: *const c_void,
        gfp: c_uint,
    ) -> c_int;
    pub(super) fn mgmt_send_wait(
        endpoint: *mut Endpoint,
        header: *const Header,
        payload: *const c_void,
    ) -> c_int;
    pub(super) fn mgmt_request(
        endpoint: *mut Endpoint,
        header: *const Header,
        payload: *const c_void,
    ) -> *mut Message;
    pub(super) fn mgmt_reply(
        endpoint: *mut Endpoint,
        request: *const Message,
        payload: *const c_void,
        length: usize,
        gfp: c_uint,
    ) -> c_int;
    pub(super) fn mgmt_watch(endpoint: *mut Endpoint, address: *const Address, on: bool) -> c_int;
    pub(super) fn mgmt_receive(endpoint: *mut Endpoint, timeout_ms: c_uint) -> *mut Message;
    pub(super) fn mgmt_message_header(message: *const Message, header: *mut Header);
    pub(super) fn mgmt_message_read(
        message: *const Message,
        offset: usize,
        to: *mut c_void,
        length: usize,
    ) -> usize;
    pub(super) fn mgmt_message_put(message: *mut Message);
}
