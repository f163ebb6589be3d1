// SPDX-License-Identifier: MIT OR Apache-2.0

//! The wire format of M-channel messages.
//!
//! The directory `wire/` is compiled twice, unchanged: into this crate, and into the kernel
//! module. `docs/wire-format.md` describes it byte by byte.

#![no_std]

mod wire;

pub use wire::*;
