// SPDX-License-Identifier: MIT OR Apache-2.0

//! M-channels from userspace (paper §3.2, §4.1): whole messages over `/dev/mgmt`.
//!
//! ```no_run
//! use mgmt_channel::{AppId, Channel, Component, Address, Message};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), mgmt_channel::Error> {
//! let channel = Channel::open()?.bound("Example")?;
//! let broker = Address::new(Component::Mvm, AppId::new(b"Power")?);
//! channel.send(&Message::data(broker, b"hello".to_vec()))?;
//! if let Some(answer) = channel.recv(Some(Duration::from_secs(1)))? {
//!     println!("{:?}", answer.payload);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Local and remote look the same: the destination decides how a message travels, not the call.
//!
//! A [`Channel`] is one open file of the device. An [`Endpoint`] is what most programs want: it
//! comes back by itself when the device does, and serves many threads and many requests at once.

mod bundle;
mod channel;
mod endpoint;
mod error;
mod ids;
mod message;
mod names;
mod uapi;

pub use bundle::{BUNDLE_BYTES, Bundle};
pub use channel::{Channel, DEVICE};
#[cfg(feature = "typed")]
pub use endpoint::Typed;
#[cfg(feature = "tokio")]
pub use endpoint::{AsyncEndpoint, AsyncWatch};
pub use endpoint::{
    Endpoint, EndpointBuilder, Incoming, Lost, Presence, Sent, Undeliverable, Watch,
};
pub use error::Error;
pub use message::Message;
pub use mgmt_wire::{
    Address, AppId, Component, Event, Flags, HEADER_LEN, Header, Kind, Reason, Serial, WireError,
};
pub use names::{ComponentName, Destination, NameError, show_address, show_component};
pub use uapi::{Account, Info, Link, LinkState, Owner, RuleHits, Slots};

/// The result of an M-channel call.
pub type Result<T> = std::result::Result<T, Error>;
