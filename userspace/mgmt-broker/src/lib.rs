// SPDX-License-Identifier: MIT OR Apache-2.0

//! M-brokers (paper §3.3, Figure 4): what all share, and the power broker (§5.1.1).
//!
//! [`run`] is the part that every broker has in common: discovery, establishment, exchange and
//! termination of sessions with agents (Figure 6). A broker supplies its messages and its policy
//! by implementing [`Broker`].

pub mod power;
mod sessions;

pub use sessions::{Agent, Broker, Ended, Outbox, SESSIONS_MAX, SILENCE_MAX, run};
