// SPDX-License-Identifier: MIT OR Apache-2.0

//! What typed operations carry. All numbers are little-endian, as in IPMI.

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Power reading (DCMI 6.6.1): W over a period that ended at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Now, W.
    pub current: u16,
    /// The least, W.
    pub minimum: u16,
    /// The greatest, W.
    pub maximum: u16,
    /// The mean, W.
    pub average: u16,
    /// The BMC's time, seconds since 1970.
    pub time: u32,
    /// The period, ms.
    pub period_ms: u32,
    /// Whether it measures.
    pub is_active: bool,
}

impl Reading {
    /// Bytes of it.
    pub const LEN: usize = 17;

    /// Reads it; nothing unless it has exactly its length.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::LEN {
            return None;
        }
        Some(Self {
            current: u16_at(bytes, 0)?,
            minimum: u16_at(bytes, 2)?,
            maximum: u16_at(bytes, 4)?,
            average: u16_at(bytes, 6)?,
            time: u32_at(bytes, 8)?,
            period_ms: u32_at(bytes, 12)?,
            is_active: bytes.get(16)? & 0x40 != 0,
        })
    }
}

/// Power limit (DCMI 6.6.2, 6.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is done when it is exceeded: 0 nothing, 1 power off, 0x11 it is logged.
    pub action: u8,
    /// W.
    pub watts: u16,
    /// How long it may be exceeded before that, ms.
    pub correction_ms: u32,
    /// The period that the mean is taken of, s.
    pub sampling_s: u16,
}

impl Limit {
    /// Bytes of it.
    pub const LEN: usize = 9;

    /// Reads it; nothing unless it has exactly its length.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::LEN {
            return None;
        }
        Some(Self {
            action: *bytes.first()?,
            watts: u16_at(bytes, 1)?,
            correction_ms: u32_at(bytes, 3)?,
            sampling_s: u16_at(bytes, 7)?,
        })
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let [w0, w1] = self.watts.to_le_bytes();
        let [c0, c1, c2, c3] = self.correction_ms.to_le_bytes();
        let [s0, s1] = self.sampling_s.to_le_bytes();
        [self.action, w0, w1, c0, c1, c2, c3, s0, s1]
    }
}

/// Sensor reading (35.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SensorReading {
    /// As it comes; the sensor's record has the factors (43.1, 36.3).
    pub raw: u8,
    /// Whether there is one, and the sensor is scanned.
    pub is_valid: bool,
    /// Thresholds that are passed, or states that hold: bits.
    pub state: u16,
}

impl SensorReading {
    /// Reads it: two to four bytes, as the sensor is.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [raw, flags, states @ ..] = bytes else {
            return None;
        };
        let states = match *states {
            [] => [0, 0],
            [low] => [low, 0],
            [low, high] => [low, high],
            _ => return None,
        };
        // Bit 6: scanned; bit 5: no reading now.
        Some(Self {
            raw: *raw,
            is_valid: flags & 0x60 == 0x40,
            // Bit 7 is reserved, and comes as 1.
            state: u16::from_le_bytes(states) & 0x7fff,
        })
    }
}
