// SPDX-License-Identifier: MIT OR Apache-2.0

//! The controller: its parts, who of them answers which request, and events.

use crate::app::{Attention, Messages};
use crate::chassis::{Chassis, POWER_DOWN, Policy};
use crate::message::{Code, Request, Response, netfn};
use crate::power::{Alarm, LogAction, Parameters, Power};
use crate::sdr::Repository;
use crate::sel::{Event, Sel};
use crate::sensor::{self, FAN, INLET, POWER, Sensor, TYPE_OTHER};
use crate::{app, dcmi, fru, oem};
use std::time::Duration;

/// How long the controller starts after a reset.
pub const RESET_TIME: Duration = Duration::from_secs(2);
/// An event of a limit (table 42-2): generic, "limit not exceeded" and "limit exceeded".
const LIMIT: u8 = 0x05;
const LIMIT_EXCEEDED: u8 = 0x01;

/// What a controller is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// Serial number of the product, at most 28 bytes: a hardware component's name.
    pub serial: String,
    /// The power model.
    pub power: Parameters,
    /// Period of the usual statistics.
    pub statistics: Duration,
    /// Whether a limit that is exceeded slows the CPUs of the model.
    pub throttles: bool,
    /// What is done when the chassis is to be powered off.
    pub chassis: Policy,
    /// Seconds since 1970 at the time 0.
    pub epoch: u32,
}

/// What the machine is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Whether the interface may interrupt.
    Interrupts(bool),
    /// Whether something waits for the system.
    Attention(Attention),
    /// Power off.
    PowerOff,
    /// Reset.
    ResetMachine,
}

/// The controller.
#[derive(Debug)]
pub struct Bmc {
    /// The power model, measurements and limit.
    pub power: Power,
    /// The sensors.
    pub sensors: Vec<Sensor>,
    /// The event log.
    pub sel: Sel,
    /// The chassis.
    pub chassis: Chassis,
    /// Temperature of the air at the inlet, °C.
    pub inlet: f64,
    pub(crate) messages: Messages,
    pub(crate) statistics: Duration,
    repository: Repository,
    inventory: Vec<u8>,
    guid: [u8; 16],
    now: Duration,
    epoch: u32,
    /// By Set SEL Time.
    set_clock: i64,
    starting_until: Duration,
    told: (bool, Attention),
    effects: Vec<Effect>,
    answered: u64,
}

impl Bmc {
    /// A controller, at the time 0.
    pub fn new(config: Config) -> Self {
        let maximum = config.power.maximum();
        let sensors = vec![Sensor::power(maximum), Sensor::inlet(), Sensor::fan()];
        let mut bmc = Self {
            power: Power::new(config.power, config.throttles, Duration::ZERO),
            repository: Repository::new(&sensors),
            sensors,
            sel: Sel::default(),
            chassis: Chassis::new(config.chassis),
            inlet: 22.0,
            messages: Messages::default(),
            statistics: config.statistics,
            inventory: fru::inventory(&config.serial),
            guid: guid_of(&config.serial),
            now: Duration::ZERO,
            epoch: config.epoch,
            set_clock: 0,
            starting_until: Duration::ZERO,
            told: (false, Attention::None),
            effects: Vec::new(),
            answered: 0,
        };
        bmc.read_sensors();
        bmc
    }

    /// Goes on to `now`.
    pub fn advance(&mut self, now: Duration) {
        self.now = now;
        for alarm in self.power.advance(now) {
            self.alarm(alarm);
        }
        self.read_sensors();
    }

    /// Answers a message of the system; `None` for what is no request. Go on to the present first.
    pub fn handle(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let request = Request::parse(bytes)?;
        let response = if self.now < self.starting_until {
            Response::from(Err(Code::STARTING))
        } else {
            self.answer(&request)
        };
        self.answered += 1;
        Some(response.bytes(&request))
    }

    fn answer(&mut self, request: &Request<'_>) -> Response {
        let outcome = match (request.netfn, request.command) {
            (netfn::CHASSIS, _) => self.chassis.handle(request, &mut self.effects),
            (netfn::SENSOR, _) => sensor::handle(&mut self.sensors, request),
            (netfn::APP, _) => app::handle(self, request),
            (netfn::STORAGE, 0x10..=0x1f) => fru::handle(&self.inventory, request),
            (netfn::STORAGE, 0x20..=0x3f) => self.repository.handle(request),
            (netfn::STORAGE, 0x48) => Ok(self.timestamp().to_le_bytes().into()),
            (netfn::STORAGE, 0x49) => request.exactly().map(|time| self.set_time(time)),
            (netfn::STORAGE, _) => self.sel.handle(request, self.timestamp()),
            (netfn::GROUP, _) => return dcmi::handle(self, request),
            (netfn::OEM, _) => oem::handle(&mut self.power, request),
            _ => Err(Code::INVALID_COMMAND),
        };
        outcome.into()
    }

