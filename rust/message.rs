// SPDX-License-Identifier: GPL-2.0

//! A message inside the bridge.

use crate::{
    payload::Payload,
    pure::{
        account::Owner,
        flow::Flow,
        large::MAX_INLINE,
        quota::Amount, //
    },
    spares::Spares,
    wire::{Header, Stamp, WireError, ADDRESSES_LEN, DEADLINE_AT, HEADER_LEN},
    xen::{
        bytes::{self, Bytes, Source, WITHIN},
        pages::PageBuffer, //
    }, //
};
use core::ops::Deref;
use kernel::{
    alloc::Flags as AllocFlags,
    list::{impl_list_arc_safe, impl_list_item, ListArc, ListLinks},
    prelude::*,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        Arc,
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
    /// The header, encoded, and a payload that is not in pages.
    bytes: Bytes,
    /// A payload that is in pages.
    pages: Option<Arc<PageBuffer>>,
    pub(crate) principal: Principal,
    /// When it is no longer worth delivering, if ever.
    expires: Option<Instant<Monotonic>>,
    /// Its number among the requests that this bridge remembers; 0 if it is none.
    request_number: Atomic<u64>,
    /// Whether it is the answer to a request that this bridge remembered.
    answers: Atomic<bool>,
    /// Where the message ends in the ring that it was put into; meaningless before.
    ring_position: Atomic<u32>,
    #[pin]
    links: ListLinks,
}

impl_list_arc_safe! {
    impl ListArcSafe<0> for Message { untracked; }
}

impl_list_item! {
    impl ListItem<0> for Message { using ListLinks { self.links }; }
}

/// A message that nobody else has yet: it is written where it lies, and sent or dropped.
pub(crate) struct Draft(Pin<UniqueArc<Message>>);

impl Deref for Draft {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.0
    }
}

impl Draft {
    /// Memory for a message of this sender, with the header and a small payload.
    pub(crate) fn new(principal: Principal, gfp: AllocFlags) -> Result<Self> {
        let message = UniqueArc::pin_init(
            try_pin_init!(Message {
                bytes <- Bytes::new(),
                pages: None,
                principal,
                expires: None,
                request_number: Atomic::new(0),
                answers: Atomic::new(false),
                ring_position: Atomic::new(0),
                links <- ListLinks::new(),
            }),
            gfp,
        )?;
        Ok(Self(message))
    }

    /// The memory of a message that nobody has any more, and what of it is not in the object.
    pub(crate) fn emptied(message: ListArc<Message>) -> Option<(Self, Option<KVVec<u8>>)> {
        let mut draft = Self::whole(message)?;
        let outside = draft.bytes().take_outside();
        draft.clear();
        Some((draft, outside))
    }

    /// A message that nobody has any more but who gives it.
    pub(crate) fn whole(message: ListArc<Message>) -> Option<Self> {
        Arc::into_unique_or_drop(message.into_arc()).map(Self)
    }

    fn clear(&mut self) {
        let message = self.0.as_mut().project();
        message.bytes.clear();
        *message.pages = None;
        message.request_number.store(0, Relaxed);
        message.answers.store(false, Relaxed);
    }

    pub(crate) fn set_principal(&mut self, principal: Principal) {
        *self.0.as_mut().project().principal = principal;
    }

    /// Makes a message. `payload` has the length that `header` says; its time starts now.
    pub(crate) fn of(
        header: &Header,
        payload: Payload<'_>,
        principal: Principal,
        gfp: AllocFlags,
    ) -> Result<Self> {
        let mut draft = Self::new(principal, gfp)?;
        match payload {
            Payload::Small(payload) => draft.write(header, payload, gfp)?,
            Payload::Large(pages) => {
                draft.write(header, &[], gfp)?;
                draft.put_pages(pages.clone());
            }
        }
        Ok(draft)
    }

