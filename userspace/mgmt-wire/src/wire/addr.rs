// SPDX-License-Identifier: MIT OR Apache-2.0

//! Addresses: ⟨Component_ID, App_ID⟩ (paper §3.3).

use super::{WireError, array, is_zero_from, part, part_mut};
use core::{cmp::Ordering, fmt, net::Ipv6Addr};

/// Bytes of an encoded [`Component`].
pub const COMPONENT_LEN: usize = 32;
/// Bytes of a component's body, after its kind, length and reserved bytes; so also the longest
/// hardware serial number.
pub const COMPONENT_BODY_LEN: usize = 28;
/// Bytes of an encoded [`AppId`], NUL padding included: a name has 1 to 31 characters.
pub const APP_ID_LEN: usize = 32;
/// Bytes of an encoded [`Address`].
pub const ADDRESS_LEN: usize = COMPONENT_LEN + APP_ID_LEN;

const COMPONENT_UNSPECIFIED: u8 = 0;
const COMPONENT_VM: u8 = 1;
const COMPONENT_STABLE: u8 = 2;
const COMPONENT_HARDWARE: u8 = 3;
const COMPONENT_SELF: u8 = 4;
const COMPONENT_MVM: u8 = 5;
const COMPONENT_PLATFORM: u8 = 6;
const COMPONENT_EVERYWHERE: u8 = 7;

/// Which part of the data center: a VM, a hardware controller, or a name that stands for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    /// No component. Valid as a source that is yet to be stamped, never as a destination.
    #[default]
    Unspecified,
    /// ⟨MVM_IP, VM_ID⟩: the VM with this Xen domain id on the platform whose management VM has
    /// this address.
    Vm {
        /// IPv6 address of the management VM; an IPv4 one as an IPv4-mapped address.
        mvm_ip: [u8; 16],
        /// The domain id on that platform.
        vm_id: u32,
    },
    /// The stable name of a VM: its UUID, which it keeps when it migrates.
    Stable([u8; 16]),
    /// A hardware controller, by the serial number of its machine.
    Hardware(Serial),
    /// The sender's own domain. The bridge replaces it by what it stands for.
    SelfDomain,
    /// The management VM of the sender's platform. The bridge replaces it by what it stands for.
    Mvm,
    /// Every domain of the sender's platform: only a broadcast goes there. Each copy carries the
    /// name of the domain that it is for.
    Platform,
    /// As [`Component::Platform`], and every domain of all other platforms that the fabric reaches. What
    /// comes from one of these means the receiver's platform alone.
    Everywhere,
}

/// As people write it: `self`, `mvm`, `platform`, `everywhere`, `vm:ID`, `vm:IP/ID`, `uuid:UUID`,
/// `hw:SERIAL`.
impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unspecified => f.write_str("?"),
            Self::SelfDomain => f.write_str("self"),
            Self::Mvm => f.write_str("mvm"),
            Self::Platform => f.write_str("platform"),
            Self::Everywhere => f.write_str("everywhere"),
            Self::Vm { mvm_ip, vm_id } if *mvm_ip == [0; 16] => write!(f, "vm:{vm_id}"),
            Self::Vm { mvm_ip, vm_id } => {
                write!(f, "vm:{}/{vm_id}", Ipv6Addr::from(*mvm_ip).to_canonical())
            }
            Self::Stable(uuid) => {
                f.write_str("uuid:")?;
                for (i, byte) in uuid.iter().enumerate() {
                    if matches!(i, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
            Self::Hardware(serial) => {
                let serial = core::str::from_utf8(serial.as_bytes());
                write!(f, "hw:{}", serial.unwrap_or("?"))
            }
        }
    }
}

/// A hardware serial number: 1 to 28 visible ASCII characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial {
    // Zero behind `len`, so that derived equality is equality of the names.
    bytes: [u8; COMPONENT_BODY_LEN],
    len: u8,
}

impl Serial {
    /// The first in their order.
    pub const FIRST: Self = {
        let mut bytes = [0; COMPONENT_BODY_LEN];
        bytes[0] = b'!';
        Self { bytes, len: 1 }
    };

    /// Makes a serial number of `bytes`.
    pub fn new(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.is_empty()
            || bytes.len() > COMPONENT_BODY_LEN
            || !bytes.iter().all(u8::is_ascii_graphic)
        {
            return Err(WireError::Component);
        }
        let mut serial = Self {
            bytes: [0; COMPONENT_BODY_LEN],
            len: bytes.len() as u8,
        };
        serial.bytes[..bytes.len()].copy_from_slice(bytes);
        Ok(serial)
    }

