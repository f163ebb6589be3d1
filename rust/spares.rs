// SPDX-License-Identifier: GPL-2.0

//! The memory of messages that were delivered, for the next ones: to allocate a message costs more
//! than all else that a bridge does with it, as the kernel zeroes what it allocates.

use crate::{
    bh::{new_spinlock_bh, SpinLockBh},
    message::{Draft, Message, Principal}, //
};
use kernel::{
    alloc::Flags,
    list::ListArc,
    prelude::*, //
};

/// As many as a link moves before others get their turn, in each direction.
const MAX: usize = 128;
/// So many of them may have more memory than their own: as many large bundles as two rings hold, and
/// as many on their way to who reads them; 256 KiB.
const MAX_LARGE: usize = 32;

#[pin_data]
pub(crate) struct Spares {
    #[pin]
    kept: SpinLockBh<Kept>,
}

struct Kept {
    drafts: KVec<Draft>,
    /// How many of them are large.
    large: usize,
}

impl Spares {
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            kept <- new_spinlock_bh!(
                Kept {
                    drafts: KVec::with_capacity(MAX, GFP_KERNEL)?,
                    large: 0,
                },
                "mgmt_spares"
            ),
        })
    }

    /// A message of this sender, without content.
    pub(crate) fn take(&self, sender: Principal, gfp: Flags) -> Result<Draft> {
        match self.pop() {
            Some(mut draft) => {
                draft.set_principal(sender);
                Ok(draft)
            }
            None => Draft::new(sender, gfp),
        }
    }

    fn pop(&self) -> Option<Draft> {
        let mut kept = self.kept.lock();
        let draft = kept.drafts.pop()?;
        kept.large -= usize::from(draft.is_large());
        Some(draft)
    }

    /// A message was delivered.
    pub(crate) fn put(&self, message: ListArc<Message>) {
        let Some(mut draft) = Draft::emptied(message) else {
            return;
        };
        let mut kept = self.kept.lock();
        if kept.drafts.len() == MAX {
            return;
        }
        if draft.is_large() && kept.large == MAX_LARGE {
            draft.bytes().shrink();
        }
        kept.large += usize::from(draft.is_large());
        // There is room for it.
        let _ = kept.drafts.push(draft, GFP_ATOMIC);
    }
}
