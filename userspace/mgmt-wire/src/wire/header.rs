// SPDX-License-Identifier: MIT OR Apache-2.0

//! The M-channel header.

use super::{ADDRESS_LEN, Address, WireError, array, is_zero_from, part, part_mut};

/// The only version of the header so far.
pub const VERSION: u8 = 1;
/// Bytes of an encoded [`Header`].
pub const HEADER_LEN: usize = 192;
/// A message that has passed this many bridges is not forwarded again.
pub const MAX_HOPS: u8 = 8;

/// Where the fields of an encoded header are.
mod at {
    pub const VERSION: usize = 0;
    pub const KIND: usize = 1;
    pub const PRIORITY: usize = 2;
    pub const HOPS: usize = 3;
    pub const FLAGS: usize = 4;
    pub const REASON: usize = 6;
    pub const LENGTH: usize = 8;
    pub const APP_HEADER_LENGTH: usize = 12;
    pub const SEQUENCE: usize = 16;
    pub const CORRELATION: usize = 24;
    pub const DEADLINE: usize = 32;
    pub const EPOCH: usize = 36;
    pub const RESERVED: usize = 40;
    pub const SOURCE: usize = 64;
    pub const DESTINATION: usize = SOURCE + super::ADDRESS_LEN;
}

/// Where the deadline is in an encoded header, for who passes a message on and writes what is left.
pub const DEADLINE_AT: core::ops::Range<usize> = at::DEADLINE..at::EPOCH;

/// Where both addresses are in an encoded header, the source first, for who compares them as bytes.
pub const ADDRESSES_AT: core::ops::Range<usize> = at::SOURCE..HEADER_LEN;

/// Bytes of both.
pub const ADDRESSES_LEN: usize = 2 * ADDRESS_LEN;

/// Priority classes: a message of a higher class overtakes those of lower ones; within a class
/// order is kept.
pub const CLASSES: usize = 4;

