// SPDX-License-Identifier: GPL-2.0

//! A header has one encoding, and what is told of a message that did not arrive is a header too.

#![no_main]

use libfuzzer_sys::fuzz_target;
use mgmt_wire::{HEADER_LEN, Header, Reason};

fuzz_target!(|data: &[u8]| {
    let Ok(header) = Header::decode(data) else {
        assert!(Header::of_message(data).is_err());
        return;
    };
    assert_eq!(header.encode(), data[..HEADER_LEN]);
    let whole = data.len() - HEADER_LEN == header.length as usize;
    assert_eq!(Header::of_message(data).is_ok(), whole);

    for reason in 1..=8 {
        let reason = Reason::try_from(reason).expect("a reason");
        let Some(back) = header.undeliverable(reason) else {
            continue;
        };
        assert_eq!(Header::of_message(&back.encode()), Ok(back));
        assert_eq!(back.destination, header.source);
        assert!(back.undeliverable(reason).is_none(), "it comes back once");
    }
});
