// SPDX-License-Identifier: MIT OR Apache-2.0

//! The sensors: what they are, what they read, and their thresholds (section 35).

use crate::message::{Code, Outcome, Request};
use crate::sel::Event;

/// Sensor number of the platform's power, W.
pub const POWER: u8 = 1;
/// Sensor number of the inlet's temperature, °C.
pub const INLET: u8 = 2;
/// Sensor number of the fan, RPM.
pub const FAN: u8 = 3;
/// Sensor types (table 42-3).
pub const TYPE_TEMPERATURE: u8 = 0x01;
/// A fan.
pub const TYPE_FAN: u8 = 0x04;
/// Another, in the units of its record.
pub const TYPE_OTHER: u8 = 0x0b;
/// Event type of thresholds (table 42-1).
const THRESHOLD: u8 = 0x01;
/// In an event's type: the state ended.
pub const ENDED: u8 = 0x80;

/// Thresholds in the order of the commands and masks: lower non-critical, lower critical, lower
/// non-recoverable, upper non-critical, upper critical, upper non-recoverable.
pub const THRESHOLDS: usize = 6;
const FIRST_UPPER: usize = 3;

/// A sensor.
#[derive(Clone, Debug)]
pub struct Sensor {
    /// Its number.
    pub number: u8,
    /// Its name, at most 16 bytes.
    pub name: &'static str,
    /// What it senses (table 42-3).
    pub kind: u8,
    /// Unit (table 43-15).
    pub unit: u8,
    /// What it belongs to (table 43-13).
    pub entity: u8,
    /// What a reading of 1 means, in its unit.
    pub factor: u8,
    /// Those that it has.
    pub thresholds: [Option<u8>; THRESHOLDS],
    crossed: [bool; THRESHOLDS],
    raw: u8,
}

impl Sensor {
    /// The power, up to `maximum` W and a bit more.
    pub fn power(maximum: f64) -> Self {
        const WATTS: u8 = 6;
        const POWER_UNIT: u8 = 0x13;
        let factor = (maximum * 1.1 / 255.0).ceil().clamp(1.0, 255.0) as u8;
        Self::new(
            POWER, "Power", TYPE_OTHER, WATTS, POWER_UNIT, factor, [None; 6],
        )
    }

    /// The inlet's temperature.
    pub fn inlet() -> Self {
        const CELSIUS: u8 = 1;
        const AIR_INLET: u8 = 0x40;
        let upper = [None, None, None, Some(38), Some(42), Some(46)];
        Self::new(
            INLET,
            "Inlet Temp",
            TYPE_TEMPERATURE,
            CELSIUS,
            AIR_INLET,
            1,
            upper,
        )
    }

    /// The fan.
    pub fn fan() -> Self {
        const RPM: u8 = 18;
        const COOLING: u8 = 0x1e;
        let lower = [None, Some(10), None, None, None, None];
        Self::new(FAN, "Fan", TYPE_FAN, RPM, COOLING, 60, lower)
    }

    fn new(
        number: u8,
        name: &'static str,
        kind: u8,
        unit: u8,
        entity: u8,
        factor: u8,
        thresholds: [Option<u8>; THRESHOLDS],
    ) -> Self {
        Self {
            number,
            name,
            kind,
            unit,
            entity,
            factor,
            thresholds,
            crossed: [false; THRESHOLDS],
            raw: 0,
        }
    }

    /// Which thresholds it has, bit by bit.
    pub fn mask(&self) -> u8 {
        bits(self.thresholds.map(|t| t.is_some()))
    }

    /// Takes a value in the sensor's unit; events of the thresholds that were crossed.
    pub fn read(&mut self, value: f64) -> Vec<Event> {
        self.raw = (value / f64::from(self.factor)).round().clamp(0.0, 255.0) as u8;
        (0..THRESHOLDS).filter_map(|i| self.judge(i)).collect()
    }

    fn judge(&mut self, i: usize) -> Option<Event> {
        let threshold = self.thresholds[i]?;
        let upper = i >= FIRST_UPPER;
        let crossed = if upper {
            self.raw >= threshold
        } else {
            self.raw <= threshold
        };
        if crossed == std::mem::replace(&mut self.crossed[i], crossed) {
            return None;
        }
        // "Going low" of lower ones, "going high" of upper ones (table 42-2).
        let offset = 2 * i as u8 + u8::from(upper);
        const READING_AND_THRESHOLD: u8 = 0x50;
        Some(Event {
            sensor_type: self.kind,
            sensor: self.number,
            event_type: THRESHOLD | if crossed { 0 } else { ENDED },
            data: [READING_AND_THRESHOLD | offset, self.raw, threshold],
        })
    }

