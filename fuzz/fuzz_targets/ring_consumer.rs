// SPDX-License-Identifier: GPL-2.0

//! The consuming end of a ring whose producer is the fuzzer.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mgmt_fuzz::{CONSUMERS, Hostile};
use mgmt_pure::pure::ring::{Consumer, RECORD_HEADER, SharedMemory, max_message};

fuzz_target!(|data: &[u8]| {
    let (memory, start) = Hostile::new(CONSUMERS, data);
    let mut consumer = Consumer::starting_at(&memory, start);
    let size = (&memory).size();
    let mut position = start;
    let mut published = start;
    while !memory.is_silent() {
        memory.take_counts();
        let pending = consumer.peek();
        let (loads, read) = memory.take_counts();
        assert!(loads <= 2 && (read == 0 || read == RECORD_HEADER));
        // Nothing is read that the producer did not publish, in a ring that it may fill.
        let available = memory.said().wrapping_sub(position);
        let filled = memory.said().wrapping_sub(published);
        assert!(read == 0 || (read <= available && filled <= size));
        let Ok(pending) = pending else {
            return;
        };
        if let Some(pending) = pending {
            let length = pending.length();
            assert!((1..=max_message(size) as usize).contains(&length));
            if memory.byte() % 2 == 0 {
                consumer.take(pending, &mut vec![0; length]);
            } else {
                consumer.take_with(pending, |memory, at, length| {
                    memory.read(at, &mut vec![0; length]);
                });
            }
            assert_eq!(memory.take_counts(), (0, length as u32), "each byte once");
            let record = (length as u32 + RECORD_HEADER).next_multiple_of(8);
            assert!(record <= available);
            position = position.wrapping_add(record);
        }
        if memory.byte() % 4 == 0 {
            consumer.publish();
            published = position;
        }
    }
});
