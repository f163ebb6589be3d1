// SPDX-License-Identifier: GPL-2.0

//! Messages whose payload does not travel in the ring, but in pages that the sender grants.
//!
//! A record of [`Format::Pages`](super::ring::Format::Pages) is the message's header and one grant
//! reference for each page of the payload, in order. The payload starts at the beginning of the
//! first page and fills all but the last, the rest of which is zero.

use crate::wire::{Header, WireError};

/// Bytes of the largest payload that a bridge takes.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Bytes of the largest payload that goes into the ring itself.
pub const MAX_INLINE: usize = 8192;
/// Bytes of a page that is granted.
pub const PAGE_BYTES: usize = 4096;
/// Bytes of a grant reference in a record, little-endian.
pub const REF_BYTES: usize = 4;
/// Pages of the largest payload.
pub const MAX_PAGES: usize = MAX_PAYLOAD.div_ceil(PAGE_BYTES);

/// A grant reference as it stands in a record.
pub type EncodedRef = [u8; REF_BYTES];

/// Checks that a record has as many references, in `refs`, as the payload of its header has pages.
pub fn check(header: &Header, refs: &[u8]) -> Result<(), WireError> {
    let length = header.length as usize;
    let pages = length.div_ceil(PAGE_BYTES);
    if length == 0 || length > MAX_PAYLOAD || refs.len() != pages * REF_BYTES {
        return Err(WireError::Length);
    }
    Ok(())
}

/// The references of a record that passed [`check`], each with the bytes of its page that belong
/// to a payload of `length` bytes.
pub fn pages(refs: &[u8], length: usize) -> impl Iterator<Item = (u32, usize)> + '_ {
    refs.chunks_exact(REF_BYTES)
        .enumerate()
        .map(move |(i, encoded)| {
            let mut gref = [0; REF_BYTES];
            gref.copy_from_slice(encoded);
            let left = length.saturating_sub(i * PAGE_BYTES);
            (u32::from_le_bytes(gref), left.min(PAGE_BYTES))
        })
}

#[cfg(all(test, not(loom)))]
mod tests;
