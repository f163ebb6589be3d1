// SPDX-License-Identifier: GPL-2.0

//! One end against memory in which everything may change at any time.

use super::*;
use proptest::prelude::*;
use std::cell::{Cell, RefCell};

const SIZE: u32 = 4096;
/// At the beginning, just before the indices wrap around, and where their sign would change.
const STARTS: [u32; 4] = [0, 0u32.wrapping_sub(16), 0u32.wrapping_sub(SIZE), 1 << 31];

/// What a control word is when it is loaded.
#[derive(Clone, Copy, Debug)]
enum Word {
    Anything(u32),
    /// So far from the index that this end published last.
    Near(i32),
}

/// What the bytes of a message are when they are read.
#[derive(Clone, Copy, Debug)]
struct Bytes {
    length: u32,
    format: u32,
}

/// Memory that answers from a script, and checks that each access is allowed.
struct Hostile {
    own: [usize; 2],
    size: u32,
    words: RefCell<Vec<Word>>,
    bytes: RefCell<Vec<Bytes>>,
    published: Cell<u32>,
    loads: Cell<u32>,
    stores: Cell<u32>,
    /// Data bytes read and written, and the ranges that they were in.
    copied: Cell<u32>,
    copies: Cell<u32>,
}

impl Hostile {
    fn new(own: [usize; 2], size: u32, start: u32, words: Vec<Word>, bytes: Vec<Bytes>) -> Self {
        Self {
            own,
            size,
            words: RefCell::new(words),
            bytes: RefCell::new(bytes),
            published: Cell::new(start),
            loads: Cell::new(0),
            stores: Cell::new(0),
            copied: Cell::new(0),
            copies: Cell::new(0),
        }
    }

    /// Forgets the accesses so far.
    fn forget(&self) {
        for count in [&self.loads, &self.stores, &self.copied, &self.copies] {
            count.set(0);
        }
    }

    fn count_copy(&self, at: u32, len: usize) {
        assert!(len <= self.size as usize && at <= self.size - len as u32);
        self.copied.set(self.copied.get() + len as u32);
        self.copies.set(self.copies.get() + 1);
    }
}

impl SharedMemory for &Hostile {
    fn load(&self, field: usize) -> u32 {
        assert!([PRODUCERS, CONSUMERS].concat().contains(&field));
        assert!(
            !self.own.contains(&field),
            "nobody reads back what it published"
        );
        self.loads.set(self.loads.get() + 1);
        let mut words = self.words.borrow_mut();
        words.rotate_left(1);
        match words.last() {
            Some(&Word::Anything(word)) => word,
            Some(&Word::Near(distance)) => self.published.get().wrapping_add_signed(distance),
            None => self.published.get(),
        }
    }

    fn store(&self, field: usize, value: u32) {
        assert!(self.own.contains(&field));
        self.stores.set(self.stores.get() + 1);
        if field == self.own[0] {
            self.published.set(value);
        }
    }

    fn fence(&self) {}

    fn size(&self) -> u32 {
        self.size
    }

    fn read(&self, at: u32, out: &mut [u8]) {
        self.count_copy(at, out.len());
        if out.is_empty() {
            return;
        }
        let mut bytes = self.bytes.borrow_mut();
        bytes.rotate_left(1);
        let Some(bytes) = bytes.last() else {
            return out.fill(0xff);
        };
        let pattern = [bytes.length.to_le_bytes(), bytes.format.to_le_bytes()].concat();
        for (out, byte) in out.iter_mut().zip(pattern.iter().cycle()) {
            *out = *byte;
        }
    }

    fn write(&self, at: u32, bytes: &[u8]) {
        self.count_copy(at, bytes.len());
    }
}

/// What a consumer makes of one load of `prod`, this far ahead of it, and a record's header.
fn peeked(start: u32, ahead: i32, length: u32, format: u32) -> Result<Option<u32>, Broken> {
    let words = vec![Word::Near(ahead)];
    let bytes = vec![Bytes { length, format }];
    let memory = Hostile::new(CONSUMERS, SIZE, start, words, bytes);
    let pending = Consumer::starting_at(&memory, start).peek()?;
    Ok(pending.map(|pending| pending.length() as u32))
}

