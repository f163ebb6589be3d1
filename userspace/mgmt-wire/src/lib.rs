// SPDX-License-Identifier: MIT OR Apache-2.0

//! The wire format of M-channel messages.
//!
//! The directory `wire/` is compiled twice, unchanged: into this crate, and into the kernel
//! module. `docs/wire-format.md` describes it byte by byte.

#![cfg_attr(not(test), no_std)]

mod bundle;
mod wire;

pub use bundle::{MAX_PARTS, PART_HEADER_LEN, Parts, part_header};
pub use wire::*;
