// SPDX-License-Identifier: MIT OR Apache-2.0

//! How the controller misbehaves when told to: replies that are late, lost, doubled or nonsense.
//!
//! A fault changes replies on their way out; what the request did, it did.

use crate::random::Random;
use crate::vm;
use std::time::Duration;

/// What happens to a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It comes later.
    Delay(Duration),
    /// It does not come.
    Drop,
    /// It comes just before the next one: late, and out of order.
    Late,
    /// The previous reply comes in its place, as the answer to this request.
    Stale,
    /// It comes twice.
    Twice,
    /// It answers another network function.
    Netfn,
    /// It answers another command.
    Command,
    /// One with another message's id comes first.
    Id,
    /// It has this completion code, and no data.
    Code(u8),
    /// It ends after the completion code.
    Short,
    /// It is longer than the interface can take.
    Long,
    /// It is random bytes.
    Garbage,
    /// Its checksum is wrong.
    Checksum,
}

/// A fault, and which replies it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What happens.
    pub kind: Kind,
    /// To so many replies; `None`: to all.
    pub count: Option<u32>,
    /// Of this network function only.
    pub netfn: Option<u8>,
    /// Of this command only.
    pub command: Option<u8>,
}

impl Fault {
    fn is_for(&self, request: &[u8]) -> bool {
        let is = |wanted: Option<u8>, found: Option<u8>| wanted.is_none() || wanted == found;
        is(self.netfn, request.first().map(|b| b >> 2)) && is(self.command, request.get(1).copied())
    }
}

/// Bytes to send, after a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sending {
    /// How long to wait.
    pub after: Duration,
    /// A frame.
    pub bytes: Vec<u8>,
}

/// The faults that are set, and what they keep.
#[derive(Debug)]
pub struct Faults {
    set: Vec<Fault>,
    held: Vec<Vec<u8>>,
    previous: Vec<u8>,
    random: Random,
}

impl Faults {
    /// None yet; the seed is of what is random in them.
    pub fn new(seed: u64) -> Self {
        Self {
            set: Vec::new(),
            held: Vec::new(),
            previous: Vec::new(),
            random: Random::new(seed),
        }
    }

    /// Sets one more. Of those that are for a reply, the first happens to it.
    pub fn add(&mut self, fault: Fault) {
        self.set.push(fault);
    }

    /// Sets none, and forgets what was kept.
    pub fn clear(&mut self) {
        self.set.clear();
        self.held.clear();
    }

