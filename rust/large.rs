// SPDX-License-Identifier: GPL-2.0

//! A large message on its way from another domain: its header is here, its payload still there.

use crate::{
    message::Draft,
    pure::large::{check, pages},
    wire::{WireError, HEADER_LEN},
    xen::pages::{CopyError, PageBuffer}, //
};
use kernel::{
    prelude::*,
    sync::Arc,
    time::{delay::fsleep, Delta}, //
};

/// Milliseconds until a copy is tried again for which there was no memory.
const PAUSE_MS: i64 = 10;
/// Milliseconds until a copy that was refused is tried again, once: the other end takes its pages
/// back when it closes the channel, and we may not know yet that it did.
const GRACE_MS: i64 = 500;

/// A message that was copied from the ring and checked, with the references in place of its payload.
pub(crate) struct Arriving(Draft);

/// The payload is not granted to us.
pub(crate) struct NotGranted;

/// How far the one large message is that a link takes at a time: nothing behind it is taken, and
/// its record is not given back, before it is here.
pub(crate) enum Large {
    None,
    /// A task is to copy the payload.
    Wanted(Arriving),
    /// A task copies it.
    Copying,
    Here(Draft),
}

impl Large {
    /// The message that a task is to copy now.
    pub(crate) fn begin(&mut self) -> Option<Arriving> {
        match core::mem::replace(self, Self::None) {
            Self::Wanted(arriving) => {
                *self = Self::Copying;
                Some(arriving)
            }
            other => {
                *self = other;
                None
            }
        }
    }
}

impl Arriving {
    /// `draft` passed [`Draft::check`].
    pub(crate) fn new(draft: Draft) -> Result<Self, WireError> {
        check(&draft.stamped(), &draft.payload())?;
        Ok(Self(draft))
    }

    /// Copies the payload from the pages of `domid`. May sleep, and never maps them.
    ///
    /// `None` if it is not `wanted` any more.
    pub(crate) fn fetch(
        self,
        domid: u16,
        wanted: impl Fn() -> bool,
    ) -> Option<Result<Draft, NotGranted>> {
        let mut refused = false;
        while wanted() {
            match self.copy(domid) {
                Ok(pages) => {
                    let mut draft = self.0;
                    draft.bytes().truncate(HEADER_LEN);
                    draft.put_pages(pages);
                    return Some(Ok(draft));
                }
                Err(CopyError::Refused) if refused => return Some(Err(NotGranted)),
                Err(CopyError::Refused) => {
                    refused = true;
                    fsleep(Delta::from_millis(GRACE_MS));
                }
                Err(CopyError::Memory(_)) => fsleep(Delta::from_millis(PAUSE_MS)),
            }
        }
        None
    }

    fn copy(&self, domid: u16) -> Result<Arc<PageBuffer>, CopyError> {
        let length = self.0.stamped().length as usize;
        let copy = PageBuffer::copied(domid, length, pages(&self.0.payload(), length))?;
        Arc::new(copy, GFP_KERNEL).map_err(CopyError::Memory)
    }
}
