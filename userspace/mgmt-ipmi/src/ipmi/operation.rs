// SPDX-License-Identifier: MIT OR Apache-2.0

//! What an M-channel request asks for, and the IPMI requests that this takes.

use super::{
    Answer, App, Bytes, Limit, Reading, Request, SensorReading, Status,
    class::{APP, CHASSIS, DCMI, GROUP, SENSOR, STORAGE, is_harmless},
};

/// Completion code of Get Power Limit where none is active (DCMI table 6-18).
const NOT_ACTIVE: u8 = 0x80;

/// The payload of an M-channel request.
// There is nothing to allocate with.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    /// Watts.
    PowerReading,
    /// The limit, and whether it is active.
    PowerLimit,
    /// Sets a limit, and reads it back.
    SetPowerLimit(Limit),
    /// Has the limit hold, or no longer, and reads that back.
    ActivatePowerLimit(bool),
    /// The reading of a sensor, by its number.
    Sensor(u8),
    /// Part of a sensor's record: the record's id, where it begins, how many bytes.
    SensorRecord(u16, u8, u8),
    /// How much is in the log.
    SelInfo,
    /// An entry of the log, by its id: 0 is the first, 0xffff the last.
    SelEntry(u16),
    /// The chassis' status.
    ChassisStatus,
    /// Off, on, cycle, reset, diagnostic interrupt, soft off: 0 to 5 (28.3).
    ChassisControl(u8),
    /// Any IPMI request.
    Raw(Request),
}

/// What follows a response.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Next {
    /// Another request.
    Send(Request),
    /// The end.
    Answer(Answer),
}

impl Operation {
    /// Reads the payload of a request to this App_ID, and decides whether that may have it.
    pub fn decode(app: App, payload: &[u8]) -> Result<Self, Status> {
        let decoded = match (app, payload) {
            (App::Power, [1]) => Some(Self::PowerReading),
            (App::Power, [2]) => Some(Self::PowerLimit),
            (App::Power, [3, limit @ ..]) => Limit::decode(limit).map(Self::SetPowerLimit),
            (App::Power, [4, on @ (0 | 1)]) => Some(Self::ActivatePowerLimit(*on == 1)),
            (App::Sensors, [1, number]) => Some(Self::Sensor(*number)),
            (App::Sensors, [2, low, high, offset, count]) => {
                let id = u16::from_le_bytes([*low, *high]);
                Some(Self::SensorRecord(id, *offset, *count))
            }
            (App::Sel, [1]) => Some(Self::SelInfo),
            (App::Sel, [2, low, high]) => Some(Self::SelEntry(u16::from_le_bytes([*low, *high]))),
            (App::Chassis, [1]) => Some(Self::ChassisStatus),
            (App::ChassisControl, [1, action @ 0..=5]) => Some(Self::ChassisControl(*action)),
            (App::Raw | App::Admin, [netfn, command, data @ ..]) => {
                return Self::decode_raw(app, *netfn, *command, data);
            }
            _ => None,
        };
        decoded.ok_or(Status::Malformed)
    }

    fn decode_raw(app: App, netfn: u8, command: u8, data: &[u8]) -> Result<Self, Status> {
        // An odd one is a response's.
        if netfn & 1 == 1 || netfn > 0x3e {
            return Err(Status::Malformed);
        }
        let data = Bytes::new(data).ok_or(Status::Malformed)?;
        let request = Request {
            netfn,
            command,
            data,
        };
        // Messages to other controllers and their events are the driver's to handle (22.6 to 22.8).
        let is_drivers = netfn == APP && matches!(command, 0x33..=0x35);
        if is_drivers || app != App::Admin && !is_harmless(&request) {
            return Err(Status::Refused);
        }
        Ok(Self::Raw(request))
    }

    /// The payload of the request.
    pub fn encode(&self) -> Bytes {
        let mut out = Bytes::EMPTY;
        let all: Option<()> = match self {
            Self::PowerReading | Self::SelInfo | Self::ChassisStatus => out.push(&[1]),
            Self::PowerLimit => out.push(&[2]),
            Self::SetPowerLimit(limit) => out.push(&[3]).and_then(|()| out.push(&limit.encode())),
            Self::ActivatePowerLimit(on) => out.push(&[4, (*on).into()]),
            Self::Sensor(number) => out.push(&[1, *number]),
            Self::SensorRecord(id, offset, count) => {
                let [low, high] = id.to_le_bytes();
                out.push(&[2, low, high, *offset, *count])
            }
            Self::SelEntry(id) => {
                let [low, high] = id.to_le_bytes();
                out.push(&[2, low, high])
            }
            Self::ChassisControl(action) => out.push(&[1, *action]),
            Self::Raw(request) => out
                .push(&[request.netfn, request.command])
                .and_then(|()| out.push(&request.data)),
        };
        debug_assert!(all.is_some() || matches!(self, Self::Raw(_)));
        out
    }

