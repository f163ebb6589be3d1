// SPDX-License-Identifier: MIT OR Apache-2.0

//! Arbitrary parts of messages, for tests.

use super::*;
use proptest::prelude::*;

pub(super) fn any_component() -> impl Strategy<Value = Component> {
    prop_oneof![
        Just(Component::Unspecified),
        any::<([u8; 16], u32)>().prop_map(|(mvm_ip, vm_id)| Component::Vm { mvm_ip, vm_id }),
        any::<[u8; 16]>().prop_map(Component::Stable),
        prop::collection::vec(b'!'..=b'~', 1..=COMPONENT_BODY_LEN)
            .prop_map(|name| Component::Hardware(Serial::new(&name).expect("a serial number"))),
        Just(Component::SelfDomain),
        Just(Component::Mvm),
        Just(Component::Platform),
        Just(Component::Everywhere),
    ]
}

pub(super) fn any_address() -> impl Strategy<Value = Address> {
    let character = prop_oneof![
        b'A'..=b'Z',
        b'a'..=b'z',
        b'0'..=b'9',
        prop::sample::select(&b"._-"[..]),
    ];
    let app = prop::collection::vec(character, 1..APP_ID_LEN)
        .prop_map(|name| AppId::new(&name).expect("an App_ID"));
    (any_component(), prop::option::of(app)).prop_map(|(component, app)| Address { component, app })
}

fn any_kind_and_reason() -> impl Strategy<Value = (Kind, Reason)> {
    prop_oneof![
        (1u8..=6).prop_map(|kind| (Kind::try_from(kind).expect("a kind"), Reason::None)),
        (1u16..=8).prop_map(|reason| {
            let reason = Reason::try_from(reason).expect("a reason");
            (Kind::Undeliverable, reason)
        }),
    ]
}

pub(super) fn any_header() -> impl Strategy<Value = Header> {
    (
        any_kind_and_reason(),
        0u16..16,
        any::<(u8, u8, u32, u32)>(),
        any::<(u64, u64, u32, u32)>(),
        any_address(),
        any_address(),
    )
        .prop_map(
            |((kind, reason), flags, bytes, numbers, source, destination)| {
                let (priority, hops, length, app) = bytes;
                let (length, app) = match kind {
                    Kind::Undeliverable => (0, 0),
                    _ => (length, app),
                };
                let flags = Flags::from_bits(flags).expect("flags");
                let flags = match kind {
                    Kind::Data if !flags.contains(Flags::REQUEST) => flags,
                    _ => flags.without(Flags::BUNDLE),
                };
                let (sequence, correlation, deadline_ms, epoch) = numbers;
                Header {
                    kind,
                    priority,
                    hops,
                    flags,
                    reason,
                    length: length.max(app),
                    app_header_length: length.min(app),
                    sequence,
                    correlation,
                    deadline_ms,
                    epoch,
                    source,
                    destination,
                }
            },
        )
}
