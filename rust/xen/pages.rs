// SPDX-License-Identifier: GPL-2.0

//! Pages of our own that hold one payload, to be lent to another domain or copied from its pages.

use super::grant::GrantRef;
use crate::{
    bindings,
    pure::large::PAGE_BYTES, //
};
use core::ops::{Deref, DerefMut};
use kernel::{
    alloc::{AllocError, Flags},
    page::PAGE_SIZE,
    prelude::*, //
};

/// Pages that are copied by one hypercall.
const BATCH: usize = 32;
// What a grant is for, in any domain.
const _: () = assert!(PAGE_SIZE == PAGE_BYTES);

/// Bytes in whole pages, which hold nothing else: what is behind the bytes is zero (XSA-216,
/// XSA-403).
///
/// # Invariants
///
/// `bytes` is a `vmalloc` allocation of whole pages, and behind its length it is zero.
pub(crate) struct PageBuffer {
    bytes: VVec<u8>,
}

/// Why pages of another domain were not copied.
pub(crate) enum CopyError {
    Memory(AllocError),
    /// The hypervisor refused: the pages are not granted to us, or not any more.
    Refused,
}

impl PageBuffer {
    /// `length` zero bytes. May sleep.
    pub(crate) fn zeroed(length: usize, flags: Flags) -> Result<Self, AllocError> {
        let whole = length.next_multiple_of(PAGE_SIZE);
        let mut bytes = VVec::zeroed(whole, flags | __GFP_NOWARN)?;
        bytes.truncate(length);
        // INVARIANT: All of it was zeroed, and nobody reaches beyond the length.
        Ok(Self { bytes })
    }

    /// Copies what `domid` granted, so many bytes of each page, all of the page but for the last.
    /// May sleep.
    ///
    /// The pages are copied by the hypervisor, which checks the grants, and never mapped.
    pub(crate) fn copied(
        domid: u16,
        length: usize,
        pages: impl Iterator<Item = (GrantRef, usize)>,
    ) -> Result<Self, CopyError> {
        let mut copy = Self::zeroed(length, GFP_KERNEL).map_err(CopyError::Memory)?;
        let mut pages = copy.bytes.chunks_mut(PAGE_SIZE).zip(pages);
        loop {
            let mut batch = [bindings::gnttab_copy::default(); BATCH];
            let mut count = 0;
            for (op, (page, (gref, bytes))) in batch.iter_mut().zip(&mut pages) {
                op.source.u.ref_ = gref;
                op.source.domid = domid;
                op.dest.u.gmfn = gfn(page);
                op.dest.domid = bindings::DOMID_SELF as u16;
                // Not beyond the page, whoever counted.
                op.len = bytes.min(page.len()) as u16;
                op.flags = bindings::GNTCOPY_source_gref as u16;
                count += 1;
            }
            if count == 0 {
                break;
            }
            // SAFETY: The first `count` operations are complete. They write to `page.len()` bytes
            // at most, at the start of pages that `copy` owns and nobody else refers to.
            unsafe { bindings::gnttab_batch_copy(batch.as_mut_ptr(), count) };
            let good = bindings::GNTST_okay as i16;
            if batch
                .iter()
                .take(count as usize)
                .any(|op| op.status != good)
            {
                return Err(CopyError::Refused);
            }
        }
        drop(pages);
        Ok(copy)
    }

    /// Pages that it has.
    pub(crate) fn pages(&self) -> usize {
        self.bytes.len().div_ceil(PAGE_SIZE)
    }

    /// The frames of its pages, as other domains may be told.
    pub(super) fn frames(&self) -> impl Iterator<Item = c_ulong> + '_ {
        self.bytes.chunks(PAGE_SIZE).map(gfn)
    }
}

/// The frame of a page of a [`PageBuffer`].
fn gfn(page: &[u8]) -> c_ulong {
    // SAFETY: By the invariant of `PageBuffer`, the address is in a `vmalloc` allocation.
    unsafe { bindings::mgmt_helper_vmalloc_gfn(page.as_ptr().cast()) }
}

impl Deref for PageBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}