    /// The serial number's characters.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl Component {
    /// Decodes a component.
    pub fn decode(bytes: &[u8; COMPONENT_LEN]) -> Result<Self, WireError> {
        Self::check(bytes)?;
        Ok(Self::of_checked(bytes))
    }

    /// Checks all that can be wrong in an encoded component.
    pub(super) fn check(bytes: &[u8; COMPONENT_LEN]) -> Result<(), WireError> {
        let [kind, len, 0, 0, body @ ..] = bytes else {
            return Err(WireError::Reserved);
        };
        let used = usize::from(*len);
        if used > body.len() {
            return Err(WireError::Component);
        }
        let rest_is_zero = match (*kind, used) {
            // Where the length is known, this takes two instructions.
            (COMPONENT_VM, 20) => *part::<8>(body, 20) == [0; 8],
            _ => is_zero_from(bytes, COMPONENT_LEN - COMPONENT_BODY_LEN + used),
        };
        if !rest_is_zero {
            return Err(WireError::Reserved);
        }
        match (*kind, used) {
            (
                COMPONENT_UNSPECIFIED
                | COMPONENT_SELF
                | COMPONENT_MVM
                | COMPONENT_PLATFORM
                | COMPONENT_EVERYWHERE,
                0,
            )
            | (COMPONENT_VM, 20)
            | (COMPONENT_STABLE, 16) => Ok(()),
            (COMPONENT_HARDWARE, _) => Serial::new(&body[..used]).map(drop),
            _ => Err(WireError::Component),
        }
    }

    /// Decodes a component that was checked; any other may be taken for none.
    pub(super) fn of_checked(bytes: &[u8; COMPONENT_LEN]) -> Self {
        let [kind, len, _, _, body @ ..] = bytes;
        match *kind {
            COMPONENT_VM => Self::Vm {
                mvm_ip: array(body, 0),
                vm_id: u32::from_le_bytes(array(body, 16)),
            },
            COMPONENT_STABLE => Self::Stable(array(body, 0)),
            COMPONENT_HARDWARE => {
                let serial = body.get(..usize::from(*len)).unwrap_or_default();
                Serial::new(serial).map_or(Self::Unspecified, Self::Hardware)
            }
            COMPONENT_SELF => Self::SelfDomain,
            COMPONENT_MVM => Self::Mvm,
            COMPONENT_PLATFORM => Self::Platform,
            COMPONENT_EVERYWHERE => Self::Everywhere,
            _ => Self::Unspecified,
        }
    }

    /// Encodes the component.
    pub fn encode(&self) -> [u8; COMPONENT_LEN] {
        let mut out = [0; COMPONENT_LEN];
        self.encode_into(&mut out);
        out
    }

    pub(super) fn encode_into(&self, out: &mut [u8; COMPONENT_LEN]) {
        *out = [0; COMPONENT_LEN];
        let [kind, length, _, _, body @ ..] = out;
        let mut put = |code: u8, parts: &[&[u8]]| {
            *kind = code;
            let mut at = 0;
            for part in parts {
                body[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
            *length = at as u8;
        };
        match self {
            Self::Unspecified => put(COMPONENT_UNSPECIFIED, &[]),
            Self::Vm { mvm_ip, vm_id } => put(COMPONENT_VM, &[mvm_ip, &vm_id.to_le_bytes()]),
            Self::Stable(uuid) => put(COMPONENT_STABLE, &[uuid]),
            Self::Hardware(serial) => put(COMPONENT_HARDWARE, &[serial.as_bytes()]),
            Self::SelfDomain => put(COMPONENT_SELF, &[]),
            Self::Mvm => put(COMPONENT_MVM, &[]),
            Self::Platform => put(COMPONENT_PLATFORM, &[]),
            Self::Everywhere => put(COMPONENT_EVERYWHERE, &[]),
        }
    }
}

/// The administrator's name of a management application: "Power", "Inventory", … (paper §3.3).
///
/// 1 to 31 of the characters `A-Z a-z 0-9 . _ -`; case matters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AppId([u8; APP_ID_LEN]);

/// In the order of their bytes. A word at a time, as a directory compares a few for every message.
impl Ord for AppId {
    fn cmp(&self, other: &Self) -> Ordering {
        let words = |id: &Self| [0, 8, 16, 24].map(|at| u64::from_be_bytes(array(&id.0, at)));
        words(self).cmp(&words(other))
    }
}

impl PartialOrd for AppId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The characters of an App_ID: a table, as every message has two names that are looked at.
const NAME_CHARACTERS: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0;
    while b < table.len() {
        table[b] = (b as u8).is_ascii_alphanumeric() || matches!(b as u8, b'.' | b'_' | b'-');
        b += 1;
    }
    table
};

/// How many bytes at the start of `bytes` are characters of an App_ID.
fn name_length(bytes: &[u8]) -> usize {
    let is_end = |&b: &u8| !NAME_CHARACTERS[usize::from(b)];
    bytes.iter().position(is_end).unwrap_or(bytes.len())
}

impl AppId {
    /// The one before all others: `-`.
    pub const FIRST: Self = {
        let mut bytes = [0; APP_ID_LEN];
        bytes[0] = b'-';
        Self(bytes)
    };

