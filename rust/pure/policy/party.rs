// SPDX-License-Identifier: GPL-2.0

//! The ends of a message, as the management VM's bridge knows them.

use super::{ComponentPattern, Form, Pattern};
use crate::{
    pure::{directory::End, route::VmName},
    wire::{Address, AppId, Component, Serial}, //
};

/// What an end of a message is to the management VM that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The management VM itself.
    Mvm,
    /// A guest of it.
    Guest,
    /// A hardware controller of the platform.
    Hardware,
    /// A VM, or hardware, of another platform.
    Remote,
}

/// One end of a message, with all names that a rule may call it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    place: Place,
    /// Of a VM whose place is known.
    name: Option<VmName>,
    stable: Option<[u8; 16]>,
    serial: Option<Serial>,
    app: AppId,
}

impl Party {
    /// The end of a message that has this address, on the platform of the management VM `mvm`.
    ///
    /// `stable` is the stable name of that VM, where the bridge knows it. `None` if the address is
    /// not one that a bridge stamped or resolved.
    pub fn new(mvm: VmName, address: &Address, stable: Option<[u8; 16]>) -> Option<Self> {
        let end = End {
            component: address.component,
            app: address.app.as_ref(),
            stable,
            elsewhere: false,
        };
        Self::of(mvm, &end)
    }

    /// As [`Party::new`].
    pub fn of(mvm: VmName, end: &End<'_>) -> Option<Self> {
        let unspecified = [0; 16];
        let mut party = Self {
            place: Place::Remote,
            name: None,
            stable: end.stable,
            serial: None,
            app: *end.app?,
        };
        match end.component {
            Component::Mvm => {
                party.place = Place::Mvm;
                party.name = Some(mvm);
            }
            Component::Vm { mvm_ip, vm_id } => {
                let ours = mvm_ip == unspecified || mvm_ip == mvm.mvm_ip;
                party.name = Some(VmName {
                    mvm_ip: if ours { mvm.mvm_ip } else { mvm_ip },
                    vm_id,
                });
                if ours {
                    party.place = if vm_id == mvm.vm_id {
                        Place::Mvm
                    } else {
                        Place::Guest
                    };
                }
            }
            Component::Stable(uuid) => party.stable = Some(uuid),
            Component::Hardware(serial) => {
                if !end.elsewhere {
                    party.place = Place::Hardware;
                }
                party.serial = Some(serial);
            }
            // All other platforms: only what is about everything is about them.
            Component::Everywhere if end.elsewhere => {}
            Component::Unspecified
            | Component::SelfDomain
            | Component::Platform
            | Component::Everywhere => return None,
        }
        Some(party)
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    pub(super) fn is_same_domain(&self, other: &Self) -> bool {
        let same_stable = self.stable.is_some() && self.stable == other.stable;
        let same_name = self.name.is_some() && self.name == other.name;
        let same_serial = self.serial.is_some() && self.serial == other.serial;
        let same_serial = same_serial && self.place == other.place;
        same_stable || same_name || same_serial
    }

    /// Whether this is the application of the management VM.
    pub(super) fn is_broker(&self, app: AppId) -> bool {
        self.place == Place::Mvm && self.app == app
    }
}

/// What patterns can be compared with.
pub(super) trait Seen {
    /// The pattern of this form that it falls under, if there is one.
    fn seen_as(&self, form: Form) -> Option<ComponentPattern>;
    /// Its App_ID, if it has exactly one.
    fn app(&self) -> Option<AppId>;
}

impl Seen for Party {
    fn seen_as(&self, form: Form) -> Option<ComponentPattern> {
        let local = matches!(self.place, Place::Mvm | Place::Guest);
        match form {
            Form::Any => Some(ComponentPattern::Any),
            Form::Mvm => (self.place == Place::Mvm).then_some(ComponentPattern::Mvm),
            Form::Guests => (self.place == Place::Guest).then_some(ComponentPattern::Guests),
            Form::Guest => self
                .name
                .filter(|_| local)
                .map(|name| ComponentPattern::Guest(name.vm_id)),
            Form::Platform => self
                .name
                .map(|name| ComponentPattern::Platform(name.mvm_ip)),
            Form::Vm => self.name.map(|name| ComponentPattern::Vm {
                mvm_ip: name.mvm_ip,
                vm_id: name.vm_id,
            }),
            Form::Stable => self.stable.map(ComponentPattern::Stable),
            Form::AllHardware => {
                (self.place == Place::Hardware).then_some(ComponentPattern::AllHardware)
            }
            Form::Hardware => self.serial.map(ComponentPattern::Hardware),
        }
    }

    fn app(&self) -> Option<AppId> {
        Some(self.app)
    }
}

/// A pattern falls under those that match all that it matches.
impl Seen for Pattern {
    fn seen_as(&self, form: Form) -> Option<ComponentPattern> {
        if form == self.component.form() {
            return Some(self.component);
        }
        match (form, self.component) {
            (Form::Any, _) => Some(ComponentPattern::Any),
            (Form::Guests, ComponentPattern::Guest(_)) => Some(ComponentPattern::Guests),
            (Form::Platform, ComponentPattern::Vm { mvm_ip, .. }) => {
                Some(ComponentPattern::Platform(mvm_ip))
            }
            _ => None,
        }
    }

    fn app(&self) -> Option<AppId> {
        self.app
    }
}
