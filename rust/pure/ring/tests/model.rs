// SPDX-License-Identifier: GPL-2.0

//! Two honest ends and a queue of messages, which must always agree.

use super::*;
use proptest::prelude::*;
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    ops::Range,
    rc::Rc,
};

/// The memory of a ring, and what was read of it.
struct Shared {
    control: RefCell<[u32; 18]>,
    data: RefCell<Vec<u8>>,
    /// Where data was read, and how often control words were.
    reads: RefCell<Vec<Range<usize>>>,
    loads: Cell<u32>,
}

impl Shared {
    fn new(size: u32, start: u32) -> Rc<Self> {
        let mut control = [0; 18];
        for field in [PRODUCERS, CONSUMERS].concat() {
            control[field / 4] = start;
        }
        Rc::new(Self {
            control: RefCell::new(control),
            // Not zero, so that padding shows.
            data: RefCell::new(vec![0xff; size as usize]),
            reads: RefCell::new(vec![]),
            loads: Cell::new(0),
        })
    }

    /// Forgets what was read.
    fn forget_reads(&self) {
        self.reads.borrow_mut().clear();
        self.loads.set(0);
    }
}

/// One end's mapping: it may load the fields of the other end, and store its own.
struct Mapping {
    shared: Rc<Shared>,
    own: [usize; 2],
}

impl SharedMemory for Mapping {
    fn load(&self, field: usize) -> u32 {
        assert!(
            !self.own.contains(&field),
            "nobody reads back what it published"
        );
        self.shared.loads.set(self.shared.loads.get() + 1);
        self.shared.control.borrow()[field / 4]
    }

    fn store(&self, field: usize, value: u32) {
        assert!(self.own.contains(&field));
        self.shared.control.borrow_mut()[field / 4] = value;
    }

    fn fence(&self) {}

    fn size(&self) -> u32 {
        self.shared.data.borrow().len() as u32
    }

    fn read(&self, at: u32, out: &mut [u8]) {
        let range = at as usize..at as usize + out.len();
        out.copy_from_slice(&self.shared.data.borrow()[range.clone()]);
        self.shared.reads.borrow_mut().push(range);
    }

    fn write(&self, at: u32, bytes: &[u8]) {
        let range = at as usize..at as usize + bytes.len();
        self.shared.data.borrow_mut()[range].copy_from_slice(bytes);
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// Put in a message of so many bytes, in two parts of which the second number tells
    /// where they meet.
    Push(Length, usize),
    /// Take a message: at once, or piece by piece.
    Take {
        at_once: bool,
    },
    PublishProduced,
    PublishConsumed,
    /// The producer looks what was consumed.
    Refresh,
    /// The producer waits for one of the messages to be consumed.
    Await(usize),
}

/// Bytes of a message.
#[derive(Clone, Copy, Debug)]
enum Length {
    Bytes(u32),
    /// So many less than the largest message, or more than it.
    BelowMax(i32),
    /// A share of the largest message, in 1/256.
    OfMax(u8),
}

impl Length {
    fn in_ring(self, size: u32) -> u32 {
        let max = max_message(size);
        match self {
            Self::Bytes(length) => length,
            Self::BelowMax(less) => max.wrapping_add_signed(-less),
            Self::OfMax(share) => (max * u32::from(share) / 256).max(1),
        }
    }
}

fn any_length() -> impl Strategy<Value = Length> {
    prop_oneof![
        4 => (1u32..300).prop_map(Length::Bytes),
        2 => any::<u8>().prop_map(Length::OfMax),
        1 => (-9i32..16).prop_map(Length::BelowMax),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (any_length(), 0usize..20_000).prop_map(|(length, split)| Op::Push(length, split)),
        4 => any::<bool>().prop_map(|at_once| Op::Take { at_once }),
        2 => Just(Op::PublishProduced),
        2 => Just(Op::PublishConsumed),
        1 => Just(Op::Refresh),
        1 => any::<usize>().prop_map(Op::Await),
    ]
}

/// The index at which a ring starts: at the beginning, or soon to wrap around.
fn any_start() -> impl Strategy<Value = u32> {
    prop_oneof![
        1 => Just(0),
        3 => (0u32..1 << 13).prop_map(|records| (records * 8).wrapping_neg()),
    ]
}

/// The `number`th message: a pattern that does not repeat with the alignment of records.
fn message(number: u64, length: u32) -> Vec<u8> {
    let length = length as usize;
    let mut bytes = number.to_le_bytes()[..7].repeat(length / 7 + 1);
    bytes.truncate(length);
    bytes
}

/// Both ends, and what should be the case. Indices count from 0, and never wrap.
struct Pair {
    shared: Rc<Shared>,
    producer: Producer<Mapping>,
    consumer: Consumer<Mapping>,
    start: u32,
    /// What the data area holds.
    data: Vec<u8>,
    /// Messages that were put in and not taken, with the indices behind them.
    queue: VecDeque<(Vec<u8>, u64)>,
    /// Positions of messages that the producer does not know to be consumed.
    sent: VecDeque<(u32, u64)>,
    pushed: u64,
    prod: u64,
    prod_published: u64,
    cons: u64,
    cons_published: u64,
    /// The consumer sleeps.
    wants_data: bool,
    /// The producer sleeps until `cons` is here.
    wants_event: Option<u64>,
}

impl Pair {
    fn new(size: u32, start: u32) -> Self {
        let shared = Shared::new(size, start);
        let mapping = |own| Mapping {
            shared: shared.clone(),
            own,
        };
        let data = shared.data.borrow().clone();
        Self {
            producer: Producer::starting_at(mapping(PRODUCERS), start),
            consumer: Consumer::starting_at(mapping(CONSUMERS), start),
            start,
            data,
            shared,
            queue: VecDeque::new(),
            sent: VecDeque::new(),
            pushed: 0,
            prod: 0,
            prod_published: 0,
            cons: 0,
            cons_published: 0,
            wants_data: false,
            wants_event: None,
        }
    }

