// SPDX-License-Identifier: GPL-2.0

//! What the fuzz targets share: reading choices from the fuzzer's bytes, and a ring whose other
//! side is the fuzzer.

use mgmt_pure::pure::ring::{SharedMemory, control};
use std::cell::{Cell, RefCell};

/// The bytes that the fuzzer chose; zeros when they are used up.
pub struct Script<'a>(pub &'a [u8]);

impl Script<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes([0; 4].map(|_| self.byte()))
    }

    /// One of these.
    pub fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }
}

/// Fields that the consumer writes, and the producer reads.
pub const CONSUMERS: [usize; 2] = [control::CONS, control::PROD_EVENT];
/// Fields that the producer writes, and the consumer reads.
pub const PRODUCERS: [usize; 2] = [control::PROD, control::CONS_EVENT];

/// Memory in which everything is what the fuzzer says, each time that it is looked at.
pub struct Hostile<'a> {
    own: [usize; 2],
    size: u32,
    script: RefCell<Script<'a>>,
    /// What this end published last, for lies that are nearly true.
    published: Cell<u32>,
    /// What the other end said last of its own index.
    said: Cell<u32>,
    loads: Cell<u32>,
    reads: Cell<u32>,
}

impl<'a> Hostile<'a> {
    /// The memory of an end that writes the fields `own`, and where it starts.
    pub fn new(own: [usize; 2], data: &'a [u8]) -> (Self, u32) {
        let mut script = Script(data);
        let size = 1 << script.choose(&[12, 13, 14, 15]);
        // At the beginning, or so that the indices wrap around or change their sign soon.
        let start = script.choose(&[0, 0u32.wrapping_sub(16), 0u32.wrapping_sub(size), 1 << 31]);
        let memory = Self {
            own,
            size,
            script: RefCell::new(script),
            published: Cell::new(start),
            said: Cell::new(start),
            loads: Cell::new(0),
            reads: Cell::new(0),
        };
        (memory, start)
    }

    /// The next of the fuzzer's choices.
    pub fn byte(&self) -> u8 {
        self.script.borrow_mut().byte()
    }

    pub fn u32(&self) -> u32 {
        self.script.borrow_mut().u32()
    }

    /// Whether the fuzzer has no more to say.
    pub fn is_silent(&self) -> bool {
        self.script.borrow().is_empty()
    }

    /// How often a field was loaded, and data were read, since this was asked last.
    pub fn take_counts(&self) -> (u32, u32) {
        (self.loads.take(), self.reads.take())
    }

    /// What the other end said last of its own index.
    pub fn said(&self) -> u32 {
        self.said.get()
    }

    fn check_range(&self, at: u32, len: usize) {
        assert!(len <= self.size as usize && at <= self.size - len as u32);
    }
}

impl SharedMemory for &Hostile<'_> {
    fn load(&self, field: usize) -> u32 {
        assert!([PRODUCERS, CONSUMERS].concat().contains(&field));
        assert!(!self.own.contains(&field), "it reads back what it wrote");
        self.loads.set(self.loads.get() + 1);
        let kind = self.byte();
        let said = match kind % 8 {
            0 => self.u32(),
            1 => self.published.get(),
            // A few records ahead, or behind.
            2..=5 => {
                let records = u32::from(self.byte());
                self.published.get().wrapping_add(records * 8)
            }
            6 => {
                let bytes = u32::from(self.byte());
                self.published.get().wrapping_sub(bytes)
            }
            _ => self.published.get().wrapping_add(self.size),
        };
        if [control::PROD, control::CONS].contains(&field) {
            self.said.set(said);
        }
        said
    }

    fn store(&self, field: usize, value: u32) {
        assert!(self.own.contains(&field));
        if field == self.own[0] {
            self.published.set(value);
        }
    }

    fn fence(&self) {}

    fn size(&self) -> u32 {
        self.size
    }

    fn read(&self, at: u32, out: &mut [u8]) {
        self.check_range(at, out.len());
        self.reads.set(self.reads.get() + out.len() as u32);
        let mut script = self.script.borrow_mut();
        // The header of a record matters, byte for byte; of a message, only that it is there.
        let chosen = out.len().min(8);
        out[..chosen].fill_with(|| script.byte());
        out[chosen..].fill(0xa5);
    }

    fn write(&self, at: u32, bytes: &[u8]) {
        self.check_range(at, bytes.len());
    }
}
