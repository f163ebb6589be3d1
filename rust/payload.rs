// SPDX-License-Identifier: GPL-2.0

//! The payload of a message: bytes that do not change any more.

use crate::{
    pure::large::MAX_INLINE,
    xen::pages::PageBuffer, //
};
use core::ops::Deref;
use kernel::{
    alloc::{AllocError, Flags},
    iov::IovIterSource,
    prelude::*,
    sync::Arc, //
};

pub(crate) enum Payload {
    /// Goes into a ring.
    Small(KVVec<u8>),
    /// Is lent to the domains that it passes, from where it is.
    Large(Arc<PageBuffer>),
}

impl Payload {
    pub(crate) const fn empty() -> Self {
        Self::Small(KVVec::new())
    }

    /// Takes a payload of `length` bytes from a user.
    pub(crate) fn from_user(iov: &mut IovIterSource<'_>, length: usize) -> Result<Self> {
        let (payload, copied) = if length <= MAX_INLINE {
            let mut bytes = KVVec::new();
            let copied = iov.copy_from_iter_vec(&mut bytes, GFP_KERNEL_ACCOUNT)?;
            (Self::Small(bytes), copied)
        } else {
            let mut pages = PageBuffer::zeroed(length, GFP_KERNEL_ACCOUNT)?;
            let copied = iov.copy_from_iter(&mut pages);
            (Self::Large(Arc::new(pages, GFP_KERNEL_ACCOUNT)?), copied)
        };
        if copied == length {
            Ok(payload)
        } else {
            Err(EFAULT)
        }
    }

    /// Copies a payload of a client in the kernel.
    ///
    /// `EMSGSIZE` for one that takes pages, where `flags` do not allow to sleep.
    pub(crate) fn copied(payload: &[u8], flags: Flags) -> Result<Self> {
        if payload.len() <= MAX_INLINE {
            let mut bytes = KVVec::new();
            bytes.extend_from_slice(payload, flags)?;
            return Ok(Self::Small(bytes));
        }
        if !flags.contains(GFP_KERNEL) {
            return Err(EMSGSIZE);
        }
        let mut pages = PageBuffer::zeroed(payload.len(), flags)?;
        pages.copy_from_slice(payload);
        Ok(Self::Large(Arc::new(pages, flags)?))
    }

    /// The same payload, for one more message.
    pub(crate) fn try_clone(&self, flags: Flags) -> Result<Self, AllocError> {
        match self {
            Self::Small(bytes) => {
                let mut copy = KVVec::new();
                copy.extend_from_slice(bytes, flags)?;
                Ok(Self::Small(copy))
            }
            Self::Large(pages) => Ok(Self::Large(pages.clone())),
        }
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(pages) => pages,
        }
    }
}
