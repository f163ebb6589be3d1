// SPDX-License-Identifier: GPL-2.0

//! Where a message goes, by its destination component alone.

use super::uuid::Uuid;
use crate::wire::{Address, Component, Kind, Reason, Serial};

/// ⟨MVM_IP, VM_ID⟩ of one VM (paper §3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmName {
    /// IPv6 address of its management VM; unspecified (all zero) until somebody sets it.
    pub mvm_ip: [u8; 16],
    /// Its Xen domain id.
    pub vm_id: u32,
}

impl From<VmName> for Component {
    fn from(name: VmName) -> Self {
        Component::Vm {
            mvm_ip: name.mvm_ip,
            vm_id: name.vm_id,
        }
    }
}

/// The management VM above this domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Above {
    /// There is none: this domain is the platform's management VM.
    Nobody,
    /// There should be one, but no channel to it.
    Disconnected,
    /// There is a channel to it.
    Connected {
        /// What it calls this domain.
        own: VmName,
        /// Its own VM_ID.
        mvm_id: u32,
    },
}

/// What this domain is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// As the management VM of its own guests.
    pub mvm: VmName,
    /// As a guest.
    pub above: Above,
    /// Whatever it is and wherever: its stable name, if it has one.
    pub stable: Option<Uuid>,
}

impl Names {
    /// The name under which this domain's endpoints send.
    pub fn own(&self) -> VmName {
        match self.above {
            Above::Connected { own, .. } => own,
            Above::Nobody | Above::Disconnected => self.mvm,
        }
    }

    /// The name of this domain's endpoints on this way, if it leads to them. `component` is where
    /// the message goes.
    pub fn local(&self, way: Route, component: Component) -> Option<Component> {
        match way {
            Route::Local => Some(component),
            Route::LocalAndUplink => Some(self.own().into()),
            Route::LocalAndGuests | Route::Everywhere => Some(self.mvm.into()),
            _ => None,
        }
    }

    /// The name of a guest of this domain.
    pub fn guest(&self, vm_id: u32) -> Component {
        let mvm_ip = self.mvm.mvm_ip;
        VmName { mvm_ip, vm_id }.into()
    }
}

/// Which way a message came into this bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From an endpoint of this domain.
    Local,
    /// From the guest with this VM_ID.
    Guest(u32),
    /// From this domain's own management VM.
    Uplink,
    /// From another platform.
    Fabric,
}

/// Where a message goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To an endpoint of this domain.
    Local,
    /// Through the channel to the guest with this VM_ID.
    Guest(u32),
    /// Through the channel to this domain's management VM.
    Uplink,
    /// To another platform, by the fabric that connects management VMs.
    Fabric,
    /// Here, and to the management VM, which distributes it.
    LocalAndUplink,
    /// Here, and to every guest but the one that it came from.
    LocalAndGuests,
    /// These, and every other platform.
    Everywhere,
    /// To an endpoint of this domain that serves the hardware with this serial number.
    Hardware(Serial),
    /// Nowhere.
    Unreachable(Reason),
}

const UNSPECIFIED_IP: [u8; 16] = [0; 16];

/// Finds the route to `destination` and the name that it is to carry from here on.
///
/// `SelfDomain` and `Mvm` are words of the sender: they are replaced here by what they stand for,
/// also when a guest's bridge should have done so and did not. A ⟨MVM_IP, VM_ID⟩ with an
/// unspecified address means the sender's platform. The stable name of a guest of this domain has
/// been replaced by its present one.
pub fn route(names: &Names, origin: Origin, destination: &Component) -> (Route, Component) {
    let unreachable = (Route::Unreachable(Reason::NoComponent), *destination);
    match (*destination, origin) {
        (Component::Unspecified, _) => unreachable,
        // What a management VM sends to a guest is meant for it: a guest does not send it back.
        (Component::Vm { .. } | Component::Stable(_), Origin::Uplink) => {
            (Route::Local, names.own().into())
        }
        (_, Origin::Uplink) => unreachable,
        (destination, Origin::Fabric) => from_fabric(names, destination),
        (Component::SelfDomain, Origin::Local) => (Route::Local, names.own().into()),
        (Component::Stable(uuid), Origin::Local) if names.stable == Some(uuid) => {
            (Route::Local, names.own().into())
        }
        (Component::SelfDomain, Origin::Guest(id)) => to_guest(names, id),
        (Component::Mvm, Origin::Guest(_)) => (Route::Local, names.mvm.into()),
        (Component::Mvm, Origin::Local) => match names.above {
            Above::Nobody => (Route::Local, names.mvm.into()),
            Above::Disconnected => (Route::Uplink, *destination),
            Above::Connected { own, mvm_id } => {
                let mvm = VmName {
                    mvm_ip: own.mvm_ip,
                    vm_id: mvm_id,
                };
                (Route::Uplink, mvm.into())
            }
        },
        (Component::Platform | Component::Everywhere, Origin::Local)
            if names.above != Above::Nobody =>
        {
            (Route::LocalAndUplink, *destination)
        }
        // Only the platform's own management VM has a fabric.
        (Component::Everywhere, _) if names.above == Above::Nobody => {
            (Route::Everywhere, *destination)
        }
        (Component::Platform | Component::Everywhere, _) => (Route::LocalAndGuests, *destination),
        (Component::Vm { mvm_ip, vm_id }, _) => to_vm(names, origin, VmName { mvm_ip, vm_id }),
        // Hardware is the management VM's.
        (Component::Hardware(serial), _) if names.above == Above::Nobody => {
            (Route::Hardware(serial), *destination)
        }
        // Other names are the management VM's to resolve.
        (Component::Stable(_) | Component::Hardware(_), _) => match names.above {
            Above::Nobody => (Route::Fabric, *destination),
            Above::Disconnected | Above::Connected { .. } => (Route::Uplink, *destination),
        },
    }
}

