// SPDX-License-Identifier: MIT OR Apache-2.0

//! The Data Center Manageability Interface v1.5: power reading and power limit. Sections are its.

use crate::bmc::Bmc;
use crate::message::{Code, Outcome, Request, Response};
use crate::power::{Limit, LimitError, LogAction, Power};
use crate::sdr::Repository;
use crate::sel;
use crate::sensor::{Sensor, TYPE_TEMPERATURE};
use std::time::Duration;

/// The group: first byte of each request and response.
pub const GROUP: u8 = 0xdc;

/// Periods of the enhanced statistics; each as its byte, a number and a unit in bits 6 and 7.
const PERIODS: [(u8, Duration); 4] = [
    (0x05, Duration::from_secs(5)),
    (0x0f, Duration::from_secs(15)),
    (0x1e, Duration::from_secs(30)),
    (0x41, Duration::from_secs(60)),
];

/// Exception actions of a limit.
const ACTION_NONE: u8 = 0x00;
const ACTION_POWER_OFF: u8 = 0x01;
const ACTION_LOG: u8 = 0x11;

/// Answers a request of this group.
pub fn handle(bmc: &mut Bmc, request: &Request<'_>) -> Response {
    let outcome = match request.data.split_first() {
        Some((&GROUP, data)) => {
            let inner = Request { data, ..*request };
            answer(bmc, &inner)
        }
        // Another group, or none.
        _ => Err(Code::INVALID_COMMAND),
    };
    let mut response = match outcome {
        Ok(response) => response,
        Err(code) => Response::from(Err(code)),
    };
    response.data.insert(0, GROUP);
    response
}

fn answer(bmc: &mut Bmc, request: &Request<'_>) -> Result<Response, Code> {
    match request.command {
        0x01 => capabilities(request.exactly()?),
        0x02 => reading(
            &bmc.power,
            bmc.statistics,
            bmc.timestamp(),
            request.exactly()?,
        ),
        0x03 => return Ok(get_limit(&bmc.power)),
        0x04 => set_limit(&mut bmc.power, request.exactly()?),
        0x05 => activate(&mut bmc.power, request.exactly()?),
        0x07 => sensors(&bmc.sensors, request.exactly()?),
        _ => Err(Code::INVALID_COMMAND),
    }
    .map(|data| Response::from(Ok(data)))
}

/// Get DCMI Capabilities Info (6.1.1).
fn capabilities([parameter]: [u8; 1]) -> Outcome {
    const CONFORMANCE: [u8; 2] = [1, 5];
    const REVISION: u8 = 2;
    const POWER_MANAGEMENT: u8 = 0x01;
    const KCS: u8 = 0x01;
    const CONTROLLER: u8 = 0x20;
    const NONE: u8 = 0xff;
    let mut out = CONFORMANCE.to_vec();
    out.push(REVISION);
    match parameter {
        1 => out.extend([0, POWER_MANAGEMENT, KCS]),
        2 => {
            out.extend((sel::CAPACITY as u16).to_le_bytes());
            out.extend([0, 0, 1]); // temperatures are read each second
        }
        3 => out.extend([CONTROLLER, 0]),
        4 => out.extend([NONE; 3]),
        5 => {
            out.push(PERIODS.len() as u8);
            out.extend(PERIODS.map(|(byte, _)| byte));
        }
        _ => return Err(Code::OUT_OF_RANGE),
    }
    Ok(out)
}

