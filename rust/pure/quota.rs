// SPDX-License-Identifier: GPL-2.0

//! How a receiver's queue is shared among its senders.
//!
//! The rule is dbus-broker's: a sender may hold as much as what is left, divided by the number of
//! senders and one. A lone sender gets half of the queue. Of n senders each may always hold
//! 1/(n(n + 1)) of it, and none may grow beyond 1/(n + 1), whatever the others do; no sender needs
//! to be known in advance. Bulk messages get three quarters of that, so that a sender which fills
//! its share with them can still send an urgent one.

/// An amount of queued messages, or of room for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Bytes, headers included.
    pub bytes: u32,
    /// Messages.
    pub messages: u32,
}

impl Amount {
    /// One message of this many bytes.
    pub const fn message(bytes: u32) -> Self {
        Self { bytes, messages: 1 }
    }

    /// Both amounts together.
    pub const fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            messages: self.messages.saturating_add(other.messages),
        }
    }

    /// What is left of this amount without the other.
    pub const fn minus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            messages: self.messages.saturating_sub(other.messages),
        }
    }

    /// Whether there is nothing.
    pub const fn is_zero(self) -> bool {
        self.bytes == 0 && self.messages == 0
    }
}

/// Whether a sender that holds `share` of a queue may add `more`.
///
/// `used` is what all `senders` hold together, `share` included; `senders` counts those that hold
/// something, this one included. `bulk` is whether `more` is of the lowest priority class.
pub fn admits(
    capacity: Amount,
    used: Amount,
    share: Amount,
    senders: u32,
    more: Amount,
    bulk: bool,
) -> bool {
    let fits = |capacity: u32, used: u32, share: u32, more: u32| {
        let own = u64::from(share) + u64::from(more);
        let free = u64::from(capacity.saturating_sub(used));
        let most = (free + u64::from(share)) / (u64::from(senders) + 1);
        own <= if bulk { most - most / 4 } else { most }
    };
    fits(capacity.bytes, used.bytes, share.bytes, more.bytes)
        && fits(
            capacity.messages,
            used.messages,
            share.messages,
            more.messages,
        )
}

#[cfg(test)]
mod tests;
