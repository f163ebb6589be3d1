// SPDX-License-Identifier: GPL-2.0

//! What the two ends of a link tell each other besides messages: notes.
//!
//! A receiver without room must stop those who send to it, and nobody else. So the end that finds a
//! message without room says which *flow* it is of: all that one sender sends to one receiver, in one
//! priority class. The other end sends nothing more of it until it is told to go on; the rest of what
//! it has passes. As order is kept within a flow, and a flow is either held back or not, no message
//! overtakes another of its flow.
//!
//! What comes back as undeliverable bears the same two names as what its sender is sent from there,
//! and is a flow of its own: where both programs of an exchange are gone, what returns from one end
//! must not wait for room for what returns from the other.
//!
//! A new channel begins without any of it. Where the link goes on in one, each end first says what it
//! still sets aside, and then that it is *ready*; before that the other one sends no message. So what is
//! set aside does not grow with the number of channels.
//!
//! ```text
//! sender's end                                      receiver's end
//! a message of the flow         ---------->         no room: set aside
//! sets aside what follows       <-- hold ---
//! what was under way            ---------->         set aside behind it
//!                                                   room: hands over all that it set aside
//! sends what it set aside       <-- go on --
//! ```

use crate::wire::{Header, ADDRESSES_AT, CLASSES, HEADER_LEN};

/// Bytes of both addresses, as in a header.
const ADDRESSES: usize = ADDRESSES_AT.end - ADDRESSES_AT.start;
/// Bytes of one: a component, and an App_ID of as many.
const ADDRESS: usize = ADDRESSES / 2;
const COMPONENT: usize = ADDRESS / 2;
/// The kind of component that a VM's name is, and where its VM_ID is in that.
const VM: u8 = 1;
const VM_ID: core::ops::Range<usize> = 20..24;

/// Bytes of a note that names no flow.
pub const SHORT_NOTE: usize = 8;
/// Bytes of one that does.
pub const LONG_NOTE: usize = SHORT_NOTE + ADDRESSES;

/// Most flows of a link that are held back at a time, in each direction.
pub const MAX_FLOWS: usize = 32;

/// All that one sender sends to one receiver, by the names that its messages bear in the ring, in one
/// priority class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    class: u8,
    /// Whether it is of undeliverable messages.
    returns: bool,
    addresses: [u8; ADDRESSES],
}

impl Flow {
    /// The flow of a message, by its encoded header.
    pub fn of(header: &[u8; HEADER_LEN]) -> Self {
        Self {
            class: Header::class_of(header) as u8,
            returns: Header::is_undeliverable(header),
            // Behind them is nothing.
            addresses: *header.last_chunk().unwrap_or(&[0; ADDRESSES]),
        }
    }

    /// The priority class.
    pub fn class(&self) -> usize {
        self.class.into()
    }

    /// Whether the other flow is of the same class and kind, and of and to App_IDs of the same names.
    ///
    /// It may be of the same sender then: a VM that migrates gets another name in the middle of a flow.
    pub fn is_like(&self, other: &Self) -> bool {
        let app = |at: usize| at + COMPONENT..at + ADDRESS;
        (self.class, self.returns) == (other.class, other.returns)
            && [app(0), app(ADDRESS)]
                .into_iter()
                .all(|app| self.addresses[app.clone()] == other.addresses[app])
    }

    /// Whether the other flow may be of the same sender to the same receiver, in the same class, both on
    /// a link that leads there: a component has several names.
    pub fn may_meet(&self, other: &Self, there: There) -> bool {
        let (a, b) = (self.component(), other.component());
        self.is_like(other)
            && match (there, a[0], b[0]) {
                (There::OneGuest, ..) => true,
                // One of them may lack the address of the platform.
                (There::Many, VM, VM) => a[VM_ID] == b[VM_ID],
                (There::Many, a_kind, b_kind) => a_kind != b_kind || a == b,
            }
    }

