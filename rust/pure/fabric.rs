// SPDX-License-Identifier: GPL-2.0

//! What the link to other platforms has handed to the daemon that carries it, and may hand to it.
//!
//! Each message has a number, and is kept until the daemon has said what became of it. A daemon that
//! takes the place of another is handed what that left, by the same numbers.

use super::quota::Amount;

/// What may be kept at most, one message excepted that passes the limit.
const LIMIT: Amount = Amount {
    bytes: 8 << 20,
    messages: 4096,
};

/// Counts what is kept.
#[derive(Debug)]
pub struct Window {
    next: u64,
    kept: Amount,
    again: Option<u64>,
}

impl Window {
    /// Nothing was handed over yet. Numbers begin at 1.
    pub const fn new() -> Self {
        Self {
            next: 1,
            kept: Amount {
                bytes: 0,
                messages: 0,
            },
            again: None,
        }
    }

    /// Whether there is room for a new message.
    pub fn has_room(&self) -> bool {
        self.kept.bytes < LIMIT.bytes && self.kept.messages < LIMIT.messages
    }

    /// A new message is handed over. Returns its number.
    pub fn give(&mut self, amount: Amount) -> u64 {
        self.kept = self.kept.plus(amount);
        let number = self.next;
        self.next += 1;
        number
    }

    /// What became of a message is known.
    pub fn settle(&mut self, amount: Amount) {
        self.kept = self.kept.minus(amount);
    }

    /// What is kept is to be handed over once more, from this number on.
    pub fn repeat_from(&mut self, number: u64) {
        self.again = Some(self.again.map_or(number, |again| again.min(number)));
    }

    /// From which number on a message that is kept is to be handed over again, before a new one.
    pub fn repeats_from(&self) -> Option<u64> {
        self.again
    }

    /// The message with this number was handed over again; `None`: there was none left.
    pub fn repeated(&mut self, number: Option<u64>) {
        self.again = number.map(|number| number + 1);
    }
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