/// Get Power Reading (6.6.1).
fn reading(power: &Power, usual: Duration, time: u32, [mode, byte, _]: [u8; 3]) -> Outcome {
    const SYSTEM: u8 = 0x01;
    const ENHANCED: u8 = 0x02;
    const MEASURES: u8 = 0x40;
    // The period is told as it was asked for.
    let (period, told) = match mode {
        SYSTEM => (usual, usual.as_millis() as u32),
        ENHANCED => {
            let found = PERIODS.iter().find(|(b, _)| *b == byte);
            (found.ok_or(Code::OUT_OF_RANGE)?.1, byte.into())
        }
        _ => return Err(Code::INVALID_FIELD),
    };
    let statistics = power.statistics(period);
    let mut out = Vec::new();
    for watts in [
        statistics.current,
        statistics.minimum,
        statistics.maximum,
        statistics.average,
    ] {
        out.extend((watts.round() as u16).to_le_bytes());
    }
    out.extend(time.to_le_bytes());
    out.extend(told.to_le_bytes());
    out.push(MEASURES);
    Ok(out)
}

/// Get Power Limit (6.6.2). What is set is told also where it does not hold, by another code.
fn get_limit(power: &Power) -> Response {
    const NOT_ACTIVE: Code = Code(0x80);
    let mut data = vec![0, 0];
    let limit = power.limit().copied().unwrap_or(Limit {
        action: LogAction::None,
        watts: 0,
        correction_ms: 0,
        sampling_s: 0,
    });
    data.push(match limit.action {
        LogAction::None => ACTION_NONE,
        LogAction::PowerOff => ACTION_POWER_OFF,
        LogAction::Log => ACTION_LOG,
    });
    data.extend(limit.watts.to_le_bytes());
    data.extend(limit.correction_ms.to_le_bytes());
    data.extend([0, 0]);
    data.extend(limit.sampling_s.to_le_bytes());
    let code = if power.limit_active() {
        Code::OK
    } else {
        NOT_ACTIVE
    };
    Response { code, data }
}

/// Set Power Limit (6.6.3).
fn set_limit(power: &mut Power, data: [u8; 14]) -> Outcome {
    let [_, _, _, action, w0, w1, c0, c1, c2, c3, _, _, s0, s1] = data;
    let action = match action {
        ACTION_NONE => LogAction::None,
        ACTION_POWER_OFF => LogAction::PowerOff,
        ACTION_LOG => LogAction::Log,
        _ => return Err(Code::INVALID_FIELD),
    };
    let limit = Limit {
        action,
        watts: u16::from_le_bytes([w0, w1]),
        correction_ms: u32::from_le_bytes([c0, c1, c2, c3]),
        sampling_s: u16::from_le_bytes([s0, s1]),
    };
    power.set_limit(limit).map_err(code_of)?;
    Ok(Vec::new())
}

/// Activate/Deactivate Power Limit (6.6.4).
fn activate(power: &mut Power, [active, _, _]: [u8; 3]) -> Outcome {
    let active = match active {
        0 => false,
        1 => true,
        _ => return Err(Code::INVALID_FIELD),
    };
    power.activate_limit(active).map_err(code_of)?;
    Ok(Vec::new())
}

fn code_of(error: LimitError) -> Code {
    match error {
        LimitError::Watts => Code(0x84),
        LimitError::Correction => Code(0x85),
        LimitError::Sampling => Code(0x89),
        LimitError::NotSet => Code::NOT_IN_STATE,
    }
}

/// Get DCMI Sensor Info (6.5.2): the records of the temperature sensors of an entity.
fn sensors(sensors: &[Sensor], [kind, entity, instance, start]: [u8; 4]) -> Outcome {
    const AT_MOST: usize = 8;
    if kind != TYPE_TEMPERATURE {
        return Err(Code::OUT_OF_RANGE);
    }
    let all: Vec<u16> = sensors
        .iter()
        .enumerate()
        .filter(|(_, s)| s.kind == kind && s.entity == entity && instance <= 1)
        .map(|(place, _)| Repository::record_id(place))
        .collect();
    // Instances count from 1; 0 asks for all of them, from `start` on.
    let skipped = usize::from(start).saturating_sub(1);
    let found: Vec<u16> = all.iter().copied().skip(skipped).take(AT_MOST).collect();
    let mut out = vec![all.len() as u8, found.len() as u8];
    out.extend(found.iter().flat_map(|id| id.to_le_bytes()));
    Ok(out)
}
