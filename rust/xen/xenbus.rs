// SPDX-License-Identifier: GPL-2.0

//! Drivers and devices of the xenbus.
//!
//! C header: [`include/xen/xenbus.h`](srctree/include/xen/xenbus.h)
//!
//! All devices of a domain share one thread for their callbacks (xenwatch). Nothing here waits for
//! the other end, and no callback of a [`Driver`] may.

mod store;

pub(crate) use store::{read_u32, read_uuid, write, Transaction, Watch, WatchHandler};

use crate::bindings;
use core::{
    marker::PhantomData,
    mem::offset_of,
    pin::Pin,
    ptr::NonNull, //
};
use kernel::{
    device,
    driver,
    error::{from_result, to_result},
    prelude::*,
    sync::{
        aref::AlwaysRefCounted,
        atomic::{ordering::Relaxed, Atomic},
        Arc, //
    },
    types::Opaque,
    ThisModule, //
};

/// The state of one end of a device, as that end has published it.
///
/// Which state the other end shows is its choice alone: any may follow any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// No state, an unreadable one, or one that does not exist.
    Unknown,
    /// The frontend has started.
    Initialising,
    /// The backend waits for the frontend's details.
    InitWait,
    /// The frontend has published its details.
    Initialised,
    /// The channel is in use.
    Connected,
    /// The channel is being closed.
    Closing,
    /// The channel is closed.
    Closed,
}

impl State {
    const TABLE: [(Self, bindings::xenbus_state); 7] = [
        (Self::Unknown, bindings::xenbus_state_XenbusStateUnknown),
        (
            Self::Initialising,
            bindings::xenbus_state_XenbusStateInitialising,
        ),
        (Self::InitWait, bindings::xenbus_state_XenbusStateInitWait),
        (
            Self::Initialised,
            bindings::xenbus_state_XenbusStateInitialised,
        ),
        (Self::Connected, bindings::xenbus_state_XenbusStateConnected),
        (Self::Closing, bindings::xenbus_state_XenbusStateClosing),
        (Self::Closed, bindings::xenbus_state_XenbusStateClosed),
    ];

    fn from_raw(raw: bindings::xenbus_state) -> Self {
        let found = Self::TABLE.iter().find(|(_, r)| *r == raw);
        found.map_or(Self::Unknown, |(state, _)| *state)
    }

    /// The number that stands for it in a `state` node.
    pub(crate) fn number(self) -> u32 {
        self.as_raw()
    }

    fn as_raw(self) -> bindings::xenbus_state {
        let found = Self::TABLE.iter().find(|(state, _)| *state == self);
        found.map_or(bindings::xenbus_state_XenbusStateUnknown, |(_, r)| *r)
    }
}

/// The type of a device, as it stands in the path of its xenstore nodes.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct DeviceId(bindings::xenbus_device_id);

impl DeviceId {
    /// Ends a table.
    pub(crate) const END: Self = Self(bindings::xenbus_device_id {
        devicetype: [0; 32],
    });

    /// Devices of this type: 1 to 31 characters.
    pub(crate) const fn new(devicetype: &'static CStr) -> Self {
        let bytes = devicetype.to_bytes();
        assert!(!bytes.is_empty() && bytes.len() < 32);
        let mut id = Self::END;
        let mut i = 0;
        while i < bytes.len() {
            id.0.devicetype[i] = bytes[i];
            i += 1;
        }
        id
    }
}

/// Which end of its devices a driver drives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The frontend, in the domain that uses the device.
    Front,
    /// The backend, in the domain that provides it.
    Back,
}

/// What is to become of a device after [`Driver::otherend_changed`].
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Verdict {
    /// It stays.
    Keep,
    /// It is unbound and removed: its nodes are gone or the toolstack gives it up.
    Unregister,
}

/// A driver of one end of a type of device.
pub(crate) trait Driver {
    /// The driver's private data of one device.
    type Data: Send + Sync + 'static;

    /// Which end it drives.
    const END: End;

