// SPDX-License-Identifier: GPL-2.0

//! - `model`: two honest ends, against a queue.
//! - `hostile`: one end, against memory that says whatever it likes.
//! - `rust/pure/tests/loom_ring.rs`: two honest ends at the same time.

#![cfg(not(loom))]

mod hostile;
mod model;

use super::*;

/// Ring sizes that channels use.
const SIZES: core::ops::RangeInclusive<u32> = 12..=15;

/// Fields that the consumer writes, and the producer reads.
const CONSUMERS: [usize; 2] = [control::CONS, control::PROD_EVENT];
/// Fields that the producer writes, and the consumer reads.
const PRODUCERS: [usize; 2] = [control::PROD, control::CONS_EVENT];

/// A record as it stands in the ring.
fn record(message: &[u8]) -> Vec<u8> {
    let mut record = (message.len() as u32).to_le_bytes().to_vec();
    record.extend_from_slice(&[0; 4]);
    record.extend_from_slice(message);
    record.resize(record.len().next_multiple_of(8), 0);
    record
}

#[test]
fn two_of_the_largest_messages_fit() {
    for size in SIZES.map(|order| 1 << order) {
        assert_eq!(max_message(size), size / 2 - 8);
        assert_eq!(2 * record_size(max_message(size)), size);
    }
}

#[test]
fn records_start_at_multiples_of_8() {
    for (length, size) in [(1, 16), (7, 16), (8, 16), (9, 24), (192, 200), (193, 208)] {
        assert_eq!(record_size(length), size);
    }
}

#[test]
fn a_record_says_what_follows() {
    for format in [Format::Message, Format::Pages] {
        assert_eq!(Format::from_number(format as u32), Ok(format));
    }
    assert_eq!([Format::Message as u32, Format::Pages as u32], [0, 1]);
}

#[test]
fn an_event_is_sent_for_an_index_that_was_passed() {
    // old, new, what was asked for; is it passed?
    const CASES: &[(u32, u32, u32, bool)] = &[
        (0, 16, 0, false),
        (0, 16, 1, true),
        (0, 16, 16, true),
        (0, 16, 17, false),
        (16, 32, 16, false),
        (16, 16, 16, false),
        // Nobody has asked for a long time.
        (1 << 20, (1 << 20) + 8, 0, false),
    ];
    for &(old, new, event, expected) in CASES {
        for start in [0, 8u32.wrapping_neg(), 16u32.wrapping_neg(), 1 << 31] {
            let [old, new, event] = [old, new, event].map(|index| start.wrapping_add(index));
            assert_eq!(passes(old, new, event), expected, "{old} {new} {event}");
        }
    }
}