    /// The first IPMI request.
    pub fn first(&self) -> Request {
        match *self {
            Self::PowerReading => Request::with(GROUP, 0x02, [DCMI, 1, 0, 0]),
            Self::PowerLimit => get_limit(),
            Self::SetPowerLimit(limit) => {
                let [action, w0, w1, c0, c1, c2, c3, s0, s1] = limit.encode();
                let data = [DCMI, 0, 0, 0, action, w0, w1, c0, c1, c2, c3, 0, 0, s0, s1];
                Request::with(GROUP, 0x04, data)
            }
            Self::ActivatePowerLimit(on) => Request::with(GROUP, 0x05, [DCMI, on.into(), 0, 0]),
            Self::Sensor(number) => Request::with(SENSOR, 0x2d, [number]),
            Self::SensorRecord(..) => Request::bare(STORAGE, 0x22),
            Self::SelInfo => Request::bare(STORAGE, 0x40),
            Self::SelEntry(id) => {
                let [low, high] = id.to_le_bytes();
                // No reservation is needed for a whole entry (31.5).
                Request::with(STORAGE, 0x43, [0, 0, low, high, 0, 0xff])
            }
            Self::ChassisStatus => Request::bare(CHASSIS, 0x01),
            Self::ChassisControl(action) => Request::with(CHASSIS, 0x02, [action]),
            Self::Raw(request) => request,
        }
    }

    /// What follows the response to the request of this step, from 0.
    ///
    /// `response` begins with the completion code.
    pub fn next(&self, step: u8, response: &[u8]) -> Next {
        let Some((&code, data)) = response.split_first() else {
            return Next::Answer(Status::Nonsense.into());
        };
        if let Self::Raw(_) = self {
            return answer(code, Bytes::new(data));
        }
        let is_limit = match self {
            Self::PowerLimit => true,
            Self::SetPowerLimit(_) | Self::ActivatePowerLimit(_) => step == 1,
            _ => false,
        };
        if code != 0 && !(is_limit && code == NOT_ACTIVE) {
            return Next::Answer(Answer::new(Status::Answered, code));
        }
        match *self {
            Self::PowerReading => {
                let reading = of_dcmi(data).filter(|data| Reading::decode(data).is_some());
                answer(0, reading.and_then(Bytes::new))
            }
            Self::PowerLimit => limit_answer(code, data, |_, _| true),
            Self::SetPowerLimit(_) | Self::ActivatePowerLimit(_) if step == 0 => {
                Next::Send(get_limit())
            }
            Self::SetPowerLimit(wanted) => limit_answer(code, data, |_, limit| limit == wanted),
            Self::ActivatePowerLimit(on) => limit_answer(code, data, |active, _| active == on),
            Self::Sensor(_) => {
                let is_right = SensorReading::decode(data).is_some();
                answer(0, is_right.then_some(data).and_then(Bytes::new))
            }
            Self::SensorRecord(id, offset, count) if step == 0 => match *data {
                [r0, r1] => {
                    let [low, high] = id.to_le_bytes();
                    let data = [r0, r1, low, high, offset, count];
                    Next::Send(Request::with(STORAGE, 0x23, data))
                }
                _ => Next::Answer(Status::Nonsense.into()),
            },
            Self::SensorRecord(_, _, count) => {
                // The id of the next record, and as many bytes as there are of those asked for.
                let most = 2 + usize::from(count);
                let is_right = data.len() >= 2 && data.len() <= most;
                answer(0, is_right.then_some(data).and_then(Bytes::new))
            }
            Self::SelInfo => exactly(data, 14),
            Self::SelEntry(_) => exactly(data, 18),
            Self::ChassisStatus => {
                let is_right = matches!(data.len(), 3 | 4);
                answer(0, is_right.then_some(data).and_then(Bytes::new))
            }
            Self::ChassisControl(_) | Self::Raw(_) => exactly(data, 0),
        }
    }
}

fn get_limit() -> Request {
    Request::with(GROUP, 0x03, [DCMI, 0, 0])
}

/// What follows the group in a response of DCMI.
fn of_dcmi(data: &[u8]) -> Option<&[u8]> {
    match data {
        [DCMI, rest @ ..] => Some(rest),
        _ => None,
    }
}

/// An answer with these data; without, they were not what they should be.
fn answer(code: u8, data: Option<Bytes>) -> Next {
    Next::Answer(match data {
        Some(data) => Answer {
            status: Status::Answered,
            code,
            data,
        },
        None => Status::Nonsense.into(),
    })
}

fn exactly(data: &[u8], length: usize) -> Next {
    answer(
        0,
        (data.len() == length).then_some(data).and_then(Bytes::new),
    )
}

/// Whether it is active, and the limit (DCMI table 6-18); [`Status::Differs`] if that is not what was
/// to be.
fn limit_answer(code: u8, data: &[u8], is_wanted: impl Fn(bool, Limit) -> bool) -> Next {
    let is_active = code == 0;
    let limit = match of_dcmi(data) {
        Some([_, _, a, w0, w1, c0, c1, c2, c3, _, _, s0, s1]) => {
            Limit::decode(&[*a, *w0, *w1, *c0, *c1, *c2, *c3, *s0, *s1])
        }
        // A BMC that has none need not tell one.
        Some([]) | None if !is_active => Limit::decode(&[0; Limit::LEN]),
        _ => None,
    };
    let Some(limit) = limit else {
        return Next::Answer(Status::Nonsense.into());
    };
    if !is_wanted(is_active, limit) {
        return Next::Answer(Status::Differs.into());
    }
    let mut out = Bytes::EMPTY;
    let all = out
        .push(&[is_active.into()])
        .and_then(|()| out.push(&limit.encode()));
    answer(0, all.map(|()| out))
}
