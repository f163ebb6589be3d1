// SPDX-License-Identifier: MIT OR Apache-2.0

//! Messages on their way to one peer, until that has taken them.
//!
//! They are sent in the order of their numbers, which the bridge gives and which stay the same when
//! a daemon is restarted. With a new session the peer says what it has; the rest is sent again.

use std::collections::VecDeque;
use std::rc::Rc;

/// A message and its number.
#[derive(Debug)]
struct Entry {
    number: u64,
    /// One that goes to all peers is kept once.
    bytes: Rc<Vec<u8>>,
}

/// What may be on its way to one peer at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of messages.
    pub bytes: usize,
    /// How many.
    pub messages: usize,
}

impl Default for Limits {
    /// A quarter of what the bridge hands over, so that a slow peer leaves room for others.
    fn default() -> Self {
        Self {
            bytes: 2 << 20,
            messages: 1024,
        }
    }
}

/// There is no room for this message: the peer is slow, or away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full(pub Rc<Vec<u8>>);

/// The queue to one peer.
#[derive(Debug, Default)]
pub struct Outgoing {
    queue: VecDeque<Entry>,
    /// How many of them were sent in this session, and in any.
    sent: usize,
    ever_sent: usize,
    bytes: usize,
    /// The number of the last one that was queued.
    last: u64,
    limits: Limits,
}

impl Outgoing {
    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Queues a message with a number larger than those before, if there is room. One fits into an
    /// empty queue, however large.
    pub fn push(&mut self, number: u64, bytes: Rc<Vec<u8>>) -> Result<(), Full> {
        let full = self.queue.len() >= self.limits.messages
            || self.bytes + bytes.len() > self.limits.bytes;
        if full && !self.queue.is_empty() {
            return Err(Full(bytes));
        }
        self.bytes += bytes.len();
        self.last = number;
        self.queue.push_back(Entry { number, bytes });
        Ok(())
    }

    /// A session begins, in which the peer has everything up to this number. Returns what it has.
    pub fn begin(&mut self, received: u64) -> Vec<u64> {
        self.sent = 0;
        self.take_up_to(received)
    }

    /// The next message to send in this session.
    pub fn send_next(&mut self) -> Option<(u64, &[u8])> {
        let entry = self.queue.get(self.sent)?;
        self.sent += 1;
        self.ever_sent = self.ever_sent.max(self.sent);
        Some((entry.number, &entry.bytes))
    }

    /// The number of the next message to send in this session.
    pub fn next_number(&self) -> Option<u64> {
        Some(self.queue.get(self.sent)?.number)
    }

    /// The number of the last message that was queued; 0: none was.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Takes back the messages that were not sent yet, in any session, and for which `those` says so.
    /// Returns their numbers.
    pub fn withdraw(&mut self, those: impl Fn(&[u8]) -> bool) -> Vec<u64> {
        let mut taken = Vec::new();
        let first = self.ever_sent;
        let mut at = 0;
        self.queue.retain(|entry| {
            at += 1;
            let goes = at > first && those(&entry.bytes);
            if goes {
                taken.push(entry.number);
                self.bytes -= entry.bytes.len();
            }
            !goes
        });
        taken
    }

    /// The peer has everything up to this number. Returns what it has: only what was sent to it.
    pub fn received(&mut self, number: u64) -> Vec<u64> {
        let last = match self.sent {
            0 => return Vec::new(),
            sent => self.queue[sent - 1].number,
        };
        self.take_up_to(number.min(last))
    }

    /// The peer has refused a message. Whether that was sent to it, and is not any more.
    pub fn refused(&mut self, number: u64) -> bool {
        let sent = self.queue.iter().take(self.sent);
        let Some(at) = sent
            .map(|entry| entry.number)
            .position(|sent| sent == number)
        else {
            return false;
        };
        self.sent -= 1;
        self.ever_sent -= 1;
        if let Some(entry) = self.queue.remove(at) {
            self.bytes -= entry.bytes.len();
        }
        true
    }

    /// Gives up what is on its way. Returns the numbers.
    pub fn give_up(&mut self) -> Vec<u64> {
        self.take_up_to(u64::MAX)
    }

    fn take_up_to(&mut self, number: u64) -> Vec<u64> {
        let mut taken = Vec::new();
        while self
            .queue
            .front()
            .is_some_and(|entry| entry.number <= number)
        {
            if let Some(entry) = self.queue.pop_front() {
                self.bytes -= entry.bytes.len();
                self.sent = self.sent.saturating_sub(1);
                self.ever_sent = self.ever_sent.saturating_sub(1);
                taken.push(entry.number);
            }
        }
        taken
    }
}
