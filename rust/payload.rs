// SPDX-License-Identifier: GPL-2.0

//! The payload of a message: bytes that do not change any more.

use crate::xen::pages::PageBuffer;
use core::ops::Deref;
use kernel::sync::Arc;

#[derive(Clone, Copy)]
pub(crate) enum Payload<'a> {
    /// Goes into a ring.
    Small(&'a [u8]),
    /// Is lent to the domains that it passes, from where it is.
    Large(&'a Arc<PageBuffer>),
}

impl Payload<'_> {
    pub(crate) const EMPTY: Self = Self::Small(&[]);
}

impl Deref for Payload<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(pages) => pages,
        }
    }
}
