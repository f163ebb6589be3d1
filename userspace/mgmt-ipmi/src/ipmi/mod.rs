// SPDX-License-Identifier: MIT OR Apache-2.0

//! The hardware M-channel. Sections and tables are those of the IPMI specification v2.0 rev. 1.1,
//! and of the DCMI specification v1.5 where it says DCMI.

mod class;
mod operation;
mod table;
mod values;

pub use class::{Request, is_harmless};
pub use operation::{Next, Operation};
pub use table::{Limits, Slot, Table};
pub use values::{Limit, Reading, SensorReading};

/// The longest data of an IPMI request or response here, and so the longest payload, bytes.
pub const MAX_DATA: usize = 256;

/// App_ID that asynchronous events of the BMC are broadcast to and from.
pub const EVENTS: &str = "IPMI.Events";

/// What a component of hardware serves: each an App_ID, so that rules decide who may have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum App {
    /// Power reading and power limit.
    Power,
    /// Sensors and their records.
    Sensors,
    /// The system event log, to read.
    Sel,
    /// The chassis' status.
    Chassis,
    /// Power off, reset and their kin.
    ChassisControl,
    /// Any request that [changes nothing](is_harmless).
    Raw,
    /// Any request.
    Admin,
}

impl App {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Power,
        Self::Sensors,
        Self::Sel,
        Self::Chassis,
        Self::ChassisControl,
        Self::Raw,
        Self::Admin,
    ];

    /// Its App_ID.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Power => "Power",
            Self::Sensors => "Sensors",
            Self::Sel => "SEL",
            Self::Chassis => "Chassis",
            Self::ChassisControl => "Chassis.Control",
            Self::Raw => "IPMI",
            Self::Admin => "IPMI.Admin",
        }
    }
}

/// What became of a request: the first byte of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// The BMC answered: its completion code says how.
    Answered = 0,
    /// The request is none of this App_ID.
    Malformed = 1,
    /// This App_ID does not pass this IPMI command.
    Refused = 2,
    /// Too many requests are on their way, of this component or of all.
    Busy = 3,
    /// There is no BMC.
    Absent = 4,
    /// The BMC did not answer in time. It may have done what was asked.
    TimedOut = 5,
    /// The BMC answered something else, or what cannot be.
    Nonsense = 6,
    /// The BMC was reset and is not asked for a while.
    Resetting = 7,
    /// The interface to the BMC is broken.
    Broken = 8,
    /// What was set does not read back.
    Differs = 9,
}

impl Status {
    /// The status of a byte.
    pub fn decode(byte: u8) -> Option<Self> {
        const ALL: [Status; 10] = [
            Status::Answered,
            Status::Malformed,
            Status::Refused,
            Status::Busy,
            Status::Absent,
            Status::TimedOut,
            Status::Nonsense,
            Status::Resetting,
            Status::Broken,
            Status::Differs,
        ];
        ALL.get(usize::from(byte)).copied()
    }

    /// The status in words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Malformed => "malformed request",
            Self::Refused => "this App_ID does not pass this IPMI command",
            Self::Busy => "too many requests are on their way",
            Self::Absent => "there is no BMC",
            Self::TimedOut => "the BMC did not answer in time",
            Self::Nonsense => "the BMC answered nonsense",
            Self::Resetting => "the BMC was reset, and is not asked for a while",
            Self::Broken => "the interface to the BMC is broken",
            Self::Differs => "what was set does not read back",
        }
    }
}

/// At most [`MAX_DATA`] bytes.
#[derive(Clone, Copy)]
pub struct Bytes {
    bytes: [u8; MAX_DATA],
    len: usize,
}

impl Bytes {
    /// None.
    pub const EMPTY: Self = Self {
        bytes: [0; MAX_DATA],
        len: 0,
    };

    /// A copy; nothing if there are too many.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut new = Self::EMPTY;
        new.push(bytes)?;
        Some(new)
    }

    /// Appends bytes; nothing changes if there are too many.
    pub fn push(&mut self, more: &[u8]) -> Option<()> {
        let end = self.len.checked_add(more.len())?;
        self.bytes.get_mut(self.len..end)?.copy_from_slice(more);
        self.len = end;
        Some(())
    }
}

impl core::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl core::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

/// The payload of a reply.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// What became of the request.
    pub status: Status,
    /// The BMC's completion code (table 5-2); 0 where it did not answer.
    pub code: u8,
    /// What the operation returns; nothing unless the status is [`Status::Answered`].
    pub data: Bytes,
}

impl Answer {
    /// One without data.
    pub const fn new(status: Status, code: u8) -> Self {
        Self {
            status,
            code,
            data: Bytes::EMPTY,
        }
    }

    /// Bytes before the data.
    pub const HEAD: usize = 2;

    /// The bytes before the data.
    pub fn head(&self) -> [u8; Self::HEAD] {
        [self.status as u8, self.code]
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (head, data) = payload.split_first_chunk::<{ Self::HEAD }>()?;
        Some(Self {
            status: Status::decode(head[0])?,
            code: head[1],
            data: Bytes::new(data)?,
        })
    }
}

impl From<Status> for Answer {
    fn from(status: Status) -> Self {
        Self::new(status, 0)
    }
}

#[cfg(test)]
mod tests;
