// SPDX-License-Identifier: MIT OR Apache-2.0

//! The ioctls of `include/uapi/mgmt.h`.

use crate::{Address, AppId, Component, Error, Result, Serial};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, Updater, ioctl, opcode};
use std::os::fd::BorrowedFd;

/// The ABI version that this library is written for.
pub(crate) const ABI_VERSION: u32 = 1;

const MAGIC: u8 = 0xCE;
const BIND: Opcode = opcode::write::<RawBind>(MAGIC, 1);
const INFO: Opcode = opcode::read::<RawInfo>(MAGIC, 2);
const SET_MVM: Opcode = opcode::write::<RawMvm>(MAGIC, 3);
const POLICY_LOAD: Opcode = opcode::read_write::<RawPolicyLoad>(MAGIC, 5);
const POLICY_READ: Opcode = opcode::read_write::<RawPolicyRead>(MAGIC, 6);
const RULE: Opcode = opcode::read_write::<RawRule>(MAGIC, 7);
const ACCOUNT: Opcode = opcode::read_write::<RawAccount>(MAGIC, 8);
const LINK: Opcode = opcode::read_write::<RawLink>(MAGIC, 4);
const BIND_HARDWARE: Opcode = opcode::write::<RawBindHardware>(MAGIC, 15);
const HARDWARE: Opcode = opcode::read_write::<RawHardware>(MAGIC, 16);

/// `struct mgmt_bind`
#[repr(C)]
struct RawBind {
    app: [u8; 32],
    flags: u32,
    reserved: [u32; 7],
}

/// `struct mgmt_bind_hardware`
#[repr(C)]
struct RawBindHardware {
    address: [u8; 64],
    flags: u32,
    reserved: [u32; 7],
}

/// `struct mgmt_hardware`
#[repr(C)]
#[derive(Default)]
struct RawHardware {
    component: [u8; 32],
    reserved: [u32; 4],
}

/// `struct mgmt_info`
#[repr(C)]
#[derive(Default)]
struct RawInfo {
    abi: u32,
    flags: u32,
    component: [u8; 32],
    app: [u8; 32],
    max_payload: u32,
    queue_bytes: u32,
    links: u32,
    endpoints: u32,
    reserved: [u32; 8],
}

/// `struct mgmt_mvm`
#[repr(C)]
struct RawMvm {
    ip: [u8; 16],
    reserved: [u32; 4],
}

/// `struct mgmt_link`
#[repr(C)]
#[derive(Default)]
struct RawLink {
    id: u32,
    state: u32,
    rx_messages: u64,
    rx_bytes: u64,
    tx_messages: u64,
    tx_bytes: u64,
    undeliverable: u64,
    stalls: u64,
    queued_messages: u32,
    queued_bytes: u32,
    epoch: u32,
    reserved: [u32; 5],
}

/// `struct mgmt_policy_load`
#[repr(C)]
#[derive(Default)]
struct RawPolicyLoad {
    text: u64,
    length: u32,
    line: u32,
    column: u32,
    reserved: [u32; 3],
}

/// `struct mgmt_policy_read`
#[repr(C)]
#[derive(Default)]
struct RawPolicyRead {
    text: u64,
    length: u32,
    rules: u32,
    reserved: [u32; 4],
}

/// `struct mgmt_rule`
#[repr(C)]
#[derive(Default)]
struct RawRule {
    rule: u32,
    line: u32,
    hits: u64,
    reserved: [u32; 4],
}

/// `struct mgmt_account`
#[repr(C)]
#[derive(Default)]
struct RawAccount {
    kind: u32,
    id: u32,
    used: Slots,
    max: Slots,
    refusals: u64,
    reserved: [u32; 4],
}

/// Of what an account may hold: `struct mgmt_slots`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// Bytes of messages on their way to the owner's receivers.
    pub bytes: u32,
    /// How many these are.
    pub messages: u32,
    /// Bound App_IDs.
    pub endpoints: u32,
    /// Watches.
    pub watches: u32,
    /// Requests that await their reply.
    pub replies: u32,
    /// Pages that are granted to the owner.
    pub pages: u32,
}

/// Whose account it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// All open files of a user of this domain.
    User(u32),
    /// The guest with this domain id.
    Guest(u32),
    /// The management VM of this domain.
    Uplink,
    /// All other platforms.
    Fabric,
}

