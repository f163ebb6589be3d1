// SPDX-License-Identifier: GPL-2.0

//! The kernel's IPMI interface, through `smi.c`.

use crate::{bridge::Bridge, requests::Request};
use core::{
    ptr::{null_mut, NonNull},
    slice, //
};
use kernel::{
    error::to_result,
    ffi::{c_char, c_int, c_uint, c_void},
    prelude::*,
    sync::{Arc, ArcBorrow}, //
};

/// Opaque: `struct ipmi_user`.
#[repr(C)]
struct RawUser {
    _opaque: [u8; 0],
}

// smi.h
extern "C" {
    fn mgmt_ipmi_serial() -> *const c_char;
    fn mgmt_ipmi_start(bridge: *mut c_void) -> c_int;
    fn mgmt_ipmi_stop_watching();
    fn mgmt_ipmi_stop_work();
    fn mgmt_ipmi_work_now();
    fn mgmt_ipmi_work_within(ms: c_uint);
    fn mgmt_ipmi_create_user(
        bridge: *mut c_void,
        interface: c_int,
        user: *mut *mut RawUser,
    ) -> c_int;
    fn mgmt_ipmi_destroy_user(user: *mut RawUser);
    fn mgmt_ipmi_request(
        user: *mut RawUser,
        id: u64,
        netfn: u8,
        command: u8,
        data: *const u8,
        length: u16,
    ) -> c_int;
}

/// The serial number of this machine's hardware.
pub(crate) fn serial() -> Option<&'static CStr> {
    // SAFETY: It may be called at any time.
    let serial = unsafe { mgmt_ipmi_serial() };
    if serial.is_null() {
        return None;
    }
    // SAFETY: It is a C string that stays as long as the module.
    Some(unsafe { CStr::from_char_ptr(serial) })
}

/// Has [`Bridge::work`] called at once.
pub(crate) fn work_now() {
    // SAFETY: It may be called at any time, and from everywhere.
    unsafe { mgmt_ipmi_work_now() };
}

/// Has [`Bridge::work`] called in so many milliseconds, or before.
pub(crate) fn work_within(ms: u32) {
    // SAFETY: It may be called at any time, and from everywhere.
    unsafe { mgmt_ipmi_work_within(ms) };
}

/// Has the bridge called until it is dropped.
///
/// # Invariants
///
/// `smi.c` has the address of the bridge, and calls it.
pub(crate) struct Watch(Arc<Bridge>);

impl Watch {
    pub(crate) fn new(bridge: Arc<Bridge>) -> Result<Self> {
        // INVARIANT: If this fails, the drop of `watch` undoes what was done.
        let watch = Self(bridge);
        // SAFETY: The bridge lives until nobody calls it any more.
        to_result(unsafe { mgmt_ipmi_start(raw(&watch.0)) })?;
        Ok(watch)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // SAFETY: It was registered, at least in the list of watchers.
        unsafe { mgmt_ipmi_stop_watching() };
        self.0.close();
        // SAFETY: Nobody is left who would ask for work, and work itself does not any more.
        unsafe { mgmt_ipmi_stop_work() };
    }
}

fn raw(bridge: &Arc<Bridge>) -> *mut c_void {
    Arc::as_ptr(bridge).cast_mut().cast()
}

/// # Safety
///
/// `bridge` is that of a [`Watch`], which lives during `'a`.
unsafe fn bridge<'a>(bridge: *mut c_void) -> ArcBorrow<'a, Bridge> {
    // SAFETY: A `Watch` has given it, and has a reference.
    unsafe { ArcBorrow::from_raw(bridge.cast()) }
}

/// A user of an IPMI interface, until it is dropped.
///
/// # Invariants
///
/// The pointer is a user that is ours.
pub(crate) struct User(NonNull<RawUser>);

// SAFETY: Users may be used and destroyed by any task.
unsafe impl Send for User {}

impl User {
    /// Becomes a user of an interface. Responses and events go to the bridge.
    pub(crate) fn new(to: ArcBorrow<'_, Bridge>, interface: i32) -> Result<Self> {
        let mut user = null_mut();
        let to = raw(&to.into());
        // SAFETY: The bridge outlives its users, as it destroys them in `Bridge::close`.
        to_result(unsafe { mgmt_ipmi_create_user(to, interface, &mut user) })?;
        // INVARIANT: It was just made.
        Ok(Self(NonNull::new(user).ok_or(ENODEV)?))
    }

    /// Sends a request. May sleep.
    pub(crate) fn request(&self, id: u64, request: &Request) -> Result {
        let data = &request.data;
        let length = u16::try_from(data.len())?;
        // SAFETY: By the invariant; the data have this length.
        to_result(unsafe {
            mgmt_ipmi_request(
                self.0.as_ptr(),
                id,
                request.netfn,
                request.command,
                data.as_ptr(),
                length,
            )
        })
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // SAFETY: By the invariant.
        unsafe { mgmt_ipmi_destroy_user(self.0.as_ptr()) };
    }
}

/// # Safety
///
/// As [`bridge`].
#[no_mangle]
unsafe extern "C" fn mgmt_ipmi_found(to: *mut c_void, interface: c_int) {
    // SAFETY: By the requirements of this function.
    Bridge::found(unsafe { bridge(to) }, interface);
}

/// # Safety
///
/// As [`bridge`].
#[no_mangle]
unsafe extern "C" fn mgmt_ipmi_gone(to: *mut c_void, interface: c_int) {
    // SAFETY: By the requirements of this function.
    unsafe { bridge(to) }.gone(interface);
}

/// # Safety
///
/// As [`bridge`].
#[no_mangle]
unsafe extern "C" fn mgmt_ipmi_work(to: *mut c_void) {
    // SAFETY: By the requirements of this function.
    unsafe { bridge(to) }.work();
}

/// # Safety
///
/// As [`bridge`], and `data` has `length` bytes.
#[no_mangle]
unsafe extern "C" fn mgmt_ipmi_response(
    to: *mut c_void,
    id: u64,
    netfn: u8,
    command: u8,
    data: *const u8,
    length: usize,
) {
    // SAFETY: By the requirements of this function.
    let (to, data) = unsafe { (bridge(to), slice::from_raw_parts(data, length)) };
    to.response(id, netfn, command, data);
}

/// # Safety
///
/// As [`mgmt_ipmi_response`].
#[no_mangle]
unsafe extern "C" fn mgmt_ipmi_event(to: *mut c_void, data: *const u8, length: usize) {
    // SAFETY: By the requirements of this function.
    let (to, data) = unsafe { (bridge(to), slice::from_raw_parts(data, length)) };
    to.event(data);
}
