// SPDX-License-Identifier: GPL-2.0

//! A misc device with `poll`, which `kernel::miscdevice` does not have.
//!
//! Everything else is the `kernel` crate's: its file operations are taken as they are, and `poll`
//! is added.

use crate::bindings;
use core::marker::PhantomData;
use kernel::{
    error::to_result,
    fs::{File, Kiocb},
    miscdevice::{MiscDevice, MiscDeviceOptions},
    prelude::*,
    sync::poll::PollTable,
    task::Kuid,
    types::{ForeignOwnable, Opaque}, //
};

/// Whether this call on the file may not wait.
pub(crate) fn is_nonblocking<T: ForeignOwnable>(kiocb: &Kiocb<'_, T>) -> bool {
    let raw = kiocb.as_raw();
    // SAFETY: A `Kiocb` refers to a valid `struct kiocb` of an open file.
    let flags = unsafe { (*(*raw).ki_filp).f_flags };
    flags & bindings::O_NONBLOCK != 0
}

/// Whether the caller has `CAP_SYS_ADMIN` in the initial user namespace.
pub(crate) fn is_admin() -> bool {
    // SAFETY: `capable` may be called from any process.
    unsafe { bindings::capable(bindings::CAP_SYS_ADMIN as c_int) }
}

/// The effective user of the caller, as the initial user namespace knows it.
pub(crate) fn current_euid() -> u32 {
    Kuid::current_euid().into_raw().val
}

/// A misc device that can be polled.
pub(crate) trait Pollable: MiscDevice {
    /// Registers `table` with what will change the answer, then tells which of `POLLIN`, … hold.
    fn poll(
        device: <Self::Ptr as ForeignOwnable>::Borrowed<'_>,
        file: &File,
        table: PollTable<'_>,
    ) -> u32;
}

/// The registration of such a device.
///
/// # Invariants
///
/// `inner` is a registered misc device whose files have been opened by `T`'s `MiscDevice`.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T> {
    #[pin]
    inner: Opaque<bindings::miscdevice>,
    _device: PhantomData<T>,
}

// SAFETY: A misc device may be deregistered on another thread than it was registered on.
unsafe impl<T> Send for Registration<T> {}
// SAFETY: There are no methods.
unsafe impl<T> Sync for Registration<T> {}

impl<T: Pollable> Registration<T> {
    const OPTIONS: MiscDeviceOptions = MiscDeviceOptions { name: c"mgmt" };

    const OPERATIONS: bindings::file_operations = bindings::file_operations {
        poll: Some(Self::poll),
        // SAFETY: `into_raw` points `fops` to a constant.
        ..unsafe { *Self::OPTIONS.into_raw::<T>().fops }
    };

    /// Registers the device `/dev/mgmt`.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            inner <- Opaque::try_ffi_init(|slot: *mut bindings::miscdevice| {
                let mut raw = Self::OPTIONS.into_raw::<T>();
                raw.fops = &Self::OPERATIONS;
                raw.mode = 0o600;
                // SAFETY: The slot may be written.
                unsafe { slot.write(raw) };
                // SAFETY: The device is initialised and pinned; `drop` deregisters it.
                to_result(unsafe { bindings::misc_register(slot) })
            }),
            _device: PhantomData,
        })
    }

    /// # Safety
    ///
    /// `file` is a file of this device, and `table` is valid or null.
    unsafe extern "C" fn poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) -> bindings::__poll_t {
        // SAFETY: The file was opened by `T`'s `MiscDevice`, which stored a `T::Ptr`.
        let device = unsafe { <T::Ptr as ForeignOwnable>::borrow((*file).private_data) };
        // SAFETY: The file is valid, and nobody on this thread holds its position.
        let file = unsafe { File::from_raw_file(file) };
        // SAFETY: The table is valid, or null, during this call.
        T::poll(device, file, unsafe { PollTable::from_raw(table) })
    }
}

#[pinned_drop]
impl<T> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the invariant, the device is registered.
        unsafe { bindings::misc_deregister(self.inner.get()) };
    }
}