    fn component(&self) -> &[u8] {
        &self.addresses[ADDRESS..ADDRESS + COMPONENT]
    }
}

/// Who is at the other end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum There {
    /// A guest, to which all of it goes: by another name, too, once it has migrated.
    OneGuest,
    /// The management VM, and many components beyond it.
    Many,
}

/// A flow of which nothing is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which it is.
    pub flow: Flow,
    /// Whether the other end has said so. If not, one of its messages waits behind another flow that it
    /// may meet, and what comes after it waits, too.
    pub told: bool,
}

/// What stands before a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing: it may be sent.
    Nothing,
    /// Its own flow is held.
    Own,
    /// One that it may meet is held: from now on, its own one is.
    Another,
}

/// Whether a message of this flow has to wait while these are held.
pub fn before(held: &[Held], flow: &Flow, there: There) -> Before {
    let mut before = Before::Nothing;
    for held in held {
        if held.flow == *flow {
            return Before::Own;
        }
        if held.flow.may_meet(flow, there) {
            before = Before::Another;
        }
    }
    before
}

/// A word of one end to the other. `docs/wire-format.md` has it byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The domain there is about to be suspended.
    Pausing,
    /// Nothing more of this flow is to be sent.
    Hold(Flow),
    /// It is to be sent again.
    GoOn(Flow),
    /// In a channel in which the link goes on: what is to be held has been said, messages may come.
    Ready,
}

const PAUSING: u8 = 1;
const HOLD: u8 = 2;
const GO_ON: u8 = 3;
const READY: u8 = 4;

impl Note {
    /// Reads a note; `None` if it means nothing.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, addresses) = bytes.split_first_chunk::<SHORT_NOTE>()?;
        let [word, class, returns, zeros @ ..] = head;
        let returns = match returns {
            0 => false,
            1 => true,
            _ => return None,
        };
        if zeros.iter().any(|&byte| byte != 0) || usize::from(*class) >= CLASSES {
            return None;
        }
        let short = match *word {
            PAUSING => Some(Self::Pausing),
            READY => Some(Self::Ready),
            _ => None,
        };
        if short.is_some() {
            return short.filter(|_| *class == 0 && !returns && addresses.is_empty());
        }
        let flow = Flow {
            class: *class,
            returns,
            addresses: addresses.try_into().ok()?,
        };
        match *word {
            HOLD => Some(Self::Hold(flow)),
            GO_ON => Some(Self::GoOn(flow)),
            _ => None,
        }
    }

    /// The two parts of a note, as they go into the ring.
    pub fn encode(&self) -> ([u8; SHORT_NOTE], &[u8]) {
        let (word, flow) = match self {
            Self::Pausing => return ([PAUSING, 0, 0, 0, 0, 0, 0, 0], &[]),
            Self::Ready => return ([READY, 0, 0, 0, 0, 0, 0, 0], &[]),
            Self::Hold(flow) => (HOLD, flow),
            Self::GoOn(flow) => (GO_ON, flow),
        };
        let head = [word, flow.class, flow.returns.into(), 0, 0, 0, 0, 0];
        (head, &flow.addresses)
    }
}

/// What the other end was told of a flow, where its messages are set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    to_hold: bool,
}

impl Told {
    /// What it is to be told now of this flow, of which messages are set aside here, or none any more.
    pub fn word(self, flow: &Flow, waits: bool) -> Option<Note> {
        match (self.to_hold, waits) {
            (false, true) => Some(Note::Hold(*flow)),
            (true, false) => Some(Note::GoOn(*flow)),
            _ => None,
        }
    }

    /// It was told what [`Told::word`] says.
    pub fn tell(&mut self, waits: bool) {
        self.to_hold = waits;
    }

    /// Whether it holds the flow back.
    pub fn holds(self) -> bool {
        self.to_hold
    }
}

#[cfg(test)]
mod tests;
