// SPDX-License-Identifier: MIT OR Apache-2.0

//! xenstore's wire protocol: `xen/include/public/io/xs_wire.h` and `docs/misc/xenstore.txt`.

use crate::{Error, Result};

/// Bytes of a message's header: type, request id, transaction id, length; native endian.
pub(crate) const HEADER: usize = 16;
/// Bytes of the largest payload, either way.
pub(crate) const PAYLOAD_MAX: usize = 4096;

/// `enum xsd_sockmsg_type`, as far as it is used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Op {
    Directory = 1,
    Read = 2,
    GetPerms = 3,
    Watch = 4,
    Unwatch = 5,
    TransactionStart = 6,
    TransactionEnd = 7,
    Write = 11,
    Mkdir = 12,
    Rm = 13,
    SetPerms = 14,
    WatchEvent = 15,
    Error = 16,
    IsDomainIntroduced = 17,
    DirectoryPart = 22,
}

impl Op {
    /// For error messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Directory | Self::DirectoryPart => "list",
            Self::Read => "read",
            Self::GetPerms => "read permissions of",
            Self::Watch => "watch",
            Self::Unwatch => "unwatch",
            Self::TransactionStart => "start a transaction",
            Self::TransactionEnd => "end a transaction",
            Self::Write => "write",
            Self::Mkdir => "make",
            Self::Rm => "remove",
            Self::SetPerms => "set permissions of",
            Self::WatchEvent => "watch event",
            Self::Error => "error",
            Self::IsDomainIntroduced => "ask about domain",
        }
    }
}

/// A message from xenstored.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) op: u32,
    pub(crate) request: u32,
    pub(crate) transaction: u32,
    pub(crate) payload: Vec<u8>,
}

impl Packet {
    pub(crate) fn is(&self, op: Op) -> bool {
        self.op == op as u32
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let length = self.payload.len() as u32;
        let mut out = Vec::with_capacity(HEADER + self.payload.len());
        for word in [self.op, self.request, self.transaction, length] {
            out.extend_from_slice(&word.to_ne_bytes());
        }
        out.extend_from_slice(&self.payload);
        out
    }

    /// Takes the first whole message off `buffer`; `None` if there is none yet.
    pub(crate) fn take(buffer: &mut Vec<u8>) -> Result<Option<Self>> {
        let word = |i: usize| {
            let bytes = buffer.get(i * 4..i * 4 + 4)?;
            Some(u32::from_ne_bytes(bytes.try_into().ok()?))
        };
        let (Some(op), Some(request), Some(transaction), Some(length)) =
            (word(0), word(1), word(2), word(3))
        else {
            return Ok(None);
        };
        let length = length as usize;
        if length > PAYLOAD_MAX {
            return Err(Error::Protocol("message too long"));
        }
        if buffer.len() < HEADER + length {
            return Ok(None);
        }
        let payload = buffer[HEADER..HEADER + length].to_vec();
        buffer.drain(..HEADER + length);
        Ok(Some(Self {
            op,
            request,
            transaction,
            payload,
        }))
    }
}

/// The NUL-terminated strings of a payload. What is not UTF-8 is a hostile name, and replaced.
pub(crate) fn strings(payload: &[u8]) -> Vec<String> {
    let mut parts: Vec<_> = payload
        .split(|&b| b == 0)
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect();
    // Behind the last NUL there is nothing.
    if parts.last().is_some_and(String::is_empty) {
        parts.pop();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Messages are found whole in whatever pieces they come.
        #[test]
        fn packets_survive_any_split(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..6),
            piece in 1usize..40,
        ) {
            let packets: Vec<_> = payloads.into_iter().enumerate().map(|(i, payload)| Packet {
                op: Op::Read as u32, request: i as u32, transaction: 9, payload,
            }).collect();
            let bytes: Vec<u8> = packets.iter().flat_map(Packet::encode).collect();
            let (mut buffer, mut got) = (Vec::new(), Vec::new());
            for part in bytes.chunks(piece) {
                buffer.extend_from_slice(part);
                while let Some(packet) = Packet::take(&mut buffer).unwrap() {
                    got.push(packet);
                }
            }
            prop_assert_eq!(got, packets);
            prop_assert!(buffer.is_empty());
        }

        /// Nonsense is an error or incomplete, never a panic or a large buffer.
        #[test]
        fn nonsense_does_not_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Packet::take(&mut bytes);
            let _ = strings(&bytes);
        }
    }

    #[test]
    fn strings_are_split_at_nul() {
        assert_eq!(strings(b"a\0b\0"), ["a", "b"]);
        assert_eq!(strings(b"a\0b"), ["a", "b"]);
        assert_eq!(strings(b"a\0\0b\0"), ["a", "", "b"]);
        assert!(strings(b"").is_empty());
    }
}
