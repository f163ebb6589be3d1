// SPDX-License-Identifier: GPL-2.0

//! The two ends of a ring at once, in every order that the memory model allows (loom).
//!
//! What loom checks: a message's bytes are never read while they are written, all messages arrive,
//! in order and whole, and nobody sleeps for ever (that is a deadlock, which loom reports).
//!
//! What it models: the control words' acquire and release orderings, and `fence(SeqCst)`, which is
//! the one thing that decides the event protocol (store, fence, load on both sides). It does not
//! model sequentially consistent accesses; the ring has none. Preemptions are bounded, so that the
//! run ends; `LOOM_MAX_PREEMPTIONS` overrides the bound.
//!
//! Runs with `RUSTFLAGS="--cfg loom" cargo test -p mgmt-pure --test loom_ring --release`; without
//! that flag there is nothing here.

#![cfg(loom)]

use loom::{
    cell::UnsafeCell,
    model::Builder,
    sync::{
        atomic::{fence, AtomicU32, Ordering},
        Arc, Condvar, Mutex,
    },
    thread,
};
use mgmt_pure::pure::ring::{control, max_message, Consumer, Producer, PushError, SharedMemory};

/// Preemptions that are explored at most, in one run of the model.
const PREEMPTIONS: usize = 3;

/// The memory of a ring.
struct Ring {
    prod: AtomicU32,
    cons_event: AtomicU32,
    cons: AtomicU32,
    prod_event: AtomicU32,
    data: Vec<UnsafeCell<u8>>,
}

// SAFETY: loom checks every access to the cells: a data race fails the test.
unsafe impl Sync for Ring {}
// SAFETY: As above.
unsafe impl Send for Ring {}

impl Ring {
    fn new(size: u32) -> Arc<Self> {
        Arc::new(Self {
            prod: AtomicU32::new(0),
            cons_event: AtomicU32::new(0),
            cons: AtomicU32::new(0),
            prod_event: AtomicU32::new(0),
            data: (0..size).map(|_| UnsafeCell::new(0)).collect(),
        })
    }

    fn control(&self, field: usize) -> &AtomicU32 {
        match field {
            control::PROD => &self.prod,
            control::CONS_EVENT => &self.cons_event,
            control::CONS => &self.cons,
            control::PROD_EVENT => &self.prod_event,
            _ => panic!("no control field at {field}"),
        }
    }
}

/// One end's mapping of the ring.
struct Mapping(Arc<Ring>);

impl SharedMemory for Mapping {
    fn load(&self, field: usize) -> u32 {
        self.0.control(field).load(Ordering::Acquire)
    }

    fn store(&self, field: usize, value: u32) {
        self.0.control(field).store(value, Ordering::Release);
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    fn size(&self) -> u32 {
        self.0.data.len() as u32
    }

    fn read(&self, at: u32, out: &mut [u8]) {
        for (cell, byte) in self.0.data[at as usize..].iter().zip(out) {
            // SAFETY: The pointer is valid in the closure, and loom checks for races.
            *byte = cell.with(|cell| unsafe { *cell });
        }
    }

    fn write(&self, at: u32, bytes: &[u8]) {
        for (cell, byte) in self.0.data[at as usize..].iter().zip(bytes) {
            // SAFETY: As above.
            cell.with_mut(|cell| unsafe { *cell = *byte });
        }
    }
}

/// One end's half of an event channel: pending until waited for.
#[derive(Default)]
struct Event {
    pending: Mutex<bool>,
    raised: Condvar,
}

impl Event {
    fn notify(&self) {
        *self.pending.lock().unwrap() = true;
        self.raised.notify_one();
    }

    fn wait(&self) {
        let mut pending = self.pending.lock().unwrap();
        while !*pending {
            pending = self.raised.wait(pending).unwrap();
        }
        *pending = false;
    }
}

/// The events of a ring.
#[derive(Default)]
struct Events {
    /// To the consumer.
    data: Event,
    /// To the producer.
    room: Event,
}

/// When an end shows what it did; always before it sleeps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Publish {
    Each,
    Late,
}

/// A message of which every byte tells which one it is.
fn message(number: usize, length: usize) -> Vec<u8> {
    vec![number as u8 + 1; length]
}