    fn size(&self) -> u32 {
        self.data.len() as u32
    }

    fn index(&self, count: u64) -> u32 {
        self.start.wrapping_add(count as u32)
    }

    fn control(&self, field: usize) -> u32 {
        self.shared.control.borrow()[field / 4]
    }

    fn push(&mut self, length: u32, split: usize) {
        let message = message(self.pushed, length);
        let (head, tail) = message.split_at(split % (message.len() + 1));
        let pushed = self.producer.push(&[head, &[], tail]);

        let record = record(&message);
        let free = u64::from(self.size()) - (self.prod - self.cons_published);
        if length > max_message(self.size()) {
            assert_eq!(pushed, Err(PushError::TooLarge));
        } else if record.len() as u64 > free {
            assert_eq!(pushed, Err(PushError::Full));
            self.asks(self.prod + record.len() as u64 - u64::from(self.size()));
        } else {
            assert_eq!(pushed, Ok(()));
            let at = self.index(self.prod) as usize;
            let mask = self.data.len() - 1;
            for (i, byte) in record.iter().enumerate() {
                self.data[(at + i) & mask] = *byte;
            }
            self.prod += record.len() as u64;
            self.pushed += 1;
            self.queue.push_back((message, self.prod));
            self.sent.push_back((self.producer.position(), self.prod));
        }
        // Padding included, and nothing else changed.
        assert!(
            *self.shared.data.borrow() == self.data,
            "wrong bytes in the ring"
        );
        assert_eq!(self.producer.position(), self.index(self.prod));
    }

    fn take(&mut self, at_once: bool) {
        self.shared.forget_reads();
        let pending = self.consumer.peek().expect("an honest producer");
        assert!(self.shared.loads.get() <= 2);
        let Some(pending) = pending else {
            assert_eq!(self.prod_published, self.cons, "a message was not seen");
            self.wants_data = true;
            assert_eq!(self.control(control::PROD_EVENT), self.index(self.cons + 1));
            return;
        };
        let (message, end) = self.queue.pop_front().expect("a message");
        assert!(end <= self.prod_published, "a message was seen too early");
        assert_eq!(pending.length(), message.len());
        let mut got = vec![0; message.len()];
        if at_once {
            self.consumer.take(pending, &mut got);
        } else {
            let mut rest = &mut got[..];
            self.consumer.take_with(pending, |memory, at, length| {
                let (part, others) = core::mem::take(&mut rest).split_at_mut(length);
                memory.read(at, part);
                rest = others;
            });
            assert!(rest.is_empty(), "a part of the message was not copied");
        }
        assert!(got == message, "wrong bytes in the message");
        let mut reads = self.shared.reads.borrow_mut();
        reads.retain(|read| !read.is_empty());
        reads.sort_by_key(|read| read.start);
        let twice = reads.windows(2).any(|pair| pair[0].end > pair[1].start);
        assert!(!twice, "no byte is read twice (XSA-155)");
        self.cons = end;
    }

