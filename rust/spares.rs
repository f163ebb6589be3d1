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

#[pin_data]
pub(crate) struct Spares {
    #[pin]
    drafts: SpinLockBh<KVec<Draft>>,
}

impl Spares {
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            drafts <- new_spinlock_bh!(KVec::with_capacity(MAX, GFP_KERNEL)?, "mgmt_spares"),
        })
    }

    /// A message of this sender, without content.
    pub(crate) fn take(&self, sender: Principal, gfp: Flags) -> Result<Draft> {
        let spare = self.drafts.lock().pop();
        match spare {
            Some(mut draft) => {
                draft.set_principal(sender);
                Ok(draft)
            }
            None => Draft::new(sender, gfp),
        }
    }

    /// A message was delivered.
    pub(crate) fn put(&self, message: ListArc<Message>) {
        let Some(draft) = Draft::emptied(message) else {
            return;
        };
        let mut drafts = self.drafts.lock();
        if drafts.len() < MAX {
            // There is room for it.
            let _ = drafts.push(draft, GFP_ATOMIC);
        }
    }
}