    /// As [`Draft::of`], of a payload in memory, which may be a large one.
    ///
    /// `EMSGSIZE` for one that takes pages, where `gfp` does not allow to sleep.
    pub(crate) fn copied(
        header: &Header,
        payload: &[u8],
        principal: Principal,
        gfp: AllocFlags,
    ) -> Result<Self> {
        if payload.len() <= MAX_INLINE {
            return Self::of(header, Payload::Small(payload), principal, gfp);
        }
        if !gfp.contains(GFP_KERNEL) {
            return Err(EMSGSIZE);
        }
        let mut pages = PageBuffer::zeroed(payload.len(), gfp)?;
        pages.copy_from_slice(payload);
        let pages = Arc::new(pages, gfp)?;
        Self::of(header, Payload::Large(&pages), principal, gfp)
    }

    /// Writes a message, in place of what it was.
    pub(crate) fn write(&mut self, header: &Header, payload: &[u8], gfp: AllocFlags) -> Result {
        self.clear();
        let message = self.0.as_mut().project();
        message.bytes.reserve(HEADER_LEN + payload.len(), gfp)?;
        message.bytes.extend(&header.encode());
        message.bytes.extend(payload);
        self.start();
        Ok(())
    }

    /// Takes the header from a program.
    pub(crate) fn take_header(&mut self, source: &mut impl Source) -> Result {
        self.bytes().take(source, HEADER_LEN)
    }

    /// Whether a payload of this length has room where the header is.
    pub(crate) fn is_small(length: usize) -> bool {
        HEADER_LEN + length <= WITHIN
    }

    /// Takes the header from a program, and as many more bytes as have room there.
    pub(crate) fn take_small(&mut self, source: &mut impl Source, more: usize) -> Result {
        self.bytes().take(source, WITHIN.min(HEADER_LEN + more))
    }

    /// Whether a payload of this length was taken with the header, and perhaps more.
    pub(crate) fn has_payload(&mut self, length: usize) -> bool {
        let whole = HEADER_LEN + length;
        let has = self.bytes().len() >= whole;
        self.bytes().truncate(if has { whole } else { HEADER_LEN });
        has
    }

    /// Takes the payload, of this length, from a program.
    pub(crate) fn take_payload(
        &mut self,
        source: &mut impl Source,
        length: usize,
        spares: &Spares,
    ) -> Result {
        let gfp = GFP_KERNEL_ACCOUNT;
        if length <= MAX_INLINE {
            spares.make_room(self, HEADER_LEN + length, gfp)?;
            return self.bytes().take(source, length);
        }
        let mut pages = PageBuffer::zeroed(length, gfp)?;
        bytes::copy(source, &mut pages)?;
        self.put_pages(Arc::new(pages, gfp)?);
        Ok(())
    }

    /// The bytes of a message that is copied from elsewhere: a header, for [`Draft::check`], and the
    /// payload, if that is not in pages.
    pub(crate) fn bytes(&mut self) -> &mut Bytes {
        self.0.as_mut().project().bytes
    }

    /// Checks a header that was copied; its time starts now.
    pub(crate) fn check(&mut self) -> Result<(), WireError> {
        self.check_fields()?;
        self.check_addresses()
    }

    /// As [`Draft::check`], but for the addresses.
    pub(crate) fn check_fields(&mut self) -> Result<(), WireError> {
        Header::check_fields(self.bytes.first_chunk().ok_or(WireError::Length)?)?;
        self.start();
        Ok(())
    }

    /// The rest of [`Draft::check`].
    pub(crate) fn check_addresses(&self) -> Result<(), WireError> {
        Header::check_addresses(self.encoded())
    }

    /// Whether its payload has the length that its header says.
    pub(crate) fn is_whole(&self) -> bool {
        self.written_length() == self.payload().len()
    }

    /// Gives it a payload in pages.
    pub(crate) fn put_pages(&mut self, pages: Arc<PageBuffer>) {
        *self.0.as_mut().project().pages = Some(pages);
    }