    /// Makes an App_ID of a name without padding.
    pub fn new(name: &[u8]) -> Result<Self, WireError> {
        if name.is_empty() || name.len() >= APP_ID_LEN || name_length(name) != name.len() {
            return Err(WireError::AppId);
        }
        let mut bytes = [0; APP_ID_LEN];
        bytes[..name.len()].copy_from_slice(name);
        Ok(Self(bytes))
    }

    /// Decodes an App_ID: a name, NUL-padded.
    pub fn decode(bytes: &[u8; APP_ID_LEN]) -> Result<Self, WireError> {
        let len = name_length(bytes);
        if len == 0 || len == APP_ID_LEN || !is_zero_from(bytes, len) {
            return Err(WireError::AppId);
        }
        Ok(Self(*bytes))
    }

    /// The encoded App_ID.
    pub fn as_encoded(&self) -> &[u8; APP_ID_LEN] {
        &self.0
    }

    /// The name, without padding.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(APP_ID_LEN);
        // A valid App_ID is ASCII.
        core::str::from_utf8(&self.0[..len]).unwrap_or("")
    }
}

impl core::fmt::Debug for AppId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "AppId({})", self.as_str())
    }
}

/// Where a message comes from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Which component.
    pub component: Component,
    /// Which management application in it. `None` only in a source that is yet to be stamped.
    pub app: Option<AppId>,
}

/// As people write it: `APP@COMPONENT`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let app = self.app.as_ref().map_or("?", AppId::as_str);
        write!(f, "{app}@{}", self.component)
    }
}

impl Address {
    /// The address that a sender writes where its own belongs: the bridge stamps the true one.
    pub const UNSPECIFIED: Self = Self {
        component: Component::Unspecified,
        app: None,
    };

    /// Makes an address.
    pub fn new(component: Component, app: AppId) -> Self {
        Self {
            component,
            app: Some(app),
        }
    }

    /// Decodes an address.
    pub fn decode(bytes: &[u8; ADDRESS_LEN]) -> Result<Self, WireError> {
        Self::check(bytes)?;
        Ok(Self::of_checked(bytes))
    }

    /// Checks all that can be wrong in an encoded address.
    pub(super) fn check(bytes: &[u8; ADDRESS_LEN]) -> Result<(), WireError> {
        let app = part(bytes, COMPONENT_LEN);
        Component::check(part(bytes, 0))?;
        if !is_zero_from(app, 0) {
            AppId::decode(app)?;
        }
        Ok(())
    }

    /// Decodes an address that was checked.
    pub(super) fn of_checked(bytes: &[u8; ADDRESS_LEN]) -> Self {
        let app: &[u8; APP_ID_LEN] = part(bytes, COMPONENT_LEN);
        Self {
            component: Component::of_checked(part(bytes, 0)),
            app: (app[0] != 0).then_some(AppId(*app)),
        }
    }

    /// Encodes the address.
    pub fn encode(&self) -> [u8; ADDRESS_LEN] {
        let mut out = [0; ADDRESS_LEN];
        self.encode_into(&mut out);
        out
    }

    pub(super) fn encode_into(&self, out: &mut [u8; ADDRESS_LEN]) {
        self.component.encode_into(part_mut(out, 0));
        let app = self
            .app
            .as_ref()
            .map_or(&[0; APP_ID_LEN], AppId::as_encoded);
        *part_mut(out, COMPONENT_LEN) = *app;
    }
}

#[cfg(test)]
mod tests;
