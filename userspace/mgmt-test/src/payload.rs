// SPDX-License-Identifier: MIT OR Apache-2.0

//! Test payloads: numbered, checksummed, with filler that differs from message to message; and
//! the ledger that finds what is lost, doubled, out of order or damaged.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Bytes in front of the filler: the smallest payload.
pub const HEAD: usize = 32;

const MAGIC: u32 = u32::from_le_bytes(*b"MTST");

/// What a test payload says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which run of a sender: random.
    pub stream: u32,
    /// The message's number in the stream, from 0.
    pub number: u64,
    /// How many messages the stream has, or [`UNKNOWN`].
    pub total: u64,
}

/// The total of a stream of which nobody knows yet when it ends; its last message says it.
pub const UNKNOWN: u64 = u64::MAX;

impl Stamp {
    /// The payload of `size` bytes, at least [`HEAD`].
    pub fn payload(&self, size: usize) -> Vec<u8> {
        let mut out = vec![0; size.max(HEAD)];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&self.stream.to_le_bytes());
        out[8..16].copy_from_slice(&self.number.to_le_bytes());
        out[16..24].copy_from_slice(&self.total.to_le_bytes());
        let mut state = ((u64::from(self.stream) << 32) ^ self.number) | 1;
        for chunk in out[HEAD..].chunks_mut(8) {
            // xorshift64: any filler that is not the same twice will do.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
        }
        let sum = checksum(&out);
        out[24..32].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads a payload; `None` if it is not one, or damaged.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let u64_at = |at: usize| {
            let bytes = payload.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let first = u64_at(0)?;
        let stamp = Self {
            stream: (first >> 32) as u32,
            number: u64_at(8)?,
            total: u64_at(16)?,
        };
        (first as u32 == MAGIC && u64_at(24)? == checksum(payload)).then_some(stamp)
    }
}

/// FNV-1a by words over everything but the checksum itself.
fn checksum(payload: &[u8]) -> u64 {
    let (head, rest) = (&payload[..24], &payload[HEAD..]);
    let mut sum = 0xcbf2_9ce4_8422_2325_u64 ^ payload.len() as u64;
    for chunk in head.chunks(8).chain(rest.chunks(8)) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        sum = (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
        sum ^= sum >> 29;
    }
    sum
}

/// What came, stream by stream. `K` tells senders apart.
#[derive(Debug)]
pub struct Ledger<K> {
    next: HashMap<(K, u32), u64>,
    /// Valid messages, whatever their order.
    pub received: u64,
    /// Numbers that were skipped and have not come later.
    pub lost: u64,
    /// Messages with a number that was due earlier: doubled, or out of order.
    pub late: u64,
    /// Messages whose content is damaged or that are no test messages.
    pub damaged: u64,
    /// How many messages a stream says that it has.
    pub total: Option<u64>,
    /// The longest time between two messages, and when the last one came.
    pub gap: Duration,
    last: Option<Instant>,
}

impl<K: Eq + Hash> Default for Ledger<K> {
    fn default() -> Self {
        Self {
            next: HashMap::new(),
            received: 0,
            lost: 0,
            late: 0,
            damaged: 0,
            total: None,
            gap: Duration::ZERO,
            last: None,
        }
    }
}

impl<K: Eq + Hash> Ledger<K> {
    /// Enters one payload from `sender`.
    pub fn enter(&mut self, sender: K, payload: &[u8]) {
        let now = Instant::now();
        let last = self.last.replace(now).unwrap_or(now);
        self.gap = self.gap.max(now - last);
        let Some(stamp) = Stamp::read(payload) else {
            self.damaged += 1;
            return;
        };
        self.received += 1;
        if stamp.total != UNKNOWN {
            self.total = Some(stamp.total);
        }
        let next = self.next.entry((sender, stamp.stream)).or_insert(0);
        if stamp.number < *next {
            self.late += 1;
        } else {
            self.lost += stamp.number - *next;
            *next = stamp.number + 1;
        }
    }

    /// Whether exactly `count` messages came, each once, in order, undamaged.
    pub fn is_perfect(&self, count: u64) -> bool {
        self.received == count && self.lost == 0 && self.late == 0 && self.damaged == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(number: u64) -> Stamp {
        Stamp {
            stream: 7,
            number,
            total: 10,
        }
    }

    #[test]
    fn payloads_read_back_and_damage_is_seen() {
        for size in [0, 32, 33, 64, 1000] {
            let payload = stamp(3).payload(size);
            assert_eq!(payload.len(), size.max(HEAD));
            assert_eq!(Stamp::read(&payload), Some(stamp(3)));
            for at in 0..payload.len() {
                let mut damaged = payload.clone();
                damaged[at] ^= 1;
                assert_eq!(Stamp::read(&damaged), None, "byte {at} of {size}");
            }
            assert_eq!(Stamp::read(&payload[..payload.len() - 1]), None);
        }
    }

    #[test]
    fn the_ledger_tells_what_went_wrong() {
        // numbers that came; (received, lost, late)
        for (numbers, expected) in [
            (&[0, 1, 2][..], (3, 0, 0)),
            (&[0, 2], (2, 1, 0)),
            (&[0, 1, 1], (3, 0, 1)),
            (&[1, 0], (2, 1, 1)),
        ] {
            let mut ledger = Ledger::default();
            for &number in numbers {
                ledger.enter("a", &stamp(number).payload(64));
            }
            assert_eq!((ledger.received, ledger.lost, ledger.late), expected);
            assert_eq!(ledger.is_perfect(3), expected == (3, 0, 0));
        }
    }

    #[test]
    fn the_last_message_may_tell_how_many_there_are() {
        let mut ledger = Ledger::default();
        for (number, total, known) in [(0, UNKNOWN, None), (1, UNKNOWN, None), (2, 3, Some(3))] {
            let stamp = Stamp {
                total,
                ..stamp(number)
            };
            ledger.enter("a", &stamp.payload(64));
            assert_eq!(ledger.total, known);
        }
        assert!(ledger.is_perfect(3));
    }

    #[test]
    fn senders_are_told_apart() {
        let mut ledger = Ledger::default();
        for sender in ["a", "b"] {
            for number in 0..2 {
                ledger.enter(sender, &stamp(number).payload(64));
            }
        }
        assert!(ledger.is_perfect(4));
    }
}
