// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;
use crate::wire::{
    AppId, Component, Serial,
    testing::{any_address, any_header},
};
use proptest::prelude::*;

/// A header with a different value in every field but the reason, and its bytes, written by hand from
/// `docs/wire-format.md`.
fn golden() -> (Header, [u8; HEADER_LEN]) {
    let header = Header {
        kind: Kind::Data,
        priority: 0xfe,
        hops: 7,
        flags: Flags::REQUEST.union(Flags::NO_UNDELIVERABLE),
        reason: Reason::None,
        length: 0x0403_0201,
        app_header_length: 0x0003_0201,
        sequence: 0x1817_1615_1413_1211,
        correlation: 0x2827_2625_2423_2221,
        deadline_ms: 0x3433_3231,
        epoch: 0x4443_4241,
        source: Address::new(
            Component::Vm {
                mvm_ip: *b"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05",
                vm_id: 0x0000_0117,
            },
            AppId::new(b"Power").unwrap(),
        ),
        destination: Address::new(
            Component::Hardware(Serial::new(b"CZ3/42").unwrap()),
            AppId::new(b"In-vent_0.ry").unwrap(),
        ),
    };
    #[rustfmt::skip]
    let bytes = [
        1, 3, 0xfe, 7, // version, kind, priority, hops
        0x06, 0x00, 0x00, 0x00, // flags, reason
        0x01, 0x02, 0x03, 0x04, // length
        0x01, 0x02, 0x03, 0x00, // app_header_length
        0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, // sequence
        0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, // correlation
        0x31, 0x32, 0x33, 0x34, // deadline_ms
        0x41, 0x42, 0x43, 0x44, // epoch
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // reserved
        // source: component kind, length, reserved
        1, 20, 0, 0,
        // MVM_IP 2001:db8::5, VM_ID 279, padding
        0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5,
        0x17, 0x01, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0,
        // App_ID
        b'P', b'o', b'w', b'e', b'r', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        // destination: component kind, length, reserved
        3, 6, 0, 0,
        // serial number, padding
        b'C', b'Z', b'3', b'/', b'4', b'2', 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        // App_ID
        b'I', b'n', b'-', b'v', b'e', b'n', b't', b'_', b'0', b'.', b'r', b'y', 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    (header, bytes)
}

/// The same of a message that came back, which has a reason and no payload.
fn returned() -> (Header, [u8; HEADER_LEN]) {
    let (header, mut bytes) = golden();
    let header = Header {
        kind: Kind::Undeliverable,
        reason: Reason::Quota,
        length: 0,
        app_header_length: 0,
        ..header
    };
    (bytes[1], bytes[6]) = (7, 4);
    bytes[8..16].fill(0);
    (header, bytes)
}

/// A message of every kind, to every kind of component.
fn samples() -> Vec<[u8; HEADER_LEN]> {
    let app = AppId::new(b"Power").unwrap();
    let mut headers = vec![golden().0, returned().0];
    for component in [
        Component::Unspecified,
        Component::Vm {
            mvm_ip: [9; 16],
            vm_id: 3,
        },
        Component::Stable([7; 16]),
        Component::Hardware(Serial::new(b"S").unwrap()),
        Component::SelfDomain,
        Component::Mvm,
    ] {
        headers.push(Header::new(Kind::Data, Address::new(component, app), 5));
    }
    headers.iter().map(Header::encode).collect()
}

#[test]
fn the_golden_messages_have_these_bytes() {
    for (header, bytes) in [golden(), returned()] {
        assert_eq!(header.encode(), bytes);
        assert_eq!(Header::decode(&bytes), Ok(header));
    }
}

#[test]
fn the_smallest_message_is_zero_but_for_four_bytes() {
    let header = Header::new(Kind::Discover, Address::UNSPECIFIED, 3);
    let mut bytes = [0; HEADER_LEN];
    (bytes[0], bytes[1], bytes[8]) = (1, 1, 3);
    assert_eq!(header.encode(), bytes);
}

#[test]
fn codes_are_the_documented_ones() {
    let kinds = [
        Kind::Discover,
        Kind::Establish,
        Kind::Data,
        Kind::Terminate,
        Kind::Presence,
        Kind::Reply,
        Kind::Undeliverable,
    ];
    for code in 0..=u8::MAX {
        let expected = usize::from(code)
            .checked_sub(1)
            .and_then(|at| kinds.get(at).copied());
        assert_eq!(Kind::try_from(code), expected.ok_or(WireError::Kind));
    }
    let reasons = [
        Reason::None,
        Reason::NoComponent,
        Reason::NoEndpoint,
        Reason::Denied,
        Reason::Quota,
        Reason::PeerGone,
        Reason::Deadline,
        Reason::TooLarge,
        Reason::Hops,
    ];
    for code in 0..=u16::MAX {
        let expected = reasons.get(usize::from(code)).copied();
        assert_eq!(Reason::try_from(code), expected.ok_or(WireError::Reason));
    }
    for bits in 0..=u16::MAX {
        let expected = if bits < 16 {
            Ok(bits)
        } else {
            Err(WireError::Flags)
        };
        assert_eq!(Flags::from_bits(bits).map(Flags::bits), expected);
    }
    let flags = [
        Flags::BROADCAST,
        Flags::REQUEST,
        Flags::NO_UNDELIVERABLE,
        Flags::BUNDLE,
    ];
    assert_eq!(flags.map(Flags::bits), [1, 2, 4, 8]);
    assert_eq!(Flags::NONE.bits(), 0);
}

#[test]
fn only_a_bridge_sends_undeliverable() {
    for code in 1..=7 {
        let kind = Kind::try_from(code).unwrap();
        assert_eq!(kind.is_from_endpoint(), code != 7, "{kind:?}");
    }
}

#[test]
fn a_class_has_64_priorities() {
    for priority in 0..=u8::MAX {
        let class = Header {
            priority,
            ..golden().0
        }
        .class();
        assert_eq!(class, usize::from(priority) / 64, "priority {priority}");
        assert!(class < CLASSES);
    }
}

#[test]
fn a_flag_is_contained_where_it_was_put() {
    for a in 0..16 {
        for b in 0..16 {
            let flags = |bits| Flags::from_bits(bits).unwrap();
            assert_eq!(flags(a).union(flags(b)), flags(a | b));
            assert_eq!(flags(a).contains(flags(b)), a & b == b);
            assert_eq!(flags(a).without(flags(b)), flags(a & !b));
        }
    }
}

#[test]
fn a_bundle_is_data_and_no_request() {
    let to = Address::new(Component::Mvm, AppId::new(b"Power").unwrap());
    for kind in 1..=6 {
        let kind = Kind::try_from(kind).unwrap();
        for bits in 8..16 {
            let header = Header {
                flags: Flags::from_bits(bits).unwrap(),
                ..Header::new(kind, to, 0)
            };
            let expected = match kind {
                Kind::Data if !header.flags.contains(Flags::REQUEST) => Ok(header),
                _ => Err(WireError::Flags),
            };
            assert_eq!(Header::decode(&header.encode()), expected);
        }
    }
}

/// One wrong thing in an otherwise valid header, and what is said about it.
#[test]
fn each_wrong_byte_is_refused_for_what_it_is() {
    // offsets, the wrong bytes there, the error
    type Case = (&'static [usize], fn(u8) -> bool, WireError);
    const CASES: &[Case] = &[
        (&[0], |b| b != 1, WireError::Version),
        (&[1], |b| b == 0 || b > 7, WireError::Kind),
        // The kind of a message that came back.
        (&[1], |b| b == 7, WireError::Reason),
        (&[4], |b| b & !15 != 0, WireError::Flags),
        (&[5], |b| b != 0, WireError::Flags),
        (&[6, 7], |b| b != 0, WireError::Reason),
        // An application header larger than its message.
        (&[15], |b| b > 4, WireError::Length),
        (
            &[
                40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60,
                61, 62, 63,
            ],
            |b| b != 0,
            WireError::Reserved,
        ),
        // The source: ⟨VM, Power⟩.
        (&[64], |b| b != 1 && b != 3, WireError::Component),
        // As a serial number, it has unprintable characters.
        (&[64], |b| b == 3, WireError::Component),
        (&[65], |b| b > 20, WireError::Component),
        (
            &[66, 67, 88, 89, 90, 91, 92, 93, 94, 95],
            |b| b != 0,
            WireError::Reserved,
        ),
        (
            &[96, 97, 98, 99],
            |b| !b.is_ascii_alphanumeric() && !matches!(b, b'.' | b'_' | b'-'),
            WireError::AppId,
        ),
        (&[102, 103, 126, 127], |b| b != 0, WireError::AppId),
        // The destination: ⟨hardware, In-vent_0.ry⟩.
        (&[128], |b| b != 3, WireError::Component),
        // The serial number's characters are left over, or there are zeros in it.
        (&[129], |b| b < 6, WireError::Reserved),
        (&[129], |b| b > 6, WireError::Component),
        (&[130, 131, 138, 159], |b| b != 0, WireError::Reserved),
        (&[132, 137], |b| !b.is_ascii_graphic(), WireError::Component),
        (&[173, 190, 191], |b| b != 0, WireError::AppId),
    ];
    const RETURNED: &[Case] = &[
        (&[1], |b| matches!(b, 1..=6), WireError::Reason),
        // It says why.
        (&[6], |b| b == 0 || b > 8, WireError::Reason),
        (&[7], |b| b != 0, WireError::Reason),
        (
            &[8, 9, 10, 11, 12, 13, 14, 15],
            |b| b != 0,
            WireError::Length,
        ),
    ];
    for (good, cases) in [(golden().1, CASES), (returned().1, RETURNED)] {
        for &(offsets, is_wrong, error) in cases {
            for &at in offsets {
                for value in (0..=u8::MAX).filter(|&b| is_wrong(b)) {
                    let mut bytes = good;
                    bytes[at] = value;
                    assert_eq!(Header::decode(&bytes), Err(error), "{value:#04x} at {at}");
                }
            }
        }
    }
}

/// Every value of every byte, in messages of every form.
#[test]
fn each_changed_byte_is_refused_or_decodes_to_another_header() {
    for sample in samples() {
        let original = Header::decode(&sample).unwrap();
        for at in 0..HEADER_LEN {
            for value in 0..=u8::MAX {
                let mut bytes = sample;
                bytes[at] = value;
                if let Ok(header) = Header::decode(&bytes) {
                    assert_eq!(header.encode(), bytes, "{value:#04x} at {at}");
                    assert_eq!(header == original, bytes == sample);
                }
            }
        }
    }
}

#[test]
fn a_message_is_as_long_as_its_header_says() {
    let to = Address::new(Component::Mvm, AppId::new(b"Power").unwrap());
    for length in [0, 1, 7, 8, 1000] {
        let header = Header::new(Kind::Data, to, length);
        let mut message = header.encode().to_vec();
        message.resize(HEADER_LEN + length as usize, 0xff);
        assert_eq!(Header::of_message(&message), Ok(header));
        message.push(0);
        assert_eq!(Header::of_message(&message), Err(WireError::Length));
        message.pop();
        for shorter in 0..message.len() {
            assert_eq!(
                Header::of_message(&message[..shorter]),
                Err(WireError::Length),
                "{shorter} of {length}"
            );
        }
    }
    // The length that would wrap around.
    let header = Header::new(Kind::Data, to, u32::MAX);
    assert_eq!(Header::decode(&header.encode()), Ok(header));
    assert_eq!(Header::of_message(&header.encode()), Err(WireError::Length));
}

#[test]
fn the_application_header_is_part_of_the_message() {
    for (length, app_header_length, valid) in [
        (0, 0, true),
        (0, 1, false),
        (9, 9, true),
        (9, 10, false),
        (u32::MAX, u32::MAX, true),
        (u32::MAX - 1, u32::MAX, false),
    ] {
        let header = Header {
            length,
            app_header_length,
            ..Header::new(Kind::Data, Address::UNSPECIFIED, 0)
        };
        let expected = if valid {
            Ok(header)
        } else {
            Err(WireError::Length)
        };
        assert_eq!(Header::decode(&header.encode()), expected);
    }
}

#[test]
fn what_came_back_is_not_sent_back_again() {
    let header = returned().0;
    assert_eq!(header.undeliverable(Reason::Hops), None);
}

#[test]
fn nobody_is_told_who_did_not_want_to_know() {
    let header = Header {
        flags: Flags::REQUEST.union(Flags::NO_UNDELIVERABLE),
        ..Header::new(Kind::Data, Address::UNSPECIFIED, 0)
    };
    assert_eq!(header.undeliverable(Reason::PeerGone), None);
}

proptest! {
    #[test]
    fn any_header_reads_back_as_written(header in any_header()) {
        let bytes = header.encode();
        prop_assert_eq!(Header::decode(&bytes), Ok(header));
        prop_assert_eq!(Header::class_of(&bytes), header.class());
        prop_assert_eq!(Header::length_of(&bytes), header.length);
        prop_assert_eq!(Header::deadline_of(&bytes), header.deadline_ms);
        prop_assert_eq!(&bytes[DEADLINE_AT], &header.deadline_ms.to_le_bytes());
        prop_assert_eq!(Header::hops_of(&bytes), header.hops);
        prop_assert_eq!(&bytes[ADDRESSES_AT], Header::addresses_of(&bytes));
        let special = [Flags::BROADCAST, Flags::REQUEST].map(|flag| header.flags.contains(flag));
        prop_assert_eq!(Header::is_plain(&bytes), header.kind == Kind::Data && special == [false; 2]);
    }

    #[test]
    fn a_stamp_changes_what_it_is_for_and_nothing_else(
        written in any_header(),
        stamped in any_header(),
    ) {
        let mut bytes = written.encode();
        let mut stamp = Stamp::new(&mut bytes);
        stamp.hops(stamped.hops);
        stamp.sequence(stamped.sequence);
        stamp.epoch(stamped.epoch);
        stamp.source(&stamped.source);
        stamp.destination(&stamped.destination);
        let expected = Header {
            hops: stamped.hops,
            sequence: stamped.sequence,
            epoch: stamped.epoch,
            source: stamped.source,
            destination: stamped.destination,
            ..written
        };
        prop_assert_eq!(bytes, expected.encode());
        let mut bytes = written.encode();
        Stamp::new(&mut bytes).addresses(Header::addresses_of(&stamped.encode()));
        let expected = Header { source: stamped.source, destination: stamped.destination, ..written };
        prop_assert_eq!(bytes, expected.encode());
    }

    #[test]
    fn what_was_not_checked_is_some_header_too(
        start in any::<[[u8; 32]; 2]>(),
        source in any::<[[u8; 32]; 2]>(),
        destination in any::<[[u8; 32]; 2]>(),
    ) {
        let bytes = [start, source, destination].concat().concat();
        let bytes: &[u8; HEADER_LEN] = bytes[..].try_into().unwrap();
        let _ = Header::of_checked(bytes);
    }

    #[test]
    fn bytes_behind_the_header_are_not_looked_at(
        header in any_header(),
        rest in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(&rest);
        prop_assert_eq!(Header::decode(&bytes), Ok(header));
    }

    #[test]
    fn any_bytes_are_refused_or_are_the_one_encoding(
        bytes in prop::collection::vec(any::<u8>(), 0..HEADER_LEN + 64),
    ) {
        if let Ok(header) = Header::decode(&bytes) {
            prop_assert_eq!(&header.encode(), &bytes[..HEADER_LEN]);
        }
        if let Ok(header) = Header::of_message(&bytes) {
            prop_assert_eq!(bytes.len(), HEADER_LEN + header.length as usize);
        }
    }

    #[test]
    fn damaged_headers_are_refused_or_are_the_one_encoding(
        header in any_header(),
        damage in prop::collection::vec((0..HEADER_LEN, prop_oneof![0u8..8, any::<u8>()]), 1..8),
    ) {
        let mut bytes = header.encode();
        for (at, value) in damage {
            bytes[at] = value;
        }
        if let Ok(header) = Header::decode(&bytes) {
            prop_assert_eq!(header.encode(), bytes);
        }
    }

    #[test]
    fn an_undeliverable_message_tells_which_one_it_is_about(
        header in any_header(),
        source in any_address(),
        reason in 1u16..=8,
    ) {
        let header = Header { source, ..header };
        let reason = Reason::try_from(reason).unwrap();
        let unwanted = header.flags.contains(Flags::NO_UNDELIVERABLE);
        let Some(back) = header.undeliverable(reason) else {
            prop_assert!(unwanted || header.kind == Kind::Undeliverable);
            return Ok(());
        };
        prop_assert!(!unwanted && header.kind != Kind::Undeliverable);
        prop_assert_eq!((back.kind, back.reason), (Kind::Undeliverable, reason));
        prop_assert_eq!((back.length, back.app_header_length), (0, 0));
        prop_assert_eq!(back.hops, 0);
        let request = header.flags.contains(Flags::REQUEST);
        prop_assert_eq!(back.flags, if request { Flags::REQUEST } else { Flags::NONE });
        prop_assert_eq!(
            (back.sequence, back.correlation, back.epoch),
            (header.sequence, header.correlation, header.epoch)
        );
        prop_assert_eq!(
            (back.source, back.destination),
            (header.destination, header.source)
        );
        // It is a valid message itself, and the last one about this.
        prop_assert_eq!(Header::of_message(&back.encode()), Ok(back));
        prop_assert_eq!(back.undeliverable(reason), None);
    }
}
