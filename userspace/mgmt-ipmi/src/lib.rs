// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the hardware M-channel says: its operations, their IPMI requests, and who may have them.
//!
//! The directory `ipmi/` is compiled twice, unchanged: into this crate, and into `mgmt_ipmi.ko`.
//! `docs/ipmi.md` describes it byte by byte.

#![cfg_attr(not(test), no_std)]

mod ipmi;
mod record;

pub use ipmi::*;
pub use record::SensorRecord;
