// SPDX-License-Identifier: MIT OR Apache-2.0

//! A whole message: header, application header, application data.

use crate::error::reason_text;
use crate::{Address, Flags, HEADER_LEN, Header, Kind, Reason, Result};

/// A message as it is sent or was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The M-channel header. [`Message::encode`] fills in its length.
    pub header: Header,
    /// Application header and application data.
    pub payload: Vec<u8>,
}

impl Message {
    /// A message of `kind` to `destination`.
    pub fn new(kind: Kind, destination: Address, payload: Vec<u8>) -> Self {
        Self {
            header: Header::new(kind, destination, payload.len() as u32),
            payload,
        }
    }

    /// A message of kind data without an application header.
    pub fn data(destination: Address, payload: Vec<u8>) -> Self {
        Self::new(Kind::Data, destination, payload)
    }

    /// A message of `kind` with an application header in front of its data.
    pub fn with_app_header(
        kind: Kind,
        destination: Address,
        app_header: &[u8],
        data: &[u8],
    ) -> Self {
        let mut message = Self::new(kind, destination, [app_header, data].concat());
        message.header.app_header_length = app_header.len() as u32;
        message
    }

    /// The answer to this message: to its source, with its correlation id.
    pub fn reply(&self, payload: Vec<u8>) -> Self {
        let mut reply = Self::new(Kind::Reply, self.header.source, payload);
        reply.header.correlation = self.header.correlation;
        reply
    }

    /// Whether its sender waits for a reply.
    pub fn is_request(&self) -> bool {
        self.header.flags.contains(Flags::REQUEST)
    }

    /// The application header.
    pub fn app_header(&self) -> &[u8] {
        self.split().0
    }

    /// The application data behind the application header.
    pub fn app_data(&self) -> &[u8] {
        self.split().1
    }

    fn split(&self) -> (&[u8], &[u8]) {
        let at = (self.header.app_header_length as usize).min(self.payload.len());
        self.payload.split_at(at)
    }

    /// Why this message came back, in words; `None` if it is not an undeliverable one.
    pub fn undeliverable_text(&self) -> Option<&'static str> {
        (self.header.reason != Reason::None).then(|| reason_text(self.header.reason))
    }

    /// The bytes of one `write`.
    pub fn encode(&self) -> Vec<u8> {
        let header = Header {
            length: self.payload.len() as u32,
            ..self.header
        };
        let mut bytes = Vec::with_capacity(HEADER_LEN + self.payload.len());
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// The message of one `read`.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let header = Header::of_message(bytes)?;
        Ok(Self {
            header,
            payload: bytes[HEADER_LEN..].to_vec(),
        })
    }
}
