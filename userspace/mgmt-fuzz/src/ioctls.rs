// SPDX-License-Identifier: MIT OR Apache-2.0

//! The ioctls of `include/uapi/mgmt.h`: what is passed, good and bad, and what must come of it.

use crate::dice::Dice;
use crate::memory::Memory;
use crate::sys::Address;
use libc::{EFAULT, EINVAL, EMSGSIZE, ENOENT, ENOSPC, ENOTTY, EPROTONOSUPPORT};

const WRITE: u32 = 1 << 30;
const READ: u32 = 2 << 30;

const fn request(direction: u32, number: u32, size: usize) -> u32 {
    direction | ((size as u32) << 16) | (0xce << 8) | number
}

pub const BIND: u32 = request(WRITE, 1, 64);
pub const INFO: u32 = request(READ, 2, 120);
const SET_MVM: u32 = request(WRITE, 3, 32);
const LINK: u32 = request(READ | WRITE, 4, 88);
const POLICY_LOAD: u32 = request(READ | WRITE, 5, 32);
const POLICY_READ: u32 = request(READ | WRITE, 6, 32);
const RULE: u32 = request(READ | WRITE, 7, 32);
const ACCOUNT: u32 = request(READ | WRITE, 8, 80);
pub const FABRIC: u32 = request(READ | WRITE, 9, 32);
pub const FABRIC_SETTLE: u32 = request(WRITE, 10, 16);
pub const FABRIC_MOVED: u32 = request(WRITE, 11, 32);
const EXCHANGE: u32 = request(READ | WRITE, 12, 40);
const BIND_HARDWARE: u32 = request(WRITE, 15, 96);
const HARDWARE: u32 = request(READ | WRITE, 16, 48);

const ALL: [u32; 10] = [
    BIND,
    INFO,
    SET_MVM,
    LINK,
    POLICY_LOAD,
    POLICY_READ,
    RULE,
    ACCOUNT,
    BIND_HARDWARE,
    HARDWARE,
];
const ADMINS: [u32; 8] = [
    SET_MVM,
    LINK,
    POLICY_LOAD,
    POLICY_READ,
    RULE,
    ACCOUNT,
    BIND_HARDWARE,
    HARDWARE,
];

/// What forbids nothing to the traffic beside.
const RULES: &[u8] = b"# any\nallow * -> *\n";
const MAX_TEXT: u32 = 4 << 20;

/// A call: its request, its argument, and the errnos that it may have (0: success).
pub type Call = (u32, Address, Vec<i32>);

fn size_of(request: u32) -> usize {
    ((request >> 16) & 0x3fff) as usize
}

/// An ioctl that does not exist.
pub fn unknown(dice: &mut Dice, memory: &Memory) -> Call {
    let known = dice.choose(&ALL);
    let request = match dice.below(4) {
        0 => known ^ (1 << (16 + dice.below(8))),
        1 => known ^ (READ | WRITE),
        2 => known ^ 0x100,
        _ => request(READ | WRITE, 200 + dice.below(50) as u32, dice.below(300)),
    };
    let argument = dice.choose(&[Address(0), memory.buffer(300)]);
    (request, argument, vec![ENOTTY])
}

/// A known one, with an argument that cannot be read or written.
pub fn no_memory(dice: &mut Dice, memory: &Memory) -> Call {
    let request = dice.choose(&ALL);
    let at = match request {
        INFO => memory.unwritable(dice, size_of(request)),
        _ => memory.unreadable(dice),
    };
    (request, at, vec![EFAULT])
}

