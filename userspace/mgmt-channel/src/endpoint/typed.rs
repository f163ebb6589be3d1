// SPDX-License-Identifier: MIT OR Apache-2.0

//! Payloads of serde's types, by postcard (feature `typed`).

use super::{Endpoint, Incoming};
use crate::{Address, Error, Header, Kind, Message, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// A message whose payload was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typed<T> {
    /// Its header: kind, source, correlation.
    pub header: Header,
    /// Its content.
    pub content: T,
}

impl Message {
    /// A message of `kind` with this content.
    pub fn typed<T: Serialize>(kind: Kind, to: Address, content: &T) -> Result<Self> {
        let payload = postcard::to_allocvec(content).map_err(|_| Error::Content)?;
        Ok(Self::new(kind, to, payload))
    }

    /// The payload as a `T`, all of it: [`Error::Content`] if it is none.
    pub fn content<T: DeserializeOwned>(&self) -> Result<T> {
        match postcard::take_from_bytes(&self.payload) {
            Ok((content, [])) => Ok(content),
            _ => Err(Error::Content),
        }
    }
}

impl Incoming {
    /// With the payload of a message read as a `T`.
    pub fn typed<T: DeserializeOwned>(self) -> Result<Incoming<Typed<T>>> {
        Ok(match self {
            Self::Message(message) => Incoming::Message(Typed {
                content: message.content()?,
                header: message.header,
            }),
            Self::Undeliverable(back) => Incoming::Undeliverable(back),
            Self::Lost(lost) => Incoming::Lost(lost),
            Self::Restored => Incoming::Restored,
        })
    }
}

impl Endpoint {
    /// [`Endpoint::send`] of typed content.
    pub fn send_as<T: Serialize>(&self, to: Address, content: &T) -> Result<u64> {
        self.send_message(Message::typed(Kind::Data, to, content)?)
    }

    /// [`Endpoint::reply`] of typed content.
    pub fn reply_as<T: Serialize>(&self, request: &Header, content: &T) -> Result<u64> {
        let mut reply = Message::typed(Kind::Reply, request.source, content)?;
        reply.header.correlation = request.correlation;
        self.send_message(reply)
    }

    /// [`Endpoint::request`] with typed question and answer.
    pub fn request_as<Q: Serialize, A: DeserializeOwned>(
        &self,
        to: Address,
        question: &Q,
        timeout: Duration,
    ) -> Result<A> {
        let question = Message::typed(Kind::Data, to, question)?;
        self.request_message(question, timeout)?.content()
    }

    /// [`Endpoint::recv`] of typed content. [`Error::Content`] for a message with another.
    pub fn recv_as<T: DeserializeOwned>(
        &self,
        timeout: Option<Duration>,
    ) -> Result<Option<Incoming<Typed<T>>>> {
        self.recv(timeout)?.map(Incoming::typed).transpose()
    }
}

#[cfg(feature = "tokio")]
impl super::AsyncEndpoint {
    /// [`Endpoint::send_as`].
    pub async fn send_as<T: Serialize>(&self, to: Address, content: &T) -> Result<u64> {
        let message = Message::typed(Kind::Data, to, content)?;
        self.send_message(message).await
    }

    /// [`Endpoint::reply_as`].
    pub async fn reply_as<T: Serialize>(&self, request: &Header, content: &T) -> Result<u64> {
        let mut reply = Message::typed(Kind::Reply, request.source, content)?;
        reply.header.correlation = request.correlation;
        self.send_message(reply).await
    }

    /// [`Endpoint::request_as`].
    pub async fn request_as<Q: Serialize, A: DeserializeOwned>(
        &self,
        to: Address,
        question: &Q,
        timeout: Duration,
    ) -> Result<A> {
        let question = Message::typed(Kind::Data, to, question)?;
        self.request_message(question, timeout).await?.content()
    }

    /// [`Endpoint::recv_as`].
    pub async fn recv_as<T: DeserializeOwned>(&self) -> Result<Incoming<Typed<T>>> {
        self.recv().await?.typed()
    }
}
