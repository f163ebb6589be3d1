// SPDX-License-Identifier: MIT OR Apache-2.0

//! The controller itself, and its messages to the system (sections 20 and 22).

use crate::bmc::Bmc;
use crate::message::{Code, Outcome, Request};
use std::collections::VecDeque;

/// IANA's number for examples (RFC 5612), as there is no maker.
pub const MAKER: [u8; 3] = [0xd9, 0x7e, 0x00];

/// Global enables (22.1): an interrupt when a message waits,
const MESSAGE_INTERRUPT: u8 = 1 << 0;
/// an interrupt when an event waits,
const EVENT_INTERRUPT: u8 = 1 << 1;
/// events wait in the buffer,
const EVENT_BUFFER: u8 = 1 << 2;
/// events are logged.
const EVENT_LOG: u8 = 1 << 3;
const ENABLES: u8 = MESSAGE_INTERRUPT | EVENT_INTERRUPT | EVENT_BUFFER | EVENT_LOG;
/// Message flags (22.3): an event waits.
const EVENT_WAITS: u8 = 1 << 1;

/// Events that wait for the system at most; further ones are in the log only.
pub const EVENTS_WAITING: usize = 8;

/// What the system may fetch, and how it is told of it.
#[derive(Debug)]
pub struct Messages {
    enables: u8,
    events: VecDeque<[u8; 16]>,
}

impl Default for Messages {
    fn default() -> Self {
        Self {
            enables: EVENT_LOG,
            events: VecDeque::new(),
        }
    }
}

/// How the system is to be told that something waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attention {
    /// Nothing waits.
    #[default]
    None,
    /// The interface shows it.
    Shown,
    /// It interrupts.
    Interrupt,
}

impl Messages {
    /// Whether events are logged.
    pub fn logs_events(&self) -> bool {
        self.enables & EVENT_LOG != 0
    }

    /// Whether the interface may interrupt.
    pub fn interrupts(&self) -> bool {
        self.enables & (MESSAGE_INTERRUPT | EVENT_INTERRUPT) != 0
    }

    /// How the system is to be told, as things are.
    pub fn attention(&self) -> Attention {
        if self.events.is_empty() {
            Attention::None
        } else if self.enables & EVENT_INTERRUPT != 0 {
            Attention::Interrupt
        } else {
            Attention::Shown
        }
    }

    /// Lets the system have an event, where it wants them and not too many wait.
    pub fn offer(&mut self, event: [u8; 16]) {
        if self.enables & EVENT_BUFFER != 0 && self.events.len() < EVENTS_WAITING {
            self.events.push_back(event);
        }
    }

    fn flags(&self) -> u8 {
        if self.events.is_empty() {
            0
        } else {
            EVENT_WAITS
        }
    }
}

/// Answers a request, where it is for the controller itself.
pub fn handle(bmc: &mut Bmc, request: &Request<'_>) -> Outcome {
    /// Passed, nothing failed (20.4).
    const PASSED: [u8; 2] = [0x55, 0x00];
    /// A queue or buffer is empty (22.6, 22.8).
    const EMPTY: Code = Code(0x80);
    let messages = &mut bmc.messages;
    match request.command {
        0x01 => Ok(device_id()),
        // Cold and warm are the same here.
        0x02 | 0x03 => {
            bmc.reset();
            Ok(Vec::new())
        }
        0x04 => Ok(PASSED.into()),
        0x08 | 0x37 => Ok(bmc.guid().into()),
        0x2e => {
            let [enables] = request.exactly()?;
            if enables & !ENABLES != 0 {
                return Err(Code::INVALID_FIELD);
            }
            messages.enables = enables;
            Ok(Vec::new())
        }
        0x2f => Ok(vec![messages.enables]),
        0x30 => {
            let [flags] = request.exactly()?;
            if flags & EVENT_WAITS != 0 {
                messages.events.clear();
            }
            Ok(Vec::new())
        }
        0x31 => Ok(vec![messages.flags()]),
        // No other channel sends any.
        0x33 => Err(EMPTY),
        0x35 => messages.events.pop_front().map(Into::into).ok_or(EMPTY),
        0x42 => channel(request.exactly()?),
        _ => Err(Code::INVALID_COMMAND),
    }
}

/// Get Device ID (20.1).
fn device_id() -> Vec<u8> {
    const HAS_SDRS: u8 = 0x80;
    const IPMI_2_0: u8 = 0x02;
    const SENSORS_SDR_SEL_FRU_CHASSIS: u8 = 0x8f;
    let mut out = vec![
        0x20,
        HAS_SDRS | 1,
        1,
        0,
        IPMI_2_0,
        SENSORS_SDR_SEL_FRU_CHASSIS,
    ];
    out.extend(MAKER);
    out.extend(1u16.to_le_bytes()); // product
    out.extend([0; 4]);
    out
}

/// Get Channel Info (22.24): there is only the system interface.
fn channel([number]: [u8; 1]) -> Outcome {
    const HERE: u8 = 0x0e;
    const SYSTEM: u8 = 0x0f;
    const SYSTEM_INTERFACE: u8 = 0x0c;
    const KCS: u8 = 0x05;
    const NO_SESSIONS: u8 = 0;
    const IPMI_FORUM: [u8; 3] = [0xf2, 0x1b, 0x00];
    const NO_INTERRUPT: u8 = 0xff;
    match number & 0x0f {
        HERE | SYSTEM => {
            let mut out = vec![SYSTEM, SYSTEM_INTERFACE, KCS, NO_SESSIONS];
            out.extend(IPMI_FORUM);
            out.extend([NO_INTERRUPT; 2]);
            Ok(out)
        }
        _ => Err(Code::INVALID_FIELD),
    }
}
