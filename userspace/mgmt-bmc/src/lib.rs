// SPDX-License-Identifier: MIT OR Apache-2.0

//! A management controller (BMC) for the lab, behind QEMU's `ipmi-bmc-extern`.
//!
//! **It is a test instrument.** It stands for a server's iLO where there is none: its watts come
//! from a model, not from a machine. `docs/bmc.md` has the model's equation, the commands and the
//! faults.
//!
//! All of the library is pure: bytes and the time go in, bytes and [`bmc::Effect`]s come out. The
//! sockets are in the program.
//!
//! | | |
//! |---|---|
//! | [`vm`] | how messages travel to and from the emulator |
//! | [`message`] | what a request and a response are |
//! | [`bmc`] | the controller: who answers which request |
//! | [`app`], [`chassis`], [`sensor`], [`sdr`], [`sel`], [`fru`], [`dcmi`], [`oem`] | the commands |
//! | [`power`] | the power model, its statistics and its limit |
//! | [`fault`] | how the controller misbehaves when told to |
//! | [`control`] | the lines that steer it |
//!
//! Sections are those of the IPMI specification v2.0 rev. 1.1, or, where it says so, of the DCMI
//! specification v1.5.

pub mod app;
pub mod bmc;
pub mod chassis;
pub mod control;
pub mod dcmi;
pub mod fault;
pub mod fru;
pub mod message;
pub mod oem;
pub mod power;
mod random;
pub mod sdr;
pub mod sel;
pub mod sensor;
pub mod vm;