    /// The devices that it drives. The last element is [`DeviceId::END`].
    const ID_TABLE: &'static [DeviceId];

    /// Binds to a new device.
    ///
    /// The other end is not watched before this returns; the first call of
    /// [`Driver::otherend_changed`] follows at once.
    fn probe<'a>(dev: &'a Device<device::Core<'_>>) -> impl PinInit<Self::Data, Error> + 'a;

    /// The other end's state was written, or this end was just bound.
    fn otherend_changed(
        dev: &Device<device::Bound>,
        data: Pin<&Self::Data>,
        state: State,
    ) -> Verdict;

    /// This domain is about to be suspended, to be resumed here, there, or after a failure at once:
    /// then nobody tells. May wait for a moment.
    fn suspend(_dev: &Device<device::Bound>, _data: Pin<&Self::Data>) {}

    /// This domain was restored or has migrated: grants, event channels and the other end are
    /// gone; [`Driver::otherend_changed`] calls with the new other end follow.
    fn resume(dev: &Device<device::Bound>, data: Pin<&Self::Data>) -> Result;

    /// The device is about to be unbound.
    ///
    /// What the other end may still use is to be stopped here, not when the data is dropped: our
    /// state is published as closed in between.
    fn unbind(dev: &Device<device::Core<'_>>, data: Pin<&Self::Data>);
}

/// Connects a [`Driver`] to the xenbus.
pub(crate) struct Adapter<T: Driver>(PhantomData<T>);

// SAFETY:
// - `bindings::xenbus_driver` is `repr(C)` and embeds a `struct device_driver` at this offset.
// - `T::Data` is the type given to `set_drvdata` in `probe_callback`.
unsafe impl<T: Driver> driver::DriverLayout for Adapter<T> {
    type DriverType = bindings::xenbus_driver;
    type DriverData<'bound> = T::Data;
    const DEVICE_DRIVER_OFFSET: usize = offset_of!(Self::DriverType, driver);
}

// SAFETY: `unregister` is valid after a successful `register` of the same driver.
unsafe impl<T: Driver> driver::RegistrationOps for Adapter<T> {
    unsafe fn register(
        drv: &Opaque<Self::DriverType>,
        name: &'static CStr,
        _module: &'static ThisModule,
    ) -> Result {
        const {
            let table = T::ID_TABLE;
            assert!(table[table.len() - 1].0.devicetype[0] == 0);
        }
        // SAFETY: It is safe to set the fields of `struct xenbus_driver` on initialization.
        unsafe {
            (*drv.get()).name = name.as_char_ptr();
            (*drv.get()).ids = T::ID_TABLE.as_ptr().cast();
            (*drv.get()).not_essential = true;
            (*drv.get()).probe = Some(Self::probe_callback);
            (*drv.get()).otherend_changed = Some(Self::otherend_changed_callback);
            (*drv.get()).remove = Some(Self::remove_callback);
            (*drv.get()).suspend = Some(Self::suspend_callback);
            (*drv.get()).resume = Some(Self::resume_callback);
        }
        // The xenbus holds a reference to the owner of a driver for each bound device, which would
        // make the module impossible to unload while a peer exists. `unregister` unbinds every
        // device and waits for its callbacks, so no owner is needed.
        let owner = core::ptr::null_mut();
        // SAFETY: `drv` is initialised, pinned, and valid until `unregister`.
        to_result(unsafe {
            match T::END {
                End::Front => {
                    bindings::__xenbus_register_frontend(drv.get(), owner, name.as_char_ptr())
                }
                End::Back => {
                    bindings::__xenbus_register_backend(drv.get(), owner, name.as_char_ptr())
                }
            }
        })
    }

