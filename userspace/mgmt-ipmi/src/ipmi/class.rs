// SPDX-License-Identifier: MIT OR Apache-2.0

//! IPMI requests, and which of them change nothing.

use super::Bytes;

/// Network functions (table 5-1).
pub(super) const CHASSIS: u8 = 0x00;
pub(super) const SENSOR: u8 = 0x04;
pub(super) const APP: u8 = 0x06;
pub(super) const STORAGE: u8 = 0x0a;
pub(super) const GROUP: u8 = 0x2c;
/// DCMI's group: the first byte of its requests and responses (DCMI table 5-1).
pub(super) const DCMI: u8 = 0xdc;

/// An IPMI request to the BMC itself (its LUN 0).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Request {
    /// Network function: even, below 0x40.
    pub netfn: u8,
    /// Command.
    pub command: u8,
    /// What follows.
    pub data: Bytes,
}

impl Request {
    /// A request without data.
    pub(super) const fn bare(netfn: u8, command: u8) -> Self {
        Self {
            netfn,
            command,
            data: Bytes::EMPTY,
        }
    }

    /// A request with a few bytes of data, which are fewer than there is room for.
    pub(super) fn with<const N: usize>(netfn: u8, command: u8, data: [u8; N]) -> Self {
        const { assert!(N <= super::MAX_DATA) };
        Self {
            netfn,
            command,
            data: Bytes::new(&data).unwrap_or(Bytes::EMPTY),
        }
    }
}

/// Whether a request only reads, as far as the specifications say (appendix G): everything that is
/// not listed changes something, or may. So no user, no firmware, nothing of a maker (OEM).
pub fn is_harmless(request: &Request) -> bool {
    match (request.netfn, request.command) {
        // Capabilities, status, restart cause, boot options, hours of operation.
        (CHASSIS, 0x00 | 0x01 | 0x07 | 0x09 | 0x0f) => true,
        // Event receiver; records of the device; factors, hysteresis, thresholds, event enables and
        // status, reading, type.
        (SENSOR, 0x01 | 0x20 | 0x21 | 0x23 | 0x25 | 0x27 | 0x29 | 0x2b | 0x2d | 0x2f) => true,
        // Device id, self test results, ACPI state, GUID, what is supported, watchdog, enables,
        // system GUID, channel info, system info.
        (APP, 0x01 | 0x04 | 0x07 | 0x08 | 0x09..=0x0b | 0x25 | 0x2f | 0x37 | 0x42 | 0x59) => true,
        // Inventory; sensor records; the log: info, reservation, entries, time.
        (STORAGE, 0x10 | 0x11 | 0x20..=0x23 | 0x28 | 0x40..=0x43 | 0x48) => true,
        // Capabilities, power reading and limit, asset tag, sensors, controller, temperatures,
        // thermal limit.
        (GROUP, 0x01..=0x03 | 0x06 | 0x07 | 0x09 | 0x0c | 0x10) => {
            request.data.first() == Some(&DCMI)
        }
        _ => false,
    }
}
