// SPDX-License-Identifier: MIT OR Apache-2.0

//! The fabric: M-channels between the management VMs of different hosts. `docs/fabric.md`.
//!
//! ```text
//! /dev/mgmt (fabric link) ── node ──┬── session with a peer (mutual TLS)
//!                                   └── session with another
//! ```
//!
//! What can be wrong without a network is in [`outgoing`], [`copies`], [`incoming`], [`places`], [`holders`]
//! and [`frame`].

pub mod arrivals;
pub mod bridge;
pub mod certificates;
pub mod copies;
pub mod frame;
pub mod holders;
pub mod incoming;
pub mod journal;
pub mod node;
pub mod outgoing;
pub mod places;
mod session;
pub mod tls;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// A host: the address (MVM_IP) of its management VM.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(pub [u8; 16]);

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        Self(match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        })
    }
}

impl Host {
    /// The address.
    pub fn ip(self) -> IpAddr {
        Ipv6Addr::from(self.0).to_canonical()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}
