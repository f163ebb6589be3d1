// SPDX-License-Identifier: MIT OR Apache-2.0

//! Buffers that end where memory ends, and addresses where there is none.

use crate::dice::Dice;
use crate::sys::Address;
use anyhow::{Result, ensure};

const PAGE: usize = 4096;

/// Pages that may be written, one that may not be touched, and one that may only be read.
pub struct Memory {
    base: *mut u8,
    len: usize,
}

impl Memory {
    /// Room for a buffer of `room` bytes.
    pub fn new(room: usize) -> Result<Self> {
        let len = room.next_multiple_of(PAGE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: A new mapping, at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len + 2 * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            )
        };
        ensure!(base != libc::MAP_FAILED, "no memory");
        let base = base.cast::<u8>();
        for (page, rights) in [(len, libc::PROT_NONE), (len + PAGE, libc::PROT_READ)] {
            // SAFETY: The page is in the new mapping, and nothing refers to it.
            let done = unsafe { libc::mprotect(base.add(page).cast(), PAGE, rights) };
            ensure!(done == 0, "cannot protect memory");
        }
        Ok(Self { base, len })
    }

    /// The address of a buffer of `len` bytes behind which there is nothing. Its bytes are 0xa5.
    pub fn buffer(&self, len: usize) -> Address {
        assert!(len <= self.len);
        // SAFETY: The bytes are in the pages that may be written, and nothing refers to them.
        unsafe { self.base.add(self.len - len).write_bytes(0xa5, len) };
        Address(self.base as usize + self.len - len)
    }

    /// As [`Memory::buffer`], with these bytes in it.
    pub fn put(&self, bytes: &[u8]) -> Address {
        let at = self.buffer(bytes.len());
        // SAFETY: The buffer has this length, and is nowhere in `bytes`.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at.0 as *mut u8, bytes.len()) };
        at
    }

    /// The bytes of the last buffer of this length.
    pub fn get(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        // SAFETY: As in `put`.
        unsafe {
            std::ptr::copy_nonoverlapping(self.base.add(self.len - len), bytes.as_mut_ptr(), len);
        }
        bytes
    }

    /// The address of a buffer of which only a first part is there, with the beginning of `bytes`.
    pub fn put_part(&self, dice: &mut Dice, bytes: &[u8]) -> Address {
        self.put(&bytes[..dice.below(bytes.len())])
    }

    /// An address where nothing can be read.
    pub fn unreadable(&self, dice: &mut Dice) -> Address {
        let guard = self.base as usize + self.len;
        Address(dice.choose(&[
            0,
            8,
            guard,
            0xffff_8880_0000_0000,
            0x8000_0000_0000_0000,
            usize::MAX - 7,
        ]))
    }

    /// An address where `len` bytes cannot be written.
    pub fn unwritable(&self, dice: &mut Dice, len: usize) -> Address {
        let guard = self.base as usize + self.len;
        match dice.below(4) {
            0 => Address(guard + PAGE),
            // Memory ends in the buffer, or before it.
            1 => Address(guard - dice.below(len.clamp(1, self.len))),
            _ => self.unreadable(dice),
        }
    }
}
