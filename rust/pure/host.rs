// SPDX-License-Identifier: GPL-2.0

//! The parts of the kernel module that need no kernel, as a crate for tests on the host.
//!
//! The module compiles the same files: there, `mgmt_main.rs` stands where this file stands here.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub use mgmt_wire as wire;

mod map;
#[path = "mod.rs"]
pub mod pure;
