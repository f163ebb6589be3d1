// SPDX-License-Identifier: MIT OR Apache-2.0

//! What was taken of one peer, so that nothing is taken twice; and what may come from it.

use crate::Host;
use crate::places::Uuid;
use mgmt_wire::{Component, HEADER_LEN, Header, Kind, Reason, Serial};

/// Where a peer's messages stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    /// Of the peer's bridge; 0: none is known.
    pub lineage: u64,
    /// All of that up to this number were taken or refused.
    pub received: u64,
}

impl Incoming {
    /// A session begins with a peer whose bridge has this lineage.
    pub fn begin(&mut self, lineage: u64) {
        if self.lineage != lineage {
            *self = Self {
                lineage,
                received: 0,
            };
        }
    }

    /// Whether a message with this number is a new one.
    pub fn is_new(&self, number: u64) -> bool {
        number > self.received
    }

    /// A message was taken, or refused.
    pub fn took(&mut self, number: u64) {
        self.received = self.received.max(number);
    }
}

/// Whether a peer may send such a message: whole, and from a component of its own, hardware if `has` says
/// so. What others had sent to a guest there it may bring to where that is now, if `may_bring` says so.
pub fn check(
    peer: Host,
    bytes: &[u8],
    may_bring: impl Fn(&Uuid) -> bool,
    has: impl Fn(&Serial) -> bool,
) -> Result<Header, Reason> {
    let header = Header::of_message(bytes).map_err(|_| Reason::Denied)?;
    if bytes.len() != HEADER_LEN + header.length as usize || header.source.app.is_none() {
        return Err(Reason::Denied);
    }
    match header.source.component {
        Component::Vm { mvm_ip, .. } if mvm_ip == peer.0 => Ok(header),
        Component::Vm { .. } => match &header.destination.component {
            Component::Stable(guest) if may_bring(guest) => Ok(header),
            _ => Err(Reason::Denied),
        },
        Component::Hardware(serial) if has(&serial) => Ok(header),
        // What could not be delivered bears the name that it was sent to, a stable one perhaps: it
        // goes nowhere but back to who sent it.
        Component::Stable(_) | Component::Hardware(_) if header.kind == Kind::Undeliverable => {
            Ok(header)
        }
        _ => Err(Reason::Denied),
    }
}

#[cfg(test)]
mod tests;
