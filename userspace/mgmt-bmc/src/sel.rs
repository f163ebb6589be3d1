// SPDX-License-Identifier: MIT OR Apache-2.0

//! The system event log (sections 31 and 32).

use crate::message::{Code, Outcome, Request, part};

/// Entries that it holds; further ones are lost, and it tells so.
pub const CAPACITY: usize = 512;
const VERSION: u8 = 0x51;
/// Record types with a time stamp: events, and the OEM's.
const STAMPED: [std::ops::RangeInclusive<u8>; 2] = [0x02..=0x02, 0xc0..=0xdf];
/// The first entry, and, as an answer, that there is none.
const FIRST: u16 = 0x0000;
const LAST: u16 = 0xffff;

/// An event of a sensor (section 29.7, table 42).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What the sensor senses.
    pub sensor_type: u8,
    /// Which.
    pub sensor: u8,
    /// What kind of event; bit 7 set where a state ended.
    pub event_type: u8,
    /// The event's data.
    pub data: [u8; 3],
}

impl Event {
    /// As a record of the log, which has its number and time; also what the event message buffer
    /// holds.
    pub fn record(&self, id: u16, time: u32) -> [u8; 16] {
        const EVENT: u8 = 0x02;
        const FROM_CONTROLLER: u16 = 0x0020;
        const FORMAT: u8 = 0x04;
        let mut record = [0; 16];
        record[0..2].copy_from_slice(&id.to_le_bytes());
        record[2] = EVENT;
        record[3..7].copy_from_slice(&time.to_le_bytes());
        record[7..9].copy_from_slice(&FROM_CONTROLLER.to_le_bytes());
        record[9] = FORMAT;
        record[10] = self.sensor_type;
        record[11] = self.sensor;
        record[12] = self.event_type;
        record[13..16].copy_from_slice(&self.data);
        record
    }
}

/// The log.
#[derive(Debug)]
pub struct Sel {
    entries: Vec<[u8; 16]>,
    /// Of the newest entry.
    last_id: u16,
    reservation: u16,
    overflow: bool,
    added: u32,
    erased: u32,
}

impl Default for Sel {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            last_id: 0,
            reservation: 0,
            overflow: false,
            added: u32::MAX,
            erased: u32::MAX,
        }
    }
}

impl Sel {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an event; its number, if there was room.
    pub fn add_event(&mut self, event: &Event, time: u32) -> Option<u16> {
        self.add(event.record(0, time), time).ok()
    }

    fn add(&mut self, mut record: [u8; 16], time: u32) -> Result<u16, Code> {
        if self.entries.len() == CAPACITY {
            self.overflow = true;
            return Err(Code::OUT_OF_SPACE);
        }
        self.last_id = match self.last_id + 1 {
            LAST => 1,
            id => id,
        };
        record[0..2].copy_from_slice(&self.last_id.to_le_bytes());
        if STAMPED.iter().any(|types| types.contains(&record[2])) {
            record[3..7].copy_from_slice(&time.to_le_bytes());
        }
        self.entries.push(record);
        self.added = time;
        Ok(self.last_id)
    }

    /// A reset cancels the reservation.
    pub fn cancel_reservation(&mut self) {
        self.reservation = self.reservation.wrapping_add(1);
    }

    /// Answers a request, where it is for the log.
    pub fn handle(&mut self, request: &Request<'_>, time: u32) -> Outcome {
        match request.command {
            0x40 => Ok(self.info()),
            0x42 => {
                self.cancel_reservation();
                Ok(self.reservation.to_le_bytes().into())
            }
            0x43 => self.entry(request.exactly()?),
            0x44 => Ok(self.add(request.exactly()?, time)?.to_le_bytes().into()),
            0x47 => self.clear(request.exactly()?, time),
            _ => Err(Code::INVALID_COMMAND),
        }
    }

    /// Get SEL Info (31.2).
    fn info(&self) -> Vec<u8> {
        const RESERVES: u8 = 0x02;
        let free = (CAPACITY - self.entries.len()) * 16;
        let mut out = vec![VERSION];
        out.extend((self.entries.len() as u16).to_le_bytes());
        out.extend((free as u16).to_le_bytes());
        out.extend(self.added.to_le_bytes());
        out.extend(self.erased.to_le_bytes());
        out.push(RESERVES | (u8::from(self.overflow) << 7));
        out
    }

    fn reserved(&self, bytes: [u8; 2]) -> Result<(), Code> {
        if u16::from_le_bytes(bytes) == self.reservation {
            Ok(())
        } else {
            Err(Code::RESERVATION_CANCELED)
        }
    }

