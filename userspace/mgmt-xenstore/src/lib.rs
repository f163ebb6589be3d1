// SPDX-License-Identifier: MIT OR Apache-2.0

//! A small xenstore client, and the nodes that attach a guest to an M-channel.
//!
//! The toolstack knows no device of kind `mgmt`, so [`device::attach`] and [`device::detach`] write
//! what it writes for the kinds that it knows.
//!
//! What a guest may write (its own nodes, and so every name and value below them) is untrusted:
//! sizes are bounded by the protocol and checked here, and nothing is parsed but small numbers.

mod client;
pub mod device;
mod error;
#[cfg(test)]
mod fake;
mod wire;

pub use client::{Access, Event, Perm, SOCKET, Transaction, XENBUS, Xenstore};
pub use error::Error;

/// The result of a xenstore operation.
pub type Result<T> = std::result::Result<T, Error>;
