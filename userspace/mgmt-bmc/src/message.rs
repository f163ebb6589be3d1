// SPDX-License-Identifier: MIT OR Apache-2.0

//! A request, its response, and the completion codes (section 5).

/// Network functions of requests (table 5-1); a response has the next, odd, one.
pub mod netfn {
    /// Chassis.
    pub const CHASSIS: u8 = 0x00;
    /// Sensors and events.
    pub const SENSOR: u8 = 0x04;
    /// The controller itself, and messages.
    pub const APP: u8 = 0x06;
    /// Inventory, sensor records, event log.
    pub const STORAGE: u8 = 0x0a;
    /// A group's extension; its first byte tells the group.
    pub const GROUP: u8 = 0x2c;
    /// A maker's own; its first three bytes tell the maker.
    pub const OEM: u8 = 0x2e;
}

/// A completion code (table 5-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u8);

impl Code {
    /// Completed.
    pub const OK: Self = Self(0x00);
    /// No such command here.
    pub const INVALID_COMMAND: Self = Self(0xc1);
    /// No room.
    pub const OUT_OF_SPACE: Self = Self(0xc4);
    /// The reservation is not the one that holds.
    pub const RESERVATION_CANCELED: Self = Self(0xc5);
    /// The request has too many bytes, or too few.
    pub const LENGTH_INVALID: Self = Self(0xc7);
    /// A parameter is out of range.
    pub const OUT_OF_RANGE: Self = Self(0xc9);
    /// So many bytes cannot be had.
    pub const CANNOT_RETURN: Self = Self(0xca);
    /// No such sensor or record.
    pub const NOT_PRESENT: Self = Self(0xcb);
    /// A field has a value that it may not have.
    pub const INVALID_FIELD: Self = Self(0xcc);
    /// The controller is starting.
    pub const STARTING: Self = Self(0xd2);
    /// Not in this state.
    pub const NOT_IN_STATE: Self = Self(0xd5);
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Network function, even.
    pub netfn: u8,
    /// Logical unit.
    pub lun: u8,
    /// Command.
    pub command: u8,
    /// What follows.
    pub data: &'a [u8],
}

impl<'a> Request<'a> {
    /// Of the bytes on the system interface (section 9.2): network function and unit, command,
    /// data. `None` for what is too short, or is a response.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (&[first, command], data) = bytes.split_first_chunk()?;
        let netfn = first >> 2;
        (netfn & 1 == 0).then_some(Self {
            netfn,
            lun: first & 3,
            command,
            data,
        })
    }

    /// The data, where it has exactly so many bytes.
    pub fn exactly<const N: usize>(&self) -> Result<[u8; N], Code> {
        self.data.try_into().map_err(|_| Code::LENGTH_INVALID)
    }
}

/// A response: a completion code, and data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// How it went.
    pub code: Code,
    /// What follows the code.
    pub data: Vec<u8>,
}

impl Response {
    /// The bytes on the system interface (section 9.3).
    pub fn bytes(&self, request: &Request<'_>) -> Vec<u8> {
        let first = ((request.netfn | 1) << 2) | request.lun;
        let mut out = vec![first, request.command, self.code.0];
        out.extend(&self.data);
        out
    }
}

/// Data, or a code that says why there is none.
pub type Outcome = Result<Vec<u8>, Code>;

impl From<Outcome> for Response {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Ok(data) => Self {
                code: Code::OK,
                data,
            },
            Err(code) => Self {
                code,
                data: Vec::new(),
            },
        }
    }
}

/// `count` bytes of `all` from `offset` on, or those that are there (`0xff` asks for all).
pub(crate) fn part(all: &[u8], offset: usize, count: u8) -> Outcome {
    let rest = all.get(offset..).ok_or(Code::OUT_OF_RANGE)?;
    Ok(rest[..rest.len().min(usize::from(count))].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_response_answers_its_request() {
        let request = Request::parse(&[0x19, 0x01, 9]).unwrap();
        assert_eq!(
            (request.netfn, request.lun, request.command),
            (0x06, 1, 0x01)
        );
        assert_eq!(request.exactly::<1>(), Ok([9]));
        assert_eq!(request.exactly::<2>(), Err(Code::LENGTH_INVALID));
        let response = Response::from(Ok(vec![5]));
        assert_eq!(response.bytes(&request), [0x1d, 0x01, 0, 5]);
        let response = Response::from(Err(Code::NOT_PRESENT));
        assert_eq!(response.bytes(&request), [0x1d, 0x01, 0xcb]);
    }

    #[test]
    fn what_is_no_request() {
        for bytes in [&[][..], &[0x18], &[0x1c, 0x01, 0x00]] {
            assert_eq!(Request::parse(bytes), None);
        }
    }

    proptest! {
        #[test]
        fn a_part_is_of_the_whole(
            all in prop::collection::vec(any::<u8>(), 0..100), offset in 0usize..120, count: u8,
        ) {
            match part(&all, offset, count) {
                Ok(found) => {
                    prop_assert!(found.len() <= usize::from(count));
                    prop_assert!(all[offset..].starts_with(&found));
                }
                Err(code) => prop_assert!(code == Code::OUT_OF_RANGE && offset > all.len()),
            }
        }
    }
}
