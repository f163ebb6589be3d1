// SPDX-License-Identifier: MIT OR Apache-2.0

//! The side that asks.

use crate::{
    APP, Answer, Command, HEADER, MAX_POLICY, PART, PolicyInfo, Refusal, RefusalKind, Reply,
    Request, Who, decode, encode,
};
use mgmt_channel::{Address, AppId, Channel, Component, Error, Kind, Message, Reason};
use std::time::Duration;

/// An answer takes no longer, whatever the daemon has to do for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a command was not carried out, or it is not known whether it was.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon does not run: nothing was asked.
    #[error("mgmtd does not run (nobody has bound Mgmtd in this domain)")]
    NotRunning,
    /// The daemon said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The daemon stopped in between: what was asked may be done or not.
    #[error("mgmtd stopped before it answered: what was asked may be done or not")]
    Lost,
    /// It did not answer in time: what was asked may be done or not.
    #[error("mgmtd did not answer within {} s", PATIENCE.as_secs())]
    Silent,
    /// The answer is not understood.
    #[error("mgmtd answered what this program does not understand: are both of one version?")]
    Garbled,
    /// The M-channel failed.
    #[error(transparent)]
    Channel(#[from] Error),
}

/// A channel to the daemon of this domain.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    who: Who,
}

impl Client {
    /// Over `channel`, which is bound already.
    pub fn new(channel: Channel, who: Who) -> Self {
        Self { channel, who }
    }

    /// Asks, and waits for the answer.
    pub fn ask(&self, command: Command) -> Result<Answer, ClientError> {
        let app = AppId::new(APP.as_bytes()).map_err(Error::from)?;
        let request = Request {
            who: self.who.clone(),
            command,
        };
        let question = Message::with_app_header(
            Kind::Data,
            Address::new(Component::SelfDomain, app),
            &HEADER,
            &encode(&request),
        );
        let answer = match self.channel.request(question, PATIENCE) {
            Ok(answer) => answer,
            Err(Error::NobodyBound | Error::Undeliverable(Reason::NoEndpoint)) => {
                return Err(ClientError::NotRunning);
            }
            Err(Error::Undeliverable(Reason::PeerGone)) => return Err(ClientError::Lost),
            Err(Error::TimedOut) => return Err(ClientError::Silent),
            Err(error) => return Err(error.into()),
        };
        if answer.app_header() != HEADER {
            return Err(ClientError::Garbled);
        }
        let reply: Reply = decode(answer.app_data()).ok_or(ClientError::Garbled)?;
        Ok(reply?)
    }

    /// Has rules loaded: in as many requests as it takes, the last of which loads them all.
    pub fn load_policy(&self, text: &[u8], origin: &str) -> Result<PolicyInfo, ClientError> {
        if text.len() > MAX_POLICY {
            let text = format!("the rules are longer than {MAX_POLICY} bytes");
            return Err(Refusal::new(RefusalKind::Invalid, text).into());
        }
        let mut offset = 0;
        loop {
            let end = (offset + PART).min(text.len());
            let command = Command::PolicyLoad {
                offset: offset as u32,
                part: text[offset..end].to_vec(),
                total: text.len() as u32,
                origin: origin.to_owned(),
            };
            match self.ask(command)? {
                Answer::More if end < text.len() => offset = end,
                Answer::Policy(info) if end == text.len() => return Ok(info),
                _ => return Err(ClientError::Garbled),
            }
        }
    }

    /// The rules of a version that is kept.
    pub fn policy_text(&self, version: u64) -> Result<Vec<u8>, ClientError> {
        let mut text = Vec::new();
        while text.len() <= MAX_POLICY {
            let offset = text.len() as u32;
            match self.ask(Command::PolicyText { version, offset })? {
                Answer::Text(part) if part.is_empty() => return Ok(text),
                Answer::Text(part) => text.extend(part),
                _ => break,
            }
        }
        Err(ClientError::Garbled)
    }
}