    unsafe fn unregister(drv: &Opaque<Self::DriverType>) {
        // SAFETY: The caller guarantees that `drv` is registered.
        unsafe { bindings::xenbus_unregister_driver(drv.get()) };
    }
}

impl<T: Driver> Adapter<T> {
    extern "C" fn probe_callback(
        dev: *mut bindings::xenbus_device,
        _id: *const bindings::xenbus_device_id,
    ) -> c_int {
        // SAFETY: The xenbus calls this with a valid device, valid during the call.
        let dev = unsafe { &*dev.cast::<Device<device::CoreInternal<'_>>>() };
        from_result(|| {
            dev.as_ref().set_drvdata(T::probe(dev))?;
            Ok(0)
        })
    }

    extern "C" fn otherend_changed_callback(
        dev: *mut bindings::xenbus_device,
        state: bindings::xenbus_state,
    ) {
        // SAFETY: The xenbus calls this with a valid device, valid during the call, between `probe`
        // and `remove`: it watches the other end after the one and stops before the other.
        let bound = unsafe { &*dev.cast::<Device<device::BoundInternal>>() };
        // SAFETY: `probe` has stored a `T::Data`, and the device is bound during this call.
        let data = unsafe { bound.as_ref().drvdata_borrow::<T::Data>() };
        if T::otherend_changed(bound, data, State::from_raw(state)) == Verdict::Unregister {
            // SAFETY: The device is registered, and neither we nor the xenbus use it after this.
            unsafe { bindings::device_unregister(&raw mut (*dev).dev) };
        }
    }

    extern "C" fn remove_callback(dev: *mut bindings::xenbus_device) {
        // SAFETY: The xenbus calls this with a valid device, valid during the call.
        let dev = unsafe { &*dev.cast::<Device<device::CoreInternal<'_>>>() };
        // SAFETY: `probe` has stored a `T::Data`; it is taken out after this call.
        let data = unsafe { dev.as_ref().drvdata_borrow::<T::Data>() };
        T::unbind(dev, data);
    }

    extern "C" fn suspend_callback(dev: *mut bindings::xenbus_device) -> c_int {
        // SAFETY: The xenbus calls this with a valid device, valid during the call.
        let dev = unsafe { &*dev.cast::<Device<device::BoundInternal>>() };
        // SAFETY: Only bound devices are suspended, so `probe` has stored a `T::Data`.
        let data = unsafe { dev.as_ref().drvdata_borrow::<T::Data>() };
        T::suspend(dev, data);
        0
    }

    extern "C" fn resume_callback(dev: *mut bindings::xenbus_device) -> c_int {
        // SAFETY: The xenbus calls this with a valid device, valid during the call.
        let dev = unsafe { &*dev.cast::<Device<device::BoundInternal>>() };
        // SAFETY: Only bound devices are resumed, so `probe` has stored a `T::Data`.
        let data = unsafe { dev.as_ref().drvdata_borrow::<T::Data>() };
        from_result(|| T::resume(dev, data).map(|()| 0))
    }
}

/// A device of the xenbus, in the given [context](device::DeviceContext).
///
/// # Invariants
///
/// A valid `struct xenbus_device`, made by the C side.
#[repr(transparent)]
pub(crate) struct Device<Ctx: device::DeviceContext = device::Normal>(
    Opaque<bindings::xenbus_device>,
    PhantomData<Ctx>,
);

// SAFETY: `Device` transparently wraps a type that does not depend on its context.
kernel::impl_device_context_deref!(unsafe { Device });
kernel::impl_device_context_into_aref!(Device);

// SAFETY: A `struct xenbus_device` may be released from any thread.
unsafe impl Send for Device {}
// SAFETY: The methods of `Device` are thread-safe.
unsafe impl Sync for Device {}
// SAFETY: As above.
unsafe impl Sync for Device<device::Bound> {}

// SAFETY: The embedded `struct device` counts the references.
unsafe impl AlwaysRefCounted for Device {
    fn inc_ref(&self) {
        // SAFETY: A reference exists, so the count is not zero.
        unsafe { bindings::get_device(&raw mut (*self.as_raw()).dev) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller owns a reference.
        unsafe { bindings::put_device(&raw mut (*obj.as_ref().as_raw()).dev) };
    }
}

impl<Ctx: device::DeviceContext> AsRef<device::Device<Ctx>> for Device<Ctx> {
    fn as_ref(&self) -> &device::Device<Ctx> {
        // SAFETY: By the invariant, the embedded device is valid; it is in the same context.
        unsafe { &*(&raw mut (*self.as_raw()).dev).cast::<device::Device<Ctx>>() }
    }
}

impl<Ctx: device::DeviceContext> Device<Ctx> {
    pub(super) fn as_raw(&self) -> *mut bindings::xenbus_device {
        self.0.get()
    }
}

impl Device {
    /// The domain id of the other end.
    pub(crate) fn otherend_id(&self) -> u16 {
        // SAFETY: By the invariant, the device is valid. The id is a domid, set before `probe`.
        unsafe { (*self.as_raw()).otherend_id as u16 }
    }

    /// The path of our end's nodes in xenstore.
    pub(crate) fn nodename(&self) -> &CStr {
        // SAFETY: By the invariant, the device is valid; its name does not change.
        unsafe { CStr::from_char_ptr((*self.as_raw()).nodename) }
    }

    /// Logs an error and publishes it in xenstore, for the toolstack to see.
    ///
    /// For what a peer can cause, use [`Complaints`].
    pub(crate) fn error(&self, error: Error, what: &CStr) {
        // SAFETY: By the invariant, the device is valid; `what` is a C string.
        unsafe {
            bindings::mgmt_helper_xenbus_dev_error(
                self.as_raw(),
                error.to_errno(),
                what.as_char_ptr(),
            )
        };
    }
}

impl Device<device::Bound> {
    /// The path of the other end's nodes in xenstore. `ENODEV` after a resume in which nobody had
    /// made them again.
    pub(crate) fn otherend(&self) -> Result<&CStr> {
        // SAFETY: By the invariant, the device is valid.
        let name = unsafe { (*self.as_raw()).otherend };
        if name.is_null() {
            return Err(ENODEV);
        }
        // SAFETY: The name is a C string while the device is bound, and changes only on resume,
        // which the xenwatch thread runs alone.
        Ok(unsafe { CStr::from_char_ptr(name) })
    }

    /// Our own state.
    pub(crate) fn state(&self) -> State {
        // SAFETY: By the invariant, the device is valid.
        State::from_raw(unsafe { (*self.as_raw()).state })
    }

    /// Publishes our state. If it is the present one, nothing is written.
    pub(crate) fn switch_state(&self, state: State) -> Result {
        // SAFETY: By the invariant, the device is valid.
        to_result(unsafe { bindings::xenbus_switch_state(self.as_raw(), state.as_raw()) })
    }

    /// Publishes that this frontend is closed, also to who waits for that at shutdown.
    pub(crate) fn frontend_closed(&self) {
        // SAFETY: By the invariant, the device is valid.
        unsafe { bindings::xenbus_frontend_closed(self.as_raw()) };
    }

    /// Whether the toolstack wants this backend to stay when its frontend closes.
    pub(crate) fn is_online(&self) -> bool {
        // SAFETY: By the invariant, the device is valid.
        unsafe { bindings::xenbus_dev_is_online(self.as_raw()) != 0 }
    }
}

/// Says once what a peer does wrong again and again: it must not fill our log.
pub(crate) struct Complaints(Atomic<bool>);

impl Complaints {
    /// Nothing was said yet.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Ok(Arc::new(Self(Atomic::new(false)), GFP_KERNEL)?)
    }

    /// Logs an error and publishes it in xenstore, the first time.
    pub(crate) fn error(&self, dev: &Device, error: Error, what: &CStr) {
        if !self.0.xchg(true, Relaxed) {
            dev.error(error, what);
        }
    }

    /// As [`Complaints::error`], and starts to close the device.
    pub(crate) fn fatal(&self, dev: &Device, error: Error, what: &CStr) {
        self.error(dev, error, what);
        // SAFETY: By the invariant of `Device`, it is valid.
        unsafe { bindings::xenbus_switch_state(dev.as_raw(), State::Closing.as_raw()) };
    }
}
