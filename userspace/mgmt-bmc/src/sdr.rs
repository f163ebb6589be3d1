// SPDX-License-Identifier: MIT OR Apache-2.0

//! The repository of sensor data records: what the sensors are (sections 33 and 43).

use crate::message::{Code, Outcome, Request, part};
use crate::sensor::{Sensor, THRESHOLDS};

const VERSION: u8 = 0x51;
/// The controller's address on the IPMB.
const CONTROLLER: u8 = 0x20;
/// The first record, and, as an answer, that there is none.
const LAST: u16 = 0xffff;

/// The records. They are written once; only thresholds change, in the sensors.
#[derive(Debug)]
pub struct Repository {
    records: Vec<Vec<u8>>,
    reservation: u16,
}

impl Repository {
    /// A record for each sensor, and one for the controller.
    pub fn new(sensors: &[Sensor]) -> Self {
        let bodies = sensors.iter().map(full_sensor).chain([locator()]);
        let numbered = bodies.zip(0u16..).map(|((kind, body), id)| {
            let [low, high] = id.to_le_bytes();
            let mut record = vec![low, high, VERSION, kind, body.len() as u8];
            record.extend(body);
            record
        });
        Self {
            records: numbered.collect(),
            reservation: 0,
        }
    }

    /// The number of the record of a sensor, by its place among those given to [`Self::new`].
    pub fn record_id(place: usize) -> u16 {
        place as u16
    }

    /// A reset cancels the reservation.
    pub fn cancel_reservation(&mut self) {
        self.reservation = self.reservation.wrapping_add(1);
    }

    /// Answers a request, where it is for the repository.
    pub fn handle(&mut self, request: &Request<'_>) -> Outcome {
        match request.command {
            0x20 => Ok(self.info()),
            0x22 => {
                self.cancel_reservation();
                Ok(self.reservation.to_le_bytes().into())
            }
            0x23 => self.record(request.exactly()?),
            _ => Err(Code::INVALID_COMMAND),
        }
    }

    /// Get SDR Repository Info (33.9).
    fn info(&self) -> Vec<u8> {
        const NEVER: u32 = u32::MAX;
        const RESERVES: u8 = 0x02;
        let mut out = vec![VERSION];
        out.extend((self.records.len() as u16).to_le_bytes());
        out.extend(0u16.to_le_bytes()); // no room for more
        out.extend(NEVER.to_le_bytes());
        out.extend(NEVER.to_le_bytes());
        out.push(RESERVES);
        out
    }

    /// Get SDR (33.12). A record's number is its place.
    fn record(&self, [r0, r1, i0, i1, offset, count]: [u8; 6]) -> Outcome {
        if offset != 0 && u16::from_le_bytes([r0, r1]) != self.reservation {
            return Err(Code::RESERVATION_CANCELED);
        }
        let last = (self.records.len() - 1) as u16;
        let id = match u16::from_le_bytes([i0, i1]) {
            LAST => last,
            id => id,
        };
        let record = self.records.get(usize::from(id)).ok_or(Code::NOT_PRESENT)?;
        let next = if id == last { LAST } else { id + 1 };
        let mut out = next.to_le_bytes().to_vec();
        out.extend(part(record, offset.into(), count)?);
        Ok(out)
    }
}

/// A Full Sensor Record (43.1), from the sensor's owner on.
fn full_sensor(sensor: &Sensor) -> (u8, Vec<u8>) {
    const SCANNED_WITH_EVENTS: u8 = 0x63;
    const REARMS: u8 = 0x40;
    const THRESHOLDS_READ_AND_SET: u8 = 0x08;
    const THRESHOLD: u8 = 0x01;
    let mask = sensor.mask();
    let access = if mask == 0 {
        0
    } else {
        THRESHOLDS_READ_AND_SET
    };
    let mut out = vec![CONTROLLER, 0, sensor.number, sensor.entity, 1];
    out.extend([SCANNED_WITH_EVENTS, REARMS | access, sensor.kind, THRESHOLD]);
    // Events that start and end, and then the thresholds that can be read and set.
    let events = events_of(mask).to_le_bytes();
    out.extend([events, events].concat());
    out.extend([mask, mask]);
    out.extend([0, sensor.unit, 0]); // unsigned, no rate, no modifier
    out.extend([0, sensor.factor, 0, 0, 0, 0, 0]); // linear, M, B = 0, no exponents
    out.extend([0, 0, 0, 0, 0xff, 0]); // no nominal reading; 0 to 255
    // The record has the upper thresholds first, and the worst of each side.
    out.extend(sensor.thresholds.iter().rev().map(|t| t.unwrap_or(0)));
    out.extend([0; 5]); // no hysteresis
    out.extend(name(sensor.name));
    (0x01, out)
}

