// SPDX-License-Identifier: GPL-2.0

//! Requests, and all that may end them, in every order (loom).
//!
//! The protocol is that of `rust/mcb/replies.rs`, `rust/port.rs` and `rust/mcb/expiry.rs`, with loom's
//! locks in the place of the kernel's: a request is remembered before its receiver can see it, and who
//! takes it out of the table has its end to tell.
//!
//! What loom checks: each request ends once. Either `send` fails, or who asked hears one of: the reply,
//! that its receiver went, that its deadline passed.
//!
//! Runs with `RUSTFLAGS="--cfg loom" cargo test -p mgmt-pure --test loom_requests --release`; without
//! that flag there is nothing here.

#![cfg(loom)]

use loom::{
    model::Builder,
    sync::{Arc, Mutex},
    thread,
};
use std::collections::{BTreeMap, VecDeque};

/// Preemptions that are explored at most, in one run of the model.
const PREEMPTIONS: usize = 3;

/// The number of a request.
type Number = u64;

/// How a request ended for who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Refused,
    Replied,
    PeerGone,
    Deadline,
}

/// The receiver's queue, of so much room.
struct Queue {
    open: bool,
    room: usize,
    waiting: VecDeque<Number>,
}

/// A bridge with one who asks and one who is asked.
struct Bridge {
    requests: Mutex<BTreeMap<Number, ()>>,
    queue: Mutex<Queue>,
    /// Whether the work that looks for deadlines will run; they all have passed.
    is_armed: Mutex<bool>,
    told: Mutex<Vec<(Number, End)>>,
}

impl Bridge {
    fn new(room: usize) -> Arc<Self> {
        Arc::new(Self {
            requests: Mutex::default(),
            queue: Mutex::new(Queue {
                open: true,
                room,
                waiting: VecDeque::new(),
            }),
            is_armed: Mutex::new(false),
            told: Mutex::default(),
        })
    }

    fn tell(&self, number: Number, end: End) {
        self.told.lock().unwrap().push((number, end));
    }

    fn remember(&self, number: Number) {
        self.requests.lock().unwrap().insert(number, ());
        self.expire_soon();
    }

    /// Whether it was there: then its end is the caller's to tell.
    fn take(&self, number: Number) -> bool {
        self.requests.lock().unwrap().remove(&number).is_some()
    }

    fn push(&self, number: Number) -> Result<(), ()> {
        let mut queue = self.queue.lock().unwrap();
        if !queue.open || queue.waiting.len() == queue.room {
            return Err(());
        }
        queue.waiting.push_back(number);
        Ok(())
    }

    /// A write that does not wait.
    fn send(&self, number: Number) {
        self.remember(number);
        if self.push(number).is_err() && self.take(number) {
            self.tell(number, End::Refused);
        }
    }

    /// The receiver reads one, and answers it if it can: `may_reply` says whether who asked has room.
    fn serve(&self, may_reply: impl Fn() -> bool) {
        let number = self.queue.lock().unwrap().waiting.pop_front();
        let Some(number) = number else { return };
        for _ in 0..2 {
            let answered = self.take(number);
            if may_reply() {
                if answered {
                    self.tell(number, End::Replied);
                }
                return;
            }
            if answered {
                self.unanswer(number);
            }
        }
    }

    fn unanswer(&self, number: Number) {
        self.requests.lock().unwrap().insert(number, ());
        self.expire_soon();
    }

    /// The receiver closes: what it did not read comes back, and what it did not answer ends.
    fn close(&self) {
        let left = {
            let mut queue = self.queue.lock().unwrap();
            queue.open = false;
            std::mem::take(&mut queue.waiting)
        };
        for number in left {
            if self.take(number) {
                self.tell(number, End::PeerGone);
            }
        }
        self.end_all(End::PeerGone);
    }

    fn end_all(&self, end: End) {
        loop {
            let ended = self.requests.lock().unwrap().pop_first();
            let Some((number, ())) = ended else { return };
            self.tell(number, end);
        }
    }

    fn expire_soon(&self) {
        *self.is_armed.lock().unwrap() = true;
    }

    /// The work that looks for deadlines, if it is to run.
    fn expire(&self) {
        if !std::mem::take(&mut *self.is_armed.lock().unwrap()) {
            return;
        }
        self.end_all(End::Deadline);
        if !self.requests.lock().unwrap().is_empty() {
            self.expire_soon();
        }
    }

    /// Each of so many requests has ended once, now or when time has passed.
    fn check(&self, count: Number) {
        while *self.is_armed.lock().unwrap() {
            self.expire();
        }
        let mut told = self.told.lock().unwrap().clone();
        told.sort_by_key(|(number, _)| *number);
        let numbers: Vec<_> = told.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, Vec::from_iter(1..=count), "{told:?}");
        assert!(self.requests.lock().unwrap().is_empty());
    }
}

/// Runs these at the same time, in every order, after `count` requests are numbered.
fn check(room: usize, count: Number, tasks: &'static [fn(&Bridge)]) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(move || {
        let bridge = Bridge::new(room);
        let threads: Vec<_> = tasks
            .iter()
            .map(|task| {
                let bridge = bridge.clone();
                thread::spawn(move || task(&bridge))
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        // Whoever has not read by now has gone.
        bridge.close();
        bridge.check(count);
    });
}

fn ask_twice(bridge: &Bridge) {
    bridge.send(1);
    bridge.send(2);
}

fn answer_twice(bridge: &Bridge) {
    bridge.serve(|| true);
    bridge.serve(|| true);
}

#[test]
fn a_request_is_answered_or_its_deadline_passes() {
    check(2, 2, &[ask_twice, answer_twice, Bridge::expire]);
}

#[test]
fn a_request_that_does_not_fit_is_refused_or_its_deadline_passes() {
    check(1, 2, &[ask_twice, Bridge::expire]);
}

#[test]
fn a_request_ends_when_its_receiver_goes() {
    check(2, 2, &[ask_twice, Bridge::close, Bridge::expire]);
}

/// Who asked has no room for the reply, the first time.
#[test]
fn a_reply_that_finds_no_room_does_not_lose_the_deadline() {
    fn answer_late(bridge: &Bridge) {
        let tries = std::cell::Cell::new(0);
        bridge.serve(|| {
            tries.set(tries.get() + 1);
            tries.get() > 1
        });
    }
    check(
        2,
        1,
        &[|bridge| bridge.send(1), answer_late, Bridge::expire],
    );
}

/// Who asked never has room: nobody replies, and the deadline tells.
#[test]
fn without_a_reply_the_deadline_tells() {
    fn cannot_answer(bridge: &Bridge) {
        bridge.serve(|| false);
    }
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(|| {
        let bridge = Bridge::new(1);
        bridge.send(1);
        let threads = [cannot_answer, Bridge::expire as fn(&Bridge)].map(|task| {
            let bridge = bridge.clone();
            thread::spawn(move || task(&bridge))
        });
        for thread in threads {
            thread.join().unwrap();
        }
        bridge.check(1);
    });
}