    /// Get Sensor Reading (35.14).
    fn reading(&self) -> Vec<u8> {
        const EVENTS_AND_SCANNING: u8 = 0xc0;
        const RESERVED: u8 = 0xc0;
        vec![self.raw, EVENTS_AND_SCANNING, RESERVED | bits(self.crossed)]
    }

    /// Get Sensor Thresholds (35.9).
    fn get_thresholds(&self) -> Vec<u8> {
        let mut out = vec![self.mask()];
        out.extend(self.thresholds.map(Option::unwrap_or_default));
        out
    }

    /// Set Sensor Thresholds (35.8).
    fn set_thresholds(&mut self, mask: u8, values: [u8; THRESHOLDS]) -> Outcome {
        if mask & !self.mask() != 0 {
            return Err(Code::INVALID_FIELD);
        }
        for (i, value) in values.into_iter().enumerate() {
            if mask & (1 << i) != 0 {
                self.thresholds[i] = Some(value);
            }
        }
        Ok(Vec::new())
    }
}

fn bits(which: [bool; THRESHOLDS]) -> u8 {
    which
        .iter()
        .rev()
        .fold(0, |bits, &b| (bits << 1) | u8::from(b))
}

/// Answers a request, where it is for a sensor.
pub fn handle(sensors: &mut [Sensor], request: &Request<'_>) -> Outcome {
    let number = *request.data.first().ok_or(Code::LENGTH_INVALID)?;
    let sensor = sensors.iter_mut().find(|s| s.number == number);
    let sensor = sensor.ok_or(Code::NOT_PRESENT)?;
    match request.command {
        0x26 => {
            let [_, mask, values @ ..] = request.exactly::<8>()?;
            sensor.set_thresholds(mask, values)
        }
        0x27 => request.exactly::<1>().map(|_| sensor.get_thresholds()),
        0x2d => request.exactly::<1>().map(|_| sensor.reading()),
        _ => Err(Code::INVALID_COMMAND),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::netfn;

    fn ask(sensors: &mut [Sensor], command: u8, data: &[u8]) -> Outcome {
        let request = Request {
            netfn: netfn::SENSOR,
            lun: 0,
            command,
            data,
        };
        handle(sensors, &request)
    }

    #[test]
    fn readings_are_in_the_sensors_factor() {
        let mut sensors = [Sensor::power(480.0), Sensor::fan()];
        assert_eq!(sensors[0].factor, 3);
        sensors[0].read(300.4);
        sensors[1].read(3000.0);
        assert_eq!(ask(&mut sensors, 0x2d, &[POWER]), Ok(vec![100, 0xc0, 0xc0]));
        assert_eq!(ask(&mut sensors, 0x2d, &[FAN]), Ok(vec![50, 0xc0, 0xc0]));
        assert_eq!(ask(&mut sensors, 0x2d, &[9]), Err(Code::NOT_PRESENT));
        assert_eq!(ask(&mut sensors, 0x2d, &[]), Err(Code::LENGTH_INVALID));
        sensors[0].read(10_000.0);
        assert_eq!(ask(&mut sensors, 0x2d, &[POWER]).unwrap()[0], 255);
    }

    #[test]
    fn crossed_thresholds_are_events() {
        let mut inlet = Sensor::inlet();
        assert_eq!(inlet.read(22.0), []);
        let event = |event_type, data| Event {
            sensor_type: TYPE_TEMPERATURE,
            sensor: INLET,
            event_type,
            data,
        };
        assert_eq!(
            inlet.read(43.0),
            [event(0x01, [0x57, 43, 38]), event(0x01, [0x59, 43, 42])]
        );
        assert_eq!(inlet.read(44.0), []);
        assert_eq!(inlet.reading()[2], 0xc0 | 0b01_1000);
        assert_eq!(inlet.read(40.0), [event(0x81, [0x59, 40, 42])]);
        let mut fan = Sensor::fan();
        assert_eq!(fan.read(0.0)[0].data, [0x52, 0, 10]);
    }

    #[test]
    fn thresholds_that_are_there_can_be_set() {
        let mut sensors = [Sensor::inlet()];
        assert_eq!(
            ask(&mut sensors, 0x27, &[INLET]),
            Ok(vec![0x38, 0, 0, 0, 38, 42, 46])
        );
        assert_eq!(
            ask(&mut sensors, 0x26, &[INLET, 0x08, 0, 0, 0, 30, 9, 9]),
            Ok(vec![])
        );
        assert_eq!(
            ask(&mut sensors, 0x27, &[INLET]),
            Ok(vec![0x38, 0, 0, 0, 30, 42, 46])
        );
        assert_eq!(
            ask(&mut sensors, 0x26, &[INLET, 0x01, 5, 0, 0, 0, 0, 0]),
            Err(Code::INVALID_FIELD)
        );
        assert_eq!(sensors[0].read(31.0).len(), 1);
    }
}
