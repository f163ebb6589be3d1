// SPDX-License-Identifier: GPL-2.0

//! The producing end of a ring whose consumer is the fuzzer.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mgmt_fuzz::{Hostile, PRODUCERS};
use mgmt_pure::pure::ring::{Producer, PushError, RECORD_HEADER, SharedMemory, max_message};

static BYTES: [u8; 1 << 15] = [0x5a; 1 << 15];

fuzz_target!(|data: &[u8]| {
    let (memory, start) = Hostile::new(PRODUCERS, data);
    let mut producer = Producer::starting_at(&memory, start);
    let size = (&memory).size();
    let mut position = start;
    // The ends of messages that were not seen consumed, and how many of them are published.
    let mut sent = Vec::new();
    let mut published = 0;
    while !memory.is_silent() {
        memory.take_counts();
        match memory.byte() % 4 {
            0 => {
                producer.publish();
                assert!(memory.take_counts().0 <= 1);
                published = sent.len();
            }
            1 => {
                if producer.refresh().is_err() {
                    return;
                }
                assert_eq!(memory.take_counts().0, 1);
                let consumed = |&end: &u32| producer.is_consumed(end);
                let count = sent.iter().filter(|end| consumed(end)).count();
                // In their order, and none that the consumer could not see.
                assert!(count <= published && sent[..count].iter().all(consumed));
                sent.drain(..count);
                published -= count;
            }
            choice => {
                let length = if choice == 2 {
                    1 + u32::from(memory.byte())
                } else {
                    1 + memory.u32() % (size - 1)
                };
                let (head, tail) = BYTES[..length as usize].split_at(length as usize / 3);
                match producer.push(&[head, &[], tail]) {
                    Ok(()) => {
                        assert!(length <= max_message(size));
                        let record = (length + RECORD_HEADER).next_multiple_of(8);
                        position = position.wrapping_add(record);
                        sent.push(position);
                    }
                    Err(PushError::Full) => {}
                    Err(PushError::TooLarge) => assert!(length > max_message(size)),
                    Err(PushError::Broken(_)) => return,
                }
                let (loads, read) = memory.take_counts();
                assert!(loads <= 2 && read == 0);
                assert_eq!(producer.position(), position);
            }
        }
    }
});
