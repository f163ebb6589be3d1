// SPDX-License-Identifier: GPL-2.0

//! The ring: one direction of a channel, in memory that the other side may write at any time.
//!
//! A ring is a control page and a power of two of data bytes. The indices are free-running byte
//! counts; a record is an 8-byte header and a message, padded with zeros to 8 bytes, and may wrap.
//!
//! | control offset | written by | field |
//! |---|---|---|
//! | 0  | producer | `prod`: bytes produced |
//! | 4  | producer | `cons_event`: the producer wants an event when `cons` reaches this |
//! | 64 | consumer | `cons`: bytes consumed |
//! | 68 | consumer | `prod_event`: the consumer wants an event when `prod` reaches this |
//!
//! | record offset | size | field |
//! |---|---|---|
//! | 0 | 4 | `length`: bytes of the message |
//! | 4 | 4 | `format`: what follows, see [`Format`] |
//!
//! Rules (XSA-39, 155, 216, 270): each side keeps its own index privately and only publishes it;
//! what the other side publishes is read once, and used only after it was checked against the
//! private one. A value out of range is [`Broken`]: the channel must be closed, nothing is retried.
//!
//! Events (as in `xen/include/public/io/ring.h`): who publishes an index sends an event only if it
//! passed what the other side asked for; who goes to sleep first asks, then looks once more.

/// Offsets of the fields in the control page, bytes.
pub mod control {
    /// Bytes produced.
    pub const PROD: usize = 0;
    /// The value of `cons` that the producer waits for.
    pub const CONS_EVENT: usize = 4;
    /// Bytes consumed.
    pub const CONS: usize = 64;
    /// The value of `prod` that the consumer waits for.
    pub const PROD_EVENT: usize = 68;
}

/// Bytes of a record's header.
pub const RECORD_HEADER: u32 = 8;
/// Records start at multiples of this many bytes.
const RECORD_ALIGN: u32 = 8;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Format {
    /// A message.
    Message = 0,
    /// A message whose payload is in pages: see [`large`](super::large).
    Pages = 1,
    /// A word of one end of the channel to the other.
    Note = 2,
}

impl Format {
    fn from_number(number: u32) -> Result<Self, Broken> {
        match number {
            0 => Ok(Self::Message),
            1 => Ok(Self::Pages),
            2 => Ok(Self::Note),
            _ => Err(Broken::Format),
        }
    }
}

/// Memory shared with the other side of a channel.
///
/// Implementations copy exactly once: no caller ever holds a reference into shared memory.
pub trait SharedMemory {
    /// Reads a control field with acquire ordering.
    fn load(&self, field: usize) -> u32;
    /// Writes a control field with release ordering.
    fn store(&self, field: usize, value: u32);
    /// Orders all accesses before it before all accesses after it, also against another domain.
    fn fence(&self);
    /// Bytes of the data area: a power of two.
    fn size(&self) -> u32;
    /// Copies `out.len()` bytes from data offset `at`; `at + out.len()` is within the size.
    fn read(&self, at: u32, out: &mut [u8]);
    /// Copies `bytes` to data offset `at`; `at + bytes.len()` is within the size.
    fn write(&self, at: u32, bytes: &[u8]);
}

/// The other side broke the rules of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Its index is further away from ours than the ring is large.
    Index,
    /// The length of a record is zero, or more than a ring carries or the producer published.
    Length,
    /// The format of a record is unknown.
    Format,
}

/// Why a message was not put into the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// No room now. The other side will send an event when there is.
    Full,
    /// More than [`max_message`]: it never fits.
    TooLarge,
    /// The other side broke the rules.
    Broken(Broken),
}

/// The largest message that a ring of `size` data bytes carries: two always fit.
pub const fn max_message(size: u32) -> u32 {
    size / 2 - RECORD_HEADER
}

/// Bytes that a message of `length` bytes takes in the ring.
const fn record_size(length: u32) -> u32 {
    (RECORD_HEADER + length).next_multiple_of(RECORD_ALIGN)
}

/// Whether going from `old` to `new` reaches `event`.
const fn passes(old: u32, new: u32, event: u32) -> bool {
    new.wrapping_sub(event) < new.wrapping_sub(old)
}

/// Copies between a slice and the data area, from ring index `index` on.
fn split(size: u32, index: u32, len: usize) -> (u32, usize) {
    let at = index & (size - 1);
    (at, len.min((size - at) as usize))
}

/// The producing side of a ring.
pub struct Producer<M> {
    memory: M,
    prod: u32,
    published: u32,
    cons: u32,
    /// At which index an event was asked for last.
    asked: u32,
}

