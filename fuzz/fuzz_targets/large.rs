// SPDX-License-Identifier: GPL-2.0

//! The record of a large message, from a sender that lies about its pages.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mgmt_fuzz::Script;
use mgmt_pure::pure::large::{MAX_PAGES, MAX_PAYLOAD, PAGE_BYTES, REF_BYTES, check, pages};
use mgmt_wire::{Address, Component, Header, Kind};

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let to = Address {
        component: Component::Mvm,
        app: None,
    };
    let any = script.u32();
    // As often as not one that the rest may be right for.
    let length = match script.byte() % 2 {
        0 => any,
        _ => any % (2 * MAX_PAYLOAD as u32),
    };
    let header = Header::new(Kind::Data, to, length);
    let Script(refs) = script;
    let length = length as usize;
    let good = check(&header, refs).is_ok();
    assert!(!good || ((1..=MAX_PAYLOAD).contains(&length) && refs.len() <= MAX_PAGES * REF_BYTES));

    let mut at = 0;
    let mut bytes = 0;
    for (gref, part) in pages(refs, length) {
        assert_eq!(refs[at..at + REF_BYTES], gref.to_le_bytes());
        assert!(part <= PAGE_BYTES && (!good || part > 0));
        at += REF_BYTES;
        bytes += part;
    }
    assert_eq!(at, refs.len() / REF_BYTES * REF_BYTES);
    assert!(bytes <= length && (!good || bytes == length));
});
