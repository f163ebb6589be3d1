// SPDX-License-Identifier: MIT OR Apache-2.0

//! What is in a bundle: the payload of a message with the flag [`Flags::BUNDLE`](crate::Flags::BUNDLE)
//! is that of several, each behind its length (4 bytes, little-endian).
//!
//! Bridges do not look at it, so a receiver must: a sender may write anything.

/// Most messages of a bundle: what a receiver makes of a byte has its limit.
pub const MAX_PARTS: usize = 1024;
/// Bytes of a part's length.
pub const PART_HEADER_LEN: usize = 4;

/// The payloads of the messages of a bundle, in order.
#[derive(Clone, Debug)]
pub struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    /// Those in this payload; `None` if it is not 1 to [`MAX_PARTS`] whole parts.
    pub fn of(payload: &'a [u8]) -> Option<Self> {
        let mut rest = payload;
        for _ in 0..MAX_PARTS {
            rest = split(rest)?.1;
            if rest.is_empty() {
                return Some(Self(payload));
            }
        }
        None
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (part, rest) = split(self.0)?;
        self.0 = rest;
        Some(part)
    }
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<PART_HEADER_LEN>()?;
    rest.split_at_checked(u32::from_le_bytes(*length).try_into().ok()?)
}

/// What stands before a part of so many bytes.
pub fn part_header(length: u32) -> [u8; PART_HEADER_LEN] {
    length.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    fn bundle(parts: &[Vec<u8>]) -> Vec<u8> {
        let part = |part: &Vec<u8>| [&part_header(part.len() as u32), &part[..]].concat();
        parts.iter().flat_map(part).collect()
    }

    #[test]
    fn a_bundle_has_parts_and_not_too_many() {
        assert!(Parts::of(&[]).is_none());
        for count in [1, 2, MAX_PARTS] {
            let payload = vec![0; count * PART_HEADER_LEN];
            assert_eq!(Parts::of(&payload).unwrap().count(), count);
        }
        assert!(Parts::of(&[0; (MAX_PARTS + 1) * PART_HEADER_LEN]).is_none());
    }

    proptest! {
        #[test]
        fn parts_are_read_as_they_were_written(parts in vec(vec(any::<u8>(), 0..40), 1..20)) {
            let payload = bundle(&parts);
            let read: Vec<_> = Parts::of(&payload).unwrap().collect();
            prop_assert_eq!(read, parts);
            // Cut off anywhere but between two, it is none.
            for length in 0..payload.len() {
                if let Some(read) = Parts::of(&payload[..length]) {
                    let read: Vec<_> = read.map(<[u8]>::to_vec).collect();
                    prop_assert_eq!(bundle(&read).len(), length);
                }
            }
        }

        /// Whatever it is: it is refused, or has one form.
        #[test]
        fn anything_is_a_bundle_or_none(payload in vec(0u8..4, 0..200)) {
            if let Some(parts) = Parts::of(&payload) {
                let parts: Vec<_> = parts.map(<[u8]>::to_vec).collect();
                prop_assert_eq!(bundle(&parts), payload);
            }
        }
    }
}