fn produce(ring: Arc<Ring>, events: &Events, lengths: &[usize], publish: Publish) {
    let mut producer = Producer::new(Mapping(ring));
    for (number, &length) in lengths.iter().enumerate() {
        let message = message(number, length);
        loop {
            match producer.push(&[&message]) {
                Ok(()) => break,
                Err(PushError::Full) => {
                    if producer.publish() {
                        events.data.notify();
                    }
                    events.room.wait();
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        if publish == Publish::Each && producer.publish() {
            events.data.notify();
        }
    }
    if producer.publish() {
        events.data.notify();
    }
}

fn consume(ring: Arc<Ring>, events: &Events, lengths: &[usize], publish: Publish) {
    let mut consumer = Consumer::new(Mapping(ring));
    for (number, &length) in lengths.iter().enumerate() {
        let pending = loop {
            if let Some(pending) = consumer.peek().unwrap() {
                break pending;
            }
            if consumer.publish() {
                events.room.notify();
            }
            events.data.wait();
        };
        let mut got = vec![0; pending.length()];
        consumer.take(pending, &mut got);
        assert_eq!(got, message(number, length));
        if publish == Publish::Each && consumer.publish() {
            events.room.notify();
        }
    }
}

/// Sends messages of these lengths through a ring of `size` bytes, in every order.
fn all_arrive(size: u32, lengths: &'static [usize], producing: Publish, consuming: Publish) {
    assert!(lengths.iter().all(|&l| l <= max_message(size) as usize));
    let mut builder = Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    builder.check(move || {
        let ring = Ring::new(size);
        let events = Arc::new(Events::default());
        let there = {
            let (ring, events) = (ring.clone(), events.clone());
            thread::spawn(move || produce(ring, &events, lengths, producing))
        };
        consume(ring, &events, lengths, consuming);
        there.join().unwrap();
    });
}

/// Two records fill the ring: both ends sleep and wake again and again.
#[test]
fn no_wakeup_is_lost_in_a_ring_of_two_messages() {
    all_arrive(32, &[8, 8, 8, 8], Publish::Each, Publish::Each);
}

#[test]
fn no_wakeup_is_lost_when_both_ends_publish_late() {
    all_arrive(32, &[8, 8, 8, 8], Publish::Late, Publish::Late);
}

/// The producer waits for the room of more than one record.
#[test]
fn a_large_message_waits_for_all_the_room_it_needs() {
    all_arrive(64, &[8, 24, 8, 24, 24], Publish::Each, Publish::Each);
}

#[test]
fn a_message_that_wraps_arrives_whole() {
    all_arrive(64, &[8, 24, 24, 24], Publish::Late, Publish::Each);
}

/// As [`produce`], but each message is waited for: what it lends is to come back.
fn produce_and_await(ring: Arc<Ring>, events: &Events, lengths: &[usize]) {
    let mut producer = Producer::new(Mapping(ring));
    for (number, &length) in lengths.iter().enumerate() {
        let message = message(number, length);
        while producer.push(&[&message]).is_err() {
            events.room.wait();
        }
        if producer.publish() {
            events.data.notify();
        }
        // Every other one, so that two can be in the ring.
        if number % 2 == 1 {
            while !producer.await_consumed(producer.position()).unwrap() {
                events.room.wait();
            }
        }
    }
}

#[test]
fn the_end_of_a_message_is_never_missed() {
    let mut builder = Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    builder.check(|| {
        const LENGTHS: &[usize] = &[8, 8, 8, 8];
        let ring = Ring::new(32);
        let events = Arc::new(Events::default());
        let there = {
            let (ring, events) = (ring.clone(), events.clone());
            thread::spawn(move || produce_and_await(ring, &events, LENGTHS))
        };
        let mut consumer = Consumer::new(Mapping(ring));
        for _ in LENGTHS {
            let pending = loop {
                if let Some(pending) = consumer.peek().unwrap() {
                    break pending;
                }
                events.data.wait();
            };
            let mut got = vec![0; pending.length()];
            consumer.take(pending, &mut got);
            if consumer.publish() {
                events.room.notify();
            }
        }
        there.join().unwrap();
    });
}
