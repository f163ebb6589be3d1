// SPDX-License-Identifier: GPL-2.0

//! Senders that wait for room, and receivers that make it, in every order (loom).
//!
//! The protocol is that of `rust/inbox.rs` and `rust/account.rs`, with loom's locks in the place of the
//! kernel's: two receivers, each with a queue, share an account. A sender may be short of room in the
//! queue or in the account, and sleeps on what is short; it wakes for room, and when its receiver goes.
//!
//! What loom checks: nobody sleeps for ever (that is a deadlock, which loom reports), all messages
//! arrive or are refused, and nothing is charged in the end.
//!
//! Runs with `RUSTFLAGS="--cfg loom" cargo test -p mgmt-pure --test loom_account --release`; without
//! that flag there is nothing here.

#![cfg(loom)]

use loom::{
    model::Builder,
    sync::{Arc, Condvar, Mutex},
    thread,
};
use mgmt_pure::pure::{
    account::{Account as Books, Limits, Owner},
    quota::{Amount, Division},
};
use std::collections::BTreeMap;

/// Preemptions that are explored at most, in one run of the model.
const PREEMPTIONS: usize = 3;

const MESSAGE: Amount = Amount::message(1);

/// Room for one message, whoever sends: a lone sender gets half, and a second one nothing beside it.
const ROOM_FOR_ONE: Amount = Amount {
    bytes: 2,
    messages: 2,
};
/// Room for all messages of a test.
const PLENTY: Amount = Amount {
    bytes: 100,
    messages: 100,
};

struct Account {
    state: Mutex<State>,
    room: Condvar,
}

struct State {
    books: Books<BTreeMap<Owner, Amount>>,
    waiting: u32,
}

impl State {
    fn wake(&self, room: &Condvar) {
        if self.waiting > 0 {
            room.notify_all();
        }
    }
}

impl Account {
    fn new(capacity: Amount) -> Arc<Self> {
        let limits = Limits {
            in_flight: capacity,
            ..Limits::of(Owner::Uid(0))
        };
        Arc::new(Self {
            state: Mutex::new(State {
                books: Books::new(Owner::Uid(0), limits, BTreeMap::new()),
                waiting: 0,
            }),
            room: Condvar::new(),
        })
    }

    fn admit(&self, sender: u32) -> bool {
        let mut state = self.state.lock().unwrap();
        let sender = Owner::Guest(sender);
        let admitted = state.books.admits(sender, MESSAGE, false);
        if admitted {
            state.books.charge(sender, MESSAGE).unwrap();
        }
        admitted
    }

    fn discharge(&self, sender: u32) {
        let mut state = self.state.lock().unwrap();
        state.books.discharge(Owner::Guest(sender), MESSAGE);
        state.wake(&self.room);
    }

    fn receiver_gone(&self) {
        let mut state = self.state.lock().unwrap();
        state.books.change();
        state.wake(&self.room);
    }

    fn shortage(&self, sender: u32) -> Option<u64> {
        let state = self.state.lock().unwrap();
        let admits = state.books.admits(Owner::Guest(sender), MESSAGE, false);
        (!admits).then(|| state.books.changes())
    }

    fn wait(&self, shortage: u64) {
        let mut state = self.state.lock().unwrap();
        if state.books.changes() != shortage {
            return;
        }
        state.waiting += 1;
        state = self.room.wait(state).unwrap();
        state.waiting -= 1;
    }
}

struct Inbox {
    queue: Mutex<Queue>,
    room: Condvar,
    readable: Condvar,
    account: Arc<Account>,
}

struct Queue {
    open: bool,
    /// Who sent each message.
    messages: Vec<u32>,
    held: Division<u32, BTreeMap<u32, Amount>>,
}