#[test]
fn an_index_beyond_the_ring_breaks_the_channel() {
    const FAR: i32 = SIZE as i32;
    for start in STARTS {
        for ahead in [FAR + 1, FAR + 8, 2 * FAR, i32::MAX, i32::MIN, -FAR, -8, -1] {
            assert_eq!(peeked(start, ahead, 8, 0), Err(Broken::Index), "{ahead}");
        }
        for ahead in [16, FAR - 8, FAR] {
            assert_eq!(peeked(start, ahead, 8, 0), Ok(Some(8)), "{ahead}");
        }
        assert_eq!(peeked(start, 0, 8, 0), Ok(None));
    }
}

#[test]
fn a_length_that_no_producer_writes_breaks_the_channel() {
    // bytes that the producer claims to have written; the length of the first record
    const CASES: &[(i32, u32)] = &[
        (8, 0),
        (16, 0),
        // Less than a header.
        (1, 1),
        (4, 1),
        (7, 1),
        // A header, and part of a record.
        (8, 1),
        (15, 1),
        (16, 9),
        (2040, 2033),
        // More than a ring carries.
        (SIZE as i32, 2041),
        (SIZE as i32, SIZE),
        // Adding to it would overflow.
        (SIZE as i32, 1 << 31),
        (SIZE as i32, u32::MAX - 15),
        (SIZE as i32, u32::MAX - 8),
        (SIZE as i32, u32::MAX - 7),
        (SIZE as i32, u32::MAX),
    ];
    for start in STARTS {
        for &(ahead, length) in CASES {
            let got = peeked(start, ahead, length, 0);
            assert_eq!(got, Err(Broken::Length), "{length} in {ahead}");
        }
        for (ahead, length) in [(16, 1), (16, 8), (2048, 2040), (SIZE as i32, 2040)] {
            assert_eq!(peeked(start, ahead, length, 0), Ok(Some(length)));
        }
    }
}

#[test]
fn a_header_is_not_read_before_all_of_it_is_there() {
    for ahead in 1..RECORD_HEADER as i32 {
        let memory = Hostile::new(CONSUMERS, SIZE, 0, vec![Word::Near(ahead)], vec![]);
        assert_eq!(
            Consumer::starting_at(&memory, 0).peek(),
            Err(Broken::Length)
        );
        assert_eq!(memory.copied.get(), 0);
    }
}

#[test]
fn an_unknown_format_breaks_the_channel() {
    for format in [3, 1 << 8, 1 << 16, 1 << 24, u32::MAX] {
        assert_eq!(peeked(0, 16, 8, format), Err(Broken::Format));
        // Before anything else is believed.
        assert_eq!(peeked(0, 16, u32::MAX, format), Err(Broken::Format));
    }
}

#[test]
fn a_producer_that_falls_back_breaks_the_channel() {
    for start in STARTS {
        for (ahead, expected) in [
            (24, Err(Broken::Index)),
            (0, Err(Broken::Index)),
            (32, Ok(None)),
        ] {
            // Both records, then what it says later.
            let words = vec![Word::Near(32), Word::Near(ahead), Word::Near(ahead)];
            let bytes = vec![Bytes {
                length: 8,
                format: 0,
            }];
            let memory = Hostile::new(CONSUMERS, SIZE, start, words, bytes);
            let mut consumer = Consumer::starting_at(&memory, start);
            for _ in 0..2 {
                let pending = consumer.peek().unwrap().unwrap();
                consumer.take(pending, &mut [0; 8]);
            }
            assert_eq!(consumer.peek(), expected, "{ahead}");
        }
    }
}

/// What is not consumed is not free, however far `prod` seems to be: the limit is the index that
/// was published, not the one that was reached.
#[test]
fn a_producer_may_not_use_what_was_not_given_back() {
    let last = SIZE as i32;
    for (ahead, expected) in [(last, Ok(true)), (last + 8, Err(Broken::Index))] {
        let words = vec![Word::Near(16), Word::Near(ahead)];
        let bytes = vec![Bytes {
            length: 8,
            format: 0,
        }];
        let memory = Hostile::new(CONSUMERS, SIZE, 0, words, bytes);
        let mut consumer = Consumer::starting_at(&memory, 0);
        let pending = consumer.peek().unwrap().unwrap();
        consumer.take(pending, &mut [0; 8]);
        assert_eq!(consumer.peek().map(|pending| pending.is_some()), expected);
    }
}

