// SPDX-License-Identifier: MIT OR Apache-2.0

//! Power management by service levels: the paper's first broker (§5.1.1).
//!
//! Agents in the guests report every epoch what their users got. The broker runs the *Basic policy*
//! on each report ([`policy`]) and sets the guest's performance state ([`cap`]): here by Xen's
//! scheduler cap, the paper's *soft scaling*.

mod actuation;
mod broker;
pub mod cap;
pub mod policy;
pub mod proto;
mod record;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use broker::{Config, Mode, PowerBroker, StartState};
pub use record::{HEADER, Record};

/// The App_ID of the broker, and of its agents (paper §3.3).
pub const APP: &str = "Power";
