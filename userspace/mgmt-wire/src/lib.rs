// SPDX-License-Identifier: MIT OR Apache-2.0

//! The wire format of M-channel messages.
//!
//! The directory `wire/` is compiled twice, unchanged: into this crate, and into the kernel
//! module. `docs/wire-format.md` describes it byte by byte.

#![cfg_attr(not(test), no_std)]

mod wire;

pub use wire::*;