/// One account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Whose it is.
    pub owner: Owner,
    /// What it holds.
    pub used: Slots,
    /// What it may.
    pub max: Slots,
    /// How often there was no room for something.
    pub refusals: u64,
}

/// What one rule has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleHits {
    /// Where it stands in the text, from 1; 0 for a built-in one.
    pub line: u32,
    /// How often it has decided since it was loaded.
    pub hits: u64,
}

/// What an open file and its domain are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// This domain's component; `None` while the module does not know it.
    pub component: Option<Component>,
    /// The App_ID bound to this file.
    pub app: Option<AppId>,
    /// The channel to Dom-M is connected.
    pub uplink: bool,
    /// This domain is a management VM.
    pub mvm: bool,
    /// Bytes of the largest payload.
    pub max_payload: usize,
    /// Capacity of this file's receive queue, bytes.
    pub queue_bytes: u32,
    /// Connected guests.
    pub links: u32,
    /// Bound App_IDs in this domain.
    pub endpoints: u32,
}

/// How far a link has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// The two sides are negotiating.
    Connecting,
    /// Messages pass.
    Connected,
    /// It is closed.
    Closed,
    /// A state that this library does not know.
    Other(u32),
}

impl std::fmt::Display for LinkState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Connected => f.write_str("connected"),
            Self::Closed => f.write_str("closed"),
            Self::Other(n) => write!(f, "state {n}"),
        }
    }
}

/// One link's counters, since its channel was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The guest's domain id, or `None` for the channel to Dom-M.
    pub guest: Option<u32>,
    /// How far it has come.
    pub state: LinkState,
    /// Valid messages taken from the channel.
    pub rx_messages: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Messages put into the channel.
    pub tx_messages: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Messages of this link that went back to it.
    pub undeliverable: u64,
    /// Times that a full receiver stopped this link.
    pub stalls: u64,
    /// Messages waiting for room in the channel.
    pub queued_messages: u32,
    /// Their bytes.
    pub queued_bytes: u32,
    /// Incarnation of the channel.
    pub epoch: u32,
}

const LINK_UPLINK: u32 = u32::MAX;

const BIND_SHARED: u32 = 1;

pub(crate) fn bind(fd: BorrowedFd<'_>, app: &AppId, shared: bool) -> Result<()> {
    let raw = RawBind {
        app: *app.as_encoded(),
        flags: if shared { BIND_SHARED } else { 0 },
        reserved: [0; 7],
    };
    // SAFETY: the request code and `RawBind` are those of `include/uapi/mgmt.h`; the kernel only
    // reads the structure.
    let done = unsafe { ioctl(fd, Setter::<BIND, RawBind>::new(raw)) };
    done.map_err(|errno| match errno {
        Errno::ADDRINUSE => Error::NameTaken(app.as_str().to_owned()),
        other => Error::from_errno("bind", other),
    })
}

pub(crate) fn bind_hardware(fd: BorrowedFd<'_>, serial: Serial, app: &AppId) -> Result<()> {
    let address = Address::new(Component::Hardware(serial), *app);
    let raw = RawBindHardware {
        address: address.encode(),
        flags: 0,
        reserved: [0; 7],
    };
    // SAFETY: the request code and `RawBindHardware` are those of `include/uapi/mgmt.h`; the kernel
    // only reads the structure.
    let done = unsafe { ioctl(fd, Setter::<BIND_HARDWARE, RawBindHardware>::new(raw)) };
    done.map_err(|errno| match errno {
        Errno::ADDRINUSE => Error::NameTaken(address.to_string()),
        other => Error::from_errno("bind to hardware", other),
    })
}

pub(crate) fn hardware(fd: BorrowedFd<'_>) -> Result<Vec<Serial>> {
    let mut served = Vec::new();
    let mut raw = RawHardware::default();
    loop {
        // SAFETY: the request code and `RawHardware` are those of `include/uapi/mgmt.h`; the kernel
        // reads and writes one such structure, for all of whose bytes any value is valid.
        match unsafe { ioctl(fd, Updater::<HARDWARE, RawHardware>::new(&mut raw)) } {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(served),
            Err(errno) => return Err(Error::from_errno("list hardware", errno)),
        }
        match Component::decode(&raw.component)? {
            Component::Hardware(serial) => served.push(serial),
            _ => return Err(Error::Malformed("no hardware")),
        }
    }
}

