// SPDX-License-Identifier: GPL-2.0

//! Pages shared with another domain through the grant table.
//!
//! C headers: [`include/xen/grant_table.h`](srctree/include/xen/grant_table.h),
//! [`include/xen/xenbus.h`](srctree/include/xen/xenbus.h)

use super::xenbus::Device;
use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    device::Bound,
    page::PAGE_SIZE,
    prelude::*,
    sync::aref::ARef, //
};

/// Most pages that can be mapped as one area, and so be granted as one.
pub(crate) const MAX_PAGES: usize = bindings::XENBUS_MAX_RING_GRANTS as usize;

/// A number that names a grant within the table of the domain that made it.
pub(crate) type GrantRef = u32;

/// Pages of ours that the domain at the other end of a device may map.
///
/// They hold nothing else and start out as zeros (XSA-403). Dropping this ends the grants; a page
/// that the other domain still maps is not freed before it no longer does (XSA-396).
///
/// # Invariants
///
/// `base` is the start of an `alloc_pages_exact` allocation of as many pages as `refs` has
/// elements, and `refs[i]` is the grant of page `i`.
pub(crate) struct GrantedPages {
    base: NonNull<u8>,
    refs: KVec<GrantRef>,
}

// SAFETY: The pages are owned by this object and accessed through raw pointers only.
unsafe impl Send for GrantedPages {}
// SAFETY: As above.
unsafe impl Sync for GrantedPages {}

impl GrantedPages {
    /// Allocates `count` zeroed pages and grants each to the other end of `dev`. May sleep.
    pub(crate) fn new(dev: &Device<Bound>, count: usize) -> Result<Self> {
        if count == 0 || count > MAX_PAGES {
            return Err(EINVAL);
        }
        let refs = KVec::with_capacity(count, GFP_KERNEL)?;
        // SAFETY: `alloc_pages_exact` has no preconditions.
        let base = unsafe {
            bindings::alloc_pages_exact_noprof(
                count * PAGE_SIZE,
                bindings::GFP_KERNEL | bindings::__GFP_ZERO,
            )
        };
        let base = NonNull::new(base.cast()).ok_or(ENOMEM)?;
        // INVARIANT: Not all pages are granted yet; if one can't be, those without a grant are
        // freed below, and `drop` frees the others.
        let mut pages = Self { base, refs };
        for i in 0..count {
            // SAFETY: Page `i` is within the allocation and ours.
            let gref =
                unsafe { bindings::mgmt_helper_grant_page(dev.otherend_id(), pages.page(i)) };
            let pushed = kernel::error::to_result(gref)
                .and_then(|()| Ok(pages.refs.push(gref as GrantRef, GFP_KERNEL)?));
            if let Err(e) = pushed {
                for rest in i..count {
                    // SAFETY: Page `rest` is ours, has no grant, and is not used any more.
                    unsafe { bindings::mgmt_helper_put_page(pages.page(rest)) };
                }
                return Err(e);
            }
        }
        Ok(pages)
    }

    /// The references that the other end needs, in the order of the pages.
    pub(crate) fn refs(&self) -> &[GrantRef] {
        &self.refs
    }

    fn page(&self, i: usize) -> *mut c_void {
        self.base.as_ptr().wrapping_add(i * PAGE_SIZE).cast()
    }
}

impl Drop for GrantedPages {
    fn drop(&mut self) {
        for (i, gref) in self.refs.iter().enumerate() {
            // SAFETY: By the invariant, `gref` grants page `i`, which is ours to drop.
            unsafe { bindings::mgmt_helper_end_grant(*gref, self.page(i)) };
        }
    }
}

/// Pages of the domain at the other end of a device, mapped as one area of ours.
///
/// # Invariants
///
/// `base` was returned by `xenbus_map_ring_valloc` for `dev` and `pages` pages.
pub(crate) struct MappedPages {
    dev: ARef<Device>,
    base: NonNull<u8>,
    pages: usize,
}

// SAFETY: Mapping and unmapping are thread-safe; the pages are accessed through raw pointers only.
unsafe impl Send for MappedPages {}
// SAFETY: As above.
unsafe impl Sync for MappedPages {}

impl MappedPages {
    /// Maps the pages that the other end of `dev` granted under `refs`. May sleep.
    ///
    /// The hypervisor checks that they were granted to this domain.
    pub(crate) fn new(dev: &Device<Bound>, refs: &[GrantRef]) -> Result<Self> {
        if refs.is_empty() || refs.len() > MAX_PAGES {
            return Err(EINVAL);
        }
        let mut copy = [0; MAX_PAGES];
        copy[..refs.len()].copy_from_slice(refs);
        let mut base = core::ptr::null_mut();
        // SAFETY: `dev` is a valid xenbus device; `copy` has `refs.len()` references.
        kernel::error::to_result(unsafe {
            bindings::xenbus_map_ring_valloc(
                dev.as_raw(),
                copy.as_mut_ptr(),
                refs.len() as c_uint,
                &mut base,
            )
        })?;
        // INVARIANT: `base` was just mapped, for this device and this number of pages.
        Ok(Self {
            dev: dev.into(),
            base: NonNull::new(base.cast()).ok_or(ENOMEM)?,
            pages: refs.len(),
        })
    }
}

impl Drop for MappedPages {
    fn drop(&mut self) {
        // SAFETY: By the invariant, `base` is a mapping of this device.
        let ret = unsafe {
            bindings::xenbus_unmap_ring_vfree(self.dev.as_raw(), self.base.as_ptr().cast())
        };
        if ret != 0 {
            pr_err!(
                "cannot unmap the ring of domain {}: {}\n",
                self.dev.otherend_id(),
                ret
            );
        }
    }
}

/// An area of whole pages that another domain may read and write at any time.
pub(crate) enum SharedPages {
    /// Ours, granted to the other domain.
    Granted(GrantedPages),
    /// The other domain's, mapped here.
    Mapped(MappedPages),
}

impl SharedPages {
    /// Start of the area, page-aligned; valid for reads and writes of [`SharedPages::len`] bytes
    /// while the object lives. No reference into it may be made.
    pub(super) fn base(&self) -> NonNull<u8> {
        match self {
            Self::Granted(pages) => pages.base,
            Self::Mapped(pages) => pages.base,
        }
    }

    /// Bytes of the area.
    pub(super) fn len(&self) -> usize {
        PAGE_SIZE
            * match self {
                Self::Granted(pages) => pages.refs.len(),
                Self::Mapped(pages) => pages.pages,
            }
    }
}
