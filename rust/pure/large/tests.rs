// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::wire::{Address, AppId, Component, Kind};
use proptest::prelude::*;

const PAGE: usize = PAGE_BYTES;

fn header(length: usize) -> Header {
    let app = AppId::new(b"Large").unwrap();
    let to = Address::new(Component::Mvm, app);
    Header::new(Kind::Data, to, length as u32)
}

fn refs(count: usize) -> Vec<u8> {
    (0..count as u32)
        .flat_map(|i| (i * 7919).to_le_bytes())
        .collect()
}

#[test]
fn a_payload_has_a_reference_for_each_page() {
    // bytes of the payload, references
    const GOOD: &[(usize, usize)] = &[
        (1, 1),
        (PAGE - 1, 1),
        (PAGE, 1),
        (PAGE + 1, 2),
        (MAX_INLINE, 2),
        (MAX_INLINE + 1, 3),
        (MAX_PAYLOAD - PAGE, MAX_PAGES - 1),
        (MAX_PAYLOAD - PAGE + 1, MAX_PAGES),
        (MAX_PAYLOAD, MAX_PAGES),
    ];
    for &(length, count) in GOOD {
        assert_eq!(check(&header(length), &refs(count)), Ok(()), "{length}");
        for wrong in [0, count - 1, count + 1, 2 * count] {
            let result = check(&header(length), &refs(wrong));
            assert_eq!(result, Err(WireError::Length), "{length} in {wrong}");
        }
    }
}

#[test]
fn a_length_that_no_bridge_sends_is_refused() {
    for length in [0, MAX_PAYLOAD + 1, MAX_PAYLOAD + PAGE, u32::MAX as usize] {
        for count in [0, 1, MAX_PAGES, MAX_PAGES + 1] {
            let result = check(&header(length), &refs(count));
            assert_eq!(result, Err(WireError::Length), "{length}");
        }
    }
}

#[test]
fn part_of_a_reference_is_none() {
    for bytes in [1, 2, 3, 5, 7] {
        assert!(check(&header(PAGE), &refs(2)[..bytes]).is_err(), "{bytes}");
    }
}

#[test]
fn the_largest_record_fits_into_half_of_the_smallest_ring_that_channels_use() {
    let record = crate::wire::HEADER_LEN + MAX_PAGES * REF_BYTES;
    assert!(record <= super::super::ring::max_message(4096) as usize);
}

proptest! {
    #[test]
    fn pages_make_up_the_payload(length in 1usize..=MAX_PAYLOAD) {
        let count = length.div_ceil(PAGE);
        let refs = refs(count);
        prop_assert_eq!(check(&header(length), &refs), Ok(()));
        let pages: Vec<_> = pages(&refs, length).collect();
        prop_assert_eq!(pages.len(), count);
        prop_assert_eq!(pages.iter().map(|page| page.1).sum::<usize>(), length);
        for (i, &(gref, bytes)) in pages.iter().enumerate() {
            prop_assert_eq!(gref, i as u32 * 7919);
            prop_assert!(bytes == PAGE || (i == count - 1 && bytes > 0 && bytes < PAGE));
        }
    }

    #[test]
    fn any_bytes_are_read_to_their_end(
        length in any::<u32>(),
        refs in prop::collection::vec(any::<u8>(), 0..1100),
    ) {
        let checked = check(&header(length as usize), &refs);
        let pages: Vec<_> = pages(&refs, length as usize).collect();
        prop_assert_eq!(pages.len(), refs.len() / REF_BYTES);
        prop_assert!(pages.iter().all(|page| page.1 <= PAGE));
        if checked.is_ok() {
            prop_assert!(pages.iter().all(|page| page.1 > 0));
        }
    }
}
