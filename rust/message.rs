// SPDX-License-Identifier: GPL-2.0

//! A message inside the bridge.

use crate::{
    payload::Payload,
    pure::{account::Owner, quota::Amount},
    wire::{Header, HEADER_LEN}, //
};
use core::{convert::Infallible, mem::MaybeUninit};
use kernel::{
    alloc::Flags as AllocFlags,
    list::{impl_list_arc_safe, impl_list_item, ListArc, ListLinks},
    prelude::*,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        UniqueArc, //
    },
    time::{Delta, Instant, Monotonic}, //
};

/// Who sent a message: one open file, one incarnation of a link, or the bridge itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Principal {
    /// Given once.
    pub(crate) id: u64,
    /// Who is charged.
    pub(crate) owner: Owner,
}

/// A message, with its source stamped and its destination resolved.
#[pin_data]
pub(crate) struct Message {
    header: Header,
    /// Stamped anew with every attempt to queue the message.
    sequence: Atomic<u64>,
    pub(crate) payload: Payload,
    pub(crate) principal: Principal,
    /// When it is no longer worth delivering, if ever.
    expires: Option<Instant<Monotonic>>,
    /// Its number among the requests that this bridge remembers; 0 if it is none.
    request_number: Atomic<u64>,
    /// Where the message ends in the ring that it was put into; meaningless before.
    ring_position: Atomic<u32>,
    #[pin]
    links: ListLinks,
}

/// Memory for a message. Who has it before taking a message from elsewhere does not lose it for
/// want of memory.
pub(crate) struct Room(UniqueArc<MaybeUninit<Message>>);

impl Room {
    pub(crate) fn new(gfp: AllocFlags) -> Result<Self> {
        Ok(Self(UniqueArc::new_uninit(gfp)?))
    }

    /// As [`Message::new`].
    pub(crate) fn fill(
        self,
        header: Header,
        payload: Payload,
        principal: Principal,
    ) -> ListArc<Message> {
        let filled: Result<_, Infallible> = self.0.pin_init_with(pin_init!(Message {
            sequence: Atomic::new(header.sequence),
            expires: (header.deadline_ms != 0)
                .then(|| Instant::now() + Delta::from_millis(header.deadline_ms.into())),
            header,
            payload,
            principal,
            request_number: Atomic::new(0),
            ring_position: Atomic::new(0),
            links <- ListLinks::new(),
        }));
        match filled {
            Ok(message) => message.into(),
            Err(never) => match never {},
        }
    }
}

impl_list_arc_safe! {
    impl ListArcSafe<0> for Message { untracked; }
}

impl_list_item! {
    impl ListItem<0> for Message { using ListLinks { self.links }; }
}

impl Message {
    /// Makes a message. `payload` has the length that `header` says; its time starts now.
    pub(crate) fn new(
        header: Header,
        payload: Payload,
        principal: Principal,
        gfp: AllocFlags,
    ) -> Result<ListArc<Self>> {
        Ok(Room::new(gfp)?.fill(header, payload, principal))
    }

    /// The header, as the receiver gets it: the deadline is what is left of it.
    pub(crate) fn header(&self) -> Header {
        let (sequence, deadline_ms) = self.of_now();
        Header {
            sequence,
            deadline_ms,
            ..self.header
        }
    }

    /// The same, encoded.
    pub(crate) fn encoded_header(&self) -> [u8; HEADER_LEN] {
        let (sequence, deadline_ms) = self.of_now();
        self.header.encode_as(sequence, deadline_ms)
    }

    /// Sequence number and deadline, as they are now.
    fn of_now(&self) -> (u64, u32) {
        let left = self.time_left().map_or(0, |left| left.max(1));
        (self.sequence.load(Relaxed), left)
    }

    /// The header but for its sequence number and what is left of its deadline.
    pub(crate) fn stamped(&self) -> &Header {
        &self.header
    }

    /// Milliseconds until it expires, if it ever does; 0 from then on.
    pub(crate) fn time_left(&self) -> Option<u32> {
        let left = self.expires? - Instant::now();
        Some(u32::try_from(left.as_millis_ceil().max(0)).unwrap_or(u32::MAX))
    }

    /// Whether its deadline has passed.
    pub(crate) fn is_expired(&self) -> bool {
        self.time_left() == Some(0)
    }

    /// When that is.
    pub(crate) fn expires(&self) -> Option<Instant<Monotonic>> {
        self.expires
    }

    pub(crate) fn has_deadline(&self) -> bool {
        self.expires.is_some()
    }

    /// Its priority class, an index below [`CLASSES`](crate::wire::CLASSES).
    pub(crate) fn class(&self) -> usize {
        self.header.class()
    }

    /// Stamps the sequence number, before the message is queued.
    pub(crate) fn set_sequence(&self, sequence: u64) {
        self.sequence.store(sequence, Relaxed);
    }

    /// Says which of the requests it is that this bridge remembers; 0 for none.
    pub(crate) fn set_request_number(&self, number: u64) {
        self.request_number.store(number, Relaxed);
    }

    pub(crate) fn request_number(&self) -> Option<u64> {
        let number = self.request_number.load(Relaxed);
        (number != 0).then_some(number)
    }

    /// Bytes of the whole message, as it is read and written.
    pub(crate) fn len(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }

    /// What it takes of a queue.
    pub(crate) fn amount(&self) -> Amount {
        // At most `HEADER_LEN + MAX_PAYLOAD`.
        Amount::message(self.len() as u32)
    }

    pub(crate) fn set_ring_position(&self, position: u32) {
        self.ring_position.store(position, Relaxed);
    }

    pub(crate) fn ring_position(&self) -> u32 {
        self.ring_position.load(Relaxed)
    }
}