impl<M: SharedMemory> Producer<M> {
    /// Starts at the beginning of a ring whose control page is zero.
    pub fn new(memory: M) -> Self {
        Self::starting_at(memory, 0)
    }

    /// Starts in a ring in which `start` bytes were produced and consumed.
    pub fn starting_at(memory: M, start: u32) -> Self {
        Self {
            memory,
            prod: start,
            published: start,
            cons: start,
            asked: start,
        }
    }

    /// The index behind the last message that was put in: see [`Producer::is_consumed`].
    pub fn position(&self) -> u32 {
        self.prod
    }

    /// Looks how far the other side has come.
    pub fn refresh(&mut self) -> Result<(), Broken> {
        let cons = self.memory.load(control::CONS);
        // It can neither fall back nor pass what was published.
        if cons.wrapping_sub(self.cons) > self.published.wrapping_sub(self.cons) {
            return Err(Broken::Index);
        }
        self.cons = cons;
        Ok(())
    }

    /// Whether the other side, when last looked at, had taken the message that ended at `position`.
    pub fn is_consumed(&self, position: u32) -> bool {
        // Positions are at most one ring behind `prod`.
        self.prod.wrapping_sub(position) >= self.prod.wrapping_sub(self.cons)
    }

    /// As [`Producer::is_consumed`], and looks. If it has not, it will send an event when it has.
    pub fn await_consumed(&mut self, position: u32) -> Result<bool, Broken> {
        if !self.is_consumed(position) {
            self.refresh()?;
        }
        if !self.is_consumed(position) {
            self.ask_at(position)?;
        }
        Ok(self.is_consumed(position))
    }

    /// Whether there is room for a record of `length` bytes. If not, the other side will send an
    /// event when there is.
    pub fn make_room(&mut self, length: usize) -> Result<(), PushError> {
        let size = self.memory.size();
        if length > max_message(size) as usize {
            return Err(PushError::TooLarge);
        }
        match self.has_room(record_size(length as u32)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(PushError::Full),
            Err(broken) => Err(PushError::Broken(broken)),
        }
    }

    /// Puts one message, in parts, into the ring. The other side sees it after
    /// [`Producer::publish`]. A message has at least one byte.
    pub fn push(&mut self, parts: &[&[u8]]) -> Result<(), PushError> {
        self.push_as(Format::Message, parts)
    }

    /// As [`Producer::push`], for a record of this format.
    pub fn push_as(&mut self, format: Format, parts: &[&[u8]]) -> Result<(), PushError> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        debug_assert_ne!(length, 0);
        self.make_room(length)?;
        let length = length as u32;
        let mut head = [0; RECORD_HEADER as usize];
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..].copy_from_slice(&(format as u32).to_le_bytes());
        let mut at = self.copy_in(self.prod, &head);
        for part in parts {
            at = self.copy_in(at, part);
        }
        let end = self.prod.wrapping_add(record_size(length));
        let padding = end.wrapping_sub(at) as usize;
        self.copy_in(at, &[0; RECORD_ALIGN as usize][..padding]);
        self.prod = end;
        Ok(())
    }

    /// Shows the other side all that was put in. Returns whether it asked for an event.
    pub fn publish(&mut self) -> bool {
        let old = self.published;
        if old == self.prod {
            return false;
        }
        self.memory.store(control::PROD, self.prod);
        self.published = self.prod;
        self.memory.fence();
        passes(old, self.prod, self.memory.load(control::PROD_EVENT))
    }

    fn has_room(&mut self, record: u32) -> Result<bool, Broken> {
        let free = |this: &Self| this.memory.size() - this.prod.wrapping_sub(this.cons);
        if free(self) >= record {
            return Ok(true);
        }
        self.refresh()?;
        if free(self) >= record {
            return Ok(true);
        }
        // At the index that frees enough.
        let wanted = self
            .prod
            .wrapping_add(record)
            .wrapping_sub(self.memory.size());
        self.ask_at(wanted)?;
        Ok(free(self) >= record)
    }

    /// Asks for an event at `index`, which the other side had not passed just now, and looks once
    /// more.
    ///
    /// If one was asked for that comes earlier, that one is enough: who gets it asks again.
    fn ask_at(&mut self, index: u32) -> Result<(), Broken> {
        let ahead = |index: u32| index.wrapping_sub(self.cons);
        if !(1..=ahead(index)).contains(&ahead(self.asked)) {
            self.memory.store(control::CONS_EVENT, index);
            self.asked = index;
            self.memory.fence();
        }
        self.refresh()
    }

    fn copy_in(&self, index: u32, bytes: &[u8]) -> u32 {
        if bytes.is_empty() {
            return index;
        }
        let (at, first) = split(self.memory.size(), index, bytes.len());
        self.memory.write(at, &bytes[..first]);
        if first < bytes.len() {
            self.memory.write(0, &bytes[first..]);
        }
        index.wrapping_add(bytes.len() as u32)
    }
}

