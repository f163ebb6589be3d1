// SPDX-License-Identifier: MIT OR Apache-2.0

//! The bridge of this host, as the daemon sees it: the fabric link of `/dev/mgmt`.

use crate::Host;
use crate::places::Uuid;
use mgmt_channel::{Channel, LinkState};
use mgmt_wire::{Component, HEADER_LEN, Reason, Serial};
use mgmt_xenstore::Xenstore;
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What the bridge's link of this lineage has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Of the link.
    pub lineage: u64,
    /// Messages that were written to it.
    pub accepted: u64,
}

/// A guest of this host that has, or had, a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its stable name.
    pub uuid: Uuid,
    /// Whether it has its channel.
    pub connected: bool,
}

/// The link to other platforms of a bridge.
pub trait Bridge {
    /// Where it stood when it was opened.
    fn standing(&self) -> Standing;
    /// The next message and its number, if there is one.
    fn read(&self) -> io::Result<Option<(u64, Vec<u8>)>>;
    /// Waits until there may be one.
    fn readable(&self) -> impl Future<Output = io::Result<()>>;
    /// Hands in a message. `WouldBlock`: its receiver has no room.
    fn write(&self, message: &[u8]) -> io::Result<()>;
    /// Says what became of a message that was read.
    fn settle(&self, number: u64, reason: Reason) -> io::Result<()>;
    /// A guest is on another host now.
    fn moved(&self, guest: Uuid) -> io::Result<()>;
    /// A guest that came from another host has all that was on its way to it there. What was read for
    /// it since the number `from` goes to it, and is settled.
    fn here(&self, guest: Uuid, from: u64) -> io::Result<()>;
    /// Another host is there, or is gone: for those who watch somebody there.
    fn platform(&self, host: Host, is_there: bool) -> io::Result<()>;
    /// Another host serves this hardware, or none does any more: for those who watch it.
    fn hardware_there(&self, serial: Serial, is_there: bool) -> io::Result<()>;
    /// The guests of this host.
    fn guests(&self) -> io::Result<Vec<Guest>>;
    /// The hardware that is served at this host.
    fn hardware(&self) -> io::Result<Vec<Serial>>;
}

const MAGIC: u8 = 0xCE;
const FABRIC: Opcode = opcode::read_write::<RawFabric>(MAGIC, 9);
const SETTLE: Opcode = opcode::write::<RawSettle>(MAGIC, 10);
const MOVED: Opcode = opcode::write::<RawMoved>(MAGIC, 11);
const HERE: Opcode = opcode::write::<RawHere>(MAGIC, 13);
const PLATFORM: Opcode = opcode::write::<RawPlatform>(MAGIC, 14);
const HARDWARE: Opcode = opcode::write::<RawHardware>(MAGIC, 17);

/// `struct mgmt_fabric`
#[repr(C)]
#[derive(Default)]
struct RawFabric {
    lineage: u64,
    accepted: u64,
    reserved: [u32; 4],
}

/// `struct mgmt_fabric_settle`
#[repr(C)]
struct RawSettle {
    number: u64,
    reason: u32,
    reserved: u32,
}

/// `struct mgmt_fabric_moved`
#[repr(C)]
struct RawMoved {
    uuid: Uuid,
    reserved: [u32; 4],
}

/// `struct mgmt_fabric_here`
#[repr(C)]
struct RawHere {
    uuid: Uuid,
    from: u64,
    reserved: [u32; 2],
}

/// `struct mgmt_fabric_platform`
#[repr(C)]
struct RawPlatform {
    mvm_ip: [u8; 16],
    is_there: u32,
    reserved: [u32; 3],
}

/// `struct mgmt_fabric_hardware`
#[repr(C)]
struct RawHardware {
    component: [u8; 32],
    is_there: u32,
    reserved: [u32; 3],
}

/// The bridge of this domain, by its device.
pub struct Device {
    file: AsyncFd<File>,
    standing: Standing,
    /// For what is asked of the bridge beside.
    channel: Channel,
    /// The stable names of guests, by their VM_ID.
    names: RefCell<BTreeMap<u32, Option<Uuid>>>,
    store: RefCell<Option<Xenstore>>,
    buffer: RefCell<Vec<u8>>,
}

impl Device {
    /// Opens the device and carries the link. Needs a tokio runtime.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
            .open(path)?;
        let mut raw = RawFabric::default();
        // SAFETY: the request code and `RawFabric` are those of `include/uapi/mgmt.h`; the kernel
        // reads and writes one such structure, for all of whose bytes any value is valid.
        unsafe { ioctl(file.as_fd(), Updater::<FABRIC, RawFabric>::new(&mut raw)) }?;
        // SAFETY: a `File` owns its descriptor, which stays the same until it is dropped.
        let file = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }
            .map_err(io::Error::from)?;
        Ok(Self {
            file,
            standing: Standing {
                lineage: raw.lineage,
                accepted: raw.accepted,
            },
            channel: Channel::open_at(path)?,
            names: RefCell::default(),
            store: RefCell::new(Xenstore::connect().ok()),
            buffer: RefCell::new(vec![0; 8 + HEADER_LEN + (1 << 20)]),
        })
    }

    /// The stable name of a guest, which stays the same as long as its VM_ID does.
    fn name(&self, vm_id: u32) -> Option<Uuid> {
        if let Some(known) = self.names.borrow().get(&vm_id) {
            return *known;
        }
        let mut store = self.store.borrow_mut();
        let path = format!("/local/domain/{vm_id}/vm");
        let found = store.as_mut()?.read_if_any(&path).ok()?;
        let name = found
            .as_deref()
            .and_then(|path| parse_uuid(path.rsplit('/').next()?));
        self.names.borrow_mut().insert(vm_id, name);
        name
    }
}

