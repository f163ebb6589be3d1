// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a message of kind presence says (paper Figure 6).

use super::WireError;

/// Bytes of the payload of a presence message: the event, and zeros.
pub const PRESENCE_LEN: usize = 8;

/// What a presence message asks for or tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// An endpoint wants to hear who binds and frees the App_ID that the message goes to.
    Watch = 1,
    /// It no longer wants to.
    Unwatch = 2,
    /// The message's source is there.
    Up = 3,
    /// The message's source is not there, or not any more.
    Down = 4,
    /// The message's source is still there, by this name now: it has moved, or was suspended.
    Moved = 5,
}

impl Event {
    /// Decodes the payload of a presence message.
    pub fn decode(payload: &[u8]) -> Result<Self, WireError> {
        let payload: &[u8; PRESENCE_LEN] = payload.try_into().map_err(|_| WireError::Length)?;
        match payload {
            [1, 0, 0, 0, 0, 0, 0, 0] => Ok(Self::Watch),
            [2, 0, 0, 0, 0, 0, 0, 0] => Ok(Self::Unwatch),
            [3, 0, 0, 0, 0, 0, 0, 0] => Ok(Self::Up),
            [4, 0, 0, 0, 0, 0, 0, 0] => Ok(Self::Down),
            [5, 0, 0, 0, 0, 0, 0, 0] => Ok(Self::Moved),
            _ => Err(WireError::Reserved),
        }
    }

    /// The payload of a presence message.
    pub fn encode(self) -> [u8; PRESENCE_LEN] {
        [self as u8, 0, 0, 0, 0, 0, 0, 0]
    }

    /// Whether an endpoint may send it; the others are the bridge's own words.
    pub fn is_from_endpoint(self) -> bool {
        matches!(self, Self::Watch | Self::Unwatch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_payload_of_one_event_byte_is_that_event_or_none() {
        for first in 0..=u8::MAX {
            let bytes = [first, 0, 0, 0, 0, 0, 0, 0];
            match Event::decode(&bytes) {
                Ok(event) => {
                    assert_eq!(event as u8, first);
                    assert_eq!(event.encode(), bytes);
                    assert_eq!(event.is_from_endpoint(), first < 3);
                }
                Err(e) => {
                    assert!(!(1..=5).contains(&first));
                    assert_eq!(e, WireError::Reserved);
                }
            }
        }
    }

    #[test]
    fn the_rest_is_zero_and_the_length_is_exact() {
        for at in 1..PRESENCE_LEN {
            let mut bytes = Event::Up.encode();
            bytes[at] = 1;
            assert_eq!(Event::decode(&bytes), Err(WireError::Reserved), "byte {at}");
        }
        for length in (0..20).filter(|&length| length != PRESENCE_LEN) {
            let mut bytes = [0; 20];
            bytes[0] = 1;
            assert_eq!(Event::decode(&bytes[..length]), Err(WireError::Length));
        }
    }
}
