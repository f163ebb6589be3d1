// SPDX-License-Identifier: GPL-2.0

//! Pages lent to another domain, read-only, for it to copy.
//!
//! It may map them as well, and keep them mapped: such a page is not used again before it lets go
//! (XSA-396), and counts as lent until then. So a domain never holds more pages of ours than its
//! account allows, however often its channel is made anew.

use super::{grant::GrantRef, pages::PageBuffer};
use crate::{
    account::Taken,
    bh::{new_spinlock_bh, SpinLockBh},
    bindings,
    pure::large::EncodedRef, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// Who lends to one domain.
#[pin_data]
pub(crate) struct Lender {
    domid: u16,
    #[pin]
    state: SpinLockBh<State>,
}

struct State {
    /// Pages that the domain may have in use.
    lent: Taken,
    /// Those of them that it did not let go of when they were taken back.
    kept: KVec<Grants>,
}

/// Pages lent to a domain. Dropping it takes them back.
pub(crate) struct Lent {
    lender: Arc<Lender>,
    grants: Grants,
}

/// Grants of the pages of a buffer.
///
/// # Invariants
///
/// Each of `refs` is a grant of a page of `buffer` that was not ended.
struct Grants {
    refs: KVec<EncodedRef>,
    #[allow(dead_code)] // It keeps the pages.
    buffer: Arc<PageBuffer>,
}

impl Grants {
    fn new(domid: u16, buffer: &Arc<PageBuffer>) -> Result<Self> {
        let mut grants = Self {
            refs: KVec::with_capacity(buffer.pages(), GFP_ATOMIC)?,
            buffer: buffer.clone(),
        };
        for frame in buffer.frames() {
            // SAFETY: The frame is a page of `buffer`, which lives longer than the grant and
            // holds nothing else.
            let gref = unsafe { bindings::gnttab_grant_foreign_access(domid, frame, 1) };
            kernel::error::to_result(gref)?;
            // INVARIANT: It was just granted.
            grants
                .refs
                .push((gref as GrantRef).to_le_bytes(), GFP_ATOMIC)?;
        }
        Ok(grants)
    }

    /// Ends the grants of the pages that the domain does not use. Returns how many those are.
    fn end(&mut self) -> u32 {
        let before = self.refs.len();
        self.refs.retain(|gref| {
            let gref = GrantRef::from_le_bytes(*gref);
            // SAFETY: By the invariant, the grant was not ended.
            unsafe { bindings::gnttab_try_end_foreign_access(gref) == 0 }
        });
        (before - self.refs.len()) as u32
    }
}

impl Drop for Grants {
    fn drop(&mut self) {
        for gref in &self.refs {
            let gref = GrantRef::from_le_bytes(*gref);
            // SAFETY: By the invariant, the grant was not ended. If the page is in use, this takes
            // a reference to it until it is not.
            unsafe { bindings::gnttab_end_foreign_access(gref, core::ptr::null_mut()) };
        }
    }
}

impl Lender {
    /// Lends to a domain, on its account: `lent` is none yet.
    pub(crate) fn new(domid: u16, lent: Taken) -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                domid,
                state <- new_spinlock_bh!(
                    State {
                        lent,
                        kept: KVec::new(),
                    },
                    "mgmt_lender"
                ),
            }),
            GFP_KERNEL,
        )
    }

    pub(crate) fn domid(&self) -> u16 {
        self.domid
    }

    /// Lends the pages of a buffer, if the domain does not have too many. Does not sleep.
    pub(crate) fn lend(self: &Arc<Self>, buffer: &Arc<PageBuffer>) -> Result<Lent> {
        let pages = buffer.pages() as u32;
        let mut state = self.state.lock();
        let state = &mut *state;
        for grants in &mut state.kept {
            state.lent.less(grants.end());
        }
        state.kept.retain(|grants| !grants.refs.is_empty());
        state.lent.more(pages)?;
        let grants = Grants::new(self.domid, buffer).inspect_err(|_| state.lent.less(pages))?;
        Ok(Lent {
            lender: self.clone(),
            grants,
        })
    }
}

impl Lent {
    /// The references, for the domain.
    pub(crate) fn refs(&self) -> &[EncodedRef] {
        &self.grants.refs
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut state = self.lender.state.lock();
        state.lent.less(self.grants.end());
        if self.grants.refs.is_empty() {
            return;
        }
        let kept = Grants {
            refs: core::mem::take(&mut self.grants.refs),
            buffer: self.grants.buffer.clone(),
        };
        // Without memory to remember them they count as lent for ever: the kernel still frees them
        // when the domain lets go.
        let _ = state.kept.push(kept, GFP_ATOMIC);
    }
}
