// SPDX-License-Identifier: MIT OR Apache-2.0

//! Messages, good ones and bad ones.

use crate::dice::Dice;
use libc::{EINVAL, EPROTONOSUPPORT};
use mgmt_wire::{
    Address, AppId, Component, Event, Flags, HEADER_LEN, Header, Kind, Reason, Serial,
};

/// What an endpoint may say.
const KINDS: [Kind; 5] = [
    Kind::Discover,
    Kind::Establish,
    Kind::Data,
    Kind::Terminate,
    Kind::Reply,
];

/// A message that may be written, to an App_ID of this domain.
pub fn to_self(dice: &mut Dice, app: AppId, most: usize) -> (Header, Vec<u8>) {
    let destination = Address::new(Component::SelfDomain, app);
    let length = dice.choose(&[0, 1, 7, 8, 64, 1000, most.min(5000)]);
    let flags = dice.choose(&[Flags::NONE, Flags::REQUEST, Flags::NO_UNDELIVERABLE]);
    let header = Header {
        priority: dice.number() as u8,
        flags,
        correlation: dice.number(),
        deadline_ms: dice.choose(&[0, 0, 1, 1000]),
        app_header_length: dice.below(length + 1) as u32,
        ..Header::new(dice.choose(&KINDS), destination, length as u32)
    };
    let payload = dice.bytes(length);
    (header, [header.encode().to_vec(), payload].concat())
}

/// One to everybody in this domain.
pub fn broadcast(dice: &mut Dice, app: AppId, most: usize) -> Vec<u8> {
    let (mut header, mut bytes) = to_self(dice, app, most);
    header.kind = dice.choose(&[Kind::Data, Kind::Discover]);
    header.flags = header.flags.union(Flags::BROADCAST);
    bytes[..HEADER_LEN].copy_from_slice(&header.encode());
    bytes
}

/// One that asks for news, or wants no more.
pub fn watch(dice: &mut Dice, app: AppId) -> Vec<u8> {
    let component = dice.choose(&[Component::SelfDomain, Component::Platform]);
    let event = dice.choose(&[Event::Watch, Event::Unwatch]).encode();
    let header = Header::new(
        Kind::Presence,
        Address::new(component, app),
        event.len() as u32,
    );
    [header.encode().to_vec(), event.to_vec()].concat()
}

/// One to anywhere else, be it there or not.
pub fn to_others(dice: &mut Dice, app: AppId, most: usize) -> Vec<u8> {
    let (mut header, mut bytes) = to_self(dice, app, most);
    header.destination.component = match dice.below(5) {
        0 => Component::Mvm,
        1 => Component::Stable([dice.number() as u8; 16]),
        2 => Serial::new(b"SN-1").map_or(Component::Mvm, Component::Hardware),
        _ => Component::Vm {
            mvm_ip: [dice.choose(&[0, 0, 7]); 16],
            // Far from the domains that are there.
            vm_id: 1000 + dice.below(20) as u32,
        },
    };
    bytes[..HEADER_LEN].copy_from_slice(&header.encode());
    bytes
}

/// One that may not be written, for one reason, and the errno that it must bring.
pub fn wrong(dice: &mut Dice, app: AppId) -> (Vec<u8>, i32) {
    let (header, good) = to_self(dice, app, 64);
    let with = |change: fn(&mut Header)| {
        let mut header = header;
        change(&mut header);
        [header.encode().to_vec(), good[HEADER_LEN..].to_vec()].concat()
    };
    let patched = |at: usize, bytes: &[u8]| {
        let mut message = good.clone();
        message[at..at + bytes.len()].copy_from_slice(bytes);
        message
    };
    let bytes = match dice.below(20) {
        0 => return (patched(0, &[dice.choose(&[0, 2, 3, 255])]), EPROTONOSUPPORT),
        1 => patched(1, &[dice.choose(&[0, 8, 77, 255])]),
        2 => patched(1, &[Kind::Undeliverable as u8]),
        3 => patched(5, &[dice.choose(&[1, 0x80])]),
        4 => patched(6, &(Reason::Hops as u16).to_le_bytes()),
        5 => patched(
            8,
            &dice
                .choose(&[u32::MAX, header.length + 1, header.length ^ 8])
                .to_le_bytes(),
        ),
        6 => patched(
            12,
            &dice.choose(&[u32::MAX, header.length + 1]).to_le_bytes(),
        ),
        7 => patched(40 + dice.below(24), &[1 + dice.below(255) as u8]),
        8 => patched(128, &[dice.choose(&[8, 9, 255])]),
        9 => patched(129, &[1 + dice.below(255) as u8]),
        10 => patched(130 + dice.below(2), &[1]),
        11 => patched(132 + dice.below(28), &[1]),
        12 => patched(160, &[dice.choose(b"\n /@*\x80")]),
        13 => patched(160, &[b'a'; 32]),
        14 => patched(160, &[0; 32]),
        15 => with(|header| header.destination.component = Component::Platform),
        16 => with(|header| header.destination.component = Component::Everywhere),
        // A watch goes where it applies by itself.
        17 => {
            let event = dice.choose(&[Event::Watch, Event::Unwatch]).encode();
            let everybody = [Component::Platform, Component::Everywhere];
            let to = Address::new(dice.choose(&everybody), app);
            let header = Header {
                flags: Flags::BROADCAST,
                ..Header::new(Kind::Presence, to, event.len() as u32)
            };
            [header.encode().to_vec(), event.to_vec()].concat()
        }
        18 => with(|header| {
            header.kind = Kind::Establish;
            header.flags = Flags::BUNDLE;
        }),
        _ => with(|header| {
            header.kind = Kind::Reply;
            header.flags = Flags::BROADCAST;
        }),
    };
    (bytes, EINVAL)
}
