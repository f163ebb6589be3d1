// SPDX-License-Identifier: GPL-2.0

//! M-channels for Xen.
//!
//! ```text
//!   dev          /dev/mgmt: brokers and agents in userspace
//!   kapi, client    other modules: agents in the kernel
//!    |
//!   port         an endpoint as its owner has it
//!    |
//!   mcb          the bridge: routes by header, stamps the source
//!    |- inbox    bounded queues, shared fairly among senders
//!   link         a channel to another domain, and the moving of messages
//!    |
//!   channel      two rings and an event channel
//!    |
//!   mgmt_front, mgmt_back    the xenbus drivers that set a channel up
//!
//!   account      who may hold how much
//!   report, debug, trace    counters, by ioctl and in debugfs; tracepoints
//!   pure         routing, directory, ring arithmetic, accounts: no kernel, tested on the host
//!   wire         the message format, the same in userspace
//!   xen          safe abstractions of xenbus, grants, event channels
//! ```
//!
//! Unsafe code is in `xen`, `bh`, `chardev`, `kapi`, `queue`, `trace`, `bindings`, and the lock below; nowhere else.

use kernel::{
    prelude::*,
    sync::Arc, //
};

mod account;
mod awaited;
mod bh;
mod bindings;
mod channel;
mod chardev;
mod client;
mod debug;
mod dev;
mod inbox;
mod kapi;
mod large;
mod link;
mod mcb;
mod message;
mod mgmt_back;
mod mgmt_front;
mod payload;
mod policy;
mod port;
#[allow(unreachable_pub)]
#[path = "pure/mod.rs"]
mod pure;
mod queue;
mod report;
mod shares;
mod spares;
mod trace;
mod waiters;
// Userspace uses the rest.
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../userspace/mgmt-wire/src/wire/mod.rs"]
mod wire;
mod xen;

module! {
    type: Mgmt,
    name: "mgmt",
    authors: ["The mgmt developers"],
    description: "M-channels for Xen",
    license: "GPL",
    alias: ["xen:mgmt", "xen-backend:mgmt"],
}

kernel::sync::global_lock! {
    // SAFETY: Initialised at the start of `Mgmt::init`, before anything can use it.
    unsafe(uninit) static BRIDGE: Mutex<Option<Arc<mcb::Bridge>>> = None;
}

/// The bridge of this domain, while the module is loaded.
fn bridge() -> Option<Arc<mcb::Bridge>> {
    BRIDGE.lock().clone()
}

/// Holds the bridge while the module is loaded. Dropped after everything that uses it.
struct BridgeGuard;

impl BridgeGuard {
    fn new() -> Result<Self> {
        if !xen::is_domain() {
            return Err(ENODEV);
        }
        // SAFETY: Called once, when the module is loaded.
        unsafe { BRIDGE.init() };
        // The toolstack may not have written it yet; in the first domain it is 0.
        let vm_id = xen::xenbus::read_u32(c"domid", c"").unwrap_or(0);
        let names = pure::route::Names {
            mvm: pure::route::VmName {
                mvm_ip: [0; 16],
                vm_id,
            },
            above: if xen::is_initial_domain() {
                pure::route::Above::Nobody
            } else {
                pure::route::Above::Disconnected
            },
            stable: xen::xenbus::read_uuid(c"vm", c"").ok(),
        };
        *BRIDGE.lock() = Some(mcb::Bridge::new(names)?);
        Ok(Self)
    }
}

impl Drop for BridgeGuard {
    fn drop(&mut self) {
        let bridge = BRIDGE.lock().take();
        if let Some(bridge) = bridge {
            // No driver, link or file is left to queue work: after this, none runs.
            bridge.close();
        }
    }
}

/// The module. Fields are dropped in this order.
#[pin_data]
struct Mgmt {
    #[pin]
    _debug: debug::Files,
    #[pin]
    _device: chardev::Registration<dev::MgmtFile>,
    #[pin]
    _front: mgmt_front::Registration,
    #[pin]
    _back: mgmt_back::Registration,
    _bridge: BridgeGuard,
}

impl kernel::InPlaceModule for Mgmt {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // In the order of the lines, so that the bridge is there first.
        try_pin_init!(Self {
            _bridge: BridgeGuard::new()?,
            _back <- mgmt_back::Registration::new(c"mgmtback", module),
            _front <- mgmt_front::Registration::new(c"mgmtfront", module),
            _device <- chardev::Registration::new(),
            _debug <- debug::Files::new(),
        })
    }
}
