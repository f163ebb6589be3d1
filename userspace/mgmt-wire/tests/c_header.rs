// SPDX-License-Identifier: MIT OR Apache-2.0

//! The constants of `include/uapi/mgmt.h` are those of this crate.

use mgmt_wire::{
    APP_ID_LEN, COMPONENT_LEN, Component, Event, Flags, HEADER_LEN, Kind, PRESENCE_LEN, Reason,
    Serial, VERSION,
};
use std::collections::BTreeMap;

/// The numbers that the header defines, by name.
fn defined() -> BTreeMap<String, u64> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../include/uapi/mgmt.h");
    let text = std::fs::read_to_string(path).expect("the header");
    text.lines().filter_map(definition).collect()
}

/// `#define NAME NUMBER` or `#define NAME (1u << BIT)`
fn definition(line: &str) -> Option<(String, u64)> {
    let (name, value) = line
        .strip_prefix("#define ")?
        .split_once(char::is_whitespace)?;
    let value = value.split("/*").next()?.trim();
    let number = match value
        .strip_prefix("(1u << ")
        .and_then(|bit| bit.strip_suffix(')'))
    {
        Some(bit) => 1 << bit.parse::<u32>().ok()?,
        None => value.parse().ok()?,
    };
    Some((name.to_owned(), number))
}

/// Names after `prefix` and their numbers must be exactly these.
fn agree(prefix: &str, expected: &[(&str, u64)]) {
    let found: BTreeMap<_, _> = defined()
        .into_iter()
        .filter_map(|(name, number)| Some((name.strip_prefix(prefix)?.to_owned(), number)))
        .collect();
    let expected = expected
        .iter()
        .map(|&(name, number)| (name.to_owned(), number));
    assert_eq!(found, expected.collect(), "{prefix}*");
}

#[test]
fn kinds() {
    agree(
        "MGMT_KIND_",
        &[
            ("DISCOVER", Kind::Discover as u64),
            ("ESTABLISH", Kind::Establish as u64),
            ("DATA", Kind::Data as u64),
            ("TERMINATE", Kind::Terminate as u64),
            ("PRESENCE", Kind::Presence as u64),
            ("REPLY", Kind::Reply as u64),
            ("UNDELIVERABLE", Kind::Undeliverable as u64),
        ],
    );
}

#[test]
fn flags() {
    agree(
        "MGMT_FLAG_",
        &[
            ("BROADCAST", Flags::BROADCAST.bits().into()),
            ("REQUEST", Flags::REQUEST.bits().into()),
            ("NO_UNDELIVERABLE", Flags::NO_UNDELIVERABLE.bits().into()),
            ("BUNDLE", Flags::BUNDLE.bits().into()),
        ],
    );
}

#[test]
fn reasons() {
    agree(
        "MGMT_REASON_",
        &[
            ("NONE", Reason::None as u64),
            ("NO_COMPONENT", Reason::NoComponent as u64),
            ("NO_ENDPOINT", Reason::NoEndpoint as u64),
            ("DENIED", Reason::Denied as u64),
            ("QUOTA", Reason::Quota as u64),
            ("PEER_GONE", Reason::PeerGone as u64),
            ("DEADLINE", Reason::Deadline as u64),
            ("TOO_LARGE", Reason::TooLarge as u64),
            ("HOPS", Reason::Hops as u64),
        ],
    );
}

#[test]
fn presence_events() {
    agree(
        "MGMT_PRESENCE_",
        &[
            ("LEN", PRESENCE_LEN as u64),
            ("WATCH", Event::Watch as u64),
            ("UNWATCH", Event::Unwatch as u64),
            ("UP", Event::Up as u64),
            ("DOWN", Event::Down as u64),
            ("MOVED", Event::Moved as u64),
        ],
    );
}

#[test]
fn component_kinds() {
    let kind = |component: Component| u64::from(component.encode()[0]);
    let serial = Serial::new(b"X").expect("a serial number");
    let vm = Component::Vm {
        mvm_ip: [0; 16],
        vm_id: 0,
    };
    agree(
        "MGMT_COMPONENT_",
        &[
            ("LEN", COMPONENT_LEN as u64),
            ("UNSPECIFIED", kind(Component::Unspecified)),
            ("VM", kind(vm)),
            ("STABLE", kind(Component::Stable([0; 16]))),
            ("HARDWARE", kind(Component::Hardware(serial))),
            ("SELF", kind(Component::SelfDomain)),
            ("MVM", kind(Component::Mvm)),
            ("PLATFORM", kind(Component::Platform)),
            ("EVERYWHERE", kind(Component::Everywhere)),
        ],
    );
}

#[test]
fn sizes() {
    agree(
        "MGMT_HEADER_",
        &[("LEN", HEADER_LEN as u64), ("VERSION", VERSION.into())],
    );
    agree("MGMT_APP_ID_", &[("LEN", APP_ID_LEN as u64)]);
}