/// A message that waits in the ring. Made by [`Consumer::peek`].
#[derive(Debug, PartialEq, Eq)]
pub struct Pending {
    format: Format,
    length: u32,
}

impl Pending {
    /// What it is.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Bytes of the message; at most [`max_message`] of the ring.
    pub fn length(&self) -> usize {
        self.length as usize
    }
}

/// The consuming side of a ring.
pub struct Consumer<M> {
    memory: M,
    cons: u32,
    published: u32,
    prod: u32,
}

impl<M: SharedMemory> Consumer<M> {
    /// Starts at the beginning of a ring whose control page is zero.
    pub fn new(memory: M) -> Self {
        Self::starting_at(memory, 0)
    }

    /// Starts in a ring in which `start` bytes were produced and consumed.
    pub fn starting_at(memory: M, start: u32) -> Self {
        Self {
            memory,
            cons: start,
            published: start,
            prod: start,
        }
    }

    /// Looks at the next message. `None` if there is none: the other side will then send an event
    /// when there is.
    pub fn peek(&mut self) -> Result<Option<Pending>, Broken> {
        if self.available() == 0 {
            self.refresh()?;
        }
        if self.available() == 0 {
            // Ask for an event at the next byte, then look once more.
            self.memory
                .store(control::PROD_EVENT, self.cons.wrapping_add(1));
            self.memory.fence();
            self.refresh()?;
        }
        let available = self.available();
        if available == 0 {
            return Ok(None);
        }
        if available < RECORD_HEADER {
            return Err(Broken::Length);
        }
        let mut header = [0; RECORD_HEADER as usize];
        self.copy_out(self.cons, &mut header);
        let [l0, l1, l2, l3, f0, f1, f2, f3] = header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let format = Format::from_number(u32::from_le_bytes([f0, f1, f2, f3]))?;
        // The first comparison bounds what the second adds to.
        if length == 0
            || length > max_message(self.memory.size())
            || record_size(length) > available
        {
            return Err(Broken::Length);
        }
        Ok(Some(Pending { format, length }))
    }

    /// Copies the message that was looked at and frees its place. `out` has the message's length.
    pub fn take(&mut self, pending: Pending, out: &mut [u8]) {
        debug_assert_eq!(out.len(), pending.length());
        self.copy_out(self.cons.wrapping_add(RECORD_HEADER), out);
        self.free(&pending);
    }

    /// As [`Consumer::take`], where `copy` copies so many bytes from a data offset, behind those that
    /// it has copied.
    pub fn take_with(&mut self, pending: Pending, mut copy: impl FnMut(&M, u32, usize)) {
        let at = self.cons.wrapping_add(RECORD_HEADER);
        let (at, first) = split(self.memory.size(), at, pending.length());
        copy(&self.memory, at, first);
        if first < pending.length() {
            copy(&self.memory, 0, pending.length() - first);
        }
        self.free(&pending);
    }

    fn free(&mut self, pending: &Pending) {
        self.cons = self.cons.wrapping_add(record_size(pending.length));
    }

    /// Shows the other side all that was taken. Returns whether it asked for an event.
    pub fn publish(&mut self) -> bool {
        let old = self.published;
        if old == self.cons {
            return false;
        }
        self.memory.store(control::CONS, self.cons);
        self.published = self.cons;
        self.memory.fence();
        passes(old, self.cons, self.memory.load(control::CONS_EVENT))
    }

    fn available(&self) -> u32 {
        self.prod.wrapping_sub(self.cons)
    }

    fn refresh(&mut self) -> Result<(), Broken> {
        let prod = self.memory.load(control::PROD);
        let produced = prod.wrapping_sub(self.published);
        // It can neither fall back nor be a ring ahead of what we published.
        if produced > self.memory.size() || produced < self.prod.wrapping_sub(self.published) {
            return Err(Broken::Index);
        }
        self.prod = prod;
        Ok(())
    }

    fn copy_out(&self, index: u32, out: &mut [u8]) {
        let (at, first) = split(self.memory.size(), index, out.len());
        let (head, tail) = out.split_at_mut(first);
        self.memory.read(at, head);
        if !tail.is_empty() {
            self.memory.read(0, tail);
        }
    }
}

#[cfg(test)]
mod tests;