/// Defines a fieldless enum of wire codes and its decoder, so that the two cannot disagree.
macro_rules! codes {
    ($(#[$meta:meta])* $name:ident: $repr:ty, $error:expr, {
        $($(#[$vmeta:meta])* $variant:ident = $value:literal,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr($repr)]
        pub enum $name {
            $($(#[$vmeta])* $variant = $value,)*
        }

        impl TryFrom<$repr> for $name {
            type Error = WireError;

            fn try_from(code: $repr) -> Result<Self, WireError> {
                match code {
                    $($value => Ok(Self::$variant),)*
                    _ => Err($error),
                }
            }
        }
    };
}

codes! {
    /// What a message is for (paper Figure 6).
    Kind: u8, WireError::Kind, {
        /// Who serves this App_ID?
        Discover = 1,
        /// Opens a conversation.
        Establish = 2,
        /// The application's own content: information, coordination, actuation.
        Data = 3,
        /// Closes a conversation.
        Terminate = 4,
        /// Who comes and who goes: an endpoint asks for it, a bridge tells. See
        /// [`Event`](super::Event).
        Presence = 5,
        /// The answer to a request, matched by its correlation id.
        Reply = 6,
        /// A message came back. Only a bridge sends it.
        Undeliverable = 7,
    }
}

impl Kind {
    /// Whether an endpoint may send this kind; the other is the bridge's own word.
    pub fn is_from_endpoint(self) -> bool {
        self != Self::Undeliverable
    }

    /// Whether it may end a request.
    pub fn is_answer(self) -> bool {
        matches!(self, Self::Reply | Self::Terminate)
    }
}

codes! {
    /// Why a message is [`Kind::Undeliverable`].
    Reason: u16, WireError::Reason, {
        /// No reason: every other kind of message.
        None = 0,
        /// No such component, or no route to it.
        NoComponent = 1,
        /// The component is there; nobody has bound the App_ID.
        NoEndpoint = 2,
        /// A rule forbids it.
        Denied = 3,
        /// The receiver's share for this sender is used up.
        Quota = 4,
        /// The receiver went away before it had read the message.
        PeerGone = 5,
        /// The deadline passed.
        Deadline = 6,
        /// The message does not fit through a channel on its way.
        TooLarge = 7,
        /// The message passed [`MAX_HOPS`] bridges.
        Hops = 8,
    }
}

/// Flags of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u16);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Deliver to every endpoint of the App_ID.
    pub const BROADCAST: Self = Self(1 << 0);
    /// The sender waits for a [`Kind::Reply`] with the same correlation id.
    pub const REQUEST: Self = Self(1 << 1);
    /// If it can't be delivered, drop it without an [`Kind::Undeliverable`].
    pub const NO_UNDELIVERABLE: Self = Self(1 << 2);
    /// The payload is that of several messages, each behind its length. Of [`Kind::Data`] only, and no
    /// request.
    pub const BUNDLE: Self = Self(1 << 3);

    const ALL: u16 = (1 << 4) - 1;

    /// The flags of these bits, all of which must have a meaning.
    pub fn from_bits(bits: u16) -> Result<Self, WireError> {
        if bits & !Self::ALL == 0 {
            Ok(Self(bits))
        } else {
            Err(WireError::Flags)
        }
    }

    /// The bits.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Whether every flag of `other` is set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags that are in both sets.
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The flags that are not in the other set.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Both sets of flags.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The M-channel header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the message is for.
    pub kind: Kind,
    /// 0 (bulk) to 255 (most urgent). Only its class counts: see [`Header::class`].
    pub priority: u8,
    /// How many bridges have forwarded it. A sender writes 0.
    pub hops: u8,
    /// How to treat it.
    pub flags: Flags,
    /// Why it came back; [`Reason::None`] on any other kind than undeliverable.
    pub reason: Reason,
    /// Bytes after this header: application header and application data.
    pub length: u32,
    /// How many of those bytes are the application header.
    pub app_header_length: u32,
    /// Number of the message among those that its sender's file or client had accepted, from 1.
    /// Stamped by the bridge; a sender writes 0.
    pub sequence: u64,
    /// Chosen by the sender of a request and repeated in the reply; 0 where there is none.
    pub correlation: u64,
    /// Milliseconds from when the message is accepted until it is no longer worth delivering;
    /// 0 for none.
    pub deadline_ms: u32,
    /// Incarnation of the sender's channel. Stamped by the bridge; a sender writes 0.
    pub epoch: u32,
    /// Who sent it. Stamped by the bridge; a sender may write [`Address::UNSPECIFIED`].
    pub source: Address,
    /// Where it goes.
    pub destination: Address,
}

fn class(priority: u8) -> usize {
    usize::from(priority) * CLASSES / 256
}

impl Header {
    /// A message of `kind` to `destination` with `length` bytes behind the header.
    pub fn new(kind: Kind, destination: Address, length: u32) -> Self {
        Self {
            kind,
            priority: 0,
            hops: 0,
            flags: Flags::NONE,
            reason: Reason::None,
            length,
            app_header_length: 0,
            sequence: 0,
            correlation: 0,
            deadline_ms: 0,
            epoch: 0,
            source: Address::UNSPECIFIED,
            destination,
        }
    }

    /// The priority class: 0 (bulk, priorities 0 to 63) to 3 (priorities 192 to 255).
    pub fn class(&self) -> usize {
        class(self.priority)
    }

    /// The priority class of an encoded header.
    pub fn class_of(bytes: &[u8; HEADER_LEN]) -> usize {
        class(bytes[at::PRIORITY])
    }

    /// Whether an encoded header, which may be wrong, is of a question who is there: bridges answer it.
    pub fn is_question(bytes: &[u8; HEADER_LEN]) -> bool {
        let flags = Flags::BROADCAST.union(Flags::REQUEST).bits();
        bytes[at::KIND] == Kind::Discover as u8
            && u16::from_le_bytes(array(bytes, at::FLAGS)) & flags == flags
    }

    /// Whether an encoded header, which may be wrong, is of data to one receiver that no reply is awaited to.
    pub fn is_plain(bytes: &[u8; HEADER_LEN]) -> bool {
        let flags = Flags::BROADCAST.union(Flags::REQUEST).bits();
        bytes[at::KIND] == Kind::Data as u8
            && u16::from_le_bytes(array(bytes, at::FLAGS)) & flags == 0
    }

    /// Both addresses in an encoded header.
    pub fn addresses_of(bytes: &[u8; HEADER_LEN]) -> &[u8; ADDRESSES_LEN] {
        part(bytes, at::SOURCE)
    }

    /// How many bridges have forwarded the message of an encoded header.
    pub fn hops_of(bytes: &[u8; HEADER_LEN]) -> u8 {
        bytes[at::HOPS]
    }

    /// Whether an encoded header, which may be wrong, is of an undeliverable message.
    pub fn is_undeliverable(bytes: &[u8; HEADER_LEN]) -> bool {
        bytes[at::KIND] == Kind::Undeliverable as u8
    }

    /// Decodes the header at the start of `bytes`, checking all that can be wrong in it alone.
    ///
    /// The length field is not compared with what follows: that is [`Header::of_message`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let bytes: &[u8; HEADER_LEN] = bytes
            .get(..HEADER_LEN)
            .and_then(|b| b.try_into().ok())
            .ok_or(WireError::Length)?;
        Self::check(bytes)?;
        Ok(Self::of_checked(bytes))
    }

    /// The length in an encoded header.
    pub fn length_of(bytes: &[u8; HEADER_LEN]) -> u32 {
        u32::from_le_bytes(array(bytes, at::LENGTH))
    }

    /// The deadline in an encoded header.
    pub fn deadline_of(bytes: &[u8; HEADER_LEN]) -> u32 {
        u32::from_le_bytes(array(bytes, at::DEADLINE))
    }

    /// Checks all that can be wrong in an encoded header alone.
    pub fn check(bytes: &[u8; HEADER_LEN]) -> Result<(), WireError> {
        Self::check_fields(bytes)?;
        Self::check_addresses(bytes)
    }

    /// As [`Header::check`], for what is before the addresses.
    pub fn check_fields(bytes: &[u8; HEADER_LEN]) -> Result<(), WireError> {
        if bytes[at::VERSION] != VERSION {
            return Err(WireError::Version);
        }
        let (before, reserved) = (32, at::RESERVED - 32);
        if !is_zero_from(part(bytes, before), reserved) {
            return Err(WireError::Reserved);
        }
        let kind = Kind::try_from(bytes[at::KIND])?;
        let flags = Flags::from_bits(u16::from_le_bytes(array(bytes, at::FLAGS)))?;
        let reason = Reason::try_from(u16::from_le_bytes(array(bytes, at::REASON)))?;
        let length = u32::from_le_bytes(array(bytes, at::LENGTH));
        if u32::from_le_bytes(array(bytes, at::APP_HEADER_LENGTH)) > length {
            return Err(WireError::Length);
        }
        if flags.contains(Flags::BUNDLE) && (kind != Kind::Data || flags.contains(Flags::REQUEST)) {
            return Err(WireError::Flags);
        }
        if (kind == Kind::Undeliverable) != (reason != Reason::None) {
            return Err(WireError::Reason);
        }
        // It tells of a message, and no more.
        if kind == Kind::Undeliverable && length != 0 {
            return Err(WireError::Length);
        }
        Ok(())
    }

    /// As [`Header::check`], for the addresses: who finds them to be those of an earlier header need not
    /// check them again.
    pub fn check_addresses(bytes: &[u8; HEADER_LEN]) -> Result<(), WireError> {
        Address::check(part(bytes, at::SOURCE))?;
        Address::check(part(bytes, at::DESTINATION))
    }

    /// Decodes a header that passed [`Header::check`].
    ///
    /// Of any other, what has no meaning is taken for something that has.
    pub fn of_checked(bytes: &[u8; HEADER_LEN]) -> Self {
        Self {
            kind: Kind::try_from(bytes[at::KIND]).unwrap_or(Kind::Data),
            priority: bytes[at::PRIORITY],
            hops: bytes[at::HOPS],
            flags: Flags(u16::from_le_bytes(array(bytes, at::FLAGS)) & Flags::ALL),
            reason: Reason::try_from(u16::from_le_bytes(array(bytes, at::REASON)))
                .unwrap_or(Reason::None),
            length: u32::from_le_bytes(array(bytes, at::LENGTH)),
            app_header_length: u32::from_le_bytes(array(bytes, at::APP_HEADER_LENGTH)),
            sequence: u64::from_le_bytes(array(bytes, at::SEQUENCE)),
            correlation: u64::from_le_bytes(array(bytes, at::CORRELATION)),
            deadline_ms: u32::from_le_bytes(array(bytes, at::DEADLINE)),
            epoch: u32::from_le_bytes(array(bytes, at::EPOCH)),
            source: Address::of_checked(part(bytes, at::SOURCE)),
            destination: Address::of_checked(part(bytes, at::DESTINATION)),
        }
    }

    /// Decodes the header of a whole message: header and payload and nothing else.
    pub fn of_message(message: &[u8]) -> Result<Self, WireError> {
        let header = Self::decode(message)?;
        if message.len() - HEADER_LEN == header.length as usize {
            Ok(header)
        } else {
            Err(WireError::Length)
        }
    }

    /// Encodes the header.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[at::VERSION] = VERSION;
        out[at::KIND] = self.kind as u8;
        out[at::PRIORITY] = self.priority;
        *part_mut(&mut out, at::FLAGS) = self.flags.bits().to_le_bytes();
        *part_mut(&mut out, at::REASON) = (self.reason as u16).to_le_bytes();
        *part_mut(&mut out, at::LENGTH) = self.length.to_le_bytes();
        *part_mut(&mut out, at::APP_HEADER_LENGTH) = self.app_header_length.to_le_bytes();
        *part_mut(&mut out, at::CORRELATION) = self.correlation.to_le_bytes();
        *part_mut(&mut out, at::DEADLINE) = self.deadline_ms.to_le_bytes();
        let mut stamp = Stamp::new(&mut out);
        stamp.hops(self.hops);
        stamp.sequence(self.sequence);
        stamp.epoch(self.epoch);
        stamp.source(&self.source);
        stamp.destination(&self.destination);
        out
    }

    /// The header of the message that tells this one's sender that it was not delivered.
    ///
    /// It keeps what lets the sender find its message again: addresses (swapped), sequence,
    /// correlation and epoch, and whether it was a request. `None` if nobody wants to know: the sender asked for none, or the
    /// message is itself an undeliverable one.
    pub fn undeliverable(&self, reason: Reason) -> Option<Self> {
        if self.kind == Kind::Undeliverable || self.flags.contains(Flags::NO_UNDELIVERABLE) {
            return None;
        }
        Some(Self {
            kind: Kind::Undeliverable,
            flags: self.flags.intersection(Flags::REQUEST),
            hops: 0,
            reason,
            length: 0,
            app_header_length: 0,
            // It is news, however late.
            deadline_ms: 0,
            source: self.destination,
            destination: self.source,
            ..*self
        })
    }
}

/// An encoded header, in which a bridge writes what it stamps.
pub struct Stamp<'a>(&'a mut [u8; HEADER_LEN]);

impl<'a> Stamp<'a> {
    /// Writes into this header.
    pub fn new(header: &'a mut [u8; HEADER_LEN]) -> Self {
        Self(header)
    }

    /// How many bridges have forwarded it.
    pub fn hops(&mut self, hops: u8) {
        self.0[at::HOPS] = hops;
    }

    /// Its number.
    pub fn sequence(&mut self, sequence: u64) {
        *part_mut(self.0, at::SEQUENCE) = sequence.to_le_bytes();
    }

    /// The incarnation of the sender's channel.
    pub fn epoch(&mut self, epoch: u32) {
        *part_mut(self.0, at::EPOCH) = epoch.to_le_bytes();
    }

    /// Who sent it and where it goes, encoded.
    pub fn addresses(&mut self, addresses: &[u8; ADDRESSES_LEN]) {
        *part_mut(self.0, at::SOURCE) = *addresses;
    }

    /// Who sent it.
    pub fn source(&mut self, source: &Address) {
        source.encode_into(part_mut(self.0, at::SOURCE));
    }

    /// Where it goes.
    pub fn destination(&mut self, destination: &Address) {
        destination.encode_into(part_mut(self.0, at::DESTINATION));
    }
}

#[cfg(test)]
mod tests;
