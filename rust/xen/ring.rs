// SPDX-License-Identifier: GPL-2.0

//! Shared pages as the memory of a ring.

use super::{bytes::Bytes, grant::SharedPages};
use crate::{
    bindings,
    pure::ring::SharedMemory, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    sync::atomic::{ordering, Atomic}, //
};

/// Most data pages of a ring, as a power of two: with the control page they are mapped as one.
pub(crate) const MAX_PAGE_ORDER: u32 = 3;

/// Pages of a ring with `1 << order` data pages.
pub(crate) const fn ring_pages(order: u32) -> usize {
    1 + (1 << order)
}

/// The pages of one ring: a control page, then a power of two of data pages.
///
/// # Invariants
///
/// `pages` has one page and `size` bytes, and `size` is a power of two.
pub(crate) struct RingMemory {
    pages: SharedPages,
    size: u32,
}

impl RingMemory {
    /// Takes these pages as a ring.
    pub(crate) fn new(pages: SharedPages) -> Result<Self> {
        let size = pages.len().saturating_sub(PAGE_SIZE);
        if !size.is_power_of_two() || size > PAGE_SIZE << MAX_PAGE_ORDER {
            return Err(EINVAL);
        }
        Ok(Self {
            pages,
            size: size as u32,
        })
    }

    /// Appends `length` data bytes from `at` on.
    pub(crate) fn append(&self, at: u32, length: usize, to: &mut Bytes) {
        let from = self.data(at, length);
        // SAFETY: `data` checked that the range is within the pages; so many bytes may be written,
        // and are.
        unsafe {
            to.extend_with(length, |to| {
                bindings::mgmt_helper_copy_shared(to.cast(), from, length);
            });
        }
    }

    fn control(&self, field: usize) -> &Atomic<u32> {
        assert!(field + 4 <= PAGE_SIZE && field % 4 == 0);
        // SAFETY: The field is aligned and within the control page, which lives as long as `self`.
        // Everybody accesses it atomically: this domain here, the other one as one machine word.
        unsafe { Atomic::from_ptr(self.pages.base().as_ptr().add(field).cast()) }
    }

    /// The word of data at `at`, if these bytes are one: most of what is not a message.
    fn word(&self, at: u32, bytes: &[u8]) -> Option<&Atomic<u64>> {
        if bytes.len() != size_of::<u64>() || at as usize % size_of::<u64>() != 0 {
            return None;
        }
        let data = self.data(at, bytes.len());
        // SAFETY: `data` checked that the word is within the pages, which live as long as `self`; it is
        // aligned. Everybody accesses it atomically or as bytes that nobody trusts.
        Some(unsafe { Atomic::from_ptr(data.cast()) })
    }

    /// The data bytes from `at` on, `len` of them, as an address.
    fn data(&self, at: u32, len: usize) -> *mut c_void {
        let at = at as usize;
        // A wrong caller must not reach beyond the pages, whatever the peer made it believe.
        assert!(len <= self.size as usize && at <= self.size as usize - len);
        self.pages
            .base()
            .as_ptr()
            .wrapping_add(PAGE_SIZE + at)
            .cast()
    }
}

impl SharedMemory for RingMemory {
    fn load(&self, field: usize) -> u32 {
        self.control(field).load(ordering::Acquire)
    }

    fn store(&self, field: usize, value: u32) {
        self.control(field).store(value, ordering::Release);
    }

    fn fence(&self) {
        // SAFETY: A barrier has no preconditions.
        unsafe { bindings::mgmt_helper_virt_mb() };
    }

    fn size(&self) -> u32 {
        self.size
    }

    fn read(&self, at: u32, out: &mut [u8]) {
        if let Some(word) = self.word(at, out) {
            return out.copy_from_slice(&word.load(ordering::Relaxed).to_ne_bytes());
        }
        let from = self.data(at, out.len());
        // SAFETY: `data` checked that the range is within the pages, and `out` is ours.
        unsafe { bindings::mgmt_helper_copy_shared(out.as_mut_ptr().cast(), from, out.len()) };
    }

    fn write(&self, at: u32, bytes: &[u8]) {
        if let (Some(word), Some(bytes)) = (self.word(at, bytes), bytes.first_chunk()) {
            return word.store(u64::from_ne_bytes(*bytes), ordering::Relaxed);
        }
        let to = self.data(at, bytes.len());
        // SAFETY: `data` checked that the range is within the pages, and `bytes` is ours.
        unsafe { bindings::mgmt_helper_copy_shared(to, bytes.as_ptr().cast(), bytes.len()) };
    }
}
