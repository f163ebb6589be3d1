// SPDX-License-Identifier: MIT OR Apache-2.0

//! What two hosts tell each other. A frame is its length (4 bytes), its type (1 byte) and its body;
//! all numbers are little-endian.

use crate::Host;
use mgmt_wire::{HEADER_LEN, Reason, Serial};

/// The largest payload of a message.
const MAX_PAYLOAD: usize = 1 << 20;
/// Guests of one host that can be named.
pub const MAX_GUESTS: usize = 4096;
/// Hardware of one host that can be named.
pub const MAX_HARDWARE: usize = 256;
/// The largest frame, without its length.
pub const MAX_FRAME: usize = 1 + 8 + HEADER_LEN + MAX_PAYLOAD;

const MAGIC: [u8; 8] = *b"MGMTFAB2";

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The first from either side.
    Hello(Hello),
    /// A message for a component of the other host, by a number that grows.
    Message {
        /// Its number among those of its sender's bridge.
        number: u64,
        /// Header and payload.
        bytes: Vec<u8>,
    },
    /// All messages up to this number have been taken, or refused.
    Received(u64),
    /// A message was not taken.
    Refused {
        /// Its number.
        number: u64,
        /// Why.
        reason: Reason,
    },
    /// The stable names of all guests that are connected to their bridge here.
    Guests(Vec<[u8; 16]>),
    /// Nothing else to say.
    Alive,
    /// Nothing is left here for a guest that is there now, and of it.
    Handed([u8; 16]),
    /// The serial numbers of all hardware that is served here.
    Hardware(Vec<Serial>),
}

/// Who speaks, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The sender.
    pub host: Host,
    /// Of its bridge's link: what it has sent is known by this and a number.
    pub lineage: u64,
    /// The lineage of the other host that it knows; 0: none.
    pub known: u64,
    /// Which messages of that it has taken.
    pub received: u64,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a frame of this protocol")]
pub struct NoFrame;

const HELLO: u8 = 1;
const MESSAGE: u8 = 2;
const RECEIVED: u8 = 3;
const REFUSED: u8 = 4;
const GUESTS: u8 = 5;
const ALIVE: u8 = 6;
const HANDED: u8 = 7;
const HARDWARE: u8 = 8;

/// Takes bytes off the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], NoFrame> {
    let (first, rest) = bytes.split_first_chunk().ok_or(NoFrame)?;
    *bytes = rest;
    Ok(*first)
}

fn number(bytes: &mut &[u8]) -> Result<u64, NoFrame> {
    take(bytes).map(u64::from_le_bytes)
}