impl Inbox {
    fn new(capacity: Amount, account: &Arc<Account>) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::new(Queue {
                open: true,
                messages: Vec::new(),
                held: Division::new(capacity, BTreeMap::new()),
            }),
            room: Condvar::new(),
            readable: Condvar::new(),
            account: account.clone(),
        })
    }

    /// Whether the message was queued, or the receiver is gone.
    fn push(&self, sender: u32) -> Option<bool> {
        let mut queue = self.queue.lock().unwrap();
        if !queue.open {
            return Some(false);
        }
        if queue.held.admits(sender, MESSAGE, false) && self.account.admit(sender) {
            queue.held.charge(sender, MESSAGE).unwrap();
            queue.messages.push(sender);
            self.readable.notify_all();
            return Some(true);
        }
        None
    }

    fn wait_room(&self, sender: u32) {
        let mut queue = self.queue.lock().unwrap();
        while queue.open {
            if !queue.held.admits(sender, MESSAGE, false) {
                queue = self.room.wait(queue).unwrap();
            } else if let Some(shortage) = self.account.shortage(sender) {
                drop(queue);
                self.account.wait(shortage);
                queue = self.queue.lock().unwrap();
            } else {
                break;
            }
        }
    }

    /// Sends a message as a blocking write does. Whether the receiver was there.
    fn send(&self, sender: u32) -> bool {
        loop {
            if let Some(sent) = self.push(sender) {
                return sent;
            }
            self.wait_room(sender);
        }
    }

    fn discharge(&self, queue: &mut Queue, sender: u32) {
        queue.held.discharge(sender, MESSAGE);
        self.account.discharge(sender);
    }

    fn receive(&self) -> u32 {
        let mut queue = self.queue.lock().unwrap();
        while queue.messages.is_empty() {
            queue = self.readable.wait(queue).unwrap();
        }
        let sender = queue.messages.remove(0);
        self.discharge(&mut queue, sender);
        self.room.notify_all();
        sender
    }

    /// Returns how many messages were left.
    fn close(&self) -> usize {
        let mut queue = self.queue.lock().unwrap();
        queue.open = false;
        let left = std::mem::take(&mut queue.messages);
        for &sender in &left {
            self.discharge(&mut queue, sender);
        }
        self.room.notify_all();
        self.account.receiver_gone();
        left.len()
    }
}

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    builder.check(model);
}

fn nothing_is_charged(account: &Account) {
    let statement = account.state.lock().unwrap().books.statement();
    assert_eq!(statement.in_flight, Amount::default());
}

/// A sender to each of two receivers; there is room for one message at a time, in both together.
#[test]
fn no_wakeup_is_lost_where_the_account_is_short() {
    check(|| {
        let account = Account::new(ROOM_FOR_ONE);
        let (here, there) = (Inbox::new(PLENTY, &account), Inbox::new(PLENTY, &account));
        let (sender, receiver) = {
            let (inbox, same) = (there.clone(), there);
            (
                thread::spawn(move || assert!(inbox.send(1))),
                thread::spawn(move || assert_eq!(same.receive(), 1)),
            )
        };
        assert!(here.send(2));
        assert_eq!(here.receive(), 2);
        sender.join().unwrap();
        receiver.join().unwrap();
        nothing_is_charged(&account);
    });
}

/// One sender to one receiver; now the queue is short, now the account.
#[test]
fn no_wakeup_is_lost_where_either_is_short() {
    for (queue, account) in [(ROOM_FOR_ONE, PLENTY), (PLENTY, ROOM_FOR_ONE)] {
        check(move || {
            let account = Account::new(account);
            let inbox = Inbox::new(queue, &account);
            let sender = {
                let inbox = inbox.clone();
                thread::spawn(move || (0..3).for_each(|_| assert!(inbox.send(7))))
            };
            (0..3).for_each(|_| assert_eq!(inbox.receive(), 7));
            sender.join().unwrap();
            nothing_is_charged(&account);
        });
    }
}

/// The room in the account is another receiver's, who does not read: who waits for it hears that its
/// own receiver goes.
#[test]
fn who_waits_for_the_account_hears_that_its_receiver_goes() {
    check(|| {
        let account = Account::new(ROOM_FOR_ONE);
        let full = Inbox::new(PLENTY, &account);
        assert!(full.send(1));
        let going = Inbox::new(PLENTY, &account);
        let sender = {
            let going = going.clone();
            thread::spawn(move || assert!(!going.send(2)))
        };
        assert_eq!(going.close(), 0);
        sender.join().unwrap();
        assert_eq!(full.close(), 1);
        nothing_is_charged(&account);
    });
}

/// A receiver goes, while one sends to it: all that it had accepted comes back.
#[test]
fn what_a_receiver_leaves_is_not_charged() {
    check(|| {
        let account = Account::new(ROOM_FOR_ONE);
        let inbox = Inbox::new(PLENTY, &account);
        let sender = {
            let inbox = inbox.clone();
            thread::spawn(move || (0..3).take_while(|_| inbox.send(1)).count())
        };
        let left = inbox.close();
        let sent = sender.join().unwrap();
        assert_eq!(sent, left);
        nothing_is_charged(&account);
    });
}