/// What only an administrator may ask. `own_ip` is this platform's address, `text` room for rules.
pub fn admin(dice: &mut Dice, memory: &Memory, text: &Memory, own_ip: [u8; 16]) -> Call {
    let request = dice.choose(&ADMINS);
    let mut bytes = vec![0; size_of(request)];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    // What it may come to, and where its reserved bytes begin, if it has any.
    let (allowed, reserved) = match request {
        SET_MVM => {
            put(0, &own_ip);
            (vec![0], Some(16))
        }
        LINK => {
            let id = dice.choose(&[0, 1, 7, u32::MAX - 1, u32::MAX]);
            put(0, &id.to_le_bytes());
            (vec![0, ENOENT], None)
        }
        ACCOUNT => {
            for at in [0, 4] {
                let number = dice.choose(&[0u32, 1, 2, 3, 4, 77, u32::MAX]);
                put(at, &number.to_le_bytes());
            }
            (vec![0, ENOENT], None)
        }
        POLICY_LOAD => {
            let (at, length, errno) = rules(dice, text);
            put(0, &at.0.to_le_bytes());
            put(8, &length.to_le_bytes());
            (vec![errno], Some(20))
        }
        POLICY_READ => {
            let room = dice.choose(&[0, 1, 4096]);
            let at = match dice.below(3) {
                0 => text.unwritable(dice, room),
                _ => text.buffer(room),
            };
            put(0, &at.0.to_le_bytes());
            put(8, &(room as u32).to_le_bytes());
            (vec![0, EFAULT, ENOSPC], Some(16))
        }
        BIND_HARDWARE => {
            // Any address but one of hardware.
            let component = dice.choose(&[0u8, 1, 4, 5, 6, 9, 255]);
            put(0, &[component]);
            put(32, b"Fuzzed");
            (vec![EINVAL], Some(68))
        }
        HARDWARE => {
            let (component, errnos) = match dice.below(3) {
                0 => (&[0][..], vec![0, ENOENT]),
                1 => (&[3, 2, 0, 0, b'!', b'!'][..], vec![0, ENOENT]),
                _ => (&[dice.choose(&[3u8, 4, 6, 9, 255])][..], vec![EINVAL]),
            };
            put(0, component);
            (errnos, Some(32))
        }
        _ => {
            let number = dice.choose(&[0, 1, 0x1_0000, 0x1_0005, 0x1_ffff, u32::MAX]);
            put(0, &number.to_le_bytes());
            (vec![0, ENOENT], Some(16))
        }
    };
    if let (Some(from), true) = (reserved, dice.once_in(4)) {
        bytes[from + dice.below(size_of(request) - from)] = 1;
        return (request, memory.put(&bytes), vec![EINVAL]);
    }
    (request, memory.put(&bytes), allowed)
}

/// An exchange in which nothing is sent or received, on a bound file.
pub fn exchange(dice: &mut Dice, memory: &Memory, text: &Memory) -> Call {
    let mut bytes = [0; 40];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let errno = match dice.below(5) {
        0 => {
            put(24 + dice.below(16), &[1]);
            EINVAL
        }
        1 => {
            put(0, &text.unreadable(dice).0.to_le_bytes());
            put(16, &4096u32.to_le_bytes());
            EFAULT
        }
        // Less than a header.
        2 => {
            put(0, &text.buffer(192).0.to_le_bytes());
            put(16, &(1 + dice.below(191) as u32).to_le_bytes());
            EINVAL
        }
        // A header of another version.
        3 => {
            put(
                0,
                &text.put(&[dice.choose(&[0, 2, 255]); 300]).0.to_le_bytes(),
            );
            put(16, &300u32.to_le_bytes());
            EPROTONOSUPPORT
        }
        _ => 0,
    };
    (EXCHANGE, memory.put(&bytes), vec![errno])
}

/// Rules to load: where they are, how many bytes, and the errno.
fn rules(dice: &mut Dice, text: &Memory) -> (Address, u32, i32) {
    match dice.below(5) {
        0 => {
            let nonsense = [b"allow ".to_vec(), dice.bytes(200)].concat();
            (text.put(&nonsense), nonsense.len() as u32, EINVAL)
        }
        1 => (
            text.put(RULES),
            MAX_TEXT + 1 + dice.below(1000) as u32,
            EMSGSIZE,
        ),
        2 => (text.put(RULES), u32::MAX, EMSGSIZE),
        3 => (text.unreadable(dice), 100, EFAULT),
        _ => (text.put(RULES), RULES.len() as u32, 0),
    }
}

/// Whether only an administrator may ask for it.
pub fn is_admins(request: u32) -> bool {
    ADMINS.contains(&request)
}
