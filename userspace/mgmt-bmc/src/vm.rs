// SPDX-License-Identifier: MIT OR Apache-2.0

//! OpenIPMI's serial "VM" protocol, as QEMU's `ipmi-bmc-extern` speaks it.
//!
//! Bytes until `0xa0` are a message: an id that the answer repeats, the IPMI message, and a
//! checksum, so that all of them add up to 0. Bytes until `0xa1` are a command to the machine, or
//! from it. Within both, these two and `0xaa` itself are sent as `0xaa` and the byte with bit 4 set.

/// Ends a message.
const MESSAGE: u8 = 0xa0;
/// Ends a command.
const COMMAND: u8 = 0xa1;
/// The next byte has bit 4 set that is not its own.
const ESCAPE: u8 = 0xaa;
const ESCAPED: u8 = 0x10;

/// Ends what an earlier connection left unfinished: the emulator would take what follows for its
/// end, and a message's id for a command.
pub const UNFINISHED: [u8; 1] = [MESSAGE];

/// Bytes of the largest message, id and checksum included: what the emulator's buffer holds.
pub const MAX: usize = 302;

/// To the machine: nothing waits any more.
pub const NO_ATTENTION: u8 = 0x00;
/// To the machine: there is a message or an event to fetch.
pub const ATTENTION: u8 = 0x01;
/// The same, with an interrupt.
pub const ATTENTION_INTERRUPT: u8 = 0x02;
/// To the machine: power off.
pub const POWER_OFF: u8 = 0x03;
/// To the machine: reset. From it: it was reset.
pub const RESET: u8 = 0x04;
/// To the machine: the interface may interrupt.
pub const ENABLE_INTERRUPTS: u8 = 0x05;
/// To the machine: the interface may not.
pub const DISABLE_INTERRUPTS: u8 = 0x06;
/// Both ways: the version of this protocol follows.
pub const VERSION: u8 = 0xff;
/// The version that is spoken here.
pub const SPOKEN: u8 = 1;
/// From the machine: a byte with what it can do follows.
pub const CAPABILITIES: u8 = 0x08;

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// An IPMI message: its id, network function, command, data.
    Message(u8, Vec<u8>),
    /// A command and its operands.
    Command(Vec<u8>),
}

/// What is wrong with bytes that were to be a frame; they are skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// More than [`MAX`].
    TooLong,
    /// Less than an id, a network function, a command and a checksum; or no command.
    TooShort,
    /// They do not add up to 0.
    Checksum,
    /// It ends with an escape.
    Escape,
}

/// Finds frames in bytes, in whatever pieces they come.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    escape: bool,
    too_long: bool,
}

impl Decoder {
    /// Takes a byte; `Some` where it ends a frame.
    pub fn push(&mut self, byte: u8) -> Option<Result<Frame, Mistake>> {
        match byte {
            MESSAGE => Some(self.end().and_then(message_of)),
            COMMAND => Some(self.end().and_then(command_of)),
            ESCAPE => {
                self.escape = true;
                None
            }
            _ => {
                let own = if self.escape { byte & !ESCAPED } else { byte };
                self.escape = false;
                if self.bytes.len() < MAX {
                    self.bytes.push(own);
                } else {
                    self.too_long = true;
                }
                None
            }
        }
    }

    fn end(&mut self) -> Result<Vec<u8>, Mistake> {
        let Self {
            bytes,
            escape,
            too_long,
        } = std::mem::take(self);
        if escape {
            Err(Mistake::Escape)
        } else if too_long {
            Err(Mistake::TooLong)
        } else {
            Ok(bytes)
        }
    }
}

fn message_of(bytes: Vec<u8>) -> Result<Frame, Mistake> {
    if bytes.len() < 4 {
        Err(Mistake::TooShort)
    } else if sum(&bytes) != 0 {
        Err(Mistake::Checksum)
    } else {
        Ok(Frame::Message(bytes[0], bytes[1..bytes.len() - 1].to_vec()))
    }
}