    /// Writes into the header what a bridge stamps.
    pub(crate) fn stamp(&mut self, write: impl FnOnce(Stamp<'_>)) {
        if let Some(header) = self.bytes().first_chunk_mut() {
            write(Stamp::new(header));
        }
    }

    fn start(&mut self) {
        let deadline_ms = Header::deadline_of(self.encoded());
        *self.0.as_mut().project().expires =
            (deadline_ms != 0).then(|| Instant::now() + Delta::from_millis(deadline_ms.into()));
    }
}

impl From<Draft> for ListArc<Message> {
    fn from(draft: Draft) -> Self {
        draft.0.into()
    }
}

impl Message {
    /// What it is of, of all that goes its way.
    pub(crate) fn flow(&self) -> Flow {
        Flow::of(self.encoded())
    }

    /// Whether it asks who is there, and bridges answer: then its place among others is nothing to anybody.
    pub(crate) fn is_question(&self) -> bool {
        Header::is_question(self.encoded())
    }

    /// Whether it is data to one receiver that no reply is awaited to.
    pub(crate) fn is_plain(&self) -> bool {
        Header::is_plain(self.encoded())
    }

    /// Both addresses, encoded.
    pub(crate) fn addresses(&self) -> &[u8; ADDRESSES_LEN] {
        Header::addresses_of(self.encoded())
    }

    /// Bytes of the payload, as its header says.
    pub(crate) fn written_length(&self) -> usize {
        Header::length_of(self.encoded()) as usize
    }

    /// How many bridges have forwarded it.
    pub(crate) fn hops(&self) -> u8 {
        Header::hops_of(self.encoded())
    }

    /// The header, encoded, as it was when it came.
    fn encoded(&self) -> &[u8; HEADER_LEN] {
        // There is one as soon as there is anything.
        self.bytes.first_chunk().unwrap_or(&[0; HEADER_LEN])
    }

    /// The header, as the receiver gets it: the deadline is what is left of it.
    pub(crate) fn header(&self) -> Header {
        let mut header = self.stamped();
        if let Some(left) = self.time_left() {
            header.deadline_ms = left.max(1);
        }
        header
    }

    /// The header, with the deadline that it came with.
    pub(crate) fn stamped(&self) -> Header {
        Header::of_checked(self.encoded())
    }

    /// The message as it goes on, in parts, but for a payload in pages; `deadline` is for what is
    /// left of that.
    pub(crate) fn parts<'a>(&'a self, deadline: &'a mut [u8; 4]) -> [&'a [u8]; 3] {
        let Some(left) = self.time_left() else {
            return [&self.bytes, &[], &[]];
        };
        *deadline = left.max(1).to_le_bytes();
        let (head, rest) = self.bytes.split_at(self.bytes.len().min(DEADLINE_AT.end));
        [&head[..head.len().min(DEADLINE_AT.start)], deadline, rest]
    }

    /// Whether all of it is in its object.
    pub(crate) fn is_in_one(&self) -> bool {
        self.len() <= WITHIN
    }

    /// What is behind the header.
    pub(crate) fn payload(&self) -> Payload<'_> {
        match &self.pages {
            Some(pages) => Payload::Large(pages),
            None => Payload::Small(self.bytes.get(HEADER_LEN..).unwrap_or_default()),
        }
    }

    /// A payload in pages.
    pub(crate) fn pages(&self) -> Option<&Arc<PageBuffer>> {
        self.pages.as_ref()
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
        Header::class_of(self.encoded())
    }

    /// Says which of the requests it is that this bridge remembers; 0 for none.
    pub(crate) fn set_request_number(&self, number: u64) {
        self.request_number.store(number, Relaxed);
    }

    pub(crate) fn request_number(&self) -> Option<u64> {
        let number = self.request_number.load(Relaxed);
        (number != 0).then_some(number)
    }

    /// Says whether it is the answer to a request that this bridge remembered.
    pub(crate) fn set_answers(&self, answers: bool) {
        self.answers.store(answers, Relaxed);
    }

    pub(crate) fn answers(&self) -> bool {
        self.answers.load(Relaxed)
    }

    /// Bytes of the whole message, as it is read and written.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.pages.as_ref().map_or(0, |pages| pages.len())
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
