// SPDX-License-Identifier: MIT OR Apache-2.0

//! One definition of the M-channel wire format, for the kernel and for userspace.
//!
//! A message is an M-channel [`Header`], an application header, and application data (paper §4.1).
//! Everything is little-endian, naturally aligned, and has one encoding: bytes that carry no
//! meaning are zero, and a decoder refuses them otherwise.

mod addr;
mod header;
mod presence;
#[cfg(test)]
mod testing;

pub use addr::{
    ADDRESS_LEN, APP_ID_LEN, Address, AppId, COMPONENT_BODY_LEN, COMPONENT_LEN, Component, Serial,
};
pub use header::{
    ADDRESSES_AT, ADDRESSES_LEN, CLASSES, DEADLINE_AT, Flags, HEADER_LEN, Header, Kind, MAX_HOPS,
    Reason, Stamp, VERSION,
};
pub use presence::{Event, PRESENCE_LEN};

/// Why bytes are not a valid part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// Fewer bytes than the part needs, or a length field that disagrees with the bytes present.
    Length,
    /// The header's version is not [`VERSION`].
    Version,
    /// The message kind is not one of [`Kind`].
    Kind,
    /// A flag bit without a meaning is set, or one that this kind of message does not have.
    Flags,
    /// The reason is unknown, or stands on a message that carries none.
    Reason,
    /// A byte that must be zero is not.
    Reserved,
    /// The component is of no known kind, or malformed.
    Component,
    /// The App_ID is not a name: 1 to 31 of `A-Z a-z 0-9 . _ -`, NUL-padded.
    AppId,
}

/// Reads `N` bytes at `at`.
///
/// # Panics
///
/// If `bytes` is shorter than `at + N`. Callers check the length of the whole part once.
#[inline]
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// The `N` bytes at `at`, in place.
///
/// # Panics
///
/// As [`array`].
#[inline]
fn part<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..].first_chunk().expect("a part within the bytes")
}

/// As [`part`], to be written.
#[inline]
fn part_mut<const N: usize>(bytes: &mut [u8], at: usize) -> &mut [u8; N] {
    bytes[at..]
        .first_chunk_mut()
        .expect("a part within the bytes")
}

/// Whether the bytes from `at` on are zero. In two words, as every message has four such ends.
#[inline]
fn is_zero_from(bytes: &[u8; 32], at: usize) -> bool {
    let [low, high] = [0, 16].map(|half| u128::from_le_bytes(array(bytes, half)));
    match at {
        0..16 => low >> (8 * at) == 0 && high == 0,
        16..32 => high >> (8 * (at - 16)) == 0,
        _ => true,
    }
}