#[test]
fn a_message_is_as_long_as_it_was_when_it_was_checked() {
    // The length grows as soon as it was looked at.
    let bytes = [8, u32::MAX].map(|length| Bytes { length, format: 0 });
    let memory = Hostile::new(CONSUMERS, SIZE, 0, vec![Word::Near(32)], bytes.to_vec());
    let mut consumer = Consumer::starting_at(&memory, 0);
    let pending = consumer.peek().unwrap().unwrap();
    assert_eq!(pending.length(), 8);
    let mut got = [0; 8];
    consumer.take(pending, &mut got);
    assert_eq!(got, [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    assert_eq!(consumer.cons, 16);
    assert_eq!(memory.copied.get(), 16, "each byte once");
}

#[test]
fn an_index_that_a_consumer_cannot_have_breaks_the_channel() {
    // Two records are published and one is not: what `cons` may be, from the beginning.
    const CASES: &[(i32, bool)] = &[
        (0, true),
        (16, true),
        (32, true),
        (33, false),
        (48, false),
        (64, false),
        (SIZE as i32, false),
        (-1, false),
        (-8, false),
        (i32::MIN, false),
        (i32::MAX, false),
    ];
    for start in STARTS {
        for &(cons, valid) in CASES {
            // The first load is of `prod_event`; distances are from the published 32.
            let words = vec![Word::Near(0), Word::Near(cons.wrapping_sub(32))];
            let memory = Hostile::new(PRODUCERS, SIZE, start, words, vec![]);
            let mut producer = Producer::starting_at(&memory, start);
            for _ in 0..2 {
                assert_eq!(producer.push(&[&[1; 8]]), Ok(()));
            }
            producer.publish();
            assert_eq!(producer.push(&[&[1; 8]]), Ok(()));
            let expected = if valid { Ok(()) } else { Err(Broken::Index) };
            assert_eq!(producer.refresh(), expected, "{cons}");
            let consumed = if valid { cons as u32 } else { 0 };
            assert_eq!(producer.cons, start.wrapping_add(consumed));
        }
    }
}

#[test]
fn a_consumer_that_falls_back_breaks_the_channel() {
    for start in STARTS {
        for back in [8, 1, i32::MAX] {
            let words = vec![
                Word::Near(0),
                Word::Near(-16),
                Word::Near((-16i32).wrapping_sub(back)),
            ];
            let memory = Hostile::new(PRODUCERS, SIZE, start, words, vec![]);
            let mut producer = Producer::starting_at(&memory, start);
            for _ in 0..2 {
                assert_eq!(producer.push(&[&[1; 8]]), Ok(()));
            }
            producer.publish();
            assert_eq!(producer.refresh(), Ok(()));
            assert_eq!(producer.refresh(), Err(Broken::Index));
        }
    }
}

#[test]
fn a_full_ring_tells_what_the_consumer_broke() {
    let memory = Hostile::new(PRODUCERS, SIZE, 0, vec![Word::Near(8)], vec![]);
    let mut producer = Producer::starting_at(&memory, 0);
    let largest = vec![1; max_message(SIZE) as usize];
    for _ in 0..2 {
        assert_eq!(producer.push(&[&largest]), Ok(()));
    }
    producer.publish();
    memory.forget();
    let pushed = producer.push(&[&[1]]);
    assert_eq!(pushed, Err(PushError::Broken(Broken::Index)));
    assert_eq!(memory.copied.get(), 0);
}

#[test]
fn a_message_that_never_fits_is_refused_before_anything_is_touched() {
    let memory = Hostile::new(PRODUCERS, SIZE, 0, vec![Word::Anything(77)], vec![]);
    let half = vec![1; max_message(SIZE) as usize];
    let pushed = Producer::starting_at(&memory, 0).push(&[&half, &[1]]);
    assert_eq!(pushed, Err(PushError::TooLarge));
    assert_eq!((memory.loads.get(), memory.copied.get()), (0, 0));
}

fn any_word() -> impl Strategy<Value = Word> {
    prop_oneof![
        1 => any::<u32>().prop_map(Word::Anything),
        6 => (0i32..200).prop_map(|records| Word::Near(records * 8)),
        2 => (-40i32..=0).prop_map(|records| Word::Near(records * 8)),
        1 => (-40_000i32..40_000).prop_map(Word::Near),
    ]
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    let length = prop_oneof![
        6 => 1u32..200,
        2 => 0u32..20_000,
        1 => any::<u32>(),
    ];
    let format = prop_oneof![12 => 0u32..3, 1 => any::<u32>()];
    (length, format).prop_map(|(length, format)| Bytes { length, format })
}

fn any_start() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(0),
        (0u32..1 << 13).prop_map(|records| (records * 8).wrapping_neg()),
        any::<u32>().prop_map(|start| start & !7),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_consumer_survives_anything(
        order in SIZES,
        start in any_start(),
        words in prop::collection::vec(any_word(), 1..24),
        bytes in prop::collection::vec(any_bytes(), 1..24),
        publish in prop::collection::vec(any::<bool>(), 1..12),
    ) {
        let size = 1 << order;
        let memory = Hostile::new(CONSUMERS, size, start, words, bytes);
        let mut consumer = Consumer::starting_at(&memory, start);
        // It goes on also where a link would have closed the channel.
        for publish in publish.iter().cycle().take(64) {
            memory.forget();
            let peeked = consumer.peek();
            prop_assert!(memory.loads.get() <= 2 && memory.stores.get() <= 1);
            prop_assert!(memory.copied.get() <= RECORD_HEADER);
            if let Ok(Some(pending)) = peeked {
                let length = pending.length();
                prop_assert!((1..=max_message(size) as usize).contains(&length));
                if length % 2 == 0 {
                    consumer.take(pending, &mut vec![0; length]);
                } else {
                    consumer.take_with(pending, |memory, at, length| {
                        memory.read(at, &mut vec![0; length]);
                    });
                }
                prop_assert_eq!(memory.copied.get(), RECORD_HEADER + length as u32);
            }
            if *publish {
                memory.forget();
                consumer.publish();
                prop_assert!(memory.loads.get() <= 1 && memory.stores.get() <= 1);
            }
            prop_assert!(consumer.available() <= size);
            prop_assert!(consumer.prod.wrapping_sub(consumer.published) <= size);
            prop_assert!(memory.copies.get() <= 8);
        }
    }

    #[test]
    fn a_producer_survives_anything(
        order in SIZES,
        start in any_start(),
        words in prop::collection::vec(any_word(), 1..24),
        lengths in prop::collection::vec(prop_oneof![3 => 1usize..300, 1 => 1usize..20_000], 1..24),
        publish in prop::collection::vec(any::<bool>(), 1..12),
    ) {
        let size = 1 << order;
        let memory = Hostile::new(PRODUCERS, size, start, words, vec![]);
        let mut producer = Producer::starting_at(&memory, start);
        let actions = lengths.iter().cycle().zip(publish.iter().cycle());
        for (&length, publish) in actions.take(64) {
            memory.forget();
            let before = producer.position();
            let pushed = producer.push(&[&vec![1; length]]);
            prop_assert!(memory.loads.get() <= 2 && memory.stores.get() <= 1);
            let moved = producer.position().wrapping_sub(before);
            if pushed.is_ok() {
                prop_assert_eq!(moved, record_size(length as u32));
                prop_assert_eq!(memory.copied.get(), moved);
            } else {
                prop_assert_eq!((moved, memory.copied.get()), (0, 0));
            }
            prop_assert!(memory.copies.get() <= 8);
            if *publish {
                memory.forget();
                producer.publish();
                let _ = producer.refresh();
                prop_assert!(memory.loads.get() <= 2 && memory.stores.get() <= 1);
            }
            prop_assert!(producer.prod.wrapping_sub(producer.cons) <= size);
            prop_assert!(producer.published.wrapping_sub(producer.cons) <= size);
        }
    }
}