    /// Get SEL Entry (31.5).
    fn entry(&self, [r0, r1, i0, i1, offset, count]: [u8; 6]) -> Outcome {
        if offset != 0 {
            self.reserved([r0, r1])?;
        }
        let at = match u16::from_le_bytes([i0, i1]) {
            FIRST => Some(0),
            LAST => self.entries.len().checked_sub(1),
            id => self.entries.iter().position(|e| id_of(e) == id),
        };
        let entry = at.and_then(|at| self.entries.get(at));
        let next = at.and_then(|at| self.entries.get(at + 1));
        let bytes = part(entry.ok_or(Code::NOT_PRESENT)?, offset.into(), count)?;
        let mut out = next.map_or(LAST, id_of).to_le_bytes().to_vec();
        out.extend(bytes);
        Ok(out)
    }

    /// Clear SEL (31.9). It is done at once.
    fn clear(&mut self, [r0, r1, c, l, r, operation]: [u8; 6], time: u32) -> Outcome {
        const ERASE: u8 = 0xaa;
        const STATUS: u8 = 0x00;
        const COMPLETE: u8 = 0x01;
        self.reserved([r0, r1])?;
        if [c, l, r] != *b"CLR" {
            return Err(Code::INVALID_FIELD);
        }
        match operation {
            ERASE => {
                self.entries.clear();
                self.overflow = false;
                self.erased = time;
                self.cancel_reservation();
            }
            STATUS => {}
            _ => return Err(Code::INVALID_FIELD),
        }
        Ok(vec![COMPLETE])
    }
}

fn id_of(record: &[u8; 16]) -> u16 {
    u16::from_le_bytes([record[0], record[1]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::netfn;

    const EVENT: Event = Event {
        sensor_type: 0x01,
        sensor: 2,
        event_type: 0x01,
        data: [0x57, 40, 38],
    };

    fn ask(sel: &mut Sel, command: u8, data: &[u8]) -> Outcome {
        let request = Request {
            netfn: netfn::STORAGE,
            lun: 0,
            command,
            data,
        };
        sel.handle(&request, 1000)
    }

    #[test]
    fn entries_are_walked_by_their_numbers() {
        let mut sel = Sel::default();
        assert_eq!(
            ask(&mut sel, 0x43, &[0, 0, 0, 0, 0, 0xff]),
            Err(Code::NOT_PRESENT)
        );
        assert_eq!(
            ask(&mut sel, 0x43, &[0, 0, 0xff, 0xff, 0, 0xff]),
            Err(Code::NOT_PRESENT)
        );
        assert_eq!(sel.add_event(&EVENT, 500), Some(1));
        let mut added = [0xee; 16];
        added[2] = 0xe0; // of the OEM, without a time stamp
        assert_eq!(ask(&mut sel, 0x44, &added), Ok(vec![2, 0]));
        let first = ask(&mut sel, 0x43, &[0, 0, 0, 0, 0, 0xff]).unwrap();
        assert_eq!(first[..2], [2, 0], "the next");
        assert_eq!(
            first[2..],
            [1, 0, 2, 0xf4, 0x01, 0, 0, 0x20, 0, 4, 1, 2, 1, 0x57, 40, 38]
        );
        let second = ask(&mut sel, 0x43, &[0, 0, 2, 0, 0, 0xff]).unwrap();
        assert_eq!(second[..4], [0xff, 0xff, 2, 0]);
        assert_eq!(second[5..], [0xee; 13]);
        assert_eq!(
            ask(&mut sel, 0x43, &[0, 0, 3, 0, 0, 0xff]),
            Err(Code::NOT_PRESENT)
        );
    }

    #[test]
    fn clearing_needs_the_reservation() {
        let mut sel = Sel::default();
        sel.add_event(&EVENT, 500);
        let clear = |id: &[u8], operation| [id, b"CLR", &[operation]].concat();
        assert_eq!(
            ask(&mut sel, 0x47, &clear(&[9, 0], 0xaa)),
            Err(Code::RESERVATION_CANCELED)
        );
        let id = ask(&mut sel, 0x42, &[]).unwrap();
        assert_eq!(
            ask(&mut sel, 0x47, &[&id[..], b"CLX\xaa"].concat()),
            Err(Code::INVALID_FIELD)
        );
        assert_eq!(ask(&mut sel, 0x47, &clear(&id, 0)), Ok(vec![1]));
        assert_eq!(sel.len(), 1);
        assert_eq!(ask(&mut sel, 0x47, &clear(&id, 0xaa)), Ok(vec![1]));
        assert!(sel.is_empty());
        assert_eq!(
            ask(&mut sel, 0x47, &clear(&id, 0xaa)),
            Err(Code::RESERVATION_CANCELED)
        );
    }

    #[test]
    fn a_full_log_says_so() {
        let mut sel = Sel::default();
        for _ in 0..CAPACITY {
            assert!(sel.add_event(&EVENT, 0).is_some());
        }
        assert_eq!(ask(&mut sel, 0x40, &[]).unwrap()[13], 0x02);
        assert_eq!(sel.add_event(&EVENT, 0), None);
        let info = ask(&mut sel, 0x40, &[]).unwrap();
        assert_eq!((&info[..5], info[13]), (&[0x51, 0, 2, 0, 0][..], 0x82));
    }
}
