// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;
use crate::wire::testing::any_address;
use proptest::prelude::*;

/// An encoded component: kind, length, and body, padded with zeros.
fn encoded(kind: u8, len: u8, body: &[u8]) -> [u8; COMPONENT_LEN] {
    let mut out = [0; COMPONENT_LEN];
    out[0] = kind;
    out[1] = len;
    out[4..4 + body.len()].copy_from_slice(body);
    out
}

const IP: [u8; 16] = [
    0x20, 0x01, 0x0d, 0xb8, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
];

/// Every kind of component and its bytes.
fn components() -> [(Component, [u8; COMPONENT_LEN]); 9] {
    let vm = [&IP[..], &[0x04, 0x03, 0x02, 0x01]].concat();
    let longest = [b'~'; COMPONENT_BODY_LEN];
    [
        (Component::Unspecified, encoded(0, 0, &[])),
        (
            Component::Vm {
                mvm_ip: IP,
                vm_id: 0x0102_0304,
            },
            encoded(1, 20, &vm),
        ),
        (Component::Stable(IP), encoded(2, 16, &IP)),
        (
            Component::Hardware(Serial::new(b"!").unwrap()),
            encoded(3, 1, b"!"),
        ),
        (
            Component::Hardware(Serial::new(&longest).unwrap()),
            encoded(3, 28, &longest),
        ),
        (Component::SelfDomain, encoded(4, 0, &[])),
        (Component::Mvm, encoded(5, 0, &[])),
        (Component::Platform, encoded(6, 0, &[])),
        (Component::Everywhere, encoded(7, 0, &[])),
    ]
}

#[test]
fn every_component_has_the_documented_bytes() {
    for (component, bytes) in components() {
        assert_eq!(component.encode(), bytes, "{component:?}");
        assert_eq!(Component::decode(&bytes), Ok(component));
    }
}

#[test]
fn each_kind_has_exactly_the_documented_lengths() {
    // A body that is a name to every kind that has one.
    let body = [b'7'; COMPONENT_BODY_LEN];
    for kind in 0..=u8::MAX {
        for len in 0..=u8::MAX {
            let valid = match kind {
                0 | 4..=7 => len == 0,
                1 => len == 20,
                2 => len == 16,
                3 => (1..=28).contains(&len),
                _ => false,
            };
            let used = usize::from(len).min(body.len());
            let decoded = Component::decode(&encoded(kind, len, &body[..used]));
            if valid {
                assert!(decoded.is_ok(), "kind {kind}, length {len}: {decoded:?}");
            } else {
                assert_eq!(
                    decoded,
                    Err(WireError::Component),
                    "kind {kind}, length {len}"
                );
            }
        }
    }
}

#[test]
fn reserved_and_unused_bytes_of_a_component_are_zero() {
    for (component, bytes) in components() {
        let used = 4 + usize::from(bytes[1]);
        for at in (2..4).chain(used..COMPONENT_LEN) {
            for value in 1..=u8::MAX {
                let mut bad = bytes;
                bad[at] = value;
                assert_eq!(
                    Component::decode(&bad),
                    Err(WireError::Reserved),
                    "{component:?}, byte {at}"
                );
            }
        }
    }
}

#[test]
fn a_serial_number_is_printable_ascii() {
    for byte in 0..=u8::MAX {
        let valid = (b'!'..=b'~').contains(&byte);
        // At both ends and alone: no place is special.
        for name in [&[byte][..], &[byte, b'x'], &[b'x', byte]] {
            assert_eq!(Serial::new(name).is_ok(), valid, "{name:?}");
            let decoded = Component::decode(&encoded(3, name.len() as u8, name));
            if valid {
                let serial = Serial::new(name).unwrap();
                assert_eq!(serial.as_bytes(), name);
                assert_eq!(decoded, Ok(Component::Hardware(serial)));
            } else {
                assert_eq!(decoded, Err(WireError::Component), "{name:?}");
            }
        }
    }
    assert_eq!(Serial::new(b""), Err(WireError::Component));
    assert_eq!(Serial::new(&[b'x'; 29]), Err(WireError::Component));
}