/// Reads a UUID with or without its dashes.
fn parse_uuid(text: &str) -> Option<Uuid> {
    let digits: String = text.chars().filter(|&c| c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 32).then(|| number.to_be_bytes())
}

impl Bridge for Device {
    fn standing(&self) -> Standing {
        self.standing
    }

    fn read(&self) -> io::Result<Option<(u64, Vec<u8>)>> {
        let mut buffer = self.buffer.borrow_mut();
        match self.file.get_ref().read(&mut buffer) {
            Ok(length) => {
                let message = buffer
                    .get(..length)
                    .and_then(|bytes| bytes.split_first_chunk());
                let (number, bytes) = message.ok_or(io::ErrorKind::InvalidData)?;
                Ok(Some((u64::from_le_bytes(*number), bytes.to_vec())))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn readable(&self) -> io::Result<()> {
        let mut guard = self.file.readable().await?;
        // It is asked again whether there is one: that costs a poll and misses nothing.
        guard.clear_ready();
        Ok(())
    }

    fn write(&self, message: &[u8]) -> io::Result<()> {
        self.file.get_ref().write_all(message)
    }

    fn settle(&self, number: u64, reason: Reason) -> io::Result<()> {
        let raw = RawSettle {
            number,
            reason: reason as u32,
            reserved: 0,
        };
        // SAFETY: the request code and `RawSettle` are those of `include/uapi/mgmt.h`; the kernel
        // only reads the structure.
        unsafe { ioctl(self.file.as_fd(), Setter::<SETTLE, RawSettle>::new(raw)) }?;
        Ok(())
    }

    fn moved(&self, uuid: Uuid) -> io::Result<()> {
        let raw = RawMoved {
            uuid,
            reserved: [0; 4],
        };
        // SAFETY: the request code and `RawMoved` are those of `include/uapi/mgmt.h`; the kernel
        // only reads the structure.
        unsafe { ioctl(self.file.as_fd(), Setter::<MOVED, RawMoved>::new(raw)) }?;
        Ok(())
    }

    fn here(&self, uuid: Uuid, from: u64) -> io::Result<()> {
        let raw = RawHere {
            uuid,
            from,
            reserved: [0; 2],
        };
        // SAFETY: the request code and `RawHere` are those of `include/uapi/mgmt.h`; the kernel
        // only reads the structure.
        unsafe { ioctl(self.file.as_fd(), Setter::<HERE, RawHere>::new(raw)) }?;
        Ok(())
    }

    fn platform(&self, host: Host, is_there: bool) -> io::Result<()> {
        let raw = RawPlatform {
            mvm_ip: host.0,
            is_there: is_there.into(),
            reserved: [0; 3],
        };
        // SAFETY: the request code and `RawPlatform` are those of `include/uapi/mgmt.h`; the kernel
        // only reads the structure.
        unsafe { ioctl(self.file.as_fd(), Setter::<PLATFORM, RawPlatform>::new(raw)) }?;
        Ok(())
    }

    fn hardware_there(&self, serial: Serial, is_there: bool) -> io::Result<()> {
        let raw = RawHardware {
            component: Component::Hardware(serial).encode(),
            is_there: is_there.into(),
            reserved: [0; 3],
        };
        // SAFETY: the request code and `RawHardware` are those of `include/uapi/mgmt.h`; the kernel
        // only reads the structure.
        unsafe { ioctl(self.file.as_fd(), Setter::<HARDWARE, RawHardware>::new(raw)) }?;
        Ok(())
    }

    fn hardware(&self) -> io::Result<Vec<Serial>> {
        self.channel.hardware().map_err(io::Error::other)
    }

    fn guests(&self) -> io::Result<Vec<Guest>> {
        let links = self.channel.links().map_err(io::Error::other)?;
        let ids = links.iter().filter_map(|link| link.guest);
        let ids: Vec<u32> = ids.collect();
        self.names.borrow_mut().retain(|id, _| ids.contains(id));
        let guest = |link: &mgmt_channel::Link| {
            Some(Guest {
                uuid: self.name(link.guest?)?,
                connected: link.state == LinkState::Connected,
            })
        };
        Ok(links.iter().filter_map(guest).collect())
    }
}

/// Whether a refused message may be handed in again.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    ) || error.raw_os_error() == Some(Errno::NOMEM.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_and_codes_match_the_header() {
        assert_eq!(size_of::<RawFabric>(), 32);
        assert_eq!(size_of::<RawSettle>(), 16);
        assert_eq!(size_of::<RawMoved>(), 32);
        assert_eq!(FABRIC as u64, 0xc020_ce09);
        assert_eq!(SETTLE as u64, 0x4010_ce0a);
        assert_eq!(MOVED as u64, 0x4020_ce0b);
        assert_eq!(size_of::<RawHere>(), 32);
        assert_eq!(HERE as u64, 0x4020_ce0d);
        assert_eq!(size_of::<RawPlatform>(), 32);
        assert_eq!(PLATFORM as u64, 0x4020_ce0e);
        assert_eq!(size_of::<RawHardware>(), 48);
        assert_eq!(HARDWARE as u64, 0x4030_ce11);
    }

    #[test]
    fn a_uuid_is_read() {
        let wanted = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128.to_be_bytes();
        assert_eq!(
            parse_uuid("00112233-4455-6677-8899-aabbccddeeff"),
            Some(wanted)
        );
        assert_eq!(parse_uuid("00112233"), None);
    }
}