    /// How many are set.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    fn take(&mut self, request: &[u8]) -> Option<Kind> {
        let at = self.set.iter().position(|f| f.is_for(request))?;
        let fault = &mut self.set[at];
        let kind = fault.kind;
        if let Some(count) = &mut fault.count {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.set.remove(at);
            }
        }
        Some(kind)
    }

    /// What is sent for the reply to a request.
    pub fn apply(&mut self, id: u8, request: &[u8], reply: &[u8]) -> Vec<Sending> {
        let kind = self.take(request);
        let whole = vm::message(id, reply);
        let (after, frames) = match kind {
            // What is held waits on: an answer to nobody, without the right one behind it, would
            // end the emulator's waiting for good.
            Some(Kind::Drop) => return Vec::new(),
            Some(Kind::Late) => {
                self.held.push(whole);
                return Vec::new();
            }
            Some(Kind::Checksum) => {
                let bytes = vm::message_with(id, reply, self.wrong(id, reply));
                let after = Duration::ZERO;
                return vec![Sending { after, bytes }];
            }
            Some(Kind::Delay(time)) => (time, vec![whole]),
            Some(Kind::Twice) => (Duration::ZERO, vec![whole.clone(), whole]),
            Some(Kind::Id) => (Duration::ZERO, vec![vm::message(id ^ 0x55, reply), whole]),
            other => (
                Duration::ZERO,
                vec![vm::message(id, &self.changed(other, reply))],
            ),
        };
        self.previous = reply.to_vec();
        let held = std::mem::take(&mut self.held).into_iter();
        let sending = |bytes| Sending { after, bytes };
        held.chain(frames).map(sending).collect()
    }

    /// The reply itself, or what is sent in its place.
    fn changed(&mut self, kind: Option<Kind>, reply: &[u8]) -> Vec<u8> {
        let mut out = reply.to_vec();
        match kind {
            Some(Kind::Netfn) => out[0] ^= 0x08,
            Some(Kind::Command) => out[1] ^= 0x40,
            Some(Kind::Code(code)) => {
                out.truncate(3);
                out[2] = code;
            }
            Some(Kind::Short) => out.truncate(3),
            Some(Kind::Long) => out.resize(vm::MAX + 20, 0xee),
            Some(Kind::Garbage) => {
                // At least what the emulator takes for a message.
                let length = 3 + self.random.next() as usize % 60;
                out = (0..length).map(|_| self.random.next() as u8).collect();
            }
            // Before the first reply there is none.
            Some(Kind::Stale) if !self.previous.is_empty() => out.clone_from(&self.previous),
            _ => {}
        }
        out
    }

    fn wrong(&mut self, id: u8, reply: &[u8]) -> u8 {
        let sum = reply.iter().fold(id, |sum, b| sum.wrapping_add(*b));
        sum.wrapping_neg() ^ (self.random.next() as u8 | 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::{Decoder, Frame, Mistake};
    use proptest::prelude::*;

    const REQUEST: [u8; 2] = [0x18, 0x01];
    const REPLY: [u8; 5] = [0x1c, 0x01, 0x00, 0x20, 0x81];

    fn fault(kind: Kind) -> Fault {
        Fault {
            kind,
            count: Some(1),
            netfn: None,
            command: None,
        }
    }

    fn sent(faults: &mut Faults, id: u8) -> Vec<Result<Frame, Mistake>> {
        let mut decoder = Decoder::default();
        let sending = faults.apply(id, &REQUEST, &REPLY);
        let bytes = sending.into_iter().flat_map(|s| s.bytes);
        bytes.filter_map(|b| decoder.push(b)).collect()
    }

    fn message(id: u8, body: &[u8]) -> Result<Frame, Mistake> {
        Ok(Frame::Message(id, body.into()))
    }

    #[test]
    fn each_does_what_it_says() {
        for (kind, wanted) in [
            (Kind::Drop, vec![]),
            (Kind::Twice, vec![message(7, &REPLY), message(7, &REPLY)]),
            (
                Kind::Netfn,
                vec![message(7, &[0x14, 0x01, 0x00, 0x20, 0x81])],
            ),
            (
                Kind::Command,
                vec![message(7, &[0x1c, 0x41, 0x00, 0x20, 0x81])],
            ),
            (
                Kind::Id,
                vec![message(7 ^ 0x55, &REPLY), message(7, &REPLY)],
            ),
            (Kind::Code(0xc0), vec![message(7, &[0x1c, 0x01, 0xc0])]),
            (Kind::Short, vec![message(7, &[0x1c, 0x01, 0x00])]),
            (Kind::Long, vec![Err(Mistake::TooLong)]),
            (Kind::Checksum, vec![Err(Mistake::Checksum)]),
        ] {
            let mut faults = Faults::new(1);
            faults.add(fault(kind));
            assert_eq!(sent(&mut faults, 7), wanted, "{kind:?}");
            assert_eq!(sent(&mut faults, 8), [message(8, &REPLY)], "after {kind:?}");
            assert!(faults.is_empty());
        }
    }

    #[test]
    fn replies_can_come_late_and_out_of_order() {
        let mut faults = Faults::new(1);
        faults.add(fault(Kind::Late));
        assert_eq!(sent(&mut faults, 1), []);
        assert_eq!(
            sent(&mut faults, 2),
            [message(1, &REPLY), message(2, &REPLY)]
        );
        assert_eq!(sent(&mut faults, 3), [message(3, &REPLY)]);
    }

    #[test]
    fn a_stale_reply_answers_another_request() {
        let mut faults = Faults::new(1);
        faults.apply(1, &[0x18, 0x04], &[0x1c, 0x04, 0x00, 0x55, 0x00]);
        faults.add(fault(Kind::Stale));
        assert_eq!(
            sent(&mut faults, 2),
            [message(2, &[0x1c, 0x04, 0x00, 0x55, 0x00])]
        );
    }

    #[test]
    fn a_delay_delays() {
        let mut faults = Faults::new(1);
        faults.add(fault(Kind::Delay(Duration::from_millis(300))));
        let sending = faults.apply(1, &REQUEST, &REPLY);
        assert_eq!(sending[0].after, Duration::from_millis(300));
    }

    #[test]
    fn a_fault_is_for_some_requests() {
        let mut faults = Faults::new(1);
        faults.add(Fault {
            kind: Kind::Drop,
            count: Some(2),
            netfn: Some(0x06),
            command: Some(0x01),
        });
        for (request, sent) in [
            ([0x18, 0x04], 1),
            ([0x00, 0x01], 1),
            ([0x18, 0x01], 0),
            ([0x19, 0x01], 0),
            ([0x18, 0x01], 1),
        ] {
            assert_eq!(faults.apply(1, &request, &REPLY).len(), sent, "{request:?}");
        }
        faults.add(Fault {
            count: None,
            ..fault(Kind::Drop)
        });
        for _ in 0..5 {
            assert!(sent(&mut faults, 1).is_empty());
        }
        faults.clear();
        assert_eq!(sent(&mut faults, 1).len(), 1);
    }

    proptest! {
        /// Garbage is a frame that the emulator hands on, and repeats with its seed.
        #[test]
        fn garbage_is_a_frame(seed: u64) {
            let send = || {
                let mut faults = Faults::new(seed);
                faults.add(fault(Kind::Garbage));
                sent(&mut faults, 9)
            };
            let first = send();
            match &first[..] {
                [Ok(Frame::Message(9, body))] => prop_assert!(body.len() >= 3),
                other => prop_assert!(false, "{:?}", other),
            }
            prop_assert_eq!(send(), first);
        }
    }
}
