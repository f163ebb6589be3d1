// SPDX-License-Identifier: GPL-2.0

//! How the room that a receiver has is shared among its senders.
//!
//! The rule is dbus-broker's: a sender may hold as much as what is left, divided by the number of
//! senders and one. A lone sender gets half of the room. Of n senders each may always hold
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

/// There is no memory for the share of another sender.
#[derive(Debug, PartialEq, Eq)]
pub struct NoMemory;

/// What each sender holds, in a map that the caller brings. Who holds nothing is not in it.
pub trait Shares<S> {
    /// What a sender holds.
    fn get(&self, sender: S) -> Option<Amount>;
    /// The same, to be changed.
    fn get_mut(&mut self, sender: S) -> Option<&mut Amount>;
    /// Adds a sender that is not there yet.
    fn insert(&mut self, sender: S, share: Amount) -> Result<(), NoMemory>;
    /// Removes a sender.
    fn remove(&mut self, sender: S);
}

/// Room for messages, and who has how much of it.
pub struct Division<S, M> {
    capacity: Amount,
    used: Amount,
    /// How many hold something.
    senders: u32,
    /// Who found nobody else here, and its share: most of the time it stays the only one.
    first: Option<(S, Amount)>,
    /// The shares of the others.
    shares: M,
}

impl<S: Copy + PartialEq, M: Shares<S>> Division<S, M> {
    /// Divides a room among nobody yet: `shares` is empty.
    pub fn new(capacity: Amount, shares: M) -> Self {
        Self {
            capacity,
            used: Amount::default(),
            senders: 0,
            first: None,
            shares,
        }
    }

    /// What all senders hold.
    pub fn used(&self) -> Amount {
        self.used
    }

    /// Whether they hold more than there is room for: what comes back to its sender may.
    pub fn is_over(&self) -> bool {
        self.exceeds(self.capacity)
    }

    /// Whether they hold more than that.
    pub fn exceeds(&self, limit: Amount) -> bool {
        self.used.bytes > limit.bytes || self.used.messages > limit.messages
    }

    /// Whether a sender may add so much.
    pub fn admits(&self, sender: S, more: Amount, bulk: bool) -> bool {
        let share = self.share(sender);
        let senders = self.senders.saturating_add(u32::from(share.is_none()));
        let share = share.unwrap_or_default();
        admits(self.capacity, self.used, share, senders, more, bulk)
    }

    /// Adds to what a sender holds, whether or not it may.
    pub fn charge(&mut self, sender: S, more: Amount) -> Result<(), NoMemory> {
        if let Some(share) = self.share_mut(sender) {
            *share = share.plus(more);
        } else {
            if self.senders == 0 {
                self.first = Some((sender, more));
            } else {
                self.shares.insert(sender, more)?;
            }
            self.senders = self.senders.saturating_add(1);
        }
        self.used = self.used.plus(more);
        Ok(())
    }

    /// Takes back what was charged.
    pub fn discharge(&mut self, sender: S, amount: Amount) {
        let Some(share) = self.share_mut(sender) else {
            return;
        };
        *share = share.minus(amount);
        let is_gone = share.is_zero();
        self.used = self.used.minus(amount);
        if is_gone {
            match self.first {
                Some((first, _)) if first == sender => self.first = None,
                _ => self.shares.remove(sender),
            }
            self.senders -= 1;
        }
    }

    fn share(&self, sender: S) -> Option<Amount> {
        match self.first {
            Some((first, share)) if first == sender => Some(share),
            Some(_) if self.senders == 1 => None,
            _ => self.shares.get(sender),
        }
    }

    fn share_mut(&mut self, sender: S) -> Option<&mut Amount> {
        match &mut self.first {
            Some((first, share)) if *first == sender => Some(share),
            Some(_) if self.senders == 1 => None,
            _ => self.shares.get_mut(sender),
        }
    }
}

#[cfg(test)]
mod tests;
