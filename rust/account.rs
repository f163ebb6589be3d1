// SPDX-License-Identifier: GPL-2.0

//! The accounts of this domain's principals. What is in one is `pure::account`.
//!
//! The lock of an account is the innermost of all.

use crate::{
    bh::{new_spinlock_bh, SpinLockBh},
    link::Link,
    message::{Message, Principal},
    pure::{
        account::{Account as Books, Limits, Owner, Slot, Statement},
        quota::{Amount, NoMemory}, //
    },
    shares::Tree,
    waiters::{sleep, Stalled}, //
};
use core::ops::Deref;
use kernel::{
    fmt,
    new_condvar,
    prelude::*,
    rbtree::{RBTree, RBTreeNode},
    sync::{Arc, CondVar}, //
};

/// What is printed of the kernel is formatted by its own trait.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// The account of one principal.
#[pin_data]
pub(crate) struct Account {
    owner: Owner,
    #[pin]
    state: SpinLockBh<State>,
    /// Notified when there is news for who waits for room.
    #[pin]
    room: CondVar,
}

struct State {
    books: Books<Tree<Owner>>,
    /// Tasks that wait for room.
    waiting: u32,
    /// Links that stopped since there was no room.
    stalled: Stalled,
}

impl State {
    /// Wakes the tasks that wait, as there is news.
    fn wake_tasks(&mut self, room: &CondVar) {
        if self.waiting > 0 {
            room.notify_all();
        }
    }

    fn admits(&self, message: &Message) -> bool {
        let sender = message.principal.owner;
        let (more, bulk) = (message.amount(), message.class() == 0);
        self.books.admits(sender, more, bulk)
    }
}

impl Account {
    fn new(owner: Owner) -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                state <- new_spinlock_bh!(
                    State {
                        books: Books::new(owner, Limits::of(owner), Tree::new()),
                        waiting: 0,
                        stalled: Stalled::new(),
                    },
                    "mgmt_account"
                ),
                room <- new_condvar!("mgmt_account_room"),
                owner,
            }),
            GFP_KERNEL,
        )
    }

    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    pub(crate) fn statement(&self) -> Statement {
        self.state.lock().books.statement()
    }

    /// Charges a message on its way to the owner, if its sender may have it there.
    pub(crate) fn admit(&self, message: &Message) -> Result<(), NoMemory> {
        let mut state = self.state.lock();
        if !state.admits(message) {
            return Err(NoMemory);
        }
        state
            .books
            .charge(message.principal.owner, message.amount())
    }

    /// Charges a message whether or not its sender may have it there.
    pub(crate) fn charge(&self, message: &Message) -> Result<(), NoMemory> {
        let sender = message.principal.owner;
        self.state.lock().books.charge(sender, message.amount())
    }

    /// A message that was charged is not on its way any more; `was_last` if its receiver, as far as
    /// it is up to that, makes no more room.
    pub(crate) fn discharge(&self, message: &Message, was_last: bool) {
        self.give_back(message.principal, message.amount(), was_last);
    }

    /// As [`Account::discharge`], for a message of this amount that somebody else has since.
    pub(crate) fn give_back(&self, sender: Principal, amount: Amount, was_last: bool) {
        let mut state = self.state.lock();
        state.books.discharge(sender.owner, amount);
        if was_last {
            state.stalled.resume();
        } else {
            state.stalled.message_gone(sender.id);
        }
        state.wake_tasks(&self.room);
    }

    /// One of the owner's receivers is gone: who waits for room there need not any more.
    pub(crate) fn receiver_gone(&self) {
        let mut state = self.state.lock();
        state.books.change();
        state.stalled.resume();
        state.wake_tasks(&self.room);
    }

    /// Counts that a message found no room, and says so once for each sender.
    pub(crate) fn refuse(&self, message: &Message) {
        let sender = message.principal.owner;
        if self.state.lock().books.refuse(sender) {
            let owner = self.owner;
            pr_info!("{owner}: no room for more of {sender}, whose messages wait or are refused\n");
        }
    }

    /// `None` if there is room for this message; else what [`Account::wait`] needs to know.
    pub(crate) fn shortage(&self, message: &Message) -> Option<u64> {
        let state = self.state.lock();
        (!state.admits(message)).then(|| state.books.changes())
    }

    /// Waits for news since a shortage, or for so many milliseconds.
    ///
    /// `EINTR` (as `ERESTARTSYS`) if a signal came first.
    pub(crate) fn wait(&self, shortage: u64, milliseconds: Option<u32>) -> Result {
        let mut state = self.state.lock();
        if state.books.changes() != shortage {
            return Ok(());
        }
        state.waiting += 1;
        let result = sleep(&self.room, &mut state, milliseconds);
        state.waiting -= 1;
        result
    }

    /// Has the link go on when this message may fit. Whether it has to wait for that.
    pub(crate) fn call_when_room(&self, link: &Arc<Link>, message: &Message) -> bool {
        let mut state = self.state.lock();
        let short = !state.admits(message);
        if short {
            state.stalled.add(link);
        }
        short
    }

    /// Takes so many of a slot. `ENOSPC` if the owner would have more than it may.
    pub(crate) fn take(self: &Arc<Self>, slot: Slot, count: u32) -> Result<Taken> {
        let mut taken = self.none_of(slot);
        taken.more(count)?;
        Ok(taken)
    }

    /// Takes none of a slot yet.
    pub(crate) fn none_of(self: &Arc<Self>, slot: Slot) -> Taken {
        Taken {
            account: self.clone(),
            slot,
            count: 0,
        }
    }
}

