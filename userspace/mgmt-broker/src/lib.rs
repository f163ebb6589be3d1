// SPDX-License-Identifier: MIT OR Apache-2.0

//! M-brokers (paper §3.3, Figure 4): what all share, and the power broker (§5.1.1).
//!
//! An [`Application`] supplies its messages and its policy. The core modules are the framework's:
//!
//! | module of Figure 4 | here |
//! |---|---|
//! | discovery | [`run`] answers, and bridges do; [`Group`] for brokers that decide together |
//! | establishment, versions | [`run`], [`negotiate`], [`Client`] |
//! | exchange | [`Application`], [`Orders`] |
//! | termination | [`Ended`] |
//! | health | [`run`] for agents that are silent or flood, [`Host`] for brokers that fail |
//!
//! [`Broker`] is the level below: raw messages.

mod application;
mod client;
mod group;
mod health;
pub mod power;
mod sessions;
mod versions;

pub use application::{Application, Orders, Served, serve};
pub use client::Client;
pub use group::{Group, Led};
pub use health::{Backoff, Health, Host};
pub use sessions::{Agent, Broker, Ended, Outbox, SESSIONS_MAX, SILENCE_MAX, WAITING_MAX, run};
pub use versions::{APP_HEADER, AppHeader, negotiate};