pub(crate) fn info(fd: BorrowedFd<'_>) -> Result<Info> {
    let mut raw = RawInfo::default();
    // SAFETY: the request code and `RawInfo` are those of `include/uapi/mgmt.h`; the kernel writes
    // one such structure, for all of whose bytes any value is valid.
    unsafe { ioctl(fd, Updater::<INFO, RawInfo>::new(&mut raw)) }
        .map_err(|errno| Error::from_errno("info", errno))?;
    if raw.abi != ABI_VERSION {
        return Err(Error::Abi {
            found: raw.abi,
            expected: ABI_VERSION,
        });
    }
    Ok(Info {
        component: match Component::decode(&raw.component)? {
            Component::Unspecified => None,
            known => Some(known),
        },
        app: if raw.app == [0; 32] {
            None
        } else {
            Some(AppId::decode(&raw.app)?)
        },
        uplink: raw.flags & 2 != 0,
        mvm: raw.flags & 4 != 0,
        max_payload: raw.max_payload as usize,
        queue_bytes: raw.queue_bytes,
        links: raw.links,
        endpoints: raw.endpoints,
    })
}

pub(crate) fn load_policy(fd: BorrowedFd<'_>, text: &[u8]) -> Result<()> {
    let mut raw = RawPolicyLoad {
        text: text.as_ptr() as u64,
        // The kernel refuses what is too long.
        length: u32::try_from(text.len()).unwrap_or(u32::MAX),
        ..RawPolicyLoad::default()
    };
    // SAFETY: the request code and `RawPolicyLoad` are those of `include/uapi/mgmt.h`; the kernel
    // reads `length` bytes of `text`, and writes the structure.
    let done = unsafe { ioctl(fd, Updater::<POLICY_LOAD, RawPolicyLoad>::new(&mut raw)) };
    done.map_err(|errno| match errno {
        Errno::INVAL if raw.line != 0 => Error::Rule {
            line: raw.line,
            column: raw.column,
        },
        other => Error::from_errno("load rules", other),
    })
}

pub(crate) fn read_policy(fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let mut text: Vec<u8> = Vec::new();
    loop {
        let mut raw = RawPolicyRead {
            text: text.as_mut_ptr() as u64,
            length: u32::try_from(text.len()).unwrap_or(u32::MAX),
            ..RawPolicyRead::default()
        };
        // SAFETY: the request code and `RawPolicyRead` are those of `include/uapi/mgmt.h`; the
        // kernel writes at most `length` bytes to `text`, and the structure.
        let done = unsafe { ioctl(fd, Updater::<POLICY_READ, RawPolicyRead>::new(&mut raw)) };
        match done {
            // Others may have been loaded since it said how long they are: it says so again.
            Err(Errno::NOSPC) => text.resize(raw.length as usize, 0),
            Err(errno) => return Err(Error::from_errno("read rules", errno)),
            Ok(()) => {
                text.truncate(raw.length as usize);
                return Ok(text);
            }
        }
    }
}

/// The first of the built-in rules.
const BUILT_IN: u32 = 0x10000;

pub(crate) fn rule_hits(fd: BorrowedFd<'_>, number: u32, built_in: bool) -> Result<RuleHits> {
    let mut raw = RawRule {
        rule: if built_in { BUILT_IN + number } else { number },
        ..RawRule::default()
    };
    // SAFETY: the request code and `RawRule` are those of `include/uapi/mgmt.h`; the kernel writes
    // the structure.
    unsafe { ioctl(fd, Updater::<RULE, RawRule>::new(&mut raw)) }
        .map_err(|errno| Error::from_errno("rule", errno))?;
    Ok(RuleHits {
        line: raw.line,
        hits: raw.hits,
    })
}

pub(crate) fn set_mvm(fd: BorrowedFd<'_>, ip: [u8; 16]) -> Result<()> {
    let raw = RawMvm {
        ip,
        reserved: [0; 4],
    };
    // SAFETY: the request code and `RawMvm` are those of `include/uapi/mgmt.h`; the kernel only
    // reads the structure.
    unsafe { ioctl(fd, Setter::<SET_MVM, RawMvm>::new(raw)) }
        .map_err(|errno| Error::from_errno("set the address of the management VM", errno))
}

