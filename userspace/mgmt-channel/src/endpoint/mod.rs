// SPDX-License-Identifier: MIT OR Apache-2.0

//! Endpoints: an App_ID that stays bound while the device comes and goes.
//!
//! A [`Channel`] is one open file. An endpoint opens it, opens it again when it has gone, binds the
//! App_ID again and asks again for what is watched. Many requests may be under way at once, from
//! many threads or tasks. [`Endpoint`] blocks, and `AsyncEndpoint` (feature `tokio`) does the same
//! for tasks.

mod blocking;
mod state;
#[cfg(test)]
mod tests;
#[cfg(feature = "tokio")]
mod tokio;
#[cfg(feature = "typed")]
mod typed;
mod unacknowledged;

pub use blocking::{Endpoint, Watch};
#[cfg(feature = "tokio")]
pub use tokio::{AsyncEndpoint, AsyncWatch};
#[cfg(feature = "typed")]
pub use typed::Typed;
pub use unacknowledged::Sent;

use crate::{Address, AppId, Channel, DEVICE, Event, Kind, Message, Reason, Result};
use std::path::PathBuf;
use std::time::Duration;

/// What an endpoint receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming<T = Message> {
    /// Somebody's message.
    Message(T),
    /// A message that was sent came back.
    Undeliverable(Undeliverable),
    /// The device has gone. Requests that were under way have failed with
    /// [`Error::Lost`](crate::Error::Lost).
    Lost(Lost),
    /// It is there again: the App_ID is bound, and what is watched is asked for.
    Restored,
}

/// A message that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undeliverable {
    /// What sending it returned.
    pub id: u64,
    /// Where it should have gone, by the name that the bridge knows.
    pub destination: Address,
    /// Why it did not.
    pub reason: Reason,
}

/// What went with the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Messages that had been accepted, and of which nothing is known: they did not come back, and
    /// no later request to the same receiver was answered. The oldest first.
    pub unacknowledged: Vec<Sent>,
    /// So many older ones are not listed.
    pub more: u64,
}

/// Somebody comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Who.
    pub who: Address,
    /// [`Event::Up`], [`Event::Down`] or [`Event::Moved`].
    pub event: Event,
}

/// How an endpoint is made.
///
/// ```no_run
/// # use mgmt_channel::EndpointBuilder;
/// # fn main() -> mgmt_channel::Result<()> {
/// let endpoint = EndpointBuilder::new("Example")?.lazy().requests_only().open()?;
/// # Ok(())
/// # }
/// ```
pub struct EndpointBuilder {
    app: AppId,
    connect: Box<dyn Fn() -> Result<Channel> + Send + Sync>,
    is_lazy: bool,
    requests_only: bool,
    send_wait: Option<Duration>,
}

impl EndpointBuilder {
    /// An endpoint that binds `app`, alone.
    pub fn new(app: &str) -> Result<Self> {
        let app = AppId::new(app.as_bytes())?;
        Ok(Self {
            app,
            connect: Box::new(move || {
                let channel = Channel::open()?;
                channel.bind(&app)?;
                Ok(channel)
            }),
            is_lazy: false,
            requests_only: false,
            send_wait: None,
        })
    }

    /// It shares the App_ID with others, see [`Channel::bind_shared`].
    pub fn shared(mut self) -> Self {
        let app = self.app;
        self.connect = Box::new(move || {
            let channel = Channel::open()?;
            channel.bind_shared(&app)?;
            Ok(channel)
        });
        self
    }

    /// The device, if it is not [`DEVICE`].
    pub fn device(mut self, path: impl Into<PathBuf>) -> Self {
        let (app, path) = (self.app, path.into());
        self.connect = Box::new(move || {
            let channel = Channel::open_at(&path)?;
            channel.bind(&app)?;
            Ok(channel)
        });
        self
    }

    /// Whoever makes the channel, bound, whenever there is none.
    pub fn connect(
        mut self,
        connect: impl Fn() -> Result<Channel> + Send + Sync + 'static,
    ) -> Self {
        self.connect = Box::new(connect);
        self
    }

    /// It need not be there yet: opening succeeds, and the endpoint connects when it can.
    pub fn lazy(mut self) -> Self {
        self.is_lazy = true;
        self
    }

    /// What is no answer to a request, and no presence, is not kept. Without this, a program that
    /// does not receive finds its requests failing when too much is kept
    /// ([`Error::Backlog`](crate::Error::Backlog)).
    pub fn requests_only(mut self) -> Self {
        self.requests_only = true;
        self
    }

    /// A send waits for room at the receiver for no longer than this; else as long as it takes, or
    /// until the deadline of the message.
    pub fn send_wait(mut self, wait: Duration) -> Self {
        self.send_wait = Some(wait);
        self
    }
}

impl std::fmt::Debug for EndpointBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let device = DEVICE;
        f.debug_struct("EndpointBuilder")
            .field("app", &self.app)
            .field("device", &device)
            .finish_non_exhaustive()
    }
}

/// The question of [`Event::Watch`] or [`Event::Unwatch`] about an address.
fn question(about: Address, event: Event) -> Message {
    Message::new(Kind::Presence, about, event.encode().to_vec())
}
