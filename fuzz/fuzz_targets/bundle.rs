// SPDX-License-Identifier: GPL-2.0

//! The payload of a bundle, as anybody may write it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mgmt_wire::{MAX_PARTS, Parts, part_header};

fuzz_target!(|data: &[u8]| {
    let Some(parts) = Parts::of(data) else {
        return;
    };
    let mut again = Vec::new();
    let mut count = 0;
    for part in parts {
        again.extend_from_slice(&part_header(part.len() as u32));
        again.extend_from_slice(part);
        count += 1;
    }
    assert!((1..=MAX_PARTS).contains(&count));
    // It has one form.
    assert_eq!(again, data);
});