    fn publish_produced(&mut self) {
        let sends_event = self.producer.publish();
        let expected = self.wants_data && self.prod > self.prod_published;
        assert_eq!(sends_event, expected, "the consumer's event");
        self.wants_data &= !sends_event;
        self.prod_published = self.prod;
    }

    fn publish_consumed(&mut self) {
        let sends_event = self.consumer.publish();
        let expected = self.wants_event.is_some_and(|wanted| wanted <= self.cons);
        assert_eq!(sends_event, expected, "the producer's event");
        if sends_event {
            self.wants_event = None;
        }
        self.cons_published = self.cons;
    }

    fn refresh(&mut self) {
        assert_eq!(self.producer.refresh(), Ok(()));
        for &(position, end) in &self.sent {
            let expected = end <= self.cons_published;
            assert_eq!(self.producer.is_consumed(position), expected);
        }
        self.sent.retain(|&(_, end)| end > self.cons_published);
    }

    fn await_consumed(&mut self, which: usize) {
        if self.sent.is_empty() {
            return;
        }
        let (position, end) = self.sent[which % self.sent.len()];
        let consumed = end <= self.cons_published;
        assert_eq!(self.producer.await_consumed(position), Ok(consumed));
        if !consumed {
            self.asks(end);
        }
    }

    /// The producer has asked for an event at `index`, or at an earlier one before.
    fn asks(&mut self, index: u64) {
        let index = self.wants_event.map_or(index, |other| other.min(index));
        self.wants_event = Some(index);
        assert_eq!(self.control(control::CONS_EVENT), self.index(index));
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Push(length, split) => self.push(length.in_ring(self.size()), split),
            Op::Take { at_once } => self.take(at_once),
            Op::PublishProduced => self.publish_produced(),
            Op::PublishConsumed => self.publish_consumed(),
            Op::Refresh => self.refresh(),
            Op::Await(which) => self.await_consumed(which),
        }
        assert_eq!(self.control(control::PROD), self.index(self.prod_published));
        assert_eq!(self.control(control::CONS), self.index(self.cons_published));
    }
}

proptest! {
    #[test]
    fn a_ring_is_a_queue(
        order in SIZES,
        start in any_start(),
        ops in prop::collection::vec(any_op(), 1..300),
    ) {
        let mut pair = Pair::new(1 << order, start);
        for op in &ops {
            pair.run(op);
        }
        // Nothing stays in it.
        pair.publish_produced();
        while !pair.queue.is_empty() {
            pair.take(true);
        }
        pair.publish_consumed();
        pair.refresh();
        prop_assert!(pair.sent.is_empty());
    }
}

/// As long as one end always wakes the other, any sequence of messages gets through.
#[test]
fn ends_that_sleep_when_told_to_pass_everything_on() {
    for size in SIZES.map(|order| 1u32 << order) {
        let shared = Shared::new(size, 0);
        let mapping = |own| Mapping {
            shared: shared.clone(),
            own,
        };
        let mut producer = Producer::new(mapping(PRODUCERS));
        let mut consumer = Consumer::new(mapping(CONSUMERS));
        let lengths = (0..2000u32).map(|i| 1 + i * i % max_message(size));
        let mut waiting = lengths.clone().enumerate().peekable();
        let mut expected = lengths.enumerate();
        let (mut room, mut data) = (true, true);
        let mut left = 2000;
        while left > 0 {
            assert!(room || data, "both sleep, {left} messages before the end");
            if core::mem::take(&mut room) {
                while let Some(&(number, length)) = waiting.peek() {
                    match producer.push(&[&message(number as u64, length)]) {
                        Ok(()) => waiting.next(),
                        Err(PushError::Full) => break,
                        Err(error) => panic!("{error:?}"),
                    };
                }
                data |= producer.publish();
            }
            if core::mem::take(&mut data) {
                while let Some(pending) = consumer.peek().unwrap() {
                    let (number, length) = expected.next().expect("a message");
                    let mut got = vec![0; pending.length()];
                    consumer.take(pending, &mut got);
                    assert_eq!(got, message(number as u64, length));
                    left -= 1;
                }
                room |= consumer.publish();
            }
        }
    }
}