/// An encoded App_ID: these bytes, padded with zeros.
fn padded(name: &[u8]) -> [u8; APP_ID_LEN] {
    let mut out = [0; APP_ID_LEN];
    out[..name.len()].copy_from_slice(name);
    out
}

#[test]
fn an_app_id_is_made_of_the_documented_characters() {
    const CHARACTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    for byte in 0..=u8::MAX {
        let valid = CHARACTERS.contains(&byte);
        for name in [
            &[byte][..],
            &[byte, b'x'],
            &[b'x', byte],
            &[b'x', byte, b'x'],
        ] {
            assert_eq!(AppId::new(name).is_ok(), valid, "{name:?}");
            // A zero at the end is padding.
            if byte != 0 || name.ends_with(b"x") {
                let decoded = AppId::decode(&padded(name));
                assert_eq!(decoded.is_ok(), valid, "{name:?}");
                assert_eq!(decoded.err(), (!valid).then_some(WireError::AppId));
            }
        }
    }
}

#[test]
fn an_app_id_has_1_to_31_characters() {
    for len in 0..=APP_ID_LEN + 1 {
        let name = vec![b'p'; len];
        let expected = if (1..=31).contains(&len) {
            Ok(name.len())
        } else {
            Err(WireError::AppId)
        };
        assert_eq!(AppId::new(&name).map(|app| app.as_str().len()), expected);
        if len <= APP_ID_LEN {
            let decoded = AppId::decode(&padded(&name));
            assert_eq!(decoded.map(|app| app.as_str().len()), expected);
        }
    }
}

#[test]
fn nothing_follows_the_end_of_an_app_id() {
    for len in 1..APP_ID_LEN {
        for at in len + 1..APP_ID_LEN {
            let mut bytes = padded(&vec![b'p'; len]);
            bytes[at] = b'p';
            assert_eq!(AppId::decode(&bytes), Err(WireError::AppId), "{len}, {at}");
        }
    }
}

#[test]
fn an_app_id_keeps_its_case_and_its_name() {
    let app = AppId::new(b"Power-1.a_Z").unwrap();
    assert_eq!(app.as_str(), "Power-1.a_Z");
    assert_eq!(app.as_encoded(), &padded(b"Power-1.a_Z"));
    assert_eq!(format!("{app:?}"), "AppId(Power-1.a_Z)");
    assert_ne!(Ok(app), AppId::new(b"power-1.a_Z"));
}

#[test]
fn an_address_without_app_id_is_zeros_there() {
    assert_eq!(Address::UNSPECIFIED.encode(), [0; ADDRESS_LEN]);
    assert_eq!(Address::decode(&[0; ADDRESS_LEN]), Ok(Address::UNSPECIFIED));
    let mut bytes = [0; ADDRESS_LEN];
    bytes[ADDRESS_LEN - 1] = b'p';
    assert_eq!(Address::decode(&bytes), Err(WireError::AppId));
}

proptest! {
    #[test]
    fn any_address_reads_back_as_written(address in any_address()) {
        prop_assert_eq!(Address::decode(&address.encode()), Ok(address));
    }

    #[test]
    fn app_ids_are_in_the_order_of_their_names(a in any_address(), b in any_address()) {
        if let (Some(a), Some(b)) = (a.app, b.app) {
            prop_assert_eq!(a.cmp(&b), a.as_str().cmp(b.as_str()));
            prop_assert_eq!(a.partial_cmp(&b), Some(a.cmp(&b)));
        }
    }

    #[test]
    fn any_bytes_are_refused_or_are_the_one_encoding(
        bytes in prop::array::uniform32(prop_oneof![Just(0), 0u8..8, any::<u8>()]),
    ) {
        if let Ok(component) = Component::decode(&bytes) {
            prop_assert_eq!(component.encode(), bytes);
        }
        if let Ok(app) = AppId::decode(&bytes) {
            prop_assert_eq!(app.as_encoded(), &bytes);
        }
    }
}