impl Frame {
    /// The bytes to send: length, type, body.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = vec![0; 4];
        match self {
            Self::Hello(hello) => {
                to.push(HELLO);
                to.extend(MAGIC);
                to.extend(hello.host.0);
                for word in [hello.lineage, hello.known, hello.received] {
                    to.extend(word.to_le_bytes());
                }
            }
            Self::Message { number, bytes } => {
                to.push(MESSAGE);
                to.extend(number.to_le_bytes());
                to.extend(bytes);
            }
            Self::Received(number) => {
                to.push(RECEIVED);
                to.extend(number.to_le_bytes());
            }
            Self::Refused { number, reason } => {
                to.push(REFUSED);
                to.extend(number.to_le_bytes());
                to.extend((*reason as u16).to_le_bytes());
            }
            Self::Guests(guests) => {
                to.push(GUESTS);
                for guest in guests.iter().take(MAX_GUESTS) {
                    to.extend(guest);
                }
            }
            Self::Alive => to.push(ALIVE),
            Self::Handed(guest) => {
                to.push(HANDED);
                to.extend(guest);
            }
            Self::Hardware(serials) => {
                to.push(HARDWARE);
                for serial in serials.iter().take(MAX_HARDWARE) {
                    let serial = serial.as_bytes();
                    // At most 28.
                    to.push(serial.len() as u8);
                    to.extend(serial);
                }
            }
        }
        // At most `MAX_FRAME`.
        let length = (to.len() - 4) as u32;
        to[..4].copy_from_slice(&length.to_le_bytes());
        to
    }

    /// Reads what came behind a length.
    pub fn decode(bytes: &[u8]) -> Result<Self, NoFrame> {
        if bytes.len() > MAX_FRAME {
            return Err(NoFrame);
        }
        let (&kind, mut rest) = bytes.split_first().ok_or(NoFrame)?;
        let rest = &mut rest;
        let frame = match kind {
            HELLO => {
                if take(rest)? != MAGIC {
                    return Err(NoFrame);
                }
                Self::Hello(Hello {
                    host: Host(take(rest)?),
                    lineage: number(rest)?,
                    known: number(rest)?,
                    received: number(rest)?,
                })
            }
            MESSAGE => Self::Message {
                number: number(rest)?,
                bytes: std::mem::take(rest).to_vec(),
            },
            RECEIVED => Self::Received(number(rest)?),
            REFUSED => Self::Refused {
                number: number(rest)?,
                reason: match u16::from_le_bytes(take(rest)?) {
                    0 => return Err(NoFrame),
                    code => Reason::try_from(code).map_err(|_| NoFrame)?,
                },
            },
            GUESTS => {
                let mut guests = Vec::new();
                while !rest.is_empty() && guests.len() < MAX_GUESTS {
                    guests.push(take(rest)?);
                }
                Self::Guests(guests)
            }
            ALIVE => Self::Alive,
            HANDED => Self::Handed(take(rest)?),
            HARDWARE => {
                let mut serials = Vec::new();
                while !rest.is_empty() && serials.len() < MAX_HARDWARE {
                    let [length] = take(rest)?;
                    let (serial, others) = rest.split_at_checked(length.into()).ok_or(NoFrame)?;
                    serials.push(Serial::new(serial).map_err(|_| NoFrame)?);
                    *rest = others;
                }
                Self::Hardware(serials)
            }
            _ => return Err(NoFrame),
        };
        if rest.is_empty() {
            Ok(frame)
        } else {
            Err(NoFrame)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn serial() -> impl Strategy<Value = Serial> {
        prop::collection::vec(b'!'..=b'~', 1..=28).prop_map(|bytes| Serial::new(&bytes).unwrap())
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let words = any::<([u8; 16], u64, u64, u64)>();
        prop_oneof![
            words.prop_map(|(host, lineage, known, received)| Frame::Hello(Hello {
                host: Host(host),
                lineage,
                known,
                received
            })),
            any::<(u64, Vec<u8>)>().prop_map(|(number, bytes)| Frame::Message { number, bytes }),
            any::<u64>().prop_map(Frame::Received),
            (any::<u64>(), 1u16..9).prop_map(|(number, code)| Frame::Refused {
                number,
                reason: Reason::try_from(code).unwrap()
            }),
            any::<Vec<[u8; 16]>>().prop_map(Frame::Guests),
            Just(Frame::Alive),
            any::<[u8; 16]>().prop_map(Frame::Handed),
            prop::collection::vec(serial(), 0..300).prop_map(|mut serials| {
                serials.truncate(MAX_HARDWARE);
                Frame::Hardware(serials)
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_frame_reads_back(frame in frames()) {
            let bytes = frame.encode();
            let length = u32::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
            prop_assert_eq!(length, bytes.len() - 4);
            prop_assert_eq!(Frame::decode(&bytes[4..]), Ok(frame));
        }

        #[test]
        fn any_bytes_are_read_to_their_end(
            kind in 0u8..10,
            bytes in prop::collection::vec(prop_oneof![0u8..4, 0u8..], 0..400),
        ) {
            let bytes = [&[kind], &bytes[..]].concat();
            if let Ok(frame) = Frame::decode(&bytes) {
                prop_assert_eq!(&frame.encode()[4..], &bytes[..]);
            }
        }
    }
}