    /// What the machine is to be told since the last call.
    pub fn effects(&mut self) -> Vec<Effect> {
        let interrupts = self.messages.interrupts();
        let attention = self.messages.attention();
        let told = std::mem::replace(&mut self.told, (interrupts, attention));
        if told.0 != interrupts {
            self.effects.push(Effect::Interrupts(interrupts));
        }
        if told.1 != attention {
            self.effects.push(Effect::Attention(attention));
        }
        std::mem::take(&mut self.effects)
    }

    /// The machine knows nothing of what it was told: tell it again.
    pub fn tell_again(&mut self) {
        self.told = (false, Attention::None);
    }

    /// Logs an event, and lets the system have it.
    pub fn event(&mut self, event: &Event) {
        let time = self.timestamp();
        let logged = if self.messages.logs_events() {
            self.sel.add_event(event, time)
        } else {
            None
        };
        self.messages.offer(event.record(logged.unwrap_or(0), time));
    }

    /// Starts anew. The log, the chassis and the platform's power stay; what the system had
    /// enabled, what waits for it, reservations, measurements and the limit do not.
    pub fn reset(&mut self) {
        self.messages = Messages::default();
        self.sel.cancel_reservation();
        self.repository.cancel_reservation();
        self.power.forget();
        self.starting_until = self.now + RESET_TIME;
    }

    /// Requests answered, also those that were refused.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Seconds since 1970, by the clock of the log.
    pub fn timestamp(&self) -> u32 {
        (i64::from(self.epoch) + self.now.as_secs() as i64 + self.set_clock) as u32
    }

    /// Set SEL Time (31.11).
    fn set_time(&mut self, bytes: [u8; 4]) -> Vec<u8> {
        self.set_clock += i64::from(u32::from_le_bytes(bytes)) - i64::from(self.timestamp());
        Vec::new()
    }

    pub(crate) fn guid(&self) -> [u8; 16] {
        self.guid
    }

    fn alarm(&mut self, alarm: Alarm) {
        let action = self.power.limit().map_or(LogAction::None, |l| l.action);
        if action == LogAction::None {
            return;
        }
        let exceeded = alarm == Alarm::Exceeded;
        self.event(&Event {
            sensor_type: TYPE_OTHER,
            sensor: POWER,
            event_type: LIMIT | if exceeded { 0 } else { sensor::ENDED },
            data: [LIMIT_EXCEEDED, 0xff, 0xff],
        });
        if exceeded && action == LogAction::PowerOff {
            // A policy that refuses it refuses it here, too.
            let _ = self.chassis.control(POWER_DOWN, &mut self.effects);
        }
    }

    fn read_sensors(&mut self) {
        /// The fan idles, and is twice as fast at the greatest power; so for each 10 °C above 22.
        const FAN_IDLE: f64 = 3000.0;
        let watts = self.power.reading();
        let parameters = self.power.model.parameters();
        let load = (watts - parameters.idle) / (parameters.maximum() - parameters.idle).max(1.0);
        let warmth = (self.inlet - 22.0) / 10.0;
        let mut events = Vec::new();
        for sensor in &mut self.sensors {
            events.extend(sensor.read(match sensor.number {
                POWER => watts,
                INLET => self.inlet,
                FAN => FAN_IDLE * (1.0 + load.max(0.0) + warmth.max(0.0)),
                _ => continue,
            }));
        }
        for event in events {
            self.event(&event);
        }
    }
}

/// The same for the same serial number: FNV-1a, twice, marked as a UUID of version 8.
fn guid_of(serial: &str) -> [u8; 16] {
    let hash = |seed: u64| {
        let step = |hash: u64, b: u8| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
        serial.bytes().fold(seed, step)
    };
    let (high, low) = (hash(0xcbf2_9ce4_8422_2325), hash(0x6c62_272e_07bb_0142));
    let mut guid = [0; 16];
    guid[..8].copy_from_slice(&high.to_le_bytes());
    guid[8..].copy_from_slice(&low.to_le_bytes());
    // The last bytes come first (20.8).
    guid[7] = (guid[7] & 0x3f) | 0x80;
    guid[9] = (guid[9] & 0x0f) | 0x80;
    guid
}

#[cfg(test)]
mod tests;
