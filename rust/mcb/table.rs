// SPDX-License-Identifier: GPL-2.0

//! The bridge's table, and the ways that messages took lately.
//!
//! To find the receiver of a message and to ask the rules is most of what a bridge does with it, and the
//! next one of the same sender mostly goes the same way. So the table remembers some ways. Whoever
//! changes it has it forget them all ([`SharedTable::change`]), and nobody else can change it.

use super::{directory::Directory, watch, Target};
use crate::{
    bh::{new_spinlock_bh, Guard, SpinLockBh},
    message::{Draft, Principal},
    policy::Policy,
    pure::policy::Cause,
    wire::ADDRESSES_LEN, //
};
use core::{
    mem,
    ops::{Deref, DerefMut}, //
};
use kernel::{
    prelude::*,
    rbtree::RBTree,
    sync::Arc, //
};

pub(super) struct Table {
    pub(super) directory: Directory,
    pub(super) watches: RBTree<watch::Key, watch::Watch>,
    pub(super) policy: Arc<Policy>,
    ways: Ways,
    /// How often it was changed.
    changes: u64,
}

/// The table, which many look at and few change.
#[pin_data]
pub(super) struct SharedTable {
    #[pin]
    table: SpinLockBh<Table>,
}

/// The table of this moment.
pub(super) struct Looking<'a>(Guard<'a, Table>);

/// The table, to be changed.
pub(super) struct Changing<'a> {
    guard: Guard<'a, Table>,
    /// Freed when the table is not locked any more.
    _forgotten: Ways,
}

impl Deref for Looking<'_> {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.0
    }
}

impl Deref for Changing<'_> {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.guard
    }
}

impl DerefMut for Changing<'_> {
    fn deref_mut(&mut self) -> &mut Table {
        &mut self.guard
    }
}

impl SharedTable {
    pub(super) fn new(directory: Directory, policy: Arc<Policy>) -> impl PinInit<Self> {
        pin_init!(Self {
            table <- new_spinlock_bh!(
                Table {
                    directory,
                    watches: RBTree::new(),
                    policy,
                    ways: Ways::default(),
                    changes: 0,
                },
                "mgmt_table"
            ),
        })
    }

    pub(super) fn look(&self) -> Looking<'_> {
        Looking(self.table.lock())
    }

    pub(super) fn change(&self) -> Changing<'_> {
        let mut guard = self.table.lock();
        guard.changes += 1;
        Changing {
            _forgotten: mem::take(&mut guard.ways),
            guard,
        }
    }

    /// Writes into a plain message of this sender what was stamped into an earlier one with the same
    /// addresses, and returns where that went; `None` if it has to be looked for. Addresses that are known
    /// were checked then.
    pub(super) fn known_way(&self, sender: u64, draft: &mut Draft) -> Option<Target> {
        if !draft.is_plain() {
            return None;
        }
        let table = self.table.lock();
        let way = table.ways.find(sender, draft.addresses())?;
        if let Some(cause) = way.cause {
            table.policy.count(cause);
        }
        if let Some(stamped) = &way.stamped {
            draft.stamp(|mut stamp| stamp.addresses(stamped));
        }
        Some(way.target.clone())
    }

    /// Remembers a way that was found when the table had been changed so many times.
    pub(super) fn remember(&self, changes: u64, way: Way) {
        let mut table = self.table.lock();
        let other = (table.changes == changes).then(|| table.ways.put(way));
        drop(table);
        // It goes when the table is not locked.
        drop(other);
    }
}

impl Table {
    /// For [`SharedTable::remember`].
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }
}

/// How a plain message went.
pub(super) struct Way {
    /// The number of its sender's principal.
    sender: u64,
    /// Its addresses as they came, and as they were stamped, if that is not the same.
    written: [u8; ADDRESSES_LEN],
    stamped: Option<[u8; ADDRESSES_LEN]>,
    target: Target,
    /// The rule that let it pass, if any was asked.
    cause: Option<Cause>,
}

impl Way {
    /// The way of a message that was just stamped, if its like go the same way: it is plain, and at most
    /// one rule decided.
    pub(super) fn of(
        sender: Principal,
        written: &[u8; ADDRESSES_LEN],
        draft: &Draft,
        target: &Target,
        cause: Option<Option<Cause>>,
    ) -> Option<Self> {
        if !draft.is_plain() || matches!(target, Target::Fabric(_)) {
            return None;
        }
        Some(Self {
            sender: sender.id,
            written: *written,
            stamped: (written != draft.addresses()).then(|| *draft.addresses()),
            target: target.clone(),
            cause: cause?,
        })
    }
}

/// Ways with the same hash are in the same set.
const SETS: usize = 16;
const SET: usize = 4;

/// Some ways of messages; when there is no room, the next one takes the place of another.
#[derive(Default)]
struct Ways {
    sets: [[Option<KBox<Way>>; SET]; SETS],
    next: usize,
}

impl Ways {
    fn find(&self, sender: u64, written: &[u8; ADDRESSES_LEN]) -> Option<&Way> {
        let set = self.sets.get(index(sender, written))?;
        let mut ways = set.iter().flatten().map(Deref::deref);
        ways.find(|way| way.sender == sender && are_same(&way.written, written))
    }

    /// Returns the way whose place it takes. Without memory it is not remembered.
    fn put(&mut self, way: Way) -> Option<Way> {
        let set = self.sets.get_mut(index(way.sender, &way.written))?;
        if let Some(free) = set.iter_mut().find(|place| place.is_none()) {
            *free = KBox::new(way, GFP_ATOMIC).ok();
            return None;
        }
        self.next = (self.next + 1) % SET;
        let place = set.get_mut(self.next)?.as_mut()?;
        Some(mem::replace(&mut **place, way))
    }
}

/// Compares by words, which the kernel's `memcmp` does not.
fn are_same(a: &[u8; ADDRESSES_LEN], b: &[u8; ADDRESSES_LEN]) -> bool {
    let differences = a
        .chunks_exact(8)
        .zip(b.chunks_exact(8))
        .map(|(a, b)| word(a) ^ word(b));
    differences.fold(0, |all, one| all | one) == 0
}

/// The set of a way: by its sender, and some words in which the names of one domain differ: both App_IDs,
/// and where the receiver's component has its VM_ID or a part of its UUID.
fn index(sender: u64, written: &[u8; ADDRESSES_LEN]) -> usize {
    let at = |at: usize| word(written.get(at..).unwrap_or_default());
    let all = at(32).rotate_left(8) ^ at(80).rotate_left(24) ^ at(96).rotate_left(40);
    ((sender ^ all).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % SETS
}

/// The first word.
fn word(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |word| u64::from_le_bytes(*word))
}