fn command_of(bytes: Vec<u8>) -> Result<Frame, Mistake> {
    if bytes.is_empty() {
        Err(Mistake::TooShort)
    } else {
        Ok(Frame::Command(bytes))
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The bytes of a message.
pub fn message(id: u8, body: &[u8]) -> Vec<u8> {
    let checksum = sum(body).wrapping_add(id).wrapping_neg();
    message_with(id, body, checksum)
}

/// The bytes of a message with a checksum that may be wrong.
pub fn message_with(id: u8, body: &[u8], checksum: u8) -> Vec<u8> {
    let bytes = [id].into_iter().chain(body.iter().copied());
    frame(bytes.chain([checksum]), MESSAGE)
}

/// The bytes of a command.
pub fn command(bytes: &[u8]) -> Vec<u8> {
    frame(bytes.iter().copied(), COMMAND)
}

fn frame(bytes: impl Iterator<Item = u8>, end: u8) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in bytes {
        match byte {
            MESSAGE | COMMAND | ESCAPE => out.extend([ESCAPE, byte | ESCAPED]),
            _ => out.push(byte),
        }
    }
    out.push(end);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Vec<Result<Frame, Mistake>> {
        let mut decoder = Decoder::default();
        bytes.iter().filter_map(|&b| decoder.push(b)).collect()
    }

    /// What the emulator sends for Get Device ID, and when it begins.
    #[test]
    fn frames_of_the_emulator() {
        assert_eq!(message(1, &[0x18, 0x01]), [0x01, 0x18, 0x01, 0xe6, 0xa0]);
        assert_eq!(
            decode(&[
                0x01, 0x18, 0x01, 0xe6, 0xa0, 0xff, 0x01, 0xa1, 0x08, 0x1f, 0xa1
            ]),
            [
                Ok(Frame::Message(1, vec![0x18, 0x01])),
                Ok(Frame::Command(vec![VERSION, SPOKEN])),
                Ok(Frame::Command(vec![CAPABILITIES, 0x1f])),
            ]
        );
    }

    #[test]
    fn special_bytes_are_escaped() {
        assert_eq!(
            command(&[0xa0, 0xa1, 0xaa]),
            [0xaa, 0xb0, 0xaa, 0xb1, 0xaa, 0xba, 0xa1]
        );
    }

    #[test]
    fn mistakes() {
        for (bytes, mistake) in [
            (&[0x01, 0x18, 0x01, 0xe7, 0xa0][..], Mistake::Checksum),
            (&[0x01, 0xff, 0x00, 0xa0], Mistake::TooShort),
            (&[0xa1], Mistake::TooShort),
            (&[0x01, 0x18, 0xaa, 0xa0], Mistake::Escape),
            (&[&[0; 303][..], &[0xa0]].concat(), Mistake::TooLong),
        ] {
            assert_eq!(decode(bytes), [Err(mistake)]);
            // The next one is read again.
            let next = [bytes, &command(&[ATTENTION])].concat();
            assert_eq!(decode(&next)[1], Ok(Frame::Command(vec![ATTENTION])));
        }
    }

    proptest! {
        #[test]
        fn what_was_sent_is_received(
            sent in prop::collection::vec(
                (any::<u8>(), prop::collection::vec(any::<u8>(), 2..280)), 0..5),
        ) {
            let bytes: Vec<u8> = sent.iter().flat_map(|(id, body)| message(*id, body)).collect();
            let wanted: Vec<_> =
                sent.into_iter().map(|(id, body)| Ok(Frame::Message(id, body))).collect();
            prop_assert_eq!(decode(&bytes), wanted);
        }

        #[test]
        fn nonsense_is_bounded(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = Decoder::default();
            for byte in bytes {
                if let Some(Ok(Frame::Message(_, body) | Frame::Command(body))) = decoder.push(byte) {
                    prop_assert!(body.len() <= MAX);
                }
                prop_assert!(decoder.bytes.len() <= MAX);
            }
        }
    }
}
