// SPDX-License-Identifier: MIT OR Apache-2.0

//! Many small messages behind one header.

use crate::{Address, Flags, HEADER_LEN, Message};
use mgmt_wire::{MAX_PARTS, PART_HEADER_LEN, Parts, part_header};

/// Bytes of a bundle's parts with their lengths: with its header, 8 KiB, a quarter of a ring. More goes in
/// pages that are lent, which is slower. One message alone may have more.
pub const BUNDLE_BYTES: usize = 8192 - HEADER_LEN;

/// Messages of kind data to one receiver that are sent as one, and received one by one: a bridge does
/// once what it does for each message, and a stream of small ones is some 25 times as fast.
///
/// They are delivered, or come back, together. Whoever receives with this library sees no difference.
///
/// ```no_run
/// # fn main() -> mgmt_channel::Result<()> {
/// # let (channel, to) = (mgmt_channel::Channel::open()?, mgmt_channel::Address::UNSPECIFIED);
/// # let readings: Vec<[u8; 64]> = Vec::new();
/// let mut bundle = mgmt_channel::Bundle::to(to);
/// for reading in &readings {
///     if !bundle.has_room(reading.len()) {
///         channel.send(&bundle.take())?;
///     }
///     bundle.add(reading);
/// }
/// if !bundle.is_empty() {
///     channel.send(&bundle.take())?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Bundle {
    message: Message,
    parts: usize,
}

impl Bundle {
    /// An empty one.
    pub fn to(destination: Address) -> Self {
        Self::like(Message::data(destination, Vec::new()))
    }

    /// One whose messages have the priority, the deadline and the receiver of this one, which is of
    /// kind data and not part of them.
    pub fn like(mut message: Message) -> Self {
        message.payload.clear();
        message.header.app_header_length = 0;
        message.header.flags = message.header.flags.union(Flags::BUNDLE);
        Self { message, parts: 0 }
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.parts == 0
    }

    /// Whether a message of so many bytes should be added: else the bundle is to be sent before.
    pub fn has_room(&self, length: usize) -> bool {
        let with = self.message.payload.len() + PART_HEADER_LEN + length;
        self.parts == 0 || self.parts < MAX_PARTS && with <= BUNDLE_BYTES
    }

    /// Adds a message.
    ///
    /// # Panics
    ///
    /// If it has 4 GiB or more: such a message cannot be sent.
    pub fn add(&mut self, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a message of less than 4 GiB");
        let bytes = &mut self.message.payload;
        bytes.extend_from_slice(&part_header(length));
        bytes.extend_from_slice(payload);
        self.parts += 1;
    }

    /// What is to be sent; the bundle is empty again, and goes to the same receiver.
    pub fn take(&mut self) -> Message {
        let empty = Message {
            header: self.message.header,
            payload: Vec::with_capacity(BUNDLE_BYTES),
        };
        self.parts = 0;
        std::mem::replace(&mut self.message, empty)
    }
}

impl Message {
    /// The messages of a bundle, in order. `None` if it is no bundle, also if it says that it is.
    pub fn unbundle(&self) -> Option<Vec<Message>> {
        if !self.header.flags.contains(Flags::BUNDLE) {
            return None;
        }
        let parts = Parts::of(&self.payload)?;
        let mut header = self.header;
        header.flags = header.flags.without(Flags::BUNDLE);
        header.app_header_length = 0;
        let message = |part: &[u8]| Message {
            header: crate::Header {
                length: part.len() as u32,
                ..header
            },
            payload: part.to_vec(),
        };
        Some(parts.map(message).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AppId, Component, Kind};

    fn to() -> Address {
        Address::new(Component::Mvm, AppId::new(b"Telemetry").unwrap())
    }

    #[test]
    fn what_was_bundled_comes_out() {
        let mut like = Message::with_app_header(Kind::Data, to(), b"not", b"of it");
        (like.header.priority, like.header.deadline_ms) = (70, 900);
        let mut bundle = Bundle::like(like.clone());
        assert!(bundle.is_empty() && bundle.has_room(1 << 20));
        let payloads: Vec<Vec<u8>> = (0..50).map(|length| vec![length; length.into()]).collect();
        payloads.iter().for_each(|payload| bundle.add(payload));
        let sent = Message::decode(&bundle.take().encode()).unwrap();
        assert!(bundle.is_empty());
        let got = sent.unbundle().unwrap();
        assert_eq!(got.len(), payloads.len());
        for (message, payload) in got.iter().zip(payloads) {
            let mut expected = like.clone();
            expected.header.app_header_length = 0;
            expected.header.length = payload.len() as u32;
            expected.payload = payload;
            assert_eq!(*message, expected);
        }
    }

    #[test]
    fn a_full_bundle_says_so() {
        let mut bundle = Bundle::to(to());
        while bundle.has_room(64) {
            bundle.add(&[0; 64]);
        }
        assert_eq!(bundle.take().unbundle().unwrap().len(), BUNDLE_BYTES / 68);
        while bundle.has_room(0) {
            bundle.add(&[]);
        }
        let most = MAX_PARTS.min(BUNDLE_BYTES / PART_HEADER_LEN);
        assert_eq!(bundle.take().unbundle().unwrap().len(), most);
    }

    #[test]
    fn what_is_no_bundle_is_given_as_it_came() {
        let plain = Message::data(to(), part_header(0).to_vec());
        assert_eq!(plain.unbundle(), None);
        let mut wrong = Bundle::like(plain).take();
        for payload in [vec![], vec![1, 0, 0, 0], vec![0; 4 * MAX_PARTS + 4]] {
            wrong.payload = payload;
            assert_eq!(wrong.unbundle(), None);
        }
    }
}