/// The events of a mask of thresholds: going low of the lower ones, going high of the upper ones.
fn events_of(mask: u8) -> u16 {
    let going = |i: usize| 1 << (2 * i + usize::from(i >= THRESHOLDS / 2));
    let has = (0..THRESHOLDS).filter(|i| mask & (1 << i) != 0);
    has.map(going).sum()
}

/// A Management Controller Device Locator (43.9).
fn locator() -> (u8, Vec<u8>) {
    const SENSORS_SDR_SEL_FRU_CHASSIS: u8 = 0x8f;
    const MANAGEMENT_MODULE: u8 = 0x06;
    let mut out = vec![CONTROLLER, 0, 0, SENSORS_SDR_SEL_FRU_CHASSIS, 0, 0, 0];
    out.extend([MANAGEMENT_MODULE, 1, 0]);
    out.extend(name("Lab BMC"));
    (0x12, out)
}

/// Type, length and text (43.15): 8-bit, at most 16.
fn name(text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(16)];
    let mut out = vec![0xc0 | text.len() as u8];
    out.extend(text);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::netfn;

    fn ask(repository: &mut Repository, command: u8, data: &[u8]) -> Outcome {
        let request = Request {
            netfn: netfn::STORAGE,
            lun: 0,
            command,
            data,
        };
        repository.handle(&request)
    }

    #[test]
    fn the_records_are_walked() {
        let sensors = [Sensor::power(200.0), Sensor::inlet(), Sensor::fan()];
        let mut repository = Repository::new(&sensors);
        assert_eq!(ask(&mut repository, 0x20, &[]).unwrap()[1], 4);
        let (mut id, mut kinds) = (0u16, Vec::new());
        while id != LAST {
            let [low, high] = id.to_le_bytes();
            let got = ask(&mut repository, 0x23, &[0, 0, low, high, 0, 0xff]).unwrap();
            assert_eq!(got[2..4], [low, high]);
            assert_eq!(usize::from(got[6]), got.len() - 7, "its length");
            kinds.push(got[5]);
            id = u16::from_le_bytes([got[0], got[1]]);
        }
        assert_eq!(kinds, [0x01, 0x01, 0x01, 0x12]);
        assert_eq!(
            ask(&mut repository, 0x23, &[0, 0, 4, 0, 0, 0xff]),
            Err(Code::NOT_PRESENT)
        );
    }

    #[test]
    fn parts_need_a_reservation() {
        let mut repository = Repository::new(&[Sensor::inlet()]);
        let id = ask(&mut repository, 0x22, &[]).unwrap();
        let part = [&id[..], &[0, 0, 5, 3]].concat();
        assert_eq!(
            ask(&mut repository, 0x23, &part),
            Ok(vec![1, 0, CONTROLLER, 0, 2])
        );
        ask(&mut repository, 0x22, &[]).unwrap();
        assert_eq!(
            ask(&mut repository, 0x23, &part),
            Err(Code::RESERVATION_CANCELED)
        );
    }

    /// Byte by byte as table 43-1 has them, counted from 1.
    #[test]
    fn a_full_sensor_record() {
        let repository = Repository::new(&[Sensor::inlet()]);
        let byte = |n: usize| repository.records[0][n - 1];
        assert_eq!(
            (byte(4), byte(8), byte(9), byte(13), byte(14)),
            (1, 2, 0x40, 1, 1)
        );
        assert_eq!(u16::from_le_bytes([byte(15), byte(16)]), 0b1010_1000_0000);
        assert_eq!((byte(19), byte(20), byte(22), byte(25)), (0x38, 0x38, 1, 1));
        assert_eq!((byte(37), byte(38), byte(39), byte(40)), (46, 42, 38, 0));
        assert_eq!(byte(48), 0xc0 | 10);
        assert_eq!(repository.records[0][48..], *b"Inlet Temp");
    }
}