/// The link with the smallest id from `id` on.
fn link(fd: BorrowedFd<'_>, id: u32) -> Result<Option<RawLink>> {
    let mut raw = RawLink {
        id,
        ..RawLink::default()
    };
    // SAFETY: the request code and `RawLink` are those of `include/uapi/mgmt.h`; the kernel reads
    // and writes one such structure, for all of whose bytes any value is valid.
    match unsafe { ioctl(fd, Updater::<LINK, RawLink>::new(&mut raw)) } {
        Ok(()) => Ok(Some(raw)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(Error::from_errno("read a link's counters", errno)),
    }
}

pub(crate) fn links(fd: BorrowedFd<'_>) -> Result<Vec<Link>> {
    let mut links = Vec::new();
    let mut next = Some(0);
    while let Some(id) = next {
        let Some(raw) = link(fd, id)? else { break };
        next = raw.id.checked_add(1);
        links.push(Link {
            guest: (raw.id != LINK_UPLINK).then_some(raw.id),
            state: match raw.state {
                1 => LinkState::Connecting,
                2 => LinkState::Connected,
                3 => LinkState::Closed,
                other => LinkState::Other(other),
            },
            rx_messages: raw.rx_messages,
            rx_bytes: raw.rx_bytes,
            tx_messages: raw.tx_messages,
            tx_bytes: raw.tx_bytes,
            undeliverable: raw.undeliverable,
            stalls: raw.stalls,
            queued_messages: raw.queued_messages,
            queued_bytes: raw.queued_bytes,
            epoch: raw.epoch,
        });
    }
    Ok(links)
}

const ACCOUNT_UID: u32 = 1;
const ACCOUNT_GUEST: u32 = 2;
const ACCOUNT_UPLINK: u32 = 3;
const ACCOUNT_FABRIC: u32 = 4;

pub(crate) fn accounts(fd: BorrowedFd<'_>) -> Result<Vec<Account>> {
    let mut accounts = Vec::new();
    let mut raw = RawAccount::default();
    loop {
        // SAFETY: the request code and `RawAccount` are those of `include/uapi/mgmt.h`; the kernel
        // reads and writes one such structure, for all of whose bytes any value is valid.
        match unsafe { ioctl(fd, Updater::<ACCOUNT, RawAccount>::new(&mut raw)) } {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(accounts),
            Err(errno) => return Err(Error::from_errno("read an account", errno)),
        }
        let owner = match raw.kind {
            ACCOUNT_UID => Some(Owner::User(raw.id)),
            ACCOUNT_GUEST => Some(Owner::Guest(raw.id)),
            ACCOUNT_UPLINK => Some(Owner::Uplink),
            ACCOUNT_FABRIC => Some(Owner::Fabric),
            // One that this library does not know.
            _ => None,
        };
        accounts.extend(owner.map(|owner| Account {
            owner,
            used: raw.used,
            max: raw.max,
            refusals: raw.refusals,
        }));
        match raw.id.checked_add(1) {
            Some(next) => raw.id = next,
            None => (raw.kind, raw.id) = (raw.kind + 1, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    /// The layouts are those of `include/uapi/mgmt.h`, without padding.
    #[test]
    fn layouts_match_the_header() {
        assert_eq!(size_of::<RawBind>(), 64);
        assert_eq!(size_of::<RawBindHardware>(), 96);
        assert_eq!(size_of::<RawInfo>(), 120);
        assert_eq!(offset_of!(RawInfo, max_payload), 72);
        assert_eq!(size_of::<RawMvm>(), 32);
        assert_eq!(size_of::<RawLink>(), 88);
        assert_eq!(offset_of!(RawLink, queued_messages), 56);
        assert_eq!(size_of::<RawAccount>(), 80);
        assert_eq!(offset_of!(RawAccount, refusals), 56);
    }

    /// `_IOW(0xCE, 1, struct mgmt_bind)` and so on, spelled out.
    #[test]
    fn request_codes_match_the_header() {
        assert_eq!(BIND as u64, 0x4040_ce01);
        assert_eq!(INFO as u64, 0x8078_ce02);
        assert_eq!(SET_MVM as u64, 0x4020_ce03);
        assert_eq!(LINK as u64, 0xc058_ce04);
        assert_eq!(ACCOUNT as u64, 0xc050_ce08);
        assert_eq!(BIND_HARDWARE as u64, 0x4060_ce0f);
    }
}