fn to_vm(names: &Names, origin: Origin, name: VmName) -> (Route, Component) {
    let unspecified = name.mvm_ip == UNSPECIFIED_IP;
    let is = |own: VmName| own.vm_id == name.vm_id && (unspecified || own.mvm_ip == name.mvm_ip);
    // On which platform a name without an address is depends on who says it: a guest's sender
    // means the one above, everybody else ours.
    let ours = if unspecified {
        origin != Origin::Local || names.above == Above::Nobody
    } else {
        names.mvm.mvm_ip == name.mvm_ip
    };
    if origin == Origin::Local && is(names.own()) {
        (Route::Local, names.own().into())
    } else if ours && is(names.mvm) {
        (Route::Local, names.mvm.into())
    } else if ours {
        to_guest(names, name.vm_id)
    } else if names.above == Above::Nobody {
        (Route::Fabric, name.into())
    } else {
        (Route::Uplink, name.into())
    }
}

/// What another platform sends is for this one: it is not sent on to a third, nor back.
fn from_fabric(names: &Names, destination: Component) -> (Route, Component) {
    match destination {
        Component::Vm { mvm_ip, vm_id }
            if mvm_ip != UNSPECIFIED_IP && mvm_ip == names.mvm.mvm_ip =>
        {
            to_vm(names, Origin::Fabric, VmName { mvm_ip, vm_id })
        }
        Component::Stable(uuid) if names.stable == Some(uuid) => (Route::Local, names.mvm.into()),
        Component::Hardware(serial) if names.above == Above::Nobody => {
            (Route::Hardware(serial), destination)
        }
        // Its sender's daemon has told all others, too.
        Component::Everywhere if names.above == Above::Nobody => {
            (Route::LocalAndGuests, destination)
        }
        _ => (Route::Unreachable(Reason::NoComponent), destination),
    }
}

/// Whether the fabric may bring a message of this kind from there: from a VM of another platform, or
/// from hardware, which whoever knows it must see to. What comes back bears the name that it was sent
/// to, of which this platform may know nothing.
pub fn is_remote(names: &Names, source: &Component, kind: Kind) -> bool {
    match source {
        Component::Vm { mvm_ip, .. } => *mvm_ip != UNSPECIFIED_IP && *mvm_ip != names.mvm.mvm_ip,
        Component::Stable(_) => kind == Kind::Undeliverable,
        Component::Hardware(_) => true,
        _ => false,
    }
}

/// Whether a component is a VM of the platform of this management VM.
pub fn is_vm_of(names: &Names, component: &Component) -> bool {
    matches!(component, Component::Vm { mvm_ip, .. } if *mvm_ip == names.mvm.mvm_ip)
}

fn to_guest(names: &Names, vm_id: u32) -> (Route, Component) {
    (Route::Guest(vm_id), names.guest(vm_id))
}

/// Whether two names mean the same VM, where one may lack the address of the platform.
pub fn is_same_vm(a: &Component, b: &Component) -> bool {
    match (a, b) {
        (
            Component::Vm { mvm_ip, vm_id },
            Component::Vm {
                mvm_ip: other_ip,
                vm_id: other_id,
            },
        ) => {
            vm_id == other_id
                && (mvm_ip == other_ip || *mvm_ip == UNSPECIFIED_IP || *other_ip == UNSPECIFIED_IP)
        }
        _ => a == b,
    }
}

/// Whether a message from `source` may be the answer to one that was sent to `destination`, and came
/// by the way that it went.
///
/// The management VM may answer for anybody: a rule may have sent the request through its broker.
/// What stable names stand for is not known here.
pub fn is_answer(names: &Names, destination: &Address, source: &Address) -> bool {
    let mvm = match names.above {
        Above::Connected { own, mvm_id } => VmName {
            mvm_ip: own.mvm_ip,
            vm_id: mvm_id,
        },
        Above::Nobody | Above::Disconnected => names.mvm,
    };
    let is_there = match destination.component {
        Component::Stable(_) => true,
        component => is_same_vm(&component, &source.component),
    };
    is_there && source.app == destination.app || is_same_vm(&mvm.into(), &source.component)
}

#[cfg(test)]
mod tests;
