// SPDX-License-Identifier: MIT OR Apache-2.0

//! What an application supplies: its messages and its policy. Everything else is the framework's.

use crate::sessions::{Agent, Broker, Ended, Outbox, show};
use crate::versions::{AppHeader, negotiate};
use mgmt_channel::{Channel, Error, Kind, Message, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// A management application: the types of its messages, and its policy.
///
/// A policy sees agents, reports and orders, and no channel: it is the same in every deployment, and
/// is tested without any.
pub trait Application: Send {
    /// The App_ID that its broker binds.
    const APP: &'static str;
    /// The versions of its messages that this program speaks.
    const VERSIONS: RangeInclusive<u16> = 1..=1;
    /// What an agent tells the broker.
    type Report: Serialize + DeserializeOwned;
    /// What the broker tells an agent.
    type Order: Serialize + DeserializeOwned + Send;

    /// An agent wants to take part; false refuses it.
    fn joins(&mut self, _agent: &Agent) -> bool {
        true
    }

    /// An agent reports.
    fn reported(&mut self, agent: &Agent, report: Self::Report, orders: &mut Orders<Self::Order>);

    /// An agent takes no part any more.
    fn left(&mut self, agent: &Agent, why: Ended, orders: &mut Orders<Self::Order>);

    /// Called five times a second.
    fn tick(&mut self, _orders: &mut Orders<Self::Order>) {}
}

/// What a policy tells its agents.
#[derive(Debug)]
pub struct Orders<T>(Vec<(Agent, T)>);

impl<T> Default for Orders<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Orders<T> {
    /// Tells an agent. If it has left meanwhile, nothing is sent.
    pub fn give(&mut self, agent: &Agent, order: T) {
        self.0.push((*agent, order));
    }

    /// Takes out what was given.
    pub fn take(&mut self) -> Vec<(Agent, T)> {
        std::mem::take(&mut self.0)
    }
}

/// An application as a [`Broker`].
pub struct Served<A: Application> {
    application: A,
    versions: HashMap<Agent, u16>,
    orders: Orders<A::Order>,
}

impl<A: Application> Served<A> {
    /// Wraps it.
    pub fn new(application: A) -> Self {
        Self {
            application,
            versions: HashMap::new(),
            orders: Orders::default(),
        }
    }

    fn send(&mut self, out: &mut Outbox<'_>) {
        for (agent, order) in self.orders.take() {
            let Some(version) = self.versions.get(&agent) else {
                continue;
            };
            match content(Kind::Data, agent, AppHeader::agreed(*version), &order) {
                Ok(message) => out.send(&message),
                Err(error) => tracing::error!(%error, "an order that cannot be written"),
            }
        }
    }
}

/// A message with the framework's header and this content.
pub(crate) fn content<T: Serialize>(
    kind: Kind,
    to: Agent,
    header: AppHeader,
    content: &T,
) -> Result<Message> {
    let content = Message::typed(kind, to, content)?.payload;
    Ok(Message::with_app_header(
        kind,
        to,
        &header.bytes(),
        &content,
    ))
}

/// The content of a message of this version.
pub(crate) fn read<T: DeserializeOwned>(message: &Message, version: u16) -> Result<T> {
    match AppHeader::read(&message.payload) {
        Some((header, rest)) if header == AppHeader::agreed(version) => {
            Message::data(message.header.source, rest.to_vec()).content()
        }
        _ => Err(Error::Content),
    }
}

impl<A: Application> Broker for Served<A> {
    fn established(&mut self, agent: &Agent, message: &Message) -> Option<Vec<u8>> {
        let offer = AppHeader::read(&message.payload).map(|(header, _)| header);
        let Some(version) = offer.and_then(|offer| negotiate(&A::VERSIONS, offer)) else {
            tracing::warn!(agent = %show(agent), ?offer, "refused: no common version");
            return None;
        };
        if !self.application.joins(agent) {
            tracing::info!(agent = %show(agent), "refused");
            return None;
        }
        tracing::info!(agent = %show(agent), version, "joined");
        self.versions.insert(*agent, version);
        Some(AppHeader::agreed(version).bytes().to_vec())
    }

    fn received(&mut self, agent: &Agent, message: &Message, out: &mut Outbox<'_>) {
        let Some(&version) = self.versions.get(agent) else {
            return;
        };
        match read(message, version) {
            Ok(report) => self.application.reported(agent, report, &mut self.orders),
            Err(error) => tracing::debug!(agent = %show(agent), %error, "not understood"),
        }
        self.send(out);
    }

    fn ended(&mut self, agent: &Agent, why: Ended) {
        tracing::info!(agent = %show(agent), ?why, "left");
        self.versions.remove(agent);
        self.application.left(agent, why, &mut self.orders);
    }

    fn tick(&mut self, _: Instant, out: &mut Outbox<'_>) {
        self.application.tick(&mut self.orders);
        self.send(out);
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(200)
    }

    fn refusal(&self) -> Vec<u8> {
        AppHeader::offer(&A::VERSIONS).bytes().to_vec()
    }
}

/// Serves an application in this domain until `stop` says so.
pub fn serve<A: Application>(application: A, stop: &dyn Fn() -> bool) -> Result<()> {
    let channel = Channel::open()?.bound(A::APP)?;
    crate::run(&mut Served::new(application), &channel, stop)
}
