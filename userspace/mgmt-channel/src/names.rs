// SPDX-License-Identifier: MIT OR Apache-2.0

//! Addresses as people write them: `APP@COMPONENT`.
//!
//! | written | component |
//! |---|---|
//! | `self` | the sender's own domain |
//! | `mvm` | the management VM of the sender's platform |
//! | `platform` | every domain of the sender's platform (broadcasts only) |
//! | `everywhere` | these, and every domain of all other platforms (broadcasts and presence) |
//! | `vm:ID` | the VM with this domain id on the sender's platform |
//! | `vm:IP/ID` | the VM with this domain id on the platform whose management VM has this address |
//! | `uuid:UUID` | the VM with this stable name |
//! | `hw:SERIAL` | the hardware controller of the machine with this serial number |

use crate::{Address, AppId, Component, Serial};
use std::net::IpAddr;
use std::str::FromStr;

/// Why a written address is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct NameError {
    text: String,
    expected: &'static str,
}

impl NameError {
    fn new(text: &str, expected: &'static str) -> Self {
        Self {
            text: text.to_owned(),
            expected,
        }
    }
}

/// A component as written: all but `vm:ID` stand for themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComponentName {
    /// `vm:ID`: complete only with the address of the sender's management VM.
    LocalVm(u32),
    /// Any other.
    Full(Component),
}

impl ComponentName {
    /// The component that it names for a sender that is `own`.
    ///
    /// A domain that does not know its management VM's address says `::`, as the bridge does.
    pub fn resolve(self, own: Option<Component>) -> Component {
        match self {
            Self::Full(component) => component,
            Self::LocalVm(vm_id) => Component::Vm {
                mvm_ip: match own {
                    Some(Component::Vm { mvm_ip, .. }) => mvm_ip,
                    _ => [0; 16],
                },
                vm_id,
            },
        }
    }
}

impl FromStr for ComponentName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        const FORMS: &str = "a component: self, mvm, platform, everywhere, vm:ID, vm:IP/ID, uuid:UUID or hw:SERIAL is expected";
        let component = match text.split_once(':') {
            None if text == "self" => Component::SelfDomain,
            None if text == "mvm" => Component::Mvm,
            None if text == "platform" => Component::Platform,
            None if text == "everywhere" => Component::Everywhere,
            Some(("vm", vm)) => match vm.rsplit_once('/') {
                None => return Ok(Self::LocalVm(vm_id(vm)?)),
                Some((ip, id)) => Component::Vm {
                    mvm_ip: mvm_ip(ip)?,
                    vm_id: vm_id(id)?,
                },
            },
            Some(("uuid", uuid)) => Component::Stable(parse_uuid(uuid)?),
            Some(("hw", serial)) => {
                Component::Hardware(Serial::new(serial.as_bytes()).map_err(|_| {
                    NameError::new(
                        serial,
                        "a serial number: 1 to 28 printable ASCII characters",
                    )
                })?)
            }
            _ => return Err(NameError::new(text, FORMS)),
        };
        Ok(Self::Full(component))
    }
}

fn vm_id(text: &str) -> Result<u32, NameError> {
    text.parse()
        .map_err(|_| NameError::new(text, "a domain id (a decimal number)"))
}

fn mvm_ip(text: &str) -> Result<[u8; 16], NameError> {
    let ip: IpAddr = text
        .parse()
        .map_err(|_| NameError::new(text, "an IP address"))?;
    Ok(match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    })
}

fn parse_uuid(text: &str) -> Result<[u8; 16], NameError> {
    let error = || {
        NameError::new(
            text,
            "a UUID (32 hexadecimal digits, with or without dashes)",
        )
    };
    let mut out = [0; 16];
    let mut digits = text.chars().filter(|&c| c != '-');
    for byte in &mut out {
        let mut digit = || digits.next().and_then(|c| c.to_digit(16)).ok_or_else(error);
        *byte = ((digit()? << 4) | digit()?) as u8;
    }
    if digits.next().is_some() {
        return Err(error());
    }
    Ok(out)
}

/// An address as written: `APP@COMPONENT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The application.
    pub app: AppId,
    /// Where it runs.
    pub component: ComponentName,
}

impl Destination {
    /// The address that it names for a sender that is `own`.
    pub fn resolve(&self, own: Option<Component>) -> Address {
        Address::new(self.component.resolve(own), self.app)
    }
}

impl FromStr for Destination {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (app, component) = text
            .split_once('@')
            .ok_or_else(|| NameError::new(text, "an address APP@COMPONENT, such as Power@mvm"))?;
        Ok(Self {
            app: AppId::new(app.as_bytes()).map_err(|_| {
                NameError::new(app, "an App_ID: 1 to 31 of A-Z a-z 0-9 . _ - is expected")
            })?,
            component: component.parse()?,
        })
    }
}

/// A component as [`ComponentName`] reads it.
pub fn show_component(component: &Component) -> String {
    component.to_string()
}

/// An address as [`Destination`] reads it.
pub fn show_address(address: &Address) -> String {
    address.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_back_as_written() {
        for text in [
            "Power@self",
            "Power@mvm",
            "Power@platform",
            "Power@everywhere",
            "P.o_w-3@vm:192.0.2.7/12",
            "P@vm:2001:db8::1/0",
            "P@uuid:00112233-4455-6677-8899-aabbccddeeff",
            "P@hw:CZ3/42:x",
        ] {
            let read: Destination = text.parse().expect(text);
            assert_eq!(show_address(&read.resolve(None)), text);
        }
    }

    #[test]
    fn a_local_vm_takes_the_senders_platform() {
        let read: Destination = "P@vm:7".parse().unwrap();
        let own = Component::Vm {
            mvm_ip: [9; 16],
            vm_id: 3,
        };
        let expected = Component::Vm {
            mvm_ip: [9; 16],
            vm_id: 7,
        };
        assert_eq!(read.resolve(Some(own)).component, expected);
        assert_eq!(show_address(&read.resolve(None)), "P@vm:7");
    }

    #[test]
    fn wrong_names_are_refused_with_what_is_wrong() {
        for (text, part) in [
            ("Power", "APP@COMPONENT"),
            ("@mvm", "App_ID"),
            ("a b@mvm", "App_ID"),
            ("aaaaaaaaaabbbbbbbbbbccccccccccdd@mvm", "App_ID"),
            ("P@", "component"),
            ("P@moon", "component"),
            ("P@vm:", "domain id"),
            ("P@vm:-1", "domain id"),
            ("P@vm:4294967296", "domain id"),
            ("P@vm:nowhere/1", "IP address"),
            ("P@uuid:0011", "UUID"),
            ("P@uuid:00112233-4455-6677-8899-aabbccddeeff0", "UUID"),
            ("P@hw:", "serial"),
        ] {
            let error = text.parse::<Destination>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
