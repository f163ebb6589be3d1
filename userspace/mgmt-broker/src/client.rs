// SPDX-License-Identifier: MIT OR Apache-2.0

//! The agent's side of a session.

use crate::application::{Application, content, read};
use crate::versions::{AppHeader, negotiate};
use mgmt_channel::{Address, Endpoint, EndpointBuilder, Error, Incoming, Kind, Message, Result};
use std::marker::PhantomData;
use std::time::{Duration, Instant};

/// How long the broker may take to answer *establish*.
const ESTABLISH: Duration = Duration::from_secs(5);

/// An agent of the application `A`. It establishes its session with the first report, and again when
/// the broker, or the device, has come back.
#[derive(Debug)]
pub struct Client<A: Application> {
    endpoint: Endpoint,
    broker: Address,
    version: Option<u16>,
    application: PhantomData<fn() -> A>,
}

impl<A: Application> Client<A> {
    /// An agent that binds `app` here.
    pub fn open(app: &str, broker: Address) -> Result<Self> {
        Ok(Self::new(EndpointBuilder::new(app)?.lazy().open()?, broker))
    }

    /// An agent with this endpoint.
    pub fn new(endpoint: Endpoint, broker: Address) -> Self {
        Self {
            endpoint,
            broker,
            version: None,
            application: PhantomData,
        }
    }

    /// Whether there is a session, as far as is known.
    pub fn is_established(&self) -> bool {
        self.version.is_some()
    }

    /// The broker.
    pub fn broker(&self) -> Address {
        self.broker
    }

    /// Follows another broker from now on.
    pub fn follow(&mut self, broker: Address) {
        if broker != self.broker {
            self.leave();
            self.broker = broker;
        }
    }

    fn establish(&mut self) -> Result<u16> {
        let offer = AppHeader::offer(&A::VERSIONS);
        let hello = Message::with_app_header(Kind::Establish, self.broker, &offer.bytes(), &[]);
        let answer = self.endpoint.request_message(hello, ESTABLISH)?;
        let agreed = AppHeader::read(&answer.payload).ok_or(Error::Content)?.0;
        let single = AppHeader {
            oldest: agreed.version,
            ..agreed
        };
        let version = negotiate(&A::VERSIONS, single).ok_or(Error::Content)?;
        self.version = Some(version);
        Ok(version)
    }

    /// Tells the broker. A session that hears nothing for 10 s ends.
    pub fn report(&mut self, report: &A::Report) -> Result<()> {
        let version = match self.version {
            Some(version) => version,
            None => self.establish()?,
        };
        let message = content(Kind::Data, self.broker, AppHeader::agreed(version), report)?;
        let sent = self.endpoint.send_message(message);
        if sent.is_err() {
            self.version = None;
        }
        sent.map(drop)
    }

    /// The broker's next order, waiting up to `wait` for it. `None` if none came, or the session
    /// has ended: the next report begins another.
    pub fn order(&mut self, wait: Duration) -> Result<Option<A::Order>> {
        let end = Instant::now() + wait;
        while let Some(incoming) = {
            let left = end.saturating_duration_since(Instant::now());
            self.endpoint.recv(Some(left))?
        } {
            match incoming {
                Incoming::Message(message) => match (message.header.kind, self.version) {
                    (Kind::Data, Some(version)) if self.is_from_broker(&message) => {
                        return read(&message, version).map(Some);
                    }
                    (Kind::Terminate, _) if self.is_from_broker(&message) => {
                        self.version = None;
                        return Ok(None);
                    }
                    _ => {}
                },
                Incoming::Undeliverable(back) if back.destination.app == self.broker.app => {
                    self.version = None;
                    return Ok(None);
                }
                Incoming::Lost(_) => {
                    self.version = None;
                    return Ok(None);
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// The App_ID is compared, and what the bridge does not translate: it knows whom *mvm* means.
    fn is_from_broker(&self, message: &Message) -> bool {
        use mgmt_channel::Component::Vm;
        let source = message.header.source;
        let (Vm { vm_id: a, .. }, Vm { vm_id: b, .. }) = (source.component, self.broker.component)
        else {
            return source.app == self.broker.app;
        };
        source.app == self.broker.app && a == b
    }

    /// Ends the session.
    pub fn leave(&mut self) {
        if self.version.take().is_some() {
            let goodbye = Message::new(Kind::Terminate, self.broker, Vec::new());
            // A broker that is not there needs none.
            let _ = self.endpoint.send_message(goodbye);
        }
    }
}

impl<A: Application> Drop for Client<A> {
    fn drop(&mut self) {
        self.leave();
    }
}
