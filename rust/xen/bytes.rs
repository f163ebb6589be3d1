// SPDX-License-Identifier: GPL-2.0

//! The bytes of a message, as they are copied in from a ring or from a program. Few lie in the
//! object itself; none is zeroed before it is written.

use core::{
    convert::Infallible,
    mem::{self, MaybeUninit},
    slice, //
};
use kernel::{
    alloc::{AllocError, Flags},
    iov::IovIterSource,
    prelude::*,
    uaccess::UserSliceReader, //
};

/// So many lie in the object itself: with the rest of a message, 512 bytes.
pub(crate) const WITHIN: usize = 384;

/// Bytes to which more are appended, as far as there is room.
///
/// # Invariants
///
/// If `outside` has room for any, all are there. Else the first `length` of `within` are
/// initialised.
pub(crate) struct Bytes {
    length: usize,
    within: MaybeUninit<[u8; WITHIN]>,
    outside: KVVec<u8>,
}

/// Memory of a program, from where it stands on.
///
/// # Safety
///
/// A `copy` that succeeds has initialised all of `to`, and none writes uninitialised bytes.
pub(crate) unsafe trait Source {
    /// Copies to all of `to`. `EFAULT` if that cannot be read.
    fn copy(&mut self, to: &mut [MaybeUninit<u8>]) -> Result;
}

// SAFETY: `read_raw` guarantees it.
unsafe impl Source for UserSliceReader {
    fn copy(&mut self, to: &mut [MaybeUninit<u8>]) -> Result {
        self.read_raw(to)
    }
}

// SAFETY: `copy_from_iter_raw` returns what it has initialised.
unsafe impl Source for IovIterSource<'_> {
    fn copy(&mut self, to: &mut [MaybeUninit<u8>]) -> Result {
        let length = to.len();
        if self.copy_from_iter_raw(to).len() != length {
            return Err(EFAULT);
        }
        Ok(())
    }
}

/// Copies from a program to all of `to`.
pub(crate) fn copy(source: &mut impl Source, to: &mut [u8]) -> Result {
    // SAFETY: No uninitialised bytes are written through the other type.
    source.copy(unsafe { slice::from_raw_parts_mut(to.as_mut_ptr().cast(), to.len()) })
}

impl Bytes {
    /// None yet, and room for a few.
    pub(crate) fn new() -> impl Init<Self> {
        // INVARIANT: There are none.
        init!(Self {
            length: 0,
            within <- pin_init::uninit::<_, Infallible>(),
            outside: KVVec::new(),
        })
    }

    /// Drops them, and memory that is not in the object.
    pub(crate) fn clear(&mut self) {
        drop(self.take_outside());
    }

    /// Drops them, and returns the memory that is not in the object, if there is any.
    pub(crate) fn take_outside(&mut self) -> Option<KVVec<u8>> {
        self.length = 0;
        self.is_outside().then(|| mem::take(&mut self.outside))
    }

    /// Makes room for so many in all.
    pub(crate) fn reserve(&mut self, length: usize, flags: Flags) -> Result<(), AllocError> {
        if length <= WITHIN || length <= self.outside.capacity() {
            return Ok(());
        }
        self.move_to(KVVec::with_capacity(length, flags)?, flags)
    }

    /// Moves them to this memory.
    pub(crate) fn move_to(
        &mut self,
        mut outside: KVVec<u8>,
        flags: Flags,
    ) -> Result<(), AllocError> {
        outside.clear();
        outside.extend_from_slice(self, flags)?;
        self.outside = outside;
        Ok(())
    }

    /// Appends so many bytes of a program. `EFAULT` if they cannot be read.
    pub(crate) fn take(&mut self, source: &mut impl Source, length: usize) -> Result {
        let room = self.room().get_mut(..length).ok_or(ENOMEM)?;
        source.copy(room)?;
        // SAFETY: They are there now.
        unsafe { self.grow(length) };
        Ok(())
    }

    /// Appends what has room.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        // SAFETY: As many bytes are copied.
        unsafe {
            self.extend_with(bytes.len(), |to| {
                to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            });
        }
    }

    /// Has so many bytes appended, if there is room for them.
    ///
    /// # Safety
    ///
    /// `copy` initialises as many from its argument on.
    pub(super) unsafe fn extend_with(&mut self, length: usize, copy: impl FnOnce(*mut u8)) {
        if let Some(room) = self.room().get_mut(..length) {
            copy(room.as_mut_ptr().cast());
            // SAFETY: By the requirements of this function.
            unsafe { self.grow(length) };
        }
    }

    /// Keeps so many of the first.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
        self.outside.truncate(length);
    }

    fn is_outside(&self) -> bool {
        self.outside.capacity() != 0
    }

    fn room(&mut self) -> &mut [MaybeUninit<u8>] {
        if self.is_outside() {
            return self.outside.spare_capacity_mut();
        }
        // SAFETY: An array may be seen as its elements, which may be anything.
        let within = unsafe { &mut *(&raw mut self.within).cast::<[MaybeUninit<u8>; WITHIN]>() };
        within.get_mut(self.length..).unwrap_or_default()
    }

    /// # Safety
    ///
    /// The first `by` bytes of `room` are initialised.
    unsafe fn grow(&mut self, by: usize) {
        if self.is_outside() {
            // SAFETY: By the requirements of this function, `room` being the rest of the vector.
            unsafe { self.outside.inc_len(by) };
        } else {
            // INVARIANT: By the requirements of this function.
            self.length += by;
        }
    }
}

impl core::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        if self.is_outside() {
            return &self.outside;
        }
        // SAFETY: By the invariant, so many are initialised.
        unsafe { slice::from_raw_parts(self.within.as_ptr().cast(), self.length) }
    }
}

impl core::ops::DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        if self.is_outside() {
            return &mut self.outside;
        }
        // SAFETY: By the invariant, so many are initialised.
        unsafe { slice::from_raw_parts_mut(self.within.as_mut_ptr().cast(), self.length) }
    }
}
