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
/// Bytes of a buffer for a message that is larger than its object: a bundle of the library, with its
/// header. What is smaller than half of it gets memory of its own size: what is charged for a message
/// that waits is its length.
const BUFFER: usize = 8192;
/// Most buffers that are kept, 256 KiB: what two links have in their rings, and as much on its way.
const MAX_BUFFERS: usize = 32;

#[pin_data]
pub(crate) struct Spares {
    #[pin]
    kept: SpinLockBh<Kept>,
}

struct Kept {
    drafts: KVec<Draft>,
    buffers: KVec<KVVec<u8>>,
}

impl Spares {
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            kept <- new_spinlock_bh!(
                Kept {
                    drafts: KVec::with_capacity(MAX, GFP_KERNEL)?,
                    buffers: KVec::with_capacity(MAX_BUFFERS, GFP_KERNEL)?,
                },
                "mgmt_spares"
            ),
        })
    }

    /// A message of this sender, without content.
    pub(crate) fn take(&self, sender: Principal, gfp: Flags) -> Result<Draft> {
        let spare = self.kept.lock().drafts.pop();
        match spare {
            Some(mut draft) => {
                draft.set_principal(sender);
                Ok(draft)
            }
            None => Draft::new(sender, gfp),
        }
    }

    /// Makes room in a message for so many bytes in all.
    #[inline]
    pub(crate) fn make_room(&self, draft: &mut Draft, length: usize, gfp: Flags) -> Result {
        if !(BUFFER / 2 + 1..=BUFFER).contains(&length) {
            return Ok(draft.bytes().reserve(length, gfp)?);
        }
        self.give_buffer(draft, gfp)
    }

    fn give_buffer(&self, draft: &mut Draft, gfp: Flags) -> Result {
        let kept = self.kept.lock().buffers.pop();
        let buffer = match kept {
            Some(buffer) => buffer,
            None => KVVec::with_capacity(BUFFER, gfp)?,
        };
        Ok(draft.bytes().move_to(buffer, gfp)?)
    }

    /// As [`Spares::take`], the one that is at hand if there is one.
    pub(crate) fn take_near(
        &self,
        near: &mut Option<Draft>,
        sender: Principal,
        gfp: Flags,
    ) -> Result<Draft> {
        match near.take() {
            Some(mut draft) => {
                draft.set_principal(sender);
                Ok(draft)
            }
            None => self.take(sender, gfp),
        }
    }

    /// As [`Spares::put`], to have one at hand.
    pub(crate) fn put_near(&self, message: ListArc<Message>, near: &mut Option<Draft>) {
        match Draft::emptied(message) {
            Some((draft, None)) if near.is_none() => *near = Some(draft),
            Some((draft, outside)) => self.keep(draft, outside),
            None => {}
        }
    }

    /// A message was delivered.
    pub(crate) fn put(&self, message: ListArc<Message>) {
        if let Some((draft, outside)) = Draft::emptied(message) {
            self.keep(draft, outside);
        }
    }

    fn keep(&self, draft: Draft, outside: Option<KVVec<u8>>) {
        let mut kept = self.kept.lock();
        // There is room for them.
        if kept.drafts.len() < MAX {
            let _ = kept.drafts.push(draft, GFP_ATOMIC);
        }
        if let Some(buffer) = outside {
            if buffer.capacity() == BUFFER && kept.buffers.len() < MAX_BUFFERS {
                let _ = kept.buffers.push(buffer, GFP_ATOMIC);
            }
        }
    }
}
