// SPDX-License-Identifier: GPL-2.0

//! `mgmt_ipmi.ko`: the hardware M-channel. The platform's BMC as a hardware component, by the kernel
//! API of `mgmt.ko` (`include/mgmt.h`) and the kernel's IPMI interface, and nothing else.
//!
//! ```text
//!   agent        endpoints: an App_ID for each thing that rules may allow
//!    |
//!   ipmi/bridge  requests from there to the BMC, answers back, events to all
//!    |- requests  which IPMI requests these are, who may, and how many: shared with userspace
//!    |
//!   ipmi/smi     the kernel's IPMI interface
//! ```
//!
//! Unsafe code is in `agent`, `bh`, and `smi`; nowhere else. `docs/ipmi.md` describes the messages.

use kernel::prelude::*;

mod agent;
// `mgmt.ko` uses the rest.
#[allow(dead_code)]
mod bh;
/// What `bh` needs of the module's C code.
mod bindings {
    use kernel::bindings::spinlock_t;

    extern "C" {
        pub(crate) fn mgmt_helper_spin_lock_bh(lock: *mut spinlock_t);
        pub(crate) fn mgmt_helper_spin_trylock_bh(lock: *mut spinlock_t) -> bool;
        pub(crate) fn mgmt_helper_spin_unlock_bh(lock: *mut spinlock_t);
    }
}
#[path = "ipmi/bridge.rs"]
mod bridge;
// Userspace uses the rest.
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "../userspace/mgmt-ipmi/src/ipmi/mod.rs"]
mod requests;
#[path = "ipmi/smi.rs"]
mod smi;

module! {
    type: MgmtIpmi,
    name: "mgmt_ipmi",
    authors: ["The mgmt developers"],
    description: "M-channel to the platform's BMC",
    license: "GPL",
    params: {
        interface: i32 {
            default: -1,
            description: "Number of the IPMI interface; by default the first that appears",
        },
    },
}

/// The module, while it is loaded.
struct MgmtIpmi {
    _watch: smi::Watch,
}

impl kernel::Module for MgmtIpmi {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let serial = smi::serial().ok_or(ENODEV).inspect_err(|_| {
            pr_err!("the machine has no serial number: give one as serial=\n");
        })?;
        let bridge = bridge::Bridge::new(module_parameters::interface.value())?;
        // First, as requests ask for work as soon as there are endpoints.
        let watch = smi::Watch::new(bridge.clone())?;
        bridge.open(serial)?;
        Ok(Self { _watch: watch })
    }
}
