// SPDX-License-Identifier: MIT OR Apache-2.0

//! Sensor records, as programs show them: only full ones (43.1), of linear sensors (36.3).

/// A full sensor record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SensorRecord<'a> {
    /// What readings are asked for by.
    pub number: u8,
    /// Its name, if that is text.
    pub name: &'a str,
    /// Its unit (43.17): 1 is °C, 6 W, 18 RPM; the others stay numbers here.
    pub unit: u8,
    format: u8,
    multiplier: i16,
    offset: i16,
    offset_exponent: i8,
    exponent: i8,
}

/// Bytes before the name.
const NAME: usize = 48;

impl<'a> SensorRecord<'a> {
    /// Reads a record; nothing if it is of another type or cut off.
    pub fn decode(record: &'a [u8]) -> Option<Self> {
        const FULL: u8 = 0x01;
        const LINEAR: u8 = 0x00;
        if *record.get(3)? != FULL || record.get(23)? & 0x7f != LINEAR {
            return None;
        }
        let ten_bits = |low: u8, high: u8| {
            // The sign is the upper byte's bit 7; shifted down, it fills what is above.
            ((i16::from_le_bytes([0, high]) >> 6) & !0xff) | i16::from(low)
        };
        let at = |at: usize| record.get(at).copied();
        let exponents = at(29)?;
        let length = usize::from(at(NAME - 1)? & 0x1f);
        let name = record.get(NAME..)?.get(..length)?;
        Some(Self {
            number: at(7)?,
            name: core::str::from_utf8(name).ok()?,
            unit: at(21)?,
            format: at(20)? >> 6,
            multiplier: ten_bits(at(24)?, at(25)?),
            offset: ten_bits(at(26)?, at(27)?),
            offset_exponent: upper(exponents << 4),
            exponent: upper(exponents),
        })
    }

    /// What a raw reading stands for, in the sensor's unit.
    pub fn value(&self, raw: u8) -> f64 {
        let reading = match self.format {
            // Ones' and two's complement.
            1 if raw & 0x80 != 0 => -f64::from(!raw),
            2 => f64::from(raw as i8),
            _ => f64::from(raw),
        };
        let offset = scaled(f64::from(self.offset), self.offset_exponent);
        scaled(f64::from(self.multiplier) * reading + offset, self.exponent)
    }

    /// Its unit, in short.
    pub fn unit_text(&self) -> &'static str {
        match self.unit {
            1 => "°C",
            4 => "V",
            5 => "A",
            6 => "W",
            18 => "RPM",
            _ => "",
        }
    }
}

/// The upper four bits as a number from -8 to 7.
fn upper(byte: u8) -> i8 {
    byte as i8 >> 4
}

fn scaled(value: f64, exponent: i8) -> f64 {
    let mut power = 1.0;
    for _ in 0..exponent.unsigned_abs() {
        power *= 10.0;
    }
    if exponent < 0 {
        value / power
    } else {
        value * power
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record with these factors: format, M, B, exponents.
    fn record(format: u8, m: [u8; 2], b: [u8; 2], exponents: u8) -> Vec<u8> {
        let mut record = vec![0; 48];
        record[3] = 1;
        record[7] = 5;
        record[20] = format << 6;
        record[21] = 6;
        record[24..26].copy_from_slice(&m);
        record[26..28].copy_from_slice(&b);
        record[29] = exponents;
        record[47] = 0xc5;
        record.extend(b"Power");
        record
    }

    #[test]
    fn a_reading_is_converted_by_the_factors() {
        let cases = [
            (0, [1, 0], [0, 0], 0x00, 200, 200.0),
            (0, [60, 0], [0, 0], 0x00, 50, 3000.0),
            (2, [1, 0], [0, 0], 0x00, 0xff, -1.0),
            (1, [1, 0], [0, 0], 0x00, 0xfe, -1.0),
            (0, [0xff, 0xc0], [0, 0], 0x00, 7, -7.0),
            // 10 bits: M = 0x1ff.
            (0, [0xff, 0x40], [0, 0], 0x00, 1, 511.0),
            (0, [1, 0], [5, 0], 0x01, 2, 52.0),
            (0, [1, 0], [0, 0], 0xf0, 25, 2.5),
        ];
        for (format, m, b, exponents, raw, value) in cases {
            let bytes = record(format, m, b, exponents);
            let record = SensorRecord::decode(&bytes).unwrap();
            assert_eq!(
                (record.number, record.name, record.unit_text()),
                (5, "Power", "W")
            );
            assert!((record.value(raw) - value).abs() < 1e-9, "{record:?}");
        }
    }

    #[test]
    fn a_record_that_is_cut_off_or_another_is_none() {
        let bytes = record(0, [1, 0], [0, 0], 0);
        for length in 0..bytes.len() {
            assert_eq!(SensorRecord::decode(&bytes[..length]), None);
        }
        let mut other = bytes;
        other[3] = 2;
        assert_eq!(SensorRecord::decode(&other), None);
    }
}
