// SPDX-License-Identifier: MIT OR Apache-2.0

//! One disk's endpoint.

use crate::health::Health;
use crate::smartctl::Smartctl;
use anyhow::{Context, Result, bail};
use mgmt_channel::{
    Address, AppId, Channel, Component, Endpoint, EndpointBuilder, Error, Incoming, Message, Serial,
};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Answers questions.
const SMART: &str = "SMART";
/// Who has bound this hears of changes.
const EVENTS: &str = "SMART.Events";
/// Whoever asked does not keep the next from being answered by having no room.
const SEND_WAIT: Duration = Duration::from_millis(500);

/// A disk, served.
pub struct Disk {
    smartctl: Arc<Smartctl>,
    path: PathBuf,
    component: Component,
    fresh: Duration,
    endpoint: Endpoint,
    last: Reading,
}

/// What was read, and when.
struct Reading {
    at: Instant,
    all: Value,
    health: Health,
}

impl Reading {
    fn of(smartctl: &Smartctl, path: &Path) -> Result<Self> {
        let all = smartctl.read(path)?;
        let health = Health::new(&all).with_context(|| path.display().to_string())?;
        Ok(Self {
            at: Instant::now(),
            all,
            health,
        })
    }
}

impl Disk {
    /// Finds out who this disk is, and binds its App_ID.
    pub fn open(smartctl: &Arc<Smartctl>, path: PathBuf, fresh: Duration) -> Result<Self> {
        let last = Reading::of(smartctl, &path)?;
        let serial = last.health.component()?;
        Ok(Self {
            smartctl: Arc::clone(smartctl),
            path,
            component: Component::Hardware(serial),
            fresh,
            endpoint: bound(serial)?,
            last,
        })
    }

    /// Its device.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name.
    pub fn component(&self) -> Component {
        self.component
    }

    /// Answers, and looks for changes so often; for ever.
    pub fn serve(mut self, every: Duration) -> Result<Infallible> {
        let mut look = Instant::now() + every;
        loop {
            let left = look.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // A disk that cannot be read now may be later; whoever asks is told.
                if let Err(error) = self.read_again() {
                    eprintln!("mgmt-smart: {}: {error:#}", self.path.display());
                }
                // From the end on, so that a slow disk leaves time for questions.
                look = Instant::now() + every;
                continue;
            }
            if let Some(Incoming::Message(message)) = self.endpoint.recv(Some(left))? {
                if message.is_request() {
                    self.answer(&message);
                }
            }
        }
    }

    fn answer(&mut self, question: &Message) {
        let answer = match self.answer_to(&question.payload) {
            Ok(answer) => answer,
            Err(error) => json!({ "error": format!("{error:#}") }).to_string(),
        };
        // Who asked may be gone, or not read; that is no reason to end.
        if let Err(error) = self.endpoint.reply(question, answer.into_bytes()) {
            let asker = question.header.source;
            eprintln!("mgmt-smart: {asker} gets no answer: {error}");
        }
    }

    fn answer_to(&mut self, question: &[u8]) -> Result<String> {
        let all = match question {
            b"" | b"health" => false,
            b"all" => true,
            _ => bail!("the questions are \"health\" and \"all\""),
        };
        if self.last.at.elapsed() >= self.fresh {
            self.read_again()?;
        }
        Ok(if all {
            self.last.all.to_string()
        } else {
            serde_json::to_string(&self.last.health)?
        })
    }

    /// Reads the disk, and tells what has changed.
    fn read_again(&mut self) -> Result<()> {
        let now = Reading::of(&self.smartctl, &self.path)?;
        if now.health.serial != self.last.health.serial {
            bail!("another disk is there now: {}", now.health.serial);
        }
        let is_news = now.health.is_news_after(&self.last.health);
        self.last = now;
        if is_news {
            let to = Address::new(Component::Platform, app_id(EVENTS)?);
            let news = serde_json::to_vec(&self.last.health)?;
            self.endpoint.broadcast(to, news).context("telling news")?;
        }
        Ok(())
    }
}

/// Binds the App_ID of a disk, again whenever `/dev/mgmt` has gone.
fn bound(serial: Serial) -> Result<Endpoint> {
    let app = app_id(SMART)?;
    let connect = move || {
        let channel = Channel::open()?;
        channel.bind_hardware(serial, &app)?;
        Ok(channel)
    };
    let endpoint = EndpointBuilder::new(SMART)?
        .connect(connect)
        .send_wait(SEND_WAIT);
    Ok(endpoint.open()?)
}

fn app_id(name: &str) -> Result<AppId> {
    Ok(AppId::new(name.as_bytes()).map_err(Error::from)?)
}
