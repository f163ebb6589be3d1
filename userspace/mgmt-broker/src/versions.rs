// SPDX-License-Identifier: MIT OR Apache-2.0

//! The application header of the framework, and the version of an application's messages.

use std::ops::RangeInclusive;

/// Bytes of the application header.
pub const APP_HEADER: usize = 8;
/// Of this layout.
const FRAMEWORK: u16 = 1;

/// The application header: framework (2 bytes, 1), version (2), oldest version (2), zero (2);
/// little-endian.
///
/// In *establish* and in its refusal the two are what the sender speaks; in all else the version is
/// the one agreed on, and the oldest one is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppHeader {
    /// The newest, or the one agreed on.
    pub version: u16,
    /// The oldest, or 0.
    pub oldest: u16,
}

impl AppHeader {
    /// What somebody speaks.
    pub fn offer(versions: &RangeInclusive<u16>) -> Self {
        Self {
            version: *versions.end(),
            oldest: *versions.start(),
        }
    }

    /// What was agreed on.
    pub fn agreed(version: u16) -> Self {
        Self { version, oldest: 0 }
    }

    /// The header and what is behind it; `None` if it is none.
    pub fn read(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (header, rest) = payload.split_first_chunk::<APP_HEADER>()?;
        let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let it = Self {
            version: half(2),
            oldest: half(4),
        };
        (half(0) == FRAMEWORK && half(6) == 0).then_some((it, rest))
    }

    /// Its bytes.
    pub fn bytes(self) -> [u8; APP_HEADER] {
        let mut bytes = [0; APP_HEADER];
        for (at, half) in [FRAMEWORK, self.version, self.oldest].iter().enumerate() {
            bytes[2 * at..2 * at + 2].copy_from_slice(&half.to_le_bytes());
        }
        bytes
    }
}

/// The newest version that both sides speak.
pub fn negotiate(ours: &RangeInclusive<u16>, theirs: AppHeader) -> Option<u16> {
    let version = theirs.version.min(*ours.end());
    (version >= theirs.oldest.max(*ours.start())).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What is agreed on is in both ranges, and nothing newer is.
        #[test]
        fn the_newest_common_version(a in 0..9u16, b in 0..9u16, c in 0..9u16, d in 0..9u16) {
            let (ours, theirs) = (a..=b, c..=d);
            let common = ours.clone().filter(|version| theirs.contains(version)).max();
            prop_assert_eq!(negotiate(&ours, AppHeader::offer(&theirs)), common);
        }

        #[test]
        fn any_bytes_are_a_header_or_none(bytes in prop::collection::vec(0..3u8, 0..20)) {
            if let Some((header, rest)) = AppHeader::read(&bytes) {
                prop_assert_eq!([&header.bytes(), rest].concat(), bytes);
            }
        }
    }
}
