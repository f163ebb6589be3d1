// SPDX-License-Identifier: GPL-2.0

//! A large message on its way from another domain: its header is here, its payload still there.

use crate::{
    payload::Payload,
    pure::large::{check, pages},
    wire::{Header, WireError},
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

/// The header and the references of a record, which were copied from the ring and checked.
pub(crate) struct Arriving {
    header: Header,
    refs: KVVec<u8>,
}

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
    Here(Header, Payload),
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
    pub(crate) fn new(header: Header, refs: KVVec<u8>) -> Result<Self, WireError> {
        check(&header, &refs)?;
        Ok(Self { header, refs })
    }

    /// Copies the payload from the pages of `domid`. May sleep, and never maps them.
    ///
    /// `None` if it is not `wanted` any more.
    pub(crate) fn fetch(
        self,
        domid: u16,
        wanted: impl Fn() -> bool,
    ) -> Option<Result<(Header, Payload), NotGranted>> {
        let mut refused = false;
        while wanted() {
            match self.copy(domid) {
                Ok(payload) => return Some(Ok((self.header, payload))),
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

    fn copy(&self, domid: u16) -> Result<Payload, CopyError> {
        let length = self.header.length as usize;
        let copy = PageBuffer::copied(domid, length, pages(&self.refs, length))?;
        let copy = Arc::new(copy, GFP_KERNEL).map_err(CopyError::Memory)?;
        Ok(Payload::Large(copy))
    }
}