/// What was taken of a slot, until it is dropped.
pub(crate) struct Taken {
    account: Arc<Account>,
    slot: Slot,
    count: u32,
}

impl Taken {
    /// Takes so many more. `ENOSPC` if the owner would have more than it may.
    pub(crate) fn more(&mut self, count: u32) -> Result {
        if !self.account.state.lock().books.take(self.slot, count) {
            return Err(ENOSPC);
        }
        self.count += count;
        Ok(())
    }

    /// Gives so many back.
    pub(crate) fn less(&mut self, count: u32) {
        self.account.state.lock().books.give(self.slot, count);
        self.count -= count;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.less(self.count);
    }
}

/// The accounts of all principals that are there.
#[pin_data]
pub(crate) struct Accounts {
    /// Each with how many files or links its owner has.
    #[pin]
    accounts: SpinLockBh<RBTree<Owner, (Arc<Account>, u32)>>,
}

impl Accounts {
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                accounts <- new_spinlock_bh!(RBTree::new(), "mgmt_accounts"),
            }),
            GFP_KERNEL,
        )
    }

    /// The account of a principal, for one file or link more of it.
    pub(crate) fn open(self: &Arc<Self>, owner: Owner) -> Result<Holding> {
        let new = Account::new(owner)?;
        let node = RBTreeNode::new(owner, (new.clone(), 1), GFP_KERNEL)?;
        let mut accounts = self.accounts.lock();
        let account = match accounts.get_mut(&owner) {
            Some((account, holdings)) => {
                *holdings += 1;
                account.clone()
            }
            None => {
                accounts.insert(node);
                new
            }
        };
        Ok(Holding {
            account,
            accounts: self.clone(),
        })
    }

    /// The first account whose owner is not before this one.
    pub(crate) fn from(&self, owner: Owner) -> Option<Arc<Account>> {
        let accounts = self.accounts.lock();
        let cursor = accounts.cursor_lower_bound(&owner)?;
        Some(cursor.current().1 .0.clone())
    }
}

/// The account of a principal, on behalf of one of its files or links. It is closed with the last.
pub(crate) struct Holding {
    account: Arc<Account>,
    accounts: Arc<Accounts>,
}

impl Deref for Holding {
    type Target = Arc<Account>;

    fn deref(&self) -> &Arc<Account> {
        &self.account
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut accounts = self.accounts.accounts.lock();
        let owner = self.account.owner;
        let Some((_, holdings)) = accounts.get_mut(&owner) else {
            return;
        };
        *holdings -= 1;
        let last = *holdings == 0;
        let node = last.then(|| accounts.remove_node(&owner));
        drop(accounts);
        drop(node);
    }
}
