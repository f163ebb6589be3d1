// SPDX-License-Identifier: GPL-2.0

//! One account for each principal: what it may hold, and what others may have on their way to it.
//!
//! The idea is dbus-broker's. A message is charged to its receiver, and what a receiver has room
//! for is divided among the senders by [`quota`](super::quota)'s rule. What a principal keeps for
//! itself (names, watches, ...) is counted against its own account, with a limit for each.
//!
//! An owner has one account however many files it opens and however often its channel comes and
//! goes, so that none of these gives it more.

use super::{
    large::MAX_PAGES,
    quota::{Amount, Division, NoMemory, Shares},
    route::Origin,
};
use core::fmt;

/// Whose account it is: the principals of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The bridge itself: what comes back, what it tells, what it answers.
    Bridge,
    /// All open files of a user.
    Uid(u32),
    /// One incarnation of a guest, as its VM_ID is given to no other before long; and all behind it.
    Guest(u32),
    /// The management VM of this domain, and all behind it.
    Uplink,
    /// All other platforms.
    Fabric,
}

impl Owner {
    /// Who is charged for what comes in by a channel.
    pub const fn of(origin: Origin) -> Self {
        match origin {
            Origin::Guest(id) => Self::Guest(id),
            Origin::Uplink => Self::Uplink,
            Origin::Fabric => Self::Fabric,
            Origin::Local => Self::Bridge,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bridge => f.write_str("bridge"),
            Self::Uid(uid) => write!(f, "uid:{uid}"),
            Self::Guest(id) => write!(f, "vm:{id}"),
            Self::Uplink => f.write_str("uplink"),
            Self::Fabric => f.write_str("fabric"),
        }
    }
}

/// What a principal keeps for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Bound App_IDs.
    Endpoints,
    /// Who it has asked to hear of.
    Watches,
    /// Requests that await their reply.
    Replies,
    /// Pages of this domain that it can read until it has.
    Pages,
}

impl Slot {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Endpoints, Self::Watches, Self::Replies, Self::Pages];
}

/// Those of four of the largest messages.
const PAGES: u32 = 4 * MAX_PAGES as u32;

/// What an account has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// On the way to its owner.
    pub in_flight: Amount,
    /// Of each slot, in the order of [`Slot::ALL`].
    pub slots: [u32; Slot::ALL.len()],
}

impl Limits {
    /// The limits of an owner. `docs/architecture.md` explains the numbers.
    pub const fn of(owner: Owner) -> Self {
        let slots = match owner {
            Owner::Bridge => [0; Slot::ALL.len()],
            Owner::Uid(_) => [1024, 1024, 1024, 0],
            Owner::Guest(_) => [0, 1024, 4096, PAGES],
            Owner::Uplink => [0, 8192, 8192, PAGES],
            Owner::Fabric => [0, 8192, 8192, 0],
        };
        Self {
            in_flight: Amount {
                bytes: 32 << 20,
                messages: 16 << 10,
            },
            slots,
        }
    }
}

/// What one account holds, and what it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Whose it is.
    pub owner: Owner,
    /// On the way to the owner.
    pub in_flight: Amount,
    /// Of each slot, in the order of [`Slot::ALL`].
    pub slots: [u32; Slot::ALL.len()],
    /// What it may.
    pub limits: Limits,
    /// How often something was refused.
    pub refusals: u64,
}

/// Senders whose refusal was told of, at most; nothing is said of others then.
const TOLD: usize = 64;

/// An account. `M` keeps what each sender has on its way.
pub struct Account<M> {
    owner: Owner,
    limits: Limits,
    in_flight: Division<Owner, M>,
    slots: [u32; Slot::ALL.len()],
    refusals: u64,
    told: [Owner; TOLD],
    told_of: usize,
    changes: u64,
}

impl<M: Shares<Owner>> Account<M> {
    /// Opens an account. `shares` is empty.
    pub fn new(owner: Owner, limits: Limits, shares: M) -> Self {
        Self {
            owner,
            limits,
            in_flight: Division::new(limits.in_flight, shares),
            slots: [0; Slot::ALL.len()],
            refusals: 0,
            told: [Owner::Bridge; TOLD],
            told_of: 0,
            changes: 0,
        }
    }

    /// What it holds and may hold.
    pub fn statement(&self) -> Statement {
        Statement {
            owner: self.owner,
            in_flight: self.in_flight.used(),
            slots: self.slots,
            limits: self.limits,
            refusals: self.refusals,
        }
    }

    /// Whether a sender may have so much more on its way to the owner.
    pub fn admits(&self, sender: Owner, more: Amount, bulk: bool) -> bool {
        self.in_flight.admits(sender, more, bulk)
    }

    /// Adds what a sender has on its way, whether or not it may.
    pub fn charge(&mut self, sender: Owner, more: Amount) -> Result<(), NoMemory> {
        self.in_flight.charge(sender, more)
    }

    /// What arrived, or came back, is not on its way any more.
    pub fn discharge(&mut self, sender: Owner, amount: Amount) {
        self.in_flight.discharge(sender, amount);
        self.change();
    }

    /// How often there was news for those who wait for room. Who found none, and the same number
    /// since, has missed nothing.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Makes news of what is not in the account: that the receiver is gone.
    pub fn change(&mut self) {
        self.changes = self.changes.wrapping_add(1);
    }

    /// Counts a refusal of what a sender wanted to send. Whether it is the first one of this sender,
    /// to be told of; no more are told of than fit here.
    pub fn refuse(&mut self, sender: Owner) -> bool {
        self.refusals += 1;
        if self.told_of == TOLD || self.told[..self.told_of].contains(&sender) {
            return false;
        }
        self.told[self.told_of] = sender;
        self.told_of += 1;
        true
    }

    /// Takes so many of a slot, if the owner may have them.
    pub fn take(&mut self, slot: Slot, count: u32) -> bool {
        let used = &mut self.slots[slot as usize];
        let fits = used
            .checked_add(count)
            .filter(|&sum| sum <= self.limits.slots[slot as usize]);
        match fits {
            Some(sum) => *used = sum,
            None => self.refusals += 1,
        }
        fits.is_some()
    }

    /// Gives them back.
    pub fn give(&mut self, slot: Slot, count: u32) {
        let used = &mut self.slots[slot as usize];
        *used = used.saturating_sub(count);
    }
}

#[cfg(test)]
mod tests;
